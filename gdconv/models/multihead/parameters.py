"""Weights of the multi-head regression.

Shapes and names as in `gdconv.models.multihead.formulas`. Source: Song et al. 2024, section 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gdconv.data.problem import real_array
from gdconv.models.weights import Weights
from gdconv.support.errors import InputError

BLOCKS = ("W_Q", "W_K", "W_V")
"""The trainable blocks, in the order used everywhere."""


@dataclass(frozen=True)
class Parameters(Weights):
    """Weights of the model with a leading replica axis.

    Attributes:
        W_Q: Query weights (R, H, D, d).
        W_K: Key weights (R, H, D, d).
        W_V: Value weights (R, H, D, d).
        W_O: Output weights (R, H, d, D_y), never trained.

    Example:
        >>> z = torch.zeros(1, 2, 3, 4, dtype=torch.float64)
        >>> Parameters(z, z, z, torch.ones(1, 2, 4, 1, dtype=torch.float64)).H
        2
    """

    W_Q: Float[Tensor, "R H D d"]
    W_K: Float[Tensor, "R H D d"]
    W_V: Float[Tensor, "R H D d"]
    W_O: Float[Tensor, "R H d o"]

    @property
    def moving(self) -> tuple[str, ...]:
        """All blocks but W_O."""
        return BLOCKS

    @property
    def H(self) -> int:
        """Number of heads."""
        return self.W_Q.shape[1]

    @staticmethod
    def from_arrays(arrays: dict[str, np.ndarray]) -> Parameters:
        """Weights from numpy arrays (H, D, d) or (R, H, D, d) named W_Q, W_K, W_V, W_O.

        Args:
            arrays: The four arrays by name.

        Returns:
            The weights in float64.

        Raises:
            InputError: A block is missing, empty, no finite real numbers, or of a wrong shape.

        Example:
            >>> Parameters.from_arrays({"W_Q": np.ones((0, 2, 2))})
            Traceback (most recent call last):
            gdconv.support.errors.InputError: W_Q = array of shape (0, 2, 2): give at least one
            entry along every axis.
        """
        made = {}
        for name in (*BLOCKS, "W_O"):
            if name not in arrays:
                raise InputError(name, "missing", "give all of W_Q, W_K, W_V and W_O")
            array, _ = real_array(name, arrays[name])
            shown = f"array of shape {array.shape}"
            if array.ndim not in (3, 4):
                raise InputError(name, shown, "give shape (H, rows, columns)")
            if not array.size:
                raise InputError(name, shown, "give at least one entry along every axis")
            made[name] = torch.from_numpy(array if array.ndim == 4 else array[None])
        shape, out = made["W_Q"].shape, made["W_O"].shape
        if any(made[b].shape != shape for b in BLOCKS) or out[:3] != (shape[0], shape[1], shape[3]):
            raise InputError(
                "weights",
                {k: tuple(v.shape) for k, v in made.items()},
                "give W_Q, W_K, W_V of one shape (H, D, d) and W_O of shape (H, d, D_y)",
            )
        return Parameters(**made)
