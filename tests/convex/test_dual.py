"""Certificates at their corners and to their constants: nothing is certified that is not so."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import pytest
from flint import arb

import gdconv.convex.dual as dual_module
from gdconv.convex.dual import (
    SMALLEST_SCALE,
    Certificate,
    beta_max,
    certified_inactive,
    certify,
    dual_radius,
    dual_sizes_upper,
    objective_enclosure,
    scaled_into,
)
from gdconv.convex.group_lasso import PENALTIES, Program
from gdconv.convex.losses import LOSSES, Loss
from gdconv.convex.solvers.fast import solve
from gdconv.gallery.convex_attention.exact import exact_gap

ONE = Program.of([[[1.0]]], [1.0], 0.5)


def gaussian(seed: int = 0, shape: tuple[int, int, int] = (4, 3, 2), c: int = 1) -> Any:
    rng = np.random.default_rng(seed)
    return rng.standard_normal(shape), rng.standard_normal((shape[0], c))


# ---- corners


@pytest.mark.parametrize("loss", ["squared", "huber"])
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("c", [1, 2])
def test_labels_of_zero_are_solved_with_a_gap_of_zero(loss: str, penalty: str, c: int) -> None:
    X, y = gaussian(c=c)
    for beta in (5e-324, 1e-170, 1.0, 1e300):
        for tokens in (X, 0 * X, 1e150 * X):
            program = Program.of(tokens, 0 * y, beta, loss, penalty)
            found = solve(program, 1e-9)
            assert found.status == "certified"
            assert not found.Z.any()
            least = found.certificate
            assert (least.primal, least.dual, least.gap, least.relative_gap) == (0, 0, 0, 0)
            assert dual_radius(program, least) < 1e-150
            assert beta_max(program) == (0.0, 0.0)


def test_a_gap_of_zero_needs_labels_of_zero() -> None:
    """One denormal label, or a weight, and the gap is not 0."""
    X, y = gaussian()
    y = 0 * y
    y[2] = 5e-324
    found = certify(Program.of(X, y, 1.0), np.zeros((3, 2, 1)))
    assert found.primal > 0.0
    assert found.gap > 0.0
    Z = np.zeros((3, 2, 1))
    Z[1, 0] = 5e-324
    found = certify(Program.of(X, 0 * y, 1.0), Z)
    assert found.primal > 0.0
    assert found.gap > 0.0


@pytest.mark.parametrize("size", [5e-324, 1e-170, 1e160, 1e300])
@pytest.mark.parametrize("place", ["y", "X", "both", "beta"])
@pytest.mark.parametrize("loss", LOSSES)
def test_any_size_is_bounded_or_left_open(size: float, place: str, loss: str) -> None:
    """No crash, no warning; what is claimed holds in balls, which neither under- nor overflow."""
    X, y = gaussian(shape=(2, 2, 2))
    X = X * size if place in ("X", "both") else X
    y = np.sign(y) if loss == "logistic" else y * size if place in ("y", "both") else y
    program = Program.of(X, y, size if place == "beta" else 1.0, loss)
    top = beta_max(program)
    assert 0.0 <= top.lo <= top.hi
    betas = [b * t for b in (0.1, 1.0, 2.0) for t in top if 0 < b * t < np.inf]
    for beta in betas or [1.0]:
        at = program if place == "beta" else program.with_beta(beta)
        for Z in (at.zeros(), np.full(at.shape, size)):
            found = certify(at, Z)
            exact = exact_gap(at, Z, found.v) if np.isfinite(found.v).all() else None
            assert found.gap >= 0.0
            if exact is None or not found.dual > -np.inf:
                assert found.relative_gap == np.inf
                continue
            assert exact.feasible
            assert arb(found.dual) <= exact.dual
            assert found.primal == np.inf or arb(found.primal) >= exact.primal
            box = objective_enclosure(at, Z)
            assert arb(box.lo) <= exact.primal


@pytest.mark.parametrize("size", [5e-324, 1e-170, 1e300])
@pytest.mark.parametrize("loss", LOSSES)
def test_solvers_end_at_any_size(size: float, loss: str) -> None:
    X, y = gaussian(shape=(2, 2, 1))
    y = np.sign(y) if loss == "logistic" else y
    for program in (
        Program.of(X * size, y, 1.0, loss),
        Program.of(X, y if loss == "logistic" else y * size, max(size, 1e-20), loss),
    ):
        found = solve(program, 1e-6, limit=2)
        assert (found.status == "certified") == (found.certificate.relative_gap <= 1e-6)
    for beta in (5e-324, 1e-310):
        assert solve(Program.of([[[1.0]]], [1.0], beta, loss), 1e-6, limit=1).certificate.gap > 0


def test_a_tiny_beta_scales_nothing_out_of_the_feasible_set() -> None:
    """beta/|A^T v| denormal: its rounding is no longer relative. v = 0 is what is left."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        a, y, beta = (10.0 ** rng.uniform(*e) for e in ((-3, 3), (0, 12), (-323, -300)))
        program = Program.of([[[a]]], [y], beta)
        found = certify(program, program.zeros())
        exact = exact_gap(program, program.zeros(), found.v)
        assert exact.feasible
        least = mpmath.mpf(beta) * y / a - (mpmath.mpf(beta) / a) ** 2 / 4  # F*, exactly
        assert mpmath.mpf(found.dual) <= least


