"""What is recorded on the way, and the independent check of the step.

At a recorded step the Jacobian is built head by head. It gives, apart from the gradient formulas,

* the gradient J^T (F - y), hence the defect |theta_{t+1} - (theta_t - eta J^T (F - y))| of the step
  that the engine took,
* |J_W|_F per block, hence the loss noise 8u (|F| + |y| + sum_W |J_W|_F |W|_F + scores + values).
"""

from __future__ import annotations

import numpy as np
import torch

from gdconv.compiled import probes as compiled
from gdconv.data.problem import Problem
from gdconv.models.multihead.formulas import Forward, MultiHeadFormulas
from gdconv.models.multihead.parameters import BLOCKS, Parameters
from gdconv.models.probes import Probe, attention_entropy, to_numpy


def probe(
    model: MultiHeadFormulas,
    problem: Problem,
    params: Parameters,
    trained: tuple[str, ...] = BLOCKS,
) -> Probe:
    """Evaluate the probes: compiled in float64 on the CPU, in torch elsewhere and with padding.

    Args:
        model: The model.
        problem: Data, R replicas.
        params: Weights, R replicas.
        trained: Blocks that move.

    Returns:
        The numbers, and the gradient.
    """
    X = problem.X
    if X.dtype != torch.float64 or X.device.type != "cpu" or problem.mask is not None:
        return in_torch(model, problem, params, trained)
    letters, made = "".join(block[-1] for block in trained), []
    for r in range(params.R):
        W = [getattr(params, b)[r].detach().contiguous().numpy() for b in (*BLOCKS, "W_O")]
        tokens, y = (data[r % len(data)].contiguous().numpy() for data in (X, problem.y))
        made.append(compiled.probe(model.kernel.name, tokens, y, (W[0], W[1], W[2], W[3]), letters))
    slopes = torch.from_numpy(np.stack([one for _, one in made], axis=1))
    return Probe(
        **{name: np.array([numbers[name] for numbers, _ in made]) for name in compiled.NUMBERS},
        gradient=params.with_blocks(dict(zip(BLOCKS, slopes, strict=True))),
    )


def in_torch(
    model: MultiHeadFormulas, problem: Problem, params: Parameters, trained: tuple[str, ...]
) -> Probe:
    """The same through `MultiHeadFormulas.jacobian_heads`, on any device, with padding or without.

    Args:
        model: The model.
        problem: Data, R replicas.
        params: Weights, R replicas.
        trained: Blocks that move.

    Returns:
        The numbers, and the gradient.
    """
    at = model.forward(problem, params)
    residual = at.residual.flatten(1)
    norm_sq = {b: torch.zeros_like(at.loss) for b in BLOCKS}
    pulled: dict[str, list[torch.Tensor]] = {b: [] for b in BLOCKS}
    for head in model.jacobian_heads(problem, params, at):
        for b, J in head.items():
            norm_sq[b] += J.square().sum((1, 2, 3))
            pulled[b].append(torch.einsum("rm,rmDd->rDd", residual, J))
    slopes = Parameters(**{b: torch.stack(pulled[b], 1) for b in BLOCKS}, W_O=params.W_O)
    unit = torch.finfo(at.loss.dtype).eps / 2
    frob = {b: getattr(params, b).flatten(1).norm(dim=1) for b in (*BLOCKS, "W_O")}
    scale = at.F.flatten(1).norm(dim=1) + problem.y.flatten(1).norm(dim=1)
    scale = scale + sum(norm_sq[b].sqrt() * frob[b] for b in BLOCKS)
    sizes = problem.X.abs().unsqueeze(1) @ (params.W_V.abs() @ params.W_O.abs()).unsqueeze(2)
    scale = scale + (at.S @ sizes).sum(1).flatten(1).norm(dim=1)  # values before tokens cancel
    none = torch.zeros_like(at.loss)
    scores, terms = _before_cancelling(model, problem, params, at)
    total = sum((norm_sq[b] for b in trained), none).sqrt()
    return Probe(
        noise_scale=to_numpy(8 * unit * (scale + scores)),
        jacobian_error=to_numpy(unit * (64 * total + 16 * terms)),
        jacobian_norm=to_numpy(total),
        weight_norm=to_numpy(sum((frob[b] ** 2 for b in trained), none).sqrt()),
        residual_norm=to_numpy(residual.norm(dim=1)),
        entropy=to_numpy(attention_entropy(at.S, problem.mask)),
        gradient=slopes,
    )


def _before_cancelling(
    model: MultiHeadFormulas, problem: Problem, params: Parameters, at: Forward
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
