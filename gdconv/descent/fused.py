"""The compiled engine: gradient descent on the multi-head model, float64, CPU, no padding."""

from __future__ import annotations

from math import sqrt

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

Blocks = tuple[np.ndarray, ...]


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
        self.data = [(X[r % len(X)], y[r % len(y)]) for r in range(len(plan.eta))]
        self.starts: list[Blocks] = [tuple(arrays[b][r] for b in BLOCKS) for r in range(params.R)]
        self.runs = [
            FusedRun(
                model.kernel.name,
                X[r % len(X)],
                y[r % len(y)],
                W_Q=arrays["W_Q"][r],
                W_K=arrays["W_K"][r],
                W_V=arrays["W_V"][r],
                W_O=arrays["W_O"][r],
                led=self.ledgers[r],
                tests=self.tests[r],
                trained=trained,
            )
            for r in range(len(plan.eta))
        ]

    def advance(self, until: int) -> None:
        """Every live replica in turn, inside compiled code."""
        for r in self.live():
            goal = min(until, int(self.plan.limits[r]))
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
        stacked = {
            b: np.stack([getattr(run, b) for run in self.runs]) for b in ("W_Q", "W_K", "W_V")
        }
        return Parameters(
            **{b: torch.from_numpy(W) for b, W in stacked.items()}, W_O=self.weights_O
        )

    def probe(self) -> Probe:
        """The compiled probes, the gradient as arrays by replica."""
        found = [
            probe(run.kernel, *data, (run.W_Q, run.W_K, run.W_V, run.W_O), self.trained)
            for run, data in zip(self.runs, self.data, strict=True)
        ]
        numbers = {name: np.array([one[name] for one, _ in found]) for name in NUMBERS}
        return Probe(**numbers, gradient=[slopes for _, slopes in found])

    def distances(self) -> dict[str, np.ndarray]:
        """From the start, without a tensor."""
        squares = np.array([
            _squares(*pair) for pair in zip(self._here(), self.starts, strict=True)
        ])
        columns = {column(b): np.sqrt(squares[:, i]) for i, b in enumerate(BLOCKS)}
        return {"distance": np.sqrt(squares.sum(1))} | columns

    def expected(self, probed: Probe) -> tuple[list[Blocks], np.ndarray]:
        """Theta - eta g by replica, and the same allowance as `Motion.allowed` gives."""
        eta = self.plan.eta
        wanted = [
            tuple(
                W - eta[r] * g if b in self.plan.trained else W.copy()
                for b, W, g in zip(BLOCKS, here, probed.gradient[r], strict=True)
            )
            for r, here in enumerate(self._here())
        ]
        return wanted, SAFETY * (8 * UNIT * probed.weight_norm + eta * probed.gradient_error)

    def missed(self, wanted: list[Blocks]) -> np.ndarray:
        """|theta - wanted| by replica."""
        pairs = zip(self._here(), wanted, strict=True)
        return np.array([sqrt(sum(_squares(*pair))) for pair in pairs])

    def _here(self) -> list[Blocks]:
        return [(run.W_Q, run.W_K, run.W_V) for run in self.runs]


@np.errstate(all="ignore")  # a step that overflows is none, and is seen by its loss
def _squares(a: Blocks, b: Blocks) -> list[float]:
    """|a - b|^2 block by block."""
    apart = ((x - y).ravel() for x, y in zip(a, b, strict=True))
    return [float(d @ d) for d in apart]
