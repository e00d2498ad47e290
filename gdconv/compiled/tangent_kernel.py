"""Compiled filling of the tangent kernel of one replica on the CPU.

Same formulas as `gdconv.models.multihead.tangent`, a block of rows at a time up to the diagonal, so
that work space stays in the cache and only the result takes m^2 numbers. Products go through BLAS.
"""

from __future__ import annotations

from math import exp, sqrt

import numpy as np

from gdconv.compiled.cache import njit

ROWS = 64
"""Tokens per block of rows."""

_jit = njit(nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})


@_jit
def _weights(S, q, k, softmax):  # type: ignore[no-untyped-def]
    """Attention weights of one sample."""
    n, d = q.shape
    scale = 1.0 / sqrt(d)
    for a in range(n):
        top = -np.inf
        for j in range(n):
            s = 0.0
            if softmax:
                for e in range(d):
                    s += q[a, e] * k[j, e]
                s *= scale
            else:
                for e in range(d):
                    gap = q[a, e] - k[j, e]
                    s += gap * gap
                s *= -0.5 * scale
            S[a, j] = s
            top = max(top, s)
        total = 0.0
        for j in range(n):
            S[a, j] = exp(S[a, j] - top) if softmax else exp(S[a, j])
            total += S[a, j]
        if softmax:
            for j in range(n):
                S[a, j] /= total


@_jit
def _centre(q, k, softmax):  # type: ignore[no-untyped-def]
    """Subtract the mean key of the sample (from queries too where only q_k - k_j counts)."""
    n, d = q.shape
    for e in range(d):
        mean = 0.0
        for j in range(n):
            mean += k[j, e]
        mean /= n
        for j in range(n):
            k[j, e] -= mean
            if not softmax:
                q[j, e] -= mean


@_jit
def _add_rows(out, c, A):  # type: ignore[no-untyped-def]
    """out = sum_j c_j A_j for one row c (n) and A (n, p)."""
    n, p = len(c), len(out)
    head = n % 4  # four rows at a time: out is read and written n / 4 times
    out[:] = 0.0
    for j in range(head):
        f, row = c[j], A[j]
        for e in range(p):
            out[e] += f * row[e]
    for j in range(head, n, 4):
        f0, f1, f2, f3 = c[j], c[j + 1], c[j + 2], c[j + 3]
        a0, a1, a2, a3 = A[j], A[j + 1], A[j + 2], A[j + 3]
        for e in range(p):
            out[e] += (f0 * a0[e] + f1 * a1[e]) + (f2 * a2[e] + f3 * a3[e])


