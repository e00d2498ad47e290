"""The residual norm that decides hypotheses is never below the exact one."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from samples import model

from gdconv.models.multihead import Parameters
from gdconv.problem import Problem
from gdconv.start import Start


def test_r_0_is_an_upper_end_where_the_residual_cancels() -> None:
    """One token: F = W_V W_O exactly, so |F - y| is a rational number; labels a few ulps from F."""
    rng = np.random.default_rng(0)
    plain_was_below = False
    for _ in range(200):
        w, o = 1 + rng.random(2)
        y = w * o - int(rng.integers(1, 10_000)) * np.spacing(w * o)
        zero = np.zeros((1, 1, 1))
        arrays = {"W_Q": zero, "W_K": zero, "W_V": zero + w, "W_O": zero + o}
        problem = Problem.from_arrays(np.ones((1, 1, 1)), np.full((1, 1), y))
        start = Start(model("softmax"), problem, Parameters.from_arrays(arrays))
        exact = abs(Fraction(w) * Fraction(o) - Fraction(y))
        assert exact <= Fraction(start.r_0)
        # an enclosed side reaches below what the exact residual gives
        assert Fraction(start.uncertain(start.r_0).lo) <= exact
        plain_was_below |= Fraction(float(np.sqrt(2 * start.f_0))) < exact
    assert plain_was_below  # negative control: without its error bar r_0 is sometimes too small
