"""Theorem, Statement, Hypothesis, Prediction and the registry.

A theorem is a class whose methods, decorated with `statement`, turn a start into a `Prediction`.
The registry scans the packages named in the entry-point group ``gdconv.theorems``; the library
never imports a theorem by name.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from math import isfinite
from typing import TYPE_CHECKING, Any, ClassVar

from gdconv.errors import InputError
from gdconv.spectrum import Enclosure

if TYPE_CHECKING:
    from gdconv.descent import Outcome
    from gdconv.start import Start

SLACK = 1e-11
"""Relative slack of a hypothesis side that is a plain float: far above its rounding error."""

Side = int | float | Enclosure
"""A side of a hypothesis; two whole numbers (counts) are compared without slack."""


def _ends(side: Side) -> tuple[float, float]:
    if isinstance(side, Enclosure):
        return side.lo, side.hi
    wide = abs(side) * SLACK if isfinite(side) else 0.0
    return side - wide, side + wide


@dataclass(frozen=True)
class Hypothesis:
    """One inequality lhs >= rhs (or lhs > rhs, <=, <), three-valued.

    Attributes:
        name: What it says, in words.
        lhs: Left side, a float or an enclosure.
        relation: One of ">=", ">", "<=", "<".
        rhs: Right side.

    Example:
        >>> Hypothesis("heads suffice", 8, ">=", 4).holds, Hypothesis("x", 1.0, ">", 1.0).holds
        (True, None)
    """

    name: str
    lhs: Side
    relation: str
    rhs: Side

    @property
    def holds(self) -> bool | None:
        """True, False, or None when the error bars overlap."""
        big, small = (self.lhs, self.rhs) if ">" in self.relation else (self.rhs, self.lhs)
        if isinstance(big, int) and isinstance(small, int):
            return big >= small if "=" in self.relation else big > small
        (big_lo, big_hi), (small_lo, small_hi) = _ends(big), _ends(small)
        if big_lo != big_lo or small_lo != small_lo:
            return None
        if big_lo > small_hi or ("=" in self.relation and big_lo >= small_hi):
            return True
        if big_hi < small_lo or ("=" not in self.relation and big_hi <= small_lo):
            return False
        return None

    @property
    def margin(self) -> float:
        """lhs/rhs - 1 (rhs/lhs - 1 for <=), unfavourable ends; inf when the small side is 0."""
        big, small = (self.lhs, self.rhs) if ">" in self.relation else (self.rhs, self.lhs)
        if isinstance(big, int) and isinstance(small, int):
            big_lo, small_hi = float(big), float(small)
        else:
            big_lo, small_hi = _ends(big)[0], _ends(small)[1]
        if small_hi == 0:
            return float("inf") if big_lo > 0 else 0.0
        return big_lo / small_hi - 1


@dataclass(frozen=True)
class Prediction:
    """What a statement says of one run.

    Attributes:
        hypotheses: Everything it assumes, the step size excepted.
        rate: The constant beta of (1 - eta beta)^t; compared from its upper end.
        prefactor: C in f_t <= C (1 - eta beta)^t f_0.
        max_step: Largest step size it allows; None when any step is allowed.
        note: One sentence for the table.

    Example:
        >>> Prediction(hypotheses=(), rate=0.5, max_step=0.1).rate_hi
        0.5
    """

    hypotheses: tuple[Hypothesis, ...]
    rate: Side
    max_step: float | None = None
    note: str = ""
    prefactor: float = 1.0

    @property
    def rate_hi(self) -> float:
        """The claim is tested with the rate from above."""
        return self.rate.hi if isinstance(self.rate, Enclosure) else float(self.rate)

    @property
    def rate_lo(self) -> float:
        """A violation counts only if the rate from below is violated too."""
        return self.rate.lo if isinstance(self.rate, Enclosure) else float(self.rate)

    def with_step(self, eta: float) -> tuple[Hypothesis, ...]:
        """All hypotheses, those about the step included.

        Args:
            eta: Step size of the run.

        Returns:
            The hypotheses, then eta <= max_step and eta rate < 1.
        """
        steps: list[Hypothesis] = []
        if self.max_step is not None:
            # the run takes exactly max_step under --step theory: shave the slack, not the theorem
            steps.append(Hypothesis("the step is small enough", eta, "<=", self.max_step))
        steps.append(Hypothesis("eta beta < 1", eta * self.rate_hi, "<", 1.0))
        return (*self.hypotheses, *steps)


@dataclass(frozen=True)
class Statement:
    """One reading of a theorem.

    Attributes:
        name: Its name on the command line.
        predict: (theorem, start) -> Prediction; also takes the outcome if posterior.
        default: Whether the theorem's verdict speaks of it when none is asked for.
        proof: Where its proof stands, or why it has none.
        posterior: Judged from the finished run (a-posteriori bound).
        settings: Option defaults under which it was seen to work, by data set ("*" for all).
        summary: First line of its docstring.
    """

    name: str
    predict: Callable[..., Prediction]
    default: bool
    proof: str
    posterior: bool
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    summary: str = ""


def statement(
    name: str,
    *,
    proof: str,
    default: bool = False,
    posterior: bool = False,
    settings: dict[str, dict[str, Any]] | None = None,
) -> Callable[[Callable[..., Prediction]], Callable[..., Prediction]]:
    """Mark a method of a `Theorem` as one of its statements.

    Args:
        name: Name on the command line.
        proof: Where the proof stands.
        default: The statement that the theorem's verdict speaks of.
        posterior: The method also takes the finished run.
        settings: Option defaults by data set.

    Returns:
        The decorator.

    Example:
        >>> class Toy(Theorem):
        ...     id, title, source = "toy", "A toy", "none"
        ...     @statement("only", proof="none", default=True)
        ...     def only(self, start):
        ...         '''Nothing moves.'''
        ...         return Prediction((), 0.0)
        >>> [s.name for s in Toy().statements()]
        ['only']
    """

    def mark(method: Callable[..., Prediction]) -> Callable[..., Prediction]:
        summary = (method.__doc__ or "").strip().split("\n")[0]
        made = Statement(name, method, default, proof, posterior, settings or {}, summary)
        method.statement = made  # type: ignore[attr-defined]
        return method

    return mark


class Theorem:
    """Base of every theorem: identity plus statements.

    Attributes:
        id: Name on the command line.
        title: One line.
        source: Paper and theorem number.
        trains: Blocks that gradient descent moves.
    """

    id: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    trains: ClassVar[tuple[str, ...]] = ("W_Q", "W_K", "W_V")

    def statements(self) -> list[Statement]:
        """The statements in the order they are written."""
        found = (getattr(v, "statement", None) for v in type(self).__dict__.values())
        return [s for s in found if isinstance(s, Statement)]

    def statement_named(self, name: str | None) -> Statement:
        """The statement of that name, or the default one.

        Args:
            name: A name, or None.

        Returns:
            The statement.

        Raises:
            InputError: No statement has that name.
        """
        known = self.statements()
        if name is None:
            return next(s for s in known if s.default)
        for s in known:
            if s.name == name:
                return s
        raise InputError("statement", name, f"choose one of {', '.join(s.name for s in known)}")

    def predict(self, s: Statement, start: Start, outcome: Outcome | None = None) -> Prediction:
        """Evaluate one statement on one run.

        Args:
            s: The statement.
            start: The run at step 0.
            outcome: The finished run, needed by posterior statements.

        Returns:
            The prediction.
        """
        return s.predict(self, start, outcome) if s.posterior else s.predict(self, start)


def registry() -> dict[str, Theorem]:
    """Every theorem found in the packages of the entry-point group ``gdconv.theorems``.

    Returns:
        Theorems by id, sorted.

    Raises:
        InputError: Two theorems share an id.

    Example:
        >>> "full-gd" in registry()
        True
    """
    found: dict[str, Theorem] = {}
    for point in sorted(entry_points(group="gdconv.theorems"), key=lambda p: p.value):
        package = importlib.import_module(point.value)
        for info in pkgutil.iter_modules(package.__path__):
            module = importlib.import_module(f"{point.value}.{info.name}")
            for value in vars(module).values():
                if (
                    isinstance(value, type)
                    and issubclass(value, Theorem)
                    and value.__module__ == module.__name__
                ):
                    if value.id in found:
                        raise InputError("theorem", value.id, "give every theorem an id of its own")
                    found[value.id] = value()
    return dict(sorted(found.items()))


def theorem_named(name: str) -> Theorem:
    """The theorem with that id.

    Args:
        name: Id, as `gdconv list` prints it.

    Returns:
        The theorem.

    Raises:
        InputError: No theorem has that id.

    Example:
        >>> theorem_named("full-gd").id
        'full-gd'
    """
    known = registry()
    if name not in known:
        raise InputError("theorem", name, f"choose one of {', '.join(known)}")
    return known[name]
