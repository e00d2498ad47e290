"""A package outside the repository, found by its entry point only."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def installed(place: Path, package: str, files: Mapping[str, str]) -> Iterator[Path]:
    """The folder that a package manager would have filled, on the path while it lasts."""
    (place / package).mkdir()
    for name, text in {"__init__": "", **files}.items():
        (place / package / f"{name}.py").write_text(text)
    info = place / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[gdconv.theorems]\nmine = {package}\n")
    sys.path.insert(0, str(place))
    try:
        yield place
    finally:
        sys.path.remove(str(place))
        for name in [name for name in sys.modules if name.split(".")[0] == package]:
            del sys.modules[name]


def environment(place: Path) -> dict[str, str]:
    """Environment of a process that finds that package and this repository."""
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(place), str(ROOT)])}
