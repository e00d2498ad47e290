"""A package outside this tree, known by its entry point: its own options, from help to replay."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from outside import environment, installed

from gdconv.cli import main as cli

ROOT = Path(__file__).resolve().parents[2]

THEOREM = '''
"""A theorem about any module, with options of its own."""

from dataclasses import dataclass

from gdconv.theory.certificates import descent_hypotheses, mean_rate
from gdconv.theory.theorem import Inequality, Prediction, Theorem, statement


class Patience(Theorem):
    """The product of a run."""

    id, title, source = "patience", "A patient run", "nobody"
    models = ("module",)

    @dataclass(frozen=True)
    class Options:
        """Its own.

        Attributes:
            patience: Steps that must have been made.
            strict: Whether that counts.
        """

        patience: int = 3
        strict: bool = True

    def constants(self, start, rho):
        return start.constants(rho)

    @statement("run", proof="none", default=True, posterior=True,
               defaults={"*": {"model": "my_rates.nets:Net", "steps": 40, "width": 6}})
    def run(self, start, outcome):
        """The product, after enough steps."""
        o = self.options
        made = Inequality("steps", outcome.steps if o.strict else o.patience, ">=", o.patience)
        return Prediction((made, *descent_hypotheses(outcome)), mean_rate(outcome, "run"))
'''

NETS = '''
"""A network with options of its own, and nothing of gdconv."""

import torch
from torch import nn


class Net:
    """F = W_2 tanh(W_1 x).

    Args:
        width: Hidden units.
        spread: Standard deviation of the labels.
        shift: Added to them.
    """

    def __init__(self, width: int = 8, spread: float = 0.5, shift: float | None = None):
        self.width, self.spread, self.shift = width, spread, shift

    def module(self):
        return nn.Sequential(
            nn.Linear(4, self.width, bias=False), nn.Tanh(), nn.Linear(self.width, 1, bias=False)
        )

    def data(self, seed):
        draw = torch.Generator("cpu").manual_seed(seed)
        X = torch.randn(3, 4, generator=draw, dtype=torch.float64, device="cpu")
        y = self.spread * torch.randn(3, 1, generator=draw, dtype=torch.float64, device="cpu")
        return X / X.norm(dim=1, keepdim=True), y + (self.shift or 0.0)
'''

CASES = '''
"""A theorem without descent."""

from dataclasses import dataclass

from gdconv.theory.claims import ClaimTheorem, Finding
from gdconv.theory.prediction import Inequality
from gdconv.theory.theorem import statement


class Powers(ClaimTheorem):
    """Powers of a number."""

    id, title, source = "powers", "Powers", "nobody"
    reads = {"samples": 2}

    @dataclass(frozen=True)
    class Options:
        exponent: int = 2

    def case(self, config, seed):
        return -float(seed + config.samples) ** 1

    @statement("positive", proof="none", default=True)
    def positive(self, x):
        """Even powers."""
        return Finding((Inequality("x^p >= 0", x ** self.options.exponent, ">=", 0.0),))
'''


@pytest.fixture(scope="module", autouse=True)
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that a package manager would have filled, on the path."""
    files = {"patience": THEOREM, "nets": NETS, "powers": CASES}
    with installed(tmp_path_factory.mktemp("site"), "my_rates", files) as place:
        yield place


def check(capsys: Any, *words: str, code: int = 0) -> Any:
    """`gdconv check` in this process: what it printed."""
    assert cli.main(["check", *words]) == code
    return capsys.readouterr()


def replayed(place: Path, folder: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """`gdconv replay` in a process that has seen nothing of the run."""
    done = subprocess.run(
        [sys.executable, "-m", "gdconv", "replay", str(folder), "--json"], check=False,
        capture_output=True, text=True, cwd=place, env=environment(place),
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert "same verdicts and first violations as saved" in done.stderr
    return done


def test_help_lists_the_options_of_both_parties(capsys: Any) -> None:
    text = check(capsys, "patience", "--help").out
    flat = " ".join(text.split())
    assert "--patience INT Steps that must have been made (default: 3)" in flat
    assert "--strict, --no-strict Whether that counts (default: yes)" in flat
    assert "--width INT Hidden units (default: 6)" in flat
    assert "--spread NUMBER Standard deviation of the labels (default: 0.5)" in flat
    assert "--shift NUMBER Added to them (default: none)" in flat
    assert "--heads" not in text
    theorem, model = text.split("\ntheorem:\n")[1].split("\nmodel:\n")
    assert "--patience" in theorem
    assert "--spread" in model.split("\ndata and start:\n")[0]
    other = check(capsys, "patience", "--model", "torch.nn:Linear", "--help").out
    assert "--spread" not in other
    assert "--in-features" in other
    cases = " ".join(check(capsys, "powers", "--help").out.split())
    assert "--exponent INT (default: 2)" in cases


def test_own_options_are_read_saved_and_replayed_in_a_fresh_process(
    outside: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(outside)
    words = ["patience", "--width", "5", "--shift", "0.25", "--out", "runs", "--json"]
    made = json.loads(check(capsys, *words).out)
    assert made["verdict"] == "confirmed"
    own = {"width": 5, "shift": 0.25, "spread": 0.5, "patience": 3, "strict": True}
    assert {k: made["config"][k] for k in own} == own
    assert made["config"]["model"] == "my_rates.nets:Net"
    (folder,) = (outside / "runs").iterdir()
    assert json.loads(replayed(outside, folder).stdout)["config"] == made["config"]
    assert "complete already" in check(capsys, *words).err
    text = check(capsys, "patience", "--patience", "9999", code=3).out
    assert "VERDICT run: outside" in text
    assert "patience 9999" in text
    text = check(capsys, "patience", "--patience", "9999", "--no-strict").out
    assert "VERDICT run: confirmed" in text


def test_a_theorem_without_descent_too(outside: Path, capsys: Any) -> None:
    place = outside / "cases"
    out = ["--out", str(place), "--json"]
    first = json.loads(check(capsys, "powers", *out).out)
    assert (first["verdict"], first["config"]["exponent"]) == ("confirmed", 2)
    check(capsys, "powers", "--exponent", "3", *out, code=1)
    configs = {json.loads((f / "manifest.json").read_text())["config"]["exponent"]: f
               for f in place.iterdir()}  # fmt: skip
    assert configs.keys() == {2, 3}
    replayed(outside, configs[3], code=1)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "patience --pateince 3",
            "option = --pateince: did you mean --patience; see gdconv check p",
        ),
        (
            "patience --heads 3",
            "heads = 3: leave it out: the my_rates.nets:Net model does not read",
        ),
        ("patience --width 0.5", "width = 0.5: give a whole number"),
        ("patience --strict=3", "strict = 3: give --strict without a value"),
        ("powers --exponent", "exponent = nothing: give a value after it"),
        ("powers --width 3", "width = 3: leave it out: powers reads exponent, samples, statement"),
    ],
)
def test_bad_input(line: str, said: str, capsys: Any) -> None:
    shown = check(capsys, *line.split(), code=2)
    assert said in shown.err
    assert len(shown.err.splitlines()) == 1
