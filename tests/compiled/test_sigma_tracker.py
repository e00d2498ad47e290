"""The enclosure of sigma_min(B_t) contains the true value, is narrow, and widens under faults.

The true value: B from the stored S and X in 60-digit arithmetic, singular values by mpmath.
"""

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stress_tracking import DRIFTS, exactly_contains, walk

from gdconv.compiled import block_bounds as block_check
from gdconv.compiled.descent import FusedRun
from gdconv.compiled.sigma_tracker import enclose, new_tracker, track
from gdconv.compiled.simd import padded, zeros


def design(X, S):
    """B in float64, shape (N n, H D)."""
    N, H, n, _ = S.shape
    return np.concatenate([(S[:, h] @ X).reshape(N * n, -1) for h in range(H)], axis=1)


def exact(X, S):
    """sigma_{Nn}(B) with 60 digits; S and X taken as they are stored."""
    N, H, n, _ = S.shape
    D = X.shape[2]
    if N * n > H * D:
        return mpmath.mpf(0)
    with mpmath.workdps(60):
        B = mpmath.matrix(N * n, H * D)
        for i in range(N):
            x = mpmath.matrix(X[i].tolist())
            for h in range(H):
                part = mpmath.matrix(S[i, h].tolist()) * x
                for k in range(n):
                    for c in range(D):
                        B[i * n + k, h * D + c] = part[k, c]
        return min(mpmath.svd_r(B, compute_uv=False))


def lanes(S):
    N, H, n, _ = S.shape
    flat = zeros(H * n * n * padded(N))
    flat.reshape(H, n, n, padded(N))[..., :N] = S.transpose(1, 2, 3, 0)
    return flat


def softmax(scores):
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def weights(rng, N, H, n, scale=2.0):
    return softmax(scale * rng.standard_normal((N, H, n, n)))


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 4), st.integers(1, 6), st.integers(1, 3), st.integers(0, 999)
)
def test_contains_the_exact_value(N, n, D, H, seed):
    rng = np.random.default_rng(seed)
    X, S = rng.standard_normal((N, n, D)), weights(rng, N, H, n)
    lo, hi = enclose(X, S)
    assert lo <= exact(X, S) <= hi


@pytest.mark.parametrize("scale", [0.02, 0.2])
@pytest.mark.parametrize("shape", [(3, 2, 4, 2), (2, 2, 3, 2), (2, 3, 4, 2)])
def test_contains_the_exact_value_along_a_path(shape, scale):
    N, n, D, H = shape
    rng = np.random.default_rng(1)
    X, scores = rng.standard_normal((N, n, D)), rng.standard_normal((N, H, n, n))
    tracker = new_tracker(X, H)
    for _ in range(25):
        S = softmax(scores)
        lo, hi = track(tracker, lanes(S))
        assert lo <= exact(X, S) <= hi
        scores = scores + scale * rng.standard_normal(scores.shape)
    assert tracker.state["loose"][0] == 0


@pytest.mark.parametrize("kernel", ["softmax", "gaussian"])
@pytest.mark.parametrize(
    "shape", [(8, 4, 16, 8, 4), (2, 2, 8, 4, 2), (5, 3, 6, 4, 3), (9, 2, 24, 4, 1)]
)
@pytest.mark.parametrize("eta", [1e-3, 1e-2])
def test_contains_the_svd_along_gradient_descent(kernel, shape, eta):
    N, n, D, d, H = shape
    rng = np.random.default_rng(2)
    normal = rng.standard_normal
    X = normal((N, n, D))
    W = normal((3, H, D, d)) / D**0.5 * np.array([2, 2, 1])[:, None, None, None]
    run = FusedRun(kernel, X, normal((N, n, 1)), *W, normal((H, d, 1)) / d**0.5, eta)
    for step in range(80):
        run.advance(step)
        lo, hi = run.led["sigma_lo"][0], run.led["sigma_hi"][0]
        s = np.linalg.svd(design(X, run.S), compute_uv=False)
        error = 1e-14 * s[0]
        assert lo - error <= s[-1] <= hi + error
        assert hi - lo <= 0.01 * lo or s[0] > 1e5 * s[-1]


