"""Exponents: exact powers, noise within the interval, curved lines refused, crossovers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gdconv.support.errors import InputError
from gdconv.support.statistics import BEND, crossover, exponent, growth, student

X = np.geomspace(1e-3, 1e-2, 7)


@given(st.floats(-8, 60), st.floats(1e-3, 1e3), st.integers(2, 6))
@settings(max_examples=30)
def test_a_power_has_its_exponent(power: float, factor: float, seeds: int) -> None:
    y = factor * X[None, :] ** power * np.arange(1.0, seeds + 1)[:, None]
    found = exponent(X, y)
    assert abs(found.slope - power) < 1e-9
    assert found.distance(power).high < 1e-8
    assert found.straight
    assert (found.seeds, found.points) == (seeds, len(X))


def test_slope_and_interval_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    y = X**3 * np.exp(0.3 * rng.standard_normal((9, 7)))
    each = np.array([stats.linregress(np.log(X), np.log(row)).slope for row in y])
    found = growth(X, y)
    assert found.slope == pytest.approx(each.mean(), rel=1e-12)
    low, high = stats.t.interval(0.95, 8, each.mean(), stats.sem(each))
    assert (found.interval.low, found.interval.high) == pytest.approx((low, high), rel=1e-9)
    assert (found.interval.confidence, found.interval.samples) == (0.95, 9)


def test_interval_covers_the_law_in_its_share_of_draws() -> None:
    """400 draws: 95 % within four standard deviations."""
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        found = growth(X, X**2 * np.exp(0.1 * rng.standard_normal((6, 7))))
        held += found.interval.low <= 2 <= found.interval.high
    assert abs(held / 400 - 0.95) < 4 * (0.95 * 0.05 / 400) ** 0.5


@pytest.mark.parametrize("decades", [2, 3, 4])
def test_two_terms_are_refused_across_their_crossover(decades: int) -> None:
    """Controls: the same terms far below the crossover are a law, the wide range is labelled."""
    wide = np.geomspace(10 ** (-decades / 2), 10 ** (decades / 2), 9)
    y = np.stack([a * wide**5 + wide**6 for a in (0.8, 1.0, 1.2)])
    found = growth(wide, y)
    assert not found.straight
    assert "curved" in found.label
    with pytest.raises(InputError, match="fit a narrower range"):
        exponent(wide, y)
    low = np.geomspace(1e-3, 1e-2, 9)
    assert abs(exponent(low, np.stack([low**5 + low**6] * 2)).slope - 5) < 0.01


def test_bend_is_the_change_of_the_local_slope() -> None:
    t = np.log(X)
    y = np.exp(2 * t + 0.25 * t**2)[None].repeat(2, 0)  # local slope 2 + t/2
    found = growth(X, y)
    assert found.bend == pytest.approx(0.5 * (t[-1] - t[0]), rel=1e-9)
    assert found.bend > BEND


@given(st.floats(1e-3, 1e3), st.floats(0.5, 4))
@settings(max_examples=20)
def test_crossover_is_where_both_terms_are_equal(at: float, gap: float) -> None:
    x = at / 50
    assert crossover(x, [1.0], [(x / at) ** gap], gap) == pytest.approx(at, rel=1e-9)


def test_bad_curves_are_refused() -> None:
    good = np.ones((2, 7))
    with pytest.raises(InputError, match="a zero has no exponent"):
        growth(X, 0 * good)
    with pytest.raises(InputError, match="positive finite"):
        growth(X, np.full((2, 7), np.inf))
    with pytest.raises(InputError, match="ascending"):
        growth(X[::-1], good)
    for x, y in ((X, good[0]), (X[:2], good[:, :2]), (X, good[:, :3])):
        with pytest.raises(InputError, match="abscissae"):
            growth(x, y)
    assert student([1.0]).width == np.inf
