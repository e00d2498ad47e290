"""Setting: everything that is decided before the first step, from options to a plan.

config -> problem -> parameters -> hypotheses, step, rate
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, log, log1p
from typing import Any

import numpy as np
import torch

from gdconv import data as sources
from gdconv.config import Config
from gdconv.errors import InputError
from gdconv.initialization import initialize, solve_scale
from gdconv.kernels import kernel_named
from gdconv.ledger import DECREASE, FIXED, POSTERIOR
from gdconv.models.multihead import MultiHeadRegression, Parameters
from gdconv.plan import Bound, Plan
from gdconv.problem import Problem
from gdconv.problems import named_problem
from gdconv.requirements import (
    device_named,
    require_descent,
    require_match,
    require_room,
    require_sizes,
    require_used,
    sizes,
    without_unused,
)
from gdconv.start import Start
from gdconv.theorem import Prediction, Statement, Theorem, theorem_named
from gdconv.threads import one_thread

FALLBACK: dict[str, Any] = {
    "kernel": "softmax", "data": "gaussian", "outputs": 1, "init": "normal", "step": "local",
    "steps": 10_000, "head_dim": 8, "heads": 8, "target": "digit", "margin": 1.12,
}  # fmt: skip
"""Defaults of last resort, behind the options given and the settings of the judged statement."""


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

    @property
    def statements(self) -> list[Statement]:
        """The statements that speak of this kernel."""
        return self.theorem.statements(self.model.kernel.name)

    @property
    def batched(self) -> bool:
        """Whether the runs advance together (torch engine) or one after another (compiled loop)."""
        fits = self.problem.X.device.type == "cpu" and self.problem.X.dtype == torch.float64
        return self.config.engine == "torch" or not fits

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """Data and weights at the start by name, float64, with the replica axis."""
        data = {"X": self.problem.X, "y": self.problem.y}
        return {k: v.cpu().double().numpy() for k, v in data.items()} | self.params.numpy()

    def first(self, runs: int) -> Setting:
        """The same setting with its first runs only."""
        keep = list(range(runs))
        return replace(
            self,
            config=replace(self.config, seeds=runs),
            problem=Problem.stack([self.problem[r] for r in keep]),
            params=self.params[keep],
            starts=self.starts[:runs],
            predictions=self.predictions[:runs],
            seeds=self.seeds[:runs],
        )


def prepare(config: Config) -> Setting:
    """Build data, weights and predictions from options.

    Args:
        config: Options; None fields are filled from the judged statement's settings.

    Returns:
        The setting of all runs.

    Raises:
        InputError: An option cannot be used.

    Example:
        >>> prepare(Config("full-gd", problem="stacked-witness")).config.statement
        'stacked'
    """
    theorem = theorem_named(config.validate().theorem)
    asked, kernel = config, config.kernel or FALLBACK["kernel"]
    named = named_problem(config.problem, kernel, config.seed) if config.problem else None
    options = named.options_for(theorem.id) if named else {}
    judged = theorem.statement_named(config.statement or options.get("statement"), kernel)
    general = judged.settings.get("*", {})
    source = config.data or general.get("data") or FALLBACK["data"]
    config = config.resolve(
        {"statement": judged.name}, options, judged.settings.get(source, {}), general, FALLBACK
    )
    config = without_unused(config)
    require_used(asked, config)
    with one_thread():
        problem = named.problem if named else _load(config, config.seed)
        found = sizes(config, problem, named.params if named else None)
        require_sizes(asked, found, problem.name)
        require_room(found, config.seeds, theorem.trains)
        if named and str(config.problem).endswith(".npz"):  # its replicas are the runs
            if config.seeds not in (1, problem.R):
                remedy = f"leave it out: {config.problem} fixes the start of every run"
                raise InputError("seeds", config.seeds, remedy)
            return assemble(config, problem, named.params)
        made = [
            _start(theorem, judged, config, kernel, seed)
            for seed in range(config.seed, config.seed + config.seeds)
        ]
        problems, weights = zip(*made, strict=True)
        return assemble(config, Problem.stack(problems), Parameters.stack(list(weights)))


def _start(
    theorem: Theorem, judged: Statement, config: Config, kernel: str, seed: int
) -> tuple[Problem, Parameters]:
    """Data and weights of one seed."""
    if config.problem:
        made = named_problem(config.problem, kernel, seed)
        return made.problem, made.params
    problem, model = _load(config, seed), MultiHeadRegression(kernel_named(kernel))
    return problem, _weights(theorem, judged, model, problem, config, seed)


def assemble(config: Config, problem: Problem, params: Parameters) -> Setting:
    """The setting around given data and weights, as `prepare` builds it or a saved run stored it.

    Args:
        config: Resolved options; its sizes and number of seeds are set to those of the arrays.
        problem: Data, R replicas, float64 on the CPU.
        params: Start weights, R replicas.

    Returns:
        The setting.

    Raises:
        InputError: Data and weights do not fit each other, the loss is zero or not finite at a
            start, or the device is not there.
    """
    require_match(problem, params)
    theorem = theorem_named(config.theorem)
    found = sizes(config, problem, params)
    require_room(found, problem.R, theorem.trains)
    actual: dict[str, Any] = found | {"seeds": problem.R}
    config = replace(config, **actual)
    model = MultiHeadRegression(kernel_named(str(config.kernel)))
    starts = [Start(model, problem[r], params[r], theorem.trains) for r in range(problem.R)]
    for start in starts:
        require_descent(start)
    before = [s for s in theorem.statements(str(config.kernel)) if not s.posterior]
    messages = [*problem.notes]
    if note := problem.overparametrization_note(params.H):
        messages.append(note)
    dtype = getattr(torch, config.dtype)
    device = device_named(config.device, dtype)
    return Setting(
        theorem=theorem,
        statement=theorem.statement_named(config.statement, config.kernel),
        config=config,
        model=model,
        problem=problem.to(device, dtype),
        params=params.to(device, dtype),
        starts=starts,
        predictions=[{s.name: theorem.predict(s, start) for s in before} for start in starts],
        seeds=list(range(config.seed, config.seed + problem.R)),
        messages=messages,
    )


def _load(config: Config, seed: int) -> Problem:
    return sources.load(
        str(config.data), samples=config.samples, tokens=config.tokens, embedding=config.embedding,
        outputs=int(config.outputs or 1), target=str(config.target), seed=seed,
    )  # fmt: skip


def _weights(
    theorem: Theorem,
    judged: Statement,
    model: MultiHeadRegression,
    problem: Problem,
    config: Config,
    seed: int,
) -> Parameters:
    shape = (int(config.heads or 1), problem.D, int(config.head_dim or 1), problem.D_y)
    if config.init != "theorem":
        return initialize(str(config.init), shape, seed, config.scale_list())
    if judged.posterior:
        judged = theorem.statement_named(None, model.kernel.name)

    def at(params: Parameters) -> Start:
        return Start(model, problem, params, theorem.trains)

    def holds(params: Parameters) -> bool:
        return all(h.holds for h in theorem.predict(judged, at(params)).hypotheses)

    base = theorem.base(shape, seed, at)
    require_descent(at(base))
    return solve_scale(base, holds, float(config.margin or FALLBACK["margin"]))


def step_sizes(setting: Setting) -> tuple[np.ndarray, str]:
    """Step size per run, and the rule that made it.

    Args:
        setting: What to run.

    Returns:
        Array of shape (R,), and which rule made them: number, theory or local (may be halved).

    Raises:
        InputError: The rule gives no positive finite number here.
    """
    R, fixed = len(setting.starts), setting.config.step_size()
    if fixed is not None:
        return np.full(R, fixed), "number"
    if setting.config.step == "theory":
        judged = setting.statement
        if judged.posterior:
            judged = setting.theorem.statement_named(None, setting.model.kernel.name)
        allowed = [_theory_step(judged.name, p) for p in setting.predictions]
        if all(allowed):
            return _usable(np.array([float(a or 0.0) for a in allowed]), "theory"), "theory"
        setting.messages.append(
            f"{judged.name} allows no step here: the local step 0.5/|J_0|^2 is taken"
        )
    if not all(start.J.any() for start in setting.starts):
        raise InputError("step", "local", "the Jacobian is zero at the start; give a number")
    norms = np.array([start.J_range[1].hi for start in setting.starts])
    with np.errstate(all="ignore"):
        return _usable(0.5 / norms**2, "local"), "local"


def _usable(eta: np.ndarray, rule: str) -> np.ndarray:
    """Step sizes, unless rounding has made one of them zero, infinite or no number."""
    bad = eta[~((eta > 1e-300) & (eta < 1e300))]
    if bad.size:
        remedy = f"that is {bad[0]:g} here; rescale the data or the weights (--scales)"
        raise InputError("step", rule, remedy)
    return eta


def _theory_step(judged: str, predictions: dict[str, Prediction]) -> float | None:
    """The judged statement's step, lowered so that every statement that applies admits the run."""
    own = _own_step(predictions[judged])
    if not own:
        return None
    applicable = [p for p in predictions.values() if all(h.holds for h in p.hypotheses)]
    others = [step for p in applicable if (step := _own_step(p))]
    # just inside, so that rounding cannot leave "eta <= max_step" undecided
    return min([own, *others]) * (1 - 1e-9)


