"""The NTK regime: which statements speak where, and planted faults that each must notice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import gdconv
import gdconv.models.encoder.tangent
from gdconv.checks.prepare import prepare
from gdconv.gallery.ntk_regime.theorem import EASY, NTKRegime
from gdconv.models.encoder.model import ShallowEncoder
from gdconv.models.encoder.tangent import block_kernels

LAZY: dict[str, Any] = {
    "statement": "linearised", "samples": 2, "width": 256, "until_loss": 0.1, "steps": 50,
}  # fmt: skip


def verdicts(**options: Any) -> dict[str, str]:
    """Worst verdict of every statement."""
    check = gdconv.check("ntk-regime", **options)
    return {name: check.verdict_of(name) for name in check.verdicts["statement"].unique()}


@pytest.mark.parametrize(
    ("statement", "also", "sharper"),
    [
        ("relu-rigorous", "relu-sharp", 1),
        ("relu-sharp", "run", 2),
        ("smooth", "run", 1),
    ],
)
def test_easy_settings_confirm(statement: str, also: str, sharper: int) -> None:
    options = {"statement": statement, "until_bound": 0.89, "label_norm": 1e-4}
    options |= {"width": 64}
    check = gdconv.check("ntk-regime", **options)
    rows = check.verdicts[check.verdicts["statement"] == statement]
    assert (rows["verdict"] == "confirmed").all()
    assert (rows["bound_last"] < 0.9).all()
    assert check.verdict_of(also) == check.verdict_of("ladder") == "confirmed"
    # (1 - eta beta)^(p t), and the loss is close below it
    trace = check.trace[check.trace["run"] == 0]
    row, last = rows.iloc[0], trace.iloc[-1]
    expected = (1 - row["step"] * row["rate"]) ** (sharper * last["step"])
    assert last[f"bound[{statement}]"] == pytest.approx(expected, rel=1e-9)
    assert last["loss_ratio"] <= expected


def test_paper_needs_smaller_labels() -> None:
    assert (
        verdicts(statement="paper", until_bound=0.89, width=64, label_norm=1e-5)["paper"]
        == "confirmed"
    )
    assert verdicts(statement="relu-sharp", label_norm=10.0, steps=3)["paper"] == "outside"


@pytest.mark.parametrize("scaling", ["linear", "sqrt"])
@pytest.mark.parametrize("init", ["lecun", "he", "ntk"])
def test_ordinary_runs_are_outside_and_certified_from_the_run(init: str, scaling: str) -> None:
    check = gdconv.check(
        "ntk-regime", statement="run", init=init, scaling=scaling, width=128, samples=3,
        until_loss=1e-2, steps=500,
    )  # fmt: skip
    assert check.verdict == "confirmed"
    assert check.runs["loss_ratio_last"].iloc[0] <= 1e-2
    for statement in ("paper", "relu-rigorous", "relu-sharp"):
        assert check.verdict_of(statement) == "outside"
        failed = check.hypotheses.query("statement == @statement and holds == 'false'")
        assert len(failed) > 0
        assert failed["hypothesis"].str.contains("alpha|radii|delta").any()


def test_several_outputs_of_the_step_rule() -> None:
    """The step is the largest that all applicable statements admit; above it they are silent."""
    check = gdconv.check("ntk-regime", steps=2)
    rows = check.verdicts.set_index("statement")
    assert check.runs["step_rule"].iloc[0] == "theory"
    setting = prepare(gdconv.support.config.Config("ntk-regime"))
    limit = setting.predictions[0]["relu-rigorous"].max_step
    assert limit is not None
    assert rows.loc["relu-rigorous", "step"] <= limit
    above = gdconv.check("ntk-regime", steps=2, step=str(1.01 * limit))
    assert above.verdict == "outside"
    named = above.hypotheses.query("statement == 'relu-rigorous' and holds == 'false'")
    assert named["hypothesis"].tolist() == ["the step is small enough"]


def test_rates_and_steps_are_ordered() -> None:
    """The sharp statement allows more: larger steps, larger labels, the factor squared."""
    setting = prepare(gdconv.support.config.Config("ntk-regime", seeds=3))
    for made in setting.predictions:
        rigorous, sharp = made["relu-rigorous"], made["relu-sharp"]
        assert sharp.rate == rigorous.rate
        assert sharp.power == 2
        assert rigorous.max_step is not None
        assert sharp.max_step is not None
        assert sharp.max_step > rigorous.max_step
        assert all(h.holds for h in (*rigorous.hypotheses, *sharp.hypotheses))
    largest = {}
    for label_norm in (0.03, 0.3, 3.0):
        setting = prepare(gdconv.support.config.Config("ntk-regime", label_norm=label_norm))
        for name, made in setting.predictions[0].items():
            if all(h.holds for h in made.hypotheses):
                largest[name] = label_norm
    assert largest["relu-rigorous"] < largest["relu-sharp"]
    assert largest["paper"] <= largest["relu-rigorous"]


def test_duplicate_samples_are_not_confirmed() -> None:
    setting = prepare(gdconv.support.config.Config("ntk-regime"))
    X = setting.problem.X.clone()
    X[:, 1] = X[:, 0].flip(1)  # the same tokens in another order: the same output
    twice = replace(setting.problem, X=X)
    from gdconv.checks.prepare import assemble
    from gdconv.checks.run import run

    few = replace(setting.resolved, config=replace(setting.config, steps=5))
    check = run(assemble(few, twice, setting.params))
    assert check.verdict in ("outside", "undecided")
    assert check.verdict_of("relu-sharp") in ("outside", "undecided")


@pytest.fixture(scope="module")
def sound() -> dict[str, str]:
    """A lazy run without a fault."""
    return verdicts(**LAZY)


def test_a_lazy_run_is_confirmed(sound: dict[str, str]) -> None:
    assert sound["linearised"] == sound["ladder"] == sound["run"] == "confirmed"


@pytest.mark.parametrize("block", ["w_O", "W_V"])
def test_a_wrong_block_of_the_kernel_is_noticed(
    block: str, monkeypatch: pytest.MonkeyPatch, sound: dict[str, str]
) -> None:
    def wrong(*args: Any, **options: Any) -> dict[str, torch.Tensor]:
        made = block_kernels(*args, **options)
        return {b: K if b != block else 3.0 * K for b, K in made.items()}

    monkeypatch.setattr(gdconv.models.encoder.tangent, "block_kernels", wrong)
    assert sound["linearised"] == "confirmed"
    assert verdicts(**LAZY)["linearised"] == "refuted"


def test_a_kernel_with_a_sign_is_below_the_ladder(
    monkeypatch: pytest.MonkeyPatch, sound: dict[str, str]
) -> None:
    def wrong(*args: Any, **options: Any) -> dict[str, torch.Tensor]:
        made = block_kernels(*args, **options)
        return {b: K if b != "W_V" else -0.5 * K for b, K in made.items()}

    monkeypatch.setattr(gdconv.models.encoder.tangent, "block_kernels", wrong)
    after = verdicts(**LAZY)
    assert sound["ladder"] == "confirmed"
    assert after["ladder"] == "refuted"


def test_a_wrong_product_refutes_the_linearisation(
    monkeypatch: pytest.MonkeyPatch, sound: dict[str, str]
) -> None:
    product = ShallowEncoder.kernel_times
    monkeypatch.setattr(ShallowEncoder, "kernel_times", lambda *args: 0.9 * product(*args))
    assert sound["linearised"] == "confirmed"
    assert verdicts(**LAZY)["linearised"] == "refuted"


def test_a_wrong_gradient_confirms_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    step = ShallowEncoder.at_step

    def flipped(self: Any, *args: Any) -> Any:
        at, grad, steep = step(self, *args)
        return at, replace(grad, W_V=0.99 * grad.W_V), steep

    monkeypatch.setattr(ShallowEncoder, "at_step", flipped)
    after = verdicts(statement="run", width=64, samples=2, until_loss=1e-2, steps=300)
    assert after["run"] == "outside"


def test_a_rate_that_is_too_large_is_refuted(monkeypatch: pytest.MonkeyPatch) -> None:
    predict = NTKRegime.predict

    def changed(self: Any, s: Any, *args: Any) -> Any:
        made = predict(self, s, *args)
        return replace(made, rate=0.95 / 1e-4) if s.name == "relu-sharp" else made

    monkeypatch.setattr(NTKRegime, "predict", changed)
    assert verdicts(statement="relu-sharp", step="1e-4", steps=5)["relu-sharp"] == "refuted"


def test_float32_decides_nothing() -> None:
    after = verdicts(**LAZY, dtype="float32")
    assert set(after.values()) <= {"outside", "undecided", "vacuous"}


def test_the_multi_head_model_runs_too() -> None:
    check = gdconv.check(
        "ntk-regime", model="multihead", samples=1, heads=4, head_dim=4, data="gaussian",
        embedding=8, init="lecun", steps=20, step="theory",
    )  # fmt: skip
    assert list(check.verdicts["statement"]) == ["run", "linearised", "ladder"]
    assert check.verdict_of("ladder") == "confirmed"
    assert {"kernel_change", "linear_error", "lambda_min_lo"} <= set(check.trace.columns)


def test_the_settings_are_those_of_the_statement() -> None:
    config = prepare(gdconv.support.config.Config("ntk-regime")).config
    for name, value in EASY["*"].items():
        assert getattr(config, name) == value
    assert (config.model, config.kernel, config.statement) == (
        "encoder",
        "softmax",
        "relu-rigorous",
    )
