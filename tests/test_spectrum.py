"""Interface and accuracy of the singular-value bounds (containment: test_verified.py)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gdconv import rounding, verified
from gdconv.errors import GdconvError, InputError
from gdconv.inertia import certified_sigma_min
from gdconv.spectrum import (
    Enclosure,
    as_matrix,
    at_least,
    enclose_sigma_min,
    enclose_singular_range,
    gradual_underflow,
    norm2_upper,
    verified_svd,
)


@pytest.mark.parametrize(
    "B",
    [
        np.ones((3, 2)),
        np.zeros((2, 5)),
        np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]),
        np.array([[1.0, 0.0, 3.0], [-1.0, -0.0, -3.0]]),
        np.array([[1.0, 0.0], [0.0, 0.0]]),
        np.zeros((3, 0)),
    ],
)
def test_proved_zero_is_exactly_zero(B):
    assert enclose_sigma_min(B) == Enclosure(0.0, 0.0)
    assert enclose_singular_range(B)[0] == Enclosure(0.0, 0.0)


BAD = {
    "complex": np.ones((2, 2), complex),
    "long double": np.ones((2, 2), np.longdouble),
    "large integer": np.array([[2**53 + 1, 0], [0, 1]]),
    "large unsigned": np.array([[2**64 - 1, 0], [0, 1]], np.uint64),
    "least integer": np.array([[-(2**63), 0], [0, 1]]),
    "large integer in a list": [[2**60 + 1, 0.5], [0.0, 1.0]],
    "integer beyond 64 bits": [[2**70, 0], [0, 1]],
    "masked": np.ma.masked_array(np.ones((2, 2)), mask=[[0, 1], [0, 0]]),
    "masked rows": [np.ma.masked_array([1.0, 2.0], mask=[0, 1])],
    "nan": np.array([[1.0, np.nan]]),
    "inf": np.array([[1.0, np.inf]]),
    "both infinities": np.array([[-np.inf, np.inf]]),
    "vector": np.ones(3),
    "three axes": np.ones((2, 2, 2)),
    "no rows": np.ones((0, 3)),
    "objects": np.array([[None, 1.0]], object),
    "text": np.array([["a", "b"]]),
    "ragged": [[1.0, 2.0], [3.0]],
    "dates": np.array([["2020-01-01"]], "datetime64[D]"),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_bad_input_is_refused_by_name(name):
    if name == "long double" and np.dtype(np.longdouble).itemsize == 8:
        pytest.skip("long double is float64 here")
    with pytest.raises(InputError, match="^features = "):
        enclose_sigma_min(BAD[name], field="features")


def test_exact_input_of_other_types_is_taken():
    B = np.array([[3, 0], [0, 2]])
    exact = enclose_sigma_min(B.astype(float))
    arrays = [B, B.astype(np.int8), B.astype(np.float32), B.astype(">f8"), B.tolist()]
    tensors = [torch.tensor(B), torch.tensor(B, dtype=torch.float64, requires_grad=True)]
    for same in arrays + tensors:
        assert enclose_sigma_min(same) == exact
    assert as_matrix(np.eye(2, dtype=bool)).tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_input_is_not_changed():
    B = np.random.default_rng(0).normal(size=(4, 7))
    before = B.copy()
    enclose_sigma_min(B), enclose_singular_range(B), norm2_upper(B)
    np.testing.assert_array_equal(B, before)


def test_flushed_denormals_are_refused(monkeypatch):
    monkeypatch.setattr(verified, "gradual_underflow", lambda: False)
    with pytest.raises(GdconvError, match="set_flush_denormal"):
        enclose_sigma_min([[1.0]])


def test_flush_to_zero_is_noticed():
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor has no such mode")
    try:
        assert not gradual_underflow()
    finally:
        torch.set_flush_denormal(False)
    assert gradual_underflow()


def test_every_singular_value_is_enclosed():
    rng = np.random.default_rng(1)
    for m, p in [(1, 1), (3, 5), (8, 8), (16, 40)]:
        s = np.sort(rng.uniform(0.1, 10, m))[::-1]
        Q = np.diag(s) @ np.eye(m, p)  # exact singular values
        svd = verified_svd(Q[:, ::-1])
        assert (svd.lo <= s).all()
        assert (s <= svd.hi).all()
        assert (svd.hi - svd.lo < 1e-12 * s[0]).all()


@pytest.mark.parametrize("condition", [1.0, 1e4, 1e9, 1e14])
@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_wide_range_contains_the_inertia_value(condition, scale):
    """The triangular reduction (p >= 4 m) against balls, for every branch of it."""
    rng = np.random.default_rng(2)
    m, p = 10, 3000
    rows = np.linalg.qr(rng.normal(size=(p, m)))[0].T
    A = (
        scale
        * (np.linalg.qr(rng.normal(size=(m, m)))[0] * np.geomspace(1, 1 / condition, m))
        @ rows
    )
    least, largest = enclose_singular_range(A)
    truth = certified_sigma_min(A, 20).ball
    assert least.lo <= truth
    assert truth <= least.hi
    assert largest.lo <= norm2_upper(A)
    loss = (
        2e-6 if condition <= 1e9 else 1e-4
    )  # one triangular sweep is accepted at |QQ^T - I| = 1e-6
    assert largest.width <= loss * largest.lo
    if condition <= 1e9:
        assert least.width <= (loss + 1e-12 * condition) * least.hi


def test_range_of_a_jacobian_is_fast_and_sharp():
    A = np.random.default_rng(0).normal(size=(32, 50_000))
    least, largest = enclose_singular_range(A)
    s = np.linalg.svd(A, compute_uv=False)
    assert least.lo <= s[-1] * (1 + 1e-12)
    assert s[-1] * (1 - 1e-12) <= least.hi
    assert max(least.width / least.lo, largest.width / largest.lo) < 1e-9


def test_range_counts_from_the_largest():
    A = np.diag([5.0, 3.0, 1.0])
    for count, value in enumerate([5.0, 3.0, 1.0], start=1):
        box, _ = enclose_singular_range(A, count)
        assert box.lo <= value <= box.hi
        assert box.width < 1e-12
    assert enclose_singular_range(A, 4)[0] == Enclosure(0.0, 0.0)
    assert enclose_singular_range(A[:, :2])[0] == Enclosure(0.0, 0.0)  # more rows than columns
    assert enclose_singular_range(A[:, :2])[1].hi >= 5.0
    with pytest.raises(InputError, match="count"):
        enclose_singular_range(A, 0)


def test_norm_bound_against_exact_rank_one():
    v = np.array([[3.0, 4.0, 12.0, 84.0]])  # norm 85 exactly
    assert 85.0 <= norm2_upper(v) < 85.0 * (1 + 1e-12)
    assert 85.0 <= norm2_upper(v.T) < 85.0 * (1 + 1e-12)
    assert norm2_upper(np.zeros((0, 3))) == 0.0


def test_three_valued_comparison():
    low, high, wide = Enclosure(1.0, 2.0), Enclosure(3.0, 4.0), Enclosure(0.0, 10.0)
    assert at_least(high, low) is True
    assert at_least(low, high) is False
    assert at_least(low, wide) is None
    assert at_least(low, low) is None
    assert at_least(2.0, 2.0) is True
    assert at_least(float("nan"), 1.0) is None


def test_rounding_constants():
    assert np.finfo(float).eps / 2 == rounding.UNIT
    assert rounding.gamma(2**53) == math.inf
    assert rounding.fro_up(np.array([3.0, 4.0])) >= 5.0