def test_the_smallest_scale_is_where_it_should_be() -> None:
    """8 u s |v| covers N = 2^40 denormal roundings, and a scale above it is used."""
    assert 8 * 2.0**-53 * SMALLEST_SCALE >= 2.0**20 * 2.0**-1074
    for power, kept in ((-499, True), (-502, False)):
        program = Program.of([[[1.0]]], [2.0**499], 2.0**power)
        v, _ = scaled_into(program, np.full((1, 1), 2.0**500))
        want = 2.0**power if kept else 0.0
        assert v[0, 0] == pytest.approx(want, rel=1e-12, abs=0)


def test_beta_max_of_tokens_that_cancel_is_not_above_zero() -> None:
    """The truth is 0 (labels cancel); lengths underflow while the products do not."""
    a = np.random.default_rng(1).standard_normal((1, 3, 4))
    for big, small in ((1.0, 1.0), (1e150, 1e-170), (1e300, 1e-200), (1e-200, 1e10)):
        X = np.concatenate([big * a, big * a, 3 * (big * a)])
        y = small * np.array([1.0, 2.0, -1.0])  # 1 + 2 - 3
        for penalty in PENALTIES:
            Y = np.stack([y, -2 * y], 1)
            box = beta_max(Program.of(X, Y, 1.0, penalty=penalty))
            assert box.lo == 0.0 <= box.hi


def test_infinite_and_missing_numbers_prove_nothing() -> None:
    X, y = gaussian()
    program = Program.of(X, y, 0.3)
    for bad in (np.inf, np.nan, 1e308):
        Z = np.full(program.shape, bad)
        box = objective_enclosure(program, Z)
        assert (box.lo, box.hi) == (0.0, np.inf) or box.hi == np.inf
        found = certify(program, Z)
        assert found.gap == np.inf
        assert found.relative_gap == np.inf
        assert not certified_inactive(program, found).any()
        v = np.full(y.shape, bad)
        assert certify(program, program.zeros(), v).dual <= solve(program).certificate.primal


# ---- properties


def made(primal: float, dual: float) -> Certificate:
    return Certificate(primal, dual, np.zeros((1, 1)), np.zeros(1), 1.0)


def test_gap_and_relative_gap_are_rounded_up() -> None:
    third = made(1.0, 2.0 / 3.0)
    assert mpmath.mpf(third.gap) > mpmath.mpf(1) - mpmath.mpf(2.0 / 3.0)
    assert third.gap == pytest.approx(1 / 3, rel=1e-15)
    with mpmath.workdps(50):
        exact = (mpmath.mpf(1) - mpmath.mpf(2.0 / 3.0)) / mpmath.mpf(2.0 / 3.0)
        assert exact < mpmath.mpf(third.relative_gap) < exact * (1 + mpmath.mpf(2) ** -45)
    assert made(1.0, 0.5).gap == np.nextafter(0.5, 1.0)
    assert made(3.0, 3.0).gap == made(3.0, 3.0).relative_gap == 0.0
    assert made(1.0, -1.0).relative_gap == made(1.0, 0.0).relative_gap == np.inf
    assert made(1.0, -np.inf).gap == np.inf
    assert made(1.0, 0.75).optimum == (0.75, 1.0)
    assert made(0.5, 0.75).optimum == (0.75, 0.75)  # rounding only: the ends do not cross
    assert made(0.5, 0.75).relative_gap == 0.0


