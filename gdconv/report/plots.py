"""The figure of a check: loss ratio with its bounds above, sigma_min(B_t) / sigma_min(B_0) below.

Drawn with matplotlib's objects, without pyplot, so that it works in any process and leaves no
state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from gdconv.models.reads import OWN, attends
from gdconv.report.labels import place_labels
from gdconv.report.quantity_plots import draw_quantity, quantities
from gdconv.report.source import CheckLike
from gdconv.report.tables import descended
from gdconv.support.errors import quoted
from gdconv.theory.verdict import worst

MEASURED = "#222222"
SIGMA = "#555555"

MANY, CROWD = 4, 12
"""Above MANY runs lines get thinner, above CROWD a statement's bounds become a band."""

KEEPS = ("per-head", "gaussian-rate", "softmax-rate")
"""Statements whose proof keeps three quarters of the starting value."""

TINY = 1e-320


SHARP = "eta_lambda_max"
"""Column that the third panel shows, where a run has it."""


def figure(check: CheckLike) -> Figure:
    """One check as a figure.

    Top: f_t / f_0 of every replica (dark) and every statement's bound (dashed, one colour a
    statement,
    named at its end with its verdict), first violations crossed. Bottom: sigma_min(B_t) /
    sigma_min(B_0) with
    its enclosure, and 3/4, which the proof of the per-head statement needs.

    Args:
        check: A check.

    Returns:
        A matplotlib figure, not attached to pyplot.

    Example:
        >>> from gdconv.report.example import example_check
        >>> check = example_check(runs=2)
        >>> len(figure(check).axes)
        2
    """
    if not descended(check):
        from gdconv.report.claim_plots import claim_figure

        return claim_figure(check)
    return side_by_side([check])


def side_by_side(checks: Sequence[CheckLike]) -> Figure:
    """Several checks in columns that share both scales, for instance softmax | Gaussian.

    Args:
        checks: At least one check.

    Returns:
        A matplotlib figure with 2 rows and one column a check.

    Raises:
        ValueError: No check was given.

    Example:
        >>> side_by_side([])
        Traceback (most recent call last):
            ...
        ValueError: side_by_side needs at least one check
    """
    if not checks:
        raise ValueError("side_by_side needs at least one check")
    columns = len(checks)
    sharp = any(SHARP in check.trace and check.trace[SHARP].notna().any() for check in checks)
    further = quantities(checks)
    heights = (2.2, 1, *((0.8,) if sharp else ()), *(1.0 for _ in further))
    tall = 6.4 + (1.6 if sharp else 0.0) + 2.0 * len(further)
    fig = Figure(figsize=(2.2 + 6.2 * columns, tall), layout="constrained")
    axes = fig.subplots(
        len(heights), columns, sharex="col", sharey="row", squeeze=False, height_ratios=heights
    )
    colours = _colours(checks)
    bottom = min(_bottom(check) for check in checks)
    for column, check in enumerate(checks):
        top, low = axes[:2, column]
        top.set_title(_title(check), fontsize=10, loc="left", parse_math=False)
        top.set_yscale("log")
        top.set_ylim(bottom, bottom ** (-0.06))
        if bottom > 0.03:  # less than a decade and a half: decimals read better than powers
            top.yaxis.set(major_locator=MaxNLocator(6), minor_locator=NullLocator())
            top.yaxis.set_major_formatter("{x:.3g}")
        _scale_steps(top, check)
        _draw_bounds(top, check, colours)
        _draw_losses(top, check)
        _draw_sigma(low, check)
        if sharp:
            _draw_sharpness(axes[2, column], check)
            tidy(axes[2, column])
        for panel, name in zip(
            axes[-len(further) :, column] if further else (), further, strict=True
        ):
            draw_quantity(panel, check, name, colours)
            tidy(panel)
        axes[-1, column].set_xlabel("step t")
        tidy(top)
        tidy(low)
    _scale_sigma([axes[1, c] for c in range(columns)])
    axes[0, 0].set_ylabel(r"loss ratio $f_t/f_0$")
    axes[1, 0].set_ylabel(_followed(checks[0])[1])
    if sharp:
        axes[2, 0].set_ylabel(r"$\eta\,\lambda_{\max}(\nabla^2 f_t)$")
    return fig


