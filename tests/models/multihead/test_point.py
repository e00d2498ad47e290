"""What a theorem reads at its start: norms, singular values, and a residual norm from above."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from mpmath import mpf, workdps
from reference_constants import MultiHead, least_singular
from samples import KERNELS, draw, model

from gdconv.data.problem import Problem
from gdconv.models.multihead.parameters import Parameters
from gdconv.models.multihead.point import MultiHeadPoint
from gdconv.models.multihead.probes import probe


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
        start = MultiHeadPoint(model("softmax"), problem, Parameters.from_arrays(arrays))
        exact = abs(Fraction(w) * Fraction(o) - Fraction(y))
        assert exact <= Fraction(start.r_0)
        # an enclosed side reaches below what the exact residual gives
        assert Fraction(start.uncertain(start.r_0).lo) <= exact
        plain_was_below |= Fraction(float(np.sqrt(2 * start.f_0))) < exact
    assert plain_was_below  # negative control: without its error bar r_0 is sometimes too small


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_quantity_is_that_of_a_second_implementation(kernel: str) -> None:
    for seed, shape in enumerate([(3, 2, 5, 4, 2, 3), (2, 3, 4, 3, 3, 1)]):
        problem, params = draw(shape, seed)
        start = MultiHeadPoint(model(kernel), problem, params)
        N, n, D, d, H, D_y = shape
        assert (start.N, start.n, start.D, start.d, start.H, start.D_y) == (N, n, D, d, H, D_y)
        assert start.kernel == kernel
        with workdps(30):
            r = MultiHead(kernel, problem.X[0].numpy(), start.arrays)
            pairs = [*zip(start.a, r.a, strict=True), *zip(start.O, r.O, strict=True)]
            pairs += [(start.s(p), r.s(p)) for p in (1, 2, 4, 6, 10)] + [(start.A, r.s(2))]
            for b in ("W_Q", "W_K", "W_V"):
                pairs += zip(start.norm(b), r.plain[b], strict=True)
            for found, wanted in pairs:
                assert abs(mpf(float(found)) - wanted) <= mpf("1e-13") * wanted
            o = min(least_singular(W) for W in start.arrays["W_O"])
            stacked = least_singular(start.arrays["W_O"].reshape(H * d, D_y))
            for box, wanted in [(start.o, o), (start.o_stacked, stacked)]:
                assert box.lo <= wanted <= box.hi
                assert box.hi - box.lo <= mpf("1e-11") * wanted
        J_V = start.J[:, 2 * H * D * d :]
        m = N * n * D_y
        ends = [
            (start.J_range[0], np.linalg.svd(start.J)[1][m - 1]),
            (start.J_range[1], np.linalg.svd(start.J)[1][0]),
            (start.sigma_J_V, np.linalg.svd(J_V)[1][m - 1]),
            (start.sigma_0, np.linalg.svd(start.B)[1][N * n - 1]),
        ]
        for box, value in ends:
            assert box.lo * (1 - 1e-12) <= value <= box.hi * (1 + 1e-12)
            assert box.hi - box.lo <= 1e-9 * value
        F = model(kernel).forward(problem, params).F[0].numpy()
        f_0 = 0.5 * sum(float(v) ** 2 for v in (F - problem.y[0].numpy()).flatten())
        assert start.f_0 == pytest.approx(f_0, rel=1e-13)
        noise = probe(model(kernel), problem, params).noise_scale[0]
        assert start.r_error == noise > 0
        assert start.r_0 - np.sqrt(2 * start.f_0) == pytest.approx(noise, rel=0.2)  # last bits
        share = start.r_error / start.r_0
        side = start.uncertain(3.0)
        assert (3 - side.lo) / 3 == pytest.approx(8 * share, rel=0.05)
        assert (side.hi - 3) / 3 == pytest.approx(1e-11, rel=1e-3)
        assert start.slope_is_finite
        assert not start.flat


def test_the_error_of_the_residual_takes_a_side_down_to_zero_and_no_further() -> None:
    problem, params = draw((1, 1, 2, 2, 1, 1), 0)
    exact = replace(problem, y=model("softmax").forward(problem, params).F.clone())
    start = MultiHeadPoint(model("softmax"), exact, params)
    assert start.f_0 == 0
    assert start.r_0 == start.r_error > 0
    assert start.uncertain(2.0).lo == 0


def test_equal_tokens_and_idle_weights_have_no_slope() -> None:
    problem, params = draw((2, 2, 8, 4, 2, 1), 1)
    X = problem.X[0].numpy().copy()
    X[1, 1] = X[1, 0]
    again = Problem.from_arrays(X, problem.y[0].numpy())
    assert again.duplicate_tokens
    twice = MultiHeadPoint(model("softmax"), again, params)
    assert twice.sigma_0 == twice.J_range[0] == twice.sigma_J_V == (0.0, 0.0)
    assert twice.J_range[1].lo > 0
    idle = replace(params, W_O=0 * params.W_O)
    assert MultiHeadPoint(model("softmax"), problem, idle).flat
    wild = replace(params, W_V=np.inf * params.W_V)
    assert not MultiHeadPoint(model("softmax"), problem, wild).slope_is_finite
