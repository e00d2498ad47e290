"""The command line: exit codes, one sentence per error, one JSON object, light help."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest
from commands import FAST, run

from gdconv.checks import store
from gdconv.checks.result import load
from gdconv.cli import main as cli
from gdconv.cli.parser import config_options, field_texts
from gdconv.report.example import example_check
from gdconv.support.config import GLOBAL, Config


def test_every_option_of_config_is_documented_and_shown_by_those_who_read_it(capsys):
    assert field_texts().keys() == {f.name for f in fields(Config)}
    shown = {}
    for words in ([], ["full-gd"], ["ntk-regime"], ["generic-gd"]):
        assert cli.main(["check", *words, "--help"]) == 0
        shown[" ".join(words)] = capsys.readouterr().out
    for field in fields(Config):
        flag = f"--{field.name.replace('_', '-')} "
        everywhere = field.name in GLOBAL[1:]
        assert everywhere == (flag in shown[""].replace("\n", " ")), flag
        if field.name not in ("theorem", "own"):
            assert any(flag in text.replace("\n", " ") for text in shown.values()), flag
    assert "%%" not in "".join(shown.values())
    assert "gdconv check ID --help shows" in shown[""]


def test_options_keep_their_types():
    words = {"steps": "20", "margin": "1.5", "step": "0.1", "json": True}
    assert config_options(words) == {"steps": 20, "margin": 1.5, "step": "0.1", "json": True}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "COMMAND = nothing: see gdconv --help."),
        (["chekc"], "COMMAND = chekc: choose one of list, check, table, replay."),
        (["check"], "ID = nothing: see gdconv check --help."),
        (
            ["check", "full-gd", "--sampels", "3"],
            "option = --sampels: did you mean --samples; see gdconv check",
        ),
        (["check", "full-gd", "--samples", "x"], "samples = x: give a whole number."),
        (["check", "full-gd", "--samples", "2.5"], "samples = 2.5: give a whole number."),
        (["check", "full-gd", "--samples"], "samples = nothing: give a value after it."),
        (["check", "full-gd", "--samples", "0"], "samples = 0: give a whole number of at least 1."),
        (
            ["check", "full-gd", "--step", "-3"],
            "step = -3: give a positive number, theory or local.",
        ),
        (
            ["check", "full-gd", "--step", "quick"],
            "step = quick: give a positive number, theory or local.",
        ),
        (
            ["check", "full-gd", "--kernel", "cubic"],
            "kernel = cubic: choose one of softmax, gaussian.",
        ),
        (["check", "fermat"], "theorem = fermat: choose one of "),
        (["check", "full-gd", "--statement", "x"], "statement = x: choose one of "),
        (["check", "full-gd", "--problem", "x"], "problem = x: "),
        (["check", "full-gd", "--data", "/none.npz"], "data = /none.npz: "),
        (["check", "full-gd", "--out", "/dev/null/x"], "out = /dev/null/x: choose a folder"),
        (["table", "/nonexistent"], "folder = /nonexistent: give a folder that exists."),
        (
            ["table", "/", "--format", "html"],
            "format = html: choose one of text, csv, markdown, latex.",
        ),
        (["replay", "/"], "folder = /: give a folder that gdconv check --out wrote."),
        (["check", "full-gd", "--json=3"], "json = 3: give --json without a value."),
        (["check", "full-gd", ""], "option = '': see gdconv check --help"),
        (["check", "full-gd", "--problem", ""], "problem = '': give a value, or leave it out."),
        (["check", "full-gd", "--steps", ""], "steps = '': give a whole number."),
        (["check", ""], "theorem = '': give a value, or leave it out."),
        (["check", "full-gd", "--out", ""], "out = '': give the path of a folder."),
        ([""], "COMMAND = '': choose one of"),
        (["check", "full-gd", "--heads", "1" + "0" * 22], "make the problem smaller"),
        (["check", "full-gd", "--device", "meta"], "device = meta: give cpu, cuda, cuda:1 or mps."),
    ],
)
def test_bad_input_is_one_sentence_and_code_2(words, message, capsys):
    assert cli.main(words) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1
    assert message in shown.err


def test_a_diverging_step_is_bad_input_and_saves_nothing(tmp_path, capsys):
    words = [
        "check",
        "full-gd",
        "--data",
        "gaussian",
        "--init",
        "normal",
        "--step",
        "1e6",
        "--out",
        str(tmp_path),
    ]
    assert cli.main(words) == 2
    assert "diverged at step" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_a_changed_witness_is_not_served_from_the_old_run(tmp_path, capsys):
    from gdconv.checks.prepare import prepare

    arrays = prepare(Config("full-gd", problem="stacked-witness")).arrays
    words = ["check", "full-gd", "--problem", str(tmp_path / "w.npz"), "--out", str(tmp_path / "o")]
    for labels in (1.0, 7.0):
        np.savez(tmp_path / "w.npz", **(arrays | {"y": labels * arrays["y"]}))
        assert cli.main([*words, "--steps", "5"]) in (1, 3)
    assert "complete already" not in capsys.readouterr().err
    assert len(store.find_runs(tmp_path / "o")) == 2


def test_a_start_that_changed_under_the_same_options_runs_again(saved, capsys, monkeypatch):
    from gdconv.checks import prepare as setting

    def other(config):
        made = prepare(config)
        made.params.W_Q[:] = 0.25
        return made

    prepare = setting.prepare
    monkeypatch.setattr("gdconv.checks.prepare.prepare", other)
    assert cli.main([*FAST, "--out", str(saved.parent)]) in (1, 3)
    shown = capsys.readouterr()
    assert "complete already" not in shown.err
    folder = shown.out.split("saved in ")[1].split()[0]
    shutil.rmtree(folder)
    assert folder != str(saved)


def test_check_prints_both_sides_and_the_verdict(capsys):
    assert cli.main(FAST) == 1
    text = capsys.readouterr().out
    for part in (
        "source",
        "problem  stacked-witness",
        "hypotheses of stacked",
        "VERDICT stacked: refuted",
        "float64",
    ):
        assert part in text
    assert max(map(len, text.splitlines())) <= 112


def test_json_is_one_object_and_nothing_else():
    done = run(*FAST, "--json")
    assert done.returncode == 1
    made = json.loads(done.stdout, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert {
        "theorem",
        "verdict",
        "level",
        "statements",
        "runs",
        "config",
        "environment",
    } <= made.keys()
    names = {
        "name",
        "verdict",
        "rate",
        "step",
        "eta_rate",
        "worst_margin",
        "first_violation",
        "half_life",
        "tightness",
    }
    assert names | {"hypotheses"} <= made["statements"][0].keys()
    assert made["statements"][0]["hypotheses"][0].keys() == {
        "name",
        "lhs",
        "relation",
        "rhs",
        "margin",
        "holds",
        "level",
    }
    row = {
        "seed",
        "loss_first",
        "loss_last",
        "loss_ratio_last",
        "sigma_min_first",
        "sigma_min_least",
        "steps",
    }
    assert row <= made["runs"][0].keys()
    assert made["verdict"] == "refuted"


@pytest.mark.parametrize(
    ("verdict", "code"),
    [("confirmed", 0), ("refuted", 1), ("vacuous", 3), ("outside", 3), ("undecided", 3)],
)
def test_exit_codes(verdict, code, capsys):
    check = example_check(1)
    check.verdict = verdict
    check.verdicts["verdict"] = verdict
    assert cli._report(check, None, False, True) == code
    assert f"VERDICT per-head: {verdict}" in capsys.readouterr().out


def test_a_saved_check_is_read_and_not_run_again(saved, capsys, monkeypatch):
    monkeypatch.setattr("gdconv.checks.run.run", lambda *_: pytest.fail("it ran again"))
    assert cli.main([*FAST, "--out", str(saved.parent)]) == 1
    shown = capsys.readouterr()
    assert "read, not run again" in shown.err
    assert f"saved in {saved}" in shown.out


def test_library_and_command_save_under_the_same_name(saved, tmp_path):
    import gdconv

    assert gdconv.check("full-gd", problem="stacked-witness").save(tmp_path).name == saved.name


def test_table_in_every_format(saved, capsys):
    for format, mark in (
        ("text", "first"),
        ("markdown", "| :--- |"),
        ("latex", r"\toprule"),
        ("csv", "folder,theorem,"),
    ):
        assert cli.main(["table", str(saved), "--format", format]) == 0
        assert mark in capsys.readouterr().out
    assert cli.main(["table", str(saved.parent), "--statement", "per-head"]) == 0
    assert "hypotheses of per-head" in capsys.readouterr().out
    assert cli.main(["table", str(saved), "--statement", "x"]) == 2
    assert "statement = x: choose one of" in capsys.readouterr().err


def test_replay_gives_the_same_violation(saved, capsys):
    assert cli.main(["replay", str(saved)]) == 1
    assert "same verdicts and first violations as saved" in capsys.readouterr().err


def test_replay_notices_a_difference(saved, capsys, monkeypatch):
    loaded = load(saved)
    loaded.verdicts.loc[0, "first_violation"] += 1
    monkeypatch.setattr("gdconv.checks.result.load", lambda _: loaded)
    assert cli.main(["replay", str(saved)]) == 3
    assert "stacked: first_violation was" in capsys.readouterr().err


def test_a_changed_run_is_refused(saved, tmp_path, capsys):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in saved.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    with (copy / "trace.csv").open("a") as stream:
        stream.write("0\n")
    for command in ("table", "replay"):
        assert cli.main([command, str(copy)]) == 2
        assert "trace.csv was changed after saving; run the check again" in capsys.readouterr().err


def test_list(capsys):
    assert cli.main(["list"]) == 0
    assert "full-gd: " in capsys.readouterr().out
    assert cli.main(["list", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert "per-head" in [
        s["name"] for t in made["theorems"] if t["id"] == "full-gd" for s in t["statements"]
    ]


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("gdconv ")


def test_the_theorem_file_takes_the_same_options():
    done = subprocess.run(
        [sys.executable, "-m", "theorems.full_gd", "--samples", "x"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (2, "gdconv: samples = x: give a whole number.\n")
