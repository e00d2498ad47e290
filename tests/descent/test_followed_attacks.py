"""Bounds that were confirmed though false, or refuted though true, and functions that fail."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import inf, nextafter
from typing import Any

import pytest
import torch
from descent.test_followed import followed, quadratic

from gdconv.descent.quantities import (
    DISTANCE,
    ENERGY,
    GRADIENT,
    LOSS,
    Bounded,
    Quantity,
    Seen,
    constant,
    geometric,
    over_steps,
    radius,
)
from gdconv.rigor.rounding import Enclosure
from gdconv.support.errors import InputError

WIDE = Quantity("wide", lambda seen: Enclosure(0.0, 10.0))


def closely(value: Fraction) -> Enclosure:
    """The floats about a rational number."""
    near = float(value)
    return Enclosure(
        near if Fraction(near) <= value else nextafter(near, -inf),
        near if Fraction(near) >= value else nextafter(near, inf),
    )


def test_two_bounds_of_one_quantity_are_both_compared() -> None:
    bounds = over_steps(LOSS, 0.1), over_steps(LOSS, 10.0)
    assert quadratic(bounds).verdict == "refuted"
    assert quadratic(bounds[::-1]).verdict == "refuted"
    tests = followed([radius(1.0), radius(2.0), radius(3.0)], [0.0, 1.5])
    assert list(tests) == [DISTANCE.name, f"{DISTANCE.name} (2)", f"{DISTANCE.name} (3)"]
    assert [t["first_violation"] for t in tests.values()] == [1, -1, -1]


def test_a_quantity_has_a_name_of_its_own() -> None:
    """The empty one stands for the loss's bound."""
    with pytest.raises(InputError, match=r"name of a quantity = '': give it a name"):
        Quantity("", lambda seen: 1.0)


def test_a_bound_that_hardly_moves_is_compared_to_the_end() -> None:
    """0.9 (1 - 0.3^t) stands still from step 30 on; the distance, 1 - 0.9^t, passes it."""
    check = quadratic((constant(DISTANCE, lambda seen: 0.9 * (1 - 0.3**seen.t)),))
    assert check.verdict == "refuted"
    (kept,) = followed([radius(lambda seen: 2.0 - 1e-15 * seen.t)], [0.0, 1.0, 1.5]).values()
    assert (kept["floor_step"], kept["first_undecided"]) == (-1, -1)
    late = (constant(DISTANCE, lambda seen: 2.0 if seen.t < 30 else 0.5 + 1e-15 * seen.t),)
    assert quadratic(late).verdict == "refuted"


def test_a_bound_that_rounding_drowns_is_not_confirmed_by_another_one() -> None:
    for bounds in ((constant(WIDE, 1.0), radius(1.0)), (radius(1.0), constant(WIDE, 1.0))):
        check = quadratic(bounds)
        assert check.verdict == "undecided"
        assert "rounding drowns the bound of wide from step 0" in check.verdicts["note"][0]


@pytest.mark.parametrize("power", [1, 2])
def test_a_geometric_bound_below_the_normal_floats(power: int) -> None:
    """|g|^2 falls by 1/4 a step, exactly, from 2^640 on: the bound is an equality."""
    eta = 2.0**-321
    rate = 0.75 / eta if power == 1 else 0.5 / eta
    check = quadratic(
        (geometric(GRADIENT, rate, power=power),), X=[[2.0**160]], step=eta, steps=545
    )
    assert check.verdict in ("confirmed", "undecided")


@pytest.mark.parametrize("quantity", [LOSS, GRADIENT, DISTANCE])
@pytest.mark.parametrize("relation", ["<=", ">="])
def test_a_run_that_moves_away_carries_its_defects_along(quantity: Quantity, relation: str) -> None:
    """(theta - 1)^2/2 from 1 + 1e-6 with eta = 2.9, where theta - 1 grows by 1.9 a step."""
    start, q = Fraction(1 + 1e-6) - 1, 1 - Fraction(2.9)
    exact: dict[str, Callable[[int], Fraction]] = {
        "f": lambda t: start**2 / 2 * q ** (2 * t),
        "|grad f|^2": lambda t: start**2 * q ** (2 * t),
        "|theta_t - theta_0|": lambda t: abs(start * (q**t - 1)),
    }
    bound = constant(quantity, lambda seen: closely(exact[quantity.name](seen.t)), relation)
    module = torch.nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        module.weight.fill_(1 + 1e-6)
    check = quadratic((bound,), model=module, y=[[1.0]], step=2.9, steps=18)
    assert check.verdict != "refuted"


def test_a_loss_of_exactly_zero_is_a_number() -> None:
    """One step of eta = 1 fits theta = 0 exactly; no error is infinite there."""
    check = quadratic((over_steps(LOSS, 0.4), over_steps(ENERGY, 0.4)), step=1.0, steps=9)
    assert check.verdict == "confirmed"
    assert check.runs["steps"][0] == 1
    (unsure,) = followed([constant(LOSS, 1e-12)], [0.0, 0.0], noise_scale=1e-5).values()
    assert unsure["floor_step"] == 0


@pytest.mark.parametrize(
    ("bounded", "said"),
    [
        (constant(Quantity("q", LOSS.value, lambda a, b: a / 0), 1.0), r"fold of q = step 1: mend"),
        (constant(Quantity("q", LOSS.value, lambda a, b: 1j), 1.0), r"fold of q = .*fold two num"),  # type: ignore[arg-type,return-value]
        (Bounded(LOSS, lambda seen: 9.0, tells=lambda *a: 1 / 0 > 0), r"tells of f = step 1: mend"),
        (constant(LOSS, Enclosure(5.0, 1.0)), r"bound of f = .*lo is at most its hi"),
        (constant(Quantity("q", lambda seen: Enclosure(5.0, 1.0)), 9.0), r"q = .*at most its hi"),
    ],
)
def test_functions_that_fail_are_one_sentence(bounded: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        followed([bounded], [1.0, 1.0, 1.0])


def test_a_bound_that_underflows_is_not_above_what_it_stands_for() -> None:
    """0.2^600 lies below all floats: no lower bound of it is positive."""
    bounded = geometric(GRADIENT, 8.0)
    seen = Seen(600, 0.1, *[Enclosure(1.0, 1.0)] * 3, 0.0, 0.0, 0.0, {}, {}, Enclosure(1.0, 1.0))
    found = bounded.bound(seen)
    assert isinstance(found, Enclosure)
    assert found.lo == 0.0 < found.hi < 1e-300
