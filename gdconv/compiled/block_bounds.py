"""Drift and block bounds of sigma_min(B_t), with every rounding error bounded a priori.

Notation of gdconv/compiled/sigma_tracker.py; u = 2^-53, gamma_k = k u / (1 - k u); IEEE round to
nearest, any order of summation, fma or not.

Drift. ||B_t - B_s||_F^2 = sum_ih tr(dS_ih G_i dS_ih^T), G_i = X_i X_i^T, so by Weyl an enclosure of
step s holds at step t once widened by E = ||B_t - B_s||_F. Rounding: E^2 is at most the computed
sum plus gamma_K sum_ih ||dS_ih||_F^2 tr G_i, K = D + 3 n + H n^2 L / 8 + 20.

Block check (T > 4). At an anchor s let U = [U2 | U1] be computed eigenvectors of B_s B_s^T, U1 the
k = 4 smallest, e_U >= ||U^T U - I||, Y = fl(B_s^T U2), sigma_j the column norms of Y and e >=
||D^-1 Y^T Y D^-1 - I||, D = diag(sigma). Then ||Y z|| >= sqrt(1 - e) ||D z||, and with delta_Y >=
||Y - B_s^T U2||, nu = sqrt(1 + e_U) >= ||U2||

    ||B_t^T U2 z|| >= theta ||D z||,   theta = sqrt(1 - e) - (delta_Y + nu E) / min sigma.

Write U^T B_t B_t^T U = [C, b; b^T, A] with C = U2^T M U2 >= theta^2 D^2, A = Z^T Z, Z = B_t^T U1, b
= U2^T B_t Z. Let m >= lambda_min(A) (a Rayleigh quotient) and den_j = theta^2 sigma_j^2 - m > 0.
The Schur complement at any lambda <= lambda_min(A) gives

    lambda_min(A - b^T diag(1/den) b) / (1 + e_U) <= sigma_min(B_t)^2 <= m / (1 - e_U).

Rounding of the check, with beta^2 = sum_ih ||S_ih||_F^2 ||X_i||_F^2 (so |||S||X|||_F <= beta),
omega >= || |U| ||_2 (by row and column sums):

    ||Z - Z_exact||_F <= delta_Z = gamma_{n+T'+4} beta ||U1||_F,
    ||A - A_exact|| <= 2 ||Z||_F delta_Z + delta_Z^2 + gamma_{HD'+8} ||Z||_F^2,
    ||b - b_exact||_F <= delta_b = gamma_{D'+nH+T'+8} omega beta ||Z||_F + nu beta delta_Z,
    ||b^T den^-1 b - exact|| <= 2 g delta_b / sqrt(min den) + delta_b^2 / min den
        + gamma_{T'+12} g^2,

g^2 = sum b^2 / den; lambda_min of the k x k matrix is certified from below by a Cholesky
factorisation of the matrix shifted by s that runs to its end: lambda_min >= s - 2 gamma_{k+3}
(trace + k |s|). Positive sums are inflated by 1e-10; products that underflow are covered by 1e-150.
The a-priori terms keep the relative width near u cond(B)^2 (sigma_k / sigma_1 squared) and so below
1 % up to cond(B) about 1e6; beyond, the interval is wide or starts at 0, and says so.
"""

from __future__ import annotations

import numpy as np

from gdconv.compiled.cache import njit
from gdconv.compiled.simd import fma, load, mul, product, splat, store, sub, total
from gdconv.compiled.tiny_eigen import UP, gamma, least, smallest

TINY = 1e-150
"""Covers what products below 2^-1022 lose."""

SQUARE_TINY = 1e-300
"""Added to sums of squares, which lose weights below 2^-511 however large the tokens are.

`Tracker.trace` carries the same per entry for the tokens: a lost square times a huge one is not
small, but gamma times the two sums so enlarged is above it.
"""


