"""Arrays that someone gave, as float64: the same numbers, or one sentence that says why not."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from gdconv.support.errors import InputError

LARGEST_ENTRY = 1e100
"""Larger entries overflow when a loss squares them."""

LARGE, SMALLER = "an integer above 2^53", "give numbers that float64 holds exactly"


def real_array(field: str, value: Any) -> tuple[np.ndarray, list[str]]:
    """A float64 copy of an array that someone gave, checked entry by entry.

    Args:
        field: Its name, for errors.
        value: NumPy, torch or nested lists.

    Returns:
        The copy, and a note in a list if it came in another floating type.

    Raises:
        InputError: Masked, ragged, not real numbers, or entries that are not finite, overflow, or
            are integers or long doubles that float64 does not hold.

    Example:
        >>> real_array("X", [1, 2])
        (array([1., 2.]), [])
    """
    if isinstance(value, np.ma.MaskedArray):
        raise InputError(field, "a masked array", "fill or drop the masked entries first")
    dtype: Any
    boxed = isinstance(value, list | tuple)  # numpy would round large integers among them
    if isinstance(value, Tensor):
        dtype = value.dtype
        real = not dtype.is_complex and dtype != torch.bool and value.layout == torch.strided
        floating = dtype.is_floating_point
    else:
        try:
            if boxed and any(map(_is_large, np.asarray(value, dtype=object).ravel())):
                raise InputError(field, LARGE, SMALLER)
            value = np.asarray(value)
        except InputError:
            raise
        except (ValueError, TypeError, OverflowError, RuntimeError):
            raise InputError(
                field, "nested lists of unequal length", "give a rectangular array"
            ) from None
        dtype = value.dtype
        real, floating = dtype.kind in "iuf", dtype.kind == "f"
    if not real:
        raise InputError(field, f"array of type {dtype}", "give dense real numbers, without pickle")
    if isinstance(value, Tensor) and floating:
        array = value.detach().to(device="cpu", dtype=torch.float64, copy=True).numpy()
    else:
        value = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
        if not floating and value.size and any(map(_is_large, (value.max(), value.min()))):
            raise InputError(field, LARGE, SMALLER)
        with np.errstate(over="ignore"):  # a longdouble may overflow: found as infinite below
            array = np.array(value, dtype=np.float64, order="C")
    _require_finite(field, array)
    if floating and dtype.itemsize > 8 and not np.array_equal(array, value):
        raise InputError(field, f"an array of type {dtype}", "round it to float64 first")
    short = str(dtype).removeprefix("torch.")
    changed = floating and short != "float64"
    return array, [f"{field} came as {short} and was converted to float64."] if changed else []


def _is_large(value: Any) -> bool:
    """An integer that float64 may not hold: two different ones would become the same token."""
    return isinstance(value, int | np.integer) and abs(int(value)) > 2**53


def _require_finite(field: str, array: np.ndarray) -> None:
    """Rejects NaN, infinities and entries that overflow when squared; names the first."""
    bad = np.argwhere(~(np.abs(array) <= LARGEST_ENTRY))
    if len(bad) == 0:
        return
    index = tuple(int(i) for i in bad[0])
    remedy = "give finite numbers: fill or drop such entries"
    if np.isfinite(array[index]):
        remedy = f"rescale it: entries above {LARGEST_ENTRY:g} overflow when squared"
    raise InputError(field, f"{array[index]} at index {index}", remedy)
