"""The cache of compiled code: never stale, and never more than a matter of time."""

from __future__ import annotations

import errno
import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from numba.core import caching

import gdconv
from gdconv.cli.main import main
from gdconv.compiled import cache as compiled
from gdconv.support.errors import GdconvError
from gdconv.support.notices import announced

PACKAGE = Path(gdconv.__file__).parent
SOURCE = """
from gdconv.compiled.cache import njit

@njit(nogil=True)
def one(x):
    return x + 1

@njit()
def two(x):
    return one(x) + 1
"""


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """What is said on standard error from now on."""
    monkeypatch.setattr(compiled, "_SAID", [])
    capsys.readouterr()
    return lambda: capsys.readouterr().err


def load(folder: Path) -> Any:
    """The module, as a new process would import it."""
    (folder / "mine.py").write_text(SOURCE)
    spec = importlib.util.spec_from_file_location("mine", folder / "mine.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def hits(module: Any) -> int:
    return sum(module.two.stats.cache_hits.values())


def test_code_is_kept_and_found_again(tmp_path: Path, said: Any) -> None:
    first = load(tmp_path)
    assert first.two(1.0) == 3.0
    assert hits(first) == 0
    again = load(tmp_path)
    assert again.two(1.0) == 3.0
    assert hits(again) == 1
    assert again.one.targetoptions["nogil"]
    assert said() == ""


def test_a_compilation_is_announced_once_and_only_where_it_happens(
    tmp_path: Path, said: Any
) -> None:
    told: list[str] = []
    assert load(tmp_path).one(1) == 2  # nobody listens
    with announced(told.append):
        first = load(tmp_path)
        assert told == []
        assert first.two(1.0) == 3.0  # it compiles `one` too
        assert first.two(2.0) == 4.0
    assert told == ["compiling once, which takes about a minute ..."]
    with announced(told.append):
        assert load(tmp_path).two(1.0) == 3.0
        assert load(tmp_path).one(1) == 2
    assert len(told) == 1
    for entry in tmp_path.rglob("*.nbc"):
        entry.write_bytes(b"damaged")
    with announced(told.append):
        assert load(tmp_path).two(1.0) == 3.0
    assert len(told) == 2
    assert said() == ""


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        ([], ["gdconv: compiling once, which takes about a minute ...", "gdconv: 3.0"]),
        (["--json"], ["gdconv: compiling once, which takes about a minute ...", "gdconv: 3.0"]),
        (["--quiet"], ["gdconv: 3.0"]),
    ],
)
def test_the_command_line_says_so_on_standard_error(
    words: list[str], lines: list[str], tmp_path: Path, said: Any, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def run(*_: Any) -> None:
        raise GdconvError(str(load(tmp_path).two(1.0)))

    monkeypatch.setattr("gdconv.checks.run.run", run)
    for expected in (lines, lines[-1:]):  # the second time it is there
        assert main(["check", "full-gd", "--problem", "stacked-witness", *words]) == 2
        shown = capsys.readouterr()
        assert shown.err.splitlines() == expected
        assert shown.out == ""


TOTAL = """
import numpy

@njit()
def total(x):
    made = numpy.full(4, x)
    found = 0.0
    for value in made:
        found += value
    return found
"""
LATER = """
import numpy, sys
from numba.core.base import BaseContext
from mine import njit, one, total, two

refreshed, refresh = [], BaseContext.refresh
BaseContext.refresh = lambda self: (refreshed.append(1), refresh(self))[1]
assert two(1.0) == 3.0
assert total(1.0) == 4.0
assert sum(two.stats.cache_hits.values()) == sum(total.stats.cache_hits.values()) == 1
print(bool(refreshed), "numba.np.linalg" in sys.modules)

@njit()
def three(x):
    return numpy.sort(x)[0] + two(x[0]) + one(1)

assert three(numpy.array([2.0, 1.0])) == 7.0
print(bool(refreshed))
"""


@pytest.mark.parametrize("lean", [True, False])
def test_stored_code_runs_without_what_compiles_and_new_code_calls_it(
    lean: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(SOURCE + TOTAL)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    mine = importlib.import_module("mine")
    assert (mine.two(1.0), mine.total(1.0)) == (3.0, 4.0)
    del sys.modules["mine"]
    text = LATER if lean else "import gdconv.compiled.cache as c\nc.LEAN = False" + LATER
    done = subprocess.run(
        [sys.executable, "-c", text], check=False, capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == (["False", "False", "True"] if lean else ["True"] * 3)


def test_an_edit_of_any_compiled_source_makes_all_entries_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load(tmp_path).two(1.0) == 3.0
    monkeypatch.setattr(compiled, "stamp", lambda _: "another")
    assert load(tmp_path).two(1.0) == 3.0
    assert hits(load(tmp_path)) == 0
    changed = load(tmp_path)
    changed.two(1.0)
    assert hits(changed) == 1


@pytest.mark.parametrize("name", compiled.SOURCES)
def test_the_stamp_depends_on_every_source(tmp_path: Path, name: str) -> None:
    digest = compiled.stamp.__wrapped__
    before = digest(tmp_path)
    (tmp_path / f"{name}.py").write_text("x")
    after = digest(tmp_path)
    (tmp_path / f"{name}.py").write_text("y")
    assert len({before, after, digest(tmp_path)}) == 3
    assert compiled.stamp(compiled.HERE) == digest(PACKAGE / "compiled")


def refuse(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x\x1b[2J" * 1000)


def assert_said_once(text: str) -> None:
    assert text.startswith("gdconv: compiled code is not kept (")
    assert text.endswith("set NUMBA_CACHE_DIR to a folder that can be written.\n")
    assert text[:-1].isprintable()
    assert len(text) < 400


def test_no_folder_for_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Any
) -> None:
    monkeypatch.setattr(caching._CacheLocator, "ensure_cache_path", refuse)
    assert load(tmp_path).two(1.0) == 3.0
    assert_said_once(said())
    assert load(tmp_path).two(1) == 3
    assert said() == ""
    assert not list(tmp_path.rglob("*.nb?"))


@pytest.mark.parametrize("part", ["_save_index", "_save_data", "_open_for_write", "_dump"])
def test_a_cache_that_cannot_be_written_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Any, part: str
) -> None:
    monkeypatch.setattr(caching.IndexDataCacheFile, part, refuse)
    made = load(tmp_path)
    assert made.two(1.0) == 3.0
    assert made.two(1) == 3
    assert_said_once(said())
    monkeypatch.undo()
    again = load(tmp_path)  # what was half written is no obstacle
    assert again.two(1.0) == 3.0
    again = load(tmp_path)
    assert again.two(1.0) == 3.0
    assert hits(again) == 1


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
@pytest.mark.parametrize("keep", [0, 1, 100])
def test_damaged_entries_are_compiled_again(
    tmp_path: Path, said: Any, kind: str, keep: int
) -> None:
    assert load(tmp_path).two(1.0) == 3.0
    entries = list(tmp_path.rglob(f"*.{kind}"))
    assert len(entries) == 2
    for entry in entries:
        entry.write_bytes(entry.read_bytes()[:keep])
    assert load(tmp_path).two(1.0) == 3.0
    again = load(tmp_path)
    assert again.two(1.0) == 3.0
    assert hits(again) == 1
    assert said() == ""


def test_a_function_without_a_file_is_compiled(said: Any) -> None:
    space: dict[str, Any] = {}
    exec(SOURCE, space)
    assert space["two"](1.0) == 3.0
    assert said() == ""


def environment(folder: Path) -> dict[str, str]:
    """Every place that numba tries is below a file."""
    (folder / "file").touch()
    below = str(folder / "file" / "x")
    return os.environ | {
        **dict.fromkeys(("HOME", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR"), below),
        "PYTHONPATH": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def test_every_compiled_module_of_a_read_only_installation_is_imported(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "gdconv", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in (tmp_path / "gdconv", *(tmp_path / "gdconv").iterdir()):
        if folder.is_dir():
            (folder / "__pycache__").touch()  # a file in its place: not even root can write there
    names = ", ".join(f"gdconv.compiled.{name}" for name in compiled.SOURCES)
    code = f"import {names}\nprint(gdconv.__file__, gdconv.compiled.tiny_eigen.gamma(3))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) in done.stdout
    assert_said_once(done.stderr)


def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    (tmp_path / "mine.py").write_text(SOURCE)
    code = "import mine\nprint(mine.two(1.0), mine.two(1))"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ
        | {
            "PYTHONPATH": f"{PACKAGE.parent}{os.pathsep}{tmp_path}",
            "PYTHONDONTWRITEBYTECODE": "1",  # else bytecode cut short stays for all that follow
        },
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "3.0 3\n"), done.stderr
    assert_said_once(done.stderr)
    assert not list(tmp_path.rglob("*.nbc"))
    assert not list(tmp_path.rglob("*.tmp.*"))


def test_every_compiled_module_is_listed() -> None:
    found, direct = set(), []
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text("utf-8")
        name = path.relative_to(PACKAGE).with_suffix("").as_posix().removeprefix("compiled/")
        if re.search(r"^from gdconv\.compiled\.cache import njit", text, re.MULTILINE):
            found.add(name)
        if name != "cache" and re.search(r"numba\.n?jit|from numba import .*jit|cache=True", text):
            direct.append(name)
    assert found == set(compiled.SOURCES)
    assert direct == []
