"""Texts as symbols: words or characters to numbers, cut to a length, and a cache of the result.

0 is padding, 1 a symbol not in the vocabulary, which is made of the training texts only.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from experiments.tasks import stand_in
from experiments.tasks.text_sources import Corpus, read_csv, read_datasets, read_imdb
from gdconv.data.draws import whole
from gdconv.support.errors import InputError
from gdconv.support.files import replaced, require_writable
from gdconv.support.npz import read_arrays

UNKNOWN = 1
FIRST = 2
"""Number of the first symbol of the vocabulary."""

VERSION = 2
"""Of the tokenisation; part of the cache's name."""

CHOICES = "give stand-in, the aclImdb folder, its .tar.gz, a .csv, or datasets:imdb"

WORD = re.compile(r"\w+(?:'\w+)?|[.,!?]")
BREAK = re.compile(r"<br\s*/?\s*>", re.IGNORECASE)


@dataclass(frozen=True)
class TextTask:
    """A tokenised text task.

    Attributes:
        name: What the data are called in results; a generated task is called a stand-in.
        X: Training symbols, (N, n), 0 is padding.
        y: Their classes.
        X_test: Test symbols, (M, n).
        y_test: Their classes.
        vocabulary: Symbol number i + 2 is vocabulary[i].
        classes: Names of the classes.
    """

    name: str
    X: Int[np.ndarray, "N n"]
    y: Int[np.ndarray, " N"]
    X_test: Int[np.ndarray, "M n"]
    y_test: Int[np.ndarray, " M"]
    vocabulary: tuple[str, ...]
    classes: tuple[str, ...]

    @property
    def symbols(self) -> int:
        """Number of different symbols, padding and unknown included."""
        return len(self.vocabulary) + FIRST


def shared_note(X: Int[np.ndarray, "N n"], X_test: Int[np.ndarray, "M n"]) -> str:
    """A sentence about test texts that the training texts hold too, as the symbols that are kept.

    Args:
        X: Training symbols.
        X_test: Test symbols.

    Returns:
        The sentence, without its final stop; empty when there is none.

    Example:
        >>> shared_note(np.array([[2, 3], [4, 0]]), np.array([[4, 0], [4, 2]]))
        '1 of 2 test texts is a training text too'
    """
    seen = {hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in X}
    count = sum(hashlib.blake2b(row.tobytes(), digest_size=16).digest() in seen for row in X_test)
    verb = "is a training text" if count == 1 else "are training texts"
    return f"{count} of {len(X_test)} test texts {verb} too" if count else ""


def load_text(
    data: str | Path = "stand-in",
    length: int = 256,
    vocabulary: int = 10_000,
    unit: str = "word",
    samples: tuple[int, int] = (8000, 2000),
    seed: int = 0,
    cache: str | Path | None = None,
) -> TextTask:
    """The text task that `data` names.

    Args:
        data: "stand-in" (generated), the aclImdb folder, its .tar.gz, a .csv of text and label, or
            "datasets:NAME".
        length: n, most symbols of a text; what follows is cut off.
        vocabulary: Most symbols, the most frequent ones of the training texts.
        unit: "word" or "character".
        samples: Training and test texts to generate, of a stand-in only.
        seed: Of the stand-in, and of the split of a .csv.
        cache: Folder for the tokenised arrays of a folder, archive or CSV; None for no cache.

    Returns:
        The task.

    Raises:
        InputError: Unknown name, unusable data, or sizes out of range.

    Example:
        >>> task = load_text("stand-in", length=34, samples=(20, 10))
        >>> task.X.shape, task.name
        ((20, 34), 'stand-in (generated text)')
    """
    whole("length", length, 1)
    whole("vocabulary", vocabulary, 1)
    if unit not in ("word", "character"):
        raise InputError("unit", unit, "give word or character")
    name = str(data)
    if name == "stand-in":
        return encode(_generated(samples, seed), length, vocabulary, unit)
    if name.startswith("datasets:"):
        return encode(read_datasets(name.removeprefix("datasets:")), length, vocabulary, unit)
    path, is_csv = Path(data), name.lower().endswith(".csv")
    if not (is_csv or path.is_dir() or name.lower().endswith((".tar.gz", ".tgz"))):
        raise InputError("data", data, CHOICES)
    place = None
    if cache is not None and path.exists():
        options = (VERSION, length, vocabulary, unit, seed if is_csv else 0, is_csv)
        place = Path(cache) / f"text-{_fingerprint(path, options)}.npz"
        if (cached := _cached(place)) is not None:
            return cached
    task = encode(
        read_csv(path, seed=seed) if is_csv else read_imdb(path), length, vocabulary, unit
    )
    if place is not None:
        _save(place, task)
    return task


