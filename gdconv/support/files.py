"""Folders to write into: refused before anything is computed, gone when nothing was written."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from gdconv.support.errors import InputError

ROOM = 64
"""Length of a run's folder, half written, with the name of a file in it."""


def folder_path(field: str, path: Any) -> Path:
    """A path whose type nobody has checked.

    Args:
        field: Option or argument that gave it, for errors.
        path: Text or a path.

    Returns:
        The path.

    Raises:
        InputError: Something else, nothing at all, or text that no path can hold or reach.

    Example:
        >>> folder_path("out", None)
        Traceback (most recent call last):
        gdconv.support.errors.InputError: out = None: give the path of a folder.
    """
    if not isinstance(path, str | os.PathLike) or "\0" in str(path) or not str(path).strip():
        raise InputError(field, path, "give the path of a folder")
    try:
        os.lstat(path)
    except UnicodeEncodeError:
        raise InputError(field, path, "give the path of a folder") from None
    except OSError as error:  # that it is not there is for the caller to judge
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            remedy = f"give a path that can be reached ({error.strerror or error})"
            raise InputError(field, path, remedy) from None
    return Path(path)


def require_working_directory() -> None:
    """Refuse to start in a folder that was deleted: the libraries end the process there.

    Raises:
        InputError: The working directory is gone.

    Example:
        >>> require_working_directory()
    """
    try:
        os.getcwd()
    except OSError:
        remedy = "change to a folder that exists"
        raise InputError("working directory", "a folder that was deleted", remedy) from None


def require_writable(directory: str | Path) -> None:
    """Refuse an output folder that cannot be made or written, before anything is computed.

    Args:
        directory: The output folder; it need not exist and is not created.

    Raises:
        InputError: A parent is a file or is not writable.

    Example:
        >>> require_writable(tempfile.mkdtemp())
    """
    require_working_directory()
    place = folder_path("out", directory).absolute()
    _require_short(place, directory)
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise InputError("out", directory, "choose a folder; this path runs into a file")
    try:  # permissions alone do not tell: root has all of them, and /proc takes no file
        os.rmdir(tempfile.mkdtemp(prefix=".gdconv.", dir=place))
    except OSError as error:
        remedy = f"choose a folder that you may write to ({error.strerror or error})"
        raise InputError("out", directory, remedy) from error


def _require_short(place: Path, directory: str | Path) -> None:
    """Lengths of the names of folders that are not there: nobody looks before they are made."""
    there = next(p for p in (place, *place.parents) if os.path.lexists(p))
    limits = dict.fromkeys(("PC_NAME_MAX", "PC_PATH_MAX"), 255)
    for name in limits:
        with contextlib.suppress(OSError, AttributeError, ValueError):  # not on every system
            limits[name] = os.pathconf(there, name)
    longest = max(len(os.fsencode(part)) for part in place.parts)
    whole = len(os.fsencode(place)) + ROOM
    if longest > limits["PC_NAME_MAX"] or whole > max(limits["PC_PATH_MAX"], 255):
        raise InputError("out", directory, "give a shorter path: no folder can have this name")


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


@contextlib.contextmanager
def replaced(place: Path) -> Iterator[BinaryIO]:
    """A hidden file that becomes `place` when the body ends without error, else vanishes.

    Args:
        place: The file to write; a process killed meanwhile leaves the one before.

    Yields:
        The file to write to.

    Example:
        >>> place = Path(tempfile.mkdtemp()) / "a"
        >>> with contextlib.suppress(KeyError), replaced(place) as stream:
        ...     raise KeyError
        >>> list(place.parent.iterdir())
        []
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    handle, half = tempfile.mkstemp(prefix=f".{place.name}.", dir=place.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
        os.replace(half, place)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(half)
        raise


OLD = 24 * 3600
"""Seconds after which a folder half written is nobody's any more, whoever wrote it."""

HALF = re.compile(r"\.(?:gdconv|[0-9a-f]{12}(?:-[0-9a-f]{6})?)\.(?:([0-9a-f]{8})\.(\d+)\.)?[^.]+")
"""Name of a folder that is being written, with where its process runs and its number."""


@contextlib.contextmanager
def replacing(place: Path, whole: Callable[[Path], bool], files: Collection[str]) -> Iterator[Path]:
    """A hidden sibling that becomes `place` when the body ends without error, else vanishes.

    Siblings of writers that were killed are swept up first.

    Args:
        place: The folder to make.
        whole: Whether a folder is complete: another process may have finished the same one first.
        files: Names of the files that such folders hold.

    Yields:
        The sibling.

    Raises:
        OSError: It cannot be written, or something incomplete has its place.

    Example:
        >>> place = Path(tempfile.mkdtemp()) / "0123456789ab"
        >>> with replacing(place, Path.is_dir, ()) as half:
        ...     place.exists()
        False
        >>> place.exists(), half.exists()
        (True, False)
    """
    sweep(place.parent, files)
    mark = f".{place.name}.{_machine()}.{os.getpid()}."
    half = Path(tempfile.mkdtemp(prefix=mark, dir=place.parent))
    try:
        yield half
        half.chmod(0o755)  # mkdtemp's 0700 would hide the run from a group
        try:
            half.rename(place)
        except OSError:
            if not whole(place):
                raise
    finally:
        shutil.rmtree(half, ignore_errors=True)


def sweep(directory: Path, files: Collection[str]) -> int:
    """Remove what killed writers left in a folder: their process is gone, or they are a day old.

    Args:
        directory: The folder.
        files: Names of the files that a leftover may hold; with another one it is left alone.

    Returns:
        How many leftovers were removed.

    Example:
        >>> sweep(Path(tempfile.mkdtemp()), ())
        0
    """
    swept = 0
    for half in directory.glob(".*"):
        with contextlib.suppress(OSError):  # another process sweeps too
            if _left(half, files):
                shutil.rmtree(half)
                swept += 1
    return swept


def _left(half: Path, files: Collection[str]) -> bool:
    """Whether a path is a folder of ours that nobody writes any more."""
    found = HALF.fullmatch(half.name)
    if not found or half.is_symlink() or not half.is_dir():
        return False
    held = list(half.iterdir())
    if not {path.name for path in held} <= set(files):
        return False
    machine, process = found.groups()
    if machine == _machine() and os.name == "posix":
        try:
            os.kill(int(process), 0)  # asks only
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):
            pass
    return time.time() - max(path.stat().st_mtime for path in (half, *held)) > OLD


def _machine() -> str:
    """Where a process number means what it means here: this machine since its start, container."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text("ascii"))
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:8]
