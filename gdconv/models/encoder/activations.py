"""Activations with |s(x)| <= |x| and Lipschitz constant at most 1, as the encoder theorems ask.

=====  ====================  ===================================================================
name   s(x)                  why Lip <= 1
=====  ====================  ===================================================================
relu   max(x, 0)             plain; the subgradient at 0 is 0
gelu   x Phi(x) / 1.12891    slope Phi(x) + x phi(x) is largest at sqrt(2), there 1.128904145...
silu   x g(x) / 1.09984      slope g (1 + x (1 - g)), g the logistic function, is largest where
                             x = 2 coth(x / 2), x = 2.399..., there 1.099839320...
=====  ====================  ===================================================================

The divisors are those maxima rounded up, by a relative 5e-6 and 6e-7, which also covers float64.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import inf, pi, sqrt

import torch
from torch import Tensor

from gdconv.support.errors import InputError

GELU_SLOPE = 1.12891
"""Upper bound of |GELU'|."""

SILU_SLOPE = 1.09984
"""Upper bound of |SiLU'|."""


class Activation(ABC):
    """One activation, applied entry by entry; any device and dtype.

    Attributes:
        name: Its name.
        curvature: Upper bound of |s''|, infinite where s has a kink.
    """

    name: str
    curvature: float = inf

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """s(x)."""

    @abstractmethod
    def slope(self, x: Tensor) -> Tensor:
        """s'(x), the selected subgradient."""

    @abstractmethod
    def slope_again(self, x: Tensor) -> Tensor:
        """s'(x) by another formula, for the check of the gradient."""


class ReLU(Activation):
    """max(x, 0).

    Example:
        >>> ReLU().slope(torch.tensor([-1.0, 0.0, 2.0])).tolist()
        [0.0, 0.0, 1.0]
    """

    name = "relu"

    def __call__(self, x: Tensor) -> Tensor:
        """max(x, 0)."""
        return torch.relu(x)

    def slope(self, x: Tensor) -> Tensor:
        """1 where x > 0, else 0."""
        return (x > 0).to(x.dtype)

    def slope_again(self, x: Tensor) -> Tensor:
        """The same through the sign."""
        return torch.sign(x).clamp_min(0)


class GELU(Activation):
    """x Phi(x) / 1.12891, the exact form.

    Example:
        >>> GELU().slope(torch.tensor(0.0)).item() < 0.5
        True
    """

    name = "gelu"
    curvature = 2 / sqrt(2 * pi) / GELU_SLOPE * (1 + 1e-12)  # GELU'' = (2 - x^2) phi(x)

    def __call__(self, x: Tensor) -> Tensor:
        """X Phi(x) / 1.12891."""
        return torch.nn.functional.gelu(x) / GELU_SLOPE

    def slope(self, x: Tensor) -> Tensor:
        """(Phi(x) + x phi(x)) / 1.12891."""
        density = torch.exp(-0.5 * x * x) / sqrt(2 * pi)
        return (torch.special.ndtr(x) + x * density) / GELU_SLOPE

    def slope_again(self, x: Tensor) -> Tensor:
        """The same through erfc, whose derivative is -2 exp(-z^2) / sqrt(pi)."""
        z = -x / sqrt(2)
        return (torch.special.erfc(z) / 2 - z * torch.exp(-z * z) / sqrt(pi)) / GELU_SLOPE


class SiLU(Activation):
    """x g(x) / 1.09984 with g(x) = 1 / (1 + exp(-x)).

    Example:
        >>> SiLU().slope(torch.tensor(0.0)).item() < 0.5
        True
    """

    name = "silu"
    curvature = 0.5 / SILU_SLOPE * (1 + 1e-12)  # at 0

    def __call__(self, x: Tensor) -> Tensor:
        """X g(x) / 1.09984."""
        return torch.nn.functional.silu(x) / SILU_SLOPE

    def slope(self, x: Tensor) -> Tensor:
        """G (1 + x (1 - g)) / 1.09984, with 1 - g = g(-x)."""
        return torch.sigmoid(x) * (1 + x * torch.sigmoid(-x)) / SILU_SLOPE

    def slope_again(self, x: Tensor) -> Tensor:
        """The same through tanh: g = (1 + tanh(x/2)) / 2 and g' = 1 / (4 cosh(x/2)^2)."""
        half = x / 2
        return ((1 + torch.tanh(half)) / 2 + half / (2 * torch.cosh(half) ** 2)) / SILU_SLOPE


ACTIVATIONS: dict[str, Activation] = {a.name: a for a in (ReLU(), GELU(), SiLU())}


def activation_named(name: str) -> Activation:
    """The activation of that name.

    Args:
        name: "relu", "gelu" or "silu".

    Returns:
        The activation object.

    Raises:
        InputError: Unknown name.

    Example:
        >>> activation_named("relu")(torch.tensor(-1.0)).item()
        0.0
    """
    if name not in ACTIVATIONS:
        raise InputError("activation", name, f"choose one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]
