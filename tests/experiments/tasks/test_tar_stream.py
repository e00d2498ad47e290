"""Tar headers under limits: what the library writes is read, hostile headers cost nothing."""

from __future__ import annotations

import gzip
import io
import tarfile
import time
import tracemalloc
from pathlib import Path

import pytest
from samples_reviews import REVIEWS, add

from experiments.tasks import tar_stream
from experiments.tasks.tar_stream import BLOCK, LARGEST_HEADER, Member, RefusedError, TarStream
from experiments.tasks.text_sources import read_imdb
from gdconv.support.errors import InputError

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
LONG = "a/" + "b" * 90 + "/" + "c" * 90  # ustar splits it, GNU and pax write another header
NAMES = {"a.txt": b"hi", LONG: b"", "d": b"x" * 512, "e": b"y" * 513}
END = bytes(2 * BLOCK)


def block(name: bytes = b"a", kind: bytes = b"0", size: int = 0, **fields: bytes) -> bytes:
    """One header; `fields` are put in place last, before the checksum."""
    parts = {"mode": b"0000644\0", "uid": b"0000000\0", "gid": b"0000000\0"}
    size_field = fields.get("size_field", b"%011o\0" % size)
    head = name.ljust(100, b"\0") + b"".join(parts.values()) + size_field + b"00000000000\0"
    rest = kind + bytes(100) + fields.get("magic", b"ustar\x0000") + bytes(80)
    rest = (rest + fields.get("prefix", b"")).ljust(BLOCK - len(head) - 8, b"\0")
    total = sum(head) + sum(rest) + 8 * 32
    return head + b"%06o\0 " % total + rest


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % BLOCK)


def record(key: bytes, value: bytes) -> bytes:
    """A pax record, whose length counts its own digits."""
    body = b" " + key + b"=" + value + b"\n"
    length = len(body) + 1
    while len(b"%d" % length) + len(body) != length:
        length += 1
    return b"%d" % length + body


def extended(content: bytes, kind: bytes = b"x") -> bytes:
    return block(b"h", kind, len(content)) + padded(content)


def read(raw: bytes) -> list[tuple[Member, bytes]]:
    members = TarStream(io.BytesIO(raw).read)
    return [(member, members.content()) for member in members]


def written(form: str) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=FORMATS[form]) as archive:
        for name, content in NAMES.items():
            add(archive, name, content)
        add(archive, "folder", b"", type=tarfile.DIRTYPE)
        add(archive, "link", b"", type=tarfile.SYMTYPE, linkname="z" * 90)
    return made.getvalue()


@pytest.mark.parametrize("form", FORMATS)
def test_what_the_library_writes_is_read(form: str) -> None:
    raw = written(form)
    found = read(raw)
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        expected = [member.name for member in archive]
    assert [member.name.rstrip("/") for member, _ in found] == expected
    assert {member.name: content for member, content in found if member.kind == "file"} == NAMES
    assert [member.kind for member, _ in found[-2:]] == ["folder", "other"]


@pytest.mark.parametrize("pieces", [1, 511, 512, 10**6])
def test_a_content_may_be_skipped_and_pieces_have_any_size(pieces: int) -> None:
    stream = io.BytesIO(written("pax"))
    members = TarStream(lambda count: stream.read(min(count, pieces)))
    found = {m.name: members.content() for m in members if m.name in ("a.txt", "e")}
    assert found == {"a.txt": NAMES["a.txt"], "e": NAMES["e"]}


def test_names_and_sizes_of_every_format() -> None:
    raw = (
        block(b"n", b"\0", 1, magic=bytes(8)) + padded(b"7")  # v7
        + block(b"v7folder/", b"\0", magic=bytes(8))
        + block(b"n", prefix=b"p/q")
        + block(b"n", magic=b"ustar  \0", prefix=b"times")  # GNU keeps other things there
        + extended(record(b"path", "é".encode()) + record(b"mtime", b"1.5")) + block(b"short")
        + extended(record(b"size", b"3")) + block(b"n", size=1) + padded(b"abc")
        + extended(record(b"comment", b"of all"), b"g") + block(b"n", b"7", 1) + padded(b"c")
        + extended(b"of GNU\0", b"L") + extended(b"target\0", b"K") + block(b"short")
        + END
    )  # fmt: skip
    assert [(m.name, m.kind, content) for m, content in read(raw)] == [
        ("n", "file", b"7"), ("v7folder/", "folder", b""), ("p/q/n", "file", b""),
        ("n", "file", b""), ("é", "file", b""), ("n", "file", b"abc"), ("n", "file", b"c"),
        ("of GNU", "file", b""),
    ]  # fmt: skip


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"6", b"S", b"D", b"V", b"\xff"])
def test_what_is_no_file_is_named_so(kind: bytes) -> None:
    assert [(m.kind, m.size) for m, _ in read(block(kind=kind, size=512) + END)] == [("other", 0)]


@pytest.mark.parametrize("key", [b"GNU.sparse.major", b"GNU.sparse.map"])
def test_sparse_files_are_no_files(key: bytes) -> None:
    ((member, _),) = read(extended(record(key, b"1")) + block() + END)
    assert member.kind == "other"


