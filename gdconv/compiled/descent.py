"""Gradient descent of one replica as one compiled loop; the step itself is in attention.py.

Nothing is allocated in the loop; every iterate is observed once, with its enclosure of sigma_min.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from gdconv.compiled.attention import Array, Work, gradient
from gdconv.compiled.cache import njit
from gdconv.compiled.ledger import new_ledger, new_tests, observe
from gdconv.compiled.sigma_tracker import Tracker, new_tracker, track
from gdconv.compiled.simd import add, load, mul, padded, splat, store, token_lanes, zeros
from gdconv.support.errors import InputError
from gdconv.support.threads import one_thread

SOFTMAX, GAUSSIAN = 0, 1
DONE, DIVERGED, TARGET, ROSE = 0, 1, 2, 3
STATUS = {DONE: "all steps done", DIVERGED: "diverged", TARGET: "loss target", ROSE: "loss rose"}


@njit(nogil=True)
def _descend(old, gradient, new, start, stop, eta, trained):  # type: ignore[no-untyped-def]
    """new[start:stop] = old - eta gradient, or a copy of a frozen block."""
    step = splat(-eta if trained else 0.0)
    for x in range(start, stop, 8):
        if trained:
            store(new, x, add(load(old, x), mul(step, load(gradient, x))))
        else:
            store(new, x, load(old, x))


@njit(nogil=True)
def _pack(w, W_Q, W_K, W_V, W, V):  # type: ignore[no-untyped-def]
    P, Dp, d = w.H * w.d, w.Dp, w.d
    for h in range(w.H):
        for x in range(w.D):
            for c in range(d):
                W[(h * d + c) * Dp + x] = W_Q[h, x, c]
                W[(P + h * d + c) * Dp + x] = W_K[h, x, c]
                V[(h * d + c) * Dp + x] = W_V[h, x, c]


@njit(nogil=True)
def _unpack(w, W, V, W_Q, W_K, W_V):  # type: ignore[no-untyped-def]
    P, Dp, d = w.H * w.d, w.Dp, w.d
    for h in range(w.H):
        for x in range(w.D):
            for c in range(d):
                W_Q[h, x, c] = W[(h * d + c) * Dp + x]
                W_K[h, x, c] = W[(P + h * d + c) * Dp + x]
                W_V[h, x, c] = V[(h * d + c) * Dp + x]


@njit(nogil=True)
def advance(  # type: ignore[no-untyped-def]
    kernel,
    w,
    W_Q,
    W_K,
    W_V,
    trained,
    ledger,
    tests,
    tracker,
    until,
    loss_limit,
    loss_target,
    stop_on_rise,
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
        DONE, DIVERGED, TARGET or ROSE; DONE before `until` when the ledger is stale. An iterate
        whose loss is not finite is not observed.
    """
    led = ledger[0]
    gaussian = kernel == GAUSSIAN
    q, k, v = trained[0] != 0, trained[1] != 0, trained[2] != 0
    W, V, W_next, V_next = w.W, w.V, w.W_next, w.V_next
    block = w.H * w.d * w.Dp
    _pack(w, W_Q, W_K, W_V, W, V)
    loss, grad_sq = gradient(w, gaussian, q, k, v, W, V)
    if not (np.isfinite(loss) and np.isfinite(grad_sq)):
        return DIVERGED
    if led.step < 0:
        lo, hi = track(tracker, w.S)
        observe(led, tests, loss, grad_sq, lo, hi)
    status = DONE
    while True:
        if loss > loss_limit:
            status = DIVERGED
        elif loss <= loss_target:
            status = TARGET
        elif stop_on_rise and led.rises > 0:
            status = ROSE
        if status != DONE or led.step >= until or led.stale > 0:
            break
        _descend(W, w.dW, W_next, 0, block, led.eta, q)
        _descend(W, w.dW, W_next, block, 2 * block, led.eta, k)
        _descend(V, w.dV, V_next, 0, block, led.eta, v)
        loss, grad_sq = gradient(w, gaussian, q, k, v, W_next, V_next)
        if not (np.isfinite(loss) and np.isfinite(grad_sq)):
            status = DIVERGED
            break
        W, W_next, V, V_next = W_next, W, V_next, V
        lo, hi = track(tracker, w.S)
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
    sizes = [
        rows * Dp,
        P * Dp,
        rows * Dp,
        P * Dp,
        rows * T,
        rows * T,
        rows * Dp,
        P * Dp,
        H * n * n * L,
    ]
    sizes += [n * n * 8, D_y * n * 8]
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
        tests: `TEST` array (gdconv.compiled.ledger.new_tests); none when omitted.
        led: `LEDGER` array of length one (gdconv.compiled.ledger.new_ledger).
        trained: Blocks that move, a subset of "QKV".
        tol: Relative width of the enclosure of sigma_min(B_t).
        track: False switches the enclosure off (sigma 0 is reported), for timing only.

    Attributes:
        W: The iterate of step led["step"], shape (3, H, D, d): W_Q, W_K and W_V, parts of it.
        led: The ledger; tests: the tests; tracker: the `Tracker`.

    Raises:
        InputError: A shape does not fit, the kernel is unknown, or no block is trained.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> W = rng.standard_normal((3, 2, 4, 3))
        >>> X, y, W_O = rng.standard_normal((3, 2, 4)), np.ones((3, 2, 1)), np.ones((2, 3, 1))
        >>> run = FusedRun("softmax", X, y, *W, W_O, eta=1e-3)
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
                raise InputError(
                    name, f"shape {array.shape}", "give a non-empty array with three axes"
                )
        (N, n, D), (H, _, d), D_y = tokens.shape, heads.shape, last.shape[2]
        targets = _numbers("y", y, (N, n, D_y))
        blocks = {"W_Q": W_Q, "W_K": W_K, "W_V": W_V}
        self.W = np.stack([_numbers(name, W, (H, D, d)) for name, W in blocks.items()])
        self.W_Q, self.W_K, self.W_V = self.W
        self.W_O = _numbers("W_O", W_O, (H, d, D_y))
        self.kernel, self.code = kernel, GAUSSIAN if kernel == "gaussian" else SOFTMAX
        self.trained = np.array([block in trained for block in "QKV"], dtype=np.uint8)
        self.led = new_ledger(eta, 0.0) if led is None else led
        self.tests = new_tests([], []) if tests is None else tests
        self.work = _blocks(tokens, targets, self.W_O, d)
        self.tracker: Tracker = new_tracker(tokens, H, tol, track, (self.work.X, self.work.Xt))

    def advance(
        self,
        until: int,
        loss_limit: float = np.inf,
        loss_target: float = -1.0,
        stop_on_rise: bool = False,
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
        with one_thread():
            return int(
                advance(
                    self.code, self.work, self.W_Q, self.W_K, self.W_V, self.trained, self.led,
                    self.tests,
                    self.tracker, until, loss_limit, loss_target, stop_on_rise,
                )
            )  # fmt: skip

    def evaluate(self) -> tuple[float, float]:
        """Loss and squared gradient norm at W_Q, W_K, W_V; also fills `S` and `gradients`.

        Returns:
            f and |grad f|^2 over the trained blocks.
        """
        w, (q, k, v) = self.work, (bool(flag) for flag in self.trained)
        with one_thread():
            _pack(w, self.W_Q, self.W_K, self.W_V, w.W, w.V)
            loss, grad_sq = gradient(w, self.code == GAUSSIAN, q, k, v, w.W, w.V)
        return float(loss), float(grad_sq)

    @property
    def S(self) -> Array:
        """Attention weights of the last evaluation, shape (N, H, n, n)."""
        w = self.work
        return w.S.reshape(w.H, w.n, w.n, w.L)[..., : w.N].transpose(3, 0, 1, 2).copy()

    @property
    def gradients(self) -> tuple[Array, Array, Array]:
        """Gradients of the last evaluation by W_Q, W_K, W_V, each (H, D, d); zero if frozen."""
        w = self.work
        P = w.H * w.d
        rows = (w.dW[: P * w.Dp], w.dW[P * w.Dp : 2 * P * w.Dp], w.dV)
        out = [part.reshape(w.H, w.d, w.Dp)[..., : w.D].transpose(0, 2, 1).copy() for part in rows]
        q, k, v = (part * flag for part, flag in zip(out, self.trained, strict=True))
        return q, k, v
