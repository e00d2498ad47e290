"""A network with its data, to try theorems about any model on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class TwoLayer:
    """F = W_2 act(W_1 x) without biases, weights normal over sqrt fan-in; x of unit norm.

    Attributes:
        samples: N.
        inputs: d.
        width: Hidden units.
        act: The activation, a module class.
        label: Labels are this times a standard normal.

    Example:
        >>> net = TwoLayer(width=3)
        >>> [tuple(p.shape) for p in net.module().parameters()], net.data(0)[0].shape
        ([(3, 4), (1, 3)], torch.Size([4, 4]))
    """

    samples: int = 4
    inputs: int = 4
    width: int = 16
    act: type[nn.Module] = nn.Tanh
    label: float = 0.5

    def module(self) -> nn.Module:
        """The network with weights drawn from torch's generator."""
        made = nn.Sequential(
            nn.Linear(self.inputs, self.width, bias=False),
            self.act(),
            nn.Linear(self.width, 1, bias=False),
        ).double()
        for weight in made.parameters():
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
        return made

    def data(self, seed: int) -> tuple[Tensor, Tensor]:
        """Inputs on the sphere, normal labels."""
        draw = torch.Generator("cpu").manual_seed(seed)
        drawn = torch.randn(
            self.samples, self.inputs + 1, generator=draw, dtype=torch.float64, device="cpu"
        )
        X, y = drawn[:, :-1], drawn[:, -1:]
        return X / X.norm(dim=1, keepdim=True), self.label * y


@dataclass(frozen=True)
class NearFit(TwoLayer):
    """The same, with labels so near the outputs at the start that the kernel theorem applies.

    Attributes:
        samples: N.
        inputs: d.
        width: Hidden units.
        act: The activation, a module class.
        label: |F_0 - y|.

    Example:
        >>> X, y = NearFit().data(0)
        >>> y.shape
        torch.Size([4, 1])
    """

    label: float = 2e-3

    def data(self, seed: int) -> tuple[Tensor, Tensor]:
        """Inputs on the sphere, labels beside what the network of this seed says of them."""
        X, y = super().data(seed)
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.manual_seed(seed)
            module = self.module()
        with torch.no_grad():
            return X, module(X) + self.label * y / y.norm()
