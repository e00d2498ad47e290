"""The greatest eigenvalue: against the dense spectrum, along descents, where eigenvalues cross."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from samples import KERNELS, draw, model

from gdconv.data.problem import Problem
from gdconv.models.multihead import sharpness as module
from gdconv.models.multihead.hessian import multihead_hessian
from gdconv.models.multihead.parameters import BLOCKS, Parameters
from gdconv.models.multihead.sharpness import Curvature, sharpest

SHAPES = [(2, 3, 4, 3, 2, 2), (4, 3, 9, 4, 2, 1), (1, 2, 3, 2, 1, 1), (8, 2, 6, 2, 4, 3)]
TRAINED = [BLOCKS, ("W_Q",), ("W_Q", "W_V")]


def dense(kernel: str, problem: Any, params: Any, trained: tuple[str, ...]) -> Any:
    return multihead_hessian(model(kernel), problem, params, trained)[0].numpy()


def agrees(found: Any, spectrum: np.ndarray) -> None:
    """It is lambda_max within its error, which is small; numpy's own error aside."""
    size = abs(spectrum).max()
    assert abs(found.value - spectrum[-1]) <= found.error + 2e-14 * size
    assert found.error <= 1e-10 * size


@pytest.mark.parametrize("kernel", KERNELS)
def test_it_is_the_greatest_eigenvalue_of_the_matrix(kernel: str) -> None:
    for shape, trained, seed in product(SHAPES, TRAINED, range(2)):
        problem, params = draw(shape, seed, 0.7)
        H = dense(kernel, problem, params, trained)
        w, V = np.linalg.eigh(H)
        found, v = sharpest(model(kernel), problem, params, trained)
        agrees(found, w)
        assert v is not None
        assert np.linalg.norm(H @ v - found.value * v) <= found.error + 1e-14 * abs(w).max()
        for start in (V[:, -1], V[:, 0], V[:, -2], V[:, -1] + 0.1 * V[:, -2]):
            agrees(sharpest(model(kernel), problem, params, trained, start)[0], w)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_start_orthogonal_to_its_vector_is_left(kernel: str) -> None:
    """In 216 dimensions, where Lanczos ends long before it has seen all of them."""
    for seed in range(4):
        problem, params = draw((4, 3, 9, 4, 2, 1), seed, 0.5)
        w, V = np.linalg.eigh(dense(kernel, problem, params, BLOCKS))
        H = Curvature(model(kernel), problem, params, BLOCKS)
        for rank in (2, 3, 4, 100):
            agrees(H.greatest(V[:, -rank])[0], w)


def crossing(a: np.ndarray) -> tuple[Problem, Parameters]:
    """H by W_V is diag(a^2): one token a sample, along its own axis."""
    D = len(a)
    zero, one = np.zeros((1, D, 1)), np.ones((1, 1, 1))
    problem = Problem.from_arrays(np.diag(a)[:, None], np.ones((D, 1)))
    return problem, Parameters.from_arrays({"W_Q": zero, "W_K": zero, "W_V": zero, "W_O": one})


def test_eigenvalues_that_cross_are_told_apart() -> None:
    """The vector of the old greatest eigenvalue is orthogonal to that of the new one, exactly."""
    a = np.linspace(0.5, 0.9, 100)
    start = None
    for moved in np.concatenate([np.linspace(1.2, 0.95, 9), np.linspace(0.95, 1.2, 9)]):
        a[3], a[70] = moved, 1.05
        found, start = sharpest(model("softmax"), *crossing(a), ("W_V",), start)
        agrees(found, np.sort(a**2))
        assert start is not None
        assert abs(start[3 if moved > 1.05 else 70]) > 0.999


@pytest.mark.parametrize("gap", [0.3, 1e-2, 1e-3])
def test_a_rival_close_above_the_start_is_seen(gap: float) -> None:
    a = np.sqrt(np.linspace(0.2, 0.8, 150))
    a[10], a[140] = 1.0, np.sqrt(1.0 + gap)
    start = np.zeros(150)
    start[10] = 1.0
    agrees(sharpest(model("softmax"), *crossing(a), ("W_V",), start)[0], np.sort(a**2))
    pure = Curvature(model("softmax"), *crossing(a), ("W_V",)).greatest(start, mix=0.0)[0]
    assert pure.value == pytest.approx(1.0)  # negative control: nothing leads away from there


