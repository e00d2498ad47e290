"""Losses L(p, y) of one prediction, with slope, curvature, conjugate and proved rounding.

    squared   L = (p - y)^2                                    no factor 1/2
    huber     L = r^2 for |r| <= delta, else 2 delta |r| - delta^2,  r = p - y
    logistic  L = log(1 + e^{-y p}),  y = -1 or +1

A dual variable v stands for -L'(p; y). `dual` is -L*(-v; y), concave. `upper_sum` and
`lower_sum` bound the exact sums for the stored floats; log and exp of the C library are taken to be
right within 8 units in the last place.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite

import numpy as np

from gdconv.rigor.rounding import TINY, UNIT, Array, gamma, up
from gdconv.support.errors import InputError

LOSSES = ("squared", "huber", "logistic")
"""Names `Loss` knows."""

ULPS = 8
"""Units in the last place allowed to log, log1p and exp."""

LARGEST = 2.0**1000
"""What no scaled dual variable exceeds."""


@dataclass(frozen=True)
class Loss:
    """One of the three losses.

    Attributes:
        name: "squared", "huber" or "logistic".
        delta: Width of the quadratic part of the Huber loss; unused by the others.

    Example:
        >>> float(Loss("huber", 1.0).value(np.array([3.0]), np.array([0.0]))[0])
        5.0
    """

    name: str = "squared"
    delta: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in LOSSES:
            raise InputError("loss", self.name, f"give one of {', '.join(LOSSES)}")
        if not (isfinite(self.delta) and self.delta > 0):
            raise InputError("delta", self.delta, "give a positive number")

    @property
    def curvature(self) -> float:
        """Largest L'': 2, 2 or 1/4."""
        return 0.25 if self.name == "logistic" else 2.0

    def check(self, y: Array) -> None:
        """Refuse targets the loss is not made for.

        Args:
            y: Targets of any shape.

        Raises:
            InputError: Logistic loss with a target other than -1 and 1.

        Example:
            >>> Loss("logistic").check(np.array([1.0, -1.0]))
        """
        if self.name == "logistic" and not bool(np.all(np.abs(y) == 1.0)):
            raise InputError("y", "targets other than -1 and 1", "give -1 and 1 for this loss")

    def value(self, p: Array, y: Array) -> Array:
        """L(p, y), entry by entry.

        Args:
            p: Predictions.
            y: Targets, same shape.

        Returns:
            Losses, same shape.

        Example:
            >>> float(Loss().value(np.array([3.0]), np.array([1.0]))[0])
            4.0
        """
        if self.name == "logistic":
            return np.asarray(np.logaddexp(0.0, -y * p))
        r = np.abs(p - y)
        if self.name == "squared":
            return np.asarray(r * r)
        core = np.minimum(r, self.delta)
        return np.asarray(core * core + 2.0 * self.delta * (r - core))

    def residual(self, p: Array, y: Array) -> Array:
        """The dual variable v = -L'(p; y) that belongs to the predictions.

        Args:
            p: Predictions.
            y: Targets, same shape.

        Returns:
            v, same shape.

        Example:
            >>> float(Loss().residual(np.array([3.0]), np.array([1.0]))[0])
            -4.0
        """
        if self.name == "logistic":
            half = 0.5 * y * p
            return np.asarray(0.5 * y * (1.0 - np.tanh(half)))
        v = 2.0 * (y - p)
        return v if self.name == "squared" else np.clip(v, -2 * self.delta, 2 * self.delta)

    def dual(self, v: Array, y: Array) -> Array:
        """-L*(-v; y), entry by entry; -inf outside its domain.

        v y - v^2/4 (|v| <= 2 delta for Huber), and -a log a - (1 - a) log(1 - a), a = v y, for the
        logistic loss.

        Args:
            v: Dual variables.
            y: Targets, same shape.

        Returns:
            Values, same shape.

        Example:
            >>> float(Loss().dual(np.array([2.0]), np.array([3.0]))[0])
            5.0
        """
        if self.name == "logistic":
            a = v * y
            inside = (a >= 0.0) & (a <= 1.0)
            b = np.clip(a, 0.0, 1.0)
            with np.errstate(divide="ignore", invalid="ignore"):
                h = np.where(b > 0, -b * np.log(b), 0.0) + np.where(
                    b < 1, -(1.0 - b) * np.log1p(-b), 0.0
                )
            return np.where(inside, h, -inf)
        value = v * (y - 0.25 * v)
        if self.name == "huber":
            value = np.where(np.abs(v) <= 2.0 * self.delta, value, -inf)
        return np.asarray(value)

    def best_scale(self, v: Array, y: Array, limit: float) -> float:
        """The s in [0, limit] that makes the dual value of s v largest (nearly, for logistic).

        Args:
            v: Dual variables, inside the domain.
            y: Targets.
            limit: Largest feasible s.

        Returns:
            s.

        Example:
            >>> Loss().best_scale(np.array([1.0]), np.array([1.0]), 5.0)
            2.0
        """
        top = float(np.abs(v).max()) if v.size else 0.0
        if top == 0.0:
            return min(limit, 1.0)
        if self.name == "logistic":
            return min(limit, 1.0)
        if self.name == "huber":
            limit = min(limit, 2.0 * self.delta / top)
        limit = min(limit, LARGEST, LARGEST / top)  # s v stays finite
        flat = v.ravel() / top  # squares of v itself underflow
        with np.errstate(over="ignore", invalid="ignore"):
            wanted = 2.0 * (float(flat @ y.ravel()) / float(flat @ flat)) / top
        return min(max(wanted, 0.0), limit) if wanted == wanted else min(limit, 1.0)

    def into_domain(self, v: Array, y: Array) -> Array:
        """Clip v to the domain of the dual, exactly.

        Args:
            v: Dual variables.
            y: Targets.

        Returns:
            v with |v| <= 2 delta (Huber) or 0 <= v y <= 1 (logistic).

        Example:
            >>> float(Loss("huber").into_domain(np.array([9.0]), np.array([0.0]))[0])
            2.0
        """
        if self.name == "squared":
            return v
        if self.name == "huber":
            return np.clip(v, -2.0 * self.delta, 2.0 * self.delta)
        return np.asarray(y * np.clip(v * y, 0.0, 1.0))

    def upper_sum(self, p: Array, error: Array, y: Array) -> float:
        """Upper bound of sum L(q, y) over all q with |q - p| <= error.

        L is convex, so the larger end of each interval decides.

        Args:
            p: Predictions, as stored.
            error: Bound of their error, entry by entry.
            y: Targets.

        Returns:
            The bound, rounding of its own evaluation included.

        Example:
            >>> Loss().upper_sum(np.array([3.0]), np.array([0.0]), np.array([1.0])) >= 4.0
            True
        """
        grow = 1.0 + 4 * UNIT
        if self.name == "logistic":
            margin = y * p - error
            margin = margin - 2 * UNIT * np.abs(margin) - TINY
            each = np.logaddexp(0.0, -margin)  # log1p(exp(-|m|)) + max(-m, 0)
            return up(float(each.sum()) * (1.0 + gamma(p.size + 4 * ULPS)) + p.size * TINY)
        r = (np.abs(p - y) * grow + error) * grow
        if not r.any():  # p = y, without an error: exactly 0
            return 0.0
        if self.name == "squared":
            each = r * r
        else:
            core = np.minimum(r, self.delta)
            each = core * core + 2.0 * self.delta * ((r - core) * grow)
        return up(float(each.sum()) * (1.0 + gamma(p.size + 6)) + 4 * p.size * TINY)

    def value_lower(self, p: Array, y: Array) -> float:
        """Lower bound of sum L(p, y) for the stored p.

        Args:
            p: Predictions.
            y: Targets.

        Returns:
            The bound, rounding of its own evaluation included.

        Example:
            >>> 4.0 - 1e-12 < Loss().value_lower(np.array([3.0]), np.array([1.0])) <= 4.0
            True
        """
        # p - y and y p are rounded once: at most u of L' r, below 2 L for r^2 and 1 + L for log
        count = p.size + 6 * ULPS
        each = self.value(p, y)
        lost = gamma(count) * (float(each.sum()) + (p.size if self.name == "logistic" else 0.0))
        return float(each.sum()) - 2.0 * lost - count * TINY

    def lower_sum(self, v: Array, y: Array) -> float:
        """Lower bound of sum -L*(-v; y) for the stored v.

        Args:
            v: Dual variables inside the domain (of `into_domain`, then scaled down).
            y: Targets.

        Returns:
            The bound, rounding of its own evaluation included; -inf outside the domain.

        Example:
            >>> 5.0 - 1e-12 < Loss().lower_sum(np.array([2.0]), np.array([3.0])) <= 5.0
            True
        """
        if not v.any():  # exactly 0
            return 0.0
        each = self.dual(v, y)
        if not np.isfinite(each).all():
            return -inf
        if self.name == "logistic":
            size, count = float(np.abs(each).sum()), v.size + 6 * ULPS
            # 1 - a is exact or rounded once: the entropy moves by at most 2u |log| + u
            size += v.size * 2 * UNIT
        else:
            size, count = float((np.abs(v) * (np.abs(y) + 0.25 * np.abs(v))).sum()), v.size + 6
        lost = up(size * (1.0 + gamma(count)) * gamma(count) + 4 * v.size * TINY)
        total = float(each.sum())
        return float(np.nextafter(total - lost - 2 * UNIT * abs(total), -inf))
