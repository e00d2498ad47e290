"""The five files of docs/add-a-theorem.md, installed outside the repository as they stand there."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from outside import ROOT, environment, installed

import gdconv
from gdconv.cli import main as cli
from gdconv.report.plots import figure
from gdconv.support.errors import InputError

PAGE = (ROOT / "docs" / "add-a-theorem.md").read_text()
MOST_LINES = 60

EXAMPLES = {
    "two_layer_relu": ("two-layer-relu", "--width", "greatest |w_r - w_r(0)|"),
    "deep_linear": ("deep-linear", "--descent", "drift of D"),
    "logistic_regression": ("logistic-regression", "--loss", "f"),
    "heavy_ball": ("heavy-ball", "--beta", "V"),
    "own_module": ("own-module", "--width", "|theta_t - theta_0|"),
}
"""Id, an option that its help must show, and a quantity that is followed, by file."""

FAULTS = {
    "two_layer_relu": ("moved), R)", "moved), R / 10)"),
    "deep_linear": ("2 * q * mu, max_step", "60 * q * mu, max_step"),
    "deep_linear, drift": (
        "at.eta * (f_0 - at.loss.lo) / q",
        "at.eta * (f_0 - at.loss.lo) / (9 * q)",
    ),
    "logistic_regression": (
        "n * (2 + log(x) ** 2) / (2 * x) if",
        "n * (2 + log(x) ** 2) / (9 * x) if",
    ),
    "heavy_ball": ('geometric(Quantity("V", V), mu)', 'geometric(Quantity("V", V), 15 * mu)'),
    "own_module": ("2 * at.eta * f_0 * at.t)))", "0.2 * at.eta * f_0 * at.t)))"),
}
"""A constant that is wrong, by file: what it claims then is refuted."""


def blocks() -> dict[str, str]:
    """The files of the page by name, each under its heading."""
    found = re.findall(r"## [^\n]*`(\w+)\.py`\n.*?```python\n(.*?)```", PAGE, re.DOTALL)
    return dict(found)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with installed(tmp_path_factory.mktemp("site"), "gdexamples", blocks()) as folder:
        yield folder


def test_the_page_has_them_all_and_each_is_short() -> None:
    assert blocks().keys() == EXAMPLES.keys()
    for name, text in blocks().items():
        assert len(text.splitlines()) < MOST_LINES, name
        assert max(map(len, text.splitlines())) <= 100, name


def test_they_are_listed_with_their_statements(place: Path, capsys: Any) -> None:
    assert cli.main(["list"]) == 0
    shown = capsys.readouterr().out
    for theorem, *_ in EXAMPLES.values():
        assert theorem in shown


@pytest.mark.parametrize("name", EXAMPLES)
def test_help_shows_what_is_read(name: str, place: Path, capsys: Any) -> None:
    theorem, option, _ = EXAMPLES[name]
    assert cli.main(["check", theorem, "--help"]) == 0
    shown = capsys.readouterr().out
    assert option in shown
    assert f"gdexamples.{name}:" in shown
    assert "--heads" not in shown


def confirmed(check: Any, quantity: str) -> None:
    """Its verdict, and the quantity followed below its bound."""
    assert check.verdict == "confirmed"
    bound = f"bound[{check.statement}: {quantity}]"
    kept = check.trace[[quantity, bound]].dropna()
    assert len(kept) > 3
    assert (kept.iloc[1:, 0] <= kept.iloc[1:, 1] * (1 + 1e-9)).all()
    assert (kept.iloc[1:, 0] >= 0.05 * kept.iloc[1:, 1]).any()  # and not far below it throughout


def truthful(check: Any, name: str, quantity: str) -> None:
    """Table, figure and hypotheses name model, algorithm and quantity."""
    axes = figure(check).axes
    title = axes[0].get_title(loc="left")
    assert f"gdexamples.{name}:" in title
    assert "softmax" not in title
    assert ("heavy-ball, " in title.split("\n")[1]) == (name == "heavy_ball")
    assert quantity in {ax.get_ylabel() for ax in axes}
    table = check.table()
    assert check.statement in table
    assert "confirmed" in table
    rows = set(check.hypotheses["hypothesis"])
    rule = "steps of heavy-ball" if name == "heavy_ball" else "gradient steps"
    assert f"the stored steps are {rule}: defect over rounding" in rows


def test_they_are_confirmed_shown_saved_and_replayed_in_a_fresh_process(place: Path) -> None:
    """One test: every check is made once."""
    for name, (theorem, _, quantity) in EXAMPLES.items():
        check = gdconv.check(theorem)
        confirmed(check, quantity)
        truthful(check, name, quantity)
        check.save(place / "runs" / name)
        (statement,) = check.to_json()["statements"]
        assert statement["worst_margin"] > 0
        assert statement["first_violation"] is None
        geometric = name in ("two_layer_relu", "deep_linear", "heavy_ball")
        assert (statement["rate"] is not None) == geometric
    folders = [str(next((place / "runs" / name).iterdir())) for name in EXAMPLES]
    script = (
        "import sys\nfrom gdconv.cli.main import main\n"
        "sys.exit(max(main(['replay', folder]) for folder in sys.argv[1:]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *folders], check=False, capture_output=True, text=True,
        cwd=place, env=environment(place),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("same verdicts and first violations as saved") == len(EXAMPLES)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_constant_is_refuted(fault: str, tmp_path: Path) -> None:
    (right, wrong), name = FAULTS[fault], fault.split(",")[0]
    assert blocks()[name].count(right) == 1
    package = f"wrong_{name}"
    text = blocks()[name].replace(right, wrong).replace("gdexamples.", f"{package}.")
    theorem = EXAMPLES[name][0]
    text = re.sub(r'(id, title, source[^=]*= ")', r"\1wrong-", text)
    with installed(tmp_path, package, {name: text}):
        assert gdconv.check(f"wrong-{theorem}").verdict == "refuted"


def test_options_change_what_they_name(place: Path) -> None:
    slow = gdconv.check("heavy-ball", beta=0.9)
    assert slow.verdict == "outside"
    assert slow.config["beta"] == 0.9
    local = gdconv.check("heavy-ball", step="local", beta=0.75)  # a quarter of 2 (1 - beta) / L
    L = np.linalg.norm(local.starts["X"][0], 2) ** 2
    assert local.verdicts["step"][0] == pytest.approx(0.5 * 0.25 / L, rel=1e-9)
    tight = gdconv.check("deep-linear", descent=0.9)
    assert tight.config["descent"] == 0.9
    assert tight.verdicts["step"][0] < gdconv.check("deep-linear").verdicts["step"][0]
    with pytest.raises(InputError, match="descnet = 0.9: did you mean descent"):
        gdconv.check("deep-linear", descnet=0.9)


def test_the_pytest_fixture_finds_them(place: Path) -> None:
    test = place / "test_mine.py"
    test.write_text(
        "def test_mine(gdconv_check):\n"
        "    check = gdconv_check('heavy-ball', seeds=2)\n"
        "    assert check.verdict == 'confirmed'\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(test)], check=False,
        capture_output=True, text=True, cwd=place, env=environment(place),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
