"""Reviews and their labels: the aclImdb folder or archive, a CSV file, Hugging Face `datasets`.

Nothing is ever unpacked: an archive is read as a stream, member by member, and only members with
the names of reviews are kept, in memory. A member that would leave its folder, a link or a device
makes the whole archive refused, as do damage, labels that contradict their folder, and sizes no set
of reviews has.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import importlib
import os
import re
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path, PurePosixPath
from typing import Any, cast

import numpy as np
from jaxtyping import Int

from experiments.tasks.tar_stream import Member, RefusedError, TarStream
from gdconv.support.errors import InputError

LARGEST_UNPACKED = 2 * 2**30
"""More unpacked bytes than this are no set of reviews; aclImdb has 0.5 GiB."""

LARGEST_REVIEW = 2**20
"""Bytes of one review."""

MOST_REVIEWS = 1_000_000

REVIEW = re.compile(r"(train|test)/(pos|neg)/\d+_(\d+)\.txt")
"""Path of a review inside aclImdb; the last number is its rating, 1 to 4 or 7 to 10."""

IMDB_REMEDY = "give the aclImdb folder or aclImdb_v1.tar.gz as published"

MISSING = ("nan", "<na>", "null")
"""What programs write where a label is missing."""

DAMAGE = (zlib.error, EOFError, OSError, ValueError, OverflowError, MemoryError)
"""What `TarStream`, gzip and zlib raise on damaged or foreign content."""


@dataclass(frozen=True)
class Corpus:
    """Texts with labels, split into training and test.

    Attributes:
        name: What it is called in results.
        train: Training texts.
        train_labels: Their classes.
        test: Test texts.
        test_labels: Their classes.
        classes: Names of the classes, by number.
    """

    name: str
    train: list[str]
    train_labels: Int[np.ndarray, " N"]
    test: list[str]
    test_labels: Int[np.ndarray, " M"]
    classes: tuple[str, ...]


def read_imdb(path: str | Path) -> Corpus:
    """The reviews of aclImdb, from its folder or its .tar.gz.

    Args:
        path: The folder (or the one it stands in) or the archive.

    Returns:
        Labels: 0 negative, 1 positive. Reviews are sorted by name.

    Raises:
        InputError: Missing, damaged or cut off, a link or a name that leaves the folder, a label
            that its rating contradicts, sizes out of range, or a part without reviews.

    Example:
        >>> read_imdb("nowhere.tar.gz")
        Traceback (most recent call last):
        gdconv.support.errors.InputError: data = nowhere.tar.gz: no such file; give the aclImdb
        folder or aclImdb_v1.tar.gz as published.
    """
    path = Path(path)
    if not os.path.exists(path):  # unlike Path.exists, false for a name that is too long
        raise InputError("data", path, f"no such file; {IMDB_REMEDY}")
    if not (path.is_dir() or path.is_file()):  # opening a pipe would wait for ever
        raise InputError("data", path, f"this is no file; {IMDB_REMEDY}")
    try:
        found = dict(_folder_reviews(path) if path.is_dir() else _archive_reviews(path))
    except RefusedError as refused:
        raise InputError("data", path, f"{refused}; {IMDB_REMEDY}") from None
    except PermissionError:
        raise InputError("data", path, "it may not be read; change its permissions") from None
    except DAMAGE as error:
        kind = "folder cannot be read" if path.is_dir() else "this is no complete .tar.gz"
        raise InputError("data", path, f"{kind} ({_brief(error)}); {IMDB_REMEDY}") from None
    parts: dict[str, tuple[list[str], Int[np.ndarray, " N"]]] = {}
    for split in ("train", "test"):
        names = sorted(name for name in found if name.startswith(split))
        labels = np.array([int("/pos/" in name) for name in names], dtype=np.int64)
        if len(set(labels.tolist())) < 2:
            raise InputError("data", path, f"{split} lacks pos or neg reviews; {IMDB_REMEDY}")
        parts[split] = [found[name] for name in names], labels
    return Corpus("IMDb", *parts["train"], *parts["test"], ("negative", "positive"))


def read_csv(
    path: str | Path,
    text: str = "text",
    label: str = "label",
    test_share: float = 0.2,
    seed: int = 0,
) -> Corpus:
    r"""A CSV file with a column of texts and a column of labels, split at random.

    Args:
        path: The file, UTF-8, first line the names of the columns.
        text: Column of the texts.
        label: Column of the labels; any words or numbers, sorted to give classes 0, 1, ... "1" and
            "1.0" are the same number, so the same class.
        test_share: Share of the rows kept for testing.
        seed: Seed of the split.

    Returns:
        The corpus, named after the file.

    Raises:
        InputError: Missing or unreadable file, missing column, a row that is too short or without
            text, fewer than two classes, a label too rare to be trained and tested, or one that
            marks rows without a label.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "mine.csv"
        >>> _ = file.write_text("text,label\n" + "good,yes\nbad,no\n" * 5)
        >>> corpus = read_csv(file)
        >>> corpus.classes, len(corpus.train), len(corpus.test)
        (('no', 'yes'), 8, 2)
    """
    path = Path(path)
    if not os.path.isfile(path):  # unlike Path.is_file, false for a name that is too long
        raise InputError("data", path, "no such file; give a CSV with columns text and label")
    if not 0 < test_share < 1:
        raise InputError("test_share", test_share, "give a share between 0 and 1")
    try:
        with _long_fields(), path.open(encoding="utf-8-sig", newline="") as stream:
            texts, labels = _rows(path, csv.DictReader(stream, strict=True), text, label)
    except UnicodeDecodeError:
        raise InputError("data", path, "save it as UTF-8 text") from None
    except RefusedError as refused:
        raise InputError("data", path, str(refused)) from None
    except csv.Error as error:
        cause = "a quote is never closed" if "end of data" in str(error) else _brief(error)
        remedy = f"this is no readable CSV file ({cause}); write a quote inside a field twice"
        raise InputError("data", path, remedy) from None
    except OSError as error:
        remedy = f"it cannot be read ({_brief(error)}); change its permissions, or copy it"
        raise InputError("data", path, remedy) from None
    classes, numbers = _classes(labels, f"column {label}")
    test = _test_rows(numbers, len(classes), test_share, seed)
    if (np.bincount(numbers[~test], minlength=len(classes)) == 0).any() or not test.any():
        rare = classes[int(np.bincount(numbers).argmin())]
        raise InputError(f"column {label}", rare, "give more rows of this label")
    kept, held = np.flatnonzero(~test), np.flatnonzero(test)
    return Corpus(
        path.name,
        [texts[i] for i in kept],
        numbers[kept],
        [texts[i] for i in held],
        numbers[held],
        classes,
    )


def read_datasets(name: str = "imdb") -> Corpus:
    """A text classification set of Hugging Face `datasets`, where that package is installed.

    Args:
        name: Name of the set; it needs splits train and test with columns text and label.

    Returns:
        The corpus.

    Raises:
        InputError: The package is missing, the set cannot be loaded, or it lacks these columns.
    """
    try:
        datasets: Any = importlib.import_module("datasets")
    except ImportError:
        remedy = "install the package datasets, or give the aclImdb folder or archive"
        raise InputError("data", f"datasets:{name}", remedy) from None
    try:
        loaded = datasets.load_dataset(name)
        parts = [(list(loaded[s]["text"]), loaded[s]["label"]) for s in ("train", "test")]
        labels = [_whole_labels(*part) for part in parts]
    except Exception as error:  # its own classes, network, disk: the caller sees one kind
        remedy = f"give a set with splits train and test, text and label ({_brief(error)})"
        raise InputError("data", f"datasets:{name}", remedy) from error
    top = int(max(part.max() for part in labels))
    if min(int(part.min()) for part in labels) < 0:
        raise InputError("data", f"datasets:{name}", "give a set whose rows all have labels")
    classes = tuple(str(c) for c in range(top + 1))
    return Corpus(name, parts[0][0], labels[0], parts[1][0], labels[1], classes)


class _Counted:
    """A stream that refuses to give more than `LARGEST_UNPACKED` bytes."""

    def __init__(self, stream: gzip.GzipFile) -> None:
        self.stream, self.count = stream, 0

    def read(self, size: int) -> bytes:
        """At most `size` bytes."""
        block = self.stream.read(size)
        self.count += len(block)
        if self.count > LARGEST_UNPACKED:
            raise RefusedError("it unpacks to more than 2 GiB")
        return block


def _archive_reviews(path: Path) -> Iterator[tuple[str, str]]:
    """Name and text of every review in the archive, whose end is checked too."""
    found: dict[str, str] = {}
    with path.open("rb") as file, gzip.open(file) as unpacked:
        members = TarStream(_Counted(unpacked).read)
        for member in members:
            _require_harmless(member)
            name = _review_name(member.name) if member.kind == "file" else None
            if name is not None:
                _keep(found, name, members.content())
    return iter(found.items())


def _folder_reviews(path: Path) -> Iterator[tuple[str, str]]:
    """Name and text of every review in the folder, no link followed."""
    root = path / "aclImdb" if (path / "aclImdb").is_dir() else path
    found: dict[str, str] = {}
    for part in ("train", "train/pos", "train/neg", "test", "test/pos", "test/neg"):
        place = root / part
        if place.is_symlink():
            raise RefusedError(f"{part} is a link")
        if not place.is_dir():
            raise RefusedError(f"there is no folder {part} in it")
        if "/" not in part:
            continue
        for entry in sorted(os.scandir(place), key=lambda e: e.name):
            name = f"{part}/{entry.name}"
            if not REVIEW.fullmatch(name):
                continue
            if not entry.is_file(follow_symlinks=False):
                raise RefusedError(f"{name} is a link or no file")
            if entry.stat(follow_symlinks=False).st_size > LARGEST_REVIEW:
                raise RefusedError(f"{name} is longer than a review")
            _keep(found, name, Path(entry.path).read_bytes())
    return iter(found.items())


def _require_harmless(member: Member) -> None:
    """Refuse what no set of reviews holds, even though nothing would be written."""
    parts, shown = PurePosixPath(member.name).parts, repr(member.name[:80])
    if member.name.startswith("/") or ".." in parts or "\\" in member.name or ":" in member.name:
        raise RefusedError(f"the name {shown} leaves its folder")
    if member.kind == "other":
        raise RefusedError(f"{shown} is a link or no ordinary file")
    if member.kind == "file" and _review_name(member.name) and member.size > LARGEST_REVIEW:
        raise RefusedError(f"{shown} is longer than a review")


def _review_name(name: str) -> str | None:
    """The part of a member's name from train or test on, None for what is no review."""
    parts = [part for part in PurePosixPath(name).parts if part != "."]
    short = "/".join(parts[1:] if parts and parts[0] == "aclImdb" else parts)
    return short if REVIEW.fullmatch(short) else None


