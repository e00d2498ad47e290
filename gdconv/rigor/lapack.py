"""Decompositions that do not give up at the first driver.

LAPACK's divide and conquer (`gesdd`, `syevd`) fails now and then at ordinary condition numbers,
with an error or with NaN; a slower driver then nearly always succeeds. Nothing here is verified:
what a proof rests on is checked by whoever asked (`gdconv.rigor.svd`, `gdconv.rigor.eigen`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Factors = tuple[NDArray[Any], ...]


def _usable(parts: Factors) -> bool:
    return all(bool(np.isfinite(part).all()) for part in parts)


def _first(A: NDArray[Any], name: str, drivers: list[Callable[[NDArray[Any]], Factors]]) -> Factors:
    """The first driver's answer that is finite, for a matrix or each of a stack of them."""
    if not np.isfinite(A).all():  # no driver can help
        raise np.linalg.LinAlgError(f"{name} of a matrix with NaN or infinite entries")
    for driver in drivers:
        try:
            parts = driver(A)
        except (np.linalg.LinAlgError, ValueError):  # scipy reports some failures as ValueError
            continue
        if _usable(parts):
            return parts
    raise np.linalg.LinAlgError(f"{name} did not converge with any of {len(drivers)} drivers")


def _each(A: NDArray[Any], one: Callable[[NDArray[Any]], Factors]) -> Factors:
    """A decomposition of every matrix of a stack (..., m, p), stacked again."""
    if A.ndim == 2:
        return one(A)
    found = [one(M) for M in A.reshape(-1, *A.shape[-2:])]
    return tuple(
        np.stack(part).reshape(*A.shape[:-2], *part[0].shape) for part in zip(*found, strict=True)
    )


def _gesvd(A: NDArray[Any], full_matrices: bool) -> Factors:
    from scipy.linalg import svd as decompose  # scipy loads slowly: only where it is needed

    found: Factors = decompose(A, full_matrices, lapack_driver="gesvd")
    return found


def _through_gram(A: NDArray[Any]) -> Factors:
    """The thin SVD from eigenvectors Q of the smaller Gram matrix and a QR of A Q: a rough one."""
    if A.shape[0] < A.shape[1]:
        V, s, Ut = _through_gram(A.T)
        return Ut.T, s, V.T
    Q = eigh(A.T @ A)[1][:, ::-1]
    U, R = np.linalg.qr(A @ Q)
    sizes = np.diag(R)
    signs = np.where(sizes < 0.0, -1.0, 1.0)
    order = np.argsort(-np.abs(sizes), kind="stable")
    return (U * signs)[:, order], np.abs(sizes)[order], Q.T[order]


def svd(A: NDArray[Any], full_matrices: bool = False) -> Factors:
    """U, s, V^T of a matrix or a stack: gesdd, else gesvd, else (thin only) the Gram matrix's way.

    Args:
        A: Real array (..., m, p).
        full_matrices: Square U and V^T.

    Returns:
        U, s (descending) and V^T, all finite.

    Raises:
        numpy.linalg.LinAlgError: No driver converges, or A is not finite.

    Example:
        >>> U, s, Vt = svd(np.array([[3.0, 0.0], [0.0, 2.0]]))
        >>> np.allclose(s, [3.0, 2.0]), np.allclose((U * s) @ Vt, [[3.0, 0.0], [0.0, 2.0]])
        (True, True)
    """
    drivers: list[Callable[[NDArray[Any]], Factors]] = [
        lambda M: tuple(np.linalg.svd(M, full_matrices=full_matrices)),
        lambda M: _each(M, lambda one: _gesvd(one, full_matrices)),
    ]
    if not full_matrices:
        drivers.append(lambda M: _each(M, _through_gram))
    return _first(A, "SVD", drivers)


def eigh(A: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Eigenvalues (ascending) and eigenvectors of a symmetric matrix: syevd, else syevr, else syev.

    Args:
        A: Symmetric array (m, m); the lower triangle is read.

    Returns:
        w (m,) and V (m, m), both finite.

    Raises:
        numpy.linalg.LinAlgError: No driver converges, or A is not finite.

    Example:
        >>> eigh(np.diag([2.0, 1.0]))[0].round(12).tolist()
        [1.0, 2.0]
    """

    def other(driver: Literal["evr", "ev"]) -> Callable[[NDArray[Any]], Factors]:
        def decompose(M: NDArray[Any]) -> Factors:
            from scipy.linalg import eigh as decomposed

            found: Factors = decomposed(M, driver=driver)
            return found

        return decompose

    w, V = _first(
        A, "eigendecomposition", [lambda M: tuple(np.linalg.eigh(M)), other("evr"), other("ev")]
    )
    return w, V


def singular_values(A: NDArray[Any]) -> NDArray[Any]:
    """Singular values, descending, with the drivers of `svd`.

    Args:
        A: Real array (..., m, p).

    Returns:
        Array (..., min(m, p)).

    Raises:
        numpy.linalg.LinAlgError: No driver converges, or A is not finite.

    Example:
        >>> singular_values(np.array([[3.0, 0.0], [0.0, 2.0]])).round(12).tolist()
        [3.0, 2.0]
    """
    drivers: list[Callable[[NDArray[Any]], Factors]] = [
        lambda M: (np.linalg.svd(M, compute_uv=False),),
        lambda M: svd(M)[1:2],
    ]
    return _first(A, "SVD", drivers)[0]


def spectral_norm(A: NDArray[Any]) -> NDArray[Any]:
    """|A|_2 of a matrix or of each of a stack; 0 where it is empty.

    Args:
        A: Real array (..., m, p).

    Returns:
        Array of shape (...), a number for one matrix.

    Raises:
        numpy.linalg.LinAlgError: No driver converges, or A is not finite.

    Example:
        >>> spectral_norm(np.stack([np.eye(2), 3.0 * np.eye(2)])).tolist()
        [1.0, 3.0]
    """
    if not A.size:
        return np.zeros(A.shape[:-2])
    return np.asarray(singular_values(A)[..., 0])
