"""`gdconv.theorems()`: what is registered, as a table."""

from __future__ import annotations

from operator import itemgetter

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
        told = [(not s.default, s.name) for s in theorem.statements()]
        names = ", ".join(name for _, name in sorted(told, key=itemgetter(0)))
        rows.append({
            "id": theorem.id,
            "title": theorem.title,
            "source": theorem.source,
            "statements": names,
        })
    return pd.DataFrame(rows, columns=["id", "title", "source", "statements"])
