"""Hypotheses are three-valued, their margins unfavourable, and a prediction adds its step."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from itertools import product
from math import inf, isnan, nan
from typing import Any

import pytest

from gdconv.rigor.rounding import Enclosure
from gdconv.support.trust import Estimate, Interval
from gdconv.theory.prediction import Inequality, Prediction, ends, middle

LINE = (-1.0, 0.0, 0.5, 1.0, 2.0)
BOXES = [Enclosure(a, b) for a, b in product(LINE, LINE) if a <= b]
NUMBERS = [nan, inf, -inf]


def truth(relation: str, a: Enclosure, b: Enclosure) -> bool | None:
    """All pairs of ends agree, and so do all pairs of points between."""
    said = {
        ">=": lambda x, y: x >= y, ">": lambda x, y: x > y,
        "<=": lambda x, y: x <= y, "<": lambda x, y: x < y,
    }[relation]  # fmt: skip
    found = {said(x, y) for x in a for y in b}
    return found.pop() if len(found) == 1 else None


@pytest.mark.parametrize("relation", [">=", ">", "<=", "<"])
def test_enclosures_decide_what_all_their_points_do(relation: str) -> None:
    for a, b in product(BOXES, BOXES):
        assert Inequality("h", a, relation, b).holds is truth(relation, a, b), (a, b)


@pytest.mark.parametrize("relation", [">=", ">", "<=", "<"])
def test_whole_numbers_are_exact(relation: str) -> None:
    for a, b in product(range(-2, 3), range(-2, 3)):
        said = truth(relation, Enclosure(a, a), Enclosure(b, b))
        assert Inequality("h", a, relation, b).holds is said


@pytest.mark.parametrize(
    ("relation", "flip"), [(">=", False), (">", False), ("<=", True), ("<", True)]
)
def test_a_float_has_its_slack(relation: str, flip: bool) -> None:
    for share, expected in (
        (3e-11, True),
        (1e-11, None),
        (0.0, None),
        (-1e-11, None),
        (-3e-11, False),
    ):
        for size in (1.0, 1e-5, 1e9):
            big, small = size * (1 + share), size
            sides = (small, big) if flip else (big, small)
            assert Inequality("h", sides[0], relation, sides[1]).holds is expected
    assert Inequality("h", *((0.0, relation, 0.0))).holds is ("=" in relation)


@pytest.mark.parametrize("relation", [">=", ">", "<=", "<"])
@pytest.mark.parametrize("bad", NUMBERS)
def test_what_is_no_number_decides_nothing(relation: str, bad: float) -> None:
    for other in (1.0, 1, 0.0, Enclosure(1.0, 2.0), bad, Interval(0.0, 1.0, 0.9, 3)):
        for side in (bad, Enclosure(bad, bad), Estimate(bad, 0.0, "x"), Estimate(0.0, bad, "x")):
            assert Inequality("h", side, relation, other).holds is None
            assert Inequality("h", other, relation, side).holds is None


def test_an_open_end_does_not_matter_where_the_other_decides() -> None:
    half = Enclosure(2.0, inf)
    assert Inequality("h", half, ">", 1.0).holds is True
    assert Inequality("h", half, "<", 1.0).holds is False
    assert Inequality("h", half, ">", 3.0).holds is None
    down = Enclosure(-inf, 2.0)
    assert Inequality("h", down, "<", 3.0).holds is True
    assert Inequality("h", down, ">", 3.0).holds is False
    assert Inequality("h", down, "<", 1.0).holds is None


@pytest.mark.parametrize(
    ("lhs", "relation", "rhs", "margin"),
    [
        (3, ">=", 2, 0.5),
        (3, ">", 2, 0.5),
        (2, "<=", 3, 0.5),
        (2, "<", 3, 0.5),
        (Enclosure(3.0, 9.0), ">=", Enclosure(1.0, 2.0), 0.5),
        (Enclosure(1.0, 2.0), "<=", Enclosure(3.0, 9.0), 0.5),
        (1, ">", 0, inf),
        (0, ">", 0, 0.0),
        (-1, ">", 0, 0.0),
        (0, "<", 5, inf),
        (Estimate(3.0, 1.0, "x"), ">", Interval(0.5, 1.0, 0.9, 3), 1.0),
    ],
)
def test_margins(lhs: Any, relation: str, rhs: Any, margin: float) -> None:
    assert Inequality("h", lhs, relation, rhs).margin == margin


def test_the_margin_of_floats_is_inside_their_slack() -> None:
    assert Inequality("h", 2.0, ">=", 1.0).margin == pytest.approx(1 - 4e-11, abs=1e-12)
    assert isnan(Inequality("h", nan, ">=", 1.0).margin)


def test_ends_and_middles() -> None:
    assert ends(3) == (3.0, 3.0)
    assert ends(Enclosure(1.0, 2.0)) == (1.0, 2.0)
    assert ends(Interval(1.0, 2.0, 0.9, 3)) == (1.0, 2.0)
    assert ends(Estimate(2.0, 0.5, "x")) == (1.5, 2.5)
    assert ends(-1.0) == pytest.approx((-1 - 1e-11, -1 + 1e-11), rel=1e-15)
    for side in (Enclosure(2.0, 1.0), Interval(2.0, 1.0, 0.9, 3), Estimate(1.0, -1.0, "x"), nan):
        assert all(map(isnan, ends(side)))
    for side in (3, 3.0, Enclosure(2.0, 4.0), Interval(2.0, 4.0, 0.9, 3), Estimate(3.0, 1.0, "x")):
        assert middle(side) == 3.0
        assert isinstance(middle(side), float)


def test_rates_have_two_ends() -> None:
    assert (Prediction((), 0.5).rate_lo, Prediction((), 0.5).rate_hi) == (0.5, 0.5)
    made = Prediction((), Enclosure(0.25, 0.75))
    assert (made.rate_lo, made.rate_hi) == (0.25, 0.75)


def test_the_step_is_a_hypothesis() -> None:
    own = Inequality("own", 2, ">", 1)
    names = ["own", "the step is small enough", "eta beta < 1"]
    assert [h.name for h in Prediction((own,), 1.0, 0.5).with_step(0.1)] == names
    assert [h.name for h in Prediction((own,), 1.0).with_step(0.1)] == [names[0], names[2]]
    falls = Prediction((own,), 1.0, 0.5, decrease=lambda eta: eta)
    assert [h.name for h in falls.with_step(0.1)] == names[:2]
    small, below = Prediction((), 2.0, 0.5).with_step(0.4)
    assert (small.lhs, small.relation, small.rhs) == (0.4, "<=", 0.5)
    assert below.relation == "<"
    assert middle(below.lhs) == pytest.approx(0.8)
    assert middle(below.rhs) == 1.0


@pytest.mark.parametrize(
    ("eta", "rate", "expected"),
    [
        (0.4, 2.0, True),
        (0.6, 2.0, False),
        (0.5, 2.0, None),
        (0.4, Enclosure(1.0, 2.0), True),
        (0.6, Enclosure(1.0, 2.0), None),
        (0.6, Enclosure(1.9, 2.0), False),
        (0.4, Enclosure(nan, 2.0), None),
        (0.4, Enclosure(1.0, nan), None),
        (0.4, nan, None),
        (0.4, inf, None),
        (0.4, -inf, None),
        (nan, 2.0, None),
    ],
)
def test_both_ends_of_the_rate_are_below_one(eta: float, rate: Any, expected: bool | None) -> None:
    assert Prediction((), rate).with_step(eta)[-1].holds is expected


@pytest.mark.parametrize(
    ("eta", "limit", "expected"),
    [(0.4, 0.5, True), (0.6, 0.5, False), (0.5, 0.5, None), (0.4, inf, None), (0.4, nan, None)],
)
def test_the_largest_step(eta: float, limit: float, expected: bool | None) -> None:
    assert Prediction((), 1.0, limit).with_step(eta)[0].holds is expected


def test_defaults() -> None:
    made = Prediction((), 1.0)
    assert (made.max_step, made.note, made.prefactor, made.best_step) == (None, "", 1.0, None)
    assert (made.decrease, made.power, made.claims, made.vacuous) == (None, 1, (), "")


def test_what_a_hypothesis_rests_on_is_its_weaker_side() -> None:
    drawn, guess = Interval(1.0, 2.0, 0.9, 3), Estimate(1.0, 0.5, "a guess")
    for lhs, rhs, level, weak in (
        (1.0, Enclosure(0.0, 1.0), "float64", ()),
        (drawn, 1.0, "statistical", (drawn.words,)),
        (1, guess, "estimated", ("a guess",)),
        (guess, drawn, "estimated", ("a guess",)),
    ):
        for h in (Inequality("h", lhs, ">", rhs), Inequality("h", rhs, ">", lhs)):
            assert (h.level, h.weak) == (level, weak)


def test_what_was_predicted_is_not_changed() -> None:
    own = Inequality("own", 2, ">", 1)
    with pytest.raises(FrozenInstanceError):
        own.lhs = 0  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        Prediction((own,), 1.0).rate = 2.0  # type: ignore[misc]


def test_margins_of_numbers_below_one() -> None:
    assert Inequality("h", Enclosure(0.5, 0.5), ">", 0).margin == inf
    assert Inequality("h", 5e-324, ">", 0).margin == inf
    assert Inequality("h", Enclosure(-0.5, 2.0), ">", 0).margin == 0.0
    assert Inequality("h", 3, ">", 1).margin == 2.0
    assert Inequality("h", 3, ">", -1).margin == -4.0
