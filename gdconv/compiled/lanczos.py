"""Lanczos in vector lanes: the greatest eigenvalue of a Hessian of `gdconv.compiled.curvature`."""

from __future__ import annotations

import numpy as np

from gdconv.compiled.cache import njit
from gdconv.compiled.curvature import copy, multiply, settle
from gdconv.compiled.simd import add, fma, load, mul, splat, store, total

_inner = njit(nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)

TINY = 1e-290
NOISE = 8 * 1.1102230246251565e-16
"""What rounding does to a sum, as a share of the root of the sum of the squares of its terms, whose
errors are taken for independent: an estimate."""


@_inner
def dot(a, a0, b, b0, size):  # type: ignore[no-untyped-def]
    """Inner product of a[a0 : a0 + size] and b[b0 : b0 + size], size a multiple of eight."""
    s = t = splat(0.0)
    x = 0
    while x + 16 <= size:
        s = fma(load(a, a0 + x), load(b, b0 + x), s)
        t = fma(load(a, a0 + x + 8), load(b, b0 + x + 8), t)
        x += 16
    if x < size:
        s = fma(load(a, a0 + x), load(b, b0 + x), s)
    return total(add(s, t))


@_inner
def add_to(a, a0, factor, b, b0, size):  # type: ignore[no-untyped-def]
    """b[b0 : b0 + size] += factor a[a0 : a0 + size]."""
    f = splat(factor)
    for x in range(0, size, 8):
        store(b, b0 + x, fma(f, load(a, a0 + x), load(b, b0 + x)))


@_inner
def scale_into(a, a0, factor, b, b0, size):  # type: ignore[no-untyped-def]
    """b[b0 : b0 + size] = factor a[a0 : a0 + size]."""
    f = splat(factor)
    for x in range(0, size, 8):
        store(b, b0 + x, mul(f, load(a, a0 + x)))


@_inner
def orthogonalise(B, count, size, w):  # type: ignore[no-untyped-def]
    """Take the first `count` rows of B, orthonormal, out of w: all, four at a time."""
    for r in range(0, count, 4):
        r1, r2, r3 = min(r + 1, count - 1), min(r + 2, count - 1), min(r + 3, count - 1)
        i0, i1, i2, i3 = r * size, r1 * size, r2 * size, r3 * size
        s0 = s1 = s2 = s3 = splat(0.0)
        for x in range(0, size, 8):
            y = load(w, x)
            s0, s1 = fma(load(B, i0 + x), y, s0), fma(load(B, i1 + x), y, s1)
            s2, s3 = fma(load(B, i2 + x), y, s2), fma(load(B, i3 + x), y, s3)
        # a row that is repeated in a short last group is taken out once
        f0 = splat(-total(s0))
        f1 = splat(-total(s1) if r1 > r else 0.0)
        f2 = splat(-total(s2) if r2 > r1 else 0.0)
        f3 = splat(-total(s3) if r3 > r2 else 0.0)
        for x in range(0, size, 8):
            y = fma(f0, load(B, i0 + x), load(w, x))
            y = fma(f1, load(B, i1 + x), y)
            y = fma(f2, load(B, i2 + x), y)
            store(w, x, fma(f3, load(B, i3 + x), y))


@_inner
def noise(out, rows, columns, width):  # type: ignore[no-untyped-def]
    """Fixed pseudo-random numbers in (-1, 1), zero in columns from `columns` on: xorshift."""
    state = np.uint64(88172645463325252)
    for r in range(rows):
        for x in range(width):
            if x >= columns:
                out[r * width + x] = 0.0
                continue
            state ^= state << np.uint64(13)
            state ^= state >> np.uint64(7)
            state ^= state << np.uint64(17)
            out[r * width + x] = np.float64(state >> np.uint64(11)) * 2.0**-52 - 1.0


@_inner
def exceeds(a, b, size, x):  # type: ignore[no-untyped-def]
    """Whether an eigenvalue of the tridiagonal matrix (a, beside it b) exceeds x: Sturm."""
    pivot = 1.0
    for i in range(size):
        pivot = a[i] - x - (b[i - 1] * (b[i - 1] / pivot) if i else 0.0)
        if pivot > 0.0:
            return True
        pivot = min(pivot, -TINY)
    return False


