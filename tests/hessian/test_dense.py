"""Dense Hessians against automatic differentiation, and what they must satisfy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hessian.reference import KINDS, automatic, draw, unfit
from hypothesis import given, settings
from hypothesis import strategies as st

import gdconv.hessian.dense
import gdconv.hessian.gaussian
import gdconv.hessian.linear
import gdconv.hessian.softmax
from gdconv.hessian.dense import hessian, hessian_block
from gdconv.hessian.layer import PARTS, attention_layer
from gdconv.hessian.operators import HessianOperator
from gdconv.support.errors import InputError

shapes = st.tuples(
    st.integers(1, 3),  # N
    st.integers(1, 5),  # L
    st.integers(1, 5),  # D
    st.integers(1, 4),  # d
    st.integers(1, 3),  # H
    st.integers(0, 3),  # d_v
    st.integers(1, 3),  # D_o
)
BARE = (1, 6, 5, 3, 1, 0, 4)
HEADS = (2, 4, 4, 2, 3, 2, 2)


def distance(H: torch.Tensor, reference: torch.Tensor, scale: torch.Tensor) -> float:
    """Largest entry of the difference over the largest entry of `scale`."""
    return float((H - reference).abs().max() / scale.abs().max().clamp_min(1e-300))


@pytest.mark.parametrize("kind", KINDS)
@given(
    shape=shapes,
    seed=st.integers(0, 10**6),
    scale=st.floats(0.1, 1.5),
    temperature=st.floats(0.3, 3.0),
    layer_norm=st.sampled_from([None, 1e-5, 0.1]),
    loss=st.sampled_from(["mean", "half-square"]),
)
@settings(max_examples=40)
def test_every_part_is_that_of_automatic_differentiation(
    kind: str,
    shape: tuple[int, ...],
    seed: int,
    scale: float,
    temperature: float,
    layer_norm: float | None,
    loss: str,
) -> None:
    options = {"temperature": temperature, "layer_norm": layer_norm, "loss": loss}
    layer = draw(kind, shape, seed, scale, **options)
    outer, total = automatic(layer, "outer"), automatic(layer)
    size = torch.maximum(outer.abs().max(), total.abs().max())
    for compiled in (True, False):
        found = {part: hessian(layer, None, part, None, compiled) for part in PARTS}
        assert distance(found["total"], total, size) < 1e-12
        assert distance(found["outer"], outer, size) < 1e-12
        assert distance(found["functional"], total - outer, size) < 1e-12
        assert all(torch.equal(H, H.T) for H in found.values())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [BARE, HEADS])
@pytest.mark.parametrize("part", PARTS)
def test_every_block_alone_and_in_any_order(kind: str, shape: tuple[int, ...], part: str) -> None:
    layer = draw(kind, shape, 1)
    H, ends = hessian(layer, None, part), np.cumsum((0, *layer.sizes()))
    where = {name: slice(ends[i], ends[i + 1]) for i, name in enumerate(layer.names)}
    for row in layer.names:
        for column in layer.names:
            block = hessian_block(layer, row, column, part)
            assert distance(block, H[where[row], where[column]], H) < 1e-14
    turned = hessian(layer, layer.names[::-1], part)
    index = torch.cat([torch.arange(len(H))[where[name]] for name in layer.names[::-1]])
    assert torch.equal(turned, H[index][:, index])


@pytest.mark.parametrize(
    "sizes", [(1, 3, 11, 7, 1, 0, 13), (2, 5, 9, 4, 3, 3, 1), (1, 4, 10, 9, 2, 11, 3)]
)
def test_tiles_of_every_shape(sizes: tuple[int, ...]) -> None:
    """More rows than one tile holds, none of the sizes a multiple of eight."""
    layer = draw("softmax", sizes, 2)
    plain = hessian(layer, compiled=False)
    for names in (None, ("W_Q",), ("W_K", "W_V"), ("W_V",), ("W_Q", "W_K")):
        fast = hessian(layer, names)
        assert torch.equal(fast, fast.T)
        assert distance(fast, hessian(layer, names, compiled=False), plain) < 1e-14


@pytest.mark.parametrize("streaming", [1, 10**9])
@pytest.mark.parametrize("sizes", [(1, 16, 16, 8, 1, 0, 16), (1, 70, 8, 16, 1, 0, 8)])
def test_several_pieces(
    sizes: tuple[int, ...], streaming: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P = 512 and 320, in pieces, written past the cache and through it."""
    monkeypatch.setattr(gdconv.hessian.dense, "STREAMING", streaming)
    monkeypatch.setattr(gdconv.hessian.dense, "CHUNK", 1 << 12)
    layer = draw("softmax", sizes, 2)
    reference, found = hessian(layer, compiled=False), hessian(layer)
    assert distance(found, reference, reference) < 1e-14
    assert torch.equal(found, found.T)
    v = torch.linspace(-1, 1, len(found), dtype=torch.float64)
    product = HessianOperator(layer)(v)
    assert distance(found @ v, product, reference) < 1e-11


