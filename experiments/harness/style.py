"""How the figures of the experiments look: names, marks, colours, frames, headings."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import FigureBase
from matplotlib.ticker import FixedLocator, NullLocator

Colour = tuple[float, float, float]

NAMES = {"softmax": "softmax", "gaussian": "Gaussian"}
MARKS = {"softmax": "o", "gaussian": "s"}


@cache
def palette() -> tuple[Colour, ...]:
    """The colour-blind palette.

    Returns:
        Ten colours.

    Example:
        >>> len(palette())
        10
    """
    import seaborn

    return tuple(seaborn.color_palette("colorblind"))


def kernel_colours() -> dict[str, Colour]:
    """Blue and orange.

    Returns:
        Colours by kernel.

    Example:
        >>> list(kernel_colours())
        ['softmax', 'gaussian']
    """
    return dict(zip(NAMES, palette()[:2], strict=True))


def tidy(axes: Axes, along: Literal["both", "x", "y"] = "both") -> None:
    """Light grid, no frame at the top and right.

    Args:
        axes: The axes.
        along: Which grid lines.
    """
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, which="major", axis=along, color="#e6e6e6", lw=0.6)
    axes.set_axisbelow(True)


def plain_ticks(axis: Axis, places: Iterable[float]) -> None:
    """Ticks at these places and nowhere else, with plain numbers.

    Args:
        axis: The axis.
        places: Where.
    """
    axis.set_major_locator(FixedLocator(list(places)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter("{x:g}")


def heading(figure: FigureBase, text: str, size: float = 11, weight: str = "bold") -> None:
    """A line at the top left.

    Args:
        figure: Figure or part of one.
        text: The line.
        size: Of the letters.
        weight: Of the letters.
    """
    figure.suptitle(text, x=0.01, ha="left", weight=weight, fontsize=size)
