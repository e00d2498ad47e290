"""Algorithms of one's own that lie or fail: one sentence, or nothing confirmed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from descent.test_motion import run

from gdconv.descent.algorithms import Algorithm
from gdconv.descent.algorithms.base import moved
from gdconv.support.errors import InputError


def own(**methods: Any) -> Algorithm:
    """Gradient descent but for these methods."""

    def step(self: Any, params: Any, grad: Any, eta: Any, state: Any) -> Any:
        return moved(params, grad, eta), state

    kind = type("Own", (Algorithm,), {"name": "own", "step": step} | methods)
    made: Algorithm = kind()
    return made


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        ({"energy": lambda *a: 1.0}, r"energy of algorithm own = 1.0: return a real tensor"),
        ({"energy": lambda self, gap, *a: torch.ones(3)}, r"one number per replica"),
        ({"energy": lambda self, gap, *a: gap * 1j}, r"return a real tensor"),
        ({"energy": lambda *a: 1 / 0}, r"energy of algorithm own = an error: mend it \(ZeroDiv"),
        ({"energy": lambda self, gap, *a: gap.mul_(0.5)}, r"a change in place"),
        ({"point": lambda self, params, state: {}}, r"point of own = a map that changes blocks"),
        ({"point": lambda self, params, state: None}, r"point of own = a map that changes"),
        (
            {"point": lambda self, params, state: {n: b.float() for n, b in params.items()}},
            r"point of own = a map that changes blocks",
        ),
        ({"step": lambda *a: None}, r"step of algorithm own = NoneType: return two things"),
        ({"step": lambda *a: 1 / 0}, r"step of algorithm own = an error: mend it"),
        (
            {
                "step": lambda self, params, grad, eta, state: (
                    {n: b.sub_(0.05 * grad[n]) for n, b in params.items()},
                    state,
                )
            },
            r"step of algorithm own = a change in place: return new tensors",
        ),
        ({"state": lambda *a: 1 / 0}, r"state of algorithm own = an error"),
        ({"echo": lambda *a: -1e9}, r"echo of algorithm own = -1000000000.0: give a number"),
        ({"echo": lambda *a: float("nan")}, r"echo of algorithm own = nan: give a number"),
        ({"spread": lambda *a: 0.1}, r"spread of algorithm own = 0.1: return a real tensor"),
        ({"spread": lambda self, g, error, eta: -eta}, r"give a distance"),
    ],
)
def test_what_fails_is_one_sentence(methods: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        run(own(**methods), 3)


def test_an_infinite_spread_does_not_excuse_a_step_that_is_drawn() -> None:
    generator = torch.Generator().manual_seed(0)

    def step(self: Any, params: Any, grad: Any, eta: Any, state: Any) -> Any:
        return moved(params, grad, eta * (1 + torch.rand(1, generator=generator).item())), state

    def spread(self: Any, grad: Any, error: Any, eta: Any) -> Any:
        return eta * torch.inf

    assert run(own(step=step), 5).defect_ratio > 1.0
    assert np.isnan(run(own(step=step, spread=spread), 5).defect_ratio)
