"""Log-log exponents of the width experiment with confidence intervals over seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from experiments.harness.statistics import interval

GROUP = ["model", "data", "init", "scaling"]

VANISHED = 1e-8
"""Loss ratio below which the linearisation error at equal steps is left out."""

MEASURED = {
    "end_kernel_change": "kernel change, equal steps",
    "target_kernel_change": "kernel change, equal loss",
    "end_linear_error": "linearisation error, equal steps",
    "target_linear_error": "linearisation error, equal loss",
    "end_moved_total": "movement, all blocks",
    "end_moved_W_Q": "movement, W_Q",
    "end_moved_W_K": "movement, W_K",
    "end_moved_W_V": "movement, W_V",
    "end_moved_w_O": "movement, w_O",
    "end_loss_ratio": "loss ratio, equal steps",
    "limit_distance": "|K_0 - K*| / |K*|",
    "alpha_per_width": "alpha^2 / width",
    "lambda_min": "lambda_min(K_0)",
    "lambda_max": "lambda_max(K_0)",
}
"""Columns that are fitted, and what they are called."""


def slopes(rows: pd.DataFrame, size: str, value: str) -> pd.Series:
    """Least-squares slope of log value against log size, seed by seed.

    Args:
        rows: One row per size and seed.
        size: Column of the sizes.
        value: Column of the values.

    Returns:
        Slopes by seed, of the seeds with a positive finite value at every size in `rows`.

    Example:
        >>> rows = pd.DataFrame({"w": [1, 2, 4], "seed": 0, "v": [8.0, 4.0, 2.0]})
        >>> slopes(rows, "w", "v").round(12).tolist()
        [-1.0]
    """
    grid = rows.pivot_table(index="seed", columns=size, values=value, aggfunc="first")
    grid = grid.reindex(columns=sorted(rows[size].unique()))
    usable = np.isfinite(grid.to_numpy()) & (grid.to_numpy() > 0)
    grid = grid.loc[usable.all(axis=1)]
    x = np.log(grid.columns.to_numpy(dtype=float))
    if len(x) < 2 or grid.empty:
        return pd.Series(dtype=float)
    centred = x - x.mean()
    return (np.log(grid) * (centred / (centred @ centred))).sum(axis=1)


def ranges(rows: pd.DataFrame) -> list[tuple[int, int]]:
    """The widths with as many runs as the least one, and their upper part from 8 times the least.

    Args:
        rows: Runs of one group that have the value to be fitted.

    Returns:
        One or two ranges (least, greatest width).

    Example:
        >>> widths = [8, 16, 32, 64, 128, 256, 512]
        >>> ranges(pd.DataFrame({"width": widths * 2 + [1024], "seed": [0] * 7 + [1] * 7 + [0]}))
        [(8, 512), (64, 512)]
    """
    count = rows.groupby("width").size()
    widths = [int(w) for w in count[count == count.iloc[0]].index]
    upper = [w for w in widths if w >= 8 * widths[0]]
    return [(widths[0], widths[-1])] + ([(upper[0], widths[-1])] if len(upper) > 2 else [])


def prepared(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs with alpha^2 / width, and NaN where a value says nothing.

    That is alpha where features have too few columns, and the linearisation error at equal steps
    where less than `VANISHED` of the loss is left: both residuals are then almost zero.

    Args:
        runs: One row per run.

    Returns:
        A copy.
    """
    alpha = runs["alpha_squared"].where(runs["alpha_squared"] > 0) / runs["width"]
    error = runs["end_linear_error"].where(runs["end_loss_ratio"] > VANISHED)
    return runs.assign(alpha_per_width=alpha, end_linear_error=error)


def _fits(
    group: pd.DataFrame, columns: Sequence[str]
) -> Iterator[tuple[dict[str, Any], str, pd.DataFrame]]:
    """Names, column and rows of every fit of a group."""
    for column in columns:
        if column in group and not group[column].isna().all():
            seen = group.dropna(subset=[column])
            for low, high in ranges(seen):
                names = {"quantity": MEASURED[column], "column": column, "from": low, "to": high}
                yield names, column, seen[seen["width"].between(low, high)]


