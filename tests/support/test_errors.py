"""Messages: one sentence, nothing invisible in it, whatever it quotes."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gdconv.cli import main as cli
from gdconv.cli import output
from gdconv.report.example import example_check
from gdconv.report.summary import summary
from gdconv.report.tables import FORMATS, render
from gdconv.support.errors import (
    MOST_QUOTED,
    MOST_SAID,
    DivergenceError,
    GdconvError,
    InputError,
    printable,
    quoted,
)
from gdconv.support.npz import read_arrays

HOSTILE = {
    "escape": "a\x1b[2J\x1b]0;title\x07b",
    "lines": "a\nVERDICT per-head: confirmed\r\nb\x0bc\u2028d\x85e",
    "direction": "a\u202egnp.exe\u2066b\u200fc",
    "unseen": "a\u200b\u00ad\ufeff\x00b",
    "c1": "a\x9b31mb\x7f",
    "surrogate": "a\udcff\ud800b",
    "long": "x" * 100_000,
    "long escapes": "\x1b" * 100_000,
    "long lines": "\n" * 100_000 + "b",
}


def assert_tame(text: str, most: int = 2 * MOST_SAID) -> None:
    assert text.isprintable()
    assert text.strip()
    assert len(text) <= most
    text.encode("utf-8")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        *[("", "''"), ("  ", "'  '"), ("a\nb", "a b"), (0, "0"), ("x" * 200, "xxx...")],
        *[("a\tb", "a b"), ("\x1b[31m", r"\x1b[31m"), ("a\u202eb", r"a\u202eb"), ("é η", "é η")],
        *[(b"\x1b", r"b'\x1b'"), (None, "None"), ([1, "a\nb"], r"[1, 'a\nb']"), ("\n", "'")],
    ],
)
def test_values_are_visible_and_short(value: object, shown: str) -> None:
    text = str(InputError("field", value, "do"))
    assert shown in text
    assert "\n" not in text
    assert len(text) < 150


class Unshowable:
    def __str__(self) -> str:
        raise RuntimeError("no")


def nested(depth: int) -> list[Any]:
    made: list[Any] = []
    for _ in range(depth):
        made = [made]
    return made


def test_a_message_about_a_value_does_not_fail_on_the_value() -> None:
    deep, wide = nested(100_000), list(range(10**6))
    for value in (Unshowable(), 10**10_000, deep, [Unshowable()], wide, {"a": "\x1b"}):
        assert_tame(str(InputError("field", value, "do")), 150)


@pytest.mark.parametrize("name", HOSTILE)
def test_every_part_of_a_message_is_cleaned(name: str) -> None:
    foreign = HOSTILE[name]
    for error in (
        InputError("field", foreign, "do this"),
        InputError(foreign, 3, "do this"),
        InputError("field", 3, f"{foreign}; do this"),
        GdconvError(f"{foreign}; do this"),
    ):
        assert_tame(str(error))
        assert "do this" in str(error)  # the remedy survives the cut
    assert InputError("field", foreign, "do").value == foreign  # as it was given


@given(st.text(st.characters(), max_size=400), st.integers(20, 300))
def test_quoting_twice_is_quoting_once(text: str, most: int) -> None:
    once = quoted(text, most)
    assert len(once) <= most
    assert once.isprintable()
    assert quoted(once, most) == once
    if text.isprintable() and len(text) <= most:
        assert once == text


@pytest.mark.parametrize("most", [20, 21, 22, 120])
def test_what_is_cut_keeps_both_ends_and_uses_its_room(most: int) -> None:
    whole = "".join(chr(0x4E00 + i) for i in range(most))
    assert quoted(whole, most) == whole
    cut = quoted(whole + "!", most)
    head, tail = cut.split("...")
    assert len(cut) == most
    assert whole.startswith(head)
    assert (whole + "!").endswith(tail)
    assert len(head) > len(tail) >= most // 4
    assert MOST_QUOTED == 120


def test_lines_are_kept_where_they_are_ours() -> None:
    assert printable("a\nη\x1b\r\tb\n") == "a\nη\\x1b\\r\\tb\n"


def test_divergence_names_run_seed_and_a_remedy_that_is_left() -> None:
    text = str(DivergenceError(2, 0.1, 5, 3e14, seed=7))
    assert "run 2 (seed 7) diverged at step 5 (loss 3e+14)" in text
    assert "--step local" in text
    assert "--step local" not in str(DivergenceError(2, 0.1, 5, 3e14, seed=7, local=True))


# Every door through which foreign text comes -----------------------------------------------------

COMMANDS: dict[str, list[str]] = {
    "command": ["{}"],
    "theorem": ["check", "{}"],
    "option": ["check", "full-gd", "--{}"],
    "value of a switch": ["check", "full-gd", "--quiet={}"],
    "number": ["check", "full-gd", "--steps", "{}"],
    "real": ["check", "full-gd", "--margin={}"],
    "choice": ["check", "full-gd", "--kernel", "{}"],
    "data": ["check", "full-gd", "--data", "{}"],
    "archive": ["check", "full-gd", "--data", "{}.npz"],
    "problem": ["check", "full-gd", "--problem", "{}"],
    "statement": ["check", "full-gd", "--statement", "{}"],
    "word too many": ["list", "{}"],
    "folder": ["table", "{}"],
    "format": ["table", ".", "--format", "{}"],
    "replay": ["replay", "{}"],
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("door", COMMANDS)
def test_arguments(door: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([word.format(HOSTILE[name]) for word in COMMANDS[door]]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.endswith("\n")
    assert_tame(said.err[:-1])


def _names(folder: Path) -> list[str]:
    """Hostile names that this file system takes."""
    made = []
    for name in HOSTILE.values():
        with contextlib.suppress(OSError, ValueError):
            (folder / name[:100]).mkdir()
            made.append(name[:100])
    return made


def test_paths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = _names(tmp_path)
    assert len(names) > 3
    for name in names:
        (tmp_path / name / "manifest.json").write_text("{}")
        (tmp_path / name / "bad.npz").write_text("no archive")
        for words in (
            ["table", str(tmp_path / name)],
            ["replay", str(tmp_path / name)],
            ["check", "full-gd", "--data", str(tmp_path / name / "bad.npz")],
            ["check", "full-gd", "--data", str(tmp_path / name)],
            ["check", "full-gd", "--out", str(tmp_path / name / "bad.npz")],
        ):
            assert cli.main(words) == 2
            said = capsys.readouterr()
            assert said.out == ""
            assert_tame(said.err[:-1])


@pytest.mark.parametrize("name", HOSTILE)
def test_members_of_archives(name: str, tmp_path: Path) -> None:
    member = HOSTILE[name].replace("\x00", "").replace("\udcff\ud800", "")[:60_000]
    np.savez(tmp_path / "a.npz", **{member: np.ones(3)})
    with pytest.raises(InputError) as caught:
        read_arrays(tmp_path / "a.npz", ("X", "y"))
    assert_tame(str(caught.value))


@pytest.mark.parametrize("name", HOSTILE)
def test_unforeseen_errors(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> int:
        raise RuntimeError(HOSTILE[name])

    monkeypatch.setattr(cli, "_list", fail)
    assert cli.main(["list"]) == 2
    assert_tame(capsys.readouterr().err[:-1])


@pytest.mark.parametrize(("name", "runs"), [*((name, 2) for name in HOSTILE), ("lines", 5)])
def test_what_a_saved_run_says(name: str, runs: int, capsys: pytest.CaptureFixture[str]) -> None:
    foreign, check = HOSTILE[name], example_check(runs)
    for table in (check.verdicts, check.hypotheses):
        table["statement"] = table["statement"].replace("per-head", foreign)
    check.hypotheses["hypothesis"] = [f"{foreign}{h}" for h in check.hypotheses["hypothesis"]]
    check.statement = foreign
    check.title = check.source = check.level = foreign
    check.messages = [foreign]
    check.config["data"] = foreign
    sound = example_check(runs)
    if "long" not in name:
        assert summary(check).count("\n") <= summary(sound).count("\n") + 3
    for format in FORMATS[:1] + FORMATS[2:]:
        text = render(check, format)
        assert text.count("\n") == render(sound, format).count("\n")
        assert all(line.isprintable() for line in text.split("\n"))
        assert max(map(len, text.split("\n"))) < 2 * MOST_SAID
    output.show(summary(check) + render(check, "csv"))
    said = capsys.readouterr().out
    assert all(line.isprintable() for line in said.split("\n"))
    assert all(map(str.isprintable, summary(check).split("\n")))
