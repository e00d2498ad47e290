"""Runs of a check in several processes of one thread each; joblib starts and feeds them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Sequence
from typing import Any

from gdconv.support.errors import GdconvError, InputError, cause


def in_processes(
    function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], jobs: int
) -> Generator[Any]:
    """What a function makes of every task, in their order, as they are finished.

    Args:
        function: Of a module, so that another process finds it.
        tasks: Its arguments.
        jobs: Greatest number of processes.

    Yields:
        The answers; what it raises is raised here.

    Raises:
        InputError: A task cannot be sent to another process.

    Example:
        >>> list(in_processes(max, [(1, 2), (4, 3)], 1))
        [2, 4]
    """
    if min(jobs, len(tasks)) < 2:
        yield from (function(*task) for task in tasks)
        return
    from cloudpickle import dumps  # what joblib packs with
    from joblib import Parallel, delayed, parallel_config  # loads slowly

    try:
        dumps(tasks[0])
    except Exception as error:  # whatever a user's object raises
        remedy = f"leave it out: what is checked cannot be sent to a process ({cause(error)})"
        raise InputError("jobs", jobs, remedy) from error
    with parallel_config(backend="loky", inner_max_num_threads=1):
        pool = Parallel(n_jobs=min(jobs, len(tasks)), return_as="generator")
        answers = pool(delayed(_tried)(function, task) for task in tasks)
        try:
            for answer in answers:
                if isinstance(answer, GdconvError):
                    raise answer
                yield answer
        finally:
            with warnings.catch_warnings():  # that work is left undone is why it is closed
                warnings.simplefilter("ignore", UserWarning)
                answers.close()


def _tried(function: Callable[..., Any], task: tuple[Any, ...]) -> Any:
    """What it makes of a task, or its error: raised there, it would overtake earlier answers."""
    try:
        return function(*task)
    except GdconvError as error:
        return error
