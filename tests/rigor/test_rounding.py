"""Rounding bounds against exact rationals: each constant is needed, and none is far too large."""

from __future__ import annotations

import ctypes
import math
import platform
from fractions import Fraction

import numpy as np
import pytest
import torch

from gdconv.rigor import rounding
from gdconv.rigor.rounding import (
    Enclosure,
    as_matrix,
    at_least,
    fro_up,
    gamma,
    gradual_underflow,
    up,
)
from gdconv.support.errors import InputError

U = Fraction(1, 2**53)


def square_root(x: Fraction) -> Fraction:
    """Root of x within 2^-1500."""
    return Fraction(math.isqrt((x.numerator << 3000) // x.denominator), 1 << 1500)


def test_constants_are_the_ones_of_the_proofs() -> None:
    assert Fraction(rounding.UNIT) == U == Fraction(float(np.finfo(np.float64).eps)) / 2
    assert 1.0 + rounding.UNIT == 1.0 < 1.0 + 2 * rounding.UNIT
    assert Fraction(rounding.TINY) == Fraction(1, 2**1022)
    # the root of what 2^40 squares may lose, and not much above it
    lost = 2**40 * Fraction(rounding.TINY)
    assert lost < Fraction(rounding.SQUARE_TINY) ** 2 < 5 * lost


@pytest.mark.parametrize("start", [0, 1, 100, 4096, 10**6, 2**40])
def test_gamma_covers_k_and_not_k_plus_2(start: int) -> None:
    for k in range(start, start + 200):
        exact = [(k + i) * U / (1 - (k + i) * U) for i in range(2)]
        assert exact[0] < Fraction(gamma(k)) < exact[1] * (1 + 4 * U), k


def test_gamma_is_infinite_where_the_proof_ends() -> None:
    assert gamma(2**53 - 1) == gamma(2**53) == gamma(2**60) == math.inf
    assert 2.0**51 < gamma(2**53 - 2) < math.inf


@pytest.mark.parametrize("x", [1.0, 1.75, 0.1, 3e200, 1e-290])
def test_up_covers_thirty_operations_and_not_two_hundred(x: float) -> None:
    grown = Fraction(up(x)) / Fraction(x)
    assert 1 + 62 * U <= grown <= 1 + 66 * U
    assert up(0.0) == rounding.TINY


@pytest.mark.parametrize("count", [1, 4, 16, 64, 1024, 4096])
def test_norm_bound_adds_gamma_of_the_count_once(count: int) -> None:
    """Squares and sums of ones are exact, so that only the allowance is seen."""
    excess = (Fraction(fro_up(np.ones(count))) / square_root(Fraction(count)) - 1) / U
    assert count + 1 + 60 <= excess <= count + 1 + 68


@pytest.mark.parametrize("shape", [(3,), (4, 5), (40, 30)])
@pytest.mark.parametrize("scale", [-520, -300, 0, 300])
def test_norm_bound_contains_the_norm(shape: tuple[int, ...], scale: int) -> None:
    for seed in range(10):
        A = np.ldexp(np.random.default_rng(seed).normal(size=shape), scale)
        exact = square_root(sum(Fraction(x) ** 2 for x in A.ravel().tolist()))
        lost = square_root(A.size * Fraction(rounding.TINY))
        bound = Fraction(fro_up(A))
        assert exact < bound <= (exact + lost) * (1 + (A.size + 80) * U)
    assert fro_up(np.asfortranarray(A)) >= exact


@pytest.mark.parametrize("count", [1, 16, 256])
def test_norm_bound_covers_squares_that_underflow(count: int) -> None:
    lost = square_root(count * Fraction(rounding.TINY))
    for x in (0.0, 1e-170, 2.0**-540):  # the squares are stored as 0
        bound = Fraction(fro_up(np.full(count, x)))
        assert lost <= bound <= lost * (1 + (count + 80) * U)
    with np.errstate(over="ignore"):
        assert fro_up(np.full(2, 1e200)) == math.inf


def test_interval() -> None:
    assert (Enclosure(1.0, 4.0).mid, Enclosure(1.0, 4.0).width) == (2.5, 3.0)
    assert Enclosure(-1.0, 0.5).mid == -0.25
    assert Enclosure(1.0, math.inf).mid == Enclosure(1.0, math.inf).width == math.inf
    largest = float(np.finfo(np.float64).max)
    assert Enclosure(0.5 * largest, largest).mid == 0.75 * largest


@pytest.mark.parametrize(
    ("a", "b", "answer"),
    [
        (Enclosure(3.0, 4.0), Enclosure(1.0, 2.0), True),
        (Enclosure(2.0, 3.0), Enclosure(1.0, 2.0), True),
        (Enclosure(1.0, 2.0), Enclosure(3.0, 4.0), False),
        (Enclosure(0.0, 1.0), Enclosure(1.0, 2.0), None),
        (Enclosure(1.0, 2.0), Enclosure(1.0, 2.0), None),
        (Enclosure(0.0, 9.0), Enclosure(1.0, 2.0), None),
        (Enclosure(1.0, 2.0), Enclosure(0.0, 9.0), None),
        (Enclosure(2.0, 3.0), 2.0, True),
        (Enclosure(1.0, 2.0), 2.0, None),
        (1.0, Enclosure(2.0, 3.0), False),
        (2.0, Enclosure(2.0, 3.0), None),
        (3.0, Enclosure(2.0, 3.0), True),
        (2.0, 2.0, True),
        (2, 3, False),
        (math.nan, 1.0, None),
        (1.0, math.nan, None),
    ],
)
def test_comparison_has_three_values(
    a: Enclosure | float, b: Enclosure | float, answer: bool | None
) -> None:
    assert at_least(a, b) is answer


def test_flush_to_zero_is_noticed() -> None:
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor has no such mode")
    try:
        assert not gradual_underflow()
    finally:
        torch.set_flush_denormal(False)
    assert gradual_underflow()


@pytest.mark.parametrize("mode", [0x400, 0x800, 0xC00])  # down, up, towards zero
def test_directed_rounding_is_noticed(mode: int) -> None:
    if platform.machine() not in ("x86_64", "AMD64") or platform.system() != "Linux":
        pytest.skip("the codes of the modes are those of another processor")
    library = ctypes.CDLL(None)
    assert gradual_underflow()
    assert library.fesetround(mode) == 0
    try:
        noticed = not gradual_underflow()
    finally:
        library.fesetround(0)
    assert noticed
    assert gradual_underflow()


LIMIT = 2**53


@pytest.mark.parametrize(
    "taken",
    [
        np.array([[LIMIT, -LIMIT]]),
        np.array([[LIMIT, 1]], np.uint64),
        [[LIMIT, -LIMIT]],
        [[LIMIT, 0.5]],
        np.full((1, 2), np.finfo(np.float64).max),  # the sum overflows, the entries do not
        np.zeros((0, 3), np.int64),
        np.zeros((3, 0)),
        np.array([[True, False]]),
        np.array([[1.5]], np.float16),
        np.array([[2**40]], np.int64),
    ],
)
def test_numbers_that_float64_holds_are_taken_unchanged(
    taken: np.ndarray | list[list[float]],
) -> None:
    A = as_matrix(taken)
    assert A.dtype == np.float64
    assert A.shape == np.shape(taken)
    assert [Fraction(x) for x in A.ravel().tolist()] == [
        Fraction(x) for x in np.asarray(taken).ravel().tolist()
    ]


@pytest.mark.parametrize(
    "refused",
    [
        np.array([[LIMIT + 1, 0]]),
        np.array([[0, -LIMIT - 1]]),
        np.array([[LIMIT + 1, 0]], np.uint64),
        [[LIMIT + 1, 0.5]],
        [[0.5, -LIMIT - 1]],
        [[np.int64(LIMIT + 1), 0.5]],
        np.array([[1.0, math.nan]]),
        np.array([[1.0, -math.inf]]),
        np.array([[math.inf, -math.inf]]),
    ],
)
def test_numbers_that_float64_does_not_hold_are_refused(refused: np.ndarray) -> None:
    with pytest.raises(InputError, match="^features = "):
        as_matrix(refused, "features")


def test_number_of_axes() -> None:
    assert as_matrix(np.ones(3), axes=1).shape == (3,)
    for axes, wrong in ((1, np.ones((2, 2))), (2, np.ones(3)), (2, np.ones((1, 1, 1)))):
        with pytest.raises(InputError, match=f"with {axes} axes"):
            as_matrix(wrong, axes=axes)


@pytest.mark.parametrize("error", [ValueError, TypeError, OverflowError, RuntimeError])
def test_a_table_that_gives_no_array_is_refused(error: type[Exception]) -> None:
    class Table:
        def to_numpy(self, dtype: object = None) -> None:
            raise error("no")

        __array__ = to_numpy

    with pytest.raises(InputError, match=r"^rows = .*: give a rectangular matrix of real numbers"):
        as_matrix(Table(), "rows")  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [TypeError, RuntimeError])
def test_an_array_of_others_that_numpy_cannot_take_is_refused(error: type[Exception]) -> None:
    class Foreign:
        device = "cpu"

        def __array__(self, *_: object, **__: object) -> None:
            raise error("no")

    with pytest.raises(InputError, match="^rows = Foreign: give a float64 array"):
        as_matrix(Foreign(), "rows")  # type: ignore[arg-type]


def test_tensors_are_taken_from_the_processor_without_boxing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rounding, "_from_sequence", None)
    tensor = torch.tensor([[1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    assert as_matrix(tensor).tolist() == [[1.0, 2.0]]  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^B = a tensor on another device: .*\.cpu\(\)"):
        as_matrix(torch.ones((1, 1), device="meta"))  # type: ignore[arg-type]


def test_nothing_is_copied_that_is_as_wanted() -> None:
    A = np.ones((2, 3))
    assert np.shares_memory(as_matrix(A), A)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.ones((1, 1), complex), "a complex matrix: give its real part"),
        (np.array([["a"]]), "a matrix of type <U1: give real numbers"),
        (np.ma.masked_array(np.ones((1, 1)), mask=[[1]]), r"a masked array: .*\.filled"),
        ([np.ma.masked_array([1.0], mask=[1])], r"masked rows: .*\.filled"),
        (np.ones((1, 1), np.longdouble), "a matrix of type .*: round it to float64 first"),
    ],
)
def test_other_kinds_of_numbers_are_refused(array: object, said: str) -> None:
    if getattr(array, "dtype", None) == np.float64 and not np.ma.isMaskedArray(array):
        pytest.skip("long double is float64 here")
    with pytest.raises(InputError, match=f"^rows = {said}"):
        as_matrix(array, "rows")  # type: ignore[arg-type]


def test_infinities_are_taken_where_that_is_wanted() -> None:
    assert as_matrix(np.array([[1.0, math.inf]]), finite=False).tolist() == [[1.0, math.inf]]
