"""The figure of a theorem without descent: its measured curves, or else the margins of its claims.

One panel per statement that has curves, both axes logarithmic, one colour a curve, all cases thin.
Without any curve: one row per claim with its margins over the cases.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from gdconv.report.source import CheckLike

COLUMNS = 3
"""Panels side by side."""


def claim_figure(check: CheckLike) -> Figure:
    """Curves of every statement, or margins where there are no curves.

    Args:
        check: A check of a theorem without descent.

    Returns:
        A matplotlib figure, not attached to pyplot.
    """
    trace = check.trace
    if trace.empty:
        return _margins(check)
    names = list(dict.fromkeys(trace["statement"]))
    columns = min(COLUMNS, len(names))
    rows = math.ceil(len(names) / columns)
    fig = Figure(figsize=(1.0 + 4.6 * columns, 0.6 + 3.6 * rows), layout="constrained")
    axes = fig.subplots(rows, columns, squeeze=False).ravel()
    for axis, name in zip(axes, names, strict=False):
        _panel(axis, trace[trace["statement"] == name], _verdict(check, name))
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    return fig


def _verdict(check: CheckLike, name: str) -> str:
    from gdconv.theory.verdict import worst

    rows = check.verdicts[check.verdicts["statement"] == name]
    return f"{name}: {worst(list(rows['verdict']))}"


def _panel(axis: Any, trace: pd.DataFrame, title: str) -> None:
    import seaborn

    names = list(dict.fromkeys(trace["series"]))
    palette = seaborn.color_palette("husl" if len(names) > 9 else "colorblind", max(len(names), 1))
    for colour, name in zip(palette, names, strict=False):
        rows = trace[trace["series"] == name]
        for i, (_, case) in enumerate(rows.groupby("run")):
            y = np.where(case["y"] > 0, case["y"], np.nan)
            label = name if i == 0 else None
            axis.plot(case["x"], y, color=colour, lw=1.2, marker=".", ms=3, label=label)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_title(title, fontsize=9, loc="left")
    axis.set_xlabel(trace["x_name"].iloc[0])
    axis.set_ylabel(trace["y_name"].iloc[0])
    axis.grid(alpha=0.25, lw=0.5)
    axis.legend(fontsize=6, ncols=2 if len(names) > 5 else 1, frameon=False)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _margins(check: CheckLike) -> Figure:
    sides = check.hypotheses
    labels = sides["statement"] + ": " + sides["hypothesis"]
    names = list(dict.fromkeys(labels))
    fig = Figure(figsize=(9.0, 1.0 + 0.28 * len(names)), layout="constrained")
    axis = fig.subplots()
    for row, name in enumerate(names):
        margins = sides["margin"][labels == name].to_numpy(float)
        shown = np.clip(np.where(np.isfinite(margins), margins, 1e16), -1, 1e16)
        axis.plot(
            shown, np.full(len(shown), row), ".", ms=6, color="0.25" if min(shown) >= 0 else "C3"
        )
    axis.set_xscale("symlog", linthresh=1e-12)
    axis.axvline(0.0, color="0.6", lw=0.8)
    axis.set_yticks(range(len(names)), names, fontsize=7)
    axis.invert_yaxis()
    axis.set_xlabel("margin of the claim, relative (negative: violated; capped at 1e16)")
    axis.set_title(f"{check.theorem}: margins over the cases", fontsize=10, loc="left")
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    return fig
