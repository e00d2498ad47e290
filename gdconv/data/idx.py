"""MNIST as published: IDX files of images and labels in one folder, plain or gzipped.

The files are read as data that nobody vouches for: at most as many bytes as the header announces
are unpacked, within `LARGEST_BYTES`, and whatever is not what MNIST's files are is refused in one
sentence.
"""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer, UInt8

from gdconv.data.draws import stream, whole
from gdconv.data.images import image_problem
from gdconv.data.problem import Problem
from gdconv.support.errors import InputError

IMAGES, LABELS = 0x00000803, 0x00000801
"""Magic numbers: unsigned bytes with three axes, with one axis."""

KINDS = {IMAGES: ("images", 3), LABELS: ("labels", 1)}

LARGEST_BYTES = 512 * 2**20
"""No more than this is unpacked from one file; MNIST has 47 MB."""

NAMES = {
    "images": ("train-images-idx3-ubyte", "train-images.idx3-ubyte"),
    "labels": ("train-labels-idx1-ubyte", "train-labels.idx1-ubyte"),
}
"""File names as published and as some archives spell them, with or without .gz."""

MOST_LOOKED_AT = 100
"""Folders in which files are looked for, to name the right one."""

REMEDY = "give the folder with MNIST's train-images-idx3-ubyte and train-labels-idx1-ubyte"

DAMAGE = (zlib.error, EOFError, OSError, MemoryError)


class _RefusedError(Exception):
    """What is wrong with a file, in words."""


def read_idx(path: Path, kind: str) -> UInt8[np.ndarray, "..."]:
    """One IDX file of unsigned bytes.

    Args:
        path: The file; gzip is recognised by its first bytes, not by the name.
        kind: images or labels.

    Returns:
        Shape (N, h, w) for images and (N,) for labels.

    Raises:
        InputError: Damaged, cut off, longer than announced, of another kind, empty or too large.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "labels"
        >>> _ = file.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 1]))
        >>> read_idx(file, "labels").tolist()
        [7, 1]
        >>> read_idx(file, "images")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        gdconv.support.errors.InputError: data = ...labels: it holds labels, not images; give ...
    """
    if not path.is_file():  # a pipe or a device could block or never end
        raise InputError("data", path, f"this is no file; {REMEDY}")
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if not packed:
                return _read(raw, kind)
            with gzip.GzipFile(fileobj=raw) as stream:
                return _read(stream, kind)
    except _RefusedError as refused:
        raise InputError("data", path, f"{refused}; {REMEDY}") from None
    except PermissionError:
        raise InputError("data", path, "it may not be read; change its permissions") from None
    except DAMAGE:
        raise InputError("data", path, f"it is damaged or cut off; {REMEDY}") from None


def _read(stream: Any, kind: str) -> UInt8[np.ndarray, "..."]:
    """Header, then exactly what it announces."""
    magic = int.from_bytes(_exactly(stream, 4), "big")
    if magic not in KINDS:
        raise _RefusedError(f"it starts with {magic:#010x}, no IDX file of unsigned bytes does")
    held, axes = KINDS[magic]
    if held != kind:
        raise _RefusedError(f"it holds {held}, not {kind}")
    shape = tuple(int.from_bytes(_exactly(stream, 4), "big") for _ in range(axes))
    count = 1
    for size in shape:  # Python integers do not overflow
        count *= size
    if count == 0:
        raise _RefusedError(f"it announces nothing, sizes {shape}")
    if count > LARGEST_BYTES:
        raise _RefusedError(f"it announces {count} bytes, more than {LARGEST_BYTES >> 20} MiB")
    content = _exactly(stream, count)
    if stream.read(1):
        raise _RefusedError(f"it holds more than the {count} bytes that it announces")
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def _exactly(stream: Any, count: int) -> bytes:
    """`count` bytes, taken in pieces so that an announcement alone allocates nothing."""
    pieces, missing = [], count
    while missing:
        piece = stream.read(min(missing, 2**20))
        if not piece:
            raise EOFError
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)


def _read_kind(folder: Path, kind: str) -> UInt8[np.ndarray, "..."]:
    """The first file of that kind, under one of its names, that can be read."""
    # beside a good .gz there may be what an interrupted download or unpacking left
    refused: InputError | None = None
    for name in NAMES[kind]:
        for suffix in ("", ".gz"):
            if os.path.lexists(folder / (name + suffix)):
                try:
                    return read_idx(folder / (name + suffix), kind)
                except InputError as error:
                    refused = refused or error
    if refused is not None:
        raise refused
    told = f"no file {NAMES[kind][0]}(.gz) there"
    if (inner := _folder_below(folder)) is not None:
        raise InputError("data", folder, f"{told}, but in the folder {inner}; give that one")
    raise InputError("data", folder, f"{told}; {REMEDY}")


def _folder_below(folder: Path) -> Path | None:
    """A folder at most two below that holds such files: torchvision's root/MNIST/raw, root/raw."""
    wanted = {name + suffix for names in NAMES.values() for name in names for suffix in ("", ".gz")}
    level = [folder]
    for _ in range(2):
        try:
            level = [
                place for above in level for place in sorted(above.iterdir())[:MOST_LOOKED_AT]
                if place.is_dir() and not place.is_symlink()
            ][:MOST_LOOKED_AT]  # fmt: skip
        except OSError:
            return None
        for place in level:
            if any(os.path.lexists(place / name) for name in wanted):
                return place.relative_to(folder)
    return None


def read_folder(
    folder: str | Path,
) -> tuple[UInt8[np.ndarray, "N h w"], Integer[np.ndarray, " N"]]:
    """Training images and digits of a folder with MNIST.

    Args:
        folder: The folder.

    Returns:
        Pixels 0..255 and digits 0..9.

    Raises:
        InputError: No such folder, a file missing or refused by `read_idx`, as many images as
            labels there are not, or a label above 9.

    Example:
        >>> read_folder("nowhere")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        gdconv.support.errors.InputError: data = nowhere: no such folder; give the folder with
        MNIST's ...
    """
    place = Path(folder)
    if not os.path.isdir(place):  # unlike Path.is_dir, false for a name that is too long
        raise InputError("data", folder, f"no such folder; {REMEDY}")
    labels = _read_kind(place, "labels")
    images = _read_kind(place, "images")
    if len(images) != len(labels):
        counts = f"{len(images)} images but {len(labels)} labels"
        raise InputError("data", folder, f"it holds {counts}; give files that belong together")
    if labels.max() > 9:
        remedy = f"label {int(labels.max())} is no digit; give MNIST or a set labelled 0 to 9"
        raise InputError("data", folder, remedy)
    return images, labels


def load_folder(folder: str | Path, samples: int = 8, tokens: int = 4, seed: int = 0) -> Problem:
    """Some MNIST images as patches, one label per sample; see `gdconv.data.images.image_problem`.

    Args:
        folder: The folder.
        samples: N, drawn without replacement.
        tokens: n, one of 1, 4, 16, 49, 196, 784 for 28 x 28 pixels.
        seed: Seed of the draw.

    Returns:
        A problem with R = 1.

    Raises:
        InputError: As `read_folder`, more samples than images, or no such number of patches.
    """
    images, labels = read_folder(folder)
    N = whole("samples", samples)
    if len(images) < N:
        raise InputError("samples", samples, f"give at most {len(images)}, the images there are")
    chosen = stream("digits", seed).choice(len(images), size=N, replace=False)
    name = Path(folder).resolve().name
    return image_problem(images, labels, chosen, tokens, name)
