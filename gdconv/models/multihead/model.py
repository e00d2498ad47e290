"""The multi-head regression of Song et al. as descent and theorems take it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gdconv.data.problem import Problem
from gdconv.models.base import Model
from gdconv.models.multihead.constants import Constants, Radii
from gdconv.models.multihead.formulas import Forward, MultiHeadFormulas
from gdconv.models.multihead.parameters import BLOCKS, Parameters
from gdconv.models.multihead.point import MultiHeadPoint
from gdconv.models.multihead.probes import probe
from gdconv.models.multihead.sigma import AttentionFollower
from gdconv.models.multihead.tangent import ntk_vector_product, tangent_kernel
from gdconv.models.probes import Probe
from gdconv.models.sigma import FeatureFollower, SigmaFollower


@dataclass(frozen=True)
class MultiHeadRegression(MultiHeadFormulas, Model):
    """The model of Song et al. with one attention kernel.

    Attributes:
        kernel: Attention kernel.

    Example:
        >>> from gdconv.models.multihead.attention_kernels import kernel_named
        >>> MultiHeadRegression(kernel_named("gaussian")).kernel.name
        'gaussian'
    """

    name = "multihead"

    def point(
        self, problem: Problem, params: Parameters, trained: tuple[str, ...] = BLOCKS
    ) -> MultiHeadPoint:
        """Norms, features and Jacobian of one replica."""
        return MultiHeadPoint(self, problem, params, trained)

    def probe(
        self,
        problem: Problem,
        params: Parameters,
        trained: tuple[str, ...] = BLOCKS,
    ) -> Probe:
        """Through the Jacobian, head by head."""
        return probe(self, problem, params, trained)

    def sigma_follower(
        self, problem: Problem, params: Parameters, trained: tuple[str, ...] | None = None
    ) -> SigmaFollower:
        """The compiled tracker of sigma_min(B_t); with padding the one for any features."""
        if problem.mask is not None:
            return FeatureFollower(self, problem, params.R)
        return AttentionFollower(problem, *params.W_Q.shape[:2])

    def constants(self, at: MultiHeadPoint, rho: float) -> tuple[float, float]:
        """Lemma 4 with all radii rho jointly, every block."""
        made = Constants(at, Radii.joint(rho))
        return made.M_2(), made.G_squared()

    def tangent_kernel(
        self, problem: Problem, params: Parameters, blocks: tuple[str, ...] = BLOCKS
    ) -> Tensor:
        """In closed form, head by head."""
        return tangent_kernel(self, problem, params, blocks)

    def kernel_times(
        self,
        problem: Problem,
        params: Parameters,
        v: Tensor,
        blocks: tuple[str, ...] = BLOCKS,
        at: Forward | None = None,
    ) -> Tensor:
        """Without forming K."""
        return ntk_vector_product(self, problem, params, v, blocks, at)
