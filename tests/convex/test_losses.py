"""Losses, conjugates and their proved sums."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from flint import arb
from hypothesis import given, settings
from hypothesis import strategies as st

from gdconv.convex.group_lasso import Program
from gdconv.convex.losses import LOSSES, Loss
from gdconv.gallery.convex_attention.exact import _dual, _loss
from gdconv.rigor.balls import working_precision
from gdconv.support.errors import InputError

floats = st.floats(-50, 50)


def target(name: str, y: float) -> float:
    return (1.0 if y >= 0 else -1.0) if name == "logistic" else y


def pairs(a: np.ndarray, b: np.ndarray) -> list[tuple[float, float]]:
    return list(zip(a.ravel().tolist(), b.ravel().tolist(), strict=True))


@pytest.mark.parametrize("name", LOSSES)
@given(p=floats, y=floats)
@settings(max_examples=25)
def test_residual_is_minus_the_slope(name: str, p: float, y: float) -> None:
    y = target(name, y)
    loss = Loss(name, 1.5)
    at = torch.tensor([p], dtype=torch.float64, requires_grad=True)
    r = (at - y).abs()
    if name == "logistic":
        value = torch.logaddexp(torch.zeros_like(at), -y * at)
    elif name == "huber":
        value = torch.where(r <= 1.5, r.square(), 3.0 * r - 2.25)
    else:
        value = r.square()
    (slope,) = torch.autograd.grad(value.sum(), at)
    assert loss.value(np.array([p]), np.array([y]))[0] == pytest.approx(value.item(), rel=1e-12)
    found = loss.residual(np.array([p]), np.array([y]))[0]
    assert found == pytest.approx(-slope.item(), rel=1e-9, abs=1e-14)


@pytest.mark.parametrize("name", LOSSES)
@given(p=st.floats(-8, 8), q=st.floats(-8, 8), y=st.floats(-8, 8))
@settings(max_examples=25)
def test_fenchel_young(name: str, p: float, q: float, y: float) -> None:
    """L(q) - (-L*(-v)) >= -v q for every q, with equality at the q that v belongs to."""
    y = target(name, y)
    loss, at = Loss(name, 1.5), np.array([y])
    v = loss.residual(np.array([p]), at)
    dual = loss.dual(v, at)[0]
    for point in (p, q):
        slack = loss.value(np.array([point]), at)[0] - dual + v[0] * point
        assert slack >= -1e-10
    assert loss.value(np.array([p]), at)[0] - dual + v[0] * p == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("name", LOSSES)
@given(seed=st.integers(0, 10**6), scale=st.floats(1e-3, 30.0))
@settings(max_examples=25)
def test_sums_bound_the_exact_ones(name: str, seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    p = scale * rng.standard_normal((4, 1))
    y = np.sign(rng.standard_normal((4, 1))) if name == "logistic" else rng.standard_normal((4, 1))
    loss = Loss(name, 0.7)
    program = Program.of(np.ones((4, 1, 1)), y, 1.0, loss)
    v = loss.into_domain(loss.residual(p, y) * rng.uniform(0, 1), y)
    with working_precision(200):
        exact = sum((_loss(program, arb(a), b) for a, b in pairs(p, y)), arb(0))
        dual = sum((_dual(program, a, b)[0] for a, b in pairs(v, y)), arb(0))
        upper, lower = loss.upper_sum(p, np.zeros_like(p), y), loss.lower_sum(v, y)
        assert arb(upper) >= exact
        assert arb(lower) <= dual
        assert upper <= float(exact) * (1 + 1e-12) + 1e-300
        assert lower >= float(dual) - 1e-11 * (1 + scale * scale)


def test_outside_the_domain_the_dual_is_minus_infinity() -> None:
    one = np.array([1.0])
    assert Loss("huber", 1.0).lower_sum(2.5 * one, one) == -np.inf
    assert Loss("logistic").lower_sum(-0.5 * one, one) == -np.inf
    assert np.isfinite(Loss().lower_sum(100 * one, one))


def test_bad_input() -> None:
    with pytest.raises(InputError, match="give one of squared"):
        Loss("hinge")
    with pytest.raises(InputError, match="positive"):
        Loss("huber", 0.0)
    with pytest.raises(InputError, match="give -1 and 1"):
        Loss("logistic").check(np.array([0.5]))


# what follows compares every constant with formulas written again: in numbers of 60 digits where
# the value matters, in plain floats where the rounding bound itself does

U, SMALL = 2.0**-53, 2.0**-1022
POINTS = [-700.0, -40.0, -3.0, -1.25, -0.5, -1e-3, 0.0, 1e-9, 0.3, 1.0, 1.5, 1.75, 6.0, 50.0, 800.0]


def digits(x: float) -> mpmath.mpf:
    return mpmath.mpf(x)


def loss_of(name: str, delta: float, p: float, y: float) -> mpmath.mpf:
    """L(p, y), from the docstring of the module."""
    if name == "logistic":
        return mpmath.log1p(mpmath.exp(-digits(y) * digits(p)))
    r = abs(digits(p) - digits(y))
    if name == "huber" and r > delta:
        return 2 * digits(delta) * r - digits(delta) ** 2
    return r**2


def slope_of(name: str, delta: float, p: float, y: float) -> mpmath.mpf:
    if name == "logistic":
        return -digits(y) / (1 + mpmath.exp(digits(y) * digits(p)))
    r = digits(p) - digits(y)
    bound = digits(delta) if name == "huber" else mpmath.inf
    return 2 * min(max(r, -bound), bound)


def conjugate_of(name: str, delta: float, v: float, y: float) -> mpmath.mpf:
    """-L*(-v; y) = min over q of L(q, y) + v q, at the q where L' = -v."""
    if name == "logistic":
        a = digits(v) * digits(y)
        if not 0 <= a <= 1:
            return -mpmath.inf
        return sum((-t * mpmath.log(t) for t in (a, 1 - a) if t), mpmath.mpf(0))
    if name == "huber" and abs(v) > 2 * delta:
        return -mpmath.inf
    q = digits(y) - digits(v) / 2
    return (q - digits(y)) ** 2 + digits(v) * q


