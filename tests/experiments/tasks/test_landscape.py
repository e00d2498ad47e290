"""Planes of a loss and their roughness, against functions whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.func import vmap

from experiments.tasks.landscape import (
    MEASURES,
    axis_of,
    count_minima,
    filter_normalised,
    least_curvature,
    plane_losses,
    principal_plane,
    roughness,
    share_in_plane,
)
from gdconv.support.errors import InputError

AXIS = axis_of(81, 1.0)
H = float(AXIS[1] - AXIS[0])
A, B = np.meshgrid(AXIS, AXIS, indexing="ij")


def test_the_grid_is_the_loss_at_every_point_whatever_the_chunk() -> None:
    """Against one evaluation after another, and against another split."""
    torch.manual_seed(0)
    weights = {"W": torch.randn(3, 2).double(), "b": torch.randn(2).double()}
    u, v = {"W": torch.randn(3, 2).double()}, {k: torch.randn_like(W) for k, W in weights.items()}

    def loss(block: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.tanh(block["W"]).sum() + (block["b"] ** 3).prod()

    axes = axis_of(5, 1.0), axis_of(7, 2.0)
    z = plane_losses(vmap(loss), weights, u, v, axes, chunk=4)
    for i, a in enumerate(axes[0]):
        for j, b in enumerate(axes[1]):
            W = weights["W"] + a * u["W"] + b * v["W"]
            expected = loss({"W": W, "b": weights["b"] + b * v["b"]})
            assert z[i, j] == pytest.approx(float(expected), rel=1e-13, abs=1e-13)
    whole = plane_losses(vmap(loss), weights, u, v, axes, chunk=100)
    np.testing.assert_allclose(whole, z, rtol=1e-13, atol=1e-13)
    turned = plane_losses(vmap(loss), weights, v, u, axes[::-1], chunk=4)
    np.testing.assert_allclose(turned.T, z, rtol=1e-13, atol=1e-13)


def test_a_direction_that_fits_no_weight_is_refused() -> None:
    with pytest.raises(InputError, match="direction = W_X"):
        plane_losses(
            lambda block: block["W"], {"W": torch.zeros(2)}, {"W_X": torch.zeros(2)}, {},
            (AXIS, AXIS),
        )  # fmt: skip


@pytest.mark.parametrize("filters", [1, -2])
def test_filters_get_the_length_of_the_weights_and_keep_their_direction(filters: int) -> None:
    torch.manual_seed(1)
    weight, direction = torch.randn(4, 5, 3).double(), torch.randn(4, 5, 3).double()
    made = filter_normalised(direction, weight, filters)
    torch.testing.assert_close(made.norm(dim=filters), weight.norm(dim=filters))
    cosine = torch.cosine_similarity(made, direction, dim=filters)
    torch.testing.assert_close(cosine, torch.ones_like(cosine))
    torch.testing.assert_close(filter_normalised(10 * direction, weight, filters), made)


def test_a_bowl_is_not_rough_and_a_wave_is() -> None:
    bowl = A**2 + 2 * B**2 + A * B
    made = roughness(bowl, (H, H))
    assert made.bending == pytest.approx(1.0, abs=1e-9)
    assert made.curvature_variation == pytest.approx(0.0, abs=1e-6)
    assert (made.negative, made.minima) == (0.0, 1)
    # int |z''| over a line: 2 * 1 * (2 - h) along a, twice that along b
    assert made.slope_variation == pytest.approx(3 * (2 - H) * 2 / 2, rel=1e-9)
    wave = roughness(bowl + 0.2 * np.cos(4 * np.pi * A) * np.cos(4 * np.pi * B), (H, H))
    assert all(getattr(wave, m) > getattr(made, m) + 0.01 for m in MEASURES)


def test_the_numbers_are_those_of_the_derivatives_of_a_sine() -> None:
    """z = sin(k a) + sin(k b): over two periods int |z_aa| = 8 k, mean |z_aaa| = 2 k^3/pi."""
    k, axis = 2 * np.pi, axis_of(401, 1.0)
    z = np.sin(k * axis)[:, None] + np.sin(k * axis)
    h = float(axis[1] - axis[0])
    made = roughness(z, (h, h))
    assert made.slope_variation == pytest.approx(8 * k, rel=5e-3)
    assert made.bending == pytest.approx(4.0, rel=5e-3)  # the slope's range is 2 k
    assert made.curvature_variation == pytest.approx(2 * k**3 / np.pi, rel=1e-2)
    assert made.negative == pytest.approx(0.75, abs=0.01)  # convex where both sines are
    assert made.minima == 4


def test_least_curvature_is_that_of_a_turned_quadratic() -> None:
    turn = np.array([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]])
    Q = turn @ np.diag([-0.7, 3.0]) @ turn.T
    z = 0.5 * (Q[0, 0] * A**2 + 2 * Q[0, 1] * A * B + Q[1, 1] * B**2)
    np.testing.assert_allclose(least_curvature(z, (H, H)), -0.7, atol=1e-9)
    wrong = 0.5 * (Q[0, 0] * A**2 + Q[1, 1] * B**2)  # without the mixed term
    assert abs(least_curvature(wrong, (H, H)) + 0.7).min() > 0.1


def test_which_numbers_keep_their_value_when_the_loss_is_scaled() -> None:
    z = np.exp(A) * np.cos(5 * A * B) + B**3
    one, ten = roughness(z, (H, H)), roughness(10 * z, (H, H))
    for measure in ("bending", "negative", "minima"):
        assert getattr(ten, measure) == pytest.approx(getattr(one, measure), rel=1e-12)
    for measure in ("slope_variation", "curvature_variation"):
        assert getattr(ten, measure) == pytest.approx(10 * getattr(one, measure), rel=1e-12)


def test_rounding_makes_no_roughness_that_counts() -> None:
    """A flat loss in float32: its noise has minima and negative curvature, not counted."""
    rng = np.random.default_rng(0)
    unit = 2.0**-23
    z = 0.7 + unit * rng.uniform(-1, 1, A.shape)
    assert count_minima(z) > 100
    made = roughness(z, (H, H), unit)
    assert (made.negative, made.minima, made.bending) == (0.0, 0, 1.0)
    assert roughness(z, (H, H)).minima > 100


def test_minima_at_the_edge_do_not_count() -> None:
    assert count_minima(A + B) == 0
    assert count_minima((A - 1.0) ** 2 + B**2) == 0
    assert count_minima(A**2 + B**2) == 1
    assert count_minima(np.zeros((5, 5))) == 0


def test_share_and_principal_plane() -> None:
    rng = np.random.default_rng(3)
    path = rng.standard_normal((30, 6)) * (5.0, 3.0, 1.0, 0.5, 0.1, 0.0)
    basis = principal_plane(path)
    np.testing.assert_allclose(basis @ basis.T, np.eye(2), atol=1e-12)
    where, share = share_in_plane(path, basis)
    spectrum = np.linalg.eigvalsh(np.cov(path.T))[::-1]
    assert share == pytest.approx(spectrum[:2].sum() / spectrum.sum(), rel=1e-10)
    np.testing.assert_allclose(where @ basis, path @ basis.T @ basis, atol=1e-12)
    skew = np.array([basis[0], 3 * basis[0] + 0.1 * basis[1]])  # another basis of the same plane
    assert share_in_plane(path, skew)[1] == pytest.approx(share, rel=1e-8)
    for other in np.linalg.qr(rng.standard_normal((10, 6, 2)))[0]:
        assert share_in_plane(path, other.T)[1] <= share


@pytest.mark.parametrize("z", [np.zeros((4, 9)), np.full((9, 9), np.nan)])
def test_a_grid_that_cannot_be_measured_is_refused(z: np.ndarray) -> None:
    with pytest.raises(InputError):
        roughness(z, (1.0, 1.0))


@pytest.mark.parametrize(("points", "radius"), [(4, 1.0), (3, 1.0), (6, 1.0), (5, 0.0)])
def test_axes_that_miss_the_centre_are_refused(points: int, radius: float) -> None:
    with pytest.raises(InputError):
        axis_of(points, radius)
