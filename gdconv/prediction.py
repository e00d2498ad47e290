"""Hypothesis and Prediction: what a statement assumes and claims of one run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite

from gdconv.spectrum import Enclosure

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
        best_step: Step that --step theory takes instead of max_step.
        decrease: eta -> coefficient c of f_t <= f_0 - c sum_{s<t} |grad f_s|^2; then `rate` is not
            used.
        max_step: Largest step size it allows; None when any step is allowed.
        note: One sentence for the table.
        power: p in f_t <= C (1 - eta beta)^(p t) f_0.
        claims: What is concluded instead of a bound of the loss.
        vacuous: Why the claims test nothing here; empty when they do.

    Example:
        >>> Prediction(hypotheses=(), rate=0.5, max_step=0.1).rate_hi
        0.5
    """

    hypotheses: tuple[Hypothesis, ...]
    rate: Side
    max_step: float | None = None
    note: str = ""
    prefactor: float = 1.0
    best_step: float | None = None
    decrease: Callable[[float], float] | None = None
    power: int = 1
    claims: tuple[Hypothesis, ...] = ()
    vacuous: str = ""

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
        if self.decrease is None:
            steps.append(Hypothesis("eta beta < 1", eta * self.rate_hi, "<", 1.0))
        return (*self.hypotheses, *steps)
