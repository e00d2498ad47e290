"""The sequence program: bounds against closed forms and rational numbers."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from gdconv.gallery.convex_attention.sequence import _dual_lower, _primal_upper, solve_sequence
from gdconv.support.errors import InputError


def rational(M: Any) -> list[list[Fraction]]:
    return [[Fraction(float(x)) for x in row] for row in M]


@pytest.mark.parametrize("equal_rows", [True, False])
def test_one_token_is_the_lasso(equal_rows: bool) -> None:
    """n = 1: |y|^2 - max(|x.y| - beta/2, 0)^2/|x|^2, either sign of x.y."""
    for seed in range(10):
        x, y = np.random.default_rng(seed).standard_normal((2, 4, 1))
        for beta in (0.01, 0.5, 3.0, 100.0):
            gain = max(abs(float((x * y).sum())) - beta / 2, 0.0)
            best = float((y * y).sum()) - gain**2 / float((x * x).sum())
            found = solve_sequence(x, y, beta, equal_rows, tolerance=1e-9)
            assert found.certified
            assert found.dual <= best * (1 + 1e-14)
            assert found.primal >= best * (1 - 1e-14)
            assert found.gap <= 1e-9 * best


@pytest.mark.parametrize("equal_rows", [True, False])
def test_the_dual_bound_is_the_best_feasible_multiple(equal_rows: bool) -> None:
    """s v.y - s^2 |v|^2/4 at s = min(2 v.y/|v|^2, beta/size(v)), in rational numbers."""
    for seed in range(30):
        rng = np.random.default_rng(seed)
        N, n = int(rng.integers(1, 4)), int(rng.integers(1, 4))
        X, Y = rng.standard_normal((2, N, n))
        v = Y + 0.3 * rng.standard_normal((N, n))
        for beta in (0.05, 1.0, 50.0):
            V, A, B = rational(v), rational(X), rational(Y)
            G = [[sum(V[i][r] * A[i][j] for i in range(N)) for j in range(n)] for r in range(n)]
            if equal_rows:
                size = max(sum(max(s * g for g in row) for row in G) for s in (1, -1))
            else:
                size = sum(max(abs(g) for g in row) for row in G)
            inner = sum(V[i][r] * B[i][r] for i in range(N) for r in range(n))
            square = sum(w * w for row in V for w in row)
            s = max(2 * inner / square, Fraction(0))
            s = min(s, Fraction(beta) / size) if size > 0 else s
            want = s * inner - s * s * square / 4
            found = _dual_lower(v, X, Y, beta, equal_rows)
            assert Fraction(found) <= want
            assert found >= float(want) - 1e-12 * (abs(float(want)) + 1e-3)


def test_the_primal_bound_pays_for_rows_that_differ() -> None:
    """What a row lacks is put where it hurts most: no repaired C costs more than the bound."""
    tight = 0.0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(1, 4))
        X, Y = rng.standard_normal((2, 1, n))
        C = np.abs(rng.standard_normal((2, n, n)))
        C[1] *= seed % 2
        for beta in (1e-6, 0.7):
            bound = _primal_upper(C, X, Y, beta, True)
            worst = 0.0
            for columns in np.ndindex(*(n,) * min(n, 3)):
                fixed = C.copy()
                for part in fixed:
                    for row, column in enumerate(columns):
                        part[row, column] += part.sum(1).max() - part[row].sum()
                F = X @ (fixed[0] - fixed[1]).T
                weight = fixed.sum(2).max(1).sum()
                worst = max(worst, float(np.square(F - Y).sum() + beta * weight))
            assert bound >= worst * (1 - 1e-12)
            tight = max(tight, worst / bound)
    assert tight > 0.999


def test_the_primal_bound_of_equal_rows_is_the_objective() -> None:
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((2, 3, 3))
    C = rng.dirichlet(np.ones(3), size=(2, 3)) * np.array([1.5, 0.25])[:, None, None]
    value = float(np.square(X @ (C[0] - C[1]).T - Y).sum() + 0.7 * 1.75)
    assert value <= _primal_upper(C, X, Y, 0.7, True) <= value * (1 + 1e-13)
    C[0, 0] *= 0.5  # printed: the heaviest row of C_+ + C_-
    value = float(np.square(X @ (C[0] - C[1]).T - Y).sum() + 0.7 * 1.75)
    assert value <= _primal_upper(C, X, Y, 0.7, False) <= value * (1 + 1e-13)


@pytest.mark.parametrize("equal_rows", [True, False])
def test_corners(equal_rows: bool) -> None:
    """Zero targets, zero tokens, any beta: at once, no warning, a gap of 0 where exact."""
    X, Y = np.random.default_rng(0).standard_normal((2, 2, 2))
    for beta in (5e-324, 1e-170, 1.0, 1e300):
        for tokens in (X, 0 * X, 1e-200 * X, 1e100 * X):
            found = solve_sequence(tokens, 0 * Y, beta, equal_rows, limit=100)
            assert found.certified
            assert (found.primal, found.dual, found.gap) == (0.0, 0.0, 0.0)
        found = solve_sequence(0 * X, Y, beta, equal_rows, limit=100)
        assert found.certified or beta < 1e-300
        assert found.primal == pytest.approx(float(np.square(Y).sum()), rel=1e-12)
    for bad in (np.inf, np.nan, -1.0):
        with pytest.raises(InputError, match="positive"):
            solve_sequence(X, Y, bad)


def test_a_tiny_beta_does_not_leave_the_feasible_set() -> None:
    """n = 1: the dual bound against beta |y|/|x| - beta^2/(4 x^2), the scale denormal."""
    rng = np.random.default_rng(0)
    for _ in range(60):
        x, y, beta = (10.0 ** rng.uniform(*e) for e in ((-3, 3), (0, 12), (-323, -300)))
        low = _dual_lower(
            np.full((1, 1), 2 * y), np.full((1, 1), x), np.full((1, 1), y), beta, True
        )
        a, b = Fraction(x), Fraction(beta)
        assert Fraction(low) <= b * Fraction(y) / a - (b / a) ** 2 / 4