def _colours(checks: Sequence[CheckLike]) -> dict[str, Any]:
    """One colour a statement, the same in every column; the judged statement gets the first."""
    import seaborn

    names = list(dict.fromkeys(s for check in checks for s in check.verdicts["statement"]))
    names.sort(key=lambda name: name != checks[0].statement)
    palette = seaborn.color_palette("colorblind", max(10, len(names)))
    palette = [c for i, c in enumerate(palette) if i != 7]  # grey is for measurements
    return {name: palette[i % len(palette)] for i, name in enumerate(names)}


def _title(check: CheckLike) -> str:
    config, shapes = check.config, {k: np.shape(v) for k, v in check.starts.items()}
    data = config.get("problem") or config.get("data") or ""
    parts = [] if data == OWN else [quoted(data)]  # the model, which is named, brings its data
    encoder = "w_O" in shapes
    if not attends(config) and "X" in shapes:  # no heads, no tokens
        parts += [quoted(config.get("model")), f"loss {config.get('loss')}", f"N={shapes['X'][1]}"]
    else:
        parts.append(f"{config.get('kernel', '')} {'encoder' if encoder else 'kernel'}")
    parts.append(str(config.get("algorithm") or ""))
    if "X" in shapes and attends(config):
        _, samples, tokens, width = shapes["X"]
        sizes = f"N={samples} n={tokens} D={width}"
        if encoder:  # its W_Q is (R, d_m, D): no heads
            sizes += f" d_m={shapes['W_Q'][1]}"
        elif "W_Q" in shapes:
            sizes += f" d={shapes['W_Q'][-1]} H={shapes['W_Q'][1]}"
        parts.append(sizes)
    runs = check.runs["run"].nunique()
    parts.append(f"{runs} run{'s' if runs > 1 else ''}")
    verdict = f"{check.theorem}, {check.statement}: {check.verdict} ({check.level})"
    return f"{verdict}\n" + ", ".join(part for part in parts if part)


def _loss_range(check: CheckLike) -> tuple[float, float]:
    ratio = check.trace["loss_ratio"].to_numpy(dtype=float)
    ratio = ratio[np.isfinite(ratio) & (ratio > 0)]
    return (float(ratio.min()), float(ratio.max())) if ratio.size else (0.5, 1.0)


def _bottom(check: CheckLike) -> float:
    """Lower end of the loss axis: the measured range, and some more where a bound falls lower."""
    least, _ = _loss_range(check)
    names = [c for s in check.verdicts["statement"].unique() if (c := f"bound[{s}]") in check.trace]
    bounds = check.trace[names].to_numpy(dtype=float)
    bounds = bounds[np.isfinite(bounds) & (bounds > 0)]
    lowest_bound = float(bounds.min()) if bounds.size else 1.0
    # a refuted bound may go to 1e-300: show where it parts from the loss, not all of it
    room = min(least**1.25, 0.5)
    return float(np.clip(min(least, max(lowest_bound, room)) ** 1.05, 1e-300, 0.999))


def _scale_steps(axes: Axes, check: CheckLike) -> None:
    """Linear steps; log from step 1 on if most of the fall happens in the first tenth."""
    last = int(check.trace["step"].max())
    axes.set_xlim(0, max(last, 1))
    early = []
    for _, rows in check.trace.groupby("run"):
        log = np.log(rows["loss_ratio"].clip(lower=1e-300).to_numpy(dtype=float))
        at_tenth = log[rows["step"].to_numpy() <= last / 10]
        if log.size and at_tenth.size and np.isfinite(log[-1]) and log[-1] < 0:
            early.append(at_tenth[-1] / log[-1])
    if early and np.median(early) > 0.6 and last > 20:
        axes.set_xscale("symlog", linthresh=1, linscale=0.5)


