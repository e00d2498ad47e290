"""Two-sided rigorous bounds on singular values and norms of stored float64 matrices.

Statements and proofs: docs/theory/enclosures.md. Nothing is trusted about LAPACK's output; it is
verified by products whose rounding is bounded a priori.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from gdconv.rigor.lapack import eigh
from gdconv.rigor.rounding import (
    SQUARE_TINY,
    TINY,
    UNIT,
    Array,
    Enclosure,
    as_matrix,
    at_least,
    fro_up,
    gamma,
    gradual_underflow,
    up,
)
from gdconv.rigor.svd import (
    VerifiedSVD,
    dependent_rows,
    exponent,
    gram_defect,
    prepared,
    unscale,
    verified_svd,
)
from gdconv.support.errors import InputError

__all__ = [
    "Enclosure",
    "VerifiedSVD",
    "as_matrix",
    "at_least",
    "enclose_sigma_min",
    "enclose_singular_range",
    "gradual_underflow",
    "norm2_upper",
    "verified_svd",
]

CHUNK = 1024
"""Columns treated at once when a matrix is wide; also shortens the sums that rounding acts on."""


def enclose_sigma_min(B: ArrayLike, field: str = "B") -> Enclosure:
    """Rigorous two-sided bound of sigma_T(B), T the number of rows.

    The result is exactly (0, 0) where that is proved: more rows than columns, a zero row, two rows
    equal up to sign. Otherwise one SVD and three products (docs/theory/enclosures.md, Theorem 1).
    It loses about 1e-14 times the condition number and answers lo = 0 beyond about 1e13.

    Args:
        B: Matrix of shape (T, p), any strides; numpy array, torch CPU tensor or nested list.
        field: Name used in errors.

    Returns:
        Enclosure with lo <= sigma_T(B) <= hi, in the units of B.

    Raises:
        InputError: B has no rows or is no finite real matrix that float64 holds exactly.

    Example:
        >>> box = enclose_sigma_min([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
        >>> box.lo <= 2.0 <= box.hi, box.width < 1e-13
        (True, True)
        >>> enclose_sigma_min([[1.0], [2.0]])
        Enclosure(lo=0.0, hi=0.0)
    """
    A = prepared(B, field)
    if A.shape[0] > A.shape[1] or dependent_rows(A):
        return Enclosure(0.0, 0.0)
    svd = verified_svd(A, field)
    return Enclosure(float(svd.lo[-1]), float(svd.hi[-1]))


def _chunks(p: int) -> list[slice]:
    return [slice(j, min(j + CHUNK, p)) for j in range(0, p, CHUNK)]


def _gram(A: Array, e: int) -> Array:
    """A A^T of the scaled matrix, summed chunk by chunk."""
    G = np.zeros((A.shape[0],) * 2)
    for cut in _chunks(A.shape[1]):
        part = np.ldexp(A[:, cut], -e)
        G += part @ part.T
    return G


def _row_factor(A: Array, e: int) -> Array | None:
    """A guess of L (m, m) with A ~ L Q, Q Q^T ~ I: Cholesky of A A^T, QR where that fails."""
    try:
        L: Array = np.asarray(np.linalg.cholesky(_gram(A, e)), dtype=np.float64)
        d = np.diag(L)
        if d.min() > 1e-6 * d.max():
            return L
    except np.linalg.LinAlgError:
        pass
    R: Array = np.zeros((0, A.shape[0]))
    for cut in _chunks(A.shape[1]):  # QR of stacked R factors: never holds more than a chunk
        stack = np.vstack([R, np.ldexp(A[:, cut], -e).T])
        R = np.asarray(np.linalg.qr(stack, mode="r"), dtype=np.float64)
    if R.shape[0] < A.shape[0] or not np.isfinite(R).all() or not np.diag(R).all():
        return None
    return np.ascontiguousarray(R.T)


def _pass(A: Array, e: int, factors: list[Array]) -> tuple[Array, float, float, Array]:
    """One sweep over the columns, Q = F_k^-1 ... F_1^-1 A: L, |A - L Q|, |Q Q^T - I|, Q Q^T."""
    from scipy.linalg.blas import dtrmm, dtrsm  # scipy loads slowly: only where it is needed

    m, p = A.shape
    L = factors[0]
    for F in factors[1:]:
        L = L @ F
    G, res_sq, q_sq, outer = np.zeros((m, m)), 0.0, 0.0, np.zeros(m)
    cuts = _chunks(p)
    for cut in cuts:
        part = np.ldexp(A[:, cut], -e)
        Q = part
        for F in factors:
            Q = dtrsm(1.0, F, Q, lower=1)
        G += Q @ Q.T
        res_sq += fro_up(part - dtrmm(1.0, L, Q, lower=1)) ** 2
        rows = np.einsum("ij,ij->i", Q, Q)
        outer += rows
        q_sq += float(rows.sum())
    grow = 1.0 + 8.0 * gamma(CHUNK + len(cuts) + m)
    D = G.copy()
    D.flat[:: m + 1] -= 1.0
    k = min(p, CHUNK) + len(cuts) + 2
    e_Q = up(fro_up(D) + gamma(k) * (q_sq * grow + m * p * TINY) + m * p * TINY)
    columns = np.sqrt(np.einsum("ij,ij->j", L, L)) * grow + SQUARE_TINY
    span = float(columns @ (np.sqrt(outer) * grow + SQUARE_TINY)) * grow
    res = up(math.sqrt(res_sq * grow) + gamma(m) * span + float(A.size) * m * TINY)
    return L, res, e_Q, G


def _wide_range(A: Array, field: str) -> VerifiedSVD | None:
    """Bounds for m << p through A ~ L Q: sigma_i(L) sqrt(1 -+ e_Q) -+ res (Theorem 2)."""
    e = exponent(A)
    first = _row_factor(A, e)
    if first is None:
        return None
    factors = [first]
    L, res, e_Q, G = _pass(A, e, factors)
    if not e_Q < 1e-6 and np.isfinite(G).all():
        try:
            factors.append(np.asarray(np.linalg.cholesky(G), dtype=np.float64))
            L, res, e_Q, _ = _pass(A, e, factors)
        except np.linalg.LinAlgError:
            return None
    if not (e_Q < 1.0 and res < math.inf and np.isfinite(L).all()):
        return None
    small = verified_svd(L, field)
    shrink = 1.0 - 8 * UNIT
    lo = small.lo * (math.sqrt(1.0 - e_Q) * shrink) * shrink - res
    lo = np.maximum(lo * shrink - TINY, 0.0)
    hi = (small.hi * (math.sqrt(1.0 + e_Q) * (1.0 + 8 * UNIT)) + res) * (1.0 + 16 * UNIT) + TINY
    lo, hi = unscale(lo, hi, e)
    return small._replace(s=np.ldexp(small.s, e), lo=lo, hi=hi)


def enclose_singular_range(
    A: ArrayLike, count: int | None = None, field: str = "A"
) -> tuple[Enclosure, Enclosure]:
    """Rigorous bounds of the count-th and of the largest singular value.

    For p >= 4 m the matrix is reduced to its m x m triangular factor by sweeps over blocks of
    columns, verified afterwards; nothing of size p x p, nor a second copy of A, is formed.

    Args:
        A: Matrix of shape (m, p), for instance a Jacobian with m residuals and p weights.
        count: Which singular value, counted from the largest; the number of rows if not given.
        field: Name used in errors.

    Returns:
        Enclosures (sigma_count, sigma_1); sigma_count is exactly 0 when count > min(m, p).

    Raises:
        InputError: A is no finite real matrix with at least one row, or count < 1.

    Example:
        >>> least, largest = enclose_singular_range([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
        >>> least.lo <= 2.0 <= least.hi, largest.lo <= 3.0 <= largest.hi
        (True, True)
    """
    M = prepared(A, field)
    count = M.shape[0] if count is None else count
    if count < 1:
        raise InputError("count", count, "give a whole number of at least 1")
    zero = Enclosure(0.0, 0.0)
    proved_zero = count > min(M.shape) or (count == M.shape[0] and dependent_rows(M))
    if M.shape[0] > M.shape[1]:
        M = M.T
    if M.shape[0] == 0:
        return zero, zero
    svd = None
    if M.shape[1] >= 4 * M.shape[0] and M.size > 20_000:
        with np.errstate(all="ignore"):
            svd = _wide_range(M, field)
    if svd is None:
        svd = verified_svd(M, field)
    least = zero if proved_zero else Enclosure(float(svd.lo[count - 1]), float(svd.hi[count - 1]))
    return least, Enclosure(float(svd.lo[0]), float(svd.hi[0]))


def norm2_upper(A: ArrayLike, field: str = "A") -> float:
    """Rigorous upper bound of the spectral norm |A|_2, within about 1e-10 of it.

    |A|^2 = |A A^T|, and A A^T = V diag(w) V^T + E gives |A|^2 <= max |w| (1 + e_V) + |E|; |A|_F is
    taken where it is smaller.

    Args:
        A: Matrix of any shape.
        field: Name used in errors.

    Returns:
        A number >= |A|_2; 0.0 for an empty matrix.

    Raises:
        InputError: A is no finite real matrix that float64 holds exactly.

    Example:
        >>> 3.0 <= norm2_upper([[3.0, 0.0], [0.0, 2.0]]) < 3.0 + 1e-12
        True
    """
    M = as_matrix(A, field)
    if M.size == 0 or not M.any():
        return 0.0
    M = prepared(M.T if M.shape[0] > M.shape[1] else M, field)
    e, (m, p) = exponent(M), M.shape
    with np.errstate(all="ignore"):
        frobenius = math.hypot(*(fro_up(np.ldexp(M[:, cut], -e)) for cut in _chunks(p)))
        frobenius = up(frobenius * (1.0 + gamma(p)) + m * p * TINY)
        G = _gram(M, e)
        bound = frobenius
        try:
            w, V = eigh(G)
            e_V = gram_defect(V, fro_up(V))
            Vw = V * w
            error = fro_up(G - Vw @ V.T) + 2.0 * gamma(m + 2) * fro_up(Vw) * fro_up(V)
            error += gamma(min(p, CHUNK) + p // CHUNK + 3) * frobenius**2 + m * m * p * TINY
            square = up(float(np.abs(w).max()) * (1.0 + e_V) + error)
            if square < math.inf:
                bound = min(bound, up(math.sqrt(square)))
        except np.linalg.LinAlgError:
            pass
    return float(unscale(np.zeros(1), np.array([bound]), e)[1][0])
