"""The guard of numba's cache: an edit of any compiled source drops every entry."""

from __future__ import annotations

import os
from pathlib import Path

import gdconv
from gdconv.compiled import SOURCES, drop_stale


def layout(folder: Path) -> Path:
    """Two sources and two newer cache entries."""
    (folder / "__pycache__").mkdir()
    for age, name in ((100, "ledger.py"), (100, "fused.py")):
        (folder / name).touch()
        os.utime(folder / name, (age, age))
    for name in ("ledger.observe-1.py311.nbi", "fused.advance-2.py311.1.nbc"):
        (folder / "__pycache__" / name).touch()
        os.utime(folder / "__pycache__" / name, (200, 200))
    return folder


def test_a_fresh_cache_is_kept(tmp_path: Path) -> None:
    assert drop_stale(layout(tmp_path)) == 0
    assert len(list((tmp_path / "__pycache__").iterdir())) == 2


def test_an_edit_elsewhere_drops_every_entry(tmp_path: Path) -> None:
    folder = layout(tmp_path)
    os.utime(folder / "ledger.py", (300, 300))
    assert drop_stale(folder) == 2
    assert not list((folder / "__pycache__").iterdir())


def test_every_compiled_module_is_listed() -> None:
    package = Path(gdconv.__file__).parent
    jitted = {
        p.stem for p in package.glob("*.py") if "numba.njit(" in p.read_text(encoding="utf-8")
    }
    assert jitted <= set(SOURCES)
