"""What the command line says: results on standard output, everything else on standard error."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

from gdconv.support.errors import InputError, printable, quoted

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


def _encodable(text: str, stream: Any) -> str:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _discard(stream: Any) -> None:
    """The interpreter flushes once more at exit: give it a place to write to."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
