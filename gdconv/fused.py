"""Gradient descent of one replica as one compiled loop (theory: attention-regression, section 1).

Layout: the samples lie side by side in vector lanes (N padded to L, a multiple of 8, with zero tokens).
Token (i, k) is column k L + i of a matrix of features; the rows are the heads' features:

    Y = W X^T,   rows of W:  W_Q (H d),  W_K (H d),  w_h = W_V,h W_O,h transposed (H D_y)

so one product gives queries, keys and values of all heads and one product, dW = dY X, all gradients;
between the two everything is element by element in the lanes. Nothing is allocated in the loop.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from .errors import InputError
from .ledger import new_ledger, new_tests, observe
from .simd import add, at, div, exp, fma, larger, load, mul, padded, product, splat, store, sub, token_lanes, total, zeros
from .tracking import Tracker, follow, new_tracker

SOFTMAX, GAUSSIAN = 0, 1
DONE, DIVERGED, TARGET, ROSE = 0, 1, 2, 3
STATUS = {DONE: "all steps done", DIVERGED: "diverged", TARGET: "loss target", ROSE: "loss rose"}
Array = NDArray[np.float64]


class Work(NamedTuple):
    """Sizes and work arrays of one replica; all arrays are flat float64."""

    N: int
    n: int
    D: int
    d: int
    H: int
    D_y: int
    L: int  # padded N
    Dp: int  # padded D
    X: Array  # (n L, Dp): token (k, i) in row k L + i
    Xt: Array  # (Dp, n L)
    y: Array  # (D_y, n, L)
    O: Array  # (H, D_y, d)  # noqa: E741
    W: Array  # (2 H d + H D_y, Dp)
    V: Array  # (H d, Dp): W_V transposed
    W_next: Array
    V_next: Array
    Y: Array  # (2 H d + H D_y, n L)
    dY: Array
    dW: Array
    dV: Array  # (H d, Dp)
    S: Array  # (H, n, n, L)
    P: Array  # (n, n, 8): gradient by the scores, one head and one group of lanes
    R: Array  # (D_y, n, 8): residual
    sums: Array  # (n, 8)


@numba.njit(cache=True, nogil=True)
def _scores(w, gaussian, h, i):  # type: ignore[no-untyped-def]
    """S of head h and lanes i ... i + 7; tiles of 2 x 2 tokens, the last one may repeat a token."""
    n, d, L, Y, S = w.n, w.d, w.L, w.Y, w.S
    row, keys = n * L, w.H * d * n * L
    scale = splat(1.0 / np.sqrt(d))
    half = splat(-0.5 / np.sqrt(d))
    top = h * d * row + i
    base = h * n * n * L + i
    for k in range(0, n, 2):
        k1 = min(k + 1, n - 1)
        for j in range(0, n, 2):
            j1 = min(j + 1, n - 1)
            a = b = c = e = splat(0.0)
            q0, q1 = top + k * L, top + k1 * L
            p0, p1 = keys + top + j * L, keys + top + j1 * L
            if gaussian:
                for _ in range(d):
                    u, v, x, z = load(Y, q0), load(Y, q1), load(Y, p0), load(Y, p1)
                    ux, uz, vx, vz = sub(u, x), sub(u, z), sub(v, x), sub(v, z)
                    a, b, c, e = fma(ux, ux, a), fma(uz, uz, b), fma(vx, vx, c), fma(vz, vz, e)
                    q0, q1, p0, p1 = q0 + row, q1 + row, p0 + row, p1 + row
                a, b, c, e = exp(mul(a, half)), exp(mul(b, half)), exp(mul(c, half)), exp(mul(e, half))
            else:
                for _ in range(d):
                    u, v, x, z = load(Y, q0), load(Y, q1), load(Y, p0), load(Y, p1)
                    a, b, c, e = fma(u, x, a), fma(u, z, b), fma(v, x, c), fma(v, z, e)
                    q0, q1, p0, p1 = q0 + row, q1 + row, p0 + row, p1 + row
            store(S, base + (k * n + j) * L, a)
            store(S, base + (k * n + j1) * L, b)
            store(S, base + (k1 * n + j) * L, c)
            store(S, base + (k1 * n + j1) * L, e)
    if gaussian:
        return
    for k in range(n):
        s = base + k * n * L
        top_score = load(S, s)
        for j in range(1, n):
            top_score = larger(top_score, load(S, s + j * L))
        whole = splat(0.0)
        for j in range(n):
            e = exp(mul(sub(load(S, s + j * L), top_score), scale))
            whole = add(whole, e)
            store(S, s + j * L, e)
        share = div(splat(1.0), whole)
        for j in range(n):
            store(S, s + j * L, mul(load(S, s + j * L), share))


@numba.njit(cache=True, nogil=True)
def _residual(w, i):  # type: ignore[no-untyped-def]
    """R = F - y in lanes i ... i + 7; returns the lanes' sums of squares."""
    n, L, H, D_y, S, Y = w.n, w.L, w.H, w.D_y, w.S, w.Y
    values = 2 * H * w.d * n * L + i
    squares = splat(0.0)
    for a in range(D_y):
        for k in range(n):
            f = splat(0.0)
            for h in range(H):
                s, u = ((h * n + k) * n) * L + i, values + (h * D_y + a) * n * L
                for j in range(n):
                    f = fma(load(S, s + j * L), load(Y, u + j * L), f)
            f = sub(f, load(w.y, (a * n + k) * L + i))
            store(w.R, (a * n + k) * 8, f)
            squares = fma(f, f, squares)
    return squares


