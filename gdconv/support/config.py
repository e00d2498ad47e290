"""The options of one check: the only list of them; the command line is made from this dataclass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from os import PathLike, fspath
from typing import Any

from gdconv.support.choices import meant
from gdconv.support.errors import InputError

PRESENTATION = ("out", "json", "quiet")
"""Fields that do not change the result; they are left out of the name of a saved run."""

COUNTS = (
    *("samples", "tokens", "embedding", "outputs", "head_dim", "heads", "width"),
    *("seeds", "steps"),
)
"""Fields that count something."""

MOST = 10**15
"""Greatest number of steps, of seeds, and greatest seed: they are kept as 64-bit integers."""

LARGEST_SCALE = 1e30
"""Squares of larger weights, and of what they produce, leave the range of float64."""

KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "str": ((str,), "give text"),
    "int": ((int,), "give a whole number"),
    "float": ((int, float), "give a number"),
    "bool": ((bool,), "give True or False"),
}
"""Types by the first word of a field's annotation, and what to say of another one."""


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
    model: str | None = None
    """multihead or encoder (default: the theorem's own)"""
    kernel: str | None = None
    """attention kernel: softmax or gaussian"""
    data: str | None = None
    """gaussian, orthonormal, digits, an MNIST folder of IDX files, or a .npz file with X (N, n, D)
    and y (N, n) or (N, n, D_y); for the encoder y (N,)"""
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
    width: int | None = None
    """d_m, width of the encoder"""
    scaling: str | None = None
    """tau_0 of the encoder: linear for 1/d_m, sqrt for 1/sqrt(d_m)"""
    tau_1: float | None = None
    """output factor of the encoder (default: 1/sqrt(d_m) for init ntk, else 1)"""
    loss: str | None = None
    """loss of the encoder over samples: sum (default) or mean"""
    activation: str | None = None
    """activation of the encoder: relu, or gelu and silu divided by their largest slope"""
    label_norm: float | None = None
    """rescale the labels so that |y|_F is this"""
    target: str | None = None
    """what digits regresses on: digit or ink (default: digit)"""
    init: str | None = None
    """theorem, normal, lecun, he, ntk or paired"""
    scales: str | None = None
    """scales of W_Q,W_K,W_V,W_O for init normal and paired, e.g. 3,3,1,2 (over sqrt fan-in)"""
    margin: float | None = None
    """init theorem: factor above the least scale of W_O that meets the hypotheses (default:
    1.12)"""
    step: str | None = None
    """theory (the largest that every applicable statement admits), local (half of 1/lambda_max of
    the Hessian or 1/|J_0|^2, the smaller one; halved while a step rises) or a number"""
    sharpness: bool | None = None
    """follow lambda_max of the Hessian at about 40 records (default: with --step local)"""
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
    """cpu, cuda, cuda:1 or mps"""
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

    @classmethod
    def of(cls, theorem: Any, options: Any) -> Config:
        """A config of values whose names and types nobody has checked.

        Args:
            theorem: Theorem id.
            options: Values by field name; NumPy scalars and paths are converted.

        Returns:
            The config; ranges are checked by `validate`.

        Raises:
            InputError: No mapping, an unknown name, or a value of a wrong type.

        Example:
            >>> Config.of("full-gd", {"steps": "many"})
            Traceback (most recent call last):
            gdconv.support.errors.InputError: steps = many: give a whole number.
            >>> Config.of("full-gd", {"colour": "blue"})
            Traceback (most recent call last):
            gdconv.support.errors.InputError: colour = blue: choose options among activation, data,
            ...
        """
        if not isinstance(options, Mapping):
            raise InputError("options", type(options).__name__, "give names with values")
        known = {field.name: str(field.type) for field in fields(cls)}
        values: dict[str, Any] = {}
        for name, value in {**options, "theorem": theorem}.items():
            if name not in known:
                names = sorted(known.keys() - {"theorem", *PRESENTATION})
                near = get_close_matches(str(name).lower().replace("-", "_"), names, 1, 0.7)
                hint = f"did you mean {near[0]}; " if near else ""
                raise InputError(str(name), value, f"{hint}choose options among {', '.join(names)}")
            values[name] = _plain(value)
            _require_type(name, values[name], known[name])
        return cls(**values)

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
            gdconv.support.errors.InputError: seeds = 0: give a whole number of at least 1.
        """
        for field in fields(self):
            _require_type(field.name, getattr(self, field.name), str(field.type))
        for name in COUNTS:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(name, value, "give a whole number of at least 1")
        for name in ("seed", "seeds", "steps"):
            value = getattr(self, name)
            if value is not None and value > MOST:
                raise InputError(name, value, f"give a whole number of at most {MOST}")
        if self.seed < 0:
            raise InputError("seed", self.seed, "give a whole number of at least 0")
        for name in ("until_bound", "until_loss"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise InputError(name, value, "give a number between 0 and 1")
        for name in ("tau_1", "label_norm"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= LARGEST_SCALE:
                raise InputError(name, value, f"give a number above 0, at most {LARGEST_SCALE:g}")
        if self.margin is not None and not 1 <= self.margin < 1e6:
            raise InputError("margin", self.margin, "give a factor of at least 1 and below 1e6")
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in choices:
                remedy = f"choose one of {', '.join(choices)}"
                raise InputError(name, value, meant(value, choices) + remedy)
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
            InputError: Not four numbers from 0 to `LARGEST_SCALE`.
        """
        if self.scales is None:
            return None
        try:
            values = tuple(float(s) for s in self.scales.split(","))
        except (AttributeError, ValueError):
            values = ()
        if len(values) != 4 or not all(0 <= v <= LARGEST_SCALE for v in values):
            remedy = (
                f"give four numbers from 0 to {LARGEST_SCALE:g} for W_Q,W_K,W_V,W_O such as 3,3,1,2"
            )
            raise InputError("scales", self.scales, remedy)
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
    "scaling": ("linear", "sqrt"),
    "activation": ("relu", "gelu", "silu"),
}
"""Fields with a fixed set of values."""


def _plain(value: Any) -> Any:
    """A NumPy scalar as Python's, a path as text; anything else as it is."""
    if isinstance(value, PathLike):
        return fspath(value)
    if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
        return value.item()
    return value


def _require_type(name: str, value: Any, annotation: str) -> None:
    if value is None and "None" in annotation:
        return
    types, remedy = KINDS[annotation.split("|")[0].strip()]
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise InputError(name, value, remedy)
    if isinstance(value, str) and not value.strip():
        raise InputError(name, value, "give a value, or leave it out")
