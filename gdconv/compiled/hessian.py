"""Compiled filling of the dense Hessian of a softmax layer on the CPU, float64.

Formulas and names as in `gdconv.hessian.softmax`; the rows i of all samples are stacked, T = N L.
Products go through BLAS, a few rows and columns of the result at a time, so that the factors and
the product stay in the cache; only the upper triangle is multiplied out, and each piece is written
to both of its places at once.
"""

from __future__ import annotations

import numpy as np

from gdconv.compiled.cache import njit
from gdconv.compiled.moments import (
    add_gram,
    centred,
    forward,
    means,
    score_gradient,
    second,
    third,
)
from gdconv.compiled.tiles import place

CHUNK = 1 << 15
"""Numbers in a piece of a right factor or of the result: both stay in the cache."""

LANES = 8
"""Indices of W_Q's columns treated at once: what a tile of the result holds."""

_jit = njit(nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})


@_jit
def _outer(W, at, f, start, B, g, first, U):  # type: ignore[no-untyped-def]
    """W[i, at + b U + u] = f[i, start + b] g[i, first + u]."""
    for i in range(len(W)):
        for b in range(B):
            factor, base = f[i, start + b], at + b * U
            for u in range(U):
                W[i, base + u] = factor * g[i, first + u]


@_jit
def _outer_two(W, at, m, b0, B, g, first, U, S, start, r):  # type: ignore[no-untyped-def]
    """W[i, at + b U + u] = m[i, b0 + b] g[i, first + u] + S[i, start + b] r[i, u]."""
    for i in range(len(W)):
        for b in range(B):
            factor, other, base = m[i, b0 + b], S[i, start + b], at + b * U
            for u in range(U):
                W[i, base + u] = factor * g[i, first + u] + other * r[i, u]


@_jit
def _scaled(out, A, c):  # type: ignore[no-untyped-def]
    """out = c A; array expressions would take seconds to compile."""
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[i, j] = c * A[i, j]


@_jit
def _pulled_back(f, W_O, c, identity):  # type: ignore[no-untyped-def]
    """c f_i W_O^T for all heads of W_O, f_i (F, o): shape (H, T, F v)."""
    H, v, o = W_O.shape
    T, F = len(f), f.shape[1] // o
    made = np.empty((H, T, F * v))
    for g in range(H):
        if not identity:
            np.dot(f.reshape(T * F, o), W_O[g].T, made[g].reshape(T * F, v))
        _scaled(made[g], f if identity else made[g], c)
    return made


@_jit
def _columns(W, at, kind, g, h, e, b, B, x, q, m, first, second, S, pulled):  # type: ignore[no-untyped-def]
    """Right factor of groups b .. b + B of the columns of block `kind`, head g.

    Rows belong to head h and index e. kind 0: x_b first_e; 1: first_eb q; 2: m_b second_e + S_eb r.
    """
    D, d, v = x.shape[1], q.shape[2], pulled.shape[2]
    if kind == 0:
        _outer(W, at, x, b, B, first[g], e * d, d)
    elif kind == 1:
        _outer(W, at, first[g], e * D + b, B, q[g], 0, d)
    elif g == h:
        _outer_two(W, at, m[g], b, B, second[g], e * v, v, S, e * D + b, pulled[h])
    else:
        _outer(W, at, m[g], b, B, second[g], e * v, v)


