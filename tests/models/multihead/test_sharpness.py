"""Sharpness along a run: against the dense Hessian, the descent lemma, the edge of stability."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from samples import KERNELS, draw, model

import gdconv
from gdconv.descent.records import measured_steps, share
from gdconv.models.multihead.hessian import multihead_hessian
from gdconv.models.multihead.sharpness import sharpness

RUN = {"statement": "run", "data": "digits", "samples": 4, "heads": 4, "steps": 1500}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("trained", [("W_Q",), ("W_Q", "W_K", "W_V")])
def test_lambda_max_is_estimated_within_its_residual(kernel: str, trained: tuple[str, ...]) -> None:
    for seed in range(4):
        problem, params = draw((2, 3, 4, 3, 2, 2), seed)
        dense = multihead_hessian(model(kernel), problem, params, trained)[0]
        true = float(torch.linalg.eigvalsh(dense)[-1])
        found = sharpness(model(kernel), problem, params, trained)
        room = 1e-12 * abs(true)
        assert abs(found.value - true) <= found.error + room
        assert found.error < 5e-3 * abs(true)
        without = multihead_hessian(model(kernel), problem, params, trained, "outer")[0]
        other = float(torch.linalg.eigvalsh(without)[-1])  # negative control: J^T J is not it
        assert not abs(found.value - other) <= found.error + room


def test_products_and_the_matrix_give_one_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large models never make the matrix."""
    problem, params = draw((2, 3, 4, 3, 2, 2), 0)
    found = sharpness(model("softmax"), problem, params, ("W_Q", "W_V"))
    monkeypatch.setattr("gdconv.models.multihead.sharpness.MOST_DENSE", 0)
    monkeypatch.setattr("gdconv.models.multihead.sharpness.hessian", None)
    other = sharpness(model("softmax"), problem, params, ("W_Q", "W_V"))
    assert other.value == pytest.approx(found.value, rel=1e-9, abs=0)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_local_step_is_confirmed_and_shows_its_sharpness(kernel: str, tmp_path: Path) -> None:
    check = gdconv.check("full-gd", kernel=kernel, step="local", **RUN)
    assert check.verdict == "confirmed"
    seen = check.trace["eta_lambda_max"].dropna()
    assert 3 < len(seen) <= 45
    assert seen.iloc[0] <= 0.5 + 1e-6
    shares = check.trace["descent_share"].dropna()
    assert (shares >= 1 - 0.05).all()  # the descent lemma at a step of half of 1/L
    assert any(m.startswith("descent lemma: f_t - f_(t+1) is at least") for m in check.messages)
    assert len(check.plot(tmp_path / "figure").axes) == 3


def test_a_theory_sized_run_does_not_pay_for_it() -> None:
    check = gdconv.check("full-gd", problem="stacked-witness")
    assert "eta_lambda_max" not in check.trace
    assert len(check.plot().axes) == 2


def test_a_step_beyond_the_edge_catapults_below_it() -> None:
    """From eta lambda_max > 2 the loss rises until the sharpness has fallen below 2 / eta."""
    local = gdconv.check("full-gd", step="local", **RUN)
    eta = 4.1 * float(local.runs["step"].iloc[0])
    check = gdconv.check("full-gd", step=str(eta), sharpness=True, **RUN)
    seen = check.trace["eta_lambda_max"].dropna()
    assert seen.iloc[0] > 2
    assert check.runs["rises"].iloc[0] > 0
    assert seen.iloc[-1] < 2
    assert check.runs["loss_ratio_last"].iloc[0] < 1e-3
    assert check.verdict != "confirmed"


def test_share_and_steps() -> None:
    assert share(0.1, 1.0, 2.0, 1.0) != share(0.1, 1.0, 2.0, 1.0)  # nan at the edge
    assert np.isclose(share(0.75, 1.0, 0.5, 1.0), 1.0)
    records = list(range(0, 977, 3))
    chosen = measured_steps(records)
    assert {0, records[-1]} <= chosen <= set(records)
    assert len(chosen) <= 42
