"""What a first-order algorithm must deliver."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from gdconv.support.errors import InputError

Blocks = Mapping[str, Tensor]
"""Parameters or gradients by block name, each tensor with the replica axis R first."""


@dataclass(frozen=True)
class State:
    """What a step remembers besides the iterate.

    Attributes:
        previous: The iterate before, by block; empty where nothing is remembered.
        t: Nesterov's t_k.
    """

    previous: Blocks = field(default_factory=dict)
    t: float = 1.0


class Algorithm(ABC):
    """A rule theta' = step(theta, grad f(point), eta), batched over replicas, and what must fall.

    To be written: `name` and `step`; an algorithm with a memory also `state`, one that evaluates
    the gradient elsewhere also `point`.

    Attributes:
        name: What `algorithm=` takes.

    Example:
        >>> class Half(Algorithm):
        ...     name = "half-gd"
        ...     def step(self, params, grad, eta, state):
        ...         return moved(params, grad, 0.5 * eta), state
        >>> w = {"w": torch.tensor([[4.0]])}
        >>> Half().step(w, w, torch.tensor([1.0]), Half().state(w))[0]["w"].item()
        2.0
    """

    name: ClassVar[str]

    @abstractmethod
    def step(
        self, params: Blocks, grad: Blocks, eta: Tensor, state: State
    ) -> tuple[dict[str, Tensor], State]:
        """The next iterate and state; `grad` is the gradient at `point`, eta has shape (R,)."""

    def state(self, params: Blocks) -> State:
        """The state at the start."""
        del params
        return State()

    def point(self, params: Blocks, state: State) -> Blocks:
        """Where the gradient of the next step is to be evaluated; the iterate."""
        del state
        return params

    @property
    def plain(self) -> bool:
        """Whether it is gradient descent itself, for which the compiled loop is made."""
        return False

    @property
    def monotone(self) -> bool:
        """Whether `energy` cannot rise for any f that is L-smooth, eta <= longest_step(L)."""
        return False

    def energy(self, gap: Tensor, params: Blocks, state: State, eta: Tensor) -> Tensor:
        """What must fall, shape (R,): the gap f - f* and, with a memory, a term of the movement.

        Args:
            gap: f - f* at `params`, shape (R,).
            params: The iterate.
            state: The state that belongs to it.
            eta: Step sizes, shape (R,).

        Returns:
            The energy; the gap.
        """
        del params, state, eta
        return gap

    def longest_step(self, L: float) -> float | None:
        """The greatest eta for which the energy provably does not rise; None: none is known."""
        del L
        return None

    def spread(self, grad: Blocks, error: Tensor, eta: Tensor) -> Tensor:
        """How far the next iterate may be off when the gradient is off by `error`, shape (R,).

        Args:
            grad: The gradient.
            error: |g - g'| over all blocks, shape (R,), float64.
            eta: Step sizes, shape (R,), float64.

        Returns:
            eta error, which holds for every step that is eta g followed by a map that does not
            expand distances; to be overridden by one that magnifies the gradient.
        """
        del grad
        return eta.to(error) * error

    def echo(self, t: int) -> float:
        """What the steps after step t add up to of its defect, at most; 1 without a memory."""
        del t
        return 1.0


def moved(params: Blocks, grad: Blocks, eta: Tensor) -> dict[str, Tensor]:
    """Theta - eta g, block by block.

    Args:
        params: Iterate.
        grad: Direction, with the same blocks.
        eta: Step sizes, shape (R,).

    Returns:
        New tensors.

    Raises:
        InputError: The gradient has other blocks or shapes.
    """
    if params.keys() != grad.keys():
        odd = sorted(params.keys() ^ grad.keys())
        raise InputError("grad", odd, "give the gradient of every block and no other")
    for name, block in params.items():
        if block.shape != grad[name].shape:
            raise InputError(
                f"grad[{name}]",
                f"shape {tuple(grad[name].shape)}",
                f"give the shape of the block, {tuple(block.shape)}",
            )
    return {name: block - along(eta, block) * grad[name] for name, block in params.items()}


def same_blocks(name: str, params: Blocks, found: Any) -> dict[str, Tensor]:
    """What somebody's map returned, if it has the blocks and shapes of what it was given.

    Args:
        name: Who is to be named: an algorithm, a projection.
        params: What it was given.
        found: What it returned.

    Returns:
        The blocks.

    Raises:
        InputError: A block is missing or has another shape or type.
    """
    for block, value in params.items():
        got = found.get(block) if isinstance(found, dict) else None
        if not isinstance(got, Tensor) or got.shape != value.shape or got.dtype != value.dtype:
            remedy = f"return every block as it came, {block} of shape {tuple(value.shape)}"
            raise InputError(name, "a map that changes blocks", remedy)
    return {block: found[block] for block in params}


def along(eta: Tensor, block: Tensor) -> Tensor:
    """One number per replica, (R,), in the shape (R, 1, ...) and dtype of a block."""
    return eta.to(block).reshape(-1, *[1] * (block.ndim - 1))


def squared_distance(params: Blocks, others: Blocks) -> Tensor:
    """Sum over blocks of |a - b|^2, shape (R,), float64.

    Args:
        params: Blocks.
        others: The same blocks.

    Returns:
        One number per replica.
    """
    parts = [
        (b.double() - others[n].double()).flatten(1).square().sum(1) for n, b in params.items()
    ]
    return torch.stack(parts).sum(0)


def in_range(field_: str, value: float, low: float, high: float, strict: bool = False) -> None:
    """Refuses a parameter outside [low, high), or (low, high) where strict.

    Args:
        field_: Name of the parameter.
        value: What was given.
        low: Lower end.
        high: Upper end, not allowed.
        strict: Whether the lower end is not allowed either.

    Raises:
        InputError: It is no number, or outside.
    """
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good or not (low < value < high or (value == low and not strict)):
        sign = "above" if strict else "of at least"
        upper = "" if high == float("inf") else f" and below {high:g}"
        raise InputError(field_, value, f"give a number {sign} {low:g}{upper}")