@njit(nogil=True)
def drift(tr, S, old):  # type: ignore[no-untyped-def]
    """Upper bound of ||B(S) - B(old)||_F.

    Args:
        tr: `Tracker`.
        S: Attention weights, flat (H, n, n, L).
        old: Other attention weights, likewise.

    Returns:
        The bound.
    """
    n, L, H, G, diff = tr.n, tr.L, tr.H, tr.G, tr.diff
    form = splat(0.0)
    weight = splat(0.0)
    for i in range(0, L, 8):
        squares = splat(SQUARE_TINY)
        for row in range(H * n):
            s = row * n * L + i
            for j in range(n):
                x = sub(load(S, s + j * L), load(old, s + j * L))
                squares = fma(x, x, squares)
                y = mul(x, load(G, (j * n + j) * L + i))
                for l in range(j):  # noqa: E741
                    y = fma(load(diff, l * 8), load(G, (j * n + l) * L + i), y)
                store(diff, j * 8, x)
                form = fma(x, y, form)
        weight = fma(squares, load(tr.trace, i), weight)
    count = tr.D + 3 * n + H * n * n * (L // 8) + 20
    return np.sqrt(max(total(form), 0.0) + gamma(count) * UP * total(weight)) * UP + TINY


@njit(nogil=True)
def _beta(tr, S):  # type: ignore[no-untyped-def]
    """Upper bound of sqrt(sum_ih ||S_ih||_F^2 ||X_i||_F^2)."""
    whole = splat(0.0)
    for i in range(0, tr.L, 8):
        squares = splat(SQUARE_TINY)
        for r in range(tr.H * tr.n * tr.n):
            x = load(S, r * tr.L + i)
            squares = fma(x, x, squares)
        whole = fma(squares, load(tr.trace, i), whole)
    return np.sqrt(total(whole)) * UP + TINY


@njit(nogil=True)
def _form(tr, S):  # type: ignore[no-untyped-def]
    """B of shape (n N, H D), row k N + i for token k of sample i."""
    N, n, D, L = tr.N, tr.n, tr.D, tr.L
    B = np.zeros((n * N, tr.H * D))
    for h in range(tr.H):
        for k in range(n):
            for i in range(N):
                for j in range(n):
                    s = S[((h * n + k) * n + j) * L + i]
                    for x in range(D):
                        B[k * N + i, h * D + x] += s * tr.X[(j * L + i) * tr.Dp + x]
    return B


@njit(nogil=True)
def _defect(K, sigma):  # type: ignore[no-untyped-def]
    """||D^-1 K D^-1 - I||_F, D = diag(sigma)."""
    out = 0.0
    for i in range(K.shape[0]):
        for j in range(K.shape[0]):
            x = K[i, j] / sigma[i] / sigma[j]
            if i == j:
                x -= 1.0
            out += x * x
    return np.sqrt(out) * UP * (1.0 + gamma(K.size))


@njit(nogil=True)
def anchor(tr, S):  # type: ignore[no-untyped-def]
    """Take S as the new anchor.

    Args:
        tr: `Tracker`.
        S: Attention weights, flat (H, n, n, L).
    """
    st = tr.state[0]
    st.anchors += 1
    st.usable = 0
    B = _form(tr, S)
    M = np.dot(B, B.T)
    if np.isfinite(M.sum()):
        adopt(tr, S, B, np.ascontiguousarray(np.linalg.eigh(M)[1]))


@njit(nogil=True)
def adopt(tr, S, B, U):  # type: ignore[no-untyped-def]
    """Take U as the anchor's basis after measuring its defects; nothing about U is trusted.

    Args:
        tr: `Tracker`.
        S: Attention weights at the anchor, flat (H, n, n, L).
        B: fl(S X), shape (n N, H D), row k N + i for token k of sample i.
        U: Claimed eigenvectors of B B^T, smallest first, C-contiguous, shape (n N, n N).
    """
    st = tr.state[0]
    N, n, L, k, m, HD = tr.N, tr.n, tr.L, tr.k, tr.m, tr.H * tr.D
    T = N * n
    st.usable = 0
    rows = np.zeros(T)
    cols = np.zeros(T)
    for i in range(T):
        for j in range(T):
            rows[i] += abs(U[i, j])
            cols[j] += abs(U[i, j])
    st.omega = np.sqrt(rows.max() * cols.max()) * UP
    defect_U = _defect(np.dot(U.T, U), np.ones(T)) + T * gamma(T + 8) * 1.01
    U2 = np.ascontiguousarray(U[:, k:])
    Y = np.dot(B.T, U2)
    K = np.dot(Y.T, Y)
    sigma = np.sqrt(np.diag(K))
    if not (defect_U < 0.01 and sigma.min() > 0.0 and np.isfinite(sigma.max())):
        return
    st.defect_U = defect_U
    st.defect = _defect(K, sigma) + (T - k) * gamma(HD + 12) * 1.01
    norm = np.sqrt((B * B).sum()) * UP * (1.0 + gamma(T * HD))
    st.delta_Y = gamma(n + 2) * _beta(tr, S) * 1.01 + gamma(T + 2) * norm * st.omega + TINY
    st.sigma_next = sigma.min()
    tr.sigma[: T - k] = sigma
    for a in range(n):
        for i in range(N):
            for j in range(k):
                tr.U1[(j * n + a) * L + i] = U[a * N + i, j]
            for j in range(T - k):
                tr.U2[(a * L + i) * m + j] = U2[a * N + i, j]
    tr.S_anchor[:] = S
    st.based = 1
    st.usable = 1 if st.defect < 0.5 else 0


@njit(nogil=True)
def _project(tr, S):  # type: ignore[no-untyped-def]
    """Z = B^T U1, shape (H k, Dp)."""
    n, L, k = tr.n, tr.L, tr.k
    for i in range(0, L, 8):
        for h in range(tr.H):
            for c in range(k):
                for j in range(n):
                    y = splat(0.0)
                    for a in range(n):
                        s = load(S, ((h * n + a) * n + j) * L + i)
                        y = fma(s, load(tr.U1, (c * n + a) * L + i), y)
                    store(tr.left, ((h * k + c) * n + j) * L + i, y)
    product(tr.left, 0, n * L, tr.X, 0, tr.Dp, tr.Z, 0, tr.Dp, tr.H * k, n * L, tr.Dp)


@njit(nogil=True)
def _couple(tr, S):  # type: ignore[no-untyped-def]
    """b^T = (U2^T B Z)^T, shape (k, m)."""
    n, L, k, m = tr.n, tr.L, tr.k, tr.m
    product(tr.Z, 0, tr.Dp, tr.Xt, 0, n * L, tr.right, 0, n * L, tr.H * k, tr.Dp, n * L)
    for i in range(0, L, 8):
        for c in range(k):
            for a in range(n):
                y = splat(0.0)
                for h in range(tr.H):
                    for j in range(n):
                        s = load(S, ((h * n + a) * n + j) * L + i)
                        y = fma(s, load(tr.right, ((h * k + c) * n + j) * L + i), y)
                store(tr.BZ, (c * n + a) * L + i, y)
    product(tr.BZ, 0, n * L, tr.U2, 0, m, tr.b, 0, m, k, n * L, m)


@njit(nogil=True)
def _inner(tr, p, q):  # type: ignore[no-untyped-def]
    """Entry (p, q) of Z^T Z."""
    s = splat(0.0)
    for h in range(tr.H):
        for x in range(0, tr.Dp, 8):
            s = fma(
                load(tr.Z, (h * tr.k + p) * tr.Dp + x), load(tr.Z, (h * tr.k + q) * tr.Dp + x), s
            )
    return total(s)


@njit(nogil=True)
def _quotient(tr, S, V, best, beta):  # type: ignore[no-untyped-def]
    """Upper bound of ||B^T v|| / ||v||, v = U1 x - U2 den^-1 b x: one step of inverse iteration."""
    n, k, m, L, width = tr.n, tr.k, tr.m, tr.L, tr.n * tr.L
    weights = tr.weights
    for j in range(m):
        s = 0.0
        for p in range(k):
            s += tr.b[p * m + j] * V[p, best]
        weights[j] = s * tr.den[j]
    v = tr.vector
    for r in range(width):
        s = splat(0.0)
        for j in range(0, m, 8):
            s = fma(load(tr.U2, r * m + j), load(weights, j), s)
        y = -total(s)
        for p in range(k):
            y += tr.U1[p * width + r] * V[p, best]
        v[r] = y
    for i in range(0, L, 8):
        for h in range(tr.H):
            for j in range(n):
                s = splat(0.0)
                for a in range(n):
                    s = fma(load(S, ((h * n + a) * n + j) * L + i), load(v, a * L + i), s)
                store(tr.left, (h * n + j) * L + i, s)
    product(tr.left, 0, width, tr.X, 0, tr.Dp, tr.right, 0, tr.Dp, tr.H, width, tr.Dp)
    length = squares = 0.0
    for r in range(width):
        length += v[r] * v[r]
    for r in range(tr.H * tr.Dp):
        squares += tr.right[r] * tr.right[r]
    length = np.sqrt(length) * (1.0 - 1e-10)
    if not length > 0.0:
        return np.inf
    return np.sqrt(squares) * UP / length * UP + gamma(n + width + 4) * beta * UP * UP + TINY


@njit(nogil=True)
def _above(tr, A, best, margin, trace):  # type: ignore[no-untyped-def]
    """Upper bound of lambda_min of the exact A: Rayleigh quotient of column `best` of the basis."""
    k, V = tr.k, tr.small[1]
    form = length = 0.0
    for p in range(k):
        length += V[p, best] * V[p, best]
        for q in range(k):
            form += V[p, best] * A[p, q] * V[q, best]
    return (max(form, 0.0) / length + margin + gamma(4 * k * k + 8) * k * trace) * UP


@njit(nogil=True)
def _schur(tr, S, A, above, beta, norm_Z, delta_Z):  # type: ignore[no-untyped-def]
    """Subtract b^T den^-1 b from A; returns the bound of its error, or -1 if there is none."""
    st = tr.state[0]
    k, T, width = tr.k, tr.N * tr.n, tr.n * tr.L
    if st.usable == 0:
        return -1.0
    nu = np.sqrt(1.0 + st.defect_U) * UP
    theta = np.sqrt(1.0 - st.defect * UP) * (1.0 - 1e-14)
    theta -= (st.delta_Y + nu * drift(tr, S, tr.S_anchor)) / st.sigma_next * UP
    if not theta > 0.0:
        return -1.0
    least_den = theta * theta * st.sigma_next * st.sigma_next * (1.0 - 1e-12) - above
    if not least_den > 0.0:
        return -1.0
    _couple(tr, S)
    for j in range(T - k):
        tr.den[j] = 1.0 / ((theta * tr.sigma[j]) ** 2 * (1.0 - 1e-12) - above)
    reach = 0.0
    for p in range(k):
        for j in range(0, tr.m, 8):
            store(tr.weights, j, mul(load(tr.b, p * tr.m + j), load(tr.den, j)))
        for q in range(p + 1):
            s = splat(0.0)
            for j in range(0, tr.m, 8):
                s = fma(load(tr.weights, j), load(tr.b, q * tr.m + j), s)
            x = total(s)
            A[p, q] -= x
            A[q, p] = A[p, q]
            if p == q:
                reach += x
    reach *= UP
    count = tr.Dp + tr.n * tr.H + width + 8
    delta_b = gamma(count) * st.omega * beta * norm_Z * UP + nu * beta * delta_Z + TINY
    root = delta_b / np.sqrt(least_den)
    trace = norm_Z * norm_Z
    return 2.0 * np.sqrt(reach) * root + root * root + gamma(width + 12) * (reach + trace)


@njit(nogil=True)
def check(tr, S):  # type: ignore[no-untyped-def]
    """Block enclosure at S.

    Args:
        tr: `Tracker`.
        S: Attention weights, flat (H, n, n, L).

    Returns:
        lo, hi; (0, hi) or (0, inf) where it cannot say more.
    """
    st = tr.state[0]
    n, k, width = tr.n, tr.k, tr.n * tr.L
    st.checks += 1
    if st.based == 0:  # a quotient with U1 = 0 would claim sigma_min = 0
        return 0.0, np.inf
    _project(tr, S)
    A, V, G, C = tr.small[0], tr.small[1], tr.small[2], tr.small[3]
    trace = 0.0
    for p in range(k):
        for q in range(p + 1):
            A[p, q] = A[q, p] = _inner(tr, p, q)
        trace += A[p, p]
    if not np.isfinite(trace):
        return 0.0, np.inf
    norm_Z = np.sqrt(trace) * UP
    beta = _beta(tr, S)
    delta_Z = gamma(n + width + 4) * beta * np.sqrt(k * (1.0 + st.defect_U)) * UP + TINY
    margin = 2.0 * norm_Z * delta_Z + delta_Z * delta_Z
    margin += gamma(tr.H * tr.Dp + 8) * norm_Z * norm_Z
    above = _above(tr, A, st.best, margin, trace)
    G[:] = A
    extra = 0.0
    if tr.N * n > k:
        extra = _schur(tr, S, G, above, beta, norm_Z, delta_Z)
    C[:] = G
    st.best = smallest(C, V, tr.small[4])
    guess = C[st.best, st.best]
    above = min(above, _above(tr, A, st.best, margin, trace))
    hi = np.sqrt(above / (1.0 - st.defect_U)) * UP + TINY
    if extra < 0.0:
        return 0.0, hi
    low = (least(G, guess, C) - (margin + extra) * UP) / (1.0 + st.defect_U) * (1.0 - 1e-15)
    lo = np.sqrt(low) * (1.0 - 1e-15) if low > 0.0 else 0.0
    if tr.N * n > k and hi - lo > 0.5 * st.tol * lo:
        hi = min(hi, _quotient(tr, S, V, st.best, beta))
    return lo, hi
