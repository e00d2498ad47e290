"""Eigenvalues of a Hessian with error bounds: extremes by Lanczos, all of them for small matrices.

For symmetric A and a unit vector v, some eigenvalue lies within |A v - l v| of l; and
lambda_min <= v^T A v <= lambda_max for every v, so the Rayleigh quotients are bounds of their own
from inside. That Lanczos has found the outermost eigenvalue is not proved by a residual; where a
proof is needed and P is small, `eigenvalue_bounds` bounds every eigenvalue of the stored matrix.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.sparse.linalg import (
    ArpackError,
    ArpackNoConvergence,
    LinearOperator,
    aslinearoperator,
    eigsh,
)

from gdconv.errors import InputError
from gdconv.hessian.blocks import hessian
from gdconv.hessian.layer import AttentionLayer
from gdconv.hessian.operators import HessianOperator
from gdconv.rounding import UNIT, Array, fro_up, gamma, up
from gdconv.verified import gram_defect, prepared

DENSE = 48
"""Up to this size all eigenvalues are computed; ARPACK wants some room."""


MAX_RESTARTS = 300
"""Restarts of Lanczos before the pairs are taken as they are."""


@dataclass(frozen=True)
class Eigenpair:
    """An approximate eigenpair of a symmetric operator A.

    Attributes:
        value: Rayleigh quotient v^T A v.
        vector: Unit vector v.
        error: |A v - value v|: an eigenvalue of A lies within it of `value`.
    """

    value: float
    vector: Float[np.ndarray, " P"]
    error: float


@dataclass(frozen=True)
class Inertia:
    """Signs of the eigenvalues of a stored symmetric matrix.

    Attributes:
        positive: How many are certainly > 0.
        negative: How many are certainly < 0.
        undecided: How many are zero within their error bounds.
    """

    positive: int
    negative: int
    undecided: int


def _operator(A: Any) -> LinearOperator:
    """A as a SciPy operator: HessianOperator, LinearOperator, tensor or array."""
    if isinstance(A, LinearOperator):
        return A
    if hasattr(A, "linear_operator"):
        made: LinearOperator = A.linear_operator()
        return made
    return aslinearoperator(np.asarray(A, dtype=np.float64))


def _pair(A: LinearOperator, vector: np.ndarray) -> Eigenpair:
    """Rayleigh quotient and residual, the operator applied once more."""
    v = vector / np.linalg.norm(vector)
    image = A.matvec(v)
    value = float(v @ image)
    slack = 4 * UNIT * (len(v) ** 0.5) * float(np.linalg.norm(image))  # of the sums here
    return Eigenpair(value, v, float(np.linalg.norm(image - value * v)) + slack)


def _arnoldi(
    A: LinearOperator, count: int, start: np.ndarray, tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Eigenpairs of largest magnitude; the best there are where ARPACK does not converge."""
    try:
        w, V = eigsh(A, k=count, which="LM", v0=start, tol=tolerance, maxiter=MAX_RESTARTS)
        return w, V
    except ArpackNoConvergence as failure:
        if len(failure.eigenvalues):
            return failure.eigenvalues, failure.eigenvectors
    except ArpackError:  # A start = 0
        pass
    v = start / np.linalg.norm(start)
    return np.array([v @ A.matvec(v)]), v[:, None]


def extreme_eigenpairs(
    A: HessianOperator | LinearOperator | ArrayLike,
    count: int = 1,
    side: str = "largest",
    tolerance: float = 1e-8,
    seed: int = 0,
) -> list[Eigenpair]:
    """Outermost eigenpairs by Lanczos, each with its residual.

    Args:
        A: Symmetric operator: a HessianOperator, a SciPy operator or a matrix.
        count: How many.
        side: "largest" or "smallest" (algebraically).
        tolerance: Relative accuracy asked of Lanczos; the errors are measured afterwards.
        seed: Of the start vector.

    Returns:
        Pairs, the outermost first. Where Lanczos does not converge, the best it has found.

    Raises:
        InputError: Unknown side or count.

    Example:
        >>> (pair,) = extreme_eigenpairs(np.diag([1.0, -3.0, 2.0]), side="smallest")
        >>> round(pair.value, 12), pair.error < 1e-12
        (-3.0, True)
    """
    made = _operator(A)
    P = made.shape[0]
    if side not in ("largest", "smallest"):
        raise InputError("side", side, "choose largest or smallest")
    if not 1 <= count <= P:
        raise InputError("count", count, f"give a whole number from 1 to {P}")
    if max(DENSE, 2 * count) >= P:
        H = np.stack([made.matvec(row) for row in np.eye(P)])
        V = np.linalg.eigh(0.5 * (H + H.T))[1]
        chosen = V[:, ::-1][:, :count] if side == "largest" else V[:, :count]
    else:
        start = np.random.default_rng(seed).standard_normal(P)
        sign = 1.0 if side == "largest" else -1.0
        size = abs(float(_arnoldi(made, 1, start, 1e-2)[0][0]))
        # ARPACK's tolerance is relative to the eigenvalue: after the shift, to the norm of A
        moved = LinearOperator((P, P), lambda v: sign * made.matvec(v) + size * v, dtype=np.float64)
        chosen = _arnoldi(moved, count, start, tolerance)[1]
    pairs = [_pair(made, v) for v in chosen.T]
    return sorted(pairs, key=lambda p: p.value, reverse=side == "largest")


