"""Upper bounds of spectral norms of a stack of matrices, all verified at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gdconv.rigor.rounding import TINY, UNIT, gamma

Array = NDArray[np.float64]

LARGEST = 256
"""Matrices whose smaller side is longer get their Frobenius norm: an eigensystem would cost more
than it gives."""


def up(x: ArrayLike, count: int = 30) -> Array:
    """Inflate bounds made by at most `count` operations on non-negative numbers.

    Args:
        x: Bounds, of any shape; NaN (zero times infinity) becomes infinity.
        count: Operations, or terms of a sum.

    Returns:
        Slightly larger numbers.

    Example:
        >>> bool(up(np.array([1.0, np.nan]))[0] > 1.0), float(up(np.array([np.nan]))[0])
        (True, inf)
    """
    raised = np.asarray(x) * (1.0 + 2.0 * (count + 2) * UNIT) + TINY
    return np.where(np.isnan(raised), np.inf, raised)


def length(x: Array) -> Array:
    """Upper bound of the Euclidean norm along the last axis.

    Args:
        x: Array (..., L).

    Returns:
        Norms (...); an infinite entry gives infinity.

    Example:
        >>> bool(5.0 <= length(np.array([3.0, 4.0])) < 5.0 + 1e-13)
        True
    """
    if x.shape[-1] == 0:
        return np.zeros(x.shape[:-1])
    with np.errstate(all="ignore"):
        top = np.abs(x).max(axis=-1)
        e = np.frexp(np.where(np.isfinite(top), top, 1.0))[1]
        scaled = np.ldexp(x, -e[..., None])
        square = np.einsum("...k,...k->...", scaled, scaled)
        norm = up(np.sqrt(square + x.shape[-1] * TINY), x.shape[-1] + 8)
        return up(np.where(top == 0.0, 0.0, np.ldexp(norm, e)))


def spectral(A: Array) -> Array:
    """Upper bound of the spectral norm of each matrix of a stack.

    With G = A A^T, A the wide side, and any V, w: |A|^2 <= max|w| |V|^2 + |G - V diag(w) V^T|. V
    and w are LAPACK's eigensystem, and nothing about it is trusted (the proof of norm2_upper).

    Args:
        A: Stack (..., m, p).

    Returns:
        Bounds (...), never above the Frobenius norm; infinite where an entry is not finite.

    Example:
        >>> A = np.array([[[3.0, 0.0], [0.0, 2.0]], [[0.0, 0.0], [0.0, 0.0]]])
        >>> bool(3.0 <= spectral(A)[0] < 3.0 + 1e-12), bool(spectral(A)[1] < 1e-300)
        (True, True)
    """
    m, p = A.shape[-2:]
    if m > p:
        A, m, p = np.swapaxes(A, -1, -2), p, m
    frobenius = length(A.reshape(*A.shape[:-2], m * p))
    if m <= 1 or m > LARGEST or A.size == 0:
        return frobenius
    with np.errstate(all="ignore"):
        usable = np.isfinite(frobenius)
        e = np.frexp(np.where(usable, frobenius, 1.0))[1]
        B = np.ldexp(np.where(usable[..., None, None], A, 0.0), -e[..., None, None])
        G = B @ np.swapaxes(B, -1, -2)
        try:
            w, V = np.linalg.eigh(G)
        except np.linalg.LinAlgError:
            return frobenius
        Vt, eye = np.swapaxes(V, -1, -2), np.eye(m)
        size = _flat(V)
        defect = _flat(Vt @ V - eye) + gamma(m + 2) * size**2
        Vw = V * w[..., None, :]
        rest = _flat(G - Vw @ Vt) + 2.0 * gamma(m + 2) * _flat(Vw) * size
        rest += gamma(p + 3) + m * m * p * TINY  # |B|_F <= 1
        square = np.abs(w).max(axis=-1) * (1.0 + defect) + rest
        bound = up(np.ldexp(up(np.sqrt(up(square))), e))
        return np.where(usable, np.fmin(bound, frobenius), np.inf)


def _flat(A: Array) -> Array:
    return length(A.reshape(*A.shape[:-2], -1))
