"""Ball arithmetic: contains the truth, agrees with float64 within the a-priori noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from flint import arb, arb_mat
from hypothesis import given, settings
from hypothesis import strategies as st

from gdconv.models.multihead.balls import (
    ball_attention,
    ball_B,
    ball_gradient_norm,
    ball_loss,
    certified_sigma_min_at,
)
from gdconv.rigor.balls import Certified, refine, to_enclosure, working_precision
from gdconv.rigor.spectrum import Enclosure, enclose_sigma_min
from gdconv.rigor.sylvester import certified_sigma_min, contains_sigma_min
from gdconv.support.errors import InputError

UNIT = 2.0**-53


def draw(seed, N=2, n=3, D=4, d=2, H=2, D_y=1, scale=0.7):
    rng = np.random.default_rng(seed)
    shapes = [(N, n, D), (N, n, D_y), (H, D, d), (H, D, d), (H, D, d), (H, d, D_y)]
    return [scale * rng.normal(size=shape) for shape in shapes]


def float_model(X, y, W_Q, W_K, W_V, W_O, kernel):
    """Plain numpy: S (N, H, n, n), B (N n, H D), F (N, n, D_y), loss."""
    d = W_Q.shape[2]
    q, k = np.einsum("bnD,hDd->bhnd", X, W_Q), np.einsum("bnD,hDd->bhnd", X, W_K)
    if kernel == "softmax":
        Z = q @ k.swapaxes(-1, -2) / math.sqrt(d)
        E = np.exp(Z - Z.max(axis=-1, keepdims=True))
        S = E / E.sum(axis=-1, keepdims=True)
    else:
        S = np.exp(-((q[..., :, None, :] - k[..., None, :, :]) ** 2).sum(-1) / (2 * math.sqrt(d)))
    features = np.einsum("bhkj,bjD->bkhD", S, X)
    B = features.reshape(X.shape[0] * X.shape[1], -1)
    F = np.einsum("bkhD,hDd,hdy->bky", features, W_V, W_O)
    return S, B, F, 0.5 * float(((F - y) ** 2).sum())


def jacobian_norms(args, kernel, h=1e-6):
    """Sum over blocks of |J_W|_F |W|_F, by central differences: two digits suffice here."""
    total = 0.0
    for index in range(2, 6):
        W, square = args[index], 0.0
        for entry in np.ndindex(W.shape):
            outputs = []
            for sign in (h, -h):
                moved = [A.copy() for A in args]
                moved[index][entry] += sign
                outputs.append(float_model(*moved, kernel)[2])
            square += (((outputs[0] - outputs[1]) / (2 * h)) ** 2).sum()
        total += math.sqrt(square) * np.linalg.norm(W)
    return total


shapes = st.fixed_dictionaries({
    "N": st.integers(1, 2),
    "n": st.integers(1, 3),
    "D": st.integers(1, 4),
    "d": st.integers(1, 3),
    "H": st.integers(1, 2),
    "D_y": st.integers(1, 2),
})


@settings(max_examples=60)
@given(st.integers(0, 10**6), shapes, st.sampled_from(["softmax", "gaussian"]))
def test_loss_agrees_with_float64_within_the_noise(seed, sizes, kernel):
    """|r_float - r| <= nu r with nu = 8u (|F| + |y| + sum_W |J_W| |W|_F) / r."""
    args = draw(seed, **sizes)
    F, loss = float_model(*args, kernel)[2:]
    noise = 8 * UNIT * (np.linalg.norm(F) + np.linalg.norm(args[1]) + jacobian_norms(args, kernel))
    certified = ball_loss(*args, kernel=kernel)
    assert certified.reached
    assert certified.radius <= 2e-15 * certified.mid
    assert abs(math.sqrt(2 * loss) - math.sqrt(2 * certified.mid)) <= noise + 4 * UNIT * math.sqrt(
        2 * loss
    )


@pytest.mark.parametrize("kernel", ["softmax", "gaussian"])
def test_planted_wrong_loss_is_noticed(kernel):
    """Negative control: a temperature of d instead of sqrt(d) lies far outside the ball."""
    args = draw(0, d=3)
    wrong = [*args]
    wrong[2] = args[2] / math.sqrt(math.sqrt(3))
    wrong[3] = args[3] / math.sqrt(math.sqrt(3))
    box = ball_loss(*args, kernel=kernel).enclosure
    value = float_model(*wrong, kernel)[3]
    assert not box.lo * (1 - 1e-9) <= value <= box.hi * (1 + 1e-9)


@pytest.mark.parametrize("kernel", ["softmax", "gaussian"])
def test_attention_and_features_agree_with_float64(kernel):
    X, y, W_Q, W_K, W_V, W_O = draw(1)
    S, B, _, _ = float_model(X, y, W_Q, W_K, W_V, W_O, kernel)
    balls = ball_attention(X, W_Q, W_K, kernel)
    for i, h in np.ndindex(2, 2):
        mine = np.array([[float(z) for z in row] for row in balls[i][h].tolist()])
        np.testing.assert_allclose(mine, S[i, h], rtol=1e-13)
    mine = np.array([[float(z) for z in row] for row in ball_B(X, W_Q, W_K, kernel).tolist()])
    np.testing.assert_allclose(mine, B, rtol=1e-12, atol=1e-14)


def test_softmax_rows_contain_sum_one():
    X, _, W_Q, W_K, _, _ = draw(2, scale=5.0)
    for heads in ball_attention(X, W_Q, W_K):
        for S in heads:
            for row in S.tolist():
                assert sum(row, arb(0)).contains(1)


@pytest.mark.parametrize("kernel", ["softmax", "gaussian"])
def test_gradient_norm_agrees_with_differences(kernel):
    args = draw(3)
    for trains in (("W_Q", "W_K", "W_V"), ("W_Q",), ("W_V",)):
        square, h = 0.0, 1e-6
        for name in trains:
            index = {"W_Q": 2, "W_K": 3, "W_V": 4}[name]
            for entry in np.ndindex(args[index].shape):
                ends = []
                for sign in (h, -h):
                    moved = [A.copy() for A in args]
                    moved[index][entry] += sign
                    ends.append(float_model(*moved, kernel)[3])
                square += ((ends[0] - ends[1]) / (2 * h)) ** 2
        certified = ball_gradient_norm(*args, kernel=kernel, trains=trains)
        assert certified.reached
        assert certified.mid == pytest.approx(math.sqrt(square), rel=1e-6)


def test_huge_scores_do_not_overflow():
    args = draw(4, scale=30.0)
    certified = ball_loss(*args)
    assert certified.reached
    assert math.isfinite(certified.mid)


def test_precision_rises_for_a_cancelling_loss_and_says_when_it_cannot():
    X = np.array([[[1.0]]])
    one = np.array([[[1.0]]])
    third = np.array([[[0.1 * 3]]])
    # F = 0.1 * 3 in exact arithmetic, y its float: a residual of 2^-54, loss 2^-109
    tiny = ball_loss(X, third, one, one, np.array([[[0.1]]]), np.array([[[3.0]]]), precision=20)
    assert tiny.reached
    assert tiny.precision > 20
    assert 0 < tiny.mid < 1e-30
    # softmax of equal scores gives exactly 1/3 each, X sums to 3: the residual is 0 in disguise
    X3, y3 = np.ones((1, 3, 1)), np.ones((1, 3, 1))
    zero = ball_loss(X3, y3, one, one, one, one, limit=512)
    assert not zero.reached
    assert zero.enclosure.lo <= 0.0 <= zero.enclosure.hi


def test_bad_input_is_named():
    X, y, W_Q, W_K, W_V, W_O = draw(0)
    with pytest.raises(InputError, match="^kernel"):
        ball_loss(X, y, W_Q, W_K, W_V, W_O, kernel="linear")
    with pytest.raises(InputError, match="^W_K"):
        ball_loss(X, y, W_Q, W_K[:, :3], W_V, W_O)
    with pytest.raises(InputError, match="^y"):
        ball_loss(X, y[:, :, 0], W_Q, W_K, W_V, W_O)
    with pytest.raises(InputError, match="^X"):
        ball_loss(X * np.nan, y, W_Q, W_K, W_V, W_O)


# Smallest singular values.


@pytest.mark.parametrize("seed", range(40))
def test_two_certificates_agree(seed):
    """Inertia in balls and the exact characteristic polynomial are independent methods."""
    rng = np.random.default_rng(seed)
    m = int(rng.integers(1, 7))
    p = int(rng.integers(m, 9))
    B = rng.normal(size=(m, p)) * 10.0 ** rng.integers(-9, 9, size=(m, 1))
    value = certified_sigma_min(B, 20)
    assert value.reached
    assert contains_sigma_min(B, value.enclosure)
    assert value.enclosure.width <= 1e-15 * value.mid
    # negative controls: intervals just below and just above
    assert not contains_sigma_min(B, Enclosure(0.0, value.mid * (1 - 1e-9)))
    assert not contains_sigma_min(B, Enclosure(value.mid * (1 + 1e-9), math.inf))


def test_known_values():
    assert certified_sigma_min(np.diag([5.0, 3.0]), 30).ball.contains(3)
    golden = certified_sigma_min([[1.0, 1.0], [0.0, 1.0]], 30).ball  # (sqrt 5 - 1) / 2
    with working_precision(200):
        assert golden.overlaps((arb(5).sqrt() - 1) / 2)
    assert golden.rad() < 1e-30


def test_clustered_and_multiple_values():
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    for s in (np.ones(12), np.r_[2.0, np.ones(11)], np.r_[np.ones(6), 1e-7 * np.ones(6)]):
        B = Q * s
        value = certified_sigma_min(B, 18)
        assert value.reached
        box = enclose_sigma_min(B)
        assert box.lo <= value.mid <= box.hi
    assert certified_sigma_min(np.eye(7), 40).ball.contains(1)


def test_hilbert_matrix():
    """Condition number 1e13: float64 alone has no correct digit here."""
    B = 1.0 / (np.arange(10)[:, None] + np.arange(10) + 1)
    value = certified_sigma_min(B, 20)
    assert value.reached
    assert value.mid < 2e-13
    assert contains_sigma_min(B, value.enclosure)


def test_zero_is_proved_by_rank():
    rng = np.random.default_rng(0)
    for B in (
        np.ones((3, 2)),
        np.ones((4, 9)),
        np.zeros((2, 3)),
        (rng.integers(-9, 9, (7, 6)) @ rng.integers(-9, 9, (6, 12))).astype(float),
        np.array([[1e300, 1e300], [1e-300, 1e-300]]),
    ):
        value = certified_sigma_min(B)
        assert value.reached
        assert value.ball.is_zero()


def test_graded_denormal_and_wild_scales():
    diagonals = [np.diag([1e300, 1.0, 1e-300]), np.diag([5e-324, 1e-310])]
    for B in [*diagonals, np.array([[1.7e308, 1e-308]])]:
        value = certified_sigma_min(B, 20)
        assert value.reached
        assert contains_sigma_min(B, value.enclosure)


def test_sigma_min_of_the_true_features_is_near_that_of_the_stored_ones():
    X, y, W_Q, W_K, W_V, W_O = draw(5, N=2, n=2, D=5, H=2)
    for kernel in ("softmax", "gaussian"):
        B = float_model(X, y, W_Q, W_K, W_V, W_O, kernel)[1]
        value = certified_sigma_min_at(X, W_Q, W_K, kernel, digits=20)
        assert value.reached
        box = enclose_sigma_min(B)
        slack = 1e-13 * np.linalg.norm(B)  # forming B in float64
        assert box.lo - slack <= value.mid <= box.hi + slack


def test_duplicate_tokens_are_not_resolved_but_said():
    X = np.ones((1, 2, 3))
    W = np.ones((1, 3, 1))
    value = certified_sigma_min_at(X, W, W, digits=10)
    assert not value.reached
    assert value.enclosure.lo <= 0.0 <= value.enclosure.hi < 1e-20


def test_outward_rounding():
    third = arb(1) / 3
    box = to_enclosure(third)
    assert arb(box.lo) <= third.lower()
    assert third.upper() <= arb(box.hi)
    assert box.width < 1e-15
    with working_precision(100):
        assert to_enclosure(arb(10) ** 400).lo == np.finfo(float).max
        assert to_enclosure(arb(10) ** 400).hi == math.inf
        assert to_enclosure(arb(10) ** -400) == Enclosure(0.0, 5e-324)
    assert to_enclosure(arb("nan")) == Enclosure(-math.inf, math.inf)


def test_refine_reports_failure():
    failed = refine(lambda bits: arb(1).sin() - arb(1).sin(), limit=256)
    assert isinstance(failed, Certified)
    assert not failed.reached
    assert refine(lambda bits: arb_mat([[2]])[0, 0].sqrt(), 1e-60).precision > 200
