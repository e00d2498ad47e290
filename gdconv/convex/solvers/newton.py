"""Newton's method on the group sizes: few, but quadratically convergent steps.

|Z_k| = min over eta_k > 0 of (|Z_k|^2/eta_k + eta_k)/2, so the program with the squared loss is

    min over eta >= 0 of  y^T w + (beta/2) sum_k eta_k,  M w = y,  M = I + (2/beta) sum_k eta_k K_k

with K_k = A_k A_k^T: convex, one number per group. 2 w is the dual point, Z_k = (2 eta_k/beta)
A_k^T w, and eta_k > 0 asks |A_k^T 2 w| = beta. Newton solves the reciprocals, 1/|A_k^T 2 w| =
1/beta, which are nearly linear in eta (for one group and one sample exactly).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.linalg import cho_solve, lapack

from gdconv.convex.group_lasso import Design, Index
from gdconv.rigor.rounding import Array


class Sizes(NamedTuple):
    """Where Newton's method stands.

    Args:
        eta: Group sizes, one per group of the working set.
        v: The dual point 2 w (N).
        ratios: |A_k^T v| / beta, 1 for active groups at the optimum.
        steps: Newton steps taken.

    Example:
        >>> Sizes(np.ones(1), np.ones(2), np.ones(1), 0).steps
        0
    """

    eta: Float[np.ndarray, " S"]
    v: Float[np.ndarray, " N"]
    ratios: Float[np.ndarray, " S"]
    steps: int


class _Task(NamedTuple):
    tokens: Array  # (N, S, d)
    kernels: Array  # (S, N^2)
    y: Array
    beta: float


class _State(NamedTuple):
    value: float
    w: Array
    C: Array  # A_k^T w, (S, d)
    ratios: Array
    factor: Array


def _state(task: _Task, eta: Array) -> _State | None:
    """None when M is not positive definite in floating point (its entries overflowed)."""
    N = len(task.y)
    M = ((eta * (2.0 / task.beta)) @ task.kernels).reshape(N, N)
    M.flat[:: N + 1] += 1.0
    factor, bad = lapack.dpotrf(M.T, lower=1, overwrite_a=1, clean=0)
    if bad:
        return None
    w = cho_solve((factor, True), task.y, check_finite=False)
    C = (w @ task.tokens.reshape(N, -1)).reshape(task.tokens.shape[1:])
    ratios = 2.0 * np.sqrt(np.square(C).sum(1)) / task.beta
    value = float(task.y @ w) + 0.5 * task.beta * float(eta.sum())
    return _State(value, w, C, ratios, factor) if np.isfinite(value) else None


def _gap(task: _Task, state: _State) -> float:
    """Relative gap on the working set, not certified: the value bounds F(Z) from above."""
    s = 1.0 / max(1.0, float(state.ratios.max()))
    dual = s * (2.0 * float(task.y @ state.w) - s * float(state.w @ state.w))
    return (state.value - dual) / dual if dual > 0.0 else np.inf


def _hessian(task: _Task, state: _State, free: Index) -> Array:
    """(4/beta^2) (K_k w)^T M^-1 (K_l w) on the free groups: half the Hessian."""
    C = state.C * (2.0 / task.beta)  # of length rho: beta^2 would underflow first
    KW = np.einsum("nsd,sd->ns", task.tokens, C)[:, free]  # (2/beta) K_k w, one column per group
    return np.asarray(KW.T @ cho_solve((state.factor, True), KW, check_finite=False))


def _step(task: _Task, state: _State, eta: Array, free: Index, damping: float) -> Array | None:
    """Where the Newton step of the reciprocal equations leads, projected to eta >= 0."""
    # a damped step is one of the objective itself, and groups about to vanish move on their own
    # (Bertsekas 1982): it lowers the objective once the damping is large enough
    rho = state.ratios[free]
    Q = _hessian(task, state, free)
    right = 0.5 * task.beta * (rho - 1.0)
    if damping > 0.0:
        right *= 0.5 * (rho + 1.0)
        alone = (rho < 1.0) & (eta[free] <= 1e-2 * eta.max())
        Q[alone] = np.where(np.arange(len(free)) == np.flatnonzero(alone)[:, None], Q[alone], 0.0)
        Q[:, alone] = np.where(
            np.arange(len(free))[:, None] == np.flatnonzero(alone), Q[:, alone], 0.0
        )
    else:
        right *= rho * rho
    Q.flat[:: len(free) + 1] *= 1.0 + 1e-13 + damping
    Q.flat[:: len(free) + 1] += 1e-300
    try:
        move = np.linalg.solve(Q, right)
    except np.linalg.LinAlgError:
        return None
    trial = eta.copy()
    trial[free] = np.maximum(eta[free] + move, 0.0)
    return trial if np.isfinite(trial).all() else None


def newton(
    design: Design,
    groups: Index,
    y: Float[np.ndarray, " N"],
    beta: float,
    eta: Float[np.ndarray, " S"],
    tolerance: float,
    limit: int = 200,
) -> Sizes:
    """Newton's method restricted to some groups, projected to eta >= 0, damped where it would rise.

    Args:
        design: Tokens.
        groups: The working set (indices).
        y: Targets (N).
        beta: Weight decay.
        eta: Start, one size per group of the working set.
        tolerance: Stop when the gap, as computed for the working set alone, is below this part of
            the dual value.
        limit: Most steps.

    Returns:
        Sizes, dual point and ratios; nothing is certified here.

    Example:
        >>> one = Design([[[1.0]]])
        >>> done = newton(one, np.array([0]), np.array([1.0]), 0.5, np.zeros(1), 1e-12)
        >>> round(float(done.eta[0]), 12)
        0.75
    """
    whole = np.array_equal(groups, np.arange(design.A.shape[1]))
    tokens = design.A if whole else design.A[:, groups]
    task = _Task(tokens, design.kernels(groups), y, beta)
    state = _state(task, eta)
    if state is None:
        eta = np.zeros_like(eta)
        state = _state(task, eta)
    steps, damping = 0, 0.0
    while state is not None and steps < limit:
        free = np.flatnonzero((eta > 0.0) | (state.ratios > 1.0))
        if not len(free) or _gap(task, state) <= tolerance:
            break
        steps += 1
        trial = _step(task, state, eta, free, damping)
        found = None if trial is None else _state(task, trial)
        if trial is None or found is None or found.value > state.value * (1 + 4e-16):
            if damping > 1e8:
                break
            damping = max(10.0 * damping, 1e-5)
            continue
        eta, state = trial, found
        damping = 0.1 * damping if damping > 1e-6 else 0.0
    if state is None:  # not finite at eta = 0 either
        return Sizes(np.zeros_like(eta), 2.0 * y, np.full(len(eta), np.inf), steps)
    return Sizes(eta, 2.0 * state.w, state.ratios, steps)
