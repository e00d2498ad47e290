"""Planted faults: each must turn a verdict (the negative controls of the whole pipeline)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import gdconv
from gdconv.gallery.full_gd import FullGD
from gdconv.models.multihead.attention_kernels import Gaussian, Softmax
from gdconv.models.multihead.point import MultiHeadPoint
from gdconv.rigor.spectrum import enclose_sigma_min
from gdconv.theory.theorem import Prediction

ALIGNED = {"problem": "stacked-aligned", "statement": "per-head", "seed": 1}


def verdicts(**options: Any) -> dict[str, str]:
    """Verdict of every statement."""
    check = gdconv.check("full-gd", **options)
    return dict(zip(check.verdicts["statement"], check.verdicts["verdict"], strict=True))


@pytest.fixture(scope="module")
def sound() -> dict[str, str]:
    """The same run without a fault."""
    return verdicts(**ALIGNED)


def test_without_a_fault(sound: dict[str, str]) -> None:
    assert sound == {
        "stacked": "refuted",
        "per-head": "confirmed",
        "block-free": "confirmed",
        "kernel": "confirmed",
        "run": "confirmed",
    }
    assert verdicts(**ALIGNED, engine="torch") == sound


@pytest.mark.parametrize("kernel", [Softmax, Gaussian])
def test_wrong_gradient(kernel: type, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {
        "kernel": kernel.name, "engine": "torch", "init": "normal", "scales": "1,1,1,2",
        "data": "gaussian", "samples": 2, "tokens": 2, "embedding": 8, "head_dim": 4, "heads": 4,
        "statement": "run", "steps": 3_000, "until_loss": 1e-11,
    }  # fmt: skip
    before = verdicts(**options)
    pullback = kernel.pullback

    def flipped(self: Any, *args: Any) -> Any:
        dq, dk = pullback(self, *args)
        return dq, -dk

    monkeypatch.setattr(kernel, "pullback", flipped)
    after = verdicts(**{**options, "steps": 300})
    assert before["run"] == "confirmed"
    assert after["run"] == "outside"


def test_wrong_value_gradient_in_a_lazy_run(
    monkeypatch: pytest.MonkeyPatch, sound: dict[str, str]
) -> None:
    from gdconv.models.multihead.model import MultiHeadRegression

    gradient = MultiHeadRegression.gradient

    def halved(self: Any, *args: Any) -> Any:
        at, grad = gradient(self, *args)
        return at, replace(grad, W_V=0.99 * grad.W_V)

    monkeypatch.setattr(MultiHeadRegression, "gradient", halved)
    after = verdicts(**ALIGNED, engine="torch")
    assert sound["per-head"] == "confirmed"
    assert after["per-head"] == "outside"


def planted(monkeypatch: pytest.MonkeyPatch, **change: Any) -> dict[str, str]:
    """Verdicts with Theorem A's prediction changed."""
    predict = FullGD.predict

    def changed(self: Any, s: Any, start: MultiHeadPoint, outcome: Any = None) -> Prediction:
        made = predict(self, s, start, outcome)
        if s.name != "per-head":
            return made
        eta = (made.max_step or 0.0) * (1 - 1e-9)
        return replace(made, **{k: v(made, eta) for k, v in change.items()})

    monkeypatch.setattr(FullGD, "predict", changed)
    return verdicts(**ALIGNED)


def test_rate_times_three(monkeypatch: pytest.MonkeyPatch) -> None:
    assert planted(monkeypatch, rate=lambda p, eta: 3 * p.rate_hi)["per-head"] == "refuted"


def test_bound_shifted_by_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    shifted = planted(monkeypatch, prefactor=lambda p, eta: 1 - eta * p.rate_hi)
    assert shifted["per-head"] == "refuted"


def test_sigma_min_of_the_transposed_features(
    monkeypatch: pytest.MonkeyPatch, sound: dict[str, str]
) -> None:
    transposed = property(lambda self: enclose_sigma_min(self.B.T))
    monkeypatch.setattr(MultiHeadPoint, "sigma_0", transposed)
    assert sound["per-head"] == "confirmed"
    assert verdicts(**ALIGNED)["per-head"] == "outside"


def test_float32_decides_nothing(sound: dict[str, str]) -> None:
    check = gdconv.check("full-gd", **ALIGNED, dtype="float32")
    assert check.level == "float32"
    assert check.verdict == "undecided" != sound["per-head"]


def test_torch_default_dtype_is_left_alone() -> None:
    assert torch.get_default_dtype() == torch.float32
