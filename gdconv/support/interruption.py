"""Control-C where it must wait: while libraries load, a check is judged or a run is saved.

A KeyboardInterrupt in the middle of the import of torch or numba can abort the process, and one in
the middle of saving would lose what was computed.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def deferred() -> Iterator[list[int]]:
    """Control-C waits for the end of the block; pressed a second time, it does not.

    Nothing changes outside the main thread, or where SIGINT is ignored or handled by others.

    Yields:
        A list that is not empty once control-C was pressed; the caller decides what then.

    Example:
        >>> with deferred() as pressed:
        ...     signal.raise_signal(signal.SIGINT)
        ...     len(pressed)
        1
    """
    pressed: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()
    if not main or before is not signal.default_int_handler:
        yield pressed
        return

    def wait(number: int, _: Any) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)

    signal.signal(signal.SIGINT, wait)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def forget() -> None:
    """Let a control-C that was caught not decide how `python -m` ends.

    CPython notes a KeyboardInterrupt that leaves the exec of a string, as dataclasses and numba use
    it, and at its end dies of SIGINT whatever the exit code; another exec takes the note back.

    Example:
        >>> forget()
    """
    exec("")
