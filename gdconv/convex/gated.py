"""Gated ReLU network after attention: one Z per distinct gate pattern.

    min_Z sum_i L(sum_G 1{G(X_i)} tr(Z_G^T X_i), y_i) + beta sum_G sum_k |Z_G,k|_2

A gate is fixed, g(X) = u_1^T X u_2, open where g >= 0. The program is the group lasso on the gated
tokens A_i,(G,k) = 1{G(X_i)} x_ik; it equals the non-convex model with at least n heads per pattern.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from gdconv.convex.group_lasso import Program
from gdconv.convex.losses import Loss
from gdconv.rigor.rounding import as_matrix
from gdconv.support.errors import InputError


def gate_patterns(X: Any, U_1: Any, U_2: Any) -> Bool[np.ndarray, "P N"]:
    """Which samples each gate lets through, equal patterns once.

    Args:
        X: Tokens (N, n, d).
        U_1: Left gate vectors (G, n).
        U_2: Right gate vectors (G, d).

    Returns:
        Distinct patterns in the order of their first gate; empty ones are dropped.

    Raises:
        InputError: Gate vectors that do not fit the tokens or each other.

    Example:
        >>> X = np.array([[[1.0]], [[-1.0]]])
        >>> gate_patterns(X, [[1.0], [2.0], [-1.0]], [[1.0], [1.0], [1.0]]).tolist()
        [[True, False], [False, True]]
    """
    tokens, left, right = as_matrix(X, "X", 3), as_matrix(U_1, "U_1"), as_matrix(U_2, "U_2")
    if left.shape[1] != tokens.shape[1] or right.shape[1] != tokens.shape[2]:
        raise InputError(
            "U_1, U_2", (left.shape, right.shape), "give shapes (G, n) and (G, d) of the tokens"
        )
    if len(left) != len(right):
        raise InputError("U_1, U_2", (len(left), len(right)), "give as many of one as of the other")
    open_ = np.einsum("gn,ind,gd->gi", left, tokens, right) >= 0.0
    seen: dict[bytes, int] = {}
    for g, row in enumerate(open_):
        if row.any():
            seen.setdefault(row.tobytes(), g)
    return np.asarray(open_[list(seen.values())])


def gated_tokens(X: Any, patterns: Bool[np.ndarray, "P N"]) -> Float[np.ndarray, "N K d"]:
    """The tokens of each sample once per pattern, zero where its gate is closed.

    Args:
        X: Tokens (N, n, d).
        patterns: Result of `gate_patterns`.

    Returns:
        Array (N, P n, d); group (G, k) is number G n + k.

    Example:
        >>> gated_tokens(np.ones((2, 1, 1)), np.array([[True, False]])).ravel().tolist()
        [1.0, 0.0]
    """
    tokens = as_matrix(X, "X", 3)
    N, n, d = tokens.shape
    gated = patterns.T[:, :, None, None] * tokens[:, None]
    return np.asarray(gated.reshape(N, len(patterns) * n, d))


def gated_program(
    X: Any, y: Any, beta: float, patterns: Bool[np.ndarray, "P N"], loss: Loss | str = "squared"
) -> Program:
    """The convex program of the gated ReLU network.

    Args:
        X: Tokens (N, n, d).
        y: Targets (N).
        beta: Weight decay.
        patterns: Result of `gate_patterns`.
        loss: A `Loss` or its name.

    Returns:
        A group lasso with P n groups.

    Example:
        >>> gated_program(np.ones((2, 3, 1)), [1.0, 2.0], 0.1, np.ones((1, 2), bool)).shape
        (3, 1, 1)
    """
    return Program.of(gated_tokens(X, patterns), y, beta, loss)
