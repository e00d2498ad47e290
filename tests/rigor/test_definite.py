"""The least eigenvalue by one Cholesky factor: the exact one always lies inside."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import scipy.linalg.lapack
from flint import fmpq, fmpq_mat, fmpq_poly

import gdconv.rigor.definite
from gdconv.rigor.definite import SHARE, gram_range, least_eigenvalue, root
from gdconv.rigor.rounding import Enclosure
from gdconv.rigor.sylvester import _all_roots_at_least, contains_sigma_min


def rational(x: float) -> fmpq:
    exact = Fraction(x)
    return fmpq(exact.numerator, exact.denominator)


def contains_least(K: np.ndarray, box: Enclosure) -> bool:
    """Whether the least root of the exact characteristic polynomial lies in the box."""
    exact = fmpq_mat(len(K), len(K), [rational(float(x)) for x in K.ravel()])
    poly = fmpq_poly(exact.charpoly())
    above = np.isinf(box.hi) or not _all_roots_at_least(poly, rational(box.hi), strict=True)
    return above and _all_roots_at_least(poly, rational(box.lo), strict=False)


def gram(rng: np.random.Generator, m: int, condition: float, scale: float) -> np.ndarray:
    Q = np.linalg.qr(rng.standard_normal((m, m)))[0]
    K = (Q * np.geomspace(1.0, 1.0 / condition, m)) @ Q.T * scale
    return (K + K.T) / 2


@pytest.mark.parametrize("condition", [1.0, 1e3, 1e10, 1e15, 1e18])
@pytest.mark.parametrize("scale", [1e-300, 1e-80, 1.0, 1e90, 1e200])
def test_the_exact_eigenvalue_lies_inside(condition: float, scale: float) -> None:
    rng = np.random.default_rng(int(np.log10(condition)) + 7)
    for m in (1, 2, 3, 5):
        K = gram(rng, m, condition, scale)
        guess = rng.standard_normal(m)
        for v in (None, guess, np.zeros(m), np.full(m, np.nan), 1e200 * guess):
            box, better = least_eigenvalue(K, v)
            assert contains_least(K, box)
            if condition <= 1e10 and 1e-100 < scale < 1e100:
                assert box.lo > 0
                assert box.width <= 1.1 * SHARE * box.hi
                assert better is not None


def test_no_gram_matrix_either() -> None:
    for K in (np.zeros((2, 2)), -np.eye(2), np.array([[0.0, 1.0], [1.0, 0.0]])):
        assert contains_least(K, least_eigenvalue(K)[0])
        assert contains_least(K, least_eigenvalue(K, np.ones(2))[0])


def test_a_guess_is_made_better_and_saves_an_eigensystem(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    B = rng.standard_normal((6, 20))
    calls = []
    whole = gdconv.rigor.definite.eigh
    monkeypatch.setattr(gdconv.rigor.definite, "eigh", lambda K: calls.append(1) or whole(K))
    v = None
    for _ in range(20):
        B += 1e-3 * rng.standard_normal(B.shape)
        K = B @ B.T
        box, v = least_eigenvalue((K + K.T) / 2, v)
        assert box.lo <= np.linalg.eigvalsh(K)[0] * (1 + 1e-12)
    assert len(calls) == 1


@pytest.mark.parametrize("factor", [0.5, 0.999, 1.0 + 1e-9, 2.0, np.nan])
def test_a_wrong_factor_is_found_out(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """LAPACK is not trusted: a wrong L widens the enclosure and never moves it off."""
    honest = scipy.linalg.lapack.dpotrf

    def wrong(*args: object, **options: object) -> object:
        L, info = honest(*args, **options)
        return factor * L, info

    monkeypatch.setattr(scipy.linalg.lapack, "dpotrf", wrong)
    rng = np.random.default_rng(1)
    for m in (1, 3, 4):
        K = gram(rng, m, 10.0, 1.0)
        assert contains_least(K, least_eigenvalue(K)[0])


def test_a_shift_that_is_too_large_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever lies about breaking down, the residual tells."""

    def lying(D: np.ndarray, **options: object) -> object:
        w, V = np.linalg.eigh(D)
        return np.linalg.qr((V * np.sqrt(np.maximum(w, 0.0))).T)[1].T, 0

    monkeypatch.setattr(scipy.linalg.lapack, "dpotrf", lying)
    K = gram(np.random.default_rng(2), 4, 100.0, 1.0)
    for v in np.eye(4):  # Rayleigh quotients far above the least eigenvalue
        assert contains_least(K, least_eigenvalue(K, v)[0])


def test_roots_are_taken_outwards() -> None:
    assert root(Enclosure(-1.0, 4.0), 0.5) == (0.0, pytest.approx(4.5**0.5))
    assert root(Enclosure(4.0, 9.0), 0.0).lo <= 2.0 < 3.0 <= root(Enclosure(4.0, 9.0), 0.0).hi
    assert root(Enclosure(2.0, 2.0), 1.0).lo <= 1.0 < 3.0**0.5 <= root(Enclosure(2.0, 2.0), 1.0).hi
    for bad in (Enclosure(np.nan, 1.0), Enclosure(0.0, np.inf)):
        assert root(bad, 0.0) == (0.0, np.inf)
    assert root(Enclosure(1.0, 2.0), np.nan) == (0.0, np.inf)


@pytest.mark.parametrize("condition", [1.0, 1e2, 1e5, 1e9])
def test_the_range_of_a_matrix_through_its_gram_matrix(condition: float) -> None:
    rng = np.random.default_rng(3)
    for m in (1, 2, 4):
        for scale in (1e-150, 1e-60, 1.0, 1e60):
            Q = np.linalg.qr(rng.standard_normal((9, m)))[0]
            A = gram(rng, m, condition, scale) @ Q.T
            found = gram_range(A)
            if m > 1 and condition > 1e8:
                assert found is None
            if found is not None:
                assert contains_sigma_min(A, found[0])
                top = np.linalg.svd(A, compute_uv=False)[0]
                assert found[1].lo <= top * (1 + 1e-12)
                assert found[1].hi >= top * (1 - 1e-12)
    assert gram_range(np.ones((3, 2))) is None


def test_what_a_long_sum_may_lose_is_counted() -> None:
    """p u |A|^2, though summing in blocks loses far less."""
    p = 30_000
    found = gram_range(np.ones((1, p)))
    assert found is not None
    assert found[0].hi ** 2 - found[0].lo ** 2 >= 2 * p * p * 2.0**-53
