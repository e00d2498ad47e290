"""Rates of the proximal methods, the fast solver and the path."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.convex_attention.solver_path import path
from gdconv.convex.dual import beta_max, certified_inactive
from gdconv.convex.group_lasso import Design, Program
from gdconv.convex.losses import LOSSES
from gdconv.convex.solvers.block_descent import extrapolated, working_set
from gdconv.convex.solvers.fast import solve
from gdconv.convex.solvers.first_order import accelerated_gradient, proximal_gradient
from gdconv.convex.solvers.newton import newton
from gdconv.support.errors import InputError

ONE = Program.of([[[1.0]]], [1.0], 0.5)


def gaussian(seed: int, N: int, K: int, d: int, part: float, loss: str = "squared") -> Program:
    rng = np.random.default_rng(seed)
    X, y = rng.standard_normal((N, K, d)), rng.standard_normal(N)
    y = np.sign(y) if loss == "logistic" else y
    program = Program.of(X, y, 1.0, loss)
    return program.with_beta(part * beta_max(program).lo)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("method", [proximal_gradient, accelerated_gradient])
def test_rates_hold_against_every_point(method: Any, loss: str) -> None:
    program = gaussian(1, 8, 5, 3, 0.2, loss)
    rng = np.random.default_rng(2)
    Z_0 = rng.standard_normal(program.shape)
    trace = method(program, 120, Z_0=Z_0)
    solution = solve(program, 1e-11)
    for Z in (solution.Z, 0.5 * solution.Z, program.zeros()):
        over = trace.objectives - program.objective(Z)
        assert np.all(over <= trace.bounds(Z) + 1e-12 * trace.objectives[0])
    assert trace.objectives[-1] >= solution.certificate.dual
    if not trace.accelerated:
        assert np.all(np.diff(trace.objectives) <= 1e-12 * trace.objectives[0])


def test_the_doubled_step_breaks_both_rates() -> None:
    """X = y = 1, eta = 1/lambda_max: a cycle between 0 and 2 - beta, and divergence."""
    best = np.full((1, 1, 1), 0.75)
    plain = proximal_gradient(ONE, 20, eta=1.0)
    assert plain.objectives.tolist() == [1.0] * 21
    assert np.all((plain.objectives - ONE.objective(best) > plain.bounds(best))[1:])
    fast = accelerated_gradient(ONE, 20, eta=1.0)
    assert fast.objectives[-1] > 1e3
    assert (fast.objectives - ONE.objective(best) > fast.bounds(best))[-1]
    allowed = proximal_gradient(ONE, 20, eta=0.5)
    assert np.all(allowed.objectives - ONE.objective(best) <= allowed.bounds(best))


def test_allowed_step_is_the_inverse_curvature() -> None:
    for loss in LOSSES:
        program = gaussian(5, 6, 4, 2, 0.3, loss)
        top = float(np.linalg.eigvalsh(program.design.flat @ program.design.flat.T)[-1])
        box = program.max_step()
        assert box.lo <= 1.0 / (program.loss.curvature * top) * (1 + 1e-12)
        assert box.hi >= 1.0 / (program.loss.curvature * top) * (1 - 1e-12)
        assert box.hi / box.lo < 1 + 1e-9


@given(
    shape=st.tuples(st.integers(1, 20), st.integers(1, 25), st.integers(1, 4)),
    part=st.floats(-3.5, 0.1),
    seed=st.integers(0, 10**6),
    faults=st.tuples(st.booleans(), st.booleans()),
)
@settings(max_examples=80)
def test_newton_certifies(
    shape: tuple[int, int, int], part: float, seed: int, faults: tuple[bool, bool]
) -> None:
    """Degenerate designs too: repeated groups, integer tokens."""
    rng = np.random.default_rng(seed)
    X, y = rng.standard_normal(shape), rng.standard_normal(shape[0])
    if faults[0]:
        X[:, -1] = X[:, 0]
    if faults[1]:
        X = X.round()
    program = Program.of(X, y, 1.0)
    top = beta_max(program).hi
    if top == 0.0:
        return
    found = solve(program.with_beta(top * 10**part), 1e-6)
    assert found.status == "certified"
    assert found.certificate.relative_gap <= 1e-6


@pytest.mark.parametrize("loss", LOSSES)
def test_methods_agree(loss: str) -> None:
    program = gaussian(9, 12, 20, 3, 0.1, loss)
    values = []
    for method in ("auto", "descent", "proximal"):
        found = solve(program, 1e-8, method=method)
        assert found.status == "certified"
        values.append(found.certificate)
    for a in values:
        for b in values:
            assert a.dual <= b.primal


@pytest.mark.parametrize("loss", ["huber", "logistic"])
def test_badly_scaled_tokens_are_solved(loss: str) -> None:
    """Tokens 10^4 apart in size: block descent stalls, Newton on models of the loss does not."""
    rng = np.random.default_rng(98)
    X = rng.standard_normal((5, 8, 3)) * 10.0 ** rng.integers(-2, 3, size=(1, 8, 1))
    program = Program.of(X, np.where(rng.standard_normal(5) > 0, 1.0, -1.0), 1.0, loss)
    found = solve(program.with_beta(2e-4 * beta_max(program).lo), 1e-6)
    assert found.status == "certified"


def test_more_samples_than_weights_are_compressed() -> None:
    program = gaussian(8, 400, 6, 3, 0.1)
    found = solve(program, 1e-9)
    assert (found.status, found.method) == ("certified", "newton")
    other = solve(program, 1e-9, method="descent").certificate
    assert other.dual <= found.certificate.primal
    assert found.certificate.dual <= other.primal


def test_no_gap_is_claimed_that_is_not_reached() -> None:
    program = gaussian(9, 30, 40, 3, 0.001)
    found = solve(program, 1e-9, method="proximal", limit=1)
    assert found.status == "gap not reached"
    assert found.certificate.relative_gap > 1e-9
    found = solve(program, 0.0, limit=2)
    assert (found.status == "certified") == (found.certificate.relative_gap <= 0.0)


def test_newton_needs_few_steps_and_the_order_of_groups_does_not_matter() -> None:
    program = gaussian(4, 40, 12, 5, 0.05)
    design, y = program.design, program.y[:, 0]
    plain = newton(design, np.arange(12), y, program.beta, np.zeros(12), 1e-10)
    turned = newton(design, np.arange(12)[::-1].copy(), y, program.beta, np.zeros(12), 1e-10)
    assert plain.steps <= 12
    assert np.abs(plain.eta - turned.eta[::-1]).max() < 1e-8 * plain.eta.max()
    fresh = newton(Design(design.A), np.arange(12), y, program.beta, np.zeros(12), 1e-10)
    assert np.array_equal(fresh.eta, plain.eta)


def test_path_warm_starts_equal_cold_solutions() -> None:
    program = gaussian(6, 20, 10, 3, 1.0)
    found = path(program, count=8, least=0.02, tolerance=1e-8)
    assert found.certified
    assert found.active_counts[0] == 0
    assert found.active_counts[-1] > 3
    for beta, warm, gone in zip(found.betas, found.solutions, found.inactive, strict=True):
        at = program.with_beta(float(beta))
        cold = solve(at, 1e-8)
        assert warm.certificate.dual <= cold.certificate.primal
        assert cold.certificate.dual <= warm.certificate.primal
        assert not np.any(program.group_sizes(cold.Z)[gone] > 1e-6)
        assert np.array_equal(gone, certified_inactive(at, warm.certificate))


def test_working_set_and_extrapolation() -> None:
    program = gaussian(3, 10, 30, 2, 0.9)
    kept = working_set(program, program.zeros(), 1e-6)
    assert 0 < len(kept) < 30
    assert extrapolated([np.zeros(2)] * 3) is None or True
    linear = [np.array([0.5**k, 0.25**k]) for k in range(6)]
    guess = extrapolated(linear)
    assert guess is not None
    assert np.abs(guess).max() < 0.1 * np.abs(linear[-1]).max()


def test_bad_input() -> None:
    with pytest.raises(InputError, match="newton, descent or proximal"):
        solve(ONE, method="simplex")
    with pytest.raises(InputError, match="auto or descent"):
        solve(Program.of([[[1.0]]], [1.0], 0.5, "logistic"), method="newton")
    with pytest.raises(InputError, match="nuclear"):
        solve(Program.of(np.ones((1, 1, 2)), [[1.0, 2.0]], 0.5, penalty="nuclear"), method="newton")
    with pytest.raises(InputError, match="at least 0"):
        proximal_gradient(ONE, -1)
    with pytest.raises(InputError, match="positive"):
        accelerated_gradient(ONE, 1, eta=0.0)
    with pytest.raises(InputError, match="betas"):
        path(Program.of([[[1.0]]], [0.0], 1.0))
