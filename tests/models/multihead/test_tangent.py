"""Closed tangent kernels against the Jacobian they stand for."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import KERNELS, draw, model, shapes

import gdconv.models.multihead.tangent_torch
from gdconv.models.multihead.attention_kernels import Gaussian, Softmax
from gdconv.models.multihead.parameters import BLOCKS, Parameters
from gdconv.models.multihead.tangent import (
    kappa_0,
    ntk_vector_product,
    query_kernel,
    tangent_kernel,
)
from gdconv.rigor.eigen import lambda_min_enclosure
from gdconv.rigor.spectrum import enclose_singular_range
from gdconv.support.errors import InputError

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


SUBSETS = [s for size in (1, 2, 3) for s in combinations(BLOCKS, size)]


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("kernel", KERNELS)
@given(
    shape=shapes,
    runs=st.integers(1, 3),
    seed=st.integers(0, 10**6),
    scale=st.floats(0.1, 2.0),
    blocks=st.sampled_from(SUBSETS),
)
@settings(max_examples=60, deadline=None)
def test_every_subset_of_blocks_is_the_gram_matrix(
    compiled: bool,
    kernel: str,
    shape: tuple[int, ...],
    runs: int,
    seed: int,
    scale: float,
    blocks: tuple[str, ...],
) -> None:
    problem, params = draw(shape, seed, scale, runs)
    made = model(kernel)
    K = tangent_kernel(made, problem, params, blocks, compiled)
    assert distance(K, made.jacobian(problem, params, blocks)) < 1e-12
    assert torch.equal(K, K.mT)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("shape", [(23, 7, 5, 3, 2, 1), (23, 7, 5, 3, 2, 2), (1, 70, 4, 3, 2, 1)])
def test_several_blocks_of_rows(compiled: bool, kernel: str, shape: tuple[int, ...]) -> None:
    """T = 161 and 70 tokens: more than one block of rows, the last one shorter, or n > ROWS."""
    problem, params = draw(shape, 4, 0.7)
    made = model(kernel)
    for blocks in SUBSETS:
        K = tangent_kernel(made, problem, params, blocks, compiled)
        assert distance(K, made.jacobian(problem, params, blocks)) < 1e-12


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("outputs", [1, 2])
def test_blocks_against_autograd(kernel: str, outputs: int) -> None:
    """J from torch.func of the forward pass alone: shares nothing with the closed tangents."""
    problem, params = draw((2, 3, 5, 3, 2, outputs), 8)
    made = model(kernel)

    def output(*weights: torch.Tensor) -> torch.Tensor:
        return made.forward(problem, Parameters(*weights, params.W_O)).F.flatten()

    weights = (params.W_Q, params.W_K, params.W_V)
    parts = [J.flatten(1)[None] for J in torch.func.jacrev(output, (0, 1, 2))(*weights)]
    assert distance(query_kernel(made, problem, params), parts[0]) < 1e-12
    for J, block in zip(parts, BLOCKS, strict=True):
        assert distance(tangent_kernel(made, problem, params, (block,)), J) < 1e-12
    for compiled in (True, False):
        K = tangent_kernel(made, problem, params, BLOCKS, compiled)
        assert distance(K, torch.cat(parts, 2)) < 1e-12


@pytest.mark.parametrize("kernel", KERNELS)
def test_tokens_far_from_the_origin(kernel: str) -> None:
    """Keys and queries share an offset of 100: expanding |q_k - k_j|^2 unshifted would lose it."""
    problem, params = draw((2, 3, 4, 3, 2, 1), 2, 0.2)
    moved = type(problem).from_arrays((problem.X + 100.0).numpy(), problem.y.numpy())
    same = Parameters(params.W_Q, params.W_Q + 1e-3 * params.W_K, params.W_V, params.W_O)
    made = model(kernel)
    J = made.jacobian(moved, same)
    for compiled in (True, False):
        assert distance(tangent_kernel(made, moved, same, BLOCKS, compiled), J) < 1e-12


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("compiled", [True, False])
def test_one_problem_serves_all_replicas_in_every_block(kernel: str, compiled: bool) -> None:
    problem, params = draw(WIDE, 5, runs=3)
    made, one = model(kernel), problem[1]
    shared = tangent_kernel(made, one, params, BLOCKS, compiled)
    for r in range(3):
        alone = tangent_kernel(made, one, params[r], BLOCKS, compiled)[0]
        assert torch.allclose(shared[r], alone, rtol=1e-12)


def test_float32_takes_the_general_path() -> None:
    problem, params = draw(WIDE, 5)
    made = model("gaussian")
    exact = tangent_kernel(made, problem, params)
    single = tangent_kernel(made, problem.to("cpu", torch.float32), params.to("cpu", torch.float32))
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), exact, rtol=1e-3, atol=1e-4 * float(exact.abs().max()))


@pytest.mark.parametrize("kernel", KERNELS)
@given(
    shape=shapes,
    runs=st.integers(1, 2),
    seed=st.integers(0, 10**6),
    blocks=st.sampled_from(SUBSETS),
)
@settings(max_examples=40, deadline=None)
def test_vector_product(
    kernel: str, shape: tuple[int, ...], runs: int, seed: int, blocks: tuple[str, ...]
) -> None:
    problem, params = draw(shape, seed, 0.8, runs)
    made = model(kernel)
    J = made.jacobian(problem, params, blocks)
    v = torch.from_numpy(np.random.default_rng(seed).standard_normal(J.shape[:2]))
    found = ntk_vector_product(made, problem, params, v, blocks)
    size = J.square().sum((1, 2)) * v.norm(dim=1) + 1e-300
    assert float(((found - (J @ (J.mT @ v[..., None]))[..., 0]).norm(dim=1) / size).max()) < 1e-13
    dense = (tangent_kernel(made, problem, params, blocks) @ v[..., None])[..., 0]
    assert float(((found - dense).norm(dim=1) / size).max()) < 1e-12


@pytest.mark.parametrize("kernel", KERNELS)
@given(shape=shapes, seed=st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_squared_gradient_is_the_quadratic_form(
    kernel: str, shape: tuple[int, ...], seed: int
) -> None:
    """|grad f|^2 = r^T K r >= 2 lambda_min(K) f: the PL inequality of the ladder."""
    problem, params = draw(shape, seed, 0.8)
    made = model(kernel)
    at, gradient = made.gradient(problem, params)
    square = sum(float(getattr(gradient, b).square().sum()) for b in BLOCKS)
    K, r = tangent_kernel(made, problem, params)[0], at.residual.flatten()
    trace = float(K.trace() * (r @ r))
    assert float(r @ K @ r) == pytest.approx(square, rel=1e-10, abs=1e-12 * trace)
    least = lambda_min_enclosure(K)
    assert square >= 2 * least.lo * float(at.loss) * (1 - 1e-12) - 1e-12 * trace


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("fault", ["head", "centring", "sign", "block"])
@pytest.mark.parametrize("outputs", [1, 2])
def test_planted_faults_are_noticed(
    kernel: str, fault: str, outputs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head left out, a wrong centring of c, a sign in the queries, a block left out."""
    problem, params = draw((2, 3, 6, 3, 3, outputs), 7)
    made = model(kernel)
    J, pieces = (
        made.jacobian(problem, params),
        gdconv.models.multihead.tangent_torch._Pieces.__init__,
    )
    assert distance(tangent_kernel(made, problem, params, BLOCKS, False), J) < 1e-12

    def broken(self, *args):  # type: ignore[no-untyped-def]
        pieces(self, *args)
        if fault == "head":
            self.c[:, 0] = 0.0
        if fault == "centring":
            change = self.S.unsqueeze(-2).expand(*self.S.shape[:4], self.D_y, self.n)
            self.c += change.reshape(self.c.shape)
        if fault == "sign":
            self.q = -self.q if kernel == "gaussian" else self.q.abs()

    monkeypatch.setattr(gdconv.models.multihead.tangent_torch._Pieces, "__init__", broken)
    blocks = BLOCKS[:2] if fault == "block" else BLOCKS
    assert distance(tangent_kernel(made, problem, params, blocks, False), J) > 1e-4


