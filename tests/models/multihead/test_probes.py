"""Probes: thinning, the independent gradient, the noise of the loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from samples import KERNELS, draw, model, motion

from gdconv.data.problem import Problem
from gdconv.descent.records import record_steps
from gdconv.models.multihead.parameters import BLOCKS, Parameters
from gdconv.models.multihead.probes import in_torch, probe
from gdconv.models.probes import Probe, attention_entropy, distances, gap

UNIT = 2.0**-53

BOTH = pytest.mark.parametrize("probe", [probe, in_torch], ids=["compiled", "torch"])
"""Float64 on the CPU is compiled, everything else is torch."""


@given(st.integers(1, 3_000_000))
def test_recorded_steps_are_few_and_complete(limit: int) -> None:
    steps = record_steps(limit)
    assert steps[0] == 0
    assert steps[-1] == limit
    assert len(steps) < 300
    assert all(a < b <= max(a + 1, a * 1.06 + 1) for a, b in zip(steps, steps[1:], strict=False))


@BOTH
@pytest.mark.parametrize("kernel", KERNELS)
@given(seed=st.integers(0, 10**6))
def test_a_gradient_step_has_a_defect_within_rounding(
    kernel: str, probe: Callable[..., Probe], seed: int
) -> None:
    problem, params = draw((2, 3, 4, 3, 2, 2), seed, runs=2)
    descent = motion(problem, params, np.array([1e-2, 1e-3]), BLOCKS)
    probed = probe(model(kernel), problem, params, BLOCKS)
    _, grad = model(kernel).gradient(problem, params)
    (wanted, _), (moved, _) = descent.step(params, probed.gradient), descent.step(params, grad)
    allowed = descent.allowed(probed, UNIT)
    wrong = replace(moved, W_Q=moved.W_Q + 1e-9)  # negative control
    assert (gap(moved, wanted) <= allowed).all()
    assert (gap(wrong, wanted) > allowed).all()


def norm(values: list[float]) -> float:
    """Euclidean norm of a list."""
    return math.sqrt(math.fsum(v * v for v in values))


def elementary(kernel: str, problem: Problem, params: Parameters) -> dict[str, float]:
    """Terms of the error bars, token by token, from the module's formulas."""
    X, W = problem.X[0].numpy(), {b: v[0] for b, v in params.numpy().items()}
    (N, n, _), (H, _, d) = X.shape, W["W_Q"].shape
    D_y, root = W["W_O"].shape[2], math.sqrt(d)
    scores, values = np.zeros((N, n, D_y)), np.zeros((N, n, D_y))
    by_query, by_key = [], []
    for h in range(H):
        for i in range(N):
            q, k = X[i] @ W["W_Q"][h], X[i] @ W["W_K"][h]
            u = X[i] @ W["W_V"][h] @ W["W_O"][h]
            q_size, k_size = abs(X[i]) @ abs(W["W_Q"][h]), abs(X[i]) @ abs(W["W_K"][h])
            u_size = abs(X[i]) @ (abs(W["W_V"][h]) @ abs(W["W_O"][h]))
            q_long, k_long = (max(np.linalg.norm(v, axis=1)) for v in (q, k))
            for t in range(n):
                if kernel == "softmax":
                    S = np.exp([q[t] @ k[j] / root for j in range(n)])
                    S /= S.sum()
                    rounded = [q_size[t] @ k_size[j] / root for j in range(n)]
                    moved = [abs(u[j] - S @ u) for j in range(n)]
                else:
                    S = np.exp([-((q[t] - k[j]) ** 2).sum() / (2 * root) for j in range(n)])
                    rounded = [
                        sum(abs(q[t] - k[j]) * (q_size[t] + k_size[j])) / root for j in range(n)
                    ]
                    moved = [abs(u[j]) for j in range(n)]
                scores[i, t] += sum(S[j] * rounded[j] * moved[j] for j in range(n))
                values[i, t] += S @ u_size
                sizes = [S[j] * np.linalg.norm(u[j]) for j in range(n)]
                keys, xs = np.linalg.norm(k, axis=1), np.linalg.norm(X[i], axis=1)
                by_query.append(xs[t] * sum(sizes[j] * (keys[j] + q_long) for j in range(n)))
                by_key.append((np.linalg.norm(q[t]) + k_long) * (sizes @ xs))
    return {
        "scores": norm(list(scores.flatten())),
        "values": norm(list(values.flatten())),
        "terms": norm([*by_query, *by_key]) / root,
    }


