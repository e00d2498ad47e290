"""An engine: R replicas, advanced to a given step, with their ledgers.

`gdconv.compiled.ledger.observe` runs once per step. Two of them: the compiled loop
(`gdconv.descent.fused`) and batched torch (`gdconv.descent.in_torch`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch

from gdconv.compiled.descent import DONE
from gdconv.compiled.ledger import (
    DECREASE,
    FIXED,
    POSTERIOR,
    UNTESTED,
    enter_jacobian,
    new_ledger,
    new_tests,
)
from gdconv.data.problem import Problem
from gdconv.descent.motion import Motion
from gdconv.descent.plan import Bound, Plan
from gdconv.descent.watch import Watch
from gdconv.models.base import Model
from gdconv.models.point import Point
from gdconv.models.probes import Probe, distances, gap
from gdconv.rigor.spectrum import Enclosure

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
        self.model, self.problem, self.plan, self.start = model, problem, plan, params
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
        return [r for r, finished in enumerate(self.finished.tolist()) if not finished]

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

    def probe(self) -> Probe:
        """The probes at the iterate."""
        return self.model.probe(self.problem, self.parameters(), self.plan.trained)

    def distances(self) -> dict[str, np.ndarray]:
        """Distances from the start, arrays (R,) by column."""
        return distances(self.parameters(), self.start)

    def expected(self, probed: Probe) -> tuple[Any, np.ndarray]:
        """The next iterate by the probed gradient, and the rounding that a step may show.

        Args:
            probed: At the iterate.

        Returns:
            What `missed` takes, and distances (R,).
        """
        here = self.parameters()
        source = self.motion.source(here)
        if source is not here:
            probed = self.model.probe(self.problem, source, self.plan.trained)
        unit = torch.finfo(self.problem.X.dtype).eps / 2
        wanted = self.motion.step(here, probed.gradient)[0]
        return wanted, self.motion.allowed(probed, unit)

    def missed(self, wanted: Any) -> np.ndarray:
        """|theta - wanted| at the iterate, shape (R,)."""
        return gap(self.parameters(), wanted)

    def point(self, r: int) -> Point:
        """Where replica r stands, in float64 on the CPU."""
        problem = self.problem[r if self.problem.R > 1 else 0].to("cpu", torch.float64)
        here = self.parameters()[r].to("cpu", torch.float64)
        return self.model.point(problem, here, self.plan.trained)

    def enclose_jacobian(self, r: int) -> Enclosure:
        """Enclose sigma_m(J) of replica r where it stands and enter it into the ledger."""
        least, led = self.point(r).J_least, self.ledgers[r]
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
