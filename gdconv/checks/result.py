"""What a check comes to: verdicts, hypotheses, trace; tables, plots and files are made from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from gdconv.support.errors import InputError
from gdconv.theory.verdict import worst

if TYPE_CHECKING:
    from matplotlib.figure import Figure


Progress = Callable[[str, int, int], None]


@dataclass
class Check:
    """Outcome of one check; tables, plots and files are made from it.

    Attributes:
        theorem: Theorem id.
        title: Its title.
        source: Its paper.
        statement: The statement that `verdict` speaks of.
        level: What the verdict rests on, one of `gdconv.support.trust.LEVELS`.
        config: Every option, resolved.
        environment: Versions and machine.
        verdicts: One row per run and statement.
        hypotheses: One row per run, statement and hypothesis.
        trace: Recorded steps of every run.
        runs: One row per run.
        messages: Notes to read with the verdict.
        starts: Data and weights at the start and the end, arrays with a replica axis.
    """

    theorem: str
    title: str
    source: str
    statement: str
    level: str
    config: dict[str, Any]
    environment: dict[str, Any]
    verdicts: pd.DataFrame
    hypotheses: pd.DataFrame
    trace: pd.DataFrame
    runs: pd.DataFrame
    messages: list[str] = field(default_factory=list)
    starts: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """Worst verdict of the judged statement over all runs."""
        return self.verdict_of(self.statement)

    def verdict_of(self, statement: str) -> str:
        """Worst verdict of any statement over all runs.

        Args:
            statement: Its name.

        Returns:
            One of the five verdicts.

        Raises:
            InputError: The check has no such statement.
        """
        rows = self.verdicts[self.verdicts["statement"] == statement]
        if rows.empty:
            raise InputError(
                "statement",
                statement,
                f"choose one of {', '.join(self.verdicts['statement'].unique())}",
            )
        return worst(list(rows["verdict"]))

    def table(self, format: str = "text") -> str:
        """The bound-vs-empirical table as text, csv, markdown or latex."""
        from gdconv.report.tables import render

        return render(self, format)

    def plot(self, path: str | Path | None = None) -> Figure:
        """The figure: loss ratio with bounds, sigma_min below it; written when a path is given.

        Args:
            path: Where to; its suffix says as what, without one it is written as PDF and as PNG.

        Returns:
            The figure.

        Raises:
            InputError: No figure can be written there, or not as that.
        """
        from gdconv.report.figures import drawn_to
        from gdconv.report.plots import figure

        return drawn_to(path, lambda: figure(self))

    def save(self, directory: str | Path) -> Path:
        """Save as a folder named by the digest of the config inside `directory`."""
        from gdconv.checks.store import save

        return save(self, directory)

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        from gdconv.report.jsonable import to_json

        return to_json(self)


class Interrupted(KeyboardInterrupt):
    """The user interrupted a check; what was finished is not lost.

    Attributes:
        check: The check of the seeds that were finished, None if there are none.
        missing: How many seeds were not.
    """

    def __init__(self, check: Check | None, missing: int) -> None:
        self.check, self.missing = check, missing
        done = 0 if check is None else len(check.runs)
        super().__init__(f"interrupted; {done} of {done + missing} runs were finished")


def load(directory: str | Path) -> Check:
    """Restore a saved check; every number is the one that was saved.

    Args:
        directory: The run's folder.

    Returns:
        The check.

    Raises:
        InputError: No saved run, damaged or changed files, or a newer schema.

    Example:
        >>> load("/nonexistent")
        Traceback (most recent call last):
            ...
        gdconv.support.errors.InputError: folder = /nonexistent: give a folder that gdconv check
        --out wrote.
    """
    from gdconv.checks import store

    return store.load(directory, Check)
