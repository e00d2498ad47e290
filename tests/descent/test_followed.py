"""Quantities and their bounds: three-valued at every step, against runs known exactly."""

from __future__ import annotations

from dataclasses import replace
from math import exp, inf, log, nan
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gdconv
from gdconv.compiled.ledger import new_ledger
from gdconv.descent.followed import Followed
from gdconv.descent.plan import Bound
from gdconv.descent.quantities import (
    DISTANCE,
    ENERGY,
    GRADIENT,
    LOSS,
    Bounded,
    Quantity,
    constant,
    geometric,
    least,
    over_steps,
    radius,
)
from gdconv.rigor.rounding import Enclosure
from gdconv.support.errors import InputError

UNTESTED = -1


def followed(
    bounds: list[Bounded], values: list[float], drift: float = 0.0, **fields: float
) -> dict[str, Any]:
    """Tests after a made-up run whose loss, |grad f|^2 and moved distance are these values."""
    zero = {"w": torch.zeros(2, dtype=torch.float64)}
    one = Followed({"s": Bound(UNTESTED, followed=tuple(bounds))}, zero)
    led = new_ledger(0.1, 0.0)
    for name, value in fields.items():
        led[name] = value
    for t, value in enumerate(values):
        led["step"], led["loss"], led["energy"], led["grad_sq"] = t, value, 2 * value, value
        led["energy_error"] = led["two_nu"] * value
        here = {"w": torch.tensor([0.6 * value, 0.8 * value], dtype=torch.float64)}
        one.observe(led[0], here, drift if t else 0.0)
    return {name: {k: v[k].item() for k in v.dtype.names} for name, v in one.results["s"].items()}


def test_c_over_t_is_compared_from_step_one() -> None:
    values = [1.0, *(2.0 / t for t in range(1, 9))]
    kept = followed([over_steps(LOSS, 2.0 * (1 + 1e-9))], values)["f"]
    assert (kept["first_violation"], kept["first_undecided"]) == (-1, -1)
    assert kept["worst_margin"] == pytest.approx(1e-9, rel=0.02)
    broken = followed([over_steps(LOSS, 1.9)], values)["f"]
    assert broken["first_violation"] == 1
    assert broken["violations"] == 8
    assert broken["worst_margin"] == pytest.approx(log(1.9 / 2))
    assert followed([over_steps(LOSS, 2.0)], values)["f"]["first_undecided"] == 1
    assert followed([over_steps(LOSS, 2.0, power=2)], values)["f"]["first_violation"] == 2
    assert followed([over_steps(LOSS, 2.0, shift=1.0)], values)["f"]["first_violation"] == 1


def test_a_geometric_bound_is_that_of_its_rate() -> None:
    values = [3.0 * 0.96**t for t in range(40)]
    (kept,) = followed([geometric(LOSS, 0.39)], values).values()
    assert kept["first_violation"] == kept["first_undecided"] == -1
    assert kept["informative_step"] == 3  # 0.961^3 = 0.887
    assert kept["log_bound"] == pytest.approx(39 * log(0.961))
    (broken,) = followed([geometric(LOSS, 0.41)], values).values()
    assert broken["first_violation"] == 1
    (twice,) = followed([geometric(LOSS, 0.2, power=2)], values).values()
    assert twice["first_violation"] == -1
    assert twice["worst_margin"] == pytest.approx(2 * log(0.98) - log(0.96))
    (room,) = followed([geometric(LOSS, 0.41, prefactor=1.01)], values).values()
    assert room["first_violation"] == 1 + int(log(1.01) / (log(0.96) - log(0.959)))
    assert followed([geometric(LOSS, 11.0)], values)["f"]["worst_step"] == -1  # eta beta >= 1
    # a rate known between two ends refutes with the lower and confirms with the upper one only
    (unsure,) = followed([geometric(LOSS, Enclosure(0.39, 0.41))], values).values()
    assert (unsure["first_violation"], unsure["first_undecided"]) == (-1, 1)


def test_the_least_value_so_far_is_kept() -> None:
    values = [4.0, 1.0, 5.0, 0.5, 7.0]
    kept = followed([constant(least(GRADIENT), 1.0)], values)["least |grad f|^2"]
    assert kept["first_violation"] == 0
    assert kept["violations"] == 1
    alone = followed([constant(GRADIENT, 1.0)], values)["|grad f|^2"]
    assert alone["violations"] == 3
    greatest = Quantity("greatest", GRADIENT.value, max)
    assert followed([constant(greatest, 4.5)], values)["greatest"]["first_violation"] == 2
    summed = Quantity("sum", GRADIENT.value, lambda a, b: a + b)
    assert followed([constant(summed, 9.0)], values)["sum"]["first_violation"] == 2


def test_a_radius_is_vacuous_until_the_run_comes_near_it() -> None:
    values = [0.0, 0.1, 0.2, 0.3]
    name = DISTANCE.name
    assert followed([radius(1.9)], values)[name]["informative_step"] == 2
    assert followed([radius(5.0)], values)[name]["informative_step"] == -1
    assert followed([radius(0.25)], values)[name]["first_violation"] == 3


