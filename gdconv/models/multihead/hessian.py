"""Hessian of the multi-head model of the gradient-descent theorems, f = 1/2 |F - y|^2.

All heads at once, cross-head blocks included: across heads H is H_o alone, since F is a sum over
heads. Parameter vector as in `MultiHeadFormulas.jacobian`: blocks, then heads, then (D, d). Samples
add, so padded data are several layers, one for each number of real tokens.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from gdconv.data.problem import Problem
from gdconv.hessian.dense import hessian
from gdconv.hessian.layer import AttentionLayer
from gdconv.hessian.operators import HessianOperator
from gdconv.models.multihead.formulas import MultiHeadFormulas
from gdconv.models.multihead.parameters import BLOCKS, Parameters
from gdconv.support.errors import InputError


def multihead_layers(
    model: MultiHeadFormulas, problem: Problem, params: Parameters, replica: int = 0
) -> list[AttentionLayer]:
    """One replica as attention layers with the half-square loss, whose sum is the model's.

    Args:
        model: The model.
        problem: Data, R (or 1) replicas.
        params: Weights, R replicas.
        replica: Which one.

    Returns:
        One layer, or with padding one for all samples of n_i real tokens, for each n_i; its weights
        are views.

    Example:
        >>> from gdconv.support.config import Config
        >>> from gdconv.checks.prepare import prepare
        >>> s = prepare(Config("query-gd", problem="printed-stationarity"))
        >>> [layer.c for layer in multihead_layers(s.model, s.problem, s.params)]
        [1.0]
    """
    data = replica if len(problem.X) > 1 else 0
    X, y = problem.X[data], problem.y[data]
    W_Q, W_K, W_V, W_O = (getattr(params, name)[replica].detach() for name in (*BLOCKS, "W_O"))
    parts = [(X, y)]
    if problem.mask is not None:
        n = problem.mask.sum(1)
        alike = [problem.mask & (n == count).unsqueeze(1) for count in n.unique().tolist()]
        sizes = [int(n[real.any(1)][0]) for real in alike]
        parts = [
            (X[real].unflatten(0, (-1, size)), y[real].unflatten(0, (-1, size)))
            for real, size in zip(alike, sizes, strict=True)
        ]
    kernel = model.kernel.name
    return [
        AttentionLayer(*part, W_Q, W_K, W_V, W_O, kernel=kernel, loss="half-square")
        for part in parts
    ]


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
    made = []
    for r in range(params.R):
        layers = multihead_layers(model, problem, params, r)
        made.append(sum_of([hessian(layer, blocks, part) for layer in layers]))
    return torch.stack(made)


def multihead_operators(
    model: MultiHeadFormulas,
    problem: Problem,
    params: Parameters,
    blocks: tuple[str, ...] = BLOCKS,
    part: str = "total",
) -> list[HessianOperator]:
    """The same as linear maps, one per replica, of data without padding.

    Args:
        model: The model.
        problem: Data, R (or 1) replicas.
        params: Weights, R replicas.
        blocks: Some of W_Q, W_K, W_V, in this order.
        part: "total", "outer" or "functional".

    Returns:
        One operator per replica.

    Raises:
        InputError: The data have padding.

    Example:
        >>> from gdconv.support.config import Config
        >>> from gdconv.checks.prepare import prepare
        >>> s = prepare(Config("query-gd", problem="printed-stationarity"))
        >>> maps = multihead_operators(s.model, s.problem, s.params)
        >>> len(maps) == len(s.params.W_Q), maps[0].blocks
        (True, ('W_Q', 'W_K', 'W_V'))
    """
    if problem.mask is not None:
        raise InputError("mask", "given", "take multihead_vector_product, which adds the samples")
    layers = [multihead_layers(model, problem, params, r)[0] for r in range(params.R)]
    return [HessianOperator(layer, blocks, part) for layer in layers]


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
    made = []
    for r, v in enumerate(vector):
        layers = multihead_layers(model, problem, params, r)
        made.append(sum_of([HessianOperator(layer, blocks, part)(v) for layer in layers]))
    return torch.stack(made)


def sum_of(parts: list[Tensor]) -> Tensor:
    """The sum of at least one tensor; a single one as it is."""
    return sum(parts[1:], parts[0])
