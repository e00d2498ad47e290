"""Panels of further quantities: each with the bounds that statements set against it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from gdconv.report.labels import place_labels
from gdconv.report.source import CheckLike
from gdconv.theory.verdict import worst

MEASURED = "#222222"
MOST = 4
"""So many quantities have a panel; the trace has all."""


def quantities(checks: Sequence[CheckLike]) -> list[str]:
    """Names of the quantities that statements bound beside the loss, in order.

    Args:
        checks: Checks of one figure.

    Returns:
        The names, at most `MOST`.

    Example:
        >>> from gdconv.report.example import example_check
        >>> quantities([example_check()])
        []
    """
    names: dict[str, None] = {}
    for check in checks:
        for statement in check.verdicts["statement"].unique():
            found = (
                re.fullmatch(rf"bound\[{re.escape(str(statement))}: (.*)\]", c)
                for c in check.trace.columns
            )
            names |= dict.fromkeys(match[1] for match in found if match)
    return list(names)[:MOST]


def draw_quantity(axes: Axes, check: CheckLike, name: str, colours: dict[str, Any]) -> None:
    """One quantity of every run, and every statement's bound of it.

    Args:
        axes: The panel.
        check: A check.
        name: The quantity.
        colours: Colour by statement.
    """
    ends, seen = [], []
    for _, rows in check.trace.groupby("run"):
        if name in rows:
            axes.plot(rows["step"], rows[name], color=MEASURED, lw=1.2, zorder=3)
            seen.append(rows[name].to_numpy(dtype=float))
    for statement, rows in check.verdicts.groupby("statement", sort=False):
        column = f"bound[{statement}: {name}]"
        if column not in check.trace:
            continue
        last = np.nan
        for _, run in check.trace.groupby("run"):
            curve = run[["step", column]].dropna()
            dashes = (0, (1, 1.5)) if worst(rows["verdict"]) == "outside" else (0, (5, 2))
            style = {"color": colours[str(statement)], "lw": 1.4, "ls": dashes}
            axes.plot(curve["step"], curve[column], **style)
            last = float(curve[column].iloc[-1]) if len(curve) else last
            seen.append(curve[column].to_numpy(dtype=float))
        ends.append((str(statement), colours[str(statement)], last))
    values = np.concatenate(seen) if seen else np.ones(1)
    values = values[np.isfinite(values) & (values > 0)]
    if values.size and values.max() > 30 * values.min() and not _starts_at_zero(seen):
        axes.set_yscale("log")
        axes.set_ylim(max(float(values.min()) / 1.5, 1e-12 * float(values.max())), None)
    else:
        axes.set_ylim(bottom=0)
    axes.set_ylabel(name, parse_math=False)
    place_labels(axes, [end for end in ends if np.isfinite(end[2])])


def _starts_at_zero(seen: list[np.ndarray]) -> bool:
    """A distance begins at zero, which has no place on a scale of logarithms."""
    return any(values.size and values[0] == 0 for values in seen)
