"""From options to verdict: resolution, both engines, bad input, saved witnesses."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import KERNELS

import gdconv
from gdconv.checks.steps import StepSizes
from gdconv.support.config import Config
from gdconv.support.errors import DivergenceError, GdconvError, InputError

SMALL: dict[str, Any] = {
    "data": "gaussian",
    "samples": 2,
    "tokens": 2,
    "embedding": 8,
    "head_dim": 4,
    "heads": 2,
}


@pytest.mark.parametrize("kernel", KERNELS)
def test_engines_agree(kernel: str) -> None:
    options = {
        **SMALL,
        "kernel": kernel,
        "init": "normal",
        "scales": "1,1,1,2",
        "step": "local",
        "steps": 300,
        "seeds": 3,
    }
    fused, plain = (gdconv.check("full-gd", **options, engine=e) for e in ("fused", "torch"))
    assert np.array_equal(fused.trace["step"], plain.trace["step"])
    visible = fused.trace["loss_ratio"] > 1e-12  # below, the last bits of the residual differ
    for column in ("loss", "grad_norm"):
        assert np.allclose(
            fused.trace[column][visible], plain.trace[column][visible], rtol=1e-6, atol=0
        )
    assert list(fused.verdicts["verdict"]) == list(plain.verdicts["verdict"])
    assert np.allclose(fused.starts["W_K_last"], plain.starts["W_K_last"], rtol=1e-7, atol=1e-9)
    # two enclosures of the same numbers overlap
    assert (fused.trace["sigma_min_lo"] <= plain.trace["sigma_min_hi"] * (1 + 1e-9)).all()
    assert (plain.trace["sigma_min_lo"] <= fused.trace["sigma_min_hi"] * (1 + 1e-9)).all()


def test_same_options_same_numbers() -> None:
    first, second = (gdconv.check("full-gd", **SMALL, steps=50) for _ in range(2))
    assert first.trace.equals(second.trace)
    assert first.verdicts.equals(second.verdicts)


def test_local_step_is_halved_until_nothing_rises() -> None:
    check = gdconv.check("full-gd", statement="run", **SMALL, scales="3,3,3,30", steps=400, seed=2)
    halved = [m for m in check.messages if "half the step" in m]
    assert (check.runs["rises"] == 0).all()
    eta = 0.5 / gdconv_jacobian_norm(check) ** 2
    assert check.runs["step"].iloc[0] == pytest.approx(eta / 2 ** len(halved), rel=1e-6)


def gdconv_jacobian_norm(check: Any) -> float:
    """|J_0| of the first run, by plain SVD."""
    from samples import model

    from gdconv.data.problem import Problem
    from gdconv.models.multihead.parameters import Parameters

    problem = Problem.from_arrays(check.starts["X"], check.starts["y"])
    params = Parameters.from_arrays({b: check.starts[b] for b in ("W_Q", "W_K", "W_V", "W_O")})
    J = model(check.config["kernel"]).jacobian(problem, params)[0].numpy()
    return float(np.linalg.norm(J, 2))


def test_every_option_left_out_is_filled_from_the_statement() -> None:
    check = gdconv.check("full-gd", statement="run", steps=5)
    assert check.config["data"] == "digits"
    assert check.config["scales"] == "3,3,1,2"
    assert gdconv.check("full-gd", steps=5).config["init"] == "theorem"
    assert (
        gdconv.check("full-gd", statement="run", data="gaussian", heads=2, steps=5).config["heads"]
        == 2
    )


def test_saved_start_is_a_problem_of_its_own(tmp_path: Path) -> None:
    check = gdconv.check("full-gd", problem="stacked-aligned")
    witness = tmp_path / "witness.npz"
    np.savez(witness, **{k: check.starts[k] for k in ("X", "y", "W_Q", "W_K", "W_V", "W_O")})
    again = gdconv.check("full-gd", problem=str(witness), statement="stacked")
    assert again.verdict == "refuted"
    assert list(again.verdicts["first_violation"]) == list(check.verdicts["first_violation"])


def test_user_data_runs(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "mine.npz"
    np.savez(path, X=rng.standard_normal((3, 2, 6)), y=rng.standard_normal((3, 2, 2)))
    check = gdconv.check(
        "full-gd", data=str(path), kernel="gaussian", heads=2, head_dim=3, steps=500
    )
    assert check.starts["W_O"].shape == (1, 2, 3, 2)
    assert check.verdict in ("confirmed", "vacuous")


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"kernel": "relu"}, "kernel"),
        ({"step": "-1"}, "step"),
        ({"step": "fast"}, "step"),
        ({"step": "nan"}, "step"),
        ({"samples": 0}, "samples"),
        ({"seeds": 0}, "seeds"),
        ({"seed": -1}, "seed"),
        ({"init": "xavier"}, "init"),
        ({"data": "mnist"}, "data"),
        ({"data": "missing.npz"}, "data"),
        ({"problem": "unknown"}, "problem"),
        ({"statement": "best"}, "statement"),
        ({"scales": "1,2"}, "scales"),
        ({"device": "abacus"}, "device"),
        ({"dtype": "float16"}, "dtype"),
        ({"engine": "fused", "dtype": "float32"}, "engine"),
        ({"margin": 0.5}, "margin"),
        ({"until_loss": 2.0}, "until_loss"),
        ({"colour": "blue"}, "colour"),
        ({"heads": 1, "samples": 5, "embedding": 2, "data": "gaussian"}, "init"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        gdconv.check("full-gd", **options)
    assert caught.value.field == field
    assert "\n" not in str(caught.value)


def test_unknown_theorem_is_named() -> None:
    with pytest.raises(InputError, match="theorem = full-dg: did you mean full-gd; choose one of"):
        gdconv.check("full-dg")


@pytest.mark.parametrize("engine", ["fused", "torch"])
@pytest.mark.parametrize("step", ["1e6", "1e300"])
def test_divergence_is_one_sentence(engine: str, step: str) -> None:
    with pytest.raises(DivergenceError, match="diverged at step") as caught:
        gdconv.check("full-gd", **SMALL, init="normal", step=step, engine=engine, seed=3)
    assert isinstance(caught.value, GdconvError)
    assert "local" in str(caught.value)
    assert (caught.value.run, caught.value.seed) == (0, 3)
    assert caught.value.step == 1  # the iterate at which it was noticed, not the one before
    assert caught.value.loss > 0


@pytest.mark.parametrize("engine", ["fused", "torch"])
def test_divergence_names_the_run_and_keeps_what_was_finished(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gdconv.checks import run as checks

    chosen = checks.step_sizes

    def third_is_too_long(setting: Any) -> Any:
        sizes = chosen(setting)
        sizes.eta[2] *= 1e9
        return replace(sizes, rule="number")

    monkeypatch.setattr(checks, "step_sizes", third_is_too_long)
    with pytest.raises(DivergenceError, match=r"run 2 \(seed 7\) diverged") as caught:
        gdconv.check("full-gd", **SMALL, init="normal", steps=20, seeds=4, seed=5, engine=engine)
    kept = caught.value.check
    assert caught.value.total == 4
    if engine == "torch":  # one batch: they advance together, none is finished
        assert kept is None
        return
    assert list(kept.runs["seed"]) == [5, 6]
    assert kept.config["seeds"] == 2


@pytest.mark.parametrize("engine", ["fused", "torch"])
@pytest.mark.parametrize("factor", [1e9, 1e200])
def test_a_local_step_that_overflows_is_halved_like_one_that_rises(
    engine: str, factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gdconv.checks import run as checks

    chosen = checks.step_sizes
    monkeypatch.setattr(checks, "MOST_HALVINGS", 2000)
    monkeypatch.setattr(
        checks, "step_sizes", lambda setting: StepSizes(chosen(setting).eta * factor, "local")
    )
    check = gdconv.check("full-gd", **SMALL, init="normal", steps=20, engine=engine)
    assert check.runs["loss_ratio_last"].iloc[0] < 1
    assert any("half the step" in message for message in check.messages)


@pytest.mark.parametrize(
    "config",
    [
        {"foo": 1},
        {"steps": "x"},
        {"kernel": "cubic"},
        {"dtype": 3},
        {"theorem": "nosuch"},
        {"statement": "nosuch"},
        "text",
        None,
    ],
)
def test_replay_refuses_options_that_are_none(config: Any) -> None:
    from gdconv.checks.replay import replay

    saved = gdconv.check("full-gd", problem="stacked-witness", steps=3)
    saved.config = {**saved.config, **config} if isinstance(config, dict) else config
    if isinstance(config, dict) and "theorem" in config:
        saved.theorem = config["theorem"]
    with pytest.raises(InputError):
        replay(saved)


def test_replay_refuses_arrays_that_do_not_fit() -> None:
    from gdconv.checks.replay import replay

    saved = gdconv.check("full-gd", problem="stacked-witness", steps=3)
    saved.starts["W_Q"] = saved.starts["W_Q"][:, :, :, :0]
    with pytest.raises(InputError, match="^W_Q = "):
        replay(saved)


def test_config_ignores_presentation() -> None:
    assert (
        Config("full-gd", out="x", quiet=True, json=True).canonical()
        == Config("full-gd").canonical()
    )


def test_zero_loss_at_the_start_is_bad_input() -> None:
    with pytest.raises(InputError, match="loss of zero"):
        gdconv.check("full-gd", problem=str(_zero_loss()))


def _zero_loss() -> Path:
    import tempfile

    path = Path(tempfile.mkdtemp()) / "zero.npz"
    zero = np.zeros((1, 2, 1))
    np.savez(
        path,
        X=np.ones((1, 1, 2)),
        y=np.zeros((1, 1)),
        W_Q=zero,
        W_K=zero,
        W_V=zero,
        W_O=np.ones((1, 1, 1)),
    )
    return path


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"out": "x"}, "call .save"),
        ({"out": Path("runs")}, "call .save"),
        ({"json": True}, "call .to_json"),
        ({"quiet": True}, "nothing is printed here"),
    ],
)
@pytest.mark.parametrize("theorem", ["full-gd", "attention-hessian"])
def test_what_only_the_command_line_reads_is_refused(
    theorem: str, options: dict[str, Any], remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gdconv.checks.run.run", pytest.fail)
    (name,) = options
    with pytest.raises(InputError, match=f"^{name} = .*leave it out.*{re.escape(remedy)}"):
        gdconv.check(theorem, **options)


def test_a_default_that_says_nothing_is_welcome() -> None:
    made = gdconv.check("full-gd", problem="stacked-witness", out=None, json=False)
    assert made.verdict == "refuted"
