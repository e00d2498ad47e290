"""Eigenvalues of a stored symmetric matrix, with rigorous bounds on every one of them.

LAPACK's V, w are an untrusted guess. With e >= |V^T V - I| and r >= |A - V diag(w) V^T|, a theorem
of Ostrowski (the i-th eigenvalue of V diag(w) V^T is theta w_(i), theta in [1 - e, 1 + e]) and
Weyl's inequality give

    |lambda_i(A) - w_(i)| <= e |w_(i)| + r.

Besides, no eigenvalue is larger than |A|_F, no diagonal entry is below the least or above the
greatest eigenvalue: these hold when the guess is useless. Trusted base as in `gdconv.rigor.svd`.
"""

from __future__ import annotations

from math import inf

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from gdconv.rigor.lapack import eigh
from gdconv.rigor.rounding import TINY, UNIT, Array, fro_up, gamma, up
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
