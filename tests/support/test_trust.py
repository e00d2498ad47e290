"""Three kinds of trust: none passes for another, and no verdict rests on the weaker two unsaid."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gdconv
from gdconv.checks.judge import hypothesis_row
from gdconv.report.jsonable import to_json
from gdconv.report.summary import summary
from gdconv.rigor.rounding import Enclosure, at_least
from gdconv.rigor.spectrum import enclose_sigma_min
from gdconv.support.config import Config
from gdconv.support.statistics import growth, student
from gdconv.support.trust import LEVELS, Estimate, Interval, weakest
from gdconv.theory.claims import ClaimTheorem, Finding, trusted
from gdconv.theory.prediction import Inequality, Prediction, ends, middle
from gdconv.theory.registry import tried
from gdconv.theory.theorem import statement

DRAWN = Interval(1.5, 2.5, 0.95, 12)
GUESS = Estimate(2.0, 0.5, "a search")
PROVED = Enclosure(1.5, 2.5)


@pytest.mark.parametrize(("low", "high"), [(1.5, 2.5), (float("nan"), 2.5), (-np.inf, np.inf)])
def test_no_kind_is_another(low: float, high: float) -> None:
    kinds: list[Any] = [Enclosure(low, high), Interval(low, high, 0.9, 3), Estimate(low, high, "x")]
    for i, one in enumerate(kinds):
        for j, other in enumerate(kinds):
            assert isinstance(one, type(other)) is (i == j)
    for weak in kinds[1:]:
        assert not isinstance(weak, tuple | int | float)
        assert not hasattr(weak, "lo")
        assert not hasattr(weak, "hi")
        with pytest.raises(TypeError):
            at_least(weak, 1.0)
        with pytest.raises(TypeError):
            _ = Prediction((), weak).rate_hi
        with pytest.raises(TypeError):
            _ = Prediction((), weak).rate_lo


def test_what_makes_a_number_decides_its_kind() -> None:
    assert isinstance(enclose_sigma_min(np.eye(2)), Enclosure)
    made = student([1.0, 2.0, 4.0], 0.9)
    assert (made.confidence, made.samples, made.method) == (0.9, 3, "Student")
    x = np.geomspace(1e-3, 1e-2, 5)
    found = growth(x, np.stack([x**2, x**2.1, x**2.2]), 0.9)
    for box in (found.interval, found.bend_interval, found.distance(2.0), found.curvature):
        assert (box.confidence, box.samples, box.method) == (0.9, 3, "Student")


def test_distance_is_that_of_the_whole_interval() -> None:
    x = np.geomspace(1e-3, 1e-2, 5)
    found = growth(x, np.stack([x**2, x**2.1, x**2.2]))
    low, high = found.interval.low, found.interval.high
    assert low < 2.1 < high
    for law, least, most in (
        (2.1, 0.0, high - 2.1),
        (1.0, low - 1, high - 1),
        (4, 4 - high, 4 - low),
    ):
        box = found.distance(law)
        assert (box.low, box.high) == pytest.approx((least, most), abs=1e-12)
    bent = replace(found, bend_interval=replace(found.bend_interval, low=-0.3, high=-0.2))
    assert (bent.curvature.low, bent.curvature.high) == (0.2, 0.3)
    assert not bent.straight


def test_ends_middles_and_words() -> None:
    assert ends(DRAWN) == ends(GUESS) == ends(PROVED) == (1.5, 2.5)
    assert middle(DRAWN) == middle(GUESS) == middle(PROVED) == middle(2.0) == middle(2) == 2.0
    assert (DRAWN.mid, DRAWN.width) == (2.0, 1.0)
    assert Interval(-np.inf, np.inf, 0.95, 1).mid == np.inf
    assert DRAWN.words == "95 % Student interval, n = 12"
    assert Interval(0.0, 1.0, 0.995, 3, "bootstrap").words == "99.5 % bootstrap interval, n = 3"
    assert GUESS.words == "a search"
    assert np.isnan(ends(Enclosure(2.0, 1.0))).all()  # no such interval


def test_levels() -> None:
    assert LEVELS == ("certified", "float64", "float32", "statistical", "estimated")
    assert [weakest(LEVELS[: i + 1]) for i in range(5)] == list(LEVELS)
    assert [weakest(LEVELS[i::-1]) for i in range(5)] == list(LEVELS)


@pytest.mark.parametrize("other", [1.0, 1, PROVED, float("nan")])
def test_the_weaker_side_is_the_level(other: Any) -> None:
    for flip in (False, True):

        def level(side: Any, flip: bool = flip) -> tuple[str, tuple[str, ...]]:
            h = Inequality("h", other, "<", side) if flip else Inequality("h", side, "<", other)
            return h.level, h.weak

        assert level(2.0) == level(PROVED) == ("float64", ())
        assert level(DRAWN) == ("statistical", (DRAWN.words,))
        assert level(GUESS) == ("estimated", (GUESS.words,))
    assert Inequality("h", DRAWN, "<", GUESS).level == "estimated"
    assert Inequality("h", DRAWN, "<", GUESS).weak == ("a search",)
    assert hypothesis_row(0, "s", Inequality("h", GUESS, "<", 3.0))["level"] == "estimated"


def proved(x: Any = 2.0) -> Inequality:
    return Inequality("proved", x, ">=", 1.0)


@pytest.mark.parametrize("verdict", ["confirmed", "refuted", "vacuous", "outside", "undecided"])
def test_no_verdict_rests_on_the_weaker_kinds_unsaid(verdict: str) -> None:
    assert trusted(verdict, "n", [proved()]) == (verdict, "n", "float64")
    said = trusted(verdict, "n", [proved(DRAWN), proved(), proved(DRAWN)])
    assert said == (verdict, f"n; statistical: {DRAWN.words}", "statistical")
    strong = verdict in ("confirmed", "refuted")
    for rows in ([proved(GUESS), proved()], [proved(DRAWN), proved(GUESS)]):
        found, note, level = trusted(verdict, "n", rows)
        assert found == ("undecided" if strong else verdict)
        assert level == "estimated"
        assert "a search" in note
        assert (DRAWN.words in note) is (rows[0].level == "statistical")
        assert (f"it would read {verdict}" in note) is strong
    for rows in ([proved()], [proved(DRAWN)]):
        found, note, level = trusted(verdict, "n", rows, "float32")
        assert found == ("undecided" if strong else verdict)
        assert ("run it in float64" in note) is strong
        assert level == weakest(["float32", rows[0].level])


class Kinds(ClaimTheorem):
    """One statement for each kind of trust."""

    id, title, source = "kinds", "Kinds", "none"

    def case(self, config: Config, seed: int) -> int:
        return seed

    @statement("proved", proof="none", default=True)
    def proved(self, seed: int) -> Finding:
        """An enclosure."""
        return Finding((proved(PROVED),))

    @statement("drawn", proof="none")
    def drawn(self, seed: int) -> Finding:
        """An interval."""
        return Finding((proved(DRAWN),), note="own note")

    @statement("wrong", proof="none")
    def wrong(self, seed: int) -> Finding:
        """An interval that misses."""
        return Finding((Inequality("h", DRAWN, ">=", 3.0),))

    @statement("guessed", proof="none")
    def guessed(self, seed: int) -> Finding:
        """An estimate in a hypothesis."""
        return Finding((proved(),), (proved(GUESS),))


@pytest.fixture
def registered() -> Iterator[None]:
    with tried(Kinds()):
        yield


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("name", "verdict", "level"),
    [
        ("proved", "confirmed", "float64"),
        ("drawn", "confirmed", "statistical"),
        ("wrong", "refuted", "statistical"),
        ("guessed", "undecided", "estimated"),
    ],
)
def test_a_check_says_what_its_verdict_rests_on(name: str, verdict: str, level: str) -> None:
    check = gdconv.check("kinds", statement=name)
    assert (check.verdict, check.level) == (verdict, level)
    made = json.loads(json.dumps(to_json(check), allow_nan=False))
    (one,) = made["statements"]
    assert made["level"] == one["level"] == level
    assert level in {h["level"] for h in one["hypotheses"]}
    words = {"float64": "", "statistical": "n = 12", "estimated": "a search"}[level]
    assert words in check.verdicts["note"].iloc[0]
    text = " ".join(summary(check).split())
    assert f"Level {level}: " in text
    assert words in text


@pytest.mark.usefixtures("registered")
def test_runs_saved_without_levels_still_load_and_print(tmp_path: Path) -> None:
    check = gdconv.check("kinds")
    assert check.level == "float64"  # of the judged statement, not of the weakest one
    old = replace(
        check,
        verdicts=check.verdicts.drop(columns="level"),
        hypotheses=check.hypotheses.drop(columns="level"),
    )
    again = gdconv.load(old.save(tmp_path))
    assert "level" not in again.verdicts
    made = to_json(again)
    assert {s["level"] for s in made["statements"]} == {"float64"}
    assert "level" not in made["statements"][0]["hypotheses"][0]
    assert summary(again).startswith("kinds")
