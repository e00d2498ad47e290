"""Inequality and Prediction: what a statement assumes and claims of one run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite, nan

from gdconv.descent.quantities import Bounded
from gdconv.rigor.arithmetic import Number, bar, times
from gdconv.rigor.rounding import Enclosure
from gdconv.support.trust import Estimate, Interval, weakest

Side = Number | Interval | Estimate
"""A side of a hypothesis; two whole numbers (counts) are compared without slack."""


def ends(side: Side) -> tuple[float, float]:
    """Least and greatest value that a side may stand for; both nan where one of them is.

    Args:
        side: A side of a hypothesis.

    Returns:
        The ends: of a float with its slack, of an estimate with its error.

    Example:
        >>> ends(Estimate(2.0, 0.5, "a guess"))
        (1.5, 2.5)
    """
    if isinstance(side, Interval):
        low, high = side.low, side.high
    elif isinstance(side, Estimate):
        low, high = side.value - side.error, side.value + side.error
    else:
        low, high = bar(side)
    return (low, high) if low <= high else (nan, nan)


def middle(side: Side) -> float:
    """The number that stands for a side in a table: its middle.

    Args:
        side: A side of a hypothesis.

    Returns:
        The number.

    Example:
        >>> middle(3), middle(Enclosure(1.0, 2.0))
        (3.0, 1.5)
    """
    return float(side) if isinstance(side, int | float) else float(side.mid)


@dataclass(frozen=True)
class Inequality:
    """One inequality lhs >= rhs (or lhs > rhs, <=, <), three-valued.

    Only finite numbers decide: nan or infinity where the decision would rest makes it undecided.

    Attributes:
        name: What it says, in words.
        lhs: Left side: a float, an enclosure, or one of the weaker kinds of `gdconv.support.trust`.
        relation: One of ">=", ">", "<=", "<".
        rhs: Right side.

    Example:
        >>> Inequality("heads suffice", 8, ">=", 4).holds, Inequality("x", 1.0, ">", 1.0).holds
        (True, None)
    """

    name: str
    lhs: Side
    relation: str
    rhs: Side

    @property
    def _sides(self) -> tuple[Side, Side]:
        """The side that is to be greater, and the other one."""
        return (self.lhs, self.rhs) if ">" in self.relation else (self.rhs, self.lhs)

    @property
    def holds(self) -> bool | None:
        """True, False, or None when the error bars overlap."""
        big, small = self._sides
        if isinstance(big, int) and isinstance(small, int):
            return big >= small if "=" in self.relation else big > small
        (big_lo, big_hi), (small_lo, small_hi) = ends(big), ends(small)
        equal = "=" in self.relation
        above = big_lo >= small_hi if equal else big_lo > small_hi
        below = big_hi < small_lo if equal else big_hi <= small_lo
        if above and isfinite(big_lo) and isfinite(small_hi):
            return True
        if below and isfinite(big_hi) and isfinite(small_lo):
            return False
        return None

    @property
    def margin(self) -> float:
        """lhs/rhs - 1 (rhs/lhs - 1 for <=), unfavourable ends; inf when the small side is 0."""
        big, small = self._sides
        if isinstance(big, int) and isinstance(small, int):
            big_lo, small_hi = float(big), float(small)
        else:
            big_lo, small_hi = ends(big)[0], ends(small)[1]
        if small_hi == 0:
            return float("inf") if big_lo > 0 else 0.0
        return big_lo / small_hi - 1

    @property
    def level(self) -> str:
        """What it rests on: float64, statistical (an `Interval`) or estimated (an `Estimate`)."""
        kinds = {Interval: "statistical", Estimate: "estimated"}
        return weakest(kinds.get(type(side), "float64") for side in (self.lhs, self.rhs))

    @property
    def weak(self) -> tuple[str, ...]:
        """What its level rests on, in words; empty where both sides are proved."""
        sides = (self.lhs, self.rhs)
        kind = Estimate if self.level == "estimated" else Interval
        return tuple(s.words for s in sides if isinstance(s, kind))


@dataclass(frozen=True)
class Prediction:
    """What a statement says of one run.

    Attributes:
        hypotheses: Everything it assumes, the step size excepted.
        rate: The constant beta of (1 - eta beta)^t; compared from its upper end. None: no geometric
            bound of the loss is claimed.
        prefactor: C in f_t <= C (1 - eta beta)^t f_0.
        best_step: Step that --step theory takes instead of max_step.
        decrease: eta -> coefficient c of f_t <= f_0 - c sum_{s<t} |grad f_s|^2, with the bar of
            what cancels in it; then `rate` is not used.
        max_step: Largest step size it allows; None when any step is allowed.
        note: One sentence for the table.
        power: p in f_t <= C (1 - eta beta)^(p t) f_0.
        claims: What is concluded instead of a bound of the loss.
        vacuous: Why the claims test nothing here; empty when they do.
        bounds: Bounds of other quantities, or of other shapes, compared at every step beside that
            of the loss or instead of it (`gdconv.descent.quantities`).

    Example:
        >>> Prediction(hypotheses=(), rate=0.5, max_step=0.1).rate_hi
        0.5
    """

    hypotheses: tuple[Inequality, ...]
    rate: Number | None
    max_step: float | None = None
    note: str = ""
    prefactor: float = 1.0
    best_step: float | None = None
    decrease: Callable[[float], Number] | None = None
    power: int = 1
    claims: tuple[Inequality, ...] = ()
    vacuous: str = ""
    bounds: tuple[Bounded, ...] = ()

    @property
    def rate_hi(self) -> float:
        """The claim is tested with the rate from above; nan without one."""
        rate = self._rate
        return rate.hi if isinstance(rate, Enclosure) else float(rate)

    @property
    def rate_lo(self) -> float:
        """A violation counts only if the rate from below is violated too."""
        rate = self._rate
        return rate.lo if isinstance(rate, Enclosure) else float(rate)

    @property
    def _rate(self) -> Number:
        """The rate with both its ends, so that an end that is no number decides nothing."""
        rate = self.half_life_of[0] if self.rate is None else self.rate
        return rate if isinstance(rate, Enclosure) else float(rate)

    @property
    def half_life_of(self) -> tuple[Number, int]:
        """(beta, p) of a geometric bound: the loss's, or the first among `bounds`; nan for none."""
        if self.rate is not None:
            return self.rate, self.power
        return next(((b.rate, b.power) for b in self.bounds if b.rate is not None), (nan, 1))

    def with_step(self, eta: float) -> tuple[Inequality, ...]:
        """All hypotheses, those about the step included.

        Args:
            eta: Step size of the run.

        Returns:
            The hypotheses, then eta <= max_step and eta rate < 1.
        """
        steps: list[Inequality] = []
        if self.max_step is not None:
            # the run takes exactly max_step under --step theory: shave the slack, not the theorem
            steps.append(Inequality("the step is small enough", eta, "<=", self.max_step))
        if self.decrease is None and self.rate is not None:
            steps.append(Inequality("eta beta < 1", times(eta, self._rate), "<", 1.0))
        return (*self.hypotheses, *steps)
