"""Bounds of eigenvalues: exact truths, guesses that use up every term, and nothing to spare."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

import numpy as np
import pytest
from samples import KERNELS, draw, model

from gdconv.models.multihead.tangent import tangent_kernel
from gdconv.rigor import eigen as verified_eigen
from gdconv.rigor.eigen import (
    eigenvalue_range,
    lambda_max_enclosure,
    lambda_min_enclosure,
    symmetric,
)
from gdconv.support.errors import InputError

U = 2.0**-53


def _plant(monkeypatch: pytest.MonkeyPatch, w: list[float], V: np.ndarray) -> None:
    monkeypatch.setattr(verified_eigen, "_eigh", lambda B: (np.array(w), V))


def _contains(A: np.ndarray, truth: list[float]) -> tuple[np.ndarray, np.ndarray]:
    lo, hi = eigenvalue_range(A)
    assert (lo <= truth).all()
    assert (hi >= truth).all()
    return lo, hi


@pytest.mark.parametrize("off", [0.05, -0.05, 1e-6, -1e-6])
def test_the_whole_residual_is_needed(off: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A guess that is off by |A - V diag(w) V^T| = |off|: the bound is attained."""
    A = np.diag([0.5, 0.75, 0.875])
    for moved in range(3):
        w = [0.5, 0.75, 0.875]
        w[moved] += off
        _plant(monkeypatch, w, np.eye(3))
        lo, hi = _contains(A, [0.5, 0.75, 0.875])
        assert (hi - lo).max() <= 2 * abs(off) + 1e-13


