"""Compiled drawing of Pathfinder images: non-crossing dashed paths on a pixel grid.

The random numbers are splitmix64 of (seed, image), integers only, so that an image is the same on
every machine and does not depend on which others are drawn with it.
"""

from __future__ import annotations

from math import cos, floor, pi, sin

import numpy as np

from gdconv.compiled.cache import njit

_jit = njit(nogil=True)

_STRIDE = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)

TURNS = 6
"""Headings tried at a step before a path is given up."""

PATH_TRIES = 40
"""Starts tried for one path before the image is begun anew."""

PAIR_TRIES = 20
"""Layouts tried from two given ends before the image is begun anew."""

IMAGE_TRIES = 2000
"""Beginnings of one image before the options are called too crowded."""


@_jit
def _mix(z):
    """The finaliser of splitmix64."""
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))


@_jit
def _uniform(state):
    """The next number in [0, 1); 53 bits."""
    state[0] += _STRIDE
    return float(_mix(state[0]) >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@_jit
def _in_disc(a, b, radius):
    """Offsets of a marker: a square of side 3 for radius 1, with the corners cut above that."""
    return abs(a) <= radius and abs(b) <= radius and abs(a) + abs(b) <= radius + 1


@_jit
def _free_disc(taken, y, x, radius):
    """Whether a marker at (y, x) is inside and touches no reserved pixel."""
    size = taken.shape[0]
    for a in range(-radius, radius + 1):
        for b in range(-radius, radius + 1):
            if _in_disc(a, b, radius):
                i, j = y + a, x + b
                if i < 0 or j < 0 or i >= size or j >= size or taken[i, j]:
                    return False
    return True


@_jit
def _reserve(taken, y, x, reach):
    """Reserve every pixel within Chebyshev distance `reach`."""
    size = taken.shape[0]
    for i in range(max(0, y - reach), min(size, y + reach + 1)):
        for j in range(max(0, x - reach), min(size, x + reach + 1)):
            taken[i, j] = True


@_jit
def _clear(pixels, t, y, x, gap):
    """Whether (y, x) keeps away from the older part of its own path."""
    for s in range(t - gap - 3):
        if max(abs(pixels[s, 0] - y), abs(pixels[s, 1] - x)) <= gap + 1:
            return False
    return True


@_jit
def _walk(state, taken, pixels, length, bend, gap, radius, given):
    """One attempt at a path, from anywhere or from pixels[0]; radius > 0 keeps room for markers."""
    size = taken.shape[0]
    y, x = _uniform(state) - 0.5, _uniform(state) - 0.5
    y, x = (y + pixels[0, 0], x + pixels[0, 1]) if given else ((y + 0.5) * size, (x + 0.5) * size)
    i, j = (pixels[0, 0], pixels[0, 1]) if given else (int(y), int(x))
    if not given:
        y, x = y - 0.5, x - 0.5
    angle, turn = 2 * pi * _uniform(state), 0.0
    if taken[i, j] or (radius > 0 and not _free_disc(taken, i, j, radius)):
        return False
    pixels[0, 0], pixels[0, 1] = i, j
    t = 1
    while t < length:
        moved = False
        for attempt in range(TURNS):
            # Later attempts turn harder: a path may bend away from what is in its way.
            new_turn = 0.7 * turn + bend * (1.0 + attempt) * (2.0 * _uniform(state) - 1.0)
            new_y, new_x = y + sin(angle + new_turn), x + cos(angle + new_turn)
            i, j = floor(new_y + 0.5), floor(new_x + 0.5)
            if i < 0 or j < 0 or i >= size or j >= size or taken[i, j]:
                continue
            if not _clear(pixels, t, i, j, gap):
                continue
            y, x, angle, turn, moved = new_y, new_x, angle + new_turn, new_turn, True
            break
        if not moved:
            return False
        if i != pixels[t - 1, 0] or j != pixels[t - 1, 1]:
            pixels[t, 0], pixels[t, 1] = i, j
            t += 1
    return radius == 0 or _free_disc(taken, i, j, radius)


@_jit
def _place(state, taken, pixels, length, bend, gap, radius, given):
    """A path beside those reserved already, reserved in turn; False where none was found."""
    for _ in range(PATH_TRIES):
        if _walk(state, taken, pixels, length, bend, gap, radius, given):
            for t in range(length):
                _reserve(taken, pixels[t, 0], pixels[t, 1], gap + 1)
            if radius > 0:
                _reserve(taken, pixels[0, 0], pixels[0, 1], gap + 1 + radius)
                _reserve(taken, pixels[length - 1, 0], pixels[length - 1, 1], gap + 1 + radius)
            return True
    return False


@_jit
def _layout(state, long, short, sizes, bend, given):
    """Both long paths, from anywhere or from their given first pixels, and the distractors."""
    gap, length, others, other_length, radius, size = sizes
    taken = np.zeros((size, size), np.bool_)
    for path in range(2):
        if not _place(state, taken, long[path], length, bend, gap, radius, given):
            return False
    for o in range(others):
        if not _place(state, taken, short[o], other_length, bend, gap, 0, False):
            return False
    return True


@_jit
def _pair(state, long, short, sizes, bend):
    """Layouts of both labels, long[label], with the same two marked pixels; False if none."""
    # long[1, 0] has them as its ends; long[0, 0] and long[0, 1] start there. Both layouts exist
    # before the label is drawn, so the markers do not tell it.
    if not _layout(state, long[1], short[1], sizes, bend, False):
        return False
    length = sizes[1]
    for _ in range(PAIR_TRIES):
        for axis in range(2):
            long[0, 0, 0, axis] = long[1, 0, 0, axis]
            long[0, 1, 0, axis] = long[1, 0, length - 1, axis]
        if _layout(state, long[0], short[0], sizes, bend, True):
            return True
    return False


@_jit
def _ink(image, pixels, length, dash, gap):
    """Dashes of a path; it begins and ends with one."""
    for t in range(length):
        if t % (dash + gap) < dash:
            image[pixels[t, 0], pixels[t, 1]] = True


@_jit
def _mark(image, y, x, radius):
    """The disc at an endpoint."""
    for a in range(-radius, radius + 1):
        for b in range(-radius, radius + 1):
            if _in_disc(a, b, radius):
                image[y + a, x + b] = True


@_jit
def _draw(state, image, ends, sizes, bend):
    """One image; its label, or -1 where no layout was found."""
    dash, gap, length, others, other_length, radius = sizes
    layout = (gap, length, others, other_length, radius, image.shape[0])
    long = np.zeros((2, 2, length, 2), np.int64)
    short = np.zeros((2, max(1, others), other_length, 2), np.int64)
    for _ in range(IMAGE_TRIES):
        if not _pair(state, long, short, layout, bend):
            continue
        label = 1 if _uniform(state) < 0.5 else 0
        for path in range(2):
            _ink(image, long[label, path], length, dash, gap)
        for o in range(others):
            _ink(image, short[label, o], other_length, dash, gap)
        for axis in range(2):
            ends[0, axis], ends[1, axis] = long[0, 0, 0, axis], long[0, 1, 0, axis]
        for end in range(2):
            _mark(image, ends[end, 0], ends[end, 1], radius)
        return label
    return -1


@_jit
def draw_images(images, labels, ends, seed, first, sizes, bend):
    """Fill images (M, size, size) and labels (M,) and the marked ends (M, 2, 2).

    Args:
        images: Zeros, bool.
        labels: Int64; -1 where no layout was found.
        ends: Int64, row and column of the two marked ends.
        seed: Seed, uint64.
        first: Number of the first image, uint64.
        sizes: dash, gap, length, distractors, their length, marker radius.
        bend: Largest change of direction per pixel, radians.
    """
    state = np.zeros(1, np.uint64)
    for m in range(images.shape[0]):
        state[0] = _mix(_mix(seed + _STRIDE) ^ (first + np.uint64(m)))
        labels[m] = _draw(state, images[m], ends[m], sizes, bend)
