"""The least eigenvalue of a Gram matrix that is new at every step: one Cholesky factor each.

For a stored symmetric K, any L and any number tau, K - tau I = L L^T + E gives lambda_min(K) >=
tau - |E|, and any vector v gives lambda_min(K) <= v^T K v / |v|^2 (docs/theory/enclosures.md,
section 2). L is LAPACK's factor and v a step of inverse iteration with it; neither is trusted, E is
formed by one product whose rounding is bounded. Where the factorisation breaks down the whole
spectrum is enclosed instead (`gdconv.rigor.eigen`).
"""

from __future__ import annotations

from math import inf, isfinite, sqrt

import numpy as np

from gdconv.rigor.eigen import eigenvalue_range
from gdconv.rigor.lapack import eigh
from gdconv.rigor.rounding import TINY, UNIT, Array, Enclosure, fro_up, gamma, up

SHARE = 1e-3
"""The shift lies this share below the guess of the least eigenvalue."""

SMALLEST, LARGEST = 1e-140, 1e140
"""Traces between which products of entries neither overflow nor underflow to any harm."""


def least_eigenvalue(K: Array, v: Array | None = None) -> tuple[Enclosure, Array | None]:
    """Rigorous bounds of the least eigenvalue of a stored matrix, from a guess of its vector.

    Args:
        K: Exactly symmetric and finite, (m, m) with m >= 1; meant for Gram matrices.
        v: A guess of the vector, such as that of a matrix nearby; made where not given.

    Returns:
        The enclosure, at most about 1e-3 wide relatively where K is well away from singular, and
        a better vector; None where there is none.

    Example:
        >>> box, v = least_eigenvalue(np.array([[2.0, 1.0], [1.0, 2.0]]))
        >>> box.lo <= 1.0 <= box.hi, box.width < 2e-3
        (True, True)
    """
    m, trace = len(K), float(K.trace())
    if not SMALLEST < trace < LARGEST:
        return _whole(K), None
    with np.errstate(all="ignore"):
        found = None if v is None else _shifted(K, v, m)
        if found is None and (made := _vector(K)) is not None:
            found = _shifted(K, made, m)
    return (_whole(K), None) if found is None else found


def _vector(K: Array) -> Array | None:
    try:
        vector: Array = eigh(K)[1][:, 0]
    except np.linalg.LinAlgError:
        return None
    return vector


def _whole(K: Array) -> Enclosure:
    lo, hi = eigenvalue_range(K)
    return Enclosure(float(lo[0]), float(hi[0]))


def _rayleigh(K: Array, size: float, v: Array) -> tuple[float, float]:
    """v^T K v / |v|^2 as computed, and from above; size >= |K|_F."""
    m, square = len(v), float(v @ v)
    if not 1e-100 < square < 1e100:
        return inf, inf
    value = float(v @ (K @ v))
    over = value + up(gamma(2 * m + 2) * size * square * (1.0 + gamma(m + 2)) + m * m * TINY)
    # the quotient of a number of either sign by one that is known to gamma
    most = over / (square * (1.0 - gamma(m + 2)) if over > 0 else square * (1.0 + gamma(m + 2)))
    return value / square, most + 4 * UNIT * abs(most) + TINY


def _shifted(K: Array, v: Array, m: int) -> tuple[Enclosure, Array] | None:
    """Both bounds; None where the shifted matrix has no Cholesky factor."""
    from scipy.linalg.lapack import dpotrf, dpotrs  # scipy loads slowly: only where it is needed

    size = fro_up(K)
    value, most = _rayleigh(K, size, v)
    tau = value * (1.0 - SHARE)
    if not 0.0 < tau < inf:
        return None
    D = K.copy()
    D.flat[:: m + 1] -= tau
    L, info = dpotrf(D, lower=1, clean=1)
    if info != 0 or not isfinite(float(L.sum())):
        return None
    frob = fro_up(L)
    # of the shifted diagonal, u |K_ii - tau|; of L L^T, gamma_m |L| |L|^T; of the difference, u
    rounding = UNIT * fro_up(D.diagonal()) + gamma(m + 2) * frob * frob + m * m * m * TINY
    lost = up(fro_up(D - L @ L.T) * (1.0 + 4 * UNIT) + rounding)
    lo = tau - lost
    lo -= 2 * UNIT * abs(lo) + TINY
    x, info = dpotrs(L, v, lower=1)
    norm = sqrt(float(x @ x)) if info == 0 else inf
    if 0.0 < norm < inf:
        x /= norm
        most = min(most, _rayleigh(K, size, x)[1])
    else:
        x = v
    return Enclosure(lo, most), x


def root(box: Enclosure, slack: float) -> Enclosure:
    """The square root of a number that is not negative and within `slack` of an enclosed one.

    Args:
        box: The enclosure, of an eigenvalue of a stored Gram matrix.
        slack: How far the matrix meant lies from the stored one, in the spectral norm.

    Returns:
        Enclosure of the singular value.

    Example:
        >>> root(Enclosure(4.0, 9.0), 0.0).lo <= 2.0, root(Enclosure(-1.0, 1.0), 3.0).lo
        (True, 0.0)
    """
    if not (isfinite(box.lo) and isfinite(box.hi) and 0.0 <= slack < inf):
        return Enclosure(0.0, inf)
    lo, hi = box.lo - slack, box.hi + slack
    lo -= 2 * UNIT * abs(lo) + TINY
    return Enclosure(
        sqrt(lo) * (1.0 - 4 * UNIT) if lo > 0.0 else 0.0, up(sqrt(up(hi))) if hi > 0.0 else 0.0
    )


def gram_range(A: Array) -> tuple[Enclosure, Enclosure] | None:
    """(sigma_m, sigma_1) of a stored matrix (m, p), m <= p, through A A^T.

    An eigenvalue is lost below about p u |A|_F^2, where `enclose_singular_range` still sees the
    singular value; elsewhere this is several times faster.

    Args:
        A: Finite matrix (m, p).

    Returns:
        The enclosures; None where the least one is wider than a millionth of itself.

    Example:
        >>> found = gram_range(np.array([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0]]))
        >>> [round(x.mid, 9) for x in found]
        [2.0, 3.0]
        >>> gram_range(np.array([[1.0, 0.0], [1.0, 1e-9]])) is None
        True
    """
    m, p = A.shape
    with np.errstate(all="ignore"):
        K = A @ A.T
        K = (K + K.T) / 2  # exactly symmetric already where BLAS fills one triangle
        trace = float(K.trace())
        if m > p or not SMALLEST < trace < LARGEST:
            return None
        slack = up(gamma(p + 4) * trace * (1.0 + 2.0 * gamma(p + m + 4)) + m * m * p * TINY)
        lo, hi = eigenvalue_range(K)
        least = root(Enclosure(float(lo[0]), float(hi[0])), slack)
        largest = root(Enclosure(float(lo[-1]), float(hi[-1])), slack)
    return (least, largest) if least.width <= 1e-6 * least.lo else None
