"""Time and memory of the attention Hessian: automatic differentiation against the closed form.

    python -m experiments.benchmarks.hessian [--quick] [--out FILE.json]

One process, one thread, rounds interleaved (every round times each contestant once), one softmax
head, Gaussian data, L = 16 tokens, D = D_o, mean loss. Dense: torch.func.hessian, curvlinops
("absent" when not installed; its operator times the identity), ours (compiled), ours into a matrix
given by the caller, ours by torch operations, and the floor, writing the matrix once.
Products H v: torch.func (forward over reverse) and ours at L = 512, D = 256, with the memory that a
fresh process adds for them.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.benchmarks.gd_step import environment
from experiments.benchmarks.ntk import SINGLE

DENSE = ("torch.func", "curvlinops", "closed", "closed-into", "closed-torch", "floor")
SIZES = (
    ("QV", 16, 16, 8),
    ("QV", 16, 32, 16),
    ("QKV", 16, 32, 16),
)
"""Blocks, L, D = D_o, d: P = 384, 1536, 2048."""
PRODUCTS = ("torch.func", "closed")
WIDE = ((512, 256, 64), (512, 256, 256))
"""L, D = D_o, d."""


def layer(L: int, D: int, d: int) -> Any:
    """A random softmax layer, float64."""
    import torch

    from gdconv.hessian.layer import attention_layer

    make = torch.Generator("cpu").manual_seed(0)

    def normal(*size: int) -> Any:
        return torch.randn(*size, generator=make, dtype=torch.float64, device="cpu")

    X, Y = normal(L, D), normal(L, D)
    W_Q, W_K, W_V = (normal(D, width) / D**0.5 for width in (d, d, D))
    return attention_layer(X, Y, W_V, W_Q, W_K)


def loss_of(made: Any, blocks: tuple[str, ...]) -> tuple[Callable[[Any], Any], Any]:
    """The loss as a function of one flat vector, written plainly, and where to take it."""
    import torch

    X, Y, d = made.X[0], made.Y[0], made.W_Q.shape[-1]
    fixed = {name: made.weight(name)[0] for name in made.names}
    sizes = [fixed[name].numel() for name in blocks]

    def loss(theta: Any) -> Any:
        parts = zip(blocks, theta.split(sizes), strict=True)
        w = fixed | {name: p.view(fixed[name].shape) for name, p in parts}
        A = torch.softmax(X @ w["W_Q"] @ (X @ w["W_K"]).T / d**0.5, -1)
        return (A @ (X @ w["W_V"]) - Y).square().mean()

    return loss, torch.cat([fixed[name].flatten() for name in blocks])


def curvlinops_hessian(made: Any, blocks: tuple[str, ...]) -> Callable[[], Any]:
    """curvlinops' Hessian operator times the identity."""
    import torch
    from curvlinops import HessianLinearOperator  # type: ignore[import-not-found, unused-ignore]

    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name in made.names:
                weight = made.weight(name)[0].clone()
                trained = name in blocks
                self.register_parameter(name, torch.nn.Parameter(weight, requires_grad=trained))

        def forward(self, X: Any) -> Any:
            scores = X @ self.W_Q @ (X @ self.W_K).mT / made.W_Q.shape[-1] ** 0.5
            return torch.softmax(scores, -1) @ (X @ self.W_V)

    model, loss = Layer(), torch.nn.MSELoss(reduction="mean")
    params = [getattr(model, name) for name in blocks]
    count = sum(p.numel() for p in params)
    data, eye = [(made.X, made.Y)], torch.eye(count, dtype=torch.float64, device="cpu")

    def run() -> Any:
        operator = HessianLinearOperator(
            model, loss, params, data, check_deterministic=False, progressbar=False
        )
        return (operator @ eye).detach()

    return run


def dense(name: str, made: Any, blocks: tuple[str, ...]) -> Callable[[], Any]:
    """The dense contestant of that name.

    Args:
        name: One of DENSE.
        made: The layer.
        blocks: Differentiated weights.

    Returns:
        A function without arguments that computes the matrix.

    Example:
        >>> dense("closed", layer(2, 3, 2), ("W_Q", "W_V"))().shape
        torch.Size([15, 15])
    """
    import torch

    from gdconv.hessian.blocks import aligned, hessian

    if name == "torch.func":
        loss, start = loss_of(made, blocks)
        return lambda: torch.func.hessian(loss)(start)
    if name == "curvlinops":
        return curvlinops_hessian(made, blocks)
    out = aligned(sum(made.sizes(blocks)))
    if name == "floor":
        return lambda: out.fill_(1.0)
    if name == "closed-into":
        return lambda: hessian(made, blocks, out=out)
    return lambda: hessian(made, blocks, compiled=name == "closed")


def available() -> list[str]:
    """Dense contestants whose libraries are installed."""
    return [c for c in DENSE if c != "curvlinops" or importlib.util.find_spec("curvlinops")]


