"""Closed forms of the shallow encoder against autograd, which appears nowhere else."""

from __future__ import annotations

from dataclasses import fields, replace

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples_encoder import case, shapes

from gdconv.data.problem import Problem
from gdconv.models.encoder.activations import ACTIVATIONS, GELU_SLOPE, SILU_SLOPE
from gdconv.models.encoder.model import ShallowEncoder
from gdconv.models.encoder.parameters import (
    BLOCKS,
    RULES,
    EncoderParameters,
    default_tau_1,
    initialize_encoder,
    scaling,
)
from gdconv.support.errors import InputError

TOLERANCE = 1e-12

activations = st.sampled_from(sorted(ACTIVATIONS))


def plain_activation(name: str, x: torch.Tensor) -> torch.Tensor:
    """The activation written out, for autograd."""
    if name == "relu":
        return torch.relu(x)
    if name == "gelu":
        return 0.5 * x * (1 + torch.erf(x / 2**0.5)) / 1.12891
    return x / (1 + torch.exp(-x)) / 1.09984


def plain_residual(
    model: ShallowEncoder, problem: Problem, W: dict[str, torch.Tensor]
) -> torch.Tensor:
    """sqrt(loss_scale) (f - y) of one replica, sample by sample and token by token."""
    out = []
    for X, y in zip(problem.X[0], problem.y[0, :, 0, 0], strict=True):
        total = torch.zeros(len(W["w_O"]), dtype=X.dtype)
        for x in X:
            beta = torch.softmax(model.tau_0 * (X @ W["W_K"].T) @ (W["W_Q"] @ x), dim=0)
            total = total + plain_activation(model.activation, W["W_V"] @ (X.T @ beta))
        out.append(model.tau_1 * W["w_O"] @ total - y)
    return model.loss_scale**0.5 * torch.stack(out)


def leaves(params: EncoderParameters) -> dict[str, torch.Tensor]:
    """The weights of replica 0 as leaves."""
    return {b: getattr(params, b)[0].clone().requires_grad_() for b in BLOCKS}


@given(shape=shapes, name=activations, seed=st.integers(0, 10**6))
@settings(max_examples=60)
def test_gradient_matches_autograd(shape: tuple[int, ...], name: str, seed: int) -> None:
    model, problem, params = case(shape, name, seed)
    W = leaves(params)
    loss = 0.5 * plain_residual(model, problem, W).square().sum()
    expected = torch.autograd.grad(loss, [W[b] for b in BLOCKS])
    at, grad = model.gradient(problem, params)
    assert abs(at.loss.item() - loss.item()) <= TOLERANCE * max(loss.item(), 1.0)
    scale = max(float(torch.cat([g.flatten() for g in expected]).norm()), 1.0)
    for b, g in zip(BLOCKS, expected, strict=True):
        assert float((getattr(grad, b)[0] - g).norm()) <= TOLERANCE * scale, b


@given(shape=shapes, name=activations, seed=st.integers(0, 10**6))
@settings(max_examples=40)
def test_jacobian_matches_autograd(shape: tuple[int, ...], name: str, seed: int) -> None:
    model, problem, params = case(shape, name, seed)

    def output(*blocks: torch.Tensor) -> torch.Tensor:
        return plain_residual(model, problem, dict(zip(BLOCKS, blocks, strict=True)))

    W = tuple(getattr(params, b)[0] for b in BLOCKS)
    for b, expected in zip(BLOCKS, torch.autograd.functional.jacobian(output, W), strict=True):
        J = model.jacobian(problem, params, (b,))[0]
        error = float((J - expected.flatten(1)).norm())
        assert error <= TOLERANCE * max(float(expected.norm()), 1.0), b


@given(shape=shapes, name=activations, seed=st.integers(0, 10**6), runs=st.integers(1, 3))
@settings(max_examples=40)
def test_the_two_derivations_agree(shape: tuple[int, ...], name: str, seed: int, runs: int) -> None:
    """Gradient, Jacobian and tangent: J^T r, J and J v."""
    model, problem, params = case(shape, name, seed, runs)
    at, grad = model.gradient(problem, params)
    _, _, direction = case(shape, name, seed + 1, runs)
    moved = torch.zeros_like(at.F)
    for b in BLOCKS:
        J = model.jacobian(problem, params, (b,))
        size = max(float(J.norm()), 1.0)
        pulled = torch.einsum("ri,rip->rp", at.residual, J)
        error = (getattr(grad, b).flatten(1) - pulled).norm()
        assert float(error) <= TOLERANCE * size * max(float(at.residual.norm()), 1.0), b
        step = getattr(direction, b).flatten(1)
        pushed = torch.einsum("rip,rp->ri", J, step)
        alone = model.tangent(problem, params, at, direction, (b,))
        assert float((alone - pushed).norm()) <= TOLERANCE * size * float(step.norm()), b
        moved += pushed
    together = model.tangent(problem, params, at, direction)
    assert torch.allclose(together, moved, rtol=1e-10, atol=1e-10)


