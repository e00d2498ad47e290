"""A torch module with a loss, as descent and theorems take it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from gdconv.data.problem import Problem
from gdconv.models.base import Bars, Model
from gdconv.models.generic.formulas import ModuleFormulas, ModulePass
from gdconv.models.generic.kernel import GivenKernel
from gdconv.models.generic.point import ModulePoint
from gdconv.models.generic.probes import probe
from gdconv.models.generic.sigma import JacobianFollower
from gdconv.models.generic.weights import ModuleWeights
from gdconv.models.jets.graph import Graph
from gdconv.models.losses.base import UNITS
from gdconv.models.losses.squared import Squared
from gdconv.models.probes import Probe, to_numpy
from gdconv.rigor.rounding import TINY, UNIT


@dataclass(frozen=True)
class ModuleModel(ModuleFormulas, Model):
    """Any torch module under any loss.

    Attributes:
        graph: The module's layers; None where one is unknown, so that nothing proves M_2.
        given: The user's kernel.
    """

    name = "module"
    graph: Graph | None = None
    given: GivenKernel | None = None

    def point(
        self, problem: Problem, params: ModuleWeights, trained: tuple[str, ...]
    ) -> ModulePoint:
        """Jacobian, gap and constants of one replica."""
        return ModulePoint(self, problem, params, trained, self.graph)

    def probe(self, problem: Problem, params: ModuleWeights, trained: tuple[str, ...]) -> Probe:
        """Through the Jacobian."""
        return probe(self, problem, params, trained)

    def sigma_follower(
        self, problem: Problem, params: ModuleWeights, trained: tuple[str, ...] | None = None
    ) -> JacobianFollower:
        """Of sigma_m(J) itself, through the kernel where that is possible."""
        return JacobianFollower(self, problem, params, trained or params.trained)

    def bars(self, problem: Problem, at: ModulePass, noise: np.ndarray) -> Bars:
        """Error of the gap, slope and share of the PL inequality, by the loss."""
        y = problem.y
        if type(self.loss) is Squared:
            return _squared_bars(at, noise)
        dF = torch.as_tensor(noise, dtype=torch.float64, device=at.F.device)
        # what the stored steps' defects change, |S| dF, is counted beside the loss's own error
        error = self.loss.error(at.F, y, 2.0 * dF)
        phi = self.loss.domination(at.F, y, at.loss.double(), dF)
        S = at.residual.double().flatten(1).norm(dim=1)
        far = torch.full_like(S, torch.inf)
        return Bars(
            error=to_numpy(error),
            slope=to_numpy(S),
            share=to_numpy(phi),
            bend=to_numpy(self.loss.curvature(far, y).expand(len(S))),
            riccati=not self.loss.attained(y),
        )


def _squared_bars(at: ModulePass, noise: np.ndarray) -> Bars:
    """The same for 1/2 |F - y|^2, without a dozen small tensors per step."""
    S = to_numpy(at.residual).reshape(len(noise), -1)
    m = S.shape[1]
    with np.errstate(all="ignore"):
        scale = np.abs(S).max(axis=1, initial=0.0)
        scale = np.where((scale > 0) & np.isfinite(scale), scale, 1.0)
        part = S / scale[:, None]
        length = np.sqrt(np.einsum("rm,rm->r", part, part)) * scale
        bar = length * (1.0 + (m + 8) * UNIT) * (2.0 * noise) + 2.0 * noise * noise
        error = bar * (1.0 + 64 * UNIT) + (m + UNITS) * UNIT * to_numpy(at.loss) + m * TINY
    ones = np.ones(len(noise))
    return Bars(error, length, ones, ones, riccati=False)
