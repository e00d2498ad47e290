"""What the command line says: results on standard output, everything else on standard error."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from gdconv.support.errors import InputError, printable, quoted
from gdconv.support.notices import announced

MOST_LINE = 10_000


def show(text: str) -> None:
    """Print to standard output; a reader that has gone (`| head`) is no error, a full disk is.

    A terminal that cannot show a character, or would obey it, gets its code instead.

    Raises:
        InputError: Standard output cannot be written.
    """
    if sys.stdout is None:  # closed by the caller (>&-)
        return
    try:
        text = _encodable(printable(text), sys.stdout)
        print(text.rstrip("\n"), end="\n" if text else "", flush=True)
    except BrokenPipeError:
        _discard(sys.stdout)
    except OSError as error:
        _discard(sys.stdout)
        remedy = "give it a place that can be written"
        raise InputError("standard output", error.strerror or error, remedy) from None


def say(text: str, code: int = 0) -> int:
    """Print one line to standard error, where nothing can be done about an error; the exit code."""
    try:
        text = _encodable(f"gdconv: {quoted(text, MOST_LINE)}", sys.stderr)
        print(text, file=sys.stderr, flush=True)
    except OSError:
        _discard(sys.stderr)
    return code


@contextlib.contextmanager
def progress_told(quiet: bool) -> Iterator[Callable[[str, int, int], None] | None]:
    """A bar on standard error when that is a terminal; what takes long is said in any case."""
    if quiet:
        yield None
        return
    with announced(say), _bar() as bar:
        yield bar


@contextlib.contextmanager
def _bar() -> Iterator[Callable[[str, int, int], None] | None]:
    """A bar on standard error when that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    with tqdm(unit="step", leave=False, file=sys.stderr, dynamic_ncols=True) as bar:

        def advance(phase: str, step: int, last: int) -> None:
            bar.set_description(phase, refresh=False)
            bar.total, bar.n = last, step
            bar.refresh()

        yield advance


def _encodable(text: str, stream: Any) -> str:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _discard(stream: Any) -> None:
    """The interpreter flushes once more at exit: give it a place to write to."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
