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

import importlib.util
import json
import warnings
from collections.abc import Callable
from typing import Any

from experiments.benchmarks.timing import alone, asked, medians, peak_mib, save, timed

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

    from gdconv.hessian.dense import aligned, hessian

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


def _summary(times: dict[str, list[float]]) -> dict[str, Any]:
    return {
        "ms": medians(times),
        "fastest_ms": {name: min(values) for name, values in times.items()},
        "times_faster_than_torch_func": medians(times, times["torch.func"]),
    }


def measure_dense(index: int, rounds: int) -> dict[str, Any]:
    """Time all dense contestants on one size."""
    letters, L, D, d = SIZES[index]
    made, blocks = layer(L, D, d), tuple(f"W_{letter}" for letter in letters)
    names = [c for c in DENSE if c != "curvlinops" or importlib.util.find_spec("curvlinops")]
    runs = {name: dense(name, made, blocks) for name in names}
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
    added = {name: asked("hessian", str(index), name) for name in PRODUCTS}
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
    product(name, layer(4, 6, 3))()
    made = layer(*WIDE[index])
    before = peak_mib()
    run = product(name, made)
    run(), run()
    return peak_mib() - before


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
    """Command line."""
    asks = {"nargs": 2, "metavar": ("INDEX", "NAME")}
    options = alone(__doc__, "hessian", memory=asks)
    warnings.simplefilter("ignore")  # of libraries' own imports
    if options.memory:
        print(json.dumps(memory(int(options.memory[0]), options.memory[1])))
        return
    rounds = 3 if options.quick else 11
    rows, products = [], []
    for index in range(len(SIZES)):
        rows.append(measure_dense(index, rounds))
        print(_show(rows[-1], DENSE), flush=True)
    for index in range(len(WIDE)):
        products.append(measure_product(index, rounds))
        print(_show(products[-1], PRODUCTS), products[-1]["memory_mib"], flush=True)
    save(options.out, {"dense": rows, "products": products})


if __name__ == "__main__":
    main()
