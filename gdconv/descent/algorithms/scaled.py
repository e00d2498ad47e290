"""Steps along a rescaled gradient: normalized, sign, preconditioned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gdconv.descent.algorithms.base import Algorithm, Blocks, State, along, moved
from gdconv.support.errors import InputError

Preconditioner = Callable[[Blocks], Blocks]


@dataclass(frozen=True)
class Normalized(Algorithm):
    """theta' = theta - eta g/|g|, |g| over all blocks; where g = 0 it stays.

    Example:
        >>> w, g = {"w": torch.tensor([[0.0, 0.0]])}, {"w": torch.tensor([[3.0, 4.0]])}
        >>> Normalized().step(w, g, torch.tensor([5.0]), State())[0]["w"].tolist()
        [[-3.0..., -4.0...]]
    """

    name: ClassVar[str] = "normalized"

    def step(
        self, params: Blocks, grad: Blocks, eta: Tensor, state: State
    ) -> tuple[dict[str, Tensor], State]:
        """Theta - eta g/|g|; g is divided by its largest entry first: no square overflows."""
        largest = torch.stack([g.double().abs().flatten(1).amax(1) for g in grad.values()]).amax(0)
        scale = torch.where(largest > 0, largest, 1.0)
        unit = {n: g.double() / along(scale, g.double()) for n, g in grad.items()}
        length = torch.stack([g.flatten(1).square().sum(1) for g in unit.values()]).sum(0).sqrt()
        length = torch.where(largest > 0, length, 1.0)
        way = {n: (g / along(length, g)).to(grad[n].dtype) for n, g in unit.items()}
        return moved(params, way, eta), state

    def spread(self, grad: Blocks, error: Tensor, eta: Tensor) -> Tensor:
        """eta min(2, 2 error/|g|): | a/|a| - b/|b| | <= 2 |a - b|/max(|a|, |b|)."""
        norm = torch.stack([g.double().flatten(1).square().sum(1) for g in grad.values()])
        share = torch.nan_to_num(2.0 * error / norm.sum(0).sqrt().to(error), nan=0.0)
        return eta.to(error) * share.clamp(max=2.0)


@dataclass(frozen=True)
class Sign(Algorithm):
    """theta' = theta - eta sign(g), entry by entry.

    Example:
        >>> w, g = {"w": torch.tensor([[0.0, 0.0]])}, {"w": torch.tensor([[3.0, -4.0]])}
        >>> Sign().step(w, g, torch.tensor([0.5]), State())[0]["w"].tolist()
        [[-0.5, 0.5]]
    """

    name: ClassVar[str] = "sign"

    def step(
        self, params: Blocks, grad: Blocks, eta: Tensor, state: State
    ) -> tuple[dict[str, Tensor], State]:
        """Theta - eta sign(g)."""
        return moved(params, {n: g.sign() for n, g in grad.items()}, eta), state

    def spread(self, grad: Blocks, error: Tensor, eta: Tensor) -> Tensor:
        """2 eta sqrt(k), k the entries that the error may have turned round."""
        turned = [(g.double().abs() <= along(error, g.double())) for g in grad.values()]
        count = torch.stack([flags.flatten(1).sum(1) for flags in turned]).sum(0)
        return eta.to(error) * 2.0 * count.to(error).sqrt()


@dataclass(frozen=True)
class Preconditioned(Algorithm):
    """theta' = theta - eta P g with a fixed positive P; f falls for eta <= 2/(L |P|).

    Args:
        by: The diagonal of P, block by block, positive, broadcastable to each block; or a function
            from the gradient's blocks to P g, for which no fall is claimed.

    Example:
        >>> w = {"w": torch.tensor([[1.0, 1.0]])}
        >>> rule = Preconditioned({"w": torch.tensor([0.5, 0.25])})
        >>> rule.step(w, w, torch.tensor([1.0]), State())[0]["w"].tolist()
        [[0.5, 0.75]]
    """

    by: Mapping[str, Tensor] | Preconditioner
    name: ClassVar[str] = "preconditioned"

    def __post_init__(self) -> None:
        if not isinstance(self.by, Mapping):
            if not callable(self.by):
                raise InputError("by", self.by, "give a diagonal by block, or a function")
            return
        for block, diagonal in self.by.items():
            good = torch.isfinite(diagonal) & (diagonal > 0)
            if not bool(good.all()):
                value = float(diagonal[~good].flatten()[0])
                raise InputError(f"by[{block}]", value, "give a finite, positive diagonal")

    def step(
        self, params: Blocks, grad: Blocks, eta: Tensor, state: State
    ) -> tuple[dict[str, Tensor], State]:
        """Theta - eta P g.

        Args:
            params: The iterate.
            grad: The gradient there.
            eta: Step sizes.
            state: Nothing is remembered.

        Returns:
            The next iterate.

        Raises:
            InputError: No diagonal for a block.
        """
        if not isinstance(self.by, Mapping):
            return moved(params, self.by(grad), eta), state
        missing = sorted(grad.keys() - self.by.keys())
        if missing:
            raise InputError("by", missing, "give the diagonal of these blocks too")
        return moved(params, {n: self.by[n].to(g) * g for n, g in grad.items()}, eta), state

    def spread(self, grad: Blocks, error: Tensor, eta: Tensor) -> Tensor:
        """eta max P error for a diagonal; for a function, what it makes of g (1 + error/|g|)."""
        if isinstance(self.by, Mapping):
            most = max(float(d.max()) for d in self.by.values())
            return eta.to(error) * most * error
        norm = torch.stack([g.double().flatten(1).square().sum(1) for g in grad.values()]).sum(0)
        size = torch.stack([
            g.double().flatten(1).square().sum(1) for g in self.by(grad).values()
        ]).sum(0)
        gain = torch.nan_to_num((size / norm).sqrt().to(error), nan=1.0)
        return eta.to(error) * gain * error

    @property
    def monotone(self) -> bool:
        """The loss falls for a diagonal."""
        return isinstance(self.by, Mapping)

    def longest_step(self, L: float) -> float | None:
        """2/(L max P) for a diagonal."""
        if not isinstance(self.by, Mapping):
            return None
        return 2.0 / (L * max(float(d.max()) for d in self.by.values()))
