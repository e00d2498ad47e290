"""What every model's probes share: the numbers, distances."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gdconv.models.weights import Weights

SAFETY = 16.0
"""Times the rounding that random runs show in a step, far below what a wrong formula does."""


@dataclass(frozen=True)
class Probe:
    """Replica-wise numbers at one iterate, numpy arrays of shape (R,).

    Attributes:
        noise_scale: 8u (|F| + |y| + sum_W |J_W|_F |W|_F + scores + values), absolute error bar of
            the residual; `scores` is what the rounding of single scores q_k . k_j changes in F,
            `values` is sum_h S |X| |W_V| |W_O|, before tokens cancel.
        jacobian_error: Absolute rounding of J, from its terms before they cancel.
        jacobian_norm: |J|_F over the trained blocks.
        weight_norm: |theta|_F over the trained blocks.
        residual_norm: |F - y|_F.
        entropy: Mean entropy of the normalised attention rows over log n: 0 one-hot, 1 uniform;
            None without attention.
        gradient: The gradient of the loss by the trained blocks, derived another way than the
            one that the run takes its steps with; `Weights`, or what the engine that asked
            keeps weights in.
    """

    noise_scale: np.ndarray
    jacobian_error: np.ndarray
    jacobian_norm: np.ndarray
    weight_norm: np.ndarray
    residual_norm: np.ndarray
    entropy: np.ndarray | None
    gradient: Any

    @property
    def gradient_error(self) -> np.ndarray:
        """Rounding of a correct gradient: |J|_F noise_scale + jacobian_error |F - y|, (R,)."""
        slope = self.jacobian_norm * self.noise_scale
        return slope + self.jacobian_error * self.residual_norm


def attention_entropy(S: Tensor, mask: Tensor | None = None) -> Tensor:
    """Entropy of attention rows over log n, averaged; rows of weight zero count as one-hot.

    Args:
        S: Attention weights (R, H, N, n, n).
        mask: True for a real token, (N, n); rows of padding do not count, n is each sample's own.

    Returns:
        One number per replica; a single token has entropy 0.
    """
    n = S.shape[-1]
    if n == 1:
        return torch.zeros_like(S[:, 0, 0, 0, 0])
    p = S / S.sum(-1, keepdim=True).clamp_min(torch.finfo(S.dtype).tiny)
    rows = torch.special.entr(p).sum(-1)
    if mask is None:
        return rows.mean((1, 2, 3)) / math.log(n)
    most = mask.sum(1).clamp_min(2).to(S.dtype).log()
    return (rows / most.unsqueeze(1))[:, :, mask].mean((1, 2))


def distances(params: Weights, start: Weights) -> dict[str, np.ndarray]:
    """Frobenius distance from the start, per trainable block and together.

    Args:
        params: Weights now.
        start: Weights at step 0.

    Returns:
        Arrays of shape (R,) by name: distance, and distance_Q for W_Q, distance_O for w_O where it
        can be trained, distance[0.weight] for a block of another kind of name.
    """
    before, after = start.blocks(), params.blocks()
    moved = {
        b: torch.linalg.vector_norm((after[b] - before[b]).reshape(params.R, -1), dim=1)
        for b in params.moving
    }
    total = sum(m.square() for m in moved.values()).sqrt()
    columns = to_numpy(torch.stack([total, *moved.values()]))
    return dict(zip(("distance", *map(column, moved)), columns, strict=True))


def column(block: str) -> str:
    """Name of the column with the distance of a block."""
    short = len(block) == 3 and block[:2] in ("W_", "w_")
    return f"distance_{block[2]}" if short else f"distance[{block}]"


def gap(a: Weights, b: Weights) -> np.ndarray:
    """|a - b|_F over all blocks, shape (R,)."""
    return distances(a, b)["distance"]


def to_numpy(x: Tensor) -> np.ndarray:
    """A tensor as float64 numbers on the CPU."""
    return x.detach().cpu().double().numpy()
