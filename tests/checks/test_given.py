"""A `Problem` and a model's own weights handed over in memory."""

from __future__ import annotations

import numpy as np
import pytest
from samples import draw
from samples_encoder import case

import gdconv
from gdconv.support.errors import InputError

STEPS = {"step": "local", "steps": 3, "sharpness": False}


def test_a_problem_with_its_weights_is_the_same_as_their_arrays() -> None:
    problem, params = draw((2, 3, 4, 3, 2, 1), 0)
    one = gdconv.check("full-gd", problem=problem, weights=params, **STEPS)
    two = gdconv.check(
        "full-gd", X=problem.X[0], y=problem.y[0], **STEPS,
        weights={b: v[0] for b, v in params.blocks().items()},
    )  # fmt: skip
    assert one.trace.equals(two.trace)
    assert one.config == two.config
    assert one.config["data"] == "in memory"


def test_of_the_encoder_too() -> None:
    _, problem, params = case((3, 2, 4, 16), "relu", 0)
    check = gdconv.check("ntk-regime", problem=problem, weights=params, **STEPS)
    assert check.runs["steps"][0] == 3
    share = check.starts["y"][0].ravel() / problem.y[0].numpy().ravel()
    assert np.ptp(share) <= 1e-12 * abs(share[0])  # the statement's --label-norm scales them


def test_what_cannot_be_meant_is_refused() -> None:
    problem, params = draw((2, 3, 4, 3, 2, 1), 0, runs=2)
    with pytest.raises(InputError, match=r"problem = 2 replicas: give one of them, such as probl"):
        gdconv.check("full-gd", problem=problem, weights=params[0])
    with pytest.raises(InputError, match=r"weights = 2 replicas: give one of them, such as weigh"):
        gdconv.check("full-gd", problem=problem[0], weights=params)
    with pytest.raises(InputError, match="problem = a Problem: leave it out, or leave out X, y"):
        gdconv.check("full-gd", problem=problem[0], X=problem.X[0], y=problem.y[0])