@_jit
def _query_rows(out, h, x, q, m, YO, QQ, QK, S, pulled, key, value, streaming):  # type: ignore[no-untyped-def]
    """Rows of W_Q of head h from the diagonal on, and their mirror image.

    x^T times a right factor for LANES indices e < d and a few columns at a time.
    """
    (H, T, d), D, v = q.shape, x.shape[1], pulled.shape[2]
    top, left = h * D * d, np.ascontiguousarray(x.T)
    for start in range(0, d, LANES):
        count = min(LANES, d - start)
        for kind in range(3):
            U = v if kind == 2 else d
            if (kind == 1 and not key) or (kind == 2 and not value):
                continue
            step = max(1, CHUNK // (count * max(D, T) * U))
            base = 0 if kind == 0 else H * D * d if kind == 1 or not key else 2 * H * D * d
            for g in range(h if kind == 0 else 0, H):
                for b in range(0, D, step):
                    B = min(step, D - b)
                    cols = B * U
                    W, part = np.empty((T, count * cols)), np.empty((D, count * cols))
                    for n in range(count):
                        given = (kind, g, h, start + n, b, B, x, q, m, QK if kind else QQ, YO)
                        _columns(W, n * cols, *given, S, pulled)
                    np.dot(left, W, part)
                    flat, col = part.reshape(-1), base + (g * D + b) * U
                    for a in range(D):
                        row = top + a * d + start
                        place(out, flat, a * count * cols, cols, row, count, col, cols, streaming)


@_jit
def _key_rows(out, h, x, q, m, ZO, KK, S, pulled, start_K, value, streaming):  # type: ignore[no-untyped-def]
    """Rows of W_K of head h from the diagonal on: q^T times a right factor for every e < D."""
    (H, T, d), D, v = q.shape, x.shape[1], pulled.shape[2]
    left = np.ascontiguousarray(q[h].T)
    space, parts = np.empty(T * D * max(d, v)), np.empty(d * D * max(d, v))
    for e in range(D):
        row = start_K + (h * D + e) * d
        for kind in range(1, 3 if value else 2):
            U = v if kind == 2 else d
            base = start_K if kind == 1 else start_K + H * D * d
            for g in range(h if kind == 1 else 0, H):
                b = e if kind == 1 and g == h else 0
                cols = (D - b) * U
                W, part = space[: T * cols].reshape(T, cols), parts[: d * cols].reshape(d, cols)
                _columns(W, 0, kind, g, h, e, b, D - b, x, q, m, KK, ZO, S, pulled)
                np.dot(left, W, part)
                col = base + (g * D + b) * U
                place(out, part.reshape(-1), 0, cols, row, d, col, cols, streaming)


@_jit
def _values(out, at, m, W_O, c, identity):  # type: ignore[no-untyped-def]
    """All blocks of W_V: c m^h^T m^g tensor W_O,h W_O,g^T."""
    (H, _, D), v = m.shape, W_O.shape[1]
    size = D * v
    for h in range(H):
        for g in range(h, H):
            gram, products = np.dot(m[h].T, m[g]), np.dot(W_O[h], W_O[g].T)
            for a in range(D):
                for b in range(D):
                    gram[a, b] = gram[b, a] if h == g and b < a else c * gram[a, b]
            rows, columns = at + h * size, at + g * size
            for a in range(D):
                for s in range(v):
                    row = out[rows + a * v + s, columns : columns + size]
                    if identity:
                        for e in range(size):
                            row[e] = 0.0
                        for b in range(D):
                            row[b * v + s] = gram[a, b]
                        continue
                    for t in range(v):
                        factor = products[t, s] if h == g and t < s else products[s, t]
                        for b in range(D):
                            row[b * v + t] = gram[a, b] * factor
            if h != g:
                for a in range(size):
                    for b in range(size):
                        out[columns + b, rows + a] = out[rows + a, columns + b]


@_jit
def _head(out, h, x, xc, q, k, A, m, U, r, Y, Z, W_O, pulled, L, c, s, streaming, flags):  # type: ignore[no-untyped-def]
    """Rows of W_Q and W_K of head h."""
    identity, outer, functional, query, key, value = flags
    (H, T, d), D, o = q.shape, x.shape[1], r.shape[1]
    kc = centred(k[h], L)
    scale = c * s * s if functional else 0.0
    P = score_gradient(A[h], r, np.dot(xc, U[h]), scale, L)
    start_K = H * D * d if query else 0
    none = np.empty((0, 0, 0))
    if query:
        QQ, QK = np.zeros((H, T, d * d)), np.zeros((H if key else 0, T, d * D))
        if functional:
            third(QQ[h], A[h], P, kc, kc, L)
        if functional and key:
            third(QK[h], A[h], P, kc, xc, L)
        if outer:
            for g in range(h, H):
                add_gram(QQ[g], Y[h], Y[g], c, o)
            for g in range(len(QK)):
                add_gram(QK[g], Y[h], Z[g], c, o)
        YO = _pulled_back(Y[h], W_O, c, identity) if value else none
        S = np.empty((T if value else 0, d * D))
        if value:
            second(S, A[h], kc, xc, 1.0, L)
        _query_rows(out, h, x, q, m, YO, QQ, QK, S, pulled, key, value, streaming)
        if functional and key:
            both = np.dot(x.T, means(P, x, L))
            for a in range(D):
                for b in range(D):
                    for e in range(d):
                        row, column = (h * D + a) * d + e, start_K + (h * D + b) * d + e
                        out[row, column] += both[a, b] / s
                        out[column, row] = out[row, column]
    if key:
        KK = np.zeros((H, T, D * D))
        if functional:
            third(KK[h], A[h], P, xc, xc, L)
        if outer:
            for g in range(h, H):
                add_gram(KK[g], Z[h], Z[g], c, o)
        ZO = _pulled_back(Z[h], W_O, c, identity) if value else none
        S = np.empty((T if value else 0, D * D))
        if value:
            second(S, A[h], xc, xc, 1.0, L)
        _key_rows(out, h, x, q, m, ZO, KK, S, pulled, start_K, value, streaming)


@_jit
def fill(out, x, Y, W_Q, W_K, W_V, W_O, L, c, s, streaming, flags):  # type: ignore[no-untyped-def]
    """The Hessian by the chosen weights, blocks in the order W_Q, W_K, W_V.

    Args:
        out: Output (P, P).
        x: Tokens (T, D).
        Y: Targets (T, D_o).
        W_Q: Query weights (H, D, d).
        W_K: Key weights (H, D, d).
        W_V: Value weights (H, D, d_v).
        W_O: Output weights (H, d_v, D_o).
        L: Tokens per sample.
        c: Second derivative of the loss by an output.
        s: Scale of the scores.
        streaming: As for `gdconv.compiled.tiles.place`.
        flags: Six truth values: W_O is the identity; H_o and H_f are part of the result; W_Q, W_K
            and W_V are differentiated.
    """
    identity, outer, functional, query, key, value = flags
    (T, D), (H, _, d), (_, v, o) = x.shape, W_Q.shape, W_O.shape
    U, pulled = np.empty((H, D, o)), np.zeros((H, T, v))
    for h in range(H):
        if identity:
            _scaled(U[h], W_V[h], 1.0)
        else:
            np.dot(W_V[h], W_O[h], U[h])
    q, k = np.empty((H, T, d)), np.empty((H, T, d))
    A, m = np.empty((H, T, L)), np.empty((H, T, D))
    r, xc = forward(x, Y, W_Q, W_K, U, L, s, q, k, A, m), centred(x, L)
    Yt, Z = np.zeros((H, T if query else 0, d * o)), np.zeros((H, T if key else 0, D * o))
    for h in range(H):
        vc = np.dot(xc, U[h])
        if query and outer:
            second(Yt[h], A[h], centred(k[h], L), vc, s, L)
        if key and outer:
            second(Z[h], A[h], xc, vc, s, L)
        if functional:
            _scaled(pulled[h], r if identity else np.dot(r, W_O[h].T), c * s)
    for h in range(H):
        if query or key:
            _head(out, h, x, xc, q, k, A, m, U, r, Yt, Z, W_O, pulled, L, c, s, streaming, flags)
    if value:
        start = len(out) - H * D * v
        _values(out, start, m, W_O, c if outer else 0.0, identity)
