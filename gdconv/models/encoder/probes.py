"""Probes of the shallow encoder: error bars and an independent step, sample by sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.linalg import vector_norm

from gdconv.data.problem import Problem
from gdconv.models.encoder.formulas import EncoderFormulas, EncoderPass
from gdconv.models.encoder.parameters import BLOCKS, EncoderParameters
from gdconv.models.encoder.step import EncoderStep, as_array, kind
from gdconv.models.probes import Probe, attention_entropy, to_numpy

NUMBERS = 2**18
"""Entries of a block of the Jacobian formed at once."""


def probe(
    model: EncoderFormulas,
    problem: Problem,
    params: EncoderParameters,
    trained: tuple[str, ...] = BLOCKS,
    at: EncoderPass | None = None,
) -> Probe:
    """Evaluate the probes through the Jacobian, `NUMBERS` of it or one sample's at a time.

    Args:
        model: The model.
        problem: Data, R replicas.
        params: Weights, R replicas.
        trained: Blocks that move.
        at: A forward pass at `params`, if there is one already; compiled code goes on from its own.

    Returns:
        The numbers, and the gradient.
    """
    at = at or model.forward(problem, params)
    seen = _compiled if isinstance(at, EncoderStep) else _seen
    squares, pulled, scores, terms, entropy = seen(model, problem, params, at)
    norm_sq = dict(zip(BLOCKS, squares, strict=True))
    unit = torch.finfo(at.loss.dtype).eps / 2
    frob = {b: vector_norm(getattr(params, b).flatten(1), dim=1) for b in BLOCKS}
    root = math.sqrt(model.loss_scale)
    scale = root * (vector_norm(at.F, dim=1) + vector_norm(problem.y.flatten(1), dim=1))
    scale = scale + sum(norm_sq[b].sqrt() * frob[b] for b in BLOCKS)
    none = torch.zeros_like(at.loss)
    total = sum((norm_sq[b] for b in trained), none).sqrt()
    return Probe(
        noise_scale=to_numpy(8 * unit * (scale + scores)),
        jacobian_error=to_numpy(unit * (64 * total + 16 * terms)),
        jacobian_norm=to_numpy(total),
        weight_norm=to_numpy(sum((frob[b] ** 2 for b in trained), none).sqrt()),
        residual_norm=to_numpy(vector_norm(at.residual, dim=1)),
        entropy=to_numpy(entropy),
        gradient=EncoderParameters(*pulled),
    )


Seen = tuple[Sequence[torch.Tensor], Sequence[torch.Tensor], torch.Tensor, torch.Tensor, Any]
"""|J_W|^2 and J_W^T r by block, the two sums of `_before_cancelling`, the entropy."""


def _seen(
    model: EncoderFormulas, problem: Problem, params: EncoderParameters, at: EncoderPass
) -> Seen:
    norm_sq = {b: torch.zeros_like(at.loss) for b in BLOCKS}
    pulled = {b: torch.zeros_like(getattr(params, b)) for b in BLOCKS}
    several = max(1, NUMBERS // (params.R * params.W_Q[0].numel()))
    for i in range(0, problem.N, several):
        rows = slice(i, i + several)
        weights = at.residual[:, rows].unsqueeze(1)
        for b, J in model.jacobian_rows(problem, params, at, rows).items():
            flat = J.flatten(2)
            norm_sq[b] += flat.square().sum((1, 2))
            pulled[b] += (weights @ flat).view(pulled[b].shape)
    sums = _before_cancelling(model, problem, params, at)
    entropy = attention_entropy(at.S.unsqueeze(1), problem.mask)
    return list(norm_sq.values()), list(pulled.values()), *sums, entropy


def _compiled(
    model: EncoderFormulas, problem: Problem, params: EncoderParameters, at: EncoderPass
) -> Seen:
    from gdconv.compiled.encoder_probe import encoder_probe  # numba loads slowly

    blocks = (problem.X, *params.blocks().values(), at.S, at.pre, at.residual)
    squares, *pulled, sums, entropy = map(
        torch.from_numpy,
        encoder_probe(*map(as_array, blocks), model.tau_0, model.scale, *kind(model)),
    )
    return list(squares.T), pulled, *sums.T, entropy


def _before_cancelling(
    model: EncoderFormulas, problem: Problem, params: EncoderParameters, at: EncoderPass
) -> tuple[torch.Tensor, torch.Tensor]:
    """What rounding before something cancels does to the output, and the size of J's terms.

    With t_k = c W_V^T (w_O o act'(pre_k)) and u_kj = <t_k, x_j>: a score error e_kj moves the
    output by S_kj (u_kj - ubar_k) e_kj, and J_Q, J_K are sums of S_kj u_kj times keys and queries.
    An attended token may be what is left of large ones, and a preactivation of large products:
    c sum_kj S_kj sum_m |w_O,m| |W_V,m| |x_j| covers both, at a kink too.

    Returns:
        Two tensors of shape (R,).
    """
    X = problem.X
    q = X.abs() @ params.W_Q.abs().mT.unsqueeze(1)
    k = X.abs() @ params.W_K.abs().mT.unsqueeze(1)
    t = model.output_slopes(params, at) @ params.W_V.unsqueeze(1)
    u = t @ X.mT
    moved = at.S * (u - (at.S * u).sum(-1, keepdim=True)).abs()
    scores = model.tau_0 * (moved * (q @ k.mT)).sum((2, 3)).norm(dim=1)
    through = (model.scale * params.w_O.abs()).unsqueeze(1) @ params.W_V.abs()
    tokens = (X.abs() @ through.unsqueeze(1).mT).squeeze(-1)
    attended = (at.S @ tokens.unsqueeze(-1)).sum((2, 3)).norm(dim=1)
    size = t.abs() @ X.abs().mT
    sums = at.S * (size + (at.S * size).sum(-1, keepdim=True))
    x = X.norm(dim=-1)
    by_query = ((sums @ k).norm(dim=-1) * x).sum(2).norm(dim=1)
    by_key = ((sums.mT @ q).norm(dim=-1) * x).sum(2).norm(dim=1)
    return scores + attended, model.tau_0 * torch.hypot(by_query, by_key)
