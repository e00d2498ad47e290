"""Spectral density at the ends of the range of float64 and of the shapes of a spectrum."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy.sparse.linalg import aslinearoperator

from gdconv.hessian.density import Density, lanczos, spectral_density
from gdconv.support.errors import InputError


def _mass(found: Density) -> float:
    """The integral over the grid, which reaches 5 widths beyond the spectrum."""
    return float(found.value.sum() * (found.grid[1] - found.grid[0]))


def _quietly(A: object, **options: float) -> Density:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = spectral_density(A, **options)  # type: ignore[arg-type]
    assert np.isfinite(found.value).all()
    assert np.isfinite(found.error).all()
    assert np.isfinite(found.grid).all()
    assert (np.diff(found.grid) > 0).all()
    assert _mass(found) == pytest.approx(1.0, abs=1e-2)  # the grid of a point mass is rough
    return found


@pytest.mark.parametrize("as_operator", [False, True])
@pytest.mark.parametrize("size", [1, 2, 60])
@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 1e-280, -1e280])
def test_multiples_of_the_identity(value: float, size: int, as_operator: bool) -> None:
    A = value * np.eye(size)
    found = _quietly(aslinearoperator(A) if as_operator else A, points=2001)
    assert found.lowest == pytest.approx(value, rel=1e-12, abs=0.0)
    assert found.highest == pytest.approx(value, rel=1e-12, abs=0.0)
    assert found.trace == pytest.approx(size * value, rel=1e-9, abs=0.0)
    assert found.trace_error <= 1e-9 * abs(size * value)
    assert found.grid[0] < value < found.grid[-1]
    assert found.width > 0.0


@pytest.mark.parametrize("as_operator", [False, True])
@pytest.mark.parametrize("power", [-990, -500, 500, 990])
def test_powers_of_two_scale_it(power: int, as_operator: bool) -> None:
    A = np.diag(np.linspace(-1.0, 2.0, 40))
    plain = spectral_density(A, seed=3)
    scaled = np.ldexp(A, power)
    found = _quietly(aslinearoperator(scaled) if as_operator else scaled, seed=3)
    for name, exponent in {
        "grid": power, "value": -power, "error": -power, "width": power, "trace": power,
        "trace_error": power, "lowest": power, "highest": power,
    }.items():  # fmt: skip
        expected = np.ldexp(getattr(plain, name), exponent)
        atol = 1e-9 * float(np.abs(expected).max())
        np.testing.assert_allclose(getattr(found, name), expected, rtol=1e-9, atol=atol)
    if abs(power) == 500:
        for name in ("square", "square_error"):
            expected = np.ldexp(getattr(plain, name), 2 * power)
            assert getattr(found, name) == pytest.approx(float(expected), rel=1e-9, abs=0.0)


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_width_is_in_the_units_of_the_matrix(scale: float) -> None:
    A = scale * np.diag([1.0, 2.0, 3.0])
    assert spectral_density(A, width=0.1 * scale).width == pytest.approx(0.1 * scale)
    with pytest.raises(InputError, match="width"):
        spectral_density(A, width=1.0 / scale)


@pytest.mark.parametrize("power", [-990, 0, 990])
def test_lanczos_scales(power: int) -> None:
    A = np.ldexp(np.diag([1.0, 1.0, 2.0, 5.0]), power)
    diagonal, beside = lanczos(A, np.ldexp(np.ones(4), -power), 10)
    assert len(diagonal) == 3
    a, b = np.ldexp(diagonal, -power), np.ldexp(beside, -power)
    nodes = np.linalg.eigvalsh(np.diag(a) + np.diag(b, 1) + np.diag(b, -1))
    np.testing.assert_allclose(nodes, [1.0, 2.0, 5.0], rtol=1e-12)
    with pytest.raises(InputError, match="steps"):
        lanczos(A, np.ones(4), 0)
