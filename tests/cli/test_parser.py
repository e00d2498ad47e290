"""The command line's words become values or one sentence, whatever stands behind an option."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from gdconv.cli import main as cli
from gdconv.cli.parser import Parser, add_config_options, config_options, dashed
from gdconv.support.config import Config
from gdconv.support.errors import GdconvError, InputError

OPTIONS = [f"--{f.name.replace('_', '-')}" for f in fields(Config) if f.name != "theorem"]
FLAGS = {f"--{f.name}" for f in fields(Config) if f.type == "bool"} - {"--theorem"}
ODD = (
    *("--", "-", "---", "=", "", " ", "-1", "1e400", "nan", "-inf", "0x10", "1_0", "\u0661\u0662"),
    *("\u00b2", "\u00bd", "1" * 5000, "a" * 5000, "a\nb", "\x1b[31m", "\x00", "\ud800", "%s", "@x"),
    *("true", "None", "[]", "{}", "1,2", "--seeds", "--nothing", "/dev/full", "/dev/null/x"),
)
"""What a shell, a script or a slip puts behind an option."""


PARSER = Parser(prog="p")
add_config_options(PARSER)


def read(*words: str) -> Config:
    found = vars(PARSER.parse_args(dashed(["full-gd", *words])))
    return Config(found["theorem"], **config_options(found)).validate()


@pytest.mark.parametrize("option", OPTIONS)
def test_odd_values_are_a_value_or_one_sentence(option: str) -> None:
    for value in ODD:
        for words in ([f"{option}={value}"], [option, value], [option], [option, value, value]):
            try:
                read(*words)
            except GdconvError as error:
                said = str(error)
                assert len(said.splitlines()) == 1, words
                assert said.endswith("."), words
                assert said.isprintable(), words


@pytest.mark.parametrize("option", sorted(set(OPTIONS) - FLAGS - {"--json", "--quiet"}))
def test_the_end_of_options_is_no_value(option: str) -> None:
    field = option.strip("-").replace("-", "_")
    with pytest.raises(InputError, match=f"^{field} = --: give another value"):
        read(f"{option}=--")


@pytest.mark.parametrize("words", [["table", "--format=--"], ["list", "--json=--"],
                                   ["replay", "x", "--quiet=--"],
                                   ["check", "full-gd", "--seeds=--"],
                                   ["check", "full-gd", "--head_dim=--"]])  # fmt: skip
def test_the_end_of_options_is_no_value_in_any_command(words: list[str], capsys: Any) -> None:
    assert cli.main(words) == 2
    assert " = --: give another value" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (["--seeds", "2", "--seeds", "3"], "seeds"),
        (["--step=0.1", "--step", "local"], "step"),
        (["--head-dim", "2", "--head_dim", "3"], "head_dim"),
        (["--out", "a", "--out", "b"], "out"),
        (["--kernel", "softmax", "--seed", "1", "--kernel", "gaussian"], "kernel"),
    ],
)
def test_a_second_value_is_not_dropped_silently(words: list[str], field: str) -> None:
    with pytest.raises(InputError, match=f"^{field} = .*: give it once: .* stands before it"):
        read(*words)


def test_the_same_value_twice_is_no_contradiction() -> None:
    assert read("--seeds", "2", "--seeds=2", "--json", "--json").seeds == 2


@pytest.mark.parametrize(
    ("value", "number"), [("10", 10), ("1_0", 10), (" 7 ", 7), ("\u0661\u0662", 12)]
)
def test_whole_numbers_as_python_reads_them(value: str, number: int) -> None:
    assert read("--steps", value).steps == number


@pytest.mark.parametrize("value", ["0x10", "1e3", "nan", "1e400", "2.0", "\u00b2", "1" * 5000, ""])
def test_what_is_no_whole_number_is_said(value: str) -> None:
    with pytest.raises(InputError, match=r"^steps = .*: give a whole number"):
        read("--steps", value)


@pytest.mark.parametrize(
    "option", ["--margin", "--label-norm", "--until-loss", "--step", "--tau-1"]
)
@pytest.mark.parametrize("value", ["nan", "1e400", "-1e400", "inf", "-0.0", "0x1p3"])
def test_numbers_without_a_meaning_are_refused(option: str, value: str) -> None:
    with pytest.raises(InputError, match=f"^{option.strip('-').replace('-', '_')} = "):
        read(option, value)
