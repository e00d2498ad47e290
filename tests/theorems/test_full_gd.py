"""Theorem 1 of Song et al.: witnesses, constants, and what the theory says of each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from mpmath import e, mpf, sqrt, workdps
from reference_constants import MultiHead
from samples import KERNELS, draw, model

import gdconv
from gdconv.data.problem import Problem
from gdconv.gallery.full_gd import FullGD, least_radii
from gdconv.models.multihead.initialization import initialize
from gdconv.models.multihead.point import MultiHeadPoint


def verdicts(**options: Any) -> dict[str, str]:
    """Worst verdict of every statement."""
    check = gdconv.check("full-gd", **options)
    return {name: check.verdict_of(name) for name in check.verdicts["statement"].unique()}


def lazy(kernel: str, seed: int, values: float = 1e-8) -> MultiHeadPoint:
    """A start of small values and large W_O, where every radius of Theorem A exists."""
    problem, _ = draw((1, 2, 6, 3, 2, 1), seed)
    params = initialize("normal", (2, 6, 3, 1), seed, (0.5, 0.7, values, 1e7))
    return MultiHeadPoint(model(kernel), problem, params)


def sides(prediction: Any) -> dict[str, tuple[Any, Any]]:
    """Name to both sides of every hypothesis."""
    return {h.name: (h.lhs, h.rhs) for h in prediction.hypotheses}


def near(found: Any, wanted: Any, tolerance: str = "1e-12") -> None:
    """Equal up to rounding."""
    assert abs(mpf(float(found)) - wanted) <= mpf(tolerance) * abs(wanted), (found, wanted)


@pytest.mark.parametrize("kernel", KERNELS)
def test_theorem_a_is_the_documented_one(kernel: str) -> None:
    """Radii, both sides of every inequality, rate and step, from docs/theory/full-gd.md."""
    for seed in range(2):
        at = lazy(kernel, seed)
        radii = least_radii(at, at.o.lo)
        assert radii is not None
        made = FullGD().predict(FullGD().statement_named("per-head"), at)
        with workdps(30):
            o, sigma, r_0 = mpf(at.o.lo), mpf(at.sigma_0.lo), mpf(at.r_0)
            nudge, reach = 1 + mpf("1e-9"), 2 * r_0 / o**2
            X = at.problem.X[0].numpy()
            c = MultiHead(kernel, X, at.arrays)
            C_V = reach / sigma**2 * nudge * max(c.g_V(0), c.g_V(1))
            C_Q = C_K = mpf(0)
            for _ in range(60 if kernel == "softmax" else 0):
                c = MultiHead(kernel, X, at.arrays, (float(C_Q), float(C_K), float(C_V)))
                pull = reach / sigma**2 * nudge
                C_Q, C_K = (
                    pull * max(c.g_scores(h, side[h]) for h in (0, 1)) for side in (c.K, c.Q)
                )
            near(radii.C_V, C_V)
            if kernel == "softmax":
                near(radii.C_Q, C_Q * nudge, "1e-11")
                near(radii.C_K, C_K * nudge, "1e-11")
            c = MultiHead(kernel, X, at.arrays, (radii.C_Q, radii.C_K, radii.C_V))
            found = sides(made)
            assert found.pop("heads are wide enough: H D >= N n") == (12, 2)
            beta, zero = found.pop("beta = o^2 sigma_min(B_0)^2 is positive")
            assert zero == 0
            for end in ("lo", "hi"):
                near(getattr(beta, end), (mpf(getattr(at.o, end)) * getattr(at.sigma_0, end)) ** 2)
            assert (made.rate_lo, made.rate_hi) == (beta.lo, beta.hi)
            paths = {"value": max(c.g_V(0), c.g_V(1)) / radii.C_V}
            if kernel == "softmax":
                paths["query"] = max(c.g_scores(h, c.K[h]) for h in (0, 1)) / radii.C_Q
                paths["key"] = max(c.g_scores(h, c.Q[h]) for h in (0, 1)) / radii.C_K
                squares = sum((c.O[h] * c.V[h] * (c.K[h] ** 2 + c.Q[h] ** 2)) ** 2 for h in (0, 1))
                drift = 2 * sum(a**6 for a in c.a) * r_0 / (c.d * o**2) * sqrt(squares)
            else:
                squares = sum((c.O[h] * c.V[h]) ** 2 for h in (0, 1))
                drift = 16 * c.n * sum(a**4 for a in c.a) * r_0 / (e * c.root * o**2)
                drift *= sqrt(squares)
            for path, needed in paths.items():
                lhs, rhs = found.pop(f"sigma_0^2 outweighs the {path} path")
                near(lhs.lo, sigma**2)
                near(lhs.hi, mpf(at.sigma_0.hi) ** 2)
                near(rhs, reach * needed)
            lhs, rhs = found.pop("sigma_0^3 outweighs the drift of B")
            near(lhs.lo, sigma**3)
            near(lhs.hi, mpf(at.sigma_0.hi) ** 3)
            near(rhs.hi, drift * (1 + mpf("1e-11")))
            assert not found
            near(made.max_step, 2 / (9 * (c.G_squared() + c.M_2() * r_0)))


def test_the_printed_reading_puts_the_stacked_constant_in_the_same_place() -> None:
    at = lazy("softmax", 0)
    made = FullGD().predict(FullGD().statement_named("stacked"), at)
    with workdps(30):
        near(made.rate_lo, (mpf(at.o_stacked.lo) * at.sigma_0.lo) ** 2)
    assert at.o_stacked.lo > at.o.hi


@pytest.mark.parametrize("statement", ["block-free", "kernel"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_prime_and_k_are_the_documented_ones(kernel: str, statement: str) -> None:
    """rho = 1.5 r_0/sqrt(kappa), kappa >= 6 drift(rho) r_0, eta <= 2/(9 L)."""
    chosen = set()
    for seed, values in [(0, 1e-8), (1, 1e-8), (0, 1e-4), (1, 3.0)]:
        at = lazy(kernel, seed, values)
        made = FullGD().predict(FullGD().statement_named(statement), at)
        sigma = at.sigma_J_V if statement == "block-free" else at.J_range[0]
        name = "delta" if statement == "block-free" else "M_2"
        with workdps(30):
            kappa, r_0 = mpf(sigma.lo) ** 2, mpf(at.r_0)
            rho = mpf("1.5") * r_0 / sqrt(kappa)
            radii = (float(rho),) * 3
            c = MultiHead(kernel, at.problem.X[0].numpy(), at.arrays, radii)
            drift = c.delta() if name == "delta" else c.M_2()
            reach = (mpf(at.J_range[1].hi) + c.M_2() * rho) ** 2
            chosen.add(bool(c.G_squared() < reach))
            found = sides(made)
            near(found["kappa is positive"][0].lo, kappa)
            lhs, rhs = found[f"kappa >= 6 {name}(rho) r_0"]
            near(lhs.lo, kappa)
            near(lhs.hi, mpf(sigma.hi) ** 2)
            near(rhs.hi, 6 * drift * r_0 * (1 + mpf("1e-11")), "1e-11")
            L = min(c.G_squared(), reach) + c.M_2() * r_0
            near(made.max_step, 2 / (9 * L), "1e-11")
            assert (made.rate_lo, made.rate_hi) == (lhs.lo, lhs.hi)
    assert len(chosen) == 2  # either bound of |J| is the smaller one somewhere


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
        start = MultiHeadPoint(model(kernel), problem, params)
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
    start = MultiHeadPoint(model("softmax"), problem, params)
    radii = least_radii(start, start.o.lo)
    assert radii is not None
    pull = 2 * start.r_0 / (start.o.lo**2 * start.sigma_0.lo**2)
    from gdconv.models.multihead.constants import Constants

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
    start = MultiHeadPoint(model("softmax"), problem, initialize("lecun", (2, 8, 4, 1), 0))
    prediction = FullGD().predict(FullGD().statement_named("per-head"), start)
    assert start.sigma_0 == (0.0, 0.0)
    assert any(h.holds is False for h in prediction.hypotheses)
