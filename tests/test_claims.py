"""Theorems without descent: verdicts, options, saving, replay, interruption, the figure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import gdconv
from gdconv.checks import Interrupted, begin, execute
from gdconv.claims import ClaimTheorem, Finding, Series
from gdconv.config import Config
from gdconv.errors import InputError
from gdconv.prediction import Hypothesis
from gdconv.replay import differences, replay
from gdconv.report.summary import summary
from gdconv.spectrum import Enclosure
from gdconv.theorem import statement


class Powers(ClaimTheorem):
    """Two true statements, a wrong one, one that says nothing, one that cannot tell."""

    id, title, source = "powers", "Powers of the seed", "none"
    reads = {"samples": 3}

    def case(self, config: Config, seed: int) -> float:
        return float(seed + int(config.samples or 0))

    @statement("square", proof="none", default=True)
    def square(self, x: float) -> Finding:
        """Squares are not negative."""
        curve = Series("square", [1, 2, 3], [1, 4, 9], "x", "x^2")
        return Finding((Hypothesis("x^2 >= 0", x * x, ">=", 0.0),), series=(curve,))

    @statement("wrong", proof="none")
    def wrong(self, x: float) -> Finding:
        """A number exceeds itself by one."""
        return Finding((Hypothesis("x >= x + 1", x, ">=", x + 1),))

    @statement("empty", proof="none")
    def empty(self, x: float) -> Finding:
        """Nothing is tested."""
        return Finding((Hypothesis("1 >= 1", 1, ">=", 1),), vacuous="nothing moved")

    @statement("blurred", proof="none")
    def blurred(self, x: float) -> Finding:
        """Error bars overlap."""
        return Finding((Hypothesis("x >= x", Enclosure(x - 1, x + 1), ">=", x),))

    @statement("elsewhere", proof="none")
    def elsewhere(self, x: float) -> Finding:
        """A hypothesis fails."""
        return Finding((), (Hypothesis("x < 0", x, "<", 0.0),))


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gdconv.theorem.registry", lambda: {"powers": Powers()})


def test_every_verdict_comes_out() -> None:
    check = gdconv.check("powers", seeds=2, seed=1)
    found = check.verdicts.groupby("statement")["verdict"].agg(set).to_dict()
    assert found == {
        "square": {"confirmed"},
        "wrong": {"refuted"},
        "empty": {"vacuous"},
        "blurred": {"undecided"},
        "elsewhere": {"outside"},
    }
    assert check.verdict == "confirmed"
    assert len(check.runs) == 2
    json.dumps(check.to_json(), allow_nan=False)
    text = summary(check)
    assert "VERDICT square: confirmed, every claim holds in 2 runs" in text
    assert "x^2 >= 0" in text


def test_one_statement_alone_is_evaluated_when_it_is_named() -> None:
    check = gdconv.check("powers", statement="wrong")
    assert list(check.verdicts["statement"]) == ["wrong"]
    assert check.verdict == "refuted"
    for format in ("text", "csv", "markdown", "latex"):
        assert "wrong" in check.table(format)


@pytest.mark.parametrize("named", [None, "wrong"])
def test_saved_and_replayed(tmp_path: Path, named: str | None) -> None:
    check = gdconv.check("powers", statement=named, samples=5)
    place = check.save(tmp_path)
    again = gdconv.load(place)
    assert again.verdict == check.verdict
    assert (place / "figure.png").stat().st_size > 1000
    replayed = replay(again)
    assert differences(again, replayed) == []
    assert list(replayed.verdicts["statement"]) == list(check.verdicts["statement"])


def test_options_that_nothing_reads_are_refused() -> None:
    with pytest.raises(InputError, match=r"width = 4: leave it out: powers reads samples"):
        gdconv.check("powers", width=4)
    with pytest.raises(InputError, match="statement = none of these"):
        gdconv.check("powers", statement="none of these")


def test_an_interruption_keeps_the_finished_cases() -> None:
    calls: list[Any] = []

    def stop(phase: str, done: int, last: int) -> None:
        calls.append(phase)
        if done >= 7:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as caught:
        execute(begin(Config("powers", seeds=3)), stop)
    assert caught.value.check is not None
    assert len(caught.value.check.runs) == 1
    assert caught.value.missing == 2
