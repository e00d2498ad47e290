"""The compiled engine: gradient descent on the multi-head model, float64, CPU, no padding."""

from __future__ import annotations

import numpy as np
import torch

from gdconv.compiled.descent import DONE, FusedRun
from gdconv.compiled.probes import NUMBERS, probe
from gdconv.data.problem import Problem
from gdconv.descent.engine import FINITE_LIMIT, Engine
from gdconv.descent.plan import Plan
from gdconv.models.multihead.model import MultiHeadRegression
from gdconv.models.multihead.parameters import BLOCKS, Parameters
from gdconv.models.probes import SAFETY, Probe, column
from gdconv.rigor.rounding import UNIT

COLUMNS = tuple(column(block) for block in BLOCKS)


class FusedEngine(Engine):
    """One compiled loop per replica; float64 on the CPU."""

    def __init__(
        self, model: MultiHeadRegression, problem: Problem, params: Parameters, plan: Plan
    ) -> None:
        super().__init__(model, problem, params, plan)
        self.weights_O = params.W_O
        arrays = params.numpy()
        X, y = np.ascontiguousarray(problem.X), np.ascontiguousarray(problem.y)
        self.trained = trained = "".join(block[-1] for block in plan.trained)
        self.moving = [BLOCKS.index(block) for block in plan.trained]
        self.data = [(X[r % len(X)], y[r % len(y)]) for r in range(len(plan.eta))]
        self.runs = [
            FusedRun(
                model.kernel.name,
                *data,
                **{block: arrays[block][r] for block in (*BLOCKS, "W_O")},
                led=self.ledgers[r],
                tests=self.tests[r],
                trained=trained,
            )
            for r, data in enumerate(self.data)
        ]
        self.starts = [run.W.copy() for run in self.runs]

    def advance(self, until: int) -> None:
        """Every live replica in turn, inside compiled code."""
        for r in self.live():
            goal = min(until, int(self.plan.limits[r]))
            if self.ledgers[r]["step"][0] < goal or goal == 0:
                self.status[r] = self._step_to(r, goal)
            while self.status[r] == DONE and self.ledgers[r]["step"][0] < goal:
                self.freshen(r)
                self.status[r] = self._step_to(r, goal)
            self.finished[r] = self.status[r] != DONE or goal == self.plan.limits[r]

    def _step_to(self, r: int, until: int) -> int:
        run, led, plan = self.runs[r], self.ledgers[r], self.plan
        if led["step"][0] < 0 and (status := run.advance(0)) != DONE:
            return status
        loss_0 = float(led["loss_0"][0])
        return run.advance(until, FINITE_LIMIT * loss_0, plan.target * loss_0, plan.stop_on_rise)

    def parameters(self) -> Parameters:
        """Weights copied out of the compiled loop's layout."""
        W_Q, W_K, W_V = torch.from_numpy(np.stack([run.W for run in self.runs], axis=1))
        return Parameters(W_Q, W_K, W_V, self.weights_O)

    def probe(self) -> Probe:
        """The compiled probes, the gradient as one array by replica."""
        found = [
            probe(run.kernel, *data, (*run.W, run.W_O), self.trained)
            for run, data in zip(self.runs, self.data, strict=True)
        ]
        numbers = {name: np.array([one[name] for one, _ in found]) for name in NUMBERS}
        return Probe(**numbers, gradient=[slopes for _, slopes in found])

    @np.errstate(all="ignore")  # a step that overflows is seen by its loss
    def distances(self) -> dict[str, np.ndarray]:
        """From the start, without a tensor."""
        pairs = zip(self.runs, self.starts, strict=True)
        squares = np.array([_squares(run.W, start) for run, start in pairs])
        columns = {name: np.sqrt(squares[:, i]) for i, name in enumerate(COLUMNS)}
        return {"distance": np.sqrt(squares.sum(1))} | columns

    def expected(self, probed: Probe) -> tuple[list[np.ndarray], np.ndarray]:
        """Theta - eta g by replica, and the same allowance as `Motion.allowed` gives."""
        eta = self.plan.eta
        wanted = [run.W.copy() for run in self.runs]
        for W, length, slopes in zip(wanted, eta, probed.gradient, strict=True):
            for i in self.moving:
                W[i] -= length * slopes[i]
        return wanted, SAFETY * (8 * UNIT * probed.weight_norm + eta * probed.gradient_error)

    @np.errstate(all="ignore")
    def missed(self, wanted: list[np.ndarray]) -> np.ndarray:
        """|theta - wanted| by replica."""
        pairs = zip(self.runs, wanted, strict=True)
        return np.sqrt([_squares(run.W, there).sum() for run, there in pairs])


def _squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|a - b|^2 block by block, shape (3,)."""
    apart = (a - b).reshape(len(a), -1)
    squares: np.ndarray = np.einsum("bx,bx->b", apart, apart)
    return squares
