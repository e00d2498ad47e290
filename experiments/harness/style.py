"""How the figures of the experiments look: names, marks and colours of the kernels, small files."""

from __future__ import annotations

from pathlib import Path

from PIL import Image


def compact(png: Path) -> None:
    """Reduce a PNG to 256 colours: a committed figure should be small.

    Args:
        png: The file, replaced.
    """
    with Image.open(png) as image:
        small = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    small.save(png, optimize=True)


NAMES = {"softmax": "softmax", "gaussian": "Gaussian"}


MARKS = {"softmax": "o", "gaussian": "s"}


def kernel_colours() -> dict[str, tuple[float, float, float]]:
    """Blue and orange of the colour-blind palette.

    Returns:
        Colours by kernel.
    """
    import seaborn

    palette = seaborn.color_palette("colorblind")
    return {"softmax": palette[0], "gaussian": palette[1]}