def test_clusters_and_multiple_eigenvalues() -> None:
    a = np.sqrt(np.concatenate([np.linspace(0.1, 0.9, 60), np.full(40, 1.0)]))
    agrees(sharpest(model("softmax"), *crossing(a), ("W_V",))[0], np.sort(a**2))
    a[60:] = np.sqrt(1.0 + 1e-7 * np.arange(40))
    found, _ = sharpest(model("softmax"), *crossing(a), ("W_V",))
    assert np.min(abs(a**2 - found.value)) <= found.error <= 1e-5  # no better within `STEPS`
    assert found.value >= 1.0


def test_a_spectrum_without_gaps_is_searched_again_from_the_vector_found() -> None:
    a = np.sqrt(np.linspace(0.0, 1.0, 3000))
    found, _ = sharpest(model("softmax"), *crossing(a), ("W_V",))
    assert np.min(abs(a**2 - found.value)) <= found.error <= 1e-5
    assert found.value == pytest.approx(1.0, abs=1e-6)


def test_along_a_descent_from_vector_to_vector() -> None:
    for kernel, shape in product(KERNELS, SHAPES[:2]):
        problem, params = draw(shape, 5, 0.5)
        start = None
        for _ in range(6):
            w = np.linalg.eigvalsh(dense(kernel, problem, params, BLOCKS))
            found, start = sharpest(model(kernel), problem, params, BLOCKS, start)
            agrees(found, w)
            _, grad = model(kernel).gradient(problem, params)
            params = params.with_blocks({
                b: getattr(params, b) - 0.5 / float(w[-1]) * getattr(grad, b) for b in BLOCKS
            })


