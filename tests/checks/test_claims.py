"""Theorems without descent: verdicts, options, saving, replay, interruption, the figure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import gdconv
from gdconv.checks.claims import _verdict_row
from gdconv.checks.prepare import prepare
from gdconv.checks.replay import differences, replay
from gdconv.checks.result import Interrupted
from gdconv.checks.run import run
from gdconv.report.summary import summary
from gdconv.rigor.spectrum import Enclosure
from gdconv.support.config import Config
from gdconv.support.errors import InputError
from gdconv.theory.claims import ClaimTheorem, Finding, Series
from gdconv.theory.prediction import Inequality
from gdconv.theory.registry import tried
from gdconv.theory.theorem import statement


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
        return Finding((Inequality("x^2 >= 0", x * x, ">=", 0.0),), series=(curve,))

    @statement("wrong", proof="none")
    def wrong(self, x: float) -> Finding:
        """A number exceeds itself by one."""
        return Finding((Inequality("x >= x + 1", x, ">=", x + 1),))

    @statement("empty", proof="none")
    def empty(self, x: float) -> Finding:
        """Nothing is tested."""
        return Finding((Inequality("1 >= 1", 1, ">=", 1),), vacuous="nothing moved")

    @statement("blurred", proof="none")
    def blurred(self, x: float) -> Finding:
        """Error bars overlap."""
        return Finding((Inequality("x >= x", Enclosure(x - 1, x + 1), ">=", x),))

    @statement("elsewhere", proof="none")
    def elsewhere(self, x: float) -> Finding:
        """A hypothesis fails."""
        return Finding((), (Inequality("x < 0", x, "<", 0.0),))


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    with tried(Powers()):
        yield


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


@pytest.mark.parametrize("seeds", [10**6 + 1, 10**9, 10**15])
def test_more_cases_than_memory_holds_are_refused(seeds: int) -> None:
    with pytest.raises(InputError, match=f"^seeds = {seeds}: give at most 1000000"):
        prepare(Config("powers", seeds=seeds))
    assert prepare(Config("powers", seeds=10**6)).config.seeds == 10**6


def test_an_interruption_keeps_the_finished_cases() -> None:
    calls: list[Any] = []

    def stop(phase: str, done: int, last: int) -> None:
        calls.append(phase)
        if done >= 7:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as caught:
        run(prepare(Config("powers", seeds=3)), stop)
    assert caught.value.check is not None
    assert len(caught.value.check.runs) == 1
    assert caught.value.missing == 2


MET, UNMET = Inequality("met", 2, ">", 1), Inequality("unmet", 1, ">", 2)
OPEN = Inequality("open", Enclosure(0.0, 2.0), ">", 1.0)


@pytest.mark.parametrize(
    ("hypotheses", "claims", "vacuous", "verdict", "note"),
    [
        ((), (MET,), "", "confirmed", ""),
        ((MET,), (MET,), "idle", "vacuous", "idle"),
        ((MET,), (), "", "vacuous", "nothing is claimed"),
        ((MET,), (MET, OPEN), "", "undecided", "a claim is within its error bar"),
        ((MET,), (OPEN, UNMET), "", "refuted", "violated: unmet"),
        ((OPEN,), (UNMET,), "", "undecided", "a hypothesis is within its error bar"),
        ((OPEN, UNMET), (UNMET,), "", "outside", "a hypothesis is not met"),
        ((UNMET,), (MET,), "idle", "outside", "a hypothesis is not met"),
    ],
)
def test_a_finding(
    hypotheses: tuple[Inequality, ...],
    claims: tuple[Inequality, ...],
    vacuous: str,
    verdict: str,
    note: str,
) -> None:
    found = Finding(claims, hypotheses, "own", vacuous)
    assert found.verdict() == (verdict, note)
    assert found.judged() == (verdict, note, "float64")


def test_one_name_for_two_claims_hides_none() -> None:
    """Claims of one name count one by one: the violated one is not lost."""
    for claims in ((MET, replace(UNMET, name="met")), (replace(UNMET, name="met"), MET)):
        assert Finding(claims).verdict() == ("refuted", "violated: met")
        assert _verdict_row(0, "s", Finding(claims))["claims"] == 2


def test_the_row_of_a_finding_names_its_weakest_claim() -> None:
    none = Inequality("none", float("nan"), ">", 1.0)
    for claims, weakest, held in (
        ((MET, OPEN, UNMET), "unmet", 1),
        ((MET, OPEN), "open", 1),
        ((none, MET), "none", 1),
        ((MET, none), "none", 1),
        ((MET, replace(MET, name="tight", lhs=3, rhs=2)), "tight", 2),
    ):
        row = _verdict_row(4, "s", Finding(claims, note="own"))
        assert (row["run"], row["statement"], row["weakest"]) == (4, "s", weakest)
        assert (row["claims"], row["held"]) == (len(claims), held)
        assert (row["worst_step"], row["first_violation"], row["level"]) == (-1, -1, "float64")
        assert row["note"].endswith("own")
    assert _verdict_row(0, "s", Finding((MET, UNMET)))["worst_margin"] == -0.5
    empty = _verdict_row(0, "s", Finding(()))
    assert empty["weakest"] == ""
    assert empty["worst_margin"] != empty["worst_margin"]
    assert empty["note"] == "nothing is claimed"


def test_the_check_of_claims_has_a_row_for_everything() -> None:
    check = gdconv.check("powers", seeds=2, seed=3)
    assert list(check.runs["seed"]) == [3, 4]
    assert list(check.runs["run"]) == [0, 1]
    assert (check.runs["seconds"] >= 0).all()
    assert (check.theorem, check.title, check.source) == ("powers", "Powers of the seed", "none")
    assert (check.statement, check.level) == ("square", "float64")
    assert list(check.verdicts["statement"].unique()) == [
        "square", "wrong", "empty", "blurred", "elsewhere",
    ]  # fmt: skip
    own = check.hypotheses[check.hypotheses["statement"] == "square"]
    assert own["lhs"].tolist() == [36.0, 49.0]
    curve = check.trace[check.trace["run"] == 1]
    assert curve[["x", "y"]].to_numpy().tolist() == [[1.0, 1.0], [2.0, 4.0], [3.0, 9.0]]
    assert set(curve["series"]) == {"square"}
    assert set(curve["x_name"]) == {"x"}
    assert set(curve["y_name"]) == {"x^2"}


def test_progress_counts_statements_over_cases() -> None:
    calls: list[tuple[str, int, int]] = []
    run(prepare(Config("powers", seeds=2)), lambda *call: calls.append(call))
    assert [call[1:] for call in calls] == [(i, 10) for i in range(10)]
    assert calls[6][0] == "powers wrong"


def test_curves_have_names() -> None:
    assert (Series("c", [1], [2]).x_name, Series("c", [1], [2]).y_name) == ("x", "y")
    assert Finding((MET,)).series == Finding((MET,)).hypotheses == ()
    assert Finding((MET,)).note == Finding((MET,)).vacuous == ""
