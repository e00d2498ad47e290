"""Time and memory of the empirical NTK: Jacobian and contraction against the closed form.

    python -m experiments.benchmarks.ntk [--quick] [--out FILE.json]

One process, one thread, rounds interleaved (every round times each contestant once), Gaussian data
and the sizes of the step benchmark, T = N n = 32, 128, 512: torch.func (vmap of jacrev over the
samples, then contraction), jax (the same, jit, x64; "absent" when not installed), ours (compiled
loops) and ours by torch operations. Peak resident memory is that of a
fresh process per contestant, less its peak before the first kernel of these sizes; everything is
compiled or loaded on a tiny problem first.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from typing import Any

from experiments.benchmarks.gd_step import SHAPES, problem
from experiments.benchmarks.timing import alone, asked, medians, peak_mib, save, timed

CONTESTANTS = ("torch.func", "jax", "closed", "closed-torch")
TINY = (2, 2, 3, 2, 2)


def torch_func(data: dict[str, Any], kernel: str) -> Callable[[], Any]:
    """Jacobian per sample by vmap(jacrev), then J J^T block by block."""
    import torch

    X, W_O = torch.tensor(data["X"], device="cpu"), torch.tensor(data["W_O"], device="cpu")
    theta = tuple(torch.tensor(data[name], device="cpu") for name in ("W_Q", "W_K", "W_V"))
    root = W_O.shape[1] ** 0.5

    def output(theta: Any, x: Any) -> Any:
        Q, K, V = theta
        q, k = torch.einsum("nd,hdc->hnc", x, Q), torch.einsum("nd,hdc->hnc", x, K)
        if kernel == "softmax":
            S = torch.softmax(q @ k.transpose(-1, -2) / root, -1)
        else:
            gap = q.unsqueeze(-2) - k.unsqueeze(-3)
            S = torch.exp(-gap.square().sum(-1) / (2 * root))
        return torch.einsum("hnc,hca->na", S @ torch.einsum("nd,hdc->hnc", x, V), W_O).flatten()

    rows = torch.vmap(torch.func.jacrev(output), (None, 0))

    def run() -> Any:
        blocks = [J.reshape(J.shape[0] * J.shape[1], -1) for J in rows(theta, X)]
        return sum(J @ J.T for J in blocks)

    return run


def jax_jacobian(data: dict[str, Any], kernel: str) -> Callable[[], Any]:
    """The same with jax, compiled, float64."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    X, W_O = jnp.asarray(data["X"]), jnp.asarray(data["W_O"])
    theta = tuple(jnp.asarray(data[name]) for name in ("W_Q", "W_K", "W_V"))
    root = W_O.shape[1] ** 0.5

    def output(theta: Any, x: Any) -> Any:
        Q, K, V = theta
        q, k = jnp.einsum("nd,hdc->hnc", x, Q), jnp.einsum("nd,hdc->hnc", x, K)
        if kernel == "softmax":
            S = jax.nn.softmax(q @ k.swapaxes(-1, -2) / root, -1)
        else:
            gap = q[..., :, None, :] - k[..., None, :, :]
            S = jnp.exp(-(gap**2).sum(-1) / (2 * root))
        return jnp.einsum("hnc,hca->na", S @ jnp.einsum("nd,hdc->hnc", x, V), W_O).ravel()

    @jax.jit
    def whole(theta: Any) -> Any:
        blocks = jax.vmap(jax.jacrev(output), (None, 0))(theta, X)
        blocks = [J.reshape(J.shape[0] * J.shape[1], -1) for J in blocks]
        return sum(J @ J.T for J in blocks)

    return lambda: jax.block_until_ready(whole(theta))


def closed(data: dict[str, Any], kernel: str, compiled: bool) -> Callable[[], Any]:
    """The closed form of gdconv, forward pass included."""
    from gdconv.data.problem import Problem
    from gdconv.models.multihead.attention_kernels import kernel_named
    from gdconv.models.multihead.model import MultiHeadRegression
    from gdconv.models.multihead.parameters import BLOCKS, Parameters
    from gdconv.models.multihead.tangent import tangent_kernel

    model = MultiHeadRegression(kernel_named(kernel))
    samples = Problem.from_arrays(data["X"], data["y"])
    params = Parameters.from_arrays({name: data[name] for name in (*BLOCKS, "W_O")})
    return lambda: tangent_kernel(model, samples, params, BLOCKS, compiled)


