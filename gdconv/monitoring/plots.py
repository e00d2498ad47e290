"""The figure of a monitored training: what was seen at each look, with its error bars."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gdconv.report.plots import MEASURED, SIGMA, TINY, tidy


def monitor_figure(frame: pd.DataFrame, title: str) -> Figure:
    """Loss ratio, sigma_m(J) and, where it was estimated, lambda_max over the optimizer's steps.

    Args:
        frame: Rows of `gdconv.Monitor.frame`.
        title: What was watched.

    Returns:
        A matplotlib figure, not attached to pyplot.
    """
    sharp = "lambda_max" in frame and frame["lambda_max"].notna().any()
    rows, heights = (3, (2.2, 1, 1)) if sharp else (2, (2.2, 1))
    fig = Figure(figsize=(7.2, 8.0 if sharp else 6.4), layout="constrained")
    axes = fig.subplots(rows, 1, sharex=True, height_ratios=heights)
    scale = frame["loss"] / frame["loss_ratio"]
    axes[0].set_title(title, fontsize=10, loc="left", parse_math=False)
    axes[0].set_yscale("log")
    low, high = (frame[c] / scale for c in ("loss_lo", "loss_hi"))
    _draw(axes[0], frame["step"], frame["loss_ratio"], low.clip(lower=TINY), high, MEASURED)
    axes[0].set_ylabel(r"loss ratio $f_t/f_0$")
    middle = (frame["sigma_min_lo"] + frame["sigma_min_hi"]) / 2
    _draw(axes[1], frame["step"], middle, frame["sigma_min_lo"], frame["sigma_min_hi"], SIGMA)
    axes[1].set_ylabel(r"$\sigma_m(J_t)$, enclosed")
    axes[1].set_ylim(bottom=0)
    if sharp:
        value, error = frame["lambda_max"], frame["lambda_max_error"]
        _draw(axes[2], frame["step"], value, value - error, value + error, SIGMA)
        axes[2].set_ylabel(r"$\lambda_{\max}(\nabla^2 f_t)$, estimate")
        if float(value.min()) >= 0:
            axes[2].set_ylim(bottom=0)
    last = int(frame["step"].max())
    if last > 20 and float((frame["step"] <= last / 10).mean()) > 0.6:
        axes[-1].set_xscale("symlog", linthresh=1, linscale=0.5)
    axes[-1].set_xlim(0, max(last, 1))
    axes[-1].set_xlabel("optimizer step t (dots: observed)")
    for axis in axes:
        tidy(axis)
    return fig


def _draw(
    axes: Axes, steps: pd.Series, y: pd.Series, low: pd.Series, high: pd.Series, colour: str
) -> None:
    """Dots at the looks, joined by a thin line, and a band for the error bar."""
    axes.fill_between(steps, low, high, color=colour, alpha=0.3, lw=0)
    axes.plot(steps, y, color=colour, lw=0.8, marker=".", ms=4, zorder=3)