@numba.njit(cache=True, nogil=True)
def _by_values(w, h, i):  # type: ignore[no-untyped-def]
    """Gradient by the values: S^T R, written to the last rows of dY."""
    n, L, S, D_y = w.n, w.L, w.S, w.D_y
    base = h * n * n * L + i
    out = (2 * w.H * w.d + h * D_y) * n * L + i
    for a in range(D_y):
        for j in range(n):
            c = splat(0.0)
            for k in range(n):
                c = fma(load(S, base + (k * n + j) * L), load(w.R, (a * n + k) * 8), c)
            store(w.dY, out + (a * n + j) * L, c)


@numba.njit(cache=True, nogil=True)
def _by_scores(w, gaussian, h, i):  # type: ignore[no-untyped-def]
    """P: gradient by q_k k_j / sqrt(d) (softmax) or by -|q_k - k_j|^2 / (2 sqrt(d)) (Gaussian), scaled."""
    n, L, S, Y, D_y, P = w.n, w.L, w.S, w.Y, w.D_y, w.P
    base = h * n * n * L + i
    values = (2 * w.H * w.d + h * D_y) * n * L + i
    scale = splat(1.0 / np.sqrt(w.d))
    for k in range(n):
        mean = splat(0.0)
        for j in range(n):
            g = splat(0.0)
            for a in range(D_y):
                g = fma(load(w.R, (a * n + k) * 8), load(Y, values + (a * n + j) * L), g)
            p = mul(load(S, base + (k * n + j) * L), g)
            mean = add(mean, p)
            store(P, (k * n + j) * 8, p)
        if gaussian:
            for j in range(n):
                store(P, (k * n + j) * 8, mul(load(P, (k * n + j) * 8), scale))
        else:
            for j in range(n):
                p = sub(load(P, (k * n + j) * 8), mul(load(S, base + (k * n + j) * L), mean))
                store(P, (k * n + j) * 8, mul(p, scale))


