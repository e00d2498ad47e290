"""Tokenisation, vocabulary from training texts only, cache, dispatch by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from samples_reviews import REVIEWS, packed, unpacked

from experiments.tasks import stand_in, text
from experiments.tasks.text import encode, load_text, shared_note, split_text
from experiments.tasks.text_sources import Corpus
from gdconv.support.errors import InputError

TWO = np.array([0, 1])


def decoded(task: text.TextTask, row: np.ndarray) -> list[str]:
    names = ("", "?", *task.vocabulary)
    return [names[i] for i in row if i]


def test_symbols_give_the_text_back() -> None:
    task = load_text("stand-in", length=stand_in.LONGEST, samples=(60, 20), seed=2)
    texts, labels = stand_in.stand_in_texts(60, seed=2)
    assert [decoded(task, row) for row in task.X] == [t.split() for t in texts]
    assert (task.y == labels).all()
    assert task.name == stand_in.NAME
    assert task.X.max() < task.symbols


def test_the_vocabulary_is_the_frequent_part_of_the_training_texts() -> None:
    corpus = Corpus("mine", ["b b a c", "a b"], TWO, ["z b c", "c"], TWO, ("0", "1"))
    task = encode(corpus, 3, 2)
    assert task.vocabulary == ("b", "a")  # c is the rarest, z is in the test texts only
    assert task.X.tolist() == [[2, 2, 3], [3, 2, 0]]
    assert task.X_test.tolist() == [[1, 2, 1], [1, 0, 0]]


def test_a_text_without_symbols_is_not_all_padding() -> None:
    corpus = Corpus("mine", ["a", " "], TWO, ["", "a"], TWO, ("0", "1"))
    assert (encode(corpus, 4, 5).X_test != 0).any(axis=1).all()
    with pytest.raises(InputError, match="give texts with words"):
        encode(Corpus("mine", ["", " "], TWO, ["a", "b"], TWO, ("0", "1")), 4, 5)


def test_words_and_characters() -> None:
    assert split_text("Don't<br /><br/>stop, NOW!") == ["don't", "stop", ",", "now", "!"]
    assert "".join(split_text("Ab c", "character")) == "ab c"


@pytest.mark.parametrize("mark", ["<br>", "<br/>", "<br />", "<BR />", "<Br>", "<bR/ >", "<BR\n/>"])
def test_line_breaks_of_web_pages_are_no_words(mark: str) -> None:
    assert split_text(f"good{mark}bad") == ["good", "bad"]
    assert "".join(split_text(f"good{mark}bad", "character")) == "good bad"


def test_test_texts_that_are_trained_on_get_a_note(tmp_path: Path) -> None:
    def note(train: list[str], test: list[str]) -> str:
        task = encode(Corpus("mine", train, TWO, test, TWO, ("0", "1")), 2, 9)
        return shared_note(task.X, task.X_test)

    assert note(["a b", "b a"], ["a a", "b b"]) == ""
    assert note(["a b", "b a"], ["A  b", "b b"]) == "1 of 2 test texts is a training text too"
    assert note(["a b", "b a"], ["a b c", "b a"]) == "2 of 2 test texts are training texts too"
    file = tmp_path / "m.csv"
    file.write_text("text,label\n" + "good,yes\nbad,no\n" * 5)
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):  # written, then read
        task = load_text(file, length=4, cache=cache)
        assert shared_note(task.X, task.X_test) == "2 of 2 test texts are training texts too"


@pytest.mark.parametrize("kind", ["archive", "folder", "csv"])
def test_the_cache_gives_the_same_task(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    source: Path
    if kind == "archive":
        source = packed(tmp_path / "a.tar.gz")
    elif kind == "folder":
        source = unpacked(tmp_path)
    else:
        source = tmp_path / "m.csv"
        source.write_text("text,label\n" + "good one,1\nbad one,0\n" * 10)
    first = load_text(source, length=6, cache=cache)
    assert len(list(cache.iterdir())) == 1
    with monkeypatch.context() as patched:  # a second reading would fail
        patched.setattr(text, "encode", None)
        again = load_text(source, length=6, cache=cache)
    for name in ("X", "y", "X_test", "y_test"):
        assert (getattr(first, name) == getattr(again, name)).all()
    assert (first.name, first.vocabulary, first.classes) == (
        *(again.name, again.vocabulary, again.classes),
    )


def test_other_content_or_options_are_another_cache(tmp_path: Path) -> None:
    cache, source = tmp_path / "cache", packed(tmp_path / "a.tar.gz")
    load_text(source, length=6, cache=cache)
    load_text(source, length=7, cache=cache)
    assert len(list(cache.iterdir())) == 2
    folder = unpacked(tmp_path)
    load_text(folder, length=6, cache=cache)
    (folder / next(iter(REVIEWS))).write_text("changed entirely")
    changed = load_text(folder, length=6, cache=cache)
    assert "changed" in changed.vocabulary
    assert len(list(cache.iterdir())) == 4


@pytest.mark.parametrize("damage", [b"", b"rubbish", None])
def test_a_damaged_cache_is_made_again(tmp_path: Path, damage: bytes | None) -> None:
    cache, source = tmp_path / "cache", packed(tmp_path / "a.tar.gz")
    task = load_text(source, length=6, cache=cache)
    (file,) = cache.iterdir()
    file.write_bytes(file.read_bytes()[:-40] if damage is None else damage)
    assert (load_text(source, length=6, cache=cache).X == task.X).all()


def test_a_refused_archive_leaves_no_cache(tmp_path: Path) -> None:
    bad = tmp_path / "a.tar.gz"
    bad.write_bytes(b"no archive")
    with pytest.raises(InputError, match="complete"):
        load_text(bad, cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": "nonsense"}, "data = nonsense: give stand-in"),
        ({"data": "nowhere.csv"}, "no such file"),
        ({"data": "nowhere.tgz"}, "no such file"),
        ({"length": 0}, "length = 0"),
        ({"vocabulary": 0}, "vocabulary = 0"),
        ({"unit": "byte"}, "give word or character"),
        ({"samples": (1, 5)}, "samples = 1"),
        ({"seed": -1}, "seed = -1"),
    ],
)
def test_bad_input_is_one_sentence(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_text(**options)
