"""Full-batch descent by any algorithm: the only training loop.

`descend` walks every replica from record to record. Between records an engine does nothing but step
and `gdconv.compiled.ledger.observe`: the compiled CPU loop (`gdconv.compiled.descent`) or batched
torch on any device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gdconv.compiled.descent import DIVERGED, DONE, ROSE, TARGET
from gdconv.compiled.ledger import UNTESTED
from gdconv.data.problem import Problem
from gdconv.descent.engine import FINITE_LIMIT, Engine
from gdconv.descent.engines import make_engine
from gdconv.descent.plan import Plan
from gdconv.descent.records import measured_steps, record_steps, share
from gdconv.models.base import Model
from gdconv.models.probes import Probe
from gdconv.support.errors import DivergenceError, InputError

STOPPED = {
    DONE: "all steps done",
    TARGET: "loss target reached",
    ROSE: "the loss rose",
    DIVERGED: "diverged",
}


@dataclass
class Outcome:
    """One finished run.

    Attributes:
        eta: Step size.
        ledger: Its `LEDGER` record.
        tests: `TEST` records by statement name.
        rows: Recorded steps, one dictionary each.
        end: The run at its last iterate.
        status: Why it ended, a code of `gdconv.compiled.descent`.
        defect_ratio: Greatest defect of a recorded step over what rounding allows.
        watched: What the plan's watch found, empty without one.
        followed: `TEST` records of further quantities, by statement and by quantity.
        algorithm: Name of the algorithm.
    """

    eta: float
    ledger: np.void
    tests: dict[str, np.void]
    rows: list[dict[str, float]]
    end: Any
    status: int
    defect_ratio: float
    watched: dict[str, float] = field(default_factory=dict)
    followed: dict[str, dict[str, np.void]] = field(default_factory=dict)
    algorithm: str = "gd"

    @property
    def steps(self) -> int:
        """Last step T."""
        return int(self.ledger["step"])

    @property
    def log_posterior(self) -> float:
        """log of the product of AP."""
        return float(self.ledger["log_posterior"])

    @property
    def c_least(self) -> float:
        """Least c_t of AP; 0 when no step was taken."""
        least = float(self.ledger["c_least"])
        return 0.0 if least == np.inf else least

    def compared(self, name: str) -> dict[str, np.void]:
        """The tests of a statement: the loss's under "", if it has one, then other quantities'."""
        own = self.tests[name]
        loss = {} if own["kind"] == UNTESTED else {"": own}
        return loss | self.followed.get(name, {})

    def compared_steps(self, name: str) -> int:
        """Last step at which that statement was compared, by its first bound."""
        floor = next((int(t["floor_step"]) for t in self.compared(name).values()), -1)
        return self.steps if floor < 0 else max(floor - 1, 0)


def descend(
    model: Model,
    problem: Problem,
    params: Any,
    plan: Plan,
    progress: Callable[[int, int], None] | None = None,
) -> list[Outcome]:
    """Run the plan's algorithm on every replica and test every bound at every step.

    Args:
        model: The model.
        problem: Data, R replicas.
        params: Start weights, R replicas.
        plan: Steps, limits, bounds.
        progress: Called with (step, last step) at every record.

    Returns:
        One outcome per replica.

    Raises:
        DivergenceError: A loss is not finite or 1e12 times its start, and the plan does not stop at
            a rise instead; `run` counts within this plan.
        InputError: Loss or gradient is not finite at the start.

    Example:
        >>> # see gdconv.checks.run.check, which prepares the plan
    """
    engine = make_engine(model, problem, params, plan)
    runs = range(len(plan.eta))
    rows: list[list[dict[str, float]]] = [[] for _ in runs]
    worst = np.zeros(len(plan.eta))
    last = int(plan.limits.max())
    probed = engine.probe()
    _refresh(engine, probed)
    sharp = measured_steps(record_steps(last)) if plan.sharpness else set()
    steepest: dict[int, Any] = {}  # where the next search for lambda_max starts, by replica
    for t in record_steps(last):
        active = engine.live()
        _advance(engine, t)
        if t > 0:
            probed = engine.probe()
            _refresh(engine, probed)
        _record(engine, rows, active, probed)
        sharp_here = t in sharp and _measure_curvature(engine, rows, active, steepest)
        if progress:
            progress(t, last)
        if not (steppers := engine.live()):
            break
        wanted, allowed = engine.expected(probed)
        _advance(engine, t + 1)
        after = engine.missed(wanted)
        for r in steppers:
            rows[r][-1]["defect"] = float(after[r])
            if sharp_here and engine.motion.algorithm.plain:
                _enter_share(engine, rows[r][-1], r)
            # an allowance that is no number leaves the share none, whatever the defect
            share = after[r] / allowed[r] if allowed[r] != 0 else float(after[r] > 0)
            worst[r] = np.maximum(worst[r], share)  # nan stays
        if ended := [r for r in steppers if engine.finished[r]]:
            _record(engine, rows, ended, probed)
    return [_outcome(engine, model, problem, plan, r, rows[r], float(worst[r])) for r in runs]


def _advance(engine: Engine, until: int) -> None:
    engine.advance(until)
    for r in [r for r, status in enumerate(engine.status.tolist()) if status == DIVERGED]:
        led = engine.ledgers[r][0]
        if led["step"] < 0:
            raise InputError(
                "start",
                "a loss or a gradient that is not finite",
                "rescale the data or the weights",
            )
        if engine.plan.stop_on_rise:
            engine.status[r] = ROSE  # a rise too steep to be seen as one
            continue
        loss = float(led["loss"])
        observed = loss > FINITE_LIMIT * float(led["loss_0"]) and np.isfinite(loss)
        step = int(led["step"]) + (0 if observed else 1)  # what is not finite is not observed
        loss = loss if observed else float("inf")
        raise DivergenceError(r, float(led["eta"]), step, loss)


def _refresh(engine: Engine, probed: Probe) -> None:
    for r, led in enumerate(engine.ledgers):
        for name in ("noise_scale", "jacobian_norm", "jacobian_error", "weight_norm"):
            led[name] = getattr(probed, name)[r]


def _record(
    engine: Engine,
    rows: list[list[dict[str, float]]],
    active: list[int],
    probed: Probe,
) -> None:
    moved = engine.distances()
    for r in active:
        if not np.isfinite(engine.ledgers[r]["loss"][0]):  # it rose beyond all numbers: run again
            continue
        if not rows[r] or rows[r][-1]["step"] != engine.ledgers[r]["step"][0]:
            extra = {name: float(v[r]) for name, v in moved.items()}
            if probed.entropy is not None:
                extra["entropy"] = float(probed.entropy[r])
            if engine.plan.jacobian_drift[r] > 0:
                least = engine.enclose_jacobian(r)
                extra |= {"sigma_J_lo": least.lo, "sigma_J_hi": least.hi}
            extra |= engine.record(r)
            rows[r].append(_row(engine, r, extra))


def _measure_curvature(
    engine: Engine,
    rows: list[list[dict[str, float]]],
    active: list[int],
    steepest: dict[int, Any],
) -> bool:
    """Columns lambda_max (estimated, -+ residual) and eta lambda_max at the record just made."""
    here = engine.parameters()
    for r in active:
        if not rows[r]:
            continue
        problem = engine.problem if engine.problem.R == 1 else engine.problem[r]
        one = here if here.R == 1 else here[r]
        point = engine.model.point(problem, one, engine.plan.trained)
        found, steepest[r] = point.sharpness_near(steepest.get(r))
        rows[r][-1] |= {
            "lambda_max_lo": found.value - found.error,
            "lambda_max_hi": found.value + found.error,
            "eta_lambda_max": float(engine.plan.eta[r]) * found.value,
        }
    return True


def _enter_share(engine: Engine, row: dict[str, float], r: int) -> None:
    """Column descent_share: the measured drop over what the descent lemma promises."""
    if "lambda_max_hi" in row:
        drop = row["loss"] - float(engine.ledgers[r]["loss"][0])
        eta, sharp = float(engine.plan.eta[r]), row["lambda_max_hi"]
        row["descent_share"] = share(drop, eta, sharp, row["grad_norm"] ** 2)


def _row(engine: Engine, r: int, extra: dict[str, float]) -> dict[str, float]:
    led = engine.ledgers[r][0]
    loss, grad_sq = float(led["loss"]), float(led["grad_sq"])
    row = {
        "step": int(led["step"]),
        "loss": loss,
        "loss_ratio": loss / float(led["loss_0"]) if led["loss_0"] > 0 else np.nan,
        "sigma_min_lo": float(led["sigma_lo"]),
        "sigma_min_hi": float(led["sigma_hi"]),
        "grad_norm": grad_sq**0.5,
        "grad_square_sum": float(led["grad_sum"]),
        "pl_ratio": grad_sq / (2 * loss) if loss > 0 else np.nan,
        **extra,
        "defect": np.nan,
        "noise": float(led["two_nu"]),
    }
    for name, test in zip(engine.names, engine.tests[r], strict=True):
        if not engine.plan.bounds[r][name].followed or test["kind"] != UNTESTED:
            row[f"bound[{name}]"] = _bound(test)
    return row


def _bound(test: Any) -> float:
    """The bound at the last step as a share of f_0; nan where it is not compared."""
    if test["kind"] < 0 or test["floor_step"] >= 0:
        return float("nan")
    return float(np.exp(test["log_bound"]))


def _outcome(
    engine: Engine,
    model: Model,
    problem: Problem,
    plan: Plan,
    r: int,
    rows: list[dict[str, float]],
    defect_ratio: float,
) -> Outcome:
    return Outcome(
        eta=float(plan.eta[r]),
        ledger=engine.ledgers[r][0],
        tests=dict(zip(engine.names, engine.tests[r], strict=True)),
        rows=rows,
        end=model.point(problem[r if problem.R > 1 else 0], engine.parameters()[r], plan.trained),
        status=int(engine.status[r]),
        defect_ratio=defect_ratio,
        watched=engine.watch.result(r) if engine.watch else {},
        followed=engine.results(r),
        algorithm=plan.algorithm.name,
    )
