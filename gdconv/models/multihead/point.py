"""What a theorem reads at one point theta of one run: norms, features, Jacobian, as numpy numbers.

A `MultiHeadPoint` is one replica. Singular values that decide a hypothesis are enclosures; spectral
norms are float64 and compared with the slack that `gdconv.theory.theorem.Inequality` states.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, singledispatch
from typing import Any

import numpy as np

from gdconv.data.problem import Problem
from gdconv.models.multihead.model import BLOCKS, MultiHeadRegression, Parameters
from gdconv.models.multihead.probes import probe
from gdconv.models.multihead.sharpness import sharpness
from gdconv.rigor.bars import bar
from gdconv.rigor.lapack import spectral_norm
from gdconv.rigor.spectrum import Enclosure, enclose_sigma_min, enclose_singular_range


@dataclass(frozen=True)
class Point:
    """What every model's start knows; `start_at` makes the one that fits.

    Attributes:
        model: The model.
        problem: Data, one replica.
        params: Weights, one replica.
        trained: Blocks that gradient descent moves.
    """

    model: Any
    problem: Problem
    params: Any
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

    @property
    def n(self) -> int:
        """Tokens per sample."""
        return self.problem.n

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
        return float(probe(self.model, self.problem, self.params, np.zeros(1)).noise_scale[0])

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

    @cached_property
    def sharpness(self) -> float:
        """An estimate of lambda_max of the Hessian of f, its residual added; 0 where there is none.

        No bound: only the local step is made from it, and no hypothesis rests on that step.
        """
        found = sharpness(self.model, self.problem, self.params, self.trained)
        size = found.value + found.error
        return size if np.isfinite(size) else 0.0

    @property
    def J_range(self) -> tuple[Enclosure, Enclosure]:
        """(sigma_m(J), |J|_2), both enclosed."""
        raise NotImplementedError

    @property
    def slope_is_finite(self) -> bool:
        """Whether float64 holds the Jacobian, or the kernel that stands for it."""
        raise NotImplementedError

    @property
    def flat(self) -> bool:
        """Whether the Jacobian is exactly zero: no weight moves the output."""
        raise NotImplementedError


@singledispatch
def start_at(model: Any, problem: Problem, params: Any, trained: tuple[str, ...]) -> Point:
    """The start that fits the class of the model.

    Args:
        model: The model.
        problem: Data, one replica.
        params: Weights, one replica.
        trained: Blocks that move.

    Returns:
        The start.

    Raises:
        NotImplementedError: Nobody registered a start for this class of models.
    """
    raise NotImplementedError(type(model).__name__)


@dataclass(frozen=True)
class MultiHeadPoint(Point):
    """One run of the multi-head model at theta (its start, or where a certificate is issued).

    Attributes:
        model: The model, with its attention kernel.
        problem: Data, one replica.
        params: Weights, one replica.
        trained: Blocks that gradient descent moves; J is the Jacobian by these.

    Example:
        >>> from gdconv.models.multihead.attention_kernels import kernel_named
        >>> zero, one = np.zeros((1, 1, 1)), np.ones((1, 1, 1))
        >>> weights = {"W_Q": zero, "W_K": zero, "W_V": zero, "W_O": one}
        >>> start = MultiHeadPoint(MultiHeadRegression(kernel_named("softmax")),
        ...     Problem.from_arrays(one, np.ones((1, 1))), Parameters.from_arrays(weights))
        >>> start.f_0, round(start.r_0, 12), start.sigma_0.lo > 0.999
        (0.5, 1.0, True)
    """

    model: MultiHeadRegression
    problem: Problem
    params: Parameters
    trained: tuple[str, ...] = BLOCKS

    @property
    def kernel(self) -> str:
        """Name of the attention kernel."""
        return self.model.kernel.name

    @property
    def D_y(self) -> int:
        """Outputs per token."""
        return self.problem.D_y

    @property
    def H(self) -> int:
        """Heads."""
        return self.params.H

    @property
    def d(self) -> int:
        """Head dimension."""
        return self.params.W_Q.shape[-1]

    @cached_property
    def a(self) -> np.ndarray:
        """a_i = |X_i|_2, shape (N,)."""
        return spectral_norm(self.problem.X[0].cpu().double().numpy())

    @property
    def A(self) -> float:
        """(sum_i a_i^2)^(1/2)."""
        return self.s(2)

    def s(self, p: int) -> float:
        """s_p = (sum_i a_i^p)^(1/2)."""
        return float(np.sqrt((self.a**p).sum()))

    @cached_property
    def O(self) -> np.ndarray:  # noqa: E743
        """O_h = |W_O,h|_2, shape (H,)."""
        return spectral_norm(self.arrays["W_O"])

    def norm(self, block: str) -> np.ndarray:
        """|W_h|_2 of a block, shape (H,)."""
        return spectral_norm(self.arrays[block])

    @cached_property
    def o(self) -> Enclosure:
        """min_h sigma_{D_y}(W_O,h), 0 when d < D_y."""
        ends = [enclose_sigma_min(W.T) for W in self.arrays["W_O"]]
        return Enclosure(min(e.lo for e in ends), min(e.hi for e in ends))

    @cached_property
    def o_stacked(self) -> Enclosure:
        """sigma_min of the concatenated (H d x D_y) W_O."""
        return enclose_sigma_min(self.arrays["W_O"].reshape(-1, self.D_y).T)

    @cached_property
    def B(self) -> np.ndarray:
        """B = [B^(1) ... B^(H)], shape (N n, H D)."""
        return self.model.features(self.problem, self._forward)[0].cpu().double().numpy()

    @cached_property
    def sigma_0(self) -> Enclosure:
        """sigma_{Nn}(B); exactly 0 with duplicate tokens or fewer columns than rows."""
        return Enclosure(0.0, 0.0) if self.problem.duplicate_tokens else enclose_sigma_min(self.B)

    @cached_property
    def J(self) -> np.ndarray:
        """J = dF / d(trained blocks), shape (m, |trained| H D d)."""
        return self._jacobian(self.trained)

    def _jacobian(self, blocks: tuple[str, ...]) -> np.ndarray:
        return self.model.jacobian(self.problem, self.params, blocks)[0].cpu().double().numpy()

    @cached_property
    def J_range(self) -> tuple[Enclosure, Enclosure]:
        """(sigma_m(J), |J|_2), both enclosed; sigma_m is 0 with duplicate tokens."""
        least, greatest = enclose_singular_range(self.J)
        return (Enclosure(0.0, 0.0) if self.problem.duplicate_tokens else least), greatest

    @property
    def slope_is_finite(self) -> bool:
        """Whether float64 holds J."""
        return bool(np.isfinite(self.J).all())

    @property
    def flat(self) -> bool:
        """Whether J is zero."""
        return not self.J.any()

    @cached_property
    def sigma_J_V(self) -> Enclosure:
        """sigma_m(J_V), the value block alone."""
        if self.problem.duplicate_tokens:
            return Enclosure(0.0, 0.0)
        return enclose_singular_range(self._jacobian(("W_V",)))[0]


start_at.register(MultiHeadRegression, MultiHeadPoint)