def _keep(found: dict[str, str], name: str, content: bytes) -> None:
    """Add a review whose rating agrees with its folder."""
    match = cast(re.Match[str], REVIEW.fullmatch(name))
    rating, positive = int(match[3]), match[2] == "pos"
    if rating > 10 or (rating < 7 if positive else not 1 <= rating <= 4):
        raise RefusedError(f"{name} is mislabelled: a rating of {rating} in {match[2]}")
    if name in found:
        raise RefusedError(f"{name} is in it twice")
    if len(found) >= MOST_REVIEWS:
        raise RefusedError(f"it holds more than {MOST_REVIEWS} reviews")
    try:
        found[name] = content.decode("utf-8")
    except UnicodeDecodeError:
        raise RefusedError(f"{name} is no UTF-8 text") from None


FIELDS = threading.Lock()
"""Held while the limit of `csv`, which belongs to the process, is another one."""


@contextlib.contextmanager
def _long_fields() -> Iterator[None]:
    """Let `csv` read texts as long as a folder's may be, and put its limit back."""
    with FIELDS:
        before = csv.field_size_limit(max(LARGEST_REVIEW, csv.field_size_limit()))
        try:
            yield
        finally:
            csv.field_size_limit(before)


def _rows(
    path: Path, reader: csv.DictReader[str], text: str, label: str
) -> tuple[list[str], list[str]]:
    """Both columns of a CSV file."""
    has = reader.fieldnames or []
    for column in (text, label):
        if column not in has:
            shown = ", ".join(map(str, has[:6]))
            raise InputError("data", path, f"it has columns [{shown}]; name a column {column}")
    texts, labels = [], []
    for row in reader:
        words, name = row[text], row[label]
        if not words or not words.strip() or name is None or not name.strip():
            where = f"line {reader.line_num}"
            raise InputError("data", path, f"give a text and a label in every row, also in {where}")
        if len(words.encode()) > LARGEST_REVIEW:
            where = f"the one that ends in line {reader.line_num}"
            raise RefusedError(f"give texts of at most {LARGEST_REVIEW} bytes; {where} is longer")
        texts.append(words)
        labels.append(name.strip())
    if not texts:
        raise InputError("data", path, "it has no rows; give texts with labels")
    return texts, labels


