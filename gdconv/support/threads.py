"""One thread: small matrices with several can be a thousand times slower on a busy machine.

The number of threads belongs to the process (BLAS, MKL, what torch gives a new thread), and with
OpenMP to each thread as well. Checks in several threads overlap in any order, so the limit is
counted: the first that comes sets it, the last that leaves takes it back.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from threadpoolctl import ThreadpoolController

Counts = list[tuple[Any, int]]
"""Libraries, each with a number of threads."""


@lru_cache(maxsize=1)
def _found(modules: int) -> list[Any]:
    return list(ThreadpoolController().lib_controllers)


def libraries() -> list[Any]:
    """The loaded libraries; looking for them takes milliseconds, so only after an import."""
    return _found(len(sys.modules))


def _counts(per_thread: bool) -> Counts:
    """Libraries whose number belongs to the calling thread, or the others, with it."""
    found = []
    for library in libraries():
        own = "openmp" in (library.user_api, getattr(library, "threading_layer", ""))
        if own == per_thread:
            found.append((library, library.num_threads))
    return found


def _set(counts: Counts) -> None:
    """Every library to its number.

    From 3.8 on threadpoolctl lets one thread set OpenBLAS and ignores the others without a word;
    here the one that sets and the one that takes back need not be the same.
    """
    for library, number in counts:
        release = getattr(type(library), "clear_controlling_thread", None)
        if release:
            release(force=True)
        library.set_num_threads(number)
        if release:
            release(force=True)


def _of_process() -> int:
    """The number that torch gives to a thread it meets for the first time."""
    found: list[int] = []
    fresh = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    fresh.start()
    fresh.join()
    return found[0]


class _Limit:
    """Who is inside, and what to go back to."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.depths: dict[int, int] = {}
        self.own: dict[int, tuple[int, Counts]] = {}
        self.shared = Counts()
        self.torch = 0
        self.ever = False

    def enter(self) -> int:
        """One thread for BLAS, for torch and for whatever the calling thread does with OpenMP.

        Returns:
            The thread, for `leave`.
        """
        me = threading.get_ident()
        with self.lock:
            if me not in self.depths:
                mine = torch.get_num_threads()
                if mine == 1 and self.ever:  # it may have met torch while others were inside
                    mine = self.torch or _of_process()
                if not self.depths:
                    self.shared = _counts(per_thread=False)
                    _set([(library, 1) for library, _ in self.shared])
                counts = _counts(per_thread=True)
                self.own[me] = mine, counts
                _set([(library, 1) for library, _ in counts])
                if mine > 1:  # a process with one thread is left alone
                    self.torch, self.ever = self.torch or mine, True
                    torch.set_num_threads(1)
            self.depths[me] = self.depths.get(me, 0) + 1
        return me

    def leave(self, me: int) -> None:
        """Back to what was: for a thread when it leaves, for the process with the last one.

        Args:
            me: What `enter` returned.
        """
        with self.lock:
            self.depths[me] -= 1
            if self.depths[me]:
                return
            del self.depths[me]
            mine, counts = self.own.pop(me)
            if not self.depths:
                if self.torch:
                    torch.set_num_threads(self.torch)
                    self.torch = 0
                _set(self.shared)
            _set(counts)
            if torch.get_num_threads() != mine:  # torch itself would set it for the whole process
                _set([(library, mine) for library, _ in counts])


_limit = _Limit()


@contextmanager
def one_thread() -> Iterator[None]:
    """BLAS and torch with one thread inside the block, as before after it.

    Blocks may stand in one another and overlap in several threads.

    Yields:
        Nothing.

    Example:
        >>> with one_thread():
        ...     torch.get_num_threads()
        1
    """
    me = _limit.enter()
    try:
        yield
    finally:
        _limit.leave(me)
