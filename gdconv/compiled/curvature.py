"""Hessian-vector products of f = 1/2 |F - y|^2 and their greatest eigenvalue, one replica.

Layout as in `gdconv.compiled.attention`; a vector is a row per feature of the trained blocks, so
that one product with X^T gives the moved queries, keys and values of all tokens (primes):

    T'_kj = s (q'_k k_j + q_k k'_j)             Gaussian: -s (q_k - k_j) (q'_k - k'_j)
    S' = S (T' - rowsum(S T'))                  S' = S T'
    F' = sum_h S' u + S u',   G' = F' u^T + r u'^T
    P' = s (Z - S rowsum(Z)), Z = S' G + S G'   P' = s Z,   P = s S G
    dq'_k = sum_j P'_kj k_j + P_kj k'_j         dq'_k = sum_j P'_kj (k_j - q_k) + P_kj (k'_j - q'_k)
    du'_j = sum_k S'_kj r_k + S_kj F'_k

with s = 1/sqrt(d), G = r u^T, centred under S for the softmax kernel, dk' as dq' with the parts of
q and k exchanged; another product, with X, gives the rows of H v. S, G, P, r belong to the point
and are made once. The same sums of the squares of all numbers tell the rounding of H v.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gdconv.compiled.attention import Work, scores
from gdconv.compiled.cache import njit
from gdconv.compiled.simd import (
    add,
    at,
    fma,
    load,
    mul,
    product,
    splat,
    store,
)

Array = NDArray[np.float64]

_leaf = njit(
    nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True, inline="always"
)
_inner = njit(nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
"""For what compiled code alone calls: without an entry from Python it is compiled faster."""


class Curve(NamedTuple):
    """What a product needs; all arrays are flat float64."""

    w: Work
    zero: int  # as an argument; a literal 0 would compile every callee once more
    gaussian: bool
    sign: float  # -1, of what is subtracted; 1 where all numbers are squares
    scale: float  # 1 / sqrt(d), squared with them
    q: bool  # whether W_Q is trained
    k: bool
    v: bool
    r: Array  # (D_y, n, L): residual
    G: Array  # (H, n, n, L)
    P: Array  # (H, n, n, L)
    W1: Array  # (2 H d + H D_y, Dp): direction, and later its image
    Y1: Array  # (2 H d + H D_y, n L): moved features; rows that do not move stay zero
    dY1: Array
    S1: Array  # (H, n, n, 8)
    F1: Array  # (D_y, n, 8)
    P1: Array  # (n, n, 8)


@_inner
def copy(a, a0, b, b0, size):  # type: ignore[no-untyped-def]
    """b[b0 : b0 + size] = a[a0 : a0 + size]."""
    for x in range(0, size, 8):
        store(b, b0 + x, load(a, a0 + x))


@_inner
def _values(w, rows, top, V, v0, back):  # type: ignore[no-untyped-def]
    """Rows w_h = W_O^T V at `top`; back: V = W_O times these rows."""
    Dp, d, D_y = w.Dp, w.d, w.D_y
    for h in range(w.H):
        for x in range(0, Dp, 8):
            o, r, v = h * D_y * d, top + h * D_y * Dp + x, v0 + h * d * Dp + x
            if back:
                for e in range(d):
                    s = splat(0.0)
                    for a in range(D_y):
                        s = fma(at(w.O, o + a * d + e), load(rows, r + a * Dp), s)
                    store(V, v + e * Dp, s)
            else:
                for a in range(D_y):
                    s = splat(0.0)
                    for e in range(d):
                        s = fma(at(w.O, o + a * d + e), load(V, v + e * Dp), s)
                    store(rows, r + a * Dp, s)


@_leaf
def _cotangent(c, h, i):  # type: ignore[no-untyped-def]
    """G and P of head h in lanes i ... i + 7."""
    w = c.w
    n, L, S, Y, D_y = w.n, w.L, w.S, w.Y, w.D_y
    base = h * n * n * L + i
    values = (2 * w.H * w.d + h * D_y) * n * L + i
    scale, minus = splat(c.scale), splat(c.sign)
    for k in range(n):
        mean = splat(0.0)
        for j in range(n):
            g = splat(0.0)
            for a in range(D_y):
                g = fma(load(c.r, (a * n + k) * L + i), load(Y, values + (a * n + j) * L), g)
            here = base + (k * n + j) * L
            mean = fma(load(S, here), g, mean)
            store(c.G, here, g)
        for j in range(n):
            here = base + (k * n + j) * L
            g = load(c.G, here)
            if not c.gaussian:
                g = fma(minus, mean, g)
                store(c.G, here, g)
            store(c.P, here, mul(mul(load(S, here), g), scale))


@_inner
def settle(c, weights, given):  # type: ignore[no-untyped-def]
    """Everything that belongs to the point: features, S, r, G, P.

    Args:
        c: Its `Curve`, with W_Q, W_K in the rows of c.w.W and W_V in c.w.V.
        weights: Attention weights (H, n, n, L), flat, where `given`.
        given: Whether S is `weights`, as for padded samples.
    """
    w = c.w
    n, L, H, D_y, S, Y = w.n, w.L, w.H, w.D_y, w.S, w.Y
    P, T = H * w.d, n * L
    _values(w, w.W, 2 * P * w.Dp, w.V, c.zero, c.zero)
    product(w.W, 0, w.Dp, w.Xt, 0, T, Y, 0, T, 2 * P + H * D_y, w.Dp, T)
    if given:
        copy(weights, c.zero, S, c.zero, S.size)
    values = 2 * P * T
    for i in range(0, L, 8):
        if not given:
            for h in range(H):
                scores(w, c.gaussian, h, i)
        for a in range(D_y):
            for k in range(n):
                f = splat(0.0)
                for h in range(H):
                    s, u = (h * n + k) * n * L + i, values + (h * D_y + a) * n * L + i
                    for j in range(n):
                        f = fma(load(S, s + j * L), load(Y, u + j * L), f)
                here = (a * n + k) * L + i
                store(c.r, here, fma(splat(c.sign), load(w.y, here), f))
        for h in range(H):
            _cotangent(c, h, i)


@_leaf
def _moved_weights(c, h, i):  # type: ignore[no-untyped-def]
    """S' of head h in lanes i ... i + 7."""
    w = c.w
    n, d, L, Y, Y1, S1 = w.n, w.d, w.L, w.Y, c.Y1, c.S1
    row = n * L
    queries, keys = h * d * row + i, (w.H + h) * d * row + i
    scale, minus = splat(c.scale * (c.sign if c.gaussian else 1.0)), splat(c.sign)
    base = h * n * n * L + i
    for k in range(n):
        out = (h * n + k) * n * 8
        mean = splat(0.0)
        for j in range(0, n, 2):
            j1 = min(j + 1, n - 1)
            q, k0, k1 = queries + k * L, keys + j * L, keys + j1 * L
            a = b = splat(0.0)
            if c.gaussian:
                for _ in range(d):
                    x, x1 = load(Y, q), load(Y1, q)
                    a = fma(fma(minus, load(Y, k0), x), fma(minus, load(Y1, k0), x1), a)
                    b = fma(fma(minus, load(Y, k1), x), fma(minus, load(Y1, k1), x1), b)
                    q, k0, k1 = q + row, k0 + row, k1 + row
            else:
                for _ in range(d):
                    x, x1 = load(Y, q), load(Y1, q)
                    a = fma(x1, load(Y, k0), fma(x, load(Y1, k0), a))
                    b = fma(x1, load(Y, k1), fma(x, load(Y1, k1), b))
                    q, k0, k1 = q + row, k0 + row, k1 + row
            a = mul(mul(a, scale), load(w.S, base + (k * n + j) * L))
            store(S1, out + j * 8, a)
            mean = add(mean, a)
            if j1 > j:
                b = mul(mul(b, scale), load(w.S, base + (k * n + j1) * L))
                store(S1, out + j1 * 8, b)
                mean = add(mean, b)
        if not c.gaussian:
            for j in range(n):
                s = load(w.S, base + (k * n + j) * L)
                store(S1, out + j * 8, fma(minus, mul(s, mean), load(S1, out + j * 8)))


