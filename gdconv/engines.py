"""The two engines behind `gdconv.descent`: compiled CPU loop, batched torch.

Both hold R replicas and advance them to a given step; `gdconv.ledger.observe` runs once per step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from gdconv.errors import InputError
from gdconv.fused import DIVERGED, DONE, ROSE, TARGET, FusedRun
from gdconv.ledger import FIXED, UNTESTED, new_ledger, new_tests, observe
from gdconv.models.multihead import MultiHeadRegression, Parameters
from gdconv.problem import Problem
from gdconv.simd import padded
from gdconv.tracking import follow, new_tracker

if TYPE_CHECKING:
    from gdconv.descent import Plan

FINITE_LIMIT = 1e12
"""A loss above this many times f_0 counts as diverged."""


class Engine(ABC):
    """R runs with their ledgers.

    Args:
        plan: Steps, limits, tests.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.names = list(plan.kinds[0])
        self.ledgers = [
            new_ledger(float(e), float(o)) for e, o in zip(plan.eta, plan.o_squared, strict=True)
        ]
        self.tests = [_tests(plan, r) for r in range(len(plan.eta))]
        self.status = np.full(len(plan.eta), DONE)
        self.finished = np.zeros(len(plan.eta), bool)

    def live(self) -> list[int]:
        """Replicas that have not ended."""
        return [r for r in range(len(self.status)) if not self.finished[r]]

    def advance(self, until: int) -> None:
        """Take every live replica to step `until`, or to its own end."""
        for r in self.live():
            goal = min(until, int(self.plan.limits[r]))
            self.status[r] = self.step_to(r, goal)
            self.finished[r] = self.status[r] != DONE or goal == self.plan.limits[r]

    @abstractmethod
    def step_to(self, r: int, until: int) -> int:
        """Take replica r to a step; returns a status code of `gdconv.fused`."""

    @abstractmethod
    def parameters(self) -> Parameters:
        """Weights of all replicas now."""


def _tests(plan: Plan, r: int) -> np.ndarray:
    """Test records of replica r; a bound whose factor is not in (0, 1) is not tested."""
    kinds, logs, starts, slacks = [], [], [], []
    for name, kind in plan.kinds[r].items():
        lo, hi = (float(plan.eta[r]) * rate for rate in plan.rates[r].get(name, (0.0, 0.0)))
        fixed = kind == FIXED and 0 < hi < 1
        kinds.append(UNTESTED if kind == FIXED and not fixed else kind)
        logs.append(float(np.log1p(-hi)) if fixed else 0.0)
        slacks.append(float(np.log1p(-lo) - np.log1p(-hi)) if fixed else 0.0)
        starts.append(float(np.log(plan.prefactors[r].get(name, 1.0))))
    return new_tests(kinds, logs, starts, slacks)


class FusedEngine(Engine):
    """One compiled loop per replica; float64 on the CPU."""

    def __init__(
        self, model: MultiHeadRegression, problem: Problem, params: Parameters, plan: Plan
    ) -> None:
        super().__init__(plan)
        self.weights_O = params.W_O
        arrays = params.numpy()
        X, y = problem.X.numpy(), problem.y.numpy()
        trained = "".join(block[-1] for block in plan.trained)
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

    def step_to(self, r: int, until: int) -> int:
        """Advance one replica inside compiled code."""
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


class TorchEngine(Engine):
    """Batched torch on any device and dtype: all live replicas take each step together."""

    def __init__(
        self, model: MultiHeadRegression, problem: Problem, params: Parameters, plan: Plan
    ) -> None:
        super().__init__(plan)
        self.model, self.problem, self.params = model, problem, params
        X = problem.X.detach().cpu().double().numpy()
        self.trackers = [
            new_tracker(X[r % len(X)], params.H, 0.01, True) for r in range(len(plan.eta))
        ]
        H, (N, n) = params.H, X.shape[1:3]
        self.lanes = np.zeros((H, n, n, padded(N)))  # the tracker's layout: samples last, padded
        self.grad: Parameters | None = None

    def advance(self, until: int) -> None:
        """One batched gradient per step; replicas that have ended keep their weights."""
        if self.grad is None:
            self._observe(self.live())
            self._close(until)
        while True:
            moving = [r for r in self.live() if self.ledgers[r]["step"][0] < until]
            if not moving:
                return
            self._update(moving)
            self._observe(moving)
            self._close(until)

    def step_to(self, r: int, until: int) -> int:
        """Not used: `advance` moves all replicas at once."""
        raise NotImplementedError

    def parameters(self) -> Parameters:
        """Weights of all replicas."""
        return self.params

    def _update(self, moving: list[int]) -> None:
        assert self.grad is not None
        eta = np.zeros(len(self.plan.eta))
        eta[moving] = self.plan.eta[moving]
        W = self.params.W_Q
        steps = torch.as_tensor(eta, dtype=W.dtype, device=W.device)[:, None, None, None]
        moved = {
            b: getattr(self.params, b) - steps * getattr(self.grad, b) for b in self.plan.trained
        }
        self.params = replace(self.params, **moved)

    def _observe(self, moving: list[int]) -> None:
        at, self.grad = self.model.gradient(self.problem, self.params)
        grad_sq = sum(getattr(self.grad, b).square().sum((1, 2, 3)) for b in self.plan.trained)
        numbers = torch.stack([at.loss, grad_sq]).detach().cpu().double().numpy()
        S = at.S.detach().cpu().double().numpy()
        for r in moving:
            if not np.isfinite(numbers[:, r]).all():
                self.status[r] = DIVERGED
                self.ledgers[r]["loss"] = numbers[0, r]
                continue
            self.lanes[..., : S.shape[2]] = S[r].transpose(0, 2, 3, 1)
            lo, hi = follow(self.trackers[r], self.lanes.reshape(-1))
            observe(self.ledgers[r][0], self.tests[r], numbers[0, r], numbers[1, r], lo, hi)

    def _close(self, until: int) -> None:
        for r in self.live():
            led, plan = self.ledgers[r][0], self.plan
            if self.status[r] == DIVERGED or led["loss"] > FINITE_LIMIT * max(
                led["loss_0"], 1e-300
            ):
                self.status[r] = DIVERGED
            elif led["loss"] <= plan.target * led["loss_0"]:
                self.status[r] = TARGET
            elif plan.stop_on_rise and led["rises"] > 0:
                self.status[r] = ROSE
            self.finished[r] = self.status[r] != DONE or led["step"] >= plan.limits[r]


def make_engine(
    model: MultiHeadRegression, problem: Problem, params: Parameters, plan: Plan
) -> Engine:
    """The engine that suits device, dtype and wish.

    Args:
        model: The model.
        problem: Data.
        params: Start weights.
        plan: What to run; its `engine` is auto, fused or torch.

    Returns:
        A fresh engine.

    Raises:
        InputError: The fused engine is asked for where it cannot run.
    """
    fits = problem.X.device.type == "cpu" and problem.X.dtype == torch.float64
    if plan.engine == "fused" and not fits:
        raise InputError("engine", "fused", "use --engine torch for other devices or dtypes")
    chosen = TorchEngine if plan.engine == "torch" or not fits else FusedEngine
    return chosen(model, problem, params, plan)
