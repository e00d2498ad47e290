"""Probes of any module: error bars of the outputs, and the gradient through the Jacobian."""

from __future__ import annotations

import torch
from torch import Tensor

from gdconv.data.problem import Problem
from gdconv.models.generic.formulas import ModuleFormulas, ModulePass, replicas
from gdconv.models.generic.weights import ModuleWeights
from gdconv.models.probes import Probe, to_numpy

SAFETY = 8.0
"""Times the rounding that is seen or counted."""

MOST = 1e-10
"""Relative error of the Jacobian that rounding may explain, a million terms in one sum."""


def probe(
    model: ModuleFormulas,
    problem: Problem,
    params: ModuleWeights,
    trained: tuple[str, ...],
) -> Probe:
    """Evaluate the probes.

    The outputs' error is 8u (|F| + |y| + sum_W |J_W|_F |W|_F), first-order backward error of sums
    and products, or 8 times what evaluating in float32 changes, scaled by 2^-29, whichever is more:
    the second one sees what cancels inside the module, whatever it is made of.

    Args:
        model: The model.
        problem: Data, R replicas.
        params: Weights, R replicas.
        trained: Blocks that move.

    Returns:
        The numbers, and the gradient.
    """
    at = model.differentiable(problem, params)
    S, blocks = at.residual.flatten(1), params.blocks()
    unit = torch.finfo(at.F.dtype).eps / 2
    pulled, norm_sq, bent = _through_jacobian(model, problem, params, at, trained)
    frob = {b: blocks[b].reshape(params.R, -1).norm(dim=1) for b in trained}
    none = torch.zeros(params.R, dtype=S.dtype, device=S.device)
    total = sum(norm_sq.values(), none).sqrt()
    scale = at.F.flatten(1).norm(dim=1) + problem.y.flatten(1).norm(dim=1)
    scale = scale + sum((norm_sq[b].sqrt() * frob[b] for b in trained), none)
    seen = _seen_in_float32(model, problem, params, at.F) * (unit / 2.0**-24)
    # a sum of thousands of terms of one sign rounds by more than 64 u, in J and in J^T S
    slopes = model.gradient(problem, params, at)[1].blocks()
    parts = [(slopes[b] - pulled[b]).reshape(params.R, -1).square().sum(1) for b in trained]
    share = (sum(parts, none) / S.square().sum(1)).sqrt()
    # beyond this it is no rounding, and the check of the stored steps must see it
    most = MOST * total if at.F.dtype == torch.float64 else 0 * total
    share = torch.nan_to_num(share, nan=0.0, posinf=0.0)
    rounded = (bent * (unit / 2.0**-24), share)
    apart = [torch.minimum(SAFETY * there, most) for there in rounded]
    return Probe(
        noise_scale=to_numpy(SAFETY * torch.maximum(unit * scale, seen)),
        jacobian_error=to_numpy(torch.stack([64 * unit * total, *apart]).amax(0)),
        jacobian_norm=to_numpy(total),
        weight_norm=to_numpy(sum((frob[b] ** 2 for b in trained), none).sqrt()),
        residual_norm=to_numpy(S.norm(dim=1)),
        entropy=None,
        gradient=params.with_blocks(pulled),
    )


def _through_jacobian(
    model: ModuleFormulas,
    problem: Problem,
    params: ModuleWeights,
    at: ModulePass,
    trained: tuple[str, ...],
) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """J^T S and |J_W|_F^2 by block, and what float32 changes in J; 0 where J has factors."""
    found = [model.factors(problem, at, r, trained) for r in range(params.R)]
    S, blocks = at.residual.flatten(1), params.blocks()
    if found and all(f is not None for f in found):
        slopes = [f.pulled(S[r].cpu().double().numpy()) for r, f in enumerate(found) if f]
        squares = [f.squares() for f in found if f]
        return (
            {b: torch.stack([torch.from_numpy(g[b]) for g in slopes]).to(S).view_as(blocks[b])
             for b in trained},
            {b: torch.tensor([q[b] for q in squares], dtype=S.dtype, device=S.device)
             for b in trained},
            torch.zeros_like(S[:, 0]),
        )  # fmt: skip
    J = model.jacobian(problem, params, trained)
    sizes = [blocks[b][0].numel() for b in trained]
    pulled, norm_sq = {}, {}
    for b, part in zip(trained, J.split(sizes, 2), strict=True):
        norm_sq[b] = part.square().sum((1, 2))
        pulled[b] = torch.einsum("rm,rmp->rp", S.to(J.dtype), part).view_as(blocks[b])
    return pulled, norm_sq, _bent_in_float32(model, problem, params, J, trained)


def _bent_in_float32(
    model: ModuleFormulas,
    problem: Problem,
    params: ModuleWeights,
    J: Tensor,
    trained: tuple[str, ...],
) -> Tensor:
    """|J in float32 - J|_F, shape (R,); 0 for a run in float32, or where it overflows."""
    if J.dtype != torch.float64:
        return torch.zeros_like(J[:, 0, 0])
    place = problem.X.device.type
    low = model.jacobian(problem.to(place, torch.float32), params.to(place, torch.float32), trained)
    return torch.nan_to_num((low.double() - J).flatten(1).norm(dim=1), nan=0.0, posinf=0.0)


@torch.no_grad()
def _seen_in_float32(
    model: ModuleFormulas, problem: Problem, params: ModuleWeights, F: Tensor
) -> Tensor:
    """|F in float32 - F|, shape (R,); 0 for a run in float32, or where it overflows."""
    if F.dtype != torch.float64:
        return torch.zeros_like(F.flatten(1)[:, 0])
    low = torch.stack([
        model.outputs(X.float(), {b: v.float() for b, v in theta.items()})
        for X, theta in replicas(problem, params)
    ])
    return torch.nan_to_num((low.double() - F).flatten(1).norm(dim=1), nan=0.0, posinf=0.0)
