"""Readers: who reads which option in one check. The theorem, its model family and its algorithm.

Nothing heavy is imported here: help and the words of a command line need it before torch is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from gdconv.models.candidate import Candidate, candidate
from gdconv.support.config import GLOBAL, PRESENTATION, Config
from gdconv.support.errors import InputError
from gdconv.support.options import Option, merged, options_of

if TYPE_CHECKING:
    from gdconv.descent.algorithms.base import Algorithm
    from gdconv.models.architecture import Architecture

CASES = ("theorem", "statement", "seeds", "seed", *PRESENTATION)
"""Fields that every theorem reads."""

DESCENT = (
    *CASES, "model", "data", "step", "sharpness", "steps", "until_bound", "until_loss", "device",
    "dtype", "engine",
)  # fmt: skip
"""Fields that every theorem with descent reads besides its model's."""

RESERVED = {
    **dict.fromkeys(GLOBAL, "an option of every check"),
    **dict.fromkeys(
        ("X", "y", "mask", "weights", "progress", "own"), "an argument of gdconv.check"
    ),
    "help": "what shows the options",
}
"""Names that nobody may declare, and why."""

FALLBACK: dict[str, Any] = {
    "kernel": "softmax", "data": "gaussian", "outputs": 1, "init": "normal", "step": "local",
    "steps": 10_000, "head_dim": 8, "heads": 8, "target": "digit", "margin": 1.12,
    "width": 256, "scaling": "linear", "loss": "sum", "activation": "relu",
}  # fmt: skip
"""Defaults of last resort, behind the options given and the defaults of the judged statement."""

PLAIN = "gd"
"""The algorithm where nothing else is said."""


