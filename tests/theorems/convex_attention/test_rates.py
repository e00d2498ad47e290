"""The bounds of the proximal methods: their formulas, and how near a run comes to them."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from gdconv.convex.dual import objective_enclosure
from gdconv.convex.group_lasso import Program
from gdconv.convex.solvers.first_order import Trace, accelerated_gradient, proximal_gradient
from gdconv.gallery.convex_attention.evidence import Case
from gdconv.gallery.convex_attention.rates import SLACK, allowed_step, rate_finding, rate_ratios

ONE = Program.of([[[1.0]]], [1.0], 0.5)


def at(z: float) -> np.ndarray:
    return np.full((1, 1, 1), z)


@pytest.mark.parametrize("accelerated", [False, True])
def test_the_bounds_are_the_theorems(accelerated: bool) -> None:
    """|Z_0 - Z|^2/(2 eta t) and 2 |Z_0 - Z|^2/(eta (t + 1)^2), in rational numbers."""
    Z_0, Z, eta = np.array([[[1.0], [2.0]]]), np.array([[[0.5], [-1.0]]]), 0.375
    trace = Trace(np.zeros(30), np.zeros((2, 30)), Z_0, Z_0, eta, accelerated)
    square, step = Fraction(1, 4) + 9, Fraction(3, 8)
    found = trace.bounds(Z)
    assert found[0] == np.inf
    for t in range(1, 30):
        want = 2 * square / (step * (t + 1) ** 2) if accelerated else square / (2 * step * t)
        assert found[t] == pytest.approx(float(want), rel=1e-15)
    far = Trace(np.zeros(3), np.zeros((2, 3)), Z_0, Z_0, 1e308, accelerated)
    assert 0.0 < far.bounds(Z)[2] < 1e-306  # eta t overflows, the quotient does not


def test_ratios_are_enclosed_with_the_slack_of_the_bound() -> None:
    """Values known to be 1, 1/2 and 1/4 above F(Z): the ratios, 1e-10 apart from them."""
    own = objective_enclosure(ONE, at(0.75))
    over = np.array([1.0, 0.5, 0.25])
    ends = np.stack([own.hi + over, own.lo + over])
    trace = Trace(over, ends, at(0.0), at(0.0), 0.5, False)
    found = rate_ratios(ONE, at(0.75), trace)
    want = [0.5 / 0.5625, 0.25 / 0.28125]
    assert len(found) == 2
    assert SLACK == 1e-10
    for box, ratio in zip(found, want, strict=True):
        assert box.lo == pytest.approx(ratio * (1 - 1e-10), rel=1e-13)
        assert box.hi == pytest.approx(ratio * (1 + 1e-10), rel=1e-13)
    below = Trace(over, ends - 9.0, at(0.0), at(0.0), 0.5, False)
    assert [tuple(box) for box in rate_ratios(ONE, at(0.75), below)] == [(0.0, 0.0)] * 2
    ends[1, 2] = np.nan  # overflow: left out
    assert len(rate_ratios(ONE, at(0.75), Trace(over, ends, at(0.0), at(0.0), 0.5, False))) == 1


def test_the_plain_bound_is_within_a_factor_of_two() -> None:
    """A small step on |z - 1|^2: compared with z = 4 eta t the excess is half the bound."""
    flat = Program.of([[[1.0]]], [1.0], 1e-9)
    eta, best = 1e-5, 0.0
    trace = proximal_gradient(flat, 40, eta=eta)
    for t in (1, 10, 40):
        Z = at(4 * eta * t)
        ratio = (trace.objectives[t] - flat.objective(Z)) / trace.bounds(Z)[t]
        best = max(best, ratio)
        assert ratio <= 1.0
    assert best == pytest.approx(0.5, rel=1e-2)


def test_the_accelerated_bound_is_within_a_factor_of_three() -> None:
    flat = Program.of([[[1.0]]], [1.0], 1e-9)
    eta = 1e-6
    trace = accelerated_gradient(flat, 60, eta=eta)
    ratios = [
        (trace.objectives[t] - flat.objective(at(z))) / trace.bounds(at(z))[t]
        for t in (1, 10, 60) for z in np.linspace(2, 8, 13) * eta * (t + 1) ** 2 / 4
    ]  # fmt: skip
    assert max(ratios) <= 1.0
    assert max(ratios) >= 0.33


def test_the_allowed_step_is_the_lower_end() -> None:
    assert allowed_step(ONE) == ONE.max_step().lo <= 0.5
    assert allowed_step(ONE) == pytest.approx(0.5, rel=1e-12)


@pytest.mark.parametrize("accelerated", [False, True])
def test_a_case_with_nothing_to_do_is_vacuous(accelerated: bool) -> None:
    for X, y in ((np.ones((2, 2, 1)), np.zeros(2)), (np.zeros((2, 2, 1)), np.ones(2))):
        found = rate_finding(Case(X, y, None, 5, 1, 0), accelerated)
        assert found.verdict()[0] == "vacuous"
        assert all(claim.holds for claim in found.claims)
        assert len(found.claims) == 1
