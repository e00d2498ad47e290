"""The command when streams, runs or the user break off: codes, what is kept, one sentence."""

from __future__ import annotations

import io
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr

import pytest
from commands import FAST, run
from fuzz import forked

from gdconv.checks import store
from gdconv.checks.result import load
from gdconv.cli import main as cli
from gdconv.support.errors import DivergenceError


@pytest.mark.parametrize(
    ("redirection", "code", "message"),
    [
        (">/dev/full", 2, "gdconv: standard output = No space left on device"),
        ("2>&-", 1, ""),
        (">/dev/null 2>/dev/full", 1, ""),
        (">&-", 1, ""),
    ],
)
def test_streams_that_take_nothing(redirection, code, message):
    if "full" in redirection and not os.path.exists("/dev/full"):
        redirection, code, message = ">/dev/null", 1, ""
    command = f"{sys.executable} -m gdconv {' '.join(FAST)} {redirection}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert done.stderr.startswith(message)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/null", ">&- 2>&-"])
def test_bad_input_keeps_its_code_without_a_place_to_say_it(redirection):
    command = f"{sys.executable} -m gdconv check full-gd --steps x {redirection}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")


def test_a_terminal_without_greek_gets_codes():
    done = run(*FAST, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 1
    assert "\\u03b7 = " in done.stdout


@pytest.mark.parametrize("error", [RuntimeError("odd\nthing"), MemoryError(), KeyError("x")])
def test_what_nobody_foresaw_is_a_sentence_and_code_2(error, monkeypatch, capsys):
    def fail(*_):
        raise error

    monkeypatch.setattr("gdconv.checks.run.run", fail)
    assert cli.main(FAST) == 2
    shown = capsys.readouterr()
    assert len(shown.err.splitlines()) == 1
    assert ("out of memory" if isinstance(error, MemoryError) else "please report") in shown.err
    monkeypatch.setenv("GDCONV_DEBUG", "1")
    assert cli.main(FAST) == 2
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_that_a_library_makes_another_error_of(monkeypatch, capsys):
    def fail(*_):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise ImportError("half a library") from None

    monkeypatch.setattr("gdconv.checks.run.run", fail)
    assert cli.main(FAST) == 130
    assert capsys.readouterr().err == "gdconv: interrupted; nothing was saved\n"


def test_a_reader_that_leaves_is_no_error(saved):
    command = f"{sys.executable} -m gdconv table {saved} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_interrupting_saves_nothing_half_done(saved):
    words = ["check", "full-gd", "--statement", "run", "--steps", "20000000", "--step", "1e-9"]
    command = [sys.executable, "-m", "gdconv", *words, "--out", str(saved.parent)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        time.sleep(8)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()  # a run of hours must not outlive a test that failed
    assert process.returncode == 130, err
    assert out == ""
    assert "interrupted" in err
    assert "Traceback" not in err
    assert os.listdir(saved.parent) == [saved.name]


def test_interrupting_keeps_the_finished_seeds(tmp_path, monkeypatch, capsys):
    from gdconv.checks import run as checks

    descend = checks._descend_batch

    def second_is_interrupted(setting, runs, *rest):
        if runs == [1]:
            raise KeyboardInterrupt
        return descend(setting, runs, *rest)

    monkeypatch.setattr(checks, "_descend_batch", second_is_interrupted)
    words = ["check", "full-gd", "--seeds", "3", "--out", str(tmp_path)]
    assert cli.main(words) == 130
    assert "1 of 3 runs were finished; they are saved in" in capsys.readouterr().err
    monkeypatch.undo()
    assert cli.main(["check", "full-gd", "--seeds", "1", "--out", str(tmp_path)]) == 0
    assert "complete already" in capsys.readouterr().err  # the same folder, not run again


def test_divergence_keeps_the_finished_seeds(tmp_path, monkeypatch, capsys):
    from gdconv.checks import run as checks

    descend = checks._descend_batch

    def second_diverges(setting, runs, *rest):
        if runs == [1]:
            raise DivergenceError(1, 0.1, 4, 1e20, seed=1)
        return descend(setting, runs, *rest)

    monkeypatch.setattr(checks, "_descend_batch", second_diverges)
    words = ["check", "full-gd", "--seeds", "3", "--out", str(tmp_path)]
    assert cli.main(words) == 2
    shown = capsys.readouterr().err
    assert "run 1 (seed 1) diverged" in shown
    assert "1 of 3 runs were finished; they are saved in" in shown
    assert len(shown.splitlines()) == 1
    (folder,) = store.find_runs(tmp_path)
    assert list(load(folder).runs["seed"]) == [0]


def test_an_interrupt_while_judging_or_saving_loses_nothing(tmp_path, monkeypatch, capsys):
    from gdconv.checks import run as checks

    finish = checks.collect

    def pressed_meanwhile(*words):
        signal.raise_signal(signal.SIGINT)
        return finish(*words)

    monkeypatch.setattr(checks, "collect", pressed_meanwhile)
    assert cli.main([*FAST, "--out", str(tmp_path)]) == 130
    assert "1 of 1 runs were finished; they are saved in" in capsys.readouterr().err
    assert len(store.find_runs(tmp_path)) == 1


@pytest.mark.parametrize("delay", [0.1, 0.5, 1.0])
def test_an_interrupt_while_libraries_load_is_a_sentence(delay, tmp_path):
    words = ["check", "full-gd", "--seeds", "50", "--out", str(tmp_path / "new")]
    code = f"from gdconv.cli.main import main; print(flush=True); raise SystemExit(main({words}))"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.readline()  # it has begun; torch takes about two seconds from here
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        shown = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert shown.startswith("gdconv: interrupted; ")
    assert not (tmp_path / "new").exists() or store.find_runs(tmp_path / "new")


def test_an_empty_interrupt_still_says_something(monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("gdconv.checks.prepare.prepare", stop)
    assert cli.main(FAST) == 130
    assert capsys.readouterr().err == "gdconv: interrupted; nothing was saved\n"


@pytest.mark.parametrize("most", [100, 5_000, 20_000])
def test_files_that_may_not_grow_are_a_sentence(most, tmp_path):
    assert cli.main([*FAST, "--json"]) == 1  # what numba keeps is written before

    def limited():
        sys.dont_write_bytecode = True  # Python would put a file cut short in its place
        said, free = io.StringIO(), resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, free[1]))
        with redirect_stderr(said):
            code = cli.main([*FAST, "--out", str(tmp_path / "runs")])
        resource.setrlimit(resource.RLIMIT_FSIZE, free)  # the log of the fork is a file too
        print(said.getvalue())
        return code

    done = forked.run(limited)
    assert (done.code, done.fault) == (2, "")
    assert "choose a folder that can be written (File too large)" in done.output
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("code", [28, 27, 122, 5])  # disk full, file too large, quota, damaged disk
def test_a_disk_that_takes_no_more_is_a_sentence(code, tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(code, os.strerror(code))

    for writer in ("pandas.DataFrame.to_csv", "numpy.savez_compressed", "pathlib.Path.write_text",
                   "matplotlib.figure.Figure.savefig"):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(writer, full)
            assert cli.main([*FAST, "--out", str(tmp_path / "runs")]) == 2
        said = capsys.readouterr().err
        assert said.startswith("gdconv: out = ")
        assert os.strerror(code) in said
        assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("where", ["gdconv.report.summary.summary", "gdconv.cli.main._report"])
@pytest.mark.parametrize("again", [False, True])
def test_an_interrupt_after_saving_says_where_it_is(where, again, tmp_path, monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    words = [*FAST, "--out", str(tmp_path)]
    if again:  # a run that is read
        assert cli.main(words) == 1
        capsys.readouterr()
    monkeypatch.setattr(where, stop)
    assert cli.main(words) == 130
    (folder,) = store.find_runs(tmp_path)
    assert f"interrupted; the run is saved in {folder}\n" in capsys.readouterr().err


def test_an_interrupt_that_comes_twice_while_saving_is_told_truly(tmp_path, monkeypatch, capsys):
    from gdconv.checks import run as checks

    save = checks.Check.save

    def saved_and_pressed(check, directory):
        save(check, directory)
        raise KeyboardInterrupt

    monkeypatch.setattr(checks.Check, "save", saved_and_pressed)
    assert cli.main([*FAST, "--out", str(tmp_path)]) == 130
    assert f"the run is saved in {store.find_runs(tmp_path)[0]}" in capsys.readouterr().err


def test_an_interrupt_before_saving_still_says_that_nothing_was(tmp_path, monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("gdconv.checks.result.Check.save", stop)
    assert cli.main([*FAST, "--out", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "gdconv: interrupted; nothing was saved\n"
