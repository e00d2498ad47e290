"""CPU time to a verdict in a warm process, against the loop that a user writes.

    python -m experiments.benchmarks.verdict [--quick] [--out FILE.json]

One process, one thread, rounds interleaved, CPU seconds. script: attention by hand in torch,
autograd, svdvals of B at every step, nothing judged; timed on 200 steps, longer runs from its time
per step. verdict: `gdconv.check("full-gd")` with its five statements, error bars and records.
sharpness: the same with lambda_max on the way. Then the other theorems with their defaults.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from experiments.benchmarks.gd_step import problem, torch_loop
from experiments.benchmarks.timing import alone, medians, save, timed

SHAPES = ((8, 4, 16, 8, 4), (16, 8, 64, 32, 4))
STEPS = (200, 2000, 20_000)
SCRIPT = 200
ETA = 1e-3
OTHERS = ("query-gd", "ntk-regime", "generic-gd", "attention-hessian", "convex-attention")


def verdict(shape: tuple[int, ...], steps: int, sharpness: bool) -> Any:
    """The same run, judged.

    Args:
        shape: (N, n, D, d, H).
        steps: Steps.
        sharpness: Whether lambda_max is measured on the way.

    Returns:
        The check.
    """
    import gdconv

    arrays = problem(shape)
    weights = {b: arrays[b] for b in ("W_Q", "W_K", "W_V", "W_O")}
    return gdconv.check(
        "full-gd", X=arrays["X"], y=arrays["y"], weights=weights, step="local", steps=steps,
        label_norm=None, until_loss=1e-300, until_bound=1e-300, sharpness=sharpness,
    )  # fmt: skip


def cpu(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of every round.

    Args:
        runs: What to time, by name; each is called once before.
        rounds: Rounds, in each of them all in turn.

    Returns:
        The seconds.

    Example:
        >>> len(cpu({"nothing": lambda: None}, 3)["nothing"])
        3
    """
    for run in runs.values():
        run()
    times = timed(runs, rounds, warm=False, clock=time.process_time)
    return {name: [ms / 1e3 for ms in of_run] for name, of_run in times.items()}


def measure(shape: tuple[int, ...], rounds: int) -> dict[str, Any]:
    """All runs of one shape.

    Args:
        shape: (N, n, D, d, H).
        rounds: Interleaved rounds.

    Returns:
        Medians and least CPU seconds by run, and how many times the script takes.
    """
    runs: dict[str, Callable[[], object]] = {
        f"script {SCRIPT}": partial(torch_loop(problem(shape), ETA), SCRIPT)
    }
    for steps in STEPS:
        for sharpness in (False, True):
            name = f"{'sharpness' if sharpness else 'verdict'} {steps}"
            runs[name] = partial(verdict, shape, steps, sharpness)
    times = cpu(runs, rounds)
    base = times[f"script {SCRIPT}"]
    ratios: dict[str, float] = {}
    for steps in STEPS:
        longer = [seconds * steps / SCRIPT for seconds in base]
        ratios |= medians({n: t for n, t in times.items() if n.endswith(f" {steps}")}, longer)
    return {
        "shape": dict(zip(("N", "n", "D", "d", "H"), shape, strict=True)),
        "cpu_seconds": medians(times),
        "least_cpu_seconds": {name: min(t) for name, t in times.items()},
        "times_faster_than_script": ratios,
    }


def main() -> None:
    """Command line."""
    import gdconv

    options = alone(__doc__, "verdict", "three rounds instead of nine")
    rounds = 3 if options.quick else 9
    rows = []
    for shape in SHAPES:
        rows.append(measure(shape, rounds))
        print("N, n, D, d, H =", shape)
        for name, seconds in rows[-1]["cpu_seconds"].items():
            ratio = rows[-1]["times_faster_than_script"][name]
            print(f"  {name:18s} {seconds:9.4f} s   {ratio:7.1f}x", flush=True)
    others = cpu({name: partial(gdconv.check, name) for name in OTHERS}, min(rounds, 3))
    for name, seconds in medians(others).items():
        print(f"{name:20s} {seconds:9.4f} s", flush=True)
    save(options.out, {"rows": rows, "defaults": medians(others)})


if __name__ == "__main__":
    main()
