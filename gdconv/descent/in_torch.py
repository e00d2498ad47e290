"""The torch engine: any model and algorithm, any device and dtype."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from gdconv.compiled.descent import DIVERGED, DONE, ROSE, TARGET
from gdconv.compiled.ledger import observe, observe_loss
from gdconv.data.problem import Problem
from gdconv.descent.engine import FINITE_LIMIT, Engine
from gdconv.descent.followed import Followed
from gdconv.descent.plan import Plan
from gdconv.models.base import Bars, Model
from gdconv.models.point import Point
from gdconv.models.probes import Probe
from gdconv.rigor.spectrum import Enclosure


class TorchEngine(Engine):
    """Batched torch on any device and dtype: all live replicas take each step together."""

    def __init__(self, model: Model, problem: Problem, params: Any, plan: Plan) -> None:
        super().__init__(model, problem, params, plan)
        self.params = params
        self.follower = model.sigma_follower(problem, params, plan.trained)
        self.watch = plan.watch(model, problem, params, plan) if plan.watch else None
        self.grad: Any = None
        self.grad_sq: Any = None
        self.at: Any = None
        self.started = False
        self.here: Any = None
        self.points: dict[int, Point] = {}
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
        if not self.started:
            self.started = True
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
        watched = self.watch.record(r, self.params, self.point(r), led) if self.watch else {}
        return own | self.followed[r].columns | watched

    def results(self, r: int) -> dict[str, dict[str, np.void]]:
        """The tests of the followed quantities."""
        return self.followed[r].results

    def probe(self) -> Probe:
        """With the pass of the step."""
        return self.model.probe_of(self.problem, self.params, self.plan.trained, self._step())

    def _step(self) -> Any:
        """Pass at the iterate, its gradient kept; once an iterate."""
        if self.here is not self.params:
            found = self.model.at_step(self.problem, self.params, self.plan.trained)
            self.at, self.grad, self.grad_sq = found
            self.here = self.params
        return self.at

    def point(self, r: int) -> Point:
        """Made once an iterate, from the pass of its step."""
        if r not in self.points:
            data = self.problem if self.problem.R == 1 else self.problem[r]
            here = self.params if self.params.R == 1 else self.params[r]
            if data.X.dtype != torch.float64 or data.X.device.type != "cpu":
                data, here = (part.to("cpu", torch.float64) for part in (data, here))
            self.points[r] = self.model.point_of(data, here, self.plan.trained, self.at, r)
        return self.points[r]

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
        self.params, self.points = self.motion.take(before, grad, moving), {}
        if not self.motion.algorithm.plain:
            length = self.motion.length(before, self.params)
            for r in moving:
                self.ledgers[r]["moved"] = length[r]

    def _observe(self, moving: list[int]) -> None:
        at = self._step()
        numbers = torch.stack([at.loss, self.grad_sq]).detach().cpu().double().numpy()
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