@_inner
def eigenvalue(a, b, size, low):  # type: ignore[no-untyped-def]
    """The greatest eigenvalue of the tridiagonal matrix by bisection; `low` is no greater."""
    high = low
    for i in range(size):
        high = max(high, a[i] + (b[i - 1] if i else 0.0) + (b[i] if i + 1 < size else 0.0))
    for _ in range(200):
        middle = 0.5 * (low + high)
        if not low < middle < high:
            break
        if exceeds(a, b, size, middle):
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


@_inner
def eigenvector(a, b, size, value, z, down):  # type: ignore[no-untyped-def]
    """A unit vector z of an eigenvalue of the tridiagonal matrix: a twisted factorisation.

    Args:
        a: Diagonal.
        b: Beside it.
        size: Rows.
        value: The eigenvalue.
        z: Output.
        down: Scratch; z is scratch at first.

    Returns:
        |z| of the last row.
    """
    for i in range(size):
        p = a[i] - value - (b[i - 1] * (b[i - 1] / down[i - 1]) if i else 0.0)
        down[i] = p if abs(p) > TINY else TINY
    for i in range(size - 1, -1, -1):
        p = a[i] - value - (b[i] * (b[i] / z[i + 1]) if i + 1 < size else 0.0)
        z[i] = p if abs(p) > TINY else TINY
    twist, least = 0, np.inf
    for i in range(size):
        p = abs(down[i] + z[i] - (a[i] - value))
        if p < least:
            twist, least = i, p
    for i in range(twist + 1, size):  # z[i] is a pivot until it is overwritten
        z[i] = -b[i - 1] / z[i]
    z[twist] = 1.0
    square = 1.0
    for i in range(twist + 1, size):
        z[i] *= z[i - 1]
        square += z[i] * z[i]
    for i in range(twist - 1, -1, -1):
        z[i] = -b[i] * z[i + 1] / down[i]
        square += z[i] * z[i]
    norm = np.sqrt(square)
    for i in range(size):
        z[i] /= norm
    return abs(z[size - 1])


@_inner
def extend(B, y, made, size, a, b):  # type: ignore[no-untyped-def]
    """One step: y = A times row `made` of B becomes the next direction, a and b their next entries.

    Args:
        B: Orthonormal rows, flat.
        y: The image; overwritten with what is left of it, orthogonal to rows 0 ... made of B.
        made: Rows before the last one.
        size: Length of a row.
        a: Diagonal of the tridiagonal matrix.
        b: Beside it.

    Returns:
        |A row| as far as the tridiagonal matrix knows it.
    """
    zero = made - made
    a[made] = dot(B, made * size, y, zero, size)
    add_to(B, made * size, -a[made], y, zero, size)
    before = b[made - 1] if made else 0.0
    if made:
        add_to(B, (made - 1) * size, -before, y, zero, size)
    orthogonalise(B, made + 1, size, y)
    b[made] = np.sqrt(dot(y, zero, y, zero, size))
    return np.sqrt(before * before + a[made] * a[made] + b[made] * b[made])


@_inner
def combine(B, z, made, size, x):  # type: ignore[no-untyped-def]
    """x = the unit vector along sum_r z_r B_r."""
    zero = made - made
    scale_into(B, zero, z[0], x, zero, size)
    for r in range(1, made):
        add_to(B, r * size, z[r], x, zero, size)
    scale_into(x, zero, 1.0 / np.sqrt(dot(x, zero, x, zero, size)), x, zero, size)


@_inner
def _largest(a, size):  # type: ignore[no-untyped-def]
    """Greatest absolute value of a[:size], nan where one is."""
    found = 0.0
    for x in range(size):
        if not abs(a[x]) <= found:
            found = abs(a[x])
            if np.isnan(found):
                return found
    return found


@_inner
def _halve(a, size, exponent):  # type: ignore[no-untyped-def]
    """a[:size] *= 2^-exponent, in two steps that stay in range."""
    part, zero = -exponent // 2, size - size
    scale_into(a, zero, 2.0**part, a, zero, size)
    scale_into(a, zero, 2.0 ** (-exponent - part), a, zero, size)


