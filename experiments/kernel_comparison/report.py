"""The report of the kernel comparison, in markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pandas as pd

from experiments.harness.markdown import rows_of
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
    lines = [
        "# Softmax against Gaussian attention, trained",
        "",
        "The same network, the same initial weights and the same batches for both kernels, seed by "
        "seed; only the attention weights differ. The learning rate is chosen per kernel by the "
        "same search on validation data. Final numbers are means over the last "
        f"{LAST} evaluations on the test set.",
        "",
        *claims_of(tasks, data, runs, pairs),
    ]
    for task in tasks:
        here = runs[runs["task"] == task.name]
        lines += ["", f"## {TITLES[task.name]}: {data[task.name].name}", ""]
        if "stand-in" in data[task.name].name:
            lines += [
                "These texts are a generated stand-in, not reviews: what is seen here is seen on "
                "the stand-in only.",
                "",
            ]
        lines += [
            f"{len(data[task.name].y)} training and {len(data[task.name].y_test)} test samples, "
            f"{dict(data[task.name].sizes)['tokens']} tokens, {task.steps} steps of "
            f"{task.batch} samples."
            + (f" Note: {data[task.name].note}." if data[task.name].note else ""),
            "",
            *runs_of(here),
            "",
            *levels_of(here, task),
            "",
            *pairs_of(pairs[pairs["task"] == task.name]),
            "",
            *rates_of(rates[rates["task"] == task.name]),
        ]
    return "\n".join(lines) + "\n"


def claims_of(
    tasks: list[Task], data: dict[str, Data], runs: pd.DataFrame, pairs: pd.DataFrame
) -> list[str]:
    """What of the poster's claim is seen.

    Args:
        tasks: The tasks.
        data: Their data.
        runs: One row per run.
        pairs: The paired differences.

    Returns:
        Lines.
    """
    lines = [
        "## Which claims are seen",
        "",
        "The poster's claim, read as: on text classification with SGD and on Pathfinder with Adam "
        "the Gaussian kernel trains faster and ends better. A claim counts as seen where the 95 % "
        "interval of the difference, paired by seed, excludes 0 in its favour, as reversed where "
        "it does so against it, else as open. Learning rates, batch sizes and data of the poster "
        "are not known to us, so neither outcome judges its own runs.",
        "",
    ]
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
    return lines + rows_of(table)


def runs_of(runs: pd.DataFrame) -> list[str]:
    """Final numbers per kernel, mean [lowest, highest] over seeds.

    Args:
        runs: Rows of one task.

    Returns:
        Lines.
    """
    table = [["kernel", "rate", *MEASURES.values(), "standard errors above chance", "ms a step"]]
    for kernel in KERNELS:
        here = runs[runs["kernel"] == kernel]
        rate = f"{here['rate'].iloc[0]:g}"
        cells = [spread(here[measure]) for measure in MEASURES]
        slow = f"{1e3 * here['seconds_per_step'].median():.1f}"
        table.append([NAMES[kernel], rate, *cells, spread(here["errors"], 1), slow])
    lines = rows_of(table)
    if diverged := int(runs["diverged"].sum()):
        lines += ["", f"{diverged} of {len(runs)} runs diverged and have no final numbers."]
    return lines


def levels_of(runs: pd.DataFrame, task: Task) -> list[str]:
    """Steps to given accuracies, those that some run reaches.

    Args:
        runs: Rows of one task.
        task: The task.

    Returns:
        Lines.
    """
    reached = [v for v in task.levels if (runs[f"step_{v:g}"] < math.inf).any()]
    if not reached:
        return [f"No run reaches a test accuracy of {min(task.levels):g}."]
    table = [["steps to test accuracy", *(f"{v:g}" for v in reached)]]
    for kernel in KERNELS:
        here = runs[runs["kernel"] == kernel]
        table.append([NAMES[kernel], *(steps(here[f"step_{v:g}"]) for v in reached)])
    return rows_of(table)


def pairs_of(pairs: pd.DataFrame) -> list[str]:
    """Paired differences.

    Args:
        pairs: Rows of one task.

    Returns:
        Lines.
    """
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
    return [*rows_of(table), "", f"With these seeds p (signs) is at least {least:g}."]


def rates_of(rates: pd.DataFrame) -> list[str]:
    """The search for a learning rate.

    Args:
        rates: Rows of one task.

    Returns:
        Lines.
    """
    tried = sorted(set(rates["rate"]))
    table = [["validation loss at rate", *(f"{rate:g}" for rate in tried)]]
    for kernel in KERNELS:
        here = rates[rates["kernel"] == kernel].set_index("rate")
        cells = []
        for rate in tried:
            cell = "diverged" if here["diverged"][rate] else f"{here['loss'][rate]:.4f}"
            cells.append(f"**{cell}**" if here["chosen"][rate] else cell)
        table.append([NAMES[kernel], *cells])
    lines = rows_of(table)
    if rates["edge"].any():
        names = " and ".join(NAMES[k] for k in rates[rates["edge"]]["kernel"])
        lines += ["", f"For {names} the chosen rate is at the end of the list."]
    return lines


def spread(values: pd.Series, digits: int = 3) -> str:
    """Mean [lowest, highest].

    Args:
        values: Numbers, nan is left out.
        digits: After the point.

    Returns:
        Text.

    Example:
        >>> spread(pd.Series([0.5, 0.75]))
        '0.625 [0.500, 0.750]'
    """
    known = values.dropna()
    if not len(known):
        return "none"
    return f"{known.mean():.{digits}f} [{known.min():.{digits}f}, {known.max():.{digits}f}]"


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
