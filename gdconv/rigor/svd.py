"""A float64 SVD that is checked afterwards, with rigorous bounds on every singular value.

The SVD of LAPACK is an untrusted guess that is verified afterwards (docs/theory/enclosures.md,
Theorem 1): with W = fl(U diag s), e_U >= |U^T U - I|, e_V >= |V^T V - I|, d_W >= |W - U diag s| and
res >= |B - W V^T|,

    sigma_i(B) >= (sqrt(1 - e_U) s_i - d_W) sqrt(1 - e_V) - res,
    sigma_i(B) <= (sqrt(1 + e_U) s_i + d_W) sqrt(1 + e_V) + res.

Trusted base: IEEE double precision, round to nearest, gradual underflow, and matrix products that
sum products in some order (no Strassen). Nothing is trusted about the SVD itself.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from gdconv.rigor.lapack import svd
from gdconv.rigor.rounding import (
    SQUARE_TINY,
    TINY,
    UNIT,
    Array,
    as_matrix,
    fro_up,
    gamma,
    gradual_underflow,
    up,
)
from gdconv.support.errors import GdconvError, InputError

_svd = svd  # a module variable, so that the tests can plant a wrong one


class VerifiedSVD(NamedTuple):
    """A float64 SVD with bounds on every singular value.

    Args:
        U: Left vectors of the guess, shape (m, m); meaningless when `ok` is False.
        s: Singular values of the guess, shape (m,), in the units of the input.
        Vt: Right vectors of the guess, shape (m, p).
        lo: Lower bounds of sigma_1 >= ... >= sigma_m, shape (m,).
        hi: Upper bounds, shape (m,).
        e_U: Bound of |U^T U - I| (Frobenius, so also spectral).
        ok: Whether the guess was usable; if not, `lo` is 0 and `hi` comes from row norms.
    """

    U: Array
    s: Array
    Vt: Array
    lo: Array
    hi: Array
    e_U: float
    ok: bool


def prepared(B: ArrayLike, field: str) -> Array:
    """Validate the matrix and the arithmetic.

    Args:
        B: The matrix.
        field: Name used in errors.

    Returns:
        B as float64, not copied where it is one.

    Raises:
        InputError: B has no rows, or is refused by `as_matrix`.
        GdconvError: The arithmetic flushes denormals or rounds in a direction.

    Example:
        >>> prepared([[1, 2]], "B").shape
        (1, 2)
    """
    A = as_matrix(B, field)
    if A.shape[0] == 0:
        raise InputError(field, f"a matrix of shape {A.shape}", "give at least one row")
    if not gradual_underflow():
        raise GdconvError(
            "arithmetic = flush-to-zero or directed rounding: call torch.set_flush_denormal(False) "
            "and avoid libraries built with -ffast-math."
        )
    return A


def exponent(A: Array) -> int:
    """The e with max |a_ij| in [2^(e-1), 2^e).

    Args:
        A: Any matrix.

    Returns:
        The exponent; 0 for a zero or empty matrix.

    Example:
        >>> exponent(np.array([[3.0]]))
        2
    """
    if not A.size:
        return 0
    return math.frexp(max(float(A.max()), -float(A.min())))[1]


def _prescale(A: Array, e: int) -> tuple[Array, float]:
    """A 2^-e and a bound (Frobenius) of what was lost to underflow."""
    scaled = np.ldexp(A, -e)
    return scaled, up(A.size * TINY) if e > 0 else 0.0


def unscale(lo: Array, hi: Array, e: int) -> tuple[Array, Array]:
    """Bounds times 2^e, rounded outwards where that leaves the normal range.

    Args:
        lo: Lower bounds.
        hi: Upper bounds.
        e: Exponent.

    Returns:
        Lower and upper bounds in the original units.

    Example:
        >>> unscale(np.array([0.5]), np.array([1.0]), 2000)[1]
        array([inf])
    """
    with np.errstate(all="ignore"):
        low, high = np.ldexp(lo, e), np.ldexp(hi, e)
    low = np.where(np.isinf(low), np.finfo(float).max, low)
    if e < 0:  # results may be denormal, where ldexp rounds
        low = np.where(np.ldexp(low, -e) > lo, np.nextafter(low, 0.0), low)
        high = np.where(np.ldexp(high, -e) < hi, np.nextafter(high, np.inf), high)
    return low, high


HEAD = 64
"""Columns in which rows nearly always differ already."""


def dependent_rows(A: Array) -> bool:
    """Whether a row is zero or two rows are equal up to sign: a proof that sigma_min is 0.

    Args:
        A: Matrix of shape (m, p), p >= 1.

    Returns:
        True when the rows are dependent for one of these reasons; False proves nothing.

    Example:
        >>> dependent_rows(np.array([[1.0, 2.0], [-1.0, -2.0]]))
        True
    """
    # rows that differ in their first entries need no look at the others
    return _alike(A[:, :HEAD]) and (A.shape[1] <= HEAD or _alike(A))


def _alike(A: Array) -> bool:
    first = A[np.arange(A.shape[0]), (A != 0.0).argmax(axis=1)]
    if not first.all():
        return True
    signed = A * np.sign(first)[:, None] + 0.0  # + 0.0 turns -0.0 into 0.0
    return len({row.tobytes() for row in signed}) < A.shape[0]


def _row_norm_up(A: Array) -> float:
    """Upper bound of the smallest row norm, itself an upper bound of sigma_min."""
    p = A.shape[1]
    squares = np.einsum("ij,ij->i", A, A) + p * TINY
    return up(math.sqrt(float(squares.min()) * (1.0 + 2.0 * gamma(p))))


def _row_sum_up(A: Array) -> float:
    """The same through sums of |a_ij|, which neither square nor scale: sharp for tiny rows."""
    least = float(np.abs(A).sum(axis=1).min())
    return math.nextafter(least * (1.0 + 2.0 * gamma(A.shape[1] + 4)), math.inf)


def gram_defect(Q: Array, norm: float) -> float:
    """Bound of |Q^T Q - I|_F; the rounding of the product is at most gamma_k |Q|_F^2.

    Args:
        Q: Matrix of shape (k, m).
        norm: Bound of |Q|_F.

    Returns:
        The bound.

    Example:
        >>> gram_defect(np.eye(2), 1.5) < 1e-14
        True
    """
    k, m = Q.shape
    G = Q.T @ Q
    G.flat[:: m + 1] -= 1.0
    return up(fro_up(G) + gamma(k) * norm * norm + m * k * TINY)


def _guess(A: Array) -> tuple[Array, Array, Array] | None:
    """The untrusted SVD of the scaled matrix, or None when it failed or makes no sense."""
    m, p = A.shape
    try:
        U, s, Vt = _svd(A, full_matrices=False)
        U, s, Vt = (np.asarray(x, dtype=np.float64) for x in (U, s, Vt))
    except (np.linalg.LinAlgError, ValueError, TypeError):
        return None
    if U.shape != (m, m) or s.shape != (m,) or Vt.shape != (m, p):
        return None
    if not (np.isfinite(U).all() and np.isfinite(s).all() and np.isfinite(Vt).all()):
        return None
    return U, s, Vt


def _verify(A: Array, U: Array, s: Array, Vt: Array, lost: float) -> tuple[Array, Array, float]:
    """Bounds of all singular values of the scaled A from a guess (Theorem 1 of the notes)."""
    m, p = A.shape
    W = U * s
    norm_U, norm_V, norm_W = fro_up(U), fro_up(Vt), fro_up(W)
    e_U, e_V = gram_defect(U, norm_U), gram_defect(Vt.T, norm_V)
    d_W = up(UNIT * norm_W + m * TINY)
    R = A - W @ Vt
    # ||W| |Vt||_F <= sum_k |W_k| |V_k| (columns times rows), never above |W|_F |Vt|_F
    columns, rows = np.einsum("ij,ij->j", W, W), np.einsum("ij,ij->i", Vt, Vt)
    outer = float((np.sqrt(columns) + SQUARE_TINY) @ (np.sqrt(rows) + SQUARE_TINY))
    outer = up(outer * (1.0 + 4.0 * gamma(m + p)))
    res = up(fro_up(R) + gamma(m) * outer + m * p * m * TINY + lost)
    sizes = np.sort(np.abs(s))[::-1]
    if not (e_U < math.inf and e_V < math.inf and res < math.inf):
        return np.zeros(m), np.full(m, math.inf), math.inf
    shrink = 1.0 - 8 * UNIT
    lower = np.maximum(math.sqrt(max(1.0 - e_U, 0.0)) * sizes * shrink - d_W, 0.0)
    lower = lower * (math.sqrt(max(1.0 - e_V, 0.0)) * shrink)
    lower = np.maximum((lower - res) * shrink - TINY, 0.0)
    upper = (math.sqrt(1.0 + e_U) * sizes + d_W) * math.sqrt(1.0 + e_V) + res
    return lower, upper * (1.0 + 16 * UNIT) + TINY, e_U


def verified_svd(B: ArrayLike, field: str = "B") -> VerifiedSVD:
    """SVD of a wide matrix with rigorous bounds on each singular value.

    Args:
        B: Matrix of shape (m, p) with 1 <= m <= p.
        field: Name used in errors.

    Returns:
        The guess and its bounds, lo_i <= sigma_i(B) <= hi_i.

    Raises:
        InputError: B is no finite real matrix that float64 holds, or has more rows than columns.

    Example:
        >>> svd = verified_svd([[3.0, 0.0], [0.0, 2.0]])
        >>> bool(svd.lo[1] <= 2.0 <= svd.hi[1]), bool(svd.hi[1] - svd.lo[1] < 1e-13)
        (True, True)
    """
    A = prepared(B, field)
    m, p = A.shape
    if m > p:
        raise InputError(field, f"a matrix of shape {A.shape}", "give no more rows than columns")
    e = exponent(A)
    given = A
    A, lost = _prescale(A, e)
    with np.errstate(all="ignore"):
        guess = _guess(A)
        if guess is None:
            lo, hi, e_U = np.zeros(m), np.full(m, math.inf), math.inf
            U, s, Vt = np.eye(m), np.zeros(m), np.eye(m, p)
        else:
            U, s, Vt = guess
            lo, hi, e_U = _verify(A, U, s, Vt, lost)
        hi = np.minimum(hi, up(fro_up(A) + lost))
        hi[-1] = min(hi[-1], up(_row_norm_up(A) + lost))
        lo, hi = unscale(lo, hi, e)
        hi[-1] = min(hi[-1], _row_sum_up(given))
        s = np.ldexp(s, e)
    return VerifiedSVD(U, s, Vt, lo, hi, e_U, guess is not None)
