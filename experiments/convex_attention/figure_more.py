"""Figures of the convex attention experiment: regularisation path and modular division."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.convex_attention.figure import TITLES
from experiments.convex_attention.modular import KINDS, LEVEL
from experiments.convex_attention.numbers import modular, paths
from experiments.convex_attention.plan import OTHER_DECAY, Done, Preset
from experiments.harness.style import heading, tidy

TRAIN, TEST = "#888888", "#c0392b"


def path_figure(done: Done) -> Figure:
    """Active tokens above, use on held-out samples below, against the weight decay.

    Args:
        done: Results by key.

    Returns:
        The figure.
    """
    table = paths(done)
    tasks = list(dict.fromkeys(table["task"]))
    fig = Figure(figsize=(5.0 * len(tasks), 7.2), layout="constrained")
    grid = fig.subplots(2, len(tasks), squeeze=False, sharex=True, height_ratios=(1.4, 1))
    for (top, low), task in zip(grid.T, tasks, strict=True):
        here = table[table["task"] == task]
        _range(top, here, "possible", "#c0392b", "not proved inactive: no optimum has more", "--")
        _range(top, here, "active", "#1f77b4", "active in the certified solution", "-")
        _range(top, here, "fewest", "#222222", "after reduction to independent predictions", ":")
        tokens = int(here["tokens"].iloc[0])
        top.axhline(tokens, color="#999999", lw=0.9)
        top.text(1.0, tokens, f"all {tokens} tokens ", ha="left", va="bottom", fontsize=9,
                 color="#666666")  # fmt: skip
        top.set_ylim(0, tokens * 1.45)
        top.set_title(TITLES[task].replace(" (", "\n("), fontsize=10.5, loc="left", weight="bold")
        _range(low, here, "r_squared", "#1f77b4", "", "-")
        low.axhline(0.0, color="#999999", lw=0.9)
        low.set_ylim(min(-0.1, float(here["r_squared"].min()) * 1.05), 1.02)
        low.set(xlabel=r"weight decay $\beta/\beta_{\max}$ (decreasing)", xscale="log")
        low.set_xlim(1.15, float(here["decay"].min()) / 1.1)
        tidy(top)
        tidy(low)
    grid[0, 0].set_ylabel("tokens")
    grid[1, 0].set_ylabel("$R^2$ on held-out samples")
    grid[0, 0].legend(fontsize=8.5, frameon=False, loc="upper left")
    count, gap = table["seed"].nunique(), table["gap"].max()
    text = f"Line: median, band: range over {count} seeds; largest relative gap {gap:.0e}"
    heading(fig, text, 10, "normal")
    return fig


def _range(axes: Axes, rows: pd.DataFrame, name: str, colour: str, label: str, style: str) -> None:
    """Median and range over the seeds at every weight decay."""
    groups = rows.groupby(rows["decay"].round(9))[name]
    x = groups.median().index.to_numpy()
    axes.plot(x, groups.median(), style, color=colour, lw=1.6, label=label or None)
    axes.fill_between(x, groups.min(), groups.max(), color=colour, alpha=0.13, lw=0)


def modular_figure(done: Done, preset: Preset) -> Figure:
    """Accuracy against steps for every kind of attention, and the steps to both levels.

    Args:
        done: Results by key.
        preset: Sizes.

    Returns:
        The figure.
    """
    p, first, second = preset.p, modular(done), modular(done, "decay")
    rounds = [(depth, preset.options[depth - 1]["decay"], first) for depth in (1, 2)]
    rounds.append((1, OTHER_DECAY, second))
    fig = Figure(figsize=(16.0, 3.4 * len(rounds) + 0.6), layout="constrained")
    grid = fig.subplots(len(rounds), 4, squeeze=False, width_ratios=(1, 1, 1, 1.25))
    right = max(float(first[1]["step"].max()), float(second[1]["step"].max()), 20.0)
    for row, (depth, decay, (runs, lines)) in zip(grid, rounds, strict=True):
        for axes, kind in zip(row[:3], KINDS, strict=True):
            here = lines[(lines["layers"] == depth) & (lines["kind"] == kind)]
            for _, run in here.groupby("seed"):
                axes.plot(run["step"].clip(lower=1), run["train"], color=TRAIN, lw=1.3)
                axes.plot(run["step"].clip(lower=1), run["test"], color=TEST, lw=1.3)
            axes.axhline(LEVEL, color="#222222", lw=0.7, ls=":")
            axes.axhline(1 / p, color="#222222", lw=0.7, ls="--")
            axes.set(xscale="log", xlim=(8, right * 1.1), ylim=(-0.02, 1.04))
            words = "layer" if depth == 1 else "layers"
            title = f"{kind} attention, {depth} {words}, decay {decay:g}"
            axes.set_title(title, fontsize=10.5, loc="left", weight="bold")
            tidy(axes)
        row[0].set_ylabel("accuracy")
        _reached(row[3], runs[runs["layers"] == depth])
    for axes in grid[-1][:3]:
        axes.set_xlabel("step of AdamW, full batch")
    _legend(grid[0, 1], p)
    heading(
        fig,
        f"Division modulo {p}, half of the table for training, {preset.modular_seeds} seeds "
        "(a line each; a run ends when its test accuracy is 99 %)", 10, "normal",
    )  # fmt: skip
    return fig


def _legend(axes: Axes, p: int) -> None:
    axes.plot([], [], color=TRAIN, label="training half")
    axes.plot([], [], color=TEST, label="other half (test)")
    axes.plot([], [], ":", color="#222222", lw=0.8, label="99 %")
    axes.plot([], [], "--", color="#222222", lw=0.8, label=f"guessing, 1/{p}")
    axes.legend(fontsize=8.5, frameon=True, framealpha=0.85, edgecolor="none", loc="upper left",
                bbox_to_anchor=(0.0, 0.94))  # fmt: skip


def _reached(axes: Axes, runs: pd.DataFrame) -> None:
    """Steps to fit and to generalise, a pair of points joined by the delay for every seed."""
    place: dict[str, Any] = {kind: number for number, kind in enumerate(KINDS)}
    for kind, rows in runs[runs["kind"].isin(KINDS)].groupby("kind"):
        shifts = np.linspace(-0.22, 0.22, max(len(rows), 1))
        for shift, (_, row) in zip(shifts, rows.sort_values("seed").iterrows(), strict=True):
            y = place[str(kind)] + shift
            end = row["generalise"] if np.isfinite(row["generalise"]) else row["last"]
            if np.isfinite(row["fit"]):
                axes.plot([row["fit"], end], [y, y], color="#bbbbbb", lw=1.5, zorder=1)
                axes.plot(row["fit"], y, "o", color=TRAIN, ms=6)
            open_ = not np.isfinite(row["generalise"])
            axes.plot(end, y, ">" if open_ else "s", color=TEST, ms=6,
                      mfc="none" if open_ else TEST)  # fmt: skip
    axes.plot([], [], "o", color=TRAIN, label="fitted")
    axes.plot([], [], "s", color=TEST, label="generalised")
    axes.plot([], [], ">", color=TEST, mfc="none", label="not by then")
    axes.set_yticks(range(len(KINDS)), KINDS)
    axes.set(ylim=(len(KINDS) - 0.3, -0.6), xlim=(0, None))
    axes.set_xlabel("steps to 99 % (grey line: delay)")
    axes.legend(fontsize=8.5, frameon=False, loc="upper right", bbox_to_anchor=(1.0, 1.13), ncols=3)
    tidy(axes)
