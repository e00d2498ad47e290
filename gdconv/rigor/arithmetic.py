"""Arithmetic on numbers with error bars, for sides of hypotheses that cancel.

A plain float is off by a relative `SLACK` at most; 1 - x and s - M rho may be off by far more than
that of themselves. Here the bars follow: every operation returns an `Enclosure` that contains its
value for all values of its operands, rounded outwards. Whole numbers are exact.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Context
from math import inf, isfinite, isnan, nan, nextafter

from gdconv.rigor.rounding import Enclosure

SLACK = 1e-11
"""Relative error bar of a plain float: far above what its computation rounds."""

EXACT = 2**53
"""Whole numbers up to here are floats without error."""

Number = int | float | Enclosure
"""A whole number, a float with its bar, or an enclosure."""


def bar(x: Number) -> Enclosure:
    """A number as an enclosure; what is not finite has no bar.

    Args:
        x: The number.

    Returns:
        An enclosure as it is, a whole number as a point, a float with its slack either way.

    Example:
        >>> bar(3), bar(0.0)
        (Enclosure(lo=3.0, hi=3.0), Enclosure(lo=0.0, hi=0.0))
    """
    if isinstance(x, Enclosure):
        return x
    if isinstance(x, int) and abs(x) <= EXACT:
        return Enclosure(float(x), float(x))
    wide = abs(x) * SLACK if isfinite(x) else 0.0
    return Enclosure(float(x - wide), float(x + wide))


def plus(a: Number, b: Number) -> Enclosure:
    """A sum.

    Args:
        a: One number.
        b: Another.

    Returns:
        What a + b may be; nan where one of them is.

    Example:
        >>> plus(1, 2).lo <= 3.0 <= plus(1, 2).hi
        True
    """
    x, y = bar(a), bar(b)
    return _outwards(x.lo + y.lo, x.hi + y.hi)


def minus(a: Number, b: Number) -> Enclosure:
    """A difference; where it cancels the bar is wide beside it.

    Args:
        a: The number.
        b: What is taken away.

    Returns:
        What a - b may be; nan where one of them is.

    Example:
        >>> gap = minus(1, 1 - 1e-10)
        >>> gap.lo < 0.91e-10 and gap.hi > 1.09e-10
        True
    """
    x, y = bar(a), bar(b)
    return _outwards(x.lo - y.hi, x.hi - y.lo)


def times(*factors: Number) -> Enclosure:
    """A product, of factors of any sign.

    Args:
        *factors: At least one number.

    Returns:
        What the product may be; exactly 0 where a factor is, nan where a factor is nan.

    Example:
        >>> times(Enclosure(-1.0, 2.0), 3).lo < -3.0 + 1e-15
        True
        >>> times(0, 5.0)
        Enclosure(lo=0.0, hi=0.0)
    """
    first, *rest = (bar(x) for x in factors)
    for x in rest:
        first = _times(first, x)
    return first


def _times(x: Enclosure, y: Enclosure) -> Enclosure:
    ends = [a * b if a and b else 0.0 for a in x for b in y]  # 0 times an infinite end is 0
    if any(map(isnan, (*x, *y))):
        return Enclosure(nan, nan)
    made = _outwards(min(ends), max(ends))
    if not (any(x) and any(y)):
        return Enclosure(0.0, 0.0)
    # a product of two numbers that are not negative is not negative
    return Enclosure(max(made.lo, 0.0), made.hi) if x.lo >= 0 and y.lo >= 0 else made


def over(a: Number, b: Number) -> Enclosure:
    """A quotient by a positive number.

    Args:
        a: The numerator.
        b: The denominator.

    Returns:
        What a / b may be; nan unless b is known to be positive.

    Example:
        >>> over(1, 4).lo <= 0.25 <= over(1, 4).hi
        True
    """
    x, y = bar(a), bar(b)
    if not y.lo > 0:
        return Enclosure(nan, nan)
    ends = [p / q for p in x for q in y]
    return Enclosure(nan, nan) if any(map(isnan, ends)) else _outwards(min(ends), max(ends))


def positive_part(a: Number) -> Enclosure:
    """max(a, 0).

    Args:
        a: The number.

    Returns:
        Both ends at least 0; nan where a is.

    Example:
        >>> positive_part(Enclosure(-1.0, 2.0))
        Enclosure(lo=0.0, hi=2.0)
    """
    x = bar(a)
    return Enclosure(nan, nan) if any(map(isnan, x)) else Enclosure(max(x.lo, 0.0), max(x.hi, 0.0))


def smaller(a: Number, b: Number) -> Enclosure:
    """min(a, b).

    Args:
        a: One number.
        b: Another.

    Returns:
        What the smaller one may be; nan where one of them is.

    Example:
        >>> smaller(Enclosure(1.0, 4.0), Enclosure(2.0, 3.0))
        Enclosure(lo=1.0, hi=3.0)
    """
    x, y = bar(a), bar(b)
    if any(map(isnan, (*x, *y))):
        return Enclosure(nan, nan)
    return Enclosure(min(x.lo, y.lo), min(x.hi, y.hi))


def written(x: float, digits: int, rounding: str) -> str:
    """A bound for a sentence: what is printed must still be true.

    Args:
        x: The bound.
        digits: Significant digits.
        rounding: ROUND_FLOOR for a lower bound, ROUND_CEILING for an upper one.

    Returns:
        Its digits.

    Example:
        >>> written(1.9051, 3, "ROUND_FLOOR"), written(1.9051, 3, "ROUND_CEILING")
        ('1.9', '1.91')
    """
    if not isfinite(x):
        return f"{x:g}"
    return f"{float(Context(prec=digits, rounding=rounding).create_decimal(x)):.{digits}g}"


def largest(values: Iterable[float]) -> float:
    """The largest of several numbers; nan where one of them is, whatever their order.

    Args:
        values: At least one number.

    Returns:
        Their maximum.

    Example:
        >>> largest([1.0, nan, 2.0]), largest([1.0, 2.0])
        (nan, 2.0)
    """
    given = [float(x) for x in values]
    return nan if any(map(isnan, given)) else max(given)


def _outwards(lo: float, hi: float) -> Enclosure:
    """One rounding of each end covered; an end that is no number leaves nothing known."""
    if not (lo < inf and hi > -inf):
        return Enclosure(nan, nan)
    return Enclosure(nextafter(lo, -inf), nextafter(hi, inf))
