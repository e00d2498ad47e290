"""The figure of the growth experiment: bare layer, entries, depth, transformer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from experiments.harness.style import Colour, heading, palette, tidy
from experiments.hessian_growth.layer import SHAPE
from experiments.hessian_growth.numbers import EIGHT, RANGES, SMALL
from experiments.hessian_growth.plan import BIN

VARIANTS = {
    "softmax": ("softmax", "o", 0),
    "layer norm": ("softmax, pre-layer-norm", "s", 2),
    "linear": ("linear", "^", 1),
}
"""Name, mark and place in the palette."""

PARTS = {"total": ("$H$", "-"), "outer": ("$H_o$", "--"), "functional": ("$H_f$", ":")}
BLOCK_NAMES = {
    "VV": "$W_V, W_V$", "QQ": "$W_Q, W_Q$", "KK": "$W_K, W_K$",
    "VQ": "$W_V, W_Q$", "VK": "$W_V, W_K$", "QK": "$W_Q, W_K$",
}  # fmt: skip
LAYER_SCALES = (1e-4, 31.7)


def _colour(place: int | None) -> Colour:
    """A colour of the palette; a dark grey for None."""
    return (0.15, 0.15, 0.15) if place is None else palette()[place]


def draw(rows: pd.DataFrame, slopes: pd.DataFrame) -> Figure:
    """All panels.

    Args:
        rows: Rows of the units.
        slopes: Table of slopes.

    Returns:
        The figure, not attached to pyplot.
    """
    fig = Figure(figsize=(15.0, 17.6), layout="constrained")
    a, b, c, d = fig.subfigures(4, 1, squeeze=False)[:, 0]
    L, D, dim = SHAPE
    seeds = rows[rows["study"] == "scale"]["seed"].nunique()
    sizes = rf"Bare layer, $L={L}$, $D={D}$, $d={dim}$, squared loss, $X=s\,X_0$: block norms"
    band = f"; median of {seeds} seeds, band: all seeds; grey: range of the law fit"
    heading(a, f"a   {sizes}{band}")
    _draw_layer(a.subplots(1, 4, sharex=True, sharey=True), rows)
    heading(b, "b   Local slope and temperature of the same layer; entries of the transformer's "
            "blocks (upper triangle; band: all seeds)")  # fmt: skip
    _draw_second(b, rows)
    depths = (
        r"Depth $m$: linear attention without skips, $X=s\,X_0$: local slope of the block norms"
    )
    heading(c, "c   " + depths + "; median of the seeds, band: all seeds")
    _draw_depth(c.subplots(1, 3, sharex=True, sharey=True), rows)
    count = rows[rows["study"] == "transformer"]["seed"].nunique()
    heading(d, "d   One-block transformer on 5-digit addition, cross-entropy, embeddings "
           rf"$N(0,\sigma^2)$: block norms; median of {count} seeds, band: all seeds; "
           "grey: lowest and highest eight scales")  # fmt: skip
    _draw_transformer(d.subplots(1, 4, sharex=True, sharey=True), rows, slopes)
    return fig


def _table(rows: pd.DataFrame, **where: str) -> pd.DataFrame:
    """Seeds as rows, scales as columns."""
    here = rows
    for name, value in where.items():
        here = here[here[name] == value]
    return here.pivot_table(index="seed", columns="scale", values="value")


def _band(axes: Axes, table: pd.DataFrame, place: int | None, line: str = "-", label: str = "",
          mark: str = "", alpha: float = 0.18) -> None:  # fmt: skip
    """Median line and range of the seeds; zeros and underflow are left out."""
    x, values = table.columns.to_numpy(dtype=float), table.to_numpy()
    if not (values > 0).any():
        return
    shown = np.where(values > 0, values, np.nan)
    ok = ~np.isnan(shown).all(axis=0)
    low, middle, high = (f(shown[:, ok], axis=0) for f in (np.nanmin, np.nanmedian, np.nanmax))
    axes.fill_between(x[ok], low, high, color=_colour(place), alpha=alpha, lw=0)
    axes.plot(x[ok], middle, line + mark, color=_colour(place), label=label or None, lw=1.6, ms=4,
              markevery=5)  # fmt: skip


def _guide(
    axes: Axes, x: tuple[float, float], y: float, power: float, name: str = "s", above: bool = False
) -> None:
    """A line of known slope that ends at (x[1], y), with its law at its end or above its middle."""
    start = y * (x[0] / x[1]) ** power
    axes.plot(x, (start, y), color="#222222", lw=1.1)
    text = rf"$\propto {name}^{{{power:g}}}$"
    point = ((x[0] * x[1]) ** 0.5, (start * y) ** 0.5) if above else (x[1], y)
    shift = (4, 4) if above else (4, -6)
    axes.annotate(text, point, xytext=shift, textcoords="offset points", fontsize=10)


def _draw_layer(cells: Sequence[Axes], rows: pd.DataFrame) -> None:
    guides = {"VV": (2.0, 6.0), "QQ": (5.0, 6.0), "VQ": (3.0, 3.0), "QK": (3.0, 3.0)}
    for axes, (block, (power, steep)) in zip(cells, guides.items(), strict=True):
        axes.axvspan(*SMALL, color="#eeeeee", lw=0)
        for variant, (name, mark, place) in VARIANTS.items():
            table = _table(rows, study="scale", variant=variant, block=block, part="total")
            _band(axes, table, place, "-", f"{name}: $H$", mark)
            for part in ("outer", "functional") if variant == "softmax" else ():
                symbol, line = PARTS[part]
                split = _table(rows, study="scale", variant=variant, block=block, part=part)
                _band(axes, split, None, line, f"{name}: {symbol}", alpha=0.0)
        axes.set(xscale="log", yscale="log", xlim=LAYER_SCALES, ylim=(1e-25, 1e12))
        axes.set_title(f"block {BLOCK_NAMES[block]}", fontsize=10, loc="left")
        axes.set_xlabel("input scale $s$")
        soft = _table(rows, study="scale", variant="softmax", block=block, part="total").median()
        steeper = _table(rows, study="scale", variant="linear", block=block, part="total").median()
        _near(axes, soft, power, 1e5 if block == "QQ" else 1e3)
        if power != steep:
            _near(axes, steeper, steep, 1e-4)
        tidy(axes)
    cells[0].set_ylabel("Frobenius norm")
    cells[2].legend(fontsize=8.5, frameon=False, loc="lower right")
    cells[0].text(0.97, 0.03, "$H_f = 0$ exactly", transform=cells[0].transAxes, ha="right",
                  fontsize=9)  # fmt: skip


def _near(axes: Axes, curve: pd.Series, power: float, factor: float) -> None:
    """A guide over the fit range, a factor above or below a curve."""
    scales = curve.index.to_numpy(dtype=float)
    end = float(curve.iloc[int(np.abs(np.log(scales / SMALL[1])).argmin())])
    _guide(axes, SMALL, factor * end, power)


def _local(table: pd.DataFrame) -> pd.DataFrame:
    """Slopes between neighbouring scales, at their geometric mean."""
    x, values = table.columns.to_numpy(dtype=float), table.to_numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.diff(np.log(values), axis=1) / np.diff(np.log(x))
    return pd.DataFrame(
        np.where(np.isfinite(found), found, np.nan), columns=(x[1:] * x[:-1]) ** 0.5
    )


def _spread(axes: Axes, table: pd.DataFrame, place: int, line: str, label: str) -> None:
    """Median and range of quantities of either sign."""
    kept = table.dropna(axis="columns", how="any")
    x, values = kept.columns.to_numpy(dtype=float), kept.to_numpy()
    axes.fill_between(x, values.min(0), values.max(0), color=_colour(place), alpha=0.18, lw=0)
    axes.plot(x, np.median(values, axis=0), line, color=_colour(place), lw=1.6, label=label)


def _draw_second(fig: SubFigure, rows: pd.DataFrame) -> None:
    cells = fig.subplots(1, 4)
    for place, (block, law) in enumerate({"VV": 2, "QQ": 5, "VQ": 3, "QK": 3}.items()):
        table = _table(rows, study="scale", variant="softmax", block=block, part="total")
        cells[0].axhline(law, color="#999999", lw=0.8)
        _spread(cells[0], _local(table), place, "-", BLOCK_NAMES[block])
        hot = _table(rows, study="temperature", variant="softmax", block=block, part="total")
        _band(cells[1], hot, place, "-", BLOCK_NAMES[block])
    cells[0].axvspan(*SMALL, color="#eeeeee", lw=0)
    cells[0].set(xscale="log", xlim=LAYER_SCALES, ylim=(-8, 9), xlabel="input scale $s$",
                 ylabel=r"local slope d log $\|H\|_F$ / d log $s$")  # fmt: skip
    cells[0].set_title("softmax, total $H$; grey lines: laws 2, 3, 5", fontsize=10, loc="left")
    cells[0].legend(fontsize=8.5, frameon=False, loc="lower left")
    cells[1].axvspan(*RANGES["temperature", "softmax"], color="#eeeeee", lw=0)
    cells[1].set(xscale="log", yscale="log", ylim=(1e-13, 1e4), xlabel=r"temperature $\tau$",
                 ylabel="Frobenius norm of $H$")  # fmt: skip
    cells[1].set_title(r"scores $T/\tau$ at $s=1$, softmax", fontsize=10, loc="left")
    for block, power, factor in (("QQ", -2.0, 0.1), ("VQ", -1.0, 50.0)):
        curve = _table(rows, study="temperature", variant="softmax", block=block, part="total")
        _guide(cells[1], (1e2, 1e4), factor * float(curve.median().iloc[-1]), power, r"\tau", True)
    for axes, kernel in zip(cells[2:], ("softmax", "linear"), strict=True):
        _draw_entries(axes, rows, kernel)
    cells[3].sharey(cells[2])
    for axes in cells:
        tidy(axes)


def _draw_entries(axes: Axes, rows: pd.DataFrame, kernel: str) -> None:
    for block, place in (("VV", 4), ("QQ", 5)):
        table = _table(rows, study="entries", variant=kernel, block=block, part="share").fillna(0)
        edges = np.arange(float(min(table.columns)), float(max(table.columns)) + 2 * BIN, BIN)
        table = table.reindex(columns=edges, fill_value=0.0) / BIN
        x, values = 10**edges, table.to_numpy()
        axes.fill_between(x, values.min(0), values.max(0), step="post", color=_colour(place),
                          alpha=0.3, lw=0)  # fmt: skip
        axes.step(x, values.mean(0), where="post", color=_colour(place), lw=1.6,
                  label=f"block {BLOCK_NAMES[block]}")  # fmt: skip
    axes.set(xscale="log", xlim=(1e-11, 1e-1), xlabel="absolute entry", ylabel="share per decade")
    axes.set_title(f"entries of $H$, {kernel} attention, $D=16$", fontsize=10,
                   loc="left")  # fmt: skip
    axes.legend(fontsize=8.5, frameon=False, loc="upper left")


def _draw_depth(cells: Sequence[Axes], rows: pd.DataFrame) -> None:
    for m, axes in enumerate(cells, start=1):
        for factor, text in ((1, f"$3^{m}={3**m}$"), (2, rf"$2\cdot 3^{m}={2 * 3**m}$")):
            axes.axhline(factor * 3**m, color="#999999", lw=0.8)
            edge = "bottom" if factor == 2 else "top"
            axes.text(9.5, factor * 3**m, text, fontsize=9, ha="right", va=edge)
        for layer in range(1, m + 1):
            for kind, line in (("Q", "-"), ("V", "--")):
                where = {"study": "depth", "variant": f"m = {m}", "part": "total"}
                table = _table(rows, **where, block=f"{kind}{layer}")
                name = f"layer {layer}" + (" (last)" if layer == m else "")
                _spread(axes, _local(table), layer - 1, line, f"{name}, $W_{kind}, W_{kind}$")
        axes.set(xscale="log", xlim=(1e-2, 10), ylim=(0, 78), xlabel="input scale $s$")
        axes.set_title(f"$m={m}$", fontsize=10, loc="left")
        axes.legend(fontsize=8.5, frameon=False, loc="upper left", ncols=2 if m > 1 else 1)
        tidy(axes)
    cells[0].set_ylabel(r"local slope d log $\|H\|_F$ / d log $s$")


def _draw_transformer(cells: Sequence[Axes], rows: pd.DataFrame, slopes: pd.DataFrame) -> None:
    panels = [(v, b) for v in ("without layer norm", "with layer norm") for b in ("QQ", "VV")]
    for axes, (variant, block) in zip(cells, panels, strict=True):
        for part, (symbol, line) in PARTS.items():
            where = {"study": "transformer", "variant": variant, "block": block, "part": part}
            place = None if part != "total" else 5 if block == "QQ" else 4
            _band(axes, _table(rows, **where), place, line, symbol)
        scales = np.sort(rows[rows["study"] == "transformer"]["scale"].unique())
        for ends in (scales[:EIGHT], scales[-EIGHT:]):
            axes.axvspan(ends[0], ends[-1], color="#eeeeee", lw=0)
        axes.set(xscale="log", yscale="log", xlim=(scales[0], scales[-1]))
        axes.set_xlabel(r"embedding scale $\sigma$")
        axes.set_title(f"block {BLOCK_NAMES[block]}, {variant}", fontsize=10, loc="left")
        lines = ["slope of $H$, ours / published"]
        for fit in ("lowest eight", "highest eight"):
            row = slopes[(slopes["study"] == "transformer") & (slopes["variant"] == variant)
                         & (slopes["block"] == block) & (slopes["part"] == "total")
                         & (slopes["fit"] == fit)].iloc[0]  # fmt: skip
            half = row["slope"] - row["lo"]
            lines.append(f"{fit}: {row['slope']:.2f} ± {half:.3f} / {row['published']:.2f}"
                         f" ± {row['published_half']:.2f}")  # fmt: skip
        top = variant.startswith("with ")
        curve = _table(rows, study="transformer", variant=variant, block=block, part="total")
        power = {("QQ", False): 5.0, ("VV", False): 2.0, ("QQ", True): -1.0, ("VV", True): -2.0}
        k = len(scales) - EIGHT if top else 0
        span = float(scales[k]), float(scales[k + EIGHT - 1])
        end = float(curve.median().iloc[k + EIGHT - 1])
        factor = 20.0 if top else 1e-3 if block == "QQ" else 0.05
        _guide(axes, span, factor * end, power[block, top], r"\sigma", top)
        axes.text(0.03, 0.98, "\n".join(lines), transform=axes.transAxes,
                  va="top", fontsize=8.5)  # fmt: skip
        axes.legend(fontsize=9, frameon=False, loc="lower right" if not top else "lower left")
        tidy(axes)
    low, high = cells[0].get_ylim()
    cells[0].set(ylim=(low, high * 1e3), ylabel="Frobenius norm")
