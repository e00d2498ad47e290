"""Resolved: which theorem, statement, model and options; each question is asked here and once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from gdconv.checks.given import Given
from gdconv.checks.named import named_problem
from gdconv.checks.readers import FALLBACK, Readers, equipped
from gdconv.checks.requirements import require_used, without_unused
from gdconv.descent.algorithms.base import Algorithm
from gdconv.descent.algorithms.momentum import GradientDescent
from gdconv.models.architecture import Architecture
from gdconv.models.named import Named
from gdconv.support.config import Config
from gdconv.support.errors import InputError
from gdconv.theory.claims import ClaimTheorem
from gdconv.theory.registry import theorem_named
from gdconv.theory.theorem import Statement, Theorem

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
        algorithm: The rule of a step.
    """

    theorem: Theorem
    statement: Statement
    statements: tuple[Statement, ...]
    config: Config
    asked: Config
    architecture: Architecture | None = None
    named: Named | None = None
    given: Given = field(default_factory=Given)
    algorithm: Algorithm = GradientDescent()

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
        spoken = (self.config.kernel, self.family.kind, self.algorithm.name)
        return self.theorem.statement_named(None, *spoken)


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
    given = given or Given()
    theorem = theorem_named(config.validate().theorem)
    if isinstance(theorem, ClaimTheorem) and given.mask is not None:
        remedy = f"leave it out: {theorem.id} draws cases of its own, without padding"
        raise InputError("mask", "given", remedy)
    readers = Readers.of(theorem, config, given.model, given.algorithm)
    asked = readers.config(config).validate()
    if isinstance(theorem, ClaimTheorem):
        return _without_descent(theorem, readers, asked)
    kind, loss = readers.kind, given.loss
    kernel = (asked.kernel or FALLBACK["kernel"]) if "kernel" in readers.read else None
    named = None
    if asked.problem:
        named = named_problem(asked.problem, str(kernel), asked.seed, readers.family(asked, loss))
    suggested = named.options_for(theorem.id) if named else {}
    wanted = asked.statement or suggested.get("statement")
    judged = theorem.statement_named(wanted, kernel, kind, readers.rule_name)
    general = judged.defaults.get("*", {})
    source = asked.data or general.get("data") or FALLBACK["data"]
    layers = (
        suggested, judged.defaults.get(source, {}), judged.defaults.get(kind, {}), general,
    )  # fmt: skip
    found = replace(
        asked, statement=judged.name, model=readers.name, algorithm=readers.chosen
    )  # fmt: skip
    filled = found.resolve(*layers, readers.declared, readers.defaults, FALLBACK)
    filled = without_unused(readers.filled(filled, *layers))
    require_used(asked, filled)
    spoken = tuple(theorem.statements(filled.kernel, kind, readers.rule_name))
    rule = readers.algorithm(filled)
    return Resolved(
        equipped(theorem, readers, filled, rule), judged, spoken, filled.validate(), asked,
        readers.family(filled, loss), named, given, rule,
    )  # fmt: skip


def resolve_saved(theorem: Any, options: Any, given: Given | None = None) -> Resolved:
    """The same for the options of a saved run, which left nothing open.

    Args:
        theorem: Its theorem.
        options: Its options by name, as its manifest has them.
        given: The model and the loss, where they were handed over in memory.

    Returns:
        Theorem, statements and model family; no problem is made.

    Raises:
        InputError: An option cannot be used.
    """
    given = given or Given()
    asked = Config.open(theorem, options)
    found = theorem_named(asked.theorem)
    readers = Readers.of(found, asked, given.model, given.algorithm)
    config = Config.of(theorem, options, readers.own).validate()
    if isinstance(found, ClaimTheorem):
        return _without_descent(found, readers, readers.config(config))
    config = readers.filled(config)
    speaks = (config.kernel, readers.kind, readers.rule_name)
    judged, rule = found.statement_named(config.statement, *speaks), readers.algorithm(config)
    return Resolved(
        equipped(found, readers, config, rule), judged, tuple(found.statements(*speaks)), config,
        config, readers.family(config, given.loss), None, given, rule,
    )  # fmt: skip


def _without_descent(theorem: ClaimTheorem, readers: Readers, config: Config) -> Resolved:
    """A theorem whose cases are drawn: it reads what it says it reads."""
    if config.seeds > MOST_CASES:
        remedy = f"give at most {MOST_CASES}: the rows of every case stay in memory"
        raise InputError("seeds", config.seeds, remedy)
    judged = theorem.statement_named(config.statement, config.kernel)
    spoken = [judged] if config.statement else theorem.statements(config.kernel)
    chosen = None if len(spoken) > 1 else judged.name  # a replay evaluates what was evaluated
    usual = judged.defaults.get("*", {})
    filled = replace(config, statement=chosen).resolve(usual, theorem.reads)
    filled = readers.filled(filled, usual, theorem.reads)
    return Resolved(equipped(theorem, readers, filled), judged, tuple(spoken), filled, config)
