"""Figures as files: PDF, PNG and SVG, byte for byte the same for the same figure."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from gdconv.support.errors import InputError
from gdconv.support.files import folder_path

WRITTEN: dict[str, dict[str, Any]] = {
    "pdf": {"metadata": {"Creator": "gdconv", "Producer": None, "CreationDate": None}},
    "png": {"dpi": 160, "metadata": {"Software": "gdconv"}},
    "svg": {"metadata": {"Creator": "gdconv", "Date": None}},
    "eps": {"metadata": {"Creator": "gdconv"}},
    "jpg": {"dpi": 160},
    "jpeg": {"dpi": 160},
    "tif": {"dpi": 160},
    "tiff": {"dpi": 160},
    "webp": {"dpi": 160},
}
"""Suffixes of files that a figure is written as, with what goes to matplotlib."""


NOT_WRITTEN = (
    *("ai", "apng", "avif", "bmp", "cdr", "dvi", "emf", "emz", "gif", "heic", "heif", "html"),
    *("ico", "j2k", "jfif", "jp2", "jxl", "pgf", "pgm", "pict", "pnm", "ppm", "ps", "psd", "raw"),
    *("rgba", "svgz", "tex", "tga", "tikz", "wmf", "xcf", "xpm"),
)
"""Suffixes that ask for a picture of another kind; any other one belongs to the name."""


def figure_files(path: str | Path) -> list[Path]:
    """The files that a figure is written to.

    Args:
        path: A path; `run.v2` has no suffix that means a figure, so the name is `run.v2`.

    Returns:
        The path itself if its suffix says what to write, else the one with .pdf and with .png.

    Raises:
        InputError: The suffix is one of a picture that is not written here, or this is no path.

    Example:
        >>> [file.name for file in figure_files("run.v2")], figure_files("x.svg")[0].name
        (['run.v2.pdf', 'run.v2.png'], 'x.svg')
    """
    place = folder_path("path", path)
    kind = place.suffix[1:].lower()
    if kind in NOT_WRITTEN:
        known = ", ".join(f".{name}" for name in WRITTEN)
        raise InputError("path", path, f"give {known}, or no suffix for PDF and PNG")
    return [place] if kind in WRITTEN else [Path(f"{place}.pdf"), Path(f"{place}.png")]


def save_figure(fig: Figure, path: str | Path) -> list[Path]:
    """Write a figure as its path's suffix says, else as PDF and PNG.

    PDF, PNG and SVG are byte for byte the same for the same figure.

    Args:
        fig: The figure.
        path: Path with a suffix of `WRITTEN`, or without one.

    Returns:
        The files.

    Raises:
        InputError: The suffix is one of a picture that is not written here.

    Example:
        >>> import tempfile
        >>> from matplotlib.figure import Figure
        >>> [p.name for p in save_figure(Figure(), Path(tempfile.mkdtemp()) / "figure")]
        ['figure.pdf', 'figure.png']
    """
    files = figure_files(path)
    for file in files:
        kind = file.suffix[1:].lower()
        drawn = io.BytesIO()  # on a full disk matplotlib fails over its own half-written file
        with rc_context({"svg.hashsalt": "gdconv"}):
            fig.savefig(drawn, format=kind, **WRITTEN[kind])
        file.write_bytes(drawn.getvalue())
    return files


def drawn_to(path: str | Path | None, draw: Callable[[], Figure]) -> Figure:
    """Draw a figure, and write it where a path is given; a path that cannot be is refused before.

    Args:
        path: As for `save_figure`, or None.
        draw: Makes the figure.

    Returns:
        The figure.

    Raises:
        InputError: No figure can be written there, or not as that.

    Example:
        >>> drawn_to("x.gif", Figure)
        Traceback (most recent call last):
        gdconv.support.errors.InputError: path = x.gif: give .pdf, .png, .svg, .eps, .jpg, .jpeg,
        ...
    """
    if path is not None:
        figure_files(path)
    drawn = draw()
    if path is not None:
        try:
            save_figure(drawn, path)
        except OSError as error:
            remedy = f"choose a place that can be written ({error.strerror or error})"
            raise InputError("path", path, remedy) from error
    return drawn
