"""What a result was computed with: versions, threads, commit; no host name and no path."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

PACKAGES = (
    *("gdconv", "torch", "numpy", "scipy", "pandas", "numba", "scikit-learn", "matplotlib"),
    *("seaborn", "python-flint"),
)
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def environment() -> dict[str, Any]:
    """Versions, processor kind, thread counts and, in a git checkout, the commit.

    Returns:
        A dictionary that JSON can hold: python, system, machine, cpus, packages, threads, commit
        ("<hash>", "<hash>+changes" or None).

    Example:
        >>> sorted(environment())
        ['commit', 'cpus', 'machine', 'packages', 'python', 'system', 'threads']
    """
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "packages": dict(_versions()),
        "threads": _threads(),
        "commit": _commit(),
    }


@cache  # 25 ms, and what is imported stays what it is
def _versions() -> tuple[tuple[str, str], ...]:
    return tuple((name, version) for name in PACKAGES if (version := _version(name)))


def _version(name: str) -> str | None:
    """As `importlib.metadata.version`, which reads the whole description as an email."""
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    head = (found.read_text("METADATA") or "").partition("\n\n")[0]
    lines = [line for line in head.splitlines() if line.startswith("Version: ")]
    return lines[0].removeprefix("Version: ").strip() if lines else found.version


def _threads() -> dict[str, Any]:
    counts: dict[str, Any] = {name: os.environ[name] for name in THREADS if name in os.environ}
    if torch := sys.modules.get("torch"):
        counts["torch"] = torch.get_num_threads()
    if threads := sys.modules.get("gdconv.support.threads"):  # it is torch that has loaded them
        for library in threads.libraries():
            counts[str(library.internal_api)] = library.num_threads
    return counts


@cache  # two milliseconds more of git; a process runs what it has imported
def _commit() -> str | None:
    """The commit of the checkout gdconv runs from; None for an installed copy or without git."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None
    try:
        lines = _git(here, "status", "--porcelain=v2", "--branch", "-uno").splitlines()
    except (OSError, subprocess.SubprocessError):
        return None
    named = [line.split()[-1] for line in lines if line.startswith("# branch.oid ")]
    changes = "+changes" if any(not line.startswith("#") for line in lines) else ""
    return named[0] + changes if named and named[0] != "(initial)" else None


def _git(where: Path, *arguments: str) -> str:
    command = ["git", "-C", str(where), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()