def exponents(runs: pd.DataFrame) -> pd.DataFrame:
    """All fits.

    Args:
        runs: One row per run.

    Returns:
        One row per group, quantity and range; first and last are medians at the range's ends.
    """
    made: list[dict[str, Any]] = []
    for key, group in prepared(runs).groupby(GROUP, sort=False):
        for names, column, rows in _fits(group, tuple(MEASURED)):
            found = slopes(rows, "width", column)
            if found.empty:
                continue
            mean, lo, hi = interval(found)
            median = rows.groupby("width")[column].median()
            made.append(
                dict(zip(GROUP, key, strict=True)) | names
                | {"exponent": mean, "lo": lo, "hi": hi, "seeds": len(found)}
                | {"first": median.iloc[0], "last": median.iloc[-1]}
            )  # fmt: skip
    return pd.DataFrame(made)


def separations(runs: pd.DataFrame, columns: Sequence[str] = tuple(MEASURED)) -> pd.DataFrame:
    """How much larger the exponent is at tau_0 = d_m^(-1/2) than at 1/d_m, paired by seed.

    Both scalings of a seed share data and draws, so the difference is sharper than two intervals.

    Args:
        runs: One row per run.
        columns: Columns to compare.

    Returns:
        One row per data, initialization, quantity and range.
    """
    made: list[dict[str, Any]] = []
    encoder = prepared(runs[runs["model"] == "encoder"])
    for (data, init), group in encoder.groupby(["data", "init"], sort=False):
        for names, column, rows in _fits(group, columns):
            one, two = (
                slopes(rows[rows["scaling"] == s], "width", column) for s in ("linear", "sqrt")
            )
            gap = (two - one).dropna()
            mean, lo, hi = interval(gap)
            made.append(
                {"data": data, "init": init, **names}
                | {"difference": mean, "lo": lo, "hi": hi, "seeds": len(gap)}
            )
    return pd.DataFrame(made)


def law_exponents(laws: pd.DataFrame, sets: Sequence[str]) -> pd.DataFrame:
    """Least width against N: exponent over all N, and over the upper half, where every seed has it.

    Args:
        laws: Rows of `run_law`.
        sets: Names of the sets of conditions.

    Returns:
        One row per initialization, scaling, set and range; no exponent where fewer than two N have
        a width within the limit.
    """
    made: list[dict[str, Any]] = []
    laws = laws.astype(dict.fromkeys(sets, float))  # a column of None alone has no type
    for (init, scaling), group in laws.groupby(["init", "scaling"], sort=False):
        for name in sets:
            whole = group[group.groupby("N")[name].transform(lambda v: v.notna().all())]
            counts = sorted(int(c) for c in whole["N"].unique())
            for part in (counts, counts[len(counts) // 2 - 1 :] if len(counts) > 4 else []):
                if part != counts and not part:
                    continue
                rows = whole[whole["N"].isin(part)]
                found = slopes(rows, "N", name) if len(part) > 1 else pd.Series(dtype=float)
                mean, lo, hi = interval(found)
                tightest = group.groupby("N")[f"{name}_tightest"].first()
                made.append({
                    "init": init, "scaling": scaling, "set": name,
                    "from": part[0] if part else None, "to": part[-1] if part else None,
                    "exponent": mean, "lo": lo, "hi": hi, "seeds": len(found),
                    "first": rows[rows["N"] == part[0]][name].median() if part else np.nan,
                    "last": rows[rows["N"] == part[-1]][name].median() if part else np.nan,
                    "tightest": ", ".join(dict.fromkeys(tightest.astype(str))),
                    "slack": float(group[f"{name}_slack"].median()),
                })  # fmt: skip
    return pd.DataFrame(made)
