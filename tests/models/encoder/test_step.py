"""When the encoder's step is compiled, and what is read from its pass."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from samples_encoder import case

import gdconv
import gdconv.models.encoder.step as step
from gdconv.data.problem import Problem
from gdconv.models.base import alone
from gdconv.models.encoder import tangent
from gdconv.models.encoder.formulas import EncoderPass
from gdconv.models.encoder.model import ShallowEncoder
from gdconv.models.encoder.parameters import BLOCKS, EncoderParameters
from gdconv.models.encoder.step import EncoderStep, take


def test_other_data_keep_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding, float32, a graph, large units: torch's own pass and gradient."""
    model, problem, params = case((2, 3, 4, 5), "gelu", 0)
    assert isinstance(take(model, problem, params, BLOCKS)[0], EncoderStep)
    X, y = problem.X[0].numpy(), problem.y[0, :, 0, 0].numpy()
    mask = np.array([[True, True, False], [True, True, True]])
    padded = Problem.per_sample(X, y, mask=mask)
    single = problem.to(dtype=torch.float32), params.to("cpu", torch.float32)
    graph = replace(params, W_V=params.W_V.clone().requires_grad_())
    for data, weights in ((padded, params), single, (problem, graph)):
        at, grad, _ = take(model, data, weights, BLOCKS)
        wanted, slopes = model.gradient(data, weights)
        assert type(at) is EncoderPass
        assert torch.equal(at.loss, wanted.loss)
        assert torch.equal(grad.W_Q, slopes.W_Q)
    with torch.no_grad():
        assert isinstance(take(model, problem, graph, BLOCKS)[0], EncoderStep)
    monkeypatch.setattr(step, "LARGEST", 2 * 3 * 5 - 1)
    assert type(take(model, problem, params, BLOCKS)[0]) is EncoderPass


def test_large_kernels_are_not_formed(monkeypatch: pytest.MonkeyPatch) -> None:
    model, problem, params = case((2, 3, 4, 5), "relu", 0)
    monkeypatch.setattr(step, "KERNEL", 6**2 * 5 - 1)
    at, *_ = take(model, problem, params, BLOCKS)
    assert isinstance(at, EncoderStep)
    assert at.kernels.shape == (1, 0, 2, 2)
    point = model.point_of(problem, params, BLOCKS, at, 0)
    assert np.allclose(point.K, tangent.encoder_kernel(model, problem, params)[0], rtol=1e-12)
    assert point.J_least == point.J_range[0]


def test_kernels_of_a_pass_are_read_from_it() -> None:
    model, problem, params = case((3, 2, 4, 5), "relu", 1)
    at, *_ = take(model, problem, params, ("W_V", "w_O"))
    found = tangent.block_kernels(model, problem, params, ("w_O", "W_K"), at)
    assert list(found) == ["w_O", "W_K"]
    assert torch.equal(found["W_K"], at.kernels[:, 1])
    assert torch.equal(found["w_O"], at.kernels[:, 3])
    K = model.point_of(problem, params, ("W_V", "w_O"), at, 0).K
    assert np.array_equal(K, (at.kernels[0, 2] + at.kernels[0, 3]).numpy())


@pytest.mark.parametrize("runs", [1, 3])
def test_a_point_of_a_replica(runs: int) -> None:
    """From the pass of all runs: its own kernel, features, ladder and sigma_m(J)."""
    model, problem, params = case((3, 2, 4, 8), "silu", 2, runs)
    at, *_ = take(model, problem, params, BLOCKS)
    for r in range(runs):
        made = model.point_of(problem[r], params[r], BLOCKS, at, r)
        plain = model.point(problem[r], params[r], BLOCKS)
        assert np.allclose(made.K, plain.K, rtol=1e-12)
        assert np.allclose(made.F_pre, plain.F_pre, rtol=1e-12)
        room = 1e-9 * plain.J_range[0].hi
        assert made.J_least.lo - room <= plain.J_least.lo <= plain.J_least.hi
        assert plain.J_least.hi <= made.J_least.hi + room
        assert made.J_least.width <= 1e-9 * made.J_range[1].hi
        assert made.ladder.full.mid == pytest.approx(plain.ladder.full.mid, rel=1e-9)
        assert made.ladder.features.mid == pytest.approx(plain.ladder.features.mid, rel=1e-9)


