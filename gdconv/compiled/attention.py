"""Loss and gradient of one replica in vector lanes (theory: attention-regression, section 1).

Layout: the samples lie side by side in vector lanes (N padded to L, a multiple of 8, with zero
tokens). Token (i, k) is column k L + i of a matrix of features; the rows are the heads' features:

    Y = W X^T,   rows of W:  W_Q (H d),  W_K (H d),  w_h = W_V,h W_O,h transposed (H D_y)

so one product gives queries, keys and values of all heads and one product, dW = dY X, all
gradients; between the two everything is element by element in the lanes. Nothing is allocated in
the loop.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gdconv.compiled.cache import njit
from gdconv.compiled.simd import (
    add,
    at,
    div,
    exp,
    fma,
    larger,
    load,
    mul,
    product,
    splat,
    store,
    sub,
    total,
)

Array = NDArray[np.float64]


class Work(NamedTuple):
    """Sizes and work arrays of one replica; all arrays are flat float64."""

    N: int
    n: int
    D: int
    d: int
    H: int
    D_y: int
    L: int  # padded N
    Dp: int  # padded D
    X: Array  # (n L, Dp): token (k, i) in row k L + i
    Xt: Array  # (Dp, n L)
    y: Array  # (D_y, n, L)
    O: Array  # (H, D_y, d)  # noqa: E741
    W: Array  # (2 H d + H D_y, Dp)
    V: Array  # (H d, Dp): W_V transposed
    W_next: Array
    V_next: Array
    Y: Array  # (2 H d + H D_y, n L)
    dY: Array
    dW: Array
    dV: Array  # (H d, Dp)
    S: Array  # (H, n, n, L)
    P: Array  # (n, n, 8): gradient by the scores, one head and one group of lanes
    R: Array  # (D_y, n, 8): residual


@njit(nogil=True)
def scores(w, gaussian, h, i):  # type: ignore[no-untyped-def]
    """S of head h and lanes i ... i + 7; tiles of 2 x 2 tokens, the last one may repeat a token."""
    n, d, L, Y, S = w.n, w.d, w.L, w.Y, w.S
    row, keys = n * L, w.H * d * n * L
    scale = splat(1.0 / np.sqrt(d))
    half = splat(-0.5 / np.sqrt(d))
    top = h * d * row + i
    base = h * n * n * L + i
    for k in range(0, n, 2):
        k1 = min(k + 1, n - 1)
        for j in range(0, n, 2):
            j1 = min(j + 1, n - 1)
            a = b = c = e = splat(0.0)
            q0, q1 = top + k * L, top + k1 * L
            p0, p1 = keys + top + j * L, keys + top + j1 * L
            if gaussian:
                for _ in range(d):
                    u, v, x, z = load(Y, q0), load(Y, q1), load(Y, p0), load(Y, p1)
                    ux, uz, vx, vz = sub(u, x), sub(u, z), sub(v, x), sub(v, z)
                    a, b, c, e = fma(ux, ux, a), fma(uz, uz, b), fma(vx, vx, c), fma(vz, vz, e)
                    q0, q1, p0, p1 = q0 + row, q1 + row, p0 + row, p1 + row
                a, b, c, e = (
                    exp(mul(a, half)),
                    exp(mul(b, half)),
                    exp(mul(c, half)),
                    exp(mul(e, half)),
                )
            else:
                for _ in range(d):
                    u, v, x, z = load(Y, q0), load(Y, q1), load(Y, p0), load(Y, p1)
                    a, b, c, e = fma(u, x, a), fma(u, z, b), fma(v, x, c), fma(v, z, e)
                    q0, q1, p0, p1 = q0 + row, q1 + row, p0 + row, p1 + row
            store(S, base + (k * n + j) * L, a)
            store(S, base + (k * n + j1) * L, b)
            store(S, base + (k1 * n + j) * L, c)
            store(S, base + (k1 * n + j1) * L, e)
    if gaussian:
        return
    for k in range(n):
        s = base + k * n * L
        top_score = load(S, s)
        for j in range(1, n):
            top_score = larger(top_score, load(S, s + j * L))
        whole = splat(0.0)
        for j in range(n):
            e = exp(mul(sub(load(S, s + j * L), top_score), scale))
            whole = add(whole, e)
            store(S, s + j * L, e)
        share = div(splat(1.0), whole)
        for j in range(n):
            store(S, s + j * L, mul(load(S, s + j * L), share))


@njit(nogil=True)
def _residual(w, i):  # type: ignore[no-untyped-def]
    """R = F - y in lanes i ... i + 7; returns the lanes' sums of squares."""
    n, L, H, D_y, S, Y = w.n, w.L, w.H, w.D_y, w.S, w.Y
    values = 2 * H * w.d * n * L + i
    squares = splat(0.0)
    for a in range(D_y):
        for k in range(n):
            f = splat(0.0)
            for h in range(H):
                s, u = ((h * n + k) * n) * L + i, values + (h * D_y + a) * n * L
                for j in range(n):
                    f = fma(load(S, s + j * L), load(Y, u + j * L), f)
            f = sub(f, load(w.y, (a * n + k) * L + i))
            store(w.R, (a * n + k) * 8, f)
            squares = fma(f, f, squares)
    return squares