def box_of(name: str, p: list[float], y: list[float], delta: float = 0.75) -> Any:
    """Loss and both arrays, as columns."""
    return Loss(name, delta), np.array(p)[:, None], np.array(y)[:, None]


def targets_of(name: str) -> list[float]:
    return [-1.0, 1.0] if name == "logistic" else [-2.0, 0.0, 0.5, 3.0]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("delta", [0.25, 1.0, 3.0])
def test_values_slopes_and_conjugates_are_the_formulas(name: str, delta: float) -> None:
    loss = Loss(name, delta)
    with mpmath.workdps(60):
        for p in POINTS:
            for y in targets_of(name):
                at, to = np.array([p]), np.array([y])
                value = float(loss_of(name, delta, p, y))
                assert loss.value(at, to)[0] == pytest.approx(value, rel=1e-14, abs=1e-300)
                v = -float(slope_of(name, delta, p, y))
                found = loss.residual(at, to)[0]
                assert found == pytest.approx(v, rel=1e-12, abs=2e-16)
                for share in (1.0, 0.5, 0.125):
                    dual = float(conjugate_of(name, delta, share * found, y))
                    got = loss.dual(share * at * 0 + share * found, to)[0]
                    assert got == pytest.approx(dual, rel=1e-13, abs=1e-15)
    assert loss.curvature == {"squared": 2.0, "huber": 2.0, "logistic": 0.25}[name]


@pytest.mark.parametrize("name", LOSSES)
def test_the_curvature_is_the_largest_second_derivative(name: str) -> None:
    with mpmath.workdps(60):
        h = mpmath.mpf(10) ** -20
        bends = [
            (slope_of(name, 0.75, p + h, 1.0) - slope_of(name, 0.75, p - h, 1.0)) / (2 * h)
            for p in (-3.0, -0.1, 0.0, 0.5, 1.0, 1.5, 9.0)
        ]
        assert float(max(bends)) == pytest.approx(Loss(name, 0.75).curvature, rel=1e-12)


