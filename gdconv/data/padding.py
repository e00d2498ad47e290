"""Padding: sequences of different length in one array, and a mask that is true for real tokens.

What stands at a padded place is set to zero before anything looks at it, so it cannot matter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from gdconv.support.arrays import real_array
from gdconv.support.errors import InputError

MEANING = "give booleans (or 0 and 1) of shape (N, n), True for a real token"


def stacked(X: Any, y: Any, mask: Any = None) -> tuple[Any, Any, Any]:
    """Sequences of unequal length as one array, zeros behind them, and its mask.

    Args:
        X: A list of sequences (n_i, D); anything else is returned as it came.
        y: A list of their targets (n_i,) or (n_i, D_y), or one label per sequence.
        mask: A mask that came along; unequal sequences take none.

    Returns:
        X (N, n, D), y and the mask (N, n).

    Raises:
        InputError: A sequence has no token, another D or another number of targets, or there is a
            mask already.

    Example:
        >>> X, y, mask = stacked([[[1.0], [2.0]], [[3.0]]], [[1.0, 2.0], [3.0]])
        >>> X.shape, y.tolist(), mask.tolist()
        ((2, 2, 1), [[1.0, 2.0], [3.0, 0.0]], [[True, True], [True, False]])
    """
    lengths = _lengths(X, 2)
    if lengths is None or len(set(lengths)) == 1:
        return X, y, mask
    if mask is not None:
        shown = f"sequences of {min(lengths)} to {max(lengths)} tokens"
        raise InputError("mask", _shown(mask), f"leave it out: X is a list of {shown}")
    for i, n in enumerate(lengths):
        if n == 0:
            raise InputError("X", f"a sequence without tokens, sample {i}", "leave that sample out")
    targets = _lengths(y, 1)
    if targets is not None:
        if len(targets) != len(lengths):
            raise InputError("y", f"targets of {len(targets)} samples", f"give {len(lengths)}")
        for i, (has, n) in enumerate(zip(targets, lengths, strict=True)):
            if has != n:
                raise InputError("y", f"{has} targets for sample {i}", f"give {n}, one per token")
        y = _padded("y", y, lengths)
    return _padded("X", X, lengths), y, np.arange(max(lengths)) < np.array(lengths)[:, None]


def blanked(X: Any, y: Any, mask: Any) -> tuple[Any, Any, np.ndarray | None]:
    """Zeros in X and y wherever the mask is false, whatever stood there.

    Args:
        X: Tokens, shape (N, n, D) or (R, N, n, D).
        y: Targets of the same samples and tokens; labels per sample are returned as they came.
        mask: True (or 1) for a real token, shape (N, n), or (R, N, n) with one mask R times; None
            for no padding.

    Returns:
        X and y (copies, where anything is padded), and the mask (N, n), None where all is real.

    Raises:
        InputError: The mask is no booleans, has another shape than the tokens, differs between
            runs, or leaves a sample without tokens.

    Example:
        >>> X, y, mask = blanked([[[1.0], [np.nan]]], [[2.0, np.inf]], [[1, 0]])
        >>> X, y, mask.tolist()
        ([[[1.0], [0.0]]], [[2.0, 0.0]], [[True, False]])
    """
    if mask is None:
        return X, y, None
    lead = _shape(X)[:-1]
    if len(lead) not in (2, 3):
        raise InputError("mask", _shown(mask), "give X of shape (N, n, D) with it")
    real = _checked(mask, lead)
    if real.all():
        return X, y, None
    axis = len(lead) - 2
    return _zeroed(X, real, axis), _zeroed(y, real, axis), real


def note(mask: np.ndarray) -> str:
    """What a reader of the result should know.

    Args:
        mask: True for a real token, shape (N, n).

    Returns:
        A sentence.

    Example:
        >>> note(np.array([[True, True, False], [True, False, False]]))
        'padding: 3 of 6 tokens are real, 1 to 2 per sample; the others are no keys and no outputs'
    """
    n = mask.sum(1)
    return (
        f"padding: {n.sum()} of {mask.size} tokens are real, {n.min()} to {n.max()} per sample; "
        "the others are no keys and no outputs"
    )


def _shown(mask: Any) -> str:
    return f"array of shape {_shape(mask)}"


def _shape(value: Any) -> tuple[int, ...]:
    """Shape of an array or of nested lists, as far as they are rectangular."""
    if isinstance(value, Tensor | np.ndarray):
        return tuple(value.shape)
    try:
        return np.asarray(value, dtype=object).shape
    except (ValueError, TypeError, RuntimeError):
        return ()


def _lengths(values: Any, axes: int) -> list[int] | None:
    """Lengths of the arrays in a list; None unless each of them has that many axes."""
    if not isinstance(values, list | tuple) or not values:
        return None
    shapes = [_shape(v) for v in values]
    return [s[0] for s in shapes] if all(len(s) >= axes for s in shapes) else None


def _padded(field: str, values: Any, lengths: list[int]) -> np.ndarray:
    """The sequences as one float64 array, zeros behind the shorter ones."""
    arrays: list[np.ndarray] = []
    for i, value in enumerate(values):
        array = real_array(f"{field} of sample {i}", value)[0]
        wanted = (lengths[i], *(arrays[0] if arrays else array).shape[1:])
        if array.shape != wanted:
            raise InputError(f"{field} of sample {i}", _shown(array), f"give shape {wanted}")
        arrays.append(array)
    made = np.zeros((len(arrays), max(lengths), *arrays[0].shape[1:]))
    for i, array in enumerate(arrays):
        made[i, : len(array)] = array
    return made


def _checked(mask: Any, lead: tuple[int, ...]) -> np.ndarray:
    """The mask as booleans (N, n)."""
    value = mask.detach().cpu().numpy() if isinstance(mask, Tensor) else mask
    if isinstance(value, np.ma.MaskedArray):
        raise InputError("mask", "a masked array", MEANING)
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError):
        raise InputError("mask", "nested lists of unequal length", MEANING) from None
    if array.dtype.kind not in "biu":
        raise InputError("mask", f"array of type {array.dtype}", MEANING)
    if array.shape not in (lead, lead[-2:]):
        wanted = f"give shape {lead[-2:]}, the samples and tokens of X"
        raise InputError("mask", _shown(array), wanted)
    other = np.argwhere((array != 0) & (array != 1))
    if len(other):
        index = tuple(int(i) for i in other[0])
        raise InputError("mask", f"{array[index]} at index {index}", MEANING)
    real = array.astype(bool).reshape(-1, *lead[-2:])
    if not (real == real[0]).all():
        raise InputError("mask", "another one in another run", "give all runs the same mask")
    empty = np.flatnonzero(~real[0].any(1))
    if len(empty):
        remedy = "mark a real token by True, or leave that sample out"
        raise InputError("mask", f"no token of sample {empty[0]} is real", remedy)
    return real[0].copy()


def _zeroed(value: Any, real: np.ndarray, axis: int) -> Any:
    """A copy with zeros at padded places; unchanged where it has no axes for samples and tokens."""
    lead = _shape(value)[: axis + 2]
    if lead[axis:] != real.shape or isinstance(value, np.ma.MaskedArray):
        return value
    padding = np.broadcast_to(~real, lead).copy()
    if isinstance(value, Tensor):
        if value.layout != torch.strided:
            return value
        tensor = value.detach().clone()
        tensor[torch.from_numpy(padding).to(value.device)] = 0
        return tensor
    if isinstance(value, np.ndarray):
        array = value.copy()
        array[padding] = 0
        return array
    boxed = np.asarray(value, dtype=object)  # nested lists: each number is looked at later
    boxed[padding] = 0.0
    return boxed.tolist()
