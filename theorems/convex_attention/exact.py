"""The certificate of a small program again, in ball arithmetic: no rounding argument is shared.

Everything stored is taken as exact; F(Z), the dual constraints and D(v) are evaluated with
python-flint balls. For the penalty "columns" (which includes every program with one output).
"""

from __future__ import annotations

from typing import NamedTuple

from flint import arb

from gdconv.convex.group_lasso import Program
from gdconv.rigor.balls import working_precision
from gdconv.rigor.rounding import Array
from gdconv.support.errors import InputError


class ExactGap(NamedTuple):
    """Balls around the exact values.

    Args:
        primal: F(Z).
        dual: D(v).
        feasible: Whether every dual constraint provably holds at v.
        largest: max_k of the dual norms over beta, a ball.

    Example:
        >>> ExactGap(arb(1), arb(0.5), True, arb(1)).gap == arb(0.5)
        True
    """

    primal: arb
    dual: arb
    feasible: bool
    largest: arb

    @property
    def gap(self) -> arb:
        """F(Z) - D(v)."""
        return self.primal - self.dual


def _loss(program: Program, p: arb, y: float) -> arb:
    name, delta = program.loss.name, arb(program.loss.delta)
    if name == "logistic":
        return (1 + (-arb(y) * p).exp()).log()
    r = abs(p - arb(y))
    if name == "huber" and not r <= delta:
        outer = 2 * delta * r - delta * delta
        return outer if r > delta else (r * r).union(outer)
    return r * r


def _dual(program: Program, v: float, y: float) -> tuple[arb, bool]:
    if program.loss.name == "logistic":
        a = arb(v) * arb(y)
        inside = 0 <= v * y <= 1  # y is -1 or 1: the product is exact
        if not inside or a.is_zero() or a == 1:
            return arb(0), inside
        return -a * a.log() - (1 - a) * (1 - a).log(), True
    w = arb(v)
    inside = program.loss.name == "squared" or bool(abs(w) <= 2 * arb(program.loss.delta))
    return w * arb(y) - w * w / 4, inside


def exact_gap(program: Program, Z: Array, v: Array, bits: int = 300) -> ExactGap:
    """F(Z), D(v) and the feasibility of v as balls.

    Args:
        program: The program; penalty "columns", or one output.
        Z: Weights (K, d, c).
        v: Dual point (N, c).
        bits: Working precision.

    Returns:
        The balls.

    Raises:
        InputError: The nuclear program with several outputs, or Z or v that it does not fit.

    Example:
        >>> import numpy as np
        >>> program = Program.of([[[1.0]]], [1.0], 0.5)
        >>> found = exact_gap(program, np.full((1, 1, 1), 0.75), np.full((1, 1), 0.5))
        >>> found.feasible, float(found.gap)
        (True, 0.0)
    """
    K, d, c = program.shape
    if program.penalty == "nuclear" and c > 1:
        raise InputError("penalty", "nuclear", "give the penalty columns")
    Z, v = program.weights(Z), program.dual_point(v)
    with working_precision(bits):
        A = [[[arb(float(x)) for x in row] for row in sample] for sample in program.design.A]
        W = [[[arb(float(x)) for x in row] for row in group] for group in Z]
        V = [[arb(float(x)) for x in row] for row in v]
        N, beta = len(A), arb(program.beta)
        primal, dual, feasible, largest = arb(0), arb(0), True, arb(0)
        for i in range(N):
            for col in range(c):
                p = sum((A[i][k][e] * W[k][e][col] for k in range(K) for e in range(d)), arb(0))
                primal += _loss(program, p, float(program.y[i, col]))
                value, inside = _dual(program, float(v[i, col]), float(program.y[i, col]))
                dual += value
                feasible = feasible and inside
        for k in range(K):
            for col in range(c):
                primal += beta * sum((W[k][e][col] ** 2 for e in range(d)), arb(0)).sqrt()
                C = [sum((A[i][k][e] * V[i][col] for i in range(N)), arb(0)) for e in range(d)]
                square = sum((x * x for x in C), arb(0))
                feasible = feasible and bool(square <= beta * beta)
                largest = largest.max(square.sqrt() / beta)
    return ExactGap(primal, dual, feasible, largest)
