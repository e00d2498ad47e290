"""The rounding bound of the encoder's kernel against the same bound written in loops.

A bound has no second value to be compared with, so every term is written again, from the error of a
sum of k products and the formulas of the kernel, stage by stage; ordinary sizes show the factors,
zeros show what is added for underflow. That the bound holds is tested in test_ntk_encoder.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from encoder_slack_formulas import (
    TINY,
    gam,
    loops_attention,
    loops_bounds,
    loops_neurons,
    loops_scores,
)
from samples_encoder import case

import gdconv.models.encoder.tangent_slack
from gdconv.data.problem import Problem
from gdconv.models.encoder.model import ShallowEncoder
from gdconv.models.encoder.parameters import BLOCKS, EncoderParameters
from gdconv.models.encoder.tangent_slack import (
    Slack,
    _attention,
    _combine,
    _Neurons,
    _scores,
    _sweep,
    _through,
    _Tokens,
    kernel_slack,
)
from gdconv.support.errors import InputError

TIGHT = 1e-12
NAMES = ("relu", "gelu", "silu")


def agree(found: Any, wanted: Any, what: str = "") -> None:
    """Equal to 12 digits, entry by entry."""
    np.testing.assert_allclose(found, wanted, rtol=TIGHT, atol=0.0, err_msg=what)


def parts(
    shape: tuple[int, ...], name: str, seed: int = 0
) -> tuple[ShallowEncoder, np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Model, tokens, weights and forward pass of a random case, as arrays."""
    model, problem, params = case(shape, name, seed)
    at = model.forward(problem, params)
    W = {b: getattr(params, b)[0].numpy() for b in BLOCKS}
    seen = {b: getattr(at, b)[0].numpy() for b in ("S", "A", "pre", "F_pre")}
    return model, problem.X[0].numpy(), W, seen


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 2, 1, 7), (3, 1, 2, 2)])
def test_attention_moves_as_far_as_its_scores(shape: tuple[int, ...]) -> None:
    for size in (1.0, 20.0):  # large scores: their rounding counts, and attention may be 0
        model, X, W, at = parts(shape, "relu")
        found = _attention(model, size * X, at["S"], size * at["A"], W)
        dS, dA = loops_attention(model.tau_0, size * X, at["S"], size * at["A"], W)
        agree(found.dS, dS, "dS")
        agree(found.dA, dA, "dA")
        agree(found.X, size * X)
        agree(found.S, at["S"])
        agree(found.A, size * at["A"])


def test_attention_and_underflow() -> None:
    """Weights 0 under a huge factor of the scores: each of the three losses shows."""
    _, X, W, at = parts((2, 3, 4, 5), "relu")
    none = {b: 0.0 * v for b, v in W.items()}
    for size, tau in ((2.0**-4, 2.0**1005), (2.0**-14, 2.0**1010), (2.0**-1, 2.0**998)):
        model = ShallowEncoder(tau, 1.0)
        found = _attention(model, size * X, 0 * at["S"], at["A"], none)
        dS, dA = loops_attention(tau, size * X, 0 * at["S"], at["A"], none)
        agree(found.dS, dS)
        agree(found.dA, dA)
        found = _attention(model, size * X, at["S"], at["A"], none)
        dS, _ = loops_attention(tau, size * X, at["S"], at["A"], none)
        agree(found.dS, dS)
    lost = _attention(ShallowEncoder(2.0**1022, 1.0), X, at["S"], at["A"], none)
    assert (lost.dS == 1.0).all()  # nothing is known of the scores
    zero = _attention(ShallowEncoder(1.0, 1.0), 0 * X, 0 * at["S"], at["A"], W)
    assert (zero.dS == 2.0**-1000).all()
    assert (zero.dA == 3 * TINY).all()


def test_attention_is_unknown_from_an_exponent_of_one_on() -> None:
    """One token, weights 0: dZ = 3 TINY tau_0 to the last bit, and 1 is met exactly."""
    one, none = np.ones((1, 1, 1)), {b: np.zeros((1, 1)) for b in BLOCKS[:3]}
    edge = (1 - gam(25)) / 12 / TINY
    around = [edge]
    for _ in range(8):
        around = [np.nextafter(around[0], 0), *around, np.nextafter(around[-1], math.inf)]
    exactly = 0
    for tau in (0.3 * edge, 0.7 * edge, *around, 1.5 * edge, 3 * edge):
        found = _attention(ShallowEncoder(float(tau), 1.0), one, one, one, none | {"w_O": one})
        exponent = 4 * (tau * (3 * TINY)) + gam(25)
        agree(found.dS, 1.0 if exponent >= 1 else math.expm1(exponent))
        exactly += exponent == 1.0
    assert exactly > 0


