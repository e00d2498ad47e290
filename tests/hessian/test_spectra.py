"""Eigenvalues with bounds against LAPACK on the dense matrix."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hessian.reference import KINDS, draw
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from gdconv.hessian.dense import hessian
from gdconv.hessian.density import lanczos, spectral_density
from gdconv.hessian.operators import HessianOperator
from gdconv.hessian.spectra import (
    _pair,
    block_norms,
    eigenvalue_bounds,
    extreme_eigenpairs,
    inertia,
    negative_curvature,
)
from gdconv.hessian.symmetric_map import symmetric_map
from gdconv.support.errors import InputError

LARGE = (1, 6, 8, 4, 1, 0, 8)
"""P = 128, more than DENSE."""
SMALL = (1, 5, 4, 2, 1, 0, 4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [LARGE, SMALL])
@pytest.mark.parametrize("side", ["largest", "smallest"])
def test_extremes_lie_within_their_error(kind: str, shape: tuple[int, ...], side: str) -> None:
    layer = draw(kind, shape, 1)
    w = np.linalg.eigvalsh(hessian(layer).numpy())
    expected = w[::-1][:3] if side == "largest" else w[:3]
    found = extreme_eigenpairs(HessianOperator(layer), 3, side, tolerance=1e-10)
    slack = 1e-13 * np.abs(w).max()
    for pair, value in zip(found, expected, strict=True):
        assert np.abs(w - pair.value).min() <= pair.error + slack
        assert abs(pair.value - value) <= pair.error + slack
        assert pair.error < 1e-7 * np.abs(w).max()
        assert np.linalg.norm(pair.vector) == pytest.approx(1.0)


def test_a_loose_tolerance_shows_in_the_error() -> None:
    """The residual is measured, not believed: a wrong operator's vectors get large ones."""
    layer = draw("softmax", LARGE, 2)
    H, other = hessian(layer).numpy(), hessian(draw("softmax", LARGE, 3)).numpy()
    (wrong,) = extreme_eigenpairs(other)
    pair = _pair(symmetric_map(H), wrong.vector)
    assert pair.error > 1e-2 * np.abs(H).max()
    assert np.abs(np.linalg.eigvalsh(H) - pair.value).min() <= pair.error


def test_negative_curvature() -> None:
    layer = draw("softmax", LARGE, 4)
    pair = negative_curvature(HessianOperator(layer))
    assert pair is not None
    H = hessian(layer).numpy()
    assert pair.vector @ H @ pair.vector == pytest.approx(pair.value, rel=1e-9)
    assert pair.value < 0
    assert negative_curvature(HessianOperator(layer, part="outer")) is None
    assert negative_curvature(np.zeros((3, 3))) is None
    assert negative_curvature(np.zeros((90, 90))) is None
    assert extreme_eigenpairs(np.zeros((90, 90)))[0].value == 0.0


