"""How an experiment is called and how it ends: its report, or one sentence and an exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from gdconv.support.errors import GdconvError, InputError


def parser_of(
    text: str | None, out: str, presets: Iterable[str] = (), preset: str = "", device: bool = False
) -> argparse.ArgumentParser:
    """The options that experiments have in common.

    Args:
        text: The experiment's docstring.
        out: Name of its folder in runs/.
        presets: Names of its presets, if it has some.
        preset: The one it takes by itself.
        device: Whether it trains on a GPU if there is one.

    Returns:
        The parser, for further options.

    Example:
        >>> parser_of("Counts.", "counts", ("tiny", "small"), "small").parse_args([])
        Namespace(out=PosixPath('runs/counts'), preset='small')
    """
    parser = argparse.ArgumentParser(description=(text or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs") / out, help="folder to write to")
    if presets:
        parser.add_argument("--preset", choices=sorted(presets), default=preset)
    if device:
        parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    return parser


def carried_out(
    work: Callable[[], object],
    report: Path,
    made: str = "tables and figure",
    figures: str = "figure.png",
    kept: bool = True,
) -> int:
    """Do the work of an experiment, then show its report.

    Args:
        work: Writes everything, the report included.
        report: The report.
        made: What was written.
        figures: Figures beside the report.
        kept: Whether an interrupted experiment has kept what it had finished.

    Returns:
        0, 2 for an option that cannot be used, 130 when interrupted.

    Example:
        >>> def refuse():
        ...     raise GdconvError("nothing can be done.")
        >>> carried_out(refuse, Path("report.md"))
        2
    """
    try:
        work()
    except GdconvError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        how = "; the same command goes on from the checkpoints" if kept else ""
        print(f"interrupted{how}", file=sys.stderr)
        return 130
    print(report.read_text("utf-8"))
    print(f"{made}: {report}, {report.parent}/{figures}")
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
