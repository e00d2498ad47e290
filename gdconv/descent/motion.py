"""Motion: an algorithm at work on the trained blocks of R runs, its state, step and energy."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from gdconv.data.problem import Problem
from gdconv.descent.algorithms.base import State, same_blocks, squared_distance
from gdconv.descent.algorithms.momentum import GradientDescent
from gdconv.descent.plan import Plan
from gdconv.models.probes import SAFETY, Probe, to_numpy

UNIT = 2.0**-53


class Motion:
    """The algorithm of a plan, with what it remembers.

    Args:
        plan: Step sizes, trained blocks, algorithm.
        problem: Data; its device and type are those of the step sizes.
        params: Start weights, R replicas.
    """

    def __init__(self, plan: Plan, problem: Problem, params: Any) -> None:
        self.algorithm, self.trained = plan.algorithm, plan.trained
        self.eta = torch.as_tensor(plan.eta, dtype=problem.X.dtype, device=problem.X.device)
        self._exact = torch.as_tensor(plan.eta, dtype=torch.float64, device="cpu")
        self.state = self.algorithm.state(self._blocks(params))

    @property
    def plain(self) -> bool:
        """Whether it is gradient descent, for which the compiled loop and the ledger are made."""
        return type(self.algorithm) is GradientDescent

    def _blocks(self, params: Any) -> dict[str, Tensor]:
        blocks = params.blocks()
        return {name: blocks[name] for name in self.trained}

    def source(self, here: Any) -> Any:
        """Weights at which the gradient of the next step is taken; `here` itself where it can."""
        own = self._blocks(here)
        point = self.algorithm.point(own, self.state)
        return here if point is own else here.with_blocks(dict(point))

    def step(self, here: Any, gradient: Any) -> tuple[Any, State]:
        """The next iterate of every replica, and the state that belongs to it.

        Args:
            here: Weights.
            gradient: At `source(here)`.

        Returns:
            Both; nothing is kept.

        Raises:
            InputError: The algorithm returns other blocks or shapes than it was given.
        """
        own = self._blocks(here)
        new, state = self.algorithm.step(own, self._blocks(gradient), self.eta, self.state)
        return here.with_blocks(same_blocks(self.algorithm.name, own, new)), state

    def take(self, here: Any, gradient: Any, moving: list[int]) -> Any:
        """The step of some replicas; the others, which have ended, stay."""
        new, self.state = self.step(here, gradient)
        if len(moving) == here.R:
            return new
        goes = torch.zeros(here.R, dtype=torch.bool, device=self.eta.device)
        goes[moving] = True
        old, new = self._blocks(here), self._blocks(new)
        return here.with_blocks({
            b: torch.where(goes.view(-1, *[1] * (old[b].ndim - 1)), new[b], old[b]) for b in old
        })

    def length(self, before: Any, here: Any) -> np.ndarray:
        """|theta_{t+1} - theta_t| from above, shape (R,)."""
        return (1 + 1e-9) * to_numpy(
            squared_distance(self._blocks(here), self._blocks(before)).sqrt()
        )

    def kinetic(self, here: Any, gap: Tensor) -> tuple[np.ndarray, np.ndarray] | None:
        """Energy less gap, with its error; None where the energy is the gap.

        Args:
            here: Weights.
            gap: f - f* there, shape (R,).

        Returns:
            Two arrays (R,). The energy is a sum over p entries beside the gap.
        """
        own, gap = self._blocks(here), gap.double()
        energy = self.algorithm.energy(gap, own, self.state, self._exact.to(gap.device))
        if energy is gap:
            return None
        p = sum(block[0].numel() for block in own.values())
        more = energy - gap
        return to_numpy(more), to_numpy(UNIT * ((p + 16) * more.abs() + 4 * energy.abs()))

    def allowed(self, probed: Probe, unit: float) -> np.ndarray:
        """Rounding that a correct step from there may show, shape (R,).

        Args:
            probed: At `source`.
            unit: Unit roundoff of the run's type.

        Returns:
            16 (8u |theta| + what the step makes of the gradient's error).
        """
        error = SAFETY * torch.as_tensor(probed.gradient_error)
        spread = self.algorithm.spread(self._blocks(probed.gradient), error, self._exact)
        return SAFETY * (8 * unit * probed.weight_norm) + to_numpy(spread)

    def defects(self, ledgers: list[np.ndarray], grad: Any) -> np.ndarray:
        """What the defect of the coming step may add up to in every replica, a distance (R,)."""
        told = {
            name: np.array([float(led[name][0]) for led in ledgers])
            for name in ("bend", "jacobian_norm", "noise_scale", "jacobian_error", "slope")
        }
        error = told["bend"] * told["jacobian_norm"] * told["noise_scale"]
        error += told["jacobian_error"] * told["slope"]
        at = torch.as_tensor(error)
        spread = self.algorithm.spread(self._blocks(grad), at, self._exact)
        rounded = np.array([8 * UNIT * float(led["weight_norm"][0]) for led in ledgers])
        echo = [self.algorithm.echo(int(led["step"][0])) for led in ledgers]
        return (rounded + to_numpy(spread)) * np.array(echo)
