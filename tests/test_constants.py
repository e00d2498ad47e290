"""The Lipschitz constants hold on random balls, and are not slack enough to hide a factor."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import KERNELS, draw, model, shapes

from gdconv.constants import Constants, Radii
from gdconv.models.multihead import BLOCKS, Parameters
from gdconv.start import Start


def nearby(params: Parameters, rho: float, seed: int) -> tuple[Parameters, float]:
    """A point at joint distance rho in a random direction."""
    rng = np.random.default_rng(seed)
    steps = {b: torch.from_numpy(rng.standard_normal(tuple(params.W_Q.shape))) for b in BLOCKS}
    length = float(torch.cat([s.flatten() for s in steps.values()]).norm())
    return replace(
        params, **{b: getattr(params, b) + rho / length * s for b, s in steps.items()}
    ), rho


def jacobian(kernel: str, problem: object, params: Parameters) -> np.ndarray:
    """Dense Jacobian of replica 0."""
    return model(kernel).jacobian(problem, params)[0].numpy()  # type: ignore[arg-type]


@pytest.mark.parametrize("kernel", KERNELS)
@given(
    shape=shapes,
    seed=st.integers(0, 10**6),
    rho=st.sampled_from([1e-3, 0.1, 1.0]),
    scale=st.sampled_from([0.1, 1.0]),
)
@settings(max_examples=40)
def test_norm_and_lipschitz_constants_hold(
    kernel: str, shape: tuple[int, ...], seed: int, rho: float, scale: float
) -> None:
    problem, params = draw(shape, seed, scale)
    c = Constants(Start(model(kernel), problem, params), Radii.joint(rho))
    other, gap = nearby(params, rho, seed + 1)
    here, there = jacobian(kernel, problem, params), jacobian(kernel, problem, other)
    slack = 1 + 1e-9
    assert np.linalg.norm(there, 2) ** 2 <= c.G_squared() * slack
    assert np.linalg.norm(there - here, 2) <= c.M_2() * gap * slack + 1e-12
    third = here.shape[1] // 3
    assert np.linalg.norm((there - here)[:, 2 * third :], 2) <= c.delta() * gap * slack + 1e-12


@pytest.mark.parametrize("kernel", KERNELS)
def test_block_norms_hold_head_by_head(kernel: str) -> None:
    for seed in range(20):
        problem, params = draw((2, 3, 4, 2, 2, 1), seed)
        start = Start(model(kernel), problem, params)
        c = Constants(start, Radii.joint(0.0))
        at = model(kernel).forward(problem, params)
        for h in range(2):
            J = {
                b: v[0].flatten(1).numpy()
                for b, v in model(kernel).jacobian_head(problem, params, at, h).items()
            }
            assert np.linalg.norm(J["W_V"], 2) <= c.g_V()[h] * (1 + 1e-12)
            if kernel == "softmax":
                assert np.linalg.norm(J["W_Q"], 2) <= c.g_Q()[h] * (1 + 1e-12)
                assert np.linalg.norm(J["W_K"], 2) <= c.g_K()[h] * (1 + 1e-12)
            else:
                both = np.hstack([J["W_Q"], J["W_K"]])
                assert np.linalg.norm(both, 2) <= c.g_QK()[h] * (1 + 1e-12)


def test_value_norm_is_attained() -> None:
    """Negative control for g_V: one token, one head gives |J_V| = |x| O: nothing smaller holds."""
    problem, params = draw((1, 1, 3, 2, 1, 1), 1)
    start = Start(model("softmax"), problem, params)
    third = start.J.shape[1] // 3
    assert np.isclose(
        np.linalg.norm(start.J[:, 2 * third :], 2), Constants(start, Radii.joint(0.0)).g_V()[0]
    )


def test_gaussian_drift_is_nearly_attained() -> None:
    """Negative control for delta: two tokens where the Gaussian is steepest reach half of it."""
    best = 0.0
    for seed in range(300):
        problem, params = draw((1, 2, 2, 1, 1, 1), seed, scale=1.0)
        other, gap = nearby(params, 1e-4, seed)
        c = Constants(Start(model("gaussian"), problem, params), Radii.joint(gap))
        third = params.W_V[0].numel()
        moved = jacobian("gaussian", problem, other) - jacobian("gaussian", problem, params)
        best = max(best, np.linalg.norm(moved[:, 2 * third :], 2) / (c.delta() * gap))
    assert 0.2 < best <= 1.0