@numba.njit(cache=True, nogil=True)
def _mix(w, gaussian, h, i, by_key):  # type: ignore[no-untyped-def]
    """dQ = P K (by_key = 0) or dK = P^T Q (1); Gaussian: minus the row sums of P times Q (or K)."""
    n, d, L, Y, P = w.n, w.d, w.L, w.Y, w.P
    row = n * L
    own = (by_key * w.H + h) * d * row + i
    other = ((1 - by_key) * w.H + h) * d * row + i
    step_k, step_j = (8, 8 * n) if by_key else (8 * n, 8)
    if gaussian:
        for k in range(n):
            s = splat(0.0)
            for j in range(n):
                s = sub(s, load(P, k * step_k + j * step_j))
            store(w.sums, k * 8, s)
    for k in range(0, n, 2):
        k1 = min(k + 1, n - 1)
        for c in range(0, d, 2):
            c1 = min(c + 1, d - 1)
            o0, o1 = own + c * row, own + c1 * row
            a = b = e = g = splat(0.0)
            if gaussian:
                s, t = load(w.sums, k * 8), load(w.sums, k1 * 8)
                a, b = mul(s, load(Y, o0 + k * L)), mul(s, load(Y, o1 + k * L))
                e, g = mul(t, load(Y, o0 + k1 * L)), mul(t, load(Y, o1 + k1 * L))
            p0, p1, v0, v1 = k * step_k, k1 * step_k, other + c * row, other + c1 * row
            for _ in range(n):
                s, t, x, z = load(P, p0), load(P, p1), load(Y, v0), load(Y, v1)
                a, b, e, g = fma(s, x, a), fma(s, z, b), fma(t, x, e), fma(t, z, g)
                p0, p1, v0, v1 = p0 + step_j, p1 + step_j, v0 + L, v1 + L
            store(w.dY, o0 + k * L, a)
            store(w.dY, o1 + k * L, b)
            store(w.dY, o0 + k1 * L, e)
            store(w.dY, o1 + k1 * L, g)


@numba.njit(cache=True, nogil=True)
def _expand(w, weight, V, out):  # type: ignore[no-untyped-def]
    """forward (out = W): rows w_h = W_O^T V;  backward (out = dV): rows W_O times the rows of weight."""
    P, Dp, d, D_y = w.H * w.d, w.Dp, w.d, w.D_y
    for h in range(w.H):
        for x in range(0, Dp, 8):
            top = (2 * P + h * D_y) * Dp + x
            if out is None:
                for a in range(D_y):
                    s = splat(0.0)
                    for c in range(d):
                        s = fma(at(w.O, (h * D_y + a) * d + c), load(V, (h * d + c) * Dp + x), s)
                    store(weight, top + a * Dp, s)
            else:
                for c in range(d):
                    s = splat(0.0)
                    for a in range(D_y):
                        s = fma(at(w.O, (h * D_y + a) * d + c), load(weight, top + a * Dp), s)
                    store(out, (h * d + c) * Dp + x, s)


@numba.njit(cache=True, nogil=True)
def _square(a, start, stop):  # type: ignore[no-untyped-def]
    """Sum of squares of a[start:stop] (a multiple of 8 long)."""
    s = t = splat(0.0)
    k = start
    while k + 16 <= stop:
        x, z = load(a, k), load(a, k + 8)
        s, t = fma(x, x, s), fma(z, z, t)
        k += 16
    if k < stop:
        x = load(a, k)
        s = fma(x, x, s)
    return total(add(s, t))


@numba.njit(cache=True, nogil=True)
def _gradient(w, gaussian, q, k, v, W, V):  # type: ignore[no-untyped-def]
    """Loss and squared gradient norm at W, V; the gradients stay in dW and dV."""
    P, rows, T = w.H * w.d, 2 * w.H * w.d + w.H * w.D_y, w.n * w.L
    _expand(w, W, V, None)
    product(W, 0, w.Dp, w.Xt, 0, T, w.Y, 0, T, rows, w.Dp, T)
    squares = splat(0.0)
    for i in range(0, w.L, 8):
        for h in range(w.H):
            _scores(w, gaussian, h, i)
        squares = add(squares, _residual(w, i))
        for h in range(w.H):
            if v:
                _by_values(w, h, i)
            if q or k:
                _by_scores(w, gaussian, h, i)
            if q:
                _mix(w, gaussian, h, i, 0)
            if k:
                _mix(w, gaussian, h, i, 1)
    if q and k and v:
        product(w.dY, 0, T, w.X, 0, w.Dp, w.dW, 0, w.Dp, rows, T, w.Dp)
    else:
        first, last = (0 if q else P), (2 * P if k else P)
        if last > first:
            product(w.dY, first * T, T, w.X, 0, w.Dp, w.dW, first * w.Dp, w.Dp, last - first, T, w.Dp)
        if v:
            top = 2 * P
            product(w.dY, top * T, T, w.X, 0, w.Dp, w.dW, top * w.Dp, w.Dp, rows - top, T, w.Dp)
    grad_sq = 0.0
    if q:
        grad_sq += _square(w.dW, 0, P * w.Dp)
    if k:
        grad_sq += _square(w.dW, P * w.Dp, 2 * P * w.Dp)
    if v:
        _expand(w, w.dW, V, w.dV)
        grad_sq += _square(w.dV, 0, P * w.Dp)
    return 0.5 * total(squares), grad_sq