@_leaf
def _moved_outputs(c, i, scores):  # type: ignore[no-untyped-def]
    """F' in lanes i ... i + 7."""
    w = c.w
    n, L, H, D_y, S, Y, Y1 = w.n, w.L, w.H, w.D_y, w.S, w.Y, c.Y1
    values = 2 * H * w.d * n * L + i
    for a in range(D_y):
        for k in range(n):
            f = g = splat(0.0)
            for h in range(H):
                s, u = (h * n + k) * n, values + (h * D_y + a) * n * L
                if scores:
                    for j in range(n):
                        f = fma(load(c.S1, (s + j) * 8), load(Y, u + j * L), f)
                if c.v:
                    for j in range(n):
                        g = fma(load(S, (s + j) * L + i), load(Y1, u + j * L), g)
            store(c.F1, (a * n + k) * 8, add(f, g))


@_leaf
def _by_values(c, h, i, scores):  # type: ignore[no-untyped-def]
    """du' of head h, to the last rows of dY1."""
    w = c.w
    n, L, D_y, S = w.n, w.L, w.D_y, w.S
    out = (2 * w.H * w.d + h * D_y) * n * L + i
    for a in range(D_y):
        for j in range(n):
            f = g = splat(0.0)
            for k in range(n):
                s = (h * n + k) * n + j
                f = fma(load(S, s * L + i), load(c.F1, (a * n + k) * 8), f)
                if scores:
                    g = fma(load(c.S1, s * 8), load(c.r, (a * n + k) * L + i), g)
            store(c.dY1, out + (a * n + j) * L, add(f, g))


