"""The five verdicts, each from an outcome made to deserve it."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pytest
from samples import draw, model

from gdconv.checks.judge import hypothesis_row, judge
from gdconv.compiled.descent import DONE
from gdconv.compiled.ledger import FIXED, UNTESTED, new_ledger, new_tests, observe
from gdconv.descent.loop import Outcome
from gdconv.models.multihead.point import MultiHeadPoint
from gdconv.rigor.spectrum import Enclosure
from gdconv.support.trust import Estimate, Interval
from gdconv.theory.claims import judge_claims
from gdconv.theory.theorem import Inequality, Prediction
from gdconv.theory.verdict import EXIT_CODES, ORDER, worst

MET = Inequality("met", 2.0, ">=", 1.0)
UNMET = Inequality("unmet", 1.0, ">=", 2.0)
OPEN = Inequality("open", Enclosure(0.9, 1.1), ">=", 1.0)


def outcome(
    factor: float,
    rate: float,
    steps: int = 60,
    noise: float = 1e-15,
    eta: float = 0.1,
    defect: float = 0.1,
) -> Outcome:
    """A run whose loss falls by a constant factor."""
    led, tests = new_ledger(eta, 1.0), new_tests([FIXED], [float(np.log1p(-eta * rate))])
    led["noise_scale"] = noise
    rows = []
    for t in range(steps):
        observe(led[0], tests, factor**t, 2 * factor**t, 1.0, 1.0)
        rows.append({"step": float(t), "loss_ratio": factor**t})
    end = MultiHeadPoint(model("softmax"), *draw((1, 1, 1, 1, 1, 1), 0))
    return Outcome(eta, led[0], {"s": tests[0]}, rows, end, DONE, defect)


def verdict(
    run: Outcome, *hypotheses: Inequality, rate: float = 1.0, max_step: float | None = None
) -> str:
    """Verdict of the only statement."""
    return judge("s", Prediction(hypotheses, rate, max_step), run).verdict


def test_confirmed() -> None:
    assert verdict(outcome(0.8, 1.0), MET) == "confirmed"


def test_refuted_only_under_the_hypotheses() -> None:
    run = outcome(0.95, 1.0)
    assert verdict(run, MET) == "refuted"
    assert verdict(run, MET, UNMET) == "outside"
    assert "violated from step 1" in judge("s", Prediction((UNMET,), 1.0), run).row["note"]


def test_vacuous_when_the_bound_hardly_falls() -> None:
    assert verdict(outcome(0.8, 0.01, steps=50), MET, rate=0.01) == "vacuous"


def test_outside_when_the_step_is_too_large() -> None:
    assert verdict(outcome(0.8, 1.0), MET, max_step=0.05) == "outside"
    assert verdict(outcome(0.8, 1.0), MET, max_step=0.2) == "confirmed"


def test_outside_when_the_iterates_are_not_gradient_descent() -> None:
    assert verdict(outcome(0.8, 1.0, defect=3.0), MET) == "outside"


def test_undecided_hypothesis_is_never_a_pass() -> None:
    assert verdict(outcome(0.8, 1.0), MET, OPEN) == "undecided"
    assert verdict(outcome(0.95, 1.0), OPEN) == "undecided"  # nor a refutation


def test_undecided_when_rounding_drowns_the_bound() -> None:
    assert verdict(outcome(0.8, 1.0, noise=1e-2), MET) == "undecided"
    assert verdict(outcome(0.9, 1.0), MET) == "undecided"  # equality within the error bar


def test_tightness_is_one_for_an_exact_bound_and_half_for_its_root() -> None:
    row = judge("s", Prediction((MET,), 1.0), outcome(0.81, 1.0)).row
    assert row["tightness"] == pytest.approx(0.5)
    assert row["half_life"] == pytest.approx(np.log(2) / -np.log(0.9))


def test_worst_and_exit_codes() -> None:
    assert [worst(list(ORDER[i:])) for i in range(5)] == list(ORDER)
    assert EXIT_CODES == {"confirmed": 0, "refuted": 1, "vacuous": 3, "outside": 3, "undecided": 3}


def recorded(steps: int = 20, eta: float = 0.5, ratios: Any = None, **fields: Any) -> Outcome:
    """A run with the test record given outright."""
    led, tests = new_ledger(eta, 1.0), new_tests([FIXED], [-0.1])
    led["step"] = steps
    base = {"worst_margin": 0.25, "worst_step": 7, "log_bound": -2.0, "informative_step": 3}
    for name, value in (base | fields).items():
        tests[name] = value
    ratios = {0: 1.0, steps: float(np.exp(-4.0))} if ratios is None else ratios
    rows = [{"step": float(t), "loss_ratio": x} for t, x in ratios.items()]
    end = MultiHeadPoint(model("softmax"), *draw((1, 1, 1, 1, 1, 1), 0))
    return Outcome(eta, led[0], {"s": tests[0]}, rows, end, DONE, 0.1)


@pytest.mark.parametrize(
    ("fields", "verdict", "note"),
    [
        ({}, "confirmed", ""),
        ({"floor_step": 0}, "confirmed", "compared until rounding, step 0"),
        ({"floor_step": 9}, "confirmed", "compared until rounding, step 9"),
        ({"informative_step": 0}, "confirmed", ""),
        (
            {"informative_step": 0, "floor_step": 5},
            "confirmed",
            "compared until rounding, step 5",
        ),
        ({"informative_step": -1}, "vacuous", "the bound never fell below 0.9: nothing was tested"),
        (
            {"informative_step": -1, "floor_step": 0},
            "undecided",
            "rounding drowns the bound from step 0, before it fell to 0.9",
        ),
        ({"first_violation": 0}, "refuted", "the bound is violated from step 0"),
        (
            {"first_violation": 4, "first_undecided": 2},
            "refuted",
            "the bound is violated from step 4",
        ),
        (
            {"first_undecided": 0},
            "undecided",
            "bound and loss overlap within rounding at step 0",
        ),
        (
            {"first_undecided": 6, "informative_step": -1},
            "undecided",
            "bound and loss overlap within rounding at step 6",
        ),
    ],
)
def test_every_branch_of_the_record(fields: dict[str, int], verdict: str, note: str) -> None:
    found = judge("s", Prediction((MET,), 1.0), recorded(**fields))
    assert (found.verdict, found.row["note"]) == (verdict, note)
    assert found.row["level"] == "float64"
    said = judge("s", Prediction((MET,), 1.0, note="own"), recorded(**fields)).row["note"]
    assert said == ("; ".join([note, "own"]) if note else "own")


@pytest.mark.parametrize(
    ("fields", "note"),
    [
        ({}, "the bound held all the same"),
        ({"first_violation": 0}, "the bound is violated from step 0"),
        ({"kind": UNTESTED, "first_violation": 3}, "no bound to compare"),
    ],
)
def test_outside_says_what_the_bound_did(fields: dict[str, int], note: str) -> None:
    for hypotheses in ((UNMET,), (OPEN, UNMET), (UNMET, MET)):
        found = judge("s", Prediction(hypotheses, 1.0), recorded(**fields))
        assert (found.verdict, found.row["note"]) == ("outside", note)


def test_an_open_hypothesis_says_so() -> None:
    found = judge("s", Prediction((MET, OPEN), 1.0), recorded())
    assert (found.verdict, found.row["note"]) == (
        "undecided",
        "a hypothesis is within its error bar",
    )


def test_the_row_of_a_tested_bound() -> None:
    made = judge("s", Prediction((MET,), Enclosure(0.5, 0.75)), recorded(noise_ratio=0.125))
    assert made.row == {
        "level": "float64",
        "worst_margin": 0.25,
        "worst_step": 7,
        "first_violation": -1,
        "half_life": pytest.approx(np.log(2) / 0.1),
        "tightness": pytest.approx(0.5),
        "rate": 0.75,
        "step": 0.5,
        "eta_rate": 0.375,
        "bound_last": pytest.approx(np.exp(-2.0)),
        "informative_step": 3,
        "compared_until": 20,
        "noise_ratio": 0.125,
        "note": "",
    }
    assert [h.name for h in made.hypotheses] == [
        "met",
        "eta beta < 1",
        "the stored steps are gradient steps: defect over rounding",
    ]
    assert (made.hypotheses[-1].lhs, made.hypotheses[-1].relation, made.hypotheses[-1].rhs) == (
        0.1,
        "<=",
        1.0,
    )


def row(decrease: bool = False, **fields: Any) -> dict[str, Any]:
    """The row of a record."""
    slope = (lambda eta: eta) if decrease else None
    return judge("s", Prediction((MET,), 0.5, decrease=slope), recorded(**fields)).row


def test_the_row_where_something_is_missing() -> None:
    untested = row(kind=UNTESTED, worst_step=-1)
    assert np.isnan([
        untested[k] for k in ("worst_margin", "half_life", "tightness", "bound_last")
    ]).all()
    assert untested["compared_until"] == 0
    assert row(worst_step=0)["worst_margin"] == 0.25
    # a prefactor is no part of the fall per step
    assert row(log_start=1.0)["half_life"] == pytest.approx(np.log(2) * 20 / 3)
    assert np.isnan(row(log_bound=0.0)["half_life"])
    assert np.isnan(row(log_bound=1.0)["half_life"])
    # nothing was compared, or after one step only
    assert np.isnan([row(floor_step=0)[k] for k in ("half_life", "tightness")]).all()
    assert row(steps=1)["half_life"] == pytest.approx(np.log(2) / 2)
    assert row(steps=1)["tightness"] == pytest.approx(0.5)


def test_tightness_reads_the_last_record_that_was_compared() -> None:
    ratios = {0: 1.0, 4: float(np.exp(-1.0)), 8: float(np.exp(-3.0)), 20: float(np.exp(-8.0))}
    assert row(ratios=ratios)["tightness"] == pytest.approx(2 / 8)
    assert row(ratios=ratios, floor_step=9)["tightness"] == pytest.approx(2 / 3)
    assert row(ratios=ratios, floor_step=8)["tightness"] == pytest.approx(2.0)
    for nothing in ({}, {0: 1.0}, {0: 1.0, 20: 0.0}, {0: 1.0, 20: -1.0}, {0: 1.0, 20: np.nan}):
        assert np.isnan(row(ratios=nothing)["tightness"])


def test_tightness_of_a_sum_of_squares_compares_the_falls() -> None:
    found = row(decrease=True)
    assert np.isnan(found["half_life"])
    assert found["tightness"] == pytest.approx((1 - np.exp(-2.0)) / (1 - np.exp(-4.0)))


def test_claims_decide_instead_of_the_bound() -> None:
    one, two = Inequality("one", 2, ">", 1), Inequality("two", 1, ">", 2)
    cases = [
        ((one,), "", "confirmed", ""),
        ((one, OPEN), "", "undecided", "a claim is within its error bar"),
        ((one, two), "", "refuted", "violated: two"),
        ((OPEN, two, UNMET), "idle", "refuted", "violated: two, unmet"),
        ((one,), "idle", "vacuous", "idle"),
    ]
    for claims, vacuous, verdict, note in cases:
        made = Prediction((MET,), 0.0, claims=claims, vacuous=vacuous)
        found = judge("s", made, recorded(first_violation=2))
        assert (found.verdict, found.row["note"]) == (verdict, note)
        assert found.hypotheses[-len(claims) :] == claims
        assert judge_claims(made) == (verdict, note)
        unmet = replace(made, hypotheses=(UNMET,))
        assert judge("s", unmet, recorded()).verdict == "outside"
    assert judge_claims(Prediction((), 0.0)) == ("vacuous", "nothing is claimed")


@pytest.mark.parametrize("level", ["float64", "float32"])
def test_float32_decides_nothing(level: str) -> None:
    for fields, verdict in (({}, "confirmed"), ({"first_violation": 1}, "refuted")):
        found = judge("s", Prediction((MET,), 1.0), recorded(**fields), level)
        assert found.row["level"] == level
        if level == "float64":
            assert found.verdict == verdict
        else:
            assert found.verdict == "undecided"
            said = f"float32 is for study, it would read {verdict}: run it in float64"
            assert found.row["note"] == said
    idle = judge("s", Prediction((MET,), 1.0), recorded(informative_step=-1), level)
    assert idle.verdict == "vacuous"


def test_a_refutation_beats_the_rate_from_below_too() -> None:
    """0.9 < 0.91 = the fall of the loss < 0.92: the upper end is violated, the lower one is not."""
    for low, verdict in ((0.8, "undecided"), (0.95, "refuted")):
        made = Prediction((MET,), Enclosure(low, 1.0))
        led, eta = new_ledger(0.1, 1.0), 0.1
        slack = float(np.log1p(-eta * low) - np.log1p(-eta))
        tests = new_tests([FIXED], [float(np.log1p(-eta))], log_slacks=[slack])
        led["noise_scale"] = 1e-15
        for t in range(30):
            observe(led[0], tests, 0.91**t, 2 * 0.91**t, 1.0, 1.0)
        run = replace(recorded(eta=eta), ledger=led[0], tests={"s": tests[0]})
        assert judge("s", made, run).verdict == verdict


def test_rows_of_hypotheses() -> None:
    drawn = Interval(1.0, 3.0, 0.95, 4)
    for h, holds in ((MET, "true"), (UNMET, "false"), (OPEN, "undecided")):
        found = hypothesis_row(3, "s", h)
        assert (found["run"], found["statement"], found["hypothesis"]) == (3, "s", h.name)
        assert (found["relation"], found["holds"], found["margin"]) == (">=", holds, h.margin)
    found = hypothesis_row(0, "s", Inequality("h", drawn, "<", Enclosure(4.0, 6.0)))
    assert (found["lhs"], found["rhs"], found["level"]) == (2.0, 5.0, "statistical")


def test_an_estimate_neither_confirms_nor_refutes_a_run() -> None:
    guess = Inequality("guess", Estimate(2.0, 0.1, "a guess"), ">", 1.0)
    for fields, verdict in (({}, "confirmed"), ({"first_violation": 1}, "refuted")):
        for level in ("float64", "float32"):
            found = judge("s", Prediction((MET, guess), 1.0), recorded(**fields), level)
            assert (found.verdict, found.row["level"]) == ("undecided", "estimated")
            assert found.row["note"] == f"it would read {verdict}; estimated: a guess"


def test_a_judgement_is_not_changed() -> None:
    found = judge("s", Prediction((MET,), 1.0), recorded())
    with pytest.raises(FrozenInstanceError):
        found.verdict = "refuted"  # type: ignore[misc]
