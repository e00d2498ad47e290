"""The options of one check: those that gdconv itself reads, and `own` ones of whoever reads them.

Every field has one meaning wherever it is read; a model family or a theorem says which of them it
reads. What a theorem, a model or an algorithm declares itself (`gdconv.support.options`) is in
`own`, apart from the fields: there a name means what its reader says.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from typing import Any

from gdconv.support.choices import meant
from gdconv.support.errors import InputError
from gdconv.support.options import Option, plain, require_kind

GLOBAL = (
    *("theorem", "statement", "model", "data", "problem", "algorithm", "step", "sharpness"),
    *("steps", "until_bound", "until_loss", "seeds", "seed", "device", "dtype", "engine"),
    *("jobs", "out", "json", "quiet"),
)
"""Fields that mean the same in every check: nobody declares an option of that name."""

PRESENTATION = ("jobs", "out", "json", "quiet")
"""Fields that do not change the result; they are left out of the name of a saved run."""

COUNTS = (
    *("samples", "tokens", "embedding", "outputs", "head_dim", "heads", "width"),
    *("seeds", "steps", "jobs"),
)
"""Fields that count something."""

MOST = 10**15
"""Greatest number of steps, of seeds, and greatest seed: they are kept as 64-bit integers."""

LARGEST_SCALE = 1e30
"""Squares of larger weights, and of what they produce, leave the range of float64."""


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
    """multihead, encoder or package.module:name (default: the theorem's own)"""
    kernel: str | None = None
    """attention kernel: softmax or gaussian"""
    data: str | None = None
    """gaussian, orthonormal, digits, an MNIST folder of IDX files, or a .npz file with X (N, n, D)
    and y (N, n) or (N, n, D_y); for the encoder y (N,)"""
    problem: str | None = None
    """named problem that fixes data and weights, e.g. stacked-witness; or a witness .npz, or
    package.module:name of what makes one"""
    algorithm: str | None = None
    """algorithm that descends, where the theorem leaves it open: gd, heavy-ball, nesterov, ... or
    package.module:name"""
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
    """loss of the encoder over samples: sum or mean; of a torch module: squared, logistic or
    cross-entropy"""
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
    jobs: int | None = None
    """processes that share the seeds, one after another within each; the same for every number"""
    out: str | None = None
    """folder in which the run is saved"""
    json: bool = False
    """print one JSON object on standard output and nothing else there"""
    quiet: bool = False
    """no progress and no notes"""
    own: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """values of the options that the theorem, the model and the algorithm declare themselves"""

    @classmethod
    def open(cls, theorem: Any, options: Any) -> Config:
        """A config of values that are checked later, when their readers are known.

        Args:
            theorem: Theorem id.
            options: Values by name.

        Returns:
            The config; all but the global options stand in `own` until `resolve` asks for them.

        Raises:
            InputError: No mapping, or a global option of a wrong type.

        Example:
            >>> Config.open("generic-gd", {"width": 8, "steps": 5}).own
            {'width': 8}
        """
        _require_mapping(options)
        given = {name: value for name, value in options.items() if name in GLOBAL}
        rest = {name: value for name, value in options.items() if name not in GLOBAL}
        return replace(cls.of(theorem, given), own=rest)

    @classmethod
    def of(
        cls,
        theorem: Any,
        options: Any,
        own: Mapping[str, Option] | None = None,
        read: Collection[str] | None = None,
    ) -> Config:
        """A config of values whose names and types nobody has checked.

        Args:
            theorem: Theorem id.
            options: Values by name; NumPy scalars and paths are converted.
            own: Options that the readers of this check declare themselves.
            read: Fields that this check reads, for what is said of an unknown name; None for all.

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
            gdconv.support.errors.InputError: colour = blue: choose options among activation,
            algorithm, data, ...
        """
        _require_mapping(options)
        known, own = {f.name: str(f.type) for f in fields(cls) if f.name != "own"}, own or {}
        read = known.keys() if read is None else read
        values: dict[str, Any] = {}
        kept: dict[str, Any] = {}
        for name, value in {**options, "theorem": theorem}.items():
            if name in own:
                if value is None and not own[name].optional:  # as of a field: nothing is given
                    continue
                kept[name] = own[name].checked(value)
                if name not in read:
                    continue
            elif name not in known:
                names = sorted({*read, *own} - {"theorem", *PRESENTATION})
                near = get_close_matches(str(name).lower().replace("-", "_"), names, 1, 0.7)
                hint = f"did you mean {near[0]}; " if near else ""
                raise InputError(str(name), value, f"{hint}choose options among {', '.join(names)}")
            values[name] = plain(value)
            _require_type(name, values[name], known[name])
        return cls(**values, own=kept)

    def given(self) -> dict[str, Any]:
        """What differs from a config of nothing but the theorem, by name.

        Returns:
            Values of fields and of own options.

        Example:
            >>> Config("full-gd", seed=3, own={"depth": 2}).given()
            {'seed': 3, 'depth': 2}
        """
        defaults = Config(self.theorem)
        names = [f.name for f in fields(self) if f.name not in ("theorem", "own")]
        changed = {n: getattr(self, n) for n in names if getattr(self, n) != getattr(defaults, n)}
        return changed | dict(self.own)

    def resolve(self, *defaults: Mapping[str, Any]) -> Config:
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
        for f in fields(self):
            if f.name != "own":
                _require_type(f.name, getattr(self, f.name), str(f.type))
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
        """What determines the result, own options beside the fields.

        Returns:
            Values by name; an own option counts before a field of its name that nobody reads.

        Example:
            >>> Config("generic-gd", own={"depth": 2}).canonical()["depth"]
            2
        """
        plain_fields = {k: v for k, v in asdict(self).items() if k not in (*PRESENTATION, "own")}
        return plain_fields | dict(self.own)


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


def _require_mapping(options: Any) -> None:
    if not isinstance(options, Mapping):
        raise InputError("options", type(options).__name__, "give names with values")


def _require_type(name: str, value: Any, annotation: str) -> None:
    if value is None and "None" in annotation:
        return
    require_kind(name, value, annotation.split("|")[0].strip())
