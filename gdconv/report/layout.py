"""Cells to text, Markdown and LaTeX (booktabs): no dependency, every character escaped."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from gdconv.support.errors import quoted

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    ">=": r"$\ge$",
    "<=": r"$\le$",
    "σ": r"$\sigma$",
    "β": r"$\beta$",
    "η": r"$\eta$",
    "κ": r"$\kappa$",
    "δ": r"$\delta$",
    "ρ": r"$\rho$",
    "μ": r"$\mu$",
    "λ": r"$\lambda$",
    "≥": r"$\ge$",
    "≤": r"$\le$",
    "²": r"$^2$",
    "³": r"$^3$",
}
MOST_CELL = 200
"""Longest text of a cell."""

_LATEX_PATTERN = re.compile("|".join(re.escape(k) for k in sorted(_LATEX, key=len, reverse=True)))


def number(value: Any) -> str:
    """A cell: three significant digits, short exponents, "-" for nothing.

    Args:
        value: Number, text, bool or missing value.

    Returns:
        The text of the cell.

    Example:
        >>> number(1.2345e-07), number(12), number(float("nan")), number(1234.5)
        ('1.23e-7', '12', '-', '1234')
    """
    if isinstance(value, str):
        return quoted(value, MOST_CELL) or "-"
    if value is None or pd.isna(value):
        return "-"
    if math.isfinite(value) and float(value) == int(value) and abs(value) < 1e7:
        return str(int(value))
    if 1000 <= abs(value) < 1e5:
        return f"{value:.0f}"
    return re.sub(r"e([+-])0*(\d)", lambda m: f"e{m[1].strip('+')}{m[2]}", f"{float(value):.3g}")


def escape_latex(text: str) -> str:
    r"""Text that LaTeX prints as it is.

    Args:
        text: Any text; Greek letters, >= and powers become mathematics.

    Returns:
        The escaped text.

    Example:
        >>> escape_latex("W_Q >= 5%")
        'W\\_Q $\\ge$ 5\\%'
    """
    return _LATEX_PATTERN.sub(lambda match: _LATEX[match[0]], text)


def text_block(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned plain text; headers may have two lines; words left, numbers right.

    Args:
        headers: One per column.
        rows: Cells.

    Returns:
        Lines without trailing blanks.

    Example:
        >>> print(text_block(["name", "value"], [["a", "1"], ["bc", "22"]]))
        name  value
        ----  -----
        a         1
        bc       22
    """
    depth = max(header.count("\n") for header in headers) + 1
    heads = [([""] * depth + header.split("\n"))[-depth:] for header in headers]
    widths = [max(map(len, [*head, *(row[i] for row in rows)])) for i, head in enumerate(heads)]
    right = [_is_numeric(row[i] for row in rows) for i in range(len(headers))]
    # one blank between columns of numbers, two after words: keeps the wide table near 100 columns
    gaps = ["  " if not r or len(headers) < 8 else " " for r in right]

    def line(cells: Sequence[str]) -> str:
        padded = [
            c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right, strict=True)
        ]
        return "".join(p + g for p, g in zip(padded, gaps, strict=True)).rstrip()

    body = [line([head[k] for head in heads]) for k in range(depth)]
    return "\n".join([*body, line(["-" * w for w in widths]), *map(line, rows)])


def markdown_block(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    r"""A pipe table.

    Args:
        headers: One per column.
        rows: Cells.

    Returns:
        The table.

    Example:
        >>> print(markdown_block(["a", "b"], [["x|y", "1"]]))
        | a | b |
        | :--- | ---: |
        | x\|y | 1 |
    """
    right = [_is_numeric(row[i] for row in rows) for i in range(len(headers))]
    lines = [headers, ["---:" if r else ":---" for r in right], *rows]
    return "\n".join("| " + " | ".join(_markdown(cell) for cell in line) + " |" for line in lines)


def latex_block(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    r"""A booktabs tabular; headers are LaTeX already, cells are escaped.

    Args:
        headers: One per column.
        rows: Cells.

    Returns:
        The tabular; the document needs ``\usepackage{booktabs}``.

    Example:
        >>> print(latex_block([r"$\beta$"], [["50%"]]).splitlines()[2])
        $\beta$ \\
    """
    right = [_is_numeric(row[i] for row in rows) for i in range(len(headers))]
    spec = "".join("r" if r else "l" for r in right)
    heads = [h if "$" in h else escape_latex(h) for h in headers]
    body = [" & ".join(escape_latex(cell) for cell in row) + r" \\" for row in rows]
    lines = [rf"\begin{{tabular}}{{{spec}}}", r"\toprule", " & ".join(heads) + r" \\", r"\midrule"]
    return "\n".join([*lines, *body, r"\bottomrule", r"\end{tabular}"])


def _is_numeric(cells: Any) -> bool:
    shown = [cell for cell in cells if cell != "-"]
    return not shown or all(re.match(r"^[-+]?(\d|inf)", cell) for cell in shown)


def _markdown(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")


LAYOUTS: dict[str, Callable[..., str]] = {
    "text": text_block,
    "markdown": markdown_block,
    "latex": latex_block,
    "text list": lambda title, lines: "\n".join([f"{title}:", *(f"  {line}" for line in lines)]),
    "markdown list": lambda title, lines: "\n".join([
        f"{title}:",
        "",
        *(f"- {_markdown(line)}" for line in lines),
    ]),
    "latex list": lambda title, lines: "\n".join([
        rf"\par {title}: {escape_latex('; '.join(lines))}.\par"
    ]),
}
"""How a table, or a list with a title, is set in each format."""