@njit(nogil=True)
def _by_values(w, h, i):  # type: ignore[no-untyped-def]
    """Gradient by the values: S^T R, written to the last rows of dY."""
    n, L, S, D_y = w.n, w.L, w.S, w.D_y
    base = h * n * n * L + i
    out = (2 * w.H * w.d + h * D_y) * n * L + i
    for a in range(D_y):
        for j in range(n):
            c = splat(0.0)
            for k in range(n):
                c = fma(load(S, base + (k * n + j) * L), load(w.R, (a * n + k) * 8), c)
            store(w.dY, out + (a * n + j) * L, c)


@njit(nogil=True)
def _by_scores(w, gaussian, h, i):  # type: ignore[no-untyped-def]
    """P, the gradient by q_k k_j: S (G - mean) / sqrt(d) (softmax), S G / sqrt(d) (Gaussian)."""
    n, L, S, Y, D_y, P = w.n, w.L, w.S, w.Y, w.D_y, w.P
    base = h * n * n * L + i
    values = (2 * w.H * w.d + h * D_y) * n * L + i
    scale = splat(1.0 / np.sqrt(w.d))
    for k in range(n):
        mean = splat(0.0)
        for j in range(n):
            g = splat(0.0)
            for a in range(D_y):
                g = fma(load(w.R, (a * n + k) * 8), load(Y, values + (a * n + j) * L), g)
            p = mul(load(S, base + (k * n + j) * L), g)
            mean = add(mean, p)
            store(P, (k * n + j) * 8, p)
        if gaussian:
            for j in range(n):
                store(P, (k * n + j) * 8, mul(load(P, (k * n + j) * 8), scale))
        else:
            for j in range(n):
                p = sub(load(P, (k * n + j) * 8), mul(load(S, base + (k * n + j) * L), mean))
                store(P, (k * n + j) * 8, mul(p, scale))


@njit(nogil=True)
def _mix(w, gaussian, h, i, by_key):  # type: ignore[no-untyped-def]
    """dQ_k = sum_j P_kj k_j (by_key = 0) or dK_j = sum_k P_kj q_k (1).

    Gaussian: the other token minus the own one takes its place, a difference before the sum, which
    does not cancel for near tokens.
    """
    n, d, L, Y, P = w.n, w.d, w.L, w.Y, w.P
    row = n * L
    own = (by_key * w.H + h) * d * row + i
    other = ((1 - by_key) * w.H + h) * d * row + i
    step_k, step_j = (8, 8 * n) if by_key else (8 * n, 8)
    for k in range(0, n, 2):
        k1 = min(k + 1, n - 1)
        for c in range(0, d, 2):
            c1 = min(c + 1, d - 1)
            o0, o1 = own + c * row, own + c1 * row
            a = b = e = g = splat(0.0)
            p0, p1, v0, v1 = k * step_k, k1 * step_k, other + c * row, other + c1 * row
            if gaussian:
                m00, m10 = load(Y, o0 + k * L), load(Y, o1 + k * L)
                m01, m11 = load(Y, o0 + k1 * L), load(Y, o1 + k1 * L)
                for _ in range(n):
                    s, t, x, z = load(P, p0), load(P, p1), load(Y, v0), load(Y, v1)
                    a, b = fma(s, sub(x, m00), a), fma(s, sub(z, m10), b)
                    e, g = fma(t, sub(x, m01), e), fma(t, sub(z, m11), g)
                    p0, p1, v0, v1 = p0 + step_j, p1 + step_j, v0 + L, v1 + L
            else:
                for _ in range(n):
                    s, t, x, z = load(P, p0), load(P, p1), load(Y, v0), load(Y, v1)
                    a, b, e, g = fma(s, x, a), fma(s, z, b), fma(t, x, e), fma(t, z, g)
                    p0, p1, v0, v1 = p0 + step_j, p1 + step_j, v0 + L, v1 + L
            store(w.dY, o0 + k * L, a)
            store(w.dY, o1 + k * L, b)
            store(w.dY, o0 + k1 * L, e)
            store(w.dY, o1 + k1 * L, g)


