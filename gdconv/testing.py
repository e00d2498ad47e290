"""Assertions for users' own tests: a check is confirmed, a loss curve is linear, a descent holds.

They raise AssertionError with both sides at the first violating step. Arrays may be lists, NumPy
or torch.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gdconv.errors import InputError
from gdconv.report.source import CheckLike

INFORMATIVE = 0.9
"""A bound that never falls below this share of its start has tested nothing."""

EXPLAIN = {
    "refuted": "the bound is violated beyond rounding error although its hypotheses hold",
    "undecided": "rounding error is as large as the difference; use float64 or fewer steps",
    "outside": "a hypothesis is not met, so the theorem says nothing here",
    "vacuous": "the bound never fell below 0.9 of its start; give more steps",
}


def assert_confirmed(check: CheckLike, statement: str | None = None) -> None:
    """The check is `confirmed` in every run.

    Args:
        check: A check.
        statement: Name of the statement; None for the judged one.

    Raises:
        AssertionError: Another verdict; the message names runs, steps and unmet hypotheses.
        InputError: The check has no such statement.

    Example:
        >>> from gdconv.report.example import example_check
        >>> assert_confirmed(example_check(), "per-head")
        >>> assert_confirmed(example_check(), "kernel")
        Traceback (most recent call last):
            ...
        AssertionError: full-gd, kernel: not confirmed in 2 of 2 runs
          run 0: vacuous, worst margin 0.142 (ln) at step 1: ...
          run 1: vacuous, worst margin 0.177 (ln) at step 1: ...
    """
    name = statement or check.statement
    known = list(dict.fromkeys(check.verdicts["statement"]))
    if name not in known:
        raise InputError("statement", name, f"choose one of {', '.join(known)}")
    rows = check.verdicts[check.verdicts["statement"] == name]
    bad = rows[rows["verdict"] != "confirmed"]
    if bad.empty:
        return
    lines = [f"{check.theorem}, {name}: not confirmed in {len(bad)} of {len(rows)} runs"]
    row: Any
    for row in bad.itertuples():
        where = f" at step {row.first_violation:.0f}" if row.first_violation >= 0 else ""
        margin = f"worst margin {row.worst_margin:.3g} (ln) at step {row.worst_step}"
        lines.append(f"  run {row.run}: {row.verdict}{where}, {margin}: {EXPLAIN[row.verdict]}")
    sides = check.hypotheses
    unmet = sides[(sides["statement"] == name) & (sides["holds"] != "true")]
    for row in unmet.itertuples():
        lines.append(
            f"  run {row.run}: {row.hypothesis}: {row.lhs:.4g} {row.relation} {row.rhs:.4g} "
            f"is {row.holds}"
        )
    raise AssertionError("\n".join(lines))


def assert_linear_rate(
    losses: Any,
    eta: float,
    rate: float,
    *,
    noise: float = 1e-12,
    start: int = 0,
    allow_vacuous: bool = False,
) -> None:
    """The losses fall at least linearly: f_t <= (1 - eta rate)^(t - start) f_start at every step.

    Args:
        losses: f_0 ... f_T of consecutive steps, shape (T + 1,), non-negative.
        eta: Step size.
        rate: Rate beta per unit step size, so 0 < eta rate < 1.
        noise: Relative tolerance on f_t, plus the same share of f_start for rounding at the floor
            squared
            (`noise`^2 f_start): f_t <= bound (1 + noise) + noise^2 f_start.
        start: Step that counts as the beginning; earlier ones are ignored.
        allow_vacuous: Accept a bound that never falls below 0.9 of its start.

    Raises:
        AssertionError: First step that violates the bound, NaN or infinite losses, or a vacuous
            test.
        InputError: `eta`, `rate`, `start`, `noise` or the shape of `losses` cannot be used.

    Example:
        >>> assert_linear_rate([1.0, 0.5, 0.25], eta=0.5, rate=1.0)
        >>> assert_linear_rate([1.0, 0.5, 0.4], eta=0.5, rate=1.0)
        Traceback (most recent call last):
            ...
        AssertionError: step 2: loss 0.4 > bound 0.25 = (1 - 0.5)^2 * 1 (ratio 1.6; 1 of 2 steps
            violate)
    """
    f = _vector(losses, "losses")
    x = _positive(eta, "eta") * _positive(rate, "rate")
    if not x < 1:
        raise InputError("eta * rate", x, "give a product between 0 and 1, so a smaller step")
    if not (math.isfinite(noise) and noise >= 0):
        raise InputError("noise", noise, "give a tolerance of at least 0")
    if not 0 <= start < len(f) - 1:
        raise InputError("start", start, f"give a step from 0 to {len(f) - 2}")
    _finite(f, "loss")
    if np.any(f < 0):
        first = int(np.flatnonzero(f < 0)[0])
        raise AssertionError(f"step {first}: loss {f[first]:.6g} is negative")
    after = np.arange(1, len(f) - start)
    with np.errstate(under="ignore"):
        bound = np.exp(after * math.log1p(-x)) * f[start]
    broken = np.flatnonzero(f[start + 1 :] > bound * (1 + noise) + noise**2 * f[start])
    if broken.size:
        k = int(broken[0])
        ratio = f[start + 1 + k] / bound[k] if bound[k] > 0 else math.inf
        raise AssertionError(
            f"step {start + 1 + k}: loss {f[start + 1 + k]:.6g} > bound {bound[k]:.6g} = "
            f"(1 - {x:.6g})^{k + 1} * {f[start]:.6g} "
            f"(ratio {ratio:.6g}; {broken.size} of {len(after)} steps violate)"
        )
    least = math.exp(len(after) * math.log1p(-x))
    if not allow_vacuous and not least < INFORMATIVE:
        need = math.ceil(math.log(INFORMATIVE) / math.log1p(-x)) + 1
        raise AssertionError(
            f"vacuous: over {len(after)} steps the bound only falls to {least:.6g} of its start; "
            f"give at least {need} steps, or allow_vacuous=True"
        )


def assert_descent(
    losses: Any, grad_norms: Any, eta: float, coefficient: float = 0.5, *, noise: float = 1e-12
) -> None:
    """Sufficient decrease at every step: f_{t+1} <= f_t - c eta |grad f(M_t)|^2.

    With c = 1/2, the default, this is the descent lemma for eta <= 1/L, where L bounds the
    curvature along the
    step; for 0 < eta < 2/L it holds with c = 1 - eta L / 2. No c of 1 or more is possible where
    the curvature
    along the step is positive.

    Args:
        losses: f_0 ... f_T, shape (T + 1,).
        grad_norms: |grad f| at steps 0 ... T-1 (or ... T, the last is ignored), not squared.
        eta: Step size.
        coefficient: c > 0.
        noise: Tolerance relative to f_t.

    Raises:
        AssertionError: First step with too small a decrease, or NaN or infinite values.
        InputError: Shapes, `eta`, `coefficient` or `noise` cannot be used.

    Example:
        >>> assert_descent([0.5, 0.125], [1.0], eta=0.5)  # f = w^2 / 2, L = 1
        >>> assert_descent([0.5, 0.45], [1.0], eta=0.5)
        Traceback (most recent call last):
            ...
        AssertionError: step 0 -> 1: loss 0.45 > 0.25 = 0.5 - 0.5 * 0.5 * 1^2 (1 of 1 steps violate)
    """
    f, g = _vector(losses, "losses"), _vector(grad_norms, "grad_norms", least=1)
    eta, coefficient = _positive(eta, "eta"), _positive(coefficient, "coefficient")
    if not (math.isfinite(noise) and noise >= 0):
        raise InputError("noise", noise, "give a tolerance of at least 0")
    if len(g) not in (len(f) - 1, len(f)):
        raise InputError("grad_norms", len(g), f"give {len(f) - 1} values, one before each step")
    g = g[: len(f) - 1]
    _finite(f, "loss")
    _finite(g, "gradient norm")
    allowed = f[:-1] - coefficient * eta * g**2
    broken = np.flatnonzero(f[1:] > allowed + noise * np.abs(f[:-1]))
    if broken.size:
        t = int(broken[0])
        raise AssertionError(
            f"step {t} -> {t + 1}: loss {f[t + 1]:.6g} > {allowed[t]:.6g} = "
            f"{f[t]:.6g} - {coefficient:g} * {eta:g} * {g[t]:.6g}^2 "
            f"({broken.size} of {len(g)} steps violate)"
        )


def _vector(values: Any, name: str, least: int = 2) -> np.ndarray:
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    elif isinstance(values, list | tuple):
        values = [v.item() if hasattr(v, "item") else v for v in values]
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(name, type(values).__name__, "give numbers, one per step") from error
    if array.ndim != 1 or len(array) < least:
        raise InputError(
            name, f"shape {array.shape}", f"give at least {least} numbers, one per step"
        )
    return array


def _positive(value: Any, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise InputError(name, value, "give a positive number") from error
    if not (math.isfinite(number) and number > 0):
        raise InputError(name, value, "give a positive number")
    return number


def _finite(values: np.ndarray, name: str) -> None:
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise AssertionError(f"step {bad[0]}: {name} is {values[bad[0]]}")
