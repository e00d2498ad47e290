"""What a theorem reads of the encoder: enclosures, and probes against exact arithmetic."""

from __future__ import annotations

from dataclasses import replace

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import motion
from samples_encoder import case, shapes

from gdconv.data.problem import Problem
from gdconv.models.encoder.model import ShallowEncoder
from gdconv.models.encoder.parameters import BLOCKS, EncoderParameters
from gdconv.models.encoder.point import EncoderPoint
from gdconv.models.probes import distances, gap

UNIT = 2.0**-53
STEP = np.array([1e-2, 1e-3])


@pytest.mark.parametrize("name", ["relu", "gelu", "silu"])
@given(shape=shapes, seed=st.integers(0, 10**6))
@settings(max_examples=30)
def test_a_gradient_step_has_a_defect_within_rounding(
    name: str, shape: tuple[int, ...], seed: int
) -> None:
    model, problem, params = case(shape, name, seed, runs=2)
    probed = model.probe(problem, params)
    _, grad = model.gradient(problem, params)
    descent = motion(problem, params, STEP, BLOCKS)
    (wanted, _), (right, _) = descent.step(params, probed.gradient), descent.step(params, grad)
    allowed = descent.allowed(probed, UNIT)
    assert (gap(right, wanted) <= allowed).all()
    for b in BLOCKS:  # negative control
        wrong = replace(right, **{b: getattr(right, b) + 1e-9})
        assert (gap(wrong, wanted) > allowed).all()


def exact_residual(model: ShallowEncoder, problem: Problem, W: dict[str, np.ndarray]) -> list:
    """Scaled residuals of replica 0 in 50 digits, token by token."""
    mp = mpmath.mp
    Q, K, V = (mp.matrix(W[b][0].tolist()) for b in BLOCKS[:3])
    w, root = W["w_O"][0].tolist(), mp.sqrt(mp.mpf(model.loss_scale))
    slopes = {"gelu": mp.mpf(1.12891), "silu": mp.mpf(1.09984), "relu": mp.mpf(1)}
    shape = {
        "relu": lambda x: max(x, mp.mpf(0)),
        "gelu": lambda x: x * mp.ncdf(x),
        "silu": lambda x: x / (1 + mp.exp(-x)),
    }[model.activation]
    found = []
    for x, y in zip(problem.X[0].tolist(), problem.y[0].flatten().tolist(), strict=True):
        X = mp.matrix(x)
        queries, keys = X * Q.T, X * K.T
        total = mp.mpf(0)
        for k in range(X.rows):
            scores = [
                mp.mpf(model.tau_0) * mp.fdot(queries[k, :], keys[j, :]) for j in range(X.rows)
            ]
            top = max(scores)
            e = [mp.exp(s - top) for s in scores]
            attended = [mp.fdot(e, X[:, a]) / mp.fsum(e) for a in range(X.cols)]
            pre = V * mp.matrix(attended)
            total += mp.fsum(w[m] * shape(pre[m]) for m in range(len(w)))
        found.append(root * (mp.mpf(model.tau_1) * total / slopes[model.activation] - mp.mpf(y)))
    return found


@pytest.mark.parametrize("name", ["relu", "gelu", "silu"])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e2])
def test_noise_covers_the_rounding_of_the_residual(name: str, size: float) -> None:
    """|r - r_true| within the noise scale, which is not so large that it hides everything."""
    worst = 0.0
    with mpmath.workdps(50):
        for seed in range(4):
            model, problem, params = case((2, 3, 4, 5), name, seed)
            problem = replace(problem, X=size * problem.X)
            at = model.forward(problem, params)
            true = exact_residual(model, problem, params.numpy())
            error = mpmath.norm([
                mpmath.mpf(float(a)) - b for a, b in zip(at.residual[0], true, strict=True)
            ])
            probed = model.probe(problem, params)
            worst = max(worst, float(error) / probed.noise_scale[0])
            scale = 1 + float(at.F.norm()) + probed.jacobian_norm[0] * probed.weight_norm[0]
            assert probed.noise_scale[0] < 1e-11 * (1 + size**2) * scale
    assert 1e-4 < worst <= 1.0


