"""Runs of the kernel comparison, each with its checkpoint, and the choice of the rates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from experiments.harness.workers import in_processes
from experiments.kernel_comparison.plan import FIRST_SEED, KERNELS, SEARCH_SEED, Spec
from experiments.tasks.classifier import TransformerClassifier
from experiments.tasks.trained import Preset, Task, load
from experiments.tasks.training import train
from gdconv.support.errors import InputError


def run_one(
    spec: Spec, told: Callable[[int], object] | None = None, *, folder: Path, device: str
) -> pd.DataFrame:
    """Train one network, going on from its checkpoint.

    Args:
        spec: The run.
        told: Called with the steps done since the last call.
        folder: Folder of the checkpoints.
        device: "cpu" or "cuda".

    Returns:
        One row per evaluation: task, kernel, stage, rate, seed, step, train_loss, accuracy, loss,
        seconds, diverged.
    """
    data = load(spec.task)
    net = TransformerClassifier(data.network(spec.model), spec.kernel, seed=spec.seed).to(device)
    samples = data.samples(spec.stage).to(device)
    made = train(net, samples, spec.plan(), folder / f"{spec.key}.pt", told, spec.mark)
    return made.table(
        task=spec.task.name, kernel=spec.kernel, stage=spec.stage, rate=spec.rate, seed=spec.seed
    )


def run_all(
    specs: Sequence[Spec], folder: Path, jobs: int, device: str, title: str
) -> pd.DataFrame:
    """All runs, with one bar for their steps.

    Args:
        specs: The runs.
        folder: Folder of the checkpoints.
        jobs: Processes, one thread each; 1 stays in this one.
        device: "cpu" or "cuda".
        title: Of the bar.

    Returns:
        Their rows.
    """
    work, steps = partial(run_one, folder=folder, device=device), sum(s.steps for s in specs)
    return pd.concat(in_processes(specs, work, jobs, steps, title), ignore_index=True)


def search_specs(preset: Preset) -> list[Spec]:
    """The runs that try the rates: the same rates, seeds and steps for both kernels.

    Args:
        preset: Sizes.

    Returns:
        The runs.

    Example:
        >>> from experiments.tasks.trained import PRESETS
        >>> len(search_specs(PRESETS["small"]))
        16
    """
    return [
        Spec(task, kernel, "search", rate, SEARCH_SEED + seed, preset.model)
        for task in preset.tasks
        for rate in task.rates
        for kernel in KERNELS
        for seed in range(preset.search_seeds)
    ]


def final_specs(preset: Preset, rates: dict[tuple[str, str], float]) -> list[Spec]:
    """The runs of the comparison.

    Args:
        preset: Sizes.
        rates: Chosen rate by task and kernel.

    Returns:
        The runs; the kernels of one seed have the same start and the same batches.
    """
    return [
        Spec(task, kernel, "final", rates[task.name, kernel], FIRST_SEED + seed, preset.model)
        for task in preset.tasks
        for seed in range(preset.seeds)
        for kernel in KERNELS
    ]


def score_rates(search: pd.DataFrame, tasks: Iterable[Task]) -> pd.DataFrame:
    """How well each rate did: mean validation loss over the second half of its runs.

    Args:
        search: Rows of the search.
        tasks: The tasks.

    Returns:
        One row per task, kernel and rate: loss, diverged (any seed), chosen, edge (chosen although
        the next one outside the list might be better).

    Raises:
        InputError: Every rate of a task and kernel diverged.
    """
    rows = []
    for task in tasks:
        for kernel in KERNELS:
            here = search[(search["task"] == task.name) & (search["kernel"] == kernel)]
            scores: dict[float, float] = {}
            diverged: dict[float, bool] = {}
            for rate in task.rates:
                runs = here[here["rate"] == rate]
                late = runs[runs["step"] > task.search_steps // 2]
                diverged[rate] = bool(runs["diverged"].any())
                scores[rate] = float(late["loss"].mean()) if not diverged[rate] else float("inf")
            best = min(task.rates, key=lambda rate: scores[rate])
            if scores[best] == float("inf"):
                rates = ", ".join(f"{rate:g}" for rate in task.rates)
                raise InputError(f"rates of {task.name}", rates, f"give smaller ones for {kernel}")
            edge = best in (min(task.rates), max(task.rates))
            rows += [
                {
                    "task": task.name, "kernel": kernel, "rate": rate, "loss": scores[rate],
                    "diverged": diverged[rate], "chosen": rate == best,
                    "edge": edge and rate == best,
                }
                for rate in task.rates
            ]  # fmt: skip
    return pd.DataFrame(rows)