@pytest.mark.parametrize("loss", LOSSES)
def test_the_radius_is_attained(loss: str) -> None:
    """|v - v*| = sqrt(2 curvature gap) where D has its least curvature: no smaller factor holds.

    X = 0 makes every v feasible; two labels keep the scaling from undoing what is off.
    """
    program = Program.of(np.zeros((2, 1, 1)), [1.0, 1.0], 1.0, Loss(loss, 9.0))
    best = 0.5 if loss == "logistic" else 2.0
    for off in (1e-3, 0.01, 0.1):
        found = certify(program, program.zeros(), np.array([[best + off], [best - off]]))
        distance = float(np.linalg.norm(found.v - best))
        assert distance == pytest.approx(off * 2**0.5, rel=0.01)
        radius = dual_radius(program, found)
        assert distance <= radius <= 1.01 * distance
        want = mpmath.sqrt(2 * mpmath.mpf(program.loss.curvature) * mpmath.mpf(found.gap))
        assert want <= radius <= want * (1 + mpmath.mpf(10) ** -13)
    assert dual_radius(program, made(1.0, -np.inf)) == np.inf
    assert dual_radius(program, made(1.0, 2.0)) < 1e-150


# ---- rounding


def exact_norms(program: Program, v: np.ndarray) -> list[mpmath.mpf]:
    """max_l |sum_i A_ik v_il|, 60 digits."""
    A, (N, c) = program.design.A, v.shape
    sizes = []
    for k in range(A.shape[1]):
        columns = [
            mpmath.sqrt(sum(
                sum(mpmath.mpf(A[i, k, e]) * mpmath.mpf(v[i, col]) for i in range(N)) ** 2
                for e in range(A.shape[2])
            ))
            for col in range(c)
        ]  # fmt: skip
        sizes.append(max(columns))
    return sizes


def test_dual_sizes_cover_cancellation_and_are_not_wide() -> None:
    """Sums that cancel: what floats lose is as large as gamma_N |A| |v| allows, within a factor."""
    with mpmath.workdps(60):
        lost = 0.0
        for seed in range(80):
            rng = np.random.default_rng(seed)
            N = int(rng.integers(2, 12))
            X, v = rng.standard_normal((N, 1, 1)), rng.standard_normal((N, 1))
            v[-1, 0] = -float(X[:-1, 0, 0] @ v[:-1, 0]) / X[-1, 0, 0]
            program = Program.of(X, v, 1.0)
            (bound,), (truth,) = dual_sizes_upper(program, v), exact_norms(program, v)
            assert mpmath.mpf(float(bound)) >= truth
            scale = np.linalg.norm(X) * np.linalg.norm(v)
            assert bound <= 1.2 * (N + 1) * 2.0**-53 * scale + abs(float(truth)) * 1.001 + 1e-147
            computed = abs(float(program.correlate(v)[0, 0, 0]))
            lost = max(lost, float(abs(truth - computed)) / (N * 2.0**-53 * scale))
        assert lost > 0.05  # the bound is within a factor of 20 of what happens


def test_dual_sizes_have_the_slack_of_their_derivation() -> None:
    """gamma_N |A_k|_F |v_l| for the sums, to 1 %, where the sums themselves vanish."""
    for N in (1, 2, 50, 3000):
        X = np.ones((2 * N, 2, 3)) * np.array([1.0, 3.0])[:, None]
        v = np.repeat([1.0, -1.0], N)[:, None]
        bounds = dual_sizes_upper(Program.of(X, v, 1.0), v)
        lengths = np.array([1.0, 3.0]) * np.sqrt(6 * N) * np.sqrt(2 * N)
        want = 1.001 * (2 * N + 1) * 2.0**-53 * lengths
        assert bounds == pytest.approx(want, rel=1e-3, abs=0)
    nuclear = Program.of(X, np.column_stack([v, v]), 1.0, penalty="nuclear")
    twice = dual_sizes_upper(nuclear, nuclear.y)
    assert twice == pytest.approx(np.sqrt(2) * want, rel=1e-2, abs=0)


