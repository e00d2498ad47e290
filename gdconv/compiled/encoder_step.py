"""One step of the shallow encoder in compiled code: pass, gradient, K r and, if asked for, K.

Formulas, association and shapes of `gdconv.models.encoder.formulas` and `.tangent`, so that the
rounding analysis of `.tangent_slack` speaks of these numbers as well; float64, CPU, no padding.
Products through the width go through BLAS, the rest is element by element.
"""

from __future__ import annotations

from math import erfc, exp, pi, sqrt

import numpy as np

from gdconv.compiled.cache import njit
from gdconv.compiled.tiny_eigen import UP, gamma, least, smallest

KINDS = {"relu": 0, "gelu": 1, "silu": 2}
"""Activations by name."""

SMALLEST, LARGEST = 1e-140, 1e140
"""Traces between which products of entries neither overflow nor underflow to any harm."""

WIDE = 256.0
"""Bounds wider than so many gamma_N trace(K) are left to LAPACK's eigenvectors."""

SMALL = 16
"""Orders up to which Jacobi's rotations are as quick as LAPACK."""

_jit = njit(nogil=True, error_model="numpy")


@_jit
def _act(kind, x, divisor):  # type: ignore[no-untyped-def]
    """s(x) and s'(x); NaN stays NaN."""
    if kind == 0:
        return (0.0 if x <= 0.0 else x), (1.0 if x > 0.0 else 0.0)
    if kind == 1:
        below = 0.5 * erfc(-x / sqrt(2.0))
        density = exp(-0.5 * x * x) / sqrt(2.0 * pi)
        return x * below / divisor, (below + x * density) / divisor
    g = 1.0 / (1.0 + exp(-x))
    return x * g / divisor, g * (1.0 + x / (1.0 + exp(x))) / divisor


@_jit
def _attend(X, M, tau_0, S, A):  # type: ignore[no-untyped-def]
    """S = softmax(tau_0 X M X^T) and A = S X, sample by sample."""
    N, n, D = X.shape
    left = np.dot(X.reshape(N * n, D), M)
    for i in range(N):
        for k in range(n):
            top = -np.inf
            for j in range(n):
                z = 0.0
                for e in range(D):
                    z += left[i * n + k, e] * X[i, j, e]
                z *= tau_0
                S[i, k, j] = z
                top = max(top, z)
            whole = 0.0
            for j in range(n):
                S[i, k, j] = exp(S[i, k, j] - top)
                whole += S[i, k, j]
            for e in range(D):
                A[i, k, e] = 0.0
            for j in range(n):
                S[i, k, j] /= whole
                for e in range(D):
                    A[i, k, e] += S[i, k, j] * X[i, j, e]


@_jit
def _neurons(pre, w, tau_1, scale, kind, divisor, F_pre, slope, F):  # type: ignore[no-untyped-def]
    """F_pre = c sum_k s(pre_k), F = tau_1 w . sum_k s(pre_k), slopes c w_O o s'(pre)."""
    N, n, m = pre.shape
    for i in range(N):
        out = 0.0
        for a in range(m):
            hidden, weight = 0.0, scale * w[a]
            for k in range(n):
                value, rise = _act(kind, pre[i, k, a], divisor)
                hidden += value
                slope[i * n + k, a] = rise * weight
            F_pre[i, a] = scale * hidden
            out += hidden * w[a]
        F[i] = tau_1 * out


@_jit
def _score_gradients(X, S, A, B, tau_0, E):  # type: ignore[no-untyped-def]
    """E_i = tau_0 X_i^T P_i X_i, P_kj = S_kj <x_j - A_k, B_k>, from differences."""
    N, n, D = X.shape
    for i in range(N):
        for k in range(n):
            row = np.zeros(D)  # row k of P X
            for j in range(n):
                p = 0.0
                for e in range(D):
                    p += (X[i, j, e] - A[i, k, e]) * B[i * n + k, e]
                p *= S[i, k, j]
                for e in range(D):
                    row[e] += p * X[i, j, e]
            for a in range(D):
                for b in range(D):
                    E[i, a, b] += X[i, k, a] * row[b]
        for a in range(D):
            for b in range(D):
                E[i, a, b] *= tau_0


@_jit
def _along(X, S, M, tau_0, dA):  # type: ignore[no-untyped-def]
    """Derivative of A = S X along a direction M of the matrix W_Q^T W_K."""
    N, n, D = X.shape
    left = np.dot(X.reshape(N * n, D), M)
    z = np.empty(n)
    for i in range(N):
        for k in range(n):
            mean = 0.0
            for j in range(n):
                z[j] = 0.0
                for e in range(D):
                    z[j] += left[i * n + k, e] * X[i, j, e]
                z[j] *= tau_0
                mean += S[i, k, j] * z[j]
            for j in range(n):
                weight = S[i, k, j] * (z[j] - mean)
                for e in range(D):
                    dA[i * n + k, e] += weight * X[i, j, e]


