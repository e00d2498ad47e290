"""Compiled block coordinate descent for the squared, Huber and logistic losses, one column.

Each step of group k is a proximal step with its own curvature bound; predictions are kept up to
date. Compiled code in one file, so numba's own cache stamp suffices.
"""

from __future__ import annotations

from math import exp, sqrt

import numpy as np

from gdconv.compiled.cache import njit

SQUARED, HUBER, LOGISTIC = 0, 1, 2

_jit = njit(nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})


@_jit
def _residual(p, y, kind, delta):  # type: ignore[no-untyped-def]
    """-L'(p; y)."""
    if kind == LOGISTIC:
        m = y * p
        if m > 0.0:
            e = exp(-m)
            return y * e / (1.0 + e)
        return y / (1.0 + exp(m))
    v = 2.0 * (y - p)
    if kind == HUBER:
        v = min(max(v, -2.0 * delta), 2.0 * delta)
    return v


@_jit
def curvatures(blocks, groups, rounds):  # type: ignore[no-untyped-def]
    """Estimates of |A_k|^2, a little above the power iteration's value.

    Args:
        blocks: Tokens (K, N, d).
        groups: Which groups.
        rounds: Power iterations.

    Returns:
        One number per group of `groups`.
    """
    N, d = blocks.shape[1:]
    out = np.empty(len(groups))
    x, z = np.empty(d), np.empty(d)
    for s in range(len(groups)):
        A = blocks[groups[s]]
        for e in range(d):
            x[e] = 1.0 + 0.1 * ((e * 7919) % 13)
        size = 0.0
        for _ in range(rounds):
            size = 0.0
            for e in range(d):
                size += x[e] * x[e]
            size = sqrt(size)
            if size == 0.0:
                break
            for e in range(d):
                x[e] /= size
                z[e] = 0.0
            for i in range(N):
                row = A[i]
                u = 0.0
                for e in range(d):
                    u += row[e] * x[e]
                for e in range(d):
                    z[e] += u * row[e]
            for e in range(d):
                x[e] = z[e]
        size = 0.0
        for e in range(d):
            size += x[e] * x[e]
        out[s] = 1.05 * sqrt(size)
    return out


@_jit
def sweep(blocks, groups, steps, y, Z, p, v, beta, kind, delta, curvature, epochs):  # type: ignore[no-untyped-def]
    """Cyclic proximal steps over `groups`; Z, p = sum_k A_k Z_k and v = -L'(p) in place.

    Args:
        blocks: Tokens (K, N, d).
        groups: Groups to visit, in this order.
        steps: |A_k|^2 for each of them.
        y: Targets (N).
        Z: Weights (K, d).
        p: Predictions (N).
        v: Residuals (N).
        beta: Weight decay.
        kind: SQUARED, HUBER or LOGISTIC.
        delta: Width of the Huber loss.
        curvature: Largest second derivative of the loss.
        epochs: Sweeps.
    """
    N, d = blocks.shape[1:]
    g = np.empty(d)
    for _ in range(epochs):
        for s in range(len(groups)):
            k = groups[s]
            if steps[s] == 0.0:
                continue
            A, z = blocks[k], Z[k]
            eta = 1.0 / (curvature * steps[s])
            for e in range(d):
                g[e] = 0.0
            for i in range(N):
                w, row = v[i], A[i]
                for e in range(d):
                    g[e] += w * row[e]
            size = 0.0
            for e in range(d):
                g[e] = z[e] + eta * g[e]
                size += g[e] * g[e]
            size = sqrt(size)
            keep = 1.0 - eta * beta / size if size > eta * beta else 0.0
            moved = 0.0
            for e in range(d):
                g[e] = keep * g[e] - z[e]
                moved += g[e] * g[e]
                z[e] += g[e]
            if moved == 0.0:
                continue
            for i in range(N):
                row = A[i]
                u = 0.0
                for e in range(d):
                    u += row[e] * g[e]
                p[i] += u
                v[i] = _residual(p[i], y[i], kind, delta)