def test_the_logistic_conjugate_at_its_ends() -> None:
    loss, to = Loss("logistic"), np.array([1.0, -1.0])
    assert loss.dual(np.array([0.0, -0.0]), to).tolist() == [0.0, 0.0]
    assert loss.dual(np.array([1.0, -1.0]), to).tolist() == [0.0, 0.0]
    assert loss.dual(np.array([1.0 + 2 * U, -1.0 - 2 * U]), to).tolist() == [-np.inf, -np.inf]
    assert loss.dual(np.array([-1e-300, 1e-300]), to).tolist() == [-np.inf, -np.inf]
    assert loss.dual(np.array([0.5, -0.5]), to) == pytest.approx([np.log(2), np.log(2)], rel=1e-15)
    v = np.array([-0.25, 0.5, 1.5, 0.25, -0.5, -1.5])
    y = np.array([1.0, 1.0, 1.0, -1.0, -1.0, -1.0])
    assert loss.into_domain(v, y).tolist() == [0.0, 0.5, 1.0, 0.0, -0.5, -1.0]


def test_the_huber_conjugate_at_its_ends() -> None:
    loss, v = Loss("huber", 0.75), np.array([-1.5, 1.5, 1.5 + 4 * U, -1.5 - 4 * U])
    found = loss.dual(v, np.ones(4))
    assert found[:2].tolist() == [-1.5 - 0.5625, 1.5 - 0.5625]
    assert found[2:].tolist() == [-np.inf, -np.inf]
    assert loss.into_domain(np.array([-9.0, -1.0, 9.0]), np.ones(3)).tolist() == [-1.5, -1.0, 1.5]
    assert Loss().into_domain(np.array([-9.0, 9.0]), np.ones(2)).tolist() == [-9.0, 9.0]
    assert Loss("huber").residual(np.array([9.0, -9.0]), np.zeros(2)).tolist() == [-2.0, 2.0]


def test_the_best_scale_is_the_maximum_over_the_feasible_ones() -> None:
    """s v^T y - s^2 |v|^2/4 is largest at 2 v^T y/|v|^2; every end of the interval, every loss."""
    v, y = np.array([3.0, -4.0]), np.array([2.0, 1.0])
    assert Loss().best_scale(v, y, 9.0) == pytest.approx(2 * 2 / 25, rel=1e-15)
    assert Loss().best_scale(v, y, 0.1) == 0.1
    assert Loss().best_scale(v, -y, 9.0) == 0.0
    assert Loss("huber", 0.25).best_scale(v, 9 * y, 9.0) == 0.125  # 2 delta/|v|_inf
    assert Loss("huber", 9.0).best_scale(v, 9 * y, 9.0) == pytest.approx(1.44, rel=1e-15)
    assert Loss("huber", 9.0).best_scale(v, 9 * y, 0.5) == 0.5
    assert Loss("logistic").best_scale(np.array([0.5]), np.array([1.0]), 9.0) == 1.0
    assert Loss("logistic").best_scale(np.array([0.5]), np.array([1.0]), 0.25) == 0.25
    for none in (np.zeros(2), np.zeros(0)):
        for name in LOSSES:
            assert Loss(name).best_scale(none, np.ones(len(none)), 9.0) == 1.0
            assert Loss(name).best_scale(none, np.ones(len(none)), 0.5) == 0.5


@pytest.mark.parametrize("size", [5e-324, 1e-310, 1e-200, 1e-170, 1e-155, 1e155, 1e300])
@pytest.mark.parametrize("name", ["squared", "huber"])
def test_scales_of_any_size(name: str, size: float) -> None:
    """Squares of v underflow or overflow: the scale is still the best one, and never no number."""
    loss = Loss(name, 1e308 if size > 1 else 1.0)
    for ratio in (0.5, 1.0, 4.0):
        y = np.array([size * ratio if size > 1e-300 and size < 1e300 else size])
        s = loss.best_scale(np.array([size]), y, 1e9)
        assert s == pytest.approx(2 * float(y[0] / size), rel=1e-12)
    for v, y in ((5e-324, 1e300), (1e-300, 1e300), (1e300, 1e300), (1e308, -1e308)):
        s = loss.best_scale(np.array([v, v]), np.array([y, -y]), np.inf)
        assert np.isfinite(s)
        assert s * v <= 2.0**1001
    s = Loss().best_scale(np.array([1e-300]), np.array([1e300]), np.inf)
    assert s == 2.0**1000
    s = Loss().best_scale(np.array([1.0]), np.array([1e308]), np.inf)
    assert s == 2.0**1000
    s = Loss().best_scale(np.array([2.0**10]), np.array([1e308]), np.inf)
    assert s == 2.0**990
    for limit, want in ((9.0, 1.0), (0.5, 0.5)):  # inf - inf: any feasible scale
        y = np.array([np.inf, -np.inf])
        assert Loss().best_scale(np.ones(2), y, limit) == want


