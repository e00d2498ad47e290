"""Setting: everything that is decided before the first step, from options to a plan.

config -> problem -> parameters -> hypotheses, step, rate
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, log, log1p
from typing import Any

import numpy as np
import torch

from gdconv.checks.named import named_problem
from gdconv.checks.requirements import (
    device_named,
    require_descent,
    require_sizes,
    require_used,
    without_unused,
)
from gdconv.compiled.ledger import DECREASE, FIXED, POSTERIOR, UNTESTED
from gdconv.data.problem import Problem
from gdconv.descent.engines import runs_in_torch
from gdconv.descent.plan import Bound, Plan
from gdconv.models.families import ARCHITECTURES, Architecture
from gdconv.rigor.bars import bar
from gdconv.support.config import Config
from gdconv.support.errors import InputError
from gdconv.support.threads import one_thread
from gdconv.theory.registry import theorem_named
from gdconv.theory.theorem import Prediction, Statement, Theorem

FALLBACK: dict[str, Any] = {
    "kernel": "softmax", "data": "gaussian", "outputs": 1, "init": "normal", "step": "local",
    "steps": 10_000, "head_dim": 8, "heads": 8, "target": "digit", "margin": 1.12,
    "width": 256, "scaling": "linear", "loss": "sum", "activation": "relu",
}  # fmt: skip
"""Defaults of last resort, behind the options given and the defaults of the judged statement."""


@dataclass
class Setting:
    """Everything decided before the first step: R runs of one model."""

    theorem: Theorem
    statement: Statement
    config: Config
    architecture: Architecture
    model: Any
    problem: Problem
    params: Any
    starts: list[Any]
    predictions: list[dict[str, Prediction]]
    seeds: list[int]
    messages: list[str]

    @property
    def statements(self) -> list[Statement]:
        """The statements that speak of this kernel."""
        return self.theorem.statements(self.config.kernel, self.architecture.name)

    @property
    def trained(self) -> tuple[str, ...]:
        """Blocks that gradient descent moves."""
        return self.theorem.trains or self.architecture.trainable

    @property
    def batched(self) -> bool:
        """Whether the runs advance together (torch engine) or one after another (compiled loop)."""
        watched = self.theorem.watch is not None
        return runs_in_torch(self.model, self.problem, self.config.engine, watched)

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
        config: Options; None fields are filled from the judged statement's defaults.

    Returns:
        The setting of all runs.

    Raises:
        InputError: An option cannot be used.

    Example:
        >>> prepare(Config("full-gd", problem="stacked-witness")).config.statement
        'stacked'
    """
    theorem = theorem_named(config.validate().theorem)
    architecture = architecture_of(theorem, config.model)
    asked, kernel = config, config.kernel or FALLBACK["kernel"]
    named = None
    if config.problem:
        named = named_problem(config.problem, kernel, config.seed, architecture.name)
        if not architecture.holds(named.params):
            remedy = f"give another one: its weights are not those of the {architecture.name} model"
            raise InputError("problem", config.problem, remedy)
    options = named.options_for(theorem.id) if named else {}
    judged = theorem.statement_named(
        config.statement or options.get("statement"), kernel, architecture.name
    )
    general = judged.defaults.get("*", {})
    source = config.data or general.get("data") or FALLBACK["data"]
    config = config.resolve(
        {"statement": judged.name, "model": architecture.name},
        options, judged.defaults.get(source, {}), judged.defaults.get(architecture.name, {}),
        general, FALLBACK,
    )  # fmt: skip
    foreign = foreign_to(architecture)
    if architecture.name != theorem.models[0]:
        foreign += ("margin",)  # init theorem is that of the theorem's own model
    config = without_unused(config, foreign)
    require_used(asked, config, foreign)
    trained = theorem.trains or architecture.trainable
    with one_thread():
        problem = named.problem if named else _load(architecture, config, config.seed)
        found = architecture.sizes(config, problem, named.params if named else None)
        require_sizes(asked, found, problem.name)
        architecture.require_room(found, config.seeds, trained)
        if named and str(config.problem).endswith(".npz"):  # its replicas are the runs
            if config.seeds not in (1, problem.R):
                remedy = f"leave it out: {config.problem} fixes the start of every run"
                raise InputError("seeds", config.seeds, remedy)
            return assemble(config, problem, named.params)
        made = [
            _start(theorem, architecture, judged, config, seed)
            for seed in range(config.seed, config.seed + config.seeds)
        ]
        problems, weights = zip(*made, strict=True)
        return assemble(config, Problem.stack(problems), architecture.stack(list(weights)))


def architecture_of(theorem: Theorem, model: str | None) -> Architecture:
    """The architecture a theorem is checked on.

    Args:
        theorem: The theorem.
        model: What `--model` asks for, or None.

    Returns:
        The theorem's own, or the one asked for.

    Raises:
        InputError: The theorem does not speak of that model.

    Example:
        >>> architecture_of(theorem_named("full-gd"), "encoder")
        Traceback (most recent call last):
        gdconv.support.errors.InputError: model = encoder: full-gd speaks of multihead.
    """
    if model is not None and model not in theorem.models:
        raise InputError("model", model, f"{theorem.id} speaks of {', '.join(theorem.models)}")
    return ARCHITECTURES[model or theorem.models[0]]


def foreign_to(architecture: Architecture) -> tuple[str, ...]:
    """Options that only other architectures read.

    Args:
        architecture: The one at hand.

    Returns:
        Names of `Config` fields.
    """
    others = {o for a in ARCHITECTURES.values() for o in a.options}
    return tuple(sorted(others - set(architecture.options)))


