"""Arithmetic with error bars contains the exact result, is tight, and knows no number from none."""

from __future__ import annotations

from fractions import Fraction as Q
from itertools import product
from math import inf, isinf, isnan, nan

import numpy as np
import pytest

from gdconv.rigor.arithmetic import (
    SLACK,
    Number,
    bar,
    largest,
    minus,
    over,
    plus,
    positive_part,
    smaller,
    times,
)
from gdconv.rigor.rounding import Enclosure

OPERATIONS = {
    "plus": (plus, lambda a, b: a + b),
    "minus": (minus, lambda a, b: a - b),
    "times": (times, lambda a, b: a * b),
    "over": (over, lambda a, b: a / b),
    "smaller": (smaller, min),
}


def drawn(rng: np.random.Generator, positive: bool = False) -> Enclosure:
    scale = 10.0 ** rng.integers(-12, 12)
    a, b = (float(x) for x in rng.uniform(0.0 if positive else -1.0, 1.0, 2) * scale)
    return Enclosure(min(a, b), max(a, b)) if rng.random() < 0.7 else Enclosure(a, a)


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_result_is_contained_and_no_wider_than_needed(name: str) -> None:
    rng = np.random.default_rng(0)
    ours, exact = OPERATIONS[name]
    for _ in range(300):
        x, y = drawn(rng), drawn(rng, name == "over")
        true = [exact(Q(a), Q(b)) for a, b in product(x, y)]
        box = ours(x, y)
        assert box.lo <= min(true)
        assert max(true) <= box.hi
        for end, wanted in ((box.lo, min(true)), (box.hi, max(true))):
            assert abs(Q(end) - wanted) <= 4 * Q(2.0**-53) * abs(wanted) + Q(1e-320)


def test_floats_have_their_slack_and_whole_numbers_none() -> None:
    assert bar(3) == Enclosure(3.0, 3.0)
    assert bar(2**53) == Enclosure(2.0**53, 2.0**53)
    assert bar(2**53 + 2).lo < 2**53 + 2 < bar(2**53 + 2).hi
    assert SLACK == 1e-11
    low, high = bar(-4.0)
    assert (low, high) == pytest.approx((-4 - 4e-11, -4 + 4e-11), rel=1e-15)
    assert bar(Enclosure(1.0, 2.0)) == Enclosure(1.0, 2.0)
    assert bar(inf) == Enclosure(inf, inf)


@pytest.mark.parametrize("gap", [1e-3, 1e-9, 1e-12])
def test_the_bar_of_a_difference_is_that_of_its_terms(gap: float) -> None:
    box = minus(1, 1 - gap)
    assert box.lo <= gap <= box.hi
    assert box.width == pytest.approx(2e-11 * (1 - gap), rel=1e-3)


def test_zero_is_exact_and_products_of_what_is_not_negative_are_not() -> None:
    zero = Enclosure(0.0, 0.0)
    for other in (zero, Enclosure(1.0, inf), 5.0, Enclosure(-1.0, 1.0)):
        assert times(zero, other) == times(other, zero) == zero
    assert times(Enclosure(0.0, 1e-200), Enclosure(0.0, 1e-200)).lo == 0.0
    assert times(Enclosure(1e-200, 1e-200), Enclosure(1e-200, 1e-200)).hi > 0
    assert times(Enclosure(-1.0, 0.0), Enclosure(1.0, 1.0)).lo < -1.0
    assert positive_part(Enclosure(-2.0, -1.0)) == zero
    assert positive_part(-3.0) == zero


@pytest.mark.parametrize("bad", [nan, Enclosure(nan, 1.0), Enclosure(0.0, nan)])
def test_what_is_no_number_stays_none(bad: Number) -> None:
    good = Enclosure(1.0, 2.0)
    made = [f(a, b) for f, _ in OPERATIONS.values() for a, b in ((bad, good), (good, bad))]
    made += [positive_part(bad), times(bad, 0), times(0, bad), times(bad, bad)]
    assert all(isnan(box.lo) and isnan(box.hi) for box in made)
    assert all(map(isnan, minus(inf, inf)))
    for b in (0, Enclosure(0.0, 1.0), Enclosure(-1.0, 1.0), -2.0):
        assert all(map(isnan, over(1, b)))
    for order in ([nan, 1.0, 2.0], [2.0, nan], [1.0, nan, inf]):
        assert isnan(largest(order))
    assert largest([1.0, 3.0, 2.0]) == 3.0


def test_an_open_end_stays_open() -> None:
    assert isinf(times(Enclosure(1.0, inf), 2).hi)
    assert times(Enclosure(1.0, inf), 2).lo == pytest.approx(2.0)
    assert minus(5, Enclosure(1.0, inf)).lo == -inf
    for box in (plus(inf, 1), plus(-inf, 1), times(1e300, 1e300), minus(0, inf)):
        assert all(map(isnan, box))
    assert times(Enclosure(0.0, 1.0), Enclosure(1.0, inf)).lo == 0.0
