"""The options of one check: the only list of them; the command line is made from this dataclass."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from gdconv.errors import InputError

PRESENTATION = ("out", "json", "quiet")
"""Fields that do not change the result; they are left out of the name of a saved run."""


@dataclass(frozen=True)
class Config:
    """Options of one check. None means: the default of the statement that is judged.

    Example:
        >>> Config("full-gd", kernel="gaussian").kernel
        'gaussian'
    """

    theorem: str
    """theorem id, as `gdconv list` prints it"""
    statement: str | None = None
    """statement the verdict speaks of (default: the theorem's own, per-head for full-gd)"""
    kernel: str | None = None
    """attention kernel: softmax or gaussian"""
    data: str | None = None
    """gaussian, digits, or a .npz file with X (N, n, D) and y (N, n) or (N, n, D_y)"""
    problem: str | None = None
    """named problem that fixes data and weights, e.g. stacked-witness; or a witness .npz"""
    samples: int | None = None
    """N, number of samples"""
    tokens: int | None = None
    """n, tokens per sample"""
    embedding: int | None = None
    """D, embedding dimension (gaussian data)"""
    outputs: int | None = None
    """D_y, outputs per token (gaussian data)"""
    head_dim: int | None = None
    """d, head dimension"""
    heads: int | None = None
    """H, number of heads"""
    target: str = "digit"
    """what digits regresses on: digit or ink"""
    init: str | None = None
    """theorem, normal, lecun, he, ntk or paired"""
    scales: str | None = None
    """scales of W_Q,W_K,W_V,W_O for init normal and paired, e.g. 3,3,1,2 (over sqrt fan-in)"""
    margin: float = 1.12
    """init theorem: factor above the least scale of W_O that meets the hypotheses"""
    step: str | None = None
    """theory (the largest that every applicable statement admits), local (0.5/|J_0|^2, halved while
    a step rises) or a number"""
    steps: int | None = None
    """greatest number of steps"""
    until_bound: float | None = None
    """stop once the judged bound has fallen to this share of f_0"""
    until_loss: float | None = None
    """stop once the loss has fallen to this share of f_0"""
    seeds: int = 1
    """number of runs, seeds seed, seed+1, ..."""
    seed: int = 0
    """first seed"""
    device: str = "cpu"
    """cpu, cuda, cuda:1, mps"""
    dtype: str = "float64"
    """float64, or float32 for study: verdicts then say so"""
    engine: str = "auto"
    """auto, fused (compiled CPU loop) or torch"""
    out: str | None = None
    """folder in which the run is saved"""
    json: bool = False
    """print one JSON object on standard output and nothing else there"""
    quiet: bool = False
    """no progress and no notes"""

    def resolve(self, *defaults: dict[str, Any]) -> Config:
        """Fill every None from the given defaults, the first that has the field wins.

        Args:
            *defaults: Dictionaries by field name.

        Returns:
            A config whose values are checked.
        """
        filled: dict[str, Any] = {
            f.name: next((d[f.name] for d in defaults if d.get(f.name) is not None), None)
            for f in fields(self)
            if getattr(self, f.name) is None
        }
        return replace(self, **filled)

    def validate(self) -> Config:
        """Check every value that has a range; choices are checked where they are used.

        Returns:
            The config itself.

        Raises:
            InputError: A value is out of range or of a wrong type.

        Example:
            >>> Config("full-gd", seeds=0).validate()
            Traceback (most recent call last):
            gdconv.errors.InputError: seeds = 0: give a whole number of at least 1.
        """
        for name in (
            "samples",
            "tokens",
            "embedding",
            "outputs",
            "head_dim",
            "heads",
            "seeds",
            "steps",
        ):
            value = getattr(self, name)
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, int) or value < 1
            ):
                raise InputError(name, value, "give a whole number of at least 1")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise InputError("seed", self.seed, "give a whole number of at least 0")
        for name in ("until_bound", "until_loss"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise InputError(name, value, "give a number between 0 and 1")
        if not 1 <= self.margin < 1e6:
            raise InputError("margin", self.margin, "give a factor of at least 1")
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in choices:
                raise InputError(name, value, f"choose one of {', '.join(choices)}")
        self.step_size()
        self.scale_list()
        return self

    def step_size(self) -> float | None:
        """The step size as a number, None for theory and local.

        Returns:
            A positive number or None.

        Raises:
            InputError: Neither a positive number nor a known word.
        """
        if self.step is None or self.step in ("theory", "local"):
            return None
        try:
            eta = float(self.step)
        except (TypeError, ValueError):
            eta = -1.0
        if not 0 < eta < float("inf"):
            raise InputError("step", self.step, "give a positive number, theory or local")
        return eta

    def scale_list(self) -> tuple[float, ...] | None:
        """The four scales as numbers.

        Returns:
            (Q, K, V, O) or None.

        Raises:
            InputError: Not four non-negative numbers.
        """
        if self.scales is None:
            return None
        try:
            values = tuple(float(s) for s in self.scales.split(","))
        except (AttributeError, ValueError):
            values = ()
        if len(values) != 4 or not all(0 <= v < float("inf") for v in values):
            raise InputError(
                "scales", self.scales, "give four numbers for W_Q,W_K,W_V,W_O such as 3,3,1,2"
            )
        return values

    def canonical(self) -> dict[str, Any]:
        """The fields that determine the result."""
        return {k: v for k, v in asdict(self).items() if k not in PRESENTATION}


CHOICES = {
    "target": ("digit", "ink"),
    "init": ("theorem", "normal", "lecun", "he", "ntk", "paired"),
    "dtype": ("float64", "float32"),
    "engine": ("auto", "fused", "torch"),
    "kernel": ("softmax", "gaussian"),
}
"""Fields with a fixed set of values."""
