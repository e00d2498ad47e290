"""Weights of a torch module: blocks by the names of its parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from gdconv.models.weights import Weights
from gdconv.support.errors import InputError

TAKEN = ("X", "y")
"""Names under which the data are saved beside the weights."""


@dataclass(frozen=True)
class ModuleWeights(Weights):
    """Parameters by name, each with a leading replica axis.

    Attributes:
        values: Tensors by name.
        trained: Names of those that training moves.

    Example:
        >>> made = ModuleWeights.of(nn.Linear(2, 1))
        >>> made.R, sorted(made.blocks()), tuple(made.blocks()["weight"].shape)
        (1, ['bias', 'weight'], (1, 1, 2))
    """

    values: dict[str, Tensor]
    trained: tuple[str, ...]

    def blocks(self) -> dict[str, Tensor]:
        """The parameters by name, in the module's order."""
        return self.values

    def with_blocks(self, moved: Mapping[str, Tensor]) -> ModuleWeights:
        """The same weights with some parameters in the place of those of their names."""
        return ModuleWeights({**self.values, **moved}, self.trained)

    @property
    def moving(self) -> tuple[str, ...]:
        """Parameters that require a gradient."""
        return self.trained

    @classmethod
    def of(cls, module: nn.Module) -> ModuleWeights:
        """What a module holds now, as one replica in float64 on the CPU."""
        found = dict(module.named_parameters())
        values = {
            k: v.detach().to("cpu", torch.float64).clone()[None].contiguous()
            for k, v in found.items()
        }
        return cls(values, tuple(k for k, v in found.items() if v.requires_grad))

    @classmethod
    def from_arrays(cls, like: ModuleWeights, arrays: Mapping[str, np.ndarray]) -> ModuleWeights:
        """Weights from arrays by name, shapes as in the module or with replicas before.

        Args:
            like: Weights of the same module.
            arrays: An array per parameter.

        Returns:
            The weights.

        Raises:
            InputError: One is missing, of another shape, or not finite.
        """
        made = {}
        for name, block in like.values.items():
            if name not in arrays:
                raise InputError("weights", name, "give every parameter of the model by its name")
            value = torch.from_numpy(np.array(arrays[name], dtype=np.float64))
            shape = tuple(block.shape[1:])
            if tuple(value.shape) == shape:
                value = value[None]
            if tuple(value.shape[1:]) != shape:
                remedy = f"give shape {shape}, as the model has it"
                raise InputError("weights", f"{name} of shape {tuple(value.shape)}", remedy)
            if not bool(torch.isfinite(value).all()):
                raise InputError("weights", f"{name}, not finite", "give finite numbers")
            made[name] = value
        return cls(made, like.trained)


def require_names(names: Sequence[str]) -> None:
    """Parameters whose names can stand beside the data of a saved run.

    Args:
        names: Names of the parameters.

    Raises:
        InputError: There is none, or one is called X or y, or ends in _last.

    Example:
        >>> require_names(["0.weight"])
        >>> require_names(["y"])
        Traceback (most recent call last):
        gdconv.support.errors.InputError: model = parameter y: rename it: X, y and names in _last
        are those of a saved run's data.
    """
    if not names:
        raise InputError("model", "no parameters", "give a module that has some")
    for name in names:
        if name in TAKEN or name.endswith("_last"):
            remedy = "rename it: X, y and names in _last are those of a saved run's data"
            raise InputError("model", f"parameter {name}", remedy)
