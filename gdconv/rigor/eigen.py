"""Eigenvalues of a stored symmetric matrix, with rigorous bounds on every one of them.

LAPACK's V, w are an untrusted guess. With e >= |V^T V - I| and r >= |A - V diag(w) V^T|, a theorem
of Ostrowski (the i-th eigenvalue of V diag(w) V^T is theta w_(i), theta in [1 - e, 1 + e]) and
Weyl's inequality give

    |lambda_i(A) - w_(i)| <= e |w_(i)| + r.

Besides, no eigenvalue is larger than |A|_F, no diagonal entry is below the least or above the
greatest eigenvalue: these hold when the guess is useless. Trusted base as in `gdconv.rigor.svd`.
"""

from __future__ import annotations

from math import inf, nextafter

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from gdconv.rigor.lapack import eigh
from gdconv.rigor.rounding import TINY, UNIT, Array, Enclosure, fro_up, gamma, up
from gdconv.rigor.svd import exponent, gram_defect, prepared
from gdconv.support.errors import InputError

_eigh = eigh  # a module variable, so that the tests can plant a wrong one


def symmetric(A: ArrayLike, field: str) -> Array:
    """The gate for matrices whose eigenvalues are asked for.

    Args:
        A: The matrix: numpy array, torch CPU tensor or nested sequence.
        field: Name used in errors.

    Returns:
        A as float64, not copied where it is one.

    Raises:
        InputError: A is refused by `prepared`, is not square or not exactly symmetric.

    Example:
        >>> symmetric([[2, 1], [1, 2]], "K").shape
        (2, 2)
    """
    M = prepared(A, field)
    if M.shape[0] != M.shape[1]:
        raise InputError(field, f"a matrix of shape {M.shape}", "give a symmetric matrix")
    if not np.array_equal(M, M.T):
        remedy = "give a symmetric matrix, for instance (A + A.T) / 2"
        raise InputError(field, f"a matrix of shape {M.shape} that is not symmetric", remedy)
    return M


def _swings(B: Array, lost: float) -> tuple[Array, Array] | None:
    """The guess, ascending, and how far each eigenvalue of the scaled matrix may lie from it."""
    try:
        w, V = (np.asarray(part, dtype=np.float64) for part in _eigh(B))
    except np.linalg.LinAlgError:
        return None
    m = len(B)
    if w.shape != (m,) or V.shape != (m, m) or not (np.isfinite(w).all() and np.isfinite(V).all()):
        return None
    W, norm = V * w, fro_up(V)
    # of fl(V diag w), u |W| |V|; of fl(W V^T), gamma_m |W| |V|; the rest of the sum is in `up`
    rounding = (gamma(m) + 2 * UNIT) * fro_up(W) * norm + m * m * (m + 2) * TINY
    residual = up(fro_up(B - W @ V.T) + rounding + lost)
    defect = gram_defect(V, norm)
    w = np.sort(w)
    return w, (np.abs(w) * defect + residual) * (1 + 8 * UNIT)


def eigenvalue_range(A: Array) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Rigorous bounds of every eigenvalue of a symmetric matrix that passed the gate.

    Args:
        A: Symmetric matrix (m, m), as `symmetric` returns it.

    Returns:
        Lower and upper ends, ascending; both exactly 0 for the zero matrix.

    Example:
        >>> lo, hi = eigenvalue_range(np.array([[2.0, 1.0], [1.0, 2.0]]))
        >>> bool((lo <= [1.0, 3.0]).all() and (hi >= [1.0, 3.0]).all() and (hi - lo < 1e-13).all())
        True
    """
    m, e = len(A), exponent(A)
    if not A.any():
        return np.zeros(m), np.zeros(m)
    B = np.ldexp(A, -e)  # a power of two: exact, barring underflow
    lost = up(m * m * TINY) if e > 0 else 0.0
    with np.errstate(all="ignore"):
        cap = up(fro_up(B) + lost)
        lo, hi = np.full(m, -cap), np.full(m, cap)
        found = _swings(B, lost)
        if found is not None and np.isfinite(found[1]).all():
            w, swing = found
            lo, hi = np.maximum(lo, w - swing), np.minimum(hi, w + swing)
        hi[0] = min(hi[0], float(B.diagonal().min()) + lost)
        lo[-1] = max(lo[-1], float(B.diagonal().max()) - lost)
        lo, hi = np.ldexp(np.nextafter(lo, -inf), e), np.ldexp(np.nextafter(hi, inf), e)
        return np.nextafter(lo, -inf), np.nextafter(hi, inf)


def lambda_min_enclosure(K: ArrayLike, slack: float = 0.0) -> Enclosure:
    """Rigorous two-sided bound of the least eigenvalue of a stored symmetric matrix.

    LAPACK's eigenvectors are a guess that is verified (`gdconv.rigor.eigen`).

    It speaks of the float64 matrix K as stored, not of the exact kernel of the weights: entries of
    K carry rounding of about 1e-16 (T + H D) times |J|^2, which `slack` >= |K - K_exact|_2 covers.
    Absolute width about 1e-15 m |K| + 2 slack; where lambda_min is smaller than that use
    sigma_m(J)^2 (`gdconv.rigor.spectrum.enclose_singular_range`).

    Args:
        K: Symmetric matrix (m, m): numpy array, torch CPU tensor or nested list.
        slack: Bound of the distance of K to the matrix meant, in the spectral norm.

    Returns:
        Enclosure of lambda_min; its lower end may be negative.

    Raises:
        InputError: K is no finite real matrix, is not symmetric, or slack is negative.

    Example:
        >>> box = lambda_min_enclosure([[2.0, 1.0], [1.0, 2.0]])
        >>> box.lo <= 1.0 <= box.hi, box.width < 1e-13
        (True, True)
    """
    return _eigenvalue(K, slack, 0)


def lambda_max_enclosure(K: ArrayLike, slack: float = 0.0) -> Enclosure:
    """Rigorous two-sided bound of the greatest eigenvalue of a stored symmetric matrix.

    Args:
        K: Symmetric matrix (m, m).
        slack: As for `lambda_min_enclosure`.

    Returns:
        Enclosure of lambda_max.

    Raises:
        InputError: K is no finite real matrix, is not symmetric, or slack is negative.

    Example:
        >>> box = lambda_max_enclosure([[2.0, 1.0], [1.0, 2.0]])
        >>> box.lo <= 3.0 <= box.hi, box.width < 1e-13
        (True, True)
    """
    return _eigenvalue(K, slack, -1)


def _eigenvalue(K: ArrayLike, slack: float, which: int) -> Enclosure:
    A = symmetric(K, "K")
    if not 0.0 <= slack < inf:
        raise InputError("slack", slack, "give a number of at least 0")
    lo, hi = (float(ends[which]) for ends in eigenvalue_range(A))
    if slack > 0.0:
        lo, hi = nextafter(lo - slack, -inf), nextafter(hi + slack, inf)
    return Enclosure(lo, hi)
