"""Algorithms by name, with options: what cannot be used is named."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from gdconv.descent.algorithms import (
    L1,
    Algorithm,
    Ball,
    Box,
    GradientDescent,
    HeavyBall,
    Nesterov,
    Preconditioned,
    Projected,
    Proximal,
    State,
    algorithm_named,
)
from gdconv.support.errors import InputError

W = {"w": torch.ones(1, 2, dtype=torch.float64)}


ETA = torch.ones(1, dtype=torch.float64)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: HeavyBall(1.0), "beta = 1.0: give a number of at least 0 and below 1"),
        (lambda: HeavyBall(-0.1), "beta = -0.1"),
        (lambda: HeavyBall(math.nan), "beta = nan"),
        (lambda: Nesterov(1.5), "momentum = 1.5: give a number of at least 0 and below 1"),
        (lambda: Ball(0.0), "radius = 0.0: give a number above 0"),
        (lambda: Box(1.0, 0.0), "low = 1.0: give a number of at most high, 0.0"),
        (lambda: L1(-1.0), "weight = -1.0"),
        (
            lambda: Preconditioned({"w": torch.tensor([1.0, 0.0])}),
            "by[w] = 0.0: give a finite, positive",
        ),
        (lambda: Preconditioned({"v": torch.ones(2)}).step(W, W, ETA, State()), "by = ['w']"),
        (lambda: Projected(Ball(1.0)).state(W), "projected = a start outside its set"),
        (
            lambda: Projected(lambda p: {n: 0.5 * b for n, b in p.items()}).step(
                W, W, 0.5 * ETA, State()
            ),
            "projected = a step that left its set",
        ),
        (
            lambda: Projected(lambda p: {n: b[:, :1] for n, b in p.items()}).step(
                W, W, ETA, State()
            ),
            "projected = a map that changes blocks",
        ),
        (
            lambda: Proximal(lambda p, eta: {}).step(W, W, ETA, State()),
            "proximal = a map that changes blocks",
        ),
        (lambda: GradientDescent().step(W, {"v": W["w"]}, ETA, State()), "grad = ['v', 'w']"),
        (
            lambda: GradientDescent().step(W, {"w": torch.ones(1, 3)}, ETA, State()),
            "grad[w] = shape (1, 3): give the shape of the block, (1, 2)",
        ),
        (lambda: algorithm_named("hevy-ball"), "algorithm = hevy-ball: did you mean heavy-ball"),
        (lambda: algorithm_named(GradientDescent), "or give an instance of Algorithm"),
        (lambda: algorithm_named("gd", beta=0.5), "beta = 0.5: leave it out: gd has no options"),
        (lambda: algorithm_named("nesterov", momentun=0.5), "did you mean momentum"),
        (lambda: algorithm_named("projected"), "algorithm = projected: give its option onto too"),
        (lambda: algorithm_named(GradientDescent(), beta=0.5), "give options to the instance"),
    ],
)
def test_what_cannot_be_used_is_named(call: Any, said: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert said in str(caught.value)


def test_names_and_one_s_own() -> None:
    class Mine(Algorithm):
        name = "mine"

        def step(self, params: Any, grad: Any, eta: Any, state: Any) -> Any:
            return params, state

    mine = Mine()
    assert algorithm_named(mine) is mine
    assert algorithm_named("heavy_ball", beta=0.5) == HeavyBall(0.5)
    assert algorithm_named("proximal", penalty=L1(0.1)) == Proximal(L1(0.1))
    assert algorithm_named("nesterov") == Nesterov()
    assert mine.longest_step(1.0) is None
    assert not mine.monotone
    assert mine.point(W, mine.state(W)) is W
