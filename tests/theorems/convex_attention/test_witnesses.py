"""Rational and ball witnesses against floating point: training, runs, torch models."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from convex_models import self_attention, simplex_attention
from hypothesis import given
from hypothesis import strategies as st

from gdconv.convex.group_lasso import token_program
from gdconv.convex.solvers.fast import solve
from gdconv.convex.solvers.first_order import accelerated_gradient, proximal_gradient
from gdconv.convex.training import train_heads
from gdconv.gallery.convex_attention.witnesses import (
    exactly,
    excesses,
    self_attention_at_signs,
    simplex_attention_at_signs,
    unit_tokens,
    worst,
)
from gdconv.rigor.rounding import Enclosure

targets = st.lists(st.integers(-3, 3), min_size=1, max_size=4).filter(any)


@given(y=targets, eighths=st.integers(1, 60))
def test_unit_tokens_is_the_convex_optimum_and_least_for_one_head(
    y: list[int], eighths: int
) -> None:
    beta = Fraction(eighths, 8)
    N = len(y)
    program = token_program(np.eye(N)[:, :, None], y, float(beta))
    box = solve(program, 1e-11).certificate.optimum
    assert box.lo - 1e-9 <= float(unit_tokens(tuple(y), beta, 2)) <= box.hi + 1e-9
    one = unit_tokens(tuple(y), beta, 1)
    assert one >= unit_tokens(tuple(y), beta, 2)
    w = np.linspace(0.0, 4.0, 41)  # one head by brute force: a w = x >= 0, of either sign
    parts = [min((x - s * t) ** 2 + float(beta) * x for x in w) for s in (1, -1) for t in y]
    assert min(sum(parts[:N]), sum(parts[N:])) == pytest.approx(float(one), abs=0.003 * N)


@pytest.mark.parametrize("y", [(1, -1), (1, -2, 3), (2, 1)])
def test_unit_tokens_is_what_training_reaches(y: tuple[int, ...]) -> None:
    program = token_program(np.eye(len(y))[:, :, None], [*y], 0.25)
    for h in (1, 2):
        found = train_heads(program, h, starts=8, steps=300).best
        assert found == pytest.approx(float(unit_tokens(y, Fraction(1, 4), h)), abs=1e-4)


@pytest.mark.parametrize("accelerated", [False, True])
@pytest.mark.parametrize(("eta", "allowed"), [(0.3, True), (0.5, True), (1.0, False)])
def test_excesses_follow_the_library(accelerated: bool, eta: float, allowed: bool) -> None:
    one = token_program([[[1.0]]], [1.0], 0.5)
    trace = (accelerated_gradient if accelerated else proximal_gradient)(one, 8, eta)
    ratios = (trace.objectives - 0.4375)[1:] / trace.bounds(np.full((1, 1, 1), 0.75))[1:]
    boxes = excesses(eta, 0.5, 8, accelerated)
    assert np.allclose([box.mid for box in boxes], ratios, rtol=1e-9, atol=1e-12)
    assert all(box.width <= 1e-14 * max(1.0, abs(box.mid)) for box in boxes)
    assert (worst(boxes).hi <= 1.0) == allowed
    assert (worst(boxes).lo > 1.0) != allowed


def test_attention_at_signs_is_that_of_the_models() -> None:
    draws = np.random.default_rng(0).standard_normal((3, 2, 4))
    X = torch.tensor([[[1.0], [-1.0]]], dtype=torch.float64)
    for weights, (value, total) in zip(draws, self_attention_at_signs(draws), strict=True):
        F = self_attention(X, *(torch.from_numpy(weights[:, [j], None]) for j in range(4)))
        expected = float((F - 1).square().sum()) + 0.5 * float(np.square(weights).sum())
        assert float(value) == pytest.approx(expected, rel=1e-12)
        assert total.contains(0)
    A = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]], dtype=torch.float64)
    root = torch.full((1, 1, 1), 0.6**0.5, dtype=torch.float64)
    F = simplex_attention(X, A, root, root)
    assert float((F - 1).square().sum()) + 0.6 == pytest.approx(
        float(simplex_attention_at_signs(Fraction(3, 5)))
    )


def test_exact_numbers_have_no_slack() -> None:
    assert exactly(Fraction(7, 8)) == Enclosure(0.875, 0.875)
    assert worst([Enclosure(0.0, 3.0), Enclosure(1.0, 2.0)]) == Enclosure(1.0, 3.0)
