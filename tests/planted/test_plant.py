"""The tables of planted faults fit the code at hand; a fault that nobody notices is reported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from planted import plant, scratch

FAULTS = plant.tables()


def test_every_fault_fits_its_file() -> None:
    for fault in FAULTS:
        assert fault.applied() != (scratch.ROOT / fault.file).read_text("utf-8"), fault
        for test in fault.tests:
            assert (scratch.ROOT / test).is_file(), fault


def test_no_fault_stands_twice() -> None:
    assert len({(f.file, f.before, f.after) for f in FAULTS}) == len(FAULTS)


def test_a_slice_depends_on_the_commit_alone() -> None:
    many = [
        plant.Fault("t", f"gdconv/{name}.py", str(i), "", "why", ())
        for name in ("a", "b", "c", "compiled/simd")
        for i in range(9)
    ]
    one, other = (plant.chosen(many, 5, seed) for seed in ("a", "b"))
    assert one == plant.chosen(many, 5, "a")
    assert one != other
    assert len({f.file for f in one}) == 3
    assert not any(f.compiled for f in one)


def test_a_text_that_is_not_there_is_refused(tmp_path: Path) -> None:
    fault = plant.Fault("t", "gdconv/theory/verdict.py", "no such text", "x", "why", ())
    with pytest.raises(ValueError, match="0 times"):
        fault.applied()
    table = tmp_path / "t.tsv"
    table.write_text("# nothing\n\ngdconv/verdict.py\tonly two\n")
    with pytest.raises(ValueError, match="line 3"):
        plant.read(table)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of one function with one test that sees its sign and not its size."""
    root, tables = tmp_path / "project", tmp_path / "tables"
    for folder in ("gdconv", "theorems", "tests"):
        (root / folder).mkdir(parents=True)
        (root / folder / "__init__.py").touch()
    tables.mkdir()
    (root / "tests" / "conftest.py").touch()
    (root / "gdconv" / "twice.py").write_text("def twice(x):\n    return 2 * x\n")
    (root / "tests" / "test_twice.py").write_text(
        "from gdconv.twice import twice\n\n\ndef test_sign():\n    assert twice(1) > 0\n"
    )
    monkeypatch.setattr(scratch, "ROOT", root)
    monkeypatch.setattr(plant, "HERE", tables)
    return tables


def test_a_fault_that_no_test_sees_is_reported(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "gdconv/twice.py\treturn 2 * x\treturn {} * x\twhy\n"
    (project / "signs.tsv").write_text(line.format(-2))
    (project / "sizes.tsv").write_text(line.format(1))
    assert plant.main(["--table", "signs"]) == 0
    assert plant.main(["--json", str(project / "out.json")]) == 1
    said = capsys.readouterr().out
    assert "1 of 2 planted faults were noticed" in said
    assert said.count("NOT NOTICED") == 1
    rows = json.loads((project / "out.json").read_text())
    assert [(row["after"], row["noticed"]) for row in rows] == [
        ("return -2 * x", True),
        ("return 1 * x", False),
    ]
