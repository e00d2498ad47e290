"""The squared loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gdconv.models.losses.base import Loss, above


@dataclass(frozen=True)
class Squared(Loss):
    """l(F) = 1/2 |F - y|^2, summed over all outputs; f* = 0 at F = y, h = 1, phi = 1 exactly.

    Example:
        >>> F, y = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 0.0]])
        >>> Squared().value(F, y).item(), Squared().slope(F, y).tolist()
        (2.5, [[1.0, 2.0]])
    """

    name: ClassVar[str] = "squared"

    def value(self, F: Tensor, y: Tensor) -> Tensor:
        """1/2 |F - y|^2, shape (R,)."""
        r = F.to(torch.float64) - y
        return 0.5 * r.flatten(1).square().sum(1)

    def slope(self, F: Tensor, y: Tensor) -> Tensor:
        """F - y."""
        return (F.to(torch.float64) - y).to(F.dtype)

    def curvature(self, gap: Tensor, y: Tensor) -> Tensor:
        """1 everywhere."""
        del y
        return torch.ones_like(gap)

    def slope_bound(self, gap: Tensor, y: Tensor) -> Tensor:
        """sqrt(2 gap), attained."""
        del y
        return above((2.0 * gap).sqrt())

    def linear_domination(self, gap: Tensor, y: Tensor) -> Tensor:
        """1: |S|^2 = 2 l."""
        del y
        return torch.ones_like(gap)

    def domination(
        self, F: Tensor, y: Tensor, gap: Tensor | None = None, dF: Tensor | None = None
    ) -> Tensor:
        """1, whatever F."""
        del y, gap, dF
        return torch.ones(F.shape[0], dtype=torch.float64, device=F.device)
