"""What a command imports: lists, help and slips next to nothing, a check no other theorem."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

HEAVY = ("torch", "numpy", "pandas", "scipy", "numba", "matplotlib", "sklearn", "flint")
NEVER = (
    *("scipy.stats", "scipy.sparse", "scipy.optimize", "matplotlib", "seaborn", "sklearn"),
    *("flint", "sympy", "gdconv.convex", "gdconv.models.generic", "gdconv.monitoring"),
    *("gdconv.gallery.query_gd", "gdconv.gallery.generic_gd", "gdconv.gallery.ntk_regime.theorem"),
    *("gdconv.gallery.attention_hessian.theorem", "gdconv.gallery.convex_attention.theorem"),
)
"""Modules that the check of a witness has no use for."""

SCRIPT = """
import contextlib, gc, io, json, sys
from gdconv.cli.main import main
found = []
for words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    found.append([code, out.getvalue(), err.getvalue(), sorted(sys.modules)])
    assert gc.isenabled() and gc.get_freeze_count() == 0  # a process that is not the command's own
print(json.dumps(found))
"""

LIGHT = {
    "--help": (0, "list the theorems"),
    "list": (0, "\n  per-head     Theorem A"),
    "list --json": (0, '"id": "ntk-regime"'),
    "check --help": (0, "--steps"),
    "check full-gd --help": (0, "--heads"),
    "check query-gd --help": (0, "--heads"),
    "check ntk-regime --help": (0, "--width"),
    "check attention-hessian --help": (0, "--seeds"),
    "check convex-attention --help": (0, "--seeds"),
    "table --help": (0, "DIR"),
    "lits": (2, "choose one of list, check"),
    "check fulgd": (2, "theorem = fulgd: did you mean full-gd; choose one of attention-hessian,"),
    "check full-gd --sampels 3": (2, "did you mean --samples; see gdconv check full-gd --help"),
    "check ntk-regime --samples x": (2, "gdconv: samples = x: give a whole number."),
}
"""Exit code and a part of what is said, by command."""

WITNESSES = {
    "stacked-witness": (1, "VERDICT stacked: refuted"),
    "narrow-head": (3, "VERDICT per-head: outside"),
}


@pytest.fixture(scope="module")
def done() -> dict[str, Any]:
    """Code, both outputs and the modules known afterwards, by command, all of one process."""
    lines = [*LIGHT, *(f"check full-gd --problem {name}" for name in WITNESSES)]
    words = json.dumps([line.split() for line in lines])
    told = subprocess.run(
        [sys.executable, "-c", SCRIPT, words], capture_output=True, text=True, check=True
    )
    return dict(zip(lines, json.loads(told.stdout), strict=True))


@pytest.mark.parametrize("line", LIGHT)
def test_lists_help_and_slips_import_nothing_heavy(line: str, done: dict[str, Any]) -> None:
    code, out, err, modules = done[line]
    expected, said = LIGHT[line]
    assert code == expected
    assert said in (err if code else out)
    assert (out == "") == bool(code)
    assert len(err.splitlines()) == bool(code)
    assert sorted(set(HEAVY) & set(modules)) == []


@pytest.mark.parametrize("name", WITNESSES)
def test_a_witness_imports_what_it_uses(name: str, done: dict[str, Any]) -> None:
    code, out, _, modules = done[f"check full-gd --problem {name}"]
    expected, said = WITNESSES[name]
    assert code == expected
    assert said in out
    assert "torch" in modules
    assert sorted(set(NEVER) & set(modules)) == []
