"""`assert_bound`: three-valued at every step, and what is no number never passes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from gdconv.support.errors import InputError
from gdconv.testing import assert_bound, assert_linear_rate


def test_the_message_has_step_value_bound_and_margin() -> None:
    with pytest.raises(AssertionError) as error:
        assert_bound([1.0, 0.6, 0.5, 0.2], [1.0, 0.5, 0.25, 0.3], name="|w - w*|^2")
    assert str(error.value) == (
        "step 1: |w - w*|^2 0.6 > bound 0.5 by 0.1 (error bar 0; 2 of 4 steps violate)"
    )


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_any_sequence_and_any_function(kind: Any) -> None:
    values = [1.0, 0.5, 0.3]
    assert_bound(kind(values), kind([1.0, 0.5, 0.4]))
    assert_bound(kind(values), lambda t: 1 / (t + 1), kind([0.0, 0.0, 0.01]))
    assert_bound(kind(values), lambda t: 0.6**t, error=lambda t: 1e-3 * t)


@pytest.mark.parametrize("margin", [1e-3, 1e-1])
def test_three_values(margin: float) -> None:
    bound = np.array([2.0, 1.0])
    assert_bound(bound - [1, 1.01 * margin], bound, margin, strict=True)
    assert_bound(bound - [1, 0.99 * margin], bound, margin)  # step 0 holds, step 1 is open
    for off in (-0.99 * margin, 0.99 * margin):
        with pytest.raises(AssertionError, match="undecided at 1 of 2 steps, first at step 1"):
            assert_bound(bound + np.array([-1, off]), bound, margin, strict=True)
    with pytest.raises(AssertionError, match="^step 1: "):
        assert_bound(bound + np.array([-1, 1.01 * margin]), bound, margin)


def test_nothing_decided_is_no_pass() -> None:
    with pytest.raises(AssertionError, match="undecided at 2 of 2 steps"):
        assert_bound([1.0, 0.5], [1.0, 0.5], 1e-9)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_never_passes(bad: float) -> None:
    for sides in (([0.0, bad], [1.0, 1.0]), ([0.0, 0.0], [1.0, bad])):
        with pytest.raises(AssertionError, match="step 1: (value|bound) is"):
            assert_bound(*sides)
    with pytest.raises((AssertionError, InputError), match="error"):
        assert_bound([0.0, 0.0], [1.0, 1.0], [0.0, bad])


@pytest.mark.parametrize(("given", "field"), [
    (([1.0], [1.0, 2.0]), "bound"), (([1.0, 2.0], [1.0]), "bound"), (([1.0, 2.0], 3.0), "bound"),
    (([1.0], [1.0], [0.0, 0.0]), "error"), (([1.0], [1.0], -1.0), "error"),
    (([[1.0]], [1.0]), "values"), ((["a"], [1.0]), "values"), (([], []), "values"),
    (([1.0], lambda t: "x"), "bound"), (([1.0], lambda t: 1 / t), "bound"),
    (([1.0], lambda t: 1j), "bound"), (([1j], [1.0]), "values"),
])  # fmt: skip
def test_bad_input_names_the_field(given: Any, field: str) -> None:
    with pytest.raises(InputError, match=f"^{field} = "):
        assert_bound(*given)


def test_beside_the_linear_rate() -> None:
    losses = 0.5 ** np.arange(30)
    assert_linear_rate(losses, 0.5, 1.0)
    assert_bound(losses, lambda t: 0.5**t)
    with pytest.raises(AssertionError, match="^step 1: "):
        assert_bound(losses, lambda t: 0.49**t)


def test_a_violation_by_one_ulp_counts_where_no_error_is_given() -> None:
    with pytest.raises(AssertionError, match="^step 0: value 1.0000000000000002 > bound 1 by"):
        assert_bound([np.nextafter(1.0, 2.0)], [1.0])
    with pytest.raises(AssertionError, match="^step 0: "):
        assert_bound([5e-324], [0.0])
