"""The encoder's constants hold on random balls, and are not slack enough to hide a factor."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples_encoder import case, shapes

from gdconv.encoder_constants import DataConstants, EncoderConstants, least_radii
from gdconv.encoder_start import EncoderStart
from gdconv.models.shallow_encoder import BLOCKS, EncoderParameters, ShallowEncoder
from gdconv.problem import Problem

SLACK = 1 + 1e-9


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


@pytest.mark.parametrize("name", ["relu", "gelu", "silu"])
@given(
    shape=shapes, seed=st.integers(0, 10**6), radius=st.sampled_from([0.0, 1e-2, 1.0, 10.0]),
    rank=st.integers(0, 1), size=st.sampled_from([0.1, 1.0, 10.0]),
)  # fmt: skip
@settings(max_examples=40)
def test_block_norms_hold_on_balls(
    name: str, shape: tuple[int, ...], seed: int, radius: float, rank: int, size: float
) -> None:
    model, problem, params = case(shape, name, seed)
    problem = replace(problem, X=size * problem.X)
    start = EncoderStart(model, problem, params)
    radii = dict(zip(BLOCKS, radius * np.random.default_rng(seed).uniform(0, 1, 4), strict=True))
    found = block_norms(model, problem, moved(params, radii, seed + 1, rank))
    sharp, plain, printed = (
        EncoderConstants(start, make(start), radii)
        for make in (DataConstants.sharp, DataConstants.plain, DataConstants.printed)
    )
    for b in BLOCKS:
        assert found[b] <= sharp.g(b) * SLACK, b
        assert sharp.g(b) <= plain.g(b) * SLACK <= printed.g(b) * SLACK**2, b
    total = sum(norm**2 for norm in found.values())
    assert sharp.G_squared() <= plain.G_squared() * SLACK
    J = model.jacobian(problem, moved(params, radii, seed + 1, rank))[0].numpy()
    assert np.linalg.norm(J, 2) ** 2 <= min(total, sharp.G_squared()) * SLACK


@pytest.mark.parametrize("name", ["relu", "gelu"])
def test_features_move_by_at_most_Lambda(name: str) -> None:
    for seed in range(60):
        model, problem, params = case((3, 3, 4, 6), name, seed)
        radii = dict.fromkeys(BLOCKS, 0.5) | {"w_O": 0.0}
        other = moved(params, radii, seed, seed % 2)
        c = EncoderConstants(
            start := EncoderStart(model, problem, params), DataConstants.sharp(start), radii
        )
        far = [getattr(other, b) - getattr(params, b) for b in BLOCKS[:3]]
        length = float(sum(W.square().sum() for W in far)) ** 0.5
        F = [model.forward(problem, p).F_pre for p in (params, other)]
        assert float((F[1] - F[0]).norm()) <= c.Lambda_squared**0.5 * length * SLACK


def test_feature_and_value_norms_are_attained() -> None:
    """Negative control: one token, parallel weights. |J_O| = A_O lambda_V, |J_V| = A_V lambda_O."""
    X = np.array([[[3.0, 4.0]]])
    W = {b: np.array([[3.0, 4.0], [0.0, 0.0]]) for b in BLOCKS[:3]}
    params = EncoderParameters.from_arrays(W | {"w_O": np.array([2.0, 0.0])})
    problem, model = Problem.per_sample(X, [1.0]), ShallowEncoder(0.5, 0.7)
    start = EncoderStart(model, problem, params)
    c = EncoderConstants(start, DataConstants.sharp(start), dict.fromkeys(BLOCKS, 0.0))
    found = block_norms(model, problem, params)
    assert found["w_O"] == pytest.approx(c.g("w_O"), rel=1e-12)
    assert found["W_V"] == pytest.approx(c.g("W_V"), rel=1e-12)
    assert found["W_Q"] == found["W_K"] == 0.0


def test_score_norms_are_nearly_attained() -> None:
    """Negative control: two opposite tokens on a line, equal scores, reach g_Q: 1/2 is sharp."""
    X = np.array([[[1.0], [-1.0]]])
    W = {"W_Q": np.array([[1e-6]]), "W_K": np.array([[1.0]]), "W_V": np.array([[1.0]])}
    params = EncoderParameters.from_arrays(W | {"w_O": np.array([1.0])})
    problem, model = Problem.per_sample(X, [1.0]), ShallowEncoder(1.0, 1.0)
    start = EncoderStart(model, problem, params)
    c = EncoderConstants(start, DataConstants.sharp(start), dict.fromkeys(BLOCKS, 0.0))
    found = block_norms(model, problem, params)
    assert 0.2 < found["W_Q"] / c.g("W_Q") <= SLACK


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


@pytest.mark.parametrize("name", ["gelu", "silu"])
def test_curvature_bounds_hold(name: str) -> None:
    ratios = []
    for seed in range(6):
        shape = (1 + seed % 3, 1 + seed % 2, 1 + seed % 4, 1 + seed % 5)
        model, problem, params = case(shape, name, seed)
        start = EncoderStart(model, problem, params)
        c = EncoderConstants(start, DataConstants.sharp(start), dict.fromkeys(BLOCKS, 0.0))
        loss, second = hessian_norms(model, problem, params)
        M_2 = c.M_2(float(params.w_O.abs().max()))
        assert second <= M_2 * SLACK
        assert loss <= c.L() * SLACK
        ratios.append(second / M_2)
    assert max(ratios) > 0.02  # negative control: a bound a hundred times larger would fail here


def test_relu_has_no_lipschitz_constant_of_its_slope() -> None:
    model, problem, params = case((2, 2, 3, 4), "relu", 0)
    start = EncoderStart(model, problem, params)
    c = EncoderConstants(start, DataConstants.sharp(start), dict.fromkeys(BLOCKS, 0.0))
    assert c.M_2(1.0) == np.inf
    assert np.isfinite(c.curved())


@pytest.mark.parametrize("sharpen", [False, True])
def test_least_radii_are_least_and_sufficient(sharpen: bool) -> None:
    found = 0
    for seed in range(20):
        model, problem, params = case((2, 2, 4, 9), "relu", seed)
        small = replace(problem, y=model.forward(problem, params).F[:, :, None, None] + 1e-6)
        start = EncoderStart(model, small, params)
        data = DataConstants.sharp(start)
        c = least_radii(start, data, 4.0, sharpen)
        if c is None:
            continue
        found += 1
        for b in BLOCKS:
            needed = 4.0 * c.g(b) * start.r_0 / start.alpha.lo**2
            assert needed <= c.radii[b] <= needed * (1 + 1e-8)
    assert found > 10


def test_no_radii_where_the_labels_are_large() -> None:
    model, problem, params = case((2, 2, 4, 9), "relu", 0)
    far = replace(problem, y=1e6 + problem.y)
    start = EncoderStart(model, far, params)
    assert least_radii(start, DataConstants.plain(start), 4.0) is None
    narrow = EncoderStart(*case((3, 2, 4, 1), "relu", 0))  # d_m < N: alpha = 0
    assert least_radii(narrow, DataConstants.plain(narrow), 4.0) is None


@np.errstate(all="ignore")
@pytest.mark.parametrize("size", [1e-90, 1e90])
def test_absurd_scales_give_no_exception(size: float) -> None:
    model, problem, params = case((2, 2, 4, 9), "gelu", 0)
    start = EncoderStart(model, replace(problem, X=size * problem.X), params)
    for make in (DataConstants.sharp, DataConstants.plain, DataConstants.printed):
        c = EncoderConstants(start, make(start), dict.fromkeys(BLOCKS, 1.0))
        assert not c.L() < 0
        assert not c.G_squared() < 0
        least_radii(start, make(start), 2.0, sharpen=True)
