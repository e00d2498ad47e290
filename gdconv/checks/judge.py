"""Judge one statement on one run: hypotheses and comparison, three-valued."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gdconv.descent.loop import Outcome
from gdconv.theory.claims import judge_claims, trusted
from gdconv.theory.prediction import Inequality, Prediction, middle


@dataclass(frozen=True)
class Judgement:
    """One statement on one run.

    Attributes:
        verdict: One of the five.
        hypotheses: Every hypothesis, those about the run included.
        row: The columns of `Check.verdicts` from level on.
    """

    verdict: str
    hypotheses: tuple[Inequality, ...]
    row: dict[str, Any]


def judge(name: str, prediction: Prediction, outcome: Outcome, level: str = "float64") -> Judgement:
    """Compare one prediction with one run.

    A float32 run is for study: what it would confirm or refute is undecided.

    Args:
        name: Statement.
        prediction: Hypotheses, rate and largest step.
        outcome: The finished run.
        level: Arithmetic of the run, float64 or float32.

    Returns:
        Verdict, hypotheses and table row.
    """
    steps = "gradient steps" if outcome.algorithm == "gd" else f"steps of {outcome.algorithm}"
    genuine = Inequality(
        f"the stored steps are {steps}: defect over rounding", outcome.defect_ratio, "<=", 1.0
    )
    hypotheses = (*prediction.with_step(outcome.eta), genuine)
    tests = outcome.compared(name)
    held = [h.holds for h in hypotheses]
    violated, broken = _first(tests, "first_violation")
    undecided, unclear = _first(tests, "first_undecided")
    floor, informative = _first(tests, "floor_step")[0], _first(tests, "informative_step")[0]
    silent = {q: t for q, t in tests.items() if t["informative_step"] < 0}
    if not all(h is not False for h in held):
        verdict, note = "outside", _outside_note(violated, bool(tests))
    elif None in held:
        verdict, note = "undecided", "a hypothesis is within its error bar"
    elif prediction.claims:
        verdict, note = judge_claims(prediction)
    elif violated >= 0:
        verdict, note = "refuted", f"the bound{_of(broken)} is violated from step {violated}"
    elif undecided >= 0:
        both = f"bound and {unclear or 'loss'} overlap"
        verdict, note = "undecided", f"{both} within rounding at step {undecided}"
    elif (drowned := _first(silent, "floor_step"))[0] >= 0:
        verdict, note = (
            "undecided",
            f"rounding drowns the bound{_of(drowned[1])} from step {drowned[0]}, before it "
            f"{'told anything' if drowned[1] else 'fell to 0.9'}",
        )
    elif informative < 0:
        verdict, note = "vacuous", "the bound never fell below 0.9: nothing was tested"
    else:
        verdict, note = "confirmed", f"compared until rounding, step {floor}" if floor >= 0 else ""
    rows = (*hypotheses, *prediction.claims)
    verdict, note, rests_on = trusted(verdict, note, rows, level)
    row = {"level": rests_on} | _row(tests, prediction, outcome, name, note)
    return Judgement(verdict, rows, row)


def _first(tests: dict[str, np.void], step: str) -> tuple[int, str]:
    """The first of these steps, and the quantity whose it is; -1 where there is none."""
    met = [(int(test[step]), name) for name, test in tests.items() if test[step] >= 0]
    return min(met, default=(-1, ""))


def _of(quantity: str) -> str:
    return f" of {quantity}" if quantity else ""


def hypothesis_row(run: int, statement: str, h: Inequality) -> dict[str, Any]:
    """A hypothesis or claim as a row of `Check.hypotheses`.

    Args:
        run: Which run or case.
        statement: Whose.
        h: The hypothesis.

    Returns:
        Name, both sides (their middle), margin, whether it holds, and what it rests on.

    Example:
        >>> hypothesis_row(0, "s", Inequality("four heads", 8, ">=", 4))["holds"]
        'true'
    """
    said = {True: "true", False: "false", None: "undecided"}
    return {
        "run": run, "statement": statement, "hypothesis": h.name, "lhs": middle(h.lhs),
        "relation": h.relation, "rhs": middle(h.rhs), "margin": h.margin, "holds": said[h.holds],
        "level": h.level,
    }  # fmt: skip


def _outside_note(violated: int, tested: bool) -> str:
    if not tested:
        return "no bound to compare"
    if violated >= 0:
        return f"the bound is violated from step {violated}"
    return "the bound held all the same"


def _row(
    tests: dict[str, np.void], prediction: Prediction, outcome: Outcome, name: str, note: str
) -> dict[str, Any]:
    """The columns, of the loss's bound or else of the first other one; the worst margin of all."""
    loss = bool(tests) and "" in tests
    test = next(iter(tests.values())) if tests else outcome.tests[name]
    last = outcome.compared_steps(name) if tests else 0
    log_bound = float(test["log_bound"]) if tests else np.nan
    per_step = (log_bound - float(test["log_start"])) / last if loss and last > 0 else np.nan
    if prediction.decrease is not None:
        per_step = np.nan  # no half-life: the bound is no geometric sequence
    eta, rate = outcome.eta, prediction.rate_hi
    if tests and not loss and 0 < eta * rate < 1:
        per_step = prediction.half_life_of[1] * np.log1p(-eta * rate)
    margins = [(float(t["worst_margin"]), int(t["worst_step"])) for t in tests.values()]
    worst = min((m for m in margins if m[1] >= 0), default=(np.nan, -1))
    tight = np.exp(-worst[0])
    if loss:
        tight = _tightness(prediction, outcome, log_bound, last)
    return {
        "worst_margin": worst[0],
        "worst_step": worst[1],
        "first_violation": _first(tests, "first_violation")[0],
        "half_life": float(-np.log(2) / per_step) if per_step < 0 else np.nan,
        "tightness": tight,
        "rate": rate,
        "step": eta,
        "eta_rate": eta * rate,
        "bound_last": float(np.exp(log_bound)),
        "informative_step": _first(tests, "informative_step")[0],
        "compared_until": last,
        "noise_ratio": float(test["noise_ratio"]),
        "note": "; ".join(part for part in (note, prediction.note) if part),
    }


def _tightness(prediction: Prediction, outcome: Outcome, log_bound: float, last: int) -> float:
    """Predicted over measured decrease, of the logarithm or (for a sum of squares) of the loss."""
    log_ratio = _log_ratio_at(outcome, last)  # nan at step 0, and so is what is made of it
    if prediction.decrease is not None:
        return float(np.expm1(log_bound) / np.expm1(log_ratio))
    return log_bound / log_ratio


def _log_ratio_at(outcome: Outcome, step: int) -> float:
    """log(f_t / f_0) at the last recorded step that is not past `step`; nan if it never moved."""
    ratios = [row["loss_ratio"] for row in outcome.rows if row["step"] <= step]
    return float(np.log(ratios[-1])) if ratios and 0 < ratios[-1] != 1 else float("nan")
