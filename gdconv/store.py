"""Saved runs: one folder a check, named by the hash of its config, complete or absent.

A folder is written under a temporary name beside its place and renamed at the end, so a crash
leaves no
half run. `load` restores the check with every float64 bit for bit and refuses files that were
changed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gdconv.environment import environment
from gdconv.errors import InputError
from gdconv.report.source import CheckLike

SCHEMA = 1
"""Version of the folder's layout; a greater one is refused."""

NOT_RESULT = frozenset({"out", "quiet", "json"})
"""Config fields that do not change the result, so not the folder's name either."""

TABLES = ("verdicts", "hypotheses", "runs", "trace")
FACTS = ("theorem", "title", "source", "statement", "level", "verdict", "messages")
AGAIN = "run the check again with --out"


def run_name(config: Mapping[str, Any]) -> str:
    """Folder name of a config: 12 hex digits of the SHA-256 of its canonical JSON.

    Fields that are None or do not change the result are left out; an .npz counts by its content,
    not by
    its path.

    Args:
        config: Options as a mapping that JSON can hold.

    Returns:
        The name.

    Example:
        >>> run_name({"b": 1, "a": 2, "quiet": True}) == run_name({"a": 2, "b": 1, "c": None})
        True
    """
    kept = {k: v for k, v in config.items() if v is not None and k not in NOT_RESULT}
    data = kept.get("data")
    if isinstance(data, str) and data.endswith(".npz") and os.path.isfile(data):
        kept["data"] = "npz " + _sha256(Path(data))
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def require_writable(directory: str | Path) -> None:
    """Refuse an output folder that cannot be made or written, before anything is computed.

    Args:
        directory: The output folder; it need not exist and is not created.

    Raises:
        InputError: A parent is a file or is not writable.

    Example:
        >>> require_writable(tempfile.mkdtemp())
    """
    place = Path(directory).absolute()
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise InputError("out", directory, "choose a folder; this path runs into a file")
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError("out", directory, "choose a folder that you may write to")


def save(check: CheckLike, directory: str | Path, parquet: bool = False) -> Path:
    """Write a check into directory/<hash of its config>; a complete one is kept and skipped.

    Args:
        check: The check.
        directory: Parent folder, created when missing.
        parquet: Write the trace as Parquet (needs pyarrow) instead of CSV.

    Returns:
        The run's folder: manifest.json, trace.csv, verdicts.csv, hypotheses.csv, runs.csv,
        iterates.npz,
        figure.pdf, figure.png, table.txt, table.md, table.tex, table.csv.

    Raises:
        InputError: The folder cannot be written, or holds something else under this name.

    Example:
        >>> from gdconv.report.example import example_check
        >>> check = example_check(runs=2)
        >>> save(check, tempfile.mkdtemp()).name == run_name(check.config)
        True
    """
    starts = _digest(check.starts)
    place = Path(directory) / run_name(_config(check))
    if is_run(place) and _manifest(place)["starts_sha256"] != starts:
        place = place.with_name(f"{place.name}-{starts[:6]}")  # same options, the user's own arrays
    if is_run(place):
        return place
    if os.path.lexists(place):
        raise InputError("out", place, "remove this folder, which is no complete saved run")
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
        with _replacing(place) as half:
            _write(check, half, starts, parquet)
    except OSError as error:
        remedy = f"choose a folder that can be written ({error.strerror or error})"
        raise InputError("out", directory, remedy) from error
    return place


def is_run(directory: str | Path) -> bool:
    """Whether a folder has a manifest, so is a complete saved run.

    Args:
        directory: Any path.

    Returns:
        True when there is a manifest.json.

    Example:
        >>> is_run("/nonexistent")
        False
    """
    return (Path(directory) / "manifest.json").is_file()


def find_runs(directory: str | Path) -> list[Path]:
    """The saved runs at a path: the folder itself, or those inside it.

    Args:
        directory: A run's folder or its parent.

    Returns:
        Folders, sorted by name.

    Raises:
        InputError: There is none.

    Example:
        >>> find_runs("/nonexistent")
        Traceback (most recent call last):
            ...
        gdconv.errors.InputError: folder = /nonexistent: give a folder that exists.
    """
    place = Path(directory)
    if is_run(place):
        return [place]
    if not place.exists():
        raise InputError("folder", directory, "give a folder that exists")
    runs = sorted(p for p in place.iterdir() if is_run(p)) if place.is_dir() else []
    if not runs:
        raise InputError("folder", directory, "give a folder that gdconv check --out wrote")
    return runs


