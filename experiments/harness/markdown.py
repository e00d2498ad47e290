"""Numbers and tables of the experiments' reports, in Markdown."""

from __future__ import annotations

import math


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


def rows_of(table: list[list[str]]) -> list[str]:
    """Markdown lines of a table whose first row is its head.

    Args:
        table: Cells.

    Returns:
        Lines.

    Example:
        >>> rows_of([["a"], ["1"]])
        ['| a |', '|---|', '| 1 |']
    """
    lines = ["| " + " | ".join(cells) + " |" for cells in table]
    return [lines[0], "|" + "---|" * len(table[0]), *lines[1:]]