def _draw_losses(axes: Axes, check: CheckLike) -> None:
    groups = list(check.trace.groupby("run"))
    width = 1.5 if len(groups) <= MANY else 0.8
    for _, rows in groups:
        axes.plot(rows["step"], rows["loss_ratio"], color=MEASURED, lw=width, zorder=3)
    axes.plot([], [], color=MEASURED, lw=1.5, label=r"measured $f_t/f_0$")
    broken = check.verdicts[check.verdicts["first_violation"] >= 0]
    refuted = broken["verdict"] == "refuted"
    _mark(axes, check, broken[refuted], "#b00000", "first violation")
    _mark(axes, check, broken[~refuted], "white", "bound crossed where it claims nothing")
    axes.legend(loc="lower left", fontsize=8, frameon=True, framealpha=0.85, edgecolor="none")


def _mark(axes: Axes, check: CheckLike, broken: pd.DataFrame, face: str, text: str) -> None:
    """A cross on the loss at the first step at which each bound is violated."""
    if broken.empty:
        return
    edge = "white" if face != "white" else "#b00000"
    size = 8 if len(broken) <= 2 * MANY else 5
    for run, step in zip(broken["run"], broken["first_violation"], strict=True):
        rows = check.trace[check.trace["run"] == run]
        y = np.interp(step, rows["step"], rows["loss_ratio"])
        axes.plot([step], [y], "X", ms=size, mec=edge, mew=size / 10, color=face, zorder=5)
    steps = sorted(broken["first_violation"].astype(int))
    span = f"{steps[0]}" if steps[0] == steps[-1] else f"{steps[0]} to {steps[-1]}"
    axes.plot([], [], "X", color=face, mec=edge, ms=8, label=f"{text}: step {span}")


def _draw_bounds(axes: Axes, check: CheckLike, colours: dict[str, Any]) -> None:
    """Every run's bound, dotted where it claims nothing; named where the longest run ends."""
    bottom = axes.get_ylim()[0]
    ends: list[tuple[str, Any, float]] = []
    traces = [rows for _, rows in check.trace.groupby("run")]
    for name, rows in check.verdicts.groupby("statement", sort=False):
        verdict, column = worst(rows["verdict"]), f"bound[{name}]"
        colour = colours[str(name)]
        curves = [trace[["step", column]].dropna() for trace in traces if column in trace]
        curves = [curve for curve in curves if len(curve)]
        width = 2.0 if name == check.statement else 1.2
        dashes = (0, (1, 1.5)) if verdict == "outside" else (0, (5, 2))
        style = {"color": colour, "lw": width, "ls": dashes, "zorder": 1 + width}
        if len(curves) > CROWD:
            _draw_band(axes, curves, column, style)
        else:
            fade = {"alpha": 1.0 if len(curves) <= MANY else 0.6}
            for curve in curves:
                axes.plot(curve["step"], curve[column].clip(lower=TINY), **style | fade)
        last = max(
            ((c["step"].iloc[-1], float(c[column].iloc[-1])) for c in curves), default=(0, 1.0)
        )
        others = any(c.startswith(f"bound[{name}: ") for c in check.trace.columns)
        missing = "bounds below" if others else "no bound"
        note = verdict if curves else f"{verdict}, {missing}"
        below = " (below)" if last[1] < bottom else ""
        ends.append((f"{name}: {note}{below}", colour, last[1]))
    place_labels(axes, ends)


def _draw_band(axes: Axes, curves: list[pd.DataFrame], column: str, style: dict[str, Any]) -> None:
    """The bounds of many runs: the highest as a line, the others as a band while all runs last."""
    steps = np.unique(np.concatenate([curve["step"].to_numpy() for curve in curves]))
    logs = [
        np.interp(steps, c["step"], np.log(c[column].clip(lower=TINY)), right=np.nan)
        for c in curves
    ]
    low, high = np.exp(np.nanmin(logs, axis=0)), np.exp(np.nanmax(logs, axis=0))
    axes.plot(steps, high, **style)
    common = steps <= min(curve["step"].iloc[-1] for curve in curves)
    band = {"color": style["color"], "alpha": 0.18, "lw": 0, "zorder": 1}
    axes.fill_between(steps[common], low[common], high[common], **band)


