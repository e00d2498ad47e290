"""Theorem 1 of Song et al.: witnesses, constants, and what the theory says of each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from samples import KERNELS, draw, model

import gdconv
from gdconv.initialization import initialize
from gdconv.problem import Problem
from gdconv.start import Start
from theorems.full_gd import FullGD, least_radii


def verdicts(**options: Any) -> dict[str, str]:
    """Worst verdict of every statement."""
    check = gdconv.check("full-gd", **options)
    return {name: check.verdict_of(name) for name in check.verdicts["statement"].unique()}


@pytest.mark.parametrize("kernel", KERNELS)
def test_w1_refutes_the_printed_reading_only(kernel: str) -> None:
    check = gdconv.check("full-gd", problem="stacked-witness", kernel=kernel)
    row = check.verdicts.set_index("statement").loc["stacked"]
    assert check.verdict == "refuted"
    assert row["first_violation"] == 1
    eta = row["step"]
    assert row["rate"] == pytest.approx(3.0)
    assert 0 < eta < 1 / 3
    first = check.trace[check.trace["step"] == 1].iloc[0]
    if kernel == "softmax":
        assert first["loss_ratio"] == pytest.approx((1 - eta) ** 2, rel=1e-12)
    assert first["bound[stacked]"] == pytest.approx(1 - 3 * eta, rel=1e-12)
    assert check.verdict_of("per-head") == "outside"  # min over heads of |W_O,h| is 0


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("seed", range(3))
def test_aligned_labels_refute_stacked_and_confirm_the_proved_readings(
    kernel: str, seed: int
) -> None:
    check = gdconv.check("full-gd", problem="stacked-aligned", kernel=kernel, seed=seed)
    made = dict(zip(check.verdicts["statement"], check.verdicts["verdict"], strict=True))
    run = made.pop("run")
    assert made == {
        "stacked": "refuted",
        "per-head": "confirmed",
        "block-free": "confirmed",
        "kernel": "confirmed",
    }
    assert run in ("confirmed", "undecided")  # its bound is an equality here, up to rounding
    x = check.verdicts.set_index("statement").loc["per-head", "eta_rate"]
    first = check.trace[check.trace["step"] == 1].iloc[0]["loss_ratio"]
    assert first == pytest.approx((1 - x) ** 2, rel=1e-9)  # recipe R1: exact at the first step


def test_the_printed_reading_can_be_stationary() -> None:
    made = verdicts(problem="stacked-stationary", kernel="gaussian")
    assert made["stacked"] == "refuted"
    assert made["per-head"] == "outside"


@pytest.mark.parametrize("name", ["narrow-head", "too-few-heads"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_silent_cases_are_outside_and_do_not_move(name: str, kernel: str) -> None:
    check = gdconv.check("full-gd", problem=name, kernel=kernel)
    assert check.verdict == "outside"
    failed = check.hypotheses.query("statement == 'per-head' and holds == 'false'")[
        "hypothesis"
    ].tolist()
    assert any("positive" in h for h in failed)
    assert (name == "too-few-heads") == any("H D >= N n" in h for h in failed)
    if name == "narrow-head" or kernel == "softmax":
        assert check.runs["loss_ratio_last"].iloc[0] == pytest.approx(1.0)


@pytest.mark.parametrize("kernel", KERNELS)
def test_theorem_start_confirms_the_a_priori_statements(kernel: str) -> None:
    check = gdconv.check("full-gd", kernel=kernel, seeds=3, init="theorem")
    for name in ("per-head", "block-free", "kernel"):
        rows = check.verdicts[check.verdicts["statement"] == name]
        assert (rows["verdict"] == "confirmed").all()
        assert (rows["bound_last"] < 0.9).all()
    assert (
        check.trace["sigma_min_lo"]
        >= 0.75 * check.trace.groupby("run")["sigma_min_hi"].transform("first")
    ).all()


@pytest.mark.parametrize("kernel", KERNELS)
def test_ordinary_run_on_digits_is_certified(kernel: str) -> None:
    check = gdconv.check("full-gd", statement="run", data="digits", kernel=kernel, seeds=2)
    assert check.verdict == "confirmed"
    assert (check.runs["loss_ratio_last"] < 1e-6).all()
    assert check.verdict_of("per-head") == "outside"


@pytest.mark.parametrize("kernel", KERNELS)
def test_rates_form_a_ladder(kernel: str) -> None:
    """o^2 sigma(B)^2 <= sigma(J_V)^2 <= sigma(J)^2 <= |grad f|^2 / (2 f)."""
    theorem = FullGD()
    for seed in range(10):
        problem, params = draw((2, 2, 5, 3, 3, 2), seed)
        start = Start(model(kernel), problem, params)
        rates = [
            theorem.predict(theorem.statement_named(s), start).rate_hi
            for s in ("per-head", "block-free", "kernel")
        ]
        at, grad = model(kernel).gradient(problem, params)
        norm_sq = sum(float(getattr(grad, b).square().sum()) for b in ("W_Q", "W_K", "W_V"))
        ladder = [*rates, norm_sq / (2 * float(at.loss[0]))]
        assert all(a <= b * (1 + 1e-9) for a, b in zip(ladder, ladder[1:], strict=False))


def test_least_radii_are_least() -> None:
    """A smaller query radius breaks its inequality, so the fixed point is the best choice."""
    problem, _ = draw((1, 2, 6, 3, 2, 1), 0)
    params = initialize("normal", (2, 6, 3, 1), 0, (0.5, 0.5, 0.0, 1e6))
    start = Start(model("softmax"), problem, params)
    radii = least_radii(start, start.o.lo)
    assert radii is not None
    pull = 2 * start.r_0 / (start.o.lo**2 * start.sigma_0.lo**2)
    from gdconv.constants import Constants

    needed = pull * Constants(start, radii).g_Q().max()
    assert needed <= radii.C_Q <= needed * (1 + 1e-6)


def test_step_beyond_the_theorem_is_outside() -> None:
    check = gdconv.check("full-gd", step=1e-7, kernel="gaussian", steps=50)
    assert check.verdict == "outside"
    assert "the step is small enough" in set(
        check.hypotheses.query("holds == 'false'")["hypothesis"]
    )


def test_duplicate_tokens_are_outside_not_undecided() -> None:
    X = np.random.default_rng(0).standard_normal((2, 2, 8))
    X[0, 1] = X[0, 0]
    problem = Problem.from_arrays(X, np.ones((2, 2)))
    start = Start(model("softmax"), problem, initialize("lecun", (2, 8, 4, 1), 0))
    prediction = FullGD().predict(FullGD().statement_named("per-head"), start)
    assert start.sigma_0 == (0.0, 0.0)
    assert any(h.holds is False for h in prediction.hypotheses)
