"""Many short pytest runs for the price of one import: a process that forks for each of them.

    python warm.py FOLDER FILE

loads the libraries, and every module of the scratch copy in FOLDER that does not import FILE,
directly or not. Then it reads one JSON object a line, {"tests": [...], "seconds": S}, runs pytest
on these files in a fork, and answers {"code": exit code or null after S seconds, "tail": output}.
A fork imports FILE, and what rests on it, afresh: the fault that stands in it by then.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

LIBRARIES = """
    numpy torch scipy.linalg scipy.sparse.linalg scipy.stats scipy.optimize pandas sklearn.datasets
    matplotlib.pyplot seaborn flint numba hypothesis beartype jaxtyping mpmath tqdm pytest
    threadpoolctl
""".split()  # noqa: SIM905

PACKAGES = {"gdconv": "gdconv", "theorems": "gdconv.gallery"}
"""Folder -> the package it is imported as."""


def module_of(file: str | Path) -> str:
    """Name under which a source file is imported."""
    folder, *inner = Path(file).with_suffix("").parts
    return ".".join([PACKAGES.get(folder, folder), *inner]).removesuffix(".__init__")


class Warm:
    """The process, seen from outside.

    Args:
        folder: The scratch copy.
        file: Where faults will be planted, relative to it.
        environment: Of the process.
    """

    def __init__(self, folder: Path, file: str, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(folder), file],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder, env=environment,
        )  # fmt: skip

    def run(self, tests: list[str], seconds: float) -> tuple[int | None, str]:
        """Exit code of pytest on these files (None when it took too long) and its last lines."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"tests": tests, "seconds": seconds}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the warm process has died")
        answer = json.loads(line)
        return answer["code"], answer["tail"]

    def __enter__(self) -> Warm:
        """The process itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        """End the process."""
        self.process.kill()
        self.process.communicate()


def _reached(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under `if TYPE_CHECKING`: what the package names there reaches all."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        yield node
        waiting += ast.iter_child_nodes(node)


def modules(folder: Path) -> dict[str, set[str]]:
    """Module of the packages -> modules of the packages that it imports, wherever in the file."""
    paths = {
        module_of(p.relative_to(folder)): p
        for package in PACKAGES
        for p in sorted((folder / package).rglob("*.py"))
    }
    found: dict[str, set[str]] = {}
    for name, path in paths.items():
        wanted: set[str] = set()
        for node in _reached(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                wanted |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                parent = name.split(".") if path.stem == "__init__" else name.split(".")[:-1]
                base = parent[: len(parent) - node.level + 1] if node.level else []
                base = [*base, *(node.module or "").split(".")] if node.module else base
                wanted |= {".".join(base), *(".".join([*base, a.name]) for a in node.names)}
        parents = {".".join(name.split(".")[:i]) for i in range(1, name.count(".") + 1)}
        found[name] = ((wanted | parents) & paths.keys()) - {name}
    return found


def untouched_by(file: str, imports: dict[str, set[str]]) -> list[str]:
    """Modules that do not import the file's module, directly or through others."""
    reached = {module_of(file)}
    while True:
        more = {name for name, wanted in imports.items() if wanted & reached} - reached
        if not more:
            return sorted(imports.keys() - reached)
        reached |= more


def _preload(folder: Path, file: str) -> None:
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    importlib.import_module("conftest")  # the import hook: shapes are checked as in any test run
    for name in untouched_by(file, modules(folder)):
        if not name.endswith(("__main__", "pytest_plugin")):
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    if module_of(file) in sys.modules:
        raise RuntimeError(f"{module_of(file)} was loaded before the fault stands in it")


def _child(tests: list[str], seconds: float, log: int) -> None:
    import resource

    import pytest

    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    limit = int(seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
    options = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "--no-header", "--tb=line",
               "--assert=plain"]  # fmt: skip
    os._exit(int(pytest.main([*options, *tests])))


def _serve(folder: Path, file: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.path[:0] = [str(folder), str(folder / "tests")]
    _preload(folder, file)
    sys.dont_write_bytecode = file != "-"
    for line in sys.stdin:
        asked: dict[str, Any] = json.loads(line)
        with tempfile.TemporaryFile() as log:
            pid = os.fork()
            if pid == 0:
                _child(asked["tests"], asked["seconds"], log.fileno())
            code = _wait(pid, asked["seconds"])
            log.seek(0)
            tail = log.read()[-2000:].decode("utf-8", "replace")
        answers.write(json.dumps({"code": code, "tail": tail}) + "\n")
        answers.flush()


def _wait(pid: int, seconds: float) -> int | None:
    """Exit code, or None once the child has used its CPU time or ten times as much of the clock."""
    deadline = time.monotonic() + 10 * seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            if os.WIFSIGNALED(status):
                return None if os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL) else -1
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), sys.argv[2])
