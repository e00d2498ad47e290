"""Any torch module as an architecture: in memory, or named by the text `package.module:name`."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from gdconv.data.problem import Problem
from gdconv.data.sources import read_arrays
from gdconv.models.architecture import Architecture
from gdconv.models.generic.contract import in_factors, outputs_of, require_sound
from gdconv.models.generic.kernel import given_kernel
from gdconv.models.generic.model import ModuleModel
from gdconv.models.generic.weights import ModuleWeights, require_names
from gdconv.models.losses.base import Loss
from gdconv.models.losses.named import loss_named
from gdconv.models.reads import MODULE, OWN
from gdconv.support.config import Config
from gdconv.support.errors import InputError, cause

TWO_MODES = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)
"""Layers that training and evaluation mode tell apart."""


class ModuleFamily(Architecture):
    """One torch module, or what makes it.

    Args:
        source: A module; a function of no arguments that makes one, called under each run's seed;
            or an object with `module()` and, if it brings data too, `data(seed) -> (X, y)`.
        name: How tables and files name it.
        loss: A loss or its name; squared where nothing is said.

    Example:
        >>> family = ModuleFamily(nn.Linear(2, 1), "linear")
        >>> family.blocks, family.trainable
        (('weight', 'bias'), ('weight', 'bias'))
    """

    reads = MODULE

    @property
    def kind(self) -> str:
        """Any module."""
        return "module"

    def __init__(self, source: Any, name: str, loss: Loss | str | None = None) -> None:
        self.source, self.name = source, name  # type: ignore[misc]
        self.loss = loss_named(loss or "squared")
        self.defaults = {"loss": self.loss.name, "data": OWN if hasattr(source, "data") else None}
        self._module = self._made(0)
        self._like = ModuleWeights.of(self._module)
        given = given_kernel(source, self._module, name)
        self._model = ModuleModel(self._module, self.loss, given=given)
        self.refusal = ""
        self.blocks, self.trainable = tuple(self._like.values), self._like.trained  # type: ignore[misc]
        require_names(self.blocks)
        if not self.trainable:
            raise InputError("model", name, "let at least one parameter require a gradient")

    def _made(self, seed: int) -> nn.Module:
        """A module of its own, in float64 and evaluation mode."""
        source: Any = self.source
        made: object
        if isinstance(source, nn.Module):
            made = copy.deepcopy(source)
        else:
            with torch.random.fork_rng(devices=[]), torch.device("cpu"):
                torch.manual_seed(seed)
                try:
                    maker = getattr(source, "module", source)
                    made = maker() if callable(maker) else maker
                except InputError:
                    raise
                except Exception as error:  # whatever a user's class raises
                    remedy = f"give options of which a module can be made ({cause(error)})"
                    raise InputError("model", self.name, remedy) from error
        if not isinstance(made, nn.Module):
            remedy = "give a torch.nn.Module, or a function of no arguments that makes one"
            raise InputError("model", f"{self.name}, which makes {type(made).__name__}", remedy)
        return made.to("cpu", torch.float64).eval()

    def model(self, config: Config, sizes: dict[str, int]) -> ModuleModel:
        """The module with its loss, and the constants of its layers if all are known."""
        return self._model

    def load(self, config: Config, seed: int) -> Problem:
        """The model's own data, or those of a .npz file with X (N, ...) and y (N, ...).

        Args:
            config: Resolved options.
            seed: Seed of the model's own data.

        Returns:
            One replica.

        Raises:
            InputError: There are none.
        """
        if config.data == OWN:
            X, y = self.source.data(seed)
            return self.problem(*_with_replica(X, y), self.name, [])
        if config.data is None or not str(config.data).endswith(".npz"):
            remedy = "give X= and y= in Python, or --data FILE.npz with X (N, ...) and y (N, ...)"
            raise InputError("data", config.data or "nothing", remedy)
        arrays = read_arrays(Path(config.data))
        return self.problem(*_with_replica(arrays["X"], arrays["y"]), Path(config.data).name, [])

    def sizes(self, config: Config, problem: Problem, params: Any | None) -> dict[str, int]:
        """N alone: the other sizes are the module's."""
        return {"samples": problem.N}

    def entries(self, sizes: dict[str, int], trained: tuple[str, ...]) -> dict[str, int]:
        """The parameters; the Jacobian is known once the outputs are."""
        p = sum(self._like.values[b].numel() for b in trained)
        return {"Jacobian of one output per sample": sizes["samples"] * p}

    def draw(self, config: Config, sizes: dict[str, int], seed: int) -> ModuleWeights:
        """The module as it stands, or what its function makes under this seed.

        Args:
            config: Resolved options.
            sizes: Sizes.
            seed: Seed of the draws.

        Returns:
            The weights.

        Raises:
            InputError: Several runs of one module.
        """
        if isinstance(self.source, nn.Module):
            if config.seeds > 1:
                remedy = "give a function that makes the module: one module has one start"
                raise InputError("seeds", config.seeds, remedy)
            return self._like
        return ModuleWeights.of(self._made(seed))

    def from_arrays(self, arrays: dict[str, np.ndarray]) -> ModuleWeights:
        """Parameters by their names."""
        return ModuleWeights.from_arrays(self._like, arrays)

    def problem(
        self, X: np.ndarray, y: np.ndarray, name: str, notes: list[str], mask: Any = None
    ) -> Problem:
        """Data from arrays with a replica axis, classes as rows of zeros and a one."""
        made = [Problem.of_samples(*pair, name, notes) for pair in zip(X, y, strict=True)]
        stacked = Problem.stack(made)
        shape = outputs_of(self._model, stacked[0], self._like, self.name).shape
        return replace(stacked, y=self.loss.targets(stacked.y, tuple(shape)))

    def require_match(self, problem: Problem, params: Any) -> None:
        """The module takes these data, is differentiable and uses its parameters."""
        separate = require_sound(self._model, problem, params, self.name)
        model = replace(self._model, separate=separate, layered=False)
        model = replace(model, layered=in_factors(model, problem, params))
        known, self.refusal = model.layers(problem)
        self._model = replace(model, graph=known)

    def notes(self, problem: Problem, params: Any) -> list[str]:
        """Which layer keeps M_2 from being proved, and what evaluation mode changes."""
        said = []
        if any(isinstance(m, TWO_MODES) for m in self._module.modules()):
            said.append(
                "the module is taken in evaluation mode: no dropout, stored batch statistics"
            )
        if self.refusal:
            said.append(f"no bound of M_2 is proved for this module: {self.refusal}")
        return said


def described(module: Any) -> str:
    """A name for a module in memory: its class, its layers if they are few, its parameters.

    Args:
        module: A module or what makes one.

    Returns:
        One line.

    Example:
        >>> described(nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1)))
        'Sequential(Linear, Tanh, Linear), 97 parameters'
    """
    if not isinstance(module, nn.Module):
        return str(getattr(module, "__name__", type(module).__name__))
    layers = ", ".join(type(child).__name__ for child in module.children())
    count = sum(p.numel() for p in module.parameters())
    inside = f"({layers})" if 0 < len(layers) <= 60 else ""
    return f"{type(module).__name__}{inside}, {count} parameters"


def _with_replica(X: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.asarray(v)[None] for v in (X, y))  # type: ignore[return-value]
