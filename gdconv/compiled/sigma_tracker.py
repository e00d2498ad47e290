"""Two-sided enclosure of sigma_min(B_t) along a run, from the attention weights S and the tokens X.

B = [B^(1) ... B^(H)], B^(h)_i = S_ih X_i, T = N n rows. B_t is formed only at anchors. "Enclosure"
is meant for the exact B of the stored S and X; the bounds and their rounding are in
gdconv/compiled/block_bounds.py.

At each step the last enclosure is widened by the drift ||B_t - B_s||_F. Once that is wider than
asked, the block check is made, and where this is not enough a new anchor. Where not even a new
anchor gives the asked width (badly conditioned or singular B), what can be had is kept and asked
for with growing pauses.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gdconv.compiled.block_bounds import SQUARE_TINY, anchor, check, drift
from gdconv.compiled.cache import njit
from gdconv.compiled.simd import padded, token_lanes, zeros
from gdconv.compiled.tiny_eigen import UP

BLOCK, LARGEST_BLOCK = 4, 32
"""Number of smallest eigenvectors kept: T / 16 within these limits; T <= 4 needs no anchor."""

LONGEST_PAUSE = 256
ACCEPT = 0.9

STATE = np.dtype([
    ("tol", "f8"),  # asked relative width
    ("tol_now", "f8"),  # what a fresh anchor could give, at least tol
    ("lo", "f8"),
    ("hi", "f8"),
    ("ref_lo", "f8"),  # enclosure at the last check
    ("ref_hi", "f8"),
    ("defect", "f8"),  # e
    ("defect_U", "f8"),  # e_U
    ("omega", "f8"),
    ("delta_Y", "f8"),
    ("sigma_next", "f8"),  # min sigma_j
    ("steps", "i8"),
    ("checks", "i8"),
    ("anchors", "i8"),
    ("loose", "i8"),  # steps whose enclosure was wider than tol
    ("due", "i8"),  # no new check before this step
    ("pause", "i8"),
    ("best", "i8"),  # column of the basis with the smallest eigenvalue
    ("known", "i8"),  # a reference exists
    ("based", "i8"),  # U1 holds verified vectors
    ("usable", "i8"),  # the anchor's block bound can be used
])

Array = NDArray[np.float64]


class Tracker(NamedTuple):
    """Sizes, data and state of the enclosure of one replica (flat arrays, samples in lanes)."""

    on: int
    N: int
    n: int
    D: int
    H: int
    L: int
    Dp: int
    k: int  # size of the block
    m: int  # padded T - k
    X: Array
    Xt: Array
    G: Array  # (n, n, L): token Grams, off-diagonal entries doubled
    trace: Array  # (L,): >= ||X_i||_F^2
    S_ref: Array
    S_anchor: Array
    U1: Array  # (k, n L)
    U2: Array  # (n L, m)
    sigma: Array  # (m,)
    left: Array  # (H k, n L)
    Z: Array  # (H k, Dp)
    right: Array  # (H k, n L)
    BZ: Array  # (k, n L)
    b: Array  # (k, m)
    den: Array  # (m,)
    weights: Array  # (m,)
    vector: Array  # (n, L)
    diff: Array  # (n, 8)
    small: NDArray[np.float64]  # (5, k, k): A, basis, Schur complement, scratch
    state: np.ndarray


def new_tracker(
    X: Array,
    H: int,
    tol: float = 0.01,
    on: bool = True,
    lanes: tuple[Array, Array] | None = None,
    block: int = 0,
) -> Tracker:
    """A tracker that has seen no step yet.

    Args:
        X: Tokens, shape (N, n, D).
        H: Number of heads.
        tol: Asked relative width (hi - lo) / lo.
        on: False makes `track` return (0, 0) at once.
        lanes: `simd.token_lanes(X)` when the caller has it already.
        block: Number of smallest eigenvectors kept; 0 chooses it from the number of rows.

    Returns:
        The tracker; its `state` counts steps, checks, anchors and loose steps.

    Example:
        >>> int(new_tracker(np.ones((2, 2, 3)), 2).state["steps"][0])
        0
    """
    N, n, D = X.shape
    L, Dp, T = padded(N), padded(D), N * n
    rows, cols = token_lanes(X) if lanes is None else lanes
    k = min(T, block if block else max(BLOCK, min(T // 16, LARGEST_BLOCK)))
    m = padded(T - k) if k < T else 8
    if not on:
        m, k = 8, 1
    G, trace = zeros(n * n * L), zeros(L)
    gram = np.einsum("ijd,ild->jli", X, X)
    gram *= np.where(np.eye(n, dtype=bool), 1.0, 2.0)[:, :, None]
    G.reshape(n, n, L)[..., :N] = gram
    squares = np.einsum("ijd,ijd->i", X, X)
    trace[:N] = squares * (1 + (D * n + 8) * 2.3e-16) + n * D * SQUARE_TINY
    state = np.zeros(1, STATE)
    state["tol"] = state["tol_now"] = tol
    state["pause"] = 1
    size, width = (H * n * n * L if on else 8), n * L
    U1 = zeros(k * width)
    if on and k == T:
        U1.reshape(k, n, L)[:, :, :N] = np.eye(T).reshape(k, n, N)
        state["based"] = 1
    work = (
        zeros(H * k * width),
        zeros(H * k * Dp),
        zeros(H * k * max(width, Dp)),
        zeros(k * width),
        zeros(k * m),
    )
    small = np.zeros((5, k, k))
    small[1] = np.eye(k)
    return Tracker(
        int(on), N, n, D, H, L, Dp, k, m, rows, cols, G, trace, zeros(size), zeros(size), U1,
        zeros(width * m), zeros(m), *work, zeros(m), zeros(m), zeros(width), zeros(n * 8), small,
        state,
    )  # fmt: skip


@njit(nogil=True)
def _renew(tr, S, lo, hi):  # type: ignore[no-untyped-def]
    """Check, and anchor where the check is not good enough; returns the new enclosure."""
    st = tr.state[0]
    tall = tr.N * tr.n > tr.k
    if not tall or st.anchors > 0:
        low, high = check(tr, S)
        lo, hi = max(lo, low), min(hi, high)
        if hi - lo <= ACCEPT * st.tol_now * lo:
            return lo, hi
    if tall:
        anchor(tr, S)
        low, high = check(tr, S)
        lo, hi = max(lo, low), min(hi, high)
    if hi - lo <= 0.5 * st.tol * lo:
        st.tol_now, st.pause = st.tol, 1
    else:  # not even a fresh anchor gives tol: ask for what can be had, and less often
        st.tol_now = max(st.tol, 4.0 * (hi - lo) / lo) if lo > 0.0 else st.tol
        st.due = st.steps + st.pause
        st.pause = min(2 * st.pause, LONGEST_PAUSE)
    return lo, hi


@njit(nogil=True)
def track(tr, S):  # type: ignore[no-untyped-def]
    """Enclosure of sigma_min(B_t) at the next step.

    Args:
        tr: `Tracker` of the run.
        S: Attention weights, flat (H, n, n, L): head, query token, key token, sample.

    Returns:
        lo and hi with lo <= sigma_min(B) <= hi for the exact B of the given S and X; (0, 0) when
        B has more rows than columns; (0, inf) when S is not finite.
    """
    if tr.on == 0 or tr.N * tr.n > tr.H * tr.D:
        return 0.0, 0.0
    st = tr.state[0]
    lo, hi = 0.0, np.inf
    st.steps += 1
    if st.known:
        e = drift(tr, S, tr.S_ref)
        lo, hi = max((st.ref_lo - e) * (1.0 - 1e-15), 0.0), (st.ref_hi + e) * UP
        if not np.isfinite(hi):
            lo, hi = 0.0, np.inf
    good = hi - lo <= st.tol_now * lo
    if not good and (st.known == 0 or st.steps >= st.due):
        lo, hi = _renew(tr, S, lo, hi)
        if np.isfinite(hi):
            st.ref_lo, st.ref_hi, st.known = lo, hi, 1
            tr.S_ref[:] = S
    if not hi - lo <= st.tol * lo:
        st.loose += 1
    st.lo, st.hi = lo, hi
    return lo, hi


def enclose(X: Array, S: Array) -> tuple[float, float]:
    """Enclosure of sigma_min(B), B = [B^(1) ... B^(H)], B^(h)_i = S_ih X_i, for one set of weights.

    Args:
        X: Tokens, shape (N, n, D).
        S: Attention weights, shape (N, H, n, n).

    Returns:
        lo <= sigma_min(B) <= hi (the Nn-th singular value), rigorous; see the module's text.

    Example:
        >>> lo, hi = enclose(np.eye(3)[None], np.eye(3)[None, None] * 2)
        >>> lo <= 2.0 <= hi and hi - lo < 1e-8
        True
    """
    N, n, _ = X.shape
    H, L = S.shape[1], padded(N)
    tracker = new_tracker(X, H)
    weights = zeros(H * n * n * L)
    weights.reshape(H, n, n, L)[..., :N] = S.transpose(1, 2, 3, 0)
    lo, hi = track(tracker, weights)
    return float(lo), float(hi)
