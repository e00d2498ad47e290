"""Probes: thinning, the independent gradient, the noise of the loss."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import KERNELS, draw, model

from gdconv.models.multihead import BLOCKS, Parameters
from gdconv.probes import distances, gap, probe, record_steps
from gdconv.problem import Problem

UNIT = 2.0**-53


@given(st.integers(1, 3_000_000))
def test_recorded_steps_are_few_and_complete(limit: int) -> None:
    steps = record_steps(limit)
    assert steps[0] == 0
    assert steps[-1] == limit
    assert len(steps) < 300
    assert all(a < b <= max(a + 1, a * 1.06 + 1) for a, b in zip(steps, steps[1:], strict=False))


@pytest.mark.parametrize("kernel", KERNELS)
@given(seed=st.integers(0, 10**6))
def test_a_gradient_step_has_a_defect_within_rounding(kernel: str, seed: int) -> None:
    problem, params = draw((2, 3, 4, 3, 2, 2), seed, runs=2)
    eta = np.array([1e-2, 1e-3])
    probed = probe(model(kernel), problem, params, eta)
    _, grad = model(kernel).gradient(problem, params)
    for r in range(2):
        moved = replace(
            params, **{b: getattr(params, b) - eta[r] * getattr(grad, b) for b in BLOCKS}
        )
        allowed = probed.allowed_defect(r, eta[r], UNIT)
        assert gap(moved, probed.descended)[r] <= allowed
        wrong = replace(moved, W_Q=moved.W_Q + 1e-9)  # negative control
        assert gap(wrong, probed.descended)[r] > allowed


@pytest.mark.parametrize("kernel", KERNELS)
def test_noise_covers_the_rounding_of_the_loss(kernel: str) -> None:
    """The loss in float64 against ball arithmetic: |r - r_true| within the noise scale."""
    from gdconv.certify import ball_loss

    for seed in range(5):
        problem, params = draw((2, 2, 4, 3, 2, 1), seed)
        W = {b: v[0] for b, v in params.numpy().items()}
        exact = ball_loss(problem.X[0].numpy(), problem.y[0].numpy(), **W, kernel=kernel)
        at = model(kernel).forward(problem, params)
        scale = probe(model(kernel), problem, params, np.array([0.1])).noise_scale[0]
        assert abs(np.sqrt(2 * float(at.loss[0])) - np.sqrt(2 * exact.mid)) <= scale
        assert scale < 1e-11  # and it is not so large that it hides everything


@pytest.mark.parametrize("kernel", KERNELS)
def test_noise_counts_tokens_that_cancel(kernel: str) -> None:
    """Two large opposite tokens under uniform attention: S X is small, its rounding is not."""
    from gdconv.certify import ball_loss

    rng = np.random.default_rng(0)
    x = 1e3 * rng.standard_normal((2, 1, 5))
    X = np.concatenate([x, 1e-3 * rng.standard_normal((2, 1, 5)) - x], 1)
    W = {b: rng.standard_normal((2, 5, 3)) for b in BLOCKS}
    W |= {"W_Q": np.zeros((2, 5, 3)), "W_O": rng.standard_normal((2, 3, 1))}
    if kernel == "gaussian":
        W["W_K"] = np.zeros((2, 5, 3))
    params = Parameters.from_arrays(W)
    F = model(kernel).forward(Problem.from_arrays(X, np.zeros((2, 2))), params).F[0].numpy()
    y = F + 1e-6
    problem = Problem.from_arrays(X, y)
    exact = ball_loss(X, y, **W, kernel=kernel)
    at = model(kernel).forward(problem, params)
    error = abs(np.sqrt(2 * float(at.loss[0])) - np.sqrt(2 * exact.mid))
    scale = probe(model(kernel), problem, params, np.array([0.1])).noise_scale[0]
    assert error <= scale
    assert scale < 1e-10


def test_frozen_blocks_do_not_move() -> None:
    problem, params = draw((2, 2, 4, 3, 2, 1), 0)
    down = probe(model("softmax"), problem, params, np.array([0.1]), trained=("W_Q",)).descended
    moved = distances(down, params)
    assert moved["distance_Q"][0] > 0
    assert moved["distance_K"][0] == moved["distance_V"][0] == 0
