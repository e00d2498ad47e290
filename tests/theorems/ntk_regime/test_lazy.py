"""Following the linearisation: an identity with the true kernel, rounding included."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from samples import draw
from samples import model as multihead
from samples_encoder import case

from gdconv.descent.motion import Motion
from gdconv.descent.plan import Plan
from gdconv.gallery.ntk_regime.lazy import (
    RUNGS,
    LazyWatch,
    LinearisedRun,
    _ratio,
)
from gdconv.models.encoder.model import ShallowEncoder
from gdconv.models.encoder.parameters import BLOCKS
from gdconv.models.multihead.model import MultiHeadRegression
from gdconv.rigor.spectrum import Enclosure


def rungs(point: Any) -> list[Enclosure]:
    """The ladder of the model at hand."""
    return RUNGS[point.model.name](point)


def drawn(name: str, seed: int, runs: int = 1) -> tuple[Any, Any, Any, tuple[str, ...]]:
    """A model, its data, weights and trained blocks."""
    if name == "multihead":
        problem, params = draw((2, 2, 6, 3, 4, 1), seed, 0.5, runs)
        return multihead("softmax"), problem, params, ("W_Q", "W_K", "W_V")
    model, problem, params = case((3, 2, 8, 64), name, seed, runs)
    return replace(model, tau_0=1 / 64, tau_1=1.0, loss_scale=1.0), problem, params, BLOCKS


def followed(name: str, seed: int, steps: int = 40, near: float = 0.0, runs: int = 1) -> LazyWatch:
    """Gradient descent under the watch; `near` puts the labels that close to the outputs."""
    model, problem, params, trained = drawn(name, seed, runs)
    if near:
        F = model.forward(problem, params).F.reshape(problem.y.shape)
        problem = replace(problem, y=F + near * problem.y)
    tops = [np.linalg.norm(K, 2) for K in model_kernel(model, problem, params, trained)]
    eta = 0.5 / np.array(tops)
    plan = Plan(
        eta, np.full(runs, steps), [{}] * runs, np.ones(runs), np.zeros(runs), trained=trained
    )
    watch, motion = LazyWatch(model, problem, params, plan), Motion(plan, problem, params)
    for t in range(steps + 1):
        at, grad = model.gradient(problem, params)
        watch.observe(list(range(runs)), params, at)
        if t % 10 == 0:
            rows = [watch.record(r, params) for r in range(runs)]
            assert all(np.isfinite(list(row.values())).all() for row in rows)
        params, _ = motion.step(params, grad)
    return watch


def model_kernel(model: Any, problem: Any, params: Any, trained: tuple[str, ...]) -> np.ndarray:
    """K of every replica."""
    return model.tangent_kernel(problem, params, trained).numpy()


def test_the_recursion_is_that_of_the_page() -> None:
    """bound <- q bound + eta |(K_t - K_0) r_t| + allowed, step by step, with arbitrary numbers."""
    rng = np.random.default_rng(0)
    K = rng.standard_normal((3, 3))
    K, r = K + K.T, rng.standard_normal(3)
    p, q, eta, rounding = rng.standard_normal(3), 0.875, 0.25, 1e-3
    state = LinearisedRun(K, q, r, p, r.copy(), float(np.linalg.norm(r)), rounding)
    linear, bound, noise, worst, curved = r.copy(), 0.0, 0.0, 0.0, 0.0
    for t in range(6):
        after, product, allowed = rng.standard_normal(3), rng.standard_normal(3), 0.01 * t
        state.advance(eta, after, product, allowed)
        curved = max(curved, np.linalg.norm(after - r + eta * p) / (allowed + rounding))
        bound = q * bound + eta * np.linalg.norm(p - K @ r) + allowed
        noise = q * noise + rounding
        linear = linear - eta * K @ linear
        r, p = after, product
        error = np.linalg.norm(r - linear)
        worst = max(worst, error / (bound + noise))
        found = state.bound, state.noise, state.error, state.worst, state.curved
        assert found == pytest.approx((bound, noise, error, worst, curved), rel=1e-12, abs=0.0)
        np.testing.assert_allclose(state.linear, linear, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("share", [0.5, 2.5])
def test_the_numbers_at_the_start(
    share: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """q, what rounding may add, and a product that differs from the kernel."""
    model, problem, params, trained = drawn("gelu", 0)
    problem, params = problem.to(dtype=dtype), params.to("cpu", dtype)
    K = model.tangent_kernel(problem, params, trained)[0].double().numpy()
    w = np.linalg.eigvalsh(K)
    eta = share / w[-1]
    plan = Plan(np.full(1, eta), np.full(1, 9), [{}], np.ones(1), np.zeros(1), trained=trained)
    times = ShallowEncoder.kernel_times
    monkeypatch.setattr(ShallowEncoder, "kernel_times", lambda *a: 1.5 * times(*a))
    watch = LazyWatch(model, problem, params, plan)
    at = model.forward(problem, params)
    watch.observe([0], params, at)
    state, r = watch.follows[0], at.residual[0].double().numpy()
    assert state.q == pytest.approx(max(1 - eta * w[0], eta * w[-1] - 1), rel=1e-9)
    here, data = params.to("cpu", torch.float64), problem.to("cpu", torch.float64)
    probed = model.probe(data, here, trained)
    nu, J, first = probed.noise_scale[0], probed.jacobian_norm[0], np.linalg.norm(r)
    noise = 2 * nu + 2 * eta * J * (J * nu + 2 * probed.jacobian_error[0] * first)
    noise += 64 * 2.0**-53 * first
    noise *= 1.0 if dtype == torch.float64 else 2.0**29
    assert state.rounding == pytest.approx(noise, rel=1e-10, abs=0.0)
    apart = eta * np.linalg.norm(0.5 * K @ r)
    assert state.curved == pytest.approx(apart / 16 / noise, rel=1e-5, abs=0.0)
    assert (state.first, state.bound, state.noise) == (pytest.approx(first), 0.0, 0.0)


def test_a_record_is_relative_to_the_start() -> None:
    model, problem, params, trained = drawn("gelu", 2)
    plan = Plan(np.full(1, 1e-3), np.full(1, 9), [{}], np.ones(1), np.zeros(1), trained=trained)
    watch = LazyWatch(model, problem, params, plan)
    watch.observe([0], params, model.forward(problem, params))
    state = watch.follows[0]
    state.error, state.bound, state.noise, state.worst = 0.5, 0.25, 0.125, 7.0
    state.curved, state.q = 3.0, 0.9
    there = replace(params, w_O=1.1 * params.w_O)
    row = watch.record(0, there)
    K_0, K = (model.tangent_kernel(problem, p, trained)[0].numpy() for p in (params, there))
    change = np.linalg.norm(K - K_0) / np.linalg.norm(K_0)
    assert row["kernel_change"] == pytest.approx(change, rel=1e-9)
    assert row["linear_error"] == pytest.approx(0.5 / state.first)
    assert row["linear_bound"] == pytest.approx(0.375 / state.first)
    assert row["linear_ratio"] == pytest.approx(1.0)
    assert row["relative_distance_O"] == pytest.approx(0.1)
    assert row["relative_distance_Q"] == 0.0
    least = np.linalg.eigvalsh(K)[0]
    assert row["lambda_min_lo"] <= least * (1 + 1e-9)
    assert row["lambda_min_hi"] >= least * (1 - 1e-9)
    *lower, full = rungs(model.point(problem, there, trained))
    found = watch.result(0)
    assert found["rung_lo"] == pytest.approx(min(full.lo / b.hi for b in lower), rel=1e-12)
    assert found["rung_hi"] == pytest.approx(min(full.hi / b.lo for b in lower), rel=1e-12)
    assert (found["q"], found["linear_worst"], found["curved_worst"]) == (0.9, 7.0, 3.0)
    assert (found["linear_bound"], found["first"]) == (0.375, state.first)
    assert found["linear_last"] == pytest.approx(state.first)


def test_the_probes_of_a_record_come_from_its_ledger() -> None:
    """What rounding may add, from noise, |J| and the error of J as the ledger has them."""
    model, problem, params, trained = drawn("relu", 2)
    plan = Plan(np.full(1, 1e-3), np.full(1, 9), [{}], np.ones(1), np.zeros(1), trained=trained)
    watch = LazyWatch(model, problem, params, plan)
    at, *_ = model.at_step(problem, params, trained)
    watch.observe([0], params, at)
    state, point = watch.follows[0], model.point_of(problem, params, trained, at, 0)
    before = state.rounding
    probed = model.probe(problem, params, trained)
    names = ("noise_scale", "jacobian_error", "jacobian_norm")
    ledger = {name: float(getattr(probed, name)[0]) for name in names}
    row = watch.record(0, params, point, ledger)
    assert state.rounding == pytest.approx(before, rel=1e-12)
    again = watch.record(0, params)
    assert row == pytest.approx(again, rel=1e-9, abs=1e-12)
    nu, error, J = 1e-3, 1e-4, 50.0
    watch.record(0, params, point, dict(zip(names, (nu, error, J), strict=True)))
    noise = 2 * nu + 2 * 1e-3 * J * (J * nu + 2 * error * state.first) + 64 * 2.0**-53 * state.first
    assert state.rounding == pytest.approx(noise, rel=1e-12)


def test_a_ratio_of_boxes() -> None:
    assert _ratio(Enclosure(2.0, 3.0), Enclosure(4.0, 5.0)) == (0.4, 0.75)
    assert _ratio(Enclosure(-1.0, 3.0), Enclosure(4.0, 5.0)) == (0.0, 0.75)
    assert _ratio(Enclosure(-2.0, -1.0), Enclosure(4.0, 5.0)) == (0.0, 0.0)
    assert _ratio(Enclosure(2.0, 3.0), Enclosure(0.0, 5.0)) == (0.4, np.inf)
    assert _ratio(Enclosure(0.0, 0.0), Enclosure(0.0, 0.0)) == (1.0, np.inf)


@pytest.mark.parametrize("name", ["relu", "gelu", "multihead"])
@pytest.mark.parametrize("near", [0.0, 1e-3, 1e-7, 1e-11, 1e-14])
def test_both_claims_hold_whatever_the_size_of_the_residual(name: str, near: float) -> None:
    """Labels next to the outputs leave residuals of the size of rounding: that is no refutation."""
    for seed in range(2):
        found = followed(name, seed, near=near).result(0)
        assert found["curved_worst"] <= 1.0
        assert found["linear_worst"] <= 1.0
        assert found["q"] <= 1.0
        assert found["rung_hi"] >= 1.0
        if near == 1e-14:  # rounding alone exceeds the residual: nothing is claimed
            assert found["linear_bound"] > found["first"] / 2
        if near in (1e-3, 1e-7) and name != "multihead":
            assert found["linear_bound"] < found["first"] / 2


@pytest.mark.parametrize("name", ["relu", "gelu", "multihead"])
def test_a_wrong_kernel_breaks_the_claims(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: without the value block |delta_t| exceeds its bound at once."""
    before = followed(name, 0, 10, near=1e-3).result(0)
    kind = MultiHeadRegression if name == "multihead" else ShallowEncoder
    value: Any = kind.kernel_times

    def wrong(
        self: Any, problem: Any, params: Any, v: torch.Tensor, blocks: Any, at: Any = None
    ) -> torch.Tensor:
        product: torch.Tensor = value(
            self, problem, params, v, tuple(b for b in blocks if b != "W_V"), at
        )
        return product

    monkeypatch.setattr(kind, "kernel_times", wrong)
    after = followed(name, 0, 10, near=1e-3).result(0)
    assert before["curved_worst"] <= 1.0 < after["curved_worst"]


