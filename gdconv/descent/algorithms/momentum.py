"""Gradient descent, heavy ball and Nesterov's methods."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from gdconv.descent.algorithms.base import (
    Algorithm,
    Blocks,
    State,
    in_range,
    moved,
    squared_distance,
)


@dataclass(frozen=True)
class GradientDescent(Algorithm):
    """theta' = theta - eta g; f falls for eta <= 2/L.

    Example:
        >>> import torch
        >>> w = {"w": torch.tensor([[1.0], [1.0]])}
        >>> GradientDescent().step(w, w, torch.tensor([0.5, 1.0]), State())[0]["w"].tolist()
        [[0.5], [0.0]]
    """

    name: ClassVar[str] = "gd"

    def step(
        self, params: Blocks, grad: Blocks, eta: Tensor, state: State
    ) -> tuple[dict[str, Tensor], State]:
        """Theta - eta g."""
        return moved(params, grad, eta), state

    @property
    def plain(self) -> bool:
        """True, but not for a class that derives from it."""
        return type(self) is GradientDescent

    @property
    def monotone(self) -> bool:
        """The loss falls."""
        return True

    def longest_step(self, L: float) -> float | None:
        """2/L, by the descent lemma."""
        return 2.0 / L


@dataclass(frozen=True)
class HeavyBall(Algorithm):
    """theta_(t+1) = theta_t - eta g_t + beta d_t, d_t = theta_t - theta_(t-1), d_0 = 0.

    E_t = f_t - f* + beta/(2 eta) |d_t|^2 does not rise for eta <= 2 (1 - beta)/L: with
    g_t = (beta d_t - d_(t+1))/eta the descent lemma gives f_(t+1) <= f_t +
    (beta/eta) <d_t, d_(t+1)> - (1/eta - L/2) |d_(t+1)|^2, and 2 <a, b> <= |a|^2 + |b|^2. For the
    linear rate under PL see `rate_energy`.

    Args:
        beta: Momentum, 0 <= beta < 1.

    Example:
        >>> import torch
        >>> rule, w, eta = HeavyBall(0.5), {"w": torch.tensor([[4.0]])}, torch.tensor([0.25])
        >>> state = rule.state(w)
        >>> for _ in range(2):
        ...     w, state = rule.step(w, w, eta, state)
        >>> w["w"].item()  # 4, 3, 3 - 0.75 - 0.5
        1.75
    """

    beta: float = 0.9
    name: ClassVar[str] = "heavy-ball"

    def __post_init__(self) -> None:
        in_range("beta", self.beta, 0.0, 1.0)

    def state(self, params: Blocks) -> State:
        """The start has not moved."""
        return State(previous=dict(params))

    def step(
        self, params: Blocks, grad: Blocks, eta: Tensor, state: State
    ) -> tuple[dict[str, Tensor], State]:
        """Theta - eta g + beta d."""
        new = moved(params, grad, eta)
        for name, block in params.items():
            new[name] = new[name] + self.beta * (block - state.previous[name])
        return new, State(previous=dict(params))

    @property
    def monotone(self) -> bool:
        """The energy falls; the loss need not."""
        return True

    def energy(self, gap: Tensor, params: Blocks, state: State, eta: Tensor) -> Tensor:
        """Gap + beta/(2 eta) |d|^2, shape (R,)."""
        return gap + 0.5 * self.beta / eta * squared_distance(params, state.previous)

    def rate_energy(
        self, gap: Tensor, params: Blocks, state: State, eta: Tensor, L: float
    ) -> Tensor:
        """V = gap + (1 - eta L)/(2 eta) |d|^2; V_(t+1) <= (1 - eta mu) V_t under PL.

        It asks for eta <= 1/L and beta <= `largest_beta(eta, mu, L)`.

        Args:
            gap: f - f*, shape (R,).
            params: The iterate.
            state: Its state.
            eta: Step sizes, shape (R,).
            L: Smoothness of f.

        Returns:
            V, shape (R,).
        """
        return gap + (1.0 - eta * L) / (2.0 * eta) * squared_distance(params, state.previous)

    def longest_step(self, L: float) -> float | None:
        """2 (1 - beta)/L."""
        return 2.0 * (1.0 - self.beta) / L

    def echo(self, t: int) -> float:
        """1 + beta + beta^2 + ..."""
        return 1.0 / (1.0 - self.beta)


def largest_beta(eta: float, mu: float, L: float) -> float:
    """sqrt((1 - eta mu)(1 - eta L)), the greatest momentum of the linear rate 1 - eta mu.

    Args:
        eta: Step size, at most 1/L.
        mu: PL constant.
        L: Smoothness.

    Returns:
        The momentum.

    Example:
        >>> round(largest_beta(0.5, 0.1, 1.0), 6)
        0.689202
    """
    return math.sqrt(max((1.0 - eta * mu) * (1.0 - eta * L), 0.0))


@dataclass(frozen=True)
class Nesterov(Algorithm):
    """x_k = y_k - eta g(y_k), y_(k+1) = x_k + m_k (x_k - x_(k-1)); iterates are x, gradients at y.

    m_k = (t_k - 1)/t_(k+1), t_1 = 1, t_(k+1) = (1 + sqrt(1 + 4 t_k^2))/2, or t_k = (k + 1)/2 where
    `rational`; or a constant, (1 - sqrt(mu/L))/(1 + sqrt(mu/L)) for strongly convex f. The loss is
    not monotone, and the energies that are need a minimiser: the gap is what is followed.

    Args:
        momentum: A constant, 0 <= momentum < 1; None: the sequence.
        rational: Take t_k = (k + 1)/2.

    Example:
        >>> import torch
        >>> rule, w, eta = Nesterov(0.5), {"w": torch.tensor([[4.0]])}, torch.tensor([0.25])
        >>> state = rule.state(w)
        >>> for _ in range(2):
        ...     w, state = rule.step(w, rule.point(w, state), eta, state)
        >>> w["w"].item()  # 4, 3, 0.75 (3 - 0.5)
        1.875
    """

    momentum: float | None = None
    rational: bool = False
    name: ClassVar[str] = "nesterov"

    def __post_init__(self) -> None:
        if self.momentum is not None:
            in_range("momentum", self.momentum, 0.0, 1.0)

    def state(self, params: Blocks) -> State:
        """The start has not moved; t = 0 makes the first extrapolation none, the next t is 1."""
        return State(previous=dict(params), t=0.5 if self.rational else 0.0)

    def _next(self, t: float) -> float:
        return t + 0.5 if self.rational else 0.5 * (1.0 + math.sqrt(1.0 + 4.0 * t * t))

    def point(self, params: Blocks, state: State) -> Blocks:
        """Y = x + m (x - x before)."""
        m = self.momentum
        if m is None:
            m = (state.t - 1.0) / self._next(state.t)
        return {n: block + m * (block - state.previous[n]) for n, block in params.items()}

    def step(
        self, params: Blocks, grad: Blocks, eta: Tensor, state: State
    ) -> tuple[dict[str, Tensor], State]:
        """Y - eta g(y)."""
        new = moved(self.point(params, state), grad, eta)
        return new, State(previous=dict(params), t=self._next(state.t))

    def echo(self, t: int) -> float:
        """1/(1 - m), or for the sequence sum_k prod m <= 1 + t: m_k <= k/(k + 3)."""
        return 1.0 + t if self.momentum is None else 1.0 / (1.0 - self.momentum)
