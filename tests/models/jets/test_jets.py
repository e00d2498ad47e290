"""Each rule against derivatives found by search; the constants are approached, never exceeded."""

from __future__ import annotations

from fractions import Fraction
from math import sqrt

import numpy as np
import pytest
import torch
from flint import arb, arb_series, ctx

from gdconv.models.jets import jets
from gdconv.models.jets.activations import ACTIVATIONS
from gdconv.models.jets.norms import length, spectral, up
from gdconv.rigor.spectrum import norm2_upper

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")

FUNCTIONS = {
    "tanh": torch.tanh, "sigmoid": torch.sigmoid, "softplus": torch.nn.functional.softplus,
    "gelu": torch.nn.functional.gelu,
    "gelu-tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "silu": torch.nn.functional.silu, "sin": torch.sin, "cos": torch.cos, "erf": torch.erf,
    "elu": torch.nn.functional.elu,
}  # fmt: skip


def at(*numbers: float) -> np.ndarray:
    return np.array([numbers])


def weight(index: int, blocks: int = 2, norm: float = 1.0, rho: float = 0.0) -> jets.Jet:
    return jets.parameter(at(norm), at(norm), index, at(rho), blocks)


def steepest(function, z: torch.Tensor, steps: int = 80, free=None) -> tuple[float, float]:
    """Greatest |D f(z)[u]| and |D2 f(z)[u,u]| over unit u and points near those given (vmapped)."""
    found = []
    for order in (1, 2):

        def size(pair: torch.Tensor, order: int = order) -> torch.Tensor:
            point, u = pair[0], pair[1] / pair[1].norm()
            point = point if free is None else free(point)

            def first(x: torch.Tensor) -> torch.Tensor:
                return torch.func.jvp(function, (x,), (u,))[1]

            D = first(point) if order == 1 else torch.func.jvp(first, (point,), (u,))[1]
            return D.norm()

        rng = torch.Generator().manual_seed(1)
        p = torch.stack([z, torch.randn(z.shape, generator=rng, dtype=z.dtype)], dim=1)
        best, mean, square = 0.0, torch.zeros_like(p), torch.zeros_like(p)
        slope = torch.vmap(torch.func.grad_and_value(size))
        for t in range(1, steps + 1):
            g, value = slope(p)
            best = max(best, float(value.max()))
            mean, square = 0.9 * mean + 0.1 * g, 0.99 * square + 0.01 * g * g
            step = (mean / (1 - 0.9**t)) / ((square / (1 - 0.99**t)).sqrt() + 1e-12)
            p = p + 0.1 * 0.97**t * step
        found.append(best)
    return found[0], found[1]


