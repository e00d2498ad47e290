"""Witnesses of the convex-attention theorems in rational numbers and balls: nothing is rounded."""

from __future__ import annotations

from fractions import Fraction
from math import inf

from flint import arb

from gdconv.rigor.balls import to_enclosure, working_precision
from gdconv.rigor.rounding import Array, Enclosure

BITS = 300
"""Working precision of the balls."""


def exactly(x: Fraction | float) -> Enclosure:
    """A number that float64 holds, without the slack of a plain float."""
    return Enclosure(float(x), float(x))


def worst(boxes: list[Enclosure]) -> Enclosure:
    """The largest of enclosed numbers; of none, a number not negative that nobody knows."""
    if not boxes:
        return Enclosure(0.0, inf)
    return Enclosure(max(b.lo for b in boxes), max(b.hi for b in boxes))


def unit_tokens(y: tuple[int, ...], beta: Fraction, h: int) -> Fraction:
    """P(h) for X_i = e_i, d = 1, in rational numbers.

    One head predicts a_i w: with w of either sign, min sum_i (x_i - |y_i|)^2 + beta x_i over x >= 0
    where y_i has that sign, y_i^2 elsewhere. Two heads take both signs.

    Args:
        y: Targets.
        beta: Weight decay.
        h: Heads, 1 or more.

    Returns:
        The optimum.

    Example:
        >>> unit_tokens((1, -1), Fraction(1, 8), 1), unit_tokens((1, -1), Fraction(1, 8), 2)
        (Fraction(287, 256), Fraction(31, 128))
    """

    def least(target: int) -> Fraction:
        x = max(target - beta / 2, Fraction(0))
        return (x - target) ** 2 + beta * x

    if h > 1:
        return sum((least(abs(t)) for t in y), Fraction(0))
    return min(sum((least(sign * t) for t in y), Fraction(0)) for sign in (1, -1))


def excesses(eta: float, beta: float, steps: int, accelerated: bool) -> list[Enclosure]:
    """(F(Z_t) - F*) over its bound for X = y = 1 and Z_0 = 0, in ball arithmetic.

    Args:
        eta: Step size; 1/(2 lambda_max) = 1/2 is allowed.
        beta: Weight decay below 2.
        steps: Number of steps.
        accelerated: Which form.

    Returns:
        One enclosure for each t = 1..steps.

    Example:
        >>> [box.mid for box in excesses(1.0, 0.5, 3, accelerated=False)]
        [2.0, 4.0, 6.0]
    """
    with working_precision(BITS):
        e, b = arb(eta), arb(beta)
        Z, Y, s = arb(0), arb(0), arb(1)
        best = 1 - b / 2
        found = []
        for t in range(1, steps + 1):
            w = Y - 2 * e * (Y - 1)
            new = (abs(w) - e * b).max(arb(0)) * w.sgn()
            s_next = (1 + (1 + 4 * s * s).sqrt()) / 2
            Y = new + (s - 1) / s_next * (new - Z) if accelerated else new
            Z, s = new, s_next
            over = (Z - 1) ** 2 + b * abs(Z) - (b - b * b / 4)
            found.append(to_enclosure(over * e * ((t + 1) ** 2 / arb(2) if accelerated else 2 * t)
                                      / best**2))  # fmt: skip
    return found


def self_attention_at_signs(draws: Array) -> list[tuple[arb, arb]]:
    """Model (3) at X = (1, -1), Y = (1, 1), d = 1, beta = 1: its objective, and F_1 + F_2.

    F_r = sum_j (e^{q_j k_j x_r} - e^{-q_j k_j x_r})/(e^{q_j k_j x_r} + e^{-q_j k_j x_r}) v_j o_j.

    Args:
        draws: Weights (M, h, 4), columns q, k, v, o.

    Returns:
        One pair of balls per draw.

    Example:
        >>> import numpy as np
        >>> value, total = self_attention_at_signs(np.zeros((1, 1, 4)))[0]
        >>> float(value), float(total)
        (2.0, 0.0)
    """
    found = []
    with working_precision(BITS):
        for heads in draws:
            F, decay = [arb(0), arb(0)], arb(0)
            for head in heads:
                q, k, v, o = (arb(float(w)) for w in head)
                decay += (q * q + k * k + v * v + o * o) / 2
                for r, x in enumerate((1, -1)):
                    up, down = (q * k * x).exp(), (-q * k * x).exp()
                    F[r] += (up - down) / (up + down) * v * o
            found.append(((F[0] - 1) ** 2 + (F[1] - 1) ** 2 + decay, F[0] + F[1]))
    return found


def simplex_attention_at_signs(w: Fraction) -> Fraction:
    """Model (4) at X = (1, -1), Y = (1, 1), beta = 1 with rows (1, 0) and W_V = W_O = sqrt(w).

    Args:
        w: The product of the weights, not negative.

    Returns:
        2 (1 - w)^2 + w.

    Example:
        >>> simplex_attention_at_signs(Fraction(3, 4))
        Fraction(7, 8)
    """
    return 2 * (1 - w) ** 2 + w
