"""Two-sided enclosure of sigma_min(B_t) along a run, from the attention weights S and the tokens X.

B = [B^(1) ... B^(H)], B^(h)_i = S_ih X_i, T = N n rows. B_t is formed only at anchors. "Enclosure" is
meant for the exact B of the stored S and X; every rounding error below is bounded a priori
(u = 2^-53, gamma_k = k u / (1 - k u); IEEE round to nearest, any order of summation, fma or not).

Drift. ||B_t - B_s||_F^2 = sum_ih tr(dS_ih G_i dS_ih^T), G_i = X_i X_i^T, so by Weyl an enclosure of step s
holds at step t once widened by E = ||B_t - B_s||_F. Rounding: E^2 is at most the computed sum plus
gamma_K sum_ih ||dS_ih||_F^2 tr G_i, K = D + 3 n + H n^2 L / 8 + 20.

Block check (T > 4). At an anchor s let U = [U2 | U1] be computed eigenvectors of B_s B_s^T, U1 the k = 4
smallest, e_U >= ||U^T U - I||, Y = fl(B_s^T U2), sigma_j the column norms of Y and
e >= ||D^-1 Y^T Y D^-1 - I||, D = diag(sigma). Then ||Y z|| >= sqrt(1 - e) ||D z||, and with
delta_Y >= ||Y - B_s^T U2||, nu = sqrt(1 + e_U) >= ||U2||

    ||B_t^T U2 z|| >= theta ||D z||,   theta = sqrt(1 - e) - (delta_Y + nu E) / min sigma.

Write U^T B_t B_t^T U = [C, b; b^T, A] with C = U2^T M U2 >= theta^2 D^2, A = Z^T Z, Z = B_t^T U1,
b = U2^T B_t Z. Let m >= lambda_min(A) (a Rayleigh quotient) and den_j = theta^2 sigma_j^2 - m > 0. The
Schur complement at any lambda <= lambda_min(A) gives

    lambda_min(A - b^T diag(1/den) b) / (1 + e_U) <= sigma_min(B_t)^2 <= m / (1 - e_U).

Rounding of the check, with beta^2 = sum_ih ||S_ih||_F^2 ||X_i||_F^2 (so |||S||X|||_F <= beta),
omega >= || |U| ||_2 (by row and column sums):

    ||Z - Z_exact||_F <= delta_Z = gamma_{n+T'+4} beta ||U1||_F,
    ||A - A_exact|| <= 2 ||Z||_F delta_Z + delta_Z^2 + gamma_{HD'+8} ||Z||_F^2,
    ||b - b_exact||_F <= delta_b = gamma_{D'+nH+T'+8} omega beta ||Z||_F + nu beta delta_Z,
    ||b^T den^-1 b - exact|| <= 2 g delta_b / sqrt(min den) + delta_b^2 / min den + gamma_{T'+12} g^2,

g^2 = sum b^2 / den; lambda_min of the k x k matrix is certified from below by a Cholesky factorisation
of the matrix shifted by s that runs to its end: lambda_min >= s - 2 gamma_{k+3} (trace + k |s|).
Positive sums are inflated by 1e-10; products that underflow are covered by 1e-150. The a-priori terms
keep the relative width near u cond(B)^2 (sigma_k / sigma_1 squared) and so below 1 % up to cond(B) about
1e6; beyond, the interval is wide or starts at 0, and says so.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from .simd import add, at, fma, load, mul, padded, product, splat, store, sub, token_lanes, total, zeros

BLOCK, LARGEST_BLOCK = 4, 32
"""Number of smallest eigenvectors kept: T / 16 within these limits; T <= 4 needs no anchor."""

UP = 1.0 + 1e-10
TINY = 1e-150
LONGEST_PAUSE = 256
ACCEPT = .9

STATE = np.dtype(
    [
        ("tol", "f8"),  # asked relative width
        ("tol_now", "f8"),  # what a fresh anchor could give, at least tol
        ("lo", "f8"),
        ("hi", "f8"),
        ("ref_lo", "f8"),  # enclosure at the last check
        ("ref_hi", "f8"),
        ("defect", "f8"),  # e
        ("defect_U", "f8"),  # e_U
        ("omega", "f8"),
        ("delta_Y", "f8"),
        ("sigma_next", "f8"),  # min sigma_j
        ("steps", "i8"),
        ("checks", "i8"),
        ("anchors", "i8"),
        ("loose", "i8"),  # steps whose enclosure was wider than tol
        ("due", "i8"),  # no new check before this step
        ("pause", "i8"),
        ("known", "i8"),  # a reference exists
        ("based", "i8"),  # U1 holds verified vectors
        ("usable", "i8"),  # the anchor's block bound can be used
    ]
)

Array = NDArray[np.float64]


class Tracker(NamedTuple):
    """Sizes, data and state of the enclosure of one replica (flat arrays, samples in lanes)."""

    on: int
    N: int
    n: int
    D: int
    H: int
    L: int
    Dp: int
    k: int  # size of the block
    m: int  # padded T - k
    X: Array
    Xt: Array
    G: Array  # (n, n, L): token Grams, off-diagonal entries doubled
    trace: Array  # (L,): >= ||X_i||_F^2
    S_ref: Array
    S_anchor: Array
    U1: Array  # (k, n L)
    U2: Array  # (n L, m)
    sigma: Array  # (m,)
    left: Array  # (H k, n L)
    Z: Array  # (H k, Dp)
    right: Array  # (H k, n L)
    BZ: Array  # (k, n L)
    b: Array  # (k, m)
    den: Array  # (m,)
    weights: Array  # (m,)
    vector: Array  # (n, L)
    diff: Array  # (n, 8)
    small: NDArray[np.float64]  # (3, k, k)
    state: np.ndarray


def new_tracker(
    X: Array, H: int, tol: float = 0.01, on: bool = True, lanes: tuple[Array, Array] | None = None, block: int = 0,
) -> Tracker:
    """A tracker that has seen no step yet.

    Args:
        X: Tokens, shape (N, n, D).
        H: Number of heads.
        tol: Asked relative width (hi - lo) / lo.
        on: False makes `follow` return (0, 0) at once.
        lanes: `simd.token_lanes(X)` when the caller has it already.
        block: Number of smallest eigenvectors kept; 0 chooses it from the number of rows.

    Returns:
        The tracker; its `state` counts steps, checks, anchors and loose steps.

    Example:
        >>> int(new_tracker(np.ones((2, 2, 3)), 2).state["steps"][0])
        0
    """
    N, n, D = X.shape
    L, Dp, T = padded(N), padded(D), N * n
    rows, cols = token_lanes(X) if lanes is None else lanes
    k = min(T, block if block else max(BLOCK, min(T // 16, LARGEST_BLOCK)))
    m = padded(T - k) if T > k else 8
    if not on:
        m, k = 8, 1
    G, trace = zeros(n * n * L), zeros(L)
    gram = np.einsum("ijd,ild->jli", X, X)
    gram *= np.where(np.eye(n, dtype=bool), 1.0, 2.0)[:, :, None]
    G.reshape(n, n, L)[..., :N] = gram
    trace[:N] = np.einsum("ijd,ijd->i", X, X) * (1 + (D * n + 8) * 2.3e-16)
    state = np.zeros(1, STATE)
    state["tol"] = state["tol_now"] = tol
    state["pause"] = 1
    size, width = (H * n * n * L if on else 8), n * L
    U1 = zeros(k * width)
    if on and T == k:
        U1.reshape(k, n, L)[:, :, :N] = np.eye(T).reshape(k, n, N)
        state["based"] = 1
    work = (zeros(H * k * width), zeros(H * k * Dp), zeros(H * k * max(width, Dp)), zeros(k * width), zeros(k * m))
    return Tracker(
        int(on), N, n, D, H, L, Dp, k, m, rows, cols, G, trace, zeros(size), zeros(size), U1,
        zeros(width * m), zeros(m), *work, zeros(m), zeros(m), zeros(width), zeros(n * 8), np.zeros((3, k, k)), state,
    )  # fmt: skip


@numba.njit(cache=True, nogil=True)
def _gamma(k):  # type: ignore[no-untyped-def]
    return k * 1.1102230246251565e-16 / (1.0 - k * 1.1102230246251565e-16) * (1.0 + 1e-14)


@numba.njit(cache=True, nogil=True)
def _drift(tr, S, old):  # type: ignore[no-untyped-def]
    """Upper bound of ||B(S) - B(old)||_F."""
    n, L, H, G, diff = tr.n, tr.L, tr.H, tr.G, tr.diff
    form = splat(0.0)
    weight = splat(0.0)
    for i in range(0, L, 8):
        squares = splat(0.0)
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
    return np.sqrt(max(total(form), 0.0) + _gamma(count) * UP * total(weight)) * UP + TINY


@numba.njit(cache=True, nogil=True)
def _beta(tr, S):  # type: ignore[no-untyped-def]
    """Upper bound of sqrt(sum_ih ||S_ih||_F^2 ||X_i||_F^2)."""
    whole = splat(0.0)
    for i in range(0, tr.L, 8):
        squares = splat(0.0)
        for r in range(tr.H * tr.n * tr.n):
            x = load(S, r * tr.L + i)
            squares = fma(x, x, squares)
        whole = fma(squares, load(tr.trace, i), whole)
    return np.sqrt(total(whole)) * UP + TINY


@numba.njit(cache=True, nogil=True)
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


@numba.njit(cache=True, nogil=True)
def _defect(K, sigma):  # type: ignore[no-untyped-def]
    """||D^-1 K D^-1 - I||_F, D = diag(sigma)."""
    out = 0.0
    for i in range(K.shape[0]):
        for j in range(K.shape[0]):
            x = K[i, j] / sigma[i] / sigma[j]
            if i == j:
                x -= 1.0
            out += x * x
    return np.sqrt(out) * UP


@numba.njit(cache=True, nogil=True)
def _anchor(tr, S):  # type: ignore[no-untyped-def]
    """New anchor at S."""
    st = tr.state[0]
    st.anchors += 1
    st.usable = 0
    B = _form(tr, S)
    M = np.dot(B, B.T)
    if np.isfinite(M.sum()):
        adopt(tr, S, B, np.ascontiguousarray(np.linalg.eigh(M)[1]))


@numba.njit(cache=True, nogil=True)
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
    defect_U = _defect(np.dot(U.T, U), np.ones(T)) + T * _gamma(T + 8) * 1.01
    U2 = np.ascontiguousarray(U[:, k:])
    Y = np.dot(B.T, U2)
    K = np.dot(Y.T, Y)
    sigma = np.sqrt(np.diag(K))
    if not (defect_U < 0.01 and sigma.min() > 0.0 and np.isfinite(sigma.max())):
        return
    st.defect_U = defect_U
    st.defect = _defect(K, sigma) + (T - k) * _gamma(HD + 12) * 1.01
    norm = np.sqrt((B * B).sum()) * UP
    st.delta_Y = _gamma(n + 2) * _beta(tr, S) * 1.01 + _gamma(T + 2) * norm * st.omega + TINY
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


@numba.njit(cache=True, nogil=True)
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


@numba.njit(cache=True, nogil=True)
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


@numba.njit(cache=True, nogil=True)
def _smallest(A, V):  # type: ignore[no-untyped-def]
    """Jacobi sweeps on A (overwritten); returns the column of V with the smallest eigenvalue."""
    k = A.shape[0]
    V[:] = np.eye(k)
    for _ in range(30):
        off = 0.0
        for p in range(k):
            for q in range(p):
                off = max(off, abs(A[p, q]) / np.sqrt(abs(A[p, p] * A[q, q]) + 1e-300))
        if not off > 1e-15:
            break
        for p in range(k):
            for q in range(p):
                if A[p, q] == 0.0:
                    continue
                tau = (A[q, q] - A[p, p]) / (2.0 * A[p, q])
                t = (1.0 if tau >= 0.0 else -1.0) / (abs(tau) + np.sqrt(1.0 + tau * tau))
                c = 1.0 / np.sqrt(1.0 + t * t)
                s = t * c
                for r in range(k):
                    x, y = A[r, p], A[r, q]
                    A[r, p], A[r, q] = c * x - s * y, s * x + c * y
                for r in range(k):
                    x, y = A[p, r], A[q, r]
                    A[p, r], A[q, r] = c * x - s * y, s * x + c * y
                for r in range(k):
                    x, y = V[r, p], V[r, q]
                    V[r, p], V[r, q] = c * x - s * y, s * x + c * y
    best = 0
    for p in range(k):
        if A[p, p] < A[best, best]:
            best = p
    return best


@numba.njit(cache=True, nogil=True)
def _factors(A, s, C):  # type: ignore[no-untyped-def]
    """Does the Cholesky factorisation of A - s I run to its end?"""
    k = A.shape[0]
    for i in range(k):
        for j in range(i + 1):
            x = A[i, j]
            if i == j:
                x -= s
            for p in range(j):
                x -= C[i, p] * C[j, p]
            if i == j:
                if not x > 0.0:
                    return False
                C[i, i] = np.sqrt(x)
            else:
                C[i, j] = x / C[j, j]
    return True


@numba.njit(cache=True, nogil=True)
def _least(A, guess, C):  # type: ignore[no-untyped-def]
    """Certified lower bound of lambda_min(A), at most `guess`; -inf when none was found."""
    k = A.shape[0]
    trace = 0.0
    for p in range(k):
        trace += abs(A[p, p])
    margin = 16.0 * k * 1.1e-16 * trace
    for _ in range(10):
        s = guess - margin
        if _factors(A, s, C):
            return s - 2.0 * _gamma(k + 3) * (trace + k * abs(s)) * UP
        margin *= 16.0
    return -np.inf


@numba.njit(cache=True, nogil=True)
def _inner(tr, p, q):  # type: ignore[no-untyped-def]
    """Entry (p, q) of Z^T Z."""
    s = splat(0.0)
    for h in range(tr.H):
        for x in range(0, tr.Dp, 8):
            s = fma(load(tr.Z, (h * tr.k + p) * tr.Dp + x), load(tr.Z, (h * tr.k + q) * tr.Dp + x), s)
    return total(s)


@numba.njit(cache=True, nogil=True)
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
    return np.sqrt(squares) * UP / length * UP + _gamma(n + width + 4) * beta * UP * UP


@numba.njit(cache=True, nogil=True)
def _check(tr, S):  # type: ignore[no-untyped-def]
    """Block enclosure at S; (0, inf) or (0, hi) where it cannot say more."""
    st = tr.state[0]
    n, k, T, width = tr.n, tr.k, tr.N * tr.n, tr.n * tr.L
    st.checks += 1
    if st.based == 0:  # a quotient with U1 = 0 would claim sigma_min = 0
        return 0.0, np.inf
    _project(tr, S)
    A, V, C = tr.small[0], tr.small[1], tr.small[2]
    trace = 0.0
    for p in range(k):
        for q in range(p + 1):
            A[p, q] = A[q, p] = _inner(tr, p, q)
        trace += A[p, p]
    if not np.isfinite(trace):
        return 0.0, np.inf
    norm_Z = np.sqrt(trace) * UP
    beta = _beta(tr, S)
    delta_Z = _gamma(n + width + 4) * beta * np.sqrt(k * (1.0 + st.defect_U)) * UP + TINY
    margin = 2.0 * norm_Z * delta_Z + delta_Z * delta_Z + _gamma(tr.H * tr.Dp + 8) * norm_Z * norm_Z
    # Rayleigh quotient of the computed eigenvector: an upper bound whatever the vector is
    C[:] = A
    best = _smallest(C, V)
    form = length = 0.0
    for p in range(k):
        length += V[p, best] * V[p, best]
        for q in range(k):
            form += V[p, best] * A[p, q] * V[q, best]
    above = (max(form, 0.0) / length + margin + _gamma(4 * k * k + 8) * k * trace) * UP
    hi = np.sqrt(above / (1.0 - st.defect_U)) * UP + TINY
    if T > k:
        if st.usable == 0:
            return 0.0, hi
        nu = np.sqrt(1.0 + st.defect_U) * UP
        theta = np.sqrt(1.0 - st.defect * UP) * (1.0 - 1e-14)
        theta -= (st.delta_Y + nu * _drift(tr, S, tr.S_anchor)) / st.sigma_next * UP
        if not theta > 0.0:
            return 0.0, hi
        least_den = theta * theta * st.sigma_next * st.sigma_next * (1.0 - 1e-12) - above
        if not least_den > 0.0:
            return 0.0, hi
        _couple(tr, S)
        for j in range(T - k):
            tr.den[j] = 1.0 / ((theta * tr.sigma[j]) ** 2 * (1.0 - 1e-12) - above)
        reach = 0.0
        for p in range(k):
            for q in range(p + 1):
                s = splat(0.0)
                for j in range(0, tr.m, 8):
                    x = mul(load(tr.b, p * tr.m + j), load(tr.den, j))
                    s = fma(x, load(tr.b, q * tr.m + j), s)
                x_pq = total(s)
                A[p, q] -= x_pq
                A[q, p] = A[p, q]
                if p == q:
                    reach += x_pq
        reach *= UP
        count = tr.Dp + n * tr.H + width + 8
        delta_b = _gamma(count) * st.omega * beta * norm_Z * UP + nu * beta * delta_Z + TINY
        root = delta_b / np.sqrt(least_den)
        margin += 2.0 * np.sqrt(reach) * root + root * root + _gamma(width + 12) * (reach + trace)
        C[:] = A
        best = _smallest(C, V)
        hi = min(hi, _quotient(tr, S, V, best, beta))
    least = (_least(A, C[best, best], V) - margin * UP) / (1.0 + st.defect_U) * (1.0 - 1e-15)
    return (np.sqrt(least) * (1.0 - 1e-15) if least > 0.0 else 0.0), hi


@numba.njit(cache=True, nogil=True)
def _renew(tr, S, lo, hi):  # type: ignore[no-untyped-def]
    """Check, and anchor where the check is not good enough; returns the new enclosure."""
    st = tr.state[0]
    tall = tr.N * tr.n > tr.k
    if not tall or st.anchors > 0:
        low, high = _check(tr, S)
        lo, hi = max(lo, low), min(hi, high)
        if hi - lo <= ACCEPT * st.tol_now * lo:
            return lo, hi
    if tall:
        _anchor(tr, S)
        low, high = _check(tr, S)
        lo, hi = max(lo, low), min(hi, high)
    if hi - lo <= 0.5 * st.tol * lo:
        st.tol_now, st.pause = st.tol, 1
    else:  # not even a fresh anchor gives tol: ask for what can be had, and less often
        st.tol_now = max(st.tol, 4.0 * (hi - lo) / lo) if lo > 0.0 else st.tol
        st.due = st.steps + st.pause
        st.pause = min(2 * st.pause, LONGEST_PAUSE)
    return lo, hi


@numba.njit(cache=True, nogil=True)
def follow(tr, S):  # type: ignore[no-untyped-def]
    """Enclosure of sigma_min(B_t) at the next step.

    Args:
        tr: `Tracker` of the run.
        S: Attention weights, flat (H, n, n, L): head, query token, key token, sample.

    Returns:
        lo and hi with lo <= sigma_min(B) <= hi for the exact B of the given S and X; (0, 0) when B has
        more rows than columns; (0, inf) when S is not finite.
    """
    if tr.on == 0 or tr.N * tr.n > tr.H * tr.D:
        return 0.0, 0.0
    st = tr.state[0]
    lo, hi = 0.0, np.inf
    st.steps += 1
    if st.known:
        e = _drift(tr, S, tr.S_ref)
        lo, hi = max((st.ref_lo - e) * (1.0 - 1e-15), 0.0), (st.ref_hi + e) * UP
        if not np.isfinite(hi):
            lo, hi = 0.0, np.inf
    good = hi - lo <= st.tol_now * lo
    if not good and (st.known == 0 or st.steps >= st.due):
        lo, hi = _renew(tr, S, lo, hi)
        if np.isfinite(hi):
            st.ref_lo, st.ref_hi, st.known = lo, hi, 1
            tr.S_ref[:] = S
    if not hi - lo <= st.tol * lo:
        st.loose += 1
    st.lo, st.hi = lo, hi
    return lo, hi


def enclose(X: Array, S: Array) -> tuple[float, float]:
    """Enclosure of sigma_min(B), B = [B^(1) ... B^(H)], B^(h)_i = S_ih X_i, for one set of weights.

    Args:
        X: Tokens, shape (N, n, D).
        S: Attention weights, shape (N, H, n, n).

    Returns:
        lo <= sigma_min(B) <= hi (the Nn-th singular value), rigorous; see the module's text.

    Example:
        >>> lo, hi = enclose(np.eye(3)[None], np.eye(3)[None, None] * 2)
        >>> lo <= 2.0 <= hi and hi - lo < 1e-10
        True
    """
    N, n, _ = X.shape
    H, L = S.shape[1], padded(N)
    tracker = new_tracker(X, H)
    weights = zeros(H * n * n * L)
    weights.reshape(H, n, n, L)[..., :N] = S.transpose(1, 2, 3, 0)
    lo, hi = follow(tracker, weights)
    return float(lo), float(hi)