def test_no_error_of_the_scores_leaves_the_bound_of_attention() -> None:
    """Scores moved by dZ against each other: softmax moves by more than a quarter of dS."""
    worst = 0.0
    for size in (1e-9, 1e-6, 1e-3):
        z = np.array([0.0, 1.0, 5.0])
        for signs in ([1, -1, -1], [-1, 1, 1], [1, 1, -1]):
            exact, stored = (np.exp(v) / np.exp(v).sum() for v in (z, z + size * np.array(signs)))
            # X = (1), W_Q^T W_K = 0 but for its rounding: dZ = size
            X = np.ones((1, 3, 1))
            W = {b: np.zeros((1, 1)) for b in BLOCKS[:3]} | {"w_O": np.zeros(1)}
            tau = size / loops_dZ()
            found = _attention(ShallowEncoder(tau, 1.0), X, stored[None, None], X, W)
            ratio = abs(stored - exact) / found.dS[0, 0]
            assert ratio.max() <= 1
            worst = max(worst, ratio.max())
    assert worst > 0.45


def loops_dZ() -> float:
    """dZ of one token (1) with weights 0, over tau_0."""
    off = TINY
    return off + gam(6) * 2 * off + 2 * TINY


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [1024, 2])
@pytest.mark.parametrize("zero", [False, True])
def test_neurons(name: str, width: int, zero: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gdconv.models.encoder.tangent_slack, "WIDTH", width)
    model, X, W, at = parts((2, 3, 4, 5), name, 1)
    rng = np.random.default_rng(0)
    dA = rng.uniform(1e-3, 2e-3, at["A"].shape)
    tokens = _Tokens(X, at["S"], at["S"], at["A"], dA)
    pre, F = at["pre"], at["F_pre"]
    if name == "relu":
        pre = np.where(rng.uniform(size=pre.shape) < 0.3, 1e-6 * pre, pre)  # of unknown sign
    if zero:
        tokens = _Tokens(X, at["S"], at["S"], 0 * at["A"], 0 * dA)
        pre, F = 0 * pre, 0 * F
    found = _sweep(model, tokens, pre, F, W)
    for field, wanted in loops_neurons(model, tokens, pre, F, W, width).items():
        agree(getattr(found, field), wanted, field)


def test_neurons_without_a_weight_and_underflow() -> None:
    """w_O = 0: what is left of a and of dA is the loss by underflow; sizes that just reach."""
    model, X, W, at = parts((2, 3, 4, 5), "relu", 1)
    W = W | {"w_O": np.zeros(5)}
    tokens = _Tokens(X, at["S"], at["S"], 0 * at["A"], 0 * at["A"])
    found = _sweep(model, tokens, 0 * at["pre"], 0 * at["F_pre"], W)
    for field, wanted in loops_neurons(model, tokens, 0 * at["pre"], 0 * at["F_pre"], W).items():
        agree(getattr(found, field), wanted, field)
    assert found.dG.min() > 0
    # |pre| equal to its error: the sign is unknown
    one = np.ones((1, 1, 1))
    tokens = _Tokens(one, one, one, 0 * one, 0.5 * one)
    W = {b: np.ones((1, 1)) for b in BLOCKS[:3]} | {"w_O": np.ones(1)}
    at_edge = _sweep(ShallowEncoder(1.0, 1.0), tokens, 0.5 * one, one[0], W)
    past = _sweep(ShallowEncoder(1.0, 1.0), tokens, np.nextafter(0.5, 1) * one, one[0], W)
    assert at_edge.da_sq[0, 0] > 1 > past.da_sq[0, 0]


def neurons(G: Any, dG: Any) -> _Neurons:
    """Only what the scores read."""
    none = np.zeros(len(G))
    return _Neurons(none, none, 0.0, 0.0, G[..., 0], G[..., 0], G, dG)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 2, 1, 7), (3, 1, 2, 2)])
