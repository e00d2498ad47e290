"""Pathfinder: labels against an independent path follower, no shortcut to them, determinism."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from scipy.ndimage import binary_erosion
from scipy.ndimage import label as components
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from experiments.tasks.pathfinder import (
    DIFFICULTIES,
    Difficulty,
    PathfinderImages,
    difficulty_of,
    patches,
    pathfinder,
    picture,
)
from gdconv.report.figures import save_figure
from gdconv.support.errors import InputError


def disc(radius: int) -> np.ndarray:
    """The marker's shape, by its definition."""
    a = np.abs(np.arange(-radius, radius + 1))
    return a[:, None] + a[None] <= radius + 1


def markers(image: np.ndarray, radius: int) -> np.ndarray:
    """Centres of the discs in an image, found by erosion."""
    return np.argwhere(binary_erosion(image, disc(radius)))


def follow(image: np.ndarray, radius: int, reach: int) -> int:
    """The label, from pixels alone: are the two discs connected by steps of at most `reach`?"""
    ink = np.argwhere(image)
    ends = markers(image, radius)
    assert len(ends) == 2
    pairs = cKDTree(ink).query_pairs(reach, p=np.inf, output_type="ndarray")
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=[len(ink)] * 2)
    part = connected_components(graph, directed=False)[1]
    at = {tuple(p): c for p, c in zip(ink, part, strict=True)}
    return int(at[tuple(ends[0])] == at[tuple(ends[1])])


def followed(drawn: PathfinderImages, difficulty: Difficulty, reach: int) -> np.ndarray:
    """The follower's labels of all images."""
    return np.array([follow(image, difficulty.radius, reach) for image in drawn.images])


@pytest.mark.parametrize(("size", "name"), DIFFICULTIES)
def test_labels_agree_with_a_path_follower(size: int, name: str) -> None:
    """1,000 images in the sum: 112 of each of nine kinds."""
    difficulty = difficulty_of(size, name)
    drawn = pathfinder(112, difficulty, seed=3)
    assert (followed(drawn, difficulty, difficulty.gap + 1) == drawn.labels).all()


@pytest.mark.parametrize("change", [-1, 1])
def test_a_follower_with_the_wrong_reach_is_caught(change: int) -> None:
    """Control: steps of gap lose the path, steps of gap + 2 sometimes jump to another."""
    difficulty = difficulty_of(16, "hard")
    drawn = pathfinder(200, difficulty, seed=3)
    seen = followed(drawn, difficulty, difficulty.gap + 1 + change)
    wrong = (seen != drawn.labels).mean()
    assert wrong > (0.4 if change < 0 else 0.01)


def test_other_options_keep_the_labels_right() -> None:
    for changes in ({"gap": 3, "dashes": 3}, {"bend": 1.2}, {"dash": 5, "dashes": 2}, {"gap": 0}):
        difficulty = difficulty_of(32, "easy", **changes)
        drawn = pathfinder(40, difficulty, seed=1)
        assert (followed(drawn, difficulty, difficulty.gap + 1) == drawn.labels).all()


def test_markers_stand_where_it_is_said() -> None:
    drawn = pathfinder(100, difficulty_of(64, "medium"), seed=2)
    for image, ends in zip(drawn.images, drawn.ends, strict=True):
        assert {tuple(p) for p in markers(image, 2)} == {tuple(p) for p in ends}


def test_the_number_of_paths_is_right() -> None:
    """Two long paths and the distractors are that many separate pieces when gaps are closed."""
    difficulty = difficulty_of(32, "medium", gap=0)
    drawn = pathfinder(50, difficulty, seed=4)
    counts = {components(image, np.ones((3, 3)))[1] for image in drawn.images}
    assert counts == {2 + difficulty.distractors}


def cues(drawn: PathfinderImages) -> dict[str, np.ndarray]:
    """What the markers' place alone tells, and the amount of ink; one number per image."""
    ends = drawn.ends - (drawn.difficulty.size - 1) / 2
    offset = np.abs(ends[:, 0] - ends[:, 1])
    return {
        "distance": np.hypot(*offset.T),
        "direction": np.abs(np.arctan2(*offset.T) - np.pi / 4),
        "middle": np.abs(ends.mean(axis=1)).max(axis=1),
        "nearer end": np.abs(ends).max(axis=2).min(axis=1),
        "farther end": np.abs(ends).max(axis=2).max(axis=1),
    }


