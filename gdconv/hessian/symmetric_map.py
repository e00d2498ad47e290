"""The gate for symmetric operators: checked, and scaled so that nothing over- or underflows.

A stored matrix is checked entry by entry. Of an operator only products can be seen: a few of them
must be finite and agree with symmetry, which finds mistakes and proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from gdconv.hessian.operators import HessianOperator
from gdconv.rigor.eigen import symmetric
from gdconv.rigor.rounding import Array, fro_up
from gdconv.rigor.svd import exponent
from gdconv.support.errors import InputError

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

SYMMETRY = 1e-5
"""Asymmetry of an operator beyond which it is refused, relative to |A u| and |A v|."""


@dataclass(frozen=True)
class SymmetricMap:
    """A symmetric operator A 2^-exponent, of a size near 1.

    Attributes:
        size: P.
        exponent: A is `product` times 2^exponent.
        frobenius: At least |A|_F 2^-exponent for a stored matrix, an estimate for an operator.
        product: v -> A v 2^-exponent.
    """

    size: int
    exponent: int
    frobenius: float
    product: Callable[[Array], Array]

    def dense(self) -> Array:
        """The matrix, exactly symmetric."""
        H = np.stack([self.product(row) for row in np.eye(self.size)])
        return 0.5 * (H + H.T)


def _image(A: LinearOperator, v: Array, before: int, after: int) -> Array:
    """A v 2^(before + after); the powers of two keep everything in the range of float64."""
    image = np.asarray(A.matvec(np.ldexp(v, before))).reshape(-1)
    if image.dtype.kind not in "fiub":
        raise InputError("A", f"an operator of type {image.dtype}", "give a real one, as float64")
    image = np.ldexp(image.astype(np.float64), after)
    if not np.isfinite(image).all():
        raise InputError("A", "an operator with NaN or infinite products", "give finite ones")
    return image


def _scale(A: LinearOperator, z: Array) -> int:
    """The exponent of A z, tried with z of three sizes; 0 where A z = 0."""
    for power in (0, 500, -500):
        try:
            image = _image(A, z, power, 0)
        except InputError:
            if power < 0:
                raise
        else:
            if image.any():
                return exponent(image) - power
    return 0


def _from_operator(A: LinearOperator, trusted: bool) -> SymmetricMap:
    P = A.shape[0]
    if A.shape != (P, P) or P == 0:
        raise InputError("A", f"an operator of shape {A.shape}", "give a square one")
    if np.dtype(A.dtype if A.dtype is not None else float).kind not in "fiub":
        raise InputError("A", f"an operator of type {A.dtype}", "give a real one, as float64")
    u, v = np.random.default_rng(0).standard_normal((2, P)) / P**0.5
    with np.errstate(all="ignore"):
        e = _scale(A, u)
        half = e // 2
        image = _image(A, u, -half, half - e)
        # E |A u|^2 = |A|_F^2 / P; doubled because one draw may lie below its mean
        frobenius = 2.0 * P**0.5 * float(np.linalg.norm(image))
        made = SymmetricMap(P, e, frobenius, lambda z: _image(A, z.ravel(), -half, half - e))
        if not trusted:
            other = made.product(v)
            sizes = float(np.linalg.norm(image) + np.linalg.norm(other))
            if abs(float(v @ image - u @ other)) > SYMMETRY * sizes:
                raise InputError("A", "an operator that is not symmetric", "give a symmetric one")
    return made


def symmetric_map(A: HessianOperator | LinearOperator | ArrayLike | Any) -> SymmetricMap:
    """A as a checked and scaled symmetric operator.

    Args:
        A: HessianOperator, SciPy operator, tensor, array or nested sequence.

    Returns:
        The operator.

    Raises:
        InputError: A is not symmetric, square, real and finite, or float64 does not hold it.

    Example:
        >>> made = symmetric_map([[3e300, 0.0], [0.0, 1e300]])
        >>> made.size, bool(0.5 <= made.product(np.array([1.0, 0.0]))[0] <= 1.0)
        (2, True)
    """
    from scipy.sparse.linalg import LinearOperator  # a tenth of a second

    if isinstance(A, LinearOperator):
        return _from_operator(A, trusted=False)
    if hasattr(A, "linear_operator"):  # symmetric by construction
        return _from_operator(A.linear_operator(), trusted=True)
    M = symmetric(A, "A")
    e = exponent(M)
    B = np.ldexp(M, -e)
    return SymmetricMap(len(M), e, fro_up(B), lambda v: np.asarray(B @ v.ravel()))
