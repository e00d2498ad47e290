"""Closed tangent kernel of the shallow encoder against autograd, and its rounding bound."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import product
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples_encoder import case, shapes

import gdconv.models.encoder.tangent
from gdconv.data.problem import Problem
from gdconv.models.encoder.activations import ACTIVATIONS
from gdconv.models.encoder.model import ShallowEncoder
from gdconv.models.encoder.parameters import BLOCKS, EncoderParameters, initialize_encoder, scaling
from gdconv.models.encoder.tangent import (
    Ladder,
    _alpha,
    _square,
    _widened,
    block_kernels,
    encoder_kernel,
    encoder_ntk_vector_product,
    ladder,
)
from gdconv.models.encoder.tangent_slack import Slack, kernel_slack
from gdconv.rigor.rounding import Enclosure
from gdconv.rigor.spectrum import enclose_sigma_min
from gdconv.support.errors import InputError

TOLERANCE = 1e-12

activations = st.sampled_from(sorted(ACTIVATIONS))


def autograd_jacobian(
    model: ShallowEncoder, problem: Problem, params: EncoderParameters, block: str
) -> torch.Tensor:
    """J of the scaled outputs by one block, from the forward pass alone; (R, N, p)."""

    def output(W: torch.Tensor) -> torch.Tensor:
        return model.forward(problem, replace(params, **{block: W})).residual.sum(0)

    J = torch.autograd.functional.jacobian(output, getattr(params, block))
    return J.transpose(0, 1).flatten(2)


def distance(K: torch.Tensor, J: torch.Tensor) -> float:
    """|K - J J^T| over |J|_F^2, the worst replica."""
    size = J.square().sum((1, 2)).clamp_min(1e-300)
    return float(((K - J @ J.mT).abs().amax((1, 2)) / size).max())


@given(shape=shapes, name=activations, runs=st.integers(1, 2), seed=st.integers(0, 10**6))
@settings(max_examples=60)
def test_every_block_is_the_gram_matrix_of_autograd(
    shape: tuple[int, ...], name: str, runs: int, seed: int
) -> None:
    model, problem, params = case(shape, name, seed, runs)
    parts = block_kernels(model, problem, params)
    assert tuple(parts) == BLOCKS
    whole = []
    for b in BLOCKS:
        J = autograd_jacobian(model, problem, params, b)
        # a score part below rounding of its own terms (one token: exactly 0) has no digits
        noise = 1e-13 * float(problem.X.norm() ** 2 * params.w_O.norm())
        assert distance(parts[b], J) < TOLERANCE or float(J.norm()) < noise, b
        assert torch.equal(parts[b], parts[b].mT)
        whole.append(J)
    total = encoder_kernel(model, problem, params)
    assert distance(total, torch.cat(whole, dim=2)) < TOLERANCE
    assert torch.equal(total, total.mT)


@given(shape=shapes, name=activations, runs=st.integers(1, 3), seed=st.integers(0, 10**6))
@settings(max_examples=40)
def test_vector_product(shape: tuple[int, ...], name: str, runs: int, seed: int) -> None:
    model, problem, params = case(shape, name, seed, runs)
    v = torch.from_numpy(np.random.default_rng(seed).standard_normal((runs, shape[0])))
    for blocks in (BLOCKS, ("W_V",), ("W_Q", "w_O"), ("W_K",)):
        K = encoder_kernel(model, problem, params, blocks)
        product = encoder_ntk_vector_product(model, problem, params, v, blocks)
        direct = (K @ v.unsqueeze(2)).squeeze(2)
        size = float(encoder_kernel(model, problem, params).norm() * v.norm())
        assert float((product - direct).norm()) <= TOLERANCE * max(size, 1.0)


def test_chunks_over_the_width_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, problem, params = case((3, 3, 4, 9), "relu", 1, 2)
    whole = encoder_kernel(model, problem, params)
    monkeypatch.setattr(gdconv.models.encoder.tangent, "WIDTH", 4)
    assert torch.allclose(encoder_kernel(model, problem, params), whole, rtol=1e-13)


def test_order_of_blocks_and_replicas_do_not_matter() -> None:
    model, problem, params = case((3, 2, 4, 9), "relu", 2, 3)
    K = encoder_kernel(model, problem, params)
    assert torch.equal(K, encoder_kernel(model, problem, params, BLOCKS[::-1]))
    shared = encoder_kernel(model, problem[1], params)
    for r in range(3):
        assert torch.allclose(K[r], encoder_kernel(model, problem[r], params[r])[0], rtol=1e-12)
        one = encoder_kernel(model, problem[1], params[r])[0]
        assert torch.allclose(shared[r], one, rtol=1e-12)


def test_a_wrong_block_is_noticed() -> None:
    """Negative control: W_Q's own Gram matrix in the place of W_K's."""
    model, problem, params = case((3, 3, 4, 8), "relu", 3)
    swapped = replace(params, W_Q=params.W_K, W_K=params.W_Q)
    J = autograd_jacobian(model, problem, params, "W_Q")
    at = model.forward(problem, params)
    wrong = block_kernels(model, problem, swapped, ("W_Q",), at)["W_Q"]
    assert distance(wrong, J) > 1e-3


def exact(model: ShallowEncoder, problem: Problem, W: dict[str, np.ndarray]) -> tuple[Any, Any]:
    """K and the residual of replica 0 by the token-wise formulas; mpmath matrices."""
    mp = mpmath.mp
    Q, K, V = (mp.matrix(W[b][0].tolist()) for b in BLOCKS[:3])
    w = mp.matrix(W["w_O"][0].tolist())
    c = mp.mpf(model.tau_1) * mp.sqrt(mp.mpf(model.loss_scale))

    def value(x: Any) -> tuple[Any, Any]:
        if model.activation == "relu":
            return (x, mp.mpf(1)) if x > 0 else (mp.mpf(0), mp.mpf(0))
        if model.activation == "gelu":
            s = mp.mpf(1.12891)
            return x * mp.ncdf(x) / s, (mp.ncdf(x) + x * mp.npdf(x)) / s
        g, s = 1 / (1 + mp.exp(-x)), mp.mpf(1.09984)
        return x * g / s, g * (1 + x * (1 - g)) / s

    rows, residual = [], []
    for tokens, y in zip(problem.X[0].tolist(), problem.y[0, :, 0, 0].tolist(), strict=True):
        X, n, d_m = mp.matrix(tokens), len(tokens), len(w)
        q, k, v = X * Q.T, X * K.T, X * V.T
        J_O, J_V = mp.zeros(d_m, 1), mp.zeros(d_m, X.cols)
        C = mp.zeros(n, n)
        for t in range(n):
            z = [model.tau_0 * mp.fsum(q[t, m] * k[j, m] for m in range(d_m)) for j in range(n)]
            top = max(z)
            e = [mp.exp(s - top) for s in z]
            S = [s / mp.fsum(e) for s in e]
            A = [mp.fsum(S[j] * X[j, b] for j in range(n)) for b in range(X.cols)]
            a = []
            for m in range(d_m):
                f, slope = value(mp.fsum(V[m, b] * A[b] for b in range(X.cols)))
                J_O[m] += c * f
                a.append(c * w[m] * slope)
                for b in range(X.cols):
                    J_V[m, b] += a[m] * A[b]
            u = [mp.fsum(a[m] * v[j, m] for m in range(d_m)) for j in range(n)]
            mean = mp.fsum(S[j] * u[j] for j in range(n))
            for j in range(n):
                C[t, j] = model.tau_0 * S[j] * (u[j] - mean)
        J_Q, J_K = (C * k).T * X, (C.T * q).T * X
        residual.append(mp.fdot(J_O, w) - mp.sqrt(mp.mpf(model.loss_scale)) * y)
        rows.append([*J_Q, *J_K, *J_V, *J_O])
    return mp.matrix([[mp.fdot(a, b) for b in rows] for a in rows]), mp.matrix(residual)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_slack_covers_the_rounding_and_not_much_more(name: str, seed: int) -> None:
    model, problem, params = case((2, 3, 3, 5), name, seed)
    K, at = encoder_kernel(model, problem, params)[0], model.forward(problem, params)
    with mpmath.workdps(50):
        true, residual = exact(model, problem, params.numpy())
        error = float(mpmath.norm(mpmath.matrix(K.tolist()) - true, 2))
        moved = float(mpmath.norm(mpmath.matrix(at.residual[0].tolist()) - residual))
    slack = kernel_slack(model, problem, params)[0]
    size = float(K.trace())
    assert error <= slack.total
    assert moved <= slack.residual < 1e-11 * float(at.F_pre.norm() * params.w_O.norm() + 1)
    assert slack.total < 1e-11 * size
    # Negative control: the same kernel in float32 arithmetic is outside.
    low = encoder_kernel(model, problem.to(dtype=torch.float32), params.to("cpu", torch.float32))
    assert float((low[0].double() - K).norm()) > slack.total


def test_slack_counts_neurons_of_unknown_sign() -> None:
    """W_V x = 0 up to rounding: either slope may be meant, and the bound says so."""
    problem = Problem.per_sample([[[0.1, 0.3]]], [0.0])
    W = np.ones((1, 2))
    flat = {"W_Q": W, "W_K": W, "W_V": np.array([[3.0, -1.0]]), "w_O": np.ones(1)}
    model = ShallowEncoder(tau_0=1.0, tau_1=1.0)
    unsure = kernel_slack(model, problem, EncoderParameters.from_arrays(flat))[0]
    sure = EncoderParameters.from_arrays(flat | {"W_V": np.array([[3.0, -0.9]])})
    assert unsure.value > 0.09
    assert kernel_slack(model, problem, sure)[0].value < 1e-13


SLACK = Slack(
    residual=9.0, features=1e-3, output=7.0, value=2e-3, query=5.0, key=6.0, output_value=4e-3,
    total=8e-3,
)  # fmt: skip


def rungs_of(slack: Slack, monkeypatch: pytest.MonkeyPatch) -> tuple[Ladder, dict[str, float]]:
    """A ladder under a given rounding bound, and what its rungs enclose."""
    model, problem, params = case((2, 2, 4, 9), "gelu", 1)
    monkeypatch.setattr(gdconv.models.encoder.tangent, "kernel_slack", lambda *_: [slack])
    parts = {b: K[0].numpy() for b, K in block_kernels(model, problem, params).items()}
    F = model.forward(problem, params).F_pre[0].numpy()
    both = parts["w_O"] + parts["W_V"]
    least = {
        "alpha": np.linalg.svd(F, compute_uv=False)[-1],
        "value": np.linalg.eigvalsh(parts["W_V"])[0],
        "output_value": np.linalg.eigvalsh(both)[0],
        "full": np.linalg.eigvalsh(both + parts["W_Q"] + parts["W_K"])[0],
    }
    return ladder(model, problem, params)[0], {k: float(v) for k, v in least.items()}


def test_every_rung_is_widened_by_its_own_slack(monkeypatch: pytest.MonkeyPatch) -> None:
    for factor in (1.0, 1e-9, 1e3):  # the last one reaches 0
        slack = Slack(*(factor * s for s in SLACK))
        found, least = rungs_of(slack, monkeypatch)
        a, s = least["alpha"], slack.features
        squares = max(a - s, 0.0) ** 2, (a + s) ** 2
        v, s = least["value"], slack.value
        wanted = {
            "alpha": (a, a),
            "features": squares,
            "separate": (squares[0] + max(v - s, 0.0), squares[1] + v + s),
        }
        for name in ("output_value", "full"):
            room = slack.total if name == "full" else slack.output_value
            wanted[name] = max(least[name] - room, 0.0), least[name] + room
        for name, (lo, hi) in wanted.items():
            box = getattr(found, name)
            assert box.lo == pytest.approx(lo, rel=1e-12, abs=1e-14), name
            assert box.hi == pytest.approx(hi, rel=1e-12, abs=1e-14), name
            assert box.lo <= lo * (1 + 1e-14), name
            assert box.hi >= hi * (1 - 1e-14), name
        assert found.slack == slack.total


def test_an_infinite_slack_bounds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    found, least = rungs_of(Slack(*[np.inf] * 8), monkeypatch)
    for name in ("features", "separate", "output_value", "full"):
        assert getattr(found, name) == Enclosure(0.0, np.inf), name
    assert found.alpha.hi == pytest.approx(least["alpha"])
    only, least = rungs_of(SLACK._replace(value=np.inf), monkeypatch)
    assert only.separate.hi == np.inf > only.full.hi


def test_boxes_are_rounded_outwards() -> None:
    for lo, hi in ((0.1, 0.3), (1 / 3, 2 / 3), (1e-3, 7.7), (0.0, 0.0)):
        square = _square(Enclosure(lo, hi))
        assert Fraction(square.lo) <= Fraction(lo) ** 2
        assert Fraction(square.hi) > Fraction(hi) ** 2
        assert square.hi == pytest.approx(hi * hi, rel=1e-15, abs=1e-300)
        assert square.lo == pytest.approx(lo * lo, rel=1e-15, abs=1e-300)
        for margin in (0.0, 1e-17, 0.1):
            wide = _widened(Enclosure(lo, hi), margin)
            below = Fraction(lo) - Fraction(margin)
            assert Fraction(wide.lo) < below or wide.lo == 0.0 >= below
            assert Fraction(wide.hi) > Fraction(hi) + Fraction(margin)
            assert wide.hi == pytest.approx(hi + margin, rel=1e-15, abs=1e-300)
            assert wide.lo == pytest.approx(max(lo - margin, 0.0), rel=1e-15, abs=1e-300)


def test_a_rung_below_the_one_before_is_named() -> None:
    one, two = Enclosure(1.0, 2.0), Enclosure(2.0, 3.0)
    high = Enclosure(2.5, 3.0)
    names = ("features", "separate", "output_value", "full")
    for k in range(1, 4):  # the box of rung k ends where the one before begins, or below it
        touching = [two] * k + [one] * (4 - k)
        assert Ladder(one, *touching, 0.0).broken() == ()
        below = [high] * k + [one] * (4 - k)
        assert Ladder(one, *below, 0.0).broken() == (names[k],)


@given(shape=shapes, name=activations, seed=st.integers(0, 10**6))
@settings(max_examples=30)
def test_ladder_never_breaks(shape: tuple[int, ...], name: str, seed: int) -> None:
    model, problem, params = case(shape, name, seed, 2)
    for r, rungs in enumerate(ladder(model, problem, params)):
        assert rungs.broken() == ()
        F = model.forward(problem, params).F_pre[r].numpy()
        sigma = np.linalg.svd(F, compute_uv=False)[-1] if F.shape[0] <= F.shape[1] else 0.0
        room = 1e-13 * max(np.linalg.norm(F), 1.0)
        assert rungs.alpha.lo - room <= sigma <= rungs.alpha.hi + room


@pytest.mark.parametrize("rule", ["lecun", "he", "ntk"])
def test_ladder_separates_its_rungs_and_notices_a_wrong_block(rule: str) -> None:
    rng = np.random.default_rng(0)
    problem = Problem.per_sample(rng.standard_normal((4, 3, 6)), rng.standard_normal(4))
    model = ShallowEncoder(scaling("linear", 512), 1.0)
    params = initialize_encoder(rule, (512, 6), 1)
    good = ladder(model, problem, params)[0]
    assert good.features.lo > 0
    assert good.features.hi < good.separate.hi <= good.output_value.hi * (1 + 1e-9)
    assert good.output_value.lo <= good.full.hi
    parts = block_kernels(model, problem, params)
    parts["W_V"] = parts["W_V"] - 2 * parts["W_V"].diagonal(dim1=1, dim2=2).diag_embed()
    assert ladder(model, problem, params, parts)[0].broken()


def test_overflow_leaves_the_ladder_open() -> None:
    """Scores beyond 1e300 bound nothing: the rungs are [0, inf] and never an error."""
    model, problem, params = case((2, 2, 3, 4), "relu", 0)
    huge = replace(params, W_Q=params.W_Q * 1e99, W_K=params.W_K * 1e99)
    rungs = ladder(model, problem, huge)[0]
    assert rungs.full.lo == 0.0
    assert rungs.broken() == ()


def test_bad_input_is_named() -> None:
    model, problem, params = case((2, 2, 3, 4), "relu", 0)
    for blocks in ((), ("W_O",), ("W_V", "W_V")):
        with pytest.raises(InputError, match="blocks"):
            encoder_kernel(model, problem, params, blocks)
    with pytest.raises(InputError, match="vector"):
        encoder_ntk_vector_product(model, problem, params, torch.ones(1, 5, dtype=torch.float64))
    with pytest.raises(InputError, match="weights"):
        kernel_slack(model, problem, params.to("cpu", torch.float32))


def test_alpha_is_enclosed_by_either_way() -> None:
    """Through F F^T or by a verified SVD, against 40 digits; nearly dependent rows too."""
    rng = np.random.default_rng(3)
    ways = set()
    for N, d_m, near in product((1, 2, 5), (5, 40), (1.0, 1e-4, 1e-9)):
        F = rng.standard_normal((N, d_m))
        if N > 1:
            F[1] = F[0] + near * F[1]
        found = _alpha(F)
        with mpmath.workdps(40):
            exact = mpmath.matrix(F.tolist())
            least = mpmath.sqrt(min(mpmath.eigsy(exact * exact.T, eigvals_only=True)))
            assert found.lo <= least <= found.hi
        ways.add(found != enclose_sigma_min(F))
        assert found.width <= 1e-12 * found.lo or found == enclose_sigma_min(F)
    assert ways == {True, False}
    assert _alpha(np.ones((3, 2))) == Enclosure(0.0, 0.0)
