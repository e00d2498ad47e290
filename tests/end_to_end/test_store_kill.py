"""What a killed writer of a run leaves, real figures, many damaged runs: what takes time."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gdconv.checks import store
from gdconv.report.example import ExampleCheck, example_check
from gdconv.report.jsonable import to_json
from gdconv.report.summary import summary
from gdconv.report.tables import render
from gdconv.support import files as folders
from gdconv.support.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """With real figures."""
    return store.save(example_check(2), tmp_path_factory.mktemp("saved"))


def test_a_run_with_its_figures(original):
    assert (original / "figure.pdf").read_bytes().startswith(b"%PDF")
    assert (original / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert store.load(original, ExampleCheck).verdict == "confirmed"


def gone() -> int:
    """The number of a process that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


def leftover(folder, out, process=None, machine=None, drop=(), age=0.0):
    """A hidden sibling of a run as a killed writer leaves it."""
    mark = f"{machine or folders._machine()}.{process or gone()}."
    half = shutil.copytree(folder, out / f".{folder.name}.{mark}abc_12x")
    for name in drop:
        (half / name).unlink()
    for path in (*half.iterdir(), half):
        os.utime(path, (time.time() - age,) * 2)
    return half


HALF_WRITTEN = {
    "whole": (),
    "no manifest": ("manifest.json",),
    "first file": tuple((store.KNOWN | {"manifest.json"}) - {"trace.csv", "trace.parquet"}),
}


@pytest.mark.parametrize("drop", HALF_WRITTEN.values(), ids=list(HALF_WRITTEN))
@pytest.mark.parametrize("manifest", [None, "", "{"])
def test_a_killed_writer_blocks_nothing_and_is_swept_up(original, tmp_path, drop, manifest):
    half = leftover(original, tmp_path, drop=drop)
    if manifest is not None:
        (half / "manifest.json").write_text(manifest)
    with pytest.raises(InputError, match="give a folder that gdconv check --out wrote"):
        store.find_runs(tmp_path)
    other = shutil.copytree(original, tmp_path / "0123456789ab")
    assert store.find_runs(tmp_path) == [other]
    assert folders.sweep(tmp_path, store.KNOWN) == 1
    assert not half.exists()
    assert store.find_runs(tmp_path) == [other]


def test_the_rerun_sweeps_and_is_listed_once(original, tmp_path):
    half = leftover(original, tmp_path)
    place = store.save(example_check(2), tmp_path)
    assert os.listdir(tmp_path) == [place.name]
    assert not half.exists()
    assert store.find_runs(tmp_path) == [place]


