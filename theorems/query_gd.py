"""Gradient descent on W_Q alone, one-layer multi-head attention.

Problem      min over W_Q of f = 1/2 |F - y|_F^2,  F = sum_h S_h X W_V,h W_O,h
Algorithm    W_Q <- W_Q - eta grad_{W_Q} f(W_Q), full batch; W_K, W_V, W_O fixed
Guarantee    upper, Gaussian kernel: f_t <= (1 - eta gamma)^t f_0, gamma a constant of the start [1,
             Theorem 2]; softmax: f_t <= f_0 - eta sum_{s<t} |grad f_s|^2 [1, Theorem 2]
Tracked      sigma_m(J_Q), |grad f|^2 and its sum, attention entropy, sigma_min(B_t), loss ratio
Relative to the paper: our D is its embedding dimension; gamma is made explicit as kappa_0 =
sigma_m(J_Q(0))^2 (Theorem B), for both kernels; the constants M_2, G^2 are global in W_Q. Proofs:
docs/theory/query-gd.md.
References   [1] Song, Han, Zhang, Ding, Hong (2024), NeurIPS 37, arXiv:2411.07538
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gdconv.descent.loop import Outcome
from gdconv.models.multihead.constants import QueryConstants
from gdconv.models.multihead.initialization import SCORE_SCALES, initialize
from gdconv.models.multihead.parameters import Parameters
from gdconv.models.multihead.point import MultiHeadPoint
from gdconv.rigor.arithmetic import minus, over, times
from gdconv.rigor.rounding import Enclosure
from gdconv.theory.certificates import run_certificate
from gdconv.theory.theorem import At, Inequality, Prediction, Theorem, head_shape, statement

PROOFS = "docs/theory/query-gd.md"

LAZY: dict[str, dict[str, Any]] = {
    "*": {
        "init": "theorem",
        "step": "theory",
        "until_bound": 0.4,
        "steps": 200_000,
        "head_dim": 4,
        "heads": 8,
    },
    "gaussian": {"samples": 2, "tokens": 2, "embedding": 8},
    "digits": {"samples": 2, "tokens": 2},
}
"""Paired heads and scaled values, under which Theorem B's hypotheses hold."""

LOUD: dict[str, dict[str, Any]] = {
    "*": {
        "init": "paired",
        "scales": "1,1,1,300",
        "step": "theory",
        "steps": 2_000,
        "head_dim": 4,
        "heads": 8,
    },
    "gaussian": {"samples": 2, "tokens": 2, "embedding": 8},
    "digits": {"samples": 2, "tokens": 2},
}
"""Paired heads with large values: L is nearly G^2 and the loss falls within a few hundred steps."""

ORDINARY: dict[str, dict[str, Any]] = {
    "*": {
        "data": "digits",
        "init": "normal",
        "scales": "1,1,1,2",
        "step": "local",
        "steps": 20_000,
        "until_loss": 1e-12,
        "head_dim": 8,
        "heads": 8,
    },
    "gaussian": {"samples": 2, "tokens": 2, "embedding": 32},
    "digits": {"samples": 2, "tokens": 2},
}
"""Settings of an ordinary run, weights of order one."""

DRAWS = 4
"""Draws per score scale that compete in `QueryGD.base`."""


def smoothness(start: MultiHeadPoint) -> float:
    """L = G^2 + M_2 r_0, the Lipschitz constant of grad_{W_Q} f where f <= f_0."""
    c = QueryConstants(start)
    return c.G_squared() + c.M_2() * start.r_0


def local_smoothness(start: MultiHeadPoint) -> float:
    """L = min{G^2, (|J_Q(0)| + sqrt(kappa_0)/4)^2} + M_2 r_0, on the ball of Theorem B."""
    c = QueryConstants(start)
    least, greatest = start.J_range
    reach = greatest.hi + least.hi / 4
    return float(np.minimum(c.G_squared(), reach * reach) + c.M_2() * start.r_0)  # nan stays


def decrease(eta: float, L: float) -> Enclosure:
    """eta (1 - eta L / 2), which cancels near eta = 2 / L."""
    return times(Enclosure(eta, eta), minus(1, over(times(Enclosure(eta, eta), L), 2)))


def silent() -> Prediction:
    """What is said where the output does not depend on W_Q at all."""
    moves = Inequality("the output depends on W_Q: L is positive", 0.0, ">", 0.0)
    return Prediction((moves,), 0.0, note="the output does not depend on W_Q")


