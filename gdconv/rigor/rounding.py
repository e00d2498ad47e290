"""Floating-point facts that every enclosure rests on: intervals, rounding bounds, exact input.

A sum of k products in any order, in round to nearest, is wrong by at most gamma_k = k u / (1 - k u)
times the sum of absolute values, plus k times the underflow unit (docs/theory/enclosures.md,
section 1). Directed rounding is not used: it cannot be relied on through BLAS.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gdconv.support.errors import InputError

Array = NDArray[np.float64]

UNIT = 2.0**-53
"""Unit roundoff u of float64."""

TINY = 2.0**-1022
"""Bound on the absolute error of one operation that underflows (2^-1075 in fact)."""

SQUARE_TINY = 2.0**-490
"""Covers what the squares inside a norm lose to underflow, for up to 2^40 entries."""


class Enclosure(NamedTuple):
    """A closed interval [lo, hi] that contains the value it stands for.

    Args:
        lo: Lower end.
        hi: Upper end, possibly infinite.

    Example:
        >>> Enclosure(1.0, 3.0).mid, Enclosure(1.0, 3.0).width
        (2.0, 2.0)
    """

    lo: float
    hi: float

    @property
    def mid(self) -> float:
        """Midpoint, computed without overflow."""
        return self.lo + 0.5 * (self.hi - self.lo) if math.isfinite(self.hi - self.lo) else self.hi

    @property
    def width(self) -> float:
        """Hi - lo."""
        return self.hi - self.lo


def at_least(a: Enclosure | float, b: Enclosure | float) -> bool | None:
    """Decide a >= b for enclosed numbers: true, false, or None when the intervals do not tell.

    Args:
        a: Left side, an enclosure or an exact number.
        b: Right side.

    Returns:
        True if every value of a is >= every value of b, False if every value is smaller, else None.

    Example:
        >>> at_least(Enclosure(2.0, 3.0), 1.0), at_least(0.5, Enclosure(1.0, 2.0))
        (True, False)
        >>> at_least(Enclosure(0.0, 3.0), 1.0) is None
        True
    """
    a_lo, a_hi = (a.lo, a.hi) if isinstance(a, Enclosure) else (float(a), float(a))
    b_lo, b_hi = (b.lo, b.hi) if isinstance(b, Enclosure) else (float(b), float(b))
    if a_lo >= b_hi:
        return True
    return False if a_hi < b_lo else None


def gradual_underflow() -> bool:
    """Check the arithmetic the bounds rest on: denormals are kept and rounding is to nearest.

    The mode belongs to the thread and a library can change it, so every enclosure asks again.

    Returns:
        True when neither scalars nor array operations flush denormals and rounding is to nearest.

    Example:
        >>> gradual_underflow()
        True
    """
    x = np.array([TINY, 1.0, -1.0])
    half = x * 0.5
    kept = bool(half[0] > 0.0 and half[0] + half[0] == TINY and half[:1].dot(x[1:2]) > 0.0)
    nearest = bool(x[1] + UNIT == 1.0 and x[2] - UNIT == -1.0 and x[1] + 1.5 * UNIT > 1.0)
    return kept and nearest


def gamma(k: int) -> float:
    """Relative error k u / (1 - k u) of a sum of k products, rounded up.

    Args:
        k: Number of products.

    Returns:
        The bound, rounded up; infinite past k u = 1.

    Example:
        >>> gamma(100) < 1.2e-14
        True
    """
    ku = (k + 1) * UNIT
    return ku / (1.0 - ku) if ku < 1.0 else math.inf


def up(x: float) -> float:
    """Inflate a bound built from a few scalar operations so that their rounding is covered.

    Args:
        x: Non-negative bound, from at most 30 scalar operations.

    Returns:
        A slightly larger number.

    Example:
        >>> up(1.0) > 1.0
        True
    """
    return x * (1.0 + 64 * UNIT) + TINY


def fro_up(A: Array) -> float:
    """Upper bound of the Frobenius norm of the stored A (products, sum and root covered).

    Args:
        A: Any array.

    Returns:
        A number >= |A|_F; may be infinite.

    Example:
        >>> 5.0 <= fro_up(np.array([3.0, 4.0])) < 5.0 + 1e-13
        True
    """
    flat = A.ravel(order="K")
    total = float(np.dot(flat, flat)) + flat.size * TINY
    return up(math.sqrt(total * (1.0 + 2.0 * gamma(flat.size))))


def _holds_masked(B: Any) -> bool:
    if isinstance(B, list | tuple):
        return any(_holds_masked(row) for row in B)
    return isinstance(B, np.ma.MaskedArray)


def _from_sequence(B: Any, field: str) -> NDArray[Any]:
    """Nested sequences and tables: numpy rounds large integers silently, so look at them first."""
    if _holds_masked(B):
        raise InputError(field, "masked rows", "fill the masked entries, with .filled(value)")
    try:
        table = hasattr(B, "to_numpy")  # pandas rounds before it boxes
        boxed = B.to_numpy(dtype=object) if table else np.asarray(B, dtype=object)
        arr = np.asarray(B)
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:
        raise InputError(field, B, "give a rectangular matrix of real numbers") from error
    if any(isinstance(x, int | np.integer) and abs(int(x)) > 2**53 for x in boxed.ravel()):
        raise InputError(field, "an integer above 2^53", "give numbers that float64 holds exactly")
    return arr


def as_matrix(B: ArrayLike, field: str = "B", axes: int = 2, finite: bool = True) -> Array:
    """The same numbers as a float64 array, or an error: nothing is rounded on the way.

    Args:
        B: Numpy array (any strides), torch CPU tensor or nested sequence of real numbers.
        field: Name used in the error.
        axes: Wanted number of axes.
        finite: Whether NaN and infinity are refused.

    Returns:
        Float64 array with that many axes, all entries finite unless that is not asked for.

    Raises:
        InputError: Not a finite real array, or float64 does not hold its entries exactly.

    Example:
        >>> as_matrix([[1, 2], [3, 4]]).dtype
        dtype('float64')
    """
    if isinstance(B, np.ma.MaskedArray):
        raise InputError(field, "a masked array", "fill the masked entries, with .filled(value)")
    if hasattr(B, "detach"):  # torch: a view without the graph
        B = B.detach()
        if str(getattr(B, "device", "cpu")) != "cpu":
            raise InputError(field, "a tensor on another device", "move it to the CPU, with .cpu()")
    try:
        plain = isinstance(B, np.ndarray) or hasattr(B, "device")
        arr = np.asarray(B) if plain else _from_sequence(B, field)
    except (TypeError, RuntimeError) as error:
        raise InputError(field, type(B).__name__, "give a float64 array") from error
    if arr.ndim != axes:
        raise InputError(field, f"an array of shape {arr.shape}", f"give an array with {axes} axes")
    kind = arr.dtype.kind
    if kind == "c":
        raise InputError(field, "a complex matrix", "give its real part or a real matrix")
    if kind not in "fiub":
        raise InputError(field, f"a matrix of type {arr.dtype}", "give real numbers, as float64")
    if kind == "f" and arr.dtype.itemsize > 8:
        raise InputError(field, f"a matrix of type {arr.dtype}", "round it to float64 first")
    if kind in "iu" and arr.size and (int(arr.max()) > 2**53 or int(arr.min()) < -(2**53)):
        raise InputError(field, "an integer above 2^53", "give numbers that float64 holds exactly")
    out: Array = arr.astype(np.float64, copy=False)
    # a sum is finite unless an entry is not, or it overflows: one pass in the common case
    if finite and not math.isfinite(_quiet_sum(out)) and not np.isfinite(out).all():
        raise InputError(field, "a matrix with NaN or infinite entries", "give finite numbers")
    return out


def _quiet_sum(A: Array) -> float:
    with np.errstate(all="ignore"):
        return float(A.sum())
