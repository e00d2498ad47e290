"""Compiled Hessian-vector products: against autograd's second derivatives and the dense matrix."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from samples import KERNELS, draw, model

from gdconv.models.multihead.hessian import multihead_hessian
from gdconv.models.multihead.parameters import BLOCKS
from gdconv.models.multihead.sharpness import Curvature

SUBSETS = [tuple(b for b, taken in zip(BLOCKS, f, strict=True) if taken)
           for f in product((False, True), repeat=3) if any(f)]  # fmt: skip
SHAPES = [  # N, n, D, d, H, D_y
    (2, 3, 4, 3, 2, 2),
    (9, 2, 5, 1, 1, 1),  # more samples than lanes
    (1, 1, 1, 1, 1, 1),
    (3, 4, 9, 2, 4, 3),  # d < D_y
    (8, 5, 8, 4, 1, 4),
]


def twice(kernel: str, problem: Any, params: Any, trained: tuple[str, ...], v: Any) -> np.ndarray:
    """H v by autograd, twice, of the loss written again."""
    X, y = problem.X[0], problem.y[0]
    W = {name: block[0].clone() for name, block in params.blocks().items()}
    moved = [W[name].requires_grad_() for name in trained]
    F = torch.zeros_like(y)
    for q, k, V, O in zip(W["W_Q"], W["W_K"], W["W_V"], W["W_O"], strict=True):  # noqa: E741
        if kernel == "softmax":
            S = torch.softmax(X @ q @ (X @ k).mT / q.shape[1] ** 0.5, -1)
        else:
            gap = (X @ q)[:, :, None] - (X @ k)[:, None]
            S = torch.exp(-gap.square().sum(-1) / (2 * q.shape[1] ** 0.5))
        F = F + S @ X @ V @ O
    grad = torch.autograd.grad((F - y).square().sum() / 2, moved, create_graph=True)
    flat = torch.cat([g.reshape(-1) for g in grad])
    second = torch.autograd.grad(flat @ torch.from_numpy(v), moved)
    return torch.cat([g.reshape(-1) for g in second]).numpy()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("shape", SHAPES)
def test_products_are_autograds_second_derivatives(kernel: str, shape: tuple[int, ...]) -> None:
    problem, params = draw(shape, 1, 0.6)
    for trained in SUBSETS:
        H = Curvature(model(kernel), problem, params, trained)
        v = np.random.default_rng(2).standard_normal(H.size)
        wanted = twice(kernel, problem, params, trained, v)
        assert np.linalg.norm(H(v) - wanted) <= 1e-12 * np.linalg.norm(wanted) + 1e-14, trained


@pytest.mark.parametrize("kernel", KERNELS)
def test_products_with_unit_vectors_are_the_dense_hessian(kernel: str) -> None:
    for shape, trained in product(((2, 3, 4, 3, 2, 2), (3, 4, 5, 2, 4, 3)), SUBSETS):
        problem, params = draw(shape, 0, 0.7)
        dense = multihead_hessian(model(kernel), problem, params, trained)[0].numpy()
        H = Curvature(model(kernel), problem, params, trained)
        made = np.stack([H(row) for row in np.eye(H.size)])
        assert np.allclose(made, dense, rtol=0, atol=1e-13 * abs(dense).max()), trained
        assert np.allclose(made, made.T, rtol=0, atol=1e-13 * abs(dense).max())


def test_products_of_near_tokens_do_not_cancel_in_the_gaussian_kernel() -> None:
    """q - k of 1e-6 beside queries of size 1: differences are formed first."""
    problem, params = draw((2, 3, 4, 2, 1, 1), 3)
    X = torch.ones_like(problem.X) + 1e-6 * problem.X
    near = type(problem)(X, problem.y)
    W = params.with_blocks({"W_K": params.W_Q + 1e-7 * params.W_K})
    v = np.random.default_rng(0).standard_normal(16)
    trained = ("W_Q", "W_K")
    found = Curvature(model("gaussian"), near, W, trained)(v)
    wanted = twice("gaussian", near, W, trained, v)
    assert np.linalg.norm(found - wanted) <= 1e-11 * np.linalg.norm(wanted)


def test_a_target_a_sample_stands_for_every_token() -> None:
    problem, params = draw((2, 3, 4, 2, 2, 1), 0)
    one = type(problem)(problem.X, problem.y[:, :, :1])
    every = type(problem)(problem.X, problem.y[:, :, :1].expand(-1, -1, 3, -1))
    v = np.ones(2 * 4 * 2 * 3)
    a, b = (Curvature(model("softmax"), p, params, BLOCKS)(v) for p in (one, every))
    assert np.array_equal(a, b)