def contestant(name: str, data: dict[str, Any], kernel: str) -> Callable[[], Any]:
    """The contestant of that name on these data.

    Args:
        name: One of CONTESTANTS.
        data: Result of `problem`.
        kernel: "softmax" or "gaussian".

    Returns:
        A function without arguments that computes K.

    Example:
        >>> contestant("torch.func", problem((1, 2, 3, 2, 1)), "softmax")().shape
        torch.Size([2, 2])
    """
    if name == "torch.func":
        return torch_func(data, kernel)
    if name == "jax":
        return jax_jacobian(data, kernel)
    return closed(data, kernel, name == "closed")


def measure(index: int, kernel: str, rounds: int) -> dict[str, Any]:
    """Time all contestants on one shape.

    Args:
        index: Row of SHAPES.
        kernel: "softmax" or "gaussian".
        rounds: Interleaved rounds.

    Returns:
        Medians in milliseconds, ratios to torch.func, distance of each kernel from torch.func's,
        memory of fresh processes.
    """
    import numpy as np

    data = problem(SHAPES[index])
    names = [c for c in CONTESTANTS if c != "jax" or importlib.util.find_spec("jax")]
    runs = {name: contestant(name, data, kernel) for name in names}
    kernels = {name: np.asarray(run()).reshape(run().shape[-2:]) for name, run in runs.items()}
    base, few = kernels["torch.func"], (50, 5, 1)[index]
    times = timed(runs, rounds, lambda n: few * (1 if n in ("torch.func", "jax") else 3))
    N, n = SHAPES[index][:2]
    return {
        "kernel": kernel,
        "T": N * n,
        "shape": dict(zip(("N", "n", "D", "d", "H"), SHAPES[index], strict=True)),
        "ms": medians(times),
        "fastest_ms": {name: min(values) for name, values in times.items()},
        "times_faster_than_torch_func": medians(times, times["torch.func"]),
        "relative_difference": {
            name: float(np.abs(K - base).max() / np.abs(base).max()) for name, K in kernels.items()
        },
        "memory_mib": {name: asked("ntk", name, kernel, str(index)) for name in names},
    }


def memory(name: str, index: int, kernel: str) -> dict[str, float]:
    """Peak resident memory of this (fresh) process before and after one kernel, in MiB."""
    contestant(name, problem(TINY), kernel)()
    run = contestant(name, problem(SHAPES[index]), kernel)
    before = peak_mib()
    run(), run()
    return {"before": before, "after": peak_mib(), "added": peak_mib() - before}


def _show(row: dict[str, Any]) -> str:
    cells = [f"{row['kernel']:9s} {row['T']:4d}"]
    for name in CONTESTANTS:
        if name not in row["ms"]:
            cells.append(f"{'absent':>30s}")
            continue
        ratio, added = row["times_faster_than_torch_func"][name], row["memory_mib"][name]["added"]
        cells.append(f"{row['ms'][name]:10.3f} {ratio:6.1f}x {added:7.1f} MiB")
    return " ".join(cells)


def main() -> None:
    """Command line."""
    asks = {"nargs": 3, "metavar": ("NAME", "KERNEL", "INDEX")}
    options = alone(__doc__, "ntk", memory=asks)
    if options.memory:
        name, kernel, index = options.memory
        print(json.dumps(memory(name, int(index), kernel)))
        return
    print("kernel       T " + " ".join(f"{name + ' ms':>30s}" for name in CONTESTANTS))
    rows = []
    for kernel in ("softmax", "gaussian"):
        for index in range(len(SHAPES)):
            rows.append(measure(index, kernel, 3 if options.quick else 11))
            print(_show(rows[-1]), flush=True)
    save(options.out, {"rows": rows})


if __name__ == "__main__":
    main()