@dataclass(frozen=True)
class Readers:
    """The parties of one check.

    Attributes:
        theorem: The theorem, or its outline.
        read: Fields of `Config` that are read.
        own: Every option that a party declares itself, by name.
        model: The model family; None for a theorem without descent.
        rule: The algorithm: its class, an instance, or None where nothing is said.
        chosen: The algorithm's name; None for gradient descent that nobody asked for.
        by_theorem: Options of the theorem.
        by_rule: Options of the algorithm.
    """

    theorem: Any
    read: tuple[str, ...]
    own: Mapping[str, Option] = field(default_factory=dict)
    model: Candidate | None = None
    rule: Any = None
    chosen: str | None = None
    by_theorem: tuple[Option, ...] = ()
    by_rule: tuple[Option, ...] = ()

    @classmethod
    def of(cls, theorem: Any, config: Config, model: Any = None, rule: Any = None) -> Readers:
        """The parties that a theorem and the options given for it name.

        Args:
            theorem: The theorem, or its outline.
            config: Options as given, of which statement, model and algorithm are read.
            model: The model in memory, if it is.
            rule: The algorithm in memory, if it is.

        Returns:
            The readers.

        Raises:
            InputError: A model or an algorithm that the theorem does not speak of or that is not
                there, or an option that is declared twice.

        Example:
            >>> from gdconv.theory.registry import theorem_named
            >>> made = Readers.of(theorem_named("full-gd"), Config("full-gd"))
            >>> made.model.name, "kernel" in made.read, "width" in made.read
            ('multihead', True, False)
        """
        whose = f"theorem {theorem.id}"
        by_theorem = options_of(theorem.Options, whose) if theorem.Options else ()
        reads = getattr(theorem, "reads", None)
        if reads is not None:  # no descent
            read = (*CASES, *reads)
            own = merged(by_theorem, _kinds(read), RESERVED, whose)
            return cls(theorem, read, own, by_theorem=by_theorem)
        chosen, rule = _algorithm(theorem, config.algorithm, rule)
        found = _model(theorem, config, model)
        made = isinstance(rule, type)
        by_rule = options_of(rule, f"algorithm {chosen}") if made else ()
        read = tuple(dict.fromkeys((*DESCENT, *found.reads)))
        if theorem.algorithms != ():
            read = (*read, "algorithm")
        if theorem.models[0] not in (found.kind, found.name, found.text):
            read = tuple(n for n in read if n != "margin")  # init theorem is the own model's
        declared = (*by_theorem, *found.own, *by_rule)
        own = merged(declared, _kinds(read), RESERVED, f"model {found.name}")
        return cls(theorem, read, own, found, rule, chosen, by_theorem, by_rule)

    @property
    def kind(self) -> str:
        """What `Theorem.models` calls the model family."""
        return self.model.kind if self.model else ""

    @property
    def name(self) -> str | None:
        """Name of the model family."""
        return self.model.name if self.model else None

    @property
    def defaults(self) -> Mapping[str, Any]:
        """Defaults of fields by the model family."""
        return (self.model.defaults if self.model else None) or {}

    def statements(self, kernel: str | None) -> list[Any]:
        """The statements about this model, this algorithm and, where one is read, that kernel.

        Args:
            kernel: The kernel; None for any.

        Returns:
            Statements, or lines of an outline; all of them where none speaks of this algorithm.
        """
        about = (kernel if "kernel" in self.read else None, self.kind or None)
        found = self.theorem.statements(*about, self.rule_name)
        return list(found or self.theorem.statements(*about))

    @property
    def declared(self) -> dict[str, Any]:
        """Defaults that parties declare for fields which the model reads too: they count first."""
        return {name: option.default for name, option in self.own.items() if name in self.read}

    def config(self, config: Config) -> Config:
        """The options as given, each where its reader looks for it, names and types checked.

        Args:
            config: Options as given.

        Returns:
            The same options.

        Raises:
            InputError: An unknown name, a wrong type, or an option that none of the parties reads.
        """
        made = Config.of(config.theorem, config.given(), self.own, self.read)
        for name in made.given():
            if name not in self.read and name not in self.own:
                raise InputError(name, getattr(made, name), f"leave it out: {self._instead(name)}")
        return made

    def _instead(self, name: str) -> str:
        if self.model is not None and name == "algorithm":
            return f"{self.theorem.id} speaks of {self.chosen or 'gradient descent'}"
        if self.model is not None:
            return f"the {self.model.name} model does not read it"
        known = {*self.theorem.reads, *self.own}
        said = ", ".join(sorted(known)) or "none"
        return f"{self.theorem.id} reads {said}, statement, seed and seeds"

    def filled(self, config: Config, *layers: Mapping[str, Any]) -> Config:
        """Every own option has a value: the first that is there, in the end what is declared.

        Args:
            config: Options, fields filled.
            *layers: Defaults by name, as for `Config.resolve`.

        Returns:
            The options.

        Raises:
            InputError: An option without a default was not given, or a default is of another type.
        """
        own = dict(config.own)
        blank: dict[str, Any] = {n: None for n in _shared() if n not in self.read}
        fixed = replace(config, **blank)
        for name, option in self.own.items():
            both = name in self.read and getattr(fixed, name, None)
            found = next((layer[name] for layer in layers if layer.get(name) is not None), None)
            if both:
                own[name] = both
            elif name not in own and found is not None:
                own[name] = option.checked(found)
            elif name not in own and option.required:
                raise InputError(name, "nothing", f"give {option.flag}, which {option.party} needs")
            elif name not in own and _storable(option.default):
                own[name] = option.checked(option.default)
        return replace(fixed, own=own, **{n: v for n, v in own.items() if n in self.read})

    def family(self, config: Config, loss: Any = None) -> Architecture:
        """The model family of the values of its options.

        Args:
            config: Options.
            loss: A loss in memory, where there is one.

        Returns:
            The family.

        Raises:
            InputError: It cannot be made of them.
        """
        assert self.model is not None
        return self.model.make(_values(self.model.own, config), loss or config.loss)

    @property
    def rule_name(self) -> str:
        """Name of the algorithm, as statements have it."""
        return PLAIN if self.rule is None else str(getattr(self.rule, "name", PLAIN))

    def algorithm(self, config: Config) -> Algorithm:
        """The algorithm of the values of its options.

        Args:
            config: Options.

        Returns:
            The rule of a step.

        Raises:
            InputError: It cannot be made of them.
        """
        from gdconv.descent.algorithms.momentum import GradientDescent  # torch

        if self.rule is None:
            return GradientDescent()
        if not isinstance(self.rule, type):
            given: Algorithm = self.rule
            return given
        try:
            made: Algorithm = self.rule(**_values(self.by_rule, config))
            return made
        except TypeError as error:  # it needs what no option can say, such as a projection
            remedy = f"give it as algorithm= in Python, made of what it needs ({error})"
            raise InputError("algorithm", self.chosen, remedy) from error


