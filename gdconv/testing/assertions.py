"""Assertions for users' own tests: a check is confirmed, a loss curve is linear, a descent holds.

They raise AssertionError with both sides at the first violating step. Arrays may be lists, NumPy
or torch.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gdconv.report.source import CheckLike
from gdconv.support.errors import InputError

INFORMATIVE = 0.9
"""A bound that never falls below this share of its start has tested nothing."""

EXPLAIN = {
    "refuted": "the bound is violated beyond rounding error although its hypotheses hold",
    "undecided": "rounding error is as large as the difference; use float64 or fewer steps",
    "outside": "a hypothesis is not met, so the theorem says nothing here",
    "vacuous": "the bound never fell below 0.9 of its start; give more steps",
}

EXPLAIN_CLAIM = EXPLAIN | {
    "refuted": "a claim is violated beyond its error although its hypotheses hold",
    "undecided": "the error bars of a claim overlap",
    "vacuous": "the claims hold but test nothing; see the note",
}
"""As `EXPLAIN`, for theorems without descent."""


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
    __tracebackhide__ = True
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
        explain = EXPLAIN[row.verdict]
        if hasattr(row, "weakest"):  # claims about cases: nothing descends, margins are relative
            margin = (
                f"worst margin {row.worst_margin:.3g} (relative) of {row.weakest or 'no claim'}"
            )
            explain = EXPLAIN_CLAIM[row.verdict]
        lines.append(f"  run {row.run}: {row.verdict}{where}, {margin}: {explain}")
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
    f_star: float = 0.0,
    error: float | None = None,
    noise: float | None = None,
    start: int = 0,
    allow_vacuous: bool = False,
) -> None:
    """The losses fall at least linearly: g_t <= (1 - eta rate)^(t - start) g_start, g = f - f_star.

    Tolerated is g_t <= bound (1 + noise) + noise^2 g_start + error (1 + bound / g_start): `noise`
    is relative, and its square is the floor that rounding leaves of a loss that falls to zero;
    `error` is absolute, since f - f_star cancels and keeps the rounding of f.

    Args:
        losses: f_0 ... f_T of consecutive steps, shape (T + 1,), not below f_star.
        eta: Step size.
        rate: Rate beta per unit step size, so 0 < eta rate < 1.
        f_star: Least value of f.
        error: Absolute error of one difference f_t - f_star; None takes 0 where f_star is 0, else
            4 eps max(|f_star|, |f_start|). Give it too where the losses are differences already.
        noise: Relative tolerance; None takes 1e-12, or 4 eps where numbers are of less precision
            than float64.
        start: Step that counts as the beginning; earlier ones are ignored.
        allow_vacuous: Accept a bound that never falls below 0.9 of its start.

    Raises:
        AssertionError: First step that violates the bound or is below f_star, NaN or infinite
            losses, or a vacuous test.
        InputError: An argument or the shape of `losses` cannot be used.

    Example:
        >>> assert_linear_rate([1.0, 0.5, 0.25], eta=0.5, rate=1.0)
        >>> assert_linear_rate([1.3, 0.8, 0.55], eta=0.5, rate=1.0, f_star=0.3)
        >>> assert_linear_rate([1.0, 0.5, 0.4], eta=0.5, rate=1.0)
        Traceback (most recent call last):
            ...
        AssertionError: step 2: loss 0.4 > bound 0.25 = (1 - 0.5)^2 * 1 (ratio 1.6; 1 of 2 steps
            violate)
    """
    __tracebackhide__ = True
    f, eps = _vector(losses, "losses")
    x = _positive(eta, "eta") * _positive(rate, "rate")
    if not x < 1:
        raise InputError("eta * rate", x, "give a product between 0 and 1, so a smaller step")
    least = _number(f_star, "f_star", "give the least value of f")
    noise = _tolerance(noise, "noise", eps)
    if not 0 <= start < len(f) - 1:
        raise InputError("start", start, f"give a step from 0 to {len(f) - 2}")
    _finite(f, "loss")
    cancelled = 4 * eps * max(abs(least), abs(float(f[start]))) if least else 0.0
    bar = cancelled if error is None else _tolerance(error, "error", eps)
    gap = f - least
    _not_below(f, gap, least, bar)
    gap = np.maximum(gap, 0.0)
    after = np.arange(1, len(f) - start)
    with np.errstate(under="ignore"):
        shrunk = np.exp(after * math.log1p(-x))
        bound = shrunk * gap[start]
        allowed = bound * (1 + noise) + noise**2 * gap[start] + bar * (1 + shrunk)
    broken = np.flatnonzero(gap[start + 1 :] > allowed)
    if broken.size:
        k = int(broken[0])
        value = float(gap[start + 1 + k])
        ratio = value / float(bound[k]) if bound[k] > 0 else math.inf
        shown, limit = _apart(value, float(bound[k]))
        name = f"loss - {least:.6g}" if least else "loss"
        extra = f"error bar {bar:.3g}; " if bar else ""
        raise AssertionError(
            f"step {start + 1 + k}: {name} {shown} > bound {limit} = "
            f"(1 - {x:.6g})^{k + 1} * {gap[start]:.6g} "
            f"(ratio {_apart(ratio, 1.0)[0]}; {extra}{broken.size} of {len(after)} steps violate)"
        )
    fallen = math.exp(len(after) * math.log1p(-x))
    if not allow_vacuous and not fallen < INFORMATIVE:
        need = math.ceil(math.log(INFORMATIVE) / math.log1p(-x)) + 1
        raise AssertionError(
            f"vacuous: over {len(after)} steps the bound only falls to {fallen:.6g} of its start; "
            f"give at least {need} steps, or allow_vacuous=True"
        )


def assert_descent(
    losses: Any,
    grad_norms: Any,
    eta: float,
    coefficient: float = 0.5,
    *,
    error: float = 0.0,
    noise: float | None = None,
) -> None:
    """Sufficient decrease at every step: f_{t+1} <= f_t - c eta |grad f(M_t)|^2.

    With c = 1/2, the default, this is the descent lemma for eta <= 1/L, where L bounds the
    curvature along the step; for 0 < eta < 2/L it holds with c = 1 - eta L / 2. No c of 1 or more
    is possible where the curvature along the step is positive. A constant added to all losses
    changes nothing but their rounding.

    Args:
        losses: f_0 ... f_T, shape (T + 1,).
        grad_norms: |grad f| at steps 0 ... T-1 (or ... T, the last is ignored), not squared.
        eta: Step size.
        coefficient: c > 0.
        error: Absolute error of one loss, where the losses are differences f - f_star.
        noise: Tolerance relative to |f_t|; None takes 1e-12, or 4 eps where numbers are of less
            precision than float64.

    Raises:
        AssertionError: First step with too small a decrease, or NaN or infinite values.
        InputError: Shapes, `eta`, `coefficient`, `error` or `noise` cannot be used.

    Example:
        >>> assert_descent([0.5, 0.125], [1.0], eta=0.5)  # f = w^2 / 2, L = 1
        >>> assert_descent([0.5, 0.45], [1.0], eta=0.5)
        Traceback (most recent call last):
            ...
        AssertionError: step 0 -> 1: loss 0.45 > 0.25 = 0.5 - 0.5 * 0.5 * 1^2 (1 of 1 steps violate)
    """
    __tracebackhide__ = True
    (f, eps), (g, eps_g) = _vector(losses, "losses"), _vector(grad_norms, "grad_norms", least=1)
    eta, coefficient = _positive(eta, "eta"), _positive(coefficient, "coefficient")
    eps = max(eps, eps_g)
    noise, error = _tolerance(noise, "noise", eps), _tolerance(error, "error", eps)
    if len(g) not in (len(f) - 1, len(f)):
        raise InputError("grad_norms", len(g), f"give {len(f) - 1} values, one before each step")
    g = g[: len(f) - 1]
    _finite(f, "loss")
    _finite(g, "gradient norm")
    allowed = f[:-1] - coefficient * eta * g**2
    broken = np.flatnonzero(f[1:] > allowed + noise * np.abs(f[:-1]) + 2 * error)
    if broken.size:
        t = int(broken[0])
        shown, limit, before = _apart(float(f[t + 1]), float(allowed[t]), float(f[t]))
        raise AssertionError(
            f"step {t} -> {t + 1}: loss {shown} > {limit} = "
            f"{before} - {coefficient:g} * {eta:g} * {g[t]:.6g}^2 "
            f"({broken.size} of {len(g)} steps violate)"
        )


def _eps(value: Any) -> float:
    """Spacing of numbers at 1 in the value's own precision, at least that of float64."""
    finest = float(np.finfo(np.float64).eps)
    name = str(getattr(value, "dtype", "float64")).rpartition(".")[2]
    known = {"bfloat16": 2.0**-7, "float16": 2.0**-10, "float32": 2.0**-23}
    return known.get(name, finest)