DIGITS = b"1" * 160_000
HOSTILE = {
    "digits for ever": (extended(DIGITS), "a header of 160000 bytes"),
    "digits within the limit": (extended(b"1" * LARGEST_HEADER), "no records"),
    "a value of digits": (
        extended(record(b"c", b"1" * (LARGEST_HEADER - 20))) + block() + END, None
    ),
    "1.5 GiB announced": (block(b"h", b"x", 3 * 2**29), "a header of 1610612736 bytes"),
    "one byte too long": (block(b"h", b"g", LARGEST_HEADER + 1), "a header of 16385 bytes"),
    "a long GNU name": (block(b"h", b"L", 2**20), "a header of 1048576 bytes"),
    "a long GNU link": (block(b"h", b"K", 2**20), "a header of 1048576 bytes"),
    "Solaris' kind": (block(b"h", b"X", 2**20), "a header of 1048576 bytes"),
    "3,000 in a chain": (extended(record(b"a", b"b")) * 3000, "more than 4 headers follow"),
    "3,000 for all": (extended(record(b"a", b"b"), b"g") * 3000, "more than 4 headers follow"),
    "3,000 long names": (extended(b"n\0", b"L") * 3000, "more than 4 headers follow"),
    "one name for all": (extended(record(b"path", b"n"), b"g"), "all its members one name"),
    "one size for all": (extended(record(b"size", b"1"), b"g"), "all its members one name"),
    "a size of many digits": (extended(record(b"size", b"9" * 5000)) + block(), "holds no size"),
    "a negative size": (extended(record(b"size", b"-1")) + block(), "holds no size"),
    "a size in words": (extended(record(b"size", b"big")) + block(), "holds no size"),
    "a binary size": (block(size_field=b"\x80" + b"\xff" * 11), "no size that a text has"),
    "a negative binary size": (block(size_field=b"\xff" * 12), "no size that a text has"),
    "a record past the end": (extended(b"99 a=b\n"), "no records"),
    "a record of length 0": (extended(b"0 a=b\n"), "no records"),
    "a record without =": (extended(b"6 abc\n"), "no records"),
    "a record without a key": (extended(b"5 =b\n"), "no records"),
    "a record without an end": (extended(b"5 a=bc"), "no records"),
    "content after the end": (block() + END + block(), "goes on after its end mark"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_headers_take_neither_time_nor_memory(kind: str) -> None:
    raw, message = HOSTILE[kind]
    began = time.process_time()
    tracemalloc.start()
    try:
        if message is None:
            read(raw)
        else:
            with pytest.raises(RefusedError, match=message):
                read(raw)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert time.process_time() - began < 1.0


@pytest.mark.parametrize("kind", ["digits for ever", "1.5 GiB announced", "3,000 in a chain"])
def test_the_archive_of_them_is_refused_in_one_sentence(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "a.tar.gz"
    file.write_bytes(gzip.compress(HOSTILE[kind][0]))
    assert file.stat().st_size < 20_000
    with pytest.raises(InputError, match="header") as caught:
        read_imdb(file)
    assert "\n" not in str(caught.value)


def test_every_format_of_archive_gives_the_same_reviews(tmp_path: Path) -> None:
    found = []
    for name, form in FORMATS.items():
        with tarfile.open(tmp_path / f"{name}.tar.gz", "w:gz", format=form) as archive:
            add(archive, "aclImdb", b"", type=tarfile.DIRTYPE)
            for review, text in REVIEWS.items():
                fields = {"pax_headers": {"mtime": "1.5", "LIBARCHIVE.xattr.a": "é"}}
                add(archive, f"./aclImdb/{review}", text.encode(), **fields)
        found.append(read_imdb(tmp_path / f"{name}.tar.gz").train)
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 6


@pytest.mark.parametrize("end", [b"", bytes(BLOCK), bytes(BLOCK - 1)])
def test_half_an_end_mark_is_a_cut(end: bytes) -> None:
    with pytest.raises(EOFError):
        read(block() + end)
    assert len(read(block() + END)) == 1


@pytest.mark.parametrize("at", [0, 124, 148, 156, 300])
def test_a_changed_byte_is_damage(at: int) -> None:
    raw = bytearray(block(b"name") + END)
    raw[at] ^= 1
    with pytest.raises(ValueError, match="checksum"):
        read(bytes(raw))
    raw = bytearray(block(b"name", size_field=b"00000000009\0") + END)
    with pytest.raises(ValueError, match="no number"):
        read(bytes(raw))


def test_signed_checksums_of_old_writers_are_right_too() -> None:
    raw = bytearray(block("é".encode()) + END)
    signed = sum(b - 256 * (b > 127) for b in raw[:148] + raw[156:BLOCK]) + 8 * 32
    raw[148:156] = b"%06o\0 " % signed
    assert read(bytes(raw))[0][0].name == "é"


def test_members_have_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_stream, "MOST_MEMBERS", 3)
    assert len(read(block() * 3 + END)) == 3
    with pytest.raises(RefusedError, match="more than 3 members"):
        read(block() * 4 + END)
