"""Figures of the loss landscapes: surfaces and contours at one scale, and the numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from experiments.harness.style import MARKS, NAMES, heading, kernel_colours, tidy
from experiments.loss_landscape.numbers import NAMES as MEASURE_NAMES
from experiments.loss_landscape.numbers import UNITS
from experiments.loss_landscape.plan import KERNELS
from experiments.loss_landscape.runs import PATH_KINDS, Plane
from experiments.tasks.landscape import MEASURES

KINDS = {
    "random": "a random $W_Q$ and a random $W_K$ direction, filter-normalised",
    "hessian": "leading Hessian directions of $W_Q$ and of $W_K$",
    "path": "first principal directions of the path's $W_Q$ and $W_K$ part, logarithmic scale",
    "pca": "first two principal directions of the whole path, logarithmic scale",
}

LEVELS = 13
"""Contours, the same of both kernels."""

STEEP = 1e-5
"""Least loss of a logarithmic scale, as a share of the largest."""


def draw(planes: list[Plane], title: str, loss: str) -> Figure:
    """One line per kind of plane: surface and contours of both kernels, all at one scale.

    Args:
        planes: Those of the first seed and draw.
        title: What the loss is of.
        loss: Its name and unit.

    Returns:
        The figure, not attached to pyplot.
    """
    drawn = [p for p in planes if p.drawn]
    kinds = list(dict.fromkeys(p.kind for p in drawn))
    fig = Figure(figsize=(16, 3.9 * len(kinds) + 0.5), layout="constrained")
    parts = fig.subfigures(len(kinds), 1, squeeze=False)[:, 0]
    for part, kind in zip(parts, kinds, strict=True):
        here = {p.kernel: p for p in drawn if p.kind == kind}
        _draw_kind(part, kind, here, loss)
    heading(fig, title, 13)
    return fig


def scale_of(planes: list[Plane]) -> tuple[Any, np.ndarray]:
    """Colours and contour levels that several planes share.

    Args:
        planes: The planes, of one kind.

    Returns:
        Norm and levels; logarithmic for the planes made from a path.
    """
    low = min(float(p.z.min()) for p in planes)
    high = max(float(p.z.max()) for p in planes)
    if planes[0].kind in PATH_KINDS:
        low = max(low, STEEP * high)
        levels = np.geomspace(low, high, LEVELS)
        return LogNorm(low, high), levels
    if not high > low:
        high = low + 1.0
    return Normalize(low, high), np.linspace(low, high, LEVELS + 1)[1:]


def _draw_kind(part: Any, kind: str, planes: dict[str, Plane], loss: str) -> None:
    norm, levels = scale_of(list(planes.values()))
    surfaces = [part.add_subplot(1, 4, i + 1, projection="3d") for i in range(2)]
    contours = [part.add_subplot(1, 4, i + 3) for i in range(2)]
    mesh = None
    for surface, contour, kernel in zip(surfaces, contours, KERNELS, strict=True):
        plane = planes[kernel]
        _draw_surface(surface, plane, norm)
        mesh = _draw_contours(contour, plane, norm, levels)
        words = NAMES[kernel]
        if plane.path is not None and "share" in plane.extra:
            words += f"\npath's variance in this plane: {_percent(plane.extra['share'])}"
        surface.set_title(f"{NAMES[kernel]}\nheight: {loss}", fontsize=10)
        contour.set_title(words, fontsize=10)
    bar = part.colorbar(mesh, ax=contours, shrink=0.85, pad=0.02)
    bar.set_label(loss, fontsize=9)
    heading(part, KINDS[kind], weight="normal")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.001 else f"{100 * share:.2g} %"


def _names(plane: Plane) -> tuple[str, str]:
    if plane.kind == "pca":
        return "first direction (distance)", "second direction (distance)"
    unit = "distance" if plane.kind == "path" else "unit: norm of the weights"
    return f"$W_Q$ direction ({unit})", f"$W_K$ direction ({unit})"


def _draw_surface(axes: Any, plane: Plane, norm: Any) -> None:
    a, b = np.meshgrid(*plane.axes, indexing="ij")
    log = isinstance(norm, LogNorm)
    z = np.log10(np.maximum(plane.z, norm.vmin)) if log else plane.z
    shades = Normalize(np.log10(norm.vmin), np.log10(norm.vmax)) if log else norm
    axes.plot_surface(a, b, z, cmap="viridis", norm=shades, rcount=len(a), ccount=len(b),
                      linewidth=0.1, edgecolor="#00000030", antialiased=True)  # fmt: skip
    axes.set_zlim(shades.vmin, shades.vmax)
    first, second = (name.split(" (")[0] for name in _names(plane))
    axes.set_xlabel(first, fontsize=8, labelpad=-2)
    axes.set_ylabel(second, fontsize=8, labelpad=-2)
    axes.tick_params(labelsize=7, pad=-1)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(4))
    if log:
        axes.zaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.zaxis.set_major_formatter(FuncFormatter(lambda t, _: f"$10^{{{t:.0f}}}$"))
    axes.view_init(32, -58)
    axes.set_box_aspect(None, zoom=0.92)


def _draw_contours(axes: Axes, plane: Plane, norm: Any, levels: np.ndarray) -> Any:
    a, b = plane.axes
    z = np.maximum(plane.z, norm.vmin)
    mesh = axes.pcolormesh(a, b, z.T, cmap="viridis", norm=norm, shading="gouraud", rasterized=True)
    lines = axes.contour(a, b, z.T, levels=levels, colors="white", linewidths=0.7)
    axes.clabel(lines, levels[1::3], fmt="%.2g", fontsize=7)
    if plane.path is not None and plane.kind in PATH_KINDS:
        axes.plot(*plane.path.T, ".-", color="#d62728", ms=4, lw=1.2, label="gradient descent")
        axes.plot(*plane.path[0], "o", mfc="white", mec="#d62728", ms=7, label="start")
    axes.plot(0, 0, "*", color="#d62728", mec="white", ms=9, label="end of training")
    first, second = _names(plane)
    axes.set_xlabel(first, fontsize=9)
    axes.set_ylabel(second, fontsize=9)
    axes.tick_params(labelsize=8)
    if plane.kind in PATH_KINDS:
        axes.legend(fontsize=7, loc="upper left", framealpha=0.8)
    return mesh


def draw_numbers(planes: pd.DataFrame, names: dict[str, str]) -> Figure:
    """Every measure: a point per plane, mean and deviation per kernel.

    Args:
        planes: The random and leading planes, one row each.
        names: What the data of a task are called.

    Returns:
        The figure, not attached to pyplot.
    """
    tasks = list(dict.fromkeys(planes["task"]))
    fig = Figure(figsize=(3.3 * len(MEASURES), 2.7 * len(tasks) + 0.5), layout="constrained")
    grid = fig.subplots(len(tasks), len(MEASURES), squeeze=False)
    for line, task in zip(grid, tasks, strict=True):
        for axes, measure in zip(line, MEASURES, strict=True):
            _draw_measure(axes, planes[planes["task"] == task], measure)
            axes.set_title(MEASURE_NAMES[measure], fontsize=10)
        line[0].set_ylabel(f"{names[task]}\n{UNITS[MEASURES[0]]}", fontsize=9)
    grid[0, 0].legend(fontsize=8, framealpha=0.7)
    heading(
        fig,
        "Roughness, plane by plane: points are planes, grey lines join the same draw, "
        "large marks are the mean, bars from the lowest to the highest",
    )
    return fig


def _draw_measure(axes: Axes, planes: pd.DataFrame, measure: str) -> None:
    colours, kinds = kernel_colours(), ("random", "hessian")
    for i, kind in enumerate(kinds):
        here = planes[planes["kind"] == kind]
        table = here.pivot_table(index=["seed", "draw"], columns="kernel", values=measure)
        table = table[list(KERNELS)]
        places = (i - 0.15, i + 0.15)
        for values in table.to_numpy():
            axes.plot(places, values, color="#bbbbbb", lw=0.7, zorder=1)
        for place, kernel, side in zip(places, KERNELS, (-0.12, 0.12), strict=True):
            values, colour = table[kernel].to_numpy(), colours[kernel]
            mean = float(values.mean())
            ends = [[mean - values.min()], [values.max() - mean]]
            axes.plot(np.full(len(values), place), values, ".", color=colour, ms=4, zorder=2)
            axes.errorbar(place + side, mean, ends, color=colour, ms=6, zorder=3,
                          marker=MARKS[kernel], capsize=2,
                          label=NAMES[kernel] if i == 0 else None)  # fmt: skip
    axes.set_xticks(range(len(kinds)), ["random", "leading\nHessian"])
    axes.set_xlim(-0.5, len(kinds) - 0.5)
    axes.set_ylabel(UNITS[measure], fontsize=9)
    if measure in ("slope_variation", "curvature_variation") and (planes[measure] > 0).all():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(numticks=6))
    if measure == "minima":
        axes.set_ylim(-0.4, max(2.0, 1.1 * float(planes[measure].max())))
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    tidy(axes, "y")
