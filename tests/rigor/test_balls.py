"""Balls: outward rounding to floats, radii, and the search for enough precision."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from flint import arb, arb_mat, ctx

from gdconv.rigor.balls import (
    MAX_PRECISION,
    Certified,
    _relative_radius,
    refine,
    square_sum,
    to_enclosure,
    working_precision,
)
from gdconv.rigor.spectrum import Enclosure


def ball(middle: Fraction, radius: Fraction) -> arb:
    """The ball with these numbers, at 400 bits."""
    with working_precision(400):
        mid, rad = (arb(x.numerator) / x.denominator for x in (middle, radius))
        return arb(mid, rad)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("size", [Fraction(1), Fraction(1, 3), Fraction(10) ** 200])
@pytest.mark.parametrize("radius", [Fraction(0), Fraction(1, 10**20), Fraction(1, 7)])
def test_ends_are_the_nearest_floats_outside(sign: int, size: Fraction, radius: Fraction) -> None:
    middle = sign * size * Fraction(22, 21)
    box = to_enclosure(ball(middle, radius * size))
    low, high = middle - radius * size, middle + radius * size
    assert Fraction(box.lo) <= low
    assert high <= Fraction(box.hi)
    slack = 1 + Fraction(1, 10**8)  # radii of balls keep 30 bits
    inner = middle - radius * size * slack, middle + radius * size * slack
    assert Fraction(math.nextafter(math.nextafter(box.lo, math.inf), math.inf)) > inner[0]
    assert Fraction(math.nextafter(math.nextafter(box.hi, -math.inf), -math.inf)) < inner[1]


def test_floats_are_their_own_enclosure() -> None:
    for x in (0.0, 1.0, -0.1, 5e-324, 1.7976931348623157e308):
        assert to_enclosure(arb(x)) == Enclosure(x, x)
    with working_precision(2000):
        for x in (1.0, 0.1):  # a hair above and below a float
            hair = arb(2) ** -1500
            assert to_enclosure(arb(x) + hair) == Enclosure(x, math.nextafter(x, 2.0))
            assert to_enclosure(arb(x) - hair) == Enclosure(math.nextafter(x, 0.0), x)
            assert to_enclosure(-arb(x) - hair) == Enclosure(math.nextafter(-x, -2.0), -x)


def test_what_is_not_finite_is_everything() -> None:
    for x in ("nan", "inf"):
        assert to_enclosure(arb(x)) == Enclosure(-math.inf, math.inf)
    assert to_enclosure(arb(0, float("inf"))) == Enclosure(-math.inf, math.inf)


def test_middle_and_radius_cover_the_ball() -> None:
    for middle, radius in ((Fraction(1, 3), Fraction(1, 10**9)), (Fraction(-7, 3), Fraction(1, 5))):
        value = Certified(ball(middle, radius), 400, True)
        reach = Fraction(value.radius)
        assert Fraction(value.mid) - reach <= middle - radius
        assert middle + radius <= Fraction(value.mid) + reach
        assert reach <= radius * (1 + Fraction(1, 10**6))
        assert value.enclosure == to_enclosure(value.ball)
    exact = Certified(arb(0.5), 53, True)
    assert (exact.mid, exact.radius) == (0.5, 0.0)
    third = Certified(ball(Fraction(1, 3), Fraction(0)), 400, True)  # no float: a radius is needed
    assert 0.0 < third.radius < 1e-16


def test_relative_radius_is_over_the_least_value() -> None:
    assert _relative_radius(arb(3, 1)) == pytest.approx(0.5, rel=1e-6, abs=0)
    assert _relative_radius(arb(-3, 1)) == pytest.approx(0.5, rel=1e-6, abs=0)
    assert _relative_radius(arb(0)) == 0.0
    assert _relative_radius(arb(2)) == 0.0
    for nothing in (arb(1, 1), arb(0, 1), arb("nan"), arb("inf")):
        assert _relative_radius(nothing) == math.inf


def test_precision_is_doubled_until_the_radius_is_reached() -> None:
    asked: list[int] = []

    def root(bits: int) -> arb:
        asked.append(bits)
        assert ctx.prec == bits
        return arb(2).sqrt()

    found = refine(root, 1e-80, precision=50, limit=400)
    assert asked == [50, 100, 200, 400]
    assert (found.reached, found.precision) == (True, 400)
    asked.clear()
    found = refine(root, 1e-80, precision=50, limit=399)
    assert asked == [50, 100, 200]
    assert (found.reached, found.precision) == (False, 200)
    assert refine(lambda bits: arb(3, 1), 0.6).precision == 106
    assert not refine(lambda bits: arb(3, 1), 0.4).reached
    assert refine(lambda bits: arb(0)).reached
    assert 4096 < MAX_PRECISION < 16384


def test_default_radius_is_that_of_a_float() -> None:
    assert refine(lambda bits: arb(1, 0.9e-15)).reached
    assert not refine(lambda bits: arb(1, 1.1e-15)).reached


def broken() -> None:
    with working_precision(321):
        assert ctx.prec == 321
        raise ZeroDivisionError


def test_precision_is_restored_whatever_happens() -> None:
    before = ctx.prec
    with pytest.raises(ZeroDivisionError):
        broken()
    assert ctx.prec == before


def test_sum_of_squares_is_over_all_entries() -> None:
    assert float(square_sum([arb_mat([[1, 2], [3, 4]]), arb_mat([[-5]])])) == 55.0
    assert square_sum([]).is_zero()
