"""The gap bounds the true suboptimality: against other solutions, exact arithmetic and CVXPY."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flint import arb
from hypothesis import given, settings
from hypothesis import strategies as st

import gdconv.convex.dual as dual_module
from gdconv.convex.dual import (
    beta_max,
    certified_inactive,
    certify,
    dual_radius,
    dual_sizes_upper,
    objective_enclosure,
)
from gdconv.convex.group_lasso import PENALTIES, Program
from gdconv.convex.losses import LOSSES, Loss
from gdconv.convex.solvers.fast import solve
from gdconv.gallery.convex_attention.exact import exact_gap
from gdconv.support.errors import InputError

programs = st.tuples(
    st.integers(1, 5),  # N
    st.integers(1, 4),  # K
    st.integers(1, 3),  # d
    st.integers(1, 2),  # c
    st.sampled_from(LOSSES),
    st.sampled_from(PENALTIES),
    st.floats(-2.5, 0.3),  # log10 beta/beta_max
    st.integers(0, 10**6),
)


def draw(spec: tuple[Any, ...]) -> tuple[Program, np.random.Generator]:
    N, K, d, c, loss, penalty, logarithm, seed = spec
    rng = np.random.default_rng(seed)
    X, y = rng.standard_normal((N, K, d)), rng.standard_normal((N, c))
    y = np.where(y > 0, 1.0, -1.0) if loss == "logistic" else y
    program = Program.of(X, y, 1.0, Loss(loss, 0.8), penalty)
    return program.with_beta(beta_max(program).hi * 10**logarithm), rng


@given(spec=programs, scale=st.floats(0.0, 2.0))
@settings(max_examples=40)
def test_every_point_brackets_the_same_optimum(spec: tuple[Any, ...], scale: float) -> None:
    program, rng = draw(spec)
    best = solve(program, 1e-7)
    assert best.status == "certified"
    for Z in (scale * rng.standard_normal(program.shape), best.Z, best.Z * (1 + 1e-3)):
        found = certify(program, Z)
        assert found.primal >= program.objective(Z) * (1 - 1e-14)
        assert found.dual <= best.certificate.primal
        assert found.gap >= program.objective(Z) - best.certificate.primal
        assert np.all(found.sizes <= program.beta)


@given(spec=programs, scale=st.floats(0.0, 2.0))
@settings(max_examples=30)
def test_gap_holds_in_ball_arithmetic(spec: tuple[Any, ...], scale: float) -> None:
    if spec[3] > 1 and spec[5] == "nuclear":
        spec = (*spec[:5], "columns", *spec[6:])
    program, rng = draw(spec)
    for Z in (solve(program, 1e-9).Z, scale * rng.standard_normal(program.shape)):
        found = certify(program, Z)
        exact = exact_gap(program, Z, found.v)
        assert exact.feasible
        assert arb(found.primal) >= exact.primal
        assert arb(found.dual) <= exact.dual
        assert arb(found.gap) >= exact.gap
        box = objective_enclosure(program, Z)
        assert arb(box.lo) <= exact.primal <= arb(box.hi)
        assert box.width <= 1e-11 * box.hi


@pytest.mark.parametrize("scale", [1e-120, 1e-8, 1e8, 1e60])
def test_gap_holds_at_every_scale(scale: float) -> None:
    rng = np.random.default_rng(0)
    program = Program.of(scale * rng.standard_normal((4, 3, 2)), rng.standard_normal(4), 1.0)
    program = program.with_beta(0.3 * beta_max(program).lo)
    found = solve(program, 1e-9)
    exact = exact_gap(program, found.Z, found.certificate.v)
    assert exact.feasible
    assert arb(found.certificate.gap) >= exact.gap
    assert found.status == "certified"


def test_a_forgotten_group_makes_the_gap_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    program = Program.of(rng.standard_normal((5, 3, 2)), rng.standard_normal(5), 0.3)
    best = solve(program, 1e-10)
    gone = int(best.active[0])
    rest = np.delete(program.design.A, gone, axis=1)
    Z = np.insert(solve(Program.of(rest, program.y, 0.3), 1e-10).Z, gone, 0.0, axis=0)
    right = certify(program, Z)
    assert right.dual <= best.certificate.primal
    assert right.gap >= program.objective(Z) - best.certificate.primal > 1e-3

    def forgetful(task: Program, v: np.ndarray) -> np.ndarray:
        sizes = dual_sizes_upper(task, v)
        sizes[gone] = 0.0
        return sizes

    monkeypatch.setattr(dual_module, "dual_sizes_upper", forgetful)
    wrong = certify(program, Z)
    assert wrong.relative_gap < 1e-9  # claims optimality of a point that is not optimal
    assert wrong.dual > best.certificate.primal
    assert not exact_gap(program, Z, wrong.v).feasible


def test_the_nuclear_norm_is_enclosed() -> None:
    """A known one: orthogonal columns of lengths 3, 4 and X = 0, y = 0."""
    Z = np.array([[[3.0, 0.0], [0.0, 4.0]], [[0.0, 5.0], [0.0, 0.0]]])
    program = Program.of(np.zeros((1, 2, 2)), np.zeros((1, 2)), 1.0, penalty="nuclear")
    box = objective_enclosure(program, Z)
    assert box.lo <= 12.0 <= box.hi
    assert box.width < 1e-12
    rng = np.random.default_rng(0)
    for _ in range(20):
        M = rng.standard_normal((2, 2, 2))
        U, V = (np.linalg.qr(rng.standard_normal((2, 2)))[0] for _ in range(2))
        turned = objective_enclosure(program, U @ M @ V)  # the norm does not change
        plain = objective_enclosure(program, M)
        assert turned.lo <= plain.hi
        assert plain.lo <= turned.hi + 1e-14


def test_beta_max_is_where_zero_stops_being_optimal() -> None:
    rng = np.random.default_rng(7)
    for loss in LOSSES:
        for penalty in PENALTIES:
            y = np.where(rng.standard_normal((6, 2)) > 0, 1.0, -1.0)
            program = Program.of(rng.standard_normal((6, 3, 2)), y, 1.0, loss, penalty)
            top = beta_max(program)
            assert 0 <= top.hi - top.lo < 1e-11 * top.hi
            assert not solve(program.with_beta(top.hi), 1e-9).Z.any()
            assert solve(program.with_beta(0.98 * top.lo), 1e-9).Z.any()


@given(spec=programs)
@settings(max_examples=12)
def test_inactive_tokens_are_inactive(spec: tuple[Any, ...]) -> None:
    """A token proved inactive stays zero in solutions found another way."""
    program, rng = draw(spec)
    out = certified_inactive(program, certify(program, solve(program, 1e-9).Z))
    other = solve(
        program, 1e-9, start=rng.standard_normal(program.shape), method="proximal", limit=5
    )
    if other.status == "certified":
        heavy = program.group_sizes(other.Z) * program.beta
        assert np.all(heavy[out] <= np.sqrt(other.certificate.gap) + 1e-9)
    tight = solve(program, 1e-9).certificate
    assert np.all(tight.sizes[out] < program.beta)
    assert dual_radius(program, tight) >= 0


def test_certificates_of_far_points_prove_little() -> None:
    program = Program.of([[[1.0], [0.1]]], [1.0], 0.5)
    assert not certified_inactive(program, certify(program, np.full((2, 1, 1), 9.0))).any()


def oracle(program: Program) -> float:
    cp = pytest.importorskip("cvxpy")
    K, d, c = program.shape
    Z = [cp.Variable((d, c)) for _ in range(K)]
    p = sum(program.design.A[:, k] @ Z[k] for k in range(K))
    if program.loss.name == "squared":
        fit = cp.sum_squares(p - program.y)
    elif program.loss.name == "huber":
        fit = cp.sum(cp.huber(p - program.y, program.loss.delta))
    else:
        fit = cp.sum(cp.logistic(-cp.multiply(program.y, p)))
    if program.penalty == "nuclear":
        norm = sum(cp.normNuc(z) for z in Z)
    else:
        norm = sum(cp.norm(z[:, col], 2) for z in Z for col in range(c))
    task = cp.Problem(cp.Minimize(fit + program.beta * norm))
    task.solve(solver=cp.CLARABEL)
    return float(task.value)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("c", [1, 2])
def test_cvxpy_agrees(loss: str, penalty: str, c: int) -> None:
    if c == 1 and penalty == "nuclear":
        penalty = "columns"
    program, _ = draw((6, 4, 3, c, loss, penalty, -1.0, 11))
    found = solve(program, 1e-9).certificate
    assert found.relative_gap <= 1e-9
    assert oracle(program) == pytest.approx(found.primal, rel=1e-6)


def test_bad_input() -> None:
    X, y = np.ones((2, 2, 1)), [1.0, 2.0]
    for arguments, match in (
        ((X, [1.0], 1.0), "one for each of 2 samples"),
        ((X, y, 0.0), "positive"),
        ((X, y, 1.0, "squared", "ridge"), "columns, nuclear"),
        ((np.ones((0, 2, 1)), [], 1.0), "empty"),
    ):
        with pytest.raises(InputError, match=match):
            Program.of(*arguments)
    with pytest.raises(InputError, match="positive"):
        Program.of(X, y, 1.0).with_beta(-1.0)
