"""Versions and commit are those of this process, looked up once."""

from __future__ import annotations

import importlib.metadata
import subprocess
from pathlib import Path

import pytest

from gdconv.support import environment as module
from gdconv.support.environment import PACKAGES, environment

ROOT = Path(__file__).resolve().parents[2]


def test_versions_are_those_installed_and_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = environment()["packages"]
    assert list(found) == [name for name in PACKAGES if name in found]
    assert {"torch", "numpy", "numba"} <= set(found)
    assert found == {name: importlib.metadata.version(name) for name in found}
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: pytest.fail("again"))
    again = environment()["packages"]
    assert again == found
    again.clear()  # whoever has it may change it
    assert environment()["packages"] == found


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no checkout")
def test_the_commit_is_gits_and_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    head = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    found = environment()["commit"]
    assert found.removesuffix("+changes") == head
    monkeypatch.setattr(module, "_git", lambda *_: pytest.fail("asked again"))
    assert environment()["commit"] == found


@pytest.mark.parametrize(
    ("said", "commit"),
    [
        ("# branch.oid abc\n# branch.head main", "abc"),
        ("# branch.oid abc\n1 .M N... 100644 100644 100644 a b x.py", "abc+changes"),
        ("# branch.oid (initial)\n# branch.head main", None),
        (None, None),
    ],
)
def test_what_git_says(
    said: str | None, commit: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*_: object) -> str:
        if said is None:
            raise subprocess.CalledProcessError(128, "git")
        return said

    monkeypatch.setattr(module, "_git", git)
    monkeypatch.setattr(module, "__file__", str(tmp_path / "gdconv" / "support" / "x.py"))
    assert module._commit.__wrapped__() is None  # no checkout
    (tmp_path / ".git").mkdir()
    assert module._commit.__wrapped__() == commit