def test_few_anchors_when_little_moves():
    rng = np.random.default_rng(3)
    X, scores = rng.standard_normal((8, 4, 16)), rng.standard_normal((8, 4, 4, 4))
    tracker = new_tracker(X, 4)
    for _ in range(500):
        scores += 1e-4 * rng.standard_normal(scores.shape)
        track(tracker, lanes(softmax(scores)))
    state = tracker.state[0]
    assert state["loose"] == 0
    assert state["anchors"] <= 3
    assert state["checks"] < 250


def test_more_rows_than_columns_is_zero():
    rng = np.random.default_rng(4)
    assert enclose(rng.standard_normal((3, 3, 4)), weights(rng, 3, 2, 3)) == (0.0, 0.0)


def test_duplicate_tokens_give_zero_and_few_anchors():
    rng = np.random.default_rng(5)
    X = rng.standard_normal((3, 3, 16))
    X[1, 2] = X[1, 0]
    tracker = new_tracker(X, 2)
    for step in range(200):
        S = weights(rng, 3, 2, 3)
        S[:, :, 2, :] = np.where(np.arange(3)[:, None, None] == 1, S[:, :, 0, :], S[:, :, 2, :])
        lo, hi = track(tracker, lanes(S))
        assert lo == 0.0 <= hi, step
    assert tracker.state["loose"][0] == 200
    assert tracker.state["anchors"][0] < 20


@pytest.mark.parametrize("n", [1, 2])
def test_one_row_or_few(n):
    rng = np.random.default_rng(6)
    X, S = rng.standard_normal((1, n, 5)), weights(rng, 1, 2, n)
    lo, hi = enclose(X, S)
    assert lo <= exact(X, S) <= hi
    assert hi - lo <= 1e-9 * lo


def test_clustered_smallest_singular_values():
    # one-hot weights: B has orthogonal rows, all singular values equal up to 1e-9
    n, H = 6, 2
    X = np.eye(6)[None] * (1 + 1e-9 * np.arange(6))
    S = np.stack([np.eye(n)] * H)[None]
    lo, hi = enclose(X, S)
    assert lo <= exact(X, S) <= hi
    assert hi - lo <= 1e-2 * lo
    rng = np.random.default_rng(7)
    S = np.abs(S + 1e-6 * rng.standard_normal(S.shape))
    lo, hi = enclose(X, S)
    assert lo <= exact(X, S) <= hi


@pytest.mark.parametrize("exponent", range(1, 13))
def test_ill_conditioned_is_honest(exponent):
    # two nearly equal tokens with nearly equal weights: cond(B) about 10^exponent
    rng = np.random.default_rng(8)
    X, S = rng.standard_normal((2, 4, 8)), weights(rng, 2, 1, 4)
    S[0, 0, 1] = S[0, 0, 0] + 10.0**-exponent * np.array([1, -1, 0.5, -0.5])
    lo, hi = enclose(X, S)
    true = exact(X, S)
    assert lo <= true <= hi
    if exponent <= 5:
        assert hi - lo <= 0.01 * lo


@pytest.mark.parametrize("scale", [1e-100, 1e-9, 1e9, 1e100])
def test_scale_of_the_tokens(scale):
    rng = np.random.default_rng(9)
    X, S = scale * rng.standard_normal((2, 3, 6)), weights(rng, 2, 2, 3)
    lo, hi = enclose(X, S)
    assert lo <= exact(X, S) <= hi


@pytest.mark.parametrize(("tokens", "power"), [(-545, 500), (-540, 505), (505, -545), (495, -560)])
def test_squares_that_underflow_are_covered_however_large_the_other_factor(tokens, power):
    """B is of moderate size, but the squares of its tokens or of its weights are stored as 0."""
    rng = np.random.default_rng(12)
    X = np.ldexp(rng.integers(1, 9, (3, 2, 4)).astype(float), tokens)
    S = np.ldexp(rng.integers(1, 9, (3, 2, 2, 2)).astype(float), power)
    tracker = new_tracker(X, 2)
    for _ in range(4):
        lo, hi = track(tracker, lanes(S))
        assert exactly_contains(X, S, lo, hi)
        S = 1.5 * S