def test_a_vector_that_has_not_converged_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The residual is that of the vector given back, formed anew."""
    monkeypatch.setattr(module, "RESTARTS", 0)
    for steps, seed in product((1, 2, 3, 5), range(3)):
        monkeypatch.setattr(module, "STEPS", steps)
        problem, params = draw((4, 3, 9, 4, 2, 1), seed, 0.5)
        H = dense("softmax", problem, params, BLOCKS)
        found, v = sharpest(model("softmax"), problem, params, BLOCKS)
        assert v is not None
        assert found.value == pytest.approx(float(v @ H @ v), rel=1e-12)
        left = float(np.linalg.norm(H @ v - found.value * v))
        assert left == pytest.approx(found.error, rel=1e-6)
        assert np.min(abs(np.linalg.eigvalsh(H) - found.value)) <= found.error


def precisely(kernel: str, problem: Any, params: Any, trained: tuple[str, ...], v: Any) -> Any:
    """H v in extended precision: every step of the gradient, differentiated by hand."""
    wide = np.longdouble
    X, y = problem.X[0].numpy().astype(wide)[None], problem.y[0].numpy().astype(wide)
    Q, K, V, O = (block[0].astype(wide) for block in params.numpy().values())  # noqa: E741
    moved = dict(zip(trained, v.astype(wide).reshape(len(trained), *Q.shape), strict=True))
    Q1, K1, V1 = (moved.get(block, np.zeros_like(Q)) for block in BLOCKS)
    s = 1 / np.sqrt(wide(Q.shape[2]))
    q, k, q1, k1 = (X @ W[:, None] for W in (Q, K, Q1, K1))
    u, u1 = X @ (V @ O)[:, None], X @ (V1 @ O)[:, None]
    gap, gap1 = q[..., None, :] - k[..., None, :, :], q1[..., None, :] - k1[..., None, :, :]
    if kernel == "softmax":
        S = np.exp(s * (q @ k.mT))
        S /= S.sum(-1, keepdims=True)
        T1 = s * (q1 @ k.mT + q @ k1.mT)
        S1 = S * (T1 - (S * T1).sum(-1, keepdims=True))
    else:
        S = np.exp(-s / 2 * (gap * gap).sum(-1))
        S1 = -s * S * (gap * gap1).sum(-1)
    r, r1 = (S @ u).sum(0) - y, (S1 @ u + S @ u1).sum(0)
    G, G1 = r @ u.mT, r1 @ u.mT + r @ u1.mT
    if kernel == "softmax":
        mean, mean1 = (S * G).sum(-1, keepdims=True), (S1 * G + S * G1).sum(-1, keepdims=True)
        P, P1 = s * S * (G - mean), s * (S1 * (G - mean) + S * (G1 - mean1))
        dq, dk = P1 @ k + P @ k1, P1.mT @ q + P.mT @ q1
    else:
        P, P1 = s * S * G, s * (S1 * G + S * G1)
        both = P1[..., None] * gap + P[..., None] * gap1
        dq, dk = -both.sum(-2), both.sum(-3)
    out = [(X.mT @ d).sum(1) for d in (dq, dk, S1.mT @ r + S.mT @ r1)]
    parts = dict(zip(BLOCKS, (out[0], out[1], out[2] @ O.mT), strict=True))
    return np.concatenate([parts[block].ravel() for block in trained])


@pytest.mark.skipif(np.finfo(np.longdouble).eps > 1e-18, reason="no extended precision here")
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_allowance_covers_the_rounding_of_the_product(kernel: str) -> None:
    """And comes within a factor of twenty of it: it is no blank cheque."""
    nearest = 0.0
    for shape, trained, scale, seed in product(SHAPES, TRAINED[:2], (0.3, 1.0), range(6)):
        problem, params = draw(shape, seed, scale)
        found, v = sharpest(model(kernel), problem, params, trained)
        assert v is not None
        wrong = Curvature(model(kernel), problem, params, trained)(v) - precisely(
            kernel, problem, params, trained, v
        )
        share = float(np.linalg.norm(wrong.astype(float))) / found.error
        assert share <= 1
        nearest = max(nearest, share)
    assert nearest > 0.05


def test_what_rounding_leaves_of_a_zero_hessian_is_within_the_error() -> None:
    """Equal tokens: softmax attention does not move, H by W_Q is zero, its product is not."""
    for seed in range(5):
        problem, params = draw((2, 3, 5, 3, 2, 1), seed, 0.5)
        X = problem.X[:, :, :1].expand(-1, -1, 3, -1).contiguous()
        alike = type(problem)(X, problem.y)
        found = sharpest(model("softmax"), alike, params, ("W_Q",))[0]
        product_ = Curvature(model("softmax"), alike, params, ("W_Q",))(np.ones(30))
        assert np.linalg.norm(product_) <= 1e-10
        assert abs(found.value) <= found.error <= 1e-10


def test_exact_zeros_negative_spectra_and_one_weight() -> None:
    problem, params = draw((2, 3, 4, 3, 2, 2), 0)
    still = params.with_blocks({"W_O": torch.zeros_like(params.W_O)})
    for kernel in KERNELS:
        found, v = sharpest(model(kernel), problem, still, BLOCKS)
        assert found.value == 0.0 == found.error
        assert v is not None
    seen = 0
    for seed in range(40):
        one, w = draw((1, 2, 1, 1, 1, 1), seed)
        H = float(dense("gaussian", one, w, ("W_Q",))[0, 0])
        found, _ = sharpest(model("gaussian"), one, w, ("W_Q",))
        assert abs(found.value - H) <= found.error <= 1e-10 * max(abs(H), 1.0)
        seen += H < 0
    assert seen > 5


@pytest.mark.parametrize("scale", [1e-60, 1e60])
def test_sizes_far_from_one(scale: float) -> None:
    problem, params = draw((2, 3, 4, 3, 2, 2), 0, 0.5)
    large = params.with_blocks({"W_O": params.W_O * scale})
    far = type(problem)(problem.X, problem.y * scale)
    near = sharpest(model("softmax"), problem, params, ("W_Q", "W_K"))[0]
    found = sharpest(model("softmax"), far, large, ("W_Q", "W_K"))[0]
    assert found.value == pytest.approx(near.value * scale**2, rel=1e-12)
    assert found.error <= 1e-10 * found.value


def test_what_leaves_float64_is_nan_and_a_bad_start_is_none() -> None:
    problem, params = draw((2, 3, 4, 3, 2, 2), 0)
    huge = params.with_blocks({"W_O": params.W_O * 1e200})
    found, v = sharpest(model("softmax"), problem, huge, BLOCKS)
    assert np.isnan(found.value)
    assert np.isnan(found.error)
    assert v is None
    large = params.with_blocks({"W_O": params.W_O * 1e100})  # its squares do
    found, v = sharpest(model("softmax"), problem, large, BLOCKS)
    assert np.isnan(found.value)
    assert np.isnan(found.error)
    assert v is None
    wanted = sharpest(model("softmax"), problem, params, BLOCKS)[0]
    for bad in (np.zeros(72), np.full(72, np.nan), np.full(72, 1e200)):
        assert sharpest(model("softmax"), problem, params, BLOCKS, bad)[0] == wanted


def test_it_is_the_same_number_every_time() -> None:
    problem, params = draw((4, 3, 9, 4, 2, 1), 0)
    first, v = sharpest(model("gaussian"), problem, params, BLOCKS)
    again, u = sharpest(model("gaussian"), problem, params, BLOCKS)
    assert first == again
    assert v is not None
    assert u is not None
    assert np.array_equal(u, v)
