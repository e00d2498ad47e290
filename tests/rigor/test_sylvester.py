"""The exact methods themselves: integers, polynomials, pivots and the search, on known spectra."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from flint import arb, arb_mat, fmpq, fmpq_poly

from gdconv.rigor.balls import working_precision
from gdconv.rigor.spectrum import Enclosure
from gdconv.rigor.sylvester import (
    _all_roots_at_least,
    _characteristic,
    _integers,
    _negative_pivots,
    _rayleigh,
    _sharpen,
    _square,
    _unit,
    certified_sigma_min,
    contains_sigma_min,
)
from gdconv.support.errors import InputError


@pytest.mark.parametrize("seed", range(6))
def test_integers_times_a_power_of_two_are_the_matrix(seed: int) -> None:
    rng = np.random.default_rng(seed)
    A = np.ldexp(rng.normal(size=(3, 4)), rng.integers(-1074, 900, (3, 4)))
    A[rng.random((3, 4)) < 0.3] = 0.0
    Z, e = _integers(A)
    for row, integers in zip(A.tolist(), Z.tolist(), strict=True):
        for x, z in zip(row, integers, strict=True):
            assert Fraction(x) == Fraction(int(z)) * Fraction(2) ** e
    Z, e = _integers(np.array([[0.0, -0.0], [0.0, 0.0]]))
    assert not any(int(z) for z in Z.entries())


def test_characteristic_polynomial_is_of_the_gram_matrix() -> None:
    poly, e = _characteristic(np.diag([2.0, 0.5, 3.0]))
    scale = fmpq(2) ** (-2 * e)
    wanted = fmpq_poly([1])
    for square in (fmpq(4), fmpq(1, 4), fmpq(9)):
        wanted *= fmpq_poly([-square * scale, 1])
    assert poly == wanted


@pytest.mark.parametrize("roots", [[2], [1, 5], [3, 3], [0, 4], [-1, 2, 2, 7], [-3, -3, -1]])
def test_least_root_is_compared_exactly(roots: list[int]) -> None:
    poly = fmpq_poly([1])
    for root in roots:
        poly *= fmpq_poly([-root, 1])
    least, hair = fmpq(min(roots)), fmpq(1, 10**40)
    for strict in (False, True):
        assert _all_roots_at_least(poly, least - hair, strict)
        assert not _all_roots_at_least(poly, least + hair, strict)
        assert _all_roots_at_least(poly, least, strict) is not strict
        assert not _all_roots_at_least(poly, fmpq(max(roots) + 1), strict)


def test_square_is_exact_in_units_of_the_integers() -> None:
    for x, e in ((0.1, 0), (3.0, -4), (5e-324, -1074), (1.5, 7)):
        square = _square(x, e)
        assert Fraction(int(square.p), int(square.q)) == (Fraction(x) / Fraction(2) ** e) ** 2


@pytest.mark.parametrize("e", [-1060, -3, 0, 900])
def test_ends_are_decided_to_the_last_bit(e: int) -> None:
    B = np.ldexp(np.array([[0.0, 3.0, 0.0], [2.0, 0.0, 0.0]]), e)
    two = math.ldexp(2.0, e)
    below, above = math.nextafter(two, 0.0), math.nextafter(two, math.inf)
    for lo, hi, answer in (
        (two, two, True), (below, above, True), (0.0, math.inf, True), (-1.0, two, True),
        (above, math.inf, False), (0.0, below, False), (0.0, 0.0, False), (0.0, -1.0, False),
    ):  # fmt: skip
        assert contains_sigma_min(B, Enclosure(lo, hi)) is answer


def test_more_rows_than_columns_have_the_value_zero() -> None:
    for lo, hi, answer in (
        (0.0, 0.0, True),
        (0.0, 1.0, True),
        (-1.0, 0.0, True),
        (5e-324, 1.0, False),
        (-2.0, -1.0, False),
    ):
        assert contains_sigma_min(np.ones((2, 1)), Enclosure(lo, hi)) is answer
    assert contains_sigma_min(np.ones((2, 2)), Enclosure(0.0, 0.0))
    assert not contains_sigma_min(np.ones((2, 2)), Enclosure(5e-324, 1.0))
    for refuse in (lambda B: contains_sigma_min(B, Enclosure(0.0, 1.0)), certified_sigma_min):
        with pytest.raises(InputError, match="^B = "):
            refuse(np.ones((0, 3)))


def table(A: np.ndarray) -> list[list[arb]]:
    return arb_mat(A.tolist()).tolist()


def test_pivots_tell_on_which_side_of_the_shift_an_eigenvalue_lies() -> None:
    two = np.array([[1.0, 2.0], [2.0, 1.0]])  # -1 and 3
    for shift, answer in ((-1.5, 0), (-0.5, 1), (2.0, 1), (5.0, 1)):
        assert _negative_pivots(table(two), arb(shift)) == answer
    assert _negative_pivots(table(two), arb(-1)) is None  # the last pivot is exactly 0
    assert _negative_pivots(table(two), arb(1)) is None  # the first is
    assert _negative_pivots(table(two), arb(-1.5, 2)) is None  # undecided
    assert _negative_pivots(table(np.array([[7.0]])), arb(6)) == 0
    assert _negative_pivots(table(np.array([[7.0]])), arb(8)) == 1
    rng = np.random.default_rng(0)
    for n in (3, 4, 6):
        A = rng.normal(size=(n, n))
        A = A + A.T
        least = float(np.linalg.eigvalsh(A)[0])
        assert _negative_pivots(table(A), arb(least - 1e-9)) == 0
        assert _negative_pivots(table(A), arb(least + 1e-9)) == 1


def test_quotient_and_inverse_iteration() -> None:
    M = arb_mat([[2, 1], [1, 3]])
    assert float(_rayleigh(M, arb_mat([[1], [2]]))) == pytest.approx(18 / 5, rel=1e-15, abs=0)
    unit = _unit(arb_mat([[3], [4]]))
    assert [float(x) for x in unit.entries()] == pytest.approx([0.6, 0.8], rel=1e-15, abs=0)
    assert [float(x) for x in _unit(arb_mat([[0], [0]])).entries()] == [0.0, 0.0]
    with working_precision(200):
        D = arb_mat([[1, 0, 0], [0, 5, 0], [0, 0, 9]])
        x = _sharpen(D, arb(0.5), _unit(arb_mat([[1], [1], [1]])), 4)
        assert abs(float(x[0, 0])) == pytest.approx(1.0, abs=1e-6)
        far = _sharpen(D, arb(5.125), _unit(arb_mat([[1], [1], [1]])), 4)
        assert abs(float(far[1, 0])) == pytest.approx(1.0, abs=1e-4)
        same = _sharpen(D, arb(5), arb_mat([[1], [1], [1]]), 1)  # singular: the vector stays
        assert [float(z) for z in same.entries()] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("digits", [5, 15, 60, 200])
@pytest.mark.parametrize("scale", [-1000, 0, 900])
def test_digits_are_those_asked_for(digits: int, scale: int) -> None:
    B = np.ldexp(np.array([[1.0, 1.0], [0.0, 1.0]]), scale)
    value = certified_sigma_min(B, digits)
    assert value.reached
    with working_precision(2000):
        golden = (arb(5).sqrt() - 1) / 2 * arb(2) ** scale
        assert value.ball.contains(golden)
        assert value.ball.rad() < golden * arb(10) ** -digits


def test_a_limit_on_the_precision_is_kept_and_said() -> None:
    hilbert = 1.0 / (np.arange(9)[:, None] + np.arange(9) + 1)
    value = certified_sigma_min(hilbert, 100, limit=400)
    assert not value.reached
    assert value.precision == 400
    assert contains_sigma_min(hilbert, value.enclosure)
    assert certified_sigma_min(hilbert, 100, limit=8192).reached


def test_ball_matrices_are_taken_as_functions_of_the_precision() -> None:
    value = certified_sigma_min(lambda bits: arb_mat([[arb(2).sqrt(), 0], [0, arb(3).sqrt()]]), 30)
    assert value.reached
    with working_precision(200):
        assert value.ball.contains(arb(2).sqrt())
    tall = certified_sigma_min(lambda bits: arb_mat([[1], [2]]))
    assert tall.reached
    assert tall.ball.is_zero()
    singular = certified_sigma_min(lambda bits: arb_mat([[1, 1], [1, 1]]), 10, limit=300)
    assert not singular.reached
    assert singular.enclosure.lo <= 0.0 <= singular.enclosure.hi
