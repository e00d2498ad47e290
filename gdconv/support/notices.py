"""What is said of work that takes long before it begins: at the command line, nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_TOLD: ContextVar[Callable[[str], object] | None] = ContextVar("told", default=None)


@contextmanager
def announced(say: Callable[[str], object]) -> Iterator[None]:
    """Within this block, and this thread, whoever is to wait is told, each thing once.

    Args:
        say: Says a sentence.

    Yields:
        Nothing.

    Example:
        >>> with announced(print):
        ...     announce("compiling")
        ...     announce("compiling")
        compiling
        >>> announce("compiling")
    """
    said: set[str] = set()

    def once(text: str) -> None:
        if text not in said:
            said.add(text)
            say(text)

    token = _TOLD.set(once)
    try:
        yield
    finally:
        _TOLD.reset(token)


def announce(text: str) -> None:
    """Say a sentence, where somebody wants to hear it.

    Args:
        text: The sentence.
    """
    told = _TOLD.get()
    if told is not None:
        told(text)