@_inner
def _spread(w):  # type: ignore[no-untyped-def]
    """At least the greatest score: (max |q|^2 + max |k|^2) / sqrt(d)."""
    d, row, most_q, most_k = w.d, w.n * w.L, 0.0, 0.0
    for h in range(w.H):
        for t in range(row):
            q = k = 0.0
            for e in range(d):
                q += w.Y[(h * d + e) * row + t] ** 2
                k += w.Y[((w.H + h) * d + e) * row + t] ** 2
            most_q, most_k = max(most_q, q), max(most_k, k)
    return (most_q + most_k) / np.sqrt(d)


@njit(nogil=True, error_model="numpy")
def greatest(  # type: ignore[no-untyped-def]
    c, squares, weights, given, x, cold, mix, fine, tolerance, rows, trained, B, y, steps, restarts
):
    """The greatest eigenvalue by Lanczos, every vector orthogonalised against all before it.

    Args:
        c: `Curve` with weights in its rows.
        squares: The same of the squares of data and weights, with sign 1.
        weights: Attention weights (H, n, n, L), flat, where `given`.
        given: Whether these are used.
        x: Start vector, as `multiply` takes it; overwritten with the unit vector found.
        cold: Whether there is no start vector.
        mix: Share of fixed pseudo-random numbers in the start.
        fine: Residual at which Lanczos ends, relative to the size of H seen.
        tolerance: Residual that is good enough where `steps` steps do not reach it.
        rows: Rows of features in a vector.
        trained: Trained weights, the dimension of the space.
        B: Space for steps + 1 vectors.
        y: Space for one vector.
        steps: Most steps before Lanczos begins anew from the vector found.
        restarts: How often it may.

    Returns:
        Rayleigh quotient of x and |H x - quotient x| of one more product, both 2^-exponent of
        their true size; the exponent; what the rounding of that product may come to; how many
        products were made.
    """
    size, zero, steps = rows * c.w.Dp, c.zero, min(steps, trained)
    a, b, z, down = np.empty(steps), np.empty(steps), np.empty(steps), np.empty(steps)
    settle(c, weights, given)
    noise(y, rows, c.w.D, c.w.Dp)
    if cold:
        copy(y, zero, x, zero, size)
    else:
        share = mix * np.sqrt(dot(x, zero, x, zero, size) / dot(y, zero, y, zero, size))
        add_to(y, zero, share, x, zero, size)
    exponent, known, reach, products = 0, False, 0.0, 0
    value, residual = 0.0, np.inf
    for _ in range(restarts + 1):
        scale_into(x, zero, 1.0 / np.sqrt(dot(x, zero, x, zero, size)), B, zero, size)
        made, top = 0, -np.inf
        while True:
            multiply(c, B, made * size, y, zero)
            products += 1
            if not known:
                most = _largest(y, size)
                if most > 0.0 and np.isfinite(most):
                    exponent, known = int(np.floor(np.log2(most))), True
            _halve(y, size, exponent)
            reach = max(extend(B, y, made, size, a, b), reach)
            if not np.isfinite(reach):
                return np.nan, np.nan, 0, np.nan, products
            made += 1
            top = max(top, a[made - 1])
            full = made == steps or b[made - 1] <= 1e-14 * reach
            if full or made < 24 or made % 4 == 0:
                top = eigenvalue(a, b, made, top)
                left = b[made - 1] * eigenvector(a, b, made, top, z, down)
                if full or left <= fine * reach:
                    break
            scale_into(y, zero, 1.0 / b[made - 1], B, made * size, size)
        combine(B, z, made, size, x)
        multiply(c, x, zero, y, zero)
        products += 1
        _halve(y, size, exponent)
        square = dot(x, zero, x, zero, size)
        value = dot(x, zero, y, zero, size) / square
        add_to(x, zero, -value, y, zero, size)
        residual = np.sqrt(dot(y, zero, y, zero, size) / square)
        if made < steps or residual <= tolerance * reach:
            break
    for i in range(size):
        B[i] = x[i] * x[i]
    for i in range(c.w.S.size):
        squares.w.S[i] = c.w.S[i] * c.w.S[i]
    settle(squares, squares.w.S, products > 0)
    multiply(squares, B, zero, y, zero)
    whole = 0.0
    for i in range(size):
        whole += y[i]
    # a score that is wrong by a share of itself makes its weight wrong by that times the score
    return value, residual, exponent, NOISE * (1.0 + _spread(c.w)) * np.sqrt(whole), products
