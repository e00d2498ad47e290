"""Initial weights: variances, pairing, and the scale that meets a theorem."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from samples import KERNELS, draw, model

from gdconv.gallery.full_gd import FullGD
from gdconv.models.multihead.initialization import initialize, solve_scale, spread_scores
from gdconv.models.multihead.parameters import Parameters
from gdconv.models.multihead.point import MultiHeadPoint
from gdconv.support.errors import InputError

SHAPE = (4, 40, 30, 2)


@pytest.mark.parametrize(
    ("rule", "inner", "outer"),
    [
        ("lecun", 1 / 40, 1 / 120),
        ("he", 2 / 40, 2 / 120),
        ("ntk", 1.0, 1 / 120),
        ("normal", 1 / 40, 1 / 30),
    ],
)
def test_variances(rule: str, inner: float, outer: float) -> None:
    params = initialize(rule, SHAPE, 0)
    # 4800 and 240 draws: relative standard errors of the variance 2 % and 9 %
    assert float(params.W_Q.var()) == pytest.approx(inner, rel=0.1)
    assert float(params.W_V.var()) == pytest.approx(inner, rel=0.1)
    assert float(params.W_O.var()) == pytest.approx(outer, rel=0.45)


@pytest.mark.parametrize(
    ("rule", "sizes"),
    [
        ("lecun", (40**-0.5, 40**-0.5, 40**-0.5, 120**-0.5)),
        ("he", ((2 / 40) ** 0.5, (2 / 40) ** 0.5, (2 / 40) ** 0.5, (2 / 120) ** 0.5)),
        ("ntk", (1.0, 1.0, 1.0, 120**-0.5)),
        ("normal", (2 * 40**-0.5, 3 * 40**-0.5, 5 * 40**-0.5, 7 * 30**-0.5)),
        ("paired", (2 * 40**-0.5, 3 * 40**-0.5, 5 * 40**-0.5, 7 * 30**-0.5)),
    ],
)
def test_every_weight_is_its_normal_number_times_the_size_of_the_rule(
    rule: str, sizes: tuple[float, ...]
) -> None:
    made = initialize(rule, SHAPE, 9, (2.0, 3.0, 5.0, 7.0)).numpy()
    rng = np.random.default_rng([9, 1])
    for (name, W), size in zip(made.items(), sizes, strict=True):
        drawn = size * rng.standard_normal(W[0].shape)
        if rule == "paired":
            for h in (1, 3):
                drawn[h] = (-1 if name == "W_V" else 1) * drawn[h - 1]
        assert np.allclose(W[0], drawn, rtol=1e-14, atol=0)


def test_thirty_two_lazy_candidates_compete() -> None:
    """Eight of each size 1/4, 1/2, 1, 2 over sqrt D; W_V = 0, columns of W_O orthonormal."""
    seen: list[Parameters] = []

    def quality(params: Parameters) -> float:
        seen.append(params)
        return [1.0, 5.0, 2.0, 5.0][len(seen) % 4]

    best = spread_scores((3, 50, 4, 2), 1, quality)
    assert best is seen[0]  # the first of the greatest
    found = [float(p.W_Q.std()) * 50**0.5 for p in seen]
    assert found == pytest.approx(np.repeat([0.25, 0.5, 1.0, 2.0], 8), rel=0.2)
    for p in seen:
        assert float(p.W_K.std() / p.W_Q.std()) == pytest.approx(1, rel=0.3)
        assert not p.W_V.any()
        assert torch.allclose(p.W_O.mT @ p.W_O, torch.eye(2).double().expand(1, 3, 2, 2))
    assert len({float(p.W_Q.sum()) for p in seen}) == 32


@pytest.mark.parametrize("least", [1.2e-6, 0.37, 8.0, 4e11])
@pytest.mark.parametrize("margin", [1.0, 1.12, 3.0])
def test_the_size_is_the_margin_times_the_least(least: float, margin: float) -> None:
    base = spread_scores((1, 2, 1, 1), 0, lambda p: 1.0)
    made = solve_scale(base, lambda p: float(p.W_O.norm()) >= least, margin)
    assert 1 - 1e-9 <= float(made.W_O.norm()) / (margin * least) <= 10**1e-3
    assert torch.equal(made.W_Q, base.W_Q)


def test_scales_multiply_each_block() -> None:
    plain, scaled = (
        initialize("normal", SHAPE, 3),
        initialize("normal", SHAPE, 3, (3.0, 3.0, 1.0, 2.0)),
    )
    assert torch.allclose(scaled.W_Q, 3 * plain.W_Q)
    assert torch.allclose(scaled.W_O, 2 * plain.W_O)
    assert torch.equal(scaled.W_V, plain.W_V)


@pytest.mark.parametrize("kernel", KERNELS)
def test_paired_heads_cancel(kernel: str) -> None:
    problem, _ = draw((3, 2, 40, 1, 1, 2), 0)
    params = initialize("paired", SHAPE, 5, (1.0, 1.0, 1.0, 2.0))
    at = model(kernel).forward(problem, params)
    assert float(at.F.abs().max()) < 1e-14
    assert float(at.u.abs().max()) > 0.1


def test_same_seed_same_weights() -> None:
    assert torch.equal(initialize("lecun", SHAPE, 2).W_K, initialize("lecun", SHAPE, 2).W_K)
    assert not torch.equal(initialize("lecun", SHAPE, 2).W_K, initialize("lecun", SHAPE, 3).W_K)


@pytest.mark.parametrize("statement", ["per-head", "block-free", "kernel"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_solved_scale_is_the_least_one(kernel: str, statement: str) -> None:
    theorem = FullGD()
    s = theorem.statement_named(statement)
    problem, _ = draw((2, 2, 8, 4, 2, 1), 4)

    def holds(params: object) -> bool:
        start = MultiHeadPoint(model(kernel), problem, params)  # type: ignore[arg-type]
        return all(h.holds for h in theorem.predict(s, start).hypotheses)

    base = spread_scores(
        (2, 8, 4, 1), 4, lambda p: MultiHeadPoint(model(kernel), problem, p).sigma_0.lo
    )
    assert holds(solve_scale(base, holds, 1.12))
    assert not holds(solve_scale(base, holds, 0.98))  # a little below, they fail


def test_spread_scores_beats_a_single_draw() -> None:
    problem, _ = draw((2, 2, 8, 4, 2, 1), 4)

    def quality(params: object) -> float:
        return MultiHeadPoint(model("softmax"), problem, params).sigma_0.lo  # type: ignore[arg-type]

    single = np.median([quality(initialize("lecun", (2, 8, 4, 1), s)) for s in range(9)])
    assert quality(spread_scores((2, 8, 4, 1), 0, quality)) > single


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: initialize("xavier", SHAPE, 0), "init"),
        (lambda: initialize("paired", (3, 4, 2, 1), 0), "heads"),
        (lambda: spread_scores((2, 8, 1, 2), 0, lambda p: 1.0), "head_dim"),
        (lambda: solve_scale(initialize("lecun", SHAPE, 0), lambda p: False, 1.0), "init"),
    ],
)
def test_bad_input_is_named(call: object, field: str) -> None:
    with pytest.raises(InputError) as caught:
        call()  # type: ignore[operator]
    assert caught.value.field == field
