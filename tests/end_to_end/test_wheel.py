"""Installed from its wheel, gdconv harms no project that has the same names."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (
    "gdconv",
    "theorems",
    "experiments",
    "setup.cfg",
    "pyproject.toml",
    "README.md",
    "LICENSE",
)
USER = "raise RuntimeError('this is the user's own, nobody else imports it')"
TEST = """
import pytest

@pytest.mark.gdconv("full-gd", confirm=False, problem="stacked-witness")
def test_mine(gdconv_check):
    import gdconv
    assert gdconv_check.verdict == "refuted"
    assert gdconv.__file__.startswith({place!r})
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's files, made from a copy of the sources."""
    source, place = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in SOURCES:
        leave = shutil.ignore_patterns("__pycache__", "*.egg-info")
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=leave)
        else:
            shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-build-isolation", "--target", str(place)]
    done = subprocess.run(
        [*pip, "install", *options, str(source)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for file in (ROOT / "gdconv" / "compiled").glob("*.py"):  # compiled already, a minute saved
        shutil.copystat(file, place / "gdconv" / "compiled" / file.name)
    kept = place / "gdconv" / "compiled" / "__pycache__"
    kept.mkdir(exist_ok=True)
    for file in (ROOT / "gdconv" / "compiled" / "__pycache__").glob("*.nb?"):
        shutil.copy2(file, kept)
    return place


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, installed: Path) -> Path:
    """A user's project with folders and modules named as ours."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("theorems", "experiments", "tests"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("" if name == "tests" else USER)
    (folder / "gallery.py").write_text(USER)
    (folder / "tests" / "test_mine.py").write_text(TEST.format(place=str(installed)))
    (folder / "mine.py").write_text(
        "import sys, gdconv\n"
        "print(gdconv.__file__, gdconv.check('full-gd', problem='stacked-witness').verdict)\n"
        "assert 'theorems' not in sys.modules and 'experiments' not in sys.modules"
    )
    return folder


def run(project: Path, installed: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(installed)}
    return subprocess.run(
        [sys.executable, *words], cwd=project, env=environment, capture_output=True, text=True,
        check=False, timeout=300,
    )  # fmt: skip


def test_only_gdconv_is_installed(installed: Path) -> None:
    tops = {p.name for p in installed.iterdir() if not p.name.endswith(".dist-info")}
    assert tops - {"bin", "__pycache__"} == {"gdconv"}
    rooms = {p.parent.relative_to(ROOT) for p in (ROOT / "gdconv").rglob("*.py")}
    assert all((installed / room / "__init__.py").is_file() for room in rooms)
    theorems = {p.relative_to(ROOT / "theorems") for p in (ROOT / "theorems").rglob("*.py")}
    assert all((installed / "gdconv" / "gallery" / path).is_file() for path in theorems)


def test_a_script_beside_folders_of_the_same_names(project: Path, installed: Path) -> None:
    done = run(project, installed, "mine.py")
    assert done.returncode == 0, done.stderr
    place, verdict = done.stdout.split()
    assert place.startswith(str(installed))
    assert verdict == "refuted"


def test_the_command_beside_folders_of_the_same_names(project: Path, installed: Path) -> None:
    done = run(
        project, installed, "-m", "gdconv", "check", "full-gd", "--problem", "stacked-witness"
    )
    assert done.returncode == 1, done.stderr
    done = run(project, installed, "-m", "gdconv", "list")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for theorem in ("full-gd", "query-gd", "ntk-regime", "attention-hessian", "convex-attention"):
        assert f"{theorem}: " in done.stdout


def test_pytest_beside_folders_of_the_same_names(project: Path, installed: Path) -> None:
    done = run(project, installed, "-m", "pytest", "-q", "tests")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_a_project_with_modules_of_these_names(project: Path, installed: Path) -> None:
    for name in ("theorems", "experiments"):
        shutil.rmtree(project / name)
        (project / f"{name}.py").write_text(USER)
    done = run(project, installed, "mine.py")
    assert done.returncode == 0, done.stderr
