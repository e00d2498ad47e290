"""Runs in processes: one bar for the steps of all, one thread each, an end at the next report."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

import torch
from tqdm import tqdm

from gdconv.support.threads import one_thread

U = TypeVar("U")
R = TypeVar("R")

Work = Callable[[U, Callable[[int], object]], R]
"""Does a unit and tells, after saving, how many steps are done since it told last."""

_told: Any = None
"""Queue to the parent, in a worker."""

_stop: Any = None
"""Event of the parent, in a worker: end at the next report."""


def in_processes(
    units: Sequence[U], work: Work[U, R], jobs: int, steps: int, title: str
) -> list[R]:
    """All units, with one bar for their steps.

    Args:
        units: The units.
        work: Does one; with several processes it must be picklable.
        jobs: Processes; 1 stays in this one.
        steps: Steps of all units.
        title: Of the bar.

    Returns:
        Results in the order of the units.

    Example:
        >>> in_processes([1, 2], lambda unit, tell: 10 * unit, 1, 2, "tens")
        [10, 20]
    """
    with tqdm(total=steps, desc=title, unit="step", smoothing=0.05) as bar:
        if jobs > 1:
            return _spread(units, work, jobs, bar)
        with one_thread():
            return [work(unit, bar.update) for unit in units]


def _spread(units: Sequence[U], work: Work[U, R], jobs: int, bar: Any) -> list[R]:
    """A thread moves the bar."""
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
    pool = ProcessPoolExecutor(jobs, context, _start, (told, stop))
    try:
        waiting = [pool.submit(_one, work, unit) for unit in units]
        return [future.result() for future in waiting]
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
        done.set()
        listener.join()


def _start(told: Any, stop: Any) -> None:
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


def _one(work: Work[U, R], unit: U) -> R:
    with one_thread():
        return work(unit, _tell)


def _tell(steps: int) -> None:
    _told.put(steps)
    if _stop.is_set():
        raise KeyboardInterrupt
