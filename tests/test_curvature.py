"""|delta| of a step never exceeds its bound, whatever the step; a wrong kernel does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import KERNELS, draw
from samples import model as multihead
from samples import shapes as head_shapes
from samples_encoder import case, shapes

from gdconv.curvature import EncoderCurvature, HeadCurvature, curvature_at, curvature_of
from gdconv.models.multihead import BLOCKS as HEAD_BLOCKS
from gdconv.models.shallow_encoder import BLOCKS

SIZES = st.sampled_from([1e-6, 1e-3, 0.1, 1.0, 10.0])


def random_step(params: Any, blocks: tuple[str, ...], size: float, seed: int) -> Any:
    """Weights at distance `size` in a random direction; some directions move one block only."""
    rng = np.random.default_rng(seed)
    keep = blocks if seed % 3 else (blocks[seed // 3 % len(blocks)],)
    steps = {
        b: torch.from_numpy(rng.standard_normal(tuple(getattr(params, b).shape))) for b in keep
    }
    length = float(sum(s.square().sum() for s in steps.values())) ** 0.5
    return replace(params, **{b: getattr(params, b) + size / length * s for b, s in steps.items()})


def left_over(model: Any, problem: Any, before: Any, after: Any, blocks: tuple[str, ...]) -> tuple:
    """(delta, its rounding, both passes): r(after) - r(before) - J (after - before)."""
    passes = model.forward(problem, before), model.forward(problem, after)
    r, moved = (at.residual.flatten(1)[0] for at in passes)
    J = model.jacobian(problem, before, blocks)[0]
    step = torch.cat([(getattr(after, b) - getattr(before, b)).flatten() for b in blocks])
    delta = moved - r - J @ step
    noise = 1e-14 * float(r.norm() + moved.norm() + problem.y.norm() + J.norm() * step.norm())
    return float(delta.norm()), noise, passes


@pytest.mark.parametrize("name", ["relu", "gelu", "silu"])
@given(shape=shapes, seed=st.integers(0, 10**6), size=SIZES)
@settings(max_examples=40)
def test_the_encoder_stays_below_its_bound(
    name: str, shape: tuple[int, ...], seed: int, size: float
) -> None:
    model, problem, params = case(shape, name, seed)
    after = random_step(params, BLOCKS, size, seed)
    delta, noise, passes = left_over(model, problem, params, after, BLOCKS)
    bound = curvature_at(model, problem, params, BLOCKS).bound(params, after, *passes)
    assert delta <= bound * (1 + 1e-9) + 10 * noise


@pytest.mark.parametrize("kernel", KERNELS)
@given(shape=head_shapes, seed=st.integers(0, 10**6), size=SIZES)
@settings(max_examples=25)
def test_the_multi_head_model_stays_below_its_bound(
    kernel: str, shape: tuple[int, ...], seed: int, size: float
) -> None:
    problem, params = draw(shape, seed)
    model = multihead(kernel)
    after = random_step(params, HEAD_BLOCKS, size, seed)
    passes = model.forward(problem, params), model.forward(problem, after)
    shift = {b: getattr(after, b) - getattr(params, b) for b in HEAD_BLOCKS}
    r = passes[0].residual.flatten()
    along = torch.autograd.functional.jvp(
        lambda *W: (
            model.forward(
                problem, replace(params, **dict(zip(HEAD_BLOCKS, W, strict=True)))
            ).residual
        ),
        tuple(getattr(params, b) for b in HEAD_BLOCKS),
        tuple(shift.values()),
    )[1].flatten()
    delta = float((passes[1].residual.flatten() - r - along).norm())
    noise = 1e-13 * float(r.norm() + along.norm() + problem.y.norm() + passes[1].residual.norm())
    bound = curvature_at(model, problem, params, HEAD_BLOCKS).bound(params, after, *passes)
    assert delta <= bound * (1 + 1e-9) + 10 * noise


@pytest.mark.parametrize("name", ["relu", "gelu", "silu"])
def test_a_wrong_kernel_exceeds_the_bound(name: str) -> None:
    """Negative control: the kernel without its value block in the place of K."""
    from gdconv.ntk_encoder import encoder_kernel

    for seed in range(5):
        model, problem, params = case((3, 2, 4, 8), name, seed)
        at, grad = model.gradient(problem, params)
        eta = 1e-3 / float(encoder_kernel(model, problem, params).norm())
        after = replace(params, **{b: getattr(params, b) - eta * getattr(grad, b) for b in BLOCKS})
        moved = model.forward(problem, after)
        bound = curvature_at(model, problem, params, BLOCKS).bound(params, after, at, moved)
        ratios = []
        for blocks in (BLOCKS, ("W_Q", "W_K", "w_O")):
            K = encoder_kernel(model, problem, params, blocks)[0]
            delta = (moved.residual - at.residual)[0] + eta * K @ at.residual[0]
            ratios.append(float(delta.norm()) / bound)
        assert ratios[0] <= 1.0 < ratios[1]


def test_the_kink_is_attained() -> None:
    """One neuron that crosses zero: the bound of the kink is an equality."""
    from gdconv.models.shallow_encoder import EncoderParameters, ShallowEncoder
    from gdconv.problem import Problem

    model, zero = ShallowEncoder(1.0, 1.0), np.zeros((1, 1))
    problem = Problem.per_sample(np.ones((1, 1, 1)), [0.0])
    here, there = (
        EncoderParameters.from_arrays({
            "W_Q": zero, "W_K": zero, "W_V": np.array([[v]]), "w_O": np.array([2.0])
        })
        for v in (-1.0, 3.0)
    )  # fmt: skip
    passes = model.forward(problem, here), model.forward(problem, there)
    bound = curvature_at(model, problem, here, BLOCKS).bound(here, there, *passes)
    assert bound == pytest.approx(6.0)
    assert float(passes[1].residual - passes[0].residual) == pytest.approx(6.0)


def test_the_bound_is_of_second_order() -> None:
    """Away from a kink it falls by 100 when the step falls by 10."""
    for name in ("relu", "gelu"):
        model, problem, params = case((2, 2, 4, 6), name, 1)
        curved = curvature_at(model, problem, params, BLOCKS)
        made = []
        for size in (1e-5, 1e-6):
            after = random_step(params, BLOCKS, size, 1)
            passes = model.forward(problem, params), model.forward(problem, after)
            made.append(curved.bound(params, after, *passes))
        assert made[0] / made[1] == pytest.approx(100, rel=1e-3)


def test_each_model_has_its_own() -> None:
    model, problem, params = case((2, 2, 4, 3), "relu", 0)
    assert isinstance(curvature_at(model, problem, params, BLOCKS), EncoderCurvature)
    data, weights = draw((2, 2, 4, 3, 2, 1), 0)
    made = curvature_at(multihead("softmax"), data, weights, HEAD_BLOCKS)
    assert isinstance(made, HeadCurvature)
    with pytest.raises(NotImplementedError):
        curvature_of(object(), None)


def test_absurd_scales_give_infinity_and_no_warning() -> None:
    model, problem, params = case((2, 2, 4, 3), "gelu", 0)
    huge = replace(params, W_V=1e200 * params.W_V, W_Q=1e200 * params.W_Q)
    passes = model.forward(problem, params), model.forward(problem, params)
    bound = curvature_at(model, problem, params, BLOCKS).bound(params, huge, *passes)
    assert not np.isfinite(bound)
