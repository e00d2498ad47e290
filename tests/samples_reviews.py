"""Film reviews as aclImdb has them: an archive and a folder, small."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

REVIEWS = {
    f"{split}/{label}/{i}_{rating}.txt": f"{split} {label} review {i} é"
    for split in ("train", "test")
    for label, rating in (("pos", 9), ("neg", 2))
    for i in range(3)
}


def add(archive: tarfile.TarFile, name: str, content: bytes = b"x", **fields: object) -> None:
    """One member with any header."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for field, value in fields.items():
        setattr(member, field, value)
    archive.addfile(member, io.BytesIO(content) if member.isreg() else None)


def packed(path: Path, extra: Callable[[tarfile.TarFile], None] | None = None) -> Path:
    """An aclImdb archive of the reviews, with more members in the middle."""
    with tarfile.open(path, "w:gz") as archive:
        for i, (name, text) in enumerate(REVIEWS.items()):
            if i == 5 and extra is not None:
                extra(archive)
            add(archive, f"aclImdb/{name}", text.encode())
        add(archive, "aclImdb/train/unsup/0_0.txt")
        add(archive, "aclImdb/README", b"read me")
    return path


def unpacked(folder: Path) -> Path:
    """The same as a folder."""
    for name, text in REVIEWS.items():
        file = folder / "aclImdb" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return folder / "aclImdb"
