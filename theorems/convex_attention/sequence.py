r"""Sequence output, d = 1: the convex program with the equal-row-sum constraints, and without.

    F_i = (C_+ - C_-) X_i,  C_+, C_- >= 0 (n x n),  X_i, Y_i in R^n
    corrected   min sum_i |F_i - Y_i|^2 + beta (s_+ + s_-),  C_+ 1 = s_+ 1,  C_- 1 = s_- 1
    printed     min sum_i |F_i - Y_i|^2 + beta s,            (C_+ + C_-) 1 <= s 1

An attention matrix is row-stochastic, so sum_j |w_j| A_j has equal row sums; without that the
printed program is a relaxation, strict in general. Dual of both: max_v sum v y - v^2/4, with
G = sum_i v_i X_i^T, subject to sum_r max_j (+-G_rj) <= beta for both signs (corrected), or
sum_r max_j |G_rj| <= beta (printed).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
from jaxtyping import Float

from gdconv.convex.dual import SMALLEST_SCALE
from gdconv.convex.losses import Loss
from gdconv.rigor.rounding import TINY, UNIT, Array, as_matrix, gamma, up
from gdconv.rigor.spectrum import norm2_upper
from gdconv.support.errors import InputError


@dataclass(frozen=True, eq=False)
class SequenceSolution:
    """A solution with its certificate.

    Attributes:
        C: C_+ and C_- (2, n, n).
        primal: Upper bound of the objective at C.
        dual: Lower bound of the optimum.
        certified: Whether the wanted relative gap is proved.

    Example:
        >>> solve_sequence([[1.0, -1.0]], [[1.0, 1.0]], 1.0).certified
        True
    """

    C: Float[np.ndarray, "2 n n"]
    primal: float
    dual: float
    certified: bool

    @property
    def gap(self) -> float:
        """Upper bound of the suboptimality."""
        return (
            0.0
            if self.primal == self.dual
            else float(np.nextafter(self.primal - self.dual, np.inf))
        )


def _row_sums_prox(M: Array, t: float, least: float) -> Array:
    """argmin 1/2 |C - M|^2 + t s over C >= 0 with row sums s (least = -inf) or <= s (least = 0)."""
    # least bounds the multipliers of the rows from below
    ordered = np.cumsum(-np.sort(-M, axis=1), axis=1)
    counts = np.arange(1, M.shape[1] + 1)
    s = 0.0  # sum_r max_k (cum_rk - s)/k is convex and decreasing: Newton from the left
    for _ in range(M.size + 2):
        each = (ordered - s) / counts
        best = each.argmax(1)
        level = each[np.arange(len(M)), best]
        bound = level > least
        excess = float(np.maximum(level, least).sum()) - t
        if excess <= 1e-15 * max(1.0, t) or not bound.any():
            break
        s += excess / float((1.0 / counts[best])[bound].sum())
    level = np.maximum(((ordered - s) / counts).max(1, keepdims=True), least)
    C = np.maximum(M - level, 0.0)
    if s == 0.0:
        return np.zeros_like(M)
    if least == 0.0:
        return np.asarray(C)
    sums = C.sum(1, keepdims=True)
    return np.asarray(C * (sums.mean() / np.where(sums > 0, sums, 1.0)))


def _prox(M: Array, t: float, equal_rows: bool) -> Array:
    if equal_rows:
        return np.stack([_row_sums_prox(part, t, -np.inf) for part in M])
    n = M.shape[-1]
    both = _row_sums_prox(np.concatenate([M[0], M[1]], axis=1), t, 0.0)
    return np.stack([both[:, :n], both[:, n:]])


def _primal_upper(C: Array, X: Array, Y: Array, beta: float, equal_rows: bool) -> float:
    """Upper bound of the objective at the nearest feasible C: the heaviest row pays for all."""
    if not C.any():  # F = 0, nothing is rounded
        return Loss().upper_sum(np.zeros_like(Y), np.zeros_like(Y), Y)
    # stored rows are equal up to rounding; adding what one lacks moves F by at most max |X_i| of it
    D = C[0] - C[1]
    F = X @ D.T
    n = len(D)
    size = np.abs(X) @ (C[0] + C[1]).T
    slack = 1.01 * gamma(n + 4) * size + n * TINY
    sums = C.sum(2)
    if equal_rows:
        weight = float(sums.max(1).sum())
        lack = (sums.max(1, keepdims=True) - sums).sum(0) + 2 * gamma(n) * sums.sum(0)
        slack = slack + np.abs(X).max(1, keepdims=True) * lack
    else:
        weight = float(sums.sum(0).max())
    fit = Loss().upper_sum(F, slack, Y)
    return up(fit + up(beta * weight * (1 + 2 * gamma(2 * n * n + 4))))


def _dual_lower(v: Array, X: Array, Y: Array, beta: float, equal_rows: bool) -> float:
    G = v.T @ X
    slack = 1.01 * gamma(len(X) + 4) * (np.abs(v).T @ np.abs(X)) + len(X) * TINY
    n = G.shape[0]
    if equal_rows:
        top = max(float((s * G + slack).max(1).sum()) for s in (1.0, -1.0))
        top += 2 * gamma(n + 4) * float((np.abs(G) + slack).max(1).sum())
    else:
        top = float((np.abs(G) + slack).max(1).sum()) * (1 + 2 * gamma(n + 4))
    top = up(top) * (1 + 8 * UNIT)
    moved = 4 * UNIT * n * float((np.abs(v).T @ np.abs(X)).max())
    limit = beta / (top + moved) * (1 - 8 * UNIT) if top + moved > 0 else np.inf
    s = Loss().best_scale(v, Y, limit)
    if not (s >= SMALLEST_SCALE and s * float(np.abs(v).max()) >= SMALLEST_SCALE):
        s = 0.0
    return Loss().lower_sum(s * v, Y)


def solve_sequence(
    X: Any,
    Y: Any,
    beta: float,
    equal_rows: bool = True,
    tolerance: float = 1e-6,
    limit: int = 100_000,
) -> SequenceSolution:
    """Solve the corrected program, or the printed relaxation, to a certified relative gap.

    Accelerated proximal steps with restarts; the proximal map of the equal-row-sum cone is exact.

    Args:
        X: Sequences (N, n), embedding dimension 1.
        Y: Targets (N, n).
        beta: Weight decay.
        equal_rows: Keep the constraints the printed program lacks.
        tolerance: Wanted relative gap.
        limit: Most steps.

    Returns:
        The solution; `certified` says whether the gap was reached.

    Raises:
        InputError: Shapes that differ, or beta not positive.

    Example:
        >>> found = solve_sequence([[1.0, -1.0]], [[1.0, 1.0]], 1.0)  # 7/8
        >>> round(found.primal, 6)
        0.875
    """
    tokens, targets = as_matrix(X, "X"), as_matrix(Y, "Y")
    if tokens.shape != targets.shape:
        raise InputError("Y", targets.shape, f"give the shape {tokens.shape} of X")
    if not (isfinite(beta) and beta > 0):
        raise InputError("beta", beta, "give a positive number")
    n = tokens.shape[1]
    top = norm2_upper(tokens)
    step = 1.0 / max(4.0 * top * top, 1e-300)
    C = Y_t = np.zeros((2, n, n))
    s, found = 1.0, None
    for t in range(limit):
        if t % 50 == 0:
            v = 2.0 * (targets - tokens @ (C[0] - C[1]).T)
            primal = _primal_upper(C, tokens, targets, beta, equal_rows)
            dual = _dual_lower(v, tokens, targets, beta, equal_rows)
            done = primal - dual <= tolerance * max(dual, 0.0)
            if found is None or primal - dual < found.gap:
                found = SequenceSolution(C, primal, dual, done)
            if done:
                break
        v = 2.0 * (targets - tokens @ (Y_t[0] - Y_t[1]).T)
        G = v.T @ tokens
        new = _prox(Y_t + step * np.stack([G, -G]), step * beta, equal_rows)
        if float(((Y_t - new) * (new - C)).sum()) > 0.0:
            s, Y_t, C = 1.0, new, new
            continue
        s_next = 0.5 * (1.0 + (1.0 + 4.0 * s * s) ** 0.5)
        Y_t = new + ((s - 1.0) / s_next) * (new - C)
        C, s = new, s_next
    assert found is not None
    return found


def heads_of_sequence(C: Float[np.ndarray, "2 n n"]) -> tuple[Array, Array]:
    """Two heads w_j A_j, A_j row-stochastic, with sum_j w_j A_j = C_+ - C_-.

    Args:
        C: C_+ and C_- with equal row sums.

    Returns:
        A (2, n, n), row-stochastic, and w (2), w_+ >= 0 >= w_-.

    Example:
        >>> A, w = heads_of_sequence(np.stack([np.full((2, 2), 0.25), np.zeros((2, 2))]))
        >>> A[0].tolist(), w.tolist()
        ([[0.5, 0.5], [0.5, 0.5]], [0.5, -0.0])
    """
    n = C.shape[-1]
    sums = C.sum(2).mean(1)
    A = np.stack([c / s if s > 0 else np.eye(n) for c, s in zip(C, sums, strict=True)])
    return A, sums * np.array([1.0, -1.0])
