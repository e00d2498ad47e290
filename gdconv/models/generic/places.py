"""Where a module keeps its tensors, to run it on others: torch.func.functional_call with less ado.

What that function finds out at every call, which names belong to one tensor, is found once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

Slot = tuple[dict[str, Any], str, Tensor]
"""A module's dictionary, the key in it, and what stands there."""


@dataclass(frozen=True)
class Places:
    """The dictionaries in which a module and its parts keep parameters and buffers.

    Attributes:
        parameters: Name, the first of a tied one, and every slot that holds it.
        buffers: Slots of the buffers.
    """

    parameters: tuple[tuple[str, Slot], ...]
    buffers: tuple[Slot, ...]

    @classmethod
    def of(cls, module: nn.Module) -> Places:
        """The places of a module.

        Args:
            module: It.

        Returns:
            Them.

        Example:
            >>> import torch
            >>> net = nn.Linear(1, 1)
            >>> X = torch.ones(1, 1)
            >>> with Places.of(net).holding({"weight": 2 * X, "bias": X[0]}, X):
            ...     net(X).item()
            3.0
        """
        names = {id(p): name for name, p in module.named_parameters()}
        parameters, buffers = [], []
        for part in module.modules():
            for key, p in part._parameters.items():
                if p is not None:
                    parameters.append((names[id(p)], (part._parameters, key, p)))
            for key, b in part._buffers.items():
                if b is not None:
                    buffers.append((part._buffers, key, b))
        return cls(tuple(parameters), tuple(buffers))

    @contextmanager
    def holding(self, theta: Mapping[str, Tensor], X: Tensor) -> Iterator[None]:
        """Other parameters in these places for a while, and buffers of the type of the inputs.

        Args:
            theta: By name; what is not in it stays.
            X: Inputs.

        Yields:
            Nothing.
        """
        try:
            for name, (held, key, _) in self.parameters:
                if name in theta:
                    held[key] = theta[name]
            for held, key, b in self.buffers:
                held[key] = b.to(X.device, X.dtype if b.is_floating_point() else b.dtype)
            yield
        finally:
            for _, (held, key, p) in self.parameters:
                held[key] = p
            for held, key, b in self.buffers:
                held[key] = b
