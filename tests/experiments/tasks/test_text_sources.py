"""Reviews from folders, archives, CSV files: hostile and broken input writes nothing."""

from __future__ import annotations

import csv
import gzip
import os
import sys
import tarfile
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from samples_reviews import add, packed, unpacked

from experiments.tasks import text_sources
from experiments.tasks.text_sources import read_csv, read_datasets, read_imdb
from gdconv.support.errors import InputError


def everything_below(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


def test_archive_and_folder_hold_the_same(tmp_path: Path) -> None:
    made = read_imdb(packed(tmp_path / "aclImdb_v1.tar.gz"))
    other = read_imdb(unpacked(tmp_path))
    assert (made.train, made.test) == (other.train, other.test)
    assert (made.train_labels == other.train_labels).all()
    assert len(made.train) == len(made.test) == 6
    for text, label in zip(made.train, made.train_labels, strict=True):
        assert ("pos" in text) == bool(label)
    assert read_imdb(tmp_path).train == made.train  # the folder it stands in


HOSTILE = {
    "climbing": (lambda a: add(a, "aclImdb/../../escaped.txt"), "leaves its folder"),
    "climbing review": (lambda a: add(a, "aclImdb/train/../../train/pos/1_9.txt"), "leaves its"),
    "absolute": (lambda a: add(a, "/tmp/escaped.txt"), "leaves its folder"),
    "backslash": (lambda a: add(a, "aclImdb\\..\\escaped.txt"), "leaves its folder"),
    "drive": (lambda a: add(a, "C:/escaped.txt"), "leaves its folder"),
    "symlink": (
        lambda a: add(a, "aclImdb/train/pos/7_9.txt", b"", type=tarfile.SYMTYPE, linkname="/etc"),
        "is a link",
    ),
    "hard link": (
        lambda a: add(a, "aclImdb/b", b"", type=tarfile.LNKTYPE, linkname="../../etc/passwd"),
        "is a link",
    ),
    "device": (lambda a: add(a, "aclImdb/null", b"", type=tarfile.CHRTYPE), "no ordinary file"),
    "pipe": (lambda a: add(a, "aclImdb/pipe", b"", type=tarfile.FIFOTYPE), "no ordinary file"),
    "rating against folder": (lambda a: add(a, "aclImdb/train/pos/7_2.txt"), "mislabelled"),
    "impossible rating": (lambda a: add(a, "aclImdb/train/neg/7_0.txt"), "mislabelled"),
    "twice": (lambda a: add(a, "aclImdb/train/pos/1_9.txt"), "in it twice"),
    "not text": (lambda a: add(a, "aclImdb/train/pos/7_9.txt", b"\xff\xfe\xfa"), "no UTF-8"),
    "a whole book": (
        lambda a: add(a, "aclImdb/train/pos/7_9.txt", b"x" * (2**20 + 1)),
        "longer than a review",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_archive_is_refused_and_writes_nothing(tmp_path: Path, kind: str) -> None:
    extra, message = HOSTILE[kind]
    place = tmp_path / "inner"
    place.mkdir()
    archive = packed(place / "a.tar.gz", extra)
    before, here = everything_below(tmp_path), set(os.listdir())
    with pytest.raises(InputError, match=message) as caught:
        read_imdb(archive)
    assert str(caught.value).count("\n") == 0
    assert everything_below(tmp_path) == before
    assert set(os.listdir()) == here
    assert not Path("/tmp/escaped.txt").exists()


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_sources, "LARGEST_UNPACKED", 2**21)
    bomb = packed(tmp_path / "a.tar.gz", lambda a: add(a, "aclImdb/README", b"0" * 2**22))
    assert bomb.stat().st_size < 2**16
    with pytest.raises(InputError, match="unpacks to more than"):
        read_imdb(bomb)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.99])
def test_an_archive_cut_off_anywhere_is_refused(tmp_path: Path, share: float) -> None:
    whole = packed(tmp_path / "a.tar.gz").read_bytes()
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match="complete|cut off"):
        read_imdb(cut)


