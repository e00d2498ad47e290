"""sigma_m(J) of a torch module at every step, enclosed (docs/theory/generic.md, sigma).

Cheapest first: the last enclosure less M_2 times the distance since then; the least eigenvalue of
K = J J^T, from a kernel that the user gives or from the layers' factors; K from J; a verified SVD
of J where K is too coarse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gdconv.data.problem import Problem
from gdconv.models.generic.formulas import ModulePass
from gdconv.models.generic.kernel import (
    JACOBIAN,
    OFF,
    GivenKernel,
    in_directions,
    rounding,
    size,
)
from gdconv.models.generic.weights import ModuleWeights
from gdconv.models.jets.calculus import Calculus
from gdconv.models.sigma import TOLERANCE, SigmaFollower
from gdconv.rigor.definite import least_eigenvalue, root
from gdconv.rigor.rounding import TINY, UNIT, Array, Enclosure, fro_up, gamma, up
from gdconv.rigor.spectrum import enclose_singular_range

RADII = np.geomspace(1e-6, 1.0, 7)
"""Radii as shares of |theta| on which M_2 is asked for."""

LASTS = 4.0
"""M_2 is of use where an enclosure then serves for so many steps."""

LOOKS = 16
"""Where steps are too long for that, two out of so many are measured."""

MOST = 1000
"""How often J is formed for sigma_m(J) alone; after that, ever more rarely."""

RATIO = 1.06
"""How much more rarely: as the recorded steps."""


@dataclass(frozen=True)
class Proved:
    """J is M-Lipschitz on a ball.

    Attributes:
        centre: Its centre, flat.
        rho: Its radius.
        M: The constant.
    """

    centre: Array
    rho: float
    M: float


@dataclass(frozen=True)
class Anchor:
    """An enclosure and how far it can be carried.

    Attributes:
        theta: Where it was made, flat.
        box: The enclosure of sigma_m(J) there.
        M: Lipschitz constant of J within rho.
        rho: The radius.
    """

    theta: Array
    box: Enclosure
    M: float
    rho: float

    def drifted(self, moved: float) -> Enclosure | None:
        """The enclosure widened by M times a distance; None where that is too wide or too far.

        Args:
            moved: Distance from `theta`, from above.

        Returns:
            The wider enclosure.
        """
        if not moved <= self.rho:
            return None
        drift, box = up(self.M * moved), self.box
        if not drift <= TOLERANCE * box.lo:
            return None
        return Enclosure(max(0.0, (box.lo - drift) * (1.0 - 2 * UNIT)), up(box.hi + drift))


def distance(a: Array, b: Array) -> float:
    """|a - b| from above, entries of the difference being rounded."""
    return up(fro_up(a - b) * (1.0 + 4 * UNIT))


class Followed:
    """One replica.

    Args:
        model: The model.
        problem: Its data, one replica in float64 on the CPU.
        trained: Parameters by which J is taken.
    """

    def __init__(self, model: Any, problem: Problem, trained: tuple[str, ...]) -> None:
        self.model, self.problem, self.trained = model, problem, trained
        self.graph = model.graph if model.separate else None
        self.given: GivenKernel | None = model.given
        self.layered = True
        self.vector: Array | None = None
        self.anchor: Anchor | None = None
        self.proved: Proved | None = None
        self.idle = False  # steps are too long for drift of any use
        self.steepest = 0.0  # greatest |d sigma| / |d theta| seen: decides what is tried, no more
        self.t, self.formed, self.next, self.asked, self.since = -1, 0, 0, 0, 0

    def at(self, here: ModulePass) -> Enclosure:
        """The next step."""
        self.t += 1
        if self.graph is None or (self.idle and self.t % LOOKS > 1):
            self.anchor = None
            return self._enclosed(here)
        assert here.params is not None
        blocks = here.params.blocks()
        theta = np.concatenate([
            np.zeros(0),
            *(blocks[b].reshape(-1).numpy() for b in self.trained),
        ])
        anchor = self.anchor
        moved = inf if anchor is None else distance(theta, anchor.theta)
        if anchor is not None and (kept := anchor.drifted(moved)) is not None:
            return kept
        found = self._enclosed(here)
        self.anchor = None
        if found.lo > 0.0 and isfinite(found.hi) and np.isfinite(theta).all():
            if anchor is not None:
                change = abs(found.mid - anchor.box.mid)
                self.steepest = max(self.steepest, change / max(moved, 1e-300))
            self._prove(here, theta, found.lo, moved / max(self.t - self.since, 1))
            self.since = self.t
            self.anchor = Anchor(theta, found, *self._proved_at(theta))
        return found

    def _proved_at(self, theta: Array) -> tuple[float, float]:
        """(M, rho): J is M-Lipschitz within rho of theta, a ball inside the one that is known."""
        if self.proved is None:
            return inf, 0.0
        room = self.proved.rho - distance(theta, self.proved.centre)
        return self.proved.M, max(0.0, room * (1 - 4 * UNIT))

    def _prove(self, here: ModulePass, theta: Array, lo: float, step: float) -> None:
        """Ask the layers for M_2 on a ball about here, where that may save enclosures."""
        if self.graph is None or not 0.0 < step < inf:
            return
        ball = self.proved
        likely = self.steepest if ball is None else ball.M
        self.idle = likely * step * LASTS > TOLERANCE * lo
        if self.idle or self.t < self.asked:
            return
        if ball is not None and distance(theta, ball.centre) + step * LASTS <= ball.rho:
            return
        assert here.params is not None
        params = {k: v[0] for k, v in here.params.blocks().items()}
        at = Calculus(self.graph, params, self.problem.X[0], centred=False)
        radii = up(fro_up(theta)) * RADII
        M = np.asarray(at.constants(radii, self.trained)[0])
        fits = np.flatnonzero(2.0 * M[0] >= M) if isfinite(M[0]) else np.zeros(0, int)
        self.asked = self.t + 1
        if len(fits):
            rho, M_2 = float(radii[fits[-1]]), float(M[fits[-1]])
            self.proved = Proved(theta, rho * (1 - 8 * UNIT), max(M_2, 1e-300))
        if not len(fits) or rho < LASTS**2 * step:
            self.asked = self.t + int(LASTS**2)

    def _enclosed(self, here: ModulePass) -> Enclosure:
        """Through K, and through J where that is not known or too coarse."""
        kernel = self._kernel(here)
        box = Enclosure(0.0, inf)
        if kernel is not None:
            box = self._least(*kernel)
            if box.width <= TOLERANCE * box.lo:
                return box
        if self.t > 0 and self.formed >= MOST and self.t < self.next:
            return box
        self.formed, self.next = self.formed + 1, max(self.t + 1, int(self.t * RATIO))
        J = self._jacobian(here)
        if not np.isfinite(J).all():
            return Enclosure(0.0, inf)
        A = self.model.loss.directions(torch.from_numpy(J)[None], self.problem.y)[0].numpy()
        if kernel is None:
            K = A @ A.T
            box = self._least((K + K.T) / 2, rounding(A) * size(A))
            if box.width <= TOLERANCE * box.lo:
                return box
        self.vector = None
        least = enclose_singular_range(A)[0]
        if not least.lo > 0.0:  # nothing to be had here: ask again as rarely as after many
            self.formed = MOST
        return least

    def _least(self, K: Array, slack: float) -> Enclosure:
        """Of the stored kernel, in the directions of the loss."""
        if not (isfinite(slack) and np.isfinite(K).all()):
            return Enclosure(0.0, inf)
        K, slack = in_directions(self.model.loss, K, slack, self.problem.y)
        if self.vector is not None and len(self.vector) != len(K):
            self.vector = None
        box, self.vector = least_eigenvalue(np.ascontiguousarray(K), self.vector)
        return root(box, slack)

    def _jacobian(self, here: ModulePass) -> Array:
        assert here.params is not None
        J = self.model.jacobian(self.problem, here.params, self.trained)[0]
        made: Array = J.detach().numpy()
        return made

    def _kernel(self, here: ModulePass) -> tuple[Array, float] | None:
        """K and its error; None where neither a kernel nor factors can be relied on."""
        made = self.model.factors(self.problem, here, 0, self.trained) if self.layered else None
        if self.given is not None and (self.t == 0 or made is None or made.rest):
            found = self._from_user(here)
            if found is not None and (made is None or made.rest):
                return found
        if made is not None:
            K, slack = made.kernel()
            slack = up(slack + JACOBIAN * float(K.trace()))
            if self._true_here(K, slack, here):
                return K, slack
        self.layered = False
        return None

    def _from_user(self, here: ModulePass) -> tuple[Array, float] | None:
        """The given kernel; what is no J J^T is refused at the start and not asked again later."""
        assert here.params is not None
        assert self.given is not None
        theta = {k: v[0] for k, v in here.params.blocks().items()}
        K = self.given.at(theta, self.problem.X[0])
        if self.t == 0:
            self.given.require(K, self._jacobian(here))
        if K.shape == (here.F[0].numel(),) * 2 and np.isfinite(K).all():
            K = (K + K.T) / 2
            share = OFF + gamma(sum(p.numel() for p in theta.values()) + 4) + JACOBIAN
            slack = up(share * abs(float(K.trace())) * (1 + 1e-9))
            if self._true_here(K, slack, here):
                return K, slack
        self.given = None
        return None

    def _true_here(self, K: Array, slack: float, here: ModulePass) -> bool:
        """|J^T v|^2 = v^T K v for the slope v = S, and for a random v after 2^k steps."""
        assert here.gradient is not None
        S = here.residual[0].reshape(-1).double().numpy()
        if not _matches(K, slack, S, [here.gradient[b] for b in self.trained]):
            return False
        if self.t == 0 or self.t & (self.t - 1):
            return True
        v = np.random.default_rng(self.t).standard_normal(len(S))
        return _matches(K, slack, v, here.passes[0].pulled(v, self.trained))


def _matches(K: Array, slack: float, v: Array, g: Sequence[Tensor]) -> bool:
    """Whether |g|^2 = v^T K v within what rounding allows, for g = J^T v."""
    flat = [x.reshape(-1).numpy() for x in g]
    square, count = sum(float(x @ x) for x in flat), sum(x.size for x in flat)
    room = slack + gamma(2 * len(v) + 4) * fro_up(K) + JACOBIAN * float(K.trace())
    room = float(v @ v) * room + gamma(count + 4) * square + TINY
    return abs(float(v @ (K @ v)) - square) <= room


class JacobianFollower(SigmaFollower):
    """sigma_m(J) of every replica.

    Args:
        model: A `ModuleModel`.
        problem: Data.
        params: Weights.
        trained: Parameters by which J is taken.
    """

    jacobian = True

    def __init__(
        self, model: Any, problem: Problem, params: ModuleWeights, trained: tuple[str, ...]
    ) -> None:
        self.model, self.params = model, params
        alone = [problem[r if problem.R > 1 else 0] for r in range(params.R)]
        self.runs = [Followed(model, one.to("cpu", torch.float64), trained) for one in alone]
        if set(trained) != set(params.trained):  # a given kernel is of all of them
            for run in self.runs:
                run.given = None

    def at(self, forward: ModulePass, replicas: list[int]) -> list[tuple[float, float]]:
        """One enclosure per replica."""
        found = [self.runs[r].at(self._alone(forward, r)) for r in replicas]
        return [(box.lo, box.hi) for box in found]

    def _alone(self, forward: ModulePass, r: int) -> ModulePass:
        """The pass of one replica, in float64 on the CPU."""
        assert forward.params is not None
        assert forward.gradient is not None
        if forward.F.dtype != torch.float64 or forward.F.device.type != "cpu":
            here = forward.params[r].to("cpu", torch.float64)
            return self.model.gradient(self.runs[r].problem, here)[0]
        if len(self.runs) == 1:
            return forward
        one, params = slice(r, r + 1), forward.params
        return replace(
            forward, F=forward.F[one], loss=forward.loss[one], residual=forward.residual[one],
            params=params.with_blocks({b: v[one] for b, v in params.blocks().items()}),
            gradient={b: g[one] for b, g in forward.gradient.items()},
            passes=forward.passes[one],
        )  # fmt: skip
