"""The Hessian of the model of the gradient-descent theorems."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import KERNELS, draw, model, shapes

from gdconv.models.multihead.hessian import multihead_hessian, multihead_vector_product
from gdconv.models.multihead.parameters import BLOCKS, Parameters


def moved(params: Parameters, v: torch.Tensor, t: float) -> Parameters:
    """Weights + t v."""
    pieces = v.unflatten(1, (3, *params.W_Q.shape[1:]))
    new = (getattr(params, b) + t * pieces[:, i] for i, b in enumerate(BLOCKS))
    return Parameters(*new, params.W_O)


@pytest.mark.parametrize("kernel", KERNELS)
@given(shape=shapes, runs=st.integers(1, 2), seed=st.integers(0, 10**6))
@settings(max_examples=20)
def test_derivative_of_the_models_gradient(
    kernel: str, shape: tuple[int, ...], runs: int, seed: int
) -> None:
    """grad(w + t v) - grad(w - t v) = 2 t H v + O(t^3), and J^T J is the outer part."""
    problem, params = draw(shape, seed, 0.5, runs)
    made = model(kernel)
    H = multihead_hessian(made, problem, params)
    v = torch.from_numpy(np.random.default_rng(seed).standard_normal(H.shape[:2]))
    v /= v.norm(dim=1, keepdim=True)
    t = 1e-5
    sides = [made.gradient(problem, moved(params, v, x))[1] for x in (t, -t)]
    flat = [torch.cat([getattr(g, b).flatten(1) for b in BLOCKS], 1) for g in sides]
    change, product = (flat[0] - flat[1]) / (2 * t), (H @ v[..., None])[..., 0]
    size = 1 + float(H.abs().sum((1, 2)).max())
    assert float((change - product).abs().max()) < 1e-7 * size
    J = made.jacobian(problem, params)
    outer = multihead_hessian(made, problem, params, part="outer")
    assert torch.allclose(outer, J.mT @ J, rtol=1e-11, atol=1e-12 * size)
    found = multihead_vector_product(made, problem, params, v)
    assert torch.allclose(found, product, rtol=1e-11, atol=1e-12 * size)


@pytest.mark.parametrize("kernel", KERNELS)
def test_one_problem_serves_all_replicas(kernel: str) -> None:
    problem, params = draw((2, 3, 4, 2, 2, 2), 5, runs=3)
    made, one = model(kernel), problem[1]
    shared = multihead_hessian(made, one, params, ("W_Q", "W_V"))
    for r in range(3):
        alone = multihead_hessian(made, one, params[r], ("W_Q", "W_V"))[0]
        assert torch.equal(shared[r], alone)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_missing_head_is_noticed(kernel: str) -> None:
    """Cross-head blocks are no zeros: the heads' own Hessians are not the whole."""
    problem, params = draw((1, 4, 3, 2, 2, 1), 6)
    H = multihead_hessian(model(kernel), problem, params)[0].view(3, 2, 6, 3, 2, 6)
    cross = H[:, 0, :, :, 1]
    assert float(cross.abs().max()) > 1e-2 * float(H.abs().max())
