"""`assert_bound`: measured values against any bound, at every step, three-valued."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gdconv.support.errors import InputError
from gdconv.testing.assertions import _apart, _finite, _vector


def assert_bound(
    values: Any,
    bound: Any,
    error: Any = 0.0,
    *,
    name: str = "value",
    strict: bool = False,
) -> None:
    """Every measured value is at most its bound: v_t <= b_t for t = 0 ... T.

    A step is violated where v_t > b_t + e_t, holds where v_t <= b_t - e_t, and is undecided between
    the two. A violated step fails; so does a sequence of which no step is decided.

    Args:
        values: v_0 ... v_T, shape (T + 1,).
        bound: b_0 ... b_T, or a function of t.
        error: Absolute error bar e_t of v_t - b_t: a number, T + 1 of them, or a function of t.
        name: What the values are, for the message.
        strict: An undecided step fails too.

    Raises:
        AssertionError: A violated step, NaN or infinity on any side, or nothing decided.
        InputError: No numbers, another length than that of the values, or a negative error.

    Example:
        >>> assert_bound([1.0, 0.4, 0.3], lambda t: 1.0 / (t + 1))
        >>> assert_bound([1.0, 0.4, 0.4], lambda t: 1.0 / (t + 1), error=1e-3)
        Traceback (most recent call last):
            ...
        AssertionError: step 2: value 0.4 > bound 0.333333 by 0.0666667 (error bar 0.001; 1 of 3
            steps violate)
    """
    __tracebackhide__ = True
    v, _ = _vector(values, "values", least=1)
    _finite(v, name)
    b = _sampled(bound, "bound", len(v))
    _finite(b, "bound")
    e = _sampled(error, "error", len(v))
    if (e < 0).any():
        raise InputError("error", float(e.min()), "give error bars of at least 0")
    _finite(e, "error bar")
    # v - b of neighbours is exact; of others it is off by an ulp, which no violation rests on
    over = v - b
    broken = np.flatnonzero((over > e) & (v > b))
    if broken.size:
        t = int(broken[0])
        shown, limit = _apart(float(v[t]), float(b[t]))
        raise AssertionError(
            f"step {t}: {name} {shown} > bound {limit} by {over[t]:.6g} "
            f"(error bar {e[t]:.3g}; {broken.size} of {len(v)} steps violate)"
        )
    open_ = np.flatnonzero(~((over <= -e) & (v <= b)))
    if open_.size == len(v) or (strict and open_.size):
        t = int(open_[0])
        shown, limit = _apart(float(v[t]), float(b[t]))
        raise AssertionError(
            f"undecided at {open_.size} of {len(v)} steps, first at step {t}: {name} {shown}, "
            f"bound {limit}, error bar {e[t]:.3g}"
        )


def _sampled(given: Any, name: str, count: int) -> np.ndarray:
    """Numbers per step: given as such, as one number, or as a function of the step."""
    made: Any = given
    if callable(given):
        made = [_at(given, name, t) for t in range(count)]
    elif name == "error" and np.ndim(given) == 0:
        made = [given] * count
    array, _ = _vector(made, name, least=1)
    if len(array) != count:
        raise InputError(name, f"{len(array)} numbers", f"give {count}, one per value")
    return array


def _at(given: Callable[[int], Any], name: str, t: int) -> Any:
    try:
        return float(given(t))
    except (TypeError, ValueError, ArithmeticError) as error:
        raise InputError(name, f"step {t}: {error}", "give a function of t to a number") from error
