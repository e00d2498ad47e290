"""Motion: an algorithm at work on the trained blocks of R runs, its state, step and energy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gdconv.data.problem import Problem
from gdconv.descent.algorithms.base import State, same_blocks, squared_distance
from gdconv.descent.plan import Plan
from gdconv.models.probes import SAFETY, Probe, to_numpy
from gdconv.support.errors import InputError, cause

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
        self.state = self._asked("state", self._blocks(params))

    def _blocks(self, params: Any) -> dict[str, Tensor]:
        blocks = params.blocks()
        return {name: blocks[name] for name in self.trained}

    def _asked(self, method: str, *args: Any) -> Any:
        """What a method of somebody's algorithm says, its failure as one sentence."""
        name = f"{method} of algorithm {self.algorithm.name}"
        given: list[Tensor] = [
            block for a in args if isinstance(a, dict) for block in a.values()
        ] + [a for a in args if isinstance(a, Tensor)]
        versions = [tensor._version for tensor in given]
        function: Callable[..., Any] = getattr(self.algorithm, method)
        try:
            answer = function(*args)
        except InputError:
            raise
        except Exception as error:  # whatever a user's method raises
            raise InputError(name, "an error", f"mend it ({cause(error)})") from error
        if versions != [tensor._version for tensor in given]:
            remedy = "return new tensors and leave those that it is given as they are"
            raise InputError(name, "a change in place", remedy)
        return answer

    def _number(self, method: str, answer: Any) -> Tensor:
        """One real number per replica, not negative where it is a bound."""
        good = isinstance(answer, Tensor) and not answer.is_complex()
        if not good or answer.numel() != self.eta.numel():
            remedy = "return a real tensor with one number per replica"
            raise InputError(f"{method} of algorithm {self.algorithm.name}", answer, remedy)
        return answer.double().reshape(self.eta.shape)

    def _spread(self, grad: Any, error: Tensor) -> np.ndarray:
        """How far the next iterate may be off; infinity says nothing and allows nothing."""
        found = self._number("spread", self._asked("spread", grad, error, self._exact))
        if bool((found < 0).any()):
            name = f"spread of algorithm {self.algorithm.name}"
            raise InputError(name, float(found.min()), "give a distance, which is not negative")
        return to_numpy(torch.where(torch.isinf(found), torch.nan, found))

    def echo(self, t: int) -> float:
        """What later steps make of a defect, at least 1."""
        found = self._asked("echo", t)
        if isinstance(found, bool) or not isinstance(found, int | float) or not found >= 1:
            name = f"echo of algorithm {self.algorithm.name}"
            raise InputError(name, found, "give a number of at least 1")
        return float(found)

    def source(self, here: Any) -> Any:
        """Weights at which the gradient of the next step is taken; `here` itself where it can."""
        own = self._blocks(here)
        point = self._asked("point", own, self.state)
        if point is own:
            return here
        return here.with_blocks(same_blocks(f"point of {self.algorithm.name}", own, point))

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
        answer = self._asked("step", own, self._blocks(gradient), self.eta, self.state)
        if not isinstance(answer, tuple) or len(answer) != 2:
            name = f"step of algorithm {self.algorithm.name}"
            raise InputError(name, type(answer).__name__, "return two things: blocks and state")
        new, state = answer
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
        energy = self._asked("energy", gap, own, self.state, self._exact.to(gap.device))
        if energy is gap:
            return None
        energy = self._number("energy", energy)
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
        error = SAFETY * torch.from_numpy(probed.gradient_error)
        spread = self._spread(self._blocks(probed.gradient), error)
        return SAFETY * (8 * unit * probed.weight_norm) + spread

    def defects(self, ledgers: list[np.ndarray], grad: Any) -> np.ndarray:
        """What the defect of the coming step may add up to in every replica, a distance (R,)."""
        error = np.array([gradient_error(led[0]) for led in ledgers])
        spread = self._spread(self._blocks(grad), torch.from_numpy(error))
        rounded = np.array([8 * UNIT * float(led["weight_norm"][0]) for led in ledgers])
        echo = [self.echo(int(led["step"][0])) for led in ledgers]
        return (rounded + spread) * np.array(echo)


def gradient_error(led: Any) -> float:
    """Rounding of a gradient as its ledger knows it: bend |J|_F nu + the error of J times |S|."""
    noise = float(led["bend"]) * float(led["jacobian_norm"]) * float(led["noise_scale"])
    return noise + float(led["jacobian_error"]) * float(led["slope"])
