"""The shallow encoder of Wu et al. as descent and theorems take it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gdconv.data.problem import Problem
from gdconv.models.base import Model, alone
from gdconv.models.encoder.formulas import EncoderFormulas, EncoderPass
from gdconv.models.encoder.parameters import BLOCKS, EncoderParameters
from gdconv.models.encoder.point import EncoderPoint
from gdconv.models.encoder.probes import probe
from gdconv.models.encoder.step import EncoderStep, take
from gdconv.models.encoder.tangent import encoder_kernel, encoder_ntk_vector_product
from gdconv.models.probes import Probe


@dataclass(frozen=True)
class ShallowEncoder(EncoderFormulas, Model):
    """The model of Wu et al.

    Attributes:
        tau_0: Factor of the scores, see `gdconv.models.encoder.parameters.scaling`.
        tau_1: Factor of the output.
        loss_scale: 1 for the summed loss, 1/N for the mean.
        activation: relu, gelu or silu, the last two divided by their largest slope.

    Example:
        >>> ShallowEncoder(tau_0=0.25, tau_1=1.0).activation
        'relu'
    """

    name = "encoder"

    def point(
        self, problem: Problem, params: EncoderParameters, trained: tuple[str, ...] = BLOCKS
    ) -> EncoderPoint:
        """Norms, features and kernel of one replica."""
        return EncoderPoint(self, problem, params, trained)

    def probe_of(
        self,
        problem: Problem,
        params: EncoderParameters,
        trained: tuple[str, ...],
        at: EncoderPass,
    ) -> Probe:
        """With the softmax weights and preactivations of the step, so that kinks fall alike."""
        return probe(self, problem, params, trained, at)

    def point_of(
        self,
        problem: Problem,
        params: EncoderParameters,
        trained: tuple[str, ...],
        at: EncoderPass,
        r: int,
    ) -> EncoderPoint:
        """With the pass and the kernels of a step in float64."""
        exact = at.F.dtype == torch.float64 and at.F.device.type == "cpu"
        return EncoderPoint(self, problem, params, trained, alone(at, r) if exact else None)

    def at_step(
        self, problem: Problem, params: EncoderParameters, trained: tuple[str, ...] = BLOCKS
    ) -> tuple[EncoderPass, EncoderParameters, Tensor]:
        """Compiled where that serves, K r and small kernels along with it."""
        return take(self, problem, params, trained)

    def probe(
        self,
        problem: Problem,
        params: EncoderParameters,
        trained: tuple[str, ...] = BLOCKS,
    ) -> Probe:
        """Through the Jacobian, sample by sample."""
        return probe(self, problem, params, trained)

    def tangent_kernel(
        self, problem: Problem, params: EncoderParameters, blocks: tuple[str, ...] = BLOCKS
    ) -> Tensor:
        """In closed form; no Jacobian is formed."""
        return encoder_kernel(self, problem, params, blocks)

    def kernel_times(
        self,
        problem: Problem,
        params: EncoderParameters,
        v: Tensor,
        blocks: tuple[str, ...] = BLOCKS,
        at: EncoderPass | None = None,
    ) -> Tensor:
        """Without forming K."""
        if isinstance(at, EncoderStep) and v is at.residual and set(blocks) == set(at.trained):
            return at.product
        return encoder_ntk_vector_product(self, problem, params, v, blocks, at)
