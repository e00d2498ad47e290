"""`gdconv.theorems()`: what is registered, as a table."""

from __future__ import annotations

import pandas as pd

from gdconv.theory.registry import listed


def theorems() -> pd.DataFrame:
    """Every registered theorem.

    Returns:
        Columns id, title, source, statements (names, the default one first).

    Example:
        >>> "full-gd" in set(theorems()["id"])
        True
    """
    rows = []
    for theorem in listed()[0].values():
        ordered = sorted(theorem.statements(), key=lambda s: not s.default)
        names = ", ".join(s.name for s in ordered)
        rows.append({
            "id": theorem.id,
            "title": theorem.title,
            "source": theorem.source,
            "statements": names,
        })
    return pd.DataFrame(rows, columns=["id", "title", "source", "statements"])