@given(shape=shapes, name=activations, seed=st.integers(0, 10**6))
@settings(max_examples=20)
def test_features_times_output_weights_are_the_scaled_output(
    shape: tuple[int, ...], name: str, seed: int
) -> None:
    model, problem, params = case(shape, name, seed, 2)
    at = model.forward(problem, params)
    product = (model.features(problem, at) @ params.w_O.unsqueeze(2)).squeeze(2)
    shifted = product - model.loss_scale**0.5 * problem.y[:, :, 0, 0]
    assert torch.allclose(shifted, at.residual, rtol=1e-12, atol=1e-12)


def test_loss_scale_is_the_mean_or_the_sum() -> None:
    model, problem, params = case((5, 2, 3, 6), "relu", 1)
    summed = replace(model, loss_scale=1.0).gradient(problem, params)
    mean = replace(model, loss_scale=0.2).gradient(problem, params)
    assert torch.allclose(mean[0].loss * 5, summed[0].loss, rtol=1e-14)
    assert torch.equal(mean[0].F, summed[0].F)
    for b in BLOCKS:
        assert torch.allclose(5 * getattr(mean[1], b), getattr(summed[1], b), rtol=1e-13)


def test_replicas_do_not_mix_and_one_problem_serves_all() -> None:
    model, problem, params = case((3, 4, 5, 7), "relu", 11, 3)
    together, grads = model.gradient(problem, params)
    shared = model.gradient(problem[1], params)[1]
    for r in range(3):
        alone, grad = model.gradient(problem[r], params[r])
        assert torch.allclose(alone.loss, together.loss[[r]], rtol=1e-13, atol=0)
        assert torch.allclose(grad.W_K, grads.W_K[[r]], rtol=1e-11, atol=1e-14)
        one = model.gradient(problem[1], params[r])[1]
        assert torch.allclose(shared.W_Q[[r]], one.W_Q, rtol=1e-11, atol=1e-14)


def test_a_missing_centring_term_is_noticed() -> None:
    """Negative control: softmax without the row mean is not the gradient."""
    model, problem, params = case((3, 3, 4, 6), "relu", 5)
    at, grad = model.gradient(problem, params)
    g = model.output_slopes(params, at) * at.residual[:, :, None, None]
    P = at.S * ((g @ params.W_V.unsqueeze(1)) @ problem.X.mT)
    E = model.tau_0 * (problem.X.mT @ P @ problem.X).sum(1)
    assert float((params.W_K @ E.mT - grad.W_Q).norm()) > 1e-3 * float(grad.W_Q.norm())


def test_hand_worked_value() -> None:
    """One token: the softmax is 1, so f = tau_1 w_O . relu(W_V x), and W_Q, W_K do not matter."""
    problem = Problem.per_sample([[[2.0, -1.0]]], [1.0])
    W = np.array([[1.0, 1.0], [-1.0, 0.0], [0.0, -3.0]])
    params = EncoderParameters.from_arrays({
        "W_Q": W, "W_K": W, "W_V": W, "w_O": np.array([1.0, 5.0, 2.0])
    })  # fmt: skip
    model = ShallowEncoder(tau_0=1.0, tau_1=0.5, loss_scale=4.0)
    at, grad = model.gradient(problem, params)
    assert at.F.item() == 0.5 * (1 * 1 + 2 * 3)
    assert at.residual.item() == 2 * 2.5
    assert at.loss.item() == 0.5 * 4 * 2.5**2
    assert grad.w_O.tolist() == [[5.0 * 1, 0.0, 5.0 * 3]]
    assert not grad.W_Q.any()
    assert not grad.W_K.any()


def test_the_subgradient_at_zero_is_zero() -> None:
    model, problem, params = case((2, 2, 3, 4), "relu", 0)
    dead = replace(params, W_V=torch.zeros_like(params.W_V))
    at, grad = model.gradient(problem, dead)
    assert not at.pre.any()
    assert not grad.W_V.any()
    assert not model.jacobian(problem, dead).any()


def test_rescaled_activations_have_slope_at_most_one() -> None:
    """The largest slopes at 30 digits, and the two formulas of the slope against each other."""
    with mpmath.workdps(30):
        top = mpmath.sqrt(2)
        gelu = mpmath.ncdf(top) + top * mpmath.npdf(top)
        at = mpmath.findroot(lambda x: x - 2 * mpmath.coth(x / 2), 2.4)
        g = 1 / (1 + mpmath.exp(-at))
        silu = g * (1 + at * (1 - g))
        assert 0 < GELU_SLOPE / gelu - 1 < 1e-5
        assert 0 < SILU_SLOPE / silu - 1 < 1e-6
    x = torch.linspace(-30, 30, 60_001, dtype=torch.float64)
    for act in ACTIVATIONS.values():
        slope = act.slope(x)
        assert float(slope.abs().max()) <= 1.0
        assert bool((act(x).abs() <= x.abs()).all())
        assert float((slope - act.slope_again(x)).abs().max()) < 1e-14
        middle = (x[1:] + x[:-1]) / 2
        rise = (act(x[1:]) - act(x[:-1])) / (x[1:] - x[:-1])
        assert float((rise - act.slope(middle)).abs()[x[1:] * x[:-1] > 0].max()) < 1e-6


