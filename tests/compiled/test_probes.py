"""Compiled probes against torch and against autograd."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from samples import KERNELS, draw, model

from gdconv.compiled.probes import NUMBERS, probe
from gdconv.data.problem import Problem
from gdconv.models.multihead.parameters import BLOCKS, Parameters
from gdconv.models.multihead.probes import in_torch

Shape = tuple[int, int, int, int, int, int]

SHAPES: tuple[Shape, ...] = (
    (1, 1, 1, 1, 1, 1), (3, 1, 4, 2, 2, 3), (2, 3, 4, 3, 2, 2), (1, 5, 3, 6, 3, 1),
    (9, 2, 7, 5, 1, 2),
)  # fmt: skip
"""N, n, D, d, H, D_y: also a single token, more features than tokens, an inner size of 4 k + r."""

TRAINED = (BLOCKS, ("W_Q",), ("W_K", "W_V"))


def found(
    kernel: str, problem: Problem, params: Parameters, trained: tuple[str, ...]
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Numbers and gradient of the compiled probes."""
    W = {b: v[0] for b, v in params.numpy().items()}
    weights = W["W_Q"], W["W_K"], W["W_V"], W["W_O"]
    letters = "".join(b[-1] for b in trained)
    data = problem.X[0].numpy(), problem.y[0].numpy()
    numbers, slopes = probe(kernel, *data, weights, letters)
    return numbers, dict(zip(BLOCKS, slopes, strict=True))


@pytest.mark.parametrize("kernel", KERNELS)
@given(
    shape=st.sampled_from(SHAPES), trained=st.sampled_from(TRAINED), seed=st.integers(0, 10**6),
    scale=st.sampled_from([0.1, 1.0, 3.0]),
)  # fmt: skip
def test_all_that_torch_says(
    kernel: str, shape: Shape, trained: tuple[str, ...], seed: int, scale: float
) -> None:
    problem, params = draw(shape, seed, scale)
    numbers, slopes = found(kernel, problem, params, trained)
    other = in_torch(model(kernel), problem, params, trained)
    for name in NUMBERS:
        assert numbers[name] == pytest.approx(getattr(other, name)[0], rel=1e-9, abs=1e-300), name
    for b in BLOCKS:
        wanted = getattr(other.gradient, b)[0].numpy()
        assert np.abs(slopes[b] - wanted).max() <= 1e-11 * np.abs(wanted).max() + 1e-15


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_gradient_is_that_of_autograd(kernel: str, shape: Shape) -> None:
    problem, params = draw(shape, 3, 0.7)
    leaves = {b: getattr(params, b).clone().requires_grad_() for b in BLOCKS}
    loss = model(kernel).forward(problem, replace(params, **leaves)).loss[0]
    slopes = torch.autograd.grad(loss, list(leaves.values()))
    made = found(kernel, problem, params, BLOCKS)[1]
    for b, slope in zip(BLOCKS, slopes, strict=True):
        assert np.abs(made[b] - slope[0].numpy()).max() <= 1e-12 * float(slope.abs().max() + 1)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_norm_is_that_of_autograds_jacobian(kernel: str, shape: Shape) -> None:
    problem, params = draw(shape, 5, 0.7)
    for trained in TRAINED:

        def outputs(*moved: torch.Tensor, trained: tuple[str, ...] = trained) -> torch.Tensor:
            weights = replace(params, **dict(zip(trained, moved, strict=True)))
            return model(kernel).forward(problem, weights).F

        blocks = tuple(getattr(params, b) for b in trained)
        parts = torch.autograd.functional.jacobian(outputs, blocks)
        size = sum(float(part.square().sum()) for part in parts) ** 0.5
        numbers = found(kernel, problem, params, trained)[0]
        assert numbers["jacobian_norm"] == pytest.approx(size, rel=1e-10)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("scale", [0.0, 1e3, 1e90])
def test_what_vanishes_or_overflows_raises_nothing(kernel: str, scale: float) -> None:
    """Rows of Gaussian weights may all be 0; squares may be infinite."""
    problem, params = draw((2, 3, 4, 3, 2, 1), 1, scale)
    numbers, _ = found(kernel, problem, params, BLOCKS)
    other = in_torch(model(kernel), problem, params, BLOCKS)
    for name in NUMBERS:
        wanted = getattr(other, name)[0]
        assert np.isfinite(numbers[name]) == np.isfinite(wanted), name
        if np.isfinite(wanted):
            assert numbers[name] == pytest.approx(wanted, rel=1e-8, abs=1e-300)