@pytest.mark.parametrize("drift", DRIFTS)
def test_short_stress_against_the_exact_value_of_every_step(drift):
    """A slice of stress_tracking.py, which was run for 100,000 steps."""
    first = DRIFTS.index(drift)
    found = [walk(first + i * len(DRIFTS), steps=50) for i in range(2)]
    assert [wrong for one in found for wrong in one["wrong"]] == []
    assert sum(one["checked exactly"] for one in found) == 100


def test_the_stress_notices_a_wrong_end():
    rng = np.random.default_rng(13)
    X, S = rng.standard_normal((3, 2, 4)), weights(rng, 3, 2, 2)
    value = float(exact(X, S))
    assert exactly_contains(X, S, value * (1 - 1e-14), value * (1 + 1e-14))
    assert not exactly_contains(X, S, value * (1 + 1e-14), np.inf)
    assert not exactly_contains(X, S, 0.0, value * (1 - 1e-14))


def test_not_finite_is_unknown_and_recovers():
    rng = np.random.default_rng(10)
    X, S = rng.standard_normal((3, 2, 8)), weights(rng, 3, 2, 2)
    tracker = new_tracker(X, 2)
    bad = S.copy()
    bad[0, 0, 0, 0] = np.nan
    assert track(tracker, lanes(bad)) == (0.0, np.inf)
    for _ in range(4):
        lo, hi = track(tracker, lanes(S))
    assert lo <= exact(X, S) <= hi
    assert hi - lo <= 0.01 * lo


@pytest.mark.parametrize("size", [1e-9, 1e-6, 1e-4, 1e-3, 1e-1])
@pytest.mark.parametrize("kind", ["noise", "rotation", "shuffle"])
def test_wrong_eigenvectors_widen_and_never_lie(size, kind):
    rng = np.random.default_rng(11)
    X, S = rng.standard_normal((2, 4, 8)), weights(rng, 2, 2, 4)
    tracker = new_tracker(X, 2)
    honest = track(tracker, lanes(S))
    noise = rng.standard_normal((8, 8)) * size

    def fault(U):
        if kind == "noise":
            return U + noise
        if kind == "shuffle":
            return U[:, np.roll(np.arange(8), 1 + int(-np.log10(size)))]
        return np.linalg.qr(U + noise)[0]

    B = design(X, S)
    U = fault(np.linalg.eigh(B @ B.T)[1])
    tracker = new_tracker(X, 2)
    block_check.adopt(tracker, lanes(S), rows_in_lane_order(B, 2, 4), rows_in_lane_order(U, 2, 4))
    lo, hi = block_check.check(tracker, lanes(S))
    true = exact(X, S)
    assert lo <= true <= hi
    assert hi - lo >= (honest[1] - honest[0]) * (0.5 if size < 1e-5 else 1.0)


def rows_in_lane_order(M, N, n):
    return np.ascontiguousarray(M.reshape(N, n, -1).transpose(1, 0, 2).reshape(N * n, -1))


# The steps between checks: what is kept, widened and asked for again.


def followed(tol=0.01, block=0, shape=(3, 2, 4, 2)):
    """A tracker that has seen one step, its state, tokens and weights."""
    N, n, D, H = shape
    rng = np.random.default_rng(14)
    X, S = rng.standard_normal((N, n, D)), weights(rng, N, H, n)
    tracker = new_tracker(X, H, tol, block=block)
    track(tracker, lanes(S))
    return tracker, tracker.state[0], X, S


def test_between_checks_the_last_enclosure_is_widened_by_the_drift():
    tracker, state, _, S = followed(tol=1e9)
    state["ref_lo"], state["ref_hi"], state["checks"] = 1.0, 2.0, 0
    moved = S + 1e-3 * np.random.default_rng(15).standard_normal(S.shape)
    e = block_check.drift(tracker, lanes(moved), lanes(S))
    for _ in range(2):  # from the reference, not from the last step
        lo, hi = track(tracker, lanes(moved))
        assert lo == (1.0 - e) * (1.0 - 1e-15)
        assert hi == (2.0 + e) * block_check.UP
        assert (state["lo"], state["hi"]) == (lo, hi)
    assert state["checks"] == 0
    assert state["steps"] == 3
    state["due"] = 99  # no check may be made: the drift alone, and nothing below 0
    state["ref_lo"] = 0.5 * e
    assert track(tracker, lanes(moved)) == (0.0, hi)