def load(directory: str | Path, make: Any = None) -> Any:
    """Restore a saved check; every number is the one that was saved.

    Args:
        directory: The run's folder.
        make: Class to build, a dataclass; None for `gdconv.checks.Check`.

    Returns:
        The check.

    Raises:
        InputError: No saved run, damaged or changed files, or a newer schema.

    Example:
        >>> load("/nonexistent")
        Traceback (most recent call last):
            ...
        gdconv.errors.InputError: folder = /nonexistent: give a folder that gdconv check --out
        wrote.
    """
    place = Path(directory)
    manifest = _manifest(place)
    for name, digest in manifest["files"].items():
        file = place / Path(name).name
        if not file.is_file():
            raise InputError("folder", directory, f"{file.name} is missing; {AGAIN}")
        if _sha256(file) != digest:
            raise InputError("folder", directory, f"{file.name} was changed after saving; {AGAIN}")
    if make is None:
        from gdconv.checks import Check

        make = Check
    parts = _read_parts(place, manifest)
    known = {f.name for f in dataclasses.fields(make)}
    return make(**{name: value for name, value in parts.items() if name in known})


def _read_parts(place: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Everything a folder holds, by field of the check."""
    try:
        parts = {name: manifest[name] for name in (*FACTS, "config", "environment")}
        parts |= {name: _read_table(place, name, manifest["columns"][name]) for name in TABLES}
        parts["starts"] = _read_starts(place / "iterates.npz")
    except (KeyError, ValueError, OSError) as error:
        raise InputError("folder", place, f"it is incomplete ({error}); {AGAIN}") from error
    return parts


@contextlib.contextmanager
def _replacing(place: Path) -> Iterator[Path]:
    """A temporary sibling that becomes `place` when the body ends without error, else vanishes."""
    half = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    try:
        yield half
        half.chmod(0o755)  # mkdtemp's 0700 would hide the run from a group
        try:
            half.rename(place)
        except OSError:
            if not is_run(place):  # else another process finished the same run first
                raise
    finally:
        shutil.rmtree(half, ignore_errors=True)


def _write(check: CheckLike, place: Path, starts: str, parquet: bool) -> None:
    from gdconv.report.plots import figure, save_figure
    from gdconv.report.tables import render

    columns = {}
    for name in TABLES:
        table: pd.DataFrame = getattr(check, name)
        columns[name] = {str(c): str(kind) for c, kind in table.dtypes.items()}
        if name == "trace" and parquet:
            table.to_parquet(place / "trace.parquet", index=False)
        else:
            table.to_csv(place / f"{name}.csv", index=False, lineterminator="\n")
    np.savez_compressed(place / "iterates.npz", **check.starts)  # type: ignore[arg-type]
    save_figure(figure(check), place / "figure")
    for suffix, format in (("txt", "text"), ("md", "markdown"), ("tex", "latex"), ("csv", "csv")):
        (place / f"table.{suffix}").write_text(render(check, format), encoding="utf-8")
    manifest = {name: getattr(check, name) for name in FACTS}
    manifest |= {
        "schema": SCHEMA,
        "config": check.config,
        "environment": check.environment or environment(),
        "starts_sha256": starts,
        "columns": columns,
        "files": {file.name: _sha256(file) for file in sorted(place.iterdir())},
    }
    text = json.dumps(manifest, indent=1, default=str)
    (place / "manifest.json").write_text(text + "\n", encoding="utf-8")


def _manifest(place: Path) -> dict[str, Any]:
    if not is_run(place):
        raise InputError("folder", place, "give a folder that gdconv check --out wrote")
    try:
        manifest = json.loads((place / "manifest.json").read_text(encoding="utf-8"))
        schema = int(manifest["schema"])
        known = isinstance(manifest["files"], dict) and isinstance(manifest["starts_sha256"], str)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError("folder", place, f"its manifest.json is damaged; {AGAIN}") from error
    if schema > SCHEMA:
        remedy = f"it was saved by a newer gdconv (schema {schema}); update gdconv"
        raise InputError("folder", place, remedy)
    if not known:
        raise InputError("folder", place, f"its manifest.json is damaged; {AGAIN}")
    return manifest


def _read_table(place: Path, name: str, kinds: Mapping[str, str]) -> pd.DataFrame:
    """A table with its dtypes; text is converted cell by cell by Python, which is exact."""
    if (place / f"{name}.parquet").is_file():
        return pd.read_parquet(place / f"{name}.parquet")
    text = pd.read_csv(place / f"{name}.csv", dtype=str, keep_default_na=False)
    columns = {column: _restore(text[column], kind) for column, kind in kinds.items()}
    return pd.DataFrame(columns)


def _restore(text: Any, kind: str) -> Any:
    if kind.startswith("float"):
        return text.map(lambda cell: float(cell) if cell else float("nan")).astype(kind)
    if kind.startswith("Int"):
        return text.map(lambda cell: int(cell) if cell else pd.NA).astype(kind)
    if kind.startswith(("int", "uint")):
        return text.map(int).astype(kind)
    if kind.startswith("bool"):
        return text.map({"True": True, "False": False}).astype(kind)
    return text.astype(kind)


def _read_starts(file: Path) -> dict[str, Any]:
    with np.load(file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _config(check: CheckLike) -> dict[str, Any]:
    return {"theorem": check.theorem} | check.config


def _digest(arrays: Mapping[str, Any]) -> str:
    total = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        total.update(f"{name} {array.dtype} {array.shape}".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