def _vector(values: Any, name: str, least: int = 2) -> tuple[np.ndarray, float]:
    """The numbers in float64, and the spacing at 1 of the precision in which they came."""
    eps = _eps(values)
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.double() if values.is_floating_point() else values
    try:
        if isinstance(values, list | tuple):
            eps = max((_eps(v) for v in values), default=eps)
            values = [v.item() if hasattr(v, "item") else v for v in values]
        if np.ma.isMaskedArray(values) or np.iscomplexobj(values):
            raise TypeError
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(name, type(values).__name__, "give numbers, one per step") from error
    if array.ndim != 1 or len(array) < least:
        raise InputError(
            name, f"shape {array.shape}", f"give at least {least} numbers, one per step"
        )
    return array, eps


def _number(value: Any, name: str, remedy: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise InputError(name, value, remedy) from error
    if not math.isfinite(number):
        raise InputError(name, value, remedy)
    return number


def _positive(value: Any, name: str) -> float:
    number = _number(value, name, "give a positive number")
    if not number > 0:
        raise InputError(name, value, "give a positive number")
    return number


def _tolerance(value: float | None, name: str, eps: float) -> float:
    """The tolerance asked for, or what the precision of the numbers allows."""
    if value is None:
        return max(1e-12, 4 * eps if eps > 1e-12 else 0.0)
    number = _number(value, name, "give a tolerance of at least 0")
    if not number >= 0:
        raise InputError(name, value, "give a tolerance of at least 0")
    return number


def _apart(*numbers: float) -> list[str]:
    """The numbers with as many digits as it takes to tell the first two apart."""
    for digits in (6, 9, 12, 15, 17):
        shown = [f"{x:.{digits}g}" for x in numbers]
        if shown[0] != shown[1]:
            break
    return shown


def _not_below(f: np.ndarray, gap: np.ndarray, least: float, bar: float) -> None:
    __tracebackhide__ = True
    below = np.flatnonzero(gap < -bar)
    if below.size:
        t = int(below[0])
        if not least:
            raise AssertionError(
                f"step {t}: loss {f[t]:.6g} is negative; give f_star where the least loss is not 0"
            )
        shown, limit = _apart(float(f[t]), least)
        raise AssertionError(
            f"step {t}: loss {shown} is below f_star = {limit} by {-gap[t]:.3g}, more than the "
            f"error bar {bar:.3g}"
        )


def _finite(values: np.ndarray, name: str) -> None:
    __tracebackhide__ = True
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise AssertionError(f"step {bad[0]}: {name} is {values[bad[0]]}")