@_jit
def _blocks(A, E, slope, F_pre, grams, K):  # type: ignore[no-untyped-def]
    """K_Q, K_K, K_V, K_O, each exactly symmetric."""
    N, n, D = A.shape
    width = np.dot(slope, slope.T)
    tokens = np.dot(A.reshape(N * n, D), A.reshape(N * n, D).T)
    outer = np.dot(F_pre, F_pre.T)
    for i in range(N):
        by_query, by_key = np.dot(grams[1], E[i].T), np.dot(grams[0], E[i])
        for j in range(N):
            query = key = value = 0.0
            for a in range(D):
                for b in range(D):
                    query += by_query[a, b] * E[j, b, a]
                    key += by_key[a, b] * E[j, a, b]
            for k in range(i * n, i * n + n):
                for q in range(j * n, j * n + n):
                    value += width[k, q] * tokens[k, q]
            K[0, i, j], K[1, i, j], K[2, i, j], K[3, i, j] = query, key, value, outer[i, j]
    for block in range(4):
        for i in range(N):
            for j in range(i):
                K[block, i, j] = K[block, j, i] = 0.5 * (K[block, i, j] + K[block, j, i])


@_jit
def _least(K):  # type: ignore[no-untyped-def]
    """Certified bounds of the least eigenvalue of a symmetric matrix; (-inf, inf) where none."""
    N = len(K)
    V, C, turned = np.eye(N), np.empty((N, N)), K.copy()
    trace = np.trace(K)
    if not SMALLEST < trace < LARGEST:
        return -np.inf, np.inf
    best = smallest(turned, V, C)
    top = square = size = 0.0
    for i in range(N):
        square += V[i, best] * V[i, best]
        for j in range(N):
            top += V[i, best] * K[i, j] * V[j, best]
            size += abs(V[i, best] * K[i, j] * V[j, best])
    # two products a term, N^2 terms, a quotient; size is summed up as well
    hi = (top + gamma(N * N + 8) * size * UP) / square
    hi += abs(hi) * gamma(N + 8)
    lo = least(K, turned[best, best], C)
    if not hi - lo <= WIDE * gamma(N) * trace:
        return -np.inf, np.inf
    return lo, hi


@_jit
def _norm(G, m):  # type: ignore[no-untyped-def]
    """sqrt(lambda_max(W^T W)) from above, the rounding of the sums over m included; NaN if none."""
    D, trace = len(G), np.trace(G)
    if not SMALLEST < trace < LARGEST:
        return np.nan
    A, V, C = -G, np.eye(D), np.empty((D, D))
    best = smallest(A, V, C)
    top = -least(-G, A[best, best], C)
    if not top <= trace * (1.0 + WIDE * gamma(D)):
        return np.nan
    return np.sqrt(top + gamma(m + 2) * trace * UP) * (1.0 + 1e-15)


@_jit
def least_ends(K):  # type: ignore[no-untyped-def]
    """`_least` of a matrix of any order, (-inf, inf) where it is too large.

    Args:
        K: Symmetric matrix (N, N).

    Returns:
        Bounds of its least eigenvalue.
    """
    return _least(K) if 0 < len(K) <= SMALL else (-np.inf, np.inf)


@_jit
def step_size(theta, theta_next, pre, pre_next, kinks):  # type: ignore[no-untyped-def]
    """How far one step of one replica went, and what relu gained past its kinks.

    Args:
        theta: All weights before, (1, p), as `encoder_step` returns them.
        theta_next: All weights after.
        pre: Preactivations before, (1, N, n, m).
        pre_next: Preactivations after.
        kinks: Whether the last number is asked for, else it is 0.

    Returns:
        Distances of (W_Q, W_K, W_V) and of w_O, and the norm over the samples of
        sum_k |w_O| . (|pre_next| where the sign changed), tau_1 left out.
    """
    _, N, n, m = pre.shape
    p = theta.shape[1]
    w = theta[0, p - m :]
    inner = outer = gained = 0.0
    for a in range(p - m):
        inner += (theta_next[0, a] - theta[0, a]) ** 2
    for a in range(p - m, p):
        outer += (theta_next[0, a] - theta[0, a]) ** 2
    if kinks:
        for i in range(N):
            own = 0.0
            for k in range(n):
                for a in range(m):
                    if (pre[0, i, k, a] > 0.0) != (pre_next[0, i, k, a] > 0.0):
                        own += abs(w[a] * pre_next[0, i, k, a])
            gained += own * own
    return np.sqrt(inner), np.sqrt(outer), np.sqrt(gained)


