"""Attention kernels: values worked by hand, derivatives against autograd, Lipschitz constants."""

from __future__ import annotations

from math import e, sqrt

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import KERNELS

from gdconv.models.multihead.attention_kernels import kernel_named
from gdconv.support.errors import InputError


def tokens(seed: int, *shape: int) -> torch.Tensor:
    """Standard normal numbers."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def test_values_by_hand() -> None:
    q, k = torch.tensor([[0.0], [1.0]]).double(), torch.tensor([[0.0], [2.0]]).double()
    soft, gauss = (kernel_named(name).weights(q, k) for name in KERNELS)
    assert soft[0].tolist() == [0.5, 0.5]
    assert np.allclose(soft[1], np.array([1, e**2]) / (1 + e**2), rtol=1e-15)
    assert np.allclose(gauss, [[1, e**-2], [e**-0.5, e**-0.5]], rtol=1e-15)


@pytest.mark.parametrize("name", KERNELS)
@given(n=st.integers(1, 5), d=st.integers(1, 4), o=st.integers(1, 3), seed=st.integers(0, 10**6))
@settings(max_examples=25)
def test_pullback_and_tangents_match_autograd(name: str, n: int, d: int, o: int, seed: int) -> None:
    kernel, D = kernel_named(name), 3
    X, W_Q, W_K = (
        tokens(seed, n, D),
        tokens(seed + 1, D, d),
        tokens(seed + 2, D, d).requires_grad_(),
    )
    q = (X @ W_Q).requires_grad_()
    k = X @ W_K
    v, G = tokens(seed + 3, n, o), tokens(seed + 4, n, n)
    S = kernel.weights(q, k)
    expected = torch.autograd.grad((S * G).sum(), (q, k), retain_graph=True)
    for got, want in zip(kernel.pullback(S, q, k, G), expected, strict=True):
        assert torch.allclose(got, want, rtol=1e-12, atol=1e-13)
    query, key = kernel.query_tangent(S, q, k, v), kernel.key_tangent(S, q, k, v, X)
    for row in range(n):
        for a in range(o):
            dq, dW = torch.autograd.grad((S @ v)[row, a], (q, W_K), retain_graph=True)
            assert torch.allclose(query[row, a], dq[row], rtol=1e-11, atol=1e-13)
            assert torch.allclose(key[row, a], dW, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", KERNELS)
def test_lipschitz_constant_of_the_weights(name: str) -> None:
    """|dS|_F against a^2 (|W_K| |dW_Q| + |W_Q| |dW_K|) / (2 sqrt d) and eps a |(dW_Q, dW_K)|_F."""
    kernel, greatest = kernel_named(name), 0.0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        n, D, d = rng.integers(1, 4), rng.integers(1, 3), rng.integers(1, 3)
        X, W_Q, W_K = (torch.from_numpy(rng.standard_normal(s)) for s in ((n, D), (D, d), (D, d)))
        dQ, dK = (1e-6 * torch.from_numpy(rng.standard_normal((D, d))) for _ in range(2))
        moved = kernel.weights(X @ (W_Q + dQ), X @ (W_K + dK)) - kernel.weights(X @ W_Q, X @ W_K)
        a, norm = (
            float(torch.linalg.matrix_norm(X, 2)),
            lambda W: float(torch.linalg.matrix_norm(W, 2)),
        )
        if name == "softmax":
            bound = (
                a**2 * (norm(W_K) * float(dQ.norm()) + norm(W_Q) * float(dK.norm())) / (2 * sqrt(d))
            )
        else:
            bound = sqrt(2 * n / (e * sqrt(d))) * a * float(torch.hypot(dQ.norm(), dK.norm()))
        greatest = max(greatest, float(moved.norm()) / bound)
    assert 0.5 < greatest <= 1 + 1e-5  # holds, and half of it would not


def test_softmax_does_not_overflow() -> None:
    S = kernel_named("softmax").weights(
        torch.full((2, 1), 1e200, dtype=torch.float64), torch.ones(2, 1).double()
    )
    assert torch.isfinite(S).all()
    assert torch.allclose(S.sum(-1), torch.ones(2).double())


def test_unknown_kernel_is_named() -> None:
    with pytest.raises(InputError, match="kernel = relu: choose one of softmax, gaussian"):
        kernel_named("relu")
