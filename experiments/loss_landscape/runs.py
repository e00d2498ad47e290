"""Evaluates the planes, each kept as a file of its own: what a killed run had finished stays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.harness.units import kept_arrays
from experiments.loss_landscape import network, regression
from experiments.loss_landscape.numbers import measured
from experiments.loss_landscape.plan import KERNELS, Preset, Stages, mark_of
from experiments.tasks.landscape import Block, axis_of, plane_losses
from experiments.tasks.trained import load
from gdconv.support.errors import InputError

Axes = tuple[np.ndarray, np.ndarray]

PATH_KINDS = ("path", "pca")

FINE = 2.0**-52
"""Rounding unit of the regression, in float64."""


@dataclass
class Plane:
    """One grid.

    Attributes:
        task: text, pathfinder or regression.
        kernel: softmax or gaussian.
        seed: Of the network.
        kind: random, hessian, path or pca.
        draw: Number of the plane of its kind.
        axes: Coordinates.
        z: Losses.
        extra: Eigenvalues along its directions; share of the path's variance.
        path: Coordinates of the path on the plane, if there is one.
    """

    task: str
    kernel: str
    seed: int
    kind: str
    draw: int
    axes: Axes
    z: np.ndarray
    extra: dict[str, float] = field(default_factory=dict)
    path: np.ndarray | None = None

    @property
    def drawn(self) -> bool:
        """Whether it is in a figure."""
        return self.seed == 0 and self.draw == 0

    def row(self, points: int) -> dict[str, Any]:
        """Its row in the table of planes.

        Args:
            points: Points along an axis for the numbers.

        Returns:
            Names, measures, extra, centre and range of the losses.
        """
        names = ("task", "kernel", "seed", "kind", "draw")
        made: dict[str, Any] = {name: getattr(self, name) for name in names}
        unit = FINE if self.task == "regression" else network.UNIT
        made |= measured(self.z, self.axes, points, unit)
        known = {"lowest": self.z.min(), "highest": self.z.max()}
        if self.kind not in PATH_KINDS:
            known["centre"] = self.z[len(self.axes[0]) // 2, len(self.axes[1]) // 2]
        return made | {k: float(v) for k, v in known.items()} | self.extra


def _evaluated(
    place: Path, mark: str, axes: Axes, directions: Callable[[], network.Directions],
    weights: Block, losses: Callable[[Block], Any], chunk: int = 64,
) -> tuple[np.ndarray, dict[str, float]]:  # fmt: skip
    """The grid of a file of that mark and these axes, or a new one that is then kept there."""

    def make() -> dict[str, Any]:
        u, v, extra = directions()
        z = plane_losses(losses, weights, u, v, axes, chunk)
        return {"z": z, "names": [*extra, ""], "values": [*extra.values(), 0.0]}

    kept = kept_arrays(place, {"mark": mark, "a": axes[0], "b": axes[1]}, make)
    pairs = zip(kept["names"], kept["values"], strict=True)
    return kept["z"], {str(name): float(value) for name, value in pairs if str(name)}


def classifier_planes(
    preset: Preset, stages: Stages, folder: Path, device: str, bar: Any
) -> tuple[list[Plane], pd.DataFrame]:
    """All planes of one task, and the second stages of its networks.

    Args:
        preset: Sizes.
        stages: The task.
        folder: Folder of the checkpoints.
        device: "cpu" or "cuda".
        bar: Progress; its `set_postfix_str` and `update` are called.

    Returns:
        The planes and one row per evaluation of a second stage.

    Raises:
        InputError: A network diverged.
    """
    name, planes, tables = stages.task.name, [], []
    X, y = network.evaluation_set(load(stages.task), preset.samples, device)
    for seed in range(preset.seeds):
        for kernel in KERNELS:
            bar.set_postfix_str(f"{name}, {kernel}, seed {seed}: training")
            net, run = network.two_stages(stages, preset, kernel, seed, folder, device)
            table = run.table(task=name, kernel=kernel, seed=seed)
            tables.append(table.drop(columns="seconds"))
            if run.diverged is not None:
                raise InputError("rate", stages.rate, f"give a smaller one: {name} diverged")
            weights, losses = network.attention_parts(net)[0], network.losses_of(net, X, y)
            for kind, draw, directions in network.planes_of(net, preset, X, y, seed):
                bar.set_postfix_str(f"{name}, {kernel}, seed {seed}: {kind} plane {draw}")
                axis = axis_of(preset.points_of(seed, draw), preset.radius)
                key = f"{name}-{kernel}-{seed}-{kind}-{draw}"
                counts = (preset.samples, preset.leading if kind == "hessian" else 0)
                mark = mark_of(stages, preset.model, key, *counts)
                place, axes = folder / f"{key}.npz", (axis, axis)
                made = _evaluated(place, mark, axes, directions, weights, losses, preset.chunk)
                planes.append(Plane(name, kernel, seed, kind, draw, axes, *made))
                bar.update(axis.size**2)
    return planes, pd.concat(tables, ignore_index=True)


def regression_planes(preset: Preset, folder: Path, bar: Any) -> tuple[list[Plane], pd.DataFrame]:
    """All planes of the regression, and its paths.

    Args:
        preset: Sizes.
        folder: Folder of the checkpoints.
        bar: Progress.

    Returns:
        The planes and one row per record of a path.
    """
    planes, tables = [], []
    for seed in range(preset.seeds):
        bar.set_postfix_str(f"regression, seed {seed}: gradient descent")
        runs = {k: regression.descend(preset.regression, k, seed) for k in KERNELS}
        for kernel, run in runs.items():
            names = {"kernel": kernel, "seed": seed, "eta": run.eta}
            names["share_W_V"] = regression.share_of_values(run)
            tables.append(pd.DataFrame({**names, "step": run.steps, "loss": run.losses}))
        for kind, draw, made, axes in _regression_specs(preset, runs, seed):
            for kernel, run in runs.items():
                bar.set_postfix_str(f"regression, {kernel}, seed {seed}: {kind} plane {draw}")
                mark = mark_of(preset.regression, kernel, seed, kind, draw, preset.leading)
                place = folder / f"regression-{kernel}-{seed}-{kind}-{draw}.npz"
                losses, known = regression.losses_of(run), partial(made.__getitem__, kernel)
                z, extra = _evaluated(place, mark, axes, known, run.weights(), losses)
                u, v, _ = made[kernel]
                where, share = regression.on_plane(run, u, v)
                extra = extra | {"share": share}
                planes.append(Plane("regression", kernel, seed, kind, draw, axes, z, extra, where))
                bar.update(z.size)
    return planes, pd.concat(tables, ignore_index=True)


def _regression_specs(
    preset: Preset, runs: dict[str, regression.Descent], seed: int
) -> list[tuple[str, int, dict[str, network.Directions], Axes]]:
    """Kind, number, directions by kernel, and axes that both kernels share."""
    specs: list[tuple[str, int, dict[str, Any], Axes]] = []
    for draw in range(preset.draws):
        axis = axis_of(preset.points_of(seed, draw), preset.radius)
        made: dict[str, Any] = {
            k: (*regression.random_directions(run, seed, draw), {}) for k, run in runs.items()
        }
        specs.append(("random", draw, made, (axis, axis)))
    leading = {k: regression.leading_directions(run, preset.leading) for k, run in runs.items()}
    for number in range(preset.leading):
        axis = axis_of(preset.points_of(seed, number), preset.radius)
        made = {k: leading[k][number] for k in runs}
        specs.append(("hessian", number, made, (axis, axis)))
    for kind in PATH_KINDS:
        made = {k: (*regression.path_directions(run, kind), {}) for k, run in runs.items()}
        where = [regression.on_plane(run, *made[k][:2])[0] for k, run in runs.items()]
        specs.append((kind, 0, made, regression.extents(where, preset.points_of(seed, 0))))
    return specs


def grid_points(preset: Preset) -> int:
    """Points of all grids, for the progress bar.

    Args:
        preset: Sizes.

    Returns:
        Their number.
    """
    total = 0
    for seed in range(preset.seeds):
        numbers = [*range(preset.draws), *range(preset.leading)]
        square = sum(preset.points_of(seed, number) ** 2 for number in numbers)
        paths = len(PATH_KINDS) * preset.points_of(seed, 0) ** 2
        total += len(KERNELS) * ((len(preset.stages) + 1) * square + paths)
    return total
