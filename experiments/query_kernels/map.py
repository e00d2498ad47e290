"""kappa_0 of both attention kernels at the same weights and data, over weight scale and shape.

kappa_0 = lambda_min(K_Q), K_Q = J_Q J_Q^T of `gdconv.models.multihead.tangent`. Where it is
below 1e-9 |K_Q| the rounding of K_Q would show, and sigma_m(J_Q)^2 is taken. Where even
sigma_m(J_Q) is at rounding level (see `FLOOR`) it is zero or cannot be told from zero: such a seed
enters every median as the whole range from 0 to its upper bound, never as a number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import binom
from torch import Tensor

from gdconv.data.problem import Problem
from gdconv.data.sources import gaussian
from gdconv.models.multihead.attention_kernels import kernel_named
from gdconv.models.multihead.formulas import Forward
from gdconv.models.multihead.initialization import initialize
from gdconv.models.multihead.model import MultiHeadRegression
from gdconv.models.multihead.parameters import Parameters
from gdconv.models.multihead.tangent import query_kernel
from gdconv.support.errors import InputError

KERNELS = ("softmax", "gaussian")
SCALES = (0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0)
"""Scales of W_Q and W_K, over sqrt D; W_V and W_O have scale 1."""

FLOOR = 1e-13
"""sigma_m(J_Q) is undecided below FLOOR max(|J_Q|, max |x| |k| |u| / sqrt d): some hundred times
the rounding errors of its entries. In terms of kappa_0 that is 1e-26 |K_Q|."""

COVERAGE = 0.95


@dataclass(frozen=True)
class Shape:
    """One shape of the map and which factor was varied to get it from its base.

    Example:
        >>> Shape(3, 2, 8, 3, 2, 2).m, Shape(3, 2, 8, 3, 2, 2).queries
        (12, 48)
    """

    N: int
    n: int
    D: int
    d: int
    H: int
    D_y: int
    base: str = "A"
    factor: str = "base"

    @property
    def m(self) -> int:
        """Outputs, N n D_y."""
        return self.N * self.n * self.D_y

    @property
    def queries(self) -> int:
        """Entries of W_Q, H D d; kappa_0 > 0 needs m of them."""
        return self.H * self.D * self.d

    def sizes(self) -> dict[str, int]:
        """The six sizes by name."""
        return {name: getattr(self, name) for name in ("N", "n", "D", "d", "H", "D_y")}


BASES = {"A": Shape(3, 2, 8, 3, 2, 2, "A"), "B": Shape(2, 2, 8, 4, 8, 1, "B")}
VARIED = {
    "A": {"n": (2, 3, 4, 6), "N": (1, 3, 6), "D": (4, 8, 16, 32), "d": (2, 3, 6, 12),
          "H": (1, 2, 4, 8)},
    "B": {"n": (2, 3, 4, 6), "N": (1, 2, 4, 8), "D": (4, 8, 16, 32), "d": (2, 4, 8, 16),
          "H": (1, 2, 4, 8, 16)},
}  # fmt: skip


def shapes(factors: Sequence[str] = ("n", "N", "D", "d", "H")) -> Iterator[Shape]:
    """Both base shapes, then one factor varied at a time; only shapes with m <= H D d.

    Args:
        factors: Which factors to vary.

    Yields:
        The shapes; a base shape comes once.

    Example:
        >>> [s.n for s in shapes(("n",)) if s.base == "A"]
        [2, 3, 4, 6]
    """
    for base, shape in BASES.items():
        yield shape
        for factor in factors:
            for value in VARIED[base][factor]:
                change: dict[str, Any] = {factor: value}
                varied = replace(shape, factor=factor, **change)
                if value != getattr(shape, factor) and varied.m <= varied.queries:
                    yield varied


def median_interval(
    low: np.ndarray, high: np.ndarray | None = None
) -> tuple[float, float, float, float]:
    """Median and its exact 95 % order-statistics interval, of numbers or of ranges [low, high].

    [X_(k), X_(S+1-k)] covers the median of a continuous distribution with probability
    1 - 2 P(Bin(S, 1/2) < k); k is the largest that keeps 95 % (k = 7 of 24, 97.7 %). Both are
    monotone in every entry, so ranges give ranges. The median of logarithms is taken, which treats
    a ratio and its inverse alike.

    Args:
        low: Lower ends, S non-negative numbers, 0 allowed.
        high: Upper ends, infinity allowed; the same as `low` if not given.

    Returns:
        Least and greatest possible median, lower and upper end of the interval.

    Raises:
        InputError: Fewer than 6 numbers, which have no such interval.

    Example:
        >>> median_interval(np.arange(1.0, 8.0))
        (4.0, 4.0, 1.0, 7.0)
    """
    low, high = np.sort(low), np.sort(low if high is None else high)
    S = len(low)
    k = int((2 * binom.cdf(np.arange(S), S, 0.5) <= 1 - COVERAGE).sum())
    if k < 1:
        raise InputError("seeds", S, "give at least 6: fewer have no 95 % interval of the median")
    middles = []
    for side in (low, high):
        below, above = side[(S - 1) // 2], side[S // 2]
        middles.append(float(below if below == above else np.sqrt(below) * np.sqrt(above)))
    return middles[0], middles[1], float(low[k - 1]), float(high[S - k])


def ratio(
    top: tuple[np.ndarray, np.ndarray], bottom: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Range of the ratio of two ranges of non-negative numbers; infinite where the bottom may be 0.

    Args:
        top: Lower and upper ends.
        bottom: Lower and upper ends, the upper positive.

    Returns:
        Lower and upper ends.

    Example:
        >>> one = np.ones(1)
        >>> [float(end[0]) for end in ratio((one, one), (0 * one, 0.01 * one))]
        [100.0, inf]
    """
    high = np.full_like(top[1], np.inf)
    np.divide(top[1], bottom[0], out=high, where=bottom[0] > 0)
    return top[0] / np.maximum(bottom[1], 1e-300), high


