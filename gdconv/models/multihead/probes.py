"""What is recorded on the way, and the independent check of the step.

At a recorded step the Jacobian is built head by head. It gives, apart from the gradient formulas,

* the gradient J^T (F - y), hence the defect |theta_{t+1} - (theta_t - eta J^T (F - y))| of the step
  that the engine took,
* |J_W|_F per block, hence the loss noise 8u (|F| + |y| + sum_W |J_W|_F |W|_F + scores + values).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from functools import singledispatch
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gdconv.data.problem import Problem
from gdconv.models.multihead.model import BLOCKS, Forward, MultiHeadRegression, Parameters

RATIO = 1.06
"""Recorded steps grow by this factor once they are more than one apart."""


def record_steps(limit: int) -> list[int]:
    """Steps that are recorded: all the early ones, then geometric, then the last.

    Args:
        limit: Last step of the run.

    Returns:
        Increasing steps from 0 to limit; about 17 + log(limit) / log(1.06) of them.

    Example:
        >>> record_steps(5), len(record_steps(1_000_000)) < 250
        ([0, 1, 2, 3, 4, 5], True)
    """
    steps, t = [], 0
    while t < limit:
        steps.append(t)
        t = max(t + 1, int(t * RATIO))
    return [*steps, limit]


@dataclass(frozen=True)
class Probe:
    """Replica-wise numbers at one iterate, numpy arrays of shape (R,).

    Attributes:
        noise_scale: 8u (|F| + |y| + sum_W |J_W|_F |W|_F + scores + values), absolute error bar of
            the residual; `scores` is what the rounding of single scores q_k . k_j changes in F,
            `values` is sum_h S |X| |W_V| |W_O|, before tokens cancel.
        jacobian_error: Absolute rounding of J, from its terms before they cancel.
        jacobian_norm: |J|_F over the trained blocks.
        weight_norm: |theta|_F over the trained blocks.
        residual_norm: |F - y|_F.
        entropy: Mean entropy of the normalised attention rows over log n: 0 one-hot, 1 uniform.
        descended: The weights after one exact-formula step from here.
    """

    noise_scale: np.ndarray
    jacobian_error: np.ndarray
    jacobian_norm: np.ndarray
    weight_norm: np.ndarray
    residual_norm: np.ndarray
    entropy: np.ndarray
    descended: Any

    def allowed_defect(self, r: int, eta: float, unit: float) -> float:
        """Rounding that a correct step of replica r may show.

        Args:
            r: Replica.
            eta: Its step size.
            unit: Unit roundoff of the run's dtype.

        Returns:
            16 (8u |theta| + eta (|J|_F noise_scale + jacobian_error |F - y|)): sixteen times what
            was seen on random runs, and far below any wrong formula.
        """
        slope = self.jacobian_norm[r] * self.noise_scale[r]
        slope += self.jacobian_error[r] * self.residual_norm[r]
        return 16 * float(8 * unit * self.weight_norm[r] + eta * slope)


@singledispatch
def probe(
    model: Any,
    problem: Problem,
    params: Any,
    eta: np.ndarray,
    trained: tuple[str, ...] = BLOCKS,
) -> Probe:
    """Evaluate the probes through the Jacobian formulas of the model at hand.

    Args:
        model: The model; its class decides.
        problem: Data, R replicas.
        params: Weights, R replicas.
        eta: Step sizes, shape (R,).
        trained: Blocks that move.

    Returns:
        The numbers, and the weights one step on.

    Raises:
        NotImplementedError: Nobody registered probes for this class of models.
    """
    raise NotImplementedError(type(model).__name__)


@probe.register
def _(
    model: MultiHeadRegression,
    problem: Problem,
    params: Parameters,
    eta: np.ndarray,
    trained: tuple[str, ...] = BLOCKS,
) -> Probe:
    at = model.forward(problem, params)
    residual = at.residual.flatten(1)
    norm_sq = {b: torch.zeros_like(at.loss) for b in BLOCKS}
    pulled: dict[str, list[torch.Tensor]] = {b: [] for b in BLOCKS}
    for head in model.jacobian_heads(problem, params, at):
        for b, J in head.items():
            norm_sq[b] += J.square().sum((1, 2, 3))
            pulled[b].append(torch.einsum("rm,rmDd->rDd", residual, J))
    steps = torch.as_tensor(eta, dtype=at.loss.dtype, device=at.loss.device)
    slopes = Parameters(**{b: torch.stack(pulled[b], 1) for b in BLOCKS}, W_O=params.W_O)
    unit = torch.finfo(at.loss.dtype).eps / 2
    frob = {b: getattr(params, b).flatten(1).norm(dim=1) for b in (*BLOCKS, "W_O")}
    scale = at.F.flatten(1).norm(dim=1) + problem.y.flatten(1).norm(dim=1)
    scale = scale + sum(norm_sq[b].sqrt() * frob[b] for b in BLOCKS)
    sizes = problem.X.abs().unsqueeze(1) @ (params.W_V.abs() @ params.W_O.abs()).unsqueeze(2)
    scale = scale + (at.S @ sizes).sum(1).flatten(1).norm(dim=1)  # values before tokens cancel
    none = torch.zeros_like(at.loss)
    scores, terms = _before_cancelling(model, problem, params, at)
    total = sum((norm_sq[b] for b in trained), torch.zeros_like(at.loss)).sqrt()
    return Probe(
        noise_scale=to_numpy(8 * unit * (scale + scores)),
        jacobian_error=to_numpy(unit * (64 * total + 16 * terms)),
        jacobian_norm=to_numpy(sum((norm_sq[b] for b in trained), none).sqrt()),
        weight_norm=to_numpy(sum((frob[b] ** 2 for b in trained), none).sqrt()),
        residual_norm=to_numpy(residual.norm(dim=1)),
        entropy=to_numpy(attention_entropy(at.S)),
        descended=stepped(params, slopes, steps, trained),
    )


def _before_cancelling(
    model: MultiHeadRegression, problem: Problem, params: Parameters, at: Forward
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the rounding of scores does to F, and the size of J's terms before they cancel.

    A score q_k . k_j is rounded by u |q_k| |k_j| even when all keys share a large common part,
    which drops out of softmax and of J.

    Returns:
        Two tensors of shape (R,).
    """
    X, root = problem.X.abs().unsqueeze(1), params.W_Q.shape[-1] ** 0.5
    q, k = X @ params.W_Q.abs().unsqueeze(2), X @ params.W_K.abs().unsqueeze(2)
    if model.kernel.name == "softmax":
        rounded = q @ k.mT / root
        moved = (at.u.unsqueeze(-3) - (at.S @ at.u).unsqueeze(-2)).abs()
    else:
        gap = (at.q.unsqueeze(-2) - at.k.unsqueeze(-3)).abs()
        rounded = (gap * (q.unsqueeze(-2) + k.unsqueeze(-3))).sum(-1) / root
        moved = at.u.abs().unsqueeze(-3).expand(*at.S.shape, -1)
    scores = ((at.S * rounded).unsqueeze(-1) * moved).sum((1, 4)).flatten(1).norm(dim=1)
    x, u = problem.X.norm(dim=-1).unsqueeze(1), at.u.norm(dim=-1)
    keys, queries = at.k.norm(dim=-1), at.q.norm(dim=-1)
    by_query = x * (at.S @ (u * (keys + queries.amax(-1, keepdim=True))).unsqueeze(-1)).squeeze(-1)
    by_key = (queries + keys.amax(-1, keepdim=True)) * (at.S @ (u * x).unsqueeze(-1)).squeeze(-1)
    terms = torch.hypot(by_query.flatten(1).norm(dim=1), by_key.flatten(1).norm(dim=1)) / root
    return scores, terms


