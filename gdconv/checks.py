"""Check: one theorem on one setting, from options to verdict.

config -> problem -> parameters -> hypotheses, step, rate -> gradient descent -> trace -> Check
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from math import ceil, log, log1p
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from threadpoolctl import threadpool_limits

from gdconv import data as sources
from gdconv.config import Config
from gdconv.descent import STOPPED, Outcome, Plan, descend
from gdconv.environment import environment
from gdconv.errors import InputError
from gdconv.fused import ROSE
from gdconv.initialization import initialize, solve_scale, spread_scores
from gdconv.kernels import kernel_named
from gdconv.ledger import FIXED, POSTERIOR
from gdconv.models.multihead import MultiHeadRegression, Parameters
from gdconv.problem import Problem
from gdconv.problems import named_problem
from gdconv.start import Start
from gdconv.theorem import Hypothesis, Prediction, Statement, Theorem, theorem_named
from gdconv.verdict import Judgement, judge, worst

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FALLBACK: dict[str, Any] = {
    "kernel": "softmax", "data": "gaussian", "outputs": 1, "init": "normal", "step": "local",
    "steps": 10_000, "head_dim": 8, "heads": 8,
}  # fmt: skip
"""Defaults of last resort, behind the options given and the settings of the judged statement."""

MOST_HALVINGS = 40
"""A local step that still rises after this many halvings is given up."""

Progress = Callable[[str, int, int], None]


@dataclass
class Check:
    """Outcome of one check; tables, plots and files are made from it.

    Attributes:
        theorem: Theorem id.
        title: Its title.
        source: Its paper.
        statement: The statement that `verdict` speaks of.
        level: What the verdict certifies: float64 or float32.
        config: Every option, resolved.
        environment: Versions and machine.
        verdicts: One row per run and statement.
        hypotheses: One row per run, statement and hypothesis.
        trace: Recorded steps of every run.
        runs: One row per run.
        messages: Notes to read with the verdict.
        starts: Data and weights at the start and the end, arrays with a replica axis.
    """

    theorem: str
    title: str
    source: str
    statement: str
    level: str
    config: dict[str, Any]
    environment: dict[str, Any]
    verdicts: pd.DataFrame
    hypotheses: pd.DataFrame
    trace: pd.DataFrame
    runs: pd.DataFrame
    messages: list[str] = field(default_factory=list)
    starts: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """Worst verdict of the judged statement over all runs."""
        return self.verdict_of(self.statement)

    def verdict_of(self, statement: str) -> str:
        """Worst verdict of any statement over all runs.

        Args:
            statement: Its name.

        Returns:
            One of the five verdicts.

        Raises:
            InputError: The check has no such statement.
        """
        rows = self.verdicts[self.verdicts["statement"] == statement]
        if rows.empty:
            raise InputError("statement", statement, f"choose one of {', '.join(self.verdicts['statement'].unique())}")
        return worst(list(rows["verdict"]))

    def table(self, format: str = "text") -> str:
        """The bound-vs-empirical table as text, csv, markdown or latex."""
        from gdconv.report.tables import render

        return render(self, format)

    def plot(self, path: str | Path | None = None) -> Figure:
        """The figure: loss ratio with its bounds, sigma_min below it; written when a path is given."""
        from gdconv.report.plots import figure, save_figure

        drawn = figure(self)
        if path is not None:
            save_figure(drawn, path)
        return drawn

    def save(self, directory: str | Path) -> Path:
        """Save as a folder named by the digest of the config inside `directory`."""
        from gdconv.store import save

        return save(self, directory)

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        from gdconv.report.jsonable import to_json

        return to_json(self)


def check(theorem: str, progress: Progress | None = None, **options: Any) -> Check:
    """Check a theorem on one setting.

    Args:
        theorem: Theorem id, such as "full-gd".
        progress: Called with (phase, step, last step).
        **options: Any field of `gdconv.config.Config`.

    Returns:
        The check.

    Raises:
        InputError: An option cannot be used.

    Example:
        >>> check("full-gd", problem="stacked-witness").verdict
        'refuted'
    """
    known = {f.name for f in fields(Config)} - {"theorem"}
    for name in options:
        if name not in known:
            raise InputError(name, options[name], f"choose options among {', '.join(sorted(known))}")
    if "step" in options and options["step"] is not None:
        options["step"] = str(options["step"])
    return run_config(Config(theorem, **options), progress)


def run_config(config: Config, progress: Progress | None = None) -> Check:
    """Check what a config describes.

    Args:
        config: Options; None fields are filled from the judged statement's settings.
        progress: Called with (phase, step, last step).

    Returns:
        The check.
    """
    theorem = theorem_named(config.theorem)
    config.validate()
    setting = prepare(theorem, config)
    with threadpool_limits(1), _one_torch_thread():
        return _finish(setting, _descend_all(setting, progress))


@dataclass
class Setting:
    """Everything decided before the first step: R runs of one model."""

    theorem: Theorem
    statement: Statement
    config: Config
    model: MultiHeadRegression
    problem: Problem
    params: Parameters
    starts: list[Start]
    predictions: list[dict[str, Prediction]]
    seeds: list[int]
    messages: list[str]


def prepare(theorem: Theorem, config: Config) -> Setting:
    """Build data, weights and predictions.

    Args:
        theorem: The theorem.
        config: Validated options.

    Returns:
        The setting of all runs.
    """
    kernel = config.kernel or FALLBACK["kernel"]
    named = named_problem(config.problem, kernel, config.seed) if config.problem else None
    options = named.options if named else {}
    judged = theorem.statement_named(config.statement or options.get("statement"))
    general = judged.settings.get("*", {})
    source = config.data or general.get("data") or FALLBACK["data"]
    config = config.resolve({"statement": judged.name}, options, judged.settings.get(source, {}), general, FALLBACK)
    model = MultiHeadRegression(kernel_named(kernel))
    seeds = list(range(config.seed, config.seed + config.seeds))
    problems, weights = [], []
    for seed in seeds:
        made = named_problem(config.problem, kernel, seed) if config.problem else None
        problem = made.problem if made else _load(config, seed)
        problems.append(problem)
        weights.append(made.params if made else _weights(theorem, judged, model, problem, config, seed))
    dtype = getattr(torch, config.dtype)
    device = _device(config.device)
    problem, params = Problem.stack(problems), Parameters.stack(weights)
    starts = [Start(model, problem[r], params[r]) for r in range(len(seeds))]
    if not all(start.f_0 > 0 for start in starts):
        raise InputError("y", "a loss of zero at the start", "give other labels, weights or seeds: there is nothing to descend")
    predictions = [
        {s.name: theorem.predict(s, start) for s in theorem.statements() if not s.posterior} for start in starts
    ]
    messages = [*problem.notes]
    if note := problem.overparametrization_note(params.H):
        messages.append(note)
    return Setting(
        theorem, judged, config, model, problem.to(device, dtype), params.to(device, dtype), starts,
        predictions, seeds, messages,
    )  # fmt: skip


def _load(config: Config, seed: int) -> Problem:
    return sources.load(
        str(config.data), samples=config.samples, tokens=config.tokens, embedding=config.embedding,
        outputs=int(config.outputs or 1), target=config.target, seed=seed,
    )  # fmt: skip


def _weights(
    theorem: Theorem, judged: Statement, model: MultiHeadRegression, problem: Problem, config: Config, seed: int
) -> Parameters:
    shape = (int(config.heads or 1), problem.D, int(config.head_dim or 1), problem.D_y)
    if config.init != "theorem":
        return initialize(str(config.init), shape, seed, config.scale_list())
    if judged.posterior:
        judged = theorem.statement_named(None)

    def quality(params: Parameters) -> float:
        return Start(model, problem, params).sigma_0.lo

    def holds(params: Parameters) -> bool:
        return all(h.holds for h in theorem.predict(judged, Start(model, problem, params)).hypotheses)

    return solve_scale(spread_scores(shape, seed, quality), holds, config.margin)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise InputError("device", name, "give a device that this machine has, such as cpu") from None
    return device


def _step_sizes(setting: Setting) -> tuple[np.ndarray, bool]:
    """Step size per run, and whether it is the local one that may be halved."""
    R, fixed = len(setting.starts), setting.config.step_size()
    if fixed is not None:
        return np.full(R, fixed), False
    if setting.config.step == "theory":
        judged = setting.statement
        if judged.posterior:
            judged = setting.theorem.statement_named(None)
        allowed = [_theory_step(judged.name, p) for p in setting.predictions]
        if all(allowed):
            return np.array([float(a or 0.0) for a in allowed]), False
        setting.messages.append(f"{judged.name} allows no step here: the local step 0.5/|J_0|^2 is taken")
    norms = np.array([start.J_range[1].hi for start in setting.starts])
    if not (norms > 0).all():
        raise InputError("step", setting.config.step, "the Jacobian is zero at the start; give a number")
    return 0.5 / norms**2, True


def _theory_step(judged: str, predictions: dict[str, Prediction]) -> float | None:
    """The judged statement's step, lowered so that every statement that applies admits the run."""
    own = predictions[judged].max_step
    if not own:
        return None
    others = [p.max_step for p in predictions.values() if p.max_step and all(h.holds for h in p.hypotheses)]
    # just inside, so that rounding cannot leave "eta <= max_step" undecided
    return min([own, *others]) * (1 - 1e-9)


