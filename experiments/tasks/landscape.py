"""The loss on a plane in weight space: directions, a batched grid, and how rough it is.

    z(a, b) = loss(W + a u + b v),   a, b in [-radius, radius]

A random direction is filter-normalised: every filter (the weights into one output) has the norm of
the same filter of W, so that 1 is "as far as W is long" whatever the scale of W. Source: Li et al.
2018, "Visualizing the loss landscape of neural nets".

What is called rough. A straight cut through a bowl has a slope that only grows; a rough cut bends
back and forth. From second differences on the grid, h its spacing:

    slope variation       total variation of the slope along a line, sum |d2 z| / h = int |z''|
    bending               the same over the range of the slope; 1 for a convex or concave line
    curvature variation   mean of |d3 z| / h^3, how fast the curvature changes
    negative curvature    share of inner points where the 2 x 2 Hessian has a negative eigenvalue
    minima                inner points below all 8 neighbours

The first and third carry the unit of the loss; the others do not change when the loss is scaled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gdconv.support.errors import InputError

Block = dict[str, Tensor]
"""Tensors by name: some of a model's weights, or a direction among them."""

MEASURES = ("slope_variation", "bending", "curvature_variation", "negative", "minima")
"""Fields of `Roughness`; more of each is rougher."""


@dataclass(frozen=True)
class Roughness:
    """Numbers of one grid; see the module's text.

    Attributes:
        slope_variation: Mean over the lines along both axes, loss per unit.
        bending: Mean over the same lines, at least 1; lines straight within rounding are left out.
        curvature_variation: Mean over both axes, loss per unit cubed.
        negative: Share of inner points, 0 to 1.
        minima: Count.
    """

    slope_variation: float
    bending: float
    curvature_variation: float
    negative: float
    minima: int


def filter_normalised(
    direction: Float[Tensor, "*shape"], weight: Float[Tensor, "*shape"], filters: int = -1
) -> Float[Tensor, "*shape"]:
    """A direction whose filters are as long as those of a weight.

    Args:
        direction: Any direction, for instance normal numbers.
        weight: The weight.
        filters: The axis along which a filter lies: 1 for a torch Linear (outputs, inputs), -2 for
            the toolkit's (..., D, d).

    Returns:
        The direction; a filter that is zero stays where it is.

    Example:
        >>> made = filter_normalised(torch.ones(2, 2), torch.tensor([[3.0, 4.0], [0.0, 0.0]]), 1)
        >>> made.norm(dim=1).tolist()
        [5.0, 0.0]
    """
    length = direction.norm(dim=filters, keepdim=True)
    return direction * (weight.norm(dim=filters, keepdim=True) / length.clamp(min=1e-30))


def axis_of(points: int, radius: float) -> Float[np.ndarray, " G"]:
    """Coordinates of a grid, 0 among them.

    Args:
        points: G, odd and at least 5: third differences need four points, the centre one.
        radius: Largest coordinate.

    Returns:
        The coordinates, ascending.

    Raises:
        InputError: An even or small number of points, or a radius that is not positive.

    Example:
        >>> axis_of(5, 1.0).tolist()
        [-1.0, -0.5, 0.0, 0.5, 1.0]
    """
    if points < 5 or points % 2 == 0:
        raise InputError("points", points, "give an odd number of at least 5")
    if not 0.0 < radius < np.inf:
        raise InputError("radius", radius, "give a positive number")
    half = points // 2
    return np.arange(-half, half + 1) * (radius / half)


def plane_losses(
    losses: Callable[[Block], Float[Tensor, " G"]],
    weights: Block,
    first: Block,
    second: Block,
    axes: tuple[Float[np.ndarray, " A"], Float[np.ndarray, " B"]],
    chunk: int = 64,
) -> Float[np.ndarray, "A B"]:
    """The loss on the grid, many points at once.

    Args:
        losses: Losses of weights that have a leading axis of grid points.
        weights: W; every tensor that `first` or `second` moves.
        first: u; tensors it does not name stay.
        second: v.
        axes: Coordinates a and b.
        chunk: Points at once.

    Returns:
        z[i, j] = loss(W + a_i u + b_j v).

    Raises:
        InputError: A direction that names no weight or has another shape.

    Example:
        >>> bowl = lambda block: block["w"].square().sum(-1)
        >>> w, e = torch.zeros(2), torch.eye(2)
        >>> ends = np.array([0.0, 2.0])
        >>> plane_losses(bowl, {"w": w}, {"w": e[0]}, {"w": e[1]}, (ends, ends)).tolist()
        [[0.0, 4.0], [4.0, 8.0]]
    """
    for direction in (first, second):
        for name, value in direction.items():
            if name not in weights or weights[name].shape != value.shape:
                raise InputError("direction", name, "give the names and shapes of the weights")
    a, b = (grid.ravel() for grid in np.meshgrid(*axes, indexing="ij"))
    made = np.empty(len(a))
    with torch.no_grad():
        for start in range(0, len(a), chunk):
            part = slice(start, min(start + chunk, len(a)))
            moved = {}
            for name, W in weights.items():
                moved[name] = W.expand(part.stop - part.start, *W.shape)
                for t, direction in ((a, first), (b, second)):
                    if name in direction:
                        by = torch.from_numpy(t[part]).to(W).view(-1, *[1] * W.ndim)
                        moved[name] = moved[name] + by * direction[name]
            made[part] = losses(moved).double().cpu().numpy()
    return made.reshape(len(axes[0]), len(axes[1]))


