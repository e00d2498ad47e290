"""Every number of every statement of ntk-regime against the page that proves it.

docs/theory/ntk-regime.md in its own letters (rho, z, lambda), with alpha and |F_pre| from an SVD.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf, log, sqrt
from typing import Any

import numpy as np
import pytest
from encoder_formulas import KAPPA, Formulas
from samples import draw
from samples import model as multihead
from samples_encoder import case

from gdconv.descent.loop import Outcome
from gdconv.gallery.ntk_regime.theorem import NTKRegime
from gdconv.models.encoder.parameters import BLOCKS
from gdconv.models.encoder.point import EncoderPoint
from gdconv.rigor.spectrum import Enclosure
from gdconv.support.errors import InputError
from gdconv.theory.prediction import Inequality, Prediction

NUDGE = 1 + 1e-9
A_PRIORI = {"paper": ("printed", 8, 32, 0), "relu-rigorous": ("plain", 4, 16, 16),
            "relu-sharp": ("sharp", 2, 0, 0), "smooth": ("sharp", 2, 8, 0)}  # fmt: skip
"""Data constants and the numerals of the radii, the cubic and the third condition."""


def near(distance: float, name: str = "relu", seed: int = 0, output: float = 1.0) -> EncoderPoint:
    """A random start whose labels are that far from its outputs; w_O times `output`."""
    model, problem, params = case((2, 2, 4, 9), name, seed)
    params = replace(params, w_O=output * params.w_O)
    F = model.forward(problem, params).F.reshape(problem.y.shape)
    return EncoderPoint(model, replace(problem, y=F + distance * problem.y), params)


def predicted(name: str, start: EncoderPoint) -> Prediction:
    """What a statement says at a start."""
    theorem = NTKRegime()
    return theorem.predict(theorem.statement_named(name), start)


def page(name: str, start: EncoderPoint) -> tuple[Formulas, bool, float, float]:
    """Formulas at the least radii (0 where there are none), whether there are, alpha, |F|."""
    kind, factor, cubic, _ = A_PRIORI[name]
    c = start.model.tau_1 * sqrt(start.model.loss_scale)
    made = Formulas(start.problem.X[0].numpy(), start.arrays, start.model.tau_0, c, kind)
    s = np.linalg.svd(start.F_pre, compute_uv=False)
    found = made.least(NUDGE * factor, s[-1], start.r_0, s[0] if not cubic else inf)
    return found or made, found is not None, float(s[-1]), float(s[0])


def same(side: Any, value: float, rel: float = 1e-9) -> None:
    """A side of a hypothesis is that number: between its ends, and these close to it."""
    lo, hi = side if isinstance(side, Enclosure) else (side, side)
    room = 1e-12 * abs(value)
    assert lo - room <= value <= hi + room
    assert hi == pytest.approx(value, rel=rel, abs=0.0)
    assert lo == pytest.approx(value, rel=rel, abs=0.0)


def grows(side: Any, value: float, start: EncoderPoint) -> None:
    """As `same`, for a side that grows with r_0: its lower end allows for the error of r_0."""
    assert isinstance(side, Enclosure)
    assert side.hi == pytest.approx(value * (1 + 1e-11), rel=2e-12, abs=0.0)
    lower = value * max(0.0, 1 - 8 * start.r_error / start.r_0)
    assert side.lo == pytest.approx(lower, rel=2e-12, abs=0.0)


def by_name(made: Prediction) -> dict[str, Inequality]:
    """Hypotheses by what they say."""
    found = {h.name: h for h in made.hypotheses}
    assert len(found) == len(made.hypotheses)
    return found


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize(
    ("distance", "output"), [(1e-4, 1.0), (2e-2, 1.0), (1e-5, 1e-4), (3e-3, 1e-3)]
)
@pytest.mark.parametrize("name", list(A_PRIORI))
def test_hypotheses(name: str, distance: float, output: float, seed: int) -> None:
    start = near(distance, "gelu" if name == "smooth" else "relu", seed, output)
    f, found, alpha, _ = page(name, start)
    _, factor, cubic, third = A_PRIORI[name]
    known, r_0, where = by_name(predicted(name, start)), start.r_0, "" if found else ", at radius 0"
    first = known.pop("alpha = sigma_min(F_pre) is positive")
    same(first.lhs, alpha)
    assert (first.relation, first.rhs) == (">", 0.0)
    if found:
        for b in BLOCKS:
            h = known.pop(f"alpha^2 C_{b[-1]} >= {factor} |J_{b[-1]}| r_0")
            same(h.lhs, alpha**2 * f.radii[b])
            grows(h.rhs, factor * f.g[b] * r_0, start)
            assert (h.relation, h.holds) == (">=", True)
    else:
        h = known.pop(f"radii with alpha^2 C_W >= {factor} |J_W| r_0 exist")
        assert (h.lhs, h.relation, h.rhs, h.holds) == (0, ">=", 1, False)
    if cubic:
        h = known.pop(f"alpha^3 >= {cubic} lambda_O Lambda^2 r_0{where}")
        same(h.lhs, alpha**3)
        grows(h.rhs, cubic * f.O * f.Lambda_squared * r_0, start)
        assert h.relation == ">="
    if third:
        h = known.pop(f"alpha^2 >= {third} lambda_O^2 Lambda^2{where}")
        same(h.lhs, alpha**2)
        same(h.rhs, third * f.O**2 * f.Lambda_squared)
        assert h.relation == ">="
    if name == "relu-sharp":
        h = known.pop("(1 - delta)^2 - lambda_O^2 Lambda^2 / alpha^2 >= 1/2")
        delta = 2 * f.O * f.Lambda_squared * r_0 / alpha**3
        left = max(0.0, 1 - delta) ** 2 - (f.O / alpha) ** 2 * f.Lambda_squared
        assert isinstance(h.lhs, Enclosure)
        assert h.lhs.lo <= left <= h.lhs.hi
        assert h.lhs.lo == pytest.approx(left, abs=1e-9 * (1 + abs(left)))
        assert h.lhs.hi == pytest.approx(left, abs=1e-7 * (1 + abs(left)))
        assert (h.relation, h.rhs) == (">=", 0.5)
    if name == "smooth":
        h = known.pop("the activation has a bounded second derivative")
        assert (h.lhs, h.relation, h.rhs, h.holds) == (1, ">=", 1, True)
    assert not known
    if (distance, output) == (1e-5, 1e-4):
        assert all(h.holds for h in predicted(name, start).hypotheses)


def theory_step(kind: str, f: Formulas, alpha: float, r_0: float) -> float:
    """gamma [2 rho^3 lambda_V (z / lambda_O) r_0 + rho^4 (lambda_V^2 + z)^2] = alpha^2 / 2."""
    score = 4 * f.n**2 if kind == "printed" else f.n / 4
    Q_K = f.Q**2 + f.K**2
    z = f.O**2 * (1 + score * f.tau_0**2 * f.C_x**4 * f.V**2 * Q_K)
    bracket = 2 * f.rho**3 * f.V * z / f.O * r_0 + f.rho**4 * (f.V**2 + z) ** 2
    return alpha**2 / (2 * bracket)


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("distance", [1e-5, 1e-2, 1.0])
@pytest.mark.parametrize("name", list(A_PRIORI))
def test_rates_and_greatest_steps(name: str, distance: float, seed: int) -> None:
    start = near(distance, "silu" if name == "smooth" else "relu", seed)
    f, _, alpha, top = page(name, start)
    made = predicted(name, start)
    same(made.rate, alpha**2 / (1 if name == "smooth" else 2))
    assert made.power == (2 if name == "relu-sharp" else 1)
    assert (made.prefactor, made.best_step, made.decrease) == (1.0, None, None)
    if name in ("paper", "relu-rigorous"):
        wanted = theory_step(f"{A_PRIORI[name][0]}", f, alpha, start.r_0)
    elif name == "relu-sharp":
        delta = f.delta(alpha, start.r_0)
        wanted = 1 / (top + min(1.0, delta) * alpha) ** 2
    else:
        entry = max(abs(x) for x in start.arrays["w_O"]) + f.radii["w_O"]
        wanted = 2 / 9 / (f.G_squared + f.M_2(KAPPA["silu"], entry) * start.r_0)
    assert made.max_step == pytest.approx(wanted, rel=1e-9, abs=0.0)


def test_distances_cover_small_large_and_absent_radii() -> None:
    """The cases above: with radii and without, delta below and above 1, and well between."""
    seen, drifts = set(), []
    for distance, output in ((1e-4, 1.0), (1e-2, 1.0), (1.0, 1.0), (3e-3, 1e-3)):
        f, found, alpha, _ = page("relu-sharp", start := near(distance, seed=3, output=output))
        seen.add(found)
        drifts.append(f.delta(alpha, start.r_0))
    assert seen == {True, False}
    assert 0.1 < drifts[-1] < 0.5 < drifts[0] < 1 < drifts[1]


def test_without_a_curvature_or_a_singular_value_there_is_no_step() -> None:
    made = predicted("smooth", near(1e-3))
    assert made.max_step is None
    assert made.hypotheses[0].holds is False
    narrow = EncoderPoint(*case((3, 2, 4, 1), "relu", 0))
    made = predicted("relu-sharp", narrow)
    assert made.max_step is None
    assert made.rate == Enclosure(0.0, 0.0)
    assert not any(h.holds for h in made.hypotheses[:1])


def outcome(watched: dict[str, float], log_posterior: float = 0.0) -> Outcome:
    """A finished run of 10 steps, of which 7 were compared."""
    ledger = np.zeros(1, [("step", int), ("log_posterior", float), ("c_least", float),
                          ("posterior_closed", int)])[0]  # fmt: skip
    ledger["step"], ledger["log_posterior"], ledger["c_least"] = 10, log_posterior, 0.5
    test = np.zeros(1, [("floor_step", int), ("kind", int)])[0]
    test["floor_step"] = 8
    return Outcome(0.25, ledger, {"run": test}, [], None, 0, 0.0, watched)


def afterwards(name: str, watched: dict[str, float], log_posterior: float = 0.0) -> Prediction:
    """What a statement about the finished run says."""
    theorem, start = NTKRegime(), near(1e-2)
    return theorem.predict(theorem.statement_named(name), start, outcome(watched, log_posterior))


def test_the_certificate_of_a_run_is_its_mean_rate() -> None:
    made = afterwards("run", {}, 7 * log(0.8))
    assert made.rate == pytest.approx((1 - 0.8) / 0.25, rel=1e-12)
    assert [h.holds for h in made.hypotheses] == [True, True]
    assert made.claims == ()


LAZY = {"q": 1.0, "linear_worst": 1.0, "curved_worst": 1.0, "linear_bound": 0.5,
        "linear_last": 0.5, "first": 1.0, "rung_lo": 1.0, "rung_hi": 1.0}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "contracts", "claims", "vacuous"),
    [
        ({}, True, [None, None], ""),  # 1 <= 1 up to the slack of a float
        ({"curved_worst": 0.99, "linear_worst": 0.99}, True, [True, True], ""),
        ({"curved_worst": 1.01}, True, [False, None], ""),
        ({"linear_worst": 1.01}, True, [None, False], ""),
        ({"q": 1 + 0.9e-9}, True, [None, None], ""),
        ({"q": 1 + 1.1e-9}, False, [None, None], ""),
        ({"linear_last": 0.51}, True, [None, None], "give more steps"),
        ({"linear_bound": 0.51}, True, [None, None], "not lazy"),
        ({"first": 0.99}, True, [None, None], "give more steps"),
        ({"first": 2.0, "linear_last": 0.99, "linear_bound": 0.99}, True, [None, None], ""),
    ],
)
def test_the_linearisation_is_claimed_to_the_bound(
    changed: dict[str, float], contracts: bool, claims: list[bool | None], vacuous: str
) -> None:
    made = afterwards("linearised", LAZY | changed)
    assert [h.holds for h in made.hypotheses] == [contracts]
    assert [h.holds for h in made.claims] == claims
    assert vacuous in made.vacuous
    assert bool(made.vacuous) == bool(vacuous)
    assert made.rate == 0.0
    share = (LAZY | changed)["linear_bound"] / (LAZY | changed)["first"]
    assert f"{share:.3g} |r_0|" in made.note


@pytest.mark.parametrize(
    ("lo", "hi", "holds"),
    [
        (1.0, 2.0, True),
        (1 - 0.9e-9, 1.0, True),
        (1 - 1.1e-9, 1 - 0.9e-9, None),
        (0.0, 1 - 1.1e-9, False),
        (0.5, 1.5, None),
    ],
)
def test_the_ladder_is_claimed_to_one_part_in_a_billion(
    lo: float, hi: float, holds: bool | None
) -> None:
    made = afterwards("ladder", LAZY | {"rung_lo": lo, "rung_hi": hi})
    assert [h.holds for h in made.claims] == [holds]
    assert (made.hypotheses, made.rate, made.vacuous) == ((), 0.0, "")


@pytest.mark.parametrize("name", ["gelu", "relu"])
def test_constants_of_the_joint_ball(name: str) -> None:
    start = near(1e-2, name, 1)
    M, G_squared = NTKRegime().constants(start, 0.3)
    f = page("smooth", start)[0].at(dict.fromkeys(BLOCKS, 0.3))
    assert G_squared == pytest.approx(f.G_squared, rel=1e-12, abs=0.0)
    entry = max(abs(x) for x in start.arrays["w_O"]) + 0.3
    wanted = f.M_2(KAPPA["gelu"], entry) if name == "gelu" else inf
    assert pytest.approx(wanted, rel=1e-12, abs=0.0) == M


def test_small_kernels_are_enclosed_at_every_step() -> None:
    theorem = NTKRegime()
    for d_m, wanted in ((2000, 1e300), (2001, 0.0)):  # (5 * 2)^2 d_m is 200,000
        assert theorem.pl_constants(EncoderPoint(*case((5, 2, 1, d_m), "relu", 0))) == (1.0, wanted)
    for D, wanted in ((4, 1e300), (600, 0.0)):
        problem, params = draw((2, 10, D, 2, 1, 1), 0, 0.5, 1)
        start: Any = multihead("softmax").point(problem, params, ("W_V",))
        least = np.linalg.norm(params.W_O[0].numpy(), axis=(1, 2)).min()
        factor, M = theorem.pl_constants(start)
        assert factor == pytest.approx(least**2, rel=1e-9)
        assert (M, (start.N * start.n) ** 2 * start.H * start.D <= 2e5) == (wanted, wanted > 0)


def test_the_start_of_the_theorem_has_no_output_weights() -> None:
    theorem = NTKRegime()
    made = theorem.base({"width": 8, "embedding": 3}, 0, lambda p: p)
    assert not made.w_O.any()
    assert made.W_Q.shape == (1, 8, 3)
    assert theorem.solve(made, lambda p: False, 2.0) is made
    with pytest.raises(InputError, match="init"):
        theorem.base({"heads": 2, "embedding": 3}, 0, lambda p: p)
