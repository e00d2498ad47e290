"""Encoders that attain their constants, and derivatives to compare the constants with."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import sqrt
from typing import Any

import numpy as np
import torch

from gdconv.data.problem import Problem
from gdconv.models.encoder.model import ShallowEncoder
from gdconv.models.encoder.parameters import BLOCKS, EncoderParameters
from gdconv.models.encoder.point import EncoderPoint


def tight(N: int = 2, s: float = 1e-2, scale: float = 0.5, radius: float = 0.0) -> EncoderPoint:
    """Two tokens (1, s), (1, -s), equal scores, one neuron read: all of Lemma E1(a) at once.

    W_Q sees the first coordinate and W_K the second, in different neurons, so W_Q^T W_K = 0. The
    weights lie `radius` beyond those of radius 0, in their own direction.
    """
    X = np.array([[[1.0, s], [1.0, -s]]] * N)
    W = {
        "W_Q": (1.5 + radius) * np.array([[1.0, 0.0], [0.0, 0.0]]),
        "W_K": (0.5 + radius) * np.array([[0.0, 0.0], [0.0, 1.0]]),
        "W_V": (2.0 + radius) * np.array([[1.0, 0.0], [1e-6, 1.0]]),
        "w_O": (0.75 + radius) * np.array([0.0, 1.0]),
    }
    model = ShallowEncoder(1 / s**2, scale * sqrt(N), 1 / N)
    return EncoderPoint(model, Problem.per_sample(X, [1.0] * N), EncoderParameters.from_arrays(W))


def second_derivative(
    start: EncoderPoint, blocks: tuple[str, ...] = BLOCKS, u: Any = None
) -> float:
    """|sum_i u_i Hess f_i| by autograd, by some blocks; u equal where it is not given."""
    u = torch.full((start.N,), start.N**-0.5) if u is None else u
    parts = [getattr(start.params, b) for b in blocks]
    flat = torch.cat([p.flatten() for p in parts])

    def output(theta: torch.Tensor) -> torch.Tensor:
        split = theta.split([p.numel() for p in parts])
        W = {b: v.view(p.shape) for b, v, p in zip(blocks, split, parts, strict=True)}
        moved = replace(start.params, **W)
        return start.model.forward(start.problem, moved).residual[0] @ u.double()

    H = torch.autograd.functional.hessian(output, flat)
    return float(torch.linalg.matrix_norm(H, 2))


def bilinear(s: float, **W: Any) -> EncoderPoint:
    """The tokens of `tight` with other weights, scores far from small."""
    start = tight(2, s)
    scale = {b: np.asarray(W.get(b, start.arrays[b]), dtype=float) for b in BLOCKS}
    return replace(start, params=EncoderParameters.from_arrays(scale))


def moved(
    params: EncoderParameters, radii: dict[str, float], seed: int, rank: int = 0
) -> EncoderParameters:
    """Weights at the given spectral distances in random directions, of rank 1 if asked for."""
    rng = np.random.default_rng(seed)
    made = {}
    for b in BLOCKS:
        W = getattr(params, b)
        step = rng.standard_normal(tuple(W[0].shape))
        if rank and step.ndim == 2:
            step = np.outer(step[:, 0], step[0])
        made[b] = W + torch.from_numpy(radii[b] / np.linalg.norm(step, 2) * step)
    return EncoderParameters(**made)


def block_norms(
    model: ShallowEncoder, problem: Problem, params: EncoderParameters
) -> dict[str, float]:
    """|J_W|_2 from the token-wise Jacobian."""
    return {
        b: float(np.linalg.norm(model.jacobian(problem, params, (b,))[0].numpy(), 2))
        for b in BLOCKS
    }


def hessian_norms(
    model: ShallowEncoder, problem: Problem, params: EncoderParameters
) -> tuple[float, float]:
    """(|Hessian of the loss|_2, |second derivative of the outputs|) by autograd.

    The second is the greatest norm of sum_i v_i Hess f_i over three unit vectors v.
    """
    shapes = [tuple(getattr(params, b).shape) for b in BLOCKS]
    flat = torch.cat([getattr(params, b).flatten() for b in BLOCKS])

    def residual(theta: torch.Tensor) -> torch.Tensor:
        parts = theta.split([int(np.prod(s)) for s in shapes])
        W = {b: p.view(s) for b, p, s in zip(BLOCKS, parts, shapes, strict=True)}
        return model.forward(problem, EncoderParameters(**W)).residual[0]

    rng = np.random.default_rng(0)
    loss = torch.autograd.functional.hessian(lambda t: 0.5 * residual(t).square().sum(), flat)
    worst = 0.0
    for _ in range(3):
        v = torch.from_numpy(rng.standard_normal(problem.N))
        v /= v.norm()
        second = torch.autograd.functional.hessian(partial(lambda v, t: residual(t) @ v, v), flat)
        worst = max(worst, float(torch.linalg.matrix_norm(second, 2)))
    return float(torch.linalg.matrix_norm(loss, 2)), worst
