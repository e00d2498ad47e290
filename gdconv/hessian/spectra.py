"""Eigenvalues of a Hessian with error bars: extremes by Lanczos, all of them for small matrices.

For symmetric A and a unit vector v, some eigenvalue lies within |A v - l v| of l; and
lambda_min <= v^T A v <= lambda_max for every v, so the Rayleigh quotients are bounds of their own
from inside. That Lanczos has found the outermost eigenvalues is an estimate, not proved by
residuals; where a proof is needed and P is small, `eigenvalue_bounds` bounds every eigenvalue of
the stored matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from gdconv.hessian.dense import hessian
from gdconv.hessian.layer import AttentionLayer
from gdconv.hessian.operators import HessianOperator
from gdconv.hessian.symmetric_map import SymmetricMap, symmetric_map
from gdconv.rigor.eigen import eigenvalue_range, symmetric
from gdconv.rigor.lapack import eigh, spectral_norm
from gdconv.rigor.rounding import UNIT, Array, fro_up, gamma, up
from gdconv.support.errors import InputError

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

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
        error: Bound of |A v - value v| / |v|: an eigenvalue of A lies within it of `value`. For a
            stored matrix every rounding is covered; for an operator the rounding of its product
            is not known, and `error` is an estimate. That no eigenvalue lies further out is an
            estimate in both cases.
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


def _pair(A: SymmetricMap, vector: Array) -> Eigenpair:
    """Rayleigh quotient and residual in the units of A, the operator applied once more."""
    v = vector / np.linalg.norm(vector)
    image, P = A.product(v), len(v)
    value = float(v @ image)
    # |v| is 1 within (P + 4) u; gamma_P |A|_F is what A v may have lost, 2 u |value| the difference
    residual = fro_up(image - value * v) + (gamma(P + 4) * A.frobenius + 2 * UNIT * abs(value))
    error = up(residual * (1 + 2 * gamma(P + 4)))
    return Eigenpair(float(np.ldexp(value, A.exponent)), v, float(np.ldexp(error, A.exponent)))


def _arnoldi(A: LinearOperator, count: int, start: Array, tolerance: float) -> tuple[Array, Array]:
    """Eigenpairs of largest magnitude; the best there are where ARPACK does not converge."""
    from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, eigsh  # a tenth of a second

    for tried in (tolerance, max(tolerance, 1e-2)):
        try:
            w, V = eigsh(A, k=count, which="LM", v0=start, tol=tried, maxiter=MAX_RESTARTS)
            return w, V
        except ArpackNoConvergence as failure:
            if len(failure.eigenvalues):
                return np.real(failure.eigenvalues), np.real(failure.eigenvectors)
        except ArpackError:  # A start = 0
            break
    v = start / np.linalg.norm(start)
    return np.array([v @ A.matvec(v)]), v[:, None]


def _independent(Q: Array, V: Array) -> Array:
    """Columns of V made orthonormal to those of Q and to each other, dependent ones left out."""
    for v in V.T:
        rest = v / np.linalg.norm(v)
        for _ in range(2):
            rest = rest - Q @ (Q.T @ rest)
        size = float(np.linalg.norm(rest))
        if size > 0.1:
            Q = np.column_stack([Q, rest / size])
    return Q


def _outermost(
    moved: LinearOperator, count: int, rng: np.random.Generator, tolerance: float, size: float
) -> Array:
    """Orthonormal vectors of the `count` greatest eigenvalues of a positive definite operator.

    A single start vector sees one vector of every multiple eigenvalue, so Lanczos is run again on
    the complement of what was found, until that holds nothing greater: each run but the last finds
    one more of the leading vectors.

    Args:
        moved: The operator.
        count: How many.
        rng: Draws the start vectors.
        tolerance: Relative to `size`.
        size: About the norm of the operator.

    Returns:
        Vectors (P, count).
    """
    from scipy.sparse.linalg import LinearOperator

    P = moved.shape[0]
    Q: Array = np.empty((P, 0))
    least = -inf  # of the values that belong to Q, once there are `count`
    for _ in range(count + 1):

        def deflated(v: Array, Q: Array = Q) -> Array:
            v = v.ravel()
            image = moved.matvec(v - Q @ (Q.T @ v))
            rest: Array = image - Q @ (Q.T @ image)
            return rest

        start = rng.standard_normal(P)
        start -= Q @ (Q.T @ start)
        w, V = _arnoldi(LinearOperator((P, P), deflated, dtype=np.float64), count, start, tolerance)
        wider = _independent(Q, V)
        images = np.column_stack([moved.matvec(v) for v in wider.T])
        values, turned = eigh(0.5 * (wider.T @ images + images.T @ wider))
        Q = wider @ turned[:, ::-1][:, :count]
        if count == 1 or float(w.max()) <= least + tolerance * size:
            break
        least = float(values[-count]) if Q.shape[1] == count else -inf
    if Q.shape[1] < count:  # nothing converged: the residuals will tell
        Q = _independent(Q, rng.standard_normal((P, count - Q.shape[1])))
    return Q


def extreme_eigenpairs(
    A: HessianOperator | LinearOperator | ArrayLike,
    count: int = 1,
    side: str = "largest",
    tolerance: float = 1e-8,
    seed: int | Sequence[int] = 0,
) -> list[Eigenpair]:
    """Outermost eigenpairs by deflated Lanczos, each with its residual: an estimate.

    Multiple eigenvalues are found with their multiplicity. Up to `DENSE` rows, or 2 `count`, all
    eigenvalues are computed instead.

    Args:
        A: Symmetric operator: a HessianOperator, a SciPy operator or a matrix.
        count: How many.
        side: "largest" or "smallest" (algebraically).
        tolerance: Accuracy asked of Lanczos, relative to |A|; the errors are measured afterwards.
        seed: Of the start vectors.

    Returns:
        `count` pairs, the outermost first. Where Lanczos does not converge, the best it has found.

    Raises:
        InputError: Unknown side or count, or A is not symmetric, square, real and finite.

    Example:
        >>> (pair,) = extreme_eigenpairs(np.diag([1.0, -3.0, 2.0]), side="smallest")
        >>> round(pair.value, 12), pair.error < 1e-12
        (-3.0, True)
        >>> [round(p.value, 12) for p in extreme_eigenpairs(np.eye(100), count=3)]
        [1.0, 1.0, 1.0]
    """
    made = symmetric_map(A)
    P = made.size
    if side not in ("largest", "smallest"):
        raise InputError("side", side, "choose largest or smallest")
    if not (isinstance(count, int | np.integer) and 1 <= count <= P):
        raise InputError("count", count, f"give a whole number from 1 to {P}")
    largest, count = side == "largest", int(count)
    if max(DENSE, 2 * count) >= P:
        V = eigh(made.dense())[1]
        chosen = V[:, ::-1][:, :count] if largest else V[:, :count]
    else:
        from scipy.sparse.linalg import LinearOperator

        rng, sign = np.random.default_rng(seed), 1.0 if largest else -1.0
        plain = LinearOperator((P, P), made.product, dtype=np.float64)
        start = rng.standard_normal(P)
        size = abs(float(_arnoldi(plain, 1, start, 1e-2)[0][0]))
        # ARPACK's tolerance is relative to the eigenvalue: after the shift, to the norm of A. All
        # eigenvalues are then about `size` at least, what was deflated is 0
        shift = 2.0 * size if size > 0.0 else 1.0
        moved = LinearOperator(
            (P, P), lambda v: sign * made.product(v) + shift * v, dtype=np.float64
        )
        chosen = _outermost(moved, count, rng, tolerance, size)
    pairs = [_pair(made, v) for v in chosen.T]
    return sorted(pairs, key=lambda p: p.value, reverse=largest)


def negative_curvature(
    A: HessianOperator | LinearOperator | ArrayLike, tolerance: float = 1e-5, seed: int = 0
) -> Eigenpair | None:
    """A direction v with v^T A v < 0 beyond rounding, or None where Lanczos finds none.

    The Rayleigh quotient itself is the proof, no convergence is needed for it; the proof covers all
    rounding of a stored matrix and estimates that of an operator's product.

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
    made, P = symmetric_map(A), len(pair.vector)
    # v^T fl(A v) is wrong by gamma_P |A|_F in each of its two products, |v| = 1 within (P + 4) u
    rounding = up(2 * gamma(P + 4) * made.frobenius * (1 + 4 * gamma(P + 4)))
    return pair if pair.value < -float(np.ldexp(rounding, made.exponent)) else None


def eigenvalue_bounds(H: ArrayLike) -> tuple[Float[np.ndarray, " P"], Float[np.ndarray, " P"]]:
    """Rigorous bounds of every eigenvalue of a stored symmetric matrix.

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
    return eigenvalue_range(symmetric(H, "H"))


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
            (np.linalg.norm if norm == "fro" else spectral_norm)(H[where[row], where[column]])
        )
        for i, row in enumerate(layer.names)
        for column in layer.names[i:]
    }
