"""How an experiment ends on the command line: its report, or one sentence and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from gdconv.support.errors import GdconvError


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
