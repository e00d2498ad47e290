"""Softmax against Gaussian attention, trained on text (SGD) and on Pathfinder (Adam).

A two-layer transformer, both kernels, several seeds, the learning rate chosen per kernel by the
same search on validation data. Writes curves.csv, runs.csv, pairs.csv, rates.csv, report.md,
manifest.json, the figure and a picture of Pathfinder samples (PDF and PNG) to OUT/, and
checkpoints to OUT/checkpoints: the same command goes on where a killed one stopped.

    python -m experiments.kernel_comparison [--preset small] [--out runs/kernel_comparison]
                                            [--text aclImdb_v1.tar.gz] [--jobs 2]

Text without --text is a generated stand-in, and is called one in every result.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from experiments.harness.command import carried_out, chosen_device, parser_of
from experiments.harness.results import save_results
from experiments.harness.statistics import above_chance
from experiments.kernel_comparison.figure import draw
from experiments.kernel_comparison.numbers import compare, measure_runs
from experiments.kernel_comparison.plan import FIRST_SEED
from experiments.kernel_comparison.report import report
from experiments.kernel_comparison.runs import final_specs, run_all, score_rates, search_specs
from experiments.tasks.pathfinder import picture
from experiments.tasks.trained import PRESETS, Preset, Task, load
from gdconv.checks.store import require_writable
from gdconv.support.errors import InputError


def run(preset: Preset, out: Path, jobs: int = 1, device: str = "cpu") -> dict[str, pd.DataFrame]:
    """Search, train, measure, write.

    Args:
        preset: Tasks and sizes.
        out: Folder to write to.
        jobs: Processes.
        device: "cpu" or "cuda".

    Returns:
        Tables by name: curves, runs, pairs, rates.

    Raises:
        InputError: The folder cannot be written, or the data cannot be used.
    """
    require_writable(out)
    folder = out / "checkpoints"
    data = {task.name: load(task) for task in preset.tasks}  # bad data: before anything is trained
    search = run_all(search_specs(preset), folder, jobs, device, "learning rates")
    rates = score_rates(search, preset.tasks)
    best = rates[rates["chosen"]]
    chosen = {
        (str(task), str(kernel)): float(rate)
        for task, kernel, rate in zip(best["task"], best["kernel"], best["rate"], strict=True)
    }
    curves = run_all(final_specs(preset, chosen), folder, jobs, device, "comparison")
    runs = measure_runs(curves, preset.tasks)
    runs["errors"] = [
        above_chance(accuracy, data[str(task)].y_test.numpy())
        for task, accuracy in zip(runs["task"], runs["accuracy"], strict=True)
    ]
    pairs = compare(runs)
    tables = {"curves": curves, "runs": runs, "pairs": pairs, "rates": rates}
    names = {name: part.name for name, part in data.items()}
    for table in tables.values():
        table.insert(1, "data", table["task"].map(names))  # a stand-in is called one here too
    text = report(preset.tasks, data, rates, runs, pairs)
    chance = {
        name: float(torch.bincount(part.y_test).max() / len(part.y_test))
        for name, part in data.items()
    }
    figures = {"figure": draw(curves, rates, names, chance)}
    if "pathfinder" in names:
        figures["pathfinder_samples"] = picture()
    save_results(out, tables, {"report": text}, figures, _manifest(preset, names, device))
    return tables


def _manifest(preset: Preset, names: dict[str, str], device: str) -> dict[str, Any]:
    """What it takes to run this again; paths of the user's files are left out."""
    tasks: list[dict[str, Any]] = []
    for task in preset.tasks:
        shown = asdict(task) | {"data": names[task.name]}
        del shown["cache"]
        tasks.append(shown)
    given = names.get("text", "")
    return {
        "command": f"python -m experiments.kernel_comparison --preset {preset.name}"
        + ("" if "stand-in" in given or not given else " --text PATH"),
        "data": names,
        "tasks": tasks,
        "seeds": [FIRST_SEED + seed for seed in range(preset.seeds)],
        "search_seeds": preset.search_seeds,
        "model": dict(preset.model),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
    }


def _adapted(preset: Preset, options: argparse.Namespace) -> Preset:
    """A preset with the changes of the command line."""
    wanted = options.tasks.split(",")
    known = {task.name for task in preset.tasks}
    for name in wanted:
        if name not in known:
            raise InputError("tasks", name, f"choose from {', '.join(sorted(known))}")
    seeds = preset.seeds if options.seeds is None else options.seeds
    if not 2 <= seeds <= 15:
        raise InputError("seeds", seeds, "give 2 to 15: fewer have no interval")
    tasks = tuple(
        _with_text(task, options) if task.name == "text" else task
        for task in preset.tasks
        if task.name in wanted
    )
    return replace(preset, tasks=tasks, seeds=seeds)


def _with_text(task: Task, options: argparse.Namespace) -> Task:
    """Real texts are longer than those of the stand-in."""
    if options.text == "stand-in":
        return task
    length = task.length if task.unit == "character" else 128
    return replace(task, data=options.text, length=length, cache=str(options.out / "cache"))


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns 0, or 2 for an option that cannot be used."""
    parser = parser_of(__doc__, "kernel_comparison", PRESETS, "small", device=True)
    parser.add_argument("--tasks", default="text,pathfinder", help="one or both")
    parser.add_argument("--text", default="stand-in", help="aclImdb, its .tar.gz, a .csv, or "
                        "datasets:imdb; without it a generated stand-in")  # fmt: skip
    parser.add_argument("--seeds", type=int, help="seeds of the comparison")
    parser.add_argument("--jobs", type=int, help="processes; 2 on a CPU, 1 on a GPU")
    options = parser.parse_args(arguments)

    def work() -> None:
        device = chosen_device(options.device)
        jobs = options.jobs if options.jobs is not None else (2 if device == "cpu" else 1)
        if jobs < 1:
            raise InputError("jobs", jobs, "give a whole number of at least 1")
        run(_adapted(PRESETS[options.preset], options), options.out, jobs, device)

    return carried_out(work, options.out / "report.md", "report, tables and figure")
