"""Projected and proximal gradient steps."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gdconv.descent.algorithms.base import (
    Algorithm,
    Blocks,
    State,
    along,
    in_range,
    moved,
    same_blocks,
    squared_distance,
)
from gdconv.support.errors import InputError

Projection = Callable[[Blocks], Blocks]
Prox = Callable[[Blocks, Tensor], Blocks]


@dataclass(frozen=True)
class Ball:
    """The ball of this radius about 0, over all blocks together; a projection.

    Example:
        >>> Ball(1.0)({"w": torch.tensor([[3.0, 4.0]])})["w"].tolist()
        [[0.6..., 0.8...]]
    """

    radius: float

    def __post_init__(self) -> None:
        in_range("radius", self.radius, 0.0, math.inf, strict=True)

    def __call__(self, params: Blocks) -> dict[str, Tensor]:
        """The nearest point of the ball."""
        length = _length(params)
        scale = torch.where(length > self.radius, self.radius / length, 1.0)
        return {name: along(scale, block) * block for name, block in params.items()}


@dataclass(frozen=True)
class Box:
    """All entries between two numbers; a projection.

    Example:
        >>> Box(0.0, 1.0)({"w": torch.tensor([[-3.0, 0.5]])})["w"].tolist()
        [[0.0, 0.5]]
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise InputError("low", self.low, f"give a number of at most high, {self.high}")

    def __call__(self, params: Blocks) -> dict[str, Tensor]:
        """The nearest point of the box."""
        return {name: block.clamp(self.low, self.high) for name, block in params.items()}


@dataclass(frozen=True)
class Projected(Algorithm):
    """theta' = P(theta - eta g), P the projection onto a closed convex set; f falls, eta <= 2/L.

    Args:
        onto: `Ball`, `Box`, or any function from blocks to blocks that projects.

    Example:
        >>> w, g = {"w": torch.tensor([[0.5]])}, {"w": torch.tensor([[-9.0]])}
        >>> Projected(Box(0.0, 1.0)).step(w, g, torch.tensor([1.0]), State())[0]["w"].item()
        1.0
    """

    onto: Projection
    name: ClassVar[str] = "projected"

    def __post_init__(self) -> None:
        if not callable(self.onto):
            raise InputError("onto", self.onto, "give Ball, Box, or a function that projects")

    def state(self, params: Blocks) -> State:
        """Nothing is remembered.

        Args:
            params: The start.

        Returns:
            An empty state.

        Raises:
            InputError: The start is not in the set.
        """
        if not self.admissible(params):
            raise InputError("projected", "a start outside its set", "start from onto(params)")
        return State()

    def step(
        self, params: Blocks, grad: Blocks, eta: Tensor, state: State
    ) -> tuple[dict[str, Tensor], State]:
        """P(theta - eta g).

        Args:
            params: The iterate.
            grad: The gradient there.
            eta: Step sizes.
            state: Empty.

        Returns:
            The next iterate, in the set.

        Raises:
            InputError: What `onto` returned is not in its set: projecting again moves it.
        """
        free = moved(params, grad, eta)
        new = same_blocks("projected", free, self.onto(free))
        if not self.admissible(new):
            remedy = "give an onto that projects: applied to its own result it must change nothing"
            raise InputError("projected", "a step that left its set", remedy)
        return new, state

    def admissible(self, params: Blocks) -> bool:
        """Whether the projection leaves these parameters where they are, within rounding.

        Args:
            params: Parameters.

        Returns:
            True where the distance is below 64 eps of the norm; what is not finite passes, its own
            check speaks of it.
        """
        again = same_blocks("projected", params, self.onto(params))
        eps = max(torch.finfo(block.dtype).eps for block in params.values())
        off = squared_distance(again, params).sqrt() > 64 * eps * (_length(params) + eps)
        return not bool(off.any())

    @property
    def monotone(self) -> bool:
        """The loss falls."""
        return True

    def longest_step(self, L: float) -> float | None:
        """2/L: <g, theta' - theta> <= -|theta' - theta|^2 / eta."""
        return 2.0 / L


class Penalty(ABC):
    """A convex h(theta), with its proximal map argmin h(x) + |x - theta|^2/(2 eta)."""

    @abstractmethod
    def value(self, params: Blocks) -> Tensor:
        """H(theta), shape (R,)."""

    @abstractmethod
    def prox(self, params: Blocks, eta: Tensor) -> dict[str, Tensor]:
        """The proximal map."""


@dataclass(frozen=True)
class L1(Penalty):
    """weight |theta|_1; its proximal map is soft thresholding at eta weight.

    Example:
        >>> L1(1.0).prox({"w": torch.tensor([[3.0, -0.2]])}, torch.tensor([0.5]))["w"].tolist()
        [[2.5, -0.0]]
    """

    weight: float

    def __post_init__(self) -> None:
        in_range("weight", self.weight, 0.0, math.inf)

    def value(self, params: Blocks) -> Tensor:
        """Weight times the sum of moduli."""
        return self.weight * torch.stack([
            b.double().abs().flatten(1).sum(1) for b in params.values()
        ]).sum(0)

    def prox(self, params: Blocks, eta: Tensor) -> dict[str, Tensor]:
        """sign(x) max(|x| - eta weight, 0)."""
        return {
            name: block.sign() * torch.relu(block.abs() - along(eta * self.weight, block))
            for name, block in params.items()
        }


@dataclass(frozen=True)
class Proximal(Algorithm):
    """theta' = prox_(eta h)(theta - eta g); f + h falls for eta <= 2/L.

    Args:
        penalty: A `Penalty` such as `L1`, or a function prox(blocks, eta), whose h is unknown: then
            the gap of f alone is followed and it need not fall.

    Example:
        >>> w, g = {"w": torch.tensor([[1.0]])}, {"w": torch.tensor([[0.0]])}
        >>> Proximal(L1(0.5)).step(w, g, torch.tensor([1.0]), State())[0]["w"].item()
        0.5
    """

    penalty: Penalty | Prox
    name: ClassVar[str] = "proximal"

    def __post_init__(self) -> None:
        given: object = self.penalty
        if not isinstance(given, Penalty) and not callable(given):
            remedy = "give L1(weight), a Penalty, or a function prox(params, eta)"
            raise InputError("penalty", self.penalty, remedy)

    def step(
        self, params: Blocks, grad: Blocks, eta: Tensor, state: State
    ) -> tuple[dict[str, Tensor], State]:
        """The proximal map after the gradient step."""
        free = moved(params, grad, eta)
        prox = self.penalty.prox if isinstance(self.penalty, Penalty) else self.penalty
        return same_blocks("proximal", free, prox(free, eta)), state

    @property
    def monotone(self) -> bool:
        """F + h falls where h is known."""
        return isinstance(self.penalty, Penalty)

    def energy(self, gap: Tensor, params: Blocks, state: State, eta: Tensor) -> Tensor:
        """Gap + h(theta), shape (R,)."""
        del state, eta
        return gap + self.penalty.value(params) if isinstance(self.penalty, Penalty) else gap

    def longest_step(self, L: float) -> float | None:
        """2/L, where h is known."""
        return 2.0 / L if self.monotone else None


def _length(params: Blocks) -> Tensor:
    return squared_distance(params, {n: torch.zeros_like(b) for n, b in params.items()}).sqrt()
