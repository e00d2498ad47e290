"""An outline says of a theorem what its import says, or nothing."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from gdconv.theory.outline import Line, outline_in, outlines_in
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


PLAIN = HEAD + "SET = {}" + BODY
SECOND = PLAIN.replace("class Mine", "class Second").replace('"mine"', '"second"').split("\n", 1)[1]


@pytest.mark.parametrize(
    "more",
    [
        "",
        "import os\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import ast\n",
        'def helper(x):\n    return x\nif __name__ == "__main__":\n    helper(1)\n',
        "class Case:\n    x = 1\n",
        SECOND,
    ],
)
def test_a_file_that_only_declares_is_told_without_an_import(more: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(PLAIN + more)
    found = outlines_in(file)
    assert found is not None
    assert [made.id for made in found] == (["mine", "second"] if more == SECOND else ["mine"])
    assert found[0] == outline_in(file, "mine")


@pytest.mark.parametrize(
    "more",
    [
        "raise OSError\n",
        "Mine.title = 'Another'\n",
        "setattr(Mine, 'title', 'Another')\n",
        "from os import *\n",
        "class Heir(Mine):\n    pass\n",
        "class Other(Base):\n    id = 'other'\n",
        "class Other(metaclass=Meta):\n    id = 'other'\n",
        "def make():\n    class X(Theorem):\n        id = 'x'\n    return X\nX = make()\n",
        "X = type('X', (Theorem,), {'id': 'x'})\n",
        "try:\n    import os\nexcept ImportError:\n    os = None\n",
        SECOND.replace('"second", ', '"sec" + "ond", '),
        SECOND.replace("(Theorem)", "(Mine)"),
        "def (\n",
    ],
)
def test_a_file_that_may_do_more_is_left_to_an_import(more: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(PLAIN + more)
    assert outlines_in(file) is None
    assert (outline_in(file, "mine") is None) == more.startswith("def (")


def test_a_file_without_theorems_is_left_to_an_import(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text("class Net:\n    width = 1\n")
    assert outlines_in(tmp_path / "nets.py") is None
    assert outlines_in(tmp_path / "absent.py") is None