def _plan(setting: Setting, runs: list[int], eta: np.ndarray, local: bool) -> Plan:
    config = setting.config
    kinds, rates, prefactors, limits = [], [], [], []
    for r, step in zip(runs, eta, strict=True):
        rate = {name: (p.rate_lo, p.rate_hi) for name, p in setting.predictions[r].items()}
        kinds.append({s.name: POSTERIOR if s.posterior else FIXED for s in setting.theorem.statements()})
        rates.append(rate)
        prefactors.append({name: p.prefactor for name, p in setting.predictions[r].items()})
        limits.append(_limit(config, float(step), rate.get(setting.statement.name, (0.0, 0.0))[1]))
    return Plan(
        eta=eta,
        limits=np.array(limits),
        kinds=kinds,
        rates=rates,
        prefactors=prefactors,
        o_squared=np.array([setting.starts[r].o.lo ** 2 for r in runs]),
        target=config.until_loss or 0.0,
        stop_on_rise=local,
        trained=setting.theorem.trains,
        engine=config.engine,
    )


def _limit(config: Config, eta: float, rate: float) -> int:
    steps = int(config.steps or FALLBACK["steps"])
    if config.until_bound and 0 < eta * rate < 1:
        steps = min(steps, ceil(log(config.until_bound) / log1p(-eta * rate)))
    return steps


