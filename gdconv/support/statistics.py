"""Exponents of power laws: slopes of log-log lines with their intervals, and what makes them laws.

A least-squares line through log y against log x, one for each seed; reported are the mean slope and
Student's interval over the seeds. A slope is an exponent only where the line is straight and where
one term dominates. Both are measured: the bend, which is the change of the local slope along the
range, and the distance from the crossover of two terms of different exponents.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf, isfinite

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from gdconv.support.errors import InputError
from gdconv.support.trust import Interval

BEND = 0.1
"""Local slopes may change by this along a range whose slope is called an exponent."""

LEAST = 3
"""Points that a bend needs."""


@dataclass(frozen=True)
class Growth:
    """A log-log slope over a range.

    Attributes:
        slope: Mean slope over the seeds.
        interval: Its confidence interval.
        bend: Mean change of the local slope from one end of the range to the other.
        bend_interval: Its confidence interval.
        start: Least abscissa.
        stop: Greatest abscissa.
        points: Number of abscissae.
        seeds: Number of seeds.
    """

    slope: float
    interval: Interval
    bend: float
    bend_interval: Interval
    start: float
    stop: float
    points: int
    seeds: int

    @property
    def straight(self) -> bool:
        """Whether the whole interval of the bend is within BEND of zero."""
        return self.curvature.high <= BEND

    @property
    def curvature(self) -> Interval:
        """|bend| for bends in the interval."""
        return _distance(self.bend_interval, 0.0)

    @property
    def label(self) -> str:
        """What the slope is: an exponent, or only the mean slope of a curved line."""
        if self.straight:
            return "exponent"
        return f"mean slope of a curved line, local slopes change by {self.bend:.2g}"

    def distance(self, law: float) -> Interval:
        """|slope - law| for slopes in the interval.

        Args:
            law: Exponent of the theory.

        Returns:
            Least and greatest distance, as good as the interval of the slope.

        Example:
            >>> x = np.array([1.0, 2.0, 4.0])
            >>> growth(x, np.stack([x**2.5, x**3.5])).distance(3).low
            0.0
        """
        return _distance(self.interval, law)


def _distance(box: Interval, law: float) -> Interval:
    """Distances of the points of an interval from a number."""
    ends = abs(box.low - law), abs(box.high - law)
    return replace(box, low=0.0 if box.low <= law <= box.high else min(ends), high=max(ends))


def student(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Student's interval of a mean.

    Args:
        values: One number for each seed.
        confidence: Probability with which it covers the mean of normal values.

    Returns:
        The interval; everything where there are fewer than two numbers.

    Example:
        >>> box = student([1.0, 2.0, 3.0])
        >>> round(box.mid, 12), round(box.width / 2, 3)
        (2.0, 2.484)
    """
    given = np.asarray(values, dtype=float)
    if len(given) < 2:
        return Interval(-inf, inf, confidence, len(given))
    quantile = float(stats.t.ppf(0.5 + confidence / 2, len(given) - 1))
    half = quantile * float(given.std(ddof=1)) / len(given) ** 0.5
    mean = float(given.mean())
    return Interval(mean - half, mean + half, confidence, len(given))


def growth(x: ArrayLike, y: ArrayLike, confidence: float = 0.95) -> Growth:
    """Slope of log y against log x.

    Args:
        x: Abscissae (n), positive, ascending.
        y: Ordinates (seeds, n), positive.
        confidence: Of the intervals.

    Returns:
        Slope and bend with intervals over the seeds; `label` says whether it is an exponent.

    Raises:
        InputError: Shapes do not fit, or a number is not positive and finite.

    Example:
        >>> x = np.geomspace(1e-3, 1e-2, 5)
        >>> found = growth(x, np.stack([x**5, 2 * x**5 + x**6]))
        >>> round(found.slope, 2), found.label
        (5.0, 'exponent')
        >>> wide = np.geomspace(1e-3, 1e3, 13)
        >>> growth(wide, np.stack([wide**5 + wide**6] * 2)).label
        'mean slope of a curved line, local slopes change by 1.6'
    """
    at, values = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    shown = f"shapes {at.shape} and {values.shape}"
    if at.ndim != 1 or values.ndim != 2 or values.shape[1:] != at.shape or len(at) < LEAST:
        raise InputError("y", shown, f"give (seeds, n) ordinates at n >= {LEAST} abscissae")
    if not (np.diff(at) > 0).all() or not at[0] > 0 or not isfinite(at[-1]):
        raise InputError("x", at, "give positive ascending abscissae")
    if not (values > 0).all() or not np.isfinite(values).all():
        raise InputError("y", shown, "give positive finite ordinates: a zero has no exponent")
    t = np.log(at)
    logs = np.log(values).T
    slopes = np.polyfit(t, logs, 1)[0]
    bends = 2 * np.polyfit(t, logs, 2)[0] * (t[-1] - t[0])
    return Growth(
        float(slopes.mean()), student(slopes, confidence),
        float(bends.mean()), student(bends, confidence),
        float(at[0]), float(at[-1]), len(at), len(values),
    )  # fmt: skip


def exponent(x: ArrayLike, y: ArrayLike, confidence: float = 0.95) -> Growth:
    """As `growth`, but a range in which the line is curved is refused.

    Args:
        x: Abscissae (n).
        y: Ordinates (seeds, n).
        confidence: Of the intervals.

    Returns:
        The slope.

    Raises:
        InputError: As in `growth`, or the local slope changes by more than BEND.

    Example:
        >>> x = np.geomspace(1e-2, 10, 9)
        >>> exponent(x, np.stack([x**5 + x**6] * 2))
        Traceback (most recent call last):
        gdconv.support.errors.InputError: x = 0.01 to 10: fit a narrower range: local slopes change
        by 1.1.
    """
    found = growth(x, y, confidence)
    if not found.straight:
        shown, remedy = f"{found.start:g} to {found.stop:g}", "fit a narrower range: local slopes"
        raise InputError("x", shown, f"{remedy} change by {found.bend:.2g}")
    return found


def crossover(x: float, low: ArrayLike, high: ArrayLike, gap: float) -> float:
    """Where a term of the higher exponent overtakes one of the lower, both extrapolated from x.

    low = a x^p and high = b x^(p + gap) are equal at x (low / high)^(1 / gap).

    Args:
        x: Abscissa at which both are given, below the crossover.
        low: Term of the lower exponent, one for each seed.
        high: Term of the higher exponent.
        gap: Difference of the exponents, positive.

    Returns:
        The least crossover over the seeds.

    Example:
        >>> round(crossover(0.01, [0.01**5], [2 * 0.01**6], 1), 12)
        0.5
    """
    ratio = np.asarray(low, dtype=float) / np.asarray(high, dtype=float)
    return float(x * (ratio ** (1 / gap)).min())