class QueryGD(Theorem):
    """Theorem 2 of Song et al. 2024, in its readings."""

    id = "query-gd"
    title = "Gradient descent on W_Q alone"
    source = "Song et al. 2024, Theorem 2 (arXiv:2411.07538)"
    trains = ("W_Q",)

    def theorem_b(self, start: MultiHeadPoint) -> Prediction:
        """Theorem B: kappa_0 = sigma_m(J_Q(0))^2 >= 6 M_2 r_0 and eta <= 2 / (9 L), L local."""
        if (L := local_smoothness(start)) == 0:
            return silent()
        sigma = start.J_range[0]
        kappa = times(sigma, sigma)
        needed = 6 * QueryConstants(start).M_2() * start.r_0
        hypotheses = (
            Inequality("kappa_0 = sigma_m(J_Q)^2 is positive", kappa, ">", 0.0),
            Inequality("kappa_0 >= 6 M_2 r_0", kappa, ">=", start.uncertain(needed)),
        )
        return Prediction(hypotheses, kappa, 2 / (9 * L))

    @statement("gaussian-rate", default=True, kernel="gaussian", proof=f"{PROOFS}#b", defaults=LAZY)
    def gaussian_rate(self, start: MultiHeadPoint) -> Prediction:
        """Theorem B for the Gaussian kernel: the printed linear rate, gamma = kappa_0."""
        return self.theorem_b(start)

    @statement("softmax-rate", default=True, kernel="softmax", proof=f"{PROOFS}#b", defaults=LAZY)
    def softmax_rate(self, start: MultiHeadPoint) -> Prediction:
        """Theorem B for softmax: it has a linear rate too wherever kappa_0 > 0."""
        return self.theorem_b(start)

    @statement("stationarity", proof=f"{PROOFS}#stationarity", defaults=LOUD)
    def stationarity(self, start: MultiHeadPoint) -> Prediction:
        """f_t <= f_0 - eta (1 - eta L/2) sum |grad f_s|^2 for every eta below 2/L."""
        if (L := smoothness(start)) == 0:
            return silent()
        return Prediction((), 0.0, 2 / L, best_step=1 / L, decrease=lambda eta: decrease(eta, L))

    @statement("printed-stationarity", proof=f"{PROOFS}#printed-stationarity", defaults=LOUD)
    def printed_stationarity(self, start: MultiHeadPoint) -> Prediction:
        """The printed coefficient eta: not valid where the curvature along a step is positive."""
        if (L := smoothness(start)) == 0:
            return silent()
        return Prediction((), 0.0, 2 / L, best_step=1 / L, decrease=lambda eta: Enclosure(eta, eta))

    @statement("run", posterior=True, proof=f"{PROOFS}#run", defaults=ORDINARY)
    def run(self, start: MultiHeadPoint, outcome: Outcome) -> Prediction:
        """AP on [0, T] and TAIL at T with J_Q: certified from the run itself."""
        return run_certificate(outcome, "run", lambda rho: self.constants(outcome.end, rho))

    def pl_constants(self, start: MultiHeadPoint) -> tuple[float, float]:
        """sigma_m(J_Q) alone is followed, with its global Lipschitz constant M_2."""
        return 0.0, QueryConstants(start).M_2()

    def constants(self, start: MultiHeadPoint, rho: float) -> tuple[float, float]:
        """(M_2, G^2), global in W_Q: the radius does not matter."""
        c = QueryConstants(start)
        return c.M_2(), c.G_squared()

    def base(self, found: dict[str, int], seed: int, at: At) -> Parameters:
        """Paired heads (F = 0), the best of several draws and scales by kappa_0 / G^2."""
        best, best_share = None, -1.0
        for scale in SCORE_SCALES:
            for draw in range(DRAWS):
                drawn = initialize(
                    "paired", head_shape(found), seed + 7919 * draw, (scale, scale, 1.0, 1.0)
                )
                start = at(drawn)
                G_squared = QueryConstants(start).G_squared()
                share = start.J_range[0].lo ** 2 / G_squared if G_squared > 0 else 0.0
                if share > best_share and np.isfinite(share):
                    best, best_share = drawn, share
        assert best is not None
        return best


if __name__ == "__main__":
    from gdconv.cli.main import run_theorem

    raise SystemExit(run_theorem(QueryGD.id))
