"""The same planes for the one-layer regression of the theorems, and its path on them.

Gradient descent on W_Q, W_K, W_V from the same start for both kernels, each with the toolkit's
local step. Losses are shares of 1/2 |y|^2. Beside the random and the leading planes there are two
that are made from the path: "path", the first principal directions of the W_Q part and of the W_K
part, and "pca", the first two of all weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from experiments.loss_landscape.network import STREAM, Directions
from experiments.loss_landscape.plan import Regression
from experiments.tasks.landscape import Block, filter_normalised, principal_plane, share_in_plane
from gdconv.checks.prepare import Setting, prepare
from gdconv.checks.steps import step_sizes
from gdconv.data.problem import Problem
from gdconv.hessian.spectra import extreme_eigenpairs
from gdconv.models.multihead.hessian import multihead_operators
from gdconv.models.multihead.model import MultiHeadRegression
from gdconv.models.multihead.parameters import BLOCKS, Parameters
from gdconv.support.config import Config

MARGIN = 0.3
"""What a plane shows beyond the path, as a share of the path's extent."""

MOST_HALVINGS = 10
"""A step with which the loss still rises after so many halvings is given up."""


@dataclass(frozen=True)
class Descent:
    """One run of gradient descent.

    Attributes:
        model: The model.
        problem: Its data, one replica.
        end: Weights at the end, one replica.
        path: Recorded W_Q, W_K, W_V, flattened, relative to the end.
        losses: Loss at every record, as a share of 1/2 |y|^2.
        steps: Steps of the records.
        eta: Step size.
    """

    model: MultiHeadRegression
    problem: Problem
    end: Parameters
    path: Float[np.ndarray, "T P"]
    losses: Float[np.ndarray, " T"]
    steps: np.ndarray
    eta: float

    @property
    def unit(self) -> float:
        """1/2 |y|^2."""
        return 0.5 * float(self.problem.y.square().sum())

    def weights(self) -> Block:
        """The trained blocks at the end, (H, D, d)."""
        return {name: getattr(self.end, name)[0] for name in BLOCKS}

    def block(self, vector: Float[np.ndarray, " P"]) -> Block:
        """A vector over all three blocks as a direction."""
        parts = torch.from_numpy(vector).split([W.numel() for W in self.weights().values()])
        pairs = zip(self.weights().items(), parts, strict=True)
        return {name: part.view(W.shape) for (name, W), part in pairs}

    def vector(self, block: Block) -> Float[np.ndarray, " P"]:
        """A direction as a vector over all three blocks."""
        zero = {name: torch.zeros_like(W) for name, W in self.weights().items()} | block
        return torch.cat([zero[name].flatten() for name in BLOCKS]).numpy()


def descend(plan: Regression, kernel: str, seed: int) -> Descent:
    """Gradient descent with the local step, halved where the loss rises.

    Args:
        plan: Sizes.
        kernel: softmax or gaussian.
        seed: Of data and weights, which are the same for both kernels.

    Returns:
        The run.

    Raises:
        ArithmeticError: The loss rises however small the step is.
    """
    config = Config(
        "full-gd", statement="run", data="digits", kernel=kernel, seed=seed,
        samples=plan.samples, heads=plan.heads,
    )  # fmt: skip
    setting = prepare(config)
    assert isinstance(setting, Setting)
    assert isinstance(setting.params, Parameters)
    eta = float(step_sizes(setting).eta[0])
    wanted = {0, *np.unique(np.geomspace(1, plan.steps, plan.records).astype(int)).tolist()}
    for _ in range(MOST_HALVINGS):
        made = _followed(setting.model, setting.problem, setting.params, eta, wanted)
        if made is not None:
            return made
        eta /= 2
    raise ArithmeticError(f"the loss of {kernel} rises with every step, seed {seed}")


def _followed(
    model: Any, problem: Problem, start: Parameters, eta: float, wanted: set[int]
) -> Descent | None:
    """The run with one step size; None where the loss rises above rounding."""
    at, unit = start, 0.5 * float(problem.y.square().sum())
    steps, points, losses, last = [], [], [], np.inf
    for t in range(max(wanted) + 1):
        seen, grad = model.gradient(problem, at)
        loss = float(seen.loss[0]) / unit
        if not loss <= last + 1e-12:
            return None
        last = loss
        if t in wanted:
            steps.append(t)
            losses.append(loss)
            points.append(torch.cat([getattr(at, name).flatten() for name in BLOCKS]).numpy())
        if t < max(wanted):
            moved = {n: getattr(at, n) - eta * getattr(grad, n) for n in BLOCKS}
            at = Parameters(**moved, W_O=at.W_O)
    path = np.stack(points) - points[-1]
    return Descent(model, problem, at, path, np.array(losses), np.array(steps), eta)