def product(name: str, made: Any) -> Callable[[], Any]:
    """H v by that contestant, all blocks; the closed form's forward pass is done once."""
    import torch

    from gdconv.hessian.operators import HessianOperator

    loss, start = loss_of(made, made.names)
    v = torch.linspace(-1, 1, len(start), dtype=torch.float64, device="cpu")
    if name == "torch.func":
        gradient = torch.func.grad(loss)
        return lambda: torch.func.jvp(gradient, (start,), (v,))[1]
    apply = HessianOperator(made)
    return lambda: apply(v)


def timed(
    runs: dict[str, Callable[[], Any]], rounds: int, repeats: Callable[[str], int]
) -> dict[str, list[float]]:
    """Milliseconds per call, rounds interleaved."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            run()  # every contestant starts its turn with its own data in the cache
            count = repeats(name)
            start = time.perf_counter()
            for _ in range(count):
                run()
            times[name].append((time.perf_counter() - start) / count * 1e3)
    return times


def _summary(times: dict[str, list[float]]) -> dict[str, Any]:
    """Medians, fastest rounds, and ratios to torch.func within each round."""
    import numpy as np

    base = np.array(times["torch.func"])
    return {
        "ms": {name: float(np.median(values)) for name, values in times.items()},
        "fastest_ms": {name: min(values) for name, values in times.items()},
        "times_faster_than_torch_func": {
            name: float(np.median(base / values)) for name, values in times.items()
        },
    }


def measure_dense(index: int, rounds: int) -> dict[str, Any]:
    """Time all dense contestants on one size."""
    letters, L, D, d = SIZES[index]
    made, blocks = layer(L, D, d), tuple(f"W_{letter}" for letter in letters)
    runs = {name: dense(name, made, blocks) for name in available()}
    found = {name: run() for name, run in runs.items() if name != "floor"}
    base = found["torch.func"]
    times = timed(runs, rounds, lambda name: (40, 10, 6)[index] if name in DENSE[2:] else 1)
    return {
        "blocks": letters,
        "P": len(base),
        "shape": {"L": L, "D": D, "d": d, "D_o": D},
        **_summary(times),
        "relative_difference": {
            name: float((H - base).abs().max() / base.abs().max()) for name, H in found.items()
        },
    }


def measure_product(index: int, rounds: int) -> dict[str, Any]:
    """Time H v on one size."""
    L, D, d = WIDE[index]
    made = layer(L, D, d)
    runs = {name: product(name, made) for name in PRODUCTS}
    found = {name: run() for name, run in runs.items()}
    base, times = found["torch.func"], timed(runs, rounds, lambda _: 2)
    ask = [sys.executable, "-m", "experiments.benchmarks.hessian", "--memory", str(index)]
    added = {
        name: float(subprocess.run([*ask, name], capture_output=True, text=True, check=True).stdout)
        for name in PRODUCTS
    }
    return {
        "P": len(base),
        "shape": {"L": L, "D": D, "d": d, "D_o": D},
        **_summary(times),
        "memory_mib": added,
        "relative_difference": {
            name: float((v - base).abs().max() / base.abs().max()) for name, v in found.items()
        },
    }


def memory(index: int, name: str) -> float:
    """MiB that the forward pass and two products add to this fresh process's peak."""

    def peak() -> float:
        status = Path("/proc/self/status").read_text().splitlines()
        return float(next(x for x in status if x.startswith("VmHWM")).split()[1]) / 1024

    product(name, layer(4, 6, 3))()
    made = layer(*WIDE[index])
    before = peak()
    run = product(name, made)
    run(), run()
    return peak() - before


def _show(row: dict[str, Any], names: tuple[str, ...]) -> str:
    cells = [f"{row.get('blocks', 'H v'):4s} P = {row['P']:6d}"]
    for name in names:
        if name in row["ms"]:
            ratio = row["times_faster_than_torch_func"][name]
            cells.append(f"{name} {row['ms'][name]:.3f} ms {ratio:.1f}x")
        else:
            cells.append(f"{name} absent")
    return ", ".join(cells)


def main() -> None:
    """Command line; restarts itself with one thread, since libraries read the setting at import."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three rounds instead of eleven")
    parser.add_argument("--memory", nargs=2, metavar=("INDEX", "NAME"))
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/hessian.json"))
    options = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in SINGLE.items()):
        again = [sys.executable, "-m", "experiments.benchmarks.hessian", *sys.argv[1:]]
        os.execve(sys.executable, again, {**os.environ, **SINGLE})
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of libraries' own imports
    if options.memory:
        print(memory(int(options.memory[0]), options.memory[1]))
        return
    rounds = 3 if options.quick else 11
    rows, products = [], []
    for index in range(len(SIZES)):
        rows.append(measure_dense(index, rounds))
        print(_show(rows[-1], DENSE), flush=True)
    for index in range(len(WIDE)):
        products.append(measure_product(index, rounds))
        print(_show(products[-1], PRODUCTS), products[-1]["memory_mib"], flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    result = {"environment": environment(), "dense": rows, "products": products}
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
