"""Damaged files of every kind that gdconv reads, each from its number alone."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ODD_VALUES = (
    None, True, -1, 0, 2**63, 2**64,
    10**400, 1e308, float("nan"), float("inf"), "", "x", "\x1b[2J", "1e5",
    "a\nb", "\u202e", "y" * 20_000, [], {}, [[[]]], {"a": {"b": []}}, ["x"] * 50, "confirmed",
)  # fmt: skip


SHAPES = (
    "()", "(2,)", "(2, 2, 4)", "(-1, 2)", "(True, 2, 2)", "(10**9, 10**9)", "(2.0, 2)", "(0, 3, 3)",
    "(18446744073709551616, 1)", "'x'", "[2, 2]", "(" * 300,
)  # fmt: skip

TYPES = (
    "'<f8'", "'>f8'", "'<f4'", "'<i8'", "'|O'", "'<c16'", "'<U9'", "'|b1'", "'<f16'", "'nonsense'",
    "[('a', '<f8')]", "1",
)  # fmt: skip

CELLS = (
    "", "nan", "1e400", "x", str(2**70),
    "-1", '"', "\x1b[1m", "confirmed", "None", "1.0", "a" * 9_000,
)  # fmt: skip

MEMBERS = (
    "aclImdb/train/pos/0_9.txt", "aclImdb/train/neg/1_1.txt", "aclImdb/train/pos/" + "a" * 300,
    "aclImdb/test/neg/\x1b.txt", "../x", "/etc/x",
)  # fmt: skip

KINDS = (
    tarfile.REGTYPE, tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE,
    tarfile.CHRTYPE, tarfile.FIFOTYPE,
)  # fmt: skip


def bytes_damaged(rng: random.Random, data: bytes) -> bytes:
    """Flip, cut, insert, repeat or overwrite a piece."""
    made = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(made) + 1)
        length = rng.choice((1, 1, 2, 8, 64, 512))
        kind = rng.randrange(6)
        if kind == 0 and made:
            made[at % len(made)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del made[at:]
        elif kind == 2:
            del made[at : at + length]
        elif kind == 3:
            made[at:at] = rng.randbytes(length)
        elif kind == 4:
            made[at:at] = made[at : at + length] * rng.choice((1, 3, 40))
        else:
            made[at : at + length] = rng.choice((b"\x00", b"\xff", b" ", b"9")) * length
    return bytes(made)


def zip_damaged(rng: random.Random, data: bytes) -> bytes:
    """The archive itself, or one member of it in a sound archive."""
    if rng.random() < 0.3:
        return bytes_damaged(rng, data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(sorted(members))
    kind = rng.randrange(7)
    if kind < 3:
        members[name] = header_damaged(rng, members[name])
    elif kind == 3:
        members[name] = bytes_damaged(rng, members[name])
    elif kind == 4:
        members[
            rng.choice(("mask.npy", "W_q.npy", "x.txt", "../up.npy", "\x1b.npy", name[:-4]))
        ] = members[name]
    elif kind == 5:
        del members[name]
    else:
        members[name] = array_bytes(rng)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return out.getvalue()


def header_damaged(rng: random.Random, data: bytes) -> bytes:
    """Another header of an .npy member: descr, order and shape, or nonsense."""
    shape, kind = rng.choice(SHAPES), rng.choice(TYPES)
    order = rng.choice(("False", "True", "None", "2"))
    end = rng.choice(("}", "", "}}", ", 'more': 1}"))
    text = f"{{'descr': {kind}, 'fortran_order': {order}, 'shape': {shape}{end}".encode()
    version = rng.choice((b"\x01\x00", b"\x01\x00", b"\x02\x00", b"\x09\x00"))
    size = struct.pack("<H" if version[0] == 1 else "<I", len(text) + 1)
    return b"\x93NUMPY" + version + size + text + b"\n" + data[128:]


def array_bytes(rng: random.Random) -> bytes:
    """A sound member of an unwanted shape, type or content."""
    arrays = (
        np.zeros(()), np.ones((2, 2, 4)), np.full((2, 2), np.nan), np.array([2**60 + 1]),
        np.zeros((0, 2, 3)), np.array(["a"]), np.ones((2, 2, 4), np.float32),
        np.ones((2, 2, 4), ">f8"), np.ones(5, bool), np.full((2, 2, 4), 1e300),
        np.full((2, 2, 4), 1e-320), np.ones((1, 1, 1, 1, 1)), np.ones((2, 2), complex),
    )  # fmt: skip
    out = io.BytesIO()
    np.save(out, rng.choice(arrays))
    return out.getvalue()


def json_damaged(rng: random.Random, value: Any) -> Any:
    """One value somewhere in a tree replaced, removed, renamed or repeated."""
    if rng.random() < 0.02:
        deep: Any = 0
        for _ in range(rng.choice((50, 900, 5_000))):
            deep = [deep]
        return deep
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key, made = rng.choice(sorted(value)), dict(value)
        kind = rng.randrange(8)
        if kind == 0:
            del made[key]
        elif kind == 1:
            made[rng.choice(("", "x", "\x1b", key + key))] = made.pop(key)
        else:
            made[key] = json_damaged(rng, value[key])
        return made
    if isinstance(value, list) and value and rng.random() < 0.7:
        made_list = list(value)
        made_list[rng.randrange(len(value))] = json_damaged(rng, rng.choice(value))
        return made_list * rng.choice((1, 1, 1, 2))
    return rng.choice(ODD_VALUES)


def sealed(manifest: Any) -> str:
    """The manifest as text with the hash that its content asks for, as one recomputed by hand."""
    try:
        if isinstance(manifest, dict):
            body = {name: value for name, value in manifest.items() if name != "sha256"}
            text = json.dumps(body, sort_keys=True, separators=(",", ":"), default=str)
            manifest = {
                **body,
                "sha256": hashlib.sha256(text.encode("utf-8", "replace")).hexdigest(),
            }
        return json.dumps(manifest, indent=1)
    except (RecursionError, ValueError):
        return "[" * 100_000


def csv_damaged(rng: random.Random, data: bytes) -> bytes:
    """A cell, a line or a byte of a table."""
    if rng.random() < 0.3:
        return bytes_damaged(rng, data)
    rows = [line.split(",") for line in data.decode("utf-8", "replace").splitlines()]
    row = rng.choice(rows)
    kind = rng.randrange(4)
    if kind < 2:
        row[rng.randrange(len(row))] = rng.choice(CELLS)
    elif kind == 2:
        row.append(rng.choice(CELLS))
    else:
        rows.remove(row)
    return "\n".join(",".join(r) for r in rows).encode()


def run_damaged(rng: random.Random, source: Path, place: Path) -> None:
    """A saved run with one file changed, mostly with hashes that fit again."""
    shutil.copytree(source, place)
    manifest = json.loads((place / "manifest.json").read_text("utf-8"))
    kind = rng.randrange(8)
    if kind < 4:
        text = sealed(json_damaged(rng, manifest))
        (place / "manifest.json").write_text(text, "utf-8", "replace")
        return
    if kind == 4:
        file = place / "manifest.json"
        file.write_bytes(bytes_damaged(rng, file.read_bytes()))
        return
    name = rng.choice(("trace.csv", "verdicts.csv", "hypotheses.csv", "runs.csv", "iterates.npz"))
    file = place / name
    if kind == 5 and rng.random() < 0.5:
        file.unlink()
        return
    damage = zip_damaged if name.endswith("npz") else csv_damaged
    file.write_bytes(damage(rng, file.read_bytes()))
    manifest["files"][name] = hashlib.sha256(file.read_bytes()).hexdigest()
    (place / "manifest.json").write_text(sealed(manifest), "utf-8")


def tar_damaged(rng: random.Random, data: bytes) -> bytes:
    """The archive under its compression, its compression, or members of odd kinds."""
    plain = gzip.decompress(data)
    kind = rng.randrange(4)
    if kind == 0:
        return bytes_damaged(rng, data)
    if kind == 1:
        return gzip.compress(bytes_damaged(rng, plain), 1)
    out = io.BytesIO()
    with tarfile.open(
        fileobj=out, mode="w:gz", format=rng.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT))
    ) as tar:
        for _ in range(rng.choice((1, 3))):
            name = rng.choice(MEMBERS)
            info = tarfile.TarInfo(name)
            info.type = rng.choice(KINDS)
            info.linkname = rng.choice(("", "/etc/passwd", name))
            text = (
                rng.choice((b"", b"good film", b"\xff\xfe", b"x" * 70_000)) if info.isreg() else b""
            )
            info.size = len(text)
            if rng.random() < 0.3:
                info.pax_headers = {
                    rng.choice(("path", "size", "comment")): rng.choice(("9" * 5_000, "-1", "\x1b"))
                }
            tar.addfile(info, io.BytesIO(text))
    return out.getvalue()


def idx_damaged(rng: random.Random, data: bytes) -> bytes:
    """Header numbers or bytes of an IDX file."""
    if rng.random() < 0.5:
        return bytes_damaged(rng, data)
    made = bytearray(data)
    at = rng.randrange(4)
    made[4 * at : 4 * at + 4] = rng.choice((
        b"\x00" * 4,
        b"\xff" * 4,
        b"\x00\x00\x08\x03",
        b"\x7f\xff\xff\xff",
    ))
    return bytes(made)


def wrapped(
    damage: Callable[[random.Random, bytes], bytes],
) -> Callable[[random.Random, bytes], bytes]:
    """The same damage under gzip."""

    def both(rng: random.Random, data: bytes) -> bytes:
        return (
            gzip.compress(damage(rng, data), 1)
            if rng.random() < 0.8
            else bytes_damaged(rng, gzip.compress(data, 1))
        )

    return both
