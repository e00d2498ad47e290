"""Saved runs: one folder a check, named by the hash of its config, complete or absent.

A folder is written under a temporary name beside its place and renamed at the end, so a crash
leaves no half run. `load` restores the check with every float64 bit for bit and refuses files that
were changed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import pandas as pd

from gdconv import __version__
from gdconv.checks.schema import FACTS, require_sound
from gdconv.report.source import CheckLike
from gdconv.support.environment import environment
from gdconv.support.errors import InputError, quoted
from gdconv.support.files import folder_path, made, replacing
from gdconv.support.files import require_writable as require_writable
from gdconv.support.interruption import deferred
from gdconv.support.npz import read_members

SCHEMA = 2
"""Version of the folder's layout; another one is refused."""

MOST_MANIFEST = 2**24
"""Bytes of a manifest; one of a thousand runs has a few thousand."""

KINDS = frozenset({
    *(f"{kind}{bits}" for kind in ("int", "uint", "Int") for bits in (8, 16, 32, 64)),
    *("float16", "float32", "float64", "bool", "object", "str", "string"),
})
"""Types of columns that a table may have."""

NOT_RESULT = frozenset({"out", "quiet", "json"})
"""Config fields that do not change the result, so not the folder's name either."""

TABLES = ("verdicts", "hypotheses", "runs", "trace")
REPORTS = ("figure.pdf", "figure.png", *(f"table.{kind}" for kind in ("txt", "md", "tex", "csv")))
KNOWN = {*REPORTS, *(f"{name}.csv" for name in TABLES)}
KNOWN |= {"trace.parquet", "iterates.npz", "manifest.json"}
AGAIN = "run the check again with --out"

Made = TypeVar("Made")


def run_name(config: Mapping[str, Any]) -> str:
    """Folder name of a config: 12 hex digits of the SHA-256 of its canonical JSON.

    Fields that are None or do not change the result are left out; an .npz counts by its content,
    not by its path; another version of gdconv is another name, so no verdict outlives an upgrade.

    Args:
        config: Options as a mapping that JSON can hold.

    Returns:
        The name.

    Example:
        >>> run_name({"b": 1, "a": 2, "quiet": True}) == run_name({"a": 2, "b": 1, "c": None})
        True
    """
    kept = {k: v for k, v in config.items() if v is not None and k not in NOT_RESULT}
    for field in ("data", "problem"):
        value = kept.get(field)
        if isinstance(value, str) and value.lower().endswith(".npz") and os.path.isfile(value):
            kept[field] = "npz " + _sha256(Path(value))
    return _canonical_sha256({**kept, "gdconv": __version__})[:12]


def place_of(directory: str | Path, config: Mapping[str, Any], starts: Mapping[str, Any]) -> Path:
    """Folder of a run: its name, or another one where a run from another start has that name.

    Args:
        directory: Parent folder.
        config: Options, resolved, with the theorem.
        starts: Data and weights at the start; arrays whose names end in _last do not count.

    Returns:
        A path; a run that is complete there had these options and this start.

    Raises:
        InputError: The folder of that name is damaged.

    Example:
        >>> place_of("runs", {"a": 1}, {}).name == run_name({"a": 1})
        True
    """
    place, digest = folder_path("out", directory) / run_name(config), _digest(starts)
    if is_run(place) and _manifest(place)["starts_sha256"] != digest:
        return place.with_name(f"{place.name}-{digest[:6]}")  # the user's own arrays
    return place


def save(check: CheckLike, directory: str | Path, parquet: bool = False) -> Path:
    """Write a check into directory/<hash of its config>; a complete one is kept and skipped.

    Args:
        check: The check.
        directory: Parent folder, created when missing.
        parquet: Write the trace as Parquet (needs pyarrow) instead of CSV.

    Returns:
        The run's folder: manifest.json, trace.csv, verdicts.csv, hypotheses.csv, runs.csv,
        iterates.npz, figure.pdf, figure.png, table.txt, table.md, table.tex, table.csv.

    Raises:
        InputError: The folder cannot be written, or holds something else under this name.
        KeyboardInterrupt: Control-C was pressed meanwhile; the run is saved nevertheless.

    Example:
        >>> from gdconv.report.example import example_check
        >>> check = example_check(runs=2)
        >>> import tempfile
        >>> save(check, tempfile.mkdtemp()).name == run_name(check.config)
        True
    """
    place = place_of(directory, _config(check), check.starts)
    if is_run(place):
        return place
    if os.path.lexists(place):
        raise InputError("out", place, "remove this folder, which is no complete saved run")
    try:
        with deferred() as pressed, made(place.parent), replacing(place, is_run, KNOWN) as half:
            _write(check, half, parquet)
    except OSError as error:
        remedy = f"choose a folder that can be written ({error.strerror or error})"
        raise InputError("out", directory, remedy) from error
    if pressed:
        raise KeyboardInterrupt(f"interrupted; the finished runs are saved in {place}")
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
        gdconv.support.errors.InputError: folder = /nonexistent: give a folder that exists.
    """
    place = folder_path("folder", directory)
    if is_run(place):
        return [place]
    if not os.path.exists(place):
        raise InputError("folder", directory, "give a folder that exists")
    if not place.is_dir():
        raise InputError("folder", directory, "give a folder that gdconv check --out wrote")
    # a hidden one is being written, or its writer was killed
    runs = sorted(p for p in place.iterdir() if p.name[0] != "." and is_run(p))
    if not runs:
        raise InputError("folder", directory, "give a folder that gdconv check --out wrote")
    return runs


def load(directory: str | Path, make: Callable[..., Made]) -> Made:
    """Restore a saved check; every number is the one that was saved.

    Args:
        directory: The run's folder.
        make: Class to build, a dataclass with fields of a check.

    Returns:
        The check.

    Raises:
        InputError: No saved run, damaged or changed files, or a newer schema.

    Example:
        >>> load("/nonexistent", dict)
        Traceback (most recent call last):
            ...
        gdconv.support.errors.InputError: folder = /nonexistent: give a folder that gdconv check
        --out wrote.
    """
    place = folder_path("folder", directory)
    manifest = _manifest(place)
    for name, digest in manifest["files"].items():
        file = place / Path(name).name
        if not file.is_file():
            raise InputError("folder", directory, f"{file.name} is missing; {AGAIN}")
        if _sha256(file) != digest:
            raise InputError("folder", directory, f"{file.name} was changed after saving; {AGAIN}")
    parts = _read_parts(place, manifest)
    known = {f.name for f in dataclasses.fields(cast(Any, make))}
    return make(**{name: value for name, value in parts.items() if name in known})


def _read_parts(place: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Everything a folder holds, by field of the check."""
    try:
        parts = {name: manifest[name] for name in FACTS}
        parts |= {name: _read_table(place, name, manifest["columns"][name]) for name in TABLES}
        parts["starts"] = read_members(place / "iterates.npz")
        require_sound(parts)
        if manifest["starts_sha256"] != _digest(parts["starts"]):
            raise ValueError("its start is another one")
    except ImportError:
        raise InputError("folder", place, "install pyarrow, which its trace needs") from None
    except Exception as error:  # whoever wrote it knows the checksum and perhaps nothing else
        raise InputError("folder", place, f"it is incomplete ({quoted(error)}); {AGAIN}") from error
    return parts


