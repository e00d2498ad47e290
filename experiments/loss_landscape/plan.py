"""What the loss landscapes are drawn of, and at which sizes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from experiments.harness.units import fingerprint
from experiments.tasks.trained import PRESETS as COMPARISON
from experiments.tasks.trained import Task

KERNELS = ("softmax", "gaussian")

VERSION = 1
"""Of what is computed; part of every mark, so an older checkpoint is not used."""

SECOND_SEED = 500
"""Added to the seed for the batches of the second stage."""


@dataclass(frozen=True)
class Stages:
    """A task and its training in two stages, both with the optimiser and batch of the task.

    Attributes:
        task: Task of the kernel comparison.
        rate: Learning rate of both stages and both kernels.
        first: Steps with softmax.
        second: Further steps with either kernel, from the same weights.
    """

    task: Task
    rate: float
    first: int
    second: int


@dataclass(frozen=True)
class Regression:
    """Gradient descent of the one-layer regression of the theorems, on UCI digits.

    Attributes:
        steps: Steps.
        records: Points of the path that are kept.
        samples: N.
        heads: H.
    """

    steps: int
    records: int = 80
    samples: int = 8
    heads: int = 8


@dataclass(frozen=True)
class Preset:
    """Sizes of the experiment.

    Attributes:
        name: Its name.
        stages: The classifiers.
        regression: The regression.
        seeds: Trained networks per task and kernel, seeds 0, 1, ...
        draws: Random planes of each of them.
        leading: Planes of leading Hessian directions: the first, second, ... pair.
        points: Points along an axis where numbers are taken, odd.
        fine: Halvings of the spacing in the planes that are drawn.
        radius: Largest coordinate; 1 moves every filter by its own norm.
        samples: Training samples the loss is taken over.
        chunk: Points of a classifier's grid at once.
        model: Sizes of the network.
    """

    name: str
    stages: tuple[Stages, ...]
    regression: Regression
    seeds: int
    draws: int
    leading: int
    points: int
    fine: int
    samples: int
    chunk: int
    radius: float = 1.0
    model: tuple[tuple[str, int], ...] = (("D", 64), ("d", 128), ("H", 2), ("layers", 2))

    def points_of(self, seed: int, draw: int) -> int:
        """Points along an axis: the first plane of the first seed is drawn, so finer.

        Args:
            seed: Seed.
            draw: Number of the plane.

        Returns:
            Points.

        Example:
            >>> PRESETS["small"].points_of(0, 0), PRESETS["small"].points_of(0, 1)
            (41, 21)
        """
        drawn = seed == 0 and draw == 0
        return (self.points - 1) * 2**self.fine + 1 if drawn else self.points


_TEXT, _PATHFINDER = (
    replace(task, every=250, warmup=200, test_samples=500) for task in COMPARISON["small"].tasks
)

PRESETS = {
    "tiny": Preset(
        "tiny",
        tuple(
            Stages(replace(task, train_samples=200, test_samples=50, batch=8, every=5, warmup=2),
                   rate, 10, 5)
            for task, rate in ((_TEXT, 0.1), (_PATHFINDER, 0.003))
        ),
        Regression(steps=40, records=12, samples=3, heads=2),
        seeds=2, draws=2, leading=1, points=5, fine=1, samples=8, chunk=16,
        model=(("D", 8), ("d", 8), ("H", 2), ("layers", 1)),
    ),
    "small": Preset(
        "small",
        (
            Stages(_TEXT, 0.3, 1500, 500),
            Stages(_PATHFINDER, 0.0003, 2500, 1000),
        ),
        Regression(steps=2000),
        seeds=3, draws=4, leading=2, points=21, fine=1, samples=64, chunk=2,
    ),
    "paper": Preset(
        "paper",
        tuple(
            Stages(task, rate, task.steps, task.steps // 2)
            for task, rate in zip(COMPARISON["paper"].tasks, (0.1, 0.0003), strict=True)
        ),
        Regression(steps=100_000, records=200),
        seeds=5, draws=10, leading=3, points=51, fine=1, samples=256, chunk=16,
    ),
}  # fmt: skip
"""tiny runs in seconds and shows nothing, small fits one core in minutes, paper wants a GPU."""


def mark_of(*parts: Any) -> str:
    """Names all that a result depends on."""
    return fingerprint((VERSION, *parts))