def measure(kernel: str, problem: Problem, params: Parameters) -> dict[str, np.ndarray]:
    """kappa_0, |K_Q|, tangent norms and attention entropy, one number per replica.

    Args:
        kernel: softmax or gaussian.
        problem: Data.
        params: Weights.

    Returns:
        low, high (kappa_0's range; equal where it is decided), norm = |K_Q|, tangent and flattest
        (median and least over rows (i, k, a) of (sum_h |M_ikha|^2)^1/2), entropy (mean over
        attention rows, scaled to sum 1, over log n).
    """
    model = MultiHeadRegression(kernel_named(kernel))
    at = model.forward(problem, params)
    w = torch.linalg.eigvalsh(query_kernel(model, problem, params))
    norm, kappa = w[:, -1].clamp_min(0.0), w[:, 0]
    J = model.jacobian(problem, params, ("W_Q",))
    sigma = torch.linalg.svdvals(J)[:, -1] if J.shape[1] <= J.shape[2] else torch.zeros_like(kappa)
    kappa = torch.where(kappa < 1e-9 * norm, sigma.square(), kappa)
    floor = FLOOR * torch.maximum(norm.sqrt(), _entry_size(problem, at))
    undecided = sigma < floor
    rows = (
        model.kernel.query_tangent(at.S, at.q, at.k, at.u).square().sum((1, -1)).sqrt().flatten(1)
    )
    P = at.S / at.S.sum(-1, keepdim=True).clamp_min(1e-300)
    entropy = torch.special.entr(P).sum(-1).mean((1, 2, 3)) / np.log(max(problem.n, 2))
    found = {
        "low": torch.where(undecided, 0.0, kappa),
        "high": torch.where(undecided, floor.square(), kappa),
        "norm": norm,
        "tangent": rows.median(1).values,
        "flattest": rows.min(1).values,
        "entropy": entropy,
    }
    return {name: value.numpy() for name, value in found.items()}


def _entry_size(problem: Problem, at: Forward) -> Tensor:
    """max |x| |k| |u| / sqrt d: the size of the numbers that cancel in an entry of J_Q."""
    greatest = [part.norm(dim=-1).flatten(1).max(1).values for part in (problem.X, at.k, at.u)]
    return greatest[0] * greatest[1] * greatest[2] / float(np.sqrt(at.q.shape[-1]))


def cell(shape: Shape, scale: float, seeds: int) -> list[dict[str, Any]]:
    """One cell of the map: both kernels on the same `seeds` problems and weights.

    Args:
        shape: Sizes.
        scale: Scale of W_Q and W_K.
        seeds: Number of seeds, 0, 1, ...

    Returns:
        Tidy rows: quantity by kernel, with median, interval and number of undecided seeds.
    """
    problem = Problem.stack([
        gaussian(shape.N, shape.n, shape.D, shape.D_y, s) for s in range(seeds)
    ])
    sizes, scales = (shape.H, shape.D, shape.d, shape.D_y), (scale, scale, 1.0, 1.0)
    params = Parameters.stack([initialize("normal", sizes, s, scales) for s in range(seeds)])
    found = {kernel: measure(kernel, problem, params) for kernel in KERNELS}
    ranges: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]] = {}
    for kernel, got in found.items():
        norm = np.maximum(got["norm"], 1e-300)
        ranges["kappa_0", kernel] = got["low"], got["high"]
        ranges["kappa_0/|K_Q|", kernel] = got["low"] / norm, got["high"] / norm
        if shape.factor == "base":  # the map of the other shapes stays small
            for name in ("tangent", "flattest"):
                ranges[f"{name}/scale", kernel] = got[name] / scale, got[name] / scale
            ranges["entropy", kernel] = got["entropy"], got["entropy"]
    for name in ("kappa_0", "kappa_0/|K_Q|"):
        ranges[name, "ratio"] = ratio(ranges[name, "gaussian"], ranges[name, "softmax"])
    rows = []
    for (quantity, kernel), (low, high) in ranges.items():
        least, greatest, lo, hi = median_interval(low, high)
        rows.append(
            {"base": shape.base, "factor": shape.factor, **shape.sizes(), "scale": scale}
            | {"quantity": quantity, "kernel": kernel, "median": least, "median_most": greatest}
            | {"lo": lo, "hi": hi, "undecided": int((low < high).sum()), "seeds": seeds}
        )
    return rows


def measure_map(
    seeds: int, scales: Sequence[float] = SCALES, factors: Sequence[str] = ("n", "N", "D", "d", "H")
) -> pd.DataFrame:
    """The whole map, one row per shape, scale, quantity and kernel ("ratio": Gaussian / softmax).

    Args:
        seeds: Seeds per cell.
        scales: Scales of W_Q and W_K.
        factors: Factors to vary around the base shapes.

    Returns:
        The table; median and median_most differ only where undecided seeds leave it open.
    """
    rows = [row for s in shapes(factors) for scale in scales for row in cell(s, scale, seeds)]
    return pd.DataFrame(rows)


def leader(lo: float, hi: float) -> str:
    """Which kernel has the larger kappa_0 by the interval of the median ratio.

    Args:
        lo: Lower end.
        hi: Upper end.

    Returns:
        "gaussian", "softmax" or "open" when the interval holds 1.

    Example:
        >>> leader(1.2, 3.0), leader(0.1, 0.9), leader(0.5, 2.0)
        ('gaussian', 'softmax', 'open')
    """
    return "gaussian" if lo > 1 else "softmax" if hi < 1 else "open"
