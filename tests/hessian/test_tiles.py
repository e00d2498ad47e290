"""Placing a piece of a symmetric matrix and its mirror image."""

from __future__ import annotations

import numpy as np
import pytest

from gdconv.compiled.tiles import place
from gdconv.hessian.dense import aligned


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    "piece", [(0, 8, 8, 16), (3, 21, 5, 40), (8, 16, 0, 64), (16, 3, 1, 63), (0, 64, 0, 64)]
)
def test_only_the_piece_and_its_mirror_image_change(
    piece: tuple[int, int, int, int], streaming: bool
) -> None:
    row, rows, col, cols = piece
    full = np.random.default_rng(0).standard_normal((64, 64))
    full = full + full.T
    out = aligned(64).numpy()
    assert out.ctypes.data % 64 == 0
    out[:] = np.nan
    stride = cols + 5
    part = np.full(7 + rows * stride, np.inf)
    for i in range(rows):
        part[7 + i * stride : 7 + i * stride + cols] = full[row + i, col : col + cols]
    place(out, part, 7, stride, row, rows, col, cols, streaming)
    wanted = np.zeros((64, 64), dtype=bool)
    wanted[row : row + rows, col : col + cols] = True
    wanted &= np.triu(np.ones((64, 64), dtype=bool))
    wanted |= wanted.T
    assert np.array_equal(np.isfinite(out), wanted)
    assert np.array_equal(out[wanted], full[wanted])
