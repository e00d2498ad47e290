"""A scratch copy of the tree in which faults are planted, one file at a time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

COPIED = ("gdconv", "theorems", "experiments", "tests", "docs", "setup.cfg", "pyproject.toml")

ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA", "NUMEXPR")}

WITHOUT_JIT = frozenset({"gdconv/compiled/ledger.py"})
"""Compiled files whose mirrored tests also run as plain Python: a fault costs no compilation."""


def make(folder: Path) -> Path:
    """Copy what the tests of a module need, numba's cache and bytecode with it (times are kept)."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, symlinks=True)
        elif source.exists():
            shutil.copy2(source, folder / name)
    return folder


def mirrored(file: str) -> str:
    """The test file of a source file: gdconv/x/y.py -> tests/x/test_y.py, theorems/ likewise.

    Example:
        >>> mirrored("gdconv/convex/losses.py"), mirrored("theorems/full_gd.py")
        ('tests/convex/test_losses.py', 'tests/theorems/test_full_gd.py')
    """
    path = Path(file)
    parts = path.parts[1:-1] if path.parts[0] == "gdconv" else path.parts[:-1]
    return Path("tests", *parts, f"test_{path.name}").as_posix()


@contextmanager
def planted(path: Path, text: str) -> Iterator[None]:
    """The file with another text; its own text and time come back at the end.

    Bytecode is found by time and size: a fault must not carry the time of the sound file.
    """
    before, times = path.read_bytes(), path.stat()
    try:
        path.write_text(text, "utf-8")
        if int(path.stat().st_mtime) == int(times.st_mtime):
            os.utime(path, (times.st_atime + 2, times.st_mtime + 2))
        yield
    finally:
        path.write_bytes(before)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def environment(folder: Path, file: str) -> dict[str, str]:
    """Environment in which the scratch copy, and nothing else, is what `import gdconv` finds."""
    made = {**os.environ, **ONE_THREAD, "PYTHONPATH": f"{folder}{os.pathsep}{folder / 'tests'}"}
    made |= {"MPLBACKEND": "Agg", "GDCONV_PLANTED": "1"}
    if file in WITHOUT_JIT:
        made["NUMBA_DISABLE_JIT"] = "1"
    return made
