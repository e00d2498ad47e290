"""Advice can be followed: what a message tells the user to give is not refused in turn."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gdconv.checks.prepare import prepare
from gdconv.cli import main as cli
from gdconv.cli.parser import Parser, add_config_options, config_options
from gdconv.report.example import example_check
from gdconv.report.summary import verdict_line
from gdconv.support.config import Config
from gdconv.support.errors import GdconvError, InputError

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--samples", "2", "--tokens", "2", "--steps", "2"]
HEADS = ["--heads", "2", "--head-dim", "4"]


def options(words: list[str]) -> Config:
    parser = Parser(prog="p")
    add_config_options(parser)
    found = vars(parser.parse_args(words))
    return Config(found["theorem"], **config_options(found))


REFUSED: list[tuple[list[str], str, list[str]]] = [
    (["full-gd", "--target", "ink"], "--data digits", ["--data", "digits"]),
    (["ntk-regime", "--target", "ink"], "--data digits", ["--data", "digits"]),
    (["full-gd", "--scales", "1,1,1,1", "--init", "he"], "--init normal", ["--init", "normal"]),
    (["full-gd", "--scales", "1,1,1,1", "--init", "he"], "paired", ["--init", "paired"]),
    (["ntk-regime", "--model", "multihead", "--scales", "1,1,1,1", "--init", "ntk"],
     "--init normal", ["--init", "normal"]),
    (["full-gd", "--statement", "run", "--margin", "2"], "--init theorem", ["--init", "theorem"]),
    (["query-gd", "--statement", "run", "--margin", "2"], "--init theorem", ["--init", "theorem"]),
    (["full-gd", "--init", "paired", "--heads", "3"], "even number of heads", ["--heads", "2"]),
    (["ntk-regime", "--model", "multihead", "--init", "theorem"], "lecun", ["--init", "lecun"]),
    (["ntk-regime", "--model", "multihead", "--init", "theorem"], "paired", ["--init", "paired"]),
]  # fmt: skip
"""Refused, what the message advises, and the words that follow it."""


def followed(words: list[str], more: list[str]) -> list[str]:
    kept = list(words)
    if more[0] in kept:
        at = kept.index(more[0])
        del kept[at : at + 2]
    return kept + more


@pytest.mark.parametrize(("words", "advice", "more"), REFUSED, ids=lambda x: str(x)[:50])
def test_an_option_that_an_error_names_is_not_refused(
    words: list[str], advice: str, more: list[str]
) -> None:
    sizes = SMALL if words[0] == "ntk-regime" and "multihead" not in words else SMALL + HEADS
    sizes = [*sizes[: sizes.index("--heads")], *sizes[sizes.index("--heads") + 2 :]] if (
        "--heads" in words and "--heads" in sizes) else sizes  # fmt: skip
    with pytest.raises(InputError) as refused:
        prepare(options(words + sizes))
    assert advice in str(refused.value)
    prepare(options(followed(words, more) + sizes))


@pytest.mark.parametrize("model", ["multihead", "encoder"])
def test_margin_is_not_sent_to_an_initialization_that_is_refused(model: str) -> None:
    with pytest.raises(InputError, match=f"leave it out: the {model} model does not read it"):
        prepare(Config("ntk-regime", model=model, margin=2.0))


OUTSIDE: list[list[str]] = [
    ["query-gd", "--problem", "softmax-trap"],
    ["query-gd", "--problem", "gaussian-trap", "--kernel", "gaussian"],
    ["full-gd", "--problem", "softmax-trap"],
    ["full-gd", "--problem", "too-few-heads"],
    ["ntk-regime", "--problem", "kink", "--statement", "relu-rigorous"],
    ["full-gd", "--init", "normal", "--data", "gaussian", *SMALL, *HEADS],
    ["ntk-regime", "--init", "lecun", *SMALL],
]


@pytest.mark.parametrize("words", OUTSIDE, ids=lambda x: " ".join(x)[:50])
def test_the_advice_of_outside_can_be_followed(words: list[str], capsys: Any) -> None:
    assert cli.main(["check", *words, "--steps", "2", "--quiet"][: None if "--steps" not in words
                    else -3]) == 3  # fmt: skip
    said = " ".join(capsys.readouterr().out.split())
    start = re.search("For those on the start (.*?), for those on the end", said)
    assert start is not None
    assert ("leave --problem out" in start[1]) == ("--problem" in words)
    more = [w for w in words if not {w, words[words.index(w) - 1]} & {"--problem", "--statement"}]
    assert "let --init theorem choose the weights" in start[1]
    prepare(options(followed(more, ["--init", "theorem"])))


def test_after_the_theorems_own_start_another_one_is_not_advised_again() -> None:
    check = example_check(1)
    check.verdict = "outside"
    check.config["init"] = "theorem"
    check.config.pop("problem", None)
    assert "--init theorem" not in verdict_line(check)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_float64_is_advised_where_it_is_not_used(dtype: str) -> None:
    check = example_check(1)
    check.verdict, check.config["dtype"] = "undecided", dtype
    check.verdicts = check.verdicts.assign(verdict="undecided")
    assert ("--dtype float64" in verdict_line(check)) == (dtype == "float32")


KNOWN = {
    "--step", "--steps", "--init", "--problem", "--seed", "--dtype", "--data", "--engine", "--out",
    "--statement", "--help", "--samples",
}  # fmt: skip
"""Options that messages name; the tests above follow them, or they are never refused."""


def test_messages_name_no_other_option() -> None:
    named = set()
    for package in ("gdconv", "theorems"):
        for path in sorted((ROOT / package).rglob("*.py")):
            tree = ast.parse(path.read_text("utf-8"))
            documented = {
                id(node.value) for node in ast.walk(tree)
                if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            }  # fmt: skip
            for node in ast.walk(tree):
                text = node.value if isinstance(node, ast.Constant) else None
                if isinstance(text, str) and " " in text.strip() and id(node) not in documented:
                    named |= set(re.findall(r"--[a-z][a-z-]*", text))
    assert named <= KNOWN


def test_smaller_scales_are_not_advised_where_they_may_be_refused(tmp_path: Path) -> None:
    data = tmp_path / "huge.npz"
    np.savez(data, X=np.arange(1.0, 9.0).reshape(2, 2, 2) * 1e99, y=np.ones((2, 2)))
    huge = Config("full-gd", statement="run", init="normal", scales="1,1,1e30,1e30", data=str(data))
    with pytest.raises(GdconvError, match="rescale the data or the weights") as caught:
        prepare(huge)
    assert "--scales" not in str(caught.value)