def test_runs_are_followed_apart() -> None:
    """Two replicas together give what each gives alone."""
    both = followed("relu", 3, 20, runs=2)
    model, problem, params, trained = drawn("relu", 3, 2)
    for r in range(2):
        one = model.tangent_kernel(problem[r], params[r], trained).numpy()[0]
        assert np.allclose(both.follows[r].K_0, one, rtol=1e-12)
    assert both.result(0)["first"] != both.result(1)["first"]


def test_a_run_that_has_ended_stays_as_it_is() -> None:
    model, problem, params, trained = drawn("relu", 0, 2)
    plan = Plan(np.full(2, 1e-3), np.full(2, 9), [{}] * 2, np.ones(2), np.zeros(2), trained=trained)
    watch = LazyWatch(model, problem, params, plan)
    at, _ = model.gradient(problem, params)
    for moving in ([0, 1], [1], [1]):
        watch.observe(moving, params, at)
    assert watch.result(0)["linear_worst"] == 0.0
    assert np.array_equal(watch.follows[0].linear, watch.follows[0].residual)


@pytest.mark.parametrize("name", ["relu", "silu", "multihead"])
def test_kernel_and_product_agree(name: str) -> None:
    model, problem, params, trained = drawn(name, 1)
    K = model.tangent_kernel(problem, params, trained)
    v = torch.from_numpy(np.random.default_rng(0).standard_normal((1, K.shape[1])))
    assert torch.allclose(model.kernel_times(problem, params, v, trained), v @ K[0], rtol=1e-10)


