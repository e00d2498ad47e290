"""Runs of the kernel comparison: in processes, with checkpoints, and the choice of the rates."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from experiments.kernel_comparison.plan import FIRST_SEED, KERNELS, SEARCH_SEED, Spec
from experiments.tasks.classifier import TransformerClassifier
from experiments.tasks.trained import Preset, Task, load
from experiments.tasks.training import train
from gdconv.support.errors import InputError
from gdconv.support.threads import one_thread

_told: Any = None
"""Queue to the parent, in a worker."""

_stop: Any = None
"""Event of the parent, in a worker: end at the next checkpoint."""


def run_one(spec: Spec, folder: Path, device: str, told: Any = None) -> pd.DataFrame:
    """Train one network, going on from its checkpoint.

    Args:
        spec: The run.
        folder: Folder of the checkpoints.
        device: "cpu" or "cuda".
        told: Called with the steps done since the last call.

    Returns:
        One row per evaluation: task, kernel, stage, rate, seed, step, train_loss, accuracy, loss,
        seconds, diverged.
    """
    data = load(spec.task)
    net = TransformerClassifier(data.network(spec.model), spec.kernel, seed=spec.seed).to(device)
    samples = data.samples(spec.stage).to(device)
    made = train(net, samples, spec.plan(), folder / f"{spec.key}.pt", told, spec.mark)
    table = pd.DataFrame(made.rows)
    table["train_loss"] = table["train_loss"].astype(float)
    names = {"task": spec.task.name, "kernel": spec.kernel, "stage": spec.stage}
    for place, (name, value) in enumerate((names | {"rate": spec.rate, "seed": spec.seed}).items()):
        table.insert(place, name, value)
    table["diverged"] = made.diverged is not None
    return table


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
    total = sum(spec.steps for spec in specs)
    with tqdm(total=total, desc=title, unit="step", smoothing=0.05) as bar:
        if jobs == 1:
            with one_thread():
                tables = [run_one(spec, folder, device, bar.update) for spec in specs]
        else:
            tables = _in_processes(specs, folder, jobs, device, bar)
    return pd.concat(tables, ignore_index=True)


def _in_processes(
    specs: Sequence[Spec], folder: Path, jobs: int, device: str, bar: Any
) -> list[pd.DataFrame]:
    """Results in the order of the specs; a thread moves the bar."""
    context = multiprocessing.get_context("spawn")
    told, stop, done = context.Queue(), context.Event(), threading.Event()

    def listen() -> None:
        ended = False
        while not ended:
            ended = done.is_set()  # looked at before waiting, so the last reports are read
            try:
                while True:
                    bar.update(told.get(timeout=0.2))
            except queue.Empty:
                continue

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    pool = ProcessPoolExecutor(jobs, context, _start_worker, (told, stop))
    try:
        waiting = [pool.submit(_work, spec, folder, device) for spec in specs]
        return [future.result() for future in waiting]
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
        done.set()
        listener.join()


def _start_worker(told: Any, stop: Any) -> None:
    global _told, _stop
    _told, _stop = told, stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # control-C is the parent's, which sets stop
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent cannot end its workers, and they would train on beside the next ones."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(spec: Spec, folder: Path, device: str) -> pd.DataFrame:
    with one_thread():
        return run_one(spec, folder, device, _tell)


def _tell(steps: int) -> None:
    _told.put(steps)
    if _stop.is_set():
        raise KeyboardInterrupt


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
