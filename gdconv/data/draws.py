"""What the sources of data share: random streams, whole numbers, the UCI digits."""

from __future__ import annotations

from functools import lru_cache
from numbers import Integral
from typing import Any

import numpy as np

from gdconv.support.errors import InputError

TOKEN_NORM_SQUARED = 4.0
"""Mean squared token norm of a digits problem."""


STREAMS = {"gaussian": 1, "digits": 2, "orthonormal": 3}
"""Separate random streams, so that a seed used elsewhere does not repeat the data's numbers."""


def whole(field: str, value: Any, least: int = 1) -> int:
    """A whole number that a caller gave.

    Args:
        field: Its name, for the sentence.
        value: What was given.
        least: Smallest that will do.

    Returns:
        The value as an int.

    Raises:
        InputError: No whole number, or too small a one.

    Example:
        >>> whole("samples", 2.5)
        Traceback (most recent call last):
        gdconv.support.errors.InputError: samples = 2.5: give a whole number of at least 1.
    """
    if type(value) is bool or not isinstance(value, Integral) or value < least:
        raise InputError(field, value, f"give a whole number of at least {least}")
    return int(value)


def stream(name: str, seed: int) -> np.random.Generator:
    """The random numbers of a source of data.

    Args:
        name: A key of `STREAMS`.
        seed: Seed.

    Returns:
        A generator that no other source shares.

    Raises:
        InputError: The seed is no whole number of at least 0.

    Example:
        >>> bool(stream("gaussian", 0).random() == stream("digits", 0).random())
        False
    """
    return np.random.default_rng([STREAMS[name], whole("seed", seed, least=0)])


@lru_cache(maxsize=1)
def digit_images() -> tuple[np.ndarray, np.ndarray]:
    """The UCI digits.

    Returns:
        Pixels in [0, 1], shape (1797, 8, 8), and the digits 0..9.

    Example:
        >>> digit_images()[0].shape
        (1797, 8, 8)
    """
    from sklearn.datasets import load_digits  # only when asked for: it takes a second to import

    bunch: Any = load_digits()
    return bunch.images / 16.0, bunch.target
