"""Members of a tar archive, one after the other, from a stream that nobody vouches for.

The library's reader parses extended headers with patterns that take quadratic time, keeps every
member, and follows chained headers by recursion; its filters look at a member only after that. So
headers are read here: blocks of 512 bytes, each with its checksum, of the formats v7, ustar, GNU
and pax. Everything has a limit that is checked before it is read, and only the name and the size of
a member are taken from its headers, because nothing is ever unpacked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

BLOCK = 512

LARGEST_HEADER = 2**14
"""Bytes of one extended header: a path has at most 4096, and a few times and owners go with it."""

MOST_CHAINED = 4
"""Extended headers in front of one member: GNU writes two (name and link), pax one or two."""

MOST_MEMBERS = 500_000
"""aclImdb has 100,000."""

EXTENDED = b"xgXLK"
"""Kinds of headers that belong to the next member, or to all."""


class RefusedError(Exception):
    """Content that is whole but not wanted; its text says what."""


Read = Callable[[int], bytes]
"""Gives at most that many bytes, none at the end."""


class Member(NamedTuple):
    """One member.

    Args:
        name: As stored, with its folders.
        kind: "file", "folder" or "other" (links, devices, pipes, sparse files).
        size: Bytes of its content, 0 for what is no file.

    Example:
        >>> Member("a.txt", "file", 2).kind
        'file'
    """

    name: str
    kind: str
    size: int


class TarStream:
    """Iterates over the members; the content of the present one can be read before the next.

    Args:
        read: The unpacked archive, from its start.

    Example:
        >>> import io, tarfile
        >>> made = io.BytesIO()
        >>> with tarfile.open(fileobj=made, mode="w") as archive:
        ...     member = tarfile.TarInfo("a.txt")
        ...     member.size = 2
        ...     archive.addfile(member, io.BytesIO(b"hi"))
        >>> members = TarStream(io.BytesIO(made.getvalue()).read)
        >>> [(member.name, members.content()) for member in members]
        [('a.txt', b'hi')]
    """

    def __init__(self, read: Read) -> None:
        self.read = read
        self._left = self._padding = 0  # of the present member's content

    def content(self) -> bytes:
        """The whole content of the present member.

        Returns:
            Its bytes; empty when they were read already.

        Raises:
            EOFError: The stream ends before.
        """
        content, self._left = _exactly(self.read, self._left), 0
        return content

    def __iter__(self) -> Iterator[Member]:
        """The members.

        Yields:
            One after the other, what is left of a content skipped.

        Raises:
            RefusedError: More or longer headers than any set of files needs, or content after the
                end mark.
            EOFError: The stream ends before the end mark.
            ValueError: A header whose checksum is wrong.
        """
        for count in range(MOST_MEMBERS + 1):
            _skip(self.read, self._left + self._padding)
            self._left = self._padding = 0
            member = self._next()
            if member is None:
                return
            if count == MOST_MEMBERS:
                raise RefusedError(f"it holds more than {MOST_MEMBERS} members")
            self._left, self._padding = member.size, -member.size % BLOCK
            yield member

    def _next(self) -> Member | None:
        """The next member behind its extended headers; None at the end mark."""
        name: str | None = None
        size: int | None = None
        sparse = False
        for _ in range(MOST_CHAINED + 1):
            block = _exactly(self.read, BLOCK)
            if not block.strip(b"\0"):
                self._require_end()
                return None
            kind, own = _checked(block), _number(block[124:136])
            if kind not in EXTENDED:
                found = "other" if sparse else _kind(kind, block)
                size = own if size is None else size
                name = _name(block) if name is None else name
                return Member(name, found, size if found == "file" else 0)
            if own > LARGEST_HEADER:
                raise RefusedError(f"it holds a header of {own} bytes")
            header = _exactly(self.read, own)
            _skip(self.read, -own % BLOCK)
            if kind == b"L":
                name = _text(header.split(b"\0")[0])
            elif kind != b"K":  # K: the target of a link, and links are refused whatever it is
                records = _records(header)
                sparse = sparse or any(key.startswith(b"GNU.sparse.") for key in records)
                if kind == b"g" and {b"path", b"size"} & records.keys():
                    raise RefusedError("a header gives all its members one name or size")
                name = _text(records[b"path"]) if b"path" in records else name
                size = _digits(records[b"size"]) if b"size" in records else size
        raise RefusedError(f"more than {MOST_CHAINED} headers follow one another")

    def _require_end(self) -> None:
        """Nothing but zeros to the end, where gzip compares its checksum; at least one block."""
        read = 0
        while piece := self.read(2**20):
            read += len(piece)
            if piece.strip(b"\0"):
                raise RefusedError("it goes on after its end mark")
        if read < BLOCK:
            raise EOFError("half an end mark")


def _exactly(read: Read, count: int) -> bytes:
    pieces = []
    while count:
        piece = read(min(count, 2**20))
        if not piece:
            raise EOFError("it was cut off")
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)


def _skip(read: Read, count: int) -> None:
    while count:
        piece = read(min(count, 2**20))
        if not piece:
            raise EOFError("it was cut off")
        count -= len(piece)


def _checked(block: bytes) -> bytes:
    """The kind of a header whose checksum, of unsigned or signed bytes, is right."""
    stored = _number(block[148:156])
    rest = block[:148] + b" " * 8 + block[156:]
    plain = sum(rest)
    if stored != plain and stored != plain - 256 * sum(byte > 127 for byte in rest):
        raise ValueError("a header's checksum is wrong")
    return block[156:157]


def _number(field: bytes) -> int:
    """An octal number; binary ones, which only larger files need, are refused."""
    if field[0] & 0x80:
        raise RefusedError("a member has no size that a text has")
    digits = field.split(b"\0")[0].strip()
    if digits.strip(b"01234567"):
        raise ValueError("a header holds no number where one belongs")
    return int(digits or b"0", 8)


def _digits(value: bytes) -> int:
    if not (value.isdigit() and len(value) <= 15):
        raise RefusedError("a header holds no size")
    return int(value)


def _kind(kind: bytes, block: bytes) -> str:
    if kind in (b"0", b"\0", b"7"):  # 7: contiguous, a file like any other
        return "folder" if kind == b"\0" and _name(block).endswith("/") else "file"
    return "folder" if kind == b"5" else "other"


def _name(block: bytes) -> str:
    """The name of the plain header, with ustar's prefix."""
    name, prefix = (_text(field.split(b"\0")[0]) for field in (block[:100], block[345:500]))
    return f"{prefix}/{name}" if block[257:263] == b"ustar\0" and prefix else name


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def _records(header: bytes) -> dict[bytes, bytes]:
    """The records "length key=value" of a pax header; the length counts itself and the newline."""
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(header) and header[at]:
        space = header.find(b" ", at, at + 6)
        digits = header[at : max(space, at)]
        length = int(digits) if digits.isdigit() else 0
        record = header[space + 1 : at + length]
        key, equals, value = record.partition(b"=")
        if not (equals and key and value.endswith(b"\n") and at + length <= len(header)):
            raise RefusedError("a header holds no records")
        found[key] = value[:-1]
        at += length
    return found