def _own_step(prediction: Prediction) -> float | None:
    return prediction.best_step or prediction.max_step


@np.errstate(all="ignore")  # absurd scales give inf or nan, which no hypothesis meets
def plan_of(setting: Setting, runs: list[int], eta: np.ndarray, stop_on_rise: bool) -> Plan:
    """The plan of some of the runs.

    Args:
        setting: What to run.
        runs: Which replicas.
        eta: Their step sizes.
        stop_on_rise: End a run at its first rise.

    Returns:
        The plan.
    """
    config, theorem = setting.config, setting.theorem
    bounds, limits, o_squared, drift = [], [], [], []
    for r, step in zip(runs, eta, strict=True):
        made = setting.predictions[r]
        bounds.append({s.name: _bound(made.get(s.name), step) for s in setting.statements})
        judged = made.get(setting.statement.name)
        limits.append(_limit(config, float(step), judged.rate_hi if judged else 0.0))
        on_B = theorem.follows == "B"
        o_squared.append(setting.starts[r].o.lo ** 2 if on_B else 0.0)
        drift.append(0.0 if on_B else theorem.constants(setting.starts[r], 0.0)[0])
    return Plan(
        eta=eta,
        limits=np.array(limits),
        bounds=bounds,
        o_squared=np.array(o_squared),
        jacobian_drift=np.array(drift),
        target=config.until_loss or 0.0,
        stop_on_rise=stop_on_rise,
        trained=theorem.trains,
        engine=config.engine,
    )


def _bound(prediction: Prediction | None, eta: float) -> Bound:
    """The test of one statement; without an a-priori prediction it is the a-posteriori product."""
    if prediction is None:
        return Bound(POSTERIOR)
    if prediction.decrease is not None:
        return Bound(DECREASE, coefficient=prediction.decrease(float(eta)))
    return Bound(FIXED, (prediction.rate_lo, prediction.rate_hi), prediction.prefactor)


def _limit(config: Config, eta: float, rate: float) -> int:
    steps = int(config.steps or FALLBACK["steps"])
    if config.until_bound and 0 < eta * rate < 1:
        needed = log(config.until_bound) / log1p(-eta * rate)  # may be infinite
        steps = steps if needed >= steps else ceil(needed)
    return steps