@numba.njit(cache=True, nogil=True)
def _descend(old, gradient, new, start, stop, eta, trained):  # type: ignore[no-untyped-def]
    """new[start:stop] = old - eta gradient, or a copy of a frozen block."""
    step = splat(-eta if trained else 0.0)
    for x in range(start, stop, 8):
        if trained:
            store(new, x, add(load(old, x), mul(step, load(gradient, x))))
        else:
            store(new, x, load(old, x))


@numba.njit(cache=True, nogil=True)
def _pack(w, W_Q, W_K, W_V, W, V):  # type: ignore[no-untyped-def]
    P, Dp, d = w.H * w.d, w.Dp, w.d
    for h in range(w.H):
        for x in range(w.D):
            for c in range(d):
                W[(h * d + c) * Dp + x] = W_Q[h, x, c]
                W[(P + h * d + c) * Dp + x] = W_K[h, x, c]
                V[(h * d + c) * Dp + x] = W_V[h, x, c]


@numba.njit(cache=True, nogil=True)
def _unpack(w, W, V, W_Q, W_K, W_V):  # type: ignore[no-untyped-def]
    P, Dp, d = w.H * w.d, w.Dp, w.d
    for h in range(w.H):
        for x in range(w.D):
            for c in range(d):
                W_Q[h, x, c] = W[(h * d + c) * Dp + x]
                W_K[h, x, c] = W[(P + h * d + c) * Dp + x]
                W_V[h, x, c] = V[(h * d + c) * Dp + x]


@numba.njit(cache=True, nogil=True)
def advance(  # type: ignore[no-untyped-def]
    kernel, w, W_Q, W_K, W_V, trained, ledger, tests, tracker, until, loss_limit, loss_target, stop_on_rise
):
    """Run gradient descent until step `until`, observing every iterate once.

    Args:
        kernel: SOFTMAX or GAUSSIAN.
        w: `Work` of the replica.
        W_Q: Query weights, shape (H, D, d), overwritten with the last observed iterate.
        W_K: Key weights, likewise.
        W_V: Value weights, likewise.
        trained: Three flags, for Q, K, V.
        ledger: Array of one `LEDGER` record.
        tests: `TEST` array.
        tracker: `Tracker` of the replica.
        until: Last step to observe.
        loss_limit: Above this loss the run counts as diverged.
        loss_target: At or below this loss the run stops.
        stop_on_rise: Stop once the ledger has seen the loss rise.

    Returns:
        DONE, DIVERGED, TARGET or ROSE. An iterate whose loss is not finite is not observed.
    """
    led = ledger[0]
    gaussian = kernel == GAUSSIAN
    q, k, v = trained[0] != 0, trained[1] != 0, trained[2] != 0
    W, V, W_next, V_next = w.W, w.V, w.W_next, w.V_next
    block = w.H * w.d * w.Dp
    _pack(w, W_Q, W_K, W_V, W, V)
    loss, grad_sq = _gradient(w, gaussian, q, k, v, W, V)
    if not (np.isfinite(loss) and np.isfinite(grad_sq)):
        return DIVERGED
    if led.step < 0:
        lo, hi = follow(tracker, w.S)
        observe(led, tests, loss, grad_sq, lo, hi)
    status = DONE
    while True:
        if loss > loss_limit:
            status = DIVERGED
        elif loss <= loss_target:
            status = TARGET
        elif stop_on_rise and led.rises > 0:
            status = ROSE
        if status != DONE or led.step >= until:
            break
        _descend(W, w.dW, W_next, 0, block, led.eta, q)
        _descend(W, w.dW, W_next, block, 2 * block, led.eta, k)
        _descend(V, w.dV, V_next, 0, block, led.eta, v)
        loss, grad_sq = _gradient(w, gaussian, q, k, v, W_next, V_next)
        if not (np.isfinite(loss) and np.isfinite(grad_sq)):
            status = DIVERGED
            break
        W, W_next, V, V_next = W_next, W, V_next, V
        lo, hi = follow(tracker, w.S)
        observe(led, tests, loss, grad_sq, lo, hi)
    _unpack(w, W, V, W_Q, W_K, W_V)
    return status


