"""The figure of the width experiment: laziness against width, kernel limit, least widths."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from experiments.harness.style import MARKS as KERNEL_MARKS
from experiments.harness.style import NAMES as KERNELS
from experiments.harness.style import Colour, heading, palette, tidy
from experiments.width_scaling.numbers import prepared

RULES = {"lecun": "LeCun", "he": "He", "ntk": "NTK"}

SCALES = {"linear": r"$\tau_0=1/d_m$", "sqrt": r"$\tau_0=1/\sqrt{d_m}$"}

MARKS = {"linear": "o", "sqrt": "s", **KERNEL_MARKS}

ROWS = {
    "kernel_change": r"$\|K_t-K_0\|_F\,/\,\|K_0\|_F$",
    "linear_error": r"$\|r_t-\ell_t\|\,/\,\|r_0\|$",
    "moved_total": r"$\|\theta_t-\theta_0\|\,/\,\|\theta_0\|$",
}
"""What the first three rows show: kernel change, linearisation error, movement."""

TITLES = {
    "kernel_change": "a   Kernel change",
    "linear_error": "b   Distance to the linearised model",
    "moved_total": "c   Movement of the weights",
}

LAWS = {
    "closed_two": ("two conditions", "D", "-"),
    "closed_radii": ("radii only", "^", ":"),
    "closed": ("all three", "v", "--"),
}
"""Sets of conditions drawn: label, mark, line."""


def colours() -> dict[str, Colour]:
    """Colours of scalings, attention kernels and rules by name."""
    names = ("linear", "sqrt", "softmax", "gaussian", "lecun", "he", "ntk")
    return dict(zip(names, (palette()[k] for k in (0, 1, 2, 3, 0, 2, 4)), strict=True))


def draw(
    runs: pd.DataFrame, fits: pd.DataFrame, laws: pd.DataFrame, law_fits: pd.DataFrame
) -> Figure:
    """All panels.

    Args:
        runs: One row per run.
        fits: Their exponents.
        laws: Least widths.
        law_fits: Their exponents.

    Returns:
        The figure, not attached to pyplot.
    """
    fig = Figure(figsize=(15, 20), layout="constrained")
    vision = [d for d in runs["data"].unique() if d != "synthetic"]
    parts = fig.subfigures(4 + len(vision), 1, squeeze=False)[:, 0]
    for part, row in zip(parts, ROWS, strict=False):
        axes = part.subplots(1, 4, sharey=True)
        heading(part, _heading(row, runs))
        for panel, init in zip(axes, RULES, strict=False):
            here = runs[(runs["data"] == "synthetic") & (runs["init"] == init)]
            _lines(panel, here[here["model"] == "encoder"], fits, row, SCALES)
            panel.set_title(f"encoder, {RULES[init]}", fontsize=10)
            panel.set_xlabel(r"width $d_m$")
        for kernel_mark, init in enumerate(("lecun", "ntk")):
            heads = runs[(runs["model"] == "multihead") & (runs["init"] == init)]
            _lines(axes[3], heads, fits, row, KERNELS, faint=kernel_mark == 0, note=RULES[init])
        axes[3].set_title("multi-head model (open marks: LeCun)", fontsize=10)
        axes[3].set_xlabel(r"heads $H$")
        axes[0].set_ylabel(ROWS[row])
    for part, data in zip(parts[3:], vision, strict=False):
        _draw_vision(part, runs[runs["data"] == data], fits, str(data))
    axes = parts[-1].subplots(1, 4)
    heading(
        parts[-1],
        f"{'def'[len(vision)]}   Limit kernel, features at initialization, least width of the "
        "a-priori conditions (no training)",
    )
    _draw_limit(axes[0], runs, fits)
    _draw_alpha(axes[1], runs)
    for panel, scaling in zip(axes[2:], SCALES, strict=True):
        _draw_law(panel, laws[laws["init"] == "lecun"], law_fits, scaling)
    return fig


def _heading(row: str, runs: pd.DataFrame) -> str:
    """Panel title with what the lines are."""
    first = runs[(runs["model"] == "encoder") & (runs["data"] == "synthetic")].iloc[0]
    after = f"after {first['epochs']} steps"
    if row == "moved_total":
        return f"{TITLES[row]} {after}; mean and range over seeds, exponents with 95 % interval"
    where = "; multi-head model at 0.1 only" if row == "linear_error" else ""
    return f"{TITLES[row]} {after} (full) and at loss ratio 0.1 (dashed{where})"


def exponent_text(fits: pd.DataFrame, **of: object) -> str:
    """Exponent [interval] and the sizes it was fitted to, the widest range, for the legends.

    Args:
        fits: Exponents.
        **of: Columns and the values that they have in the row looked for.

    Returns:
        Text, "no fit" where there is none.

    Example:
        >>> fits = pd.DataFrame({"init": ["ntk"], "exponent": [-0.5], "lo": [-0.6], "hi": [-0.4]})
        >>> fits = fits.assign(**{"from": 64, "to": 4096})
        >>> exponent_text(fits, init="ntk"), exponent_text(fits, init="he")
        ('-0.50 [-0.60, -0.40] over 64–4096', 'no fit')
    """
    rows = fits
    for column, value in of.items():
        rows = rows[rows[column] == value]
    if rows.empty:
        return "no fit"
    first = rows.iloc[0]
    text = fit_text(first)
    return text if text == "no fit" else f"{text} over {first['from']:.0f}–{first['to']:.0f}"


def fit_text(row: pd.Series) -> str:
    """One exponent with its interval, if it has one.

    Args:
        row: A row of fits.

    Returns:
        Text.
    """
    if not np.isfinite(row["exponent"]):
        return "no fit"
    ends = f" [{row['lo']:.2f}, {row['hi']:.2f}]" if np.isfinite(row["lo"]) else ""
    return f"{row['exponent']:.2f}{ends}".replace("-0.00", "0.00")


def _band(axes: Axes, rows: pd.DataFrame, x: str, column: str, **style: object) -> None:
    """Geometric mean over seeds as a line, their range as a band."""
    seen = rows[np.isfinite(rows[column]) & (rows[column] > 0)]
    if seen.empty:
        return
    logs = np.log(seen[column].astype(float)).groupby(seen[x])
    mean, low, high = (np.exp(v) for v in (logs.mean(), logs.min(), logs.max()))
    axes.plot(mean.index, mean, **style)  # type: ignore[arg-type]
    colour = style["color"]
    axes.fill_between(mean.index, low, high, color=colour, alpha=0.15, lw=0)


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7, framealpha=0.7, edgecolor="none", borderpad=0.1)


def _tidy(axes: Axes) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    tidy(axes)


def _lines(
    axes: Axes,
    runs: pd.DataFrame,
    fits: pd.DataFrame,
    row: str,
    names: dict[str, str],
    faint: bool = False,
    note: str = "",
) -> None:
    """One line per scaling, and a dashed one at equal loss."""
    made = prepared(runs)
    for scaling, name in names.items():
        here = made[made["scaling"] == scaling]
        if here.empty:
            continue
        colour, column = colours()[scaling], f"end_{row}"
        first = here.iloc[0]
        # at equal steps the multi-head model is fitted to rounding level: equal loss instead
        if first["model"] == "multihead" and row == "linear_error":
            column = f"target_{row}"
        text = exponent_text(
            fits, model=first["model"], data=first["data"], init=first["init"],
            scaling=scaling, column=column,
        )  # fmt: skip
        full = "--" if column.startswith("target") else "-"
        face = "white" if faint else colour
        label = f"{name}{', ' + note if note else ''}: {text}"
        _band(axes, here, "width", column, color=colour, ls=full, marker=MARKS[scaling], ms=5,
              lw=1.4, mfc=face, label=label)  # fmt: skip
        if column == f"end_{row}" and row != "moved_total":
            _band(axes, here, "width", f"target_{row}", color=colour, ls="--", lw=1.0)
    _tidy(axes)
    _legend(axes)


def _draw_vision(part: SubFigure, runs: pd.DataFrame, fits: pd.DataFrame, data: str) -> None:
    """The same three quantities on image patches."""
    axes = part.subplots(1, 4)
    first = runs.iloc[0]
    heading(part, f"d   {data}: {first['N']} images, {first['n']} patches of {first['D']} pixels")
    for panel, (init, row) in zip(
        axes,
        (("lecun", "kernel_change"), ("ntk", "kernel_change"), ("ntk", "linear_error"),
         ("ntk", "moved_total")),
        strict=True,
    ):  # fmt: skip
        _lines(panel, runs[runs["init"] == init], fits, row, SCALES)
        panel.set_title(f"{TITLES[row][4:].lower()}, {RULES[init]}", fontsize=10)
        panel.set(ylabel=ROWS[row], xlabel=r"width $d_m$")


def _draw_limit(axes: Axes, runs: pd.DataFrame, fits: pd.DataFrame) -> None:
    """|K_0 - K*| of the NTK initialization."""
    here = runs[(runs["data"] == "synthetic") & (runs["init"] == "ntk")]
    here = here[here["model"] == "encoder"]
    for scaling, name in SCALES.items():
        text = exponent_text(fits, data="synthetic", init="ntk", scaling=scaling,
                             column="limit_distance")  # fmt: skip
        _band(axes, here[here["scaling"] == scaling], "width", "limit_distance",
              color=colours()[scaling], marker=MARKS[scaling], ms=5, lw=1.4,
              label=f"{name}: {text}")  # fmt: skip
    _tidy(axes)
    axes.set_ylabel(r"$\|K_0-K^*\|_F\,/\,\|K^*\|_F$")
    axes.set_title("distance to the limit kernel, NTK", fontsize=10)
    axes.set_xlabel(r"width $d_m$")
    _legend(axes)


def _draw_alpha(axes: Axes, runs: pd.DataFrame) -> None:
    """alpha^2 / d_m of every initialization."""
    here = prepared(runs[(runs["data"] == "synthetic") & (runs["model"] == "encoder")])
    for init, rule in RULES.items():
        for scaling, name in SCALES.items():
            rows = here[(here["init"] == init) & (here["scaling"] == scaling)]
            _band(axes, rows, "width", "alpha_per_width", color=colours()[init],
                  marker=MARKS[scaling], ls="-" if scaling == "linear" else ":", ms=4, lw=1.2,
                  label=f"{rule}, {name}")  # fmt: skip
    _tidy(axes)
    axes.set_ylabel(r"$\alpha^2/d_m$")
    axes.set_title(r"$\alpha=\sigma_{\min}(F_{\rm pre})$ at the start", fontsize=10)
    axes.set_xlabel(r"width $d_m$")
    _legend(axes)


def _draw_law(axes: Axes, laws: pd.DataFrame, fits: pd.DataFrame, scaling: str) -> None:
    """Least width against N, with the paper's power as a guide."""
    here = laws[laws["scaling"] == scaling].astype(dict.fromkeys(LAWS, float))
    power = 2 if scaling == "linear" else 3
    anchor = None
    for name, (label, mark, line) in LAWS.items():
        text = exponent_text(fits, init="lecun", scaling=scaling, set=name)
        rows = here[here[name].notna()]
        colour = colours()[scaling]
        _band(axes, rows, "N", name, color=colour, marker=mark, ls=line, ms=5, lw=1.4,
              label=f"{label}: {text}")  # fmt: skip
        if name == "closed_two" and len(rows):
            last = rows["N"].max()
            anchor = last, float(rows[rows["N"] == last][name].median())
        if rows.empty:
            axes.plot(
                [], [], " ", label=f"{label}: above $2^{{{int(np.log2(here['limit'].iloc[0]))}}}$"
            )
    if anchor:
        N = np.array([here["N"].min(), anchor[0]], dtype=float)
        axes.plot(N, anchor[1] * (N / anchor[0]) ** power, color="#777777", lw=1,
                  label=f"slope {power}")  # fmt: skip
    _tidy(axes)
    axes.set_yscale("log", base=2)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * 2**5)  # room for the legend
    axes.set_xlabel("samples $N$ (orthonormal tokens)")
    axes.set_ylabel("least $d_m$ at which the conditions hold")
    axes.set_title(f"conditions (2, 8, 16), LeCun, {SCALES[scaling]}", fontsize=10)
    axes.legend(fontsize=7.5, frameon=False, loc="upper left")
