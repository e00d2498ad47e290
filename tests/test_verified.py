"""The enclosure of sigma_min must contain the exact value, whatever the SVD says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from flint import fmpq_poly
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gdconv import spectrum, verified
from gdconv.inertia import (
    _all_roots_at_least,
    _characteristic,
    _square,
    certified_sigma_min,
    contains_sigma_min,
)
from gdconv.spectrum import Enclosure, enclose_sigma_min, norm2_upper


def _orthogonal(rng: np.random.Generator, k: int) -> np.ndarray:
    return np.linalg.qr(rng.normal(size=(k, k)))[0]


def _spectrum(rng: np.random.Generator, m: int, p: int, s: np.ndarray) -> np.ndarray:
    k = min(m, p)
    return (_orthogonal(rng, m)[:, :k] * s[:k]) @ _orthogonal(rng, p)[:k]


def _integer_singular(rng: np.random.Generator, m: int, p: int) -> np.ndarray:
    r = max(m - 1, 1)
    return (rng.integers(-9, 10, (m, r)) @ rng.integers(-9, 10, (r, p))).astype(float)


def _duplicate(rng: np.random.Generator, m: int, p: int) -> np.ndarray:
    B = rng.normal(size=(m, p))
    B[-1] = B[0] * rng.choice([1.0, -1.0, 2.0, 3.0])
    return B


def _graded(rng: np.random.Generator, m: int, p: int) -> np.ndarray:
    return 10.0 ** np.linspace(0, -rng.uniform(0, 16), m)[:, None] * rng.normal(size=(m, p))


def _wild(rng: np.random.Generator, m: int, p: int) -> np.ndarray:
    return np.ldexp(rng.normal(size=(m, p)), rng.integers(-1070, 1000, (m, p)))


def _vandermonde(rng: np.random.Generator, m: int, p: int) -> np.ndarray:
    return np.vander(rng.uniform(-1, 1, m), p)


def _hilbert(rng: np.random.Generator, m: int, p: int) -> np.ndarray:
    return 1.0 / (np.arange(m)[:, None] + np.arange(p) + 1 + rng.integers(0, 3))


def _sparse(rng: np.random.Generator, m: int, p: int) -> np.ndarray:
    return rng.normal(size=(m, p)) * (rng.random((m, p)) < 0.4)


FAMILIES = {
    "normal": lambda rng, m, p: rng.normal(size=(m, p)),
    "integer": lambda rng, m, p: rng.integers(-3, 4, (m, p)).astype(float),
    "integer singular": _integer_singular,
    "duplicate": _duplicate,
    "graded rows": _graded,
    "graded columns": lambda rng, m, p: _graded(rng, p, m).T,
    "condition": lambda rng, m, p: _spectrum(rng, m, p, np.logspace(0, -rng.uniform(0, 16), m)),
    "clustered": lambda rng, m, p: _spectrum(rng, m, p, 1 + 1e-12 * rng.normal(size=m)),
    "cluster at the end": lambda rng, m, p: _spectrum(
        rng, m, p, np.r_[1.0, 1e-8 * (1 + 1e-10 * rng.normal(size=m - 1))]
    ),
    "equal": lambda rng, m, p: _spectrum(rng, m, p, np.ones(m)),
    "Hilbert": _hilbert,
    "Vandermonde": _vandermonde,
    "sparse": _sparse,
    "denormal": lambda rng, m, p: rng.normal(size=(m, p)) * 1e-320,
    "tiny": lambda rng, m, p: rng.normal(size=(m, p)) * 1e-300,
    "huge": lambda rng, m, p: rng.normal(size=(m, p)) * 1e300,
    "largest": lambda rng, m, p: rng.choice([-1.0, 1.0, 0.9], (m, p)) * np.finfo(float).max,
    "wild exponents": _wild,
    "ones": lambda rng, m, p: np.ones((m, p)) + 1e-16 * rng.integers(0, 20, (m, p)),
    "nearly dependent": lambda rng, m, p: np.ones((m, p)) + 1e-9 * rng.normal(size=(m, p)),
    "signed zeros": lambda rng, m, p: rng.choice([0.0, -0.0, 1.0], (m, p)),
}


def _strided(B: np.ndarray) -> np.ndarray:
    big = np.full((2 * B.shape[0], 3 * B.shape[1]), np.nan)
    big[::2, ::3] = B
    return big[::2, ::3]


LAYOUTS = {
    "C": np.ascontiguousarray,
    "F": np.asfortranarray,
    "strided": _strided,
    "reversed": lambda B: B[::-1, ::-1],
    "transposed view": lambda B: np.ascontiguousarray(B.T).T,
    "read-only": lambda B: np.broadcast_to(B, B.shape),
}


def cases(count: int, seed: int, rows: int = 6, columns: int = 8):
    """Yield (name, matrix) pairs, cycling through families and layouts with random shapes."""
    rng = np.random.default_rng(seed)
    names, layouts = list(FAMILIES), list(LAYOUTS)
    for i in range(count):
        name = names[i % len(names)]
        m = int(rng.integers(1, rows + 1))
        p = int(rng.integers(1 if i % 10 == 0 else m, columns + 1))
        B = FAMILIES[name](rng, m, p)
        layout = layouts[int(rng.integers(len(layouts)))]
        yield f"{name} {m}x{p} {layout}", LAYOUTS[layout](B)


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
