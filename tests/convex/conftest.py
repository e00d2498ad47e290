"""The data of the theory page and random programs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Page(NamedTuple):
    """N = 6, n = 4, d = 3 Gaussian data of docs/theory/convex-attention.md, in the order drawn."""

    X: Array
    y: Array
    Y: Array
    U_1: Array
    U_2: Array


@pytest.fixture(scope="session")
def page() -> Page:
    draw = np.random.default_rng(1).standard_normal
    return Page(draw((6, 4, 3)), draw(6), draw((6, 2)), draw((3, 4)), draw((3, 3)))
