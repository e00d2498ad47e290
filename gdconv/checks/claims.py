"""How a theorem without descent is checked: its cases are drawn, its statements evaluated.

Resolved -> case (one per seed) -> finding (one per statement) -> Check
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from gdconv.checks.judge import hypothesis_row
from gdconv.checks.parallel import in_processes
from gdconv.checks.resolve import Resolved
from gdconv.checks.result import Check, Interrupted, Progress
from gdconv.support.config import Config
from gdconv.support.environment import environment
from gdconv.support.threads import one_thread
from gdconv.support.trust import weakest
from gdconv.theory.claims import Finding


@dataclass(frozen=True)
class Cases:
    """A theorem without descent: what is prepared of it is nothing but its options.

    Attributes:
        resolved: Theorem, statements and options.
        arrays: Nothing is stored: cases are drawn from their seeds.
    """

    resolved: Resolved
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def config(self) -> Config:
        """The options."""
        return self.resolved.config


def evaluate(setting: Cases, progress: Progress | None = None) -> Check:
    """Evaluate every statement on every case.

    Args:
        setting: What to evaluate.
        progress: Called with (phase, case, last case).

    Returns:
        The check.

    Raises:
        Interrupted: The user pressed control-C; finished cases come with it.
    """
    cases: list[_Case] = []
    seeds = range(setting.config.seed, setting.config.seed + setting.config.seeds)
    with one_thread():
        try:
            jobs = setting.config.jobs or 1
            told = progress if min(jobs, len(seeds)) == 1 else None  # each one tells its statements
            tasks = [(setting.resolved, r, seed, told, len(seeds)) for r, seed in enumerate(seeds)]
            with closing(in_processes(_evaluate, tasks, jobs)) as answers:
                for case in answers:
                    cases.append(case)
                    if progress and not told:
                        progress(f"{setting.resolved.theorem.id}, finished", len(cases), len(seeds))
        except KeyboardInterrupt:
            done = _check(setting.resolved, cases) if cases else None
            raise Interrupted(done, len(seeds) - len(cases)) from None
    return _check(setting.resolved, cases)


@dataclass
class _Case:
    verdicts: list[dict[str, Any]]
    hypotheses: list[dict[str, Any]]
    trace: list[dict[str, Any]]
    run: dict[str, Any]


def _evaluate(
    resolved: Resolved, run: int, seed: int, progress: Progress | None, cases: int
) -> _Case:
    began = time.perf_counter()
    theorem: Any = resolved.theorem
    case = theorem.case(resolved.config, seed)
    made = _Case([], [], [], {"run": run, "seed": seed})
    for i, s in enumerate(resolved.statements):
        if progress:
            done, last = run * len(resolved.statements) + i, cases * len(resolved.statements)
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


def _check(resolved: Resolved, cases: list[_Case]) -> Check:
    columns = ["run", "statement", "series", "x_name", "y_name", "x", "y"]
    verdicts = pd.DataFrame([row for case in cases for row in case.verdicts])
    return Check(
        theorem=resolved.theorem.id,
        title=resolved.theorem.title,
        source=resolved.theorem.source,
        statement=resolved.statement.name,
        level=weakest(verdicts.loc[verdicts["statement"] == resolved.statement.name, "level"]),
        config=resolved.config.canonical(),
        environment=environment(),
        verdicts=verdicts,
        hypotheses=pd.DataFrame([row for case in cases for row in case.hypotheses]),
        trace=pd.DataFrame([row for case in cases for row in case.trace], columns=columns),
        runs=pd.DataFrame([case.run for case in cases]),
    )