def equipped(theorem: Any, readers: Readers, config: Config, rule: Any = None) -> Any:
    """A fresh theorem that knows its options and its algorithm.

    Args:
        theorem: The theorem.
        readers: The parties.
        config: Options.
        rule: The algorithm, where there is one.

    Returns:
        The theorem of this check.

    Raises:
        InputError: Its `Options` refuses them.
    """
    from copy import copy

    made = copy(theorem)
    made.algorithm = rule
    if theorem.Options is None:
        return made
    try:
        made.options = theorem.Options(**_values(readers.by_theorem, config))
    except InputError:
        raise
    except Exception as error:  # whatever a user's __post_init__ raises
        from gdconv.support.errors import cause

        remedy = f"give options that it takes ({cause(error)})"
        raise InputError("theorem", theorem.id, remedy) from error
    return made


def _values(options: tuple[Option, ...], config: Config) -> dict[str, Any]:
    """What is to be passed to the party that declared these options."""
    there = [o for o in options if o.name in config.own]
    return {
        o.name: config.own[o.name] for o in there if o.optional or config.own[o.name] is not None
    }


def _model(theorem: Any, config: Config, model: Any) -> Candidate:
    """The model in memory, the one that the text names, or the theorem's own."""
    asked, spoken = config.model, theorem.models
    if model is None and asked in (None, spoken[0]):
        asked = _usual_model(theorem, config) or asked
    found = candidate(asked or spoken[0], model)
    if found is None or not {found.kind, found.name, found.text} & set(spoken):
        names = ", ".join("torch modules" if m == "module" else m for m in spoken)
        more = ": give package.module:name, or the module itself as model= in Python"
        more = more if "module" in spoken else ""
        raise InputError("model", asked, f"{theorem.id} speaks of {names}{more}")
    return found


def _usual_model(theorem: Any, config: Config) -> str | None:
    """The model under which the statement asked for was seen to hold, where it names one."""
    for s in theorem.statements():
        if s.name == config.statement or (config.statement is None and s.default):
            usual: str | None = s.defaults.get("*", {}).get("model")
            return usual
    return None


def _algorithm(theorem: Any, asked: str | None, rule: Any) -> tuple[str | None, Any]:
    """Name and class or instance of the algorithm; None, None for gradient descent."""
    fixed, among = theorem.algorithm, theorem.algorithms
    if among == ():
        named = (
            fixed if isinstance(fixed, str | None) else getattr(fixed, "name", type(fixed).__name__)
        )
        if (asked or named) != named or (rule is not None):
            spoken = named or "gradient descent"
            raise InputError("algorithm", asked, f"leave it out: {theorem.id} speaks of {spoken}")
        if fixed is None or not isinstance(fixed, str):
            return named, fixed
    elif rule is not None:
        return asked, rule
    text = asked or fixed
    if text is None:
        return None, None
    if not isinstance(text, str):
        return getattr(text, "name", type(text).__name__), text
    from gdconv.descent.algorithms.named import algorithm_class

    found = algorithm_class(text)
    name = text if ":" in text else str(found.name)
    if among and name not in among:
        raise InputError("algorithm", asked, f"choose among {', '.join(among)}")
    return name, found


def _shared() -> list[str]:
    """Fields of `Config` that some models read and others do not."""
    return [f.name for f in fields(Config) if f.name not in (*GLOBAL, "own")]


def _kinds(read: tuple[str, ...]) -> dict[str, str]:
    return {f.name: str(f.type).split("|")[0].strip() for f in fields(Config) if f.name in read}


def _storable(default: Any) -> bool:
    """Whether JSON can hold a default; the declared one counts in any case."""
    return not isinstance(default, float) or abs(default) <= 1e308
