"""Resolved: which theorem, statement, model and options; each question is asked here and once."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from gdconv.checks.given import Given
from gdconv.checks.named import named_problem
from gdconv.checks.requirements import require_used, without_unused
from gdconv.models.architecture import Architecture
from gdconv.models.families import ARCHITECTURES
from gdconv.models.named import Named
from gdconv.support.config import PRESENTATION, Config
from gdconv.support.errors import InputError
from gdconv.theory.claims import ClaimTheorem
from gdconv.theory.registry import theorem_named
from gdconv.theory.theorem import Statement, Theorem

FALLBACK: dict[str, Any] = {
    "kernel": "softmax", "data": "gaussian", "outputs": 1, "init": "normal", "step": "local",
    "steps": 10_000, "head_dim": 8, "heads": 8, "target": "digit", "margin": 1.12,
    "width": 256, "scaling": "linear", "loss": "sum", "activation": "relu",
}  # fmt: skip
"""Defaults of last resort, behind the options given and the defaults of the judged statement."""

ALWAYS_READ = ("theorem", "statement", "seed", "seeds", *PRESENTATION)
"""Options that a theorem without descent reads besides its own."""

MOST_CASES = 10**6
"""Rows of every case stay in memory, and a million cases take a day."""


@dataclass(frozen=True)
class Resolved:
    """What the options come to.

    Attributes:
        theorem: The theorem.
        statement: The statement that the verdict speaks of.
        statements: All that are evaluated.
        config: The options, every one that is read filled.
        asked: The options as they were given.
        architecture: The model family; None for a theorem without descent.
        named: The problem that `--problem` fixes, None without one.
        given: What was handed over in memory.
    """

    theorem: Theorem
    statement: Statement
    statements: tuple[Statement, ...]
    config: Config
    asked: Config
    architecture: Architecture | None = None
    named: Named | None = None
    given: Given = field(default_factory=Given)

    @property
    def family(self) -> Architecture:
        """The model family of a theorem with descent."""
        assert self.architecture is not None
        return self.architecture

    @property
    def trained(self) -> tuple[str, ...]:
        """Blocks that gradient descent moves."""
        return self.theorem.trains or self.family.trainable

    @property
    def a_priori(self) -> Statement:
        """The judged statement, or the default one where that speaks of a finished run only."""
        if not self.statement.posterior:
            return self.statement
        return self.theorem.statement_named(None, self.config.kernel, self.family.kind)


def resolve(config: Config, given: Given | None = None) -> Resolved:
    """Decide what the options leave open.

    Args:
        config: Options as given; None fields are filled from the judged statement's defaults.
        given: What was handed over in memory.

    Returns:
        Theorem, statements, model family and options.

    Raises:
        InputError: An option cannot be used, or nothing would read it.

    Example:
        >>> resolve(Config("full-gd", problem="stacked-witness")).statement.name
        'stacked'
    """
    theorem = theorem_named(config.validate().theorem)
    given = given or Given()
    if isinstance(theorem, ClaimTheorem):
        if given.mask is not None:
            remedy = f"leave it out: {theorem.id} draws cases of its own, without padding"
            raise InputError("mask", "given", remedy)
        return _without_descent(theorem, config)
    model = config.model
    if given.model is None and model in (None, theorem.models[0]):
        model = _usual_model(theorem, config) or model
    family = given.family(theorem, model, config.loss)
    kernel = config.kernel or FALLBACK["kernel"]
    named = named_problem(config.problem, kernel, config.seed, family) if config.problem else None
    suggested = named.options_for(theorem.id) if named else {}
    wanted = config.statement or suggested.get("statement")
    judged = theorem.statement_named(wanted, kernel, family.kind)
    general = judged.defaults.get("*", {})
    source = config.data or general.get("data") or FALLBACK["data"]
    filled = config.resolve(
        {"statement": judged.name, "model": family.name},
        suggested, judged.defaults.get(source, {}), judged.defaults.get(family.kind, {}), general,
        dict(family.defaults), FALLBACK,
    )  # fmt: skip
    foreign = {o for other in ARCHITECTURES.values() for o in other.options} - set(family.options)
    foreign |= set(family.unread)
    if family.kind != theorem.models[0]:
        foreign.add("margin")  # init theorem is that of the theorem's own model
    filled = without_unused(filled, tuple(foreign))
    require_used(config, filled, tuple(foreign))
    spoken = tuple(theorem.statements(filled.kernel, family.kind))
    return Resolved(theorem, judged, spoken, filled, config, family, named, given)


def _usual_model(theorem: Theorem, config: Config) -> str | None:
    """The model under which the statement asked for was seen to hold, where it names one."""
    for s in theorem.statements():
        if s.name == config.statement:
            return s.defaults.get("*", {}).get("model")
    return None


def resolve_saved(config: Config, given: Given | None = None) -> Resolved:
    """The same for the options of a saved run, which left nothing open.

    Args:
        config: Its options.
        given: The model, where it was handed over in memory.

    Returns:
        Theorem, statements and model family; no problem is made.

    Raises:
        InputError: An option cannot be used.
    """
    theorem = theorem_named(config.validate().theorem)
    if isinstance(theorem, ClaimTheorem):
        return _without_descent(theorem, config)
    family = (given or Given()).family(theorem, config.model, config.loss)
    judged = theorem.statement_named(config.statement, config.kernel, family.kind)
    spoken = tuple(theorem.statements(config.kernel, family.kind))
    return Resolved(theorem, judged, spoken, config, config, family)


def _without_descent(theorem: ClaimTheorem, config: Config) -> Resolved:
    """A theorem whose cases are drawn: it reads what it says it reads."""
    if config.seeds > MOST_CASES:
        remedy = f"give at most {MOST_CASES}: the rows of every case stay in memory"
        raise InputError("seeds", config.seeds, remedy)
    given = {k for k, v in asdict(config).items() if v != getattr(Config(config.theorem), k)}
    for name in sorted(given - set(ALWAYS_READ) - set(theorem.reads)):
        known = ", ".join(sorted(theorem.reads)) or "none"
        remedy = f"leave it out: {theorem.id} reads {known}, statement, seed and seeds"
        raise InputError(name, getattr(config, name), remedy)
    judged = theorem.statement_named(config.statement, config.kernel)
    spoken = [judged] if config.statement else theorem.statements(config.kernel)
    chosen = None if len(spoken) > 1 else judged.name  # a replay evaluates what was evaluated
    filled = replace(config, statement=chosen)
    filled = filled.resolve(judged.defaults.get("*", {}), theorem.reads)
    return Resolved(theorem, judged, tuple(spoken), filled, config)
