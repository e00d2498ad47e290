"""Interface and accuracy of the singular-value bounds (containment: test_verified.py)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gdconv.rigor import spectrum
from gdconv.rigor import svd as verified
from gdconv.rigor.rounding import fro_up
from gdconv.rigor.spectrum import (
    Enclosure,
    as_matrix,
    enclose_sigma_min,
    enclose_singular_range,
    norm2_upper,
    verified_svd,
)
from gdconv.rigor.sylvester import certified_sigma_min
from gdconv.support.errors import GdconvError, InputError


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


# Every term of the sweeps over columns, with products that are exact.


def hadamard(k: int) -> np.ndarray:
    """Orthogonal rows of length sqrt(k), entries +-1; k is a power of 2."""
    H = np.ones((1, 1))
    while len(H) < k:
        H = np.block([[H, H], [H, -H]])
    return H


U = 2.0**-53


def gamma(k: int) -> float:
    """What the code takes for k u / (1 - k u), rounded up to k + 1."""
    return (k + 1) * U / (1.0 - (k + 1) * U)


def swept(chunk: int, m: int = 8, p: int = 4096) -> tuple[np.ndarray, np.ndarray]:
    """A = L Q with Q Q^T = I, all exact: L with entries 2^k, Q with entries +-2^-6."""
    assert p % chunk == 0 or chunk > p
    Q = np.tile(hadamard(64)[:m], (1, p // 64)) / 64.0
    L = np.eye(m) * 2.0 ** -np.arange(m)
    L[1:, 0] = 2.0**-4
    return L, Q


@pytest.mark.parametrize("chunk", [64, 256, 1024, 8192])
def test_a_sweep_pays_for_its_sums_and_products(monkeypatch, chunk):
    monkeypatch.setattr(spectrum, "CHUNK", chunk)
    L, Q = swept(chunk)
    m, p = Q.shape
    A = L @ Q
    e = verified.exponent(A)
    out, res, e_Q, G = spectrum._pass(A, e, [np.ldexp(L, -e)])
    np.testing.assert_array_equal(out, np.ldexp(L, -e))
    np.testing.assert_allclose(G, np.eye(m), rtol=0, atol=1e-14)
    cuts = -(-p // chunk)
    k = min(p, chunk) + cuts + 2  # sums over a block, then over the blocks
    assert e_Q == pytest.approx(gamma(k) * m, rel=1e-9, abs=0)
    span = float(np.linalg.norm(np.ldexp(L, -e), axis=0).sum())
    assert res == pytest.approx(gamma(m) * span, rel=1e-9, abs=0)
    # two factors: their product is the L of the result
    half = np.eye(m) * 0.5
    out, res, e_Q, G = spectrum._pass(A, e, [np.ldexp(L, -e), half])
    np.testing.assert_array_equal(out, np.ldexp(L, -e) * 0.5)
    np.testing.assert_allclose(G, 4.0 * np.eye(m), rtol=0, atol=1e-13)
    assert e_Q == pytest.approx(3.0 * math.sqrt(m), rel=1e-9, abs=0)
    assert res == pytest.approx(gamma(m) * span, rel=1e-9, abs=0)


def test_a_sweep_measures_what_its_factor_misses(monkeypatch):
    """A = L Q + R: the residual of every block counts, by its Frobenius norm."""
    monkeypatch.setattr(spectrum, "CHUNK", 256)
    L, Q = swept(256)
    m, p = Q.shape

    def coarse(alpha, F, X, lower):
        return np.round(solve(alpha, F, X, lower=lower) * 64.0) / 64.0

    from scipy.linalg import blas

    solve = blas.dtrsm
    monkeypatch.setattr(blas, "dtrsm", coarse)
    R = np.where(np.arange(p) % 3 == 0, 2.0**-20, 0.0) * np.ones((m, 1))
    _, res, e_Q, _ = spectrum._pass(L @ Q + R, 0, [L])
    assert e_Q < 1e-12
    assert res == pytest.approx(float(np.linalg.norm(R)), rel=1e-9, abs=0)


@pytest.mark.parametrize("e_Q", [0.0, 2.0**-20, 0.25, 0.75])
@pytest.mark.parametrize("res", [0.0, 2.0**-6])
@pytest.mark.parametrize("e", [-3, 0, 500])
def test_reduced_bounds_are_those_of_the_theorem(monkeypatch, e_Q, res, e):
    """sigma_i(L) sqrt(1 -+ e_Q) -+ res, for whatever a sweep reports."""
    L = np.diag(2.0 ** -np.arange(8.0))
    A = np.ldexp(np.tile(L, (1, 16)), e - verified.exponent(L))
    sweeps = []

    def sweep(A, e, factors):
        sweeps.append(len(factors))
        return L, res, e_Q, np.eye(8)

    monkeypatch.setattr(spectrum, "_pass", sweep)
    svd = spectrum._wide_range(A, "A")
    assert sweeps == ([1] if e_Q < 1e-6 else [1, 2])
    scale = verified.exponent(A)
    s = np.diag(L)
    lo, hi = np.ldexp(svd.lo, -scale), np.ldexp(svd.hi, -scale)
    slack = 1e-12
    np.testing.assert_allclose(lo, np.maximum(s * math.sqrt(1 - e_Q) - res, 0), rtol=0, atol=slack)
    np.testing.assert_allclose(hi, s * math.sqrt(1 + e_Q) + res, rtol=slack)
    own = verified_svd(L)
    low = np.maximum(own.lo * math.sqrt(1 - e_Q) - res, 0.0)
    assert (lo <= low * (1 - 8 * U)).all()
    assert (lo >= low * (1 - 60 * U) - 40 * U).all()
    high = own.hi * math.sqrt(1 + e_Q) + res
    assert (hi >= high * (1 + 16 * U)).all()
    assert (hi <= high * (1 + 40 * U)).all()
    np.testing.assert_allclose(np.ldexp(svd.s, -scale), s, rtol=1e-13)


@pytest.mark.parametrize(
    ("L", "res", "e_Q"),
    [(1.0, 0.0, 1.0), (1.0, math.inf, 0.0), (math.nan, 0.0, 0.0), (1.0, 0.0, math.nan)],
)
def test_a_sweep_that_proves_nothing_is_not_used(monkeypatch, L, res, e_Q):
    A = np.tile(np.eye(4), (1, 8))
    monkeypatch.setattr(
        spectrum, "_pass", lambda A, e, factors: (np.eye(4) * L, res, e_Q, np.eye(4))
    )
    assert spectrum._wide_range(A, "A") is None


def test_the_factor_is_cholesky_where_that_is_good_and_qr_otherwise(monkeypatch):
    monkeypatch.setattr(spectrum, "CHUNK", 64)
    rng = np.random.default_rng(5)
    rows = np.linalg.qr(rng.normal(size=(300, 6)))[0].T
    honest, sweeps = np.linalg.qr, []
    monkeypatch.setattr(
        np.linalg, "qr", lambda *args, **kw: sweeps.append(1) or honest(*args, **kw)
    )
    for condition in (1.0, 1e3, 1e5, 1e7, 1e10):
        sweeps.clear()
        A = np.geomspace(1.0, 1.0 / condition, 6)[:, None] * rows
        L = spectrum._row_factor(A, 0)
        assert len(sweeps) == (5 if condition >= 1e7 else 0)  # blocks of 64 of the 300 columns
        assert not np.triu(L, 1).any()
        np.testing.assert_allclose(L @ L.T, A @ A.T, rtol=0, atol=1e-14)
        solved = np.linalg.solve(L, A)
        assert np.linalg.norm(solved @ solved.T - np.eye(6)) < 1e-3
    assert spectrum._row_factor(np.zeros((3, 80)), 0) is None
    assert spectrum._row_factor(np.ones((1, 1)) * np.nan, 0) is None
    one = spectrum._row_factor(np.full((1, 100), 3.0), 4)
    assert abs(one[0, 0]) == pytest.approx(30.0 / 16.0)


def test_blocks_cover_the_columns_once(monkeypatch):
    monkeypatch.setattr(spectrum, "CHUNK", 4)
    for p in (0, 1, 4, 5, 8, 11):
        cuts = spectrum._chunks(p)
        assert [j for cut in cuts for j in range(p)[cut]] == list(range(p))
        assert len(cuts) == -(-p // 4)
        A = np.arange(2.0 * p).reshape(2, p)
        np.testing.assert_array_equal(spectrum._gram(A, 1), A @ A.T / 4)


@pytest.mark.parametrize("shape", [(70, 300), (70, 280), (70, 279), (10, 2000), (10, 2001)])
def test_only_large_and_very_wide_matrices_are_reduced(monkeypatch, shape):
    used = []
    monkeypatch.setattr(spectrum, "_wide_range", lambda M, field: used.append(M.shape))
    A = np.random.default_rng(6).normal(size=shape)
    for M in (A, A.T):
        enclose_singular_range(M)
    expected = shape[1] >= 4 * shape[0] and shape[0] * shape[1] > 20_000
    assert used == ([shape] * 2 if expected else [])


def test_range_of_odd_shapes():
    zero = Enclosure(0.0, 0.0)
    assert enclose_singular_range(np.zeros((3, 0))) == (zero, zero)
    tall = np.array([[3.0], [4.0]])
    least, largest = enclose_singular_range(tall)
    assert least == zero
    assert largest.lo <= 5.0 <= largest.hi < 5.0 * (1 + 1e-13)
    assert enclose_singular_range(tall, 1)[0] == largest
    twice = np.array([[1.0, 2.0, 2.0], [1.0, 2.0, 2.0], [0.0, 4.0, 0.0]])  # two rows are equal
    assert enclose_singular_range(twice)[0] == zero
    second = enclose_singular_range(twice, 2)[0]
    s = np.linalg.svd(twice, compute_uv=False)
    assert second.lo <= s[1] <= second.hi
    assert second.width < 1e-13
    for count in (0, -1):
        with pytest.raises(InputError, match="^count = "):
            enclose_singular_range(twice, count)
    assert enclose_sigma_min(np.array([[1.0], [1.0]])) == zero
    assert enclose_sigma_min([[3.0, 4.0]]).hi < 5.0 * (1 + 1e-13)
    box = enclose_sigma_min([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    assert box.lo <= 2.0 <= box.hi < 2.0 * (1 + 1e-13)


@pytest.mark.parametrize("chunk", [32, 128, 1024])
@pytest.mark.parametrize("e", [0, 300, -300])
def test_norm_bound_pays_for_its_products(monkeypatch, chunk, e):
    """A A^T = diag exactly, and the eigenvectors are the unit vectors: only a-priori terms."""
    monkeypatch.setattr(spectrum, "CHUNK", chunk)
    values = np.array([32.0, 16.0, 16.0, 4.0])
    A = values[:, None] * hadamard(128)[:4] / 64.0
    m, p = A.shape
    bound = math.ldexp(norm2_upper(np.ldexp(A, e)), -e)
    scale = 2.0 ** verified.exponent(A)
    square = (values[0] ** 2 * 128 / 64.0**2) / scale**2
    frobenius2 = float((A**2).sum()) / scale**2
    w = float(np.linalg.norm(values**2)) * 128 / 64.0**2 / scale**2  # |V diag w|_F
    blocks = gamma(min(p, chunk) + p // chunk + 3)
    error = square * gamma(m) * m + 2 * gamma(m + 2) * w * 2.0 + blocks * frobenius2
    wanted = math.sqrt(square) * scale * (1 + error / square / 2)
    assert (bound / wanted - 1) / U == pytest.approx(64 + 32 + 1, abs=8)


def test_norm_bound_measures_its_eigenvectors(monkeypatch):
    A = np.diag([4.0, 2.0, 1.0]) / 8.0
    honest = np.linalg.eigh

    def leaning(G):
        w, V = honest(G)
        return w * 1.0625, V * 1.0625

    monkeypatch.setattr(np.linalg, "eigh", leaning)
    e_V = (1.0625**2 - 1) * math.sqrt(3)
    G = np.diag([16.0, 4, 1]) / 16
    missed = float(np.linalg.norm(G * (1.0625**3 - 1)))
    square = 1.0 * 1.0625 * (1 + e_V) + missed
    frobenius = math.sqrt(21.0 / 16)
    wanted = min(math.sqrt(square), frobenius) * 0.5
    assert norm2_upper(A) == pytest.approx(wanted, rel=1e-12, abs=0)
    A = np.eye(8)
    G = np.eye(8)
    square = 0.25 * 1.0625 * (1 + (1.0625**2 - 1) * math.sqrt(8))
    square += float(np.linalg.norm(0.25 * np.eye(8) * (1.0625**3 - 1)))
    assert norm2_upper(A) == pytest.approx(math.sqrt(square) * 2, rel=1e-12, abs=0)


def test_norm_bound_falls_back_to_the_frobenius_norm(monkeypatch):
    def fail(G):
        raise np.linalg.LinAlgError("did not converge")

    monkeypatch.setattr(spectrum, "eigh", fail)
    A = np.ones((4, 2048))
    bound = norm2_upper(A)
    assert bound == pytest.approx(math.sqrt(4 * 2048), rel=1e-11, abs=0)
    assert norm2_upper(np.zeros((2, 3))) == norm2_upper(np.zeros((2, 0))) == 0.0
    assert norm2_upper(np.full((2, 2), np.finfo(float).max)) == math.inf


# The same formulas to the last digits: every factor and every count is seen.


@pytest.mark.parametrize("chunk", [64, 256, 8192])
def test_a_sweep_to_its_last_digits(monkeypatch, chunk):
    assert spectrum.CHUNK == 1024
    monkeypatch.setattr(spectrum, "CHUNK", chunk)
    L, Q = swept(chunk)
    m, p = Q.shape
    cuts = -(-p // chunk)
    grow, up = 1.0 + 8.0 * gamma(chunk + cuts + m), 1.0 + 64 * U
    span = float(np.linalg.norm(L, axis=0).sum()) * grow**3
    _, res, e_Q, _ = spectrum._pass(L @ Q, 0, [L])
    assert e_Q == pytest.approx(gamma(min(p, chunk) + cuts + 2) * m * grow * up, rel=1e-14, abs=0)
    assert res == pytest.approx(gamma(m) * span * up, rel=2e-14, abs=0)
    from scipy.linalg import blas

    monkeypatch.setattr(blas, "dtrsm", lambda alpha, F, X, lower: Q[:, next(blocks)])
    blocks = iter(spectrum._chunks(p))
    R = np.where(np.arange(p) % 3 == 0, 2.0**-20, 0.0) * np.ones((m, 1))
    _, res, _, _ = spectrum._pass(L @ Q + R, 0, [L])
    missed = sum(fro_up(R[:, cut]) ** 2 for cut in spectrum._chunks(p))
    wanted = (math.sqrt(missed * grow) + gamma(m) * span) * up
    assert res == pytest.approx(wanted, rel=1e-14, abs=0)


@pytest.mark.parametrize(("factor", "entry"), [(2.0**-600, 2.0**-600), (1.0, 0.0)])
def test_a_sweep_pays_for_squares_that_underflow(factor, entry):
    """Norms of 2^-600 are stored as 0, and each of them counts as 2^-490."""
    _, res, _, _ = spectrum._pass(np.full((1, 8), entry), 0, [np.array([[factor]])])
    norms = 2.0**-490 * (math.sqrt(8.0) if entry else 1.0)
    wanted = fro_up(np.zeros((1, 8))) + gamma(1) * norms
    assert res == pytest.approx(wanted, rel=2e-12, abs=0)


@pytest.mark.parametrize("e_Q", [0.0, 1e-6, 2.0**-20, 0.25, 0.75])
@pytest.mark.parametrize(
    ("res", "low", "high"),
    [
        (0.0, 1.0, 1.0),
        (2.0**-6, 0.7, 1.3),
        (0.0, 0.0, 0.0),
        (1.0, 0.5, 0.5),
        (2.0**-1022, 0.0, 0.0),
    ],
)
def test_reduced_bounds_to_the_last_bit(monkeypatch, e_Q, res, low, high):
    L, sweeps = np.eye(4), []
    small = verified_svd(L)._replace(lo=np.full(4, low), hi=np.full(4, high))
    monkeypatch.setattr(spectrum, "exponent", lambda A: 0)
    monkeypatch.setattr(spectrum, "unscale", lambda lo, hi, e: (lo, hi))
    monkeypatch.setattr(spectrum, "verified_svd", lambda L, field: small)
    swept = lambda A, e, factors: sweeps.append(len(factors)) or (L, res, e_Q, L)  # noqa: E731
    monkeypatch.setattr(spectrum, "_pass", swept)
    svd = spectrum._wide_range(np.tile(L, (1, 8)), "A")
    assert sweeps == ([1] if e_Q < 1e-6 else [1, 2])
    shrink, tiny = 1.0 - 8 * U, 2.0**-1022
    wanted = low * (math.sqrt(1.0 - e_Q) * shrink) * shrink - res
    assert svd.lo.tolist() == [max(wanted * shrink - tiny, 0.0)] * 4
    wanted = high * (math.sqrt(1.0 + e_Q) * (1.0 + 8 * U)) + res
    assert svd.hi.tolist() == [wanted * (1.0 + 16 * U) + tiny] * 4


@pytest.mark.parametrize("chunk", [32, 1024])
def test_norm_bound_counts_its_sums(monkeypatch, chunk):
    """With gamma set to 2^-10 at one count and to 0 elsewhere each of its terms is seen alone."""
    monkeypatch.setattr(spectrum, "CHUNK", chunk)
    values = np.array([32.0, 16.0, 16.0, 4.0])
    A = values[:, None] * hadamard(128)[:4] / 64.0
    w = values**2 * 128 / 64.0**2
    frobenius2 = float((A**2).sum())
    counts = {"norm": 128, "product": 6, "sum": min(128, chunk) + 128 // chunk + 3}
    added = {"product": 2.0 * float(np.linalg.norm(w)) * 2.0, "sum": frobenius2}
    for name, more in added.items():
        grows = lambda k, n=counts[name]: 2.0**-10 if k == n else 0.0  # noqa: E731
        monkeypatch.setattr(spectrum, "gamma", grows)
        wanted = math.sqrt(w[0] + 2.0**-10 * more)
        assert norm2_upper(A) == pytest.approx(wanted, rel=1e-12, abs=0)

    def fail(G):
        raise np.linalg.LinAlgError("did not converge")

    monkeypatch.setattr(spectrum, "eigh", fail)
    monkeypatch.setattr(spectrum, "gamma", lambda k: 2.0**-10 if k == counts["norm"] else 0.0)
    wanted = math.sqrt(frobenius2) * (1.0 + 2.0**-10)
    assert norm2_upper(A) == pytest.approx(wanted, rel=1e-12, abs=0)