@pytest.mark.parametrize("name", LOSSES)
def test_upper_sum_is_at_the_worse_end_of_every_interval(name: str) -> None:
    """Both ends of p +- error in 60 digits: the bound is the larger one, and no more than it."""
    with mpmath.workdps(60):
        for error in (0.0, 1e-9, 0.25, 3.0):
            for p in (-4.0, -0.5, 0.0, 0.7, 5.0):
                for y in targets_of(name):
                    loss, at, to = box_of(name, [p], [y])
                    ends = [loss_of(name, 0.75, float(digits(p) + e), y) for e in (-error, error)]
                    found = loss.upper_sum(at, np.full((1, 1), error), to)
                    worst = float(max(ends))
                    assert worst <= found <= worst * (1 + 3e-14) + 1e-300


def up_again(x: float) -> float:
    return x * (1.0 + 64 * U) + SMALL


def gamma_again(k: int) -> float:
    return (k + 1) * U / (1.0 - (k + 1) * U)


@pytest.mark.parametrize("N", [1, 2, 3])
@pytest.mark.parametrize("seed", range(40))
def test_the_rounding_of_sums_is_as_derived(N: int, seed: int) -> None:
    """The slack, to the last bit, of arguments whose losses are exact or have no logarithm.

    For N equal terms: gamma of the count, four or six operations each, and what underflows.
    """
    rng = np.random.default_rng(seed)
    p, error = float(rng.uniform(1, 2)), float(rng.uniform(0, 1))
    size, grow = p * (1.0 + 4 * U) + error, 1.0 + 4 * U
    arrays = (np.full((N, 1), p), np.full((N, 1), error), np.zeros((N, 1)))
    each = (size * grow) * (size * grow)
    total = sum([each] * N)
    want = up_again(total * (1.0 + gamma_again(N + 6)) + 4 * N * SMALL)
    assert Loss().upper_sum(*arrays) == want
    huber, r = Loss("huber", 0.75), size * grow
    each = 0.75 * 0.75 + 2.0 * 0.75 * ((r - 0.75) * grow)
    want = up_again(sum([each] * N) * (1.0 + gamma_again(N + 6)) + 4 * N * SMALL)
    assert huber.upper_sum(*arrays) == want
    # far on the wrong side the logistic loss is -y p to the last bit: log1p(exp(-700)) is nothing
    far = 700.0 * p
    margin = -far - error
    margin = margin - 2 * U * abs(margin) - SMALL
    want = up_again(sum([-margin] * N) * (1.0 + gamma_again(N + 32)) + N * SMALL)
    found = Loss("logistic").upper_sum(np.full((N, 1), -far), arrays[1], np.ones((N, 1)))
    assert found == want

    total = sum([p * p] * N)
    lost = gamma_again(N + 48) * total
    assert Loss().value_lower(arrays[0], arrays[2]) == total - 2.0 * lost - (N + 48) * SMALL
    total = sum([far] * N)
    lost = gamma_again(N + 48) * (total + N)
    found = Loss("logistic").value_lower(np.full((N, 1), -far), np.ones((N, 1)))
    assert found == total - 2.0 * lost - (N + 48) * SMALL

    y = float(rng.uniform(1, 2))
    v, to = np.full((N, 1), p), np.full((N, 1), y)
    total, size = sum([p * (y - 0.25 * p)] * N), sum([p * (y + 0.25 * p)] * N)
    count = gamma_again(N + 6)
    lost = up_again(size * (1.0 + count) * count + 4 * N * SMALL)
    assert Loss().lower_sum(v, to) == np.nextafter(total - lost - 2 * U * abs(total), -np.inf)