def _write(check: CheckLike, place: Path, parquet: bool) -> None:
    from gdconv.report.figures import save_figure
    from gdconv.report.plots import figure
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
        "starts_sha256": _digest(check.starts),
        "columns": columns,
        "files": {file.name: _sha256(file) for file in sorted(place.iterdir())},
    }
    manifest["sha256"] = _canonical_sha256(manifest)
    text = json.dumps(manifest, indent=1, default=str)
    (place / "manifest.json").write_text(text + "\n", encoding="utf-8")


def _manifest(place: Path) -> dict[str, Any]:
    if not is_run(place):
        raise InputError("folder", place, "give a folder that gdconv check --out wrote")
    try:
        manifest = _read_manifest(place / "manifest.json")
        schema, sealed = manifest["schema"], manifest.pop("sha256", None)
        whole = sealed == _canonical_sha256(manifest)
        known = isinstance(manifest["files"], dict) and isinstance(manifest["starts_sha256"], str)
        known = known and type(schema) is int
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
        raise InputError("folder", place, f"its manifest.json is damaged; {AGAIN}") from error
    if not known:
        raise InputError("folder", place, f"its manifest.json is damaged; {AGAIN}")
    if schema != SCHEMA:
        age, remedy = ("a newer", "update gdconv") if schema > SCHEMA else ("an older", AGAIN)
        raise InputError("folder", place, f"{age} gdconv saved it (schema {schema}); {remedy}")
    if not whole:
        raise InputError("folder", place, f"manifest.json was changed after saving; {AGAIN}")
    tables = {f"{name}.csv" for name in TABLES}
    if "trace.parquet" in manifest["files"]:
        tables = tables - {"trace.csv"} | {"trace.parquet"}
    if set(manifest["files"]) != {*tables, *REPORTS, "iterates.npz"}:
        raise InputError("folder", place, f"its manifest.json lists other files; {AGAIN}")
    return manifest


def _read_manifest(file: Path) -> dict[str, Any]:
    """The JSON object; without NaN and infinities, which are no JSON."""
    with file.open("rb") as stream:
        text = stream.read(MOST_MANIFEST + 1)
    if len(text) > MOST_MANIFEST:
        raise ValueError("no manifest is as long as that")

    def refuse(constant: str) -> Any:
        raise ValueError(constant)

    return dict(json.loads(text.decode("utf-8"), parse_constant=refuse))


def _read_table(place: Path, name: str, kinds: Mapping[str, Any]) -> pd.DataFrame:
    for kind in kinds.values():
        if not isinstance(kind, str) or kind not in KINDS:
            raise ValueError(f"{quoted(kind, 40)} is no type of a column")
    """A table with its dtypes; text is converted cell by cell by Python, which is exact."""
    if name == "trace" and not (place / "trace.csv").is_file():
        return pd.read_parquet(place / "trace.parquet")
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
    if kind == "bool":
        return text.map({"True": True, "False": False}.__getitem__).astype(kind)
    return text.astype(kind)


def _config(check: CheckLike) -> dict[str, Any]:
    return {"theorem": check.theorem} | check.config


def _canonical_sha256(value: Mapping[str, Any]) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _digest(arrays: Mapping[str, Any]) -> str:
    """Of data and weights at the start; where the run ended does not count."""
    total = hashlib.sha256()
    for name in sorted(name for name in arrays if not name.endswith("_last")):
        array = np.ascontiguousarray(arrays[name])
        total.update(f"{name} {array.dtype} {array.shape}".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
