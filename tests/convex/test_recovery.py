"""Heads from Z and back; at most N active tokens; the sequence program."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from convex_models import sequence_heads
from hypothesis import given, settings
from hypothesis import strategies as st

from gdconv.convex.dual import certify
from gdconv.convex.group_lasso import PENALTIES, Program, token_program
from gdconv.convex.recovery import (
    Heads,
    fewest_tokens,
    heads_objective,
    heads_of,
    merged,
    predictions,
    weights_of,
)
from gdconv.convex.solvers.fast import solve
from gdconv.gallery.convex_attention.sequence import (
    _row_sums_prox,
    heads_of_sequence,
    solve_sequence,
)
from gdconv.support.errors import InputError

sizes = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 4), st.integers(1, 3))


@pytest.mark.parametrize("penalty", PENALTIES)
@given(size=sizes, seed=st.integers(0, 10**6))
@settings(max_examples=40)
def test_recovery_keeps_the_objective(penalty: str, size: tuple[int, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    N, K, d, c = size
    X, y = rng.standard_normal((N, K, d)), rng.standard_normal((N, c))
    program = Program.of(X, y, 0.7, penalty=penalty)
    Z = rng.standard_normal(program.shape) * (rng.random((K, 1, 1)) < 0.7)
    heads = heads_of(program, Z)
    assert heads.count <= K * (min(c, d) if penalty == "nuclear" else c)
    assert heads_objective(program, heads) == pytest.approx(program.objective(Z), rel=1e-12)
    assert np.abs(weights_of(heads) - Z).max() < 1e-13 * (1 + np.abs(Z).max())
    assert np.allclose(predictions(heads, X), program.predict(Z))


@pytest.mark.parametrize("penalty", PENALTIES)
@given(size=sizes, h=st.integers(1, 5), seed=st.integers(0, 10**6))
@settings(max_examples=40)
def test_any_heads_cost_at_least_their_weights(
    penalty: str, size: tuple[int, ...], h: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    N, K, d, c = size
    program = Program.of(
        rng.standard_normal((N, K, d)), rng.standard_normal((N, c)), 0.7, penalty=penalty
    )
    a = rng.dirichlet(np.full(K, 0.5), size=h)
    heads = Heads(a, rng.standard_normal((h, d)), rng.standard_normal((h, c)))
    value = heads_objective(program, heads)
    assert program.objective(weights_of(heads)) <= value * (1 + 1e-12)


@given(N=st.integers(1, 6), n=st.integers(1, 8), seed=st.integers(0, 10**6))
@settings(max_examples=30)
def test_two_heads_are_enough_for_d_1(N: int, n: int, seed: int) -> None:
    """As many heads as directions: fewer than active tokens, the same objective."""
    rng = np.random.default_rng(seed)
    program = token_program(rng.standard_normal((N, n, 1)), rng.standard_normal(N), 0.05)
    Z = solve(program, 1e-9).Z
    few = merged(heads_of(program, Z))
    assert few.count <= 2
    assert np.abs(weights_of(few) - Z).max(initial=0.0) < 1e-13 * (1 + np.abs(Z).max())
    assert heads_objective(program, few) == pytest.approx(program.objective(Z), rel=1e-12)


def test_heads_of_different_directions_are_kept() -> None:
    rng = np.random.default_rng(0)
    program = Program.of(rng.standard_normal((3, 4, 3)), rng.standard_normal((3, 2)), 0.7)
    heads = heads_of(program, rng.standard_normal(program.shape))
    assert merged(heads).count == heads.count == 8
    assert merged(Heads(np.zeros((0, 4)), np.zeros((0, 3)), np.zeros((0, 2)))).count == 0


def test_off_the_simplex_is_refused() -> None:
    with pytest.raises(InputError, match="off the simplex"):
        weights_of(Heads(np.full((1, 2), 0.4), np.ones((1, 1)), np.ones((1, 1))))
    heads = Heads(np.full((1, 2), 1.0), np.ones((1, 1)), np.ones((1, 1)))
    program = Program.of(np.ones((1, 2, 1)), [1.0], 0.5)  # the control: it would be too cheap
    Z = np.ones((2, 1, 1))
    assert np.allclose(predictions(heads, program.design.A), program.predict(Z))
    assert heads_objective(program, heads) < program.objective(Z)


@given(N=st.integers(1, 4), n=st.integers(2, 12), copies=st.booleans(), seed=st.integers(0, 10**6))
@settings(max_examples=40)
def test_at_most_N_tokens(N: int, n: int, copies: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    X, y = rng.standard_normal((N, n, 2)), rng.standard_normal(N)
    if copies:
        X[:, n // 2 :] = X[:, : n - n // 2]
    program = token_program(X, y, 0.02)
    found = solve(program, 1e-10)
    Z = found.Z.copy()
    if copies:  # spread over the copies: as good, more tokens
        Z[: n // 2], Z[n // 2 : 2 * (n // 2)] = (
            0.5 * (Z[: n // 2] + Z[n // 2 : 2 * (n // 2)]),
        ) * 2
        if n % 2 == 0:
            assert program.objective(Z) <= found.certificate.primal * (1 + 1e-9)
    few = fewest_tokens(program, Z)
    assert int(few.any(axis=(1, 2)).sum()) <= N
    if not copies or n % 2 == 0:
        assert certify(program, few).relative_gap < 1e-7
    assert np.allclose(program.predict(few), program.predict(Z), atol=1e-9)


@pytest.mark.parametrize("N", [1, 2, 3])
def test_N_active_tokens_is_attained(N: int) -> None:
    seen = set()
    for seed in range(12):
        rng = np.random.default_rng(seed)
        program = token_program(rng.standard_normal((N, 12, 2)), rng.standard_normal(N), 0.01)
        seen.add(len(fewest_tokens(program, solve(program, 1e-10).Z).any(axis=(1, 2)).nonzero()[0]))
    assert max(seen) == N


def test_sequence_with_and_without_equal_rows() -> None:
    """N = n = 3 Gaussian data, seed 1: 1.0598957, and 1.0355614 for the printed relaxation."""
    rng = np.random.default_rng(1)
    X, Y = rng.standard_normal((3, 3)), rng.standard_normal((3, 3))
    right = solve_sequence(X, Y, 0.5, tolerance=1e-9)
    printed = solve_sequence(X, Y, 0.5, equal_rows=False, tolerance=1e-9)
    assert right.certified
    assert printed.certified
    assert right.primal == pytest.approx(1.0598957, abs=5e-8)
    assert printed.primal == pytest.approx(1.0355614, abs=5e-8)
    assert printed.primal < right.dual
    A, w = heads_of_sequence(right.C)
    assert np.allclose(A.sum(2), 1.0)
    assert A.min() >= 0
    F = sequence_heads(*(torch.from_numpy(x) for x in (X, A, w))).numpy()
    value = np.square(F - Y).sum() + 0.5 * np.abs(w).sum()  # the non-convex model with two heads
    assert value == pytest.approx(right.primal, rel=1e-9)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("equal_rows", [True, False])
def test_cvxpy_agrees_on_sequences(equal_rows: bool) -> None:
    cp = pytest.importorskip("cvxpy")
    rng = np.random.default_rng(4)
    X, Y, n = rng.standard_normal((4, 3)), rng.standard_normal((4, 3)), 3
    plus, minus = (cp.Variable((n, n), nonneg=True) for _ in range(2))
    s, t = cp.Variable(), cp.Variable()
    rows = [cp.sum(plus, axis=1) == s, cp.sum(minus, axis=1) == t]
    if not equal_rows:
        rows = [cp.sum(plus + minus, axis=1) <= s + t]
    fit = cp.sum_squares(X @ (plus - minus).T - Y)
    task = cp.Problem(cp.Minimize(fit + 0.3 * (s + t)), rows)
    task.solve(solver=cp.CLARABEL)
    found = solve_sequence(X, Y, 0.3, equal_rows, tolerance=1e-9)
    assert task.value == pytest.approx(found.primal, rel=1e-6)


@given(n=st.integers(1, 5), N=st.integers(1, 5), seed=st.integers(0, 10**6), power=st.floats(-2, 1))
@settings(max_examples=25)
def test_sequence_gap_bounds_random_heads(n: int, N: int, seed: int, power: float) -> None:
    rng = np.random.default_rng(seed)
    X, Y = rng.standard_normal((N, n)), rng.standard_normal((N, n))
    found = solve_sequence(X, Y, 10**power, tolerance=1e-7, limit=20_000)
    assert found.certified
    A = torch.from_numpy(rng.dirichlet(np.ones(n), size=(3, n)))
    w = rng.standard_normal(3)
    F = sequence_heads(torch.from_numpy(X), A, torch.from_numpy(w)).numpy()
    assert np.square(F - Y).sum() + 10**power * np.abs(w).sum() >= found.dual
    printed = solve_sequence(X, Y, 10**power, equal_rows=False, tolerance=1e-7, limit=20_000)
    assert printed.dual <= found.primal


@given(n=st.integers(1, 5), seed=st.integers(0, 10**6), t=st.floats(0.01, 3.0))
def test_row_sum_prox_beats_its_neighbours(n: int, seed: int, t: float) -> None:
    rng = np.random.default_rng(seed)
    M = rng.standard_normal((n, n))
    for least in (-np.inf, 0.0):
        C = _row_sums_prox(M, t, least)
        value = 0.5 * np.square(C - M).sum() + t * C.sum(1).max()
        assert C.min() >= 0
        if least < 0:
            assert np.ptp(C.sum(1)) < 1e-12
        for _ in range(20):
            s = C.sum(1).max() + 0.3 * rng.standard_normal()
            rows = max(s, 0.0) * rng.dirichlet(np.ones(n), size=n)
            other = C + rng.uniform(0, 1) * (rows - C)
            worth = 0.5 * np.square(other - M).sum() + t * other.sum(1).max()
            assert value <= worth + 1e-12


@pytest.mark.parametrize("size", [1e-300, 1e-200, 1e-162, 1.0, 1e150])
@pytest.mark.parametrize("penalty", PENALTIES)
def test_weights_whose_squares_vanish_keep_their_heads(size: float, penalty: str) -> None:
    """|Z_k|^2 underflows below 1e-162: no head is lost, joined or not, and no token."""
    rng = np.random.default_rng(0)
    program = Program.of(
        rng.standard_normal((2, 3, 2)), rng.standard_normal((2, 2)), 0.7, penalty=penalty
    )
    Z = size * rng.standard_normal(program.shape)
    heads = heads_of(program, Z)
    assert heads.count == 6
    for kept in (heads, merged(heads)):
        assert np.abs(weights_of(kept) - Z).max() <= 1e-13 * np.abs(Z).max()
        lengths = np.sqrt(np.square(kept.v).sum(1)), np.sqrt(np.square(kept.b).sum(1))
        assert lengths[0] == pytest.approx(lengths[1], rel=1e-12, abs=0)
    twice = Heads(*(np.concatenate([x, x]) for x in (heads.a, heads.v, heads.b)))
    assert merged(twice).count == 6
    assert np.abs(weights_of(merged(twice)) - 2 * Z).max() <= 1e-13 * np.abs(Z).max()
    if penalty == "columns":
        few = fewest_tokens(program, Z)
        assert np.abs(program.predict(few) - program.predict(Z)).max() <= 1e-12 * size
        assert (few != 0).any(1).sum() <= 2 * 2  # N c


def test_bad_input() -> None:
    with pytest.raises(InputError, match="shape"):
        solve_sequence([[1.0]], [[1.0, 2.0]], 1.0)
    with pytest.raises(InputError, match="positive"):
        solve_sequence([[1.0]], [[1.0]], 0.0)
    program = Program.of(np.ones((1, 1, 2)), [[1.0, 2.0]], 0.5, penalty="nuclear")
    with pytest.raises(InputError, match="columns"):
        fewest_tokens(program, program.zeros())