@_leaf
def _by_scores(c, h, i):  # type: ignore[no-untyped-def]
    """P' of head h."""
    w = c.w
    n, L, D_y, S, Y, Y1, P1 = w.n, w.L, w.D_y, w.S, w.Y, c.Y1, c.P1
    values = (2 * w.H * w.d + h * D_y) * n * L + i
    scale, minus = splat(c.scale), splat(c.sign)
    for k in range(n):
        mean = splat(0.0)
        for j in range(n):
            g = splat(0.0)
            for a in range(D_y):
                u = values + (a * n + j) * L
                g = fma(load(c.F1, (a * n + k) * 8), load(Y, u), g)
                if c.v:
                    g = fma(load(c.r, (a * n + k) * L + i), load(Y1, u), g)
            s = (h * n + k) * n + j
            g = fma(load(S, s * L + i), g, mul(load(c.S1, s * 8), load(c.G, s * L + i)))
            mean = add(mean, g)
            store(P1, (k * n + j) * 8, g)
        for j in range(n):
            g = load(P1, (k * n + j) * 8)
            if not c.gaussian:
                g = fma(minus, mul(load(S, ((h * n + k) * n + j) * L + i), mean), g)
            store(P1, (k * n + j) * 8, mul(g, scale))


@_inner
def _mix(c, h, i, by_key):  # type: ignore[no-untyped-def]
    """dq' (by_key = 0) or dk' (1) of head h: sums over the other tokens, two features at once."""
    w = c.w
    n, d, L, Y, Y1 = w.n, w.d, w.L, w.Y, c.Y1
    row = n * L
    own = (by_key * w.H + h) * d * row + i
    other = ((1 - by_key) * w.H + h) * d * row + i
    step_k, step_j = (1, n) if by_key else (n, 1)
    minus = splat(c.sign)
    for k in range(n):
        for f in range(0, d, 2):
            f1 = min(f + 1, d - 1)
            o0, o1 = own + f * row + k * L, own + f1 * row + k * L
            v0, v1 = other + f * row, other + f1 * row
            a = b = splat(0.0)
            if c.gaussian:
                y0, z0 = mul(minus, load(Y, o0)), mul(minus, load(Y1, o0))
                y1, z1 = mul(minus, load(Y, o1)), mul(minus, load(Y1, o1))
                for j in range(n):
                    at_p = k * step_k + j * step_j
                    p, p1 = load(c.P, (h * n * n + at_p) * L + i), load(c.P1, at_p * 8)
                    a = fma(p1, add(load(Y, v0), y0), fma(p, add(load(Y1, v0), z0), a))
                    b = fma(p1, add(load(Y, v1), y1), fma(p, add(load(Y1, v1), z1), b))
                    v0, v1 = v0 + L, v1 + L
            else:
                for j in range(n):
                    at_p = k * step_k + j * step_j
                    p, p1 = load(c.P, (h * n * n + at_p) * L + i), load(c.P1, at_p * 8)
                    a = fma(p1, load(Y, v0), fma(p, load(Y1, v0), a))
                    b = fma(p1, load(Y, v1), fma(p, load(Y1, v1), b))
                    v0, v1 = v0 + L, v1 + L
            store(c.dY1, o0, a)
            store(c.dY1, o1, b)