def _followed(check: CheckLike) -> tuple[str, str]:
    """What bounds the PL constant: sigma_m(J) where it was enclosed on the way, else sigma(B)."""
    if "sigma_J_lo" in check.trace.columns:
        return "sigma_J", r"$\sigma_m(J_t)/\sigma_m(J_0)$"
    if "w_O" in check.starts:
        return "sigma_min", r"$\alpha_t/\alpha_0$"
    return "sigma_min", r"$\sigma_{\min}(B_t)/\sigma_{\min}(B_0)$"


def _draw_sigma(axes: Axes, check: CheckLike) -> None:
    column, _ = _followed(check)
    lower, upper = f"{column}_lo", f"{column}_hi"
    first = check.trace.groupby("run")[[lower, upper]].first().mean(axis=1)
    runs = list(check.trace.groupby("run"))
    for run, rows in runs:
        start = float(first[run])
        if not start > 0:
            continue
        seen = rows[rows[upper].notna()]
        low, high = seen[lower] / start, seen[upper] / start
        axes.fill_between(seen["step"], low, high, color=SIGMA, alpha=0.3, lw=0)
        axes.plot(seen["step"], (low + high) / 2, color=SIGMA, lw=1.2 if len(runs) <= MANY else 0.7)
    if not (first > 0).any():
        axes.text(0.5, 0.5, "zero at the start", ha="center", transform=axes.transAxes)
    axes.axhline(1.0, color="#999999", lw=0.8, zorder=1)
    axes.axhline(0.75, color="#999999", lw=0.8, ls=":", zorder=1)
    proof = next((name for name in check.verdicts["statement"] if name in KEEPS), None)
    keeps = f"3/4, what the proof\nof {proof} keeps" if proof else "3/4"
    place_labels(axes, [("start", "#777777", 1.0), (keeps, "#777777", 0.75)])


def _draw_sharpness(axes: Axes, check: CheckLike) -> None:
    """Eta lambda_max where it was measured, and 2, the edge of stability."""
    if SHARP in check.trace:
        runs = list(check.trace.groupby("run"))
        for _, rows in runs:
            seen = rows[rows[SHARP].notna()]
            axes.plot(
                seen["step"], seen[SHARP], color=SIGMA, lw=1.2 if len(runs) <= MANY else 0.7,
                marker=".", ms=3,
            )  # fmt: skip
    axes.axhline(2.0, color="#999999", lw=0.8, ls=":", zorder=1)
    axes.set_ylim(bottom=0)
    place_labels(axes, [("2: edge of stability", "#777777", 2.0)])


def _scale_sigma(axes: Sequence[Axes]) -> None:
    """Linear from the data, or log where the values span more than a decade."""
    values = [np.asarray(line.get_ydata(), dtype=float) for a in axes for line in a.lines]
    paths = [path for a in axes for c in a.collections for path in c.get_paths()]
    values += [np.asarray(path.vertices)[:, 1] for path in paths]
    flat = np.concatenate(values) if values else np.ones(1)
    flat = flat[np.isfinite(flat)]
    low, high = float(flat.min(initial=0.75)), float(flat.max(initial=1.0))
    positive = flat[flat > 0]
    if positive.size and high > 10 * max(float(positive.min()), 1e-12 * high):
        least = max(float(positive.min()), 1e-6 * high)
        axes[0].set_yscale("log")
        axes[0].set_ylim(least / 1.5, high * 1.5)
    else:
        axes[0].set_ylim(max(low - 0.08 * (high - low), 0), high + 0.08 * (high - low))


def tidy(axes: Axes) -> None:
    """The house style of one panel: two spines, a faint grid behind the lines.

    Args:
        axes: The panel.
    """
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, which="major", color="#e6e6e6", lw=0.6)
    axes.set_axisbelow(True)
