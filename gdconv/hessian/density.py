"""Spectral density by stochastic Lanczos quadrature, with error estimates.

For a random unit vector z, m steps of Lanczos give Ritz values t_k and weights w_k = (e_1^T u_k)^2
with sum_k w_k f(t_k) = z^T f(A) z for all polynomials f of degree < 2 m; the mean over z is
tr f(A) / P. The density is that sum for f = a Gaussian of width sigma. Two errors: of the mean over
few z (its standard error), and of the quadrature (the change from m to about m/2 steps).
Source: Ubaru, Chen, Saad, SIAM J. Matrix Anal. Appl. 2017.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.linalg import eigh_tridiagonal
from scipy.sparse.linalg import LinearOperator

from gdconv.hessian.operators import HessianOperator
from gdconv.hessian.symmetric_map import SymmetricMap, symmetric_map
from gdconv.rigor.rounding import Array, as_matrix
from gdconv.rigor.svd import exponent
from gdconv.support.errors import InputError


@dataclass(frozen=True)
class Density:
    """Smoothed spectral density phi(t) = (1/P) sum_i N(t; lambda_i, sigma^2).

    Attributes:
        grid: Where it is given.
        value: Estimate of phi there.
        error: Standard error over the probes plus the change from half as many Lanczos steps.
        width: sigma.
        trace: Estimate of tr A.
        trace_error: Its standard error.
        square: Estimate of tr A^2 = |A|_F^2.
        square_error: Its standard error.
        lowest: Least Ritz value, >= lambda_min up to rounding.
        highest: Largest Ritz value, <= lambda_max up to rounding.
    """

    grid: Float[np.ndarray, " G"]
    value: Float[np.ndarray, " G"]
    error: Float[np.ndarray, " G"]
    width: float
    trace: float
    trace_error: float
    square: float
    square_error: float
    lowest: float
    highest: float


def lanczos(
    A: HessianOperator | LinearOperator | ArrayLike, start: Float[np.ndarray, " P"], steps: int
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " l"]]:
    """Tridiagonal matrix of Lanczos with full reorthogonalisation.

    Args:
        A: HessianOperator, SciPy operator or matrix, symmetric.
        start: Start vector.
        steps: At most so many steps; fewer where the Krylov space is exhausted.

    Returns:
        Diagonal (m) and off-diagonal (m - 1).

    Raises:
        InputError: A is not symmetric, square, real and finite; start is no vector for it or zero;
            steps is below 1.

    Example:
        >>> from scipy.sparse.linalg import aslinearoperator
        >>> diagonal, beside = lanczos(aslinearoperator(np.diag([1.0, 3.0])), np.ones(2), 5)
        >>> diagonal.round(12).tolist(), beside.round(12).tolist()
        ([2.0, 2.0], [1.0])
    """
    made = symmetric_map(A)
    first = as_matrix(start, "start", 1)
    if first.shape != (made.size,) or not first.any():
        raise InputError("start", f"an array of shape {first.shape}", "give a vector that is not 0")
    if steps < 1:
        raise InputError("steps", steps, "give at least 1")
    e, largest = made.exponent, exponent(first[None])
    diagonal, beside = _lanczos(made, np.ldexp(first, -largest), steps)
    return np.ldexp(diagonal, e), np.ldexp(beside, e)


def _lanczos(A: SymmetricMap, start: Array, steps: int) -> tuple[Array, Array]:
    """The tridiagonal matrix in the units of the scaled operator."""
    P = len(start)
    basis = np.empty((min(steps, P), P))
    basis[0] = start / np.linalg.norm(start)
    diagonal: list[float] = []
    beside: list[float] = []
    for j in range(len(basis)):
        w = A.product(basis[j])
        size = float(np.linalg.norm(w))
        diagonal.append(float(basis[j] @ w))
        for _ in range(2):
            w = w - basis[: j + 1].T @ (basis[: j + 1] @ w)
        rest = float(np.linalg.norm(w))
        if j + 1 == len(basis) or rest <= 1e-13 * size:
            break
        beside.append(rest)
        basis[j + 1] = w / rest
    return np.array(diagonal), np.array(beside)


def _quadrature(diagonal: np.ndarray, beside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    nodes, vectors = eigh_tridiagonal(diagonal, beside)
    return nodes, vectors[0] ** 2


def _smooth(nodes: np.ndarray, weights: np.ndarray, grid: np.ndarray, width: float) -> np.ndarray:
    z = (grid[:, None] - nodes) / width
    smoothed: np.ndarray = np.exp(-0.5 * z**2) @ weights / (width * np.sqrt(2 * np.pi))
    return smoothed


def spectral_density(
    A: HessianOperator | LinearOperator | ArrayLike,
    probes: int = 16,
    steps: int = 64,
    width: float | None = None,
    points: int = 256,
    seed: int = 0,
) -> Density:
    """Density of the eigenvalues of a symmetric operator.

    Args:
        A: HessianOperator, SciPy operator or matrix.
        probes: Random vectors, at least 2; the error falls with their square root.
        steps: Lanczos steps for each.
        width: sigma of the Gaussians; for None a hundredth of the range of Ritz values, 1e-12 of
            their size where they are equal, 0.01 where all are zero.
        points: Points of the grid.
        seed: Of the random vectors.

    Returns:
        The density with its errors, and estimates of tr A and tr A^2.

    Raises:
        InputError: Fewer than 2 probes, 2 steps or 2 points, or a width that is not positive.

    Example:
        >>> found = spectral_density(np.diag(np.linspace(-1.0, 1.0, 50)), seed=1)
        >>> abs(found.trace) <= 4 * found.trace_error
        True
        >>> round(float(found.value.sum() * (found.grid[1] - found.grid[0])), 2)
        1.0
    """
    if min(probes, steps, points) < 2:
        raise InputError("probes, steps, points", (probes, steps, points), "give at least 2 each")
    if width is not None and not 0 < width < inf:
        raise InputError("width", width, "give a positive number")
    made, rng = symmetric_map(A), np.random.default_rng(seed)
    P, e = made.size, made.exponent  # everything below is in units of 2^e
    rules, halves = [], []
    for _ in range(probes):
        diagonal, beside = _lanczos(made, rng.standard_normal(P), steps)
        rules.append(_quadrature(diagonal, beside))
        full = len(diagonal) < steps  # an exhausted Krylov space: the quadrature is exact
        half = len(diagonal) if full else max(2, (len(diagonal) + 1) // 2)
        halves.append(_quadrature(diagonal[:half], beside[: half - 1]))
    lowest = float(min(nodes[0] for nodes, _ in rules))
    highest = float(max(nodes[-1] for nodes, _ in rules))
    size = max(abs(lowest), abs(highest))
    sigma = max((highest - lowest) / 100, 1e-12 * size) if size > 0 else 0.01
    if width is not None:
        with np.errstate(all="ignore"):
            sigma = float(np.ldexp(width, -e))
        if not 1e-150 <= sigma <= 1e150:
            remedy = "give one nearer to the range of the eigenvalues"
            raise InputError("width", width, remedy)
    grid = np.linspace(lowest - 5 * sigma, highest + 5 * sigma, points)
    each = np.stack([_smooth(*rule, grid, sigma) for rule in rules])
    coarse = np.stack([_smooth(*rule, grid, sigma) for rule in halves])
    root = probes**0.5
    error = each.std(0, ddof=1) / root + np.abs(each.mean(0) - coarse.mean(0))
    moments = P * np.array([[weights @ nodes, weights @ nodes**2] for nodes, weights in rules])
    mean, spread = moments.mean(0), moments.std(0, ddof=1) / root
    with np.errstate(all="ignore"):  # infinite or 0 where float64 does not hold the value
        return Density(
            np.ldexp(grid, e),
            np.ldexp(each.mean(0), -e),
            np.ldexp(error, -e),
            float(np.ldexp(sigma, e)),
            float(np.ldexp(mean[0], e)),
            float(np.ldexp(spread[0], e)),
            float(np.ldexp(mean[1], 2 * e)),
            float(np.ldexp(spread[1], 2 * e)),
            float(np.ldexp(lowest, e)),
            float(np.ldexp(highest, e)),
        )
