"""Saved runs: bit-exact, atomic, tamper-evident."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gdconv.checks import schema, store
from gdconv.report.example import ExampleCheck, example_check
from gdconv.support.environment import environment
from gdconv.support.errors import InputError

ROOT = Path(__file__).resolve().parents[2]

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


@pytest.fixture(scope="module", autouse=True)
def quick():
    """No real figures, which take a second each: they are in test_store_kill.py."""

    def write(_, path):
        for suffix in ("pdf", "png"):
            path.with_suffix(f".{suffix}").write_bytes(b"drawn")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gdconv.report.plots.figure", lambda check: None)
        patch.setattr("gdconv.report.figures.save_figure", write)
        yield


@pytest.fixture(scope="module")
def original(check, quick, tmp_path_factory):
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


# Without a saved run: quick -----------------------------------------------------------------------


def test_the_constants_of_the_layout():
    assert (store.SCHEMA, store.MOST_MANIFEST) == (2, 16_777_216)
    numbers = "int8 int16 int32 int64 uint8 uint16 uint32 uint64 Int8 Int16 Int32 Int64"
    assert set(numbers.split()) < store.KINDS
    assert store.KINDS - set(numbers.split()) == {
        *("float16", "float32", "float64", "bool", "object", "str", "string"),
    }


def test_the_canonical_text_does_not_depend_on_order():
    digest = hashlib.sha256(b'{"a":2,"b":[1,null]}').hexdigest()
    assert store._canonical_sha256({"b": [1, None], "a": 2}) == digest


def test_only_an_npz_that_is_there_counts_by_content(tmp_path):
    named = {"gdconv": store.__version__}
    (tmp_path / "there.csv").write_bytes(b"1")
    for field in ("data", "problem"):
        for value in ("sphere", "nowhere.npz", 3, str(tmp_path / "there.csv"), str(tmp_path)):
            expected = store._canonical_sha256({field: value} | named)[:12]
            assert store.run_name({field: value}) == expected
        for ending in ("npz", "NPZ"):
            path = tmp_path / f"there.{ending}"
            path.write_bytes(b"any")
            content = "npz " + hashlib.sha256(b"any").hexdigest()
            expected = store._canonical_sha256({field: content} | named)[:12]
            assert store.run_name({field: str(path)}) == expected
    kept = {"other": str(tmp_path / "there.npz")}
    assert store.run_name(kept) == store._canonical_sha256(kept | named)[:12]


@pytest.mark.parametrize("length", [40, 41])
def test_a_kind_of_column_is_shown_in_forty_characters(tmp_path, length):
    shown = "k" * 40 if length == 40 else "k" * 25 + r"\.\.\." + "k" * 12
    with pytest.raises(ValueError, match=f"^{shown} is no type of a column"):
        store._read_table(tmp_path, "runs", {"run": "k" * length})


def test_a_manifest_as_long_as_allowed(tmp_path, monkeypatch):
    file = tmp_path / "manifest.json"
    file.write_text('{"a": 1}\n')
    monkeypatch.setattr(store, "MOST_MANIFEST", 9)
    assert store._read_manifest(file) == {"a": 1}
    monkeypatch.setattr(store, "MOST_MANIFEST", 8)
    with pytest.raises(ValueError, match="no manifest is as long as that"):
        store._read_manifest(file)


@pytest.mark.parametrize(
    "error", [ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError]
)
def test_a_manifest_that_cannot_be_read(tmp_path, monkeypatch, error):
    def fail(_):
        raise error

    (tmp_path / "manifest.json").touch()
    monkeypatch.setattr(store, "_read_manifest", fail)
    with pytest.raises(InputError, match=r"its manifest\.json is damaged; run the check again"):
        store._manifest(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "its manifest.json lists other files"),
        ({"schema": 2.0}, "damaged"),
        ({"schema": True}, "damaged"),
        ({"schema": "2"}, "damaged"),
        ({"files": []}, "damaged"),
        ({"starts_sha256": 3}, "damaged"),
        ({"files": [], "starts_sha256": 3}, "damaged"),
        ({"schema": 3}, r"a newer gdconv saved it \(schema 3\); update gdconv"),
        ({"schema": 1}, r"an older gdconv saved it \(schema 1\); run the check again"),
    ],
)
def test_the_types_of_a_manifest(tmp_path, change, said):
    manifest = {"schema": 2, "files": {}, "starts_sha256": "0"} | change
    manifest["sha256"] = store._canonical_sha256(manifest)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=f"^folder = .*{said}"):
        store._manifest(tmp_path)


def test_runs_in_a_folder_are_sorted_and_hidden_ones_left_out(tmp_path):
    for name in ("c", "a.b", "b", ".d", "e"):
        (tmp_path / name).mkdir()
        if name != "e":
            (tmp_path / name / "manifest.json").touch()
    assert [p.name for p in store.find_runs(tmp_path)] == ["a.b", "b", "c"]
    assert store.find_runs(tmp_path / ".d") == [tmp_path / ".d"]


# With saved runs ----------------------------------------------------------------------------------


def test_the_files_are_what_the_manifest_and_the_tables_say(check, original):
    text = (original / "manifest.json").read_text()
    assert text == json.dumps(json.loads(text), indent=1) + "\n"
    for name in store.TABLES:
        first = (original / f"{name}.csv").read_text().split("\n", 1)[0]
        assert first == ",".join(getattr(check, name).columns)
    assert isinstance(store.load(original, ExampleCheck), ExampleCheck)


def test_a_trace_of_another_format_and_an_environment_of_its_own(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(
        pd.DataFrame, "to_parquet", lambda _, path, **how: told.append(how) or path.touch()
    )
    check = example_check(1)
    check.environment = {"python": "x"}
    folder = store.save(check, tmp_path, parquet=True)
    assert told == [{"index": False}]
    assert {p.name for p in folder.glob("trace*")} == {"trace.parquet"}
    assert json.loads((folder / "manifest.json").read_text())["environment"] == {"python": "x"}
    other = example_check(1)
    other.starts["X"] = other.starts["X"] + 1
    place = store.save(other, tmp_path)
    assert re.fullmatch(f"{folder.name}-[0-9a-f]{{6}}", place.name)
    assert {p.name for p in place.glob("trace*")} == {"trace.csv"}


@pytest.mark.parametrize(
    ("error", "said"), [(OSError(28, "No space"), "No space"), (OSError("odd"), "odd")]
)
def test_why_a_folder_cannot_be_written(check, tmp_path, monkeypatch, error, said):
    def full(*_):
        raise error

    monkeypatch.setattr(store, "_write", full)
    with pytest.raises(InputError, match=rf"^out = .*written \({said}\)\.$"):
        store.save(check, tmp_path)


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

    monkeypatch.setattr("gdconv.report.figures.save_figure", crash)
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
    monkeypatch.setattr("gdconv.report.figures.save_figure", _interrupted_save)
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

    monkeypatch.setattr("gdconv.report.figures.save_figure", crash)
    with pytest.raises(MemoryError):
        store.save(check, tmp_path / "new" / "deep")
    assert os.listdir(tmp_path) == []


def test_no_saved_run(tmp_path):
    with pytest.raises(InputError, match="give a folder that gdconv check --out wrote"):
        store.load(tmp_path, ExampleCheck)
    with pytest.raises(InputError, match="give a folder that gdconv check --out wrote"):
        store.find_runs(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="give a folder that gdconv"):
        store.find_runs(tmp_path / "file")


# Manifests of forgers ----------------------------------------------------------------------------


def reseal(folder, **changes):
    """Change files and write a manifest whose checksums are right again."""
    for name, change in changes.items():
        file = folder / name.replace("_", ".")
        file.write_text(change(file.read_text("utf-8")), "utf-8")
    digests = {name: store._sha256(folder / name) for name in FILES - {"manifest.json"}}
    edit(folder, lambda m: m | {"files": digests})


def test_the_control_of_the_forgers(folder):
    edit(folder, lambda m: m)
    reseal(folder, verdicts_csv=lambda text: text)
    assert store.load(folder, ExampleCheck).verdict == "confirmed"


@pytest.mark.parametrize(
    "text",
    [
        *("[" * 100_000, '{"a":' * 100_000, '{"schema": 1' + "0" * 5000 + "}", '{"schema": 1e999}'),
        *('{"schema": true}', '{"schema": 2.0}', '{"schema": NaN}', '{"schema": Infinity}', "3"),
        *('"text"', "[[1, 2]]", '[["schema", 2]]', "\ufeff{}", '{"schema": 2, "files": []}'),
        *('{"schema": 2, "files": {}, "starts_sha256": 3}', '{"a": -Infinity}', " " * (2**24 + 1)),
    ],
    ids=range(17),
)
def test_a_manifest_that_is_none(folder, text):
    (folder / "manifest.json").write_text(text, "utf-8")
    with pytest.raises(InputError, match=r"manifest\.json is damaged; run the check again"):
        store.load(folder, ExampleCheck)


def test_a_manifest_that_is_no_text(folder):
    (folder / "manifest.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(InputError, match=r"manifest\.json is damaged"):
        store.load(folder, ExampleCheck)
    assert store.MOST_MANIFEST == 16_777_216


def kinds(table, **changes):
    return lambda m: m | {"columns": m["columns"] | {table: m["columns"][table] | changes}}


FORGED = {
    "nan": (lambda m: m | {"config": {"margin": float("nan")}}, "damaged"),
    "infinity": (lambda m: m | {"environment": {"x": float("inf")}}, "damaged"),
    "nested config": (lambda m: m | {"config": {"data": ["x"]}}, "config is nested"),
    "messages null": (lambda m: m | {"messages": None}, "messages is no list"),
    "verdict": (lambda m: m | {"verdict": "refuted"}, "verdict is not that of its table"),
    "verdict word": (lambda m: m | {"verdict": "proved"}, "verdict is not that of its table"),
    "statement": (lambda m: m | {"statement": "x"}, "nothing is said of statement x"),
    "start": (lambda m: m | {"starts_sha256": "0" * 64}, "its start is another one"),
    "kind": (kinds("verdicts", rate="datetime64[ns]"), r"datetime64\[ns\] is no type of a column"),
    "category": (kinds("verdicts", verdict="category"), "category is no type"),
    "kind 3": (kinds("verdicts", rate=3), "3 is no type"),
    "kind list": (kinds("verdicts", rate=[]), "is no type"),
    "no bool": (kinds("verdicts", verdict="bool"), "confirmed|refuted"),
    "no number": (kinds("verdicts", verdict="float64"), "could not convert"),
    "text run": (kinds("verdicts", run="object"), "run of verdicts are no whole numbers"),
    "real run": (kinds("runs", run="float64"), "run of runs are no whole numbers"),
    "unsigned": (kinds("verdicts", worst_step="uint64"), "worst_step of verdicts are no whole"),
    "text rate": (kinds("verdicts", rate="object"), "rate of verdicts are no numbers"),
    "text margin": (kinds("hypotheses", margin="str"), "margin of hypotheses are no numbers"),
    "unknown column": (kinds("runs", x="float64"), "'x'"),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_manifest_is_one_sentence(folder, name):
    change, said = FORGED[name]
    edit(folder, change)
    with pytest.raises(InputError, match=f"^folder = .*{said}") as caught:
        store.load(folder, ExampleCheck)
    assert str(caught.value).isprintable()
    assert str(caught.value).endswith("run the check again with --out.")


@pytest.mark.parametrize("table", ["verdicts", "hypotheses", "runs", "trace"])
def test_every_column_that_is_read_later_must_be_there(folder, table):
    columns = schema.ALWAYS[table] | schema.DESCENT.get(table, {})
    columns.pop("loss_ratio_last", None)  # without it the check would be one of claims
    assert columns
    sound = (folder / "manifest.json").read_text()
    for column in columns:
        (folder / "manifest.json").write_text(sound)
        lacking = without(json.loads(sound)["columns"][table], column)
        edit(folder, lambda m, lacking=lacking: m | {"columns": m["columns"] | {table: lacking}})
        with pytest.raises(InputError, match=f"{table} has no column {column}"):
            store.load(folder, ExampleCheck)


def rows(change):
    """A CSV whose table is changed, all cells texts."""

    def made(text):
        table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
        return change(table).to_csv(index=False, lineterminator="\n")

    return made


def column(name, change):
    """A CSV whose column is changed cell by cell."""
    cells = lambda table: [change(i, cell) for i, cell in enumerate(table[name])]  # noqa: E731
    return rows(lambda table: table.assign(**{name: cells(table)}))


CELLS = {
    "verdict word": ("verdicts_csv", "verdict", "proved", "proved is no verdict"),
    "verdict case": ("verdicts_csv", "verdict", "Confirmed", "Confirmed is no verdict"),
    "no verdict": ("verdicts_csv", "verdict", "", "is no verdict"),
    "holds": ("hypotheses_csv", "holds", "maybe", "maybe is no holds"),
    "holds case": ("hypotheses_csv", "holds", "True", "True is no holds"),
    "statement": ("hypotheses_csv", "statement", "x", "x is no statement"),
    "control": ("hypotheses_csv", "statement", "\x1b[2J", "is no statement"),
    "run of 65 bits": ("verdicts_csv", "run", str(2**64), "incomplete"),
    "run of 5000 digits": ("verdicts_csv", "run", "9" * 5000, "incomplete"),
    "run below": ("runs_csv", "run", str(-(2**63) - 1), "incomplete"),
    "run 1.5": ("verdicts_csv", "run", "1.5", "incomplete"),
    "run nothing": ("verdicts_csv", "run", "", "incomplete"),
    "another run": ("verdicts_csv", "run", "7", "names a run that is not in runs"),
    "its run": ("hypotheses_csv", "run", "7", "hypotheses names a run that is not in runs"),
    "trace run": ("trace_csv", "run", "7", "trace names a run that is not in runs"),
    "number": ("verdicts_csv", "rate", "fast", "incomplete"),
}


@pytest.mark.parametrize("name", CELLS)
def test_a_forged_cell_is_one_sentence(folder, name):
    file, title, value, said = CELLS[name]
    reseal(folder, **{file: column(title, lambda i, cell: cell if i else value)})
    with pytest.raises(InputError, match=f"^folder = .*{said}") as caught:
        store.load(folder, ExampleCheck)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("verdicts_csv", rows(lambda t: pd.concat([t, t[:1]])), "judges a statement twice"),
        ("runs_csv", rows(lambda t: pd.concat([t, t[:1]])), "runs names a run twice, or none"),
        ("verdicts_csv", rows(lambda t: t[t["run"] == "0"]), "verdicts leaves a run out"),
        ("verdicts_csv", rows(lambda t: t[:0]), "verdicts leaves a run out"),
        ("runs_csv", rows(lambda t: t[:0]), "runs names a run twice, or none"),
        ("runs_csv", rows(lambda t: t[:1]), "verdicts names a run that is not in runs"),
        ("verdicts_csv", lambda t: "", "No columns"),
        ("trace_csv", lambda t: t + "1," * 100 + "3\n", "incomplete"),
        ("trace_csv", lambda t: '"' + t, "incomplete"),
    ],
)
def test_forged_rows_are_one_sentence(folder, file, change, said):
    reseal(folder, **{file: change})
    with pytest.raises(InputError, match=f"^folder = .*{said}"):
        store.load(folder, ExampleCheck)


FORGED_STARTS = {
    "rank of X": ({"X": np.ones((2, 3))}, "X has 2 axes"),
    "rank of y": ({"y": np.ones((2, 3, 1, 1, 1))}, "y has 5 axes"),
    "rank of W_Q": ({"W_Q": np.ones(2)}, "W_Q has 1 axes"),
    "no axis": ({"W_Q": np.float64(2)}, "W_Q has 0 axes"),
    "too many axes": ({"W_Q": np.ones((2, 1, 1, 1, 1))}, "W_Q has 5 axes"),
    "rank of w_O": ({"w_O": np.ones((2, 1, 1))}, "w_O has 3 axes"),
    "runs": ({"W_Q": np.ones((3, 1, 1, 1))}, "W_Q is not one per run"),
    "text": ({"W_Q": np.array([["a"], ["b"]])}, "W_Q are no numbers"),
    "bool": ({"W_Q": np.ones((2, 1, 1, 1), bool)}, "W_Q are no numbers"),
    "complex": ({"W_Q": np.ones((2, 1, 1, 1), complex)}, "W_Q are no numbers"),
    "no y": ({"y": None}, "X and y are not both there"),
    "no X": ({"X": None}, "X and y are not both there"),
    "a pickle": ({"X": np.array([[[[{}]]]], object)}, "X holds pickled Python objects"),
    "other numbers": ({"X": np.ones((2, 1, 1, 1)), "y": np.ones((2, 1, 1, 1))}, "start is another"),
}


@pytest.mark.parametrize("name", FORGED_STARTS)
def test_forged_arrays_are_one_sentence(check, folder, name):
    changes, said = FORGED_STARTS[name]
    arrays = {k: v for k, v in (check.starts | changes).items() if v is not None}
    np.savez(folder / "iterates.npz", **arrays)
    reseal(folder)
    if "another" not in said:
        edit(folder, lambda m: m | {"starts_sha256": store._digest(arrays)})
    with pytest.raises(InputError, match=f"^folder = .*{said}"):
        store.load(folder, ExampleCheck)


@pytest.mark.parametrize("content", [b"", b"PK", b"no archive"])
def test_an_archive_that_is_none(folder, content):
    (folder / "iterates.npz").write_bytes(content)
    reseal(folder)
    with pytest.raises(InputError, match="^folder = .*incomplete"):
        store.load(folder, ExampleCheck)


def test_a_trace_that_needs_pyarrow(check, tmp_path, monkeypatch):
    def absent(*_, **__):
        raise ImportError("pyarrow")

    monkeypatch.setattr(pd, "read_parquet", absent)
    monkeypatch.setattr(pd.DataFrame, "to_parquet", lambda _, path, **__: path.write_text("x"))
    folder = store.save(check, tmp_path, parquet=True)
    with pytest.raises(InputError, match="install pyarrow, which its trace needs"):
        store.load(folder, ExampleCheck)


@pytest.mark.parametrize("kind", sorted(store.KINDS))
def test_every_kind_of_column_comes_back(kind):
    values = {"b": ["True", "False"], "o": ["a", ""], "s": ["a", ""]}.get(kind[0], ["1", "2"])
    text = pd.Series(values, dtype=str)
    back = store._restore(text, kind)
    assert str(back.dtype) == str(pd.Series(dtype=kind).dtype)
    if kind[0] == "I":
        assert store._restore(pd.Series(["", "3"]), kind).isna().tolist() == [True, False]
    expected = {"b": [True, False], "o": values, "s": values}.get(kind[0], [1, 2])
    assert back.tolist() == expected
