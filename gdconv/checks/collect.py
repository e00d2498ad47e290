"""Outcomes of a descent, judged and put into the tables of a Check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from gdconv.checks.judge import hypothesis_row, judge
from gdconv.checks.prepare import Setting
from gdconv.checks.result import Check
from gdconv.descent.loop import STOPPED, Outcome
from gdconv.descent.stall import diagnose
from gdconv.support.environment import environment
from gdconv.support.trust import weakest


@np.errstate(all="ignore")  # absurd scales give inf or nan, which no hypothesis meets
def collect(
    setting: Setting, outcomes: Sequence[Outcome], rule: str, notes: Sequence[str]
) -> Check:
    """Judge every statement on every run that is finished.

    Args:
        setting: What was run.
        outcomes: Finished runs; there may be fewer than the setting has.
        rule: What made the step sizes.
        notes: Sentences to read with the verdict.

    Returns:
        The check.
    """
    setting = setting.only(range(len(outcomes))) if len(outcomes) < len(setting.starts) else setting
    resolved = setting.resolved
    theorem, config = resolved.theorem, resolved.config
    verdicts, hypotheses, traces, runs = [], [], [], []
    messages = list(notes)
    for r, (start, outcome) in enumerate(zip(setting.starts, outcomes, strict=True)):
        for s in resolved.statements:
            made = setting.predictions[r].get(s.name) or theorem.predict(s, start, outcome)
            judgement = judge(s.name, made, outcome, config.dtype)
            said: dict[str, Any] = {"run": r, "statement": s.name, "verdict": judgement.verdict}
            verdicts.append(said | judgement.row)
            hypotheses += [hypothesis_row(r, s.name, h) for h in judgement.hypotheses]
        traces += [{"run": r} | row for row in outcome.rows]
        stall = diagnose(start, outcome, theorem.constants(outcome.end, 0.0)[1])
        messages += [f"run {r} {stall}"] if stall else []
        runs.append(_run_row(r, setting.seeds[r], outcome) | {"step_rule": rule, "stall": stall})
    trace = _frame(traces)
    last = [outcome.end.params for outcome in outcomes]
    moving = last[0].moving
    ends = {k: v for k, v in last[0].stack(last).numpy().items() if k in moving}
    judged = resolved.statement.name
    return Check(
        theorem=theorem.id,
        title=theorem.title,
        source=theorem.source,
        statement=judged,
        level=weakest(v["level"] for v in verdicts if v["statement"] == judged),
        config=config.canonical(),
        environment=environment(),
        verdicts=_frame(verdicts),
        hypotheses=_frame(hypotheses),
        trace=trace,
        runs=_frame(runs),
        messages=list(dict.fromkeys([*messages, *_descent_lemma(trace)])),
        starts=setting.arrays | {f"{k}_last": v for k, v in ends.items()},
    )


def _frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A table of rows, which pandas makes faster from columns; what a row lacks is nan."""
    names = dict.fromkeys(name for row in rows for name in row)
    return pd.DataFrame({name: [row.get(name, np.nan) for row in rows] for name in names})


def _descent_lemma(trace: pd.DataFrame) -> list[str]:
    """Measured drops against what the descent lemma promises for lambda_max(theta_t)."""
    shares = trace["descent_share"].dropna() if "descent_share" in trace else pd.Series(dtype=float)
    if shares.empty:
        return []
    sharp = trace["eta_lambda_max"].dropna()
    return [
        f"descent lemma: f_t - f_(t+1) is at least {shares.min():.3g} times eta (1 - eta lambda_max"
        f"/2) |grad f_t|^2 at {len(shares)} measured steps; eta lambda_max {sharp.min():.3g} to "
        f"{sharp.max():.3g}"
    ]


def _run_row(run: int, seed: int, outcome: Outcome) -> dict[str, Any]:
    led = outcome.ledger
    return {
        "run": run,
        "seed": seed,
        "loss_first": float(led["loss_0"]),
        "loss_last": float(led["loss"]),
        "loss_ratio_last": float(led["loss"] / led["loss_0"])
        if led["loss_0"] > 0
        else float("nan"),
        "sigma_min_first": outcome.rows[0]["sigma_min_lo"],
        "sigma_min_least": float(led["sigma_least"]),
        "steps": outcome.steps,
        "step": outcome.eta,
        "stopped": STOPPED[outcome.status],
        "defect_ratio": outcome.defect_ratio,
        "rises": int(led["rises"]),
    }
