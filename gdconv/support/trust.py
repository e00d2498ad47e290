"""Kinds of trust in a number, kept apart by type.

`gdconv.rigor.rounding.Enclosure` is proved to contain its value. What is here is weaker: a
statistical `Interval` covers it in a stated share of draws, an `Estimate` is as good as the way it
was made. None is a subclass of another, and their ends have other names, so that nothing that asks
for an enclosure takes one of these by accident. A hypothesis may rest on them and says so in its
level.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite

LEVELS = ("certified", "float64", "float32", "statistical", "estimated")
"""What a verdict may rest on, strongest first."""


@dataclass(frozen=True)
class Interval:
    """A statistical interval: it covers the value in a share `confidence` of draws, no more.

    Attributes:
        low: Lower end.
        high: Upper end.
        confidence: Share of draws in which it covers.
        samples: How many draws it was made from.
        method: Whose interval it is.

    Example:
        >>> Interval(1.0, 3.0, 0.95, 12).words
        '95 % Student interval, n = 12'
    """

    low: float
    high: float
    confidence: float
    samples: int
    method: str = "Student"

    @property
    def mid(self) -> float:
        """Midpoint."""
        return self.low + 0.5 * (self.high - self.low) if isfinite(self.width) else self.high

    @property
    def width(self) -> float:
        """High - low."""
        return self.high - self.low

    @property
    def words(self) -> str:
        """How far to trust it."""
        return f"{100 * self.confidence:g} % {self.method} interval, n = {self.samples}"


@dataclass(frozen=True)
class Estimate:
    """A number that nothing bounds, and how it was made.

    Attributes:
        value: The number.
        error: Its residual, or what else says how far off it may be; no bound.
        method: How it was made.

    Example:
        >>> Estimate(2.0, 0.5, "a Rayleigh quotient").words
        'a Rayleigh quotient'
    """

    value: float
    error: float
    method: str

    @property
    def mid(self) -> float:
        """The value."""
        return self.value

    @property
    def words(self) -> str:
        """How it was made."""
        return self.method


def weakest(levels: Iterable[str]) -> str:
    """The weakest of several levels.

    Args:
        levels: At least one level.

    Returns:
        The one that comes last in `LEVELS`.

    Example:
        >>> weakest(["float64", "statistical"])
        'statistical'
    """
    return max(levels, key=LEVELS.index)