def test_dual_sizes_are_above_the_norm_where_nothing_cancels() -> None:
    with mpmath.workdps(60):
        for seed in range(20):
            X, v = gaussian(seed, (3, 4, 5), 2)
            program = Program.of(X, v, 1.0)
            for bound, truth in zip(
                dual_sizes_upper(program, v), exact_norms(program, v), strict=True
            ):
                assert truth <= mpmath.mpf(float(bound)) <= truth * (1 + mpmath.mpf(10) ** -13)


def exact_objective(program: Program, Z: np.ndarray) -> mpmath.mpf:
    """F(Z) for the squared loss and columns, 60 digits."""
    A, y = program.design.A, program.y
    N, K, d = A.shape
    total = mpmath.mpf(0)
    for i in range(N):
        for col in range(y.shape[1]):
            p = sum(mpmath.mpf(A[i, k, e]) * Z[k, e, col] for k in range(K) for e in range(d))
            total += (p - mpmath.mpf(y[i, col])) ** 2
    for k in range(K):
        for col in range(y.shape[1]):
            square = sum(mpmath.mpf(z) ** 2 for z in Z[k, :, col])
            total += mpmath.mpf(program.beta) * mpmath.sqrt(square)
    return total


def test_the_objective_covers_predictions_that_cancel() -> None:
    """p = y but for rounding: the float residual is 0 or wrong, its error bar is what counts."""
    with mpmath.workdps(60):
        shares = []
        for seed in range(80):
            rng = np.random.default_rng(seed)
            K = int(rng.integers(2, 9))
            X, Z = rng.standard_normal((1, K, 1)), rng.standard_normal((K, 1, 1))
            Z[-1] = -float(X[0, :-1, 0] @ Z[:-1, 0, 0]) / X[0, -1, 0]
            program = Program.of(X, [0.0], 2.0**-1070)
            box, truth = objective_enclosure(program, Z), exact_objective(program, Z)
            assert mpmath.mpf(box.lo) <= truth <= mpmath.mpf(box.hi)
            slack = (K + 1) * 2.0**-53 * np.linalg.norm(X) * np.linalg.norm(Z)
            p = abs(float(program.predict(Z)[0, 0]))
            assert box.hi == pytest.approx((p + 1.001 * slack) ** 2, rel=1e-3, abs=0)
            shares.append(float(truth) ** 0.5 / slack)
        assert max(shares) > 0.02


@pytest.mark.parametrize("c", [1, 2])
def test_the_objective_is_enclosed_tightly(c: int) -> None:
    with mpmath.workdps(60):
        for seed in range(12):
            X, y = gaussian(seed, (3, 2, 3), c)
            Z = np.random.default_rng(seed + 1).standard_normal((2, 3, c))
            Z[0] *= seed % 2
            for beta in (1e-9, 1.0, 1e9):
                program = Program.of(X, y, beta)
                box, truth = objective_enclosure(program, Z), exact_objective(program, Z)
                assert mpmath.mpf(box.lo) <= truth <= mpmath.mpf(box.hi)
                assert box.hi - box.lo <= 1e-12 * float(truth)


@pytest.mark.parametrize("shape", [(2, 2), (3, 2), (2, 5), (1, 3)])
def test_the_nuclear_norm_is_enclosed_against_sixty_digits(shape: tuple[int, int]) -> None:
    d, c = shape
    with mpmath.workdps(60):
        for seed in range(6):
            rng = np.random.default_rng(seed)
            M = rng.standard_normal((1, d, c)) * 10.0 ** rng.integers(-3, 4, (1, d, c))
            if seed % 3 == 0:
                M = np.round(M[:, :, :1]) @ np.ones((1, 1, c))  # rank one
            truth = sum(mpmath.svd_r(mpmath.matrix(M[0].tolist()), compute_uv=False))
            program = Program.of(np.zeros((1, 1, d)), np.zeros((1, c)), 1.0, penalty="nuclear")
            box = objective_enclosure(program, M)
            assert mpmath.mpf(box.lo) <= truth <= mpmath.mpf(box.hi)
            assert box.hi - box.lo <= 3e-13 * (float(truth) + 1e-300)


