"""What a saved run must hold for the tables, figures and replays that are made of it.

Its checksums say that nobody changed a file by accident. A manifest whose checksum was computed
anew says nothing, so everything that is read later is checked here once: name, kind and value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from gdconv.models.reads import attends
from gdconv.support.errors import quoted
from gdconv.theory.verdict import ORDER, worst

TEXT, WHOLE, REAL = "text", "whole numbers", "numbers"

FACTS: dict[str, type] = {
    **dict.fromkeys(("theorem", "title", "source", "statement", "level", "verdict"), str),
    "messages": list,
    "config": dict,
    "environment": dict,
}
"""Fields of the manifest that become fields of the check, and their types."""

HOLDS = ("true", "false", "undecided")

ALWAYS: dict[str, dict[str, str]] = {
    "verdicts": {
        **dict.fromkeys(("run", "worst_step", "first_violation"), WHOLE),
        **dict.fromkeys(("statement", "verdict", "note"), TEXT),
        "worst_margin": REAL,
    },
    "hypotheses": {
        "run": WHOLE,
        **dict.fromkeys(("statement", "hypothesis", "relation", "holds"), TEXT),
        **dict.fromkeys(("lhs", "rhs", "margin"), REAL),
    },
    "runs": {"run": WHOLE, "seed": WHOLE},
    "trace": {},
}
"""Columns of every check's tables, by table."""

DESCENT: dict[str, dict[str, str]] = {
    "verdicts": {
        **dict.fromkeys(("rate", "step", "eta_rate", "half_life", "tightness"), REAL),
        **dict.fromkeys(("informative_step", "compared_until"), WHOLE),
        "bound_last": REAL,
    },
    "runs": dict.fromkeys(("loss_ratio_last", "step", "steps"), REAL),
    "trace": {"run": WHOLE, "step": WHOLE}
    | dict.fromkeys(("loss_ratio", "sigma_min_lo", "sigma_min_hi"), REAL),
}
"""Further columns where gradient descent was run."""

CLAIMS: dict[str, dict[str, str]] = {
    "verdicts": {"claims": WHOLE, "held": WHOLE, "weakest": TEXT},
    "trace": {"run": WHOLE, "statement": TEXT, "series": TEXT, "x": REAL, "y": REAL},
}
"""Further columns where statements are claims about cases."""


def require_sound(parts: Mapping[str, Any]) -> None:
    """Refuse a saved run that lacks something, or whose parts contradict each other.

    Args:
        parts: Fields of the check by name, as they were read, and the manifest's verdict.

    Raises:
        ValueError: What is wrong, in a few words.

    Example:
        >>> require_sound({"theorem": 3})
        Traceback (most recent call last):
        ValueError: theorem is no str
    """
    for name, needed in FACTS.items():
        _require(isinstance(parts.get(name), needed), f"{name} is no {needed.__name__}")
    _require(all(isinstance(m, str) for m in parts["messages"]), "messages are no text")
    plain = str | int | float | None
    _require(all(isinstance(v, plain) for v in parts["config"].values()), "config is nested")
    more = DESCENT if "loss_ratio_last" in parts["runs"].columns else CLAIMS
    for name, columns in ALWAYS.items():
        table = parts[name]
        wanted = columns | more.get(name, {})
        if name == "trace" and table.empty:
            wanted = {}
        for column, kind in wanted.items():
            _require_column(name, table, column, kind)
    _require_rows(parts)
    _require_starts(parts["starts"], len(parts["runs"]), attends(parts["config"]))


def _require(holds: bool, wrong: str) -> None:
    if not holds:
        raise ValueError(wrong)


def _require_column(name: str, table: pd.DataFrame, column: str, kind: str) -> None:
    """The column is there and of its kind; a column of numbers may also be all empty."""
    _require(column in table.columns, f"{name} has no column {column}")
    values = table[column]
    found = {
        TEXT: all(isinstance(v, str) for v in values),
        WHOLE: pd.api.types.is_signed_integer_dtype(values) and not bool(values.isna().any()),
        REAL: _numeric(values) or bool((values.astype(str) == "").all()),
    }
    _require(found[kind], f"{column} of {name} are no {kind}")


def _numeric(values: pd.Series) -> bool:
    boolean = pd.api.types.is_bool_dtype(values)
    return pd.api.types.is_numeric_dtype(values) and not boolean


def _require_rows(parts: Mapping[str, Any]) -> None:
    """Runs, statements and verdicts are known ones, each once, and the verdict is the worst."""
    verdicts, hypotheses, runs = (parts[n] for n in ("verdicts", "hypotheses", "runs"))
    _require(runs["run"].is_unique and len(runs) > 0, "runs names a run twice, or none")
    pairs = verdicts[["run", "statement"]]
    _require(not pairs.duplicated().any(), "verdicts judges a statement twice in one run")
    for name in ("verdicts", "hypotheses", "trace"):
        if "run" in parts[name].columns:
            known = parts[name]["run"].isin(runs["run"]).all()
            _require(bool(known), f"{name} names a run that is not in runs")
    _require(set(verdicts["run"]) == set(runs["run"]), "verdicts leaves a run out")
    for table, column, choices in (
        (verdicts, "verdict", ORDER),
        (hypotheses, "holds", HOLDS),
        (hypotheses, "statement", tuple(verdicts["statement"])),
    ):
        other = table[column][~table[column].isin(choices)]
        if len(other):
            raise ValueError(f"{quoted(other.iloc[0], 40)} is no {column}")
    judged = verdicts[verdicts["statement"] == parts["statement"]]
    _require(len(judged) > 0, f"nothing is said of statement {quoted(parts['statement'], 40)}")
    _require(worst(judged["verdict"]) == parts["verdict"], "its verdict is not that of its table")


def _require_starts(starts: Mapping[str, np.ndarray], runs: int, attention: bool) -> None:
    """Data of the right ranks, one per run, in numbers; another model's may be of any rank."""
    for name, array in starts.items():
        _require(array.dtype.kind in "fiu", f"{quoted(name, 40)} are no numbers")
        axes = {"X": (4,), "y": (4,), "w_O": (2,)}.get(name, (2, 3, 4))
        _require(array.ndim in axes or not attention, f"{quoted(name, 40)} has {array.ndim} axes")
        _require(array.shape[:1] == (runs,), f"{quoted(name, 40)} is not one per run")
    _require(("X" in starts) == ("y" in starts), "X and y are not both there")