def test_what_the_defects_add_up_to_widens_the_bar() -> None:
    values = [0.0, 1.0, 2.0]
    clear = followed([radius(2.0 - 1e-6)], values)[DISTANCE.name]
    assert clear["first_violation"] == 2
    unsure = followed([radius(2.0 - 1e-6)], values, drift=1e-6)[DISTANCE.name]
    assert (unsure["first_violation"], unsure["first_undecided"]) == (-1, 2)
    # f changes by |grad f| times that: here 1e-6 and 2e-6 times sqrt(2)
    steep = followed([constant(LOSS, 2.0 - 2e-6)], values, drift=1e-6)["f"]
    assert (steep["first_violation"], steep["first_undecided"]) == (-1, 2)
    assert followed([constant(LOSS, 2.0 - 4e-6)], values, drift=1e-6)["f"]["first_violation"] == 2


def test_the_errors_of_loss_energy_and_gradient_are_the_ledgers() -> None:
    values = [1.0, 1.0]
    fields = {"two_nu": 1e-6, "bend": 1.0, "jacobian_norm": 2.0, "noise_scale": 1e-6}
    fields |= {"jacobian_error": 1e-6, "slope": 3.0}
    for quantity, size, off in ((LOSS, 1.0, 1e-6), (ENERGY, 2.0, 1e-6), (GRADIENT, 1.0, 1e-5)):
        within, beyond = size - 0.9 * off, size - 1.2 * off
        assert (
            followed([constant(quantity, within)], values, **fields)[quantity.name][
                "first_undecided"
            ]
            == 1
        )
        found = followed([constant(quantity, beyond)], values, **fields)[quantity.name]
        assert found["first_violation"] == 0


def test_lower_bounds_are_compared_the_other_way() -> None:
    values = [1.0, 0.5, 0.25]
    (low,) = followed([constant(LOSS, 0.3, ">=")], values).values()
    assert low["first_violation"] == 2
    assert low["worst_margin"] == pytest.approx(log(0.25 / 0.3))
    (kept,) = followed([constant(LOSS, 0.2, ">=")], values).values()
    assert kept["first_violation"] == -1
    with pytest.raises(InputError, match=r"bound of f = <: write <= or >="):
        Bounded(LOSS, lambda seen: 1.0, "<")


@pytest.mark.parametrize("bad", [nan, inf])
def test_what_is_no_number_decides_nothing(bad: float) -> None:
    (test,) = followed([constant(LOSS, bad)], [1.0, 2.0]).values()
    assert (test["first_violation"], test["first_undecided"]) == (-1, 1)
    bare = Quantity("q", lambda seen: bad)
    (value,) = followed([constant(bare, 0.5)], [1.0, 1.0]).values()
    assert (value["first_violation"], value["first_undecided"]) == (-1, 0)


def test_a_bound_drowned_in_rounding_ends_the_comparison() -> None:
    values = [0.5**t for t in range(30)]
    noisy = Quantity("noisy", lambda seen: Enclosure(seen.loss.mid - 1e-4, seen.loss.mid + 1e-4))
    (test,) = followed([geometric(noisy, 4.9)], values).values()
    # 1e-4 exceeds a tenth of 0.51^t (1/0.51 - 1) from t = 11 on, where the bars are apart still
    assert test["floor_step"] == 12
    assert test["first_violation"] == test["first_undecided"] == -1


@pytest.mark.parametrize(
    ("bounded", "said"),
    [
        (constant(LOSS, -1.0), r"bound of f = -1.0: give a number that is not negative"),
        (Bounded(LOSS, lambda seen: 1j), r"bound of f = 1j: give a real number that is not"),
        (constant(Quantity("q", lambda seen: -2.0), 1.0), r"q = -2.0: give a number that is not"),
        (constant(Quantity("q", lambda seen: "two"), 1.0), r"q = two: give a real number"),
        (
            constant(Quantity("q", lambda seen: seen.weights["v"]), 1.0),
            r"q = step 0: mend its function \(KeyError: 'v'\)",
        ),
        (Bounded(LOSS, lambda seen: 1 / seen.t), r"bound of f = step 0: mend .*ZeroDivision"),
    ],
)
def test_a_quantity_that_is_none_is_named(bounded: Bounded, said: str) -> None:
    with pytest.raises(InputError, match=said):
        followed([bounded], [1.0, 1.0])


def test_numbers_of_other_libraries_are_read() -> None:
    for kind in (torch.tensor, np.float32, np.array):
        quantity = Quantity("q", lambda seen, k=kind: k(float(seen.t)))
        assert followed([constant(quantity, 1.5)], [1.0] * 3)["q"]["first_violation"] == 2