@njit(nogil=True)
def _expand(w, weight, V, out):  # type: ignore[no-untyped-def]
    """Without `out`: rows w_h = W_O^T V of `weight`; with: out = W_O times those rows."""
    P, Dp, d, D_y = w.H * w.d, w.Dp, w.d, w.D_y
    for h in range(w.H):
        for x in range(0, Dp, 8):
            top = (2 * P + h * D_y) * Dp + x
            if out is None:
                for a in range(D_y):
                    s = splat(0.0)
                    for c in range(d):
                        s = fma(at(w.O, (h * D_y + a) * d + c), load(V, (h * d + c) * Dp + x), s)
                    store(weight, top + a * Dp, s)
            else:
                for c in range(d):
                    s = splat(0.0)
                    for a in range(D_y):
                        s = fma(at(w.O, (h * D_y + a) * d + c), load(weight, top + a * Dp), s)
                    store(out, (h * d + c) * Dp + x, s)


@njit(nogil=True)
def _square(a, start, stop):  # type: ignore[no-untyped-def]
    """Sum of squares of a[start:stop] (a multiple of 8 long)."""
    s = t = splat(0.0)
    k = start
    while k + 16 <= stop:
        x, z = load(a, k), load(a, k + 8)
        s, t = fma(x, x, s), fma(z, z, t)
        k += 16
    if k < stop:
        x = load(a, k)
        s = fma(x, x, s)
    return total(add(s, t))


@njit(nogil=True)
def gradient(w, gaussian, q, k, v, W, V):  # type: ignore[no-untyped-def]
    """Loss and squared gradient norm at W, V; the gradients stay in w.dW and w.dV.

    Args:
        w: `Work` of the replica.
        gaussian: Gaussian kernel instead of softmax.
        q: Whether W_Q is trained.
        k: Whether W_K is trained.
        v: Whether W_V is trained.
        W: Query and key rows, flat (2 H d + H D_y, Dp); the value rows are filled in.
        V: W_V transposed, flat (H d, Dp).

    Returns:
        f and |grad f|^2 over the trained blocks.
    """
    P, rows, T = w.H * w.d, 2 * w.H * w.d + w.H * w.D_y, w.n * w.L
    _expand(w, W, V, None)
    product(W, 0, w.Dp, w.Xt, 0, T, w.Y, 0, T, rows, w.Dp, T)
    squares = splat(0.0)
    for i in range(0, w.L, 8):
        for h in range(w.H):
            scores(w, gaussian, h, i)
        squares = add(squares, _residual(w, i))
        for h in range(w.H):
            if v:
                _by_values(w, h, i)
            if q or k:
                _by_scores(w, gaussian, h, i)
            if q:
                _mix(w, gaussian, h, i, 0)
            if k:
                _mix(w, gaussian, h, i, 1)
    if q and k and v:
        product(w.dY, 0, T, w.X, 0, w.Dp, w.dW, 0, w.Dp, rows, T, w.Dp)
    else:
        first, last = (0 if q else P), (2 * P if k else P)
        if last > first:
            product(
                w.dY, first * T, T, w.X, 0, w.Dp, w.dW, first * w.Dp, w.Dp, last - first, T, w.Dp
            )
        if v:
            top = 2 * P
            product(w.dY, top * T, T, w.X, 0, w.Dp, w.dW, top * w.Dp, w.Dp, rows - top, T, w.Dp)
    grad_sq = 0.0
    if q:
        grad_sq += _square(w.dW, 0, P * w.Dp)
    if k:
        grad_sq += _square(w.dW, P * w.Dp, 2 * P * w.Dp)
    if v:
        _expand(w, w.dW, V, w.dV)
        grad_sq += _square(w.dV, 0, P * w.Dp)
    return 0.5 * total(squares), grad_sq
