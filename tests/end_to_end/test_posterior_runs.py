"""TAIL on real runs: once it fires, every later step obeys its bound; planted faults break it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from samples import KERNELS, draw, model

from gdconv.data.problem import Problem
from gdconv.gallery.full_gd import FullGD
from gdconv.models.multihead.initialization import initialize
from gdconv.models.multihead.parameters import BLOCKS, Parameters
from gdconv.models.multihead.point import MultiHeadPoint
from gdconv.theory.certificates import Tail, tail


def certify(kernel: str, problem: Problem, params: Parameters, eta: float) -> Tail:
    """TAIL with the constants of the full model."""
    start = MultiHeadPoint(model(kernel), problem, params)
    return tail(start, eta, lambda rho: FullGD().constants(start, rho))


def descend(
    kernel: str, problem: Problem, params: Parameters, eta: float, steps: int
) -> tuple[Parameters, list[float]]:
    """Plain gradient descent, losses from the start on."""
    losses = []
    for _ in range(steps):
        at, grad = model(kernel).gradient(problem, params)
        losses.append(float(at.loss[0]))
        params = replace(params, **{b: getattr(params, b) - eta * getattr(grad, b) for b in BLOCKS})
    return params, losses


def warmed_up(kernel: str, seed: int) -> tuple[Problem, Parameters, float]:
    """An easy problem trained until TAIL fires."""
    problem, _ = draw((2, 2, 8, 4, 4, 1), seed)
    params = initialize("normal", (4, 8, 4, 1), seed, (1.0, 1.0, 1.0, 2.0))
    eta = 0.3 / MultiHeadPoint(model(kernel), problem, params).J_range[1].hi ** 2
    for _ in range(400):
        params, _ = descend(kernel, problem, params, eta, 25)
        if all(h.holds for h in certify(kernel, problem, params, eta).hypotheses):
            return problem, params, eta
    raise AssertionError("TAIL never fired")


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("seed", [0, 1])
def test_tail_bounds_all_later_steps(kernel: str, seed: int) -> None:
    problem, params, eta = warmed_up(kernel, seed)
    certificate = certify(kernel, problem, params, eta)
    end, losses = descend(kernel, problem, params, eta, 150)
    bound = losses[0] * (1 - eta * certificate.rate) ** np.arange(len(losses))
    measurable = bound > 1e-24
    assert certificate.rate > 0
    assert bound[measurable][-1] < 0.9 * bound[0]
    assert (np.array(losses) <= bound * (1 + 1e-6))[measurable].all()
    moved = sum(float((getattr(end, b) - getattr(params, b)).square().sum()) for b in BLOCKS) ** 0.5
    assert moved <= certificate.rho


@pytest.mark.parametrize("kernel", KERNELS)
def test_tail_does_not_fire_far_from_zero_loss(kernel: str) -> None:
    problem, params = draw((2, 2, 8, 4, 4, 1), 3)
    assert not all(h.holds for h in certify(kernel, problem, params, 1e-3).hypotheses)


def test_tail_refuses_a_large_step() -> None:
    """Negative control: T2 needs eta below 2 / L."""
    problem, params, _ = warmed_up("softmax", 0)
    start = MultiHeadPoint(model("softmax"), problem, params)
    eta = 2.5 / start.J_range[1].hi ** 2
    named = {h.name[:2]: h.holds for h in certify("softmax", problem, params, eta).hypotheses}
    assert named["T2"] is False