def test_a_writer_that_was_killed_while_it_wrote(tmp_path):
    """Not a copy: the process is killed in the middle of its files."""
    code = f"""
import os, signal
from gdconv.checks import store
from gdconv.report.example import example_check
import gdconv.report.figures as figures
figures.save_figure = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
store.save(example_check(1), {str(tmp_path)!r})
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    (half,) = os.listdir(tmp_path)
    assert half.startswith(".")
    assert "trace.csv" in os.listdir(tmp_path / half)
    assert folders.sweep(tmp_path, store.KNOWN) == 1


@pytest.mark.parametrize(
    ("options", "swept"),
    [
        ({}, 1),
        ({"process": os.getpid()}, 0),
        ({"process": os.getpid(), "age": folders.OLD - 60}, 0),
        ({"process": os.getpid(), "age": folders.OLD + 60}, 1),
        ({"process": 1}, 0),  # not ours to ask, but there
        ({"process": 10**30}, 0),
        ({"process": 10**30, "age": folders.OLD + 60}, 1),
        ({"machine": "00000000"}, 0),  # on another one: perhaps it writes
        ({"machine": "00000000", "age": folders.OLD - 60}, 0),
        ({"machine": "00000000", "age": folders.OLD + 60}, 1),
    ],
)
def test_only_what_nobody_writes_is_swept(original, tmp_path, options, swept):
    half = leftover(original, tmp_path, **options)
    assert folders.OLD == 86400
    assert folders.sweep(tmp_path, store.KNOWN) == swept
    assert half.exists() == (not swept)


def test_one_new_file_is_enough_to_be_left_alone(original, tmp_path):
    half = leftover(original, tmp_path, machine="00000000", age=2 * folders.OLD)
    os.utime(half / "trace.csv")
    assert folders.sweep(tmp_path, store.KNOWN) == 0


@pytest.mark.parametrize(
    ("name", "swept"),
    [
        *((".0123456789ab.abcdefgh", 1), (".0123456789ab-012345.abcdefgh", 1)),
        *((".gdconv.abcdefgh", 1), (".git", 0), (".cache.abcdefgh", 0), (".0123456789a.abcdef", 0)),
        *(("0123456789ab.abcdefgh", 0), (".0123456789ab.", 0), (".0123456789ab.x.y", 0)),
        (".0123456789AB.abcdefgh", 0),
    ],
)
def test_only_folders_of_ours_are_swept(tmp_path, name, swept):
    (tmp_path / name).mkdir()
    (tmp_path / name / "trace.csv").touch()
    for path in (tmp_path / name / "trace.csv", tmp_path / name):
        os.utime(path, (0, 0))
    assert folders.sweep(tmp_path, store.KNOWN) == swept


@pytest.mark.parametrize("kind", ["file", "link", "foreign"])
def test_what_is_no_half_written_run_stays(original, tmp_path, kind):
    half = leftover(original, tmp_path)
    if kind == "foreign":
        (half / "mine.txt").touch()
    else:
        half.rename(tmp_path / "elsewhere")
        half.symlink_to("elsewhere") if kind == "link" else half.touch()
    assert folders.sweep(tmp_path, store.KNOWN) == 0
    assert os.path.lexists(half)


def test_a_folder_that_is_written_says_who_writes_it(tmp_path):
    with folders.replacing(tmp_path / "0123456789ab", store.is_run, ()) as half:
        assert folders.HALF.fullmatch(half.name).groups() == (folders._machine(), str(os.getpid()))
        assert folders.sweep(tmp_path, store.KNOWN) == 0
        assert half.parent == tmp_path
        (half / "manifest.json").touch()
        assert store.find_runs(tmp_path / half.name) == [half]  # asked for by its name
    assert os.listdir(tmp_path) == ["0123456789ab"]
    assert (tmp_path / "0123456789ab").stat().st_mode & 0o777 == 0o755


def test_another_process_may_finish_first(original, tmp_path):
    place = tmp_path / original.name
    with folders.replacing(place, store.is_run, store.KNOWN):
        shutil.copytree(original, place)
    with pytest.raises(OSError, match="not empty"), folders.replacing(place, Path.is_file, ()):
        pass
    assert os.listdir(tmp_path) == [place.name]


def reseal(folder):
    """Write a manifest whose checksums are right again, as a forger would see to."""
    manifest = json.loads((folder / "manifest.json").read_text())
    names = sorted(set(os.listdir(folder)) - {"manifest.json"})
    manifest["files"] = {name: store._sha256(folder / name) for name in names}
    manifest.pop("sha256", None)
    manifest["sha256"] = store._canonical_sha256(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_mutated_runs_are_one_sentence(original, tmp_path):
    """With right checksums: what is not refused can be rendered."""
    folder = shutil.copytree(original, tmp_path / original.name)
    rng = np.random.default_rng(0)
    sound = {name: (folder / name).read_bytes() for name in os.listdir(folder)}
    names = ["verdicts.csv", "hypotheses.csv", "runs.csv", "iterates.npz", "manifest.json"]
    for i in range(40):
        for name, content in sound.items():
            if (folder / name).read_bytes() != content:
                (folder / name).write_bytes(content)
        name = names[i % len(names)]
        content = bytearray(sound[name])
        for _ in range(rng.integers(1, 4)):
            place = rng.integers(len(content))
            content[place : place + rng.integers(0, 3)] = rng.bytes(rng.integers(0, 3))
        (folder / name).write_bytes(content)
        with contextlib.suppress(InputError, json.JSONDecodeError, UnicodeDecodeError):
            reseal(folder)
            loaded = store.load(folder, ExampleCheck)
            assert summary(loaded)
            assert render(loaded, "csv")
            assert to_json(loaded)
