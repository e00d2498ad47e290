"""The compiled step of the encoder against torch, autograd and 40 digits."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import combinations
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples_encoder import case, shapes

from gdconv.compiled.encoder_step import SMALL, _least, _norm, least_ends, step_size
from gdconv.models.encoder.formulas import EncoderPass
from gdconv.models.encoder.parameters import BLOCKS
from gdconv.models.encoder.step import EncoderStep, take
from gdconv.models.encoder.tangent import block_kernels, encoder_ntk_vector_product
from gdconv.models.weights import steepness

ACTIVATIONS = ("relu", "gelu", "silu")


def stepped(model: Any, problem: Any, params: Any, trained: Any = BLOCKS) -> tuple[Any, Any]:
    """The compiled pass, and no other."""
    at, grad, steep = take(model, problem, params, trained)
    assert isinstance(at, EncoderStep)
    if torch.isfinite(at.loss).all():
        close(steep, steepness(grad, trained))
    return at, grad


def close(found: torch.Tensor, wanted: torch.Tensor, size: float = 1.0) -> None:
    """Equal up to rounding of terms of that size."""
    assert found.shape == wanted.shape
    scale = max(float(wanted.abs().max()), size)
    assert float((found - wanted).abs().max()) <= 1e-12 * scale


@pytest.mark.parametrize("name", ACTIVATIONS)
@given(shape=shapes, seed=st.integers(0, 10**6), runs=st.integers(1, 3), shared=st.booleans())
@settings(max_examples=20, deadline=None)
def test_pass_gradient_and_kernels_are_those_of_torch(
    name: str, shape: tuple[int, ...], seed: int, runs: int, shared: bool
) -> None:
    model, problem, params = case(shape, name, seed, runs)
    problem = problem[0] if shared else problem
    at, grad = stepped(model, problem, params)
    wanted, slopes = model.gradient(problem, params)
    for field in fields(EncoderPass):
        close(getattr(at, field.name), getattr(wanted, field.name))
    size = float(torch.stack([g.abs().max() for g in slopes.blocks().values()]).max())
    for b in BLOCKS:
        close(getattr(grad, b), getattr(slopes, b), size)
    kernels = block_kernels(model, problem, params)
    for i, b in enumerate(BLOCKS):
        close(at.kernels[:, i], kernels[b], float(sum(K.abs().max() for K in kernels.values())))
        assert torch.equal(at.kernels[:, i], at.kernels[:, i].mT)
    assert torch.equal(at.theta, torch.cat([b.flatten(1) for b in params.blocks().values()], 1))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gradient_and_kernels_are_those_of_autograd(name: str) -> None:
    """J by automatic differentiation of the outputs: J^T r, J_W J_W^T and J J^T r."""
    model, problem, params = case((3, 3, 4, 6), name, 5)
    at, grad = stepped(model, problem, params)

    def outputs(*blocks: torch.Tensor) -> torch.Tensor:
        there = params.with_blocks(dict(zip(BLOCKS, blocks, strict=True)))
        return model.forward(problem, there).residual[0]

    rows = torch.autograd.functional.jacobian(outputs, tuple(params.blocks().values()))
    r = outputs(*params.blocks().values())
    K = torch.zeros(3, 3)
    for i, (b, J) in enumerate(zip(BLOCKS, (J.flatten(1) for J in rows), strict=True)):
        close(getattr(grad, b).flatten(), J.mT @ r)
        close(at.kernels[0, i], J @ J.mT)
        K = K + J @ J.mT
    close(at.product[0], K @ r)
    least = float(torch.linalg.eigvalsh(K)[0])
    assert at.ends[0].tolist() == pytest.approx([least] * 2, rel=1e-9)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_product_is_of_the_trained_blocks(name: str) -> None:
    model, problem, params = case((3, 2, 4, 5), name, 2, 2)
    r = model.forward(problem, params).residual
    for trained in (t for k in range(1, 5) for t in combinations(BLOCKS, k)):
        at, _ = stepped(model, problem, params, trained)
        close(at.product, encoder_ntk_vector_product(model, problem, params, r, trained))
        K = sum(at.kernels[1, BLOCKS.index(b)] for b in trained)
        lo, hi = at.ends[1].tolist()
        room = 1e-12 * float(torch.trace(K))
        assert lo - room <= float(torch.linalg.eigvalsh(K)[0]) <= hi + room


def exact_least(K: np.ndarray) -> Any:
    """Least eigenvalue of the stored matrix to 40 digits."""
    with mpmath.workdps(40):
        return min(mpmath.eigsy(mpmath.matrix(K.tolist()), eigvals_only=True))


def test_bounds_of_the_least_eigenvalue_hold_and_are_tight() -> None:
    rng = np.random.default_rng(0)
    for N in (1, 2, 3, 5, 8, SMALL):
        for rank in {1, max(1, N - 1), N, 3 * N}:
            J = rng.standard_normal((N, rank)) * 10.0 ** rng.integers(-20, 20)
            K = J @ J.T
            K = 0.5 * (K + K.T)
            lo, hi = _least(K)
            exact, trace = exact_least(K), float(np.trace(K))
            assert lo <= exact <= hi
            assert hi - lo <= 60 * (N + 3) * 2.0**-53 * trace
            assert least_ends(K) == (lo, hi)


@pytest.mark.parametrize("K", [np.zeros((2, 2)), 1e200 * np.eye(2), 1e-200 * np.eye(2)])
def test_no_bounds_where_products_leave_the_range(K: np.ndarray) -> None:
    assert least_ends(K) == (-np.inf, np.inf)


def test_large_kernels_are_left_to_others() -> None:
    assert least_ends(np.eye(SMALL)) != (-np.inf, np.inf)
    for N in (0, SMALL + 1):
        assert least_ends(np.eye(N)) == (-np.inf, np.inf)


def test_norms_are_upper_bounds_and_tight() -> None:
    rng = np.random.default_rng(1)
    for m, D in ((1, 1), (1, 3), (7, 2), (40, 6), (300, SMALL)):
        for kind in range(3):
            W = rng.standard_normal((m, D))
            if kind == 1:
                W = np.outer(W[:, 0], W[0])
            if kind == 2:
                W = np.repeat(W[:, :1], D, 1) * 1e-9
            found = _norm(W.T @ W, m)
            with mpmath.workdps(40):
                exact_W = mpmath.matrix(W.tolist())
                top = max(mpmath.eigsy(exact_W.T * exact_W, eigvals_only=True))
                share = mpmath.mpf(float(found)) / mpmath.sqrt(top)
            assert 1 <= share <= 1 + 4 * (m + 40 * D) * 2.0**-53 * D
    assert np.isnan(_norm(np.zeros((2, 2)), 2))
    assert np.isnan(_norm(np.full((2, 2), np.inf), 2))


def test_norms_of_the_step() -> None:
    for D in (3, SMALL + 1):
        model, problem, params = case((2, 2, D, 5), "relu", 0, 2)
        at, _ = stepped(model, problem, params)
        for r in range(2):
            wanted = [float(torch.linalg.matrix_norm(W[r], 2)) for W in (params.W_Q, params.W_K)]
            found = at.norms[r].tolist()
            if D == 3:
                assert found[:2] == pytest.approx(wanted, rel=1e-13)
            else:
                assert np.isnan(found[:3]).all()
            assert found[3] == pytest.approx(float(params.w_O[r].norm()), rel=1e-13)
            assert found[3] >= float(params.w_O[r].norm()) * (1 - 2.0**-52)


def test_lengths_and_kinks() -> None:
    """Two neurons, one of which crosses; by hand."""
    theta = np.array([[1.0, 0.0, 0.0, 2.0, 3.0, -4.0]])
    after = theta + np.array([[0.0, 2.0, 1.0, 2.0, 3.0, 4.0]])
    pre = np.array([[[[1.0, -1.0]], [[-1.0, 0.0]]]])
    pre_after = np.array([[[[2.0, 5.0]], [[-3.0, 2.0]]]])
    found = step_size(theta, after, pre, pre_after, True)
    assert found == pytest.approx((3.0, 5.0, np.hypot(20.0, 8.0)), rel=1e-15)
    assert step_size(theta, after, pre, pre_after, False)[2] == 0.0
    back = step_size(theta, after, pre_after, pre, True)[2]
    assert back == pytest.approx(4.0, rel=1e-15)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_what_is_no_number_stays_none(name: str) -> None:
    model, problem, params = case((2, 2, 3, 4), name, 0)
    for b in BLOCKS[:3]:
        broken = getattr(params, b).clone()
        broken[0, 0, 0] = torch.nan
        at, _ = stepped(model, problem, replace(params, **{b: broken}))
        assert not torch.isfinite(at.loss).any()
        assert not torch.isfinite(at.ends).any()
