"""What a theorem reads at one point theta of one run, whatever the model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gdconv.data.problem import Problem
from gdconv.models.probes import Probe
from gdconv.models.weights import Weights
from gdconv.rigor.arithmetic import bar
from gdconv.rigor.spectrum import Enclosure
from gdconv.support.trust import Estimate


@dataclass(frozen=True)
class Point(ABC):
    """What every model's points know; `gdconv.models.base.Model.point` makes them.

    Attributes:
        model: The model.
        problem: Data, one replica.
        params: Weights, one replica.
        trained: Blocks that gradient descent moves.
    """

    model: Any
    problem: Problem
    params: Weights
    trained: tuple[str, ...]

    @cached_property
    def _forward(self) -> Any:
        return self.model.forward(self.problem, self.params)

    @property
    def kernel(self) -> str:
        """Name of the attention kernel."""
        return "softmax"

    @property
    def N(self) -> int:
        """Samples."""
        return self.problem.N

    @cached_property
    def n(self) -> int:
        """Tokens per sample; with padding the real ones of the longest sample."""
        return int(self.problem.lengths.max())

    @cached_property
    def T(self) -> int:
        """Real tokens of all samples, N n without padding."""
        return int(self.problem.lengths.sum())

    @cached_property
    def fill(self) -> np.ndarray:
        """n_i / n, the real tokens of each sample over those of the longest one, shape (N,)."""
        return np.asarray(self.problem.lengths / self.n)

    @property
    def D(self) -> int:
        """Embedding dimension."""
        return self.problem.D

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """Weights as numpy, without the replica axis."""
        return {name: value[0] for name, value in self.params.numpy().items()}

    @property
    def f_0(self) -> float:
        """f(theta) = 1/2 |residual|^2."""
        return float(self._forward.loss[0])

    @cached_property
    def r_error(self) -> float:
        """A-priori error bar of the computed residual norm: 8u (|F| + |y| + sum |J_W|_F |W|_F)."""
        return float(self.probe().noise_scale[0])

    @property
    def r_0(self) -> float:
        """Residual norm sqrt(2 f) from above: the hypotheses that hold with it, hold."""
        return float(np.sqrt(2 * self.f_0)) + self.r_error

    @property
    def r_range(self) -> Enclosure:
        """The residual norm with its error bar, r_0 from above."""
        return Enclosure(bar(max(0.0, self.r_0 - 2 * self.r_error)).lo, bar(self.r_0).hi)

    def uncertain(self, side: float) -> Enclosure:
        """A side of a hypothesis that grows with r_0, widened by what the error of r_0 allows.

        Args:
            side: The side, computed with r_0 from above.

        Returns:
            From side (1 - 8 r_error / r_0), a safe lower end for sides up to cubic in r_0, to side.
        """
        shrunk = max(0.0, 1 - 8 * self.r_error / self.r_0) if self.r_0 > 0 else 0.0
        return Enclosure(side * shrunk, bar(side).hi)

    @property
    def sharpness(self) -> Estimate:
        """lambda_max of the Hessian of f by the trained blocks; nan where no Hessian is known.

        No bound: only the local step is made from it, and no hypothesis rests on that step.
        """
        return Estimate(float("nan"), float("nan"), "no closed Hessian")

    def sharpness_near(self, start: Any) -> tuple[Estimate, Any]:
        """The sharpness, and what a search at weights nearby may start from.

        Args:
            start: What this returned at weights nearby; None at first.

        Returns:
            The estimate, and None where a search has no start.
        """
        return self.sharpness, None

    @property
    def curvature(self) -> float:
        """What the local step is made from: |J|^2 or, if greater, the sharpness with its error."""
        size = self.sharpness.value + self.sharpness.error
        return max(self.J_range[1].hi ** 2, size if np.isfinite(size) else 0.0)

    @property
    def pl_constants(self) -> tuple[float, float]:
        """(c, M) of `Theorem.pl_constants`; (0, 0): nothing is followed."""
        return 0.0, 0.0

    def constants(self, rho: float) -> tuple[float, float]:
        """(M_2, G^2) on the ball of radius rho around here; infinite where nothing is known."""
        found: tuple[float, float] = self.model.constants(self, rho)
        return found

    @abstractmethod
    def probe(self) -> Probe:
        """The probes here."""

    @property
    @abstractmethod
    def J_range(self) -> tuple[Enclosure, Enclosure]:
        """(sigma_m(J), |J|_2), both enclosed."""

    @property
    def J_least(self) -> Enclosure:
        """sigma_m(J) alone."""
        return self.J_range[0]

    @property
    @abstractmethod
    def slope_is_finite(self) -> bool:
        """Whether float64 holds the Jacobian, or the kernel that stands for it."""

    @property
    @abstractmethod
    def flat(self) -> bool:
        """Whether the Jacobian is exactly zero: no weight moves the output."""
