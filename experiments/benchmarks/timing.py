"""What the benchmarks share: one process with one thread, interleaved rounds, ratios, one file."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

SINGLE = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    "RAYON_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
}

Times = dict[str, list[float]]
"""Milliseconds of every round by contestant."""


def alone(
    text: str | None, name: str, rounds: str = "three rounds instead of eleven", **more: Any
) -> argparse.Namespace:
    """Parse the options in a process of one thread on one processor.

    The process starts itself again, since libraries read the number of threads at import.

    Args:
        text: The benchmark's docstring.
        name: Its name.
        rounds: What --quick does.
        more: A further option: what argparse is told of it.

    Returns:
        quick, out and the further ones.
    """
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--quick", action="store_true", help=rounds)
    parser.add_argument("--out", type=Path, default=Path(f"results/benchmarks/{name}.json"))
    for option, told in more.items():
        parser.add_argument(f"--{option}", **told)
    options = parser.parse_args()
    if any(os.environ.get(key) != value for key, value in SINGLE.items()):
        again = [sys.executable, "-m", f"experiments.benchmarks.{name}", *sys.argv[1:]]
        os.execve(sys.executable, again, {**os.environ, **SINGLE})
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import torch

    torch.set_num_threads(1)
    return options


def timed(
    runs: Mapping[str, Callable[[], object]],
    rounds: int,
    repeats: Callable[[str], int] = lambda name: 1,
    warm: bool = True,
    clock: Callable[[], float] = time.perf_counter,
) -> Times:
    """Time contestants in turn, so that all meet the same state of the machine.

    Args:
        runs: Contestants.
        rounds: Rounds.
        repeats: Calls of a contestant in a round.
        warm: Whether it starts its turn with its own data in the cache.
        clock: In seconds; `time.process_time` for CPU time.

    Returns:
        Milliseconds per call.

    Example:
        >>> {name: len(t) for name, t in timed({"nothing": lambda: None}, 3).items()}
        {'nothing': 3}
    """
    times: Times = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            if warm:
                run()
            count = repeats(name)
            start = clock()
            for _ in range(count):
                run()
            times[name].append((clock() - start) / count * 1e3)
    return times


def medians(times: Times, base: list[float] | None = None) -> dict[str, float]:
    """Median over the rounds, of the times or of how much shorter they are than a baseline's.

    Args:
        times: Milliseconds.
        base: Milliseconds of the baseline.

    Returns:
        Medians.

    Example:
        >>> medians({"a": [1.0, 2.0, 9.0]}), medians({"a": [1.0, 2.0]}, [2.0, 4.0])
        ({'a': 2.0}, {'a': 2.0})
    """
    import numpy as np

    part = {n: np.array(t) if base is None else np.array(base) / t for n, t in times.items()}
    return {name: float(np.median(values)) for name, values in part.items()}


def peak_mib() -> float:
    """Peak resident memory of this process in MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # maxrss is inherited from the parent through fork and exec
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return float(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def asked(name: str, *memory: str) -> Any:
    """What a fresh process of a benchmark prints for --memory.

    Args:
        name: Name of the benchmark.
        memory: Values of the option.

    Returns:
        The number or object.
    """
    ask = [sys.executable, "-m", f"experiments.benchmarks.{name}", "--memory", *memory]
    return json.loads(subprocess.run(ask, capture_output=True, text=True, check=True).stdout)


def save(out: Path, result: dict[str, Any], *more: str) -> None:
    """Write the result file.

    Args:
        out: The file.
        result: What it holds beside versions and processor.
        more: Further libraries, if they are installed.
    """
    import llvmlite.binding as llvm
    import numpy
    import torch

    environment = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": str(llvm.get_host_cpu_name()),
        "processors": os.cpu_count(),
        "load": list(os.getloadavg()),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "blas": str(numpy.show_config(mode="dicts")["Build Dependencies"]["blas"]["name"]),
        **{
            name: str(importlib.import_module(name).__version__)
            for name in ("numpy", "scipy", "numba", "jax", *more)
            if importlib.util.find_spec(name)
        },
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"environment": environment, **result}, indent=1) + "\n")
