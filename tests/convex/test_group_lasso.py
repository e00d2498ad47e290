"""Norms, steps, gradient and proximal map of the program against formulas written again."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

from gdconv.convex.group_lasso import PENALTIES, Design, Program
from gdconv.convex.losses import LOSSES, Loss
from gdconv.support.errors import InputError


def drawn(seed: int, penalty: str = "columns", loss: str = "squared", c: int = 2) -> Program:
    rng = np.random.default_rng(seed)
    X, y = rng.standard_normal((4, 3, 2)), rng.standard_normal((4, c))
    y = np.sign(y) if loss == "logistic" else y
    return Program.of(X, y, 0.7, Loss(loss, 0.8), penalty)


def test_norms_of_tokens_are_bounds_and_tight() -> None:
    with mpmath.workdps(50):
        for scale in (1.0, 1e-120, 1e120):
            A = scale * np.random.default_rng(3).standard_normal((4, 3, 2))
            design = Design(A)
            for bounds, parts in (
                (design.row_norms, A.reshape(4, -1)),
                (design.group_norms, A.transpose(1, 0, 2).reshape(3, -1)),
            ):
                for bound, part in zip(bounds, parts, strict=True):
                    truth = mpmath.sqrt(sum(mpmath.mpf(x) ** 2 for x in part))
                    assert truth <= mpmath.mpf(float(bound)) <= truth * (1 + mpmath.mpf(1e-14))


def test_norms_keep_the_slack_of_many_squares() -> None:
    """1 + gamma_N: sums of N equal squares may lose that much, and the bound pays it."""
    for N in (10, 4000):
        bound = Design(np.ones((N, 1, 1))).group_norms[0]
        spare = bound / N**0.5 - 1
        assert 0.99 * (N + 5) * 2.0**-53 <= spare <= 1.05 * (N + 5) * 2.0**-53 + 3e-15


@pytest.mark.parametrize("loss", LOSSES)
def test_the_step_is_one_over_curvature_and_eigenvalue(loss: str) -> None:
    """X = s e: lambda_max = N s^2; 1/(2 N s^2) for squares, 4/(N s^2) for the logistic loss."""
    curvature = {"squared": 2.0, "huber": 2.0, "logistic": 0.25}[loss]
    for N, s in ((1, 2.0), (4, 0.5), (9, 1e50), (3, 1e-50)):
        program = Program.of(np.full((N, 1, 1), s), np.ones(N), 0.5, loss)
        box, want = program.max_step(), 1.0 / (curvature * N * s * s)
        assert box.lo <= want * (1 + 1e-15)
        assert box.hi >= want * (1 - 1e-15)
        assert box.hi / box.lo < 1 + 1e-9
        gram = program.design.gram_norm
        assert gram.lo <= N * s * s * (1 + 1e-15)
        assert gram.hi >= N * s * s * (1 - 1e-15)
    nothing = Program.of([[[0.0]]], [1.0], 0.5, loss).max_step()
    assert nothing.lo > 1e300
    assert nothing.hi == np.inf
    denormal = Program.of([[[1e-161]]], [1.0], 0.5, loss).max_step()  # its square is denormal
    assert 0.0 < denormal.lo <= denormal.hi


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("penalty", PENALTIES)
def test_objective_gradient_and_adjoint(loss: str, penalty: str) -> None:
    program = drawn(1, penalty, loss)
    rng = np.random.default_rng(2)
    Z, W, v = (rng.standard_normal(s) for s in (program.shape, program.shape, (4, 2)))
    fit = 0.0
    for i, m in np.ndindex(4, 2):
        p = sum(program.design.A[i, k] @ Z[k, :, m] for k in range(3))
        fit += float(program.loss.value(np.array([p]), program.y[i, m : m + 1])[0])
    if penalty == "columns":
        norms = [sum(np.linalg.norm(Z[k, :, m]) for m in range(2)) for k in range(3)]
    else:
        norms = [np.linalg.norm(Z[k], "nuc") for k in range(3)]
    assert program.group_sizes(Z) == pytest.approx(norms, rel=1e-13)
    assert program.objective(Z) == pytest.approx(fit + 0.7 * sum(norms), rel=1e-13)
    assert (program.predict(W) * v).sum() == pytest.approx((W * program.correlate(v)).sum())
    plain = program.with_beta(1e-12)
    h = 1e-6
    slope = (plain.objective(Z + h * W) - plain.objective(Z - h * W)) / (2 * h)
    assert (program.gradient(Z) * W).sum() == pytest.approx(slope, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_dual_norms_are_the_duals_of_the_norms(penalty: str) -> None:
    """<C, W> <= |C|_dual |W| for every W, with equality for the best one."""
    program = drawn(1, penalty)
    rng = np.random.default_rng(5)
    for _ in range(50):
        C, W = rng.standard_normal(program.shape), rng.standard_normal(program.shape)
        inner = (C * W).sum((1, 2))
        bound = program.dual_sizes(C) * program.group_sizes(W)
        assert np.all(inner <= bound * (1 + 1e-12))
        best = np.zeros_like(C)
        for k in range(3):
            if penalty == "nuclear":
                U, _, V = np.linalg.svd(C[k], full_matrices=False)
                best[k] = np.outer(U[:, 0], V[0])
            else:
                m = int(np.linalg.norm(C[k], axis=0).argmax())
                best[k, :, m] = C[k, :, m] / np.linalg.norm(C[k, :, m])
        assert program.group_sizes(best) == pytest.approx(1.0, rel=1e-12)
        assert (C * best).sum((1, 2)) == pytest.approx(program.dual_sizes(C), rel=1e-12)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_the_proximal_map_is_the_minimiser(penalty: str) -> None:
    """(Z - W)/t is a subgradient at W: <., W> = |W| and dual norm <= 1, group by group."""
    program = drawn(1, penalty)
    for seed in range(20):
        Z = np.random.default_rng(seed).standard_normal(program.shape)
        for t in (0.1, 0.7, 2.0):
            W = program.prox(Z, t)
            G = (Z - W) / t
            assert np.all(program.dual_sizes(G) <= 1 + 1e-12)
            assert (G * W).sum((1, 2)) == pytest.approx(program.group_sizes(W), abs=1e-12)
    assert not program.prox(np.zeros(program.shape), 0.5).any()


def test_bad_programs() -> None:
    for bad in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(InputError, match="give a positive number"):
            Program.of([[[1.0]]], [1.0], bad)
        with pytest.raises(InputError, match="give a positive number"):
            drawn(0).with_beta(bad)
    with pytest.raises(InputError, match="give -1 and 1"):
        Program.of([[[1.0]]], [0.5], 1.0, "logistic")
