"""Numbers of the kernel comparison: per run, per kernel, and paired over seeds."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import Any

import numpy as np
import pandas as pd

from experiments.harness.statistics import paired
from experiments.kernel_comparison.plan import KERNELS
from experiments.tasks.trained import Task

LAST = 3
"""Final accuracy and loss are means over this many evaluations."""

MEASURES = {
    "accuracy": "test accuracy at the end",
    "loss": "test loss at the end",
    "area": "test accuracy, mean over training",
}
"""What is compared; a larger accuracy or area and a smaller loss is better."""


def measure_runs(curves: pd.DataFrame, tasks: Iterable[Task]) -> pd.DataFrame:
    """One row per run.

    Args:
        curves: Rows of the runs of the comparison.
        tasks: The tasks.

    Returns:
        task, kernel, seed, rate, accuracy and loss (mean of the last evaluations), area (mean
        accuracy over training, trapezoids), seconds a step, diverged, and step_<level> for the
        task's levels: the first evaluation with that accuracy that the next one confirms, infinity
        where there is none. A run that diverged has no final numbers.
    """
    rows = []
    for task in tasks:
        for kernel in KERNELS:
            here = curves[(curves["task"] == task.name) & (curves["kernel"] == kernel)]
            for seed, run in here.groupby("seed"):
                run = run.sort_values("step")
                whole = not run["diverged"].any()
                last = run.tail(LAST)
                row: dict[str, Any] = {"task": task.name, "kernel": kernel, "seed": seed}
                row |= {"rate": run["rate"].iloc[0], "diverged": not whole}
                for name in ("accuracy", "loss"):
                    row[name] = float(last[name].mean()) if whole else float("nan")
                step, accuracy = run["step"].to_numpy(), run["accuracy"].to_numpy()
                row["area"] = (
                    float(np.trapezoid(accuracy, step) / step[-1]) if whole else float("nan")
                )
                row["seconds_per_step"] = float(run["seconds"].iloc[-1] / max(1, step[-1]))
                row |= {f"step_{v:g}": first_step(step, accuracy, v) for v in task.levels}
                rows.append(row)
    return pd.DataFrame(rows)


def first_step(step: np.ndarray, accuracy: np.ndarray, level: float) -> float:
    """The first evaluation at or above a level that the next one confirms.

    Args:
        step: Steps of the evaluations.
        accuracy: Accuracies there.
        level: The level.

    Returns:
        The step, infinity if there is none; the last evaluation needs no confirmation.

    Example:
        >>> first_step(np.array([0, 10, 20, 30]), np.array([0.5, 0.8, 0.6, 0.8]), 0.7)
        30.0
    """
    above = accuracy >= level
    confirmed = above & np.append(above[1:], True)
    return float(step[confirmed.argmax()]) if confirmed.any() else inf


def compare(runs: pd.DataFrame) -> pd.DataFrame:
    """Differences Gaussian - softmax, paired by seed.

    Args:
        runs: Rows of `measure_runs`.

    Returns:
        One row per task and measure: mean difference, its 95 % interval by Student's t, p of the
        paired t-test, p of the exact sign-flip test, in how many seeds the Gaussian kernel is
        better, seeds, and claim: "seen" (Gaussian better, interval beyond 0), "reversed" or "open".
    """
    rows = []
    for task, here in runs.groupby("task", sort=False):
        sides = {kernel: here[here["kernel"] == kernel].set_index("seed") for kernel in KERNELS}
        for measure in MEASURES:
            gaps = (sides["gaussian"][measure] - sides["softmax"][measure]).dropna().to_numpy()
            better = -gaps if measure == "loss" else gaps
            rows.append(
                {"task": task, "measure": measure, **paired(gaps)}
                | {"better": int((better > 0).sum()), "claim": _claim(better)}
            )
    return pd.DataFrame(rows)


def _claim(better: np.ndarray) -> str:
    made = paired(better)
    if made["lo"] > 0:
        return "seen"
    return "reversed" if made["hi"] < 0 else "open"
