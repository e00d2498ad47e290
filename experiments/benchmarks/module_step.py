"""Time of one gradient-descent step on a torch module with sigma_min(J_t) known at every step.

    python -m experiments.benchmarks.module_step [--quick] [--out FILE.json]

One process, one thread, rounds interleaved. A two-layer network F = act(X W) a, N samples of D
numbers, m hidden units, squared loss. Contestants: svdvals (the script a user writes: autograd,
functional_call, jacrev, svdvals of J), eigvalsh (the same with the eigenvalues of J J^T), apply
(gdconv's loop, given the module alone: it finds the products with parameters and takes J in
factors), kernel (the same with J J^T in closed form given: it is held against J at both ends, the
factors are cheaper), hidden (a module whose products gdconv cannot see into: J is formed at every
step), hidden+kernel (that one with J J^T given, which is then asked at every step), bare (autograd
alone, nothing known of J). gdconv's rows are whole descents, with every enclosure, error bar,
record and second derivation in them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import exp
from typing import Any

from experiments.benchmarks.timing import alone, medians, save, timed

SHAPES = ((64, 64, 512), (16, 16, 64))
STEPS = {
    "svdvals": (3, 40),
    "eigvalsh": (8, 60),
    "apply": (800, 800),
    "kernel": (800, 800),
    "hidden": (40, 400),
    "hidden+kernel": (400, 400),
    "bare": (400, 400),
}


def network(shape: tuple[int, int, int], act: str, hidden: bool, given: bool) -> Any:
    """What makes the network and its data; with `kernel` where it is to be given.

    Args:
        shape: (N, D, m).
        act: tanh or relu.
        hidden: Whether it multiplies in a way that gdconv does not see into.
        given: Whether it has its kernel in closed form.

    Returns:
        An object with `module`, `data` and, if asked for, `kernel`.

    Example:
        >>> net = network((2, 3, 4), "tanh", False, True)
        >>> net.data(0)[0].shape, hasattr(net, "kernel")
        (torch.Size([2, 3]), True)
    """
    import torch

    N, D, m = shape
    function = torch.tanh if act == "tanh" else torch.relu

    class TwoLayer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.W = torch.nn.Parameter(torch.randn(D, m, device="cpu").double() / D**0.5)
            self.a = torch.nn.Parameter(torch.randn(m, 1, device="cpu").double() / m**0.5)

        def forward(self, X: Any) -> Any:
            if hidden:
                return torch.einsum(
                    "nm,mo->no", function(torch.einsum("nd,dm->nm", X, self.W)), self.a
                )
            return function(X @ self.W) @ self.a

    class Net:
        def module(self) -> Any:
            return TwoLayer()

        def data(self, seed: int) -> tuple[Any, Any]:
            draw = torch.Generator("cpu").manual_seed(seed)
            X = torch.randn(N, D + 1, generator=draw, dtype=torch.float64, device="cpu")
            return X[:, :D] / X[:, :D].norm(dim=1, keepdim=True), 0.5 * X[:, D:]

    class WithKernel(Net):
        def kernel(self, params: dict[str, Any], X: Any) -> Any:
            W, a = params["W"], params["a"]
            h = function(X @ W)
            s = a.T * (1 - h * h) if act == "tanh" else a.T * (h > 0)
            return (s @ s.T) * (X @ X.T) + h @ h.T

    return (WithKernel if given else Net)()


def script(net: Any, eta: float, least: str | None) -> Callable[[int], None]:
    """The loop that a user writes.

    Args:
        net: From `network`.
        eta: Step size.
        least: svdvals, eigvalsh, or None for nothing.

    Returns:
        A function of a number of steps, which go on where the last ones ended.
    """
    import torch
    from torch.func import functional_call, jacrev

    torch.manual_seed(0)
    module, (X, y) = net.module(), net.data(0)
    theta = {k: v.detach().clone() for k, v in module.named_parameters()}
    kept: list[tuple[float, float]] = []

    def outputs(at: dict[str, Any]) -> Any:
        return functional_call(module, at, (X,)).flatten()

    def jacobian() -> Any:
        return torch.cat([J.flatten(1) for J in jacrev(outputs)(theta).values()], 1)

    def run(steps: int) -> None:
        kept.clear()
        for _ in range(steps):
            leaves = {k: v.requires_grad_() for k, v in theta.items()}
            loss = 0.5 * ((outputs(leaves) - y.flatten()) ** 2).sum()
            gradient = torch.autograd.grad(loss, list(leaves.values()))
            with torch.no_grad():
                sigma = 0.0
                if least == "svdvals":
                    sigma = torch.linalg.svdvals(jacobian())[-1].item()
                elif least == "eigvalsh":
                    J = jacobian()
                    sigma = max(torch.linalg.eigvalsh(J @ J.T)[0].item(), 0.0) ** 0.5
                kept.append((loss.item(), sigma))
                for k, g in zip(theta, gradient, strict=True):
                    theta[k] = theta[k].detach() - eta * g

    return run


def descent(net: Any, eta: float) -> tuple[Callable[[int], None], list[Any]]:
    """gdconv's loop from the start, and where it leaves its outcome.

    Args:
        net: From `network`.
        eta: Step size.

    Returns:
        A function of a number of steps, and a list whose last entry is the last outcome.
    """
    import numpy as np
    import torch

    from gdconv.compiled.ledger import POSTERIOR
    from gdconv.descent.loop import descend
    from gdconv.descent.plan import Bound, Plan
    from gdconv.models.generic.family import ModuleFamily
    from gdconv.models.generic.weights import ModuleWeights
    from gdconv.support.config import Config

    family = ModuleFamily(net, "two-layer")
    X, y = net.data(0)
    problem = family.problem(X.numpy()[None], y.numpy()[None], "drawn", [])
    torch.manual_seed(0)
    params = ModuleWeights.of(net.module())
    family.require_match(problem, params)
    model = family.model(Config("generic-gd"), {})
    made: list[Any] = []

    def run(steps: int) -> None:
        plan = Plan(
            eta=np.array([eta]), limits=np.array([steps]),
            bounds=[{"product": Bound(POSTERIOR)}], o_squared=np.ones(1),
            jacobian_drift=np.ones(1), trained=params.trained,
        )  # fmt: skip
        made[:] = descend(model, problem, params, plan)

    return run, made


def measure(index: int, act: str, rounds: int) -> dict[str, Any]:
    """Time all contestants on one shape.

    Args:
        index: Row of SHAPES.
        act: tanh or relu.
        rounds: Interleaved rounds.

    Returns:
        Medians in microseconds per step, ratios, what the descent found.
    """
    import torch

    shape = SHAPES[index]
    plain, given = network(shape, act, False, False), network(shape, act, False, True)
    X, _ = plain.data(0)
    torch.manual_seed(0)
    theta = {k: v.detach() for k, v in plain.module().named_parameters()}
    eta = 0.5 / float(torch.linalg.eigvalsh(given.kernel(theta, X))[-1])
    runs = {name: script(plain, eta, name) for name in ("svdvals", "eigvalsh")}
    runs["apply"], found = descent(plain, eta)
    runs["kernel"], _ = descent(given, eta)
    runs["hidden"], _ = descent(network(shape, act, True, False), eta)
    runs["hidden+kernel"], found_given = descent(network(shape, act, True, True), eta)
    runs["bare"] = script(plain, eta, None)
    counts = {name: STEPS[name][index] for name in runs}
    for name, run in runs.items():
        run(min(counts[name], 5))
    calls = {name: partial(run, counts[name]) for name, run in runs.items()}
    times = {
        name: [1e3 * ms / counts[name] for ms in values]
        for name, values in timed(calls, rounds, warm=False).items()
    }
    ledgers = {"apply": found[0].ledger, "hidden+kernel": found_given[0].ledger}
    return {
        "shape": dict(zip(("N", "D", "m"), shape, strict=True)),
        "activation": act,
        "steps": counts,
        "us_per_step": medians(times),
        "fastest_us_per_step": {name: min(values) for name, values in times.items()},
        "times_faster_than_svdvals": medians(times, times["svdvals"]),
        "times_faster_than_eigvalsh": medians(times, times["eigvalsh"]),
        "sigma_min": {
            name: [float(led["sigma_lo"]), float(led["sigma_hi"])] for name, led in ledgers.items()
        },
        "loss_ratio": float(ledgers["apply"]["loss"] / ledgers["apply"]["loss_0"]),
        "bound_ratio": exp(float(ledgers["apply"]["log_posterior"])),
    }


def _show(row: dict[str, Any]) -> str:
    shape = "({N},{D},{m})".format(**row["shape"])
    cells = [
        f"{us:10.1f} {row['times_faster_than_svdvals'][name]:6.1f}x"
        for name, us in row["us_per_step"].items()
    ]
    return f"{shape:14s} {row['activation']:5s}" + " ".join(cells)


def main() -> None:
    """Command line."""
    options = alone(__doc__, "module_step", "three rounds instead of seven")
    rows = []
    names = tuple(STEPS)
    print(f"{'(N,D,m)':14s} {'act':5s}" + "".join(f"{name + ' us':>19s}" for name in names))
    for index in range(len(SHAPES)):
        for act in ("tanh", "relu"):
            rows.append(measure(index, act, 3 if options.quick else 7))
            print(_show(rows[-1]), flush=True)
    save(options.out, {"rows": rows})


if __name__ == "__main__":
    main()