def attention_entropy(S: torch.Tensor) -> torch.Tensor:
    """Entropy of attention rows over log n, averaged; rows of weight zero count as one-hot."""
    n = S.shape[-1]
    if n == 1:
        return torch.zeros_like(S[:, 0, 0, 0, 0])
    p = S / S.sum(-1, keepdim=True).clamp_min(torch.finfo(S.dtype).tiny)
    return torch.special.entr(p).sum(-1).mean((1, 2, 3)) / math.log(n)


def stepped(params: Any, grad: Any, steps: Float[Tensor, " R"], trained: tuple[str, ...]) -> Any:
    """One step of gradient descent, W - eta grad W for the trained blocks.

    Args:
        params: Weights.
        grad: Gradient, of the same class.
        steps: Step size per replica.
        trained: Blocks that move.

    Returns:
        The weights after the step.
    """
    moved = {}
    for block in trained:
        W = getattr(params, block)
        moved[block] = W - steps.view(-1, *[1] * (W.ndim - 1)) * getattr(grad, block)
    return replace(params, **moved)


def distances(params: Any, start: Any) -> dict[str, np.ndarray]:
    """Frobenius distance from the start, per trainable block and together.

    Args:
        params: Weights now.
        start: Weights at step 0.

    Returns:
        Arrays of shape (R,) by name: distance, distance_Q, distance_K, distance_V, and distance_O
        where w_O can be trained.
    """
    moved = {
        f.name: (getattr(params, f.name) - getattr(start, f.name)).flatten(1).norm(dim=1)
        for f in fields(params)
        if f.name != "W_O"  # fixed in the multi-head model
    }
    total = sum(m.square() for m in moved.values()).sqrt()
    return {"distance": to_numpy(total)} | {
        f"distance_{b[-1]}": to_numpy(m) for b, m in moved.items()
    }


def gap(a: Any, b: Any) -> np.ndarray:
    """|a - b|_F over all blocks, shape (R,)."""
    return distances(a, b)["distance"]


def to_numpy(x: torch.Tensor) -> np.ndarray:
    """A tensor as float64 numbers on the CPU."""
    return x.detach().cpu().double().numpy()
