"""Tangent kernel of the shallow encoder at infinite width: ntk weights, tau_0 = 1/d_m, relu.

There every attention weight tends to 1/n, so with Phi_i = X_i^T 1/n (mean token) and w ~ N(0, I)

    K* = n^2 E[relu(Phi w) relu(Phi w)^T] + n^2 E[1(Phi w > 0) 1(Phi w > 0)^T] o Phi Phi^T,

the parts of w_O and W_V; those of W_Q and W_K vanish like 1/d_m. With delta = pi - angle of two
rows a, b the expectations are the arc-cosine kernels

    E[relu relu] = |a| |b| (sin delta - delta cos delta) / (2 pi),   E[1 1] = delta / (2 pi).

delta is taken as 2 atan2(|u + v|, |u - v|) of the unit rows u, v, which keeps its digits for
parallel and antiparallel rows, and sin delta - delta cos delta from its series where it cancels.
Sources: Cho and Saul 2009; Wu, Liu, Chrysos, Cevher 2023.
"""

from __future__ import annotations

from math import factorial, pi

import torch
from jaxtyping import Float
from torch import Tensor

from gdconv.data.problem import Problem

PARTS = ("W_V", "w_O")
"""The blocks that K* has."""

SERIES = 0.5
"""Angles below which sin - delta cos is summed from its series."""


def _supplement(rows: Float[Tensor, "R N D"]) -> Float[Tensor, "R N N"]:
    """delta = pi - angle between all pairs of rows; anything between 0 and pi where a row is 0."""
    norm = rows.norm(dim=2, keepdim=True)
    unit = rows / torch.where(norm > 0, norm, torch.ones_like(norm))
    made = []
    for i in range(rows.shape[1]):  # one row at a time: N D numbers, not N^2 D
        one = unit[:, i : i + 1]
        made.append(2 * torch.atan2((unit + one).norm(dim=2), (unit - one).norm(dim=2)))
    return torch.stack(made, dim=1)


def _sine_gap(delta: Tensor) -> Tensor:
    """Sin delta - delta cos delta = sum_k (-1)^(k+1) 2k delta^(2k+1) / (2k+1)!, on [0, pi]."""
    small = delta.clamp_max(SERIES)
    series = torch.zeros_like(delta)
    for k in range(8, 0, -1):
        series = small.square() * series + (-1) ** (k + 1) * 2 * k / factorial(2 * k + 1)
    return torch.where(delta < SERIES, small**3 * series, delta.sin() - delta * delta.cos())


def limiting_blocks(problem: Problem, loss_scale: float = 1.0) -> dict[str, Float[Tensor, "R N N"]]:
    """The two parts of K*, of W_V and of w_O.

    Args:
        problem: Data; the labels do not matter.
        loss_scale: 1 for the summed loss, 1/N for the mean; multiplies the kernel.

    Returns:
        Kernels by name, exactly symmetric.

    Example:
        >>> problem = Problem.per_sample([[[2.0, 0.0]], [[-1.0, 0.0]]], [0.0, 0.0])
        >>> limiting_blocks(problem)["w_O"][0].tolist()
        [[2.0, 0.0], [0.0, 0.5]]
    """
    n = problem.n
    mean = problem.X.mean(dim=2)
    delta = _supplement(mean)
    norm = mean.norm(dim=2)
    outer = norm.unsqueeze(1) * norm.unsqueeze(2)
    factor = loss_scale * n * n / (2 * pi)
    found = {
        "W_V": factor * delta * (mean @ mean.mT),
        "w_O": factor * outer * _sine_gap(delta),
    }
    return {name: 0.5 * (K + K.mT) for name, K in found.items()}


def limiting_kernel(problem: Problem, loss_scale: float = 1.0) -> Float[Tensor, "R N N"]:
    """K*, the limit of `encoder_kernel` for ntk weights, tau_1 = d_m^(-1/2) and tau_0 = 1/d_m.

    At tau_0 = d_m^(-1/2) the scores stay random and there is no such limit.

    Args:
        problem: Data; the labels do not matter.
        loss_scale: 1 for the summed loss, 1/N for the mean.

    Returns:
        The kernel, exactly symmetric.

    Example:
        >>> problem = Problem.per_sample([[[2.0, 0.0]], [[-1.0, 0.0]]], [0.0, 0.0])
        >>> limiting_kernel(problem)[0].tolist()
        [[4.0, 0.0], [0.0, 1.0]]
    """
    parts = limiting_blocks(problem, loss_scale)
    return parts["W_V"] + parts["w_O"]


def relative_distance(
    K: Float[Tensor, "R N N"], problem: Problem, loss_scale: float = 1.0
) -> Float[Tensor, " R"]:
    """|K - K*|_F / |K*|_F per replica, of order d_m^(-1/2) at tau_0 = 1/d_m.

    Args:
        K: Empirical kernels, one per replica.
        problem: Data, as many replicas or one.
        loss_scale: As in the model that K came from.

    Returns:
        One number per replica.

    Example:
        >>> problem = Problem.per_sample([[[2.0, 0.0]]], [0.0])
        >>> relative_distance(2 * limiting_kernel(problem), problem).tolist()
        [1.0]
    """
    limit = limiting_kernel(problem, loss_scale)
    return (K - limit).flatten(1).norm(dim=1) / limit.flatten(1).norm(dim=1)
