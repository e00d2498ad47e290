"""Witness of the NTK theory: data and weights fixed exactly."""

from __future__ import annotations

import numpy as np

from gdconv.data.problem import Problem
from gdconv.models.encoder.parameters import EncoderParameters
from gdconv.models.named import Named


def kink(kernel: str, seed: int) -> Named:
    """Two samples whose neurons sit next to relu's kink: the printed conditions do not suffice.

    N = 2, n = D = 1, d_m = 3, X = (1, -1), W_V = (1, -1, 1e-12), w_O = (0, 0, 3), W_Q = W_K = 0,
    residual (1e-3, 2e-3): both printed conditions hold and the first step raises the loss, for
    every step size well above 1e-12 (docs/theory/ntk-regime.md, "paper").

    Args:
        kernel: Not used: a single token is attended.
        seed: Not used: nothing is drawn.

    Returns:
        Problem, weights and suggested options.
    """
    zero = np.zeros((3, 1))
    W_V, w_O = np.array([[1.0], [-1.0], [1e-12]]), np.array([0.0, 0.0, 3.0])
    f = np.maximum(np.array([[1.0], [-1.0]]) @ W_V.T, 0.0) @ w_O
    note = "a neuron with a large output weight is next to its kink; see --statement relu-rigorous"
    problem = Problem.per_sample(
        np.array([1.0, -1.0]).reshape(2, 1, 1), f - np.array([1e-3, 2e-3]), "kink", (note,)
    )
    arrays = {"W_Q": zero, "W_K": zero, "W_V": W_V, "w_O": w_O}
    options = {"statement": "paper", "step": "0.0009", "steps": 1000}
    return Named(problem, EncoderParameters.from_arrays(arrays), {"ntk-regime": options})
