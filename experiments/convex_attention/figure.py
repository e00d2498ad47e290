"""Figures of the convex attention experiment: training curves and attention maps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from experiments.convex_attention.curves import FAST, FREE, PLAIN
from experiments.convex_attention.numbers import curves, entropies, optima, parts
from experiments.convex_attention.plan import Done
from experiments.harness.style import Colour, heading, palette, plain_ticks, tidy

NAMES = {
    "convex": "convex program",
    "(8)": "(8) heads $a_j, v_j, b_j$",
    "(4)": "(4) shared simplex attention",
    "(3)": "(3) softmax attention",
    FREE: "(3) without decay on $W_Q, W_K$",
}
SHORT = {
    "convex": "convex",
    "(8)": "(8)",
    "(4)": "(4)",
    "(3)": "(3)",
    FREE: "(3), $W_Q, W_K$\nfree",
}
TITLES = {
    "digits": "digits, even against odd (n = 16 patches)",
    "pixels": "digits, even against odd (n = 64 pixels)",
    "student-teacher": "student-teacher, frozen encoder (n = 16 tokens)",
}
STYLES = {FAST: "-", PLAIN: "--"}


def colours() -> dict[str, Colour]:
    """Colours by model."""
    order = ("convex", "(8)", "(4)", "(3)", FREE)
    return dict(zip(order, (palette()[k] for k in (2, 0, 9, 1, 3)), strict=True))


def _band(rows: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """Median and range of y, and median of x, at every step that every seed reaches."""
    groups = rows.groupby("step")
    found = pd.DataFrame({
        "x": groups[x].median(), "low": groups[y].min(), "middle": groups[y].median(),
        "high": groups[y].max(), "count": groups[y].count(),
    })  # fmt: skip
    return found[found["count"] == found["count"].max()]


def training_figure(done: Done) -> Figure:
    """Objective against steps and seconds, excess against steps; one row a task.

    Args:
        done: Results by key.

    Returns:
        The figure.
    """
    table, best = curves(done), optima(done)
    tasks = list(dict.fromkeys(table["task"]))
    fig = Figure(figsize=(14.0, 4.3 * len(tasks) + 0.9), layout="constrained")
    grid = fig.subplots(len(tasks), 3, squeeze=False)
    for line, task in zip(grid, tasks, strict=True):
        here, at = table[table["task"] == task], best[best["task"] == task]
        for axes, x in zip(line[:2], ("step", "seconds"), strict=True):
            _lines(axes, here, x, "objective")
            axes.axhline(1.0, color="#222222", lw=1.2, ls=":")
            axes.set_ylim(0.15, 40.0)
            plain_ticks(axes.yaxis, (0.2, 0.5, 1, 2, 5, 10, 20))
            axes.set_ylabel(r"objective $F_t/F^*$")
        line[1].plot(
            at["seconds"], np.ones(len(at)), "*", color="#222222", ms=10, mec="white", mew=0.6
        )
        _lines(line[2], here[here["excess"].notna()], "step", "excess")
        line[2].set(ylim=(1e-8, 30), ylabel=r"relative excess, at most $(F_t-F^*)/F^*$")
        line[0].set_title(TITLES[task], fontsize=11, loc="left", weight="bold")
    for axes in grid[-1]:
        axes.set_xlabel("step t")
    grid[-1][1].set_xlabel("seconds of training (evaluations left out)")
    fig.legend(handles=_key(table), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    count = table["seed"].nunique()
    heading(
        fig,
        f"Line: median, band: range over {count} seeds (data and start differ). A line ends early "
        "where a seed diverged.", 10, "normal",
    )  # fmt: skip
    return fig


def _lines(axes: Axes, rows: pd.DataFrame, x: str, y: str) -> None:
    for (model, method), run in rows.groupby(["model", "method"], sort=False):
        found = _band(run, x, y)
        found = found[found["x"] > 0]
        style, colour = STYLES[str(method)], colours()[str(model)]
        axes.plot(found["x"], found["middle"], style, color=colour, lw=1.5)
        shade = 0.16 if method == FAST else 0.07
        axes.fill_between(found["x"], found["low"].clip(lower=1e-12), found["high"], color=colour,
                          alpha=shade, lw=0)  # fmt: skip
    axes.set(xscale="log", yscale="log")
    tidy(axes)


def _key(table: pd.DataFrame) -> list[Any]:
    from matplotlib.lines import Line2D

    models = [model for model in NAMES if model in set(table["model"])]
    made = [Line2D([], [], color=colours()[model], lw=2, label=NAMES[model]) for model in models]
    return [
        *made,
        Line2D([], [], color="#555555", ls="-", label="Adam; convex: accelerated proximal steps"),
        Line2D([], [], color="#555555", ls="--", label="gradient descent; convex: proximal steps"),
        Line2D([], [], color="#222222", ls=":",
               label=r"$F^*$, certified: optimum of convex, (8), (4); not of (3)"),
        Line2D([], [], color="#222222", ls="", marker="*", ms=9,
               label="certified solver (relative gap $10^{-9}$), one star a seed"),
    ]  # fmt: skip


def map_figure(done: Done) -> Figure:
    """Attention of every head over the tokens, and entropies; one row a task.

    Args:
        done: Results by key.

    Returns:
        The figure.
    """
    models = ("(3)", FREE, "(8)", "convex")
    found = {
        (names["task"], names["model"]): result["attention"]["map"]
        for names, result in parts(done, "curve")
        if "map" in result.get("attention", {})
    }
    for names, result in parts(done, "optimum"):
        if names["seed"] == 0:
            found[names["task"], "convex"] = result["heads"]
    tasks = list(dict.fromkeys(task for task, _ in found))
    fig = Figure(figsize=(15.5, 3.6 * len(tasks) + 0.5), layout="constrained")
    grid = fig.subplots(len(tasks), 5, squeeze=False, width_ratios=(1, 1, 1, 1, 1.25))
    image: Any = None
    for line, task in zip(grid, tasks, strict=True):
        for axes, model in zip(line[:4], models, strict=True):
            image = _map(axes, np.array(found[task, model]), model)
        line[0].set_ylabel(f"{task}\nhead j")
        _entropies(line[4], entropies(done), task)
    for axes in grid[-1][:4]:
        axes.set_xlabel("token k")
    bar = fig.colorbar(image, ax=grid[:, :4].ravel().tolist(), shrink=0.6, pad=0.01)
    bar.set_label("attention of head j to token k")
    heading(
        fig,
        "Attention after training (Adam; convex: certified solution, one head a token), seed 0. "
        "(3): mean over rows and held-out samples. Right: all seeds.", 10, "normal",
    )  # fmt: skip
    return fig


def _map(axes: Axes, heads: np.ndarray, model: str) -> Any:
    if not len(heads):
        axes.text(0.5, 0.5, "no active token", transform=axes.transAxes, ha="center")
        return axes.imshow(np.zeros((1, 1)), vmin=0.0, vmax=1.0, cmap="magma_r", aspect="auto")
    order = np.lexsort((-heads.max(1), heads.argmax(1)))
    image = axes.imshow(heads[order], vmin=0.0, vmax=1.0, cmap="magma_r", aspect="auto",
                        interpolation="nearest")  # fmt: skip
    kind = "heads, sorted" if model in {"(8)", "convex"} else "heads"
    axes.set_title(f"{NAMES[model]}\n{len(heads)} {kind}, largest entry {heads.max():.2f}",
                   fontsize=9.5, loc="left")  # fmt: skip
    axes.set_xticks(range(0, heads.shape[1], 3))
    axes.set_yticks(range(0, len(heads), max(1, len(heads) // 5)))
    return image


def _entropies(axes: Axes, table: pd.DataFrame, task: str) -> None:
    order = ("(3)", FREE, "(4)", "(8)", "convex")
    here = table[table["task"] == task]
    for place, model in enumerate(order):
        rows = here[here["model"] == model]
        shift = np.linspace(-0.12, 0.12, max(len(rows), 1))[: len(rows)]
        colour = colours()[model]
        axes.plot(place - 0.2 + shift, rows["at_start"], "o", mfc="none", color=colour, ms=5)
        axes.plot(place + 0.2 + shift, rows["entropy"], "o", color=colour, ms=5)
    axes.plot([], [], "o", mfc="none", color="#555555", label="at the start")
    axes.plot([], [], "o", color="#555555", label="after training")
    axes.set_xticks(range(len(order)), [SHORT[model] for model in order], fontsize=9)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(-0.04, 1.3)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1.0])
    axes.set_ylabel(r"mean entropy of a row / $\log n$")
    axes.set_title("1: uniform, 0: one token; a point a seed", fontsize=9.5, loc="left")
    axes.legend(fontsize=8.5, frameon=False, loc="upper right", ncols=2)
    tidy(axes)