def test_another_training_asks_for_its_own_least_eigenvalue() -> None:
    model, problem, params = case((3, 2, 4, 8), "relu", 2)
    at, *_ = take(model, problem, params, BLOCKS)
    made = model.point_of(problem, params, ("w_O",), at, 0)
    plain = model.point(problem, params, ("w_O",))
    assert made.J_least.mid == pytest.approx(plain.J_least.mid, rel=1e-9)


def test_a_pass_of_one_run_is_itself() -> None:
    model, problem, params = case((3, 2, 4, 8), "relu", 2)
    at, *_ = take(model, problem, params, BLOCKS)
    assert alone(at, 0) is at
    model, problem, params = case((3, 2, 4, 8), "relu", 2, 2)
    both, *_ = take(model, problem, params, ("W_V",))
    one = alone(both, 1)
    assert torch.equal(one.product, both.product[1:])
    assert one.trained == ("W_V",)


def test_the_product_serves_its_own_residual_and_blocks_alone() -> None:
    model, problem, params = case((3, 2, 4, 8), "relu", 3)
    at, *_ = take(model, problem, params, BLOCKS)
    assert model.kernel_times(problem, params, at.residual, BLOCKS[::-1], at) is at.product
    for v, blocks in ((2 * at.residual, BLOCKS), (at.residual, ("W_V", "w_O"))):
        found = model.kernel_times(problem, params, v, blocks, at)
        K = tangent.encoder_kernel(model, problem, params, blocks)
        assert torch.allclose(found, v @ K[0], rtol=1e-10)


def test_one_pass_a_step_and_no_kernel_besides(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of T steps makes T + 1 passes; torch's own passes and kernels do not grow with T."""
    counts = {"at_step": 0, "forward": 0, "_value_part": 0}

    def counted(owner: Any, name: str) -> None:
        function = getattr(owner, name)

        def call(*args: Any, **options: Any) -> Any:
            counts[name] += 1
            return function(*args, **options)

        monkeypatch.setattr(owner, name, call)

    for name in ("at_step", "forward"):
        counted(ShallowEncoder, name)
    counted(tangent, "_value_part")
    seen = []
    for steps in (12, 24):
        counts |= dict.fromkeys(counts, 0)
        made = gdconv.check("ntk-regime", steps=steps, width=64)
        assert made.trace["step"].iloc[-1] == steps
        assert counts["at_step"] == steps + 1
        seen.append(counts["forward"] + counts["_value_part"])
    assert seen[1] <= seen[0] + 2
    assert seen[1] < 12


def test_sigma_of_a_run_is_that_of_its_own_iterates() -> None:
    """The last record against a point made afresh from the weights that the run ended with."""
    made = gdconv.check("ntk-regime", statement="run", width=32, steps=10)
    weights = {b: made.starts[f"{b}_last"] for b in BLOCKS}
    problem = Problem.per_sample(made.starts["X"], made.starts["y"][..., 0, 0])
    config = made.config
    model = ShallowEncoder(1 / config["width"], 1.0)
    point = model.point(problem, EncoderParameters.from_arrays(weights), BLOCKS)
    first, last = made.trace.iloc[0], made.trace.iloc[-1]
    assert abs(first["sigma_J_lo"] / point.J_least.lo - 1) > 1e-6
    assert last["sigma_J_lo"] == pytest.approx(point.J_least.lo, rel=1e-10)
    assert last["sigma_J_hi"] == pytest.approx(point.J_least.hi, rel=1e-10)
    assert last["lambda_min_lo"] == pytest.approx(point.ladder.full.lo, rel=1e-10)