def _numbers(name: str, value: ArrayLike, shape: tuple[int, ...]) -> Array:
    array = np.array(value, dtype=np.float64, order="C")
    if array.shape != shape:
        raise InputError(name, f"shape {array.shape}", f"give shape {shape}")
    return array


def _blocks(tokens: Array, y: Array, W_O: Array, d: int) -> Work:
    """Work arrays with the data in the lane layout."""
    N, n, D = tokens.shape
    H, _, D_y = W_O.shape
    L, Dp = padded(N), padded(D)
    T, P, rows = n * L, H * d, 2 * H * d + H * D_y
    X, Xt = token_lanes(tokens)
    targets, O = zeros(D_y * n * L), zeros(H * D_y * d)  # noqa: E741
    targets.reshape(D_y, n, L)[:, :, :N] = y.transpose(2, 1, 0)
    O.reshape(H, D_y, d)[:] = W_O.transpose(0, 2, 1)
    sizes = (rows * Dp, P * Dp, rows * Dp, P * Dp, rows * T, rows * T, rows * Dp, P * Dp, H * n * n * L)
    sizes += (n * n * 8, D_y * n * 8, n * 8)
    return Work(N, n, D, d, H, D_y, L, Dp, X, Xt, targets, O, *(zeros(size) for size in sizes))


