"""The enclosure of sigma_min must contain the exact value, whatever the SVD says."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from flint import fmpq_poly
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from samples_matrices import FAMILIES, cases

from gdconv.rigor import spectrum
from gdconv.rigor import svd as verified
from gdconv.rigor.rounding import TINY, up
from gdconv.rigor.spectrum import Enclosure, enclose_sigma_min, enclose_singular_range, norm2_upper
from gdconv.rigor.svd import (
    _row_norm_up,
    _row_sum_up,
    dependent_rows,
    exponent,
    gram_defect,
    unscale,
    verified_svd,
)
from gdconv.rigor.sylvester import (
    _all_roots_at_least,
    _characteristic,
    _square,
    certified_sigma_min,
    contains_sigma_min,
)

# Every term: decompositions whose products are exact, so that only the allowances are left.

U = Fraction(1, 2**53)


def hadamard(k: int) -> np.ndarray:
    """Orthogonal rows of length sqrt(k), entries +-1; k is a power of 2."""
    H = np.ones((1, 1))
    while len(H) < k:
        H = np.block([[H, H], [H, -H]])
    return H


LEFT, RIGHT = hadamard(16) / 4.0, hadamard(64)[:16] / 8.0
VALUES = {
    "equal": np.ones(16),
    "graded": 2.0 ** np.arange(10, -6, -1),
    "one large": np.r_[4096.0, np.ones(15)],
    "signed and shuffled": np.array([1.0, -8, 2, 4, 1, -1, 2, 2, 1, 4, -4, 1, 1, 2, 8, 16]),
}


@pytest.mark.parametrize("name", sorted(VALUES))
def test_an_exact_decomposition_loses_the_allowances_and_no_more(name):
    """Theorem 1 with residual 0: e_U, e_V, d_W, rho are their a-priori terms alone."""
    s = VALUES[name]
    lo, hi, e_U = verified._verify((LEFT * s) @ RIGHT, LEFT, s, RIGHT, 0.0)
    left, right = 17 * 16 * U, 65 * 16 * U  # gamma_k |Q|_F^2, gamma rounded up to k + 1
    size = float(np.linalg.norm(s))
    d_W, rho = size * U, 17 * U * Fraction(float(np.abs(s).sum()))
    assert float(Fraction(e_U) / left) == pytest.approx(1.0, rel=1e-9, abs=0)
    for value, low, high in zip(sorted(np.abs(s))[::-1], lo, hi, strict=True):
        x = Fraction(value)
        lost = x * (left / 2 + right / 2 + 24 * U) + Fraction(d_W) + rho
        added = x * (left / 2 + right / 2 + 16 * U) + Fraction(d_W) + rho + 16 * rho * U
        assert abs((x - Fraction(low)) - lost) <= 4 * x * U
        assert abs((Fraction(high) - x) - added) <= 4 * x * U


@pytest.mark.parametrize("lost", [0.0, 0.25])
@pytest.mark.parametrize("off", [(1.0, 1.0), (1.0625, 1.0), (1.0, 0.9375), (0.9375, 1.03125)])
def test_a_wrong_decomposition_gives_the_bounds_of_the_theorem(off, lost):
    s = VALUES["graded"]
    A = (LEFT * s) @ RIGHT
    wrong = LEFT * off[0], s * 1.125, RIGHT * off[1]
    lo, hi, e_U = verified._verify(A, *wrong, lost)
    e = [4.0 * abs(c * c - 1.0) for c in off]
    rho = float(np.linalg.norm(s)) * abs(off[0] * off[1] * 1.125 - 1.0) + lost
    assert e_U == pytest.approx(e[0], rel=1e-12, abs=1e-12)
    root = [[math.sqrt(max(1.0 + sign * x, 0.0)) for x in e] for sign in (-1.0, 1.0)]
    low = np.maximum(root[0][0] * s * 1.125 * root[0][1] - rho, 0.0)
    np.testing.assert_allclose(lo, low, rtol=1e-11, atol=1e-10)
    np.testing.assert_allclose(hi, root[1][0] * s * 1.125 * root[1][1] + rho, rtol=1e-12)


def test_a_decomposition_far_from_orthogonal_bounds_from_above_only():
    s = VALUES["equal"]
    A = (LEFT * s) @ RIGHT
    for left, right in ((1.25, 1.0), (1.0, 1.25), (0.0, 1.0)):
        lo, hi, _ = verified._verify(A, LEFT * left, s, RIGHT * right, 0.0)
        assert not lo.any()
        assert (hi >= 1.0).all()
    for huge in ((1e200, 1.0, 1.0), (1.0, 1.0, 1e200), (1.0, 1e308, 1.0)):
        with np.errstate(all="ignore"):
            parts = [x * c for x, c in zip((LEFT, s, RIGHT), huge, strict=True)]
            lo, hi, e_U = verified._verify(A, *parts, 0.0)
        assert not lo.any()
        assert (hi == math.inf).all()
        assert e_U == math.inf


@pytest.mark.parametrize(("k", "m"), [(16, 16), (64, 16), (256, 4)])
def test_gram_defect_is_measured_and_pays_for_its_product(k, m):
    Q = hadamard(k)[:, :m] / math.sqrt(k)
    assert gram_defect(Q, 3.0) == pytest.approx(9.0 * (k + 1) * 2.0**-53, rel=1e-9, abs=0)
    wanted = math.sqrt(m) * 0.5625  # (1.25^2 - 1) on the diagonal
    assert gram_defect(1.25 * Q, 0.0) == pytest.approx(wanted, rel=1e-12, abs=0)


def test_exponent_is_that_of_the_largest_entry():
    for x, e in ((0.5, 0), (0.75, 0), (1.0, 1), (3.0, 2), (2.0**-1074, -1073), (2.0**1023, 1024)):
        assert exponent(np.array([[x, -x / 2, 0.0]])) == exponent(np.array([[-x, x / 2]])) == e
    assert exponent(np.zeros((2, 2))) == exponent(np.zeros((2, 0))) == 0


def test_scaling_loses_entries_only_downwards():
    A = np.array([[3.0, 2.0**-1060, 0.0]])
    for e in (-3, 0):
        assert verified._prescale(A, e)[1] == 0.0
    scaled, lost = verified._prescale(A, 1)
    np.testing.assert_array_equal(scaled, A / 2)
    assert lost == up(3 * TINY)
    least, lost = verified._prescale(np.array([[2.0**20, 2.0**-1070]]), 21)
    assert 0.0 <= 2.0**-1091 - least[0, 1] <= lost


@pytest.mark.parametrize("e", [-1073, -1000, -950, -901, -900, -600, -300, -1, 0, 1, 900])
def test_bounds_are_scaled_back_outwards(e):
    rng = np.random.default_rng(e + 2000)
    x = np.ldexp(rng.uniform(1.0, 2.0, 200), -rng.integers(0, 500, 200))
    low, high = unscale(x, x, e)
    for value, a, b in zip(x.tolist(), low.tolist(), high.tolist(), strict=True):
        exact = Fraction(value) * Fraction(2) ** e
        assert Fraction(a) <= exact <= Fraction(b)
        assert b <= math.nextafter(a, math.inf)
    assert [y.tolist() for y in unscale(np.zeros(1), np.zeros(1), e)] == [[0.0], [0.0]]


def test_bounds_beyond_the_range_stay_bounds():
    low, high = unscale(np.array([0.5, 1.0]), np.array([0.5, 1.0]), 1024)
    assert low.tolist() == [2.0**1023, float(np.finfo(float).max)]
    assert high.tolist() == [2.0**1023, math.inf]


@pytest.mark.parametrize("k", [513, 600, 899, 900, 901, 1000])
@pytest.mark.parametrize("steps", [1, 3, 5])
def test_least_rows_of_denormals_are_rounded_outwards(k, steps):
    """sigma_min = steps sqrt 2 2^-1074, between two neighbours; the other row sets the scale."""
    least = steps * 5e-324
    B = [[least, least, 0.0], [0.0, 0.0, 2.0**-k]]
    assert contains_sigma_min(B, enclose_sigma_min(B))
    assert contains_sigma_min(B, enclose_singular_range(B)[0])


def test_row_norms_cap_the_least_value():
    rows = np.array([[3.0, 4.0, 0.0], [5.0, 0.0, 12.0]])
    assert (_row_norm_up(rows) / 5.0 - 1.0) * 2**53 == pytest.approx(4 + 64, abs=4)
    wide = np.ones((2, 4096))
    assert (_row_norm_up(wide) / 64.0 - 1.0) * 2**53 == pytest.approx(4097 + 64, abs=4)
    assert _row_norm_up(np.zeros((1, 16))) == pytest.approx(math.sqrt(16 * TINY), rel=1e-12, abs=0)
    assert (_row_sum_up(wide) / 4096.0 - 1.0) * 2**53 == pytest.approx(2 * 4101, abs=4)
    assert _row_sum_up(np.array([[-3.0, 4.0], [8.0, 0.0]])) == pytest.approx(7.0, rel=1e-13, abs=0)
    assert _row_sum_up(np.zeros((1, 4))) == 5e-324


def test_caps_apply_whatever_the_decomposition_says(monkeypatch):
    """Wrong vectors: the ends are |A|_F, the smallest row norm and the smallest row sum."""
    monkeypatch.setattr(verified, "_svd", lambda A, **kw: (LEFT, np.ones(16), 1e3 * RIGHT))
    A = np.vstack([np.ones(64), 2.0 * np.ones((15, 64))])
    svd = verified_svd(A)
    assert svd.hi[0] == pytest.approx(math.sqrt(64 + 15 * 256), rel=1e-12, abs=0)
    assert svd.hi[-1] == pytest.approx(8.0, rel=1e-12, abs=0)
    assert svd.hi[-2] == svd.hi[0]
    A[0, 1:] = 0.0
    assert verified_svd(A).hi[-1] == pytest.approx(1.0, rel=1e-13, abs=0)
    assert svd.ok
    monkeypatch.setattr(verified, "_svd", lambda A, **kw: (LEFT, np.ones(16), RIGHT[:, :-1]))
    svd = verified_svd(A)
    assert (svd.ok, svd.e_U, svd.lo.any(), svd.s.any()) == (False, math.inf, False, False)
    assert svd.hi[-1] == pytest.approx(1.0, rel=1e-13, abs=0)


@pytest.mark.parametrize("e", [-700, -20, 0, 20, 700])
def test_units_are_those_of_the_input(e):
    svd = verified_svd(np.ldexp((LEFT * VALUES["graded"]) @ RIGHT, e))
    np.testing.assert_allclose(np.ldexp(svd.s, -e), VALUES["graded"], rtol=1e-11)
    for x in (svd.lo, svd.hi):
        np.testing.assert_allclose(np.ldexp(x, -e), VALUES["graded"], rtol=1e-9)


def test_wide_rows_are_told_apart_by_all_of_their_columns():
    wide = np.random.default_rng(0).standard_normal((3, 500))
    wide[1, :-1] = -wide[0, :-1]  # alike up to sign, but for the last entry
    late = np.zeros((2, 500))
    late[:, -1] = 1.0, 2.0  # zero where they begin
    assert not dependent_rows(wide)
    assert not dependent_rows(late)
    wide[1, -1] = -wide[0, -1]
    assert dependent_rows(wide)
    assert dependent_rows(np.vstack([late, np.zeros(500)]))
    assert dependent_rows(np.vstack([late, -late[:1]]))


def test_dependent_rows_are_recognised_up_to_sign_only():
    for yes in (
        [[0.0, 0.0]],
        [[1.0, 2], [1, 2]],
        [[1.0, 2], [3, 4], [-1, -2]],
        [[0.0, -2], [-0.0, 2]],
    ):
        assert dependent_rows(np.array(yes))
    for no in ([[1.0, 2]], [[1.0, 2], [2, 4]], [[1.0, 2], [1, -2]], [[0.0, 1], [1, 0]]):
        assert not dependent_rows(np.array(no))


CASES = 12_000
BATCHES = 6


@pytest.mark.parametrize("batch", range(BATCHES))
def test_contains_the_exact_value(batch):
    """Exact rational arithmetic on every family, layout and scale: 12,000 matrices in all."""
    positive = 0
    for name, B in cases(CASES // BATCHES, seed=batch):
        box = enclose_sigma_min(B)
        assert contains_sigma_min(B, box), (name, box, B.tolist())
        positive += box.lo > 0.0
    assert positive > CASES // BATCHES // 3  # not by answering (0, inf)


@settings(max_examples=300)
@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 6)),
                  elements=st.floats(allow_nan=False, allow_infinity=False)))  # fmt: skip
def test_contains_the_exact_value_on_drawn_matrices(B):
    assert contains_sigma_min(B, enclose_sigma_min(B))


@pytest.mark.parametrize("shape", [(16, 32), (24, 64), (20, 20), (12, 200)])
def test_agrees_with_balls_at_larger_sizes(shape):
    B = np.random.default_rng(0).normal(size=shape)
    box, truth = enclose_sigma_min(B), certified_sigma_min(B, 25).ball
    assert truth > box.lo
    assert truth < box.hi


@pytest.mark.parametrize(
    ("power", "tolerance"), [(0, 1e-11), (3, 1e-9), (5, 1e-7), (8, 1e-4), (10, 1e-2)]
)
def test_width_grows_with_the_condition_number_only(power, tolerance):
    rng = np.random.default_rng(power)
    U, V = (np.linalg.qr(rng.normal(size=(k, k)))[0] for k in (32, 64))
    box = enclose_sigma_min((U * np.logspace(0, -power, 32)) @ V[:32])
    assert box.width <= tolerance * box.lo


@pytest.mark.parametrize("name", ["normal", "clustered", "Hilbert", "Vandermonde", "sparse"])
@pytest.mark.parametrize("e", [-900, -60, 60, 900])
def test_powers_of_two_scale_it_exactly(name, e):
    B = FAMILIES[name](np.random.default_rng(3), 4, 6)
    box, scaled = enclose_sigma_min(B), enclose_sigma_min(np.ldexp(B, e))
    assert math.ldexp(scaled.lo, -e) == pytest.approx(box.lo, rel=1e-9, abs=0)
    assert math.ldexp(scaled.hi, -e) == pytest.approx(box.hi, rel=1e-9, abs=0)


def largest_is_at_most(B, bound):
    """Decide sigma_1(B) <= bound exactly."""
    if bound == math.inf:
        return True
    poly, e = _characteristic(np.asarray(B, float))
    mirrored = poly(fmpq_poly([0, -1])) * (-1) ** poly.degree()  # roots -sigma_i^2
    return _all_roots_at_least(mirrored, -_square(bound, e), strict=False)


def test_triangular_reduction_contains_the_exact_value(monkeypatch):
    """The path for very wide matrices, forced on small ones, in blocks of three columns."""
    monkeypatch.setattr(spectrum, "CHUNK", 3)
    used = 0
    for name, B in cases(1500, seed=21):
        if B.shape[0] > B.shape[1]:
            continue
        with np.errstate(all="ignore"):
            svd = spectrum._wide_range(np.ascontiguousarray(B), "B")
        if svd is not None:
            used += 1
            box = Enclosure(float(svd.lo[-1]), float(svd.hi[-1]))
            assert contains_sigma_min(B, box), (name, box)
            assert largest_is_at_most(B, float(svd.hi[0])), name
    assert used > 700


def test_norm_bound_is_proved_and_a_lower_one_is_noticed():
    low = 0
    for name, B in cases(1000, seed=23):
        bound = norm2_upper(B)
        assert largest_is_at_most(B, bound), name
        low += bound < math.inf and not largest_is_at_most(B, bound * (1 - 1e-6))
    assert low > 800


def _noise(size):
    def spoil(U, s, Vt, rng):
        return tuple(x + size * rng.normal(size=x.shape) for x in (U, s, Vt))

    return spoil


FAULTS = {
    "values up": lambda U, s, Vt, rng: (U, s * 1.5, Vt),
    "values down": lambda U, s, Vt, rng: (U, s * 0.5, Vt),
    "values permuted": lambda U, s, Vt, rng: (U, s[::-1], Vt),
    "values negated": lambda U, s, Vt, rng: (U, -s, Vt),
    "least value too large": lambda U, s, Vt, rng: (U, np.r_[s[:-1], s[-1] * 1.001], Vt),
    "least value zero": lambda U, s, Vt, rng: (U, np.r_[s[:-1], 0.0], Vt),
    "compensated": lambda U, s, Vt, rng: (U * 0.5, s * 2.0, Vt),
    "compensated on the right": lambda U, s, Vt, rng: (U, s * 2.0, Vt * 0.5),
    "vectors rotated": lambda U, s, Vt, rng: (U[:, ::-1], s, Vt),
    "repeated vector": lambda U, s, Vt, rng: (U[:, [0] * len(s)], s, Vt),
    "all zero": lambda U, s, Vt, rng: (U * 0, s * 0, Vt * 0),
    "huge": lambda U, s, Vt, rng: (U * 1e200, s, Vt * 1e200),
    "infinite": lambda U, s, Vt, rng: (U, s * np.inf, Vt),
    "nan": lambda U, s, Vt, rng: (U, s * np.nan, Vt),
    "noise 1e-14": _noise(1e-14),
    "noise 1e-9": _noise(1e-9),
    "noise 1e-3": _noise(1e-3),
    "noise 1": _noise(1.0),
    "float32": lambda U, s, Vt, rng: tuple(x.astype(np.float32).astype(float) for x in (U, s, Vt)),
    "wrong shape": lambda U, s, Vt, rng: (U, s[:-1], Vt),
}


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_a_wrong_svd_widens_and_never_lies(monkeypatch, fault):
    rng = np.random.default_rng(7)
    honest = np.linalg.svd
    monkeypatch.setattr(verified, "_svd", lambda A, **kw: FAULTS[fault](*honest(A, **kw), rng))
    for name, B in cases(300, seed=11):
        box = enclose_sigma_min(B)
        assert contains_sigma_min(B, box), (fault, name, box)


def test_a_failing_svd_gives_an_honest_answer(monkeypatch):
    def fail(*args, **kwargs):
        raise np.linalg.LinAlgError("did not converge")

    monkeypatch.setattr(verified, "_svd", fail)
    box = enclose_sigma_min([[3.0, 4.0], [1.0, 0.0]])
    assert box.lo == 0.0
    assert 1.0 <= box.hi < 1.0 + 1e-12  # the smallest row norm


def test_planted_unverified_svd_is_noticed():
    """Negative control: the bare SVD value as both ends fails the exact test at once."""
    wrong = 0
    for _, B in cases(400, seed=5):
        if 1e-100 < np.abs(B).max() < 1e100:
            s = float(np.linalg.svd(B, compute_uv=False)[-1])
            wrong += not contains_sigma_min(B, Enclosure(s, s))
    assert wrong > 200


def test_planted_transposed_matrix_is_noticed():
    """sigma_min of B^T is positive where rows exceed columns; the true row-rank value is 0."""
    B = np.random.default_rng(0).normal(size=(6, 4))
    planted = enclose_sigma_min(B.T)
    assert enclose_sigma_min(B) == Enclosure(0.0, 0.0)
    assert planted.lo > 0.0
    assert not contains_sigma_min(B, planted)
