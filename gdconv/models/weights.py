"""Weights: blocks of tensors with a leading replica axis, whatever the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

W = TypeVar("W", bound="Weights")


@dataclass(frozen=True)
class Weights:
    """Base of every model's weights; a subclass names its blocks as fields, in order.

    Example:
        >>> from dataclasses import make_dataclass
        >>> One = make_dataclass("One", [("w", Tensor)], bases=(Weights,), frozen=True)
        >>> both = One.stack([One(torch.zeros(1, 2)), One(torch.ones(1, 2))])
        >>> both.R, both[1].numpy()
        (2, {'w': array([[1., 1.]])})
    """

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of the blocks."""
        return tuple(f.name for f in fields(cls))

    def blocks(self) -> dict[str, Tensor]:
        """The blocks by name."""
        return {name: getattr(self, name) for name in self.names()}

    @property
    def R(self) -> int:
        """Replicas."""
        return len(getattr(self, self.names()[0]))

    def __getitem__(self: W, r: int | list[int]) -> W:
        """Replica r (or replicas r); the replica axis stays."""
        index = [r] if isinstance(r, int) else r
        return type(self)(*(block[index] for block in self.blocks().values()))

    def to(self: W, device: str | torch.device, dtype: torch.dtype) -> W:
        """The same weights on another device or in another dtype."""
        return type(self)(*(block.to(device, dtype) for block in self.blocks().values()))

    def numpy(self) -> dict[str, np.ndarray]:
        """Float64 numpy copies by name, replica axis included."""
        return {k: v.detach().cpu().double().numpy().copy() for k, v in self.blocks().items()}

    @classmethod
    def stack(cls: type[W], runs: Sequence[W]) -> W:
        """Several runs as one, along the replica axis."""
        return cls(*(torch.cat([getattr(run, name) for run in runs]) for name in cls.names()))