def _number(label: str) -> Decimal | None:
    """The number that a label is; None for a word, and for what no one numbers classes with."""
    try:
        number = Decimal(label)
    except InvalidOperation:
        return None
    return number if number.is_finite() and abs(number.adjusted()) < 20 else None


def _classes(labels: list[str], field: str) -> tuple[tuple[str, ...], Int[np.ndarray, " N"]]:
    """Classes in order, numbers by size and before words, and the class of every row."""
    numbers = {label: _number(label) for label in set(labels)}
    names = {
        label: label if number is None else f"{number.normalize() + 0:f}"  # + 0: -0 is 0
        for label, number in numbers.items()
    }
    order = {names[label]: (number is None, number or 0, names[label])
             for label, number in numbers.items()}  # fmt: skip
    classes = tuple(sorted(order, key=lambda name: order[name]))
    missing = [name for name in classes if name.lower() in MISSING]
    if missing or ("-1" in classes and set(classes) != {"-1", "1"}):
        remedy = "leave out rows without a label, or name the class by a word if it is one"
        raise InputError(field, missing[0] if missing else "-1", remedy)
    if len(classes) < 2:
        raise InputError(field, ", ".join(classes), "give at least two classes")
    place = {name: i for i, name in enumerate(classes)}
    return classes, np.array([place[names[label]] for label in labels], dtype=np.int64)


def _whole_labels(texts: list[Any], labels: Any) -> Int[np.ndarray, " N"]:
    """Labels that are whole numbers, one for each text; conversion alone would cut 1.5 to 1."""
    given = np.asarray(labels)
    made = given.astype(np.int64)
    if not texts or made.shape != (len(texts),) or not bool(np.all(made == given)):
        raise ValueError("labels that are no whole numbers, one for each text")
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a text that is no text")
    return made


def _test_rows(labels: np.ndarray, classes: int, share: float, seed: int) -> np.ndarray:
    """Which rows are for testing: the same share of every class, at least one of each if it can."""
    rng = np.random.default_rng(seed)
    test = np.zeros(len(labels), dtype=bool)
    for c in range(classes):
        rows = rng.permutation(np.flatnonzero(labels == c))
        test[rows[: max(1, round(share * len(rows)))]] = True
    return test


def _brief(error: BaseException) -> str:
    """One line about an error of a library."""
    return (str(error) or type(error).__name__).splitlines()[0][:60]
