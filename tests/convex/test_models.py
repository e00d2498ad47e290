"""Counterexamples of the theory page, and the equivalences to the digits it gives."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from convex_models import (
    gated_heads,
    head_sum,
    l1_decay,
    loss_sum,
    self_attention,
    simplex_attention,
    weight_decay,
)
from hypothesis import given
from hypothesis import strategies as st

from gdconv.convex.gated import gate_patterns, gated_program
from gdconv.convex.group_lasso import Program, token_program
from gdconv.convex.losses import LOSSES, Loss
from gdconv.convex.recovery import heads_objective, heads_of
from gdconv.convex.solvers.fast import solve
from gdconv.convex.training import descend, l1_square_prox, onto_simplex, train_heads
from gdconv.gallery.convex_attention.sequence import solve_sequence
from gdconv.support.errors import InputError

Page = Any  # the fixture of conftest.py

WIDTH = token_program([[[1.0], [0.0]], [[0.0], [1.0]]], [1.0, -1.0], 0.125)
ODD_X = torch.tensor([[[1.0], [-1.0]]], dtype=torch.float64)
ODD_Y = torch.ones(1, 2, 1, dtype=torch.float64)


def test_self_attention_and_simplex_attention_differ() -> None:
    """X = [1, -1], Y = [1, 1], beta = 1: 2 for (3), 7/8 for (4)."""

    def three(**W: torch.Tensor) -> torch.Tensor:
        F = self_attention(ODD_X, **W)
        return loss_sum(Loss(), F, ODD_Y) + weight_decay(1.0, *W.values())

    draw = torch.Generator().manual_seed(0)
    for _ in range(3):
        names = ("W_Q", "W_K", "W_V", "W_O")
        W = {k: torch.randn(2, 1, 1, generator=draw, dtype=torch.float64) for k in names}
        F = self_attention(ODD_X, **W)
        assert float((F * ODD_Y).sum().abs()) < 1e-12  # odd: orthogonal to the target
        _, curve = descend(three, W, 0.1, 200)
        assert curve[-1] == pytest.approx(2.0, abs=1e-6)
        assert float(curve.min()) >= 2.0 - 1e-12
    A = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]], dtype=torch.float64)
    w = torch.full((1, 1, 1), 0.75**0.5, dtype=torch.float64)
    F = simplex_attention(ODD_X, A, w, w)
    assert float(loss_sum(Loss(), F, ODD_Y) + weight_decay(1.0, w, w)) == pytest.approx(7 / 8)
    found = solve_sequence([[1.0, -1.0]], [[1.0, 1.0]], 1.0, tolerance=1e-12)
    assert found.dual <= 7 / 8 <= found.primal
    assert found.gap < 1e-11


def test_the_printed_half() -> None:
    """X = 0, y = 1: every width gives at least 1, the printed program 1/2."""
    program = token_program([[[0.0]]], [1.0], 1.0)
    found = solve(program, 1e-12)
    assert found.certificate.dual >= 1.0 - 1e-12
    printed = 0.5 * float(program.loss.value(program.predict(found.Z), program.y).sum())
    assert printed == 0.5
    for h in (1, 2):
        assert train_heads(program, h, starts=3, steps=20).best >= 1.0


def test_the_missing_width_condition() -> None:
    """287/256 with one head, 31/128 with two and in the convex program."""
    narrow, wide = Fraction(287, 256), Fraction(31, 128)
    found = solve(WIDTH, 1e-12).certificate
    assert found.dual <= wide <= found.primal
    assert found.gap < 1e-11
    assert train_heads(WIDTH, 2, starts=6, steps=400).best == pytest.approx(float(wide), abs=1e-9)
    one = train_heads(WIDTH, 1, starts=6, steps=400).best
    assert one == pytest.approx(float(narrow), abs=1e-9)
    assert one > found.primal + 0.5  # the check that must not be dropped


@pytest.mark.parametrize(("h", "value"), [(1, 1.13456), (2, 0.62546), (4, 0.61233372)])
def test_scalar_equivalence(page: Page, h: int, value: float) -> None:
    program = token_program(page.X, page.y, 0.5)
    found = solve(program, 1e-10).certificate
    assert found.primal == pytest.approx(0.61233372, abs=5e-9)
    trained = train_heads(program, h, starts=24 // h, steps=400 if h < 4 else 1000)
    assert trained.best >= found.dual
    assert trained.best == pytest.approx(value, abs=2e-5 if h < 4 else 1e-6)
    assert torch.all(trained.curve.diff() <= 1e-12)
    assert heads_objective(program, trained.heads) == pytest.approx(trained.best, rel=1e-12)


def test_vector_equivalence(page: Page) -> None:
    program = token_program(page.X, page.Y, 0.5)
    found = solve(program, 1e-10)
    assert found.certificate.primal == pytest.approx(1.2106114, abs=5e-8)
    heads = heads_of(program, found.Z)
    assert heads.count <= 8
    assert heads_objective(program, heads) == pytest.approx(found.certificate.primal, rel=1e-12)
    trained = train_heads(program, 8, starts=8, steps=700)
    assert found.certificate.dual <= trained.best < 1.2106114 * 1.01
    v, b = (torch.from_numpy(x) for x in (heads.v, heads.b))
    decay = float(l1_decay(0.5, v, b))
    assert decay == pytest.approx(0.5 * program.group_sizes(found.Z).sum(), rel=1e-12)


def test_nuclear_equivalence(page: Page) -> None:
    program = Program.of(page.X, page.Y, 0.5, penalty="nuclear")
    found = solve(program, 1e-9)
    assert found.certificate.primal == pytest.approx(0.97277379, abs=5e-9)
    heads = heads_of(program, found.Z)
    assert heads.count <= 4 * 2  # n min(c, d)
    assert heads_objective(program, heads) == pytest.approx(found.certificate.primal, rel=1e-8)
    trained = train_heads(program, 8, starts=6, steps=500)
    assert found.certificate.dual <= trained.best < 0.97277379 * 1.01
    v, b = (torch.from_numpy(x) for x in (heads.v, heads.b))
    decay = float(weight_decay(0.5, v, b))
    assert decay == pytest.approx(0.5 * program.group_sizes(found.Z).sum(), rel=1e-12)
    squared = solve(token_program(page.X, page.Y, 0.5), 1e-9).certificate
    assert found.certificate.primal < squared.dual  # the two regularisers differ


def test_gated_equivalence(page: Page) -> None:
    patterns = gate_patterns(page.X, page.U_1, page.U_2)
    program = gated_program(page.X, page.y, 0.5, patterns)
    found = solve(program, 1e-10)
    assert found.certificate.primal == pytest.approx(0.99387807, abs=5e-9)
    plain = token_program(page.X, page.y, 0.5)
    gates = np.repeat(patterns, 4, 0).astype(float)
    trained = train_heads(plain, len(gates), starts=6, steps=500, patterns=gates)
    assert found.certificate.dual <= trained.best < 0.99387807 * 1.02
    a, v, b = (torch.from_numpy(x) for x in (trained.heads.a, trained.heads.v, trained.heads.b))
    p = gated_heads(torch.from_numpy(page.X), a, v, b, torch.from_numpy(gates))
    y = torch.from_numpy(page.y)[:, None]
    value = loss_sum(Loss(), p, y) + weight_decay(0.5, v, b)
    assert float(value) == pytest.approx(trained.best, rel=1e-12)


def test_gates_in_detail(page: Page) -> None:
    patterns = gate_patterns(page.X, page.U_1, page.U_2)
    for row, u, w in zip(patterns, page.U_1, page.U_2, strict=True):
        assert row.tolist() == [bool(u @ x @ w >= 0) for x in page.X]
    twice = gate_patterns(page.X, np.vstack([page.U_1, page.U_1]), np.vstack([page.U_2] * 2))
    assert np.array_equal(twice, patterns)
    with pytest.raises(InputError, match="give shapes"):
        gate_patterns(page.X, page.U_2, page.U_2)
    with pytest.raises(InputError, match="as many"):
        gate_patterns(page.X, page.U_1, page.U_2[:2])


@pytest.mark.parametrize("loss", LOSSES)
def test_other_losses_are_equivalent_too(page: Page, loss: str) -> None:
    y = np.sign(page.y) if loss == "logistic" else page.y
    program = Program.of(page.X, y, 0.3, Loss(loss, 0.5))
    found = solve(program, 1e-9)
    trained = train_heads(program, 4, starts=8, steps=600)
    assert found.certificate.dual <= trained.best < found.certificate.primal * (1 + 2e-2)
    few = train_heads(program, 1, starts=8, steps=300)
    assert few.best >= found.certificate.dual


@given(seed=st.integers(0, 10**6), c=st.integers(1, 5), t=st.floats(1e-3, 10.0))
def test_proximal_maps_beat_their_neighbours(seed: int, c: int, t: float) -> None:
    rng = np.random.default_rng(seed)
    m = torch.from_numpy(rng.standard_normal((1, c)))

    def value(b: torch.Tensor) -> float:
        return float(0.5 * (b - m).square().sum() + 0.5 * t * b.abs().sum() ** 2)

    best, near = l1_square_prox(m, torch.tensor(t)), onto_simplex(m)
    assert near.sum().item() == pytest.approx(1.0)
    assert near.min() >= 0
    for _ in range(20):
        step = torch.from_numpy(0.1 * rng.standard_normal((1, c)))
        assert value(best) <= value(best + step) + 1e-12
        other = torch.from_numpy(rng.dirichlet(np.ones(c))[None])
        assert (near - m).square().sum() <= (other - m).square().sum() + 1e-12


def test_models_agree_with_loops() -> None:
    rng = np.random.default_rng(0)
    shapes = ((3, 4, 2), (5, 4), (5, 2), (5, 2))
    X, a, v, b = (torch.from_numpy(rng.standard_normal(s)) for s in shapes)
    slow = torch.stack([sum((a[j] @ x @ v[j]) * b[j] for j in range(5)) for x in X])
    assert torch.allclose(head_sum(X, a, v, b), slow)
    W = [torch.from_numpy(rng.standard_normal((2, 2, 2))) for _ in range(4)]
    W_Q, W_K, W_V, W_O = W
    slow = torch.zeros(3, 4, 2, dtype=torch.float64)
    for j in range(2):
        for i, x in enumerate(X):
            slow[i] += torch.softmax(x @ W_Q[j] @ W_K[j].T @ x.T, 1) @ x @ W_V[j] @ W_O[j]
    assert torch.allclose(self_attention(X, *W), slow)


def test_bad_input(page: Page) -> None:
    program = token_program(page.X, page.y, 0.5)
    with pytest.raises(InputError, match="at least one head"):
        train_heads(program, 0)
    with pytest.raises(InputError, match="give shape"):
        train_heads(program, 2, patterns=np.ones((3, 6)))
    with pytest.raises(InputError, match="names among"):
        descend(lambda w: w.sum(), {"w": torch.ones(1)}, 0.1, 1, simplex=("a",))
