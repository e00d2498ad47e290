"""Initial weights: LeCun, He, NTK, normal, paired heads, and the scale that meets a theorem.

Every rule draws W_Q, W_K, W_V (H, D, d) and W_O (H, d, D_y) from numpy's generator at the seed:

=========  =====================  ==========================================
rule       W_Q, W_K, W_V          W_O
=========  =====================  ==========================================
lecun      N(0, 1/D)              N(0, 1/(H d))
he         N(0, 2/D)              N(0, 2/(H d))
ntk        N(0, 1)                N(0, 1/(H d)), the 1/sqrt(width) of the parametrization
normal     s N(0, 1)/sqrt(D)      s N(0, 1)/sqrt(d), one scale s per block
paired     as normal, heads 2j and 2j+1 equal except for opposite W_V: F = 0
theorem    best of several draws, W_V = 0, W_O,h = w times orthonormal columns (`spread_scores`)
=========  =====================  ==========================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import sqrt

import numpy as np

from gdconv.models.multihead.parameters import Parameters
from gdconv.support.errors import InputError

SCORE_SCALES = (0.25, 0.5, 1.0, 2.0)
"""Scales of W_Q, W_K (over sqrt D) that compete in `spread_scores`."""

DRAWS = 8
"""Draws per scale."""


def initialize(
    rule: str,
    shape: tuple[int, int, int, int],
    seed: int,
    scales: tuple[float, ...] | None = None,
) -> Parameters:
    """Draw weights by rule.

    Args:
        rule: lecun, he, ntk, normal or paired.
        shape: (H, D, d, D_y).
        seed: Seed of the generator; data of the same seed use another stream.
        scales: Scales of W_Q, W_K, W_V, W_O for normal and paired (default 1, 1, 1, 1).

    Returns:
        Weights with R = 1.

    Raises:
        InputError: Unknown rule, or an odd number of heads for paired.

    Example:
        >>> initialize("lecun", (2, 8, 4, 1), seed=0).W_O.shape
        torch.Size([1, 2, 4, 1])
    """
    H, D, d, D_y = shape
    if rule == "paired" and H % 2:
        raise InputError("heads", H, "give an even number of heads for --init paired")
    q, k, v, o = scales or (1.0, 1.0, 1.0, 1.0)
    deviations = {
        "lecun": (1 / sqrt(D),) * 3 + (1 / sqrt(H * d),),
        "he": (sqrt(2 / D),) * 3 + (sqrt(2 / (H * d)),),
        "ntk": (1.0,) * 3 + (1 / sqrt(H * d),),
        "normal": (q / sqrt(D), k / sqrt(D), v / sqrt(D), o / sqrt(d)),
        "paired": (q / sqrt(D), k / sqrt(D), v / sqrt(D), o / sqrt(d)),
    }
    if rule not in deviations:
        raise InputError("init", rule, f"choose one of theorem, {', '.join(deviations)}")
    rng = np.random.default_rng([seed, 1])
    sizes = {"W_Q": (H, D, d), "W_K": (H, D, d), "W_V": (H, D, d), "W_O": (H, d, D_y)}
    drawn = {
        name: s * rng.standard_normal(size)
        for (name, size), s in zip(sizes.items(), deviations[rule], strict=True)
    }
    if rule == "paired":
        for name, W in drawn.items():
            W[1::2] = -W[0::2] if name == "W_V" else W[0::2]
    return Parameters.from_arrays(drawn)


def spread_scores(
    shape: tuple[int, int, int, int], seed: int, quality: Callable[[Parameters], float]
) -> Parameters:
    """Lazy weights, W_V = 0 and orthonormal W_O,h, whose scores tell tokens apart best.

    Tiny W_Q, W_K make all rows of a sample alike, large ones saturate softmax and kill the Gaussian
    kernel; sigma_min(B_0) is small both ways. So `DRAWS` draws at each of `SCORE_SCALES` (over
    sqrt D) compete.

    Args:
        shape: (H, D, d, D_y); needs d >= D_y.
        seed: Seed of the generator.
        quality: What is to be large, sigma_min(B_0) in practice.

    Returns:
        The best weights, |W_O,h| = sigma_min(W_O,h) = 1 for every head.

    Raises:
        InputError: d < D_y, when no head can reach every output.

    Example:
        >>> spread_scores((2, 8, 4, 1), 0, lambda p: 1.0).W_O.norm(dim=2).flatten().round().tolist()
        [1.0, 1.0]
    """
    H, D, d, D_y = shape
    if d < D_y:
        raise InputError("head_dim", d, f"give at least D_y = {D_y}, else sigma_min(W_O,h) = 0")
    rng = np.random.default_rng([seed, 3])
    frame = np.linalg.qr(rng.standard_normal((H, d, D_y)))[0]
    best, best_quality = None, -1.0
    for scale in SCORE_SCALES:
        for _ in range(DRAWS):
            W_Q, W_K = scale / sqrt(D) * rng.standard_normal((2, H, D, d))
            arrays = {"W_Q": W_Q, "W_K": W_K, "W_V": np.zeros((H, D, d)), "W_O": frame}
            candidate = Parameters.from_arrays(arrays)
            if (found := quality(candidate)) > best_quality:
                best, best_quality = candidate, found
    assert best is not None
    return best


def solve_scale(base: Parameters, holds: Callable[[Parameters], bool], margin: float) -> Parameters:
    """W_O at `margin` times the least multiple of the base's at which the hypotheses hold.

    Args:
        base: Weights with F = 0, so that r_0 = |y| whatever the size of W_O.
        holds: Whether every hypothesis holds; must get easier as W_O grows.
        margin: Factor above the least multiple.

    Returns:
        The weights.

    Raises:
        InputError: No multiple up to 1e12 meets the hypotheses.

    Example:
        >>> base = spread_scores((1, 2, 1, 1), 0, lambda p: 1.0)
        >>> found = solve_scale(base, lambda p: bool(p.W_O.norm() >= 5), margin=1.0)
        >>> round(float(found.W_O.norm()), 2)
        5.0
    """

    def scaled(exponent: float) -> Parameters:
        return replace(base, W_O=base.W_O * 10.0**exponent)

    met = next((float(e) for e in np.arange(-6.0, 12.5, 0.5) if holds(scaled(float(e)))), None)
    if met is None:
        raise InputError(
            "init",
            "theorem",
            "no size of W_O meets the hypotheses here; use H D >= N n, distinct tokens, "
            "or another statement",
        )
    lo, hi = met - 0.5, met
    while hi - lo > 1e-3:
        mid = (lo + hi) / 2
        lo, hi = (lo, mid) if holds(scaled(mid)) else (mid, hi)
    return scaled(hi + float(np.log10(margin)))
