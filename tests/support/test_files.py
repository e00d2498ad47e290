"""Output folders are refused in time: too long, unreachable, files, devices, a deleted start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import FAST

from gdconv.checks import store
from gdconv.checks.result import load
from gdconv.cli import main as cli
from gdconv.support.errors import InputError
from gdconv.support.files import folder_path, require_writable

LONG = ["a" * 300, "a" * 5000, "b/" * 3000 + "c", "x/" + "\u00e9" * 200, "ok/" + "a" * 256 + "/ok"]
"""A name of more than 255 bytes, a path of more than 4,096."""


@pytest.mark.parametrize("name", LONG)
def test_a_name_that_is_too_long_is_refused_before_anything_runs(
    name: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setattr("gdconv.checks.run.run", pytest.fail)
    monkeypatch.chdir(tmp_path)
    for out in (name, str(tmp_path / name)):
        assert cli.main([*FAST, "--out", out]) == 2
        said = capsys.readouterr().err
        assert said.startswith("gdconv: out = ")
        assert len(said.splitlines()) == 1
        assert "unexpected" not in said
    assert list(tmp_path.iterdir()) == []


def test_a_path_as_long_as_it_may_be_is_taken(tmp_path: Path) -> None:
    require_writable(tmp_path / ("a" * 255) / "b")


@pytest.mark.parametrize("command", ["table", "replay"])
@pytest.mark.parametrize("name", ["a" * 5000, "a" * 300, "/dev/null/x", "/dev/full", "/dev/null"])
def test_folders_to_read_are_refused_in_a_sentence(command: str, name: str, capsys: Any) -> None:
    assert cli.main([command, name]) == 2
    said = capsys.readouterr().err
    assert said.startswith("gdconv: folder = ")
    assert "unexpected" not in said


@pytest.mark.parametrize("value", ["", " ", "a\0b", None, 3, "\ud800", b"bytes"])
def test_what_is_no_path_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match="^out = .*give the path of a folder"):
        folder_path("out", value)


def test_a_loop_of_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for call in (store.find_runs, load, require_writable):
        with pytest.raises(InputError):
            call(tmp_path / "loop" / "x")


@pytest.mark.parametrize("words", [FAST, ["list"], ["table", "."], ["replay", "."]])
def test_a_deleted_working_directory_is_a_sentence(words: list[str], tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    code = (
        f"import os, sys; os.chdir({str(gone)!r}); os.rmdir({str(gone)!r}); "
        f"from gdconv.cli import main as cli; raise SystemExit(cli.main({words}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "gdconv: working directory = a folder that was deleted: change to a folder that exists.\n"
    )


def test_a_deleted_working_directory_is_refused_in_python(tmp_path: Path) -> None:
    import gdconv

    here = Path.cwd()
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    try:
        gone.rmdir()
        with pytest.raises(InputError, match="^working directory = "):
            gdconv.check("full-gd", problem="stacked-witness")
    finally:
        os.chdir(here)
