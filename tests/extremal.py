"""Hand-made multi-head starts at which a constant is attained, or nearly so.

N equal samples and H equal heads; weights are D-vectors placed in the first of d columns. With
X = a I (n = D = 2) keys (1, -1) are told apart as far as softmax allows; for the Gaussian kernel
queries and keys coincide (second derivatives) or are d^(1/4) apart (first derivatives).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from samples import model

from gdconv.data.problem import Problem
from gdconv.models.multihead.parameters import Parameters
from gdconv.models.multihead.point import MultiHeadPoint

APART = np.array([1.0, -1.0]) / np.sqrt(2)
STEEPEST = np.log((1 + 1 / np.sqrt(3)) / (1 - 1 / np.sqrt(3)))
"""Score difference of p = (1 + 1/sqrt 3)/2, where p (1 - p) (1 - 2 p) is greatest."""


@dataclass(frozen=True)
class Sizes:
    """N samples, H heads, head dimension d, |X_i| = a, |W_O| = o."""

    N: int = 1
    H: int = 1
    d: int = 1
    a: float = 1.0
    o: float = 1.0


def start(kernel: str, sizes: Sizes, X: np.ndarray, **weights: np.ndarray) -> MultiHeadPoint:
    """The start with those vectors as weights; blocks left out are zero."""
    n, D = X.shape
    blocks = {b: np.zeros((sizes.H, D, sizes.d)) for b in ("W_Q", "W_K", "W_V")}
    for name, vector in weights.items():
        blocks[name][:, :, 0] = vector
    out = np.zeros((sizes.H, sizes.d, 1))
    out[:, 0, 0] = sizes.o
    problem = Problem.from_arrays(
        np.broadcast_to(X, (sizes.N, n, D)).copy(), np.zeros((sizes.N, n))
    )
    return MultiHeadPoint(model(kernel), problem, Parameters.from_arrays(blocks | {"W_O": out}))


def told_apart(sizes: Sizes, **weights: np.ndarray) -> MultiHeadPoint:
    """Softmax, X = a I_2."""
    return start("softmax", sizes, sizes.a * np.eye(2), **weights)


def one_token(sizes: Sizes, gap: float = 0.0, **weights: np.ndarray) -> MultiHeadPoint:
    """Gaussian, one token x = a, query `gap` d^(1/4) from its key."""
    query = np.array([gap * sizes.d**0.25 / sizes.a])
    return start("gaussian", sizes, np.array([[sizes.a]]), W_Q=query, **weights)


def bent(sizes: Sizes, keys: float, values: float) -> MultiHeadPoint:
    """Softmax at the probabilities where its second derivative is greatest."""
    query = STEEPEST * np.sqrt(sizes.d) / (np.sqrt(2) * sizes.a**2 * keys)
    return told_apart(sizes, W_Q=np.full(2, query), W_K=keys * APART, W_V=values * APART)
