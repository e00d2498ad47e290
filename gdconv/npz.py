"""Arrays of an .npz file that nobody vouches for: no pickle, no bombs, one sentence if refused."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from gdconv.errors import InputError, quoted

LARGEST_BYTES = 4 * 2**30
"""No array larger than this (4 GiB) is made or read."""

DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    RuntimeError,
    MemoryError,
    SyntaxError,
)
"""What zipfile, zlib and numpy raise on damaged, encrypted or unknown content."""


def read_arrays(
    path: Path, names: tuple[str, ...] = ("X", "y"), option: str = "data"
) -> dict[str, np.ndarray]:
    """Named arrays of an .npz; sizes and types are checked before anything large is read.

    Args:
        path: The file.
        names: Which arrays; others in the file are ignored.
        option: The option that named the file, for errors.

    Returns:
        The arrays by name, as stored: any shape, any type but Python objects.

    Raises:
        InputError: Missing, no file, unreadable, damaged, a single .npy, without one of the
            arrays, pickled objects, or more than `LARGEST_BYTES` in one array.

    Example:
        >>> read_arrays(Path("nowhere.npz"), ("X",))
        Traceback (most recent call last):
        gdconv.errors.InputError: data = nowhere.npz: no such file; give the path of an .npz with X.
    """
    wanted = f"give the path of an .npz with {', '.join(names)}"
    if not os.path.exists(path):  # unlike Path.exists, false for a name that is too long
        raise InputError(option, path, f"no such file; {wanted}")
    if not path.is_file():
        raise InputError(option, path, f"this is no file; {wanted}")
    resave = f"save it again with numpy.savez(path, {', '.join(f'{n}={n}' for n in names)})"
    try:
        with path.open("rb") as file:
            if file.read(6) == b"\x93NUMPY":
                raise InputError(option, path, f"this is a single .npy array; {resave}")
            with zipfile.ZipFile(file) as archive:
                stored = [name.removesuffix(".npy") for name in archive.namelist()]
                for name in names:
                    if name not in stored:
                        has = ", ".join(quoted(name, 40) for name in sorted(stored)[:6])
                        raise InputError(option, path, f"it holds [{has}] but no {name}; {resave}")
                return {name: _read_member(archive, name) for name in names}
    except _RefusedError as refused:
        raise InputError(option, path, str(refused)) from None
    except InputError:
        raise
    except PermissionError:
        raise InputError(option, path, "it may not be read; change its permissions") from None
    except DAMAGE:
        raise InputError(option, path, f"this is no complete .npz file; {resave}") from None


class _RefusedError(Exception):
    """An array that is whole but not wanted; its text is the remedy."""


def _read_member(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """One array of the archive, after a look at what it declares."""
    declared = archive.getinfo(f"{name}.npy").file_size
    if declared > LARGEST_BYTES:
        raise _RefusedError(f"{name} unpacks to more than 4 GiB; give fewer samples")
    with archive.open(f"{name}.npy") as stream:
        shape, dtype = _read_header(stream)
    if dtype.hasobject:
        raise _RefusedError(f"{name} holds pickled Python objects; save plain numbers instead")
    entries = 1
    for size in shape:
        entries *= int(size)
    if entries * dtype.itemsize > declared:
        raise ValueError("the header announces more than the file holds")
    with archive.open(f"{name}.npy") as stream:
        return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))


def _read_header(stream: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type that an .npy stream announces."""
    version = np.lib.format.read_magic(stream)
    old = version == (1, 0)
    read = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    return shape, dtype