@_jit
def _pieces(X, W_Q, W_K, U, n, softmax, q, k, c, B, M, m, query, key, value):  # type: ignore[no-untyped-def]
    """Queries, keys, c / sqrt(d), B, M and m of every head; see gdconv.models.multihead.tangent."""
    T, D = X.shape
    H, _, d = W_Q.shape
    D_y = U.shape[2]
    S = np.empty((n, n))
    scale = 1.0 / sqrt(d)
    for h in range(H):
        np.dot(X, W_Q[h], out=q[h])
        np.dot(X, W_K[h], out=k[h])
        u = np.dot(X, U[h])
        for i in range(T // n):
            at = i * n
            x, qi, ki = X[at : at + n], q[h, at : at + n], k[h, at : at + n]
            _weights(S, qi, ki, softmax)
            _centre(qi, ki, softmax)
            for t in range(n):
                if value:
                    _add_rows(B[at + t, h * D : (h + 1) * D], S[t], x)
                for a in range(D_y):
                    row = (at + t) * D_y + a
                    mean = 0.0
                    if softmax:
                        for j in range(n):
                            mean += S[t, j] * u[at + j, a]
                    total = 0.0
                    for j in range(n):
                        c[h, row, j] = S[t, j] * (u[at + j, a] - mean) * scale
                        total += c[h, row, j]
                    if query:
                        part = M[row, h * d : (h + 1) * d]
                        _add_rows(part, c[h, row], ki)
                        if not softmax:
                            for e in range(d):
                                part[e] -= total * qi[t, e]
                    if key:
                        _add_rows(m[h, row], c[h, row], x)


@_jit
def _gaussian_rows(V, X, q, k, c, n, lo, hi, right, space):  # type: ignore[no-untyped-def]
    """Rows lo .. hi (tokens) of V, V + V^T = sum_h c E c^T - cross - cross^T, all columns.

    cross = ((c G) o (q k^T)) c^T; E = G o k k^T is symmetric: left of the rows it stands with
    weight 1, in the diagonal block with 1/2, right of it not at all.
    """
    H, T, _ = q.shape
    D_y, N, t = V.shape[0] // T, T // n, hi - lo
    size = t * T
    G = space[:size].reshape(t, T)
    P = space[size : 2 * size].reshape(t, T)
    E = space[2 * size : 2 * size + t * hi].reshape(t, hi)
    W = space[3 * size : 3 * size + N * t * D_y * H * n].reshape(N, t * D_y, H * n)
    cG, cE = np.empty(T), np.empty(hi)
    np.dot(X[lo:hi], X.T, out=G)
    for h in range(H):
        np.dot(q[h, lo:hi], k[h].T, out=P)
        np.dot(k[h, lo:hi], k[h, :hi].T, out=E)
        for s in range(t):
            for e in range(lo):
                E[s, e] *= G[s, e]
            for e in range(lo, hi):
                E[s, e] *= 0.5 * G[s, e]
        for s in range(0, t, n):
            for r in range(s * D_y, (s + n) * D_y):
                weights = c[h, lo * D_y + r]
                _add_rows(cG, weights, G[s : s + n])
                _add_rows(cE, weights, E[s : s + n])
                p = P[r // D_y]
                for e in range(hi):
                    cG[e] = cE[e] - cG[e] * p[e]
                for e in range(hi, T):
                    cG[e] *= -p[e]
                for i in range(N):
                    for j in range(n):
                        W[i, r, h * n + j] = cG[i * n + j]
    out = np.empty((t * D_y, n * D_y))
    for i in range(N):
        np.dot(W[i], right[i], out=out)
        V[lo * D_y : hi * D_y, i * n * D_y : (i + 1) * n * D_y] = out


@_jit
def _mirror(K, add):  # type: ignore[no-untyped-def]
    """Lower triangle onto the upper one, or (add) K + K^T into the lower one; in tiles."""
    size, tile = len(K), 32
    for a in range(0, size, tile):
        for b in range(0, a + 1, tile):
            for r in range(a, min(a + tile, size)):
                for s in range(b, min(b + tile, r + 1)):
                    if add:
                        K[r, s] += K[s, r]
                    else:
                        K[s, r] = K[r, s]


@_jit
def _times(K, lo, A, G, D_y, fresh):  # type: ignore[no-untyped-def]
    """K[lo:] (=, +=) A o G, G one entry per pair of tokens."""
    rows, columns = A.shape
    for r in range(rows):
        out, a, g = K[lo + r], A[r], G[r // D_y]
        if D_y == 1 and fresh:
            for s in range(columns):
                out[s] = a[s] * g[s]
        elif D_y == 1:
            for s in range(columns):
                out[s] += a[s] * g[s]
        else:
            for s in range(columns):
                out[s] = (0.0 if fresh else out[s]) + a[s] * g[s // D_y]


@_jit
def _value_rows(K, B, weights, lo, hi, scaled, part, fresh):  # type: ignore[no-untyped-def]
    """K (=, +=) sum_h <B, B'> weights[h, a, b] on rows lo .. hi, columns up to hi (tokens)."""
    H, D_y, _ = weights.shape
    D = B.shape[1] // H
    for a in range(D_y):
        for b in range(a + 1):
            for r in range(hi - lo):
                for h in range(H):
                    f = weights[h, a, b]
                    for e in range(h * D, (h + 1) * D):
                        scaled[r, e] = f * B[lo + r, e]
            np.dot(scaled[: hi - lo], B[:hi].T, out=part)
            for r in range(hi - lo):
                for s in range(hi):
                    old = 0.0 if fresh else K[(lo + r) * D_y + a, s * D_y + b]
                    K[(lo + r) * D_y + a, s * D_y + b] = old + part[r, s]
                    if a != b:
                        old = 0.0 if fresh else K[(lo + r) * D_y + b, s * D_y + a]
                        K[(lo + r) * D_y + b, s * D_y + a] = old + part[r, s]


@_jit
def fill(K, X, W_Q, W_K, W_V, W_O, n, softmax, query, key, value):  # type: ignore[no-untyped-def]
    """K = sum of the chosen blocks.

    Args:
        K: Output (m, m), rows (i, k, a).
        X: Tokens (T, D).
        W_Q: Query weights (H, D, d).
        W_K: Key weights (H, D, d).
        W_V: Value weights (H, D, d).
        W_O: Output weights (H, d, D_y).
        n: Tokens per sample.
        softmax: Kernel, True for softmax, False for Gaussian.
        query: Whether W_Q is trained.
        key: Whether W_K is trained.
        value: Whether W_V is trained.
    """
    T, D = X.shape
    H, _, d = W_Q.shape
    D_y = W_O.shape[2]
    T_y = T * D_y
    U, weights = np.empty((H, D, D_y)), np.empty((H, D_y, D_y))
    for h in range(H):
        np.dot(W_V[h], W_O[h], out=U[h])
        np.dot(W_O[h].T, W_O[h], out=weights[h])
    q, k, c = np.empty((H, T, d)), np.empty((H, T, d)), np.empty((H, T_y, n))
    B = np.empty((T if value else 0, H * D))
    M = np.empty((T_y if query else 0, H * d))
    m = np.empty((H, T_y if key else 0, D))
    _pieces(X, W_Q, W_K, U, n, softmax, q, k, c, B, M, m, query, key, value)
    step = max(1, (ROWS if T > 4 * ROWS else ROWS // 2) // n) * n
    fresh = True
    if key and not softmax:
        right = np.empty((T // n, H * n, n * D_y))
        for i in range(T // n):
            for h in range(H):
                for j in range(n):
                    for r in range(n * D_y):
                        right[i, h * n + j, r] = c[h, i * n * D_y + r, j]
        space = np.empty(min(step, T) * T * (3 + D_y * H))
        for lo in range(0, T, step):
            _gaussian_rows(K, X, q, k, c, n, lo, min(lo + step, T), right, space)
        _mirror(K, True)
        fresh = False
    top = min(step, T)
    space = np.empty(top * T * (1 + D_y * D_y))
    scaled = np.empty((top if value else 0, H * D))
    for lo in range(0, T, step):
        hi = min(lo + step, T)
        a, b = lo * D_y, hi * D_y
        G = space[: (hi - lo) * hi].reshape(hi - lo, hi)
        A = space[top * T : top * T + (b - a) * b].reshape(b - a, b)
        new = fresh
        if query:
            np.dot(X[lo:hi], X[:hi].T, out=G)
            np.dot(M[a:b], M[:b].T, out=A)
            _times(K, a, A, G, D_y, new)
            new = False
        if value:
            _value_rows(K, B, weights, lo, hi, scaled, G, new)
            new = False
        if key:
            for h in range(H):
                np.dot(q[h, lo:hi], q[h, :hi].T, out=G)
                np.dot(m[h, a:b], m[h, :b].T, out=A)
                _times(K, a, A, G, D_y, new)
                new = False
    _mirror(K, False)