def _start(
    theorem: Theorem, architecture: Architecture, judged: Statement, config: Config, seed: int
) -> tuple[Problem, Any]:
    """Data and weights of one seed."""
    if config.problem:
        made = named_problem(config.problem, str(config.kernel), seed, architecture.name)
        return made.problem, made.params
    problem = _load(architecture, config, seed)
    found = architecture.sizes(config, problem, None)
    if config.init != "theorem":
        return problem, architecture.draw(config, found, seed)
    model, trained = architecture.model(config, found), theorem.trains or architecture.trainable
    if judged.posterior:
        judged = theorem.statement_named(None, config.kernel, architecture.name)

    def at(params: Any) -> Any:
        return model.point(problem, params, trained)

    def holds(params: Any) -> bool:
        return all(h.holds for h in theorem.predict(judged, at(params)).hypotheses)

    base = theorem.base(found, seed, at)
    require_descent(at(base))
    return problem, theorem.solve(base, holds, float(config.margin or FALLBACK["margin"]))


def assemble(config: Config, problem: Problem, params: Any) -> Setting:
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
    theorem = theorem_named(config.theorem)
    architecture = architecture_of(theorem, config.model)
    architecture.require_match(problem, params)
    trained = theorem.trains or architecture.trainable
    found = architecture.sizes(config, problem, params)
    architecture.require_room(found, problem.R, trained)
    actual: dict[str, Any] = found | {"seeds": problem.R, "model": architecture.name}
    config = replace(config, **actual)
    model = architecture.model(config, found)
    starts = [model.point(problem[r], params[r], trained) for r in range(problem.R)]
    for start in starts:
        require_descent(start)
    spoken = theorem.statements(config.kernel, architecture.name)
    dtype = getattr(torch, config.dtype)
    device = device_named(config.device, dtype)
    return Setting(
        theorem=theorem,
        statement=theorem.statement_named(config.statement, config.kernel, architecture.name),
        config=config,
        architecture=architecture,
        model=model,
        problem=problem.to(device, dtype),
        params=params.to(device, dtype),
        starts=starts,
        predictions=[
            {s.name: theorem.predict(s, start) for s in spoken if not s.posterior}
            for start in starts
        ],
        seeds=list(range(config.seed, config.seed + problem.R)),
        messages=[*problem.notes, *architecture.notes(problem, params)],
    )


def _load(architecture: Architecture, config: Config, seed: int) -> Problem:
    """The data of one seed, labels rescaled where that is asked for."""
    problem = architecture.load(config, seed)
    return problem if config.label_norm is None else problem.with_label_norm(config.label_norm)


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
            judged = setting.theorem.statement_named(
                None, setting.config.kernel, setting.architecture.name
            )
        allowed = [
            None if judged.posterior else _theory_step(judged.name, p) for p in setting.predictions
        ]
        if all(allowed):
            return _usable(np.array([float(a or 0.0) for a in allowed]), "theory"), "theory"
        setting.messages.append(f"{judged.name} allows no step here: the local step is taken")
    if any(start.flat for start in setting.starts):
        raise InputError("step", "local", "the Jacobian is zero at the start; give a number")
    with np.errstate(all="ignore"):
        sharp = np.array([start.curvature for start in setting.starts])
        return _usable(0.5 / sharp, "local"), "local"


def _usable(eta: np.ndarray, rule: str) -> np.ndarray:
    """Step sizes, unless rounding has made one of them zero, infinite or no number."""
    bad = eta[~((eta > 1e-300) & (eta < 1e300))]
    if bad.size:
        remedy = f"that is {bad[0]:g} here; rescale the data or the weights"
        raise InputError("step", rule, remedy)
    return eta


def _theory_step(judged: str, predictions: dict[str, Prediction]) -> float | None:
    """The judged statement's step, lowered so that every statement that applies admits the run."""
    own = _own_step(predictions[judged]) if judged in predictions else None
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
        bounds.append({s.name: _bound(s, made.get(s.name), step) for s in setting.statements})
        judged = made.get(setting.statement.name)
        rate = judged.power * judged.rate_hi if judged else 0.0
        limits.append(_limit(config, float(step), rate))
        factor, lipschitz = theorem.pl_constants(setting.starts[r])
        o_squared.append(factor)
        drift.append(lipschitz)
    return Plan(
        eta=eta,
        limits=np.array(limits),
        bounds=bounds,
        o_squared=np.array(o_squared),
        jacobian_drift=np.array(drift),
        target=config.until_loss or 0.0,
        stop_on_rise=stop_on_rise,
        trained=setting.trained,
        engine=config.engine,
        watch=theorem.watch,
        sharpness=config.step == "local" if config.sharpness is None else config.sharpness,
    )


def _bound(s: Statement, prediction: Prediction | None, eta: float) -> Bound:
    """The test of one statement; without an a-priori prediction it is the a-posteriori product."""
    if s.claims:
        return Bound(UNTESTED)
    if prediction is None:
        return Bound(POSTERIOR)
    if prediction.decrease is not None:
        c = bar(prediction.decrease(float(eta)))
        return Bound(DECREASE, coefficient=(c.lo, c.hi))
    rates = (prediction.rate_lo, prediction.rate_hi)
    return Bound(FIXED, rates, prediction.prefactor, power=prediction.power)


def _limit(config: Config, eta: float, rate: float) -> int:
    steps = int(config.steps or FALLBACK["steps"])
    if config.until_bound and 0 < eta * rate < 1:
        needed = log(config.until_bound) / log1p(-eta * rate)  # may be infinite
        steps = steps if needed >= steps else ceil(needed)
    return steps
