"""Paired comparisons of few seeds, and accuracies above chance."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from math import nan, sqrt

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from gdconv.support.statistics import student

MOST_FLIPS = 15
"""Differences of an exact sign-flip test."""


def interval(values: ArrayLike) -> tuple[float, float, float]:
    """Mean and its 95 % Student interval.

    Args:
        values: Independent numbers, one a seed.

    Returns:
        Mean, lower and upper end; the ends are NaN for one number, all three for none.

    Example:
        >>> [round(v, 3) for v in interval([1.0, 2.0, 3.0])]
        [2.0, -0.484, 4.484]
    """
    sample = np.asarray(values, dtype=float)
    if len(sample) < 2:
        return (float(sample[0]) if len(sample) else nan), nan, nan
    box = student(sample)
    return float(sample.mean()), box.low, box.high


def paired(gaps: np.ndarray) -> dict[str, float]:
    """Mean of paired differences, its interval and two tests.

    Args:
        gaps: Differences, one a seed.

    Returns:
        seeds, mean, lo, hi (95 %, Student's t), p_t and p_flip, of the exact sign-flip test: every
        difference could as well have the other sign; nan where there are fewer than two seeds, no
        spread (p_t) or more than MOST_FLIPS (p_flip).

    Example:
        >>> made = paired(np.array([1.0, 2.0, 3.0]))
        >>> round(made["lo"], 3), round(made["hi"], 3), made["p_flip"]
        (-0.484, 4.484, 0.25)
    """
    S = len(gaps)
    mean, lo, hi = interval(gaps)
    p_t = p_flip = nan
    if hi > lo:
        with warnings.catch_warnings():  # SciPy's, where the spread is at rounding level
            warnings.simplefilter("ignore", RuntimeWarning)
            p_t = float(stats.ttest_1samp(gaps, 0.0).pvalue)
    if 2 <= S <= MOST_FLIPS:
        p_flip = float(stats.permutation_test(
            (gaps, np.zeros(S)), lambda x, y, axis: (x - y).mean(axis), n_resamples=2**MOST_FLIPS,
            permutation_type="samples", vectorized=True,
        ).pvalue)  # fmt: skip
    return {"seeds": S, "mean": mean, "lo": lo, "hi": hi, "p_t": p_t, "p_flip": p_flip}


def above_chance(accuracy: float, labels: Sequence[int] | np.ndarray) -> float:
    """How many standard errors an accuracy is above that of the most frequent class.

    Args:
        accuracy: On the test set.
        labels: Its labels.

    Returns:
        (accuracy - c)/sqrt(c (1 - c)/M), c the share of the most frequent class.

    Example:
        >>> above_chance(0.55, [0, 1] * 200)
        2.0
    """
    counts = np.bincount(np.asarray(labels))
    chance = float(counts.max() / counts.sum())
    return round((accuracy - chance) / sqrt(chance * (1 - chance) / int(counts.sum())), 12)