def test_scores(shape: tuple[int, ...]) -> None:
    model, X, _, at = parts(shape, "relu", 2)
    rng = np.random.default_rng(1)
    G = rng.standard_normal(X.shape)
    sizes = (1.0, 1e-3, 1e-3), (1.0, 1e-15, 1e-3), (1.0, 1e-3, 1e-15), (1.0, 1e-15, 1e-15)
    for first, s, g in (*sizes, (1e-15, 1.0, 1.0)):
        off = [rng.uniform(0.5, 1.0, v.shape) for v in (at["S"], at["A"], G)]
        tokens = _Tokens(X, first * at["S"], s * off[0], at["A"], s * off[1])
        found = _scores(model, tokens, neurons(G, g * off[2]))
        for value, wanted in zip(
            found, loops_scores(model.tau_0, tokens, G, g * off[2]), strict=True
        ):
            agree(value, wanted)


def test_scores_and_underflow() -> None:
    """Everything 0 but S: each loss shows, with tokens large, small and 0."""
    _, X, _, at = parts((2, 3, 4, 5), "relu", 2)
    one, none = np.ones_like(at["S"]), np.zeros_like(X)
    for size, tau in ((0.0, 1.0), (0.0, 0.125), (2.0**-9, 8.0), (2.0**9, 8.0), (1.0, 1.0)):
        for S, dS in ((one, 0 * one), (0 * one, one), (one, one), (0 * one, 0 * one)):
            tokens = _Tokens(size * abs(X), S, dS, size * abs(X[:, ::-1]), none)
            found = _scores(ShallowEncoder(tau, 1.0), tokens, neurons(none, none))
            wanted = loops_scores(tau, tokens, none, none)
            for value, expected in zip(found, wanted, strict=True):
                agree(value, expected)
            found = _scores(ShallowEncoder(tau, 1.0), tokens, neurons(none + 1.0, none))
            wanted = loops_scores(tau, tokens, none + 1.0, none)
            for value, expected in zip(found, wanted, strict=True):
                agree(value, expected)
    tokens = _Tokens(one[..., :1] + none, one, 0 * one, one[..., :1] + none, none)  # x_j = A_k
    found = _scores(ShallowEncoder(8.0, 1.0), tokens, neurons(none + 1.0, none))
    for value, expected in zip(found, loops_scores(8.0, tokens, none + 1.0, none), strict=True):
        agree(value, expected)


def test_norms_through_a_weight_and_their_combination() -> None:
    rng = np.random.default_rng(3)
    W, E = rng.standard_normal((5, 3)), rng.uniform(size=(2, 3, 3))
    agree(_through(W, E), [np.linalg.norm(abs(W) @ e) for e in E])
    assert _combine(3.0, 0.5, 9) == pytest.approx(
        2 * 1.5 + 3 * 0.25 + gam(9) * 9, rel=1e-15, abs=0.0
    )
    assert _combine(3.0, 0.0, 9) == pytest.approx(9 * gam(9), rel=1e-15, abs=0.0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("shape", "width"), [((2, 3, 4, 5), 1024), ((3, 2, 1, 9), 4), ((2, 1, 3, 4), 2)]
)
def test_every_bound(
    name: str, shape: tuple[int, ...], width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gdconv.models.encoder.tangent_slack, "WIDTH", width)
    model, problem, params = case(shape, name, 4)
    for size, labels in ((1.0, 1.0), (30.0, 1e3), (1e-3, 0.0)):
        here = replace(problem, X=size * problem.X, y=labels * problem.y)
        at = model.forward(here, params)
        W = {b: getattr(params, b)[0].numpy() for b in BLOCKS}
        seen = {b: getattr(at, b)[0].numpy() for b in ("S", "A", "pre", "F_pre")}
        y = here.y[0, :, 0, 0].numpy()
        wanted = loops_bounds(model, here.X[0].numpy(), y, W, seen, width)
        found = kernel_slack(model, here, params)[0]
        for field in Slack._fields:
            assert getattr(found, field) == pytest.approx(wanted[field], rel=1e-11, abs=0.0), field


@pytest.mark.parametrize("d_m", [1023, 1024, 2048])
def test_a_wide_network_is_summed_in_parts_of_1024(d_m: int) -> None:
    model, problem, params = case((1, 1, 1, d_m), "relu", 0)
    W = {b: getattr(params, b)[0].numpy() for b in BLOCKS}
    at = model.forward(problem, params)
    seen = {b: getattr(at, b)[0].numpy() for b in ("S", "A", "pre", "F_pre")}
    wanted = loops_bounds(model, problem.X[0].numpy(), problem.y[0, :, 0, 0].numpy(), W, seen, 1024)
    found = kernel_slack(model, problem, params, at)[0]
    for field in Slack._fields:
        assert getattr(found, field) == pytest.approx(wanted[field], rel=1e-11, abs=0.0), field


