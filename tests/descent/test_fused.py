"""What the compiled engine says of a record, against the engine of any model."""

from __future__ import annotations

import numpy as np
import pytest
from samples import KERNELS, draw, model

from gdconv.compiled.ledger import POSTERIOR
from gdconv.descent.engine import Engine
from gdconv.descent.fused import FusedEngine
from gdconv.descent.plan import Bound, Plan
from gdconv.models.multihead.parameters import BLOCKS
from gdconv.models.multihead.probes import in_torch


def made(kernel: str, trained: tuple[str, ...], steps: int = 5) -> FusedEngine:
    """Two runs some steps after their start."""
    problem, params = draw((3, 2, 4, 3, 2, 2), 4, runs=2)
    plan = Plan(
        eta=np.array([2e-2, 1e-2]), limits=np.array([50, 50]),
        bounds=[{"product": Bound(POSTERIOR)}] * 2, o_squared=np.ones(2),
        jacobian_drift=np.zeros(2), trained=trained,
    )  # fmt: skip
    engine = FusedEngine(model(kernel), problem, params, plan)
    engine.advance(steps)
    return engine


@pytest.mark.parametrize("trained", [BLOCKS, ("W_Q",), ("W_K", "W_V")])
@pytest.mark.parametrize("kernel", KERNELS)
def test_it_says_what_any_engine_would(kernel: str, trained: tuple[str, ...]) -> None:
    engine = made(kernel, trained)
    general = in_torch(engine.model, engine.problem, engine.parameters(), trained)
    probed = engine.probe()
    for r, slopes in enumerate(probed.gradient):
        for b, slope in zip(BLOCKS, slopes, strict=True):
            wanted = getattr(general.gradient, b)[r].numpy()
            np.testing.assert_allclose(slope, wanted, rtol=1e-9, atol=1e-14)
    moved = Engine.distances(engine)
    assert engine.distances().keys() == moved.keys()
    for name, value in engine.distances().items():
        np.testing.assert_allclose(value, moved[name], rtol=1e-12, atol=0.0)
    assert (moved["distance"] > 1e-3).all()
    wanted, allowed = engine.expected(probed)
    whole, limits = Engine.expected(engine, general)
    np.testing.assert_allclose(allowed, limits, rtol=1e-9)
    for r, blocks in enumerate(wanted):
        for b, block in zip(BLOCKS, blocks, strict=True):
            np.testing.assert_allclose(block, whole.blocks()[b][r].numpy(), rtol=0, atol=1e-13)
    away = engine.missed(wanted)
    np.testing.assert_allclose(away, Engine.missed(engine, whole), rtol=1e-9)
    engine.advance(6)
    assert (engine.missed(wanted) <= allowed).all()
    assert (away > 1e3 * allowed).all()


def test_a_step_of_another_length_is_seen() -> None:
    engine = made("softmax", BLOCKS)
    wanted, allowed = engine.expected(engine.probe())
    for led in engine.ledgers:
        led["eta"] *= 1 + 1e-9
    engine.advance(6)
    assert (engine.missed(wanted) > allowed).all()


def test_what_is_expected_does_not_move_with_the_run() -> None:
    """A frozen block as well is compared with what it was, not with itself."""
    engine = made("softmax", ("W_Q",))
    wanted, allowed = engine.expected(engine.probe())
    engine.advance(6)
    engine.runs[0].W_V[0, 0, 0] += 1.0
    assert engine.missed(wanted)[1] <= allowed[1]
    assert engine.missed(wanted)[0] == pytest.approx(1.0)
