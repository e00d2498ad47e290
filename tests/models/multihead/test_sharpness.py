"""Sharpness along a run: against the dense Hessian, the descent lemma, the edge of stability."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from samples import KERNELS, draw, model

import gdconv
from gdconv.compiled.ledger import POSTERIOR
from gdconv.descent.loop import descend
from gdconv.descent.plan import Bound, Plan
from gdconv.descent.records import measured_steps, share
from gdconv.models.multihead.hessian import multihead_hessian
from gdconv.models.multihead.parameters import BLOCKS
from gdconv.models.multihead.sharpness import METHOD, Curvature, sharpest

RUN = {"statement": "run", "data": "digits", "samples": 4, "heads": 4, "steps": 1500}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("trained", [("W_Q",), ("W_Q", "W_K", "W_V")])
def test_lambda_max_is_estimated_within_its_residual(kernel: str, trained: tuple[str, ...]) -> None:
    for seed in range(4):
        problem, params = draw((2, 3, 4, 3, 2, 2), seed)
        dense = multihead_hessian(model(kernel), problem, params, trained)[0]
        true = float(torch.linalg.eigvalsh(dense)[-1])
        found, _ = sharpest(model(kernel), problem, params, trained)
        room = 1e-12 * abs(true)
        assert abs(found.value - true) <= found.error + room
        assert found.error < 1e-9 * abs(true)
        without = multihead_hessian(model(kernel), problem, params, trained, "outer")[0]
        other = float(torch.linalg.eigvalsh(without)[-1])  # negative control: J^T J is not it
        assert not abs(found.value - other) <= found.error + room


def test_a_run_hands_the_vector_from_record_to_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every record but the first starts where the last one of the same replica ended."""
    starts, ends = [], []
    greatest = Curvature.greatest

    def seen(self: Curvature, start: Any = None, mix: float = 1e-2) -> Any:
        found = greatest(self, start, mix)
        starts.append(start)
        ends.append(found[1])
        return found

    monkeypatch.setattr(Curvature, "greatest", seen)
    problem, params = draw((2, 2, 4, 3, 2, 1), 0, 0.5, runs=2)
    plan = Plan(
        np.array([1e-3, 2e-3]), np.array([20, 8]),
        [{"s": Bound(POSTERIOR)}, {"s": Bound(POSTERIOR)}], np.ones(2), np.zeros(2), sharpness=True,
    )  # fmt: skip
    outcomes = descend(model("softmax"), problem, params, plan)
    measured = [["lambda_max_hi" in row for row in o.rows] for o in outcomes]
    # as the records come: both replicas while both run, then the longer one alone
    order = [
        r for t in range(max(map(len, measured))) for r in range(2) if any(measured[r][t : t + 1])
    ]
    assert len(order) == len(starts) > 10
    assert 3 < order.count(1) < order.count(0)
    last: dict[int, Any] = {0: None, 1: None}
    for r, start, end in zip(order, starts, ends, strict=True):
        assert start is last[r]
        last[r] = end


def test_warm_and_cold_give_one_number() -> None:
    """Along a descent, and from the vector of another setting."""
    problem, params = draw((4, 3, 9, 4, 2, 1), 0, 0.5)
    other = sharpest(model("softmax"), *draw((4, 3, 9, 4, 2, 1), 1, 0.5), BLOCKS)[1]
    cold, _ = sharpest(model("softmax"), problem, params, BLOCKS)
    warm, _ = sharpest(model("softmax"), problem, params, BLOCKS, other)
    assert abs(warm.value - cold.value) <= warm.error + cold.error
    assert cold.method == warm.method == METHOD


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
