"""Quantities: what a statement bounds besides the loss, compared at every step, three-valued.

A `Quantity` reads an iterate and gives a number that is not negative, with its error; `Bounded`
sets a bound against it, any function of the run so far. The stored run is one whose steps carry
defects: `Seen.drift` is the sum of what they may be, 8u |theta_s| and what the rounding of the
gradient moves, each times the algorithm's echo, and times |S_t| / |S_s| where a run moves away
from its minimum. The quantities made here count what that changes, to first order; what a saddle
does to a defect across the run is not counted, nor what bends J.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import exp, inf, log, log1p, sqrt
from typing import Any

import numpy as np
from torch import Tensor

from gdconv.rigor.arithmetic import Number, bar
from gdconv.rigor.rounding import UNIT, Enclosure
from gdconv.support.errors import InputError, cause

LOWERED = 0.9
"""A bound that never falls below this share of the first value has tested nothing."""

LEAST = -708.0
"""e to this power is a normal float still."""

REACHED = 0.1
"""A radius that the run never fills to this share has tested nothing."""


@dataclass(frozen=True)
class Seen:
    """One iterate of one run.

    Attributes:
        t: Step.
        eta: Step size.
        loss: f - f*, with its error bar.
        energy: The algorithm's energy, likewise; the loss for plain descent.
        grad_sq: |grad f|^2, likewise.
        grad_sum: sum_{s<t} |grad f_s|^2.
        moved: |theta_t - theta_{t-1}|, 0 at step 0.
        drift: What the defects of the stored steps may add up to, a distance.
        weights: Every block, without the replica axis.
        start: The same at step 0.
        first: The quantity's value at step 0, for its bound.
    """

    t: int
    eta: float
    loss: Enclosure
    energy: Enclosure
    grad_sq: Enclosure
    grad_sum: float
    moved: float
    drift: float
    weights: Mapping[str, Tensor]
    start: Mapping[str, Tensor]
    first: Enclosure = Enclosure(0.0, inf)

    @property
    def slope(self) -> float:
        """|grad f| from above."""
        return sqrt(max(self.grad_sq.hi, 0.0))


@dataclass(frozen=True)
class Quantity:
    """A number that is not negative, read at every step.

    Attributes:
        name: What it is called in tables and columns.
        value: Of an iterate; a plain float is widened by a relative 1e-11.
        fold: What is kept of all values so far, such as `min`, `max` or addition; monotone in
            both arguments. None: the last value.
    """

    name: str
    value: Callable[[Seen], Number]
    fold: Callable[[float, float], float] | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and self.name.strip()):
            raise InputError("name of a quantity", repr(self.name), "give it a name")


def least(quantity: Quantity) -> Quantity:
    """The least value so far."""
    return Quantity(f"least {quantity.name}", quantity.value, min)


def _widened(value: Enclosure, by: float) -> Enclosure:
    return Enclosure(max(0.0, value.lo - by), value.hi + by)


def distance(here: Mapping[str, Tensor], there: Mapping[str, Tensor]) -> float:
    """|a - b| over all blocks, in float64."""
    return sqrt(
        sum(float((w.double() - there[b].double()).square().sum()) for b, w in here.items())
    )


def _distance(seen: Seen) -> Enclosure:
    return _widened(bar(distance(seen.weights, seen.start)), seen.drift)


LOSS = Quantity("f", lambda seen: _widened(seen.loss, seen.slope * seen.drift))
"""f - f*, with what the defects of the steps change."""

ENERGY = Quantity("energy", lambda seen: _widened(seen.energy, seen.slope * seen.drift))
"""The algorithm's energy."""

GRADIENT = Quantity("|grad f|^2", lambda seen: seen.grad_sq)
"""|grad f|^2 over the trained blocks, with h |J|_F^2 times what the defects add up to."""

DISTANCE = Quantity("|theta_t - theta_0|", _distance)
"""How far all weights have moved."""


def lowered(first: Enclosure, value: Enclosure, bound: Enclosure) -> bool:
    """Whether the bound lies below 0.9 of the first value."""
    del value
    return bound.hi < LOWERED * first.lo


def reached(first: Enclosure, value: Enclosure, bound: Enclosure) -> bool:
    """Whether the value has come within a factor of ten of its bound."""
    del first
    return value.lo >= REACHED * bound.hi


@dataclass(frozen=True)
class Bounded:
    """quantity <= bound (or >=) at every step where the bound is a number.

    Attributes:
        quantity: What is bounded.
        bound: Of the iterate, `seen.first` included; None at steps of which nothing is claimed.
        relation: "<=" or ">=".
        tells: (first value, value, bound) -> whether the comparison at this step says anything;
            a statement none of whose bounds ever does is vacuous.
        rate: beta where the bound is (1 - eta beta)^(p t), for the half-life.
        power: p.

    Example:
        >>> bounded = over_steps(least(GRADIENT), 3.0)
        >>> bounded.quantity.name, bounded.relation
        ('least |grad f|^2', '<=')
    """

    quantity: Quantity
    bound: Callable[[Seen], Number | None]
    relation: str = "<="
    tells: Callable[[Enclosure, Enclosure, Enclosure], bool] = lowered
    rate: Number | None = None
    power: int = 1

    def __post_init__(self) -> None:
        if self.relation not in ("<=", ">="):
            raise InputError(f"bound of {self.quantity.name}", self.relation, "write <= or >=")


