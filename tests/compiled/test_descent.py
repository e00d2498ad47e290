"""The compiled loop against an independent plain implementation (torch autograd, float64).

Tolerance: 1e-12 relative to the largest entry; both sides round differently, each near 1e-15.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gdconv.compiled import simd
from gdconv.compiled.descent import DIVERGED, DONE, ROSE, TARGET, FusedRun
from gdconv.compiled.ledger import POSTERIOR, new_tests
from gdconv.support.errors import InputError

NAMES = ("W_Q", "W_K", "W_V")


def draw(seed, N, n, D, d, H, D_y):
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal
    weights = normal((3, H, D, d)) / D**0.5
    return {
        "X": normal((N, n, D)),
        "y": normal((N, n, D_y)),
        **dict(zip(NAMES, weights, strict=True)),
        "W_O": normal((H, d, D_y)) / d**0.5,
    }


def plain(kernel, data, sign=1.0):
    """Loss, gradients by W_Q, W_K, W_V and S, token pair by token pair as in the definition."""
    theta = [torch.tensor(data[name], requires_grad=True) for name in NAMES]
    X, y, W_O = (torch.tensor(data[name]) for name in ("X", "y", "W_O"))
    q, k = (torch.einsum("ind,hdc->ihnc", X, w) for w in theta[:2])
    root = q.shape[-1] ** 0.5
    if kernel == "softmax":
        S = torch.softmax(sign * q @ k.transpose(-1, -2) / root, -1)
    else:
        squares = ((q[..., :, None, :] - k[..., None, :, :]) ** 2).sum(-1)
        S = torch.exp(-sign * squares / (2 * root))
    F = torch.einsum("ihkj,ijd,hdc,hca->ika", S, X, theta[2], W_O)
    loss = 0.5 * ((F - y) ** 2).sum()
    gradient = torch.autograd.grad(loss, theta)
    return loss.item(), [g.numpy() for g in gradient], S.detach().numpy()


def mismatch(kernel, data, sign=1.0):
    """Largest deviation of loss, gradients and S, relative to the largest gradient entry."""
    run = FusedRun(kernel, **data)
    loss, grad_sq = run.evaluate()
    want_loss, want, S = plain(kernel, data, sign)
    scale = max(np.abs(g).max() for g in want)
    parts = [abs(loss / want_loss - 1), abs(grad_sq / sum((g**2).sum() for g in want) - 1)]
    parts += [np.abs(a - b).max() / scale for a, b in zip(run.gradients, want, strict=True)]
    return max(*parts, np.abs(run.S - S).max())


sizes = st.integers(1, 9)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["softmax", "gaussian"]),
    st.tuples(st.integers(1, 10), sizes, st.integers(1, 18), sizes, st.integers(1, 4)),
    st.integers(1, 3),
    st.integers(0, 10**6),
)
def test_loss_gradient_and_weights_agree_with_autograd(kernel, shape, D_y, seed):
    assert mismatch(kernel, draw(seed, *shape, D_y)) < 1e-12


def test_planted_sign_is_noticed():
    data = draw(0, 3, 4, 5, 3, 2, 1)
    assert mismatch("softmax", data, sign=-1.0) > 1e-3
    assert mismatch("gaussian", data, sign=-1.0) > 1e-3


@pytest.mark.parametrize("shape", [(16, 8, 64, 32, 4), (40, 9, 50, 33, 3)])
def test_large_products_agree(shape, monkeypatch):
    assert mismatch("softmax", draw(1, *shape, 1)) < 1e-12


@pytest.mark.parametrize("sizes", [(5, 24, 40), (300, 256, 200)])
def test_product_agrees_with_numpy(sizes):
    rows, inner, cols = sizes
    rng = np.random.default_rng(0)
    A, B, C = simd.zeros(rows * inner), simd.zeros(inner * cols), simd.zeros(rows * cols)
    A[:], B[:] = rng.standard_normal(A.size), rng.standard_normal(B.size)
    simd.product(A, 0, inner, B, 0, cols, C, 0, cols, rows, inner, cols)
    want = A.reshape(rows, inner) @ B.reshape(inner, cols)
    np.testing.assert_allclose(C.reshape(rows, cols), want, rtol=0, atol=1e-13 * inner)


@pytest.mark.parametrize("kernel", ["softmax", "gaussian"])
@pytest.mark.parametrize("D_y", [1, 2])
@pytest.mark.parametrize("trained", ["QKV", "Q", "KV", "V", "QV"])
def test_fifty_steps_agree(kernel, D_y, trained):
    data = draw(3, 4, 3, 6, 3, 2, D_y)
    run = FusedRun(kernel, **data, eta=0.02, trained=trained)
    assert run.advance(50) == DONE
    mine = dict(data)
    for _ in range(50):
        gradient = plain(kernel, mine)[1]
        for name, g in zip(NAMES, gradient, strict=True):
            if name[-1] in trained:
                mine[name] = mine[name] - 0.02 * g
    for name in NAMES:
        np.testing.assert_allclose(getattr(run, name), mine[name], rtol=0, atol=1e-12)
        assert (getattr(run, name) == data[name]).all() == (name[-1] not in trained)
    loss, gradient, _ = plain(kernel, mine)
    assert run.led["loss"][0] == pytest.approx(loss, rel=1e-12)
    want = sum((g**2).sum() for name, g in zip(NAMES, gradient, strict=True) if name[-1] in trained)
    assert run.led["grad_sq"][0] == pytest.approx(want, rel=1e-11)


def test_pieces_give_the_run_bit_for_bit():
    data = draw(5, 8, 4, 16, 8, 4, 1)
    whole, pieces = FusedRun("softmax", **data, eta=0.01), FusedRun("softmax", **data, eta=0.01)
    whole.advance(40)
    for until in (0, 1, 7, 8, 40):
        pieces.advance(until)
        assert pieces.led["step"][0] == until
    for name in NAMES:
        assert (getattr(whole, name) == getattr(pieces, name)).all()
    assert whole.led == pieces.led


def test_step_zero_is_the_start():
    data = draw(6, 2, 2, 4, 2, 2, 1)
    run = FusedRun("softmax", **data, eta=0.1)
    run.advance(0)
    assert run.led["step"][0] == 0
    assert all((getattr(run, name) == data[name]).all() for name in NAMES)
    assert run.led["loss_0"][0] == pytest.approx(plain("softmax", data)[0], rel=1e-14)


def test_stops():
    data = draw(7, 2, 2, 8, 4, 2, 1)
    run = FusedRun("softmax", **data, eta=0.05)
    assert run.advance(10**6, loss_target=1e-6) == TARGET
    assert run.led["loss"][0] <= 1e-6
    assert run.advance(10**6, loss_target=1e-6) == TARGET, "no further step"
    step = int(run.led["step"][0])
    assert run.advance(step) in (DONE, TARGET)
    wild = FusedRun("softmax", **data, eta=1e3, tests=new_tests([POSTERIOR], [0.0]))
    assert wild.advance(50, stop_on_rise=True) == ROSE
    assert wild.led["rises"][0] == 1
    limit = FusedRun("softmax", **data, eta=1e3)
    assert limit.advance(50, loss_limit=1e4) == DIVERGED


def test_non_finite_loss_is_not_observed():
    data = draw(8, 2, 2, 4, 2, 2, 1)
    run = FusedRun("softmax", **data, eta=1e200)
    assert run.advance(50) == DIVERGED
    assert np.isfinite(run.led["loss"][0])
    loss = plain("softmax", {**data, **{name: getattr(run, name) for name in NAMES}})[0]
    assert run.led["loss"][0] == pytest.approx(loss, rel=1e-12)


@pytest.mark.parametrize(
    ("change", "field"),
    [({"y": np.ones((2, 2))}, "y"), ({"W_K": np.ones((2, 4, 3))}, "W_K"), ({"X": np.ones(3)}, "X")],
)
def test_wrong_shapes_are_named(change, field):
    with pytest.raises(InputError, match=field):
        FusedRun("softmax", **{**draw(0, 2, 2, 4, 2, 2, 1), **change})


def test_unknown_names_are_refused():
    data = draw(0, 2, 2, 4, 2, 2, 1)
    with pytest.raises(InputError, match="kernel"):
        FusedRun("linear", **data)
    with pytest.raises(InputError, match="trained"):
        FusedRun("softmax", **data, trained="O")


def test_exp_is_within_two_ulp_everywhere():
    import numba

    @numba.njit
    def fill(x, out):
        for i in range(0, x.size, 8):
            simd.store(out, i, simd.exp(simd.load(x, i)))

    rng = np.random.default_rng(0)
    x = np.concatenate([np.linspace(-746, 709.7, 40_000), 3 * rng.standard_normal(8000)])
    special = [np.nan, np.inf, -np.inf, 0.0, -0.0, -1e308, 1e308, -745.2]
    x = np.concatenate([x, special])
    out = np.empty_like(x)
    fill(x, out)
    want = np.array([math.exp(value) for value in x[:-8]])
    assert (np.abs(out[:-8] - want) / np.spacing(want)).max() <= 2
    assert np.isnan(out[-8])
    assert out[-7:].tolist() == [np.inf, 0.0, 1.0, 1.0, 0.0, np.inf, 0.0]