def negative_curvature(
    A: HessianOperator | LinearOperator | ArrayLike, tolerance: float = 1e-5, seed: int = 0
) -> Eigenpair | None:
    """A direction v with v^T A v < 0 beyond rounding, or None where Lanczos finds none.

    The Rayleigh quotient itself is the proof: no convergence is needed for it.

    Args:
        A: Symmetric operator.
        tolerance: Relative accuracy asked of Lanczos.
        seed: Of the start vector.

    Returns:
        The pair of the smallest eigenvalue found, if negative.

    Example:
        >>> pair = negative_curvature(np.diag([1.0, -3.0, 2.0]))
        >>> round(abs(float(pair.vector[1])), 12)
        1.0
        >>> negative_curvature(np.eye(2)) is None
        True
    """
    (pair,) = extreme_eigenpairs(A, 1, "smallest", tolerance, seed)
    size = abs(_operator(A).matvec(pair.vector)).sum()
    return pair if pair.value < -8 * UNIT * len(pair.vector) * float(size) else None


def eigenvalue_bounds(H: ArrayLike) -> tuple[Float[np.ndarray, " P"], Float[np.ndarray, " P"]]:
    """Rigorous bounds of every eigenvalue of a stored symmetric matrix.

    LAPACK's V, w are a guess: with e >= |V^T V - I| and res >= |H - V diag(w) V^T|, Ostrowski's
    theorem and Weyl's inequality give |lambda_i - w_i| <= e |w_i| + res, rounding included.

    Args:
        H: Symmetric matrix (P, P).

    Returns:
        Lower and upper ends, ascending.

    Raises:
        InputError: H is no finite real symmetric matrix.

    Example:
        >>> lo, hi = eigenvalue_bounds([[2.0, 1.0], [1.0, 2.0]])
        >>> bool((lo <= [1.0, 3.0]).all() and (hi >= [1.0, 3.0]).all())
        True
    """
    A = prepared(H, "H")
    if A.shape[0] != A.shape[1] or not np.array_equal(A, A.T):
        raise InputError("H", f"a matrix of shape {A.shape}", "give a symmetric matrix")
    size = float(np.abs(A).max())
    if size == 0.0:
        return np.zeros(len(A)), np.zeros(len(A))
    shift = int(np.frexp(size)[1])  # scaled by a power of two: exact, barring underflow
    B: Array = np.ldexp(A, -shift)
    P, slack = len(B), float(len(B)) ** 2 * 1e-300
    w, V = np.linalg.eigh(B)
    norm = fro_up(V)
    scaled = V * w
    rounding = 2 * (gamma(P) + UNIT) * fro_up(scaled) * norm + UNIT * fro_up(B)
    error = up(fro_up(B - scaled @ V.T) + rounding + slack)
    defect = gram_defect(V, norm)
    if not (defect < 1.0 and error < inf):  # no guess: the norm bounds everything
        w, error, defect = np.zeros(P), fro_up(B) + slack, 0.0
    swing = (np.abs(w) * defect + error) * (1 + 8 * UNIT)
    lo, hi = np.ldexp(w - swing, shift), np.ldexp(w + swing, shift)
    return np.nextafter(lo, -inf), np.nextafter(hi, inf)


def inertia(H: ArrayLike, slack: float = 0.0) -> Inertia:
    """How many eigenvalues of a stored symmetric matrix are positive, negative, undecided.

    Args:
        H: Symmetric matrix.
        slack: Distance in the spectral norm of H to the matrix meant, for instance its rounding.

    Returns:
        The counts.

    Raises:
        InputError: `slack` is negative.

    Example:
        >>> inertia(np.diag([1.0, -3.0, 0.0]))
        Inertia(positive=1, negative=1, undecided=1)
    """
    if not 0.0 <= slack < inf:
        raise InputError("slack", slack, "give a number of at least 0")
    lo, hi = eigenvalue_bounds(H)
    positive, negative = int((lo > slack).sum()), int((hi < -slack).sum())
    return Inertia(positive, negative, len(lo) - positive - negative)


def block_norms(
    layer: AttentionLayer, part: str = "total", norm: str = "fro"
) -> dict[tuple[str, str], float]:
    """Norm of every block, one per unordered pair of weights.

    Args:
        layer: Data, weights and options.
        part: "total", "outer" or "functional".
        norm: "fro" (all entries squared) or "spectral".

    Returns:
        Norms by (row, column), rows not after columns in `layer.names`.

    Raises:
        InputError: Unknown norm.

    Example:
        >>> import torch
        >>> from gdconv.hessian.layer import attention_layer
        >>> eye = torch.eye(3, dtype=torch.float64)
        >>> norms = block_norms(attention_layer(eye, eye, W_V=eye, W_QK=eye))
        >>> list(norms)
        [('W_QK', 'W_QK'), ('W_QK', 'W_V'), ('W_V', 'W_V')]
    """
    if norm not in ("fro", "spectral"):
        raise InputError("norm", norm, "choose fro or spectral")
    H = hessian(layer, None, part).cpu().double().numpy()
    ends = np.cumsum((0, *layer.sizes()))
    where = {name: slice(ends[i], ends[i + 1]) for i, name in enumerate(layer.names)}
    return {
        (row, column): float(
            np.linalg.norm(H[where[row], where[column]], "fro" if norm == "fro" else 2)
        )
        for i, row in enumerate(layer.names)
        for column in layer.names[i:]
    }