@pytest.mark.parametrize("stretch", [0.25, -0.25, 1e-5, -1e-5])
def test_the_whole_defect_is_needed(stretch: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """V = 1 + stretch and w with V w V = A: the guess is off by w |V^2 - 1|, the residual is 0."""
    for value in (0.5, -0.5):
        V = np.array([[1.0 + stretch]])
        _plant(monkeypatch, [value / (1.0 + stretch) ** 2], V)
        _contains(np.array([[value]]), [value])


@pytest.mark.parametrize("m", [4, 16, 50])
def test_rounding_is_bounded_a_priori(m: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A perfect guess: what is left is the rounding that V diag(w) V^T may have had.

    A product of m terms is wrong by at most m u/(1 - m u) |W| |V|, W itself by u |W|; the defect
    |V^T V - I| by m u |V|^2, which w multiplies.
    """
    d = np.linspace(0.5, 0.99, m)
    _plant(monkeypatch, d.tolist(), np.eye(m))
    lo, hi = _contains(np.diag(d), d.tolist())
    needed = ((m + 1) * U * float(np.linalg.norm(d)) * sqrt(m) + m * U * m * d)[1:-1]
    half = 0.5 * (hi - lo)[1:-1]
    assert (half >= needed).all()
    assert (half <= 2.5 * needed + 200 * U).all()


def test_the_order_of_the_guess_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    order = [2, 0, 1]
    _plant(monkeypatch, [0.9, 0.5, 0.7], np.eye(3)[:, order])
    _contains(np.diag([0.5, 0.7, 0.9]), [0.5, 0.7, 0.9])


GUESSES: dict[str, Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]] = {
    "zero": lambda B: (np.zeros(len(B)), np.zeros_like(B)),
    "huge": lambda B: (np.full(len(B), 1e200), np.full_like(B, 1e200)),
    "NaN": lambda B: (np.full(len(B), np.nan), np.eye(len(B))),
    "wrong shape": lambda B: (np.zeros(1), np.eye(1)),
}


@pytest.mark.parametrize("guess", sorted(GUESSES))
def test_norm_and_diagonal_hold_without_a_guess(
    guess: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rank one: the norm is attained. Equal entries: no diagonal entry decides more."""
    monkeypatch.setattr(verified_eigen, "_eigh", GUESSES[guess])
    for sign in (1.0, -1.0):
        truth = sorted([0.0, 0.0, 3.0 * sign])
        lo, hi = _contains(sign * np.ones((3, 3)), truth)
        assert lo[0] >= -3.0 * (1 + 1e-12)
        assert hi[-1] <= 3.0 * (1 + 1e-12)
    lo, hi = _contains(np.diag([1.0, -2.0, 5.0]), [-2.0, 1.0, 5.0])
    assert hi[0] <= -2.0 + 1e-12
    assert lo[-1] >= 5.0 - 1e-12


@pytest.mark.parametrize("power", [-1060, -900, -1, 0, 1, 700, 1023])
def test_exact_eigenvalues_at_every_scale(power: int) -> None:
    """[[2, 1], [1, 2]] and the 3 x 3 matrix of ones beside it: 0, 0, 1, 3, 3."""
    A = np.zeros((5, 5))
    A[:2, :2], A[2:, 2:] = [[2.0, 1.0], [1.0, 2.0]], 1.0
    A = np.ldexp(A / 4, power)
    truth = np.ldexp(np.array([0.0, 0.0, 1.0, 3.0, 3.0]) / 4, power)
    lo, hi = _contains(A, truth.tolist())
    assert (hi - lo).max() <= max(5e-14 * float(truth[-1]), 2.0**-1068)


def test_beyond_the_largest_number() -> None:
    big = float(np.finfo(float).max)
    lo, hi = eigenvalue_range(np.full((2, 2), big))  # 0 and twice the largest number
    assert lo[1] <= big
    assert hi[1] == np.inf
    assert lo[0] <= 0.0 <= hi[0]
    assert eigenvalue_range(-np.full((2, 2), big))[0][0] == -np.inf


def test_zero_is_exact() -> None:
    lo, hi = eigenvalue_range(np.zeros((3, 3)))
    assert not lo.any()
    assert not hi.any()


def test_the_gate() -> None:
    assert symmetric([[1, 2], [2, 1]], "K").dtype == np.float64
    for bad in ([[1.0, 2.0]], [[1.0, 2.0], [0.0, 1.0]], np.ones((2, 2, 2)), [[1j]]):
        with pytest.raises(InputError, match="^K = "):
            symmetric(bad, "K")


def exact_lambda_min(K: np.ndarray) -> Any:
    """lambda_min of the stored K with 60 digits."""
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(60):
        return min(mpmath.eigsy(mpmath.matrix(K.tolist()), eigvals_only=True))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("exponent", [-600, 0, 500])
@pytest.mark.parametrize("shape", [(1, 2, 6, 3, 2, 1), (2, 2, 6, 3, 4, 2), (3, 3, 2, 1, 1, 1)])
def test_enclosure_contains_lambda_min(kernel: str, exponent: int, shape: tuple[int, ...]) -> None:
    problem, params = draw(shape, 11, 0.5)
    K = np.ldexp(tangent_kernel(model(kernel), problem, params)[0].numpy(), exponent)
    box, truth = lambda_min_enclosure(K), exact_lambda_min(K)
    assert box.lo <= truth <= box.hi
    assert box.width <= 1e-12 * np.abs(K).max() * len(K)


@pytest.mark.parametrize("size", [1e-3, 0.3, 10.0])
def test_enclosure_with_a_wrong_guess_widens_but_never_lies(
    size: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, params = draw((2, 2, 6, 3, 4, 1), 11, 0.5)
    K = tangent_kernel(model("softmax"), problem, params)[0].numpy()
    truth, sharp, honest = exact_lambda_min(K), lambda_min_enclosure(K), verified_eigen._eigh
    rng = np.random.default_rng(0)

    def guess(B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        w, V = honest(B)
        moved = (x + size * rng.standard_normal(x.shape) for x in (w, V))
        return next(moved), next(moved)

    monkeypatch.setattr(verified_eigen, "_eigh", guess)
    box = lambda_min_enclosure(K)
    assert box.lo <= truth <= box.hi
    assert box.width > 1e3 * sharp.width

    def fail(B: np.ndarray) -> None:
        raise np.linalg.LinAlgError("no convergence")

    monkeypatch.setattr(verified_eigen, "_eigh", fail)
    box = lambda_min_enclosure(K)
    assert box.lo <= truth <= box.hi


@pytest.mark.parametrize("enclosure", [lambda_min_enclosure, lambda_max_enclosure])
def test_slack_widens_both_ends(enclosure: Any) -> None:
    """K +- slack I are at that distance: both ends are needed."""
    for slack in (1e-15, 0.25, 1e300):
        plain, wide = enclosure(np.eye(3)), enclosure(np.eye(3), slack)
        assert wide.lo <= plain.lo - slack
        assert wide.hi >= plain.hi + slack
        assert wide.width <= (2 * slack + plain.width) * (1 + 1e-15) + 1e-15


def test_least_and_greatest_are_told_apart() -> None:
    K = np.array([[2.0, 1.0, 0.0], [1.0, 2.0, 0.0], [0.0, 0.0, -5.0]])
    for box, truth in ((lambda_min_enclosure(K), -5.0), (lambda_max_enclosure(K), 3.0)):
        assert box.lo <= truth <= box.hi
        assert box.width < 1e-13
