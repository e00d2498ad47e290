"""|delta| of a step: the bound is the documented one, is attained, and is never exceeded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from extremal import APART, Sizes, bent, one_token, told_apart
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mpf, workdps
from reference_constants import MultiHead, spectral
from samples import KERNELS, draw
from samples import model as multihead
from samples import shapes as head_shapes
from samples_encoder import case, shapes

from gdconv.data.problem import Problem
from gdconv.gallery.ntk_regime.curvature import (
    EncoderCurvature,
    HeadCurvature,
    curvature_at,
)
from gdconv.models.encoder.constants import DataConstants, EncoderConstants
from gdconv.models.encoder.model import ShallowEncoder
from gdconv.models.encoder.parameters import BLOCKS, EncoderParameters
from gdconv.models.multihead.parameters import BLOCKS as HEAD_BLOCKS

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


def distance_squared(before: Any, after: Any, blocks: tuple[str, ...]) -> Any:
    """Sum of the squares of all entries that moved."""
    pairs = ((getattr(before, b).flatten(), getattr(after, b).flatten()) for b in blocks)
    return sum(
        (mpf(float(v)) - mpf(float(u))) ** 2 for x, y in pairs for u, v in zip(x, y, strict=True)
    )


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_multi_head_bound_is_half_of_M_2_times_the_squared_step(kernel: str) -> None:
    """With the larger norm of the two ends, per head and block; the run began elsewhere."""
    for seed in range(3):
        problem, params = draw((2, 3, 4, 2, 3, 2), seed)
        before, after = (random_step(params, HEAD_BLOCKS, size, seed) for size in (0.5, 2.0))
        after = replace(after, W_V=0.3 * before.W_V)  # one block shrinks
        model = multihead(kernel)
        bound = curvature_at(model.point(problem, params, HEAD_BLOCKS)).bound(
            before, after, None, None
        )
        with workdps(30):
            ends = {
                b: [[spectral(W) for W in getattr(p, b)[0].numpy()] for p in (before, after)]
                for b in HEAD_BLOCKS
            }
            r = MultiHead(
                kernel, problem.X[0].numpy(), {b: v[0] for b, v in params.numpy().items()}
            )
            r.Q, r.K, r.V = (
                [max(u, v) for u, v in zip(*ends[b], strict=True)] for b in HEAD_BLOCKS
            )
            wanted = r.M_2() / 2 * distance_squared(before, after, HEAD_BLOCKS)
            assert abs(bound - wanted) <= mpf("1e-11") * wanted


@pytest.mark.parametrize("name", ["relu", "gelu", "silu"])
def test_the_encoder_bound_is_the_documented_one(name: str) -> None:
    """(M_2/2) |step|^2, or |kink| + |dw_O| Lambda s + (curved/2) s^2, at the larger norms."""
    for seed in range(3):
        model, problem, params = case((3, 2, 4, 5), name, seed)
        before, after = (random_step(params, BLOCKS, 1.0, 3 * (seed + k) + 1) for k in (0, 1))
        after = replace(after, W_V=-0.8 * before.W_V)  # a smaller norm; most neurons cross zero
        after = replace(after, w_O=0.5 * before.w_O) if seed else after
        passes = model.forward(problem, before), model.forward(problem, after)
        bound = curvature_at(model.point(problem, params, BLOCKS)).bound(before, after, *passes)
        start = model.point(problem, params, BLOCKS)
        largest = {
            b: max(np.linalg.norm(getattr(p, b)[0].numpy(), 2) for p in (before, after))
            for b in BLOCKS
        }
        radii = {b: largest[b] - np.linalg.norm(getattr(params, b)[0].numpy(), 2) for b in BLOCKS}
        at = EncoderConstants(start, DataConstants.sharp(start), radii)
        inner = float(distance_squared(before, after, BLOCKS[:3])) ** 0.5
        outer = float(distance_squared(before, after, BLOCKS[3:])) ** 0.5
        if name == "relu":
            wanted = loop_kink(model, before, *passes) + outer * at.Lambda_squared**0.5 * inner
            wanted += at.curved() / 2 * inner**2
        else:
            entry = max(float(x.abs().max()) for x in (before.w_O, after.w_O))
            wanted = at.M_2(entry) / 2 * (inner**2 + outer**2)
        assert bound == pytest.approx(wanted, rel=1e-11)


def loop_kink(model: Any, before: Any, here: Any, there: Any) -> float:
    """Norm over samples of tau_1 sum_k |w_k| sum_j of what relu gains past a change of sign."""
    total = 0.0
    for h, moved in zip(here.pre[0].tolist(), there.pre[0].tolist(), strict=True):
        sample = 0.0
        for row, new in zip(h, moved, strict=True):
            for w, x, y in zip(before.w_O[0].tolist(), row, new, strict=True):
                sample += abs(w) * (max(y, 0.0) if x <= 0 else max(-y, 0.0))
        total += (model.scale * sample) ** 2
    return total**0.5


@pytest.mark.parametrize("sizes", [Sizes(), Sizes(N=2, H=2, d=3, a=1.3, o=0.7)])
def test_the_multi_head_bound_is_attained(sizes: Sizes) -> None:
    """Small steps where M_2 is attained: half of it times the squared step, to a hundredth."""
    first, one = np.array([1.0, 0.0]), np.ones(1)
    for at, size, direction in [
        (bent(sizes, 1e3, 1e6), 1e-6, {"W_Q": first}),
        (told_apart(sizes, W_V=10 * APART), 1e-3, {"W_Q": first, "W_K": APART}),
        (told_apart(sizes, W_K=2 * APART), 1e-3, {"W_Q": first, "W_V": APART}),
        (one_token(sizes, W_V=1e3 * one), 1e-3, {"W_Q": one, "W_K": -one}),
    ]:
        length = np.sqrt(sum((u**2).sum() for u in direction.values()))
        shift = {}
        for b in HEAD_BLOCKS:
            shift[b] = torch.zeros_like(at.params.W_Q)
            if b in direction:
                shift[b][0, 0, :, 0] += torch.from_numpy(size / length * direction[b])
        after = replace(at.params, **{b: getattr(at.params, b) + shift[b] for b in HEAD_BLOCKS})
        r = [at.model.forward(at.problem, p).residual.flatten() for p in (at.params, after)]
        step = torch.cat([shift[b].flatten() for b in HEAD_BLOCKS]).numpy()
        delta = np.linalg.norm((r[1] - r[0]).numpy() - at.J @ step)
        bound = HeadCurvature(at).bound(at.params, after, None, None)
        assert 0.98 < delta / bound <= 1 + 1e-6


def one_neuron(
    name: str, weights: tuple[float, float], shift: tuple[float, float]
) -> tuple[float, float]:
    """|delta| and its bound for w act(v) with one token x = 1, from (w, v) by the shift."""
    model, zero = ShallowEncoder(1.0, 1.0, activation=name), np.zeros((1, 1))
    problem = Problem.per_sample(np.ones((1, 1, 1)), [0.0])
    made = [
        EncoderParameters.from_arrays({
            "W_Q": zero, "W_K": zero, "W_V": np.array([[v]]), "w_O": np.array([w])
        })
        for w, v in (weights, tuple(np.add(weights, shift)))
    ]  # fmt: skip
    delta, _, passes = left_over(model, problem, *made, BLOCKS)
    return delta, curvature_at(model.point(problem, made[0], BLOCKS)).bound(*made, *passes)


@pytest.mark.parametrize(
    ("name", "weights", "shift"),
    [
        ("relu", (2.0, 1.0), (0.5, 0.25)),  # no kink: delta = dw dv, which is |dw| Lambda s
        ("relu", (2.0, 0.0), (0.0, 3.0)),  # starts at the kink, where the derivative is 0
        ("relu", (2.0, 0.5), (0.0, -3.0)),  # ends beyond it
        ("gelu", (1e6, 0.0), (0.0, 1e-4)),  # act'' is greatest at 0: delta = w act''(0) dv^2 / 2
    ],
)
def test_the_encoder_bound_is_attained(
    name: str, weights: tuple[float, float], shift: tuple[float, float]
) -> None:
    delta, bound = one_neuron(name, weights, shift)
    assert delta == pytest.approx(bound, rel=1e-3)
    assert delta > 0


@pytest.mark.parametrize("name", ["relu", "gelu", "silu"])
@given(shape=shapes, seed=st.integers(0, 10**6), size=SIZES)
@settings(max_examples=20)
def test_the_encoder_stays_below_its_bound(
    name: str, shape: tuple[int, ...], seed: int, size: float
) -> None:
    model, problem, params = case(shape, name, seed)
    after = random_step(params, BLOCKS, size, seed)
    delta, noise, passes = left_over(model, problem, params, after, BLOCKS)
    bound = curvature_at(model.point(problem, params, BLOCKS)).bound(params, after, *passes)
    assert delta <= bound * (1 + 1e-9) + 10 * noise


@pytest.mark.parametrize("kernel", KERNELS)
@given(shape=head_shapes, seed=st.integers(0, 10**6), size=SIZES)
@settings(max_examples=15)
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
    bound = curvature_at(model.point(problem, params, HEAD_BLOCKS)).bound(params, after, *passes)
    assert delta <= bound * (1 + 1e-9) + 10 * noise


@pytest.mark.parametrize("name", ["relu", "gelu", "silu"])
def test_a_wrong_kernel_exceeds_the_bound(name: str) -> None:
    """Negative control: the kernel without its value block in the place of K."""
    from gdconv.models.encoder.tangent import encoder_kernel

    for seed in range(5):
        model, problem, params = case((3, 2, 4, 8), name, seed)
        at, grad = model.gradient(problem, params)
        eta = 1e-3 / float(encoder_kernel(model, problem, params).norm())
        after = replace(params, **{b: getattr(params, b) - eta * getattr(grad, b) for b in BLOCKS})
        moved = model.forward(problem, after)
        bound = curvature_at(model.point(problem, params, BLOCKS)).bound(params, after, at, moved)
        ratios = []
        for blocks in (BLOCKS, ("W_Q", "W_K", "w_O")):
            K = encoder_kernel(model, problem, params, blocks)[0]
            delta = (moved.residual - at.residual)[0] + eta * K @ at.residual[0]
            ratios.append(float(delta.norm()) / bound)
        assert ratios[0] <= 1.0 < ratios[1]


def test_the_kink_is_attained() -> None:
    """One neuron that crosses zero: the bound of the kink is an equality."""
    model, zero = ShallowEncoder(1.0, 1.0), np.zeros((1, 1))
    problem = Problem.per_sample(np.ones((1, 1, 1)), [0.0])
    here, there = (
        EncoderParameters.from_arrays({
            "W_Q": zero, "W_K": zero, "W_V": np.array([[v]]), "w_O": np.array([2.0])
        })
        for v in (-1.0, 3.0)
    )  # fmt: skip
    passes = model.forward(problem, here), model.forward(problem, there)
    bound = curvature_at(model.point(problem, here, BLOCKS)).bound(here, there, *passes)
    assert bound == pytest.approx(6.0)
    assert float(passes[1].residual - passes[0].residual) == pytest.approx(6.0)


def test_the_bound_is_of_second_order() -> None:
    """Away from a kink it falls by 100 when the step falls by 10."""
    for name in ("relu", "gelu"):
        model, problem, params = case((2, 2, 4, 6), name, 1)
        curved = curvature_at(model.point(problem, params, BLOCKS))
        made = []
        for size in (1e-5, 1e-6):
            after = random_step(params, BLOCKS, size, 1)
            passes = model.forward(problem, params), model.forward(problem, after)
            made.append(curved.bound(params, after, *passes))
        assert made[0] / made[1] == pytest.approx(100, rel=1e-3)


@pytest.mark.parametrize("name", ["relu", "gelu"])
@pytest.mark.parametrize("D", [3, 17])
def test_compiled_passes_give_the_same_bound(name: str, D: int) -> None:
    """Along two steps of two runs, so that the end of one is the start of the next."""
    model, problem, params = case((3, 2, D, 6), name, 4, 2)
    for r in range(2):
        here, data = params[r], problem[r]
        plain, fast = (curvature_at(model.point(data, here, BLOCKS)) for _ in range(2))
        for seed in (1, 2):
            after = random_step(here, BLOCKS, 0.5, seed)
            passes = model.forward(data, here), model.forward(data, after)
            steps = model.at_step(data, here)[0], model.at_step(data, after)[0]
            wanted = plain.bound(here, after, *passes)
            assert fast.bound(here, after, *steps) == pytest.approx(wanted, rel=1e-11)
            here = after


def test_each_model_has_its_own() -> None:
    model, problem, params = case((2, 2, 4, 3), "relu", 0)
    assert isinstance(curvature_at(model.point(problem, params, BLOCKS)), EncoderCurvature)
    data, weights = draw((2, 2, 4, 3, 2, 1), 0)
    made = curvature_at(multihead("softmax").point(data, weights, HEAD_BLOCKS))
    assert isinstance(made, HeadCurvature)


def test_absurd_scales_give_infinity_and_no_warning() -> None:
    model, problem, params = case((2, 2, 4, 3), "gelu", 0)
    huge = replace(params, W_V=1e200 * params.W_V, W_Q=1e200 * params.W_Q)
    passes = model.forward(problem, params), model.forward(problem, params)
    bound = curvature_at(model.point(problem, params, BLOCKS)).bound(params, huge, *passes)
    assert not np.isfinite(bound)