def entropy_slack(N: int, total: float) -> float:
    count = gamma_again(N + 48)
    lost = up_again((total + N * 2 * U) * (1.0 + count) * count + 4 * N * SMALL)
    return float(np.nextafter(total - lost - 2 * U * total, -np.inf))


@pytest.mark.parametrize("N", [1, 2, 3])
def test_the_rounding_of_the_entropy_is_as_derived(N: int) -> None:
    """The slack around the value as computed: 8 units for each of two logarithms, and more."""
    loss = Loss("logistic")
    for a in np.linspace(0.01, 0.99, 40):
        v, y = np.full((N, 1), a), np.ones((N, 1))
        total = float(loss.dual(v, y).sum())
        assert loss.lower_sum(v, y) == entropy_slack(N, total)
        assert loss.lower_sum(-v, -y) == loss.lower_sum(v, y)


def test_what_underflows_is_covered() -> None:
    """Squares of 1e-160 are nothing in floats but something: no bound may leave them out."""
    for N in (1, 5, 1000):
        p, zero = np.full((N, 1), 1e-160), np.zeros((N, 1))
        exact = N * mpmath.mpf(1e-160) ** 2
        assert mpmath.mpf(Loss().upper_sum(p, zero, zero)) >= exact
        assert mpmath.mpf(Loss().value_lower(p, zero)) <= exact
        assert Loss().value_lower(p, zero) >= -(N + 60) * SMALL
        v = p
        low = Loss().lower_sum(v, np.full((N, 1), 1e-161))  # v y - v^2/4 < 0
        assert mpmath.mpf(low) <= N * (mpmath.mpf(1e-160) * 1e-161 - exact / N / 4)
        assert -5 * N * SMALL - 2 * SMALL <= low < 0


def test_nothing_is_exactly_nothing() -> None:
    """y = p = 0: both bounds are 0, so a gap of 0 can be proved; one denormal number is not 0."""
    zero, least = np.zeros((3, 2)), np.zeros((3, 2))
    least[1, 1] = 5e-324
    for name in ("squared", "huber"):
        loss = Loss(name)
        for p, y in ((zero, zero), (7 * np.ones((3, 2)), 7 * np.ones((3, 2)))):
            assert loss.upper_sum(p, zero, y) == 0.0
            assert loss.upper_sum(p, least, y) > 0.0
        assert loss.upper_sum(least, zero, zero) > 0.0
        assert loss.upper_sum(zero, zero, least) > 0.0
    for name in LOSSES:
        y = np.where(zero == 0, 1.0, -1.0)
        assert Loss(name).lower_sum(zero, y) == 0.0
        assert Loss(name).lower_sum(-zero, y) == 0.0
        assert Loss(name).lower_sum(np.abs(least), y) < 1e-300
        assert Loss(name).lower_sum(np.abs(least), y) != 0.0


def test_the_names_and_defaults() -> None:
    assert LOSSES == ("squared", "huber", "logistic")
    assert Loss() == Loss("squared", 1.0) == Loss(delta=1.0)
    assert (Loss().name, Loss("huber").delta) == ("squared", 1.0)
    with pytest.raises(AttributeError):
        Loss().delta = 2.0  # type: ignore[misc]
    for bad in (np.nan, np.inf, -1.0, 0.0):
        with pytest.raises(InputError) as caught:
            Loss("huber", bad)
        assert str(caught.value) == f"delta = {bad}: give a positive number."
    with pytest.raises(InputError) as caught:
        Loss("hinge")
    assert str(caught.value) == "loss = hinge: give one of squared, huber, logistic."
    with pytest.raises(InputError) as caught:
        Loss("logistic").check(np.array([1.0, -1.0, 0.0]))
    told = "y = targets other than -1 and 1: give -1 and 1 for this loss."
    assert str(caught.value) == told
    for name in ("squared", "huber"):
        Loss(name).check(np.array([0.5]))
    Loss("logistic").check(np.array([[1.0], [-1.0]]))
