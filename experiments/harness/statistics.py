"""Paired comparisons of few seeds, and accuracies above chance."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import sqrt

import numpy as np
from scipy import stats


def paired(gaps: np.ndarray) -> dict[str, float]:
    """Mean of paired differences, its interval and two tests.

    Args:
        gaps: Differences, one a seed.

    Returns:
        seeds, mean, lo, hi (95 %, Student's t), p_t and p_flip; nan where there are fewer than two
        seeds.

    Example:
        >>> made = paired(np.array([1.0, 2.0, 3.0]))
        >>> round(made["lo"], 3), round(made["hi"], 3), made["p_flip"]
        (-0.484, 4.484, 0.25)
    """
    S = len(gaps)
    made = {"seeds": S, "mean": float(gaps.mean()) if S else float("nan")}
    if S < 2:
        return made | dict.fromkeys(("lo", "hi", "p_t", "p_flip"), float("nan"))
    error = float(gaps.std(ddof=1)) / sqrt(S)
    reach = float(stats.t.ppf(0.975, S - 1)) * error
    p = float(2 * stats.t.sf(abs(made["mean"]) / error, S - 1)) if error > 0 else float("nan")
    return made | {
        "lo": made["mean"] - reach, "hi": made["mean"] + reach, "p_t": p,
        "p_flip": sign_flip(gaps),
    }  # fmt: skip


def sign_flip(gaps: np.ndarray) -> float:
    """p of the exact sign-flip test: every difference could as well have the other sign.

    Args:
        gaps: Differences, at most 15.

    Returns:
        Share of the sign patterns with a mean at least as far from 0; at least 2^(1 - S).

    Example:
        >>> sign_flip(np.array([1.0, 1.0, 1.0, 1.0]))
        0.125
    """
    signs = np.array(list(product((1, -1), repeat=len(gaps))))
    sums = np.abs(signs @ gaps)
    return float((sums >= abs(gaps.sum()) * (1 - 1e-12)).mean())


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