def share_of_values(run: Descent) -> float:
    """Share of the path's variance that is movement of W_V, which no W_Q x W_K plane can show.

    Args:
        run: The run.

    Returns:
        The share.
    """
    moved = run.path - run.path.mean(0)
    size = run.end.W_V.numel()
    return float((moved[:, -size:] ** 2).sum() / (moved**2).sum())


def losses_of(run: Descent) -> Callable[[Block], Tensor]:
    """Losses of weights with a leading axis of grid points, as shares of 1/2 |y|^2.

    Args:
        run: Model and data.

    Returns:
        The function `experiments.tasks.landscape.plane_losses` takes; grid points are replicas.
    """

    def losses(block: Block) -> Tensor:
        first = next(iter(block.values()))
        params = Parameters(**block, W_O=run.end.W_O.expand(len(first), -1, -1, -1))
        return run.model.forward(run.problem, params).loss / run.unit

    return losses


def random_directions(run: Descent, seed: int, draw: int) -> tuple[Block, Block]:
    """Filter-normalised directions of W_Q and W_K, the same draw for both kernels.

    Args:
        run: The run.
        seed: Its seed.
        draw: Number of the draw.

    Returns:
        u and v.
    """
    rng = np.random.default_rng([STREAM, 1, seed, draw])
    made = []
    for name in ("W_Q", "W_K"):
        W = run.weights()[name]
        made.append({
            name: filter_normalised(torch.from_numpy(rng.standard_normal(W.shape)), W, -2)
        })
    return made[0], made[1]


def leading_directions(run: Descent, count: int) -> list[Directions]:
    """Leading eigenvectors of the W_Q and of the W_K block of the Hessian, closed form.

    Args:
        run: The run.
        count: How many of each.

    Returns:
        u, v, as long as their weights, and the eigenvalues of the loss as a share of 1/2 |y|^2.
    """
    found: dict[str, list[tuple[Block, float]]] = {}
    for name in ("W_Q", "W_K"):
        W = run.weights()[name]
        (operator,) = multihead_operators(run.model, run.problem, run.end, (name,))
        pairs = extreme_eigenpairs(operator, count, tolerance=1e-6)
        found[name] = [
            ({name: torch.from_numpy(p.vector).view(W.shape) * W.norm()}, p.value / run.unit)
            for p in pairs
        ]
    both = zip(found["W_Q"], found["W_K"], strict=True)
    return [
        (u, v, {"eigenvalue_W_Q": first, "eigenvalue_W_K": second})
        for (u, first), (v, second) in both
    ]


def path_directions(run: Descent, kind: str) -> tuple[Block, Block]:
    """Directions made from the path, of unit length.

    Args:
        run: The run.
        kind: "path" for the first principal direction of W_Q's part and of W_K's part, "pca" for
            the first two of all weights.

    Returns:
        u and v.
    """
    if kind == "pca":
        first, second = principal_plane(run.path)
        return run.block(first), run.block(second)
    size = run.end.W_Q.numel()
    made = []
    for i, name in enumerate(("W_Q", "W_K")):
        part = principal_plane(run.path[:, i * size : (i + 1) * size])[0]
        made.append({name: torch.from_numpy(part.copy()).view(run.end.W_Q.shape[1:])})
    return made[0], made[1]


def on_plane(run: Descent, u: Block, v: Block) -> tuple[Float[np.ndarray, "T 2"], float]:
    """The path's coordinates on a plane and the share of its variance there.

    Args:
        run: The run.
        u: First direction.
        v: Second direction.

    Returns:
        Coordinates and share.
    """
    return share_in_plane(run.path, np.stack([run.vector(u), run.vector(v)]))


def extents(
    paths: list[Float[np.ndarray, "T 2"]], points: int
) -> tuple[Float[np.ndarray, " G"], Float[np.ndarray, " G"]]:
    """Axes that hold several paths and a margin, so that both kernels have the same.

    Args:
        paths: Their coordinates.
        points: Points along an axis.

    Returns:
        Coordinates of the two axes.

    Example:
        >>> a, b = extents([np.array([[0.0, 0.0], [1.0, 2.0]])], 5)
        >>> a.round(2).tolist(), b.round(2).tolist()
        ([-0.55, 0.0, 0.55, 1.1, 1.65], [-0.8, 0.0, 0.8, 1.6, 2.4])
    """
    every = np.concatenate(paths)
    low, high = every.min(0), every.max(0)
    more = MARGIN * float((high - low).max())  # the same on both sides: a short side needs it most
    axes = []
    for start, stop in zip(low - more, high + more, strict=True):
        step = (stop - start) / (points - 1)
        axes.append(step * (np.arange(points) - round(-start / step)))  # the end is a grid point
    return axes[0], axes[1]
