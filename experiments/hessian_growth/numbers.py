"""Slopes with their ranges and intervals, the laws, and the published numbers beside them.

A slope is that of a least-squares line through log norm against log scale, one a seed; reported are
the mean over seeds with Student's 95 % interval and, as in the public code of Ormaniec, Dangel and
Singh, the slope of the mean norm over seeds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from experiments.harness.statistics import interval

SLACK = 0.1
"""An interval within this of the law agrees with it."""

EIGHT = 8
"""Scales of a low or high fit of the transformer."""

SMALL = (1e-3, 1e-2)
"""Range of the small-scale laws: a factor 30 below the crossover of H_o and H_f."""

LAWS: dict[tuple[str, str], dict[str, tuple[float, ...]]] = {
    ("scale", "softmax"): {
        "total": (2, 5, 5, 3, 3, 3), "outer": (2, 6, 6, 4, 4, 6), "functional": (0, 5, 5, 3, 3, 3)
    },
    ("scale", "linear"): {
        "total": (6, 6, 6, 3, 3, 3), "outer": (6,) * 6, "functional": (0, 0, 0, 3, 3, 3)
    },
    ("scale", "layer norm"): {"total": (0,) * 6, "outer": (0,) * 6, "functional": (0,) * 6},
    ("temperature", "softmax"): {
        "total": (0, -2, -2, -1, -1, -1), "outer": (0, -2, -2, -1, -1, -2),
        "functional": (0, -2, -2, -1, -1, -1),
    },
}  # fmt: skip
"""Exponents of VV, QQ, KK, VQ, VK, QK; a block that is 0 exactly has no slope."""

RANGES = {
    ("scale", "softmax"): SMALL,
    ("scale", "linear"): SMALL,
    ("scale", "layer norm"): (1.0, 10.0),
    ("temperature", "softmax"): (1e2, 1e4),
}
"""Where each law is fitted."""

PUBLISHED = {
    ("without layer norm", "QQ", "total"): ((4.98, 4.98, 0.05), (4.29, 4.25, 0.07)),
    ("without layer norm", "QQ", "outer"): ((5.98, 5.98, 0.04), (4.39, 4.18, 0.13)),
    ("without layer norm", "QQ", "functional"): ((4.98, 4.98, 0.05), (4.16, 4.15, 0.05)),
    ("without layer norm", "VV", "total"): ((1.98, 1.98, 0.02), (1.91, 1.89, 0.05)),
    ("with layer norm", "QQ", "total"): ((-0.06, -0.06, 0.03), (-0.99, -1.00, 0.04)),
    ("with layer norm", "QQ", "outer"): ((-0.12, -0.12, 0.04), (-1.97, -1.97, 0.04)),
    ("with layer norm", "QQ", "functional"): ((-0.08, -0.08, 0.04), (-1.00, -1.00, 0.04)),
    ("with layer norm", "VV", "total"): ((-0.22, -0.22, 0.04), (-1.94, -1.94, 0.02)),
    ("with layer norm", "VV", "outer"): ((-0.21, -0.20, 0.04), (-1.95, -1.95, 0.02)),
    ("with layer norm", "VV", "functional"): ((-0.19, -0.19, 0.05), (-2.03, -2.02, 0.04)),
}
"""Lowest and highest eight of 20 scales in [0.01, 10], from the public arrays (20 seeds, 20 random
probes a norm, float32): slope of the mean norm, mean slope of a seed, half its 95 % interval."""


@dataclass(frozen=True)
class Slope:
    """A slope over a range.

    Attributes:
        mean: Mean over seeds.
        lo: Lower end of Student's 95 % interval.
        hi: Upper end.
        of_mean: Slope of the mean norm.
        seeds: Seeds.
        points: Scales in the range.
    """

    mean: float
    lo: float
    hi: float
    of_mean: float
    seeds: int
    points: int


def slope(scales: np.ndarray, values: np.ndarray) -> Slope | None:
    """Slope of log value against log scale.

    Args:
        scales: Scales (n).
        values: Norms (seeds, n).

    Returns:
        The slope; None where a norm is 0, or with fewer than two seeds or points.

    Example:
        >>> x = np.array([1.0, 10.0, 100.0])
        >>> found = slope(x, np.stack([x**2, 5 * x**3]))
        >>> round(found.mean, 9), found.lo < 2 < 3 < found.hi
        (2.5, True)
        >>> slope(x, np.zeros((2, 3))) is None
        True
    """
    seeds, points = values.shape
    if min(seeds, points) < 2 or not (values > 0).all() or not np.isfinite(values).all():
        return None
    at = np.log(scales)
    each = np.polyfit(at, np.log(values).T, 1)[0]
    whole = np.log(values / values.max()).max(axis=0)  # log of the mean, overflow or not
    whole = whole + np.log(np.exp(np.log(values / values.max()) - whole).mean(axis=0))
    of_mean = float(np.polyfit(at, whole, 1)[0])
    return Slope(*interval(each), of_mean, seeds, points)


def curves(rows: pd.DataFrame) -> Iterator[tuple[tuple[str, str, str, str], pd.DataFrame]]:
    """Norms of each study, variant, block and part: seeds as rows, scales as columns."""
    norms = rows[(rows["study"] != "entries") & (rows["block"] != "loss")]
    keys = ["study", "variant", "block", "part"]
    for key, here in norms.groupby(keys, sort=False):
        study, variant, block, part = map(str, key)
        table = here.pivot_table(index="seed", columns="scale", values="value").dropna()
        yield (study, variant, block, part), table


def law(study: str, variant: str, block: str, part: str) -> float | None:
    """The exponent that theory gives, None where it gives none.

    Args:
        study: scale, temperature or depth.
        variant: Its variant.
        block: Block; "Q1" is layer 1 in the depth study.
        part: total, outer or functional.

    Returns:
        The exponent.

    Example:
        >>> law("scale", "softmax", "QQ", "total"), law("depth", "m = 2", "Q1", "total")
        (5.0, 9.0)
        >>> law("depth", "m = 2", "Q2", "total")
        18.0
    """
    if study == "depth":
        m = int(variant[-1])
        last = int(block[1]) == m
        if part == "functional":
            return None if last else 3.0**m
        return 2 * 3.0**m if last or part == "outer" else 3.0**m
    if (study, variant) not in LAWS:
        return None
    order = ("VV", "QQ", "KK", "VQ", "VK", "QK")
    return float(LAWS[study, variant][part][order.index(block)])


def slopes(rows: pd.DataFrame) -> pd.DataFrame:
    """All slopes that the report gives.

    Args:
        rows: Rows of the units.

    Returns:
        One row per fit: study, variant, block, part, fit (law, saturated, wide, lowest eight,
        highest eight), from, to, points, seeds, slope, lo, hi, of_mean, law, holds_to (the scale up
        to which the local slope stays within SLACK of the law), agrees, published, published_half.
    """
    made: list[dict[str, Any]] = []
    for (study, variant, block, part), table in curves(rows):
        scales = table.columns.to_numpy(dtype=float)
        for fit, inside in _fits(study, variant, scales):
            if not inside.any():
                continue
            found = slope(scales[inside], table.to_numpy()[:, inside])
            row: dict[str, Any] = {
                "study": study, "variant": variant, "block": block, "part": part, "fit": fit,
                "from": scales[inside].min(), "to": scales[inside].max(),
                "points": int(inside.sum()), "seeds": len(table),
            }  # fmt: skip
            expected = law(study, variant, block, part) if fit == "law" else None
            zero = not table.to_numpy().any()
            if found is not None:
                row |= {"slope": found.mean, "lo": found.lo, "hi": found.hi}
                row["of_mean"] = found.of_mean
            row["zero"] = zero
            if expected is not None and found is not None:
                row["law"] = expected
                row["agrees"] = expected - SLACK <= found.lo and found.hi <= expected + SLACK
                row["holds_to"] = holds_to(scales, table.to_numpy(), inside, expected)
            if fit.endswith("eight") and (variant, block, part) in PUBLISHED:
                theirs = PUBLISHED[variant, block, part][fit.startswith("highest")]
                row |= {"published": theirs[1], "published_half": theirs[2]}
                row["published_of_mean"] = theirs[0]
                if found is not None:
                    apart = abs(found.mean - theirs[1]) - theirs[2]
                    row["agrees"] = apart <= found.hi - found.mean
            made.append(row)
    return pd.DataFrame(made)


def _fits(study: str, variant: str, scales: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Name and scales of every fit of a study."""

    def between(low: float, high: float) -> np.ndarray:
        inside: np.ndarray = (scales >= low * (1 - 1e-9)) & (scales <= high * (1 + 1e-9))
        return inside

    if study == "transformer":
        rank = np.argsort(np.argsort(scales))
        return [("lowest eight", rank < EIGHT), ("highest eight", rank >= len(scales) - EIGHT)]
    if study == "depth":
        return [("law", between(1e-2, 1e-1)), ("large", between(1.0, 10.0))]
    fits = [("law", between(*RANGES[study, variant]))]
    if study == "scale":
        fits += [("large", between(3.0, 31.7)), ("wide", between(1e-2, 10.0))]
    return fits


def holds_to(scales: np.ndarray, values: np.ndarray, inside: np.ndarray, expected: float) -> float:
    """The largest scale up to which the local slope of the median stays within SLACK of a law.

    Args:
        scales: Scales, ascending.
        values: Norms (seeds, n).
        inside: Scales of the fit; the search goes up from its middle.
        expected: The law.

    Returns:
        The scale; not a number if the law does not even hold in the middle of its fit.

    Example:
        >>> x = np.array([1.0, 2.0, 4.0, 8.0])
        >>> holds_to(x, np.array([[1.0, 4.0, 16.0, 17.0]]), x < 3, 2.0)
        4.0
    """
    local = np.diff(np.log(np.median(values, axis=0))) / np.diff(np.log(scales))
    where = np.flatnonzero(inside)
    last = float("nan")
    for k in range(where[len(where) // 2] - 1, len(local)):
        if abs(local[k] - expected) > SLACK:
            break
        last = float(scales[k + 1])
    return last