def loops_probe(
    model: ShallowEncoder, problem: Problem, params: EncoderParameters, trained: tuple[str, ...]
) -> tuple[float, float, float]:
    """(noise_scale, jacobian_error, jacobian_norm) of one replica, in loops.

    8u (|F| + |y| + sum |J_W| |W| + what is lost before scores and tokens cancel) and
    u (64 |J| + 16 size of the sums in J_Q and J_K).
    """
    at = model.forward(problem, params)
    X, S = problem.X[0].numpy(), at.S[0].numpy()
    W = {b: getattr(params, b)[0].numpy() for b in BLOCKS}
    J = {b: np.linalg.norm(model.jacobian(problem, params, (b,))[0].numpy()) for b in BLOCKS}
    root, (N, n, _) = np.sqrt(model.loss_scale), X.shape
    scale = root * (np.linalg.norm(at.F[0]) + np.linalg.norm(problem.y[0]))
    scale += sum(J[b] * np.linalg.norm(W[b]) for b in BLOCKS)
    c = model.tau_1 * root
    lost, attended, by_query, by_key = (np.zeros(N) for _ in range(4))
    for i in range(N):
        queries, keys = (abs(X[i]) @ abs(W[b]).T for b in ("W_Q", "W_K"))
        sums = np.zeros((n, n))
        for k in range(n):
            slope = model.act.slope(at.pre[0, i, k]).numpy()
            t = (c * W["w_O"] * slope) @ W["W_V"]
            u = [t @ x for x in X[i]]
            size = [abs(t) @ abs(x) for x in X[i]]
            mean, whole = S[i, k] @ u, S[i, k] @ size
            for j in range(n):
                lost[i] += model.tau_0 * S[i, k, j] * abs(u[j] - mean) * (queries[k] @ keys[j])
                attended[i] += S[i, k, j] * c * abs(W["w_O"]) @ abs(W["W_V"]) @ abs(X[i, j])
                sums[k, j] = S[i, k, j] * (size[j] + whole)
        for k in range(n):
            x = np.linalg.norm(X[i, k])
            by_query[i] += np.linalg.norm(sums[k] @ keys) * x
            by_key[i] += np.linalg.norm(sums[:, k] @ queries) * x
    total = np.sqrt(sum(J[b] ** 2 for b in trained))
    norm = np.linalg.norm
    terms = model.tau_0 * np.sqrt(norm(by_query) ** 2 + norm(by_key) ** 2)
    noise = 8 * UNIT * (scale + norm(lost) + norm(attended))
    return float(noise), float(UNIT * (64 * total + 16 * terms)), float(total)


@pytest.mark.parametrize("name", ["relu", "gelu"])
@pytest.mark.parametrize("trained", [BLOCKS, ("W_K", "w_O")])
def test_error_bars_are_those_of_the_page(name: str, trained: tuple[str, ...]) -> None:
    model, problem, params = case((2, 3, 4, 5), name, 3)
    for size in (1.0, 20.0):  # small and large scores
        here = replace(problem, X=size * problem.X)
        probed = model.probe(here, params, trained)
        noise, error, total = loops_probe(model, here, params, trained)
        assert probed.noise_scale[0] == pytest.approx(noise, rel=1e-12, abs=0.0)
        assert probed.jacobian_error[0] == pytest.approx(error, rel=1e-12, abs=0.0)
        assert probed.jacobian_norm[0] == pytest.approx(total, rel=1e-12, abs=0.0)
        squares = sum(float(getattr(params, b).square().sum()) for b in trained)
        assert probed.weight_norm[0] == pytest.approx(squares**0.5, rel=1e-12, abs=0.0)
        residual = float(model.forward(here, params).residual.norm())
        assert probed.residual_norm[0] == pytest.approx(residual, rel=1e-12, abs=0.0)


def test_norms_of_the_data() -> None:
    model, problem, params = case((3, 2, 4, 5), "relu", 4)
    start = EncoderPoint(model, problem, params)
    X = problem.X[0].numpy()
    assert start.C_x == pytest.approx(max(np.sqrt((x**2).sum() / 2) for x in X), rel=1e-12)
    centred = [x - (x[0] + x[1]) / 2 for x in X]
    for found, made in ((start.x, list(X)), (start.t, centred)):
        wanted = [np.sqrt(np.linalg.eigvalsh(x @ x.T)[-1]) for x in made]
        assert found == pytest.approx(wanted, rel=1e-12)
    for b in BLOCKS[:3]:
        W = start.arrays[b]
        assert start.norm(b) == pytest.approx(np.sqrt(np.linalg.eigvalsh(W.T @ W)[-1]), rel=1e-12)
    assert start.norm("w_O") == pytest.approx(np.sqrt((start.arrays["w_O"] ** 2).sum()), rel=1e-12)


