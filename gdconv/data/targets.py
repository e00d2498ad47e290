"""Targets matched with the tokens they belong to."""

from __future__ import annotations

import numpy as np

from gdconv.support.errors import InputError


def shape_of(array: np.ndarray) -> str:
    """The shape in words, for a sentence."""
    return f"array of shape {array.shape}"


def matched(y: np.ndarray, X: np.ndarray) -> np.ndarray:
    """Y with a last axis D_y, after checking it against X (both still without an added R).

    Args:
        y: Targets.
        X: Tokens.

    Returns:
        The targets, one more axis where there was none.

    Raises:
        InputError: They do not belong to these tokens.

    Example:
        >>> matched(np.ones((2, 3)), np.ones((2, 3, 4))).shape
        (2, 3, 1)
    """
    lead = X.shape[:-1]
    axes = "(N, n)" if X.ndim == 3 else "(R, N, n)"
    wanted = f"give one target per token, shape {axes} = {lead} or {(*lead, 'D_y')}".replace(
        "'", ""
    )
    if y.ndim == X.ndim - 1 and y.shape == lead:
        return y[..., None]
    if y.ndim != X.ndim or y.shape[:-1] != lead:
        raise InputError("y", shape_of(y), wanted)
    if y.shape[-1] == 0:
        raise InputError("y", shape_of(y), "give at least one number per target")
    return y
