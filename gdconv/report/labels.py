"""Names at the right end of lines, moved apart where they would overlap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes


def spread(
    positions: Sequence[float], gap: float, low: float = 0.0, high: float = 1.0
) -> list[float]:
    """Move positions apart until neighbours are `gap` away, staying in [low, high] when they fit.

    Args:
        positions: Wanted positions, any order.
        gap: Least distance.
        low: Lower end.
        high: Upper end.

    Returns:
        New positions in the given order.

    Example:
        >>> spread([1.0, 1.0], 0.1)
        [1.0, 0.9]
    """
    order = sorted(range(len(positions)), key=lambda i: -positions[i])
    placed = [0.0] * len(positions)
    ceiling = high
    for i in order:
        placed[i] = min(ceiling, max(positions[i], low))
        ceiling = placed[i] - gap
    floor = low
    for i in reversed(order):
        if placed[i] >= floor:
            break
        placed[i] = floor
        floor += gap
    return placed


def place_labels(axes: Axes, ends: Sequence[tuple[str, Any, float]]) -> None:
    """Write names in the right margin at the height where their lines end.

    The axes' limits are read when the figure is drawn, so call order does not matter.

    Args:
        axes: Where the lines are.
        ends: Name, colour and y value (data units) of each.

    Example:
        >>> from matplotlib.figure import Figure
        >>> axes = Figure().add_subplot()
        >>> place_labels(axes, [("bound", "black", 0.5)])
        >>> axes.texts[0].get_text()
        'bound'
    """
    texts = [
        axes.annotate(
            name,
            xy=(1.0, 0.0),
            xytext=(1.02, 0.0),
            xycoords="axes fraction",
            textcoords="axes fraction",
            va="center",
            fontsize=8.5,
            color=colour,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.6, "shrinkA": 1, "shrinkB": 0}
            | {"relpos": (0.0, 0.5)},
        )
        for name, colour, _ in ends
    ]
    values = [value for _, _, value in ends]

    def arrange(*_: object) -> None:
        y = [_fraction(axes, value) for value in values]
        height = axes.get_window_extent().height or 1.0
        lines = max((text.get_text().count("\n") + 1 for text in texts), default=1)
        gap = 1.25 * 8.5 * lines * axes.figure.dpi / 72 / height
        for text, at, to in zip(texts, y, spread(y, min(gap, 1.0 / len(texts))), strict=True):
            text.xy = (1.0, at)
            text.set_position((1.02, to))

    arrange()
    axes.callbacks.connect("ylim_changed", arrange)


def _fraction(axes: Axes, value: float) -> float:
    """Height of a data value in axes fraction, clipped to the axes."""
    low, high = axes.get_ylim()
    transform = axes.transScale
    tiny = max(value, 1e-320) if axes.get_yscale() == "log" else value
    points = transform.transform([(1.0, low), (1.0, high), (1.0, tiny)])[:, 1]
    at = (points[2] - points[0]) / (points[1] - points[0]) if points[1] != points[0] else 0.5
    return float(np.clip(at, 0.0, 1.0)) if np.isfinite(at) else 0.0
