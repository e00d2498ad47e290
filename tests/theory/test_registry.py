"""Where theorems are found: by reading, one at a time, and what is broken breaks nothing else."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import gdconv
from gdconv.support.errors import InputError
from gdconv.theory.outline import Outline
from gdconv.theory.registry import (
    all_theorems,
    homes,
    listed,
    packages,
    registry,
    theorem_named,
)

TOY = """
    from gdconv.theory.theorem import Prediction, Theorem, statement

    class {name}(Theorem):
        {ids}
        @statement("still", proof="none", default=True)
        def still(self, start):
            "Nothing is claimed."
            return Prediction((), 0.0)
"""
ONE = 'id, title, source = "toy", "Toy", "none"'
OURS = EntryPoint("gdconv", "gdconv.gallery", "gdconv.theorems")

Named = Callable[..., None]


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Named:
    """Write files, name packages and modules in the entry points beside our own."""
    monkeypatch.syspath_prepend(tmp_path)

    def name(*values: str, **files: str) -> None:
        for path, text in files.items():
            file = tmp_path / (path.replace("__", "/") + ".py")
            file.parent.mkdir(parents=True, exist_ok=True)
            (file.parent / "__init__.py").touch()
            file.write_text(textwrap.dedent(text))
        points = [EntryPoint(v, v, "gdconv.theorems") for v in values]
        monkeypatch.setattr("gdconv.theory.registry.entry_points", lambda group: (OURS, *points))

    return name


def test_ids_are_read_without_an_import_and_one_theorem_is_imported_alone() -> None:
    code = (
        "import sys\nfrom gdconv.theory.registry import homes, listed, theorem_named\n"
        "print(sorted(homes()[0]), sorted(listed()[0]))\n"
        "print([m for m in ('torch', 'numpy', 'gdconv.gallery.full_gd') if m in sys.modules])\n"
        "found = theorem_named('full-gd').id\n"
        "print(found, 'gdconv.gallery.convex_attention.theorem' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ids = sorted(registry())
    assert done.stdout.splitlines() == [f"{ids} {ids}", "[]", "full-gd False"]


@pytest.mark.parametrize(
    "ids",
    [
        ONE,
        'id = "toy"\n        title = source = "Toy"',
        'id: str = "toy"\n        title = source = ""',
    ],
)
def test_every_way_to_write_an_id_is_read(ids: str, named: Named) -> None:
    named("ids_here", ids_here__toy=TOY.format(name="Toy", ids=ids))
    sys.modules.pop("ids_here", None)
    sys.modules.pop("ids_here.toy", None)
    assert homes()[0]["toy"] == "ids_here.toy"
    assert theorem_named("toy").id == "toy"


def test_a_computed_id_is_found_by_importing(named: Named) -> None:
    ids = 'id = "-".join(["made", "up"])\n        title = source = "Toy"'
    named("computed_ids", computed_ids__toy=TOY.format(name="Toy", ids=ids))
    assert "made-up" not in homes()[0]
    assert theorem_named("made-up").id == "made-up"


def test_a_folder_and_a_single_module_hold_theorems_too(named: Named) -> None:
    second = 'id, title, source = "second", "Second", "none"'
    named(
        "with_folder", "single_module",
        with_folder__long__theorem=TOY.format(name="Toy", ids=ONE),
        with_folder__long__evidence="x = 1",
        single_module=TOY.format(name="Second", ids=second),
    )  # fmt: skip
    assert homes()[0]["toy"] == "with_folder.long.theorem"
    assert homes()[0]["second"] == "single_module"
    assert {"toy", "second", "full-gd"} <= set(registry())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import nowhere_to_be_found", "ModuleNotFoundError"),
        ("raise RuntimeError('half\\nof it')", "RuntimeError: half"),
        ("def (", "SyntaxError"),
        ("class Toy:\n    id = 'broken'\nraise SystemError", "SystemError"),
    ],
)
def test_a_broken_module_is_told_and_breaks_nothing_else(
    text: str, reason: str, named: Named
) -> None:
    named("half_broken", half_broken__bad=text, half_broken__good=TOY.format(name="Toy", ids=ONE))
    for module in ("half_broken", "half_broken.good", "half_broken.bad"):
        sys.modules.pop(module, None)
    found, broken = all_theorems()
    assert {"toy", "full-gd"} <= set(found)
    assert list(broken) == ["half_broken.bad"]
    assert broken["half_broken.bad"].startswith(reason)
    assert theorem_named("toy").id == "toy"
    assert gdconv.check("full-gd", problem="stacked-witness").verdict == "refuted"
    with pytest.raises(InputError, match=r"choose one of .*toy.*left out: half_broken.bad \("):
        theorem_named("other")


def test_a_broken_theorem_is_named_when_it_is_asked_for(named: Named) -> None:
    named("asked_for", asked_for__bad="class Toy:\n    id = 'bad'\nraise OSError('no disk')")
    with pytest.raises(InputError, match="theorem = bad: mend its module asked_for.bad.*no disk"):
        theorem_named("bad")


def test_a_package_that_is_gone(named: Named) -> None:
    named("was_never_there")
    assert homes()[1] == {
        "was_never_there": "ModuleNotFoundError: No module named 'was_never_there'"
    }
    assert "full-gd" in registry()
    assert packages() == ["gdconv.gallery", "was_never_there"]


def test_inherited_statements_are_seen_and_overridden_ones_keep_their_place(named: Named) -> None:
    text = """
        from gdconv.theory.theorem import Prediction, statement
        from gdconv.gallery.full_gd import FullGD

        class Heir(FullGD):
            id = "heir"
            @statement("per-head", proof="none", default=True)
            def per_head(self, start):
                "Another one."
                return Prediction((), 0.0)
            @statement("more", proof="none")
            def more(self, start):
                "One more."
                return Prediction((), 0.0)
    """
    named("heirs", heirs__heir=text)
    ours = [s.name for s in theorem_named("full-gd").statements()]
    heir = theorem_named("heir")
    assert [s.name for s in heir.statements()] == [*ours, "more"]
    assert heir.statement_named("per-head").summary == "Another one."


def test_the_list_names_what_it_leaves_out(
    named: Named, capsys: pytest.CaptureFixture[str]
) -> None:
    from gdconv.cli.main import main

    named("not_listed", not_listed__bad="raise OSError('no disk')")
    assert main(["list"]) == 0
    shown = capsys.readouterr()
    assert "full-gd: " in shown.out
    left_out = "gdconv: not_listed.bad is left out, it cannot be imported: OSError: no disk\n"
    assert shown.err == left_out


def test_a_list_is_made_of_outlines_and_of_what_must_be_imported(named: Named) -> None:
    computed = 'id = "-".join(["made", "up"])\n        title = source = "Toy"'
    named(
        "half_told",
        half_told__plain=TOY.format(name="Toy", ids=ONE),
        half_told__computed=TOY.format(name="Toy", ids=computed),
        half_told__bad="raise OSError('no disk')",
    )
    found, broken = listed()
    assert list(found) == list(registry())
    assert {"made-up", "toy", "full-gd"} <= set(found)
    assert isinstance(found["toy"], Outline)
    assert not isinstance(found["made-up"], Outline)
    assert broken == {"half_told.bad": "OSError: no disk"}
    assert "made-up" in set(gdconv.theorems()["id"])
    named("half_told", "told_again", told_again__plain=TOY.format(name="Toy", ids=ONE))
    with pytest.raises(InputError, match="an id of its own"):
        listed()


def test_entry_points_are_read_once_a_process_and_anew_for_an_unknown_id(
    named: Named, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named()
    counted: list[str] = []

    def points(group: str) -> list[EntryPoint]:
        counted.append(group)
        return [OURS, *more]

    more: list[EntryPoint] = []
    monkeypatch.setattr("gdconv.theory.registry.entry_points", points)
    with pytest.raises(InputError, match="choose one of attention-hessian"):
        theorem_named("toy")
    counted.clear()
    for _ in range(3):
        assert theorem_named("full-gd").id == "full-gd"
    assert len(counted) <= 1
    (tmp_path / "new_ones").mkdir()
    (tmp_path / "new_ones" / "__init__.py").touch()
    (tmp_path / "new_ones" / "toy.py").write_text(textwrap.dedent(TOY.format(name="Toy", ids=ONE)))
    more.append(EntryPoint("new", "new_ones", "gdconv.theorems"))
    assert theorem_named("toy").id == "toy"
    assert "toy" in listed()[0]


def test_an_id_in_another_encoding_is_found(named: Named, tmp_path: Path) -> None:
    named("latin", latin__toy="")
    text = textwrap.dedent(TOY.format(name="Toy", ids=ONE.replace('"toy"', '"th\xe9"')))
    (tmp_path / "latin" / "toy.py").write_bytes(b"# coding: latin-1\n" + text.encode("latin-1"))
    assert theorem_named("th\xe9").id == "th\xe9"


def test_an_unknown_id_is_said_before_an_unknown_option() -> None:
    with pytest.raises(InputError, match="theorem = nowhere"):
        gdconv.check("nowhere", colour="blue")
