"""The compiled probes of the encoder against torch's and against autograd."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples_encoder import case, shapes

from gdconv.models.encoder.parameters import BLOCKS
from gdconv.models.encoder.probes import probe
from gdconv.models.encoder.step import EncoderStep, take
from gdconv.models.probes import Probe

NUMBERS = [f.name for f in fields(Probe) if f.name != "gradient"]


@pytest.mark.parametrize("name", ["relu", "gelu", "silu"])
@given(shape=shapes, seed=st.integers(0, 10**6), runs=st.integers(1, 2))
@settings(max_examples=20, deadline=None)
def test_the_numbers_are_those_of_torch(
    name: str, shape: tuple[int, ...], seed: int, runs: int
) -> None:
    model, problem, params = case(shape, name, seed, runs)
    trained = BLOCKS[seed % 4 :]
    wanted = probe(model, problem, params, trained)
    at, *_ = take(model, problem, params, trained)
    assert isinstance(at, EncoderStep)
    found = probe(model, problem, params, trained, at)
    for number in NUMBERS:
        pair = getattr(found, number), getattr(wanted, number)
        np.testing.assert_allclose(*pair, rtol=1e-10, atol=1e-14)
    size = max(float(g.abs().max()) for g in wanted.gradient.blocks().values())
    for b in BLOCKS:
        apart = (getattr(found.gradient, b) - getattr(wanted.gradient, b)).abs().max()
        assert float(apart) <= 1e-12 * max(size, 1.0)


@pytest.mark.parametrize("name", ["relu", "gelu", "silu"])
def test_the_jacobian_is_that_of_autograd(name: str) -> None:
    model, problem, params = case((3, 3, 4, 6), name, 7)
    at, *_ = take(model, problem, params, BLOCKS)

    def outputs(*blocks: torch.Tensor) -> torch.Tensor:
        there = params.with_blocks(dict(zip(BLOCKS, blocks, strict=True)))
        return model.forward(problem, there).residual[0]

    rows = torch.autograd.functional.jacobian(outputs, tuple(params.blocks().values()))
    for b, J in zip(BLOCKS, (J.flatten(1) for J in rows), strict=True):
        found = probe(model, problem, params, (b,), at)
        assert found.jacobian_norm[0] == pytest.approx(float(J.norm()), rel=1e-12)
        pulled = getattr(found.gradient, b).flatten()
        assert torch.allclose(pulled, J.mT @ at.residual[0], rtol=1e-11, atol=1e-12)


def test_slopes_are_taken_at_the_preactivations_of_the_pass() -> None:
    """A neuron whose sign is a matter of rounding must not count as a defect of the gradient."""
    model, problem, params = case((2, 2, 3, 4), "relu", 0)
    at, *_ = take(model, problem, params, BLOCKS)
    before = probe(model, problem, params, BLOCKS, at).gradient.W_V.clone()
    at.pre[0, 0, 0, 0] *= -1.0
    after = probe(model, problem, params, BLOCKS, at).gradient.W_V
    assert not torch.allclose(before[0, 0], after[0, 0])
    assert torch.equal(before[0, 1:], after[0, 1:])
