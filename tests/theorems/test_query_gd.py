"""Theorem 2 of Song et al.: rate, stationarity, the printed coefficient, traps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from extremal import APART, Sizes, told_apart
from extremal import start as extremal_start
from mpmath import mpf, workdps
from reference_constants import MultiHead
from samples import KERNELS, draw, model

import gdconv
from gdconv.data.problem import Problem
from gdconv.gallery.query_gd import QueryGD
from gdconv.models.multihead.attention_kernels import Gaussian
from gdconv.models.multihead.constants import QueryConstants
from gdconv.models.multihead.parameters import Parameters
from gdconv.models.multihead.point import MultiHeadPoint


def last(check: Any) -> float:
    """Loss at the end of the first run."""
    return float(check.runs["loss_last"].iloc[0])


def verdicts(check: Any) -> dict[str, str]:
    """Worst verdict of every statement."""
    return {name: check.verdict_of(name) for name in check.verdicts["statement"].unique()}


def near(found: Any, wanted: Any) -> None:
    """Equal up to rounding."""
    assert abs(mpf(float(found)) - wanted) <= mpf("1e-12") * abs(wanted), (found, wanted)


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_number_is_the_documented_one(kernel: str) -> None:
    """Theorem B and Theorem S from docs/theory/query-gd.md, constants from a second source."""
    theorem, chosen = QueryGD(), set()
    starts = [
        MultiHeadPoint(model(kernel), *draw((1, 2, 4, 3, 3, 1), seed), ("W_Q",)) for seed in (0, 1)
    ]
    if kernel == "softmax":  # here |J_Q|^2 = G^2, so G^2 is the smaller bound
        told = told_apart(Sizes(d=2), W_K=2 * APART, W_V=APART)
        starts.append(replace(told, trained=("W_Q",)))
    else:
        far = extremal_start("gaussian", Sizes(), np.eye(1), W_Q=np.ones(1), W_V=np.ones(1))
        starts.append(replace(far, trained=("W_Q",)))
    for at in starts:
        at = replace(at, problem=replace(at.problem, y=at.problem.y + 0.7))
        rate = theorem.predict(theorem.statement_named(f"{kernel}-rate"), at)
        sure = theorem.predict(theorem.statement_named("stationarity"), at)
        printed = theorem.predict(theorem.statement_named("printed-stationarity"), at)
        with workdps(30):
            c = MultiHead(kernel, at.problem.X[0].numpy(), at.arrays)
            M_2, G_squared, r_0 = c.query_M_2(), c.query_G_squared(), mpf(at.r_0)
            least, greatest = at.J_range
            local = (mpf(greatest.hi) + mpf(least.hi) / 4) ** 2
            chosen.add(bool(G_squared < local))
            near(rate.max_step, 2 / (9 * (min(G_squared, local) + M_2 * r_0)))
            positive, enough = rate.hypotheses
            for h in (positive, enough):
                near(h.lhs.lo, mpf(least.lo) ** 2)
                near(h.lhs.hi, mpf(least.hi) ** 2)
            assert (positive.relation, positive.rhs, enough.relation) == (">", 0.0, ">=")
            near(enough.rhs.hi, 6 * M_2 * r_0 * (1 + mpf("1e-11")))
            assert (rate.rate_lo, rate.rate_hi) == (enough.lhs.lo, enough.lhs.hi)
            L = G_squared + M_2 * r_0
            for made in (sure, printed):
                near(made.max_step, 2 / L)
                near(made.best_step, 1 / L)
                assert made.hypotheses == ()
            for eta in (mpf("0.3") / L, mpf("1.9") / L):
                share, c = eta * L / 2, sure.decrease(float(eta))
                assert c.lo <= eta * (1 - share) <= c.hi  # the bar is that of L: 1e-11
                near(c.mid, float(eta) * (1 - float(eta) * L / 2))
                assert c.width == pytest.approx(float(2 * eta * share) * 1e-11, rel=1e-3)
                assert printed.decrease(float(eta)) == (float(eta), float(eta))
            followed, drift = theorem.pl_constants(at)
            assert followed == 0
            near(drift, M_2)
            for rho in (0.0, 5.0):
                found = theorem.constants(at, rho)
                near(found[0], M_2)
                near(found[1], G_squared)
    assert len(chosen) == 2


@pytest.mark.parametrize("kernel", KERNELS)
def test_theorem_start_confirms_the_rate_and_refutes_the_printed_coefficient(kernel: str) -> None:
    check = gdconv.check("query-gd", kernel=kernel, init="theorem", seeds=3)
    made = verdicts(check)
    assert check.statement == f"{kernel}-rate"
    assert made[f"{kernel}-rate"] == made["stationarity"] == "confirmed"
    assert made["printed-stationarity"] == "refuted"
    rate = check.verdicts[check.verdicts["statement"] == f"{kernel}-rate"]
    assert (rate["bound_last"] < 0.5).all()


@pytest.mark.parametrize("kernel", KERNELS)
def test_only_the_queries_move(kernel: str) -> None:
    check = gdconv.check("query-gd", kernel=kernel, steps=200)
    assert (check.trace["distance_K"] == 0).all()
    assert (check.trace["distance_V"] == 0).all()
    assert check.trace["distance_Q"].iloc[-1] > 0


def test_each_kernel_has_its_own_rate_statement() -> None:
    with pytest.raises(gdconv.support.errors.InputError, match="statement = gaussian-rate"):  # type: ignore[attr-defined]
        gdconv.check("query-gd", kernel="softmax", statement="gaussian-rate")


@pytest.mark.parametrize(
    ("eta", "ratio"), [(0.01, 0.99965), (0.1, 0.99639), (0.5, 0.98045), (None, 0.93130)]
)
def test_w4_ratios(eta: float | None, ratio: float) -> None:
    options = {} if eta is None else {"step": eta}
    check = gdconv.check("query-gd", problem="printed-stationarity", **options)
    first, second = check.trace.iloc[0], check.trace.iloc[1]
    step = check.runs["step"].iloc[0]
    assert (first["loss"] - second["loss"]) / (step * first["grad_norm"] ** 2) == pytest.approx(
        ratio, abs=5e-6
    )
    assert verdicts(check)["printed-stationarity"] == "refuted"
    assert verdicts(check)["stationarity"] in ("confirmed", "vacuous")


def test_w4_confirms_the_proved_coefficient() -> None:
    check = gdconv.check("query-gd", problem="printed-stationarity", statement="stationarity")
    assert check.verdict == "confirmed"
    assert 1 / check.runs["step"].iloc[0] == pytest.approx(0.6778689767608077, rel=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
def test_stationarity_holds_on_digits(kernel: str) -> None:
    made = gdconv.check("query-gd", kernel=kernel, statement="stationarity", data="digits")
    assert made.verdict == "confirmed"


@pytest.mark.parametrize("kernel", KERNELS)
def test_ordinary_run_is_certified(kernel: str) -> None:
    check = gdconv.check("query-gd", statement="run", kernel=kernel)
    assert check.verdict == "confirmed"
    assert last(check) < 1e-10
    assert (check.trace["sigma_J_lo"] <= check.trace["sigma_J_hi"]).all()
    # the PL ratio is at least sigma_m(J_Q)^2 at every recorded step
    assert (check.trace["pl_ratio"] >= check.trace["sigma_J_lo"] ** 2 * (1 - 1e-9)).all()


def test_softmax_trap() -> None:
    trapped = gdconv.check("query-gd", problem="softmax-trap", kernel="softmax")
    assert abs(last(trapped) - 1.5) < 1e-3
    assert last(trapped) > 1.5
    assert trapped.verdict == "outside"
    assert "saturation" in trapped.runs["stall"].iloc[0]
    assert (trapped.trace["loss"] > 1.5).all()
    assert last(gdconv.check("query-gd", problem="softmax-trap", kernel="gaussian")) < 1e-20
    assert last(gdconv.check("full-gd", problem="softmax-trap", kernel="softmax")) < 1e-3


def test_gaussian_counter_trap() -> None:
    trapped = gdconv.check("query-gd", problem="gaussian-trap", kernel="gaussian")
    assert last(trapped) == pytest.approx(1.499999908620073, abs=1e-9)
    assert "saturation" in trapped.runs["stall"].iloc[0]
    assert np.allclose(trapped.starts["W_Q_last"], -3, atol=1e-6)


def test_a_small_step_is_called_a_small_step() -> None:
    check = gdconv.check("query-gd", statement="run", step=1e-7, steps=400)
    assert "too small a step" in check.runs["stall"].iloc[0]


def test_a_residual_out_of_reach_is_called_loss_of_rank() -> None:
    check = gdconv.check(
        "query-gd", statement="run", data="gaussian", samples=6, tokens=2, embedding=2,
        heads=1, head_dim=2, init="normal", step="local", steps=20_000, kernel="gaussian",
    )  # fmt: skip
    assert "loss of rank" in check.runs["stall"].iloc[0]


@pytest.mark.parametrize("kernel", KERNELS)
def test_global_constants_hold(kernel: str) -> None:
    greatest = 0.0
    for seed in range(60):
        problem, params = draw((2, 2, 3, 2, 2, 1), seed)
        c = QueryConstants(MultiHeadPoint(model(kernel), problem, params, ("W_Q",)))
        here = model(kernel).jacobian(problem, params, ("W_Q",))[0].numpy()
        gap = 1e-4 * torch.from_numpy(np.random.default_rng(seed).standard_normal((1, 2, 3, 2)))
        moved = replace(params, W_Q=params.W_Q + gap)
        there = model(kernel).jacobian(problem, moved, ("W_Q",))[0].numpy()
        assert np.linalg.norm(here, 2) ** 2 <= c.G_squared() * (1 + 1e-12)
        ratio = np.linalg.norm(there - here, 2) / (c.M_2() * float(gap.norm()))
        greatest = max(greatest, ratio)
        assert ratio <= 1 + 1e-6
    assert greatest > 0.02  # a factor of a hundred would be noticed


def test_wrong_sign_in_the_gaussian_score_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"kernel": "gaussian", "engine": "torch", "steps": 300}
    assert gdconv.check("query-gd", **options, until_bound=0.8).verdict == "confirmed"
    pullback = Gaussian.pullback
    monkeypatch.setattr(
        Gaussian, "pullback", lambda self, *a: tuple(-g for g in pullback(self, *a))
    )
    assert gdconv.check("query-gd", **options, step="1e-12").verdict == "outside"


def test_half_the_coefficient_is_the_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted fault: the proved statement with the printed coefficient is refuted."""
    statement = QueryGD.stationarity.statement  # type: ignore[attr-defined]
    predict = QueryGD.predict

    def changed(self: Any, s: Any, start: MultiHeadPoint, outcome: Any = None) -> Any:
        made = predict(self, s, start, outcome)
        return replace(made, decrease=lambda eta: eta) if s.name == statement.name else made

    monkeypatch.setattr(QueryGD, "predict", changed)
    check = gdconv.check("query-gd", problem="printed-stationarity", statement="stationarity")
    assert check.verdict == "refuted"


