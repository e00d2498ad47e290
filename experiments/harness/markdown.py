"""Numbers and tables of the experiments' reports, in Markdown."""

from __future__ import annotations

import math

import pandas as pd

Table = list[list[str]]
"""Cells; the first row is the head."""


STAND_IN = (
    "These texts are a generated stand-in, not reviews: what is seen here is seen on the stand-in "
    "only."
)


def number(value: float) -> str:
    """Two digits, plain between 0.01 and 10000.

    Args:
        value: A number.

    Returns:
        Text.

    Example:
        >>> number(123.4), number(1.3e-9), number(float("inf"))
        ('120', '1.3e-09', 'inf')
    """
    if value == 0 or math.isinf(value):
        return "0" if value == 0 else "inf"
    if 0.01 <= value < 1e4:
        return f"{float(f'{value:.2g}'):g}"
    return f"{value:.1e}"


def spread(values: pd.Series, form: str = ".3f") -> str:
    """Mean [lowest, highest].

    Args:
        values: Numbers, nan is left out.
        form: Their format.

    Returns:
        Text.

    Example:
        >>> spread(pd.Series([0.5, 0.75])), spread(pd.Series([float("nan")]))
        ('0.625 [0.500, 0.750]', 'none')
    """
    if values.isna().all():
        return "none"
    return f"{values.mean():{form}} [{values.min():{form}}, {values.max():{form}}]"


def section(*parts: str | Table) -> list[str]:
    """Paragraphs and tables with an empty line after each.

    Args:
        parts: Paragraphs (a heading is one) and tables.

    Returns:
        Lines.

    Example:
        >>> section("## Letters", [["a"], ["1"]])
        ['## Letters', '', '| a |', '|---|', '| 1 |', '']
    """
    lines: list[str] = []
    for part in parts:
        if isinstance(part, str):
            lines += [part, ""]
        else:
            rows = ["| " + " | ".join(cells) + " |" for cells in part]
            lines += [rows[0], "|" + "---|" * len(part[0]), *rows[1:], ""]
    return lines
