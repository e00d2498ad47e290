"""The five verdicts, each from an outcome made to deserve it."""

from __future__ import annotations

import numpy as np
import pytest
from samples import draw, model

from gdconv.descent import Outcome
from gdconv.fused import DONE
from gdconv.judge import judge
from gdconv.ledger import FIXED, new_ledger, new_tests, observe
from gdconv.spectrum import Enclosure
from gdconv.start import Start
from gdconv.theorem import Hypothesis, Prediction
from gdconv.verdict import EXIT_CODES, ORDER, worst

MET = Hypothesis("met", 2.0, ">=", 1.0)
UNMET = Hypothesis("unmet", 1.0, ">=", 2.0)
OPEN = Hypothesis("open", Enclosure(0.9, 1.1), ">=", 1.0)


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
    end = Start(model("softmax"), *draw((1, 1, 1, 1, 1, 1), 0))
    return Outcome(eta, led[0], {"s": tests[0]}, rows, end, DONE, defect)


def verdict(
    run: Outcome, *hypotheses: Hypothesis, rate: float = 1.0, max_step: float | None = None
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