def told(drawn: PathfinderImages) -> dict[str, float]:
    """Per cue the two-sample statistic between the labels, over its 99.99 % point under chance."""
    one = drawn.labels == 1
    bar = 2.23 * np.sqrt(1 / one.sum() + 1 / (~one).sum())  # sqrt(-ln(p/2)/2), p = 1e-4
    return {
        cue: float(stats.ks_2samp(value[one], value[~one]).statistic / bar)
        for cue, value in cues(drawn).items()
    }


@pytest.mark.parametrize(("size", "name"), [(16, "easy"), (16, "hard"), (32, "medium")])
def test_the_markers_do_not_tell_the_label(size: int, name: str) -> None:
    """Labels are fair coins, equal in law of every cue; the ink differs by less than 2 %."""
    drawn = pathfinder(6000, difficulty_of(size, name), seed=0)
    one = drawn.labels == 1
    assert abs(one.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(one))
    assert max(told(drawn).values()) < 1
    ink = drawn.images.sum(axis=(1, 2))
    assert abs(ink[one].mean() / ink[~one].mean() - 1) < 0.02


def test_a_planted_shortcut_is_seen() -> None:
    """Control: label 0 with markers where longer paths end."""
    near, far = (pathfinder(2000, difficulty_of(16, name), seed=0) for name in ("easy", "medium"))
    one = near.labels == 1
    ends = np.where(one[:, None, None], near.ends, far.ends)
    assert told(replace(near, ends=ends))["distance"] > 2


def test_an_image_depends_on_seed_and_number_only() -> None:
    whole = pathfinder(20, seed=7)
    part = pathfinder(5, seed=7, first=11)
    assert (whole.images[11:16] == part.images).all()
    assert (whole.labels[11:16] == part.labels).all()
    other = pathfinder(20, seed=8)
    assert (whole.images != other.images).any(axis=(1, 2)).all()


def test_the_numbers_are_the_same_on_every_machine() -> None:
    """Pins the generator: a change of it makes all committed results another data set."""
    drawn = pathfinder(64, difficulty_of(16, "medium"), seed=0)
    code = int(np.packbits(drawn.images).astype(np.int64) @ np.arange(2048)) % 1_000_003
    assert (code, int(drawn.labels.sum())) == PINNED


PINNED = (775086, 33)


def test_patches_hold_the_image() -> None:
    images = np.arange(36).reshape(1, 6, 6) % 5 == 0
    tokens = patches(images, 3)
    assert tokens.shape == (1, 4, 9)
    assert (tokens[0, 1].reshape(3, 3) == images[0, :3, 3:]).all()
    assert (tokens[0, 2].reshape(3, 3) == images[0, 3:, :3]).all()


def test_picture_is_drawn(tmp_path: Path) -> None:
    files = save_figure(picture(sizes=(16, 32), names=("easy", "hard")), tmp_path / "samples")
    assert all(file.stat().st_size > 2000 for file in files)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: difficulty_of(17), "size = 17: give 16, 32 or 64"),
        (lambda: difficulty_of(16, "heroic"), "difficulty = heroic"),
        (lambda: difficulty_of(16, "easy", colour=1), "difficulty = colour: change one of dashes"),
        (lambda: difficulty_of(16, "easy", size=9), "difficulty = size"),
        (lambda: difficulty_of(16, "easy", dashes=0), "dashes = 0: give a whole number"),
        (lambda: difficulty_of(16, "easy", bend=-1.0), "bend = -1.0: give an angle"),
        (lambda: pathfinder(0), "samples = 0"),
        (lambda: pathfinder(1, seed=-1), "seed = -1"),
        (lambda: pathfinder(1, difficulty_of(16, "hard", dashes=16)), "do not fit into 16"),
        (lambda: patches(np.ones((1, 6, 6), bool), 4), "patch = 4: give a divisor of 6"),
    ],
)
def test_bad_input_is_one_sentence(act: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        act()  # type: ignore[operator]