@pytest.mark.parametrize("blocks", [3, 4, 7, 20])
def test_a_tar_cut_off_before_packing_is_refused(tmp_path: Path, blocks: int) -> None:
    """gzip is whole here, tar ends between two members or inside one."""
    plain = gzip.decompress(packed(tmp_path / "a.tar.gz").read_bytes())
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(gzip.compress(plain[: 512 * blocks]))
    with pytest.raises(InputError, match="complete|cut off"):
        read_imdb(cut)


def test_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    raw = bytearray(packed(tmp_path / "a.tar.gz").read_bytes())
    raw[-6] ^= 1  # the checksum at the end
    broken = tmp_path / "broken.tar.gz"
    broken.write_bytes(bytes(raw))
    with pytest.raises(InputError, match="complete"):
        read_imdb(broken)


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04 this is a zip", b"<html>404</html>", gzip.compress(b"no tar" * 500)],
    ids=["nothing", "zip", "page", "gzip"],  # the time in a gzip header must not name a case
)
def test_another_kind_of_file_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "aclImdb_v1.tar.gz"
    file.write_bytes(content)
    with pytest.raises(InputError, match="complete .tar.gz|lacks pos"):
        read_imdb(file)


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        add(archive, "photos/1.jpg")
    with pytest.raises(InputError, match="train lacks pos or neg"):
        read_imdb(tmp_path / "a.tar.gz")


def test_links_in_a_folder_are_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    root = unpacked(tmp_path / "one")
    (root / "train/pos/99_9.txt").symlink_to(secret)
    with pytest.raises(InputError, match="99_9.txt is a link"):
        read_imdb(root)
    root = unpacked(tmp_path / "two")
    (root / "test/neg").rename(tmp_path / "outside")
    (root / "test/neg").symlink_to(tmp_path / "outside")
    with pytest.raises(InputError, match="test/neg is a link"):
        read_imdb(root)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder train"):
        read_imdb(tmp_path)


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def test_csv_with_quotes_commas_and_a_byte_order_mark(tmp_path: Path) -> None:
    rows = "".join(f'"so, ""{i}""\nnext",{i % 3}\r\n' for i in range(30))
    corpus = read_csv(write(tmp_path / "m.csv", "text,label\r\n" + rows, "utf-8-sig"))
    assert corpus.classes == ("0", "1", "2")
    assert len(corpus.train) == 24
    assert len(corpus.test) == 6
    assert corpus.name == "m.csv"
    for text, label in zip(corpus.train, corpus.train_labels, strict=True):
        assert int(text.split('"')[1]) % 3 == label
    assert not set(corpus.train) & set(corpus.test)
    assert np.bincount(corpus.test_labels).tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has columns"),
        ("text,label\n", "no rows"),
        ("words,label\na,1\n", "name a column text"),
        ("text,label\na,1\nb\n", "also in line 3"),
        ("text,label\na,1\n  ,0\n", "also in line 3"),
        ("text,label\na,1\nb,1\n", "at least two classes"),
        ("text,label\na,1\nb,0\n", "more rows of this label"),
        ('text,label\n"a,1\n', "a quote is never closed.*; write a quote inside a field twice"),
        ('text,label\na,1\n"b"c,0\n', "no readable CSV file.*; write a quote inside a field twice"),
        ('text,label\na,"1', "a quote is never closed"),
    ],
)
def test_a_bad_csv_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_csv(write(tmp_path / "m.csv", text))


def labelled(path: Path, labels: list[str], each: int = 6) -> Path:
    """A CSV whose text i has label i, in turn."""
    rows = [f"text {i},{labels[i % len(labels)]}\n" for i in range(each * len(labels))]
    return write(path / "m.csv", "text,label\n" + "".join(rows))


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["1", "1.0", "0"], ("0", "1")),
        (["1", "+1", " 1.", "01", "1e0", "0", "-0", "0.00"], ("0", "1")),
        (["-1", "1", "-1.0"], ("-1", "1")),
        (["10", "9", "2.50", "2.5"], ("2.5", "9", "10")),  # by size, not by spelling
        (["1", "one", "1.0"], ("1", "one")),
        (["pos", "neg"], ("neg", "pos")),
        (["1e400", "1e401"], ("1e400", "1e401")),  # words: nobody numbers classes so
        (["infinity", "0"], ("0", "infinity")),
    ],
)
def test_a_class_is_a_number_however_it_is_written(
    tmp_path: Path, labels: list[str], classes: tuple[str, ...]
) -> None:
    corpus = read_csv(labelled(tmp_path, labels))
    assert corpus.classes == classes
    for text, found in zip(corpus.train, corpus.train_labels, strict=True):
        label = labels[int(text.split()[1]) % len(labels)]
        name = classes[found]
        assert name == label if name.isalpha() or "e4" in name else float(name) == float(label)


