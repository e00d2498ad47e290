"""Probes of the shallow encoder in compiled code: the Jacobian sample by sample, and error bars.

The derivation of `gdconv.models.encoder.formulas.jacobian_rows`, through queries, keys and values,
which shares nothing with `encoder_step` but softmax weights and preactivations; float64, CPU, no
padding.
"""

from __future__ import annotations

from math import erf, exp, log, pi, sqrt, tanh

import numpy as np

from gdconv.compiled.cache import njit

_jit = njit(nogil=True, error_model="numpy")


@_jit
def _rise(kind, x, divisor):  # type: ignore[no-untyped-def]
    """s'(x) by other formulas than the step's."""
    if kind == 0:
        return 1.0 if x > 0.0 else 0.0
    if kind == 1:
        density = exp(-0.5 * x * x) / sqrt(2.0 * pi)
        return (0.5 * (1.0 + erf(x / sqrt(2.0))) + x * density) / divisor
    g = 0.5 * (1.0 + tanh(0.5 * x))
    return g * (1.0 + x * (1.0 - g)) / divisor


@_jit
def _value(kind, x, divisor):  # type: ignore[no-untyped-def]
    """s(x), likewise."""
    if kind == 0:
        return max(x, 0.0)
    if kind == 1:
        return 0.5 * x * (1.0 + erf(x / sqrt(2.0))) / divisor
    return 0.5 * x * (1.0 + tanh(0.5 * x)) / divisor


@_jit
def _add(J, weight, squares, block, pulled):  # type: ignore[no-untyped-def]
    """|J|^2 and the residual's share of J^T r."""
    m, D = J.shape
    for a in range(m):
        for e in range(D):
            squares[block] += J[a, e] * J[a, e]
            pulled[a, e] += weight * J[a, e]


@_jit
def _row_lengths(M, x):  # type: ignore[no-untyped-def]
    """Sum over k of |M_k| |x_k|."""
    n, out = len(M), 0.0
    for k in range(n):
        out += np.sqrt(np.dot(M[k], M[k])) * np.sqrt(np.dot(x[k], x[k]))
    return out


@_jit
def _before_cancelling(x, S, slope, Q, K, V, through, tau_0):  # type: ignore[no-untyped-def]
    """`gdconv.models.encoder.probes._before_cancelling` of one sample, its norms still apart."""
    n = len(x)
    size_x = np.abs(x)
    q, k = np.dot(size_x, np.abs(Q).T), np.dot(size_x, np.abs(K).T)
    t = np.dot(slope, V)
    u, size, products = np.dot(t, x.T), np.dot(np.abs(t), size_x.T), np.dot(q, k.T)
    scores = attended = 0.0
    sums = np.empty((n, n))
    for a in range(n):
        mean = total = 0.0
        for j in range(n):
            mean += S[a, j] * u[a, j]
            total += S[a, j] * size[a, j]
        for j in range(n):
            scores += tau_0 * S[a, j] * abs(u[a, j] - mean) * products[a, j]
            attended += S[a, j] * np.dot(size_x[j], through)
            sums[a, j] = S[a, j] * (size[a, j] + total)
    by_query, by_key = _row_lengths(np.dot(sums, k), x), _row_lengths(np.dot(sums.T, q), x)
    return scores, attended, by_query, by_key


@_jit
def _entropy(S):  # type: ignore[no-untyped-def]
    """Mean entropy of the rows, as a share of log n; 0 for a single token."""
    N, n, _ = S.shape
    if n == 1:
        return 0.0
    total = 0.0
    for i in range(N):
        for k in range(n):
            whole = 0.0
            for j in range(n):
                whole += S[i, k, j]
            for j in range(n):
                p = S[i, k, j] / whole
                if not p <= 0.0:
                    total -= p * log(p)
    return total / (N * n) / log(n)


@_jit
def encoder_probe(  # type: ignore[no-untyped-def]
    X, W_Q, W_K, W_V, w_O, S, pre, residual, tau_0, scale, kind, divisor
):
    """What the probes of R replicas need.

    Args:
        X: Tokens (R or 1, N, n, D).
        W_Q: Query weights (R, m, D).
        W_K: Key weights (R, m, D).
        W_V: Value weights (R, m, D).
        w_O: Output weights (R, m).
        S: Attention weights (R, N, n, n) of a pass.
        pre: Its preactivations (R, N, n, m).
        residual: Its residuals (R, N).
        tau_0: Factor of the scores.
        scale: tau_1 sqrt(loss_scale).
        kind: Activation, a number of `gdconv.compiled.encoder_step.KINDS`.
        divisor: What it is divided by.

    Returns:
        |J_W|^2 by block (R, 4), the gradients (R, m, D) three times and (R, m), the two sums of
        `_before_cancelling` (R, 2), and the mean entropy (R,).
    """
    (R, m), (_, N, n, D) = w_O.shape, X.shape
    squares, sums, entropy = np.zeros((R, 4)), np.empty((R, 2)), np.empty(R)
    G_Q, G_K, G_V = np.zeros((R, m, D)), np.zeros((R, m, D)), np.zeros((R, m, D))
    g_O, slope, output = np.zeros((R, m)), np.empty((n, m)), np.empty((m, 1))
    C = np.empty((n, n))
    for r in range(R):
        Q, K, V = W_Q[r], W_K[r], W_V[r]
        through = scale * np.dot(np.abs(w_O[r]), np.abs(V))
        parts = np.zeros(4)
        for i in range(N):
            x, weights, back = X[r % len(X), i], S[r, i], residual[r, i]
            for a in range(m):
                output[a, 0] = 0.0
                for k in range(n):
                    slope[k, a] = scale * w_O[r, a] * _rise(kind, pre[r, i, k, a], divisor)
                    output[a, 0] += scale * _value(kind, pre[r, i, k, a], divisor)
            u = np.dot(slope, np.dot(x, V.T).T)
            for k in range(n):
                mean = 0.0
                for j in range(n):
                    mean += weights[k, j] * u[k, j]
                for j in range(n):
                    C[k, j] = tau_0 * weights[k, j] * (u[k, j] - mean)
            _add(np.dot(np.dot(C, np.dot(x, K.T)).T, x), back, squares[r], 0, G_Q[r])
            _add(np.dot(np.dot(C.T, np.dot(x, Q.T)).T, x), back, squares[r], 1, G_K[r])
            _add(np.dot(slope.T, np.dot(weights, x)), back, squares[r], 2, G_V[r])
            _add(output, back, squares[r], 3, g_O[r].reshape(m, 1))
            found = _before_cancelling(x, weights, slope, Q, K, V, through, tau_0)
            for part in range(4):
                parts[part] += found[part] * found[part]
        sums[r, 0] = np.sqrt(parts[0]) + np.sqrt(parts[1])
        sums[r, 1] = tau_0 * np.sqrt(parts[2] + parts[3])
        entropy[r] = _entropy(S[r])
    return squares, G_Q, G_K, G_V, g_O, sums, entropy
