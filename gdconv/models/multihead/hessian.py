"""Hessian of the multi-head model of the gradient-descent theorems, f = 1/2 |F - y|^2.

All heads at once, cross-head blocks included: across heads H is H_o alone, since F is a sum over
heads. Parameter vector as in `MultiHeadFormulas.jacobian`: blocks, then heads, then (D, d).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from gdconv.data.problem import Problem
from gdconv.hessian.blocks import hessian
from gdconv.hessian.layer import AttentionLayer
from gdconv.hessian.operators import HessianOperator
from gdconv.models.multihead.formulas import MultiHeadFormulas
from gdconv.models.multihead.parameters import BLOCKS, Parameters


def multihead_layer(
    model: MultiHeadFormulas, problem: Problem, params: Parameters, replica: int = 0
) -> AttentionLayer:
    """One replica as an attention layer with the half-square loss.

    Args:
        model: The model.
        problem: Data, R (or 1) replicas.
        params: Weights, R replicas.
        replica: Which one.

    Returns:
        The layer; its weights are views.

    Example:
        >>> from gdconv.support.config import Config
        >>> from gdconv.checks.prepare import prepare
        >>> s = prepare(Config("query-gd", problem="printed-stationarity"))
        >>> multihead_layer(s.model, s.problem, s.params).c
        1.0
    """
    data = replica if len(problem.X) > 1 else 0
    X, y = problem.X[data], problem.y[data]
    W_Q, W_K, W_V, W_O = (getattr(params, name)[replica].detach() for name in (*BLOCKS, "W_O"))
    kernel = model.kernel.name
    return AttentionLayer(X, y, W_Q, W_K, W_V, W_O, kernel=kernel, loss="half-square")


def multihead_hessian(
    model: MultiHeadFormulas,
    problem: Problem,
    params: Parameters,
    blocks: tuple[str, ...] = BLOCKS,
    part: str = "total",
) -> Float[Tensor, "R P P"]:
    """Hessian of f by the chosen blocks of all heads, P = |blocks| H D d.

    Args:
        model: The model.
        problem: Data, R (or 1) replicas.
        params: Weights, R replicas.
        blocks: Some of W_Q, W_K, W_V, in this order.
        part: "total", "outer" (J^T J) or "functional".

    Returns:
        One symmetric matrix per replica.

    Example:
        >>> from gdconv.support.config import Config
        >>> from gdconv.checks.prepare import prepare
        >>> s = prepare(Config("query-gd", problem="printed-stationarity"))
        >>> J = s.model.jacobian(s.problem, s.params)
        >>> torch.allclose(multihead_hessian(s.model, s.problem, s.params, part="outer"), J.mT @ J)
        True
    """
    R = params.R
    return torch.stack([
        hessian(multihead_layer(model, problem, params, r), blocks, part) for r in range(R)
    ])


def multihead_operators(
    model: MultiHeadFormulas,
    problem: Problem,
    params: Parameters,
    blocks: tuple[str, ...] = BLOCKS,
    part: str = "total",
) -> list[HessianOperator]:
    """The same as linear maps, one per replica.

    Args:
        model: The model.
        problem: Data, R (or 1) replicas.
        params: Weights, R replicas.
        blocks: Some of W_Q, W_K, W_V, in this order.
        part: "total", "outer" or "functional".

    Returns:
        One operator per replica.

    Example:
        >>> from gdconv.support.config import Config
        >>> from gdconv.checks.prepare import prepare
        >>> s = prepare(Config("query-gd", problem="printed-stationarity"))
        >>> maps = multihead_operators(s.model, s.problem, s.params)
        >>> len(maps) == len(s.params.W_Q), maps[0].blocks
        (True, ('W_Q', 'W_K', 'W_V'))
    """
    R = params.R
    return [
        HessianOperator(multihead_layer(model, problem, params, r), blocks, part) for r in range(R)
    ]


def multihead_vector_product(
    model: MultiHeadFormulas,
    problem: Problem,
    params: Parameters,
    vector: Float[Tensor, "R P"],
    blocks: tuple[str, ...] = BLOCKS,
    part: str = "total",
) -> Float[Tensor, "R P"]:
    """H v for every replica, forward pass included.

    Args:
        model: The model.
        problem: Data, R (or 1) replicas.
        params: Weights, R replicas.
        vector: One direction per replica.
        blocks: Some of W_Q, W_K, W_V, in this order.
        part: "total", "outer" or "functional".

    Returns:
        The products.

    Example:
        >>> from gdconv.support.config import Config
        >>> from gdconv.checks.prepare import prepare
        >>> s = prepare(Config("query-gd", problem="printed-stationarity"))
        >>> H = multihead_hessian(s.model, s.problem, s.params)
        >>> v = torch.ones_like(H[:, 0])
        >>> torch.allclose(multihead_vector_product(s.model, s.problem, s.params, v), H.sum(-1))
        True
    """
    maps = multihead_operators(model, problem, params, blocks, part)
    return torch.stack([apply(v) for apply, v in zip(maps, vector, strict=True)])
