"""The contract of a model: `check_model` runs it at once, `model_checks` gives one test each.

outputs     finite, of y's shape, one loss and one residual per replica
pure        two forward passes agree bit by bit; weights, data, buffers, random states unchanged
match       the family takes data and weights: every parameter is used, everything is differentiable
jacobian    its rows and columns are those of finite differences of the outputs
gradient    the gradient is that of finite differences of the loss
agreement   gradient = J^T S to rounding
kernel      K = J J^T, and `kernel_times` is K v
replicas    two runs at once give what each gives alone
step        the engine's step is the one of the probe, within what rounding allows
noise       `noise_scale` covers what float32, other orders and an ulp of the weights change
weights     they survive numpy and another dtype, and keep their names, shapes and order
constants   sampled |J(theta + u) - J(theta)| <= M rho and |J(theta + u)|^2 <= G^2, |u| <= rho
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from gdconv.checks.given import IN_MEMORY
from gdconv.checks.resolve import FALLBACK
from gdconv.data.problem import Problem
from gdconv.models.architecture import Architecture
from gdconv.models.base import Model
from gdconv.models.candidate import candidate
from gdconv.models.generic.family import described
from gdconv.models.losses.base import Loss
from gdconv.models.weights import Weights
from gdconv.support.arrays import real_array
from gdconv.support.config import Config
from gdconv.support.errors import InputError
from gdconv.testing.contract import listed
from gdconv.testing.model_contract import CHECKS, Claims, Subject

SMALL: dict[str, Any] = {
    "samples": 3, "tokens": 2, "embedding": 4, "outputs": 1, "head_dim": 3, "heads": 2, "width": 5,
}  # fmt: skip
"""Sizes on which an architecture is checked where no others are given."""


def check_model(
    model: Any,
    X: Any = None,
    y: Any = None,
    loss: Loss | str = "squared",
    *,
    constants: Claims | None = None,
    **options: Any,
) -> None:
    """Every check of a model's contract; the first that is not met is raised.

    Args:
        model: A torch module, a function that makes one, an object with `module()` and
            `data(seed)`, or an `Architecture`.
        X: Inputs (N, ...); the model's own data, or an architecture's, where left out.
        y: Targets (N, ...).
        loss: The loss of a module; an architecture has its own.
        constants: (point, rho) -> (M_2, G^2) that are claimed around a point, in the place of
            the point's own `constants(rho)`.
        **options: Options of an architecture, such as kernel="gaussian", or of a class that makes
            a module.

    Raises:
        ContractError: A check is not met; the sentence names the model and the check.
        InputError: The model cannot be used at all.

    Example:
        >>> from torch import nn
        >>> check_model(nn.Linear(2, 1), X=[[1.0, 2.0], [0.0, 1.0]], y=[[1.0], [0.0]])
    """
    __tracebackhide__ = True
    for _, check in model_checks(model, X, y, loss, constants=constants, **options):
        check()


def model_checks(
    model: Any,
    X: Any = None,
    y: Any = None,
    loss: Loss | str = "squared",
    *,
    constants: Claims | None = None,
    **options: Any,
) -> list[tuple[str, Callable[[], str]]]:
    """The same as pairs (name, function of no arguments), for `pytest.mark.parametrize`.

    Args:
        model: As for `check_model`, and so are the others.
        X: Inputs.
        y: Targets.
        loss: The loss of a module.
        constants: What is claimed around a point.
        **options: Options of an architecture.

    Returns:
        The checks in the order of the module's docstring; nothing is computed before one is called.

    Example:
        >>> from torch import nn
        >>> checks = dict(model_checks(nn.Linear(1, 1), X=[[1.0]], y=[[0.0]]))
        >>> checks["pure"]()
        ''
    """

    @cache
    def subject() -> Subject:
        return _subject(model, X, y, loss, constants, options)

    return listed(_name(model), subject, CHECKS)


def _name(model: Any) -> str:
    return model.name if isinstance(model, Architecture) else described(model)


def _subject(
    model: Any, X: Any, y: Any, loss: Loss | str, claims: Claims | None, options: dict[str, Any]
) -> Subject:
    """Two replicas: the second has moved weights and the samples in the opposite order."""
    if (X is None) != (y is None):
        raise InputError("X" if X is None else "y", "nothing", "give X and y together")
    if isinstance(model, Architecture):
        family: Architecture = model
        filled = {**FALLBACK, **SMALL, **family.defaults, **options}
    else:
        family = _made(model, loss, options)
        filled = dict(family.defaults)
    if X is not None:
        filled["data"] = IN_MEMORY
    config = Config("contract", model=family.name).resolve(filled)
    if X is None:
        problem = family.load(config, 0)
    else:
        inputs, targets = (real_array(name, v)[0] for name, v in (("X", X), ("y", y)))
        problem = family.problem(inputs[None], targets[None], IN_MEMORY, [])
    sizes = family.sizes(config, problem, None)
    params = family.draw(config, sizes, 0)
    with suppress(InputError):  # a family may learn from it; the check `match` reports it
        family.require_match(problem, params)
    made: Model = family.model(config, sizes)
    trained = family.trainable
    return Subject(
        _name(model), family, made, _two(problem), params.stack([params, _moved(params, trained)]),
        trained, claims or _own_claims,
    )  # fmt: skip


def _made(model: Any, loss: Loss | str, options: dict[str, Any]) -> Architecture:
    """The family of a module, or of the class of one with values of its own options."""
    found = candidate(_name(model), model)
    assert found is not None
    own = {option.name: option for option in found.own}
    for name, value in options.items():
        if name not in own:
            known = ", ".join(["X, y and loss", *own])
            raise InputError(name, value, f"leave it out: this model reads {known} alone")
    return found.make({name: own[name].checked(value) for name, value in options.items()}, loss)


def _two(problem: Problem) -> Problem:
    back = replace(problem, X=problem.X.flip(1), y=problem.y.flip(1))
    return Problem.stack([problem, back])


def _moved(params: Weights, trained: tuple[str, ...]) -> Weights:
    """Weights nearby, a tenth of their size away."""
    rng, blocks = np.random.default_rng(1), params.blocks()
    moved = {}
    for b in trained:
        size = float(blocks[b].square().mean().sqrt()) or 1.0
        drawn = blocks[b].new_tensor(rng.standard_normal(tuple(blocks[b].shape)))
        moved[b] = blocks[b] + 0.1 * size * drawn
    return params.with_blocks(moved)


def _own_claims(point: Any, rho: float) -> tuple[float, float]:
    """What the point claims itself; nothing where it has no constants."""
    own = getattr(point, "constants", None)
    if own is None:
        return float("inf"), float("inf")
    M, G_squared = own(rho)
    return float(M), float(G_squared)
