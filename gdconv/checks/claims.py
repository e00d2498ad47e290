"""Theorems that need no descent: identities, inequalities and laws, evaluated on drawn cases.

config -> case (one per seed) -> findings (one per statement) -> Check, as `gdconv.checks.run` makes
it.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from gdconv.checks.judge import hypothesis_row, judge_claims, trusted
from gdconv.support.config import PRESENTATION, Config
from gdconv.support.environment import environment
from gdconv.support.errors import InputError
from gdconv.support.trust import weakest
from gdconv.theory.prediction import Hypothesis, Prediction
from gdconv.theory.theorem import Statement, Theorem

if TYPE_CHECKING:
    from gdconv.checks.run import Check

ALWAYS_READ = ("theorem", "statement", "seed", "seeds", *PRESENTATION)
"""Options that every theorem of this kind reads."""

MOST_CASES = 10**6
"""Rows of every case stay in memory, and a million cases take a day."""


@dataclass(frozen=True)
class Series:
    """A curve that a statement measured; kept in the trace and drawn, both axes logarithmic.

    Attributes:
        name: What it is.
        x: Abscissae.
        y: Ordinates; what is not positive is not drawn.
        x_name: Name of the abscissa.
        y_name: Name of the ordinate.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    x_name: str = "x"
    y_name: str = "y"


@dataclass(frozen=True)
class Finding:
    """What one statement found in one case.

    Attributes:
        claims: The conclusions, three-valued.
        hypotheses: What they assume.
        note: One sentence for the table.
        vacuous: Why the claims test nothing here; empty when they do.
        series: Curves behind the claims.
    """

    claims: tuple[Hypothesis, ...]
    hypotheses: tuple[Hypothesis, ...] = ()
    note: str = ""
    vacuous: str = ""
    series: tuple[Series, ...] = ()

    def verdict(self) -> tuple[str, str]:
        """One of the five verdicts and a note.

        Returns:
            outside or undecided by the hypotheses, else what the claims say.

        Example:
            >>> Finding((Hypothesis("two is at least one", 2, ">=", 1),)).verdict()
            ('confirmed', '')
        """
        return self.judged()[:2]

    def judged(self) -> tuple[str, str, str]:
        """Verdict, note and what they rest on.

        Returns:
            outside or undecided by the hypotheses, else what the claims say; and the level.

        Example:
            >>> Finding((Hypothesis("two is at least one", 2, ">=", 1),)).judged()
            ('confirmed', '', 'float64')
        """
        held = [h.holds for h in self.hypotheses]
        if False in held:
            verdict, note = "outside", "a hypothesis is not met"
        elif None in held:
            verdict, note = "undecided", "a hypothesis is within its error bar"
        else:
            claimed = Prediction((), 0.0, claims=self.claims, vacuous=self.vacuous)
            verdict, note = judge_claims(claimed)
        return trusted(verdict, note, (*self.hypotheses, *self.claims))


class ClaimTheorem(Theorem):
    """A theorem whose statements take a case and return a `Finding`.

    Attributes:
        reads: Options that its cases depend on, with their defaults.
    """

    models: ClassVar[tuple[str, ...]] = ()
    reads: ClassVar[dict[str, Any]] = {}

    @abstractmethod
    def case(self, config: Config, seed: int) -> Any:
        """Everything the statements look at, drawn from one seed."""

    def find(self, s: Statement, case: Any) -> Finding:
        """Evaluate one statement on one case.

        Args:
            s: The statement.
            case: From `case`.

        Returns:
            What it found.
        """
        found: Any = s.predict(self, case)
        return found


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
    own = judged.settings.get("*", {})
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
    from gdconv.checks.run import Interrupted
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
    from gdconv.checks.run import Check

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