def _decayed(start: float, x: float, n: int) -> Enclosure:
    """start (1 - x)^n with the rounding of x, of the logarithm and below the normal floats."""
    if not 0 < start < inf:
        return bar(start)
    step, level = log1p(-x), log(start)
    off = 4 * UNIT * (n * (x / (1 - x) - step) + abs(level) + 1)
    ends = (level + n * step - off, level + n * step + off)
    lo, hi = (exp(min(max(end, LEAST), -LEAST)) for end in ends)
    return Enclosure(bar(lo).lo if ends[0] > LEAST else 0.0, bar(hi).hi)


def geometric(quantity: Quantity, rate: Number, prefactor: float = 1.0, power: int = 1) -> Bounded:
    """q_t <= C (1 - eta beta)^(p t) q_0.

    Args:
        quantity: q.
        rate: beta, below 1/eta; nothing is claimed otherwise.
        prefactor: C.
        power: p.

    Returns:
        The comparison.
    """
    ends = rate if isinstance(rate, Enclosure) else Enclosure(float(rate), float(rate))

    def bound(seen: Seen) -> Number | None:
        if not (seen.eta * ends.hi < 1 and ends.lo > 0):
            return None
        lo = _decayed(prefactor * seen.first.lo, seen.eta * ends.hi, power * seen.t).lo
        return Enclosure(
            lo, _decayed(prefactor * seen.first.hi, seen.eta * ends.lo, power * seen.t).hi
        )

    return Bounded(quantity, bound, rate=rate, power=power)


def over_steps(quantity: Quantity, C: Number, power: float = 1.0, shift: float = 0.0) -> Bounded:
    """q_t <= C / (t + shift)^power.

    Args:
        quantity: q.
        C: The constant.
        power: 1 for C/t, 2 for C/t^2.
        shift: Added to t.

    Returns:
        The comparison, at steps with t + shift > 0.
    """
    most = bar(C)

    def bound(seen: Seen) -> Number | None:
        t = seen.t + shift
        if t <= 0:
            return None
        return Enclosure(bar(most.lo / t**power).lo, bar(most.hi / t**power).hi)

    return Bounded(quantity, bound)


Level = Number | Callable[[Seen], Number | None]
"""A constant, or what it is at an iterate; None where nothing is claimed."""


def constant(quantity: Quantity, C: Level, relation: str = "<=") -> Bounded:
    """q_t <= C (or >= C) at every step; it tells something once q comes within a factor of ten.

    Args:
        quantity: q.
        C: A number, or a function of the iterate.
        relation: "<=" or ">=".

    Returns:
        The comparison.
    """

    def tells(first: Enclosure, value: Enclosure, bound: Enclosure) -> bool:
        small, large = (value, bound) if relation == "<=" else (bound, value)
        return reached(first, small, large)

    return Bounded(quantity, C if callable(C) else lambda seen: C, relation, tells)


def radius(R: Level) -> Bounded:
    """|theta_t - theta_0| <= R.

    Args:
        R: The radius, or a function of the iterate.

    Returns:
        The comparison.

    Example:
        >>> radius(2.0).quantity.name
        '|theta_t - theta_0|'
    """
    return constant(DISTANCE, R)


def read(what: str, value: Any) -> Enclosure:
    """A value or bound that somebody's function gave, as an enclosure that is not negative.

    Args:
        what: Whose, for the sentence.
        value: What was given.

    Returns:
        Its enclosure; nan passes, and decides nothing.

    Raises:
        InputError: It is complex, negative, or no number.
    """
    if isinstance(value, Tensor | np.ndarray | np.generic) and np.prod(np.shape(value)) == 1:
        value = value.item()
    if isinstance(value, complex) or not isinstance(value, int | float | Enclosure):
        raise InputError(what, value, "give a real number that is not negative, or an Enclosure")
    found = bar(value)
    if found.hi < 0:
        raise InputError(what, value, "give a number that is not negative")
    if found.lo > found.hi:
        raise InputError(what, value, "give an Enclosure whose lo is at most its hi")
    return found


def asked(what: str, function: Callable[[Seen], Any], seen: Seen) -> Any:
    """What somebody's function says of an iterate.

    Args:
        what: Whose, for the sentence.
        function: Of an iterate.
        seen: The iterate.

    Returns:
        Its answer.

    Raises:
        InputError: It raises.
    """
    try:
        return function(seen)
    except InputError:
        raise
    except Exception as error:  # whatever a user's function raises
        raise InputError(what, f"step {seen.t}", f"mend its function ({cause(error)})") from error


def log_margin(small: Enclosure, large: Enclosure) -> float:
    """log(large / small) of the middles; inf where small is 0, nan where one is no number."""
    if not (small.mid >= 0 and large.mid >= 0):
        return float("nan")
    if small.mid == 0:
        return inf
    return log(large.mid) - log(small.mid) if 0 < small.mid < inf and large.mid > 0 else -inf
