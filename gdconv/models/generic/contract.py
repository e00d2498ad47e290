"""What a module must be before a descent on it means anything; each failure is one sentence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from gdconv.data.problem import Problem
from gdconv.models.generic.formulas import ModuleFormulas, replicas
from gdconv.models.generic.kernel import gap, rounding, size
from gdconv.models.generic.weights import ModuleWeights
from gdconv.support.errors import InputError, cause

CLOSE = 1e-9
"""Relative difference below which two derivations of a number agree."""


def require_sound(
    model: ModuleFormulas, problem: Problem, params: ModuleWeights, name: str
) -> bool:
    """The module takes the data, gives finite outputs of the targets' shape, is differentiable.

    Args:
        model: The model.
        problem: Data.
        params: Weights.
        name: Its name, for errors.

    Returns:
        Whether each output depends on its own sample alone, as far as rounding shows.

    Raises:
        InputError: It does not; the module, the data or the parameter is named.
    """
    one, data = params[0], problem[0]
    F = outputs_of(model, data, one, name)
    if F.shape[1:] != data.y.shape[1:]:
        remedy = f"give outputs of shape {tuple(data.y.shape[1:])}, as y has it"
        raise InputError("model", f"{name}, which gives shape {tuple(F.shape[1:])}", remedy)
    model.loss.check(problem.y, (problem.R, *F.shape[1:]))
    if not bool(torch.isfinite(F).all()):
        remedy = "give a model whose outputs are finite numbers at the start"
        raise InputError("model", f"{name}, which gives nan or infinity", remedy)
    _require_gradient(model, data, one, name)
    return _separate(model, data, one, F)


def outputs_of(
    model: ModuleFormulas, data: Problem, params: ModuleWeights, name: str
) -> torch.Tensor:
    """F of one replica (1, N, ...).

    Args:
        model: The model.
        data: Data, one replica.
        params: Weights, one replica.
        name: Its name, for errors.

    Returns:
        The outputs.

    Raises:
        InputError: The module cannot take the inputs, or gives something else than N outputs.
    """
    X, theta = replicas(data, params)[0]
    try:
        with torch.no_grad():
            F = model.outputs(X, theta)
    except Exception as error:  # whatever a user's module raises
        shape = tuple(X.shape)
        remedy = f"give inputs that it takes; of shape {shape} it says: {cause(error)}"
        raise InputError("X", f"inputs of {name}", remedy) from error
    if not isinstance(F, torch.Tensor) or F.ndim < 1 or len(F) != len(X):
        found = tuple(F.shape) if isinstance(F, torch.Tensor) else type(F).__name__
        remedy = f"give one output per sample, {len(X)} of them"
        raise InputError("model", f"{name}, which gives {found}", remedy)
    return F[None]


def _require_gradient(
    model: ModuleFormulas, data: Problem, params: ModuleWeights, name: str
) -> None:
    """Its Jacobian is that of finite differences along one direction; every parameter is used."""
    try:
        J = model.jacobian(data, params, params.trained)[0]
    except RuntimeError as error:
        remedy = f"give a differentiable model: {cause(error)}"
        raise InputError("model", name, remedy) from error
    difference, allowed = derivative_gap(model, data, params)
    if not difference <= allowed:
        remedy = "mend its derivative: finite differences give another one"
        raise InputError("model", name, remedy)
    sizes = [params.blocks()[b][0].numel() for b in params.trained]
    pieces = zip(params.trained, J.split(sizes, 1), strict=True)
    unused = [b for b, part in pieces if not part.any()]
    if unused and len(unused) < len(sizes) and not _used(model, data, params, unused[0]):
        remedy = "freeze it (requires_grad_(False)) or use it: the outputs do not depend on it"
        raise InputError("model", f"parameter {unused[0]} of {name}", remedy)


def derivative_gap(
    model: ModuleFormulas, problem: Problem, params: ModuleWeights
) -> tuple[float, float]:
    """How far the Jacobian is from finite differences along one direction, and what is allowed.

    Args:
        model: The model.
        problem: Data, one replica.
        params: Weights, one replica.

    Returns:
        |J u - (F(theta + h u) - F(theta - h u)) / 2h| and 1e-5 |J|_F |u|, h = 1e-6.
    """
    data, at = problem.to("cpu", torch.float64), params.to("cpu", torch.float64)
    J, blocks, rng = model.jacobian(data, at, at.trained)[0], at.blocks(), np.random.default_rng(0)
    u = {b: torch.from_numpy(rng.standard_normal(blocks[b][0].shape)) for b in at.trained}
    flat = torch.cat([v.flatten() for v in u.values()])
    difference = J @ flat - _along(model, data, at, u).flatten()
    return float(difference.norm()), 1e-5 * float(J.norm()) * float(flat.norm())


def in_factors(model: ModuleFormulas, problem: Problem, params: ModuleWeights) -> bool:
    """Whether the factors of products with parameters give K = J J^T, here and at drawn weights.

    Args:
        model: The model, with what `require_sound` has found of its samples.
        problem: Data.
        params: Weights.

    Returns:
        False as well where there are none.
    """
    tried, data = replace(model, layered=True), problem[0].to("cpu", torch.float64)
    if not tried.separate:
        return False
    here, rng = params[0].to("cpu", torch.float64), np.random.default_rng(3)
    drawn = {b: torch.from_numpy(rng.standard_normal(v.shape)) for b, v in here.blocks().items()}
    for at in (here, here.with_blocks(drawn)):
        try:
            found = tried.factors(data, tried.differentiable(data, at), 0, at.trained)
        except Exception:  # whatever a user's module does when it is watched
            return False
        if found is None:
            return False
        K, slack = found.kernel()
        J = tried.jacobian(data, at, at.trained)[0].numpy()
        if not gap(K, J) <= slack + rounding(J) * size(J):
            return False
    return True


def _along(
    model: ModuleFormulas, data: Problem, params: ModuleWeights, u: dict[str, torch.Tensor]
) -> torch.Tensor:
    """J u by a central difference, which shares nothing with the backward pass."""
    step, blocks = 1e-6, params.blocks()
    ends = [
        model.forward(
            data, params.with_blocks({b: blocks[b] + s * step * v for b, v in u.items()})
        ).F
        for s in (1.0, -1.0)
    ]
    return (ends[0] - ends[1]) / (2 * step)


def _used(model: ModuleFormulas, data: Problem, params: ModuleWeights, block: str) -> bool:
    """Whether the outputs change with a block that has no slope here, as at a zero weight."""
    W, rng = params.blocks(), np.random.default_rng(1)
    others = {b: torch.from_numpy(rng.standard_normal(tuple(v.shape))) for b, v in W.items()}
    moved = {**others, block: torch.from_numpy(rng.standard_normal(tuple(W[block].shape)))}
    first, second = (model.forward(data, params.with_blocks(v)).F for v in (others, moved))
    return bool((first != second).any())


def _separate(model: ModuleFormulas, data: Problem, params: ModuleWeights, F: torch.Tensor) -> bool:
    """Whether a sample taken alone gives the outputs it gives among the others."""
    # at other parameters too: what lets samples meet may be zero at the start, and move
    rng = np.random.default_rng(2)
    W = {b: v[0] for b, v in params.blocks().items()}
    drawn = {b: torch.from_numpy(rng.standard_normal(tuple(v.shape))) for b, v in W.items()}
    X = data.X[0]
    with torch.no_grad():
        try:
            others = model.outputs(X, drawn)
            pairs = [
                (torch.cat([model.outputs(x[None], theta) for x in X]), together)
                for theta, together in ((W, F[0]), (drawn, others))
            ]
        except Exception:  # a module made for one number of samples
            return False
    return all(
        alone.shape == all_.shape and bool((alone - all_).norm() <= CLOSE * all_.norm() + 1e-300)
        for alone, all_ in pairs
    )
