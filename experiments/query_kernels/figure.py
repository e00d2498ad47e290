"""The figure of the kernel comparison: map, ratio over shapes, saturation, reached loss."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.harness.style import MARKS, NAMES, heading, kernel_colours, plain_ticks, tidy
from experiments.query_kernels.map import BASES, KERNELS

SHAPE_MARKS = "ov^Ds"
FACTORS = {
    "n": "n, tokens per sample",
    "N": "N, samples",
    "D": "D, embedding",
    "d": "d, head dimension",
    "H": "H, heads",
}
LIMITS = (1e-4, 1e4)
"""Of the ratio; what is outside is drawn as an arrow at the edge."""


def draw(table: pd.DataFrame, reached: pd.DataFrame) -> Figure:
    """All panels.

    Args:
        table: The map.
        reached: The reached losses.

    Returns:
        The figure, not attached to pyplot.
    """
    fig = Figure(figsize=(13.5, 12.6), layout="constrained")
    top, middle, bottom = fig.subfigures(3, 1, squeeze=False, height_ratios=(1, 1.65, 1.05))[:, 0]
    for axes, base in zip(top.subplots(1, 2), BASES, strict=True):
        _draw_kappa(axes, table, base)
    heading(
        top,
        r"a   $\kappa_0=\lambda_{\min}(K_Q)$ of both kernels at the same weights and data: "
        f"median and 95 % interval of {table['seeds'].iloc[0]} seeds",
    )
    _draw_shapes(middle, table)
    cells = bottom.subplots(1, 2 + reached["H"].nunique())
    _draw_tangent(cells[0], table)
    _draw_entropy(cells[1], table)
    for axes, (heads, rows) in zip(cells[2:], reached.groupby("H"), strict=True):
        _draw_reached(axes, rows, int(str(heads)))
    return fig


def _along_scale(axes: Axes, scales: np.ndarray) -> None:
    axes.set_xscale("log")
    plain_ticks(axes.xaxis, (0.1, 0.2, 0.5, 1, 2, 4))
    axes.set_xlim(scales.min() / 1.06, scales.max() * 1.06)
    axes.set_xlabel(r"scale of $W_Q$, $W_K$ (times $1/\sqrt{D}$)")
    tidy(axes)


def _of(table: pd.DataFrame, base: str, quantity: str, kernel: str) -> pd.DataFrame:
    """Rows of one base shape along the scale."""
    here = table[(table["base"] == base) & (table["factor"] == "base")]
    return here[(here["quantity"] == quantity) & (here["kernel"] == kernel)].sort_values("scale")


def _sizes(base: str) -> str:
    return f"shape {base}: " + ", ".join(f"${k}={v}$" for k, v in BASES[base].sizes().items())


def _draw_kappa(axes: Axes, table: pd.DataFrame, base: str) -> None:
    bottom = 1e-14
    for kernel in KERNELS:
        rows = _of(table, base, "kappa_0", kernel)
        colour, scale = kernel_colours()[kernel], rows["scale"].to_numpy()
        low, high = (rows[c].clip(lower=bottom / 100).to_numpy() for c in ("lo", "hi"))
        axes.fill_between(scale, low, high, color=colour, alpha=0.2, lw=0)
        median = rows["median_most"].clip(lower=bottom / 100)
        axes.plot(scale, median, MARKS[kernel] + "-", color=colour, ms=4.5, label=NAMES[kernel])
        dead = rows[rows["median"] < bottom]["scale"]
        shift = 1.0 if kernel == "softmax" else 1.05  # side by side when both are off the axis
        axes.plot(dead / shift, np.full(len(dead), bottom * 2.5), "v", color=colour, ms=8)
        for x, count in zip(rows["scale"], rows["undecided"], strict=True):
            if count:
                y = bottom * (30 if kernel == "softmax" else 400)
                axes.text(x, y, str(count), color=colour, fontsize=8, ha="center")
    axes.set(yscale="log", ylim=(bottom, 30), ylabel=r"$\kappa_0$")
    axes.set_title(_sizes(base), fontsize=10, loc="left")
    axes.plot([], [], "v", color="#777777", ms=7, label=r"median below the axis")
    if _of(table, base, "kappa_0", "ratio")["undecided"].any():
        axes.plot([], [], " ", label="numbers: seeds with $\\kappa_0$ zero or undecided")
    _along_scale(axes, table["scale"].to_numpy())
    axes.legend(fontsize=9, frameon=False, loc="lower left")


def _draw_shapes(fig: Figure, table: pd.DataFrame) -> None:
    """One row a base shape, one column a factor."""
    ratios = table[(table["kernel"] == "ratio") & (table["quantity"] == "kappa_0")]
    factors = [f for f in FACTORS if f in set(ratios["factor"])]
    grid = fig.subplots(2, len(factors), sharex=True, sharey=True, squeeze=False)
    for line, base in zip(grid, BASES, strict=True):
        for axes, factor in zip(line, factors, strict=True):
            here = ratios[(ratios["base"] == base) & ratios["factor"].isin(["base", factor])]
            _draw_factor(axes, here, base, factor)
        line[0].set_ylabel(f"shape {base}\n" + r"$\kappa_0$(Gaussian) / $\kappa_0$(softmax)")
    for axes in grid[0]:
        axes.set_xlabel("")
    heading(
        fig,
        "b   Median ratio Gaussian / softmax and its 95 % interval, one factor varied at a time "
        "(arrows: off the axis; open cells are not drawn)",
    )


def _draw_factor(axes: Axes, ratios: pd.DataFrame, base: str, factor: str) -> None:
    import seaborn

    groups = list(ratios.groupby(factor))
    palette = seaborn.color_palette("viridis", len(groups) + 1)[: len(groups)]
    axes.axhline(1.0, color="#222222", lw=1.2, zorder=1)
    for (value, rows), colour, mark in zip(groups, palette, SHAPE_MARKS, strict=False):
        rows = rows[~((rows["lo"] == 0) & np.isinf(rows["hi"]))].sort_values("scale")
        label = f"{factor} = {value}" + (" (base)" if value == getattr(BASES[base], factor) else "")
        known = rows[(rows["median"] > 0) & (rows["median"] == rows["median_most"])]
        axes.plot(known["scale"], known["median"], mark + "-", color=colour, ms=4, lw=1.2,
                  label=label)  # fmt: skip
        band = [known[c].clip(LIMITS[0] / 10, LIMITS[1] * 10) for c in ("lo", "hi")]
        axes.fill_between(known["scale"], *band, color=colour, alpha=0.14, lw=0)
        above, below = rows[rows["median"] > LIMITS[1]], rows[rows["median_most"] < LIMITS[0]]
        axes.plot(above["scale"], np.full(len(above), LIMITS[1] / 1.6), "^", color=colour, ms=5)
        axes.plot(below["scale"], np.full(len(below), LIMITS[0] * 1.6), "v", color=colour, ms=5)
    axes.set(yscale="log", ylim=LIMITS)
    if base == "A":
        axes.set_title(FACTORS[factor], fontsize=10, loc="left")
    axes.legend(fontsize=8, frameon=False, loc="lower left")
    _along_scale(axes, ratios["scale"].to_numpy())


def _draw_tangent(axes: Axes, table: pd.DataFrame) -> None:
    for kernel in KERNELS:
        for quantity, dashes, words in (
            ("tangent/scale", "-", "median row"),
            ("flattest/scale", "--", "flattest row"),
        ):
            rows, colour = _of(table, "A", quantity, kernel), kernel_colours()[kernel]
            mark = MARKS[kernel] if dashes == "-" else None
            axes.plot(rows["scale"], rows["median"], ls=dashes, marker=mark, ms=4, color=colour,
                      label=f"{NAMES[kernel]}, {words}")  # fmt: skip
            if mark:
                band = rows["lo"], rows["hi"]
                axes.fill_between(rows["scale"], *band, color=colour, alpha=0.15, lw=0)
    axes.set(yscale="log", ylim=(1e-6, 30), ylabel="norm of a row's tangent / scale")
    axes.set_title(
        "c   Saturation, shape A\n"
        r"softmax: $\|\mathrm{Cov}_{S_k}(\mathrm{keys}, \mathrm{values})\|$ goes to 0",
        fontsize=10, loc="left",
    )  # fmt: skip
    _along_scale(axes, table["scale"].to_numpy())
    axes.legend(fontsize=8, frameon=False, loc="lower left")


def _draw_entropy(axes: Axes, table: pd.DataFrame) -> None:
    for kernel in KERNELS:
        rows, colour = _of(table, "A", "entropy", kernel), kernel_colours()[kernel]
        axes.plot(rows["scale"], rows["median"], MARKS[kernel] + "-", ms=4, color=colour,
                  label=NAMES[kernel])  # fmt: skip
        axes.fill_between(rows["scale"], rows["lo"], rows["hi"], color=colour, alpha=0.15, lw=0)
    axes.set(ylim=(0, 1.03), ylabel=r"attention entropy / $\log n$")
    axes.set_title("c   Entropy, shape A\n1: uniform row, 0: one token", fontsize=10, loc="left")
    _along_scale(axes, table["scale"].to_numpy())
    axes.legend(fontsize=8, frameon=False, loc="lower left")


def _draw_reached(axes: Axes, rows: pd.DataFrame, heads: int) -> None:
    for kernel in KERNELS:
        here, colour = rows[rows["kernel"] == kernel].sort_values("scale"), kernel_colours()[kernel]
        low, median, high = (here[f"loss_target{end}"].to_numpy() for end in ("_lo", "", "_hi"))
        shift = 0.97 if kernel == "softmax" else 1.03
        axes.errorbar(
            here["scale"] * shift, median, yerr=(median - low, high - median), color=colour, ms=5,
            marker=MARKS[kernel], capsize=3, lw=1.3, label=NAMES[kernel],
        )  # fmt: skip
        for x, y, count in zip(here["scale"] * shift, median, here["stalled"], strict=True):
            side = -1 if kernel == "softmax" else 1
            axes.annotate(f"{count}", (x, y), (side * 7, 4), textcoords="offset points",
                          color=colour, fontsize=8, ha="center")  # fmt: skip
    first = rows.iloc[0]
    axes.axhline(1.0, color="#999999", lw=0.8)
    axes.set(yscale="log", ylabel=r"loss reached, $f_T/(\frac{1}{2}\|y\|^2)$")
    axes.set_title(
        f"d   Training $W_Q$ alone, H = {heads}, T = {first['steps']}\n"
        f"numbers: runs of {first['runs']} that stall",
        fontsize=10, loc="left",
    )  # fmt: skip
    if rows["loss_target_hi"].max() < 100 * rows["loss_target_lo"].min():
        plain_ticks(axes.yaxis, (0.1, 0.2, 0.5, 1, 2, 5))
    _along_scale(axes, rows["scale"].to_numpy())
    left, right = axes.get_xlim()
    axes.set_xlim(left / 1.15, right * 1.15)
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom * (bottom / top) ** 0.2, top)  # room for the legend
    axes.legend(fontsize=8, frameon=False, loc="lower left", ncols=2)
