"""The classifier: kernels agree with the toolkit's, padding is not seen, gradients, one start."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from experiments.tasks.classifier import (
    Attention,
    ClassifierSizes,
    TransformerClassifier,
    accuracy_and_loss,
    attention_weights,
)
from gdconv.models.multihead.attention_kernels import KERNELS, kernel_named
from gdconv.support.errors import InputError

NAMES = tuple(KERNELS)
SIZES = ClassifierSizes(tokens=6, symbols=9, D=8, d=12)


def qk(seed: int = 0, scale: float = 1.0, offset: float = 0.0) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    made = scale * torch.randn(2, 3, 2, 6, 5, generator=g, dtype=torch.float64) + offset
    return made[0], made[1]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("scale", "offset"), [(0.1, 0.0), (1.0, 0.0), (3.0, 0.0), (0.5, 1e4)])
def test_weights_are_those_of_the_toolkit(name: str, scale: float, offset: float) -> None:
    """Expanded squares lose about |k - centre|^2 eps; a common offset of keys costs nothing."""
    q, k = qk(scale=scale, offset=offset)
    made = attention_weights(kernel_named(name), q, k)
    torch.testing.assert_close(made, kernel_named(name).weights(q, k), rtol=1e-9, atol=1e-12)


def test_expansion_without_centring_would_fail() -> None:
    """Control: the same test catches the plain expansion at an offset."""
    q, k = qk(scale=0.5, offset=1e6)
    plain = (
        q @ k.mT - 0.5 * q.square().sum(-1, keepdim=True) - 0.5 * k.square().sum(-1)[..., None, :]
    )
    exact = kernel_named("gaussian").weights(q, k)
    assert (torch.exp(plain / 5**0.5) - exact).abs().max() > 1e-6
    torch.testing.assert_close(
        attention_weights(kernel_named("gaussian"), q, k), exact, rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_the_kernels_pullback(name: str) -> None:
    kernel = kernel_named(name)
    q, k = (t.requires_grad_() for t in qk(1))
    S = attention_weights(kernel, q, k)
    G = torch.randn(S.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    made = torch.autograd.grad((S * G).sum(), (q, k))
    expected = kernel.pullback(kernel.weights(q, k), q, k, G)
    for one, other in zip(made, expected, strict=True):
        torch.testing.assert_close(one, other.detach(), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_padding_changes_nothing(name: str) -> None:
    """Scores of a text do not depend on how much padding follows it."""
    net = TransformerClassifier(SIZES, name, seed=3).double()
    short = torch.tensor([[4, 2, 7]])
    long = torch.tensor([[4, 2, 7, 0, 0, 0]])
    torch.testing.assert_close(net(short), net(long), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_a_token_in_the_place_of_padding_is_seen(name: str) -> None:
    """Control of the test above."""
    net = TransformerClassifier(SIZES, name, seed=3).double()
    gap = net(torch.tensor([[4, 2, 7]])) - net(torch.tensor([[4, 2, 7, 5, 5, 5]]))
    assert gap.abs().max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_attention_is_the_sum_over_heads(name: str) -> None:
    """Against plain loops over batch and heads with the toolkit's kernel."""
    sizes = ClassifierSizes(tokens=6, symbols=9, D=8, d=12, H=2, head_width=3)
    layer = Attention(sizes, name).double()
    x = torch.randn(2, 6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    W, b = layer.queries_keys_values.weight, layer.queries_keys_values.bias
    expected = layer.output.bias.expand(2, 6, 8).clone()
    for s in range(2):
        for h in range(2):
            rows = [slice(6 * part + 3 * h, 6 * part + 3 * h + 3) for part in range(3)]
            q, k, v = (x[s] @ W[r].T + b[r] for r in rows)
            S = kernel_named(name).weights(q, k)
            expected[s] += S @ v @ layer.output.weight[:, 3 * h : 3 * h + 3].T
    torch.testing.assert_close(layer(x), expected, rtol=1e-11, atol=1e-12)


def test_both_kernels_start_from_the_same_weights() -> None:
    one, other = (TransformerClassifier(SIZES, name, seed=5) for name in NAMES)
    for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    third = TransformerClassifier(SIZES, "softmax", seed=6)
    assert not torch.equal(third.positions, one.positions)


def test_making_a_network_leaves_the_random_stream_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    TransformerClassifier(SIZES, "softmax")
    assert torch.equal(torch.rand(1), expected)


def test_positions_count() -> None:
    net = TransformerClassifier(SIZES, "gaussian", seed=1).double()
    gap = net(torch.tensor([[4, 2, 7]])) - net(torch.tensor([[7, 2, 4]]))
    assert gap.abs().max() > 1e-4


def test_vectors_as_tokens() -> None:
    sizes = ClassifierSizes(tokens=4, features=3, D=8, d=8)
    net = TransformerClassifier(sizes, "gaussian")
    assert net(torch.zeros(5, 4, 3)).shape == (5, 2)


def test_the_default_is_the_size_of_the_poster() -> None:
    sizes = ClassifierSizes(tokens=10, symbols=5)
    assert (sizes.layers, sizes.D, sizes.d, sizes.H, sizes.c) == (2, 64, 128, 2, 32)


def test_accuracy_and_loss_over_parts() -> None:
    net = TransformerClassifier(SIZES, "softmax", seed=2).double()
    rng = np.random.default_rng(0)
    X, y = torch.tensor(rng.integers(1, 9, (50, 6))), torch.tensor(rng.integers(0, 2, 50))
    accuracy, loss = accuracy_and_loss(net, X, y, batch=7)
    scores = net(X).detach()
    assert accuracy == pytest.approx(float((scores.argmax(1) == y).double().mean()), abs=1e-15)
    assert loss == pytest.approx(float(nn.functional.cross_entropy(scores, y)), rel=1e-12)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"symbols": 5, "features": 2}, "give either symbols or features"),
        ({}, "give either symbols or features"),
        ({"symbols": 5, "H": 3}, "H = 3: give a divisor of 64"),
        ({"symbols": 5, "layers": 0}, "layers = 0"),
        ({"symbols": 5, "classes": 1}, "classes = 1"),
        ({"symbols": 5, "head_width": 0}, "head_width = 0"),
    ],
)
def test_bad_sizes_are_one_sentence(sizes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ClassifierSizes(tokens=4, **sizes)
