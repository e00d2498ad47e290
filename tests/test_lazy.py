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

import gdconv.lazy
from gdconv.lazy import Follow, LazyWatch, kernel_at, kernel_times, rungs
from gdconv.models.shallow_encoder import BLOCKS
from gdconv.plan import Plan
from gdconv.probes import stepped
from gdconv.spectrum import Enclosure


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
    watch = LazyWatch(model, problem, params, plan)
    for t in range(steps + 1):
        at, grad = model.gradient(problem, params)
        watch.observe(list(range(runs)), params, at)
        if t % 10 == 0:
            rows = [watch.record(r, params) for r in range(runs)]
            assert all(np.isfinite(list(row.values())).all() for row in rows)
        params = stepped(params, grad, torch.as_tensor(eta), trained)
    return watch


def model_kernel(model: Any, problem: Any, params: Any, trained: tuple[str, ...]) -> np.ndarray:
    """K of every replica."""
    return kernel_at(model, problem, params, trained).numpy()


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
    value = gdconv.lazy.kernel_times

    def wrong(
        model: Any, problem: Any, params: Any, v: torch.Tensor, blocks: Any, at: Any = None
    ) -> torch.Tensor:
        return value(model, problem, params, v, tuple(b for b in blocks if b != "W_V"), at)

    monkeypatch.setattr(gdconv.lazy, "kernel_times", wrong)
    after = followed(name, 0, 10, near=1e-3).result(0)
    assert before["curved_worst"] <= 1.0 < after["curved_worst"]


def test_runs_are_followed_apart() -> None:
    """Two replicas together give what each gives alone."""
    both = followed("relu", 3, 20, runs=2)
    model, problem, params, trained = drawn("relu", 3, 2)
    for r in range(2):
        one = kernel_at(model, problem[r], params[r], trained).numpy()[0]
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
    K = kernel_at(model, problem, params, trained)
    v = torch.from_numpy(np.random.default_rng(0).standard_normal((1, K.shape[1])))
    assert torch.allclose(kernel_times(model, problem, params, v, trained), v @ K[0], rtol=1e-10)


@pytest.mark.parametrize("name", ["relu", "gelu", "multihead"])
def test_rungs_rise(name: str) -> None:
    for seed in range(10):
        model, problem, params, trained = drawn(name, seed)
        found = rungs(model, problem, params, trained)
        assert all(a.lo <= b.hi * (1 + 1e-9) for a, b in zip(found, found[1:], strict=False))
        K = kernel_at(model, problem, params, trained)[0].numpy()
        least = np.linalg.eigvalsh(K)[0]
        room = 1e-12 * np.linalg.norm(K, 2)
        assert found[-1].lo - room <= least <= found[-1].hi + room


def test_the_least_ratio_keeps_both_ends() -> None:
    """A wide enclosure at one record must not hide a broken rung at another."""
    model, problem, params, trained = drawn("relu", 0)
    plan = Plan(np.full(1, 1e-3), np.full(1, 9), [{}], np.ones(1), np.zeros(1), trained=trained)
    watch = LazyWatch(model, problem, params, plan)
    watch.observe([0], params, model.forward(problem, params))
    made = iter([
        [Enclosure(0.0, 4.0), Enclosure(1.0, 1.0)],
        [Enclosure(2.0, 2.0), Enclosure(1.0, 1.0)],
    ])
    original, gdconv.lazy.rungs = gdconv.lazy.rungs, lambda *_: next(made)
    try:
        watch.record(0, params)
        watch.record(0, params)
    finally:
        gdconv.lazy.rungs = original
    assert watch.result(0)["rung_lo"] <= 0.25
    assert watch.result(0)["rung_hi"] == 0.5


def test_the_bound_follows_a_linear_model_exactly() -> None:
    """K_t = K_0 and delta = 0: nothing is lost but rounding."""
    K, r = np.diag([2.0, 1.0]), np.array([1.0, 1.0])
    state = Follow(K, 0.75, r, K @ r, r.copy(), float(np.linalg.norm(r)), 1e-14)
    for _ in range(50):
        after = state.residual - 0.25 * state.product
        state.advance(0.25, after, K @ after, 0.0)
    assert state.bound < 1e-15
    assert state.worst <= 1.0
    assert state.curved <= 1.0


def test_no_kernel_is_known_of_other_models() -> None:
    problem = drawn("relu", 0)[1]
    for call in (
        lambda: kernel_at(object(), problem, None, ()),
        lambda: kernel_times(object(), problem, None, torch.zeros(1, 1), ()),
    ):
        with pytest.raises(NotImplementedError, match="object"):
            call()
