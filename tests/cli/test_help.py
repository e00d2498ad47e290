"""`gdconv check ID --help` lists what is read and no more; its defaults and examples hold."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from gdconv.checks.resolve import resolve
from gdconv.cli import main as cli
from gdconv.support.config import PRESENTATION, Config
from gdconv.support.errors import InputError
from gdconv.theory.registry import registry

VALID: dict[str, Any] = {
    "kernel": "softmax", "data": "gaussian", "problem": "stacked-witness", "samples": 2,
    "tokens": 2, "embedding": 8, "outputs": 1, "head_dim": 2, "heads": 2, "width": 4,
    "scaling": "sqrt", "tau_1": 0.5, "loss": "squared", "activation": "gelu", "label_norm": 0.5,
    "target": "ink", "init": "lecun", "scales": "1,1,1,1", "margin": 1.5, "step": "local",
    "sharpness": True, "steps": 3, "until_bound": 0.5, "until_loss": 0.5, "seeds": 2, "seed": 1,
    "device": "cpu", "dtype": "float32", "engine": "torch", "jobs": 2, "out": "runs", "json": True,
    "quiet": True, "algorithm": "heavy-ball", "inputs": 3, "label": 0.1, "beta": 0.3,
    "momentum": 0.2, "rational": True, "depth": 2,
}  # fmt: skip
"""A good value of every option of our own, and names of options that others might have."""

CONTEXT: dict[str, dict[str, Any]] = {
    "target": {"data": "digits"}, "margin": {"init": "theorem"}, "scales": {"init": "normal"},
}  # fmt: skip
"""What an option asks for beside itself."""

ENCODER = {"problem": "kink", "loss": "mean"}
"""Good values for the encoder, where they differ."""

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in registry()},
    "ntk-regime, multihead": ("ntk-regime", {"model": "multihead"}),
    "ntk-regime, run": ("ntk-regime", {"statement": "run"}),
    "generic-gd, heavy-ball": ("generic-gd", {"algorithm": "heavy-ball"}),
    "generic-gd, nesterov": ("generic-gd", {"algorithm": "nesterov"}),
    "generic-gd, NearFit": ("generic-gd", {"model": "gdconv.models.generic.nets:NearFit"}),
}


def words(options: dict[str, Any]) -> list[str]:
    return [w for k, v in options.items() for w in (f"--{k.replace('_', '-')}", str(v))]


def help_of(name: str, capsys: Any) -> tuple[str, dict[str, Any], str]:
    theorem, options = CASES[name]
    assert cli.main(["check", theorem, *words(options), "--help"]) == 0
    return theorem, options, capsys.readouterr().out


def listed(text: str) -> set[str]:
    flags = re.findall(r"^  (--[a-z][a-z0-9-]*)", text, re.MULTILINE)
    return {flag.strip("-").replace("-", "_") for flag in flags}


@pytest.mark.parametrize("name", CASES)
def test_what_is_listed_is_accepted_and_nothing_else(name: str, capsys: Any) -> None:
    theorem, options, text = help_of(name, capsys)
    shown = listed(text)
    models = registry()[theorem].models
    model = options.get("model", models[0] if models else "")
    for option, usual in VALID.items():
        value = ENCODER.get(option, usual) if model == "encoder" else usual
        if option in options:
            value = options[option]
        context = CONTEXT.get(option, {}) if option in shown else {}
        asked = Config.open(theorem, {**options, **context, option: value})
        if option in shown:
            made = resolve(asked).config
            kept = made.canonical() | {k: getattr(made, k) for k in PRESENTATION}
            assert kept[option] == value, option
        else:
            if value == getattr(Config(theorem), option, None):  # the same as not given
                asked = Config.open(theorem, {**options, option: "cuda"})
            with pytest.raises(InputError, match="leave it out|choose options among") as caught:
                resolve(asked)
            assert caught.value.field == option
    known = {f.name for f in fields(Config)} - {"own", "theorem"}
    assert known <= {*VALID, "statement", "model"}
    assert shown <= {*VALID, "statement", "model"}


@pytest.mark.parametrize("name", CASES)
def test_a_default_that_is_shown_is_what_is_taken(name: str, capsys: Any) -> None:
    theorem, options, text = help_of(name, capsys)
    usual = resolve(Config.open(theorem, options)).config
    taken = usual.canonical() | {k: getattr(usual, k) for k in PRESENTATION}
    flat = " ".join(text.split("examples:")[0].split()).replace("vector- e", "vector-e")
    seen = 0
    for option in listed(text) - {"json", "quiet", "statement", *options}:
        flag = f"--{option.replace('_', '-')}"
        # its own line of help ends where the next option or group begins
        part = re.split(rf" {flag}(?:,| [A-Z_]+ | )", flat, maxsplit=1)[1]
        part = re.split(r" --[a-z]| [a-z ]+: --", part, maxsplit=1)[0]
        found = re.search(r"\(default: (.*)\)", part)
        if found is None:
            continue
        first = found[1].split(";")[0].split(",")[0].split(" with ")[0]
        value = taken[option]
        if value is None or value is False:
            continue
        seen += 1
        assert first in (str(value), {True: "yes"}.get(value, "")), option
    assert seen >= 3


def examples_of(name: str, capsys: Any) -> list[list[str]]:
    _, _, text = help_of(name, capsys)
    lines = [shlex.split(line) for line in text.split("examples:\n")[1].splitlines()]
    assert [line[0] for line in lines] == ["gdconv", "gdconv"]
    return [line[1:] for line in lines]


@pytest.mark.parametrize("name", [n for n in CASES if CASES[n][0].endswith(("gd", "regime"))])
def test_the_examples_of_descents_are_accepted_and_run(name: str, capsys: Any) -> None:
    for line in examples_of(name, capsys):
        words = [*line[: line.index("--out")], "--quiet"] if "--out" in line else [*line, "--quiet"]
        assert cli.main([*words, "--steps", "2"]) in (0, 1, 3), line


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(registry()))
def test_the_examples_run_as_they_stand(
    name: str, capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for line in examples_of(name, capsys):
        assert cli.main([*line, "--quiet"]) in (0, 1, 3), line
    assert len(list((tmp_path / "runs").iterdir())) == 1


@pytest.mark.parametrize("first", [["--help"], ["full-gd", "-h"], ["--help", "full-gd"]])
def test_where_help_stands_does_not_matter(first: list[str], capsys: Any) -> None:
    assert cli.main(["check", *first]) == 0
    out = capsys.readouterr().out
    assert ("--heads" in out) == ("full-gd" in first)
    assert out.startswith("usage: gdconv check")


def test_groups_and_what_is_given_already_narrow_the_defaults(capsys: Any) -> None:
    assert cli.main(["check", "full-gd", "--help"]) == 0
    both = capsys.readouterr().out
    titles = ["theorem:", "model:", "data and start:", "descent:", "run and output:", "examples:"]
    places = [both.index(f"\n{title}\n") for title in titles]
    assert places == sorted(places)
    assert "(default: 2 with data gaussian, else 8; run: 8)" in " ".join(both.split())
    assert cli.main(["check", "full-gd", "--statement", "run", "--data", "digits", "--help"]) == 0
    one = " ".join(capsys.readouterr().out.split())
    assert "H, number of heads (default: 8)" in one
    assert "gdconv check full-gd --data digits --statement run" in one


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("generic-gd --wdth 3", "option = --wdth: did you mean --width; see gdconv check generic"),
        ("generic-gd --heads 3", "heads = 3: leave it out: the gdconv.models.generic.nets:TwoLa"),
        ("generic-gd --width x", "width = x: give a whole number"),
        ("generic-gd --width 2.5", "width = 2.5: give a whole number"),
        ("generic-gd --label nan", "label = nan: give a finite number"),
        ("generic-gd --width", "width = nothing: give a value after it"),
        ("generic-gd --width 3 --width 4", "width = 4: give it once: 3 stands before it"),
        ("generic-gd --width -3", "model = gdconv.models.generic.nets:TwoLayer: give options of w"),
        ("generic-gd --model math:pi", "model = math:pi, which makes float: give a torch.nn.Modul"),
        ("generic-gd --model math:none", "model = math:none: give package.module:name of a model "),
        ("generic-gd --model nothing", "model = nothing: generic-gd speaks of torch modules: gi"),
        ("full-gd --model torch.nn:Linear", "model = torch.nn:Linear: full-gd speaks of multihead"),
        ("generic-gd --algorithm hevy-ball", "algorithm = hevy-ball: did you mean heavy-ball"),
        ("generic-gd --algorithm math:pi", "algorithm = math:pi: give package.module:name of a cl"),
        ("generic-gd --algorithm projected", "algorithm = projected: give it as algorithm= in Pyt"),
        ("generic-gd --algorithm heavy-ball --beta 2", "beta = 2.0: give a number of at least 0"),
        ("generic-gd --beta 0.5", "option = --beta: see gdconv check generic-gd --help"),
        ("full-gd --algorithm gd", "algorithm = gd: leave it out: full-gd speaks of gradient desc"),
        ("full-gd --problem math:pi", "problem = math:pi: give a function (kernel, seed) -> "),
        ("full-gd --problem fractions:Fraction", "problem = fractions:Fraction: give a function"),
        ("full-gd --problem math:none", "problem = math:none: give package.module:name of a func"),
        ("generic-gd --problem kink", "problem = kink: leave it out: the gdconv.models.generic"),
        ("attention-hessian --width 3", "width = 3: leave it out: attention-hessian reads"),
        ("attention-hessian --steps 3", "steps = 3: leave it out: attention-hessian reads"),
    ],
)  # fmt: skip
def test_one_sentence(line: str, said: str, capsys: Any) -> None:
    assert cli.main(["check", *line.split(), "--quiet"]) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert "unexpected" not in shown.err
    assert len(shown.err.splitlines()) == 1
    assert shown.out == ""