def _descend_all(setting: Setting, progress: Progress | None) -> list[Outcome]:
    """All runs; with the local step those that rise start again with half of it."""
    eta, local = _step_sizes(setting)
    outcomes: dict[int, Outcome] = {}
    pending = list(range(len(eta)))
    for halving in range(MOST_HALVINGS + 1):
        problem = Problem.stack([setting.problem[r] for r in pending])
        plan = _plan(setting, pending, eta[pending], local and halving < MOST_HALVINGS)
        phase = f"{setting.theorem.id} {setting.model.kernel.name}" + (f", step / {2**halving}" if halving else "")
        report = (lambda t, last: progress(phase, t, last)) if progress else None  # noqa: B023
        made = descend(setting.model, problem, setting.params[pending], plan, report)
        outcomes |= dict(zip(pending, made, strict=True))
        pending = [r for r in pending if outcomes[r].status == ROSE]
        if not pending:
            break
        eta[pending] /= 2
        setting.messages.append(f"the loss rose in run {', '.join(map(str, pending))}: restarted with half the step")
    return [outcomes[r] for r in range(len(eta))]


def _finish(setting: Setting, outcomes: list[Outcome]) -> Check:
    verdicts, hypotheses, traces, runs = [], [], [], []
    for r, (start, outcome) in enumerate(zip(setting.starts, outcomes, strict=True)):
        for s in setting.theorem.statements():
            prediction = (
                setting.theorem.predict(s, start, outcome) if s.posterior else setting.predictions[r][s.name]
            )
            judgement = judge(s.name, prediction, outcome, setting.config.dtype)
            verdicts.append({"run": r, "statement": s.name, "verdict": judgement.verdict, **judgement.row})
            hypotheses += _hypothesis_rows(r, s.name, judgement)
        traces.append(pd.DataFrame(outcome.rows).assign(run=r))
        runs.append(_run_row(r, setting.seeds[r], outcome))
    trace = pd.concat(traces, ignore_index=True)
    arrays = {"X": setting.problem.X.cpu().double().numpy(), "y": setting.problem.y.cpu().double().numpy()}
    ends = Parameters.stack([o.end.params for o in outcomes]).numpy()
    return Check(
        theorem=setting.theorem.id,
        title=setting.theorem.title,
        source=setting.theorem.source,
        statement=setting.statement.name,
        level=setting.config.dtype,
        config=setting.config.canonical(),
        environment=environment(),
        verdicts=pd.DataFrame(verdicts),
        hypotheses=pd.DataFrame(hypotheses),
        trace=trace[["run", *(c for c in trace.columns if c != "run")]],
        runs=pd.DataFrame(runs),
        messages=setting.messages,
        starts=arrays | setting.params.numpy() | {f"{k}_last": v for k, v in ends.items() if k != "W_O"},
    )


def _ends(side: Any) -> float:
    """The unfavourable end does not matter in a table: the middle is shown."""
    return float(side.mid) if hasattr(side, "mid") else float(side)


def _hypothesis_rows(run: int, name: str, judgement: Judgement) -> list[dict[str, Any]]:
    said = {True: "true", False: "false", None: "undecided"}
    return [
        {
            "run": run, "statement": name, "hypothesis": h.name, "lhs": _ends(h.lhs), "relation": h.relation,
            "rhs": _ends(h.rhs), "margin": h.margin, "holds": said[h.holds],
        }
        for h in judgement.hypotheses
    ]  # fmt: skip


def _run_row(run: int, seed: int, outcome: Outcome) -> dict[str, Any]:
    led = outcome.ledger
    return {
        "run": run,
        "seed": seed,
        "loss_first": float(led["loss_0"]),
        "loss_last": float(led["loss"]),
        "loss_ratio_last": float(led["loss"] / led["loss_0"]) if led["loss_0"] > 0 else float("nan"),
        "sigma_min_first": outcome.rows[0]["sigma_min_lo"],
        "sigma_min_least": float(led["sigma_least"]),
        "steps": outcome.steps,
        "step": outcome.eta,
        "stopped": STOPPED[outcome.status],
        "defect_ratio": outcome.defect_ratio,
        "rises": int(led["rises"]),
    }


class _one_torch_thread:  # noqa: N801
    """Small matrices with several threads can be a thousand times slower."""

    def __enter__(self) -> None:
        self.before = torch.get_num_threads()
        torch.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self.before)
