"""Pathfinder images: are the two marked points ends of one dashed path?

Two long dashed paths of the same length and shorter distractors, one pixel wide, on a square grid.
Two ends are marked by discs: both ends of one long path (label 1), or one end of each (label 0).

The label can be read off an image. Along a path, consecutive inked pixels are at most gap + 1 apart
(Chebyshev distance); pixels of different paths, markers included, are at least gap + 2 apart. So
the label is 1 exactly if the markers are connected by steps of at most gap + 1 over inked pixels.

The place of the markers does not tell it: for every image a layout of each label is drawn, with
the same two marked pixels, and a fair coin then picks one of the two. Nor does the number of
dashes, which is the same under both labels.

Our own generator of the task of Linsley et al. 2018 ("Learning long-range spatial dependencies with
horizontal gated recurrent units"), which Tay et al. 2021 ("Long Range Arena") use for transformers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from gdconv.support.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZES = (16, 32, 64)
"""Sides of an image in pixels."""

LARGEST_IMAGES = 10_000_000
"""No more images than this are drawn at once."""


@dataclass(frozen=True)
class Difficulty:
    """What an image holds; lengths in pixels.

    Attributes:
        size: Side of the image.
        dashes: Dashes of each of the two long paths.
        distractors: Number of short paths.
        distractor_dashes: Dashes of each of them.
        dash: Inked pixels of a dash.
        gap: Blank pixels between dashes.
        radius: Radius of the discs at the marked ends.
        bend: Largest change of direction per pixel without an obstacle, radians.

    Example:
        >>> Difficulty(size=16, dashes=3, distractors=1).length
        8
    """

    size: int
    dashes: int
    distractors: int
    distractor_dashes: int = 2
    dash: int = 2
    gap: int = 1
    radius: int = 1
    bend: float = 0.3

    @property
    def length(self) -> int:
        """Pixels of a long path, gaps included."""
        return self.dashes * self.dash + (self.dashes - 1) * self.gap

    @property
    def distractor_length(self) -> int:
        """Pixels of a distractor, gaps included."""
        return self.distractor_dashes * self.dash + (self.distractor_dashes - 1) * self.gap


_WIDE: dict[str, Any] = {"dash": 3, "gap": 2, "radius": 2, "distractor_dashes": 3}

DIFFICULTIES: dict[tuple[int, str], Difficulty] = {
    (16, "easy"): Difficulty(16, 3, 1),
    (16, "medium"): Difficulty(16, 4, 2),
    (16, "hard"): Difficulty(16, 5, 3),
    (32, "easy"): Difficulty(32, 6, 4),
    (32, "medium"): Difficulty(32, 9, 6),
    (32, "hard"): Difficulty(32, 11, 8),
    (64, "easy"): Difficulty(64, 6, 6, **_WIDE),
    (64, "medium"): Difficulty(64, 9, 10, **_WIDE),
    (64, "hard"): Difficulty(64, 14, 10, **_WIDE),
}
"""By size and name; 6, 9 and 14 dashes are those of the usual 32 and 64 pixel sets where they
fit."""


@dataclass(frozen=True)
class PathfinderImages:
    """Images with labels.

    Attributes:
        images: Ink, (M, size, size).
        labels: 1 if the marked ends belong to one path, else 0, (M,).
        ends: Row and column of the two marked ends, (M, 2, 2).
        difficulty: What they were drawn with.
        seed: The seed.
    """

    images: Bool[np.ndarray, "M s s"]
    labels: Int[np.ndarray, " M"]
    ends: Int[np.ndarray, "M 2 2"]
    difficulty: Difficulty
    seed: int


def difficulty_of(size: int = 16, name: str = "easy", /, **changes: Any) -> Difficulty:
    """A named difficulty, with changes.

    Args:
        size: 16, 32 or 64.
        name: easy, medium or hard.
        changes: Fields of `Difficulty` to replace.

    Returns:
        The difficulty.

    Raises:
        InputError: Unknown size, name or field, or a value out of range.

    Example:
        >>> difficulty_of(32, "hard", distractors=0).distractors
        0
    """
    if size not in SIZES:
        raise InputError("size", size, "give 16, 32 or 64")
    if (size, name) not in DIFFICULTIES:
        raise InputError("difficulty", name, "give easy, medium or hard")
    made = DIFFICULTIES[size, name]
    unknown = sorted(set(changes) - set(vars(made)) | ({"size"} & set(changes)))
    if unknown:
        known = ", ".join(k for k in vars(made) if k != "size")
        raise InputError("difficulty", unknown[0], f"change one of {known}")
    limits = {
        "dashes": (1, size),
        "distractors": (0, size),
        "distractor_dashes": (1, size),
        "dash": (1, size),
        "gap": (0, size),
        "radius": (1, size // 4),
    }
    for field, (least, most) in limits.items():
        _whole(field, changes.get(field, least), least, most)
    bend = changes.get("bend", 0.0)
    if type(bend) is bool or not isinstance(bend, Real) or not 0 <= float(bend) <= 3:
        raise InputError("bend", bend, "give an angle between 0 and 3 radians")
    return replace(made, **changes)


def pathfinder(
    samples: int, difficulty: Difficulty | None = None, seed: int = 0, first: int = 0
) -> PathfinderImages:
    """Images number first, ..., first + samples - 1 of the endless sequence that a seed names.

    Image i depends on seed, i and the difficulty only, so disjoint ranges are independent sets for
    training and testing.

    Args:
        samples: M, how many.
        difficulty: What they hold; `difficulty_of()` if not given.
        seed: Names the sequence.
        first: Number of the first image.

    Returns:
        The images.

    Raises:
        InputError: Sizes out of range, or paths that do not fit into the image.

    Example:
        >>> few, more = pathfinder(2, seed=5), pathfinder(9, seed=5)
        >>> few.images.shape, bool((few.images == more.images[:2]).all())
        ((2, 16, 16), True)
    """
    from experiments.tasks.pathfinder_compiled import draw_images  # numba takes a second to load

    difficulty = difficulty_of() if difficulty is None else difficulty
    M = _whole("samples", samples, 1, LARGEST_IMAGES)
    start = np.uint64(_whole("first", first, 0, 2**62))
    images = np.zeros((M, difficulty.size, difficulty.size), dtype=bool)
    labels, ends = np.zeros(M, dtype=np.int64), np.zeros((M, 2, 2), dtype=np.int64)
    sizes = (
        *(difficulty.dash, difficulty.gap, difficulty.length, difficulty.distractors),
        *(difficulty.distractor_length, difficulty.radius),
    )
    number = np.uint64(_whole("seed", seed, 0, 2**62))
    # One image first: where nothing fits, that is known before the others are tried.
    for part in (slice(0, 1), slice(1, M)):
        offset = np.uint64(part.start)
        draw_images(
            images[part], labels[part], ends[part], number, start + offset, sizes, difficulty.bend
        )
        if (labels[part] < 0).any():
            raise InputError(
                "difficulty",
                f"{difficulty.dashes} dashes, {difficulty.distractors} distractors",
                f"ask for shorter or fewer paths: they do not fit into {difficulty.size} pixels",
            )
    return PathfinderImages(images, labels, ends, difficulty, int(seed))


def patches(images: Bool[np.ndarray, "M s s"], side: int) -> Float[np.ndarray, "M n p"]:
    """Tokens of an image: squares of side x side pixels, row by row, ink as +1 and paper as 0.

    Args:
        images: Ink.
        side: Side of a patch; 1 gives pixels.

    Returns:
        n = (s / side)^2 tokens of p = side^2 numbers, float32.

    Raises:
        InputError: The side does not divide that of the image.

    Example:
        >>> patches(np.eye(4, dtype=bool)[None], 2)[0].tolist()[0]
        [1.0, 0.0, 0.0, 1.0]
    """
    M, size, _ = images.shape
    _whole("patch", side, 1, size)
    if size % side:
        raise InputError("patch", side, f"give a divisor of {size}, the side of the image")
    split = images.reshape(M, size // side, side, size // side, side).swapaxes(2, 3)
    return np.ascontiguousarray(split.reshape(M, -1, side * side), dtype=np.float32)


def picture(
    sizes: tuple[int, ...] = SIZES, names: tuple[str, ...] = ("easy", "medium", "hard"),
    seed: int = 0,
) -> Figure:  # fmt: skip
    """Samples of every size and difficulty, one of each label; for the documentation.

    Args:
        sizes: Rows.
        names: Difficulties, two columns each.
        seed: Seed of the samples.

    Returns:
        The figure, not attached to pyplot.

    Example:
        >>> len(picture(sizes=(16,), names=("easy",)).axes)
        2
    """
    from matplotlib.figure import Figure

    fig = Figure(figsize=(2.1 * 2 * len(names), 2.3 * len(sizes)), layout="constrained")
    grid = fig.subplots(len(sizes), 2 * len(names), squeeze=False)
    for line, size in zip(grid, sizes, strict=True):
        for column, name in enumerate(names):
            drawn = pathfinder(64, difficulty_of(size, name), seed=seed)
            for label in (1, 0):
                axes = line[2 * column + 1 - label]
                index = int(np.flatnonzero(drawn.labels == label)[0])
                axes.imshow(drawn.images[index], cmap="gray_r", interpolation="nearest")
                text = "one path (1)" if label else "two paths (0)"
                axes.set_title(f"{size} x {size}, {name}\n{text}", fontsize=8)
                axes.set_xticks([])
                axes.set_yticks([])
    return fig


def _whole(field: str, value: Any, least: int, most: int) -> int:
    """`value` as an int in [least, most], or an InputError."""
    if not isinstance(value, Integral) or value is True or not least <= int(value) <= most:
        raise InputError(field, value, f"give a whole number from {least} to {most}")
    return int(value)
