"""What reports, storage and assertions read of a check."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd


@runtime_checkable
class CheckLike(Protocol):
    """The fields of `gdconv.Check` that reports use; any object with them can be reported.

    Attributes:
        theorem: Theorem id.
        title: Its title.
        source: Its paper.
        statement: The statement that the verdict speaks of.
        level: What the verdict rests on: "float64", "float32", "statistical" or "estimated".
        config: Options, as JSON can hold them.
        environment: Versions and threads, as JSON can hold them.
        verdicts: One row per run and statement.
        hypotheses: One row per run, statement and hypothesis.
        trace: One row per run and recorded step.
        runs: One row per run.
        messages: Notes to print.
        starts: Arrays at step 0, with a leading axis over runs.

    Example:
        >>> from gdconv.report.example import example_check
        >>> isinstance(example_check(), CheckLike)
        True
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
    messages: list[str]
    starts: dict[str, np.ndarray]

    @property
    def verdict(self) -> str:
        """Worst verdict of the statement over the runs; a field will do."""
