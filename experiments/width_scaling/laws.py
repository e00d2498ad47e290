"""The least width at which the a-priori conditions of the encoder's theorem hold, against N.

Nothing is trained: the conditions (2, 8, 16), the corollary of `relu-sharp`, are evaluated at
initialization, on orthonormal tokens and labels with |y| = sqrt(N), and the width is bisected. The
constants are either those in closed form (rho = sqrt(N) n^(3/2) tau_1 C_x and z) or measured on the
samples, which are smaller; the conditions either all three, or without the third, alpha^2 >= 16
lambda_O^2 Lambda^2, which the printed theorem has not.

Widths reach millions, so F_pre is never formed: neurons are drawn in blocks and only F_pre F_pre^T,
W_V^T W_V and F_pre w_O are summed. W_Q and W_K enter through W_Q^T W_K and their norms, whose joint
law is drawn directly (Bartlett's decomposition), in D^3 operations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass
from functools import cache
from math import log2, sqrt
from typing import Any, ClassVar

import numpy as np
import torch

from gdconv.data.problem import Problem
from gdconv.data.sources import orthonormal
from gdconv.models.encoder.constants import DataConstants
from gdconv.models.encoder.model import ShallowEncoder
from gdconv.models.encoder.parameters import default_tau_1, initialize_encoder, scaling
from gdconv.models.encoder.point import EncoderPoint
from gdconv.rigor.rounding import Enclosure
from theorems.ntk_regime.theorem import NTKRegime

SETTING = {"tokens": 2, "embedding": 64}
"""n and D, fixed while N grows; orthonormal tokens need N n <= D."""

BLOCK = 8192
"""Neurons drawn at once."""

FIRST = 2**9
"""Least width tried."""

SATURATED = 2**18
"""At tau_0 = d_m^(-1/2) the slack of the third condition does not grow much beyond this width."""

OCTAVE = 8
"""Bisection steps per doubling of the width: 2^(1/8)."""

ROUNDING = 1e-5
"""Relative error bar of what is summed over blocks: neurons are drawn in float32."""

SETS: dict[str, tuple[Callable[[EncoderPoint], DataConstants], tuple[int, int, int]]] = {
    "closed": (DataConstants.plain, (2, 8, 16)),
    "closed_two": (DataConstants.plain, (2, 8, 0)),
    "closed_radii": (DataConstants.plain, (2, 0, 0)),
    "samples": (DataConstants.sharp, (2, 8, 16)),
}
"""Constants and factors of the conditions, see `NTKRegime.a_priori`; `two`: without the third,
`radii`: only the first."""


@dataclass(frozen=True)
class StreamedStart(EncoderPoint):
    """An `EncoderPoint` whose numbers were summed over blocks of neurons; `params` is unused.

    Attributes:
        norms: |W|_2 by block.
        ends: sigma_min(F_pre) and |F_pre|_2.
        residual_norm: r_0.
    """

    norms: tuple[tuple[str, float], ...] = ()
    ends: tuple[float, float] = (0.0, 0.0)
    residual_norm: float = 0.0

    def norm(self, block: str) -> float:
        """|W|_2 of a block."""
        return dict(self.norms)[block]

    @property
    def feature_range(self) -> tuple[Enclosure, Enclosure]:
        """(alpha, |F_pre|_2) with the error bar `ROUNDING`."""
        low, high = (Enclosure(v * (1 - ROUNDING), v * (1 + ROUNDING)) for v in self.ends)
        return low, high

    @property
    def r_error(self) -> float:
        """Error bar of r_0."""
        return ROUNDING * self.residual_norm

    @property
    def r_0(self) -> float:
        """Residual norm from above."""
        return self.residual_norm * (1 + ROUNDING)


def law_problem(samples: int, seed: int) -> Problem:
    """Orthonormal tokens, labels of norm sqrt(N).

    Args:
        samples: N.
        seed: Seed.

    Returns:
        The problem, one label per sample.

    Example:
        >>> round(float(law_problem(4, 0).y.square().sum()), 12)
        4.0
    """
    drawn = orthonormal(samples, SETTING["tokens"], SETTING["embedding"], seed=seed)
    made = Problem.per_sample(drawn.X[0].numpy(), drawn.y[0, :, 0, 0].numpy(), "orthonormal")
    return made.with_label_norm(sqrt(samples))


def _bartlett(degrees: int, D: int, rng: np.random.Generator) -> np.ndarray:
    """Upper triangular R (D, D) with R^T R distributed as Z^T Z, Z (degrees, D) standard normal."""
    if degrees < D:
        return np.asarray(np.linalg.qr(rng.standard_normal((max(degrees, 1), D)), mode="r"))
    R = np.triu(rng.standard_normal((D, D)), 1)
    R[np.diag_indices(D)] = np.sqrt(rng.chisquare(degrees - np.arange(D)))
    return R


def streamed_start(
    problem: Problem, rule: str, tau_0_rule: str, d_m: int, seed: int
) -> StreamedStart:
    """What the hypotheses need at width d_m, in memory for `BLOCK` neurons.

    Args:
        problem: Data, one replica.
        rule: lecun or he.
        tau_0_rule: linear or sqrt.
        d_m: Width, more than 2 D.
        seed: Seed of the weights.

    Returns:
        The start.
    """
    X = problem.X[0].numpy()
    N, n, D = X.shape
    gain = {"lecun": 1.0, "he": 2.0}[rule]
    inner, outer = sqrt(gain / D), sqrt(gain / d_m)
    rng = np.random.default_rng([seed, d_m, 11])
    root = _bartlett(d_m, D, rng)
    inside, outside = rng.standard_normal((D, D)), _bartlett(d_m - D, D, rng)
    W_Q = inner * root
    W_K = inner * np.vstack([inside, outside])  # in a basis whose first D vectors span W_Q
    model = ShallowEncoder(scaling(tau_0_rule, d_m), default_tau_1(rule, d_m))
    scores = model.tau_0 * (X @ (W_Q.T @ W_K[:D]) @ X.swapaxes(1, 2))
    A = (torch.softmax(torch.from_numpy(scores), -1).numpy() @ X).reshape(N * n, D)
    rows = A.astype(np.float32)
    gram, square, f, w_norm = np.zeros((N, N)), np.zeros((D, D)), np.zeros(N), 0.0
    for first in range(0, d_m, BLOCK):
        size = min(BLOCK, d_m - first)
        W_V = np.float32(inner) * rng.standard_normal((size, D), dtype=np.float32)
        w_O = outer * rng.standard_normal(size)
        features = np.maximum(rows @ W_V.T, 0.0).reshape(N, n, size).sum(1)
        gram += features @ features.T
        square += W_V.T @ W_V
        f += features @ w_O
        w_norm += float(w_O @ w_O)
    spectrum = model.tau_1**2 * np.linalg.eigvalsh(gram)
    residual = model.tau_1 * f - problem.y[0, :, 0, 0].numpy()
    norms = {
        "W_Q": float(np.linalg.norm(W_Q, 2)),
        "W_K": float(np.linalg.norm(W_K, 2)),
        "W_V": sqrt(np.linalg.eigvalsh(square)[-1]),
        "w_O": sqrt(w_norm),
    }
    return StreamedStart(
        model, problem, initialize_encoder("lecun", (1, D), 0),
        norms=tuple(norms.items()),
        ends=(sqrt(max(spectrum[0], 0.0)), sqrt(spectrum[-1])),
        residual_norm=float(np.linalg.norm(residual)),
    )  # fmt: skip


def conditions(start: EncoderPoint, name: str) -> tuple[bool, str]:
    """Whether the conditions hold, and the tightest of them.

    Args:
        start: The run at step 0.
        name: One of `SETS`.

    Returns:
        Verdict and the name of the condition with the least margin.
    """
    constants, factors = SETS[name]
    _, hypotheses, _ = NTKRegime().a_priori(start, constants(start), factors)
    failed = [h for h in hypotheses if h.holds is not True]
    tightest = min(failed or hypotheses, key=lambda h: h.margin)
    return not failed, tightest.name


def least_width(holds: Callable[[int], bool], limit: int) -> float:
    """The least width on the grid 2^(k/8) at which the conditions hold, assuming they then stay.

    Args:
        holds: The conditions at a width.
        limit: Greatest width tried.

    Returns:
        The width; infinity when the conditions fail at every power of two up to `limit`.

    Example:
        >>> least_width(lambda d: d >= 700, 2**12), least_width(lambda d: False, 2**8)
        (724.0, inf)
    """
    width = FIRST
    while not holds(width):
        width *= 2
        if width > limit:
            return float("inf")
    if width == FIRST:
        return float(width)
    low, high = OCTAVE * (log2(width) - 1), OCTAVE * log2(width)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(round(2 ** (middle / OCTAVE))) else (middle, high)
    return float(round(2 ** (high / OCTAVE)))


@dataclass(frozen=True)
class Law:
    """One N and seed; two with equal fields give equal numbers.

    Attributes:
        rule: lecun or he.
        tau_0: Rule of tau_0, linear or sqrt.
        samples: N.
        seed: Seed.
        limit: Greatest width tried.
    """

    rule: str
    tau_0: str
    samples: int
    seed: int
    limit: int
    cost: ClassVar[float] = 1.0

    @property
    def key(self) -> str:
        """Text that tells it from all others."""
        return repr(astuple(self))


def run_law(law: Law) -> dict[str, Any]:
    """Least widths for one N and seed, one for each set of conditions.

    Args:
        law: N, seed and rules.

    Returns:
        One row: per set of conditions the least width (None: above the limit), the condition that
        fails just below it, and the slack of the third condition, which needs 1, at `SATURATED`
        (at 1/sqrt(d_m) it no longer grows there; below 1/2 no width is searched).
    """
    problem, limit = law_problem(law.samples, law.seed), law.limit

    @cache
    def start(d_m: int) -> StreamedStart:
        return streamed_start(problem, law.rule, law.tau_0, d_m, law.seed)

    row: dict[str, Any] = {"init": law.rule, "scaling": law.tau_0, "N": law.samples}
    row |= {"seed": law.seed, "limit": limit}
    for name, (constants, factors) in SETS.items():
        far = start(min(limit, SATURATED))
        row[f"{name}_slack"] = _third_slack(far, constants(far))
        if factors[2] and law.tau_0 == "sqrt" and row[f"{name}_slack"] < 1 / 2:
            row[name], row[f"{name}_tightest"] = None, "third"
            continue
        found = least_width(lambda d, k=name: conditions(start(d), k)[0], limit)  # type: ignore[misc]
        below = max(round(min(found, limit) * 2 ** (-1 / OCTAVE)), FIRST)
        row[name] = found if found < float("inf") else None
        row[f"{name}_tightest"] = _short(conditions(start(below), name)[1])
    return row


def _short(name: str) -> str:
    """Which condition, in one word."""
    if name.startswith("alpha^3"):
        return "cubic"
    return "third" if "lambda_O^2" in name else "radii"


def _third_slack(start: StreamedStart, data: DataConstants) -> float:
    """alpha^2 / (16 lambda_O^2 Lambda^2) at zero radii; the third condition needs 1."""
    norm = start.norm
    curve = data.A_V**2 + norm("W_V") ** 2 * (
        data.A_Q**2 * norm("W_K") ** 2 + data.A_K**2 * norm("W_Q") ** 2
    )
    return float(start.ends[0] ** 2 / (16 * norm("w_O") ** 2 * curve))
