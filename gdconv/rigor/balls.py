"""Numbers with a proved radius: python-flint balls, converted to floats with outward rounding."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from flint import arb, arb_mat, ctx

from gdconv.rigor.spectrum import Enclosure

MAX_PRECISION = 8192
"""Bits at which the search for a small radius gives up and says so."""


class Certified(NamedTuple):
    """A number known to lie in a ball.

    Args:
        ball: The enclosure, a python-flint `arb` that keeps its full precision.
        precision: Working precision in bits at which it was found.
        reached: Whether the wanted relative radius was reached.

    Example:
        >>> Certified(arb(0.5), 53, True).enclosure
        Enclosure(lo=0.5, hi=0.5)
    """

    ball: arb
    precision: int
    reached: bool

    @property
    def enclosure(self) -> Enclosure:
        """The ball as floats, rounded outwards."""
        return to_enclosure(self.ball)

    @property
    def mid(self) -> float:
        """Midpoint, rounded to float64."""
        return float(self.ball.mid())

    @property
    def radius(self) -> float:
        """Upper bound of the distance from `mid` (rounding of the midpoint included)."""
        lo, hi = self.enclosure
        return math.nextafter(max(hi - self.mid, self.mid - lo), math.inf) if hi > lo else 0.0


def to_enclosure(ball: arb) -> Enclosure:
    """Smallest float64 interval that surely contains a ball.

    Args:
        ball: A python-flint real ball.

    Returns:
        Enclosure with exact ends rounded outwards.

    Example:
        >>> box = to_enclosure(arb(1) / 3)
        >>> box.lo <= 1 / 3 <= box.hi and box.width < 1e-15
        True
    """
    if not ball.is_finite():
        return Enclosure(-math.inf, math.inf)
    lo, hi = float(ball.lower()), float(ball.upper())
    if not arb(lo) <= ball.lower():
        lo = math.nextafter(lo, -math.inf)
    if not arb(hi) >= ball.upper():
        hi = math.nextafter(hi, math.inf)
    return Enclosure(lo, hi)


@contextmanager
def working_precision(bits: int) -> Iterator[None]:
    """Set the precision of ball arithmetic for a block and restore it afterwards.

    Args:
        bits: Bits of the midpoints.

    Yields:
        Nothing.

    Example:
        >>> with working_precision(200):
        ...     ctx.prec
        200
    """
    before = ctx.prec
    ctx.prec = bits
    try:
        yield
    finally:
        ctx.prec = before


def _relative_radius(ball: arb) -> float:
    """Radius over the least absolute value; infinite if the ball contains 0 without being 0."""
    if not ball.is_finite():
        return math.inf
    if ball.is_zero():
        return 0.0
    least = ball.abs_lower()
    return float((arb(ball.rad()) / least).upper()) if least > 0 else math.inf


def refine(
    value: Callable[[int], arb],
    relative: float = 1e-15,
    precision: int = 106,
    limit: int = MAX_PRECISION,
) -> Certified:
    """Raise the precision until the relative radius is small enough, or say that it is not.

    Args:
        value: Function of the precision in bits that returns a ball.
        relative: Wanted radius over value.
        precision: First precision tried; doubled until `limit`.
        limit: Greatest precision tried.

    Returns:
        The last ball; `reached` is False when the radius is still too large at the limit (a value
        that is exactly 0 in disguise cannot be resolved by any precision).

    Example:
        >>> refine(lambda bits: arb(2).sqrt(), 1e-40).reached
        True
    """
    while True:
        with working_precision(precision):
            ball = value(precision)
        if _relative_radius(ball) <= relative:
            return Certified(ball, precision, True)
        if 2 * precision > limit:
            return Certified(ball, precision, False)
        precision *= 2


def square_sum(matrices: list[arb_mat]) -> arb:
    """Sum of squares of all entries.

    Args:
        matrices: Ball matrices of any shapes.

    Returns:
        The sum as a ball.

    Example:
        >>> float(square_sum([arb_mat([[3, 4]])]))
        25.0
    """
    return sum((z * z for M in matrices for z in M.entries()), arb(0))