def test_wrong_arguments_are_named() -> None:
    problem, params = draw(WIDE, 1)
    made = model("softmax")
    for blocks in ((), ("W_O",), ("W_Q", "W_Q")):
        with pytest.raises(InputError, match="blocks"):
            tangent_kernel(made, problem, params, blocks)
    with pytest.raises(InputError, match="vector"):
        ntk_vector_product(made, problem, params, torch.ones(1, 3, dtype=torch.float64))
    with pytest.raises(InputError, match="symmetric"):
        lambda_min_enclosure([[1.0, 2.0], [0.0, 1.0]])
    with pytest.raises(InputError, match="slack"):
        lambda_min_enclosure([[1.0]], slack=-1.0)


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernel_and_jacobian_rungs_meet(kernel: str) -> None:
    """lambda_min(K) and sigma_m(J)^2, two independent enclosures of the same number."""
    problem, params = draw(WIDE, 0, 0.5)
    made = model(kernel)
    J = made.jacobian(problem, params)[0]
    least, largest = enclose_singular_range(J.numpy())
    box = lambda_min_enclosure(
        tangent_kernel(made, problem, params)[0], slack=1e-13 * largest.hi**2
    )
    assert box.lo <= least.hi**2
    assert least.lo**2 <= box.hi
    assert box.width < 1e-6 * least.mid**2
