"""Arrays of an .npz file that nobody vouches for: no pickle, no bombs, one sentence if refused."""

from __future__ import annotations

import difflib
import io
import os
import warnings
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from gdconv.support.errors import InputError, quoted

LARGEST_BYTES = 4 * 2**30
"""No array larger than this (4 GiB) is made or read."""

LONGEST_HEADER = 10_000
"""Bytes of an array's header; those of plain arrays have 118."""

WEIGHTS = ("W_Q", "W_K", "W_V", "W_O", "w_O")
"""Names of weights; a file of data has none."""


def read_arrays(
    path: Path,
    names: tuple[str, ...] = ("X", "y"),
    option: str = "data",
    optional: tuple[str, ...] = (),
) -> dict[str, np.ndarray]:
    """Named arrays of an .npz; sizes and types are checked before anything large is read.

    Args:
        path: The file.
        names: Which arrays; a file with others is refused, for nobody would read them.
        option: The option that named the file, for errors.
        optional: Further arrays that may be there.

    Returns:
        The arrays by name, as stored: any shape, any type but Python objects.

    Raises:
        InputError: Missing, no file, unreadable, damaged, a single .npy, without one of the
            arrays or with others, pickled objects, or more than `LARGEST_BYTES` in one array.

    Example:
        >>> read_arrays(Path("nowhere.npz"), ("X",))
        Traceback (most recent call last):
        gdconv.support.errors.InputError: data = nowhere.npz: no such file; give the path of an .npz
        with X.
    """
    wanted = f"give the path of an .npz with {', '.join(names)}"
    if not os.path.exists(path):  # unlike Path.exists, false for a name that is too long
        raise InputError(option, path, f"no such file; {wanted}")
    if not path.is_file():
        raise InputError(option, path, f"this is no file; {wanted}")
    resave = f"save it again with numpy.savez(path, {', '.join(f'{n}={n}' for n in names)})"
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Python's parser thinks of a header
            return _read_archive(file, names, optional, option, resave)
    except _RefusedError as refused:
        raise InputError(option, path, str(refused)) from None
    except PermissionError:
        raise InputError(option, path, "it may not be read; change its permissions") from None
    except Exception:  # zipfile, zlib and numpy's parser raise a dozen kinds on damaged content
        raise InputError(option, path, f"this is no complete .npz file; {resave}") from None


def read_members(path: Path) -> dict[str, np.ndarray]:
    """Every array of a file that gdconv wrote, whatever their names.

    Args:
        path: The file.

    Returns:
        The arrays by name.

    Raises:
        ValueError: Damaged, pickled objects, or more than `LARGEST_BYTES` in one array.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/a.npz", X=np.zeros(2), y=np.ones(3))
        ...     list(read_members(Path(folder, "a.npz")))
        ['X', 'y']
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.namelist()
        names = tuple(member.removesuffix(".npy") for member in members)
    try:
        return read_arrays(path, names)
    except InputError as error:
        raise ValueError(f"{path.name}: {error.remedy.split(';')[0]}") from None


class _RefusedError(Exception):
    """An array that is whole but not wanted; its text is the remedy."""


def _read_archive(
    file: BinaryIO, names: tuple[str, ...], optional: tuple[str, ...], option: str, resave: str
) -> dict[str, np.ndarray]:
    """The arrays of an open file."""
    if file.read(6) == b"\x93NUMPY":
        raise _RefusedError(f"this is a single .npy array; {resave}")
    with zipfile.ZipFile(file) as archive:
        members = archive.namelist()
        names += tuple(name for name in optional if f"{name}.npy" in members)
        _require_names(members, names, option, resave)
        return {name: _read_member(archive, name) for name in names}


def _require_names(members: list[str], names: tuple[str, ...], option: str, resave: str) -> None:
    """The archive holds the arrays of these names and nothing else, each once."""
    stored = Counter(member.removesuffix(".npy") for member in members)
    has = ", ".join(quoted(name, 40) for name in sorted(stored)[:6])
    twice = [name for name, count in stored.items() if count > 1]
    if twice:
        raise _RefusedError(f"it holds {quoted(twice[0], 40)} twice; {resave}")
    missing = [name for name in names if name not in stored]
    others = [name for name in stored if name not in names]
    for name in others:
        near = _meant(name, missing)
        if near and name not in WEIGHTS:  # else it is a name, that of another model
            raise _RefusedError(f"it holds {quoted(name, 40)}: did you mean {near}; {resave}")
    if missing:
        raise _RefusedError(f"it holds [{has}] but no {missing[0]}; {resave}")
    for name in others:
        if option == "data" and name in WEIGHTS:
            raise _RefusedError(f"it holds weights, {name}; give such a file to --problem")
        near = _meant(name, names)
        hint = f"did you mean {near}; " if near else ""
        raise _RefusedError(f"it holds {quoted(name, 40)}, which nothing reads; {hint}{resave}")
    for member in members:
        if not member.endswith(".npy"):
            raise _RefusedError(f"its member {quoted(member, 40)} is no .npy array; {resave}")


def _meant(name: str, known: Any) -> str | None:
    """The known name that a name was probably meant to be."""
    same = [k for k in known if k.lower() == name.lower()]
    near = same or difflib.get_close_matches(name[:40], known, n=1, cutoff=0.6)
    return near[0] if near else None


def _read_member(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """One array of the archive, after a look at what it declares."""
    declared = archive.getinfo(f"{name}.npy").file_size
    if declared > LARGEST_BYTES:
        raise _RefusedError(f"{name} unpacks to more than 4 GiB; give fewer samples")
    with archive.open(f"{name}.npy") as stream:
        shape, dtype, length = _read_header(stream)
    if dtype.hasobject:
        raise _RefusedError(f"{name} holds pickled Python objects; save plain numbers instead")
    entries = 1
    for size in shape:
        if type(size) is not int or not 0 <= size < 2**63:  # numpy's parser lets True through
            raise ValueError("a dimension is no size")
        entries *= size
    if dtype.itemsize == 0 or length + entries * dtype.itemsize != declared:
        raise ValueError("the header announces something else than the file holds")
    with archive.open(f"{name}.npy") as stream:
        return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))


def _read_header(stream: Any) -> tuple[tuple[Any, ...], np.dtype[Any], int]:
    """Shape and type that an .npy stream announces, and how many bytes it took to say so."""
    version = np.lib.format.read_magic(stream)
    width = 2 if version == (1, 0) else 4
    prefix = stream.read(width)
    length = int.from_bytes(prefix, "little")
    if length > LONGEST_HEADER:
        raise ValueError("a header as long as that is none of numpy's")
    header = io.BytesIO(prefix + stream.read(length))
    read = np.lib.format
    parse = read.read_array_header_1_0 if width == 2 else read.read_array_header_2_0
    shape, _, dtype = parse(header)
    return shape, dtype, np.lib.format.MAGIC_LEN + width + length