def roughness(
    z: Float[np.ndarray, "A B"], spacing: tuple[float, float], unit: float = 2.0**-52
) -> Roughness:
    """How rough a grid of losses is.

    Args:
        z: Losses, at least 5 along each axis, finite.
        spacing: h of the two axes.
        unit: Rounding unit of the losses; second differences below 16 of it times the largest loss
            count as none.

    Returns:
        The numbers.

    Raises:
        InputError: A grid that is too small or not finite, or a spacing that is not positive.

    Example:
        >>> a = axis_of(9, 1.0)
        >>> bowl = a[:, None] ** 2 + 3 * a**2
        >>> made = roughness(bowl, (0.25, 0.25))
        >>> round(made.bending, 6), made.negative, made.minima
        (1.0, 0.0, 1)
        >>> roughness(-bowl, (0.25, 0.25)).negative
        1.0
    """
    if z.ndim != 2 or min(z.shape) < 5 or not np.isfinite(z).all():
        raise InputError("z", f"shape {z.shape}", "give finite losses on a grid of at least 5 x 5")
    if min(spacing) <= 0:
        raise InputError("spacing", spacing, "give positive numbers")
    floor = 16 * unit * float(np.abs(z).max())
    bends, variations, third = [], [], []
    for lines, h in ((z.T, spacing[0]), (z, spacing[1])):
        slope = np.diff(lines, axis=1) / h
        change = np.diff(slope, axis=1)
        total = np.abs(change).sum(axis=1)
        span = slope.max(axis=1) - slope.min(axis=1)
        variations.append(total)
        bends.append(total[span > floor / h] / span[span > floor / h])
        third.append(np.abs(np.diff(change, axis=1)).mean() / h**2)
    bent = np.concatenate(bends)
    return Roughness(
        float(np.concatenate(variations).mean()),
        float(bent.mean()) if len(bent) else 1.0,
        float(np.mean(third)),
        float((least_curvature(z, spacing) < -floor / min(spacing) ** 2).mean()),
        count_minima(z, floor),
    )


def least_curvature(
    z: Float[np.ndarray, "A B"], spacing: tuple[float, float]
) -> Float[np.ndarray, "a b"]:
    """Lower eigenvalue of the 2 x 2 Hessian at the inner points, by central differences.

    Args:
        z: Losses.
        spacing: h of the two axes.

    Returns:
        lambda_min, one point less at every side.

    Example:
        >>> a = np.arange(3.0)
        >>> least_curvature(a[:, None] * a, (1.0, 1.0)).tolist()
        [[-1.0]]
    """
    h, k = spacing
    inner = z[1:-1, 1:-1]
    aa = (z[2:, 1:-1] - 2 * inner + z[:-2, 1:-1]) / h**2
    bb = (z[1:-1, 2:] - 2 * inner + z[1:-1, :-2]) / k**2
    ab = (z[2:, 2:] - z[2:, :-2] - z[:-2, 2:] + z[:-2, :-2]) / (4 * h * k)
    lower: np.ndarray = 0.5 * (aa + bb) - np.hypot(0.5 * (aa - bb), ab)
    return lower


def count_minima(z: Float[np.ndarray, "A B"], depth: float = 0.0) -> int:
    """Inner points that are below all 8 neighbours by more than `depth`.

    Args:
        z: Losses.
        depth: Least difference that counts.

    Returns:
        Their number.

    Example:
        >>> wave = np.cos(np.arange(9) * np.pi / 2)
        >>> count_minima(wave[:, None] + wave)
        4
    """
    rows, columns = z.shape
    lower = np.ones((rows - 2, columns - 2), dtype=bool)
    for i in range(3):
        for j in range(3):
            if (i, j) != (1, 1):
                beside = z[i : rows - 2 + i, j : columns - 2 + j]
                lower &= z[1:-1, 1:-1] < beside - depth
    return int(lower.sum())


def share_in_plane(
    path: Float[np.ndarray, "T P"], basis: Float[np.ndarray, "2 P"]
) -> tuple[Float[np.ndarray, "T 2"], float]:
    """Coordinates of a path in a plane and how much of it the plane shows.

    Args:
        path: Points relative to the plane's origin.
        basis: u and v, independent.

    Returns:
        Coordinates of the nearest points of the plane, and the share of the path's variance about
        its mean that lies in the plane, 0 to 1.

    Example:
        >>> path = np.array([[0.0, 0.0, 0.0], [3.0, 0.0, 4.0]])
        >>> where, share = share_in_plane(path, np.eye(3)[:2])
        >>> where[1].tolist(), round(share, 12)
        ([3.0, 0.0], 0.36)
    """
    where = np.linalg.lstsq(basis.T, path.T, rcond=None)[0].T
    seen, whole = (x - x.mean(0) for x in (where @ basis, path))
    total = float((whole**2).sum())
    return where, float((seen**2).sum()) / total if total > 0 else 1.0


def principal_plane(path: Float[np.ndarray, "T P"]) -> Float[np.ndarray, "2 P"]:
    """The two orthonormal directions that hold most of a path's variance.

    Args:
        path: At least three points.

    Returns:
        Directions, the stronger first, both pointing from the path's end to its start.

    Example:
        >>> line = np.outer([2.0, 1.0, 0.0], [0.0, 3.0, 4.0])
        >>> bool(np.allclose(principal_plane(line)[0], [0.0, 0.6, 0.8], rtol=0, atol=1e-12))
        True
    """
    basis: np.ndarray = np.linalg.svd(path - path.mean(0), full_matrices=False)[2][:2]
    along = basis @ (path[0] - path[-1])
    return basis * np.where(along < 0, -1.0, 1.0)[:, None]