@_jit
def encoder_step(  # type: ignore[no-untyped-def]
    X, y, W_Q, W_K, W_V, w_O, tau_0, tau_1, root, kind, divisor, moves, kernel
):
    """Everything that one step of R replicas asks of the encoder.

    Args:
        X: Tokens (R or 1, N, n, D).
        y: Labels (R or 1, N).
        W_Q: Query weights (R, m, D).
        W_K: Key weights (R, m, D).
        W_V: Value weights (R, m, D).
        w_O: Output weights (R, m).
        tau_0: Factor of the scores.
        tau_1: Factor of the output.
        root: sqrt(loss_scale).
        kind: Activation, a number of `KINDS`.
        divisor: What it is divided by.
        moves: Whether W_Q, W_K, W_V, w_O are trained, four flags.
        kernel: Whether the kernels of the blocks are formed.

    Returns:
        S (R, N, n, n), A (R, N, n, D), pre (R, N, n, m), F_pre (R, N, m), F (R, N),
        residual (R, N), loss (R,), |gradient|^2 of the trained blocks (R,), gradients by W_Q, W_K,
        W_V (R, m, D) and w_O (R, m), K r of the trained blocks (R, N), from above |W|_2 of W_Q,
        W_K, W_V, NaN where they are to be had otherwise, and |w_O| (R, 4), all weights (R, p), the
        kernels of the four blocks (R, 4, N, N), none (R, 0, N, N) unless asked for, and bounds
        (R, 2) of the least eigenvalue of their sum over the trained blocks, infinite where there
        are none.
    """
    (R, m), (_, N, n, D) = w_O.shape, X.shape
    scale = tau_1 * root
    S, A, pre = np.empty((R, N, n, n)), np.empty((R, N, n, D)), np.empty((R, N, n, m))
    F_pre, F, residual, loss = np.empty((R, N, m)), np.empty((R, N)), np.empty((R, N)), np.zeros(R)
    G_Q, G_K, G_V = np.empty((R, m, D)), np.empty((R, m, D)), np.empty((R, m, D))
    g_O, product, grams = np.zeros((R, m)), np.empty((R, N)), np.empty((R, 3, D, D))
    norms, theta, steep = np.empty((R, 4)), np.empty((R, 3 * m * D + m)), np.zeros(R)
    kernels, ends = np.empty((R, 4 if kernel else 0, N, N)), np.empty((R, 2))
    for r in range(R):
        x, Q, K, V, w = X[r % len(X)], W_Q[r], W_K[r], W_V[r], w_O[r]
        _attend(x, np.dot(Q.T, K), tau_0, S[r], A[r])
        attended, slope = A[r].reshape(N * n, D), np.empty((N * n, m))
        pre[r] = np.dot(attended, V.T).reshape(N, n, m)
        _neurons(pre[r], w, tau_1, scale, kind, divisor, F_pre[r], slope, F[r])
        B, E, mean = np.dot(slope, V), np.zeros((N, D, D)), np.zeros((D, D))
        _score_gradients(x, S[r], A[r], B, tau_0, E)
        for i in range(N):
            residual[r, i] = root * (F[r, i] - y[r % len(y), i])
            loss[r] += 0.5 * residual[r, i] * residual[r, i]
            mean += residual[r, i] * E[i]
            g_O[r] += residual[r, i] * F_pre[r, i]
        pulled = np.empty((N * n, m))
        for t in range(N * n):
            for a in range(m):
                pulled[t, a] = residual[r, t // n] * slope[t, a]
        G_Q[r], G_K[r] = np.dot(K, mean.T), np.dot(Q, mean)
        G_V[r] = np.dot(pulled.T, attended)
        grams[r, 0], grams[r, 1], grams[r, 2] = np.dot(Q.T, Q), np.dot(K.T, K), np.dot(V.T, V)
        for block in range(3):
            norms[r, block] = _norm(grams[r, block], m) if D <= SMALL else np.nan
        for block, G in enumerate((G_Q[r], G_K[r], G_V[r])):
            if moves[block]:
                steep[r] += np.dot(G.reshape(m * D), G.reshape(m * D))
        if moves[3]:
            steep[r] += np.dot(g_O[r], g_O[r])
        norms[r, 3] = sqrt(np.dot(w, w)) * (1.0 + gamma(m + 2))
        for block, W in enumerate((Q, K, V)):
            theta[r, block * m * D : block * m * D + m * D] = W.reshape(m * D)
        theta[r, 3 * m * D :] = w
        # J along the gradient: no shorter way by E, the claims of a run compare the two
        M, dA = np.zeros((D, D)), np.zeros((N * n, D))
        if moves[0]:
            M += np.dot(G_Q[r].T, K)
        if moves[1]:
            M += np.dot(Q.T, G_K[r])
        _along(x, S[r], M, tau_0, dA)
        turned = np.dot(slope, G_V[r])
        for i in range(N):
            out = 0.0
            for t in range(i * n, i * n + n):
                for e in range(D):
                    out += dA[t, e] * B[t, e]
                    if moves[2]:
                        out += attended[t, e] * turned[t, e]
            if moves[3]:
                for a in range(m):
                    out += F_pre[r, i, a] * g_O[r, a]
            product[r, i] = out
        if kernel:
            _blocks(A[r], E, slope, F_pre[r], grams[r], kernels[r])
        ends[r, 0], ends[r, 1] = -np.inf, np.inf
        if kernel and N <= SMALL:
            K_r = np.zeros((N, N))
            for block in range(4):
                if moves[block]:
                    K_r += kernels[r, block]
            ends[r, 0], ends[r, 1] = _least(K_r)
    return (
        S, A, pre, F_pre, F, residual, loss, steep,
        G_Q, G_K, G_V, g_O, product, norms, theta, kernels, ends,
    )  # fmt: skip
