"""How a theorem without descent is checked: its cases are drawn, its statements evaluated.

config -> case (one per seed) -> findings (one per statement) -> Check, as `gdconv.checks.run` makes
it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from gdconv.checks.judge import hypothesis_row
from gdconv.support.config import PRESENTATION, Config
from gdconv.support.environment import environment
from gdconv.support.errors import InputError
from gdconv.support.trust import weakest
from gdconv.theory.claims import ClaimTheorem, Finding
from gdconv.theory.theorem import Statement

if TYPE_CHECKING:
    from gdconv.checks.result import Check

ALWAYS_READ = ("theorem", "statement", "seed", "seeds", *PRESENTATION)
"""Options that every theorem of this kind reads."""

MOST_CASES = 10**6
"""Rows of every case stay in memory, and a million cases take a day."""


@dataclass
class ClaimSetting:
    """A theorem of this kind with resolved options.

    Attributes:
        theorem: The theorem.
        config: Options, resolved.
        statements: Those that are evaluated: the one asked for, else all.
        judged: The one the verdict speaks of.
        arrays: Nothing is stored: cases are drawn from their seeds.
    """

    theorem: ClaimTheorem
    config: Config
    statements: list[Statement]
    judged: Statement
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


def prepare_claims(theorem: ClaimTheorem, config: Config) -> ClaimSetting:
    """Resolve the options of a theorem without descent.

    Args:
        theorem: The theorem.
        config: Options as given, validated.

    Returns:
        The setting.

    Raises:
        InputError: An option is given that nothing would read, or there are too many seeds.
    """
    if config.seeds > MOST_CASES:
        remedy = f"give at most {MOST_CASES}: the rows of every case stay in memory"
        raise InputError("seeds", config.seeds, remedy)
    given = {k for k, v in asdict(config).items() if v != getattr(Config(config.theorem), k)}
    for name in sorted(given - set(ALWAYS_READ) - set(theorem.reads)):
        known = ", ".join(sorted(theorem.reads)) or "none"
        remedy = f"leave it out: {theorem.id} reads {known}, statement, seed and seeds"
        raise InputError(name, getattr(config, name), remedy)
    judged = theorem.statement_named(config.statement, config.kernel)
    own = judged.defaults.get("*", {})
    asked = [judged] if config.statement else theorem.statements(config.kernel)
    chosen = None if len(asked) > 1 else judged.name  # a replay evaluates what was evaluated
    config = replace(config, statement=chosen).resolve(own, theorem.reads)
    return ClaimSetting(theorem, config, asked, judged)


def execute_claims(
    setting: ClaimSetting, progress: Callable[[str, int, int], None] | None = None
) -> Check:
    """Evaluate every statement on every case.

    Args:
        setting: From `prepare_claims`.
        progress: Called with (phase, case, last case).

    Returns:
        The check.

    Raises:
        Interrupted: The user pressed control-C; finished cases come with it.
    """
    from gdconv.checks.result import Interrupted
    from gdconv.support.threads import one_thread

    cases: list[_Case] = []
    seeds = range(setting.config.seed, setting.config.seed + setting.config.seeds)
    with one_thread():
        try:
            for run, seed in enumerate(seeds):
                cases.append(_evaluate(setting, run, seed, progress, len(seeds)))
        except KeyboardInterrupt:
            done = _check(setting, cases) if cases else None
            raise Interrupted(done, len(seeds) - len(cases)) from None
    return _check(setting, cases)


@dataclass
class _Case:
    verdicts: list[dict[str, Any]]
    hypotheses: list[dict[str, Any]]
    trace: list[dict[str, Any]]
    run: dict[str, Any]


def _evaluate(setting: ClaimSetting, run: int, seed: int, progress: Any, cases: int) -> _Case:
    began = time.perf_counter()
    theorem = setting.theorem
    case = theorem.case(setting.config, seed)
    made = _Case([], [], [], {"run": run, "seed": seed})
    for i, s in enumerate(setting.statements):
        if progress:
            done, last = run * len(setting.statements) + i, cases * len(setting.statements)
            progress(f"{theorem.id} {s.name}", done, last)
        finding = theorem.find(s, case)
        made.verdicts.append(_verdict_row(run, s.name, finding))
        rows = (*finding.hypotheses, *finding.claims)
        made.hypotheses += [hypothesis_row(run, s.name, h) for h in rows]
        made.trace += [
            {
                "run": run, "statement": s.name, "series": c.name, "x_name": c.x_name,
                "y_name": c.y_name, "x": float(x), "y": float(y),
            }
            for c in finding.series
            for x, y in zip(c.x, c.y, strict=True)
        ]  # fmt: skip
    made.run["seconds"] = time.perf_counter() - began
    return made


def _verdict_row(run: int, name: str, finding: Finding) -> dict[str, Any]:
    verdict, note, level = finding.judged()
    rank = {False: 0, None: 1, True: 2}
    worst = min(finding.claims, key=lambda c: (rank[c.holds], c.margin), default=None)
    return {
        "run": run,
        "statement": name,
        "verdict": verdict,
        "level": level,
        "claims": len(finding.claims),
        "held": sum(c.holds is True for c in finding.claims),
        "worst_margin": worst.margin if worst else float("nan"),
        "worst_step": -1,
        "first_violation": -1,
        "weakest": worst.name if worst else "",
        "note": "; ".join(part for part in (note, finding.note) if part),
    }


def _check(setting: ClaimSetting, cases: list[_Case]) -> Check:
    from gdconv.checks.result import Check

    columns = ["run", "statement", "series", "x_name", "y_name", "x", "y"]
    verdicts = pd.DataFrame([row for case in cases for row in case.verdicts])
    return Check(
        theorem=setting.theorem.id,
        title=setting.theorem.title,
        source=setting.theorem.source,
        statement=setting.judged.name,
        level=weakest(verdicts.loc[verdicts["statement"] == setting.judged.name, "level"]),
        config=setting.config.canonical(),
        environment=environment(),
        verdicts=verdicts,
        hypotheses=pd.DataFrame([row for case in cases for row in case.hypotheses]),
        trace=pd.DataFrame([row for case in cases for row in case.trace], columns=columns),
        runs=pd.DataFrame([case.run for case in cases]),
    )
