"""Compiled forward pass and moments of a softmax layer on the CPU, float64.

Formulas and names as in `gdconv.hessian.softmax`; the rows i of all samples are stacked, T = N L.
"""

from __future__ import annotations

from math import exp

import numpy as np

from gdconv.compiled.cache import njit

_plain = njit(nogil=True, error_model="numpy")
_jit = njit(nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})


@_jit
def _softmax(A, scale):  # type: ignore[no-untyped-def]
    """Rows of scores to weights, in place."""
    rows, L = A.shape
    for i in range(rows):
        top = -np.inf
        for j in range(L):
            A[i, j] *= scale
            top = max(top, A[i, j])
        total = 0.0
        for j in range(L):
            A[i, j] = exp(A[i, j] - top)
            total += A[i, j]
        for j in range(L):
            A[i, j] /= total


@_jit
def forward(x, Y, W_Q, W_K, U, L, scale, q, k, A, m):  # type: ignore[no-untyped-def]
    """Fill q, k, A, m = A X; return the residual."""
    r, F = -Y, np.empty(Y.shape)
    for h in range(len(W_Q)):
        np.dot(x, W_Q[h], q[h])
        np.dot(x, W_K[h], k[h])
        for at in range(0, len(x), L):
            rows = A[h, at : at + L]
            np.dot(q[h, at : at + L], k[h, at : at + L].T, rows)
            _softmax(rows, scale)
            np.dot(rows, x[at : at + L], m[h, at : at + L])
        np.dot(m[h], U[h], F)
        r += F
    return r


@_jit
def centred(x, L):  # type: ignore[no-untyped-def]
    """Rows less the mean of their sample."""
    made = np.empty(x.shape)
    for at in range(0, len(x), L):
        for e in range(x.shape[1]):
            mean = 0.0
            for j in range(at, at + L):
                mean += x[j, e]
            mean /= L
            for j in range(at, at + L):
                made[j, e] = x[j, e] - mean
    return made


@_jit
def means(M, x, L):  # type: ignore[no-untyped-def]
    """M x, sample by sample."""
    made = np.empty(x.shape)
    for at in range(0, len(x), L):
        np.dot(M[at : at + L], x[at : at + L], made[at : at + L])
    return made


@_jit
def score_gradient(A, r, u, scale, L):  # type: ignore[no-untyped-def]
    """P of one head, scaled, from the values u = X W_V W_O."""
    P = np.empty(A.shape)
    for at in range(0, len(r), L):
        np.dot(r[at : at + L], u[at : at + L].T, P[at : at + L])
    for i in range(len(r)):
        mean = 0.0
        for j in range(L):
            mean += A[i, j] * P[i, j]
        for j in range(L):
            P[i, j] = scale * A[i, j] * (P[i, j] - mean)
    return P


@_plain
def _pair_sums(made, M, f, g, scale, L):  # type: ignore[no-untyped-def]
    """made_i = scale sum_j M_ij f_j g_j^T, shape (T, F G); products rounded as in `_less`."""
    (T, F), G = f.shape, g.shape[1]
    pairs = np.empty((L, F * G))
    for at in range(0, T, L):
        for j in range(L):
            for u in range(F):
                factor = f[at + j, u] * scale
                for w in range(G):
                    pairs[j, u * G + w] = factor * g[at + j, w]
        np.dot(M[at : at + L], pairs, made[at : at + L])


@_jit
def _less(made, a, b, scale):  # type: ignore[no-untyped-def]
    """Subtract scale a_i b_i^T from every row.

    Products are rounded before they are subtracted (a fused one is not), as in `_pair_sums`: under
    one-hot attention the two terms cancel exactly.
    """
    (T, F), G = a.shape, b.shape[1]
    line = np.empty(F * G)
    for i in range(T):
        for u in range(F):
            factor = a[i, u] * scale
            for w in range(G):
                line[u * G + w] = factor * b[i, w]
        for e in range(F * G):
            made[i, e] -= line[e]


@_jit
def second(made, A, f, g, scale, L):  # type: ignore[no-untyped-def]
    """Scaled second moments of f and g under the rows of A."""
    _pair_sums(made, A, f, g, scale, L)
    _less(made, means(A, f, L), means(A, g, L), scale)


@_jit
def third(made, A, P, f, g, L):  # type: ignore[no-untyped-def]
    """Third moments of f and g: weights P, centred by A."""
    _pair_sums(made, P, f, g, 1.0, L)
    _less(made, means(P, f, L), means(A, g, L), 1.0)
    _less(made, means(A, f, L), means(P, g, L), 1.0)


@_jit
def add_gram(made, f, g, c, o):  # type: ignore[no-untyped-def]
    """Add c f_i g_i^T to every row, f_i (F, o), g_i (G, o)."""
    F, G = f.shape[1] // o, g.shape[1] // o
    part = np.empty((F, G))
    for i in range(len(made)):
        np.dot(f[i].reshape(F, o), g[i].reshape(G, o).T, part)
        for a in range(F):
            for b in range(G):
                made[i, a * G + b] += c * part[a, b]