@BOTH
@pytest.mark.parametrize("trained", [BLOCKS, ("W_Q",)])
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_error_bars_are_the_documented_ones(
    kernel: str, trained: tuple[str, ...], probe: Callable[..., Probe]
) -> None:
    problem, params = draw((2, 3, 4, 3, 2, 2), 11, 0.7)
    probed = probe(model(kernel), problem, params, trained)
    at, parts = model(kernel).forward(problem, params), elementary(kernel, problem, params)
    J = {b: norm(model(kernel).jacobian(problem, params, (b,)).flatten().tolist()) for b in BLOCKS}
    size = {b: norm(getattr(params, b).flatten().tolist()) for b in BLOCKS}
    output, labels = norm(at.F.flatten().tolist()), norm(problem.y.flatten().tolist())
    total = output + labels + sum(J[b] * size[b] for b in BLOCKS)
    J_all, residual = norm([J[b] for b in trained]), math.sqrt(2 * float(at.loss[0]))
    noise = 8 * UNIT * (total + parts["scores"] + parts["values"])
    J_error = UNIT * (64 * J_all + 16 * parts["terms"])
    weights = norm([size[b] for b in trained])
    for found, wanted in [
        (probed.noise_scale, noise), (probed.jacobian_error, J_error),
        (probed.jacobian_norm, J_all), (probed.weight_norm, weights),
        (probed.residual_norm, residual),
    ]:  # fmt: skip
        assert found[0] == pytest.approx(wanted, rel=1e-12)
    slope = J_all * noise + J_error * residual
    for eta in (0.25, 1e-9, 1e9):
        allowed = 16 * (8 * UNIT * weights + eta * slope)
        found = motion(problem, params, np.array([eta]), trained).allowed(probed, UNIT)
        assert found[0] == pytest.approx(allowed, rel=1e-12)


def test_entropy_is_that_of_the_normalised_rows() -> None:
    S = torch.tensor([[[[[0.5, 0.5], [1.0, 0.0]]]], [[[[0.2, 0.6], [0.0, 0.0]]]]])
    rows = (0.25 * math.log(4) + 0.75 * math.log(4 / 3)) / math.log(2)
    assert attention_entropy(S.double()).tolist() == pytest.approx([0.5, rows / 2])
    assert attention_entropy(torch.ones(1, 1, 1, 1, 1)).tolist() == [0.0]


@BOTH
@pytest.mark.parametrize("kernel", KERNELS)
def test_noise_covers_the_rounding_of_the_loss(kernel: str, probe: Callable[..., Probe]) -> None:
    """The loss in float64 against ball arithmetic: |r - r_true| within the noise scale."""
    from gdconv.models.multihead.balls import ball_loss

    for seed in range(5):
        problem, params = draw((2, 2, 4, 3, 2, 1), seed)
        W = {b: v[0] for b, v in params.numpy().items()}
        exact = ball_loss(problem.X[0].numpy(), problem.y[0].numpy(), **W, kernel=kernel)
        at = model(kernel).forward(problem, params)
        scale = probe(model(kernel), problem, params, BLOCKS).noise_scale[0]
        assert abs(np.sqrt(2 * float(at.loss[0])) - np.sqrt(2 * exact.mid)) <= scale
        assert scale < 1e-11  # and it is not so large that it hides everything


@BOTH
@pytest.mark.parametrize("kernel", KERNELS)
def test_noise_counts_tokens_that_cancel(kernel: str, probe: Callable[..., Probe]) -> None:
    """Two large opposite tokens under uniform attention: S X is small, its rounding is not."""
    from gdconv.models.multihead.balls import ball_loss

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
    scale = probe(model(kernel), problem, params, BLOCKS).noise_scale[0]
    assert error <= scale
    assert scale < 1e-10


@BOTH
def test_frozen_blocks_do_not_move(probe: Callable[..., Probe]) -> None:
    problem, params = draw((2, 2, 4, 3, 2, 1), 0)
    found = probe(model("softmax"), problem, params, ("W_Q",)).gradient
    down, _ = motion(problem, params, np.array([0.1]), ("W_Q",)).step(params, found)
    moved = distances(down, params)
    assert moved["distance_Q"][0] > 0
    assert moved["distance_K"][0] == moved["distance_V"][0] == 0
