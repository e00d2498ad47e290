"""Decompositions with a second and a third driver, and what is decided when the first one fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.linalg

import gdconv
from gdconv.convex.dual import certify
from gdconv.convex.group_lasso import Program
from gdconv.hessian.spectra import eigenvalue_bounds, extreme_eigenpairs
from gdconv.rigor import lapack
from gdconv.rigor.eigen import lambda_max_enclosure, lambda_min_enclosure
from gdconv.rigor.spectrum import enclose_sigma_min, enclose_singular_range, norm2_upper

Break = Callable[..., Any]


def _raises(honest: Break) -> Break:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise np.linalg.LinAlgError("SVD did not converge")

    return fail


def _nan(honest: Break) -> Break:
    def spoil(*args: Any, **kwargs: Any) -> Any:
        found = honest(*args, **kwargs)
        if isinstance(found, tuple):
            return tuple(np.full_like(part, np.nan) for part in found)
        return np.full_like(found, np.nan)

    return spoil


def _one_nan(honest: Break) -> Break:
    def spoil(*args: Any, **kwargs: Any) -> Any:
        found = honest(*args, **kwargs)
        values = (found[1] if len(found) == 3 else found[0]) if isinstance(found, tuple) else found
        np.put(values, -1, np.nan)
        return found

    return spoil


FAILURES = {"raises": _raises, "NaN": _nan, "one NaN": _one_nan}


@pytest.fixture(params=sorted(FAILURES))
def first_driver_fails(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    _break_first(monkeypatch, FAILURES[request.param])


def _break_first(monkeypatch: pytest.MonkeyPatch, fail: Callable[[Break], Break]) -> None:
    monkeypatch.setattr(np.linalg, "svd", fail(np.linalg.svd))
    monkeypatch.setattr(np.linalg, "eigh", fail(np.linalg.eigh))


@pytest.fixture(params=sorted(FAILURES))
def only_the_last_driver_works(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, first_driver_fails: None
) -> None:
    fail = FAILURES[request.param]
    monkeypatch.setattr(scipy.linalg, "svd", fail(scipy.linalg.svd))
    honest = scipy.linalg.eigh
    broken = fail(honest)

    def some(A: np.ndarray, driver: str) -> Any:
        return (honest if driver == "ev" else broken)(A, driver=driver)

    monkeypatch.setattr(scipy.linalg, "eigh", some)


MATRICES = {
    "wide": np.random.default_rng(0).standard_normal((4, 9)),
    "tall": np.random.default_rng(1).standard_normal((7, 3)),
    "square": np.diag([5.0, 3.0, 3.0, 1.0])[::-1],
    "stack": np.random.default_rng(2).standard_normal((2, 3, 4, 5)),
    "rank one": np.outer([1.0, 2.0], [3.0, 4.0, 5.0]),
    "zero": np.zeros((2, 3)),
}


def _thin(A: np.ndarray, tolerance: float) -> None:
    U, s, Vt = lapack.svd(A)
    size = max(float(np.abs(A).max()), 1.0)
    assert np.abs((U * s[..., None, :]) @ Vt - A).max() <= tolerance * size
    for Q in (U.swapaxes(-1, -2) @ U, Vt @ Vt.swapaxes(-1, -2)):
        assert np.abs(Q - np.eye(Q.shape[-1])).max() <= tolerance
    assert (np.diff(s, axis=-1) <= 1e-12 * size).all()
    gram = A @ A.swapaxes(-1, -2) if A.shape[-2] < A.shape[-1] else A.swapaxes(-1, -2) @ A
    np.testing.assert_allclose((s**2).sum(-1), np.trace(gram, axis1=-2, axis2=-1), rtol=1e-10)
    np.testing.assert_allclose(lapack.singular_values(A), s, atol=1e-7 * size)
    np.testing.assert_allclose(lapack.spectral_norm(A), s[..., 0], atol=1e-9 * size)


@pytest.mark.parametrize("name", sorted(MATRICES))
def test_the_first_driver(name: str) -> None:
    _thin(MATRICES[name], 1e-13)


@pytest.mark.parametrize("name", sorted(MATRICES))
@pytest.mark.usefixtures("first_driver_fails")
def test_the_second_driver(name: str) -> None:
    _thin(MATRICES[name], 1e-13)
    A = MATRICES[name]
    U, _, Vt = lapack.svd(A, full_matrices=True)
    assert U.shape[-1] == A.shape[-2]
    assert Vt.shape[-1] == A.shape[-1]


@pytest.mark.parametrize("name", sorted(MATRICES))
@pytest.mark.usefixtures("only_the_last_driver_works")
def test_the_last_driver(name: str) -> None:
    _thin(MATRICES[name], 1e-9)
    S = MATRICES["tall"] @ MATRICES["tall"].T
    w, V = lapack.eigh(S)
    np.testing.assert_allclose((V * w) @ V.T, S, atol=1e-12)
    assert (np.diff(w) >= 0).all()


def test_when_nothing_works_or_nothing_can(monkeypatch: pytest.MonkeyPatch) -> None:
    for bad in (np.nan, np.inf):
        A = np.array([[1.0, bad], [bad, 1.0]])
        for function in (lapack.svd, lapack.eigh, lapack.singular_values, lapack.spectral_norm):
            with pytest.raises(np.linalg.LinAlgError, match="NaN or infinite"):
                function(A)
    for module in (np.linalg, scipy.linalg):
        for name in ("svd", "eigh"):
            monkeypatch.setattr(module, name, _raises(lambda: None))
    for function in (lapack.svd, lapack.eigh, lapack.singular_values, lapack.spectral_norm):
        with pytest.raises(np.linalg.LinAlgError, match="did not converge with any"):
            function(np.eye(3))
    assert lapack.spectral_norm(np.zeros((2, 0, 3))).tolist() == [0.0, 0.0]


@pytest.mark.usefixtures("first_driver_fails")
def test_enclosures_stay_sharp() -> None:
    """A lower end above 0 is what a hypothesis needs; it came from the fallback."""
    A = np.array([[3.0, 1.0, 0.0, 0.0], [1.0, 3.0, 0.0, 0.0]])  # singular values 4 and 2
    S = A[:, :2]
    boxes = [
        (enclose_sigma_min(A), 2.0),
        (enclose_singular_range(A)[0], 2.0),
        (enclose_singular_range(A)[1], 4.0),
        (lambda_min_enclosure(S), 2.0),
        (lambda_max_enclosure(S), 4.0),
    ]
    for box, truth in boxes:
        assert box.lo <= truth <= box.hi
        assert box.width < 1e-12
    assert 4.0 <= norm2_upper(A) < 4.0 + 1e-12
    lo, hi = eigenvalue_bounds(S)
    assert (hi - lo).max() < 1e-12
    (pair,) = extreme_eigenpairs(S)
    assert abs(pair.value - 4.0) < 1e-12


@pytest.mark.usefixtures("only_the_last_driver_works")
def test_enclosures_stay_sharp_with_the_last_driver() -> None:
    A = np.random.default_rng(0).standard_normal((6, 10))
    box = enclose_sigma_min(A)
    assert 0.0 < box.width < 1e-9 < box.lo
    assert lambda_min_enclosure(A @ A.T).width < 1e-10


@pytest.mark.parametrize(
    ("theorem", "options"),
    [
        ("full-gd", {"problem": "stacked-witness"}),
        ("full-gd", {"problem": "stacked-aligned", "steps": 5}),
        ("query-gd", {"problem": "printed-stationarity", "steps": 5}),
    ],
)
def test_no_hypothesis_becomes_undecided(
    theorem: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = gdconv.check(theorem, **options)
    _break_first(monkeypatch, _raises)
    found = gdconv.check(theorem, **options)
    assert found.verdict == expected.verdict
    assert found.hypotheses["holds"].tolist() == expected.hypotheses["holds"].tolist()


def test_the_gap_of_the_nuclear_program_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    X, y = rng.standard_normal((3, 2, 3)), rng.standard_normal((3, 2))
    program = Program.of(X, y, 0.5, penalty="nuclear")
    Z = program.prox(0.1 * rng.standard_normal(program.shape), 0.05)
    before = certify(program, Z)
    _break_first(monkeypatch, _raises)
    after = certify(program, Z)
    assert after.primal == pytest.approx(before.primal, rel=1e-12)
    assert after.dual == pytest.approx(before.dual, rel=1e-9)
    assert after.gap >= 0.0
