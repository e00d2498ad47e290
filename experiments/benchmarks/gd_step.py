"""Time of one gradient-descent step with sigma_min(B_t) known, against the plain ways of doing it.

    python -m experiments.benchmarks.gd_step [--quick] [--million] [--out FILE.json]

One process, one thread, rounds interleaved (every round times each contestant once), Gaussian data:
torch (autograd loop, svdvals(B) each step), jax (jit + scan, the same, x64; skipped when not
installed), fused (compiled loop, enclosure of sigma_min(B_t) and ledger at every step), bare
(fused, no enclosure).
"""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from experiments.benchmarks.timing import alone, medians, peak_mib, save, timed

SHAPES = ((8, 4, 16, 8, 4), (16, 8, 64, 32, 4), (64, 8, 128, 64, 8))
STEPS = {
    "torch": (200, 50, 3),
    "jax": (1000, 100, 5),
    "fused": (5000, 400, 40),
    "bare": (5000, 400, 40),
}
LAZY = 0.01


def problem(shape: tuple[int, ...], seed: int = 0) -> dict[str, Any]:
    """Gaussian data and weights.

    Args:
        shape: (N, n, D, d, H).
        seed: Seed of the generator.

    Returns:
        X (N, n, D), y (N, n, 1), W_Q, W_K, W_V (H, D, d), W_O (H, d, 1) as numpy arrays.

    Example:
        >>> problem((2, 3, 4, 2, 1))["W_O"].shape
        (1, 2, 1)
    """
    import numpy as np

    N, n, D, d, H = shape
    rng = np.random.default_rng(seed)
    draw = rng.standard_normal
    return {
        "X": draw((N, n, D)),
        "y": draw((N, n, 1)),
        "W_Q": 2 * draw((H, D, d)) / D**0.5,
        "W_K": 2 * draw((H, D, d)) / D**0.5,
        "W_V": draw((H, D, d)) / D**0.5,
        "W_O": draw((H, d, 1)) / d**0.5,
    }


def forward(torch: Any, X: Any, W_O: Any, Q: Any, K: Any, V: Any) -> tuple[Any, Any]:
    """Prediction F (N, n, D_y) and B^(h) side by side, (N n, H D), with torch."""
    q = torch.einsum("ind,hdc->ihnc", X, Q)
    k = torch.einsum("ind,hdc->ihnc", X, K)
    S = torch.softmax(q @ k.transpose(-1, -2) / Q.shape[2] ** 0.5, -1)
    SX = torch.einsum("ihkj,ijd->ikhd", S, X)
    F = torch.einsum("ikhd,hdc,hca->ika", SX, V, W_O)
    return F, SX.reshape(X.shape[0] * X.shape[1], -1)


def _jacobian_norm_squared(data: dict[str, Any]) -> float:
    """||J_0||^2 by 30 steps of the power method."""
    import torch

    torch.manual_seed(0)
    X, W_O = torch.tensor(data["X"], device="cpu"), torch.tensor(data["W_O"], device="cpu")
    theta = tuple(torch.tensor(data[name], device="cpu") for name in ("W_Q", "W_K", "W_V"))

    def output(*weights: Any) -> Any:
        return forward(torch, X, W_O, *weights)[0]

    v = tuple(torch.randn_like(w) for w in theta)
    norm = 0.0
    for _ in range(30):
        v = tuple(a / sum((b * b).sum() for b in v) ** 0.5 for a in v)
        v = torch.func.vjp(output, *theta)[1](torch.func.jvp(output, theta, v)[1])
        norm = float(sum((a * a).sum() for a in v) ** 0.5)
    return norm


def torch_loop(data: dict[str, Any], eta: float) -> Callable[[int], None]:
    """The plain loop: autograd, svdvals(B) at every step."""
    import torch

    X, y, W_O = (torch.tensor(data[name], device="cpu") for name in ("X", "y", "W_O"))
    theta = [
        torch.tensor(data[name], requires_grad=True, device="cpu") for name in ("W_Q", "W_K", "W_V")
    ]
    kept: list[tuple[float, float]] = []

    def run(steps: int) -> None:
        kept.clear()
        for _ in range(steps):
            F, B = forward(torch, X, W_O, *theta)
            loss = 0.5 * ((F - y) ** 2).sum()
            gradient = torch.autograd.grad(loss, theta)
            with torch.no_grad():
                kept.append((loss.item(), torch.linalg.svdvals(B)[-1].item()))
                for w, g in zip(theta, gradient, strict=True):
                    w -= eta * g

    return run


