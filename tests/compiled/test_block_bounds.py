"""Every term of the block bounds against the formulas of docs/theory/enclosures.md, section 4.

The formulas are written again here, in dense float64 or with numbers that make every product exact,
so that a term of size 1e-15 is seen: it is either alone, or its factor is set to a large number.
Each value must be above its formula, by the stated inflations of 1e-10 and hardly more.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pytest

from gdconv.compiled.block_bounds import (
    SQUARE_TINY,
    TINY,
    _above,
    _beta,
    _couple,
    _defect,
    _form,
    _inner,
    _project,
    _quotient,
    _schur,
    adopt,
    anchor,
    check,
    drift,
)
from gdconv.compiled.sigma_tracker import Tracker, new_tracker
from gdconv.compiled.simd import padded, zeros

SHAPES = [(2, 2, 4, 1), (3, 2, 4, 2), (9, 3, 5, 2), (1, 3, 9, 3)]
STEP = 1e-10
"""One inflation."""


def gamma(k: float) -> float:
    """K u / (1 - k u)."""
    return k * 2.0**-53 / (1.0 - k * 2.0**-53)


class Case(NamedTuple):
    """Tokens and weights, and B with row a N + i for token a of sample i."""

    X: np.ndarray
    S: np.ndarray
    flat: np.ndarray
    B: np.ndarray
    tracker: Tracker


def lanes(S: np.ndarray) -> np.ndarray:
    N, H, n, _ = S.shape
    flat = zeros(H * n * n * padded(N))
    flat.reshape(H, n, n, padded(N))[..., :N] = S.transpose(1, 2, 3, 0)
    return flat


def dense(X: np.ndarray, S: np.ndarray) -> np.ndarray:
    N, n, _ = X.shape
    B = np.concatenate([S[:, h] @ X for h in range(S.shape[1])], axis=2)
    return np.ascontiguousarray(B.transpose(1, 0, 2).reshape(N * n, -1))


def case(X: np.ndarray, S: np.ndarray, tol: float = 0.01, block: int = 0) -> Case:
    return Case(X, S, lanes(S), dense(X, S), new_tracker(X, S.shape[1], tol, block=block))


def drawn(shape: tuple[int, int, int, int], seed: int = 0, block: int = 0) -> Case:
    N, n, D, H = shape
    rng = np.random.default_rng(seed)
    return case(rng.normal(size=(N, n, D)), rng.normal(size=(N, H, n, n)), block=block)


def diagonal(
    values: list[float], H: int = 1, tol: float = 0.01, block: int = 0, n: int = 2
) -> Case:
    """B = [diag(values) 0 ... 0] with exact products; `values` in the order of the rows of B."""
    T = len(values)
    N = T // n
    X = np.eye(T).reshape(N, n, T)
    S = np.zeros((N, H, n, n))
    for a in range(n):
        S[:, 0, a, a] = values[a * N : (a + 1) * N]
    made = case(X, S, tol, block)
    assert sorted(np.linalg.svd(made.B, compute_uv=False)) == sorted(values)
    return made


def excess(value: float, formula: float) -> float:
    """How many inflations of 1e-10 the value is above the formula."""
    return (value / formula - 1.0) / STEP


def squares_of_tokens(X: np.ndarray) -> np.ndarray:
    return np.asarray((X**2).sum(axis=(1, 2)))


# Drift and sizes.


@pytest.mark.parametrize("shape", SHAPES)
def test_drift_is_the_frobenius_norm_of_the_change(shape: tuple[int, int, int, int]) -> None:
    one = drawn(shape)
    other = np.random.default_rng(1).normal(size=one.S.shape)
    change = float(np.linalg.norm(one.B - dense(one.X, other)))
    assert 0.9 < excess(drift(one.tracker, one.flat, lanes(other)), change) < 1.1


@pytest.mark.parametrize("shape", SHAPES)
def test_drift_pays_for_what_cancels(shape: tuple[int, int, int, int]) -> None:
    """Equal tokens and changes that sum to zero: B stays, and only the rounding term is left."""
    N, n, D, H = shape
    X = np.ones((N, n, D)) * np.arange(1.0, N + 1)[:, None, None]
    S = np.zeros((N, H, n, n))
    change = np.zeros(S.shape)
    change[..., 0], change[..., -1] = 3.0, -3.0
    one = case(X, S)
    assert not dense(X, change).any()
    weight = float(((change**2).sum(axis=(1, 2, 3)) * squares_of_tokens(X)).sum())
    K = D + 3 * n + H * n * n * padded(N) // 8 + 20
    paid = math.sqrt(gamma(K) * weight)
    assert 1.4 < excess(drift(one.tracker, lanes(change), one.flat), paid) < 1.6
    at_rest = TINY + math.sqrt(gamma(K) * SQUARE_TINY * float(squares_of_tokens(X).sum()))
    assert drift(one.tracker, one.flat, one.flat) == pytest.approx(at_rest, rel=1e-9, abs=0)


def test_covers_for_underflow_hold_what_they_must() -> None:
    count = 2.0**40
    assert count * 2.0**-1074 < TINY**2
    assert pytest.approx(1e-150, rel=1e-12, abs=0) == TINY
    assert pytest.approx(1e-300, rel=1e-12, abs=0) == SQUARE_TINY
    assert gamma(20) * SQUARE_TINY > 2.0**-1070  # the least count, against what a square loses


@pytest.mark.parametrize(("tokens", "power"), [(-545, 500), (-539, 490), (505, -545), (495, -560)])
def test_lost_squares_are_paid_for(tokens: int, power: int) -> None:
    one = drawn((3, 2, 4, 2))
    X, S = np.ldexp(one.X, tokens), np.ldexp(one.S, power)
    small = case(X, S)
    size = float(np.linalg.norm(np.ldexp(small.B, -tokens - power))) * 2.0 ** (tokens + power)
    assert drift(small.tracker, small.flat, np.zeros_like(small.flat)) >= size
    scale = 2.0 ** (tokens + power)
    beta = math.sqrt(float(((one.S**2).sum(axis=(1, 2, 3)) * squares_of_tokens(one.X)).sum()))
    assert _beta(small.tracker, small.flat) >= 1e-3 * beta * scale


@pytest.mark.parametrize("shape", SHAPES)
def test_beta_and_trace(shape: tuple[int, int, int, int]) -> None:
    one = drawn(shape)
    N, n, D, _ = shape
    beta = math.sqrt(float(((one.S**2).sum(axis=(1, 2, 3)) * squares_of_tokens(one.X)).sum()))
    assert 0.9 < excess(_beta(one.tracker, one.flat), beta) < 1.1
    whole = np.arange(1.0, N * n * D + 1).reshape(N, n, D)
    trace = case(whole, one.S).tracker.trace
    above = trace[:N] / squares_of_tokens(whole) - 1.0
    np.testing.assert_allclose(above, (D * n + 8) * 2.3e-16, rtol=0, atol=3e-16)
    assert not trace[N:].any()
    assert _beta(one.tracker, np.zeros_like(one.flat)) < 1e-140
    nothing = case(np.zeros((N, n, D)), one.S).tracker
    np.testing.assert_allclose(nothing.trace[:N], n * D * SQUARE_TINY, rtol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_dense_form(shape: tuple[int, int, int, int]) -> None:
    one = drawn(shape)
    np.testing.assert_allclose(_form(one.tracker, one.flat), one.B, rtol=0, atol=1e-13)


def test_defect_is_relative_to_the_columns() -> None:
    sigma = np.array([2.0, 0.5, 4.0])
    K = np.array([[5.0, 0.5, 2.0], [0.5, 0.25, -1.0], [2.0, -1.0, 12.0]])
    wanted = float(np.linalg.norm(K / np.outer(sigma, sigma) - np.eye(3)))
    assert 0.99 < excess(_defect(K, sigma), wanted) < 1.01
    assert _defect(np.diag(sigma**2), sigma) == 0.0


# The anchor.

HADAMARD = np.array([[1.0, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2.0


@pytest.mark.parametrize("block", [1, 2, 3])
def test_anchor_measures_what_it_is_given(block: int) -> None:
    """An orthogonal basis and B = U diag U^T without any rounding: only the a-priori terms."""
    values = [1.0, 2.0, 4.0, 8.0]
    one = diagonal(values, H=2, block=block)
    tracker, T, k = one.tracker, 4, block
    B = HADAMARD @ np.diag(values) @ HADAMARD.T
    B = np.hstack([B, np.zeros((4, 4))])
    adopt(tracker, one.flat, B, HADAMARD)
    state = tracker.state[0]
    assert state["based"] == state["usable"] == 1
    assert 0.99 < excess(state["omega"], 2.0) < 1.01  # row and column sums of |U| are 2
    assert state["defect_U"] == pytest.approx(T * gamma(T + 8) * 1.01, rel=1e-9, abs=0)
    assert state["defect"] == pytest.approx((T - k) * gamma(8 + 12) * 1.01, rel=1e-9, abs=0)
    assert state["sigma_next"] == values[k]
    np.testing.assert_array_equal(tracker.sigma[: T - k], values[k:])
    beta = math.sqrt(2 * 85.0)  # each sample has two tokens of length 1
    norm = math.sqrt(85.0)
    wanted = gamma(2 + 2) * beta * 1.01 + gamma(T + 2) * norm * 2.0
    assert 0.9 < excess(state["delta_Y"], wanted) < 2.1
    np.testing.assert_array_equal(tracker.S_anchor, one.flat)
    U1 = tracker.U1.reshape(k, 2, -1)[:, :, :2].reshape(k, T)
    np.testing.assert_array_equal(U1, HADAMARD[:, :k].T)
    U2 = tracker.U2.reshape(2, -1, tracker.m)[:, :2, : T - k].reshape(T, T - k)
    np.testing.assert_array_equal(U2, HADAMARD[:, k:])


def test_anchor_adds_measured_defects() -> None:
    one = diagonal([1.0, 2.0, 4.0, 8.0], block=2)
    U = np.eye(4) * np.sqrt([1.0, 1.002, 1.0, 1.003])
    U[2, 3] = 0.125 * 0.01
    adopt(one.tracker, one.flat, one.B, U)
    state = one.tracker.state[0]
    assert state["defect_U"] == pytest.approx(
        float(np.linalg.norm(U.T @ U - np.eye(4))) * (1 + STEP), rel=1e-12
    )
    Y = one.B.T @ U[:, 2:]
    sigma = np.linalg.norm(Y, axis=0)
    cosines = (Y / sigma).T @ (Y / sigma) - np.eye(2)
    wanted = float(np.linalg.norm(cosines)) * (1 + STEP)
    assert state["defect"] == pytest.approx(wanted, rel=1e-11, abs=0)
    assert state["sigma_next"] == pytest.approx(sigma.min(), rel=1e-14, abs=0)
    rows, columns = np.abs(U).sum(axis=1).max(), np.abs(U).sum(axis=0).max()
    assert state["omega"] == pytest.approx(math.sqrt(rows * columns) * (1 + STEP), rel=1e-12, abs=0)


@pytest.mark.parametrize(("factor", "taken"), [(1.0049, 1), (1.0051, 0), (0.9951, 1), (0.99, 0)])
def test_anchor_refuses_a_basis_that_is_not_nearly_orthogonal(factor: float, taken: int) -> None:
    one = diagonal([1.0, 2.0, 4.0, 8.0], block=2)  # |U^T U - I|_F = 2 |factor - 1| against 0.01
    adopt(one.tracker, one.flat, one.B, np.eye(4) * math.sqrt(factor))
    assert one.tracker.state["based"][0] == taken


@pytest.mark.parametrize(("cosine", "usable"), [(0.353, 1), (0.354, 0)])
def test_anchor_is_not_used_where_its_columns_lean(cosine: float, usable: int) -> None:
    one = diagonal([1.0, 2.0, 4.0, 8.0], block=2)  # defect sqrt 2 cosine against 0.5
    B = np.diag([1.0, 2.0, 1.0, math.sqrt(1 - cosine**2)])
    B[3, 2] = cosine
    adopt(one.tracker, one.flat, B, np.eye(4))
    assert one.tracker.state["based"][0] == 1
    assert one.tracker.state["usable"][0] == usable


def test_anchor_refuses_columns_without_length_or_limit() -> None:
    for wrong in (0.0, np.inf, np.nan):
        one = diagonal([1.0, 2.0, 4.0, 8.0], block=2)
        adopt(one.tracker, one.flat, np.diag([1.0, 2.0, 4.0, wrong]), np.eye(4))
        assert one.tracker.state["based"][0] == one.tracker.state["usable"][0] == 0


def test_anchor_counts_and_takes_the_smallest_first() -> None:
    one = drawn((3, 2, 4, 2), block=2)
    anchor(one.tracker, one.flat)
    state = one.tracker.state[0]
    assert (state["anchors"], state["usable"]) == (1, 1)
    s = np.linalg.svd(one.B, compute_uv=False)
    np.testing.assert_allclose(np.sort(one.tracker.sigma[:4])[::-1], s[:4], rtol=1e-10)
    broken = np.full_like(one.flat, np.nan)
    anchor(one.tracker, broken)
    assert (state["anchors"], state["usable"]) == (2, 0)


# Products.


def filled(shape: tuple[int, int, int, int], block: int) -> tuple[Case, np.ndarray, np.ndarray]:
    """A case whose tracker holds U1, U2 (returned dense), then Z and b computed."""
    one = drawn(shape, block=block)
    anchor(one.tracker, one.flat)
    U = np.linalg.eigh(one.B @ one.B.T)[1]
    adopt(one.tracker, one.flat, one.B, U)
    _project(one.tracker, one.flat)
    _couple(one.tracker, one.flat)
    return one, U[:, :block], U[:, block:]


@pytest.mark.parametrize(("shape", "block"), [((3, 2, 4, 2), 2), ((9, 3, 14, 2), 5)])
def test_products_are_those_of_the_dense_matrices(
    shape: tuple[int, int, int, int], block: int
) -> None:
    one, U1, U2 = filled(shape, block)
    tracker, (_, _, D, H) = one.tracker, shape
    Z = one.B.T @ U1
    mine = tracker.Z.reshape(H, block, -1)[:, :, :D].transpose(0, 2, 1).reshape(H * D, block)
    np.testing.assert_allclose(mine, Z, rtol=0, atol=1e-12)
    b = tracker.b.reshape(block, -1)
    np.testing.assert_allclose(b[:, : U2.shape[1]], (U2.T @ one.B @ Z).T, rtol=0, atol=1e-11)
    assert not b[:, U2.shape[1] :].any()
    for p in range(block):
        for q in range(block):
            assert _inner(tracker, p, q) == pytest.approx((Z.T @ Z)[p, q], abs=1e-12)


def test_quotient_is_of_one_step_of_inverse_iteration_and_pays_its_rounding() -> None:
    one, U1, U2 = filled((3, 2, 4, 2), 2)
    tracker, L, n = one.tracker, 8, 2
    rng = np.random.default_rng(3)
    den = rng.uniform(0.5, 1.0, 4)
    b = rng.normal(size=(2, 4))
    tracker.den[:4] = den
    tracker.b.reshape(2, -1)[:, :4] = b
    V = rng.normal(size=(2, 2))
    for best in range(2):
        x = V[:, best]
        v = U1 @ x - U2 @ (den * (b.T @ x))
        ratio = float(np.linalg.norm(one.B.T @ v) / np.linalg.norm(v))
        assert 2.9 < excess(_quotient(tracker, one.flat, V, best, 0.0), ratio) < 3.1
        noise = _quotient(tracker, one.flat, V, best, 2.0**80) - ratio
        assert 1.8 < excess(noise, gamma(n + n * L + 4) * 2.0**80) < 2.3
    assert _quotient(tracker, one.flat, np.zeros((2, 2)), 0, 1.0) == math.inf
    nothing = np.zeros_like(one.flat)
    assert _quotient(tracker, nothing, V, 0, 0.0) == TINY


def test_rayleigh_quotient_pays_margin_and_its_own_rounding() -> None:
    one = drawn((3, 2, 4, 2), block=2)
    V = np.array([[1.0, 3.0], [2.0, -1.0]])
    one.tracker.small[1][:] = V
    A = np.array([[4.0, 1.0], [1.0, 2.0]])
    for best in range(2):
        x = V[:, best]
        form = float(x @ A @ x / (x @ x))
        for margin, trace in ((0.0, 0.0), (7.0, 0.0), (0.0, 1e16), (0.5, 2e15)):
            wanted = form + margin + gamma(4 * 2 * 2 + 8) * 2 * trace
            assert 0.98 < excess(_above(one.tracker, A, best, margin, trace), wanted) < 1.02
    assert 0.98 < excess(_above(one.tracker, -A, 0, 3.0, 0.0), 3.0) < 1.02


# The Schur complement.


class Schur(NamedTuple):
    """What `_schur` must do, written again with its inflations, in dense matrices."""

    taken: np.ndarray
    extra: float
    den: np.ndarray


def schur(
    one: Case, sigma: np.ndarray, above: float, beta: float, norm_Z: float, delta_Z: float
) -> Schur | None:
    tracker, state, up = one.tracker, one.tracker.state[0], 1.0 + STEP
    T, k = one.B.shape[0], tracker.k
    E = drift(tracker, one.flat, tracker.S_anchor)
    nu = math.sqrt(1.0 + state["defect_U"]) * up
    theta = math.sqrt(1.0 - state["defect"] * up) * (1.0 - 1e-14)
    theta -= (state["delta_Y"] + nu * E) / state["sigma_next"] * up
    if theta <= 0.0:
        return None
    least = theta**2 * state["sigma_next"] ** 2 * (1.0 - 1e-12) - above
    if least <= 0.0:
        return None
    den = theta**2 * sigma**2 * (1.0 - 1e-12) - above
    b = tracker.b.reshape(k, -1)[:, : T - k].T
    taken = b.T @ (b / den[:, None])
    width = tracker.n * tracker.L
    g2 = float(np.trace(taken)) * up
    count = tracker.Dp + tracker.n * tracker.H + width + 8
    delta_b = gamma(count) * state["omega"] * beta * norm_Z * up + nu * beta * delta_Z + TINY
    extra = 2.0 * math.sqrt(g2) * delta_b / math.sqrt(least) + delta_b**2 / least
    return Schur(taken, extra + gamma(width + 12) * (g2 + norm_Z**2), den)


SIZES = [  # above, beta, norm_Z, delta_Z: one term at a time is large
    (0.01, 0.0, 0.0, 0.0),
    (0.01, 1e13, 30.0, 0.0),
    (0.01, 2.0, 0.0, 0.25),
    (0.01, 1e-9, 0.0, 1e-7),
    (0.02, 0.0, 1e8, 0.0),
    (0.01, 0.0, 1.0, 0.0),
]


@pytest.mark.parametrize(("above", "beta", "norm_Z", "delta_Z"), SIZES)
@pytest.mark.parametrize("moved", [0.0, 0.02])
@pytest.mark.parametrize("shape", [(3, 2, 4, 2), (9, 2, 10, 2)])
def test_schur_complement_and_its_error_are_the_formula(
    above: float,
    beta: float,
    norm_Z: float,
    delta_Z: float,
    moved: float,
    shape: tuple[int, int, int, int],
) -> None:
    block = 2
    one, _, _ = filled(shape, block)
    state, T = one.tracker.state[0], one.B.shape[0]
    rng = np.random.default_rng(4)
    one = one._replace(flat=lanes(one.S + moved * rng.normal(size=one.S.shape) / T))
    _project(one.tracker, one.flat)
    sigma = rng.uniform(1.0, 3.0, T - block)
    one.tracker.sigma[: T - block] = sigma
    state["sigma_next"], state["defect"], state["defect_U"] = sigma.min(), 0.125, 0.005
    state["delta_Y"], state["omega"] = 0.05, 1.5
    A = rng.normal(size=(block, block))
    A = A + A.T
    left = A.copy()
    extra = _schur(one.tracker, one.flat, left, above, beta, norm_Z, delta_Z)
    wanted = schur(one, sigma, above, beta, norm_Z, delta_Z)
    assert wanted is not None
    np.testing.assert_allclose(1.0 / one.tracker.den[: T - block], wanted.den, rtol=2e-14)
    np.testing.assert_allclose(A - left, wanted.taken, rtol=1e-12, atol=1e-15)
    assert extra == pytest.approx(wanted.extra, rel=1e-12, abs=0)


def test_schur_complement_is_refused_where_the_theorem_is_silent() -> None:
    one, _, _ = filled((3, 2, 4, 2), 2)
    state, A = one.tracker.state[0], np.zeros((2, 2))
    honest = state.copy()
    size = (1.0, 0.0, 0.0)
    assert _schur(one.tracker, one.flat, A, 0.0, *size) >= 0.0
    for field, value in (("usable", 0), ("delta_Y", 1.001 * honest["sigma_next"])):
        state[field] = value
        assert _schur(one.tracker, one.flat, A, 0.0, *size) == -1.0
        state[field] = honest[field]
    state["delta_Y"] = 0.999 * honest["sigma_next"]
    assert _schur(one.tracker, one.flat, A, 0.0, *size) >= 0.0
    state["delta_Y"] = honest["delta_Y"]
    square = honest["sigma_next"] ** 2
    assert _schur(one.tracker, one.flat, A, square * (1 - 1e-9), *size) >= 0.0
    assert _schur(one.tracker, one.flat, A, square * (1 + 1e-9), *size) == -1.0
    state["delta_Y"] = np.nan
    assert _schur(one.tracker, one.flat, A, 0.0, *size) == -1.0


# The whole check.


def least_formula(guess: float, k: int, trace: float) -> float:
    """What the certified lower bound of a diagonal matrix with this least entry is (see there)."""
    s = guess - 16 * k * 1.1e-16 * trace
    return s - 2.0 * gamma(k + 3) * (trace + k * abs(s))


def terms(one: Case, least_square: float, extra: float) -> tuple[float, float]:
    """What the check takes off lambda_min(A) and adds to it, for A = Z^T Z diagonal and exact."""
    tracker, e_U = one.tracker, float(one.tracker.state["defect_U"][0])
    k, width = tracker.k, tracker.n * tracker.L
    trace = sum(_inner(tracker, p, p) for p in range(k))
    norm_Z = math.sqrt(trace)
    beta = math.sqrt(float(((one.S**2).sum(axis=(1, 2, 3)) * squares_of_tokens(one.X)).sum()))
    delta_Z = gamma(tracker.n + width + 4) * beta * math.sqrt(k * (1 + e_U))
    margin = 2 * norm_Z * delta_Z + delta_Z**2 + gamma(tracker.H * tracker.Dp + 8) * trace
    s = least_square - 16 * k * 1.1e-16 * trace  # tiny_eigen.least on a diagonal matrix
    certified = s - 2.0 * gamma(k + 3) * (trace + k * abs(s))
    added = margin + gamma(4 * k * k + 8) * k * trace
    return least_square - certified + margin + extra, added


@pytest.mark.parametrize("H", [1, 2])
@pytest.mark.parametrize("e_U", [0.0, 0.005])
@pytest.mark.parametrize(
    "values",
    [[1.0, 2.0**-20], [2.0**-20, 1.0], [1.0, 2.0**-20, 1.0, 1.0], [4.0, 1.0, 1.0, 2.0**-19]],
)
def test_check_of_few_rows_takes_and_adds_every_term(
    H: int, e_U: float, values: list[float]
) -> None:
    """All rows in the block: sigma_min is known exactly, and the ends differ by the terms alone."""
    one, square = diagonal(values, H=H), min(values) ** 2
    one.tracker.state["defect_U"] = e_U
    for _ in range(2):
        lo, hi = check(one.tracker, one.flat)
        taken, added = terms(one, square, 0.0)
        assert square - lo**2 * (1 + e_U) == pytest.approx(taken, rel=1e-6, abs=0)
        assert hi**2 * (1 - e_U) - square == pytest.approx(added + 3e-10 * square, rel=1e-4, abs=0)
    assert one.tracker.state["checks"][0] == 2
    assert one.tracker.state["best"][0] == int(np.argmin(values))


@pytest.mark.parametrize("tol", [1e9, 1e-9])
@pytest.mark.parametrize("defect", [0.0, 0.25])
@pytest.mark.parametrize("e_U", [0.0, 0.005])
def test_check_of_a_block_takes_and_adds_every_term(tol: float, defect: float, e_U: float) -> None:
    """The block holds the two smallest rows; the others enter through the error of the rest."""
    small = 2.0**-20
    one = diagonal([small, 2.0, 1.0, 1.0, small, 2.0], H=2, tol=tol, block=2, n=2)
    order = [0, 4, 1, 2, 3, 5]
    adopt(one.tracker, one.flat, one.B, np.eye(6)[:, order])
    state = one.tracker.state[0]
    state["defect"], state["defect_U"] = defect, e_U
    lo, hi = check(one.tracker, one.flat)
    _, added = terms(one, small**2, 0.0)
    beta = math.sqrt(float(((one.S**2).sum(axis=(1, 2, 3)) * squares_of_tokens(one.X)).sum()))
    norm_Z = math.sqrt(2 * small**2)
    delta_Z = gamma(2 + 16 + 4) * beta * math.sqrt(2 * (1 + e_U))
    wanted = schur(one, np.array([2.0, 1.0, 1.0, 2.0]), small**2 + added, beta, norm_Z, delta_Z)
    assert wanted is not None
    taken, _ = terms(one, small**2, wanted.extra)
    assert small**2 - lo**2 * (1 + e_U) == pytest.approx(taken, rel=1e-6, abs=0)
    block_end = hi**2 * (1 - e_U) - small**2
    if tol > 1.0:
        assert block_end == pytest.approx(added + 3e-10 * small**2, rel=1e-3, abs=0)
    else:  # the quotient is asked for too, and is of first order in the rounding
        quotient = small * (1 + 3e-10) + gamma(2 + 16 + 4) * beta
        block = math.sqrt((small**2 + added) / (1 - e_U))
        assert hi == pytest.approx(min(block, quotient), rel=1e-9, abs=0)


def test_check_without_vectors_or_with_broken_weights_says_nothing() -> None:
    one = drawn((3, 2, 4, 2), block=2)
    assert check(one.tracker, one.flat) == (0.0, math.inf)
    anchor(one.tracker, one.flat)
    lo, hi = check(one.tracker, one.flat)
    assert 0.0 < lo <= np.linalg.svd(one.B, compute_uv=False)[-1] * (1 + 1e-12) <= hi * (1 + 1e-11)
    for broken in (np.nan, np.inf, 1e200):
        assert check(one.tracker, np.full_like(one.flat, broken)) == (0.0, math.inf)
    one.tracker.state["usable"] = 0
    assert check(one.tracker, one.flat)[0] == 0.0
    assert check(one.tracker, one.flat)[1] < 2 * hi
