"""How an experiment ends on the command line: its report, or one sentence and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch

from gdconv.support.errors import GdconvError, InputError


def carried_out(work: Callable[[], object], report: Path, made: str) -> int:
    """Do the work of an experiment that keeps checkpoints, then show its report.

    Args:
        work: Writes everything, the report included.
        report: The report.
        made: Sentence that names what was written.

    Returns:
        0, 2 for an option that cannot be used, 130 when interrupted.

    Example:
        >>> def refuse():
        ...     raise GdconvError("nothing can be done.")
        >>> carried_out(refuse, Path("report.md"), "")
        2
    """
    try:
        work()
    except GdconvError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the checkpoints", file=sys.stderr)
        return 130
    print(report.read_text("utf-8"))
    print(made)
    return 0


def chosen_device(name: str) -> str:
    """The device to train on.

    Args:
        name: "auto", "cpu" or "cuda".

    Returns:
        "cpu" or "cuda".

    Raises:
        InputError: cuda was asked for and is not there.

    Example:
        >>> chosen_device("cpu")
        'cpu'
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device", name, "give cpu: torch finds no GPU here")
    return name
