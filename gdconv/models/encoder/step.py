"""One step of the encoder: torch's formulas, or the compiled ones where they serve.

The compiled pass carries what a step is asked for besides its gradient: K r, norms of the
weights and, where that is cheap, the kernels of all blocks and the least eigenvalue of their sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gdconv.data.problem import Problem
from gdconv.models.encoder.activations import GELU_SLOPE, SILU_SLOPE
from gdconv.models.encoder.formulas import EncoderFormulas, EncoderPass
from gdconv.models.encoder.parameters import BLOCKS, EncoderParameters
from gdconv.models.weights import steepness

LARGEST = 2**16
"""Preactivations beyond which torch takes the step: threads and wide units then pay."""

KERNEL = 4e5
"""Products (N n)^2 d_m up to which every step brings its kernels."""

DIVISORS = {"relu": 1.0, "gelu": GELU_SLOPE, "silu": SILU_SLOPE}


@dataclass(frozen=True)
class EncoderStep(EncoderPass):
    """A compiled pass.

    Attributes:
        trained: Blocks that move.
        product: K residual of the trained blocks.
        norms: From above |W|_2 of W_Q, W_K and W_V, NaN where they are to be had otherwise, and
            |w_O|.
        theta: All weights.
        kernels: K_W of all four blocks in the order of `BLOCKS`; none where they were not formed.
        ends: Bounds of the least eigenvalue of K, infinite where they are to be had otherwise.
    """

    trained: tuple[str, ...]
    product: Float[Tensor, "R N"]
    norms: Float[Tensor, "R 4"]
    theta: Float[Tensor, "R p"]
    kernels: Float[Tensor, "R k N N"]
    ends: Float[Tensor, "R 2"]


def serves(problem: Problem, params: EncoderParameters) -> bool:
    """Whether the compiled step knows these data: float64 on the CPU, no padding, not too large."""
    X, w = problem.X, params.w_O
    plain = X.dtype == w.dtype == torch.float64 and X.is_cpu and w.is_cpu and problem.mask is None
    if not plain or problem.N * problem.n * params.d_m > LARGEST:
        return False
    return not (torch.is_grad_enabled() and any(b.requires_grad for b in params.blocks().values()))


def as_array(block: Tensor) -> np.ndarray:
    """A block as compiled code takes it."""
    return np.ascontiguousarray(block.detach().numpy())


def kind(model: EncoderFormulas) -> tuple[int, float]:
    """Number and divisor of the activation, as compiled code takes them."""
    from gdconv.compiled.encoder_step import KINDS  # numba loads slowly

    return KINDS[model.activation], DIVISORS[model.activation]


def take(
    model: EncoderFormulas, problem: Problem, params: EncoderParameters, trained: tuple[str, ...]
) -> tuple[EncoderPass, EncoderParameters, Tensor]:
    """The pass and the gradient at one iterate.

    Args:
        model: The model.
        problem: Data, R (or 1) replicas.
        params: Weights, R replicas.
        trained: Blocks that move.

    Returns:
        The forward pass, an `EncoderStep` where it is compiled, the gradient of all blocks and its
        square over the trained ones, shape (R,).

    Example:
        >>> from gdconv.models.encoder.parameters import initialize_encoder
        >>> problem = Problem.per_sample([[[1.0, 2.0]], [[3.0, 4.0]]], [1.0, 0.0])
        >>> params, model = initialize_encoder("ntk", (8, 2), 0), EncoderFormulas(0.5, 0.5)
        >>> at, grad, _ = take(model, problem, params, BLOCKS)
        >>> torch.allclose(grad.W_V, model.gradient(problem, params)[1].W_V)
        True
    """
    if problem.y.shape[2:] != (1, 1) or not serves(problem, params):
        at, grad = model.gradient(problem, params)
        return at, grad, steepness(grad, trained)
    from gdconv.compiled.encoder_step import encoder_step  # numba loads slowly

    made = encoder_step(
        as_array(problem.X),
        as_array(problem.y.flatten(1)),
        *(as_array(getattr(params, b)) for b in BLOCKS),
        model.tau_0,
        model.tau_1,
        sqrt(model.loss_scale),
        *kind(model),
        tuple(b in trained for b in BLOCKS),
        (problem.N * problem.n) ** 2 * params.d_m <= KERNEL,
    )
    S, A, pre, F_pre, F, residual, loss, steep, *rest = (torch.from_numpy(part) for part in made)
    *slopes, product, norms, theta, kernels, ends = rest
    at = EncoderStep(
        S, A, pre, F_pre, F, residual, loss, trained, product, norms, theta, kernels, ends
    )
    return at, EncoderParameters(*slopes), steep