@pytest.mark.parametrize("name", ["relu", "gelu", "multihead"])
def test_rungs_rise(name: str) -> None:
    for seed in range(10):
        model, problem, params, trained = drawn(name, seed)
        found = rungs(model.point(problem, params, trained))
        assert all(a.lo <= b.hi * (1 + 1e-9) for a, b in zip(found, found[1:], strict=False))
        K = model.tangent_kernel(problem, params, trained)[0].numpy()
        least = np.linalg.eigvalsh(K)[0]
        room = 1e-12 * np.linalg.norm(K, 2)
        assert found[-1].lo - room <= least <= found[-1].hi + room


def test_the_least_ratio_keeps_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wide enclosure at one record must not hide a broken rung at another."""
    model, problem, params, trained = drawn("relu", 0)
    plan = Plan(np.full(1, 1e-3), np.full(1, 9), [{}], np.ones(1), np.zeros(1), trained=trained)
    watch = LazyWatch(model, problem, params, plan)
    watch.observe([0], params, model.forward(problem, params))
    made = iter([
        [Enclosure(0.0, 4.0), Enclosure(1.0, 1.0)],
        [Enclosure(2.0, 2.0), Enclosure(1.0, 1.0)],
    ])
    monkeypatch.setitem(RUNGS, "encoder", lambda _: next(made))
    watch.record(0, params)
    watch.record(0, params)
    assert watch.result(0)["rung_lo"] <= 0.25
    assert watch.result(0)["rung_hi"] == 0.5


def test_the_bound_follows_a_linear_model_exactly() -> None:
    """K_t = K_0 and delta = 0: nothing is lost but rounding."""
    K, r = np.diag([2.0, 1.0]), np.array([1.0, 1.0])
    state = LinearisedRun(K, 0.75, r, K @ r, r.copy(), float(np.linalg.norm(r)), 1e-14)
    for _ in range(50):
        after = state.residual - 0.25 * state.product
        state.advance(0.25, after, K @ after, 0.0)
    assert state.bound < 1e-15
    assert state.worst <= 1.0
    assert state.curved <= 1.0


def test_the_first_rung_of_the_heads() -> None:
    """(o sigma_min(B))^2 with three heads, within rounding."""
    problem, params = draw((2, 1, 6, 3, 3, 1), 1, 0.5, 1)
    first, value, full = rungs(multihead("softmax").point(problem, params, ("W_Q", "W_V")))
    at = multihead("softmax").forward(problem, params)
    B = multihead("softmax").features(problem, at)[0].numpy()
    o = np.linalg.norm(params.W_O[0].numpy(), axis=(1, 2)).min()
    wanted = float((o * np.linalg.svd(B, compute_uv=False)[-1]) ** 2)
    for end in first:
        assert end == pytest.approx(wanted, rel=1e-10)
    assert first.lo <= wanted * (1 + 1e-15)
    assert first.hi >= wanted * (1 - 1e-15)
    for box, blocks in ((value, ("W_V",)), (full, ("W_Q", "W_V"))):
        K = multihead("softmax").tangent_kernel(problem, params, blocks)[0].numpy()
        assert box.mid == pytest.approx(np.linalg.eigvalsh(K)[0], rel=1e-9)
