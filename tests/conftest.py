"""Runs before any test module: run-time shape checks, one thread, reproducible hypothesis."""

from __future__ import annotations

import os
import re
from pathlib import Path

import hypothesis
import pytest
import shapes
import torch
from threadpoolctl import threadpool_limits

ROOT = Path(__file__).resolve().parent.parent


def modules_to_check() -> list[str]:
    """Modules of gdconv and theorems whose annotations are checked at run time.

    Left out: packages (importing one's __init__ is enough), compiled modules (the hook wraps
    functions, and `njit` compiles the wrapper instead), and the pytest plugin (pytest has
    imported it already).
    """
    names = []
    for folder, package in (("gdconv", "gdconv"), ("theorems", "gdconv.gallery")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            jitted = r"^\s*(import|from) numba|^from gdconv\.compiled\.cache import njit"
            if re.search(jitted, path.read_text("utf-8"), re.MULTILINE) or path.stem in (
                "__init__",
                "pytest_plugin",
            ):
                continue
            inner = path.relative_to(ROOT / folder).with_suffix("").parts
            names.append(".".join([package, *inner]))
    return names


shapes.install(modules_to_check())

# The same examples in every run; `pytest --hypothesis-profile=explore` draws new ones.
hypothesis.settings.register_profile("default", derandomize=True, deadline=None, database=None)
hypothesis.settings.register_profile("explore", deadline=None, print_blob=True)
hypothesis.settings.load_profile("default")

# Small matrices, several workers, few cores: one thread each, for the doctests too, unless the
# environment asks for more (tests/portable.py does).
THREADS = int(os.environ.get("OMP_NUM_THREADS", "1"))
torch.set_num_threads(THREADS)
threadpool_limits(THREADS)


def pytest_configure(config: pytest.Config) -> None:
    """A plugin of its own: the hooks of this file see only the tests below this folder."""
    config.pluginmanager.register(shapes.Turn())


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A witness, checked and saved by the command itself."""
    from commands import FAST

    from gdconv.checks import store
    from gdconv.cli import main as cli

    out = tmp_path_factory.mktemp("runs")
    assert cli.main([*FAST, "--out", str(out), "--quiet"]) == 1
    (folder,) = store.find_runs(out)
    return folder
