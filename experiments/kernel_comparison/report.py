"""The report of the kernel comparison, in markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pandas as pd

from experiments.harness.markdown import STAND_IN, section, spread
from experiments.harness.style import NAMES
from experiments.kernel_comparison.numbers import LAST, MEASURES
from experiments.kernel_comparison.plan import KERNELS
from experiments.tasks.trained import BAR, Data, Task

CLAIMS = {
    "area": "the Gaussian kernel trains faster",
    "accuracy": "the Gaussian kernel ends with the higher test accuracy",
    "loss": "the Gaussian kernel ends with the lower test loss",
}


TITLES = {"text": "Text classification, SGD", "pathfinder": "Pathfinder, Adam"}


def report(
    tasks: Iterable[Task],
    data: dict[str, Data],
    rates: pd.DataFrame,
    runs: pd.DataFrame,
    pairs: pd.DataFrame,
) -> str:
    """The whole report.

    Args:
        tasks: The tasks.
        data: Their data.
        rates: The search for a rate.
        runs: One row per run, with `errors`, standard errors above the most frequent class.
        pairs: The paired differences.

    Returns:
        Markdown.
    """
    tasks = list(tasks)
    lines = section(
        "# Softmax against Gaussian attention, trained",
        "The same network, the same initial weights and the same batches for both kernels, seed by "
        "seed; only the attention weights differ. The learning rate is chosen per kernel by the "
        "same search on validation data. Final numbers are means over the last "
        f"{LAST} evaluations on the test set.",
    )
    lines += _claims_of(tasks, data, runs, pairs)
    for task in tasks:
        here = runs[runs["task"] == task.name]
        made, sizes = data[task.name], dict(data[task.name].sizes)
        lines += section(f"## {TITLES[task.name]}: {made.name}")
        lines += section(STAND_IN) if "stand-in" in made.name else []
        lines += section(
            f"{len(made.y)} training and {len(made.y_test)} test samples, "
            f"{sizes['tokens']} tokens, {task.steps} steps of {task.batch} samples."
            + (f" Note: {made.note}." if made.note else "")
        )
        lines += _runs_of(here) + _levels_of(here, task)
        lines += _pairs_of(pairs[pairs["task"] == task.name])
        lines += _rates_of(rates[rates["task"] == task.name])
    return "\n".join(lines)


def _claims_of(
    tasks: list[Task], data: dict[str, Data], runs: pd.DataFrame, pairs: pd.DataFrame
) -> list[str]:
    """What of the poster's claim is seen."""
    said = (
        "The poster's claim, read as: on text classification with SGD and on Pathfinder with Adam "
        "the Gaussian kernel trains faster and ends better. A claim counts as seen where the 95 % "
        "interval of the difference, paired by seed, excludes 0 in its favour, as reversed where "
        "it does so against it, else as open. Learning rates, batch sizes and data of the poster "
        "are not known to us, so neither outcome judges its own runs."
    )
    table = [["claim", *(f"{TITLES[task.name]}: {data[task.name].name}" for task in tasks)]]
    cells = {(row.task, row.measure): row for row in pairs.itertuples()}
    for measure, text in CLAIMS.items():
        line = [text]
        for task in tasks:
            row = cells[task.name, measure]
            line.append(f"{row.claim} ({row.better} of {row.seeds} seeds)")
        table.append(line)
    for kernel in KERNELS:
        line = [f"the {NAMES[kernel]} kernel learns at all, {BAR:g} standard errors above chance"]
        for task in tasks:
            here = runs[(runs["task"] == task.name) & (runs["kernel"] == kernel)]
            learned = int((here["errors"] >= BAR).sum())
            line.append(f"in {learned} of {len(here)} seeds")
        table.append(line)
    return section("## Which claims are seen", said, table)


def _runs_of(runs: pd.DataFrame) -> list[str]:
    """Final numbers per kernel, mean [lowest, highest] over seeds."""
    table = [["kernel", "rate", *MEASURES.values(), "standard errors above chance", "ms a step"]]
    for kernel in KERNELS:
        here = runs[runs["kernel"] == kernel]
        rate = f"{here['rate'].iloc[0]:g}"
        cells = [spread(here[measure]) for measure in MEASURES]
        slow = f"{1e3 * here['seconds_per_step'].median():.1f}"
        table.append([NAMES[kernel], rate, *cells, spread(here["errors"], ".1f"), slow])
    diverged = int(runs["diverged"].sum())
    said = f"{diverged} of {len(runs)} runs diverged and have no final numbers."
    return section(table, *([said] if diverged else []))


def _levels_of(runs: pd.DataFrame, task: Task) -> list[str]:
    """Steps to given accuracies, those that some run reaches."""
    reached = [v for v in task.levels if (runs[f"step_{v:g}"] < math.inf).any()]
    if not reached:
        return section(f"No run reaches a test accuracy of {min(task.levels):g}.")
    table = [["steps to test accuracy", *(f"{v:g}" for v in reached)]]
    for kernel in KERNELS:
        here = runs[runs["kernel"] == kernel]
        table.append([NAMES[kernel], *(steps(here[f"step_{v:g}"]) for v in reached)])
    return section(table)


def _pairs_of(pairs: pd.DataFrame) -> list[str]:
    """Paired differences."""
    table = [["Gaussian - softmax, paired by seed", "mean [95 % interval]", "p (t)", "p (signs)",
              "Gaussian better"]]  # fmt: skip
    for row in pairs.itertuples():
        table.append([
            MEASURES[str(row.measure)],
            f"{row.mean:+.3f} [{row.lo:+.3f}, {row.hi:+.3f}]",
            f"{row.p_t:.2g}",
            f"{row.p_flip:.2g}",
            f"{row.better} of {row.seeds}",
        ])
    least = 2.0 ** (1 - int(pairs["seeds"].max()))
    return section(table, f"With these seeds p (signs) is at least {least:g}.")


def _rates_of(rates: pd.DataFrame) -> list[str]:
    """The search for a learning rate."""
    tried = sorted(set(rates["rate"]))
    table = [["validation loss at rate", *(f"{rate:g}" for rate in tried)]]
    for kernel in KERNELS:
        here = rates[rates["kernel"] == kernel].set_index("rate")
        cells = []
        for rate in tried:
            cell = "diverged" if here["diverged"][rate] else f"{here['loss'][rate]:.4f}"
            cells.append(f"**{cell}**" if here["chosen"][rate] else cell)
        table.append([NAMES[kernel], *cells])
    names = " and ".join(NAMES[k] for k in rates[rates["edge"]]["kernel"])
    return section(
        table, *([f"For {names} the chosen rate is at the end of the list."] if names else [])
    )


def steps(values: pd.Series) -> str:
    """Steps by seed, sorted; "-" for a run that does not get there.

    Args:
        values: Steps, infinity for never.

    Returns:
        Text.

    Example:
        >>> steps(pd.Series([300.0, math.inf, 100.0]))
        '100, 300, -'
    """
    return ", ".join("-" if math.isinf(v) else f"{v:.0f}" for v in sorted(values))