@pytest.mark.parametrize("kind", KINDS)
@given(shape=shapes, seed=st.integers(0, 10**6))
@settings(max_examples=25)
def test_structure(kind: str, shape: tuple[int, ...], seed: int) -> None:
    """H_o >= 0, H_f(VV) = 0 and zero across heads, H = H_o where the residual vanishes."""
    layer = draw(kind, shape, seed)
    outer, functional = hessian(layer, None, "outer"), hessian(layer, None, "functional")
    size = float(torch.linalg.matrix_norm(outer, 2)) + 1e-300
    assert float(torch.linalg.eigvalsh(outer)[0]) > -1e-12 * size
    assert not hessian(layer, ("W_V",), "functional").any()
    H = shape[4]
    for row in layer.names:
        for column in layer.names:
            block = hessian_block(layer, row, column, "functional")
            heads = block.unflatten(0, (H, -1)).unflatten(2, (H, -1))
            assert all(not heads[h, :, g].any() for h in range(H) for g in range(H) if h != g)
    exact = unfit(layer)
    small = hessian(exact, None, "functional")
    assert float(small.abs().max()) <= 1e-12 * max(size, float(functional.abs().max()))


@pytest.mark.parametrize("kind", ["linear", "linear-single"])
def test_linear_attention_has_no_functional_diagonal(kind: str) -> None:
    layer = draw(kind, BARE, 3)
    for name in layer.names:
        assert not hessian(layer, (name,), "functional").any()
    assert hessian(layer, None, "functional").any()
    softmax = draw(kind.replace("linear", "softmax"), BARE, 3)
    assert hessian(softmax, softmax.names[:1], "functional").any()


@pytest.mark.parametrize("kind", ["softmax", "softmax-single"])
def test_one_hot_attention_kills_queries_and_keys(kind: str) -> None:
    layer = replace(draw(kind, BARE, 3), temperature=1e-6)
    warm = hessian(draw(kind, BARE, 3), layer.names[:-1])
    assert not hessian(layer, layer.names[:-1]).any()
    assert not hessian_block(layer, "W_V", layer.names[0]).any()
    assert hessian(layer, ("W_V",)).any()
    assert float(warm.abs().max()) > 1e-3


@pytest.mark.parametrize("kind", ["softmax", "linear"])
def test_single_matrix_is_the_chain_rule(kind: str) -> None:
    """W_QK = W_Q W_K^T / sqrt(d): the block QQ follows from that of W_QK."""
    two = draw(kind, BARE, 4)
    d, W_K = BARE[3], two.W_K[0]
    one = attention_layer(
        two.X, two.Y, two.W_V, W_QK=two.W_Q @ two.W_K.mT / d**0.5, kernel=two.kernel
    )
    big = hessian(one, ("W_QK",)).view(5, 5, 5, 5)
    expected = torch.einsum("aubw,us,wt->asbt", big, W_K, W_K).reshape(15, 15) / d
    assert distance(hessian(two, ("W_Q",)), expected, expected) < 1e-12


@pytest.mark.parametrize("kind", ["softmax", "gaussian"])
def test_tokens_far_from_the_origin(kind: str) -> None:
    """An offset orthogonal to every W_Q, W_K changes T by nothing: the moments must not lose it."""
    layer = draw(kind, BARE, 5, 0.3)
    far = replace(layer, X=layer.X + 1e4)
    size = automatic(far)
    outer = automatic(far, "outer")
    scale = torch.maximum(outer.abs().max(), size.abs().max())
    if kind == "softmax":
        assert (
            distance(hessian(far, ("W_K",)), hessian(far, ("W_K",), compiled=False), scale) < 1e-12
        )
    assert distance(hessian(far), size, scale) < 1e-8


