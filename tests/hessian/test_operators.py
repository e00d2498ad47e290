"""Matrix-free products against dense matrices and automatic differentiation."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from hessian.reference import KINDS, automatic, draw
from hypothesis import given, settings
from hypothesis import strategies as st

from gdconv.hessian.dense import hessian
from gdconv.hessian.layer import PARTS
from gdconv.hessian.operators import HessianOperator
from gdconv.support.errors import InputError

SHAPES = [
    (1, 5, 4, 3, 1, 0, 4),
    (2, 4, 3, 2, 2, 3, 1),
    (2, 3, 5, 1, 2, 2, 2),
    (1, 2, 6, 2, 1, 0, 2),
]
"""Wide and narrow heads, values through X and through v."""


def columns(size: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((size, 2)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("part", PARTS)
def test_every_choice_of_blocks(kind: str, shape: tuple[int, ...], part: str) -> None:
    layer = draw(kind, shape, 3, temperature=0.7)
    size = hessian(layer).abs().max() * 10
    for count in range(1, len(layer.names) + 1):
        for blocks in permutations(layer.names, count):
            H, apply = hessian(layer, blocks, part), HessianOperator(layer, blocks, part)
            V = columns(apply.size)
            found = torch.stack([apply(v) for v in V.T], 1)
            assert float((found - H @ V).abs().max() / size) < 1e-13


@pytest.mark.parametrize("kind", KINDS)
@given(
    N=st.integers(1, 3),
    L=st.integers(1, 5),
    D=st.integers(1, 5),
    d=st.integers(1, 4),
    H=st.integers(1, 3),
    seed=st.integers(0, 10**6),
    layer_norm=st.sampled_from([None, 1e-3]),
)
@settings(max_examples=20)
def test_against_automatic_differentiation(
    kind: str, N: int, L: int, D: int, d: int, H: int, seed: int, layer_norm: float | None
) -> None:
    layer = draw(kind, (N, L, D, d, H, 2, 2), seed, layer_norm=layer_norm, loss="half-square")
    reference = automatic(layer)
    outer = automatic(layer, "outer")
    size = torch.maximum(reference.abs().max(), outer.abs().max()).clamp_min(1e-300)
    V = columns(len(reference), seed)
    for part, matrix in (("total", reference), ("functional", reference - outer)):
        found = torch.stack([HessianOperator(layer, None, part)(v) for v in V.T], 1)
        assert float((found - matrix @ V).abs().max() / size) < 1e-12 * (1 + float(V.abs().sum()))


def test_repeated_calls_share_work_space_and_nothing_else() -> None:
    layer = draw("softmax", SHAPES[0], 1)
    apply = HessianOperator(layer)
    a, b = columns(apply.size).T
    first = apply(a)
    kept = first.clone()
    apply(b)
    assert torch.equal(first, kept)
    assert torch.equal(apply(a), kept)
    assert torch.allclose(apply(a + b), kept + apply(b), rtol=1e-10)


def test_scipy_operator() -> None:
    layer = draw("gaussian", SHAPES[1], 1)
    made, H = HessianOperator(layer).linear_operator(), hessian(layer).numpy()
    V = columns(len(H)).numpy()
    assert made.shape == H.shape
    np.testing.assert_allclose(made @ V, H @ V, atol=1e-12 * np.abs(H).max() * len(H))
    np.testing.assert_allclose(made.T @ V[:, 0], made @ V[:, 0])


def test_nothing_larger_than_the_attention_weights_is_kept() -> None:
    """L = 32, D = 24, P = 1728: P^2 would be 3 million numbers."""
    layer = draw("softmax", (1, 32, 24, 24, 1, 0, 24), 1)
    apply = HessianOperator(layer)
    apply(columns(apply.size)[:, 0])
    sizes = [t.numel() for t in apply._space.values()]
    assert max(sizes) <= 32 * 32
    assert sum(sizes) <= 12 * 32 * 32


@pytest.mark.parametrize("fault", ["B", "r"])
def test_planted_faults_are_noticed(fault: str) -> None:
    """Without the bilinear term, or with the residual's sign turned."""
    layer = draw("softmax", SHAPES[0], 3)
    H = hessian(layer)
    v = columns(len(H))[:, 0]
    honest, broken = HessianOperator(layer), HessianOperator(layer)
    if fault == "B":
        broken.__dict__["B"] = torch.zeros_like(honest.B)
    else:
        broken.at.r.neg_()
    size = float((H @ v).abs().max())
    assert float((honest(v) - H @ v).abs().max()) < 1e-12 * size
    assert float((broken(v) - H @ v).abs().max()) > 1e-3 * size


def test_wrong_arguments_are_named() -> None:
    layer = draw("softmax", SHAPES[0], 3)
    with pytest.raises(InputError, match="v ="):
        HessianOperator(layer)(torch.ones(3, dtype=torch.float64))
    with pytest.raises(InputError, match="part"):
        HessianOperator(layer, part="inner")
    with pytest.raises(InputError, match="blocks"):
        HessianOperator(layer, ("W_O",))