def test_a_check_is_made_as_soon_as_the_width_is_above_what_is_asked():
    tracker, state, _, S = followed(tol=0.25)
    e = block_check.drift(tracker, lanes(S), lanes(S))
    for lo, hi, checked in ((1.0, 1.2499, 0), (1.0, 1.2501, 1), (0.0, 1e-9, 1), (0.0, 0.0, 1)):
        state["ref_lo"], state["ref_hi"], state["checks"], state["loose"] = lo, hi, 0, 0
        state["due"] = state["steps"] + 1
        track(tracker, lanes(S))
        assert (state["checks"] > 0) == bool(checked), (lo, hi, e)
    state["ref_lo"], state["ref_hi"], state["due"] = 1.0, 2.0, state["steps"] + 2
    state["checks"] = state["loose"] = 0
    track(tracker, lanes(S))  # not due yet: the wide one is answered and counted
    assert (state["checks"], state["loose"]) == (0, 1)
    track(tracker, lanes(S))
    assert (state["checks"] > 0, state["loose"]) == (True, 1)


def test_pauses_grow_where_nothing_better_can_be_had():
    rng = np.random.default_rng(16)
    X = rng.standard_normal((3, 2, 16))
    X[1, 1] = X[1, 0]
    S = weights(rng, 3, 2, 2)
    S[1] = 0.5  # two equal rows: sigma_min = 0
    tracker = new_tracker(X, 2)
    state, asked = tracker.state[0], []
    for step in range(1, 1400):
        before = int(state["checks"])
        assert track(tracker, lanes(S))[0] == 0.0
        if state["checks"] > before:
            asked.append(step)
    pauses = np.diff(asked).tolist()
    assert pauses[:9] == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert set(pauses[9:]) == {256}
    assert state["pause"] == 256
    assert state["tol_now"] == state["tol"] == 0.01


def test_a_fresh_anchor_that_is_not_sharp_enough_lowers_what_is_asked():
    tracker, state, _, S = followed(tol=1e-15)
    lo, hi = state["lo"], state["hi"]
    assert state["tol_now"] == pytest.approx(4.0 * (hi - lo) / lo, rel=1e-12, abs=0)
    assert (state["pause"], state["due"], state["anchors"]) == (2, 2, 1)
    state["checks"] = 0
    assert track(tracker, lanes(S))[0] > 0.0
    assert (state["checks"], state["loose"]) == (0, 2)  # within what can be had, but loose
    state["tol"] = state["tol_now"] = 0.5
    state["ref_hi"] = 2.0 * hi
    track(tracker, lanes(S))
    assert (state["pause"], state["tol_now"]) == (2, 0.5)  # the check was enough: no anchor
    assert state["anchors"] == 1
    state["ref_lo"], state["ref_hi"], state["usable"] = 0.0, 2.0 * hi, 0
    track(tracker, lanes(S))
    assert (state["pause"], state["tol_now"], state["anchors"]) == (1, 0.5, 2)


def test_sizes_of_the_block():
    for T, block, k in ((3, 0, 3), (4, 0, 4), (9, 0, 4), (64, 0, 4), (96, 0, 6), (640, 0, 32)):
        tracker = new_tracker(np.ones((T, 1, 2)), 1, block=block)
        assert (tracker.k, tracker.m) == (k, padded(T - k) if k < T else 8)
        assert tracker.state["based"][0] == (1 if k == T else 0)
    assert new_tracker(np.ones((9, 1, 2)), 1, block=7).k == 7
    assert new_tracker(np.ones((9, 1, 2)), 1, block=70).k == 9
    off = new_tracker(np.ones((9, 1, 20)), 1, on=False)
    assert track(off, zeros(16)) == (0.0, 0.0)


def test_token_products_are_doubled_off_the_diagonal():
    X = np.arange(1.0, 13.0).reshape(2, 2, 3)
    G = new_tracker(X, 1).G.reshape(2, 2, 8)
    for i in range(2):
        gram = X[i] @ X[i].T
        np.testing.assert_array_equal(G[:, :, i], gram * [[1.0, 2.0], [2.0, 1.0]])
    assert not G[:, :, 2:].any()
