"""Looks at a module that somebody else trains: everything is read from a copy.

The copy is in float64, on the CPU and in evaluation mode; the module, its gradients, its mode and
every random generator are left as they are.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import inf, isfinite, nan
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gdconv.models.generic.family import ModuleFamily, described
from gdconv.models.generic.model import ModuleModel
from gdconv.models.generic.point import ModulePoint
from gdconv.models.generic.weights import ModuleWeights
from gdconv.models.losses.base import Loss
from gdconv.models.probes import SAFETY, distances
from gdconv.rigor.rounding import UNIT
from gdconv.support.arrays import real_array
from gdconv.support.config import Config
from gdconv.support.errors import InputError, cause
from gdconv.support.threads import one_thread


@contextmanager
def undisturbed() -> Iterator[None]:
    """Random generators, gradient mode and threads are after the block what they were before.

    Yields:
        Nothing.

    Example:
        >>> before = torch.random.get_rng_state()
        >>> with undisturbed():
        ...     _ = torch.rand(3), random.random()
        >>> bool((torch.random.get_rng_state() == before).all())
        True
    """
    own, numpys = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with (
            torch.random.fork_rng(devices=[]),
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast("cpu", enabled=False),
            torch.device("cpu"),
            one_thread(),
        ):
            yield
    finally:
        random.setstate(own)
        np.random.set_state(numpys)  # noqa: NPY002


@dataclass(frozen=True)
class Look:
    """What was seen at one step.

    Attributes:
        point: The module there.
        row: One row of the frame.
    """

    point: ModulePoint
    row: dict[str, float]


class Subject:
    """A module under observation with its data and loss.

    Args:
        module: The module, read and never written.
        X: Inputs (N, ...).
        y: Targets (N, ...).
        loss: A loss or its name.

    Example:
        >>> seen = Subject(nn.Linear(1, 1, bias=False), [[2.0]], [[0.0]], "squared")
        >>> look = seen.look(0, None, sharpness=True)
        >>> round(look.row["sigma_min_lo"], 6), round(look.row["lambda_max"], 6)
        (2.0, 4.0)
    """

    def __init__(self, module: nn.Module, X: Any, y: Any, loss: Loss | str) -> None:
        if not isinstance(module, nn.Module):
            raise InputError("module", type(module).__name__, "give the torch.nn.Module you train")
        self.module, self.name = module, described(module)
        inputs, targets = real_array("X", X)[0], real_array("y", y)[0]
        with undisturbed():
            family = ModuleFamily(copied(module), self.name, loss)
            self.loss = family.loss
            self.problem = family.problem(inputs[None], targets[None], "in memory", [])
            self.start = ModuleWeights.of(_model(family).module)
            family.require_match(self.problem, self.start)
            self.separate = _model(family).separate
        self.loss_0 = nan

    def parameters(self) -> ModuleWeights:
        """What the module holds now.

        Returns:
            Its parameters; those move that required a gradient at the start.

        Raises:
            InputError: They have other names or shapes than at the start.
        """
        now, first = ModuleWeights.of(self.module).values, self.start.values
        for name in {**first, **now}:
            sizes = [tuple(v[name].shape[1:]) if name in v else "missing" for v in (first, now)]
            if sizes[0] != sizes[1]:
                remedy = "make a new Monitor after changing the module's parameters"
                said = f"parameter {name}, {sizes[0]} at the start and {sizes[1]} now"
                raise InputError("module", said, remedy)
        return ModuleWeights(now, self.start.trained)

    def look(self, step: int, before: ModuleWeights | None, sharpness: bool) -> Look | None:
        """Measure everything at the module's parameters.

        Args:
            step: Updates since the start.
            before: The parameters one update ago, where they were kept.
            sharpness: Whether lambda_max is estimated.

        Returns:
            What was seen; None where a parameter, an output or a slope is not finite.

        Raises:
            InputError: The parameters have other names or shapes than at the start.
        """
        params = self.parameters()
        with undisturbed():
            family = ModuleFamily(copied(self.module), self.name, self.loss)
            model = replace(_model(family), separate=self.separate)
            finite = all(bool(torch.isfinite(v).all()) for v in params.values.values())
            if not finite or not bool(torch.isfinite(model.forward(self.problem, params).F).all()):
                return None
            return self._measured(model, params, step, before, sharpness)

    def proved(self, look: Look) -> tuple[ModulePoint, str]:
        """The constants of a look's point by the layers of the module as it was then.

        Args:
            look: What was seen.

        Returns:
            The point with its layers, and which one is unknown, empty where none is.
        """
        point = look.point
        with undisturbed():
            known, refusal = point.model.layers(self.problem)
        return replace(point, graph=known), refusal

    def _measured(
        self,
        model: ModuleModel,
        params: ModuleWeights,
        step: int,
        before: ModuleWeights | None,
        sharpness: bool,
    ) -> Look | None:
        trained, y = params.trained, self.problem.y
        at, gradient = model.gradient(self.problem, params)
        probed = model.probe(self.problem, params, trained)
        # samples that did not meet at the start may meet now: J^T S must be the gradient
        defect = float((_flat(probed.gradient, trained) - _flat(gradient, trained)).norm())
        rounded = 8 * UNIT * float(probed.weight_norm[0])
        if not defect <= SAFETY * (rounded + float(probed.gradient_error[0])):
            if not model.separate:
                return None
            self.separate = False
            whole = replace(model, separate=False)
            return self._measured(whole, params, step, before, sharpness)
        point = model.point(self.problem, params, trained)
        if not point.slope_is_finite:
            return None
        dF = torch.from_numpy(probed.noise_scale)
        loss, error = float(at.loss[0]), float(model.loss.error(at.F, y, dF)[0])
        slope, (s, S) = float(_flat(gradient, trained).norm()), point.J_range
        if not isfinite(self.loss_0):
            self.loss_0 = loss
        row = {
            "step": step,
            "loss": loss,
            "loss_lo": max(0.0, loss - error),
            "loss_hi": loss + error,
            "loss_ratio": loss / self.loss_0 if self.loss_0 > 0 else nan,
            "grad_norm": slope,
            "pl_ratio": slope**2 / (2 * loss) if loss > 0 else nan,
            "sigma_min_lo": s.lo,
            "sigma_min_hi": s.hi,
            "jacobian_norm": S.hi,
        }
        if sharpness:
            found = point.sharpness
            row |= {"lambda_max": found.value, "lambda_max_error": found.error}
        row |= self._update(model, before, params, loss, error, dF)
        row |= {k: float(v[0]) for k, v in distances(params, self.start).items()}
        return Look(point, row)

    def _update(
        self,
        model: ModuleModel,
        before: ModuleWeights | None,
        params: ModuleWeights,
        loss: float,
        error: float,
        dF: Tensor,
    ) -> dict[str, float]:
        """The last update as a gradient step: its length, its cosine with -g, its c_t."""
        row = dict.fromkeys(("step_length", "cosine", "c", "c_error"), nan)
        if before is None:
            return row
        at, gradient = model.gradient(self.problem, before)
        g = _flat(gradient, params.trained)
        moved = _flat(params, params.trained) - _flat(before, params.trained)
        length, slope = float(moved.norm()), float(g.norm())
        if 0 < length < inf and 0 < slope < inf:
            off = error + float(model.loss.error(at.F, self.problem.y, dF)[0])
            row["step_length"] = length / slope
            row["cosine"] = min(1.0, max(-1.0, -float(moved @ g) / (length * slope)))
            row["c"] = (float(at.loss[0]) - loss) / (length * slope)
            row["c_error"] = off / (length * slope)
        return row


def copied(module: nn.Module) -> nn.Module:
    """A module of its own; tensors that a forward pass left in it are copied without their past.

    Args:
        module: Any module.

    Returns:
        The copy.

    Raises:
        InputError: It cannot be copied.
    """
    memo: dict[int, Any] = {}
    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                memo[id(value)] = value.detach().clone()
    try:
        return copy.deepcopy(module, memo)
    except Exception as error:  # whatever a user's module raises
        remedy = f"give a module that copy.deepcopy takes ({cause(error)})"
        raise InputError("module", described(module), remedy) from error


def _model(family: ModuleFamily) -> ModuleModel:
    return family.model(Config("generic-gd"), {})


def _flat(weights: Any, trained: tuple[str, ...]) -> Tensor:
    return torch.cat([weights.blocks()[b][0].flatten() for b in trained])