@pytest.mark.parametrize("kernel", KERNELS)
def test_trap_weights_are_the_theorys(kernel: str) -> None:
    check = gdconv.check("query-gd", problem="softmax-trap", kernel=kernel, steps=1)
    problem = Problem.from_arrays(check.starts["X"], check.starts["y"])
    params = Parameters.from_arrays({b: check.starts[b] for b in ("W_Q", "W_K", "W_V", "W_O")})
    start = MultiHeadPoint(model(kernel), problem, params)
    if kernel == "softmax":
        assert start.f_0 == pytest.approx(1.8151943410480755, rel=1e-12)
        assert start.sigma_0.mid == pytest.approx(0.009370447, rel=1e-6)


def test_score_rounding_is_no_refutation() -> None:
    """Keys with a large common part: the scores' rounding drowns the decrease of the loss."""
    witness = str(Path(__file__).parent.parent / "data" / "offset_keys.npz")
    check = gdconv.check("query-gd", problem=witness, statement="stationarity", steps=4)
    assert check.verdict == "undecided"


@pytest.mark.parametrize("statement", ["softmax-rate", "stationarity", "printed-stationarity"])
def test_an_output_that_does_not_depend_on_the_queries_is_outside(statement: str) -> None:
    check = gdconv.check(
        "query-gd", statement=statement, init="normal", scales="1,0,1,1", step=0.1, steps=30
    )
    assert check.verdict == "outside"


def test_a_large_step_is_called_a_large_step() -> None:
    options = {"init": "normal", "scales": "2,2,2,2", "kernel": "gaussian", "steps": 200}
    messages = []
    for step in (0.5, 1.0, 2.0, 4.0):
        messages += gdconv.check("query-gd", step=step, **options).messages
    assert any("too large a step" in message for message in messages)