@pytest.mark.parametrize(
    "labels",
    [
        ["-1", "0", "1"], ["-1.0", "0", "1"], ["-1", "0"], ["-1", "pos", "neg"], ["-1", "1", "2"],
        ["nan", "0", "1"], ["NaN", "pos"], ["<NA>", "0", "1"], ["null", "0", "1"],
    ],
)  # fmt: skip
def test_a_mark_for_no_label_is_no_class(tmp_path: Path, labels: list[str]) -> None:
    with pytest.raises(InputError, match=r"column label = (-1|nan|NaN|<NA>|null): leave out rows"):
        read_csv(labelled(tmp_path, labels))


@pytest.mark.parametrize("limit", [131_072, 100, 10**9])
def test_a_csv_takes_the_texts_a_folder_takes(tmp_path: Path, limit: int) -> None:
    before = csv.field_size_limit(limit)
    try:
        most = text_sources.LARGEST_REVIEW
        for size in (131_073, most):
            rows = f"text,label\n{'x' * size},1\n" + "good,1\nbad,0\nworse,0\n" * 3
            corpus = read_csv(write(tmp_path / "m.csv", rows))
            assert max(map(len, corpus.train + corpus.test)) == size
            assert csv.field_size_limit() == limit
        for one in ("x" * (most + 1), "é" * (most // 2 + 1)):
            with pytest.raises(InputError, match="at most 1048576 bytes; the one.*line 3|limit"):
                read_csv(write(tmp_path / "m.csv", f"text,label\ngood,1\n{one},1\nbad,0\n"))
            assert csv.field_size_limit() == limit  # after a failure too
    finally:
        csv.field_size_limit(before)


def test_files_read_at_the_same_time_leave_the_limit(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    rows = f"text,label\n{'x' * 140_000},1\n" + "good,1\nbad,0\nworse,0\n" * 3
    file = write(tmp_path / "m.csv", rows)
    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(lambda _: read_csv(file), range(32)))) == 32
    assert csv.field_size_limit() == before


def test_a_name_that_is_too_long_is_no_file() -> None:
    with pytest.raises(InputError, match="no such file"):
        read_csv("x" * 5000 + ".csv")


def test_a_csv_in_another_encoding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="save it as UTF-8"):
        read_csv(write(tmp_path / "m.csv", "text,label\né,1\nb,0\n", "latin-1"))


def test_datasets_are_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match="install the package datasets"):
        read_datasets()
    fake = types.ModuleType("datasets")
    fake.load_dataset = lambda name: {  # type: ignore[attr-defined]
        split: {"text": ["good", "bad"], "label": [1, 0]} for split in ("train", "test")
    }
    monkeypatch.setitem(sys.modules, "datasets", fake)
    corpus = read_datasets("imdb")
    assert corpus.train == ["good", "bad"]
    assert corpus.test_labels.tolist() == [1, 0]
    for texts, given in (
        (["a", "b"], [1.5, 0.0]), ([], []), (["a", None], [1, 0]), (["a", "b"], [1]),
        (["a", "b"], ["1", "x"]), (["a", "b"], [None, 1]),
    ):  # fmt: skip
        fake.load_dataset = lambda name, t=texts, g=given: {  # type: ignore[attr-defined]
            split: {"text": t, "label": g} for split in ("train", "test")
        }
        with pytest.raises(InputError, match="splits train and test"):
            read_datasets("imdb")
    fake.load_dataset = lambda name: {  # type: ignore[attr-defined]
        split: {"text": ["a", "b"], "label": [1, -1]} for split in ("train", "test")
    }
    with pytest.raises(InputError, match="all have labels"):
        read_datasets("imdb")
    fake.load_dataset = lambda name: {"train": {}}  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="splits train and test"):
        read_datasets("imdb")
