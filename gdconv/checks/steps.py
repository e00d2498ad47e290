"""Step sizes and the plan of a descent: what is to be run, and which bounds are tested on it."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log, log1p

import numpy as np

from gdconv.checks.prepare import Setting
from gdconv.checks.resolve import FALLBACK
from gdconv.compiled.ledger import DECREASE, FIXED, POSTERIOR, UNTESTED
from gdconv.descent.plan import Bound, Plan
from gdconv.rigor.arithmetic import bar
from gdconv.support.config import Config
from gdconv.support.errors import InputError
from gdconv.theory.prediction import Prediction
from gdconv.theory.theorem import Statement


@dataclass(frozen=True)
class StepSizes:
    """Step size per run.

    Attributes:
        eta: Shape (R,).
        rule: Which rule made them: number, theory or local (may be halved).
        notes: Why it was not the rule that was asked for.
    """

    eta: np.ndarray
    rule: str
    notes: tuple[str, ...] = ()


def step_sizes(setting: Setting) -> StepSizes:
    """Step size per run, and the rule that made it.

    Args:
        setting: What to run.

    Returns:
        The step sizes.

    Raises:
        InputError: The rule gives no positive finite number here.
    """
    R, fixed, resolved = len(setting.starts), setting.config.step_size(), setting.resolved
    if fixed is not None:
        return StepSizes(np.full(R, fixed), "number")
    notes: tuple[str, ...] = ()
    if setting.config.step == "theory":
        judged = resolved.a_priori.name
        allowed = [_theory_step(judged, p) for p in setting.predictions]
        if all(allowed):
            eta = np.array([float(a or 0.0) for a in allowed])
            return StepSizes(_usable(eta, "theory"), "theory")
        notes = (f"{judged} allows no step here: the local step is taken",)
    if any(start.flat for start in setting.starts):
        raise InputError("step", "local", "the Jacobian is zero at the start; give a number")
    with np.errstate(all="ignore"):
        curvatures = np.array([start.curvature for start in setting.starts])
        share = resolved.algorithm.longest_step(1.0)  # 2 for gradient descent
        eta = 0.25 * (2.0 if share is None else share) / curvatures
        return StepSizes(_usable(eta, "local"), "local", notes)


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
    config, resolved = setting.config, setting.resolved
    theorem = resolved.theorem
    bounds, limits, o_squared, drift = [], [], [], []
    for r, step in zip(runs, eta, strict=True):
        made = setting.predictions[r]
        bounds.append({s.name: _bound(s, made.get(s.name), step) for s in resolved.statements})
        judged = made.get(resolved.statement.name)
        beta, power = judged.half_life_of if judged else (0.0, 1)
        rate = power * bar(beta).hi
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
        stop_on_rise=stop_on_rise and resolved.algorithm.monotone,
        trained=resolved.trained,
        engine=config.engine,
        watch=theorem.watch,
        algorithm=resolved.algorithm,
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
        return Bound(DECREASE, coefficient=(c.lo, c.hi), followed=prediction.bounds)
    if prediction.rate is None:
        return Bound(UNTESTED, followed=prediction.bounds)
    rates = (prediction.rate_lo, prediction.rate_hi)
    return Bound(
        FIXED, rates, prediction.prefactor, power=prediction.power, followed=prediction.bounds
    )


def _limit(config: Config, eta: float, rate: float) -> int:
    steps = int(config.steps or FALLBACK["steps"])
    if config.until_bound and 0 < eta * rate < 1:
        needed = log(config.until_bound) / log1p(-eta * rate)  # may be infinite
        steps = steps if needed >= steps else ceil(needed)
    return steps