@_inner
def _through(c, back):  # type: ignore[no-untyped-def]
    """Y1 = W1 X^T by the rows that move; back: W1 = dY1 X."""
    w = c.w
    P, T = w.H * w.d, w.n * w.L
    for block in range(3):
        moves = c.q if block == 0 else c.k if block == 1 else c.v
        if not moves:
            continue
        first, rows = block * P, (w.H * w.D_y if block == 2 else P)
        if block == 0 and c.k:
            continue  # with the keys
        if block == 1 and c.q:
            first, rows = 0, 2 * P
        if back:
            product(c.dY1, first * T, T, w.X, 0, w.Dp, c.W1, first * w.Dp, w.Dp, rows, T, w.Dp)
        else:
            product(c.W1, first * w.Dp, w.Dp, w.Xt, 0, T, c.Y1, first * T, T, rows, w.Dp, T)


@_inner
def multiply(c, z, z0, out, o0):  # type: ignore[no-untyped-def]
    """out[o0 ...] = H z[z0 ...], both rows of features of the trained blocks.

    Args:
        c: `Curve` that `settle` has seen.
        z: Flat array.
        z0: Where the vector begins.
        out: Flat array.
        o0: Where the image begins.
    """
    w = c.w
    block, by_scores, here = w.H * w.d * w.Dp, c.q or c.k, 0
    if c.q:
        copy(z, z0, c.W1, c.zero, block)
        here += block
    if c.k:
        copy(z, z0 + here, c.W1, block, block)
        here += block
    if c.v:
        _values(w, c.W1, 2 * block, z, z0 + here, c.zero)
    _through(c, c.zero)
    for i in range(0, w.L, 8):
        if by_scores:
            for h in range(w.H):
                _moved_weights(c, h, i)
        _moved_outputs(c, i, by_scores)
        for h in range(w.H):
            if c.v:
                _by_values(c, h, i, by_scores)
            if by_scores:
                _by_scores(c, h, i)
            if c.q:
                _mix(c, h, i, c.zero)
            if c.k:
                _mix(c, h, i, c.zero + 1)
    _through(c, c.zero + 1)
    here = 0
    if c.q:
        copy(c.W1, c.zero, out, o0, block)
        here += block
    if c.k:
        copy(c.W1, block, out, o0 + here, block)
        here += block
    if c.v:
        _values(w, c.W1, 2 * block, out, o0 + here, c.zero + 1)


@njit(nogil=True, error_model="numpy")
def image(c, weights, given, z, out):  # type: ignore[no-untyped-def]
    """out = H z, the point settled first."""
    settle(c, weights, given)
    multiply(c, z, c.zero, out, c.zero)