def split_text(text: str, unit: str = "word") -> list[str]:
    """Symbols of a text: lower-case words and . , ! ?, or characters.

    Args:
        text: A text; the line breaks of web pages count as spaces.
        unit: "word" or "character".

    Returns:
        The symbols.

    Example:
        >>> split_text("It isn't<br />GOOD!")
        ['it', "isn't", 'good', '!']
        >>> split_text("Ab!", "character")
        ['a', 'b', '!']
    """
    plain = BREAK.sub(" ", text).lower()
    return list(plain) if unit == "character" else WORD.findall(plain)


def encode(corpus: Corpus, length: int, vocabulary: int, unit: str = "word") -> TextTask:
    """Symbols of a corpus.

    Args:
        corpus: The texts.
        length: n.
        vocabulary: Most symbols.
        unit: "word" or "character".

    Returns:
        The task.

    Raises:
        InputError: No training text has a symbol.

    Example:
        >>> one = np.array([0, 1])
        >>> corpus = Corpus("mine", ["a b", "a"], one, ["b c", "a"], one, ("0", "1"))
        >>> task = encode(corpus, 3, 10)
        >>> task.vocabulary, task.X_test.tolist()
        (('a', 'b'), [[3, 1, 0], [2, 0, 0]])
    """
    train = [split_text(text, unit)[:length] for text in corpus.train]
    counts = Counter(symbol for symbols in train for symbol in symbols)
    kept = sorted(counts, key=lambda symbol: (-counts[symbol], symbol))[:vocabulary]
    if not kept:
        raise InputError("data", corpus.name, "give texts with words")
    numbers = {symbol: i + FIRST for i, symbol in enumerate(kept)}
    test = (split_text(text, unit)[:length] for text in corpus.test)
    return TextTask(
        corpus.name,
        _numbered(train, len(corpus.train), numbers, length),
        corpus.train_labels,
        _numbered(test, len(corpus.test), numbers, length),
        corpus.test_labels,
        tuple(kept),
        corpus.classes,
    )


def _generated(samples: tuple[int, int], seed: int) -> Corpus:
    """The stand-in; training and test parts are drawn independently."""
    for count in samples:
        whole("samples", count, 2)
    whole("seed", seed, 0)
    parts = [stand_in.stand_in_texts(count, seed, part) for part, count in enumerate(samples)]
    return Corpus(stand_in.NAME, *parts[0], *parts[1], ("negative", "positive"))


def _numbered(
    texts: Iterable[Sequence[str]], count: int, numbers: dict[str, int], length: int
) -> Int[np.ndarray, "M n"]:
    """Padded numbers; a text without symbols is one unknown symbol, so never all padding."""
    made = np.zeros((count, length), dtype=np.int64)
    for row, symbols in zip(made, texts, strict=True):
        found = [numbers.get(symbol, UNKNOWN) for symbol in symbols] or [UNKNOWN]
        row[: len(found)] = found
    return made


def _fingerprint(path: Path, options: tuple[Any, ...]) -> str:
    """Of a file's content, or of the names, sizes and times of a folder's reviews; and options."""
    total = hashlib.sha256(repr(options).encode())
    try:
        if path.is_file():
            with path.open("rb") as stream:
                total.update(hashlib.file_digest(stream, "sha256").digest())
        else:
            for folder, _, names in sorted(os.walk(path)):
                for name in sorted(names):
                    seen = os.lstat(os.path.join(folder, name))
                    place = os.path.relpath(os.path.join(folder, name), path)
                    total.update(f"{place} {seen.st_size} {seen.st_mtime_ns}\n".encode())
    except OSError:  # reading it will tell the user what is wrong
        total.update(b"unreadable")
    return total.hexdigest()[:16]


def _save(place: Path, task: TextTask) -> None:
    """Write the arrays beside their place and rename: a killed run leaves no half cache."""
    require_writable(place.parent)
    with replaced(place) as stream:
        np.savez_compressed(
            stream,
            **{name: getattr(task, name) for name in _ARRAYS},
            vocabulary=np.array(task.vocabulary),
            classes=np.array(task.classes),
            name=np.array(task.name),
        )


_ARRAYS = ("X", "y", "X_test", "y_test")


def _cached(place: Path) -> TextTask | None:
    """What an earlier call stored; None where there is nothing, or nothing whole."""
    if not place.is_file():
        return None
    try:
        found = read_arrays(place, (*_ARRAYS, "vocabulary", "classes", "name"))
    except InputError:  # a damaged cache is made again
        return None
    arrays = {name: found[name] for name in _ARRAYS}
    whole = all(array.dtype == np.int64 for array in arrays.values()) and all(
        arrays[x].ndim == 2 and arrays[y].shape == arrays[x].shape[:1]
        for x, y in (("X", "y"), ("X_test", "y_test"))
    )
    if not whole:
        return None
    words = {name: tuple(str(w) for w in found[name].ravel()) for name in ("vocabulary", "classes")}
    parts: dict[str, Any] = {**arrays, **words}
    return TextTask(name=str(found["name"]), **parts)
