"""Loading without collecting garbage: what modules make is none."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected(for_good: bool = False) -> Iterator[None]:
    """Within this block no garbage is collected: looking for it among modules takes long.

    torch and numba make a million objects that stay; to look through them again and again is a
    fifth of the time that a short check takes as a process.

    Args:
        for_good: What is there at the end of the block is never looked through; for a process of
            our own, since it keeps whatever is in a circle then.

    Yields:
        Nothing.

    Example:
        >>> with uncollected():
        ...     gc.isenabled()
        False
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if for_good:
            gc.freeze()
        if collecting:
            gc.enable()