@pytest.mark.parametrize("fault", ["s", "U", "V"])
def test_the_nuclear_norm_is_enclosed_whatever_lapack_returns(
    monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Factors that are off by a thousandth widen the box and do not move it off the norm."""
    place = dual_module if hasattr(dual_module, "svd") else np.linalg
    real = place.svd

    def wrong(M: np.ndarray, *options: Any, **named: Any) -> Any:
        U, s, V = real(M, *options, **named)
        return {"s": (U, s * 0.999, V), "U": (U * 1.001, s, V), "V": (U, s, V * 0.999)}[fault]

    program = Program.of(np.zeros((1, 1, 2)), np.zeros((1, 3)), 1.0, penalty="nuclear")
    for seed in range(6):
        M = np.random.default_rng(seed).standard_normal((1, 2, 3))
        truth = float(np.linalg.norm(M[0], "nuc"))
        with monkeypatch.context() as patched:
            patched.setattr(place, "svd", wrong)
            box = objective_enclosure(program, M)
        assert box.lo <= truth * (1 + 1e-13)
        assert box.hi >= truth * (1 - 1e-13)
        assert 0.99 * truth <= box.lo <= box.hi <= 1.01 * truth


def test_the_scaled_point_uses_the_whole_room() -> None:
    """The largest dual norm is beta to 1e-13, not above, in 60 digits; sizes bound every group."""
    with mpmath.workdps(60):
        for seed in range(12):
            X, y = gaussian(seed, (4, 3, 2))
            program = Program.of(X, y, 1.0)
            program = program.with_beta(0.3 * beta_max(program).lo)
            v, sizes = scaled_into(program, 2.0 * program.y)
            truth = exact_norms(program, v)
            assert max(truth) <= mpmath.mpf(program.beta)
            assert max(truth) >= mpmath.mpf(program.beta) * (1 - mpmath.mpf(10) ** -13)
            for size, norm in zip(sizes, truth, strict=True):
                assert norm <= mpmath.mpf(float(size)) <= norm * (1 + mpmath.mpf(10) ** -12)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("penalty", PENALTIES)
def test_beta_max_is_enclosed_against_its_formula(loss: str, penalty: str) -> None:
    """max_k |sum_i A_ik L'(0, y_i)|, L'(0, y) = -2 y, clipped -2 y, -y/2."""
    with mpmath.workdps(60):
        for seed in range(8):
            X, y = gaussian(seed, (4, 3, 2), 2)
            y = np.sign(y) if loss == "logistic" else y
            program = Program.of(X, y, 1.0, Loss(loss, 0.5), penalty)
            slope = {"squared": 2 * y, "huber": np.clip(2 * y, -1, 1), "logistic": y / 2}[loss]
            if penalty == "columns":
                truth = max(exact_norms(program, slope))
            else:
                truth = mpmath.mpf(0)
                for k in range(3):
                    C = mpmath.matrix(X[:, k].T.tolist()) * mpmath.matrix(slope.tolist())
                    truth = max(truth, max(mpmath.svd_r(C, compute_uv=False)))
            box = beta_max(program)
            assert mpmath.mpf(box.lo) <= truth <= mpmath.mpf(box.hi)
            assert box.hi - box.lo <= 1e-13 * box.hi


def test_inactive_tokens_need_the_whole_radius() -> None:
    """Margins around sizes + |A_k| radius = beta: half the radius would prove too much."""
    program = Program.of([[[1.0], [0.1]]], [1.0], 0.5)
    v = np.array([[0.5]])
    for gap in (1e-6, 1e-3, 0.1):
        radius = np.sqrt(2 * 2.0 * gap)
        for share, proved in ((0.999, True), (1.001, False)):
            sizes = np.array([0.5, 0.5 - 0.1 * radius / share])
            found = Certificate(1.0 + gap, 1.0, v, sizes, 0.5)
            assert certified_inactive(program, found).tolist() == [False, proved]