@pytest.mark.parametrize("rule", RULES)
def test_initial_variances(rule: str) -> None:
    d_m, D = 4000, 5
    params = initialize_encoder(rule, (d_m, D), 3)
    wide = {"lecun": 1 / D, "he": 2 / D, "ntk": 1.0, "zero-output": 1 / D}[rule]
    out = {"lecun": 1 / d_m, "he": 2 / d_m, "ntk": 1.0, "zero-output": 0.0}[rule]
    for b in BLOCKS[:3]:
        assert float(getattr(params, b).square().mean()) == pytest.approx(wide, rel=0.05)
    assert float(params.w_O.square().mean()) == pytest.approx(out, rel=0.1)
    assert default_tau_1(rule, 64) == (0.125 if rule == "ntk" else 1.0)
    again = initialize_encoder(rule, (d_m, D), 3)
    assert all(torch.equal(getattr(params, b), getattr(again, b)) for b in BLOCKS)


def test_zero_output_starts_at_zero_with_the_other_weights_of_lecun() -> None:
    zero, lecun = (initialize_encoder(rule, (6, 3), 8) for rule in ("zero-output", "lecun"))
    assert all(torch.equal(getattr(zero, b), getattr(lecun, b)) for b in BLOCKS[:3])
    model, problem, _ = case((3, 2, 3, 6), "relu", 0)
    assert not model.forward(problem, zero).F.any()


def test_parameters_survive_the_round_trip() -> None:
    _, _, params = case((2, 2, 3, 4), "relu", 2, 3)
    again = EncoderParameters.from_arrays(params.numpy())
    single = EncoderParameters.from_arrays({b: v[1] for b, v in params.numpy().items()})
    stacked = EncoderParameters.stack([params[0], params[[1, 2]]])
    for f in fields(EncoderParameters):
        W = getattr(params, f.name)
        assert torch.equal(getattr(again, f.name), W)
        assert torch.equal(getattr(stacked, f.name), W)
        assert torch.equal(getattr(single, f.name), W[[1]])
        assert getattr(params.to("cpu", torch.float32), f.name).dtype == torch.float32
    assert params.d_m == 4


def test_float32_runs_in_float32() -> None:
    model, problem, params = case((3, 2, 3, 6), "gelu", 4)
    low = model.gradient(problem.to(dtype=torch.float32), params.to("cpu", torch.float32))
    assert low[0].loss.dtype == low[1].W_Q.dtype == torch.float32
    assert torch.allclose(low[0].loss.double(), model.forward(problem, params).loss, rtol=1e-4)


@pytest.mark.parametrize(
    "fault", ["missing", "shape", "nan", "huge", "complex", "text", "empty", "rank", "vector"]
)
def test_bad_weights_are_named(fault: str) -> None:
    arrays = {b: np.ones((4, 3)) for b in BLOCKS[:3]} | {"w_O": np.ones(4)}
    if fault == "missing":
        del arrays["W_K"]
    elif fault == "shape":
        arrays["w_O"] = np.ones(3)
    elif fault == "vector":
        arrays["w_O"] = np.ones((1, 1, 4))
    elif fault in ("nan", "huge"):
        arrays["W_Q"][0, 0] = np.nan if fault == "nan" else 1e200
    else:
        arrays["W_Q"] = {
            "complex": np.ones((4, 3), complex),
            "text": np.full((4, 3), "a"),
            "empty": np.ones((4, 0)),
            "rank": np.ones(4),
        }[fault]
    with pytest.raises(InputError, match=r"^(W_K|weights|W_Q|w_O) = "):
        EncoderParameters.from_arrays(arrays)


def test_other_bad_input_is_named() -> None:
    with pytest.raises(InputError, match="tau_0"):
        ShallowEncoder(tau_0=0.0, tau_1=1.0)
    with pytest.raises(InputError, match="activation"):
        ShallowEncoder(tau_0=1.0, tau_1=1.0, activation="tanh")
    with pytest.raises(InputError, match="scaling"):
        scaling("cubic", 4)
    with pytest.raises(InputError, match="init"):
        initialize_encoder("theorem", (4, 3), 0)
    with pytest.raises(InputError, match="one label per sample"):
        Problem.per_sample(np.ones((2, 3, 4)), np.ones((2, 3, 2)))
    with pytest.raises(InputError, match="samples, tokens"):
        Problem.per_sample(np.ones((3, 4)), np.ones(3))
    per_token = Problem.from_arrays(np.ones((2, 3, 4)), np.ones((2, 3)))
    with pytest.raises(InputError, match="one label a sample"):
        ShallowEncoder(1.0, 1.0).forward(per_token, initialize_encoder("ntk", (5, 4), 0))
