"""Check: one theorem on one setting, from options to verdict.

config -> problem -> parameters -> hypotheses, step, rate -> gradient descent -> trace -> Check
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from gdconv.checks.claims import ClaimSetting, execute_claims, prepare_claims
from gdconv.checks.judge import hypothesis_row, judge
from gdconv.checks.prepare import Setting, plan_of, prepare, step_sizes
from gdconv.checks.result import Check, Interrupted, Progress
from gdconv.compiled.descent import ROSE
from gdconv.data.problem import Problem
from gdconv.descent.loop import STOPPED, Outcome, descend
from gdconv.descent.stall import diagnose
from gdconv.support.config import Config
from gdconv.support.environment import environment
from gdconv.support.errors import DivergenceError, InputError
from gdconv.support.files import require_working_directory
from gdconv.support.interruption import deferred
from gdconv.support.threads import one_thread
from gdconv.support.trust import weakest
from gdconv.theory.claims import ClaimTheorem
from gdconv.theory.registry import theorem_named

MOST_HALVINGS = 40
"""A local step that still rises after this many halvings is given up."""

UNREAD = {
    "out": "call .save(folder) on the result",
    "json": "call .to_json() on the result",
    "quiet": "give no progress: nothing is printed here",
}
"""Options that the command line alone reads, and what does the same in Python."""


def check(theorem: str, progress: Progress | None = None, **options: Any) -> Check:
    """Check a theorem on one setting.

    Args:
        theorem: Theorem id, such as "full-gd".
        progress: Called with (phase, step, last step).
        **options: Any field of `gdconv.support.config.Config`, but for out, json and quiet, which
            the command line reads.

    Returns:
        The check.

    Raises:
        InputError: An option cannot be used.

    Example:
        >>> check("full-gd", problem="stacked-witness").verdict
        'refuted'
    """
    if options.get("step") is not None:
        options["step"] = str(options["step"])
    try:
        for name, remedy in UNREAD.items():
            if options.get(name) not in (None, False):
                raise InputError(name, options[name], f"leave it out, and {remedy}")
        config = Config.of(theorem, options)
    except InputError:
        if isinstance(theorem, str):
            theorem_named(theorem)  # an unknown id is said before an unknown option
        raise
    return execute(begin(config), progress)


def begin(config: Config) -> Setting | ClaimSetting:
    """Everything that is decided before a check starts.

    Args:
        config: Options.

    Returns:
        The setting of a descent, or of a theorem that needs none.

    Raises:
        InputError: An option cannot be used.

    Example:
        >>> begin(Config("full-gd", problem="stacked-witness")).config.statement
        'stacked'
    """
    require_working_directory()
    theorem = theorem_named(config.validate().theorem)
    if isinstance(theorem, ClaimTheorem):
        return prepare_claims(theorem, config)
    return prepare(config)


def execute(setting: Setting | ClaimSetting, progress: Progress | None = None) -> Check:
    """Descend from a prepared setting and judge, or evaluate what needs no descent.

    Args:
        setting: From `begin`, `gdconv.checks.prepare.prepare` or `assemble`.
        progress: Called with (phase, step, last step).

    Returns:
        The check.

    Raises:
        Interrupted: The user pressed control-C; the finished seeds come with it.
        DivergenceError: A run diverged; the seeds that were finished before come with it.

    Example:
        >>> execute(prepare(Config("full-gd", problem="stacked-witness"))).verdict
        'refuted'
    """
    if isinstance(setting, ClaimSetting):
        return execute_claims(setting, progress)
    R = len(setting.starts)
    # the compiled loop gains nothing from a batch: one seed after another, so that none is lost
    batches = [list(range(R))] if setting.batched else [[r] for r in range(R)]
    eta, rule = step_sizes(setting)
    outcomes: list[Outcome] = []
    with one_thread():
        try:
            for runs in batches:
                outcomes += _descend_batch(setting, runs, eta, rule == "local", progress)
        except KeyboardInterrupt:
            raise Interrupted(_finished(setting, outcomes, rule), R - len(outcomes)) from None
        except DivergenceError as error:
            error.check, error.total = _finished(setting, outcomes, rule), R
            raise
        with deferred() as pressed:
            check = _finish(setting, outcomes, rule)
        if pressed:
            raise Interrupted(check, 0)
        return check


def _finished(setting: Setting, outcomes: list[Outcome], rule: str) -> Check | None:
    """The check of the runs that were finished; None if there are none."""
    with deferred():
        return _finish(setting.first(len(outcomes)), outcomes, rule) if outcomes else None


def _descend_batch(
    setting: Setting, runs: list[int], eta: np.ndarray, local: bool, progress: Progress | None
) -> list[Outcome]:
    """Some of the runs; with the local step those that rise start again with half of it."""
    outcomes: dict[int, Outcome] = {}
    pending = runs
    for halving in range(MOST_HALVINGS + 1):
        problem = Problem.stack([setting.problem[r] for r in pending])
        plan = plan_of(setting, pending, eta[pending], local and halving < MOST_HALVINGS)
        phase = _phase(setting, pending, halving)
        report = (lambda t, last: progress(phase, t, last)) if progress else None  # noqa: B023
        try:
            made = descend(setting.model, problem, setting.params[pending], plan, report)
        except DivergenceError as e:  # it counts within the batch
            run = pending[e.run]
            raise DivergenceError(run, e.eta, e.step, e.loss, setting.seeds[run], local) from None
        outcomes |= dict(zip(pending, made, strict=True))
        pending = [r for r in pending if outcomes[r].status == ROSE]
        if not pending:
            break
        eta[pending] /= 2
        rose = ", ".join(map(str, pending))
        setting.messages.append(f"the loss rose in run {rose}: restarted with half the step")
    return [outcomes[r] for r in runs]


def _phase(setting: Setting, runs: list[int], halving: int) -> str:
    which = f"run {runs[0] + 1}" if len(runs) == 1 else f"{len(runs)} runs"
    halved = f", step / {2**halving}" if halving else ""
    what = f"{setting.theorem.id} {setting.config.kernel}"
    return f"{what}, {which} of {len(setting.starts)}{halved}"


@np.errstate(all="ignore")  # absurd scales give inf or nan, which no hypothesis meets
def _finish(setting: Setting, outcomes: list[Outcome], rule: str) -> Check:
    verdicts, hypotheses, traces, runs = [], [], [], []
    messages = list(setting.messages)
    for r, (start, outcome) in enumerate(zip(setting.starts, outcomes, strict=True)):
        for s in setting.statements:
            prediction = (
                setting.theorem.predict(s, start, outcome)
                if s.posterior
                else setting.predictions[r][s.name]
            )
            judgement = judge(s.name, prediction, outcome, setting.config.dtype)
            verdicts.append({
                "run": r,
                "statement": s.name,
                "verdict": judgement.verdict,
                **judgement.row,
            })
            hypotheses += [hypothesis_row(r, s.name, h) for h in judgement.hypotheses]
        traces.append(pd.DataFrame(outcome.rows).assign(run=r))
        G_squared = setting.theorem.constants(outcome.end, 0.0)[1]
        stall = diagnose(start, outcome, G_squared)
        if stall:
            messages.append(f"run {r} {stall}")
        row = _run_row(r, setting.seeds[r], outcome)
        runs.append(row | {"step_rule": rule, "stall": stall})
    trace = pd.concat(traces, ignore_index=True)
    messages = list(dict.fromkeys([*messages, *_descent_lemma(trace)]))
    ends = setting.architecture.stack([o.end.params for o in outcomes]).numpy()
    return Check(
        theorem=setting.theorem.id,
        title=setting.theorem.title,
        source=setting.theorem.source,
        statement=setting.statement.name,
        level=weakest(v["level"] for v in verdicts if v["statement"] == setting.statement.name),
        config=setting.config.canonical(),
        environment=environment(),
        verdicts=pd.DataFrame(verdicts),
        hypotheses=pd.DataFrame(hypotheses),
        trace=trace[["run", *(c for c in trace.columns if c != "run")]],
        runs=pd.DataFrame(runs),
        messages=messages,
        starts=setting.arrays | {f"{k}_last": v for k, v in ends.items() if k != "W_O"},
    )


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
