"""The figure of the kernel comparison: accuracy and loss along training, and the rates tried."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.harness.style import MARKS, NAMES, heading, kernel_colours, plain_ticks, tidy
from experiments.kernel_comparison.plan import KERNELS

TITLES = {"text": "Text, SGD", "pathfinder": "Pathfinder, Adam"}


def draw(
    curves: pd.DataFrame, rates: pd.DataFrame, data: dict[str, str], chance: dict[str, float]
) -> Figure:
    """One line of panels per task.

    Args:
        curves: Rows of the runs of the comparison.
        rates: Rows of the search.
        data: What the data of a task are called.
        chance: Share of the most frequent class of the test set.

    Returns:
        The figure, not attached to pyplot.
    """
    tasks = list(dict.fromkeys(curves["task"]))
    fig = Figure(figsize=(13, 4.1 * len(tasks)), layout="constrained")
    parts = fig.subfigures(len(tasks), 1, squeeze=False)[:, 0]
    for part, task in zip(parts, tasks, strict=True):
        here = curves[curves["task"] == task]
        left, middle, right = part.subplots(1, 3)
        _draw_curves(left, here, "accuracy")
        left.axhline(chance[task], color="#777777", ls=":", lw=1.2, label="most frequent class")
        left.set_ylabel("test accuracy")
        left.legend(fontsize=9, framealpha=0.7, edgecolor="none")
        _draw_curves(middle, here, "loss")
        middle.set_ylabel("test loss (cross-entropy, nats)")
        _draw_rates(right, rates[rates["task"] == task])
        seeds = here["seed"].nunique()
        heading(part, f"{TITLES[task]}: {data[task]}; mean and range of {seeds} seeds")
    return fig


def _draw_curves(axes: Axes, curves: pd.DataFrame, measure: str) -> None:
    """Mean over seeds, band from the lowest to the highest, thin lines per seed."""
    for kernel in KERNELS:
        colour = kernel_colours()[kernel]
        table = curves[curves["kernel"] == kernel].pivot_table(
            index="step", columns="seed", values=measure
        )
        for seed in table:
            axes.plot(table.index, table[seed], color=colour, lw=0.6, alpha=0.6)
        low, high = table.min(axis=1).to_numpy(), table.max(axis=1).to_numpy()
        axes.fill_between(table.index, low, high, color=colour, alpha=0.18, lw=0)
        label = NAMES[kernel]
        diverged = curves[(curves["kernel"] == kernel) & curves["diverged"]]["seed"].nunique()
        if diverged:
            label += f" ({diverged} diverged)"
        axes.plot(table.index, table.mean(axis=1), color=colour, lw=2, label=label)
    axes.set_xlabel("step")
    tidy(axes)


def _draw_rates(axes: Axes, rates: pd.DataFrame) -> None:
    """Validation loss of the short runs; the chosen rate is ringed."""
    for kernel in KERNELS:
        rows = rates[(rates["kernel"] == kernel)].sort_values("rate")
        colour, finite = kernel_colours()[kernel], ~rows["diverged"]
        axes.plot(rows["rate"][finite], rows["loss"][finite], MARKS[kernel] + "-", color=colour,
                  ms=5, label=NAMES[kernel])  # fmt: skip
        best = rows[rows["chosen"]]
        axes.plot(best["rate"], best["loss"], "o", mfc="none", mec=colour, ms=13, mew=1.8)
        for rate in rows["rate"][~finite]:
            axes.axvline(rate, color=colour, ls="--", lw=1, label=f"{NAMES[kernel]} diverged")
    axes.set_xscale("log")
    plain_ticks(axes.xaxis, sorted(set(rates["rate"])))
    axes.set_xlabel("learning rate (chosen: ringed)")
    axes.set_ylabel("validation loss, late half of the search")
    axes.legend(fontsize=9, frameon=False)
    tidy(axes)
