"""The closed query kernel K_Q against the Jacobian it stands for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import KERNELS, draw, model, shapes

from gdconv.kernels import Gaussian, Softmax
from gdconv.models.multihead import Parameters
from gdconv.ntk import kappa_0, query_kernel
from gdconv.spectrum import enclose_singular_range

WIDE = (2, 2, 6, 3, 4, 2)
"""m = 8 outputs, 72 query weights: kappa_0 > 0."""


def distance(K: torch.Tensor, J: torch.Tensor) -> float:
    """|K - J J^T| over |J|_F^2, the worst replica; entries of J J^T are sums of products of J's."""
    size = J.square().sum((1, 2)).clamp_min(1e-300)
    return float(((K - J @ J.mT).abs().amax((1, 2)) / size).max())


@pytest.mark.parametrize("kernel", KERNELS)
@given(shape=shapes, runs=st.integers(1, 3), seed=st.integers(0, 10**6), scale=st.floats(0.1, 2.0))
@settings(max_examples=60)
def test_closed_form_is_the_gram_matrix(
    kernel: str, shape: tuple[int, ...], runs: int, seed: int, scale: float
) -> None:
    problem, params = draw(shape, seed, scale, runs)
    made = model(kernel)
    J = made.jacobian(problem, params, ("W_Q",))
    K = query_kernel(made, problem, params)
    m = shape[0] * shape[1] * shape[5]
    assert K.shape == (runs, m, m)
    assert distance(K, J) < 1e-12


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_gram_matrix_of_autograd(kernel: str) -> None:
    """J from autograd of the forward pass alone: shares nothing with the closed tangents."""
    problem, params = draw(WIDE, 3)
    made = model(kernel)

    def output(W_Q: torch.Tensor) -> torch.Tensor:
        moved = Parameters(W_Q, params.W_K, params.W_V, params.W_O)
        return made.forward(problem, moved).F.flatten()

    J = torch.autograd.functional.jacobian(output, params.W_Q).flatten(1)[None]
    assert distance(query_kernel(made, problem, params), J) < 1e-12


@pytest.mark.parametrize("kernel", KERNELS)
def test_one_problem_serves_all_replicas(kernel: str) -> None:
    problem, params = draw(WIDE, 5, runs=3)
    made, one = model(kernel), problem[1]
    shared = query_kernel(made, one, params)
    for r in range(3):
        assert torch.allclose(shared[r], query_kernel(made, one, params[r])[0], rtol=1e-13)


@pytest.mark.parametrize("kernel", KERNELS)
@given(seed=st.integers(0, 10**6), scale=st.floats(0.1, 1.5))
@settings(max_examples=25)
def test_kappa_0_is_the_least_singular_value_squared(kernel: str, seed: int, scale: float) -> None:
    problem, params = draw(WIDE, seed, scale, runs=2)
    made = model(kernel)
    J = made.jacobian(problem, params, ("W_Q",)).numpy()
    found = kappa_0(made, problem, params).numpy()
    for r in range(2):
        least, largest = enclose_singular_range(J[r])
        allowed = 1e-10 * largest.hi**2
        assert least.lo**2 - allowed <= found[r] <= least.hi**2 + allowed


@pytest.mark.parametrize("kernel", KERNELS)
def test_kappa_0_agrees_to_ten_digits_where_it_is_large(kernel: str) -> None:
    problem, params = draw(WIDE, 0, 0.5)
    made = model(kernel)
    least, _ = enclose_singular_range(made.jacobian(problem, params, ("W_Q",))[0].numpy())
    assert least.lo > 0
    assert kappa_0(made, problem, params).item() == pytest.approx(least.mid**2, rel=1e-10)


@pytest.mark.parametrize("kernel", KERNELS)
def test_kappa_0_vanishes_with_fewer_weights_than_outputs(kernel: str) -> None:
    problem, params = draw((3, 3, 2, 1, 2, 2), 1)  # m = 18, H D d = 4
    made = model(kernel)
    norm = float(torch.linalg.matrix_norm(query_kernel(made, problem, params), 2))
    assert 0 <= kappa_0(made, problem, params).item() < 1e-14 * norm


def test_softmax_needs_a_head_per_output_on_two_tokens() -> None:
    """n = 2: a head's covariances are parallel to k_1 - k_2, so H < D_y makes kappa_0 vanish."""
    problem, params = draw((2, 2, 8, 4, 1, 2), 1, 0.5)
    kappas = {}
    for kernel in KERNELS:
        norm = float(torch.linalg.matrix_norm(query_kernel(model(kernel), problem, params), 2))
        kappas[kernel] = kappa_0(model(kernel), problem, params).item() / norm
    assert kappas["softmax"] < 1e-14 < 1e-7 < kappas["gaussian"]


@pytest.mark.parametrize("kernel", KERNELS)
def test_without_the_head_sum_is_noticed(kernel: str) -> None:
    """Planted fault: head 0 alone."""
    problem, params = draw(WIDE, 7)
    made = model(kernel)
    J = made.jacobian(problem, params, ("W_Q",))
    one = Parameters(*(getattr(params, b)[:, :1] for b in ("W_Q", "W_K", "W_V", "W_O")))
    assert distance(query_kernel(made, problem, params), J) < 1e-12
    assert distance(query_kernel(made, problem, one), J) > 1e-3


@pytest.mark.parametrize("kernel", [Softmax, Gaussian])
def test_a_wrong_sign_in_the_score_gradient_is_noticed(
    kernel: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted faults in query_tangent: a sign flipped in one term, and in all of it.

    A sign of the whole tangent cannot change K_Q = J J^T; the gradient of the loss shows it.
    """
    problem, params = draw(WIDE, 9)
    made = model(kernel.name)
    J = made.jacobian(problem, params, ("W_Q",))
    tangent = kernel.query_tangent

    def whole(self, S, q, k, v):  # type: ignore[no-untyped-def]
        return -tangent(self, S, q, k, v)

    def term(self, S, q, k, v):  # type: ignore[no-untyped-def]
        if kernel is Gaussian:  # q_k + k_j for q_k - k_j
            return tangent(self, S, q, -k, v)
        kept = torch.einsum("...kj,...jd,...ja->...kad", S, k, v) / k.shape[-1] ** 0.5
        return 2 * kept - tangent(self, S, q, k, v)  # k_j + kbar_k for k_j - kbar_k

    monkeypatch.setattr(kernel, "query_tangent", term)
    assert distance(query_kernel(made, problem, params), J) > 1e-3
    monkeypatch.setattr(kernel, "query_tangent", whole)
    assert distance(query_kernel(made, problem, params), J) < 1e-12
    at, gradient = made.gradient(problem, params)
    wrong = made.jacobian(problem, params, ("W_Q",))
    residual = at.residual.flatten(1)
    expected = gradient.W_Q.flatten(1)
    assert torch.allclose(torch.einsum("rmp,rm->rp", J, residual), expected, rtol=1e-10)
    assert not torch.allclose(torch.einsum("rmp,rm->rp", wrong, residual), expected, rtol=0.5)
    assert np.isfinite(expected.numpy()).all()
