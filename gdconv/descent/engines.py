"""The two engines behind `gdconv.descent.loop`: compiled CPU loop, batched torch.

Both hold R replicas and advance them to a given step; `gdconv.compiled.ledger.observe` runs once
per step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch

from gdconv.compiled.descent import DIVERGED, DONE, ROSE, TARGET, FusedRun
from gdconv.compiled.ledger import (
    DECREASE,
    FIXED,
    POSTERIOR,
    UNTESTED,
    enter_jacobian,
    new_ledger,
    new_tests,
    observe,
    observe_loss,
)
from gdconv.data.problem import Problem
from gdconv.descent.followed import Followed
from gdconv.descent.motion import Motion
from gdconv.descent.plan import Bound, Plan
from gdconv.descent.watch import Watch
from gdconv.models.base import Bars, Model
from gdconv.models.multihead.model import MultiHeadRegression
from gdconv.models.multihead.parameters import Parameters
from gdconv.rigor.spectrum import Enclosure
from gdconv.support.errors import InputError

FINITE_LIMIT = 1e12
"""A loss above this many times f_0 counts as diverged."""

MOST_ENCLOSURES = 1000
"""How often sigma_m(J) is enclosed between records before it is followed at records only."""


class Engine(ABC):
    """R runs with their ledgers.

    Args:
        model: The model.
        problem: Data.
        params: Start weights.
        plan: Steps, limits, bounds.
    """

    def __init__(self, model: Model, problem: Problem, params: Any, plan: Plan) -> None:
        self.model, self.problem, self.plan = model, problem, plan
        self.names = list(plan.bounds[0])
        R = range(len(plan.eta))
        self.ledgers = [new_ledger(float(plan.eta[r]), float(plan.o_squared[r])) for r in R]
        self.tests = [_tests(plan, r) for r in R]
        self.status = np.full(len(R), DONE)
        self.finished = np.zeros(len(R), bool)
        self.enclosures = np.zeros(len(R), int)
        self.watch: Watch | None = None
        self.motion = Motion(plan, problem, params)
        for r in R:
            self.ledgers[r]["jacobian_drift"] = plan.jacobian_drift[r]

    def live(self) -> list[int]:
        """Replicas that have not ended."""
        return [r for r in range(len(self.status)) if not self.finished[r]]

    @abstractmethod
    def advance(self, until: int) -> None:
        """Take every live replica to step `until`, or to its own end."""

    @abstractmethod
    def parameters(self) -> Any:
        """Weights of all replicas now."""

    def record(self, r: int) -> dict[str, float]:
        """Columns of replica r for the trace that no ledger has."""
        return {}

    def results(self, r: int) -> dict[str, dict[str, np.void]]:
        """Tests of quantities that no ledger has, by statement and quantity."""
        return {}

    def enclose_jacobian(self, r: int) -> Enclosure:
        """Enclose sigma_m(J) of replica r where it stands and enter it into the ledger."""
        problem = self.problem[r if self.problem.R > 1 else 0].to("cpu", torch.float64)
        here = self.parameters()[r].to("cpu", torch.float64)
        at = self.model.point(problem, here, self.plan.trained)
        least, led = at.J_range[0], self.ledgers[r]
        if not led["features"][0]:
            led["jacobian_drift"], led["radius"] = 1.0, 0.0  # it counts at this step alone
        enter_jacobian(led, least.lo, least.hi)
        return least

    def freshen(self, r: int) -> None:
        """Answer a stale ledger; once the budget is spent, sigma_m(J) counts at records only."""
        if not self.ledgers[r]["stale"][0]:
            return
        self.enclosures[r] += 1
        if self.enclosures[r] <= MOST_ENCLOSURES:
            self.enclose_jacobian(r)
        else:
            self.ledgers[r]["jacobian_lo"], self.ledgers[r]["stale"] = 0.0, 0


def _tests(plan: Plan, r: int) -> np.ndarray:
    """Test records of replica r; a rate whose factor is not in (0, 1) is not tested."""
    bounds = list(plan.bounds[r].values())
    scaled = [(float(plan.eta[r]) * b.rate[0], float(plan.eta[r]) * b.rate[1]) for b in bounds]
    fixed = [b.kind == FIXED and 0 < hi < 1 for b, (_, hi) in zip(bounds, scaled, strict=True)]
    pairs = list(zip(bounds, scaled, fixed, strict=True))
    return new_tests(
        [b.kind if ok or _testable(b) else UNTESTED for b, _, ok in pairs],
        [b.power * float(np.log1p(-hi)) if ok else 0.0 for b, (_, hi), ok in pairs],
        [float(np.log(b.prefactor)) for b in bounds],
        [
            b.power * float(np.log1p(-lo) - np.log1p(-hi))
            if ok
            else b.coefficient[1] - b.coefficient[0]
            for b, (lo, hi), ok in pairs
        ],
        [b.coefficient[1] for b in bounds],
    )


def _testable(bound: Bound) -> bool:
    """A bound that claims something whatever the step is."""
    return bound.kind == POSTERIOR or (bound.kind == DECREASE and bound.coefficient[1] > 0)


class FusedEngine(Engine):
    """One compiled loop per replica; float64 on the CPU."""

    def __init__(
        self, model: MultiHeadRegression, problem: Problem, params: Parameters, plan: Plan
    ) -> None:
        super().__init__(model, problem, params, plan)
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


class TorchEngine(Engine):
    """Batched torch on any device and dtype: all live replicas take each step together."""

    def __init__(self, model: Model, problem: Problem, params: Any, plan: Plan) -> None:
        super().__init__(model, problem, params, plan)
        self.params = params
        self.follower = model.sigma_follower(problem, params, plan.trained)
        self.watch = plan.watch(model, problem, params, plan) if plan.watch else None
        self.grad: Any = None
        self.followed = [
            Followed(bounds, _alone(params, r)) for r, bounds in enumerate(plan.bounds)
        ]
        self.defects = np.zeros(len(plan.eta))
        for led in self.ledgers:
            led["features"] = self.follower is not None
            if self.follower is not None and self.follower.jacobian:
                led["o_squared"] = 1.0  # what is followed is sigma_m(J) itself

    def advance(self, until: int) -> None:
        """One batched gradient per step; replicas that have ended keep their weights."""
        if self.grad is None:
            self._observe(self.live())
            self._close(until)
        while True:
            moving = [r for r in self.live() if self.ledgers[r]["step"][0] < until]
            if not moving:
                return
            for r in moving:
                self.freshen(r)
            self._update(moving)
            self._observe(moving)
            self._close(until)

    def parameters(self) -> Any:
        """Weights of all replicas."""
        return self.params

    def record(self, r: int) -> dict[str, float]:
        """What the watch follows, the energy and the followed quantities with their bounds."""
        led = self.ledgers[r][0]
        own = {"energy": float(led["energy"])} if led["kinetic_error"] > 0 else {}
        watched = self.watch.record(r, self.params) if self.watch else {}
        return own | self.followed[r].columns | watched

    def results(self, r: int) -> dict[str, dict[str, np.void]]:
        """The tests of the followed quantities."""
        return self.followed[r].results

    def enclose_jacobian(self, r: int) -> Enclosure:
        """As for any engine, unless the follower has told already."""
        if self.follower is None or not self.follower.jacobian:
            return super().enclose_jacobian(r)
        led = self.ledgers[r]
        if led["sigma_hi"][0] < np.inf:
            return Enclosure(float(led["sigma_lo"][0]), float(led["sigma_hi"][0]))
        least = super().enclose_jacobian(r)
        led["jacobian_lo"] = 0.0  # it counts at this step alone
        return least

    def _update(self, moving: list[int]) -> None:
        before, source = self.params, self.motion.source(self.params)
        grad = self.grad if source is before else self.model.gradient(self.problem, source)[1]
        if any(self.followed):
            self.defects = self.motion.defects(self.ledgers, grad)
        self.params = self.motion.take(before, grad, moving)
        if not self.motion.algorithm.plain:
            length = self.motion.length(before, self.params)
            for r in moving:
                self.ledgers[r]["moved"] = length[r]

    def _observe(self, moving: list[int]) -> None:
        at, self.grad = self.model.gradient(self.problem, self.params)
        slopes = self.grad.blocks()
        grad_sq = sum(
            slopes[b].square().reshape(self.params.R, -1).sum(1) for b in self.plan.trained
        )
        numbers = torch.stack([at.loss, grad_sq]).detach().cpu().double().numpy()
        finite = np.isfinite(numbers).all(0)
        for r in [r for r in moving if not finite[r]]:
            self.status[r] = DIVERGED
            self.ledgers[r]["loss"] = numbers[0, r]
        moving = [r for r in moving if finite[r]]
        sigmas = self.follower.at(at, moving) if self.follower else [(0.0, np.inf)] * len(moving)
        noise = np.array([led["noise_scale"][0] for led in self.ledgers])
        bars = self.model.bars(self.problem, at, noise)
        self._tell(moving, at.loss)
        for r, ends in zip(moving, sigmas, strict=True):
            seen = (self.ledgers[r][0], self.tests[r], numbers[0, r], numbers[1, r], *ends)
            if bars is None:
                observe(*seen)
            else:
                self._observe_loss(r, seen, bars)
        for r in [r for r in moving if self.followed[r]]:
            here = _alone(self.params, r)
            self.followed[r].observe(self.ledgers[r][0], here, float(self.defects[r]))
        if self.watch and moving:
            self.watch.observe(moving, self.params, at)

    def _tell(self, moving: list[int], gap: torch.Tensor) -> None:
        """What the ledger is to know of another algorithm before the iterate is entered."""
        if self.motion.algorithm.plain:
            return
        more = self.motion.kinetic(self.params, gap)
        for r in moving:
            led = self.ledgers[r]
            led["echo"] = self.motion.echo(int(led["step"][0]) + 1)
            if more is not None:
                led["kinetic"], led["kinetic_error"] = more[0][r], more[1][r]

    def _observe_loss(self, r: int, seen: tuple[Any, ...], bars: Bars) -> None:
        """One iterate under another loss than the squared one."""
        led, loss, error = self.ledgers[r], float(seen[2]), float(bars.error[r])
        led["bend"], led["riccati"] = bars.bend[r], bars.riccati
        two_nu = error / loss if loss > 0 else np.inf
        observe_loss(*seen, two_nu, error, float(bars.slope[r]), float(bars.share[r]))

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


def _alone(params: Any, r: int) -> dict[str, torch.Tensor]:
    """Every block of replica r, without the replica axis."""
    return {name: block[r].detach() for name, block in params.blocks().items()}


def runs_in_torch(model: Model, problem: Problem, engine: str, follows: bool) -> bool:
    """Whether a run needs the torch engine, because it is asked for or because nothing else can.

    Args:
        model: The model; the compiled loop knows the multi-head regression.
        problem: Data; the compiled loop works in float64 on the CPU and knows no padding.
        engine: What is asked for: auto, fused or torch.
        follows: Whether Python sees every iterate (`Plan.follows`).

    Returns:
        True for the torch engine.
    """
    X = problem.X
    fits = X.device.type == "cpu" and X.dtype == torch.float64 and problem.mask is None
    fits = fits and not follows
    return engine == "torch" or not fits or not isinstance(model, MultiHeadRegression)


def make_engine(model: Model, problem: Problem, params: Any, plan: Plan) -> Engine:
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
    in_torch = runs_in_torch(model, problem, plan.engine, plan.follows)
    if plan.engine == "fused" and in_torch:
        raise InputError(
            "engine",
            "fused",
            "use --engine torch for padded data (a mask), other devices, dtypes, models, theorems "
            "and algorithms",
        )
    if in_torch or not isinstance(model, MultiHeadRegression):
        return TorchEngine(model, problem, params, plan)
    return FusedEngine(model, problem, params, plan)