def test_float32_takes_the_general_path() -> None:
    layer = draw("softmax", HEADS, 6)
    parts = {f: getattr(layer, f).float() for f in ("X", "Y", "W_Q", "W_K", "W_V", "W_O")}
    single = hessian(replace(layer, **parts))
    assert single.dtype == torch.float32
    exact = hessian(layer)
    assert distance(single.double(), exact, exact) < 1e-4


def test_output_is_filled_in_place() -> None:
    layer = draw("softmax", BARE, 7)
    out = torch.full((50, 50), float("nan"), dtype=torch.float64)
    assert hessian(layer, out=out) is out
    assert torch.equal(out, hessian(layer))


FAULTS = {
    "second moment not centred": ("softmax", "_second", "total"),
    "third moment not centred": ("softmax", "_third", "total"),
    "no term of the bilinear scores": ("softmax", "b", "functional"),
    "wrong sign of a third moment": ("softmax", "C_kk", "functional"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_noticed(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, name, part = FAULTS[fault]
    made = gdconv.hessian.softmax.Moments
    honest = getattr(made, name)
    layer = draw(kind, BARE, 8)
    reference = automatic(layer, part)
    assert distance(hessian(layer, None, part, None, False), reference, reference) < 1e-12
    if name in ("_second", "_third"):

        def broken(self, f, f_mean, g, g_mean, *scale):  # type: ignore[no-untyped-def]
            return honest(self, f, 0 * f_mean, g, g_mean, *scale)

    else:

        def value(self):  # type: ignore[no-untyped-def]
            found = honest.func(self)
            return 0 * found if name == "b" else -found

        broken = property(value)
    monkeypatch.setattr(made, name, broken)
    assert distance(hessian(layer, None, part, None, False), reference, reference) > 1e-4


@pytest.mark.parametrize("kind", ["gaussian", "linear"])
def test_a_missing_functional_term_is_noticed(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = draw(kind, BARE, 8)
    reference = automatic(layer)
    if kind == "gaussian":
        whole = gdconv.hessian.gaussian._block
        monkeypatch.setattr(
            gdconv.hessian.gaussian, "_block", lambda f, g, r, c, o, _: whole(f, g, r, c, o, r == c)
        )
    else:
        block = gdconv.hessian.linear._Pieces.block
        monkeypatch.setattr(
            gdconv.hessian.linear._Pieces,
            "block",
            lambda self, r, h, c, g, o, _: block(self, r, h, c, g, o, r == c),
        )
    assert distance(hessian(layer), reference, reference) > 1e-3


def test_wrong_arguments_are_named() -> None:
    layer = draw("softmax", BARE, 1)
    eye = torch.eye(3, dtype=torch.float64)
    for blocks in ((), ("W_O",), ("W_Q", "W_Q"), ("W_QK",)):
        with pytest.raises(InputError, match="blocks"):
            hessian(layer, blocks)
    with pytest.raises(InputError, match="part"):
        hessian(layer, part="inner")
    with pytest.raises(InputError, match="out"):
        hessian(layer, out=torch.empty(3, 3, dtype=torch.float64))
    with pytest.raises(InputError, match="weights"):
        attention_layer(eye, eye, eye, W_Q=eye)
    with pytest.raises(InputError, match="W_QK"):
        attention_layer(eye, eye, eye, W_QK=eye, kernel="gaussian")
    with pytest.raises(InputError, match="shapes"):
        attention_layer(eye, eye, eye, W_QK=eye[:2])
    with pytest.raises(InputError, match="kernel"):
        attention_layer(eye, eye, eye, W_QK=eye, kernel="cosine")
    with pytest.raises(InputError, match="temperature"):
        attention_layer(eye, eye, eye, W_QK=eye, temperature=0.0)
    with pytest.raises(InputError, match="constant"):
        attention_layer(0 * eye, eye, eye, W_QK=eye, layer_norm=0.0)
    with pytest.raises(InputError, match="finite"):
        attention_layer(eye / 0, eye, eye, W_QK=eye)
