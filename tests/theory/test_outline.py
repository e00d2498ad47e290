"""An outline says of a theorem what its import says, or nothing."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from gdconv.theory.outline import Line
from gdconv.theory.registry import outline, registry


@pytest.mark.parametrize("name", sorted(registry()))
def test_outlines_of_our_own_theorems_are_what_an_import_gives(name: str) -> None:
    found, theorem = outline(name), registry()[name]
    assert found is not None
    assert (found.title, found.source) == (theorem.title, theorem.source)
    assert (found.models, found.algorithms) == (theorem.models, theorem.algorithms)
    assert found.reads == getattr(theorem, "reads", None)
    assert (theorem.Options, theorem.algorithm) == (None, None)
    names = [f.name for f in fields(Line) if f.name != "posterior"]
    said = [[getattr(s, n) for n in names] for s in found.statements()]
    assert said == [[getattr(s, n) for n in names] for s in theorem.statements()]
    for kernel in (None, "softmax", "gaussian"):
        for model in (None, "multihead", "encoder"):
            for rule in (None, "gd", "heavy-ball"):
                spoken = [s.name for s in theorem.statements(kernel, model, rule)]
                assert [s.name for s in found.statements(kernel, model, rule)] == spoken


HEAD = "from gdconv.theory.theorem import Prediction, Theorem, statement\n"
BODY = """
class Mine(Theorem):
    id, title, source = "mine", "Mine", "none"
    @statement("only", proof="none", default=True, defaults=SET)
    def only(self, start):
        "One."
        return Prediction((), 0.0)
"""


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        (HEAD + 'SET = {"*": {"steps": 2 * 5}}' + BODY, True),
        (HEAD + "SET = dict()" + BODY, False),
        (HEAD + "SET = {}" + BODY + "    class Options:\n        x: int = 1\n", False),
        (HEAD + "SET = {}" + BODY + "    algorithm = 'heavy-ball'\n", False),
        (HEAD + "SET = {}" + BODY + "    def statements(self, *a):\n        return []\n", False),
        (HEAD + "SET = {}" + BODY + "    @property\n    def x(self):\n        return 1\n", False),
        (HEAD + "SET = {}" + BODY.replace("(Theorem)", "(Base)"), False),
        ("class Theorem: pass\n" + HEAD.replace("Theorem, ", "") + "SET = {}" + BODY, False),
        (HEAD + "SET = {}" + BODY.replace('"mine", ', '"min" + "e", '), False),
        ("nothing (", False),
    ],
)
def test_what_is_not_plainly_written_has_no_outline(
    text: str, plain: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(text)
    monkeypatch.setattr("gdconv.theory.registry.source_of", lambda name: file)
    found = outline("mine")
    assert (found is not None) == plain
    if found is not None:
        assert found.statements()[0].defaults == {"*": {"steps": 10}}
        assert found.statements()[0].summary == "One."


def test_nothing_of_an_unknown_id() -> None:
    assert outline("no-such-theorem") is None


def test_it_imports_no_torch() -> None:
    code = (
        "import sys; from gdconv.theory.registry import outline; print(outline('full-gd').title);"
        "print(sorted({'torch', 'numpy', 'pandas', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1] == "[]"