def jax_loop(data: dict[str, Any], eta: float) -> Callable[[int], None]:
    """jit + lax.scan, SVD of B at every step, float64."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    X, y, W_O = (jnp.asarray(data[name]) for name in ("X", "y", "W_O"))
    d = W_O.shape[1]

    def loss(theta: Any) -> Any:
        Q, K, V = theta
        q, k = jnp.einsum("ind,hdc->ihnc", X, Q), jnp.einsum("ind,hdc->ihnc", X, K)
        S = jax.nn.softmax(q @ k.swapaxes(-1, -2) / d**0.5, -1)
        SX = jnp.einsum("ihkj,ijd->ikhd", S, X)
        F = jnp.einsum("ikhd,hdc,hca->ika", SX, V, W_O)
        return 0.5 * ((F - y) ** 2).sum(), SX.reshape(X.shape[0] * X.shape[1], -1)

    def step(theta: Any, _: None) -> Any:
        (f, B), g = jax.value_and_grad(loss, has_aux=True)(theta)
        sigma = jnp.linalg.svd(B, compute_uv=False)[-1]
        return tuple(w - eta * v for w, v in zip(theta, g, strict=True)), (f, sigma)

    loop = jax.jit(
        lambda theta, steps: jax.lax.scan(step, theta, None, length=steps), static_argnums=1
    )
    state = [tuple(jnp.asarray(data[name]) for name in ("W_Q", "W_K", "W_V"))]

    def run(steps: int) -> None:
        theta, kept = loop(state[0], steps)
        state[0] = jax.block_until_ready(theta)
        jax.block_until_ready(kept)

    return run


def fused_loop(data: dict[str, Any], eta: float, track: bool) -> tuple[Callable[[int], None], Any]:
    """The compiled loop of gdconv; also returns the run."""
    from gdconv.compiled.descent import FusedRun
    from gdconv.compiled.ledger import FIXED, POSTERIOR, new_tests

    tests = new_tests([FIXED, POSTERIOR], [-1e-6, 0.0])
    replica = FusedRun("softmax", **data, eta=eta, tests=tests, track=track)

    def run(steps: int) -> None:
        replica.advance(int(replica.led["step"][0]) + steps)

    return run, replica


def measure(index: int, scale: float, rounds: int) -> dict[str, Any]:
    """Time all contestants on one shape.

    Args:
        index: Row of SHAPES.
        scale: Step size as a multiple of 0.5 / ||J_0||^2.
        rounds: Interleaved rounds.

    Returns:
        Medians in microseconds per step, the mean over the whole run, ratios, overhead, anchors.
    """
    import numpy as np

    data = problem(SHAPES[index])
    eta = scale * 0.5 / _jacobian_norm_squared(data)
    fused, replica = fused_loop(data, eta, True)
    runs = {"torch": torch_loop(data, eta), "fused": fused, "bare": fused_loop(data, eta, False)[0]}
    if importlib.util.find_spec("jax"):
        runs["jax"] = jax_loop(data, eta)
    warm_fused, warm_bare = fused_loop(data, eta, True)[0], fused_loop(data, eta, False)[0]
    warm_fused(2), warm_bare(2), runs["torch"](2)
    if "jax" in runs:
        runs["jax"](STEPS["jax"][index])
    calls = {name: partial(run, STEPS[name][index]) for name, run in runs.items()}
    times = {
        name: [1e3 * ms / STEPS[name][index] for ms in values]
        for name, values in timed(calls, rounds, warm=False).items()
    }
    state = replica.tracker.state[0]
    return {
        "shape": dict(zip(("N", "n", "D", "d", "H"), SHAPES[index], strict=True)),
        "eta_times_jacobian_norm_squared": 0.5 * scale,
        "us_per_step": medians(times),
        "fastest_us_per_step": {name: min(values) for name, values in times.items()},
        "first_round_us_per_step": {name: values[0] for name, values in times.items()},
        "mean_us_per_step": {name: float(np.mean(values)) for name, values in times.items()},
        "times_faster_than_torch": medians(times, times["torch"]),
        "tracking_overhead": float(np.median(np.array(times["fused"]) / times["bare"])) - 1.0,
        "tracking_overhead_whole_run": float(np.sum(times["fused"]) / np.sum(times["bare"])) - 1.0,
        "steps": int(replica.led["step"][0]),
        "anchors": int(state["anchors"]),
        "checks": int(state["checks"]),
        "loose": int(state["loose"]),
        "loss_ratio": float(replica.led["loss"][0] / replica.led["loss_0"][0]),
    }


def _million(steps: int = 1_000_000) -> dict[str, Any]:
    """A long run of the smallest problem: wall time and peak memory at a tenth and at the end."""
    data = problem(SHAPES[0])
    run, replica = fused_loop(data, LAZY * 0.5 / _jacobian_norm_squared(data), True)
    run(10)
    start = time.perf_counter()
    run(steps // 10)
    early = peak_mib()
    run(steps - steps // 10)
    seconds = time.perf_counter() - start
    late = peak_mib()
    anchors = int(replica.tracker.state["anchors"][0])
    return {
        "steps": steps,
        "seconds": seconds,
        "peak_mib_early": early,
        "peak_mib_end": late,
        "anchors": anchors,
    }


def _show(row: dict[str, Any]) -> str:
    shape = "({N},{n},{D},{d},{H})".format(**row["shape"])
    cells = [f"{shape:18s} {row['eta_times_jacobian_norm_squared']:7.3g}"]
    for name in ("torch", "jax", "fused", "bare"):
        if name in row["us_per_step"]:
            cells.append(
                f"{row['us_per_step'][name]:10.1f} {row['times_faster_than_torch'][name]:6.1f}x"
            )
        else:
            cells.append(f"{'absent':>10s} {'':7s}")
    cells.append(f"{100 * row['tracking_overhead']:6.1f} % {row['anchors']:5d}/{row['steps']}")
    return " ".join(cells)


def main() -> None:
    """Command line."""
    only = {"action": "store_true", "help": "only the run of a million steps"}
    options = alone(__doc__, "gd_step", million=only)
    if options.million:
        result = _million()
        print(json.dumps(result, indent=1))
        print(
            "fused, one million steps:",
            f"{result['seconds']:.1f} s,",
            f"{result['peak_mib_end']:.0f} MiB",
        )
        return
    rows = []
    print(
        f"{'(N,n,D,d,H)':18s} {'eta J^2':>7s}"
        + "".join(f"{name + ' us':>19s}" for name in ("torch", "jax", "fused", "bare"))
        + " tracking anchors/steps"
    )
    for index in range(len(SHAPES)):
        for scale in (1.0, LAZY):
            rows.append(measure(index, scale, 3 if options.quick else 11))
            print(_show(rows[-1]), flush=True)
    save(options.out, {"rows": rows})


if __name__ == "__main__":
    main()