def test_nothing_is_bounded_by_less_than_the_loss_of_the_least_number() -> None:
    model, problem, params = case((2, 2, 3, 4), "relu", 0)
    flat = replace(params, w_O=0 * params.w_O)
    none = replace(problem, X=0 * problem.X, y=0 * problem.y)
    found = kernel_slack(model, none, flat)[0]
    for field in Slack._fields:
        assert getattr(found, field) == pytest.approx(2.0**-900, rel=1e-9, abs=0.0), field


def test_where_the_analysis_does_not_apply_nothing_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, problem, params = case((2, 3, 4, 5), "relu", 0)
    module, real, asked = (
        gdconv.models.encoder.tangent_slack,
        gdconv.models.encoder.tangent_slack.gamma,
        [],
    )
    monkeypatch.setattr(module, "WIDTH", 2)

    def counted(k: int) -> float:
        asked.append(k)
        return real(k)

    monkeypatch.setattr(module, "gamma", counted)
    assert all(map(math.isfinite, kernel_slack(model, problem, params)[0]))
    assert asked[0] == 5 + 2 + 40 + 4 * 4 + 3 * 3  # the longest sum, squares of the sizes included
    monkeypatch.setattr(module, "gamma", lambda k: 1e-8)
    assert set(kernel_slack(model, problem, params)[0]) == {math.inf}
    monkeypatch.setattr(module, "gamma", lambda k: 0.99e-8)
    assert all(map(math.isfinite, kernel_slack(model, problem, params)[0]))
    monkeypatch.setattr(module, "gamma", real)
    monkeypatch.setattr(module, "gradual_underflow", lambda: False)
    assert set(kernel_slack(model, problem, params)[0]) == {math.inf}


def test_overflow_bounds_nothing_and_is_never_nan() -> None:
    model, problem, params = case((2, 3, 4, 5), "relu", 0)
    for size in (1e160, 1e200):
        huge = replace(params, W_Q=size * params.W_Q, W_K=size * params.W_K)
        found = kernel_slack(model, problem, huge)[0]
        assert found.total == found.query == found.key == math.inf
        assert not any(map(math.isnan, found))


def test_every_replica_has_its_own_data_and_bound() -> None:
    model, problem, params = case((2, 3, 4, 5), "gelu", 5, 3)
    together = kernel_slack(model, problem, params)
    assert len(together) == 3
    shared = kernel_slack(model, problem[1], params)
    for r in range(3):
        agree(together[r], kernel_slack(model, problem[r], params[r])[0])
        agree(shared[r], kernel_slack(model, problem[1], params[r])[0])
    assert together[0].total != together[1].total


def test_a_forward_pass_is_taken_as_it_is_given() -> None:
    model, problem, params = case((2, 3, 4, 5), "gelu", 5)
    at = model.forward(problem, params)
    agree(kernel_slack(model, problem, params)[0], kernel_slack(model, problem, params, at)[0])
    other = kernel_slack(model, problem, params, replace(at, F_pre=2 * at.F_pre))[0]
    assert other.output > 1.1 * kernel_slack(model, problem, params, at)[0].output


def test_other_arithmetic_is_refused() -> None:
    model, problem, params = case((2, 2, 3, 4), "relu", 0)
    for wrong in (params.to("cpu", torch.float32), params.to("meta", torch.float64)):
        with pytest.raises(InputError, match="float64 on the CPU"):
            kernel_slack(model, problem, wrong)


def test_unknown_signs_cost_the_whole_jump() -> None:
    """One token, pre = 0 up to rounding: K_V may be off by all of (c w x)^2."""
    problem = Problem.per_sample([[[0.1, 0.3]]], [0.0])
    W = np.ones((1, 2))
    flat = {"W_Q": W, "W_K": W, "W_V": np.array([[3.0, -1.0]]), "w_O": np.ones(1)}
    unsure = kernel_slack(ShallowEncoder(1.0, 1.0), problem, EncoderParameters.from_arrays(flat))[0]
    assert 0.1 <= unsure.value < 0.7  # 2 b e + 3 e^2 of e = |x|, b = 0 or |x|