def test_the_residual_norm_is_taken_from_above() -> None:
    """r_0 = |r| + its error bar; a side that grows with r_0 allows for eight times its share."""
    model, problem, params = case((3, 2, 4, 5), "relu", 4)
    start = EncoderPoint(model, problem, params)
    residual = float(model.forward(problem, params).residual.norm())
    noise = loops_probe(model, problem, params, BLOCKS)[0]
    assert start.r_error == pytest.approx(noise, rel=1e-12, abs=0.0)
    assert start.r_0 - residual == pytest.approx(noise, rel=0.3, abs=0.0)
    side = start.uncertain(3.0)
    assert side.hi == pytest.approx(3 * (1 + 1e-11), rel=1e-13, abs=0.0)
    assert side.lo == pytest.approx(3 * (1 - 8 * noise / residual), rel=1e-14, abs=0.0)
    exact = replace(problem, y=model.forward(problem, params).F.reshape(problem.y.shape))
    assert EncoderPoint(model, exact, params).uncertain(3.0).lo == 0.0


def test_noise_covers_attended_tokens_that_cancel() -> None:
    """Nearly opposite tokens: the attended token is what rounding left of large numbers."""
    rng = np.random.default_rng(0)
    model = ShallowEncoder(0.5, 1.0)
    x = 1e6 * rng.standard_normal((2, 1, 4))
    problem = Problem.per_sample(
        np.concatenate([x, -x + rng.standard_normal(x.shape)], 1), [0.0, 0.0]
    )
    W = {b: 1e-9 * rng.standard_normal((6, 4)) for b in ("W_Q", "W_K")}
    W |= {"W_V": rng.standard_normal((6, 4)), "w_O": rng.standard_normal(6)}
    params = EncoderParameters.from_arrays(W)
    with mpmath.workdps(50):
        true = exact_residual(model, problem, params.numpy())
        at = model.forward(problem, params)
        error = float(
            mpmath.norm([
                mpmath.mpf(float(a)) - b for a, b in zip(at.residual[0], true, strict=True)
            ])
        )
    noise = model.probe(problem, params).noise_scale[0]
    assert error <= noise


def test_frozen_blocks_do_not_move() -> None:
    model, problem, params = case((2, 2, 4, 3), "relu", 0)
    found = model.probe(problem, params, trained=("w_O",)).gradient
    down, _ = motion(problem, params, np.array([0.1]), ("w_O",)).step(params, found)
    moved = distances(down, params)
    assert moved["distance_O"][0] > 0
    assert moved["distance_Q"][0] == moved["distance_K"][0] == moved["distance_V"][0] == 0


@given(shape=shapes, seed=st.integers(0, 10**6), name=st.sampled_from(["relu", "silu"]))
@settings(max_examples=40)
def test_spectra_are_enclosed(shape: tuple[int, ...], seed: int, name: str) -> None:
    model, problem, params = case(shape, name, seed)
    start = model.point(problem, params, BLOCKS)
    assert isinstance(start, EncoderPoint)
    s = np.linalg.svd(start.F_pre, compute_uv=False)
    least, greatest = start.feature_range
    expected = s[-1] if shape[3] >= shape[0] else 0.0
    room = 1e-13 * s[0]
    assert least.lo - room <= expected <= least.hi + room
    assert greatest.lo <= s[0] * (1 + 1e-13)
    assert greatest.hi >= s[0] * (1 - 1e-13)
    J = np.linalg.svd(model.jacobian(problem, params)[0].numpy(), compute_uv=False)
    low, high = start.J_range
    floor = J[-1] if len(J) == shape[0] else 0.0
    assert low.lo <= floor + 1e-7 * J[0]  # K squares the condition number
    assert low.hi >= floor - 1e-7 * J[0]
    assert high.lo * (1 - 1e-12) <= J[0] <= high.hi * (1 + 1e-12)


def test_a_narrow_encoder_has_alpha_zero() -> None:
    start = EncoderPoint(*case((4, 2, 3, 2), "relu", 0))
    assert start.alpha == (0.0, 0.0)


def test_r_0_is_an_upper_end_where_the_residual_cancels() -> None:
    model, problem, params = case((2, 2, 4, 9), "relu", 1)
    F = model.forward(problem, params).F[:, :, None, None]
    start = EncoderPoint(model, replace(problem, y=F.clone()), params)
    assert start.f_0 == 0.0
    assert 0 < start.r_0 < 1e-12


def test_loss_scale_is_part_of_every_norm() -> None:
    """The mean loss is the summed one with tau_1 and labels times sqrt(1/N)."""
    model, problem, params = case((4, 2, 3, 9), "relu", 3)
    mean = replace(model, loss_scale=0.25, tau_1=1.0)
    summed = replace(model, loss_scale=1.0, tau_1=0.5)
    one = EncoderPoint(mean, problem, params)
    other = EncoderPoint(summed, replace(problem, y=0.5 * problem.y), params)
    assert one.f_0 == pytest.approx(other.f_0, rel=1e-12)
    assert one.alpha.lo == pytest.approx(other.alpha.lo, rel=1e-12)
    assert np.allclose(one.K, other.K, rtol=1e-12)
