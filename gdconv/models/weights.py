"""Weights: blocks of tensors with a leading replica axis, whatever the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

W = TypeVar("W", bound="Weights")


@dataclass(frozen=True)
class Weights:
    """Base of every model's weights; a dataclass names its blocks as fields, in order.

    Example:
        >>> from dataclasses import make_dataclass
        >>> One = make_dataclass("One", [("w", Tensor)], bases=(Weights,), frozen=True)
        >>> both = One.stack([One(torch.zeros(1, 2)), One(torch.ones(1, 2))])
        >>> both.R, both[1].numpy()
        (2, {'w': array([[1., 1.]])})
    """

    def blocks(self) -> dict[str, Tensor]:
        """The blocks by name, in order; any text may be a name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def with_blocks(self: W, moved: Mapping[str, Tensor]) -> W:
        """The same weights with some blocks in the place of those of their names."""
        return replace(self, **moved)

    @property
    def moving(self) -> tuple[str, ...]:
        """Names of the blocks that training may move."""
        return tuple(self.blocks())

    @property
    def R(self) -> int:
        """Replicas."""
        return int(next(iter(self.blocks().values())).shape[0])  # len() of a tensor is slow

    def __getitem__(self: W, r: int | list[int]) -> W:
        """Replica r (or replicas r); the replica axis stays."""
        index = [r] if isinstance(r, int) else r
        return self.with_blocks({name: block[index] for name, block in self.blocks().items()})

    def to(self: W, device: str | torch.device, dtype: torch.dtype) -> W:
        """The same weights on another device or in another dtype."""
        return self.with_blocks({k: block.to(device, dtype) for k, block in self.blocks().items()})

    def numpy(self) -> dict[str, np.ndarray]:
        """Float64 numpy copies by name, replica axis included."""
        return {k: v.detach().cpu().double().numpy().copy() for k, v in self.blocks().items()}

    @classmethod
    def stack(cls: type[W], runs: Sequence[W]) -> W:
        """Several runs as one, along the replica axis."""
        parts = [run.blocks() for run in runs]
        return runs[0].with_blocks({k: torch.cat([part[k] for part in parts]) for k in parts[0]})


def steepness(grad: Weights, trained: Sequence[str]) -> Tensor:
    """|gradient|^2 over some blocks, shape (R,).

    Args:
        grad: The gradient, in the shapes of the weights.
        trained: Which blocks count.

    Returns:
        One number per replica.

    Example:
        >>> from dataclasses import make_dataclass
        >>> names = [("w", Tensor), ("v", Tensor)]
        >>> Two = make_dataclass("Two", names, bases=(Weights,), frozen=True)
        >>> steepness(Two(torch.ones(1, 3), torch.ones(1, 2)), ("w",)).tolist()
        [3.0]
    """
    blocks = grad.blocks()
    squares = [blocks[b].square().reshape(grad.R, -1).sum(1) for b in trained]
    return sum(squares[1:], squares[0])
