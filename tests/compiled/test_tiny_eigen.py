"""The smallest eigenvalue of small matrices: certified from below, exactly checked, and sharp."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from flint import fmpq, fmpq_poly

from gdconv.compiled.tiny_eigen import UP, _factors, gamma, least, smallest
from gdconv.rigor.sylvester import _all_roots_at_least, _integers

U = Fraction(1, 2**53)


def at_most_least_eigenvalue(bound: float, A: np.ndarray) -> bool:
    """Decide bound <= lambda_min exactly, by the characteristic polynomial of the stored A."""
    Z, e = _integers(A)
    shift = Fraction(bound) / Fraction(2) ** e
    poly = fmpq_poly(Z.charpoly())
    return _all_roots_at_least(poly, fmpq(shift.numerator, shift.denominator), strict=False)


def symmetric(rng: np.random.Generator, k: int) -> np.ndarray:
    A = rng.normal(size=(k, k))
    return A + A.T


def test_gamma_is_the_exact_one_rounded_up() -> None:
    for k in [*range(1, 400), 10**5, 10**9]:
        exact = k * U / (1 - k * U)
        assert exact < Fraction(gamma(k)) < exact * (1 + Fraction(2, 10**14)), k


def test_inflation_covers_the_sums_it_is_said_to_cover() -> None:
    assert gamma(400_000) < 5e-11
    assert pytest.approx(1e-10, rel=1e-5, abs=0) == UP - 1.0


@pytest.mark.parametrize("k", [1, 2, 4, 7])
@pytest.mark.parametrize("start", ["identity", "eigenvectors", "any"])
def test_sweeps_find_all_eigenvalues_and_the_smallest(k: int, start: str) -> None:
    rng = np.random.default_rng(k)
    for scale in (1.0, 1e-30, 1e30):
        given = symmetric(rng, k) * scale
        V = {
            "identity": np.eye(k),
            "eigenvectors": np.linalg.eigh(given)[1],
            "any": np.linalg.qr(rng.normal(size=(k, k)))[0],
        }[start].copy()
        A = given.copy()
        best = smallest(A, V, np.zeros((k, k)))
        wanted = np.linalg.eigvalsh(given)
        size = np.abs(wanted).max()
        np.testing.assert_allclose(np.sort(np.diag(A)), wanted, rtol=0, atol=1e-13 * size)
        np.testing.assert_allclose(V.T @ given @ V, A, rtol=0, atol=1e-13 * size)
        np.testing.assert_allclose(V.T @ V, np.eye(k), rtol=0, atol=1e-13)
        assert A[best, best] == np.diag(A).min()


def test_factorisation_ends_exactly_for_positive_definite_shifts() -> None:
    A = np.array([[4.0, 2.0, 0.0], [2.0, 10.0, 3.0], [0.0, 3.0, 6.0]])
    C = np.zeros((3, 3))
    assert _factors(A, 1.0, C)
    L = np.tril(C)
    np.testing.assert_allclose(L @ L.T, A - np.eye(3), rtol=1e-14, atol=1e-14)
    for s in (-50.0, 0.0, 2.5):
        assert _factors(A, s, C) == (np.linalg.eigvalsh(A)[0] > s)
    assert not _factors(A, 11.0, C)
    for zero in (np.zeros((1, 1)), np.ones((2, 2)), np.diag([1.0, -1.0])):
        assert not _factors(zero, 0.0, np.zeros(zero.shape))  # a pivot that is exactly 0, or below
    assert not _factors(np.array([[math.nan]]), 0.0, np.zeros((1, 1)))


@pytest.mark.parametrize("k", [1, 2, 4, 8])
def test_certified_bound_is_below_whatever_is_guessed(k: int) -> None:
    rng = np.random.default_rng(k)
    for _ in range(60):
        A = symmetric(rng, k) if rng.random() < 0.5 else np.diag(rng.normal(size=k))
        value, trace = float(np.linalg.eigvalsh(A)[0]), float(np.abs(np.diag(A)).sum())
        for off in (0.0, 1e-15, -1e-3, 1e-9, 1e-6):
            bound = least(A, value + off * trace, np.zeros((k, k)))
            assert at_most_least_eigenvalue(bound, A)
            loss = max(17 * off, -off) + k * 1e-13
            assert bound >= value - loss * max(trace, abs(value))
        assert least(A, value + 3.0 * trace + 1.0, np.zeros((k, k))) == -math.inf


def test_a_factorisation_that_ends_by_luck_is_paid_for() -> None:
    """Singular matrices whose factorisation runs to its end at a shift above lambda_min = 0."""
    rng, lucky = np.random.default_rng(0), 0
    for _ in range(400):
        R = rng.integers(-9, 10, (4, 3)).astype(float)
        A = R @ R.T
        shift = float(np.trace(A)) * 2.0**-56 * rng.random()
        lucky += _factors(A, shift, np.zeros((4, 4)))
        guess = shift + 16.0 * 4 * 1.1e-16 * float(np.trace(A))
        bound = least(A, guess, np.zeros((4, 4)))
        assert at_most_least_eigenvalue(bound, A)
        assert bound < 0.0
    assert lucky > 20


@pytest.mark.parametrize("k", [2, 3, 4, 9])
def test_certified_bound_is_the_formula(k: int) -> None:
    """What is taken off: 16 k u tr |A| for the first try, then 2 gamma_{k+3} (tr |A| + k |s|)."""
    paid = 2 * (k + 3) * U / (1 - (k + 3) * U)
    A = np.diag([2.0**-30] + [1.0] * (k - 1))
    trace = Fraction(float(np.trace(A)))
    first = 16 * k * Fraction(1.1e-16) * trace
    s = Fraction(2.0**-30) - first
    taken = Fraction(2.0**-30) - Fraction(least(A, 2.0**-30, np.zeros((k, k))))
    assert float(taken / (first + paid * (trace + k * s))) == pytest.approx(1.0, rel=1e-7, abs=0)
    # far below: k |s| rules; entries below 0: their absolute values count
    B = np.diag([-1000.0] + [1.0] * (k - 1))
    for guess, M, size in ((-1000.0, A, trace), (-1001.0, B, 1000 + k - 1)):
        s = Fraction(guess) - 16 * k * Fraction(1.1e-16) * size
        taken = s - Fraction(least(M, guess, np.zeros((k, k))))
        wanted = paid * (size + k * abs(s))
        assert abs(taken - wanted) <= 2 * U * 1002 + wanted / 50