def test_columns_carry_the_value_and_its_bound() -> None:
    zero = {"w": torch.zeros(2, dtype=torch.float64)}
    one = Followed({"s": Bound(UNTESTED, followed=(over_steps(LOSS, 6.0),))}, zero)
    led = new_ledger(0.1, 0.0)
    for t in range(3):
        led["step"], led["loss"] = t, 4.0
        one.observe(led[0], zero, 0.0)
    assert one.columns == {"f": 4.0, "bound[s: f]": 3.0}
    assert not Followed({"s": Bound(UNTESTED)}, zero)


def exact(theta: float, eta: float, steps: int) -> np.ndarray:
    return 0.5 * (theta * (1 - eta) ** np.arange(steps + 1)) ** 2


def quadratic(bounds: Any, rate: Any = None, **options: Any) -> gdconv.Check:
    """GD on f = theta^2 / 2 from 1, under a theorem with these bounds."""
    from gdconv.theory.theorem import Prediction, Theorem, statement

    class Toy(Theorem):
        id, title, source = "toy", "A toy", "nobody"
        models = ("module",)

        @statement("all", default=True, proof="none")
        def all(self, start: Any) -> Prediction:
            """Everything."""
            return Prediction((), rate, bounds=bounds)

    module = nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        module.weight.fill_(1.0)
    made = {"model": module, "X": [[1.0]], "y": [[0.0]], "step": 0.1, "steps": 40} | options
    import gdconv.checks.resolve as place

    before = place.theorem_named
    place.theorem_named = lambda name: Toy() if name == "toy" else before(name)
    try:
        return gdconv.check("toy", **made)
    finally:
        place.theorem_named = before


def test_a_statement_is_the_conjunction_of_its_bounds() -> None:
    good, bad = radius(1.0), over_steps(LOSS, 0.1)
    check = quadratic((good,))
    assert check.verdict == "confirmed"
    row = check.verdicts.iloc[0]
    assert np.isnan(row["rate"])
    assert np.isnan(row["half_life"])
    assert row["tightness"] == pytest.approx(1 - 0.9**40)
    check = quadratic((good, bad))
    row = check.verdicts.iloc[0]
    assert check.verdict == "refuted"
    assert row["note"] == "the bound of f is violated from step 1"
    assert row["worst_margin"] == pytest.approx(min(np.log(0.1 / t / exact(1, 0.1, 40)[t])
                                                    for t in range(1, 41)))  # fmt: skip
    both = quadratic((radius(0.5), bad)).verdicts.iloc[0]  # from steps 7 and 1
    assert (both["first_violation"], both["note"]) == (1, row["note"])
    # with a bound of the loss beside them: f falls by 0.81, and 1 - eta 1.8 is below that
    assert quadratic((good,), rate=1.8).verdict == "confirmed"
    assert quadratic((good,), rate=1.95).verdict == "refuted"
    assert quadratic((radius(50.0),)).verdict == "vacuous"
    assert quadratic((radius(50.0),), rate=1.8).verdict == "confirmed"


def test_a_geometric_bound_of_any_quantity_has_a_half_life() -> None:
    check = quadratic((geometric(GRADIENT, 1.8),), until_bound=0.1, steps=1000)
    row = check.verdicts.iloc[0]
    assert check.verdict == "confirmed"
    assert row["half_life"] == pytest.approx(-log(2) / log(0.82))
    assert row["rate"] == 1.8
    assert check.runs["steps"][0] == np.ceil(log(0.1) / log(0.82))
    assert check.trace["|grad f|^2"].iloc[-1] == pytest.approx(
        exp(2 * check.runs["steps"][0] * log(0.9))
    )


def test_the_compiled_model_is_followed_too() -> None:
    """The multi-head model takes the torch engine as soon as a quantity is bounded."""
    bounds = (radius(3.0), Bounded(Quantity("V", _value_norm), lambda seen: 100.0))

    from gdconv.theory.registry import theorem_named

    full = theorem_named("full-gd")
    kind = type(full)
    statement = full.statement_named("per-head")
    made = replace(
        statement, predict=lambda self, at: replace(statement.predict(self, at), bounds=bounds)
    )
    before = kind.statements
    kind.statements = lambda self, *a: [made]  # type: ignore[method-assign]
    try:
        check = gdconv.check(
            "full-gd", samples=2, tokens=2, embedding=8, head_dim=4, heads=2, step="local",
            init="normal", steps=5,
        )  # fmt: skip
    finally:
        kind.statements = before  # type: ignore[method-assign]
    assert {"V", "|theta_t - theta_0|", "bound[per-head: V]"} <= set(check.trace.columns)


def _value_norm(seen: Any) -> float:
    return float(seen.weights["W_V"].norm())


def test_a_clear_violation_counts_after_rounding_has_drowned_the_bound() -> None:
    values = [1.0, 1.0, 1.0, 1.0, 2.0]
    noisy = Quantity("noisy", lambda seen: Enclosure(seen.loss.mid - 1e-3, seen.loss.mid + 1e-3))
    (test,) = followed([Bounded(noisy, lambda seen: 1.0005 + 1e-5 * seen.t)], values).values()
    assert 0 <= test["floor_step"] < 4
    assert test["first_violation"] == 4