class FusedRun:
    """Gradient descent of one replica with the compiled loop.

    theta_{t+1} = theta_t - eta grad f(theta_t) on the trained blocks, f = |F - y|^2 / 2.

    Args:
        kernel: "softmax" or "gaussian".
        X: Tokens, shape (N, n, D).
        y: Targets, shape (N, n, D_y).
        W_Q: Query weights, shape (H, D, d).
        W_K: Key weights, shape (H, D, d).
        W_V: Value weights, shape (H, D, d).
        W_O: Output weights, fixed, shape (H, d, D_y).
        eta: Step size; ignored when `led` is given.
        tests: `TEST` array (gdconv.ledger.new_tests); none when omitted.
        led: `LEDGER` array of length one (gdconv.ledger.new_ledger).
        trained: Blocks that move, a subset of "QKV".
        tol: Relative width of the enclosure of sigma_min(B_t).
        track: False switches the enclosure off (sigma 0 is reported), for timing only.

    Attributes:
        W_Q: The iterate of step led["step"], shape (H, D, d); W_K and W_V likewise.
        led: The ledger; tests: the tests; tracker: the `Tracker`.

    Raises:
        InputError: A shape does not fit, the kernel is unknown, or no block is trained.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> W = rng.standard_normal((3, 2, 4, 3))
        >>> run = FusedRun("softmax", rng.standard_normal((3, 2, 4)), np.ones((3, 2, 1)), *W, np.ones((2, 3, 1)), 1e-3)
        >>> run.advance(5) == DONE, int(run.led["step"][0])
        (True, 5)
    """

    def __init__(
        self,
        kernel: str,
        X: ArrayLike,
        y: ArrayLike,
        W_Q: ArrayLike,
        W_K: ArrayLike,
        W_V: ArrayLike,
        W_O: ArrayLike,
        eta: float = 0.0,
        tests: np.ndarray | None = None,
        led: np.ndarray | None = None,
        trained: str = "QKV",
        tol: float = 0.01,
        track: bool = True,
    ) -> None:
        if kernel not in ("softmax", "gaussian"):
            raise InputError("kernel", kernel, "give softmax or gaussian")
        if not trained or set(trained) - set("QKV"):
            raise InputError("trained", trained, "give some of the letters Q, K, V")
        tokens, heads, last = (np.array(value, dtype=np.float64) for value in (X, W_Q, W_O))
        for name, array in (("X", tokens), ("W_Q", heads), ("W_O", last)):
            if array.ndim != 3 or not array.size:
                raise InputError(name, f"shape {array.shape}", "give a non-empty array with three axes")
        (N, n, D), (H, _, d), D_y = tokens.shape, heads.shape, last.shape[2]
        targets = _numbers("y", y, (N, n, D_y))
        self.W_Q, self.W_K = _numbers("W_Q", W_Q, (H, D, d)), _numbers("W_K", W_K, (H, D, d))
        self.W_V, self.W_O = _numbers("W_V", W_V, (H, D, d)), _numbers("W_O", W_O, (H, d, D_y))
        self.kernel, self.code = kernel, GAUSSIAN if kernel == "gaussian" else SOFTMAX
        self.trained = np.array([block in trained for block in "QKV"], dtype=np.uint8)
        self.led = new_ledger(eta, 0.0) if led is None else led
        self.tests = new_tests([], []) if tests is None else tests
        self.work = _blocks(tokens, targets, self.W_O, d)
        self.tracker: Tracker = new_tracker(tokens, H, tol, track, (self.work.X, self.work.Xt))

    def advance(
        self, until: int, loss_limit: float = np.inf, loss_target: float = -1.0, stop_on_rise: bool = False
    ) -> int:
        """Run until step `until` (observed), a stop, or divergence.

        Args:
            until: Last step to observe.
            loss_limit: Above this loss the run counts as diverged.
            loss_target: At or below this loss the run stops; negative switches it off.
            stop_on_rise: Stop once the ledger has seen the loss rise.

        Returns:
            DONE, DIVERGED, TARGET or ROSE.
        """
        with threadpool_limits(1, "blas"):
            return int(
                advance(
                    self.code, self.work, self.W_Q, self.W_K, self.W_V, self.trained, self.led, self.tests,
                    self.tracker, until, loss_limit, loss_target, stop_on_rise,
                )
            )  # fmt: skip

    def evaluate(self) -> tuple[float, float]:
        """Loss and squared gradient norm at W_Q, W_K, W_V; also fills `S` and `gradients`.

        Returns:
            f and |grad f|^2 over the trained blocks.
        """
        w, (q, k, v) = self.work, (bool(flag) for flag in self.trained)
        with threadpool_limits(1, "blas"):
            _pack(w, self.W_Q, self.W_K, self.W_V, w.W, w.V)
            loss, grad_sq = _gradient(w, self.code == GAUSSIAN, q, k, v, w.W, w.V)
        return float(loss), float(grad_sq)

    @property
    def S(self) -> Array:
        """Attention weights of the last evaluation, shape (N, H, n, n)."""
        w = self.work
        return w.S.reshape(w.H, w.n, w.n, w.L)[..., : w.N].transpose(3, 0, 1, 2).copy()

    @property
    def gradients(self) -> tuple[Array, Array, Array]:
        """Gradients of the last evaluation by W_Q, W_K, W_V, each (H, D, d); frozen blocks are zero."""
        w = self.work
        P = w.H * w.d
        rows = (w.dW[: P * w.Dp], w.dW[P * w.Dp : 2 * P * w.Dp], w.dV)
        out = [part.reshape(w.H, w.d, w.Dp)[..., : w.D].transpose(0, 2, 1).copy() for part in rows]
        q, k, v = (part * flag for part, flag in zip(out, self.trained, strict=True))
        return q, k, v
