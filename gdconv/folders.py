"""Folders to write into: refused before anything is computed, gone when nothing was written."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gdconv.errors import InputError


def folder_path(field: str, path: Any) -> Path:
    """A path whose type nobody has checked.

    Args:
        field: Option or argument that gave it, for errors.
        path: Text or a path.

    Returns:
        The path.

    Raises:
        InputError: Something else, nothing at all, or text that no path can hold.

    Example:
        >>> folder_path("out", None)
        Traceback (most recent call last):
        gdconv.errors.InputError: out = None: give the path of a folder.
    """
    if not isinstance(path, str | os.PathLike) or "\0" in str(path) or not str(path).strip():
        raise InputError(field, path, "give the path of a folder")
    return Path(path)


def require_writable(directory: str | Path) -> None:
    """Refuse an output folder that cannot be made or written, before anything is computed.

    Args:
        directory: The output folder; it need not exist and is not created.

    Raises:
        InputError: A parent is a file or is not writable.

    Example:
        >>> require_writable(tempfile.mkdtemp())
    """
    place = folder_path("out", directory).absolute()
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise InputError("out", directory, "choose a folder; this path runs into a file")
    try:  # permissions alone do not tell: root has all of them, and /proc takes no file
        os.rmdir(tempfile.mkdtemp(prefix=".gdconv.", dir=place))
    except OSError as error:
        remedy = f"choose a folder that you may write to ({error.strerror or error})"
        raise InputError("out", directory, remedy) from error


@contextlib.contextmanager
def made(directory: Path) -> Iterator[None]:
    """A folder that exists in the body; what was created for it vanishes again with an error.

    Args:
        directory: The folder.

    Yields:
        Nothing.

    Example:
        >>> place = Path(tempfile.mkdtemp()) / "a" / "b"
        >>> with contextlib.suppress(KeyError), made(place):
        ...     raise KeyError
        >>> place.parent.exists()
        False
    """
    missing = [p for p in (directory, *directory.parents) if not p.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # another process has put something there
            for folder in missing:
                folder.rmdir()
        raise
