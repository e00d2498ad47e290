"""Closed forms of the multi-head model against autograd, which appears nowhere else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import KERNELS, draw, model, shapes

from gdconv.models.multihead.parameters import BLOCKS, Parameters
from gdconv.support.errors import InputError

TOLERANCE = 1e-12


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """|a - b| over |b|, or |a| when b vanishes."""
    return float((a - b).norm() / max(float(b.norm()), 1e-300)) if b.norm() > 0 else float(a.norm())


def plain_output(kernel: str, X: torch.Tensor, W: dict[str, torch.Tensor]) -> torch.Tensor:
    """F of one replica, written out sample by sample and head by head."""
    F = []
    for sample in X:
        total = torch.zeros(sample.shape[0], W["W_O"].shape[-1], dtype=X.dtype)
        for h in range(W["W_Q"].shape[0]):
            q, k = sample @ W["W_Q"][h], sample @ W["W_K"][h]
            root = q.shape[1] ** 0.5
            if kernel == "softmax":
                S = torch.softmax(q @ k.T / root, dim=1)
            else:
                S = torch.exp(-((q[:, None] - k[None]) ** 2).sum(-1) / (2 * root))
            total = total + S @ sample @ W["W_V"][h] @ W["W_O"][h]
        F.append(total)
    return torch.stack(F)


def leaves(params: Parameters) -> dict[str, torch.Tensor]:
    """The weights of replica 0 as leaves."""
    return {b: getattr(params, b)[0].clone().requires_grad_() for b in (*BLOCKS, "W_O")}


@pytest.mark.parametrize("kernel", KERNELS)
@given(shape=shapes, seed=st.integers(0, 10**6))
@settings(max_examples=40)
def test_gradient_matches_autograd(kernel: str, shape: tuple[int, ...], seed: int) -> None:
    problem, params = draw(shape, seed)
    W = leaves(params)
    loss = 0.5 * (plain_output(kernel, problem.X[0], W) - problem.y[0]).square().sum()
    expected = torch.autograd.grad(loss, [W[b] for b in BLOCKS], allow_unused=True)
    at, grad = model(kernel).gradient(problem, params)
    assert relative(at.loss[0], loss.detach()) < TOLERANCE
    scale = float(torch.cat([g.flatten() for g in expected if g is not None]).norm())
    for b, g in zip(BLOCKS, expected, strict=True):
        g = torch.zeros_like(W[b]) if g is None else g
        assert float((getattr(grad, b)[0] - g).norm()) <= TOLERANCE * max(scale, 1.0)


@pytest.mark.parametrize("kernel", KERNELS)
@given(shape=shapes, seed=st.integers(0, 10**6))
@settings(max_examples=25)
def test_jacobian_matches_autograd(kernel: str, shape: tuple[int, ...], seed: int) -> None:
    problem, params = draw(shape, seed)
    W = leaves(params)

    def output(*blocks: torch.Tensor) -> torch.Tensor:
        return plain_output(
            kernel, problem.X[0], dict(zip(BLOCKS, blocks, strict=True)) | {"W_O": W["W_O"]}
        ).flatten()

    expected = torch.autograd.functional.jacobian(output, tuple(W[b].detach() for b in BLOCKS))
    expected = torch.cat([J.flatten(1) for J in expected], dim=1)
    assert relative(model(kernel).jacobian(problem, params)[0], expected) < TOLERANCE


@pytest.mark.parametrize("kernel", KERNELS)
def test_gradient_is_the_jacobian_pulled_back(kernel: str) -> None:
    problem, params = draw((3, 3, 5, 2, 3, 2), 7, runs=4)
    at, grad = model(kernel).gradient(problem, params)
    J = model(kernel).jacobian(problem, params)
    pulled = torch.einsum("rm,rmp->rp", at.residual.flatten(1), J)
    together = torch.cat([getattr(grad, b).flatten(1) for b in BLOCKS], dim=1)
    assert relative(together, pulled) < TOLERANCE


@pytest.mark.parametrize("kernel", KERNELS)
def test_features_times_values_are_the_output(kernel: str) -> None:
    problem, params = draw((3, 2, 4, 3, 2, 2), 3)
    at = model(kernel).forward(problem, params)
    B = model(kernel).features(problem, at)[0]
    stacked = (params.W_V @ params.W_O)[0].reshape(-1, 2)
    assert relative((B @ stacked).reshape(3, 2, 2), at.F[0]) < TOLERANCE


@pytest.mark.parametrize("kernel", KERNELS)
def test_replicas_do_not_mix(kernel: str) -> None:
    problem, params = draw((2, 3, 4, 3, 2, 1), 11, runs=3)
    together, grads = model(kernel).gradient(problem, params)
    for r in range(3):
        alone, grad = model(kernel).gradient(problem[r], params[r])
        assert torch.allclose(alone.loss, together.loss[[r]], rtol=1e-14, atol=0)
        assert torch.allclose(grad.W_K, grads.W_K[[r]], rtol=1e-12, atol=1e-14)


def test_a_missing_centring_term_is_noticed() -> None:
    """Negative control: softmax without the row mean is not the gradient."""
    problem, params = draw((2, 3, 4, 3, 2, 1), 5)
    at, grad = model("softmax").gradient(problem, params)
    G = at.residual.unsqueeze(1) @ at.u.mT
    X = problem.X.unsqueeze(1)
    wrong = (X.mT @ ((at.S * G) @ at.k)).sum(2) / 3**0.5
    assert relative(wrong, grad.W_Q) > 1e-3


def test_hand_worked_value() -> None:
    """One token: S = 1 for softmax, so F = x W_V W_O whatever the scores are."""
    problem, params = draw((1, 1, 2, 2, 1, 1), 0)
    at = model("softmax").forward(problem, params)
    x, W = problem.X[0, 0, 0].numpy(), params.numpy()
    assert np.isclose(float(at.F[0, 0, 0, 0]), (x @ W["W_V"][0, 0] @ W["W_O"][0, 0])[0], rtol=1e-14)


@pytest.mark.parametrize(
    "fault", ["missing", "shape", "nan", "huge", "complex", "text", "heads", "empty", "rank"]
)
def test_bad_weights_are_named(fault: str) -> None:
    arrays = {b: np.ones((2, 3, 4)) for b in BLOCKS} | {"W_O": np.ones((2, 4, 1))}
    if fault == "missing":
        del arrays["W_K"]
    elif fault == "shape":
        arrays["W_O"] = np.ones((2, 3, 1))
    elif fault in ("nan", "huge"):
        arrays["W_Q"][0, 0, 0] = np.nan if fault == "nan" else 1e200
    else:
        arrays["W_Q"] = {
            "complex": np.ones((2, 3, 4), complex),
            "text": np.full((2, 3, 4), "a"),
            "heads": np.ones((0, 3, 4)),
            "empty": np.ones((2, 3, 0)),
            "rank": np.ones((3, 4)),
        }[fault]
    with pytest.raises(InputError, match=r"^(W_K|weights|W_Q) = "):
        Parameters.from_arrays(arrays)


def test_replace_keeps_the_frozen_block() -> None:
    _, params = draw((1, 1, 2, 2, 1, 1), 0)
    assert replace(params, W_Q=params.W_K).W_O is params.W_O