def points(*shape: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(7)
    return torch.randn(shape, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_constants_are_rounded_up_and_sharp(name):
    s, x = ACTIVATIONS[name], torch.linspace(-12.0, 12.0, 48_001, dtype=torch.float64)
    x = x[x != 0] if name == "elu" else x
    f = FUNCTIONS[name]

    def slope(t):
        return torch.func.jvp(f, (t,), (torch.ones_like(t),))[1]

    first, second = torch.func.jvp(slope, (x,), (torch.ones_like(x),))
    assert abs(float(f(torch.zeros(1, dtype=torch.float64)))) <= s.zero <= 1.0
    for seen, bound in ((first, s.slope), (second, s.curvature)):
        assert 0.999 * bound <= float(seen.abs().max()) <= bound
    if np.isfinite(s.largest):
        assert 0.999 * s.largest <= float(f(x).abs().max()) <= s.largest


def test_gelu_tanh_form_is_proved_by_balls():
    s = ACTIVATIONS["gelu-tanh"]
    ctx.cap = 3
    todo = [(k / 8, (k + 1) / 8) for k in range(-96, 96)]
    c = (2 / arb.pi()).sqrt()
    pieces = 0
    while todo:
        lo, hi = todo.pop()
        x = arb_series([arb((lo + hi) / 2, (hi - lo) / 2), 1])
        u = 2 * c * (x + arb(44715) / 1000000 * x * x * x)
        y = x / (1 + (-u).exp())
        if abs(y[1]) <= arb(s.slope) and abs(2 * y[2]) <= arb(s.curvature):
            pieces += 1
        else:
            assert hi - lo > 1e-7
            todo += [(lo, (lo + hi) / 2), ((lo + hi) / 2, hi)]
    assert pieces > 192


def test_an_entrywise_function_follows_the_chain_rule():
    s = ACTIVATIONS["tanh"]
    h = jets.add(weight(0), jets.linear_map(weight(1), 2.0))
    y = jets.entrywise(h, s, 3)
    np.testing.assert_allclose(y.g[0, 0], [1.0, 2.0], rtol=1e-12)
    np.testing.assert_allclose(y.H[0, 0], s.curvature * np.array([[1, 2], [2, 4]]), rtol=1e-12)
    assert sqrt(3) <= y.b_F[0, 0] < sqrt(3) * (1 + 1e-12)
    twice = jets.entrywise(y, s._replace(slope=0.5), 3)
    np.testing.assert_allclose(twice.H, 0.5 * y.H + s.curvature * y.H / s.curvature, rtol=1e-12)


def test_softmax_constants_are_approached_and_not_exceeded():
    first, second = steepest(lambda z: torch.softmax(z, 0), points(12, 4))
    y = jets.softmax_rows(weight(0), 1)
    assert 0.97 <= first / y.g[0, 0, 0] <= 1.0
    assert 0.97 <= second / y.H[0, 0, 0, 0] <= 1.0
    assert 1.0 <= y.b_F[0, 0] < 1 + 1e-12
    passed = jets.softmax_rows(jets.product(weight(0), weight(1)), 1)  # H of the scores counts half
    np.testing.assert_allclose(passed.H[0, 0, 0, 1], 0.5 + sqrt(6) / 9, rtol=1e-12)


@pytest.mark.parametrize("delta", [0.0, 0.5])
def test_norm_layer_constants_are_approached_and_not_exceeded(delta):
    """Rows of length S with the ball's shortest one at the centre: D = 3 free directions."""

    def normalised(z):
        return sqrt(3) * z / (z @ z + delta).sqrt()

    first, second = steepest(normalised, points(12, 3), free=lambda p: p / p.norm())
    h = weight(0)
    S_squared = jets.away_from_zero(h, at(1.0), at(0.0), delta)
    assert (1 + delta) * (1 - 1e-12) < S_squared[0, 0] <= 1 + delta
    y = jets.norm_rows(h, 1, 3, S_squared)
    assert 0.97 <= first / y.g[0, 0, 0] <= 1.0
    assert 0.97 <= second / y.H[0, 0, 0, 0] <= 1.0
    assert sqrt(3) <= y.b_F[0, 0] < sqrt(3) + 1e-12


def test_the_norm_layer_needs_two_over_root_three():
    """The exact witness z = (1, 0), u = (1, sqrt 2)/sqrt 3: |D2N| S^2 = 2/sqrt 3 > 1."""
    z, u = torch.tensor([1.0, 0.0], dtype=torch.float64), torch.tensor([1.0, 2**0.5]) / 3**0.5

    def first(t):
        return torch.func.jvp(lambda p: p / p.norm(), (t,), (u.double(),))[1]

    value = float(torch.func.jvp(first, (z,), (u.double(),))[1].norm())
    assert value > 1.15
    assert abs(value - 2 / sqrt(3)) < 1e-7
    assert value <= jets.norm_rows(weight(0), 1, 1, at(1.0)).H[0, 0, 0, 0] * (1 + 1e-7)
    assert 2 / sqrt(3) <= jets.NORM_SECOND


def test_a_norm_layer_at_zero_gives_infinity():
    for rho in (0.0, 1.0):
        S_squared = jets.away_from_zero(weight(0), at(min(rho, 0.5)), at(rho), 0.0)
        y = jets.norm_rows(weight(0), 2, 4, S_squared)
        assert np.isinf(y.g[0, 0]).all()
        assert np.isinf(y.H[0, 0]).all()
        assert y.b_F[0, 0] < 2.83
    moved = jets.away_from_zero(weight(0), at(2.0), at(0.5), 0.25)
    np.testing.assert_allclose(moved, [[1.5**2 + 0.25]], rtol=1e-12)


def test_a_product_has_both_mixed_terms():
    h = jets.product(weight(0, norm=2.0), weight(1, norm=3.0, rho=0.5))
    np.testing.assert_allclose(h.g[0, 0], [3.5, 2.0], rtol=1e-12)
    np.testing.assert_allclose(h.H[0, 0], [[0, 1], [1, 0]], atol=1e-12)
    np.testing.assert_allclose(h.b_2, [[7.0]], rtol=1e-12)
    square = jets.product(weight(0, norm=2.0), weight(0, norm=2.0))  # (W W)'' [u,u] = 2 u u
    np.testing.assert_allclose(square.g[0, 0], [4.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(square.H[0, 0], [[2, 0], [0, 0]], atol=1e-12)


def test_a_repeated_factor_counts_by_the_root():
    wide = jets.parameter(at(2.0), at(9.0), 0, at(0.0), 2)
    h = jets.product(wide, weight(1), copies_P=1, copies_Q=4)
    np.testing.assert_allclose(h.g[0, 0], [1.0, 4.0], rtol=1e-12)
    h = jets.product(wide, weight(1), copies_P=1, copies_Q=100)
    np.testing.assert_allclose(h.g[0, 0], [1.0, 9.0], rtol=1e-12)


def test_spectral_and_frobenius_bounds_of_a_product():
    P = jets.constant(at(2.0), at(3.0), 1)
    Q = jets.constant(at(5.0), at(6.0), 1)
    h = jets.product(P, Q)
    np.testing.assert_allclose([h.b_2[0, 0], h.b_F[0, 0]], [10.0, 12.0], rtol=1e-12)


def test_concatenation_adds_by_the_root_of_squares():
    h = jets.concatenation([jets.linear_map(weight(0), 3.0), jets.linear_map(weight(0), 4.0)])
    np.testing.assert_allclose(h.g[0, 0], [5.0, 0.0], atol=1e-12)


def test_linear_maps_and_sums():
    h = jets.add(jets.linear_map(weight(0, norm=2.0), 3.0), weight(1))
    np.testing.assert_allclose([h.b_F[0, 0], *h.g[0, 0]], [7.0, 3.0, 1.0], rtol=1e-12)
    h = jets.product(weight(0), weight(1))
    np.testing.assert_allclose(jets.linear_map(h, 3.0).H, 3 * h.H, atol=1e-12)
    np.testing.assert_allclose(jets.add(h, h).H, 2 * h.H, atol=1e-12)


def test_centring_takes_the_drift_along():
    h = jets.product(weight(0, norm=2.0, rho=0.5), weight(1, norm=3.0, rho=0.5))
    near = jets.centred_values(h, at(1.0), at(1.5), at(0.5))
    drift = 0.5 * sqrt(3.5**2 + 2.5**2)
    np.testing.assert_allclose(near.b_2, [[1.0 + drift]], rtol=1e-12)
    np.testing.assert_allclose(near.b_F, [[1.5 + drift]], rtol=1e-12)
    near = jets.centred_slopes(h, np.array([[[0.5, np.inf]]]), at(0.5))
    np.testing.assert_allclose(near.g, [[[1.0, 2.5]]], rtol=1e-12)


def test_frozen_blocks_do_not_move():
    h = jets.parameter(at(1.0), at(1.0), None, at(0.5), 2)
    assert h.b_2[0, 0] < 1 + 1e-12
    assert h.g.max() < 1e-300


def test_rules_round_upwards():
    """Against exact fractions, for numbers whose sums and products are no doubles."""
    rng = np.random.default_rng(0)
    for a, b, c, d in rng.random((50, 4)):
        P = jets.Jet(at(a), at(a), np.array([[[b]]]), np.array([[[[c]]]]))
        Q = jets.Jet(at(d), at(d), np.array([[[c]]]), np.array([[[[b]]]]))
        A, B, C, D = (Fraction(float(x)) for x in (a, b, c, d))
        y = jets.product(P, Q)
        assert Fraction(float(y.b_F[0, 0])) >= A * D
        assert Fraction(float(y.g[0, 0, 0])) >= A * C + D * B
        assert Fraction(float(y.H[0, 0, 0, 0])) >= A * B + D * C + 2 * B * C
        assert Fraction(float(jets.add(P, Q).g[0, 0, 0])) >= B + C
        assert Fraction(float(jets.linear_map(P, float(d)).H[0, 0, 0, 0])) >= C * D
        near = jets.centred_slopes(jets.add(P, Q), np.array([[[float(d)]]]), at(a))
        assert Fraction(float(near.g[0, 0, 0])) >= min(B + C, D + A * (B + C))
        assert Fraction(float(length(np.array([a, b])))) ** 2 >= A * A + B * B
    assert np.isinf(up(np.array([np.nan]))[0])


@pytest.mark.parametrize("shape", [(1, 7), (7, 1), (3, 5), (5, 3), (4, 4), (300, 301)])
def test_norms_of_stacks_are_upper_bounds(shape):
    rng = np.random.default_rng(3)
    A = rng.standard_normal((3, *shape)) * np.array([1e-150, 1.0, 1e150])[:, None, None]
    A[1, 0, 0] = 0.0
    bounds = spectral(A)
    for one, bound in zip(A, bounds, strict=True):
        truth = np.linalg.norm(one / np.abs(one).max(), 2) * np.abs(one).max()
        assert truth * (1 - 1e-13) <= bound
        if min(shape) <= 256:
            assert bound <= norm2_upper(one) * (1 + 1e-11)
    A[0, 0, 0] = np.nan
    A[2, 0, 0] = np.inf
    assert np.isinf(spectral(A)[[0, 2]]).all()
    assert np.isfinite(spectral(A)[1])


def test_norms_round_upwards_at_both_ends():
    for x in (1e-320, 1e-200, 1.0, 1e200, 1.7e308):
        assert length(np.array([x, x / 3])) >= x
        assert spectral(np.array([[[x, 0.0], [0.0, x / 2]]]))[0] >= x
    assert length(np.zeros((2, 0))).tolist() == [0.0, 0.0]