@given(size=st.integers(1, 12), seed=st.integers(0, 10**6), power=st.sampled_from([-900, 0, 800]))
@settings(max_examples=30)
def test_bounds_contain_the_exact_eigenvalues(size: int, seed: int, power: int) -> None:
    mpmath = pytest.importorskip("mpmath")
    rng = np.random.default_rng(seed)
    B = rng.standard_normal((size, max(1, size // 2)))
    S = B @ B.T
    A = np.ldexp(np.tril(S) + np.tril(S, -1).T, power)
    with mpmath.workdps(40):
        exact = sorted(mpmath.eigsy(mpmath.matrix(A.tolist()), eigvals_only=True))
        lo, hi = eigenvalue_bounds(A)
        assert all(low <= x <= high for low, x, high in zip(lo, exact, hi, strict=True))
    assert (hi - lo).max() <= 1e-12 * np.abs(A).max() * size


def test_inertia_of_the_blocks() -> None:
    """W_V alone is c M1^T M1 tensor I: rank D_o min(L, D), no negative eigenvalue."""
    layer = draw("softmax", SMALL, 5)
    found = inertia(hessian(layer, ("W_V",)))
    assert (found.positive, found.negative, found.undecided) == (16, 0, 0)
    whole = inertia(hessian(layer))
    w = np.linalg.eigvalsh(hessian(layer).numpy())
    assert whole.positive == (w > 1e-10).sum()
    assert whole.negative == (w < -1e-10).sum()
    assert inertia(hessian(layer), slack=1e6).undecided == len(w)


def test_a_wrong_guess_widens_but_never_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    H = hessian(draw("softmax", SMALL, 6)).numpy()
    w, honest = np.linalg.eigvalsh(H), np.linalg.eigh
    rng = np.random.default_rng(0)
    for size in (1e-6, 0.3, 1e3):

        def guess(B: np.ndarray, size: float = size) -> tuple[np.ndarray, np.ndarray]:
            values, V = honest(B)
            return values, V + size * rng.standard_normal(V.shape)

        monkeypatch.setattr(np.linalg, "eigh", guess)
        lo, hi = eigenvalue_bounds(H)
        assert (lo <= w + 1e-14).all()
        assert (w - 1e-14 <= hi).all()
        assert (hi - lo).max() > 1e-7 * np.abs(w).max()


def test_density_against_the_exact_one() -> None:
    layer = draw("softmax", LARGE, 7)
    w = np.linalg.eigvalsh(hessian(layer).numpy())
    found = spectral_density(HessianOperator(layer), probes=24, steps=40, width=0.05, seed=3)
    z = (found.grid[:, None] - w) / found.width
    exact = np.exp(-0.5 * z**2).mean(1) / (found.width * np.sqrt(2 * np.pi))
    far = np.abs(found.value - exact) > 4 * found.error + 1e-9 * exact.max()
    assert far.mean() < 0.03
    assert found.error.max() < 0.5 * exact.max()
    assert abs(found.trace - w.sum()) <= 4 * found.trace_error
    assert abs(found.square - (w**2).sum()) <= 4 * found.square_error
    assert w[0] - 1e-9 <= found.lowest
    assert found.highest <= w[-1] + 1e-9
    assert found.highest == pytest.approx(w[-1], rel=1e-6)


def test_quadrature_is_exact_where_the_krylov_space_is_exhausted() -> None:
    A = np.diag([1.0, 1.0, 2.0, 5.0])
    diagonal, beside = lanczos(HessianOperator_like(A), np.ones(4), 10)
    assert len(diagonal) == 3
    nodes = np.linalg.eigvalsh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
    np.testing.assert_allclose(nodes, [1.0, 2.0, 5.0], rtol=1e-12)


def HessianOperator_like(A: np.ndarray):  # type: ignore[no-untyped-def]
    from scipy.sparse.linalg import aslinearoperator

    return aslinearoperator(A)


def test_block_norms() -> None:
    layer = draw("softmax", SMALL, 8)
    H, norms = hessian(layer).numpy(), block_norms(layer)
    off = sum(v**2 for (a, b), v in norms.items() if a != b)
    on = sum(v**2 for (a, b), v in norms.items() if a == b)
    assert 2 * off + on == pytest.approx((H**2).sum(), rel=1e-12)
    spectral = block_norms(layer, norm="spectral")
    assert all(spectral[key] <= norms[key] for key in norms)
    assert block_norms(layer, "functional")["W_V", "W_V"] == 0.0


def test_wrong_arguments_are_named() -> None:
    A = np.eye(3)
    with pytest.raises(InputError, match="side"):
        extreme_eigenpairs(A, side="middle")
    with pytest.raises(InputError, match="count"):
        extreme_eigenpairs(A, count=4)
    with pytest.raises(InputError, match="symmetric"):
        inertia([[1.0, 2.0], [0.0, 1.0]])
    with pytest.raises(InputError, match="slack"):
        inertia(A, slack=-1.0)
    with pytest.raises(InputError, match="norm"):
        block_norms(draw("softmax", SMALL, 8), norm="nuclear")
    with pytest.raises(InputError, match="probes"):
        spectral_density(A, probes=1)
    with pytest.raises(InputError, match="width"):
        spectral_density(A, width=0.0)


def _operator_of(A: np.ndarray) -> LinearOperator:
    """The matrix behind products only, so that Lanczos runs."""
    return aslinearoperator(A)


MULTIPLE = {
    "blocks of eight": np.r_[np.full(8, 3.0), np.full(8, 2.0), np.linspace(0.0, 1.0, 44)],
    "one value": np.full(70, 2.5),
    "zero": np.zeros(70),
    "minus one value": np.full(70, -2.5),
    "all but one": np.r_[np.full(69, 1.0), 2.0],
    "Kronecker": np.kron([4.0, 1.0, -1.0, -4.0], np.ones(20)),
    "plain": np.linspace(-1.0, 2.0, 70),
}


@pytest.mark.parametrize("side", ["largest", "smallest"])
@pytest.mark.parametrize("name", sorted(MULTIPLE))
def test_multiple_eigenvalues_are_all_found(name: str, side: str) -> None:
    w = MULTIPLE[name]
    Q = np.linalg.qr(np.random.default_rng(4).standard_normal((len(w), len(w))))[0]
    turned = (Q * w) @ Q.T
    for A in (_operator_of(np.diag(w)), 0.5 * (turned + turned.T)):
        for count in (1, 8, 25):
            expected = np.sort(w)[::-1][:count] if side == "largest" else np.sort(w)[:count]
            pairs = extreme_eigenpairs(A, count, side)
            assert len(pairs) == count
            np.testing.assert_allclose([p.value for p in pairs], expected, atol=1e-6)
            V = np.stack([p.vector for p in pairs])
            assert np.abs(V @ V.T - np.eye(count)).max() < 1e-6
            assert max(p.error for p in pairs) < 1e-5


@pytest.mark.parametrize("exponent", [-1000, 0, 1000])
def test_the_error_is_the_exact_residual(exponent: int) -> None:
    """|A v - l v| / |v| in rational arithmetic for vectors that are far from eigenvectors."""
    rng = np.random.default_rng(5)
    for P in (1, 2, 7):
        S = rng.integers(-9, 10, (P, P)).astype(float)
        A = S + S.T
        pair = _pair(symmetric_map(np.ldexp(A, exponent)), rng.standard_normal(P))
        v = [Fraction(x) for x in pair.vector]
        value, error = (Fraction(x) / Fraction(2) ** exponent for x in (pair.value, pair.error))
        image = [
            sum((Fraction(a) * x for a, x in zip(row, v, strict=True)), Fraction()) for row in A
        ]
        square = sum((y - value * x) ** 2 for x, y in zip(v, image, strict=True))
        square /= sum(x * x for x in v)
        assert square <= error**2
        if P > 1:
            assert error**2 <= square * Fraction(1 + 10**-9)


def test_the_error_covers_what_a_product_may_lose() -> None:
    """Every vector is an eigenvector of c I: what is left is gamma_P |A|_F, bounded a priori."""
    for P in (10, 50, 200):
        A = np.eye(P) / 3
        pair = _pair(symmetric_map(A), np.random.default_rng(P).standard_normal(P))
        needed = P * 2.0**-53 * float(np.linalg.norm(A))
        assert needed <= pair.error <= 3 * needed + 1e-15


def test_a_matrix_without_negative_eigenvalues_has_no_negative_curvature() -> None:
    """Gram matrices of whole numbers are exact and singular: LAPACK's least values fall below 0."""
    rng, below = np.random.default_rng(6), 0
    for size in range(4, 44):
        B = rng.integers(-3, 4, (size, size // 2)).astype(float)
        G = B @ B.T
        below += float(np.linalg.eigvalsh(G)[0]) < 0.0
        assert negative_curvature(G) is None
        assert inertia(G).negative == 0
    assert below > 5
    assert negative_curvature(np.diag([1.0, -1e-12])) is not None


def test_slack_is_compared_in_full() -> None:
    A = np.diag([1.0, 1.0, -1.0])
    assert inertia(A, slack=0.999) == inertia(A)
    assert inertia(A, slack=1.001).undecided == 3


@pytest.mark.parametrize("exponent", [-1000, 1000])
def test_eigenpairs_scale(exponent: int) -> None:
    w = MULTIPLE["blocks of eight"]
    for A in (np.diag(np.ldexp(w, exponent)), _operator_of(np.diag(np.ldexp(w, exponent)))):
        values = np.ldexp([p.value for p in extreme_eigenpairs(A, 10)], -exponent)
        np.testing.assert_allclose(values, np.sort(w)[::-1][:10], rtol=1e-9)
        assert negative_curvature(-A if isinstance(A, np.ndarray) else -1.0 * A) is not None
