"""The two tasks on which both kernels are trained, and the sizes they are trained at."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch

from experiments.tasks.classifier import ClassifierSizes
from experiments.tasks.pathfinder import difficulty_of, patches, pathfinder
from experiments.tasks.stand_in import LONGEST
from experiments.tasks.text import load_text, shared_note
from experiments.tasks.training import Samples
from gdconv.support.errors import InputError

DATA_SEED = 1
"""Seed of generated data; neither it nor seeds from 100 on were seen while the tasks were made."""


TEST_IMAGES = 2**40
"""Number of the first Pathfinder image of the test set, far from the training images."""


@dataclass(frozen=True)
class Task:
    """One task and how it is trained.

    Attributes:
        name: "text" or "pathfinder".
        optimiser: "sgd" or "adam".
        rates: Learning rates tried, the same for both kernels.
        steps: Steps of a run.
        search_steps: Steps of a run that tries a rate.
        batch: Samples a step.
        every: Steps between evaluations.
        warmup: Steps of the linear rise of the rate.
        levels: Accuracies whose first step is recorded.
        data: What `experiments.tasks.text.load_text` reads (text only).
        length: Most symbols of a text.
        vocabulary: Most symbols of the vocabulary.
        unit: "word" or "character".
        size: Side of an image (Pathfinder only).
        difficulty: easy, medium or hard.
        patch: Side of the squares that are tokens.
        train_samples: Training samples that are generated.
        test_samples: Test samples: generated, or the most that are used of a given set.
        cache: Folder for tokenised texts.
    """

    name: str
    optimiser: str
    rates: tuple[float, ...]
    steps: int
    search_steps: int
    batch: int
    every: int
    warmup: int = 0
    levels: tuple[float, ...] = (0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
    data: str = "stand-in"
    length: int = LONGEST
    vocabulary: int = 10_000
    unit: str = "word"
    size: int = 16
    difficulty: str = "easy"
    patch: int = 4
    train_samples: int = 10_000
    test_samples: int = 2_000
    cache: str = ""


@dataclass(frozen=True)
class Preset:
    """Sizes of the whole experiment.

    Attributes:
        name: Its name.
        tasks: The tasks.
        seeds: How many seeds the comparison has.
        search_seeds: Seeds a rate is tried with.
        model: Sizes of the network but tokens, symbols and features.
    """

    name: str
    tasks: tuple[Task, ...]
    seeds: int
    search_seeds: int = 1
    model: tuple[tuple[str, int], ...] = (("D", 64), ("d", 128), ("H", 2), ("layers", 2))


_TEXT = Task(
    "text", "sgd", (0.03, 0.1, 0.3, 1.0), steps=4000, search_steps=800, batch=32, every=100,
    warmup=100, train_samples=20_000,
)  # fmt: skip


_PATHFINDER = Task(
    "pathfinder", "adam", (0.0001, 0.0003, 0.001, 0.003), steps=10_000, search_steps=2000, batch=32,
    every=250, warmup=250, train_samples=60_000,
)  # fmt: skip


PRESETS = {
    "tiny": Preset(
        "tiny",
        (
            replace(_TEXT, rates=(0.1, 0.3), steps=20, search_steps=10, every=5, warmup=2,
                    train_samples=200, test_samples=100, batch=8),
            replace(_PATHFINDER, rates=(0.001, 0.003), steps=20, search_steps=10, every=5,
                    warmup=2, train_samples=200, test_samples=100, batch=8),
        ),
        seeds=2,
        model=(("D", 8), ("d", 8), ("H", 2), ("layers", 1)),
    ),
    "small": Preset("small", (_TEXT, _PATHFINDER), seeds=3),
    "paper": Preset(
        "paper",
        (
            replace(_TEXT, rates=(0.01, 0.03, 0.1, 0.3, 1.0), steps=20_000, search_steps=4000,
                    every=500, warmup=500, length=2048, unit="character", train_samples=25_000,
                    test_samples=25_000),
            replace(_PATHFINDER, rates=(0.0001, 0.0003, 0.001, 0.003), steps=20_000,
                    search_steps=4000, batch=128, every=500, warmup=500, size=32,
                    difficulty="medium", patch=1, train_samples=160_000, test_samples=20_000),
        ),
        seeds=5,
        search_seeds=2,
    ),
}  # fmt: skip
"""tiny runs in seconds and shows nothing, small fits two cores, paper wants a GPU."""


@dataclass(frozen=True)
class Data:
    """A task's data, ready for training.

    Attributes:
        name: What they are called; a stand-in is called one.
        X: Training inputs.
        y: Their classes.
        X_test: Test inputs.
        y_test: Their classes.
        sizes: Sizes of the network that the data fix.
        note: What the results have to be read with; empty when there is nothing.
    """

    name: str
    X: torch.Tensor
    y: torch.Tensor
    X_test: torch.Tensor
    y_test: torch.Tensor
    sizes: tuple[tuple[str, int], ...]
    note: str = ""

    def samples(self, stage: str) -> Samples:
        """Training and evaluation set of a stage.

        Args:
            stage: "search" evaluates on the last tenth of the training set, which it does not
                train on, "final" on the test set.

        Returns:
            The sets.
        """
        if stage == "final":
            return Samples(self.X, self.y, self.X_test, self.y_test)
        cut = len(self.y) - max(1, len(self.y) // 10)
        return Samples(self.X[:cut], self.y[:cut], self.X[cut:], self.y[cut:])

    def network(self, model: tuple[tuple[str, int], ...]) -> ClassifierSizes:
        """Sizes of the network for these data."""
        return ClassifierSizes(**dict(self.sizes), **dict(model))


@lru_cache(maxsize=2)
def load(task: Task) -> Data:
    """Read or generate a task's data; every process does it once.

    Args:
        task: The task.

    Returns:
        The data.

    Raises:
        InputError: Unusable text data.

    Example:
        >>> load(PRESETS["tiny"].tasks[1]).X.shape
        torch.Size([200, 16, 16])
    """
    return _text(task) if task.name == "text" else _pathfinder(task)


def _text(task: Task) -> Data:
    """Training texts in random order, because the last tenth is used for validation."""
    made = load_text(
        task.data, task.length, task.vocabulary, task.unit, (task.train_samples, task.test_samples),
        seed=DATA_SEED, cache=task.cache or None,
    )  # fmt: skip
    order = np.random.default_rng(0).permutation(len(made.y))
    held = np.random.default_rng(1).permutation(len(made.y_test))[: task.test_samples]
    if len(made.y) < 20:
        raise InputError("data", task.data, "give at least 20 training texts")
    sizes = {"tokens": made.X.shape[1], "symbols": made.symbols, "classes": len(made.classes)}
    arrays = (made.X[order], made.y[order], made.X_test[held], made.y_test[held])
    X, y, X_test, y_test = map(torch.from_numpy, arrays)
    note = shared_note(arrays[0], arrays[2])
    return Data(made.name, X, y, X_test, y_test, tuple(sizes.items()), note)


def _pathfinder(task: Task) -> Data:
    """Ink standardised by mean and deviation of the training set."""
    kind = difficulty_of(task.size, task.difficulty)
    train = pathfinder(task.train_samples, kind, seed=DATA_SEED)
    test = pathfinder(task.test_samples, kind, seed=DATA_SEED, first=TEST_IMAGES)
    mean, deviation = float(train.images.mean()), float(train.images.std())
    X, X_test = (
        (torch.from_numpy(patches(part.images, task.patch)) - mean) / deviation
        for part in (train, test)
    )
    sizes = {"tokens": X.shape[1], "features": X.shape[2]}
    return Data(
        f"Pathfinder {task.size} x {task.size}, {task.difficulty}",
        *(X, torch.from_numpy(train.labels), X_test, torch.from_numpy(test.labels)),
        tuple(sizes.items()),
    )


BAR = 3.0
"""Standard errors above the most frequent class that count as learned."""
