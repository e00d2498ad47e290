"""The command line with two models: what does not fit is one sentence and code 2."""

from __future__ import annotations

import numpy as np
import pytest

from gdconv.cli import main as cli


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("ntk-regime --data tests", "data = tests: no file train-labels-idx1-ubyte"),
        ("ntk-regime --kernel gaussian", "kernel = gaussian: give softmax"),
        ("full-gd --model encoder", "model = encoder: full-gd speaks of multihead"),
        ("full-gd --width 8", "width = 8: leave it out: the multihead model does not read it"),
        ("ntk-regime --model multihead --width 8", "width = 8: leave it out"),
        ("ntk-regime --model multihead --init theorem", "init = theorem: give "),
        ("ntk-regime --model multihead --statement relu-sharp", "statement = relu-sharp: choose"),
        ("ntk-regime --heads 2", "heads = 2: leave it out: the encoder model does not read it"),
        ("ntk-regime --tau-1 0", "tau_1 = 0.0: give a number above 0"),
        ("ntk-regime --tau-1 -1", "tau_1 = -1.0: give a number above 0"),
        ("ntk-regime --label-norm nan", "label_norm = nan: give a number above 0"),
        ("ntk-regime --problem stacked-witness", "problem = stacked-witness: "),
        ("ntk-regime --engine fused", "engine = fused: use --engine torch"),
        ("ntk-regime --init normal", "init = normal: "),
        ("ntk-regime --activation tanh", "activation = tanh: choose one of relu, gelu, silu"),
        ("ntk-regime --embedding 3", "embedding = 3: give at least N n = 4"),
        ("ntk-regime --width 10000000000", "GiB"),
        ("ntk-regime --label-norm 1e30", "step = "),
    ],
)
def test_one_sentence(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", *words.split(), "--steps", "3", "--quiet"]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert "unexpected" not in shown.err
    assert len(shown.err.splitlines()) == 1
    assert shown.out == ""


def test_a_file_for_the_other_model(tmp_path, capsys):
    path = tmp_path / "w.npz"
    weights = {b: np.ones((1, 4, 3)) for b in ("W_Q", "W_K", "W_V")}
    np.savez(path, X=np.ones((2, 2, 4)), y=np.ones((2, 2)), W_O=np.ones((1, 3, 1)), **weights)
    assert cli.main(["check", "ntk-regime", "--problem", str(path)]) == 2
    assert "but no w_O" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    ["--dtype float32", "--tau-1 1e-3 --step 1e-3", "--scaling sqrt --loss mean", "--width 1"],
)
def test_unusual_options_run(words, capsys):
    assert cli.main(["check", "ntk-regime", *words.split(), "--steps", "3", "--quiet"]) == 3
    assert "Traceback" not in capsys.readouterr().err
