"""Saved runs: bit-exact, atomic, tamper-evident."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gdconv import store
from gdconv.environment import environment
from gdconv.errors import InputError
from gdconv.report.example import ExampleCheck, example_check

FILES = {
    *("manifest.json", "trace.csv", "verdicts.csv", "hypotheses.csv", "runs.csv", "iterates.npz"),
    *("figure.pdf", "figure.png", "table.txt", "table.md", "table.tex", "table.csv"),
}


@pytest.fixture(scope="module")
def check():
    made = example_check(2)
    rng = np.random.default_rng(3)
    made.trace["noise"] = np.frombuffer(rng.bytes(8 * len(made.trace)), dtype=np.float64) ** 1
    made.trace.loc[:5, "noise"] = [np.nan, np.inf, -np.inf, 5e-324, -0.0, 0.1 + 0.2]
    made.verdicts.loc[0, "note"] = 'comma, "quote", line\nbreak, NA, nan, σ'
    made.verdicts.loc[1, "note"] = "NA"
    return made


@pytest.fixture(scope="module")
def original(check, tmp_path_factory):
    """Saved once: drawing the figure is what takes time."""
    return store.save(check, tmp_path_factory.mktemp("saved"))


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / original.name)


def assert_same(a, b):
    for name in (f.name for f in dataclasses.fields(ExampleCheck)):
        left, right = getattr(a, name), getattr(b, name)
        if isinstance(left, pd.DataFrame):
            pd.testing.assert_frame_equal(left, right, check_exact=True)
            for column in left.select_dtypes("float64"):
                bits = [np.asarray(t[column]).view(np.int64) for t in (left, right)]
                nan = np.isnan(np.asarray(left[column]))
                np.testing.assert_array_equal(bits[0][~nan], bits[1][~nan])
        elif name == "starts":
            assert left.keys() == right.keys()
            for key in left:
                assert left[key].tobytes() == right[key].tobytes()
        else:
            assert left == right, name


def test_round_trip_is_bit_exact(check, tmp_path):
    folder = store.save(check, tmp_path / "new" / "deep")
    assert {p.name for p in folder.iterdir()} == FILES
    assert_same(check, store.load(folder, ExampleCheck))


def test_saving_twice_gives_the_same_bytes_and_the_second_is_skipped(check, tmp_path):
    one, two = store.save(check, tmp_path / "a"), store.save(check, tmp_path / "b")
    assert one.name == two.name
    for file in one.iterdir():
        assert file.read_bytes() == (two / file.name).read_bytes(), file.name
    before = (one / "manifest.json").stat().st_mtime_ns
    assert store.save(check, tmp_path / "a") == one
    assert (one / "manifest.json").stat().st_mtime_ns == before


def test_name_depends_on_what_changes_the_result_only():
    base = {"theorem": "full-gd", "seed": 0, "steps": 10}
    name = store.run_name(base)
    assert len(name) == 12
    assert set(name) <= set("0123456789abcdef")
    assert store.run_name(base | {"out": "x", "quiet": True, "json": True, "data": None}) == name
    assert store.run_name(dict(reversed(base.items()))) == name
    assert store.run_name(base | {"seed": 1}) != name


def test_an_npz_counts_by_content(tmp_path):
    for name, value in (("a", 1.0), ("b", 1.0), ("c", 2.0)):
        np.savez(tmp_path / f"{name}.npz", X=np.full((2, 2), value))
    a, b, c = (store.run_name({"data": str(tmp_path / f"{n}.npz")}) for n in "abc")
    assert a == b != c


def test_same_options_with_other_arrays_get_another_folder(check, tmp_path):
    other = example_check(2)
    other.starts["X"] = other.starts["X"] + 1
    assert store.save(check, tmp_path) != store.save(other, tmp_path)
    assert len(store.find_runs(tmp_path)) == 2


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_crash_leaves_nothing(check, tmp_path, monkeypatch, error):
    def crash(*_):
        raise error

    monkeypatch.setattr("gdconv.report.plots.save_figure", crash)
    with pytest.raises(error):
        store.save(check, tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_foreign_folder_is_not_overwritten(check, tmp_path):
    place = tmp_path / store.run_name({"theorem": "full-gd"} | check.config)
    place.mkdir()
    (place / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="remove this folder, which is no complete saved run"):
        store.save(check, tmp_path)
    assert os.listdir(tmp_path) == [place.name]
    assert os.listdir(place) == ["mine.txt"]


def test_output_below_a_file_is_refused(check, tmp_path):
    (tmp_path / "file").write_text("")
    for refuse in (lambda p: store.save(check, p), store.require_writable):
        with pytest.raises(InputError, match=r"^out = .*: choose a folder"):
            refuse(tmp_path / "file" / "deep")


def test_require_writable_creates_nothing(tmp_path):
    store.require_writable(tmp_path / "a" / "b")
    assert os.listdir(tmp_path) == []


def test_a_folder_that_takes_no_files_is_refused(tmp_path):
    place = Path("/proc")  # not even root may write there
    if not place.is_dir():
        place = tmp_path
        place.chmod(0o500)
    with pytest.raises(InputError, match="may write"):
        store.require_writable(place / "a")


def test_manifest_says_how_it_was_made_and_names_no_place(tmp_path):
    check = example_check(1)
    check.environment = environment()
    folder = store.save(check, tmp_path)
    text = (folder / "manifest.json").read_text()
    manifest = json.loads(text)
    assert manifest["schema"] == store.SCHEMA
    assert manifest["files"].keys() == FILES - {"manifest.json"}
    assert {"python", "packages", "threads", "commit"} <= manifest["environment"].keys()
    assert str(tmp_path) not in text
    assert os.uname().nodename not in text


@pytest.mark.parametrize("name", sorted(FILES - {"manifest.json"}))
def test_every_changed_or_missing_file_is_noticed(folder, name):
    file = folder / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=f"{name} was changed after saving; run the check again"):
        store.load(folder, ExampleCheck)
    file.unlink()
    with pytest.raises(InputError, match=f"{name} is missing"):
        store.load(folder, ExampleCheck)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"schema": 2}', '{"schema": "x", "files": {}}', "\x00"]
)
def test_a_damaged_manifest_is_one_sentence(folder, text):
    (folder / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=r"manifest\.json is damaged; run the check again"):
        store.load(folder, ExampleCheck)


@pytest.mark.parametrize(
    ("step", "remedy"), [(1, "newer .*update gdconv"), (-1, "older .*run the")]
)
def test_another_schema_is_refused(folder, step, remedy):
    edit(folder, lambda manifest: manifest | {"schema": store.SCHEMA + step})
    with pytest.raises(InputError, match=remedy):
        store.load(folder, ExampleCheck)


def edit(folder, change, seal=True):
    """Change a manifest; sealed it has a valid checksum again, as a forger would see to."""
    manifest = change(json.loads((folder / "manifest.json").read_text()))
    if seal:
        manifest.pop("sha256", None)
        manifest["sha256"] = store._canonical_sha256(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def without(mapping, name):
    return {key: value for key, value in mapping.items() if key != name}


ODD_MANIFESTS = {
    "no title": (lambda m: without(m, "title"), "incomplete .*title"),
    "title 3": (lambda m: m | {"title": 3}, "incomplete"),
    "config text": (lambda m: m | {"config": "x"}, "incomplete"),
    "messages 5": (lambda m: m | {"messages": 5}, "incomplete"),
    "messages [5]": (lambda m: m | {"messages": [5]}, "incomplete"),
    "environment": (lambda m: m | {"environment": None}, "incomplete"),
    "no columns": (lambda m: m | {"columns": []}, "incomplete"),
    "columns list": (
        lambda m: m | {"columns": m["columns"] | {"verdicts": []}},
        "incomplete",
    ),
    "kind": (
        lambda m: (
            m
            | {
                "columns": m["columns"]
                | {"verdicts": m["columns"]["verdicts"] | {"verdict": "foo"}}
            }
        ),
        "incomplete",
    ),
    "no files": (lambda m: m | {"files": {}}, "lists other files"),
    "one file less": (
        lambda m: m | {"files": without(m["files"], "verdicts.csv")},
        "lists other files",
    ),
    "one file more": (lambda m: m | {"files": m["files"] | {"x": "0"}}, "lists other files"),
    "no digest": (lambda m: m | {"files": dict.fromkeys(m["files"], 3)}, "changed after saving"),
}


@pytest.mark.parametrize("name", ODD_MANIFESTS)
def test_an_odd_manifest_is_one_sentence(folder, name):
    change, message = ODD_MANIFESTS[name]
    edit(folder, change)
    with pytest.raises(InputError, match=message):
        store.load(folder, ExampleCheck)


@pytest.mark.parametrize("field", ["config", "columns", "verdict", "starts_sha256", "environment"])
def test_every_changed_line_of_the_manifest_is_noticed(folder, field):
    edit(folder, lambda m: m | {field: "x" if isinstance(m[field], str) else {}}, seal=False)
    with pytest.raises(InputError, match=r"manifest\.json was changed after saving"):
        store.load(folder, ExampleCheck)


def test_a_pickle_is_not_read(folder):
    np.savez(folder / "iterates.npz", X=np.array([{"a": 1}], dtype=object))
    digest = {"iterates.npz": store._sha256(folder / "iterates.npz")}
    edit(folder, lambda manifest: manifest | {"files": manifest["files"] | digest})
    with pytest.raises(InputError, match="incomplete"):
        store.load(folder, ExampleCheck)


def test_a_witness_counts_by_content_and_by_version(tmp_path, monkeypatch):
    witness = {"problem": str(tmp_path / "w.npz")}
    names = []
    for value in (1.0, 2.0):
        np.savez(tmp_path / "w.npz", W_Q=np.full((2, 2), value))
        names.append(store.run_name(witness))
    monkeypatch.setattr(store, "__version__", "0.0.1")
    assert len({*names, store.run_name(witness)}) == 3


def test_a_place_with_another_start_is_not_reused(check, original):
    starts = check.starts | {"X": check.starts["X"] + 1}
    config = {"theorem": check.theorem} | check.config
    assert store.place_of(original.parent, config, check.starts) == original
    assert store.place_of(original.parent, config, starts) != original
    ended = check.starts | {"W_Q_last": check.starts["X"]}  # not known before the run
    assert store.place_of(original.parent, config, ended) == original


def test_an_interrupt_waits_until_the_run_is_saved(check, tmp_path, monkeypatch):
    monkeypatch.setattr("gdconv.report.plots.save_figure", _interrupted_save)
    with pytest.raises(KeyboardInterrupt, match="saved in"):
        store.save(check, tmp_path)
    (folder,) = store.find_runs(tmp_path)
    assert_same(check, store.load(folder, ExampleCheck))


def _interrupted_save(_, path):
    signal.raise_signal(signal.SIGINT)
    for suffix in ("pdf", "png"):
        path.with_suffix(f".{suffix}").write_bytes(b"x")


def test_a_crash_leaves_no_new_folder(check, tmp_path, monkeypatch):
    def crash(*_):
        raise MemoryError

    monkeypatch.setattr("gdconv.report.plots.save_figure", crash)
    with pytest.raises(MemoryError):
        store.save(check, tmp_path / "new" / "deep")
    assert os.listdir(tmp_path) == []


def test_no_saved_run(tmp_path):
    with pytest.raises(InputError, match="give a folder that gdconv check --out wrote"):
        store.load(tmp_path)
    with pytest.raises(InputError, match="give a folder that gdconv check --out wrote"):
        store.find_runs(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="give a folder that gdconv"):
        store.find_runs(tmp_path / "file")
