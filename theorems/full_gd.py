"""Full-parameter gradient descent on one-layer multi-head attention.

Problem      min over W_Q, W_K, W_V of f = 1/2 |F - y|_F^2,  F = sum_h S_h X W_V,h W_O,h
Algorithm    W <- W - eta grad f(W), all three blocks together, full batch, W_O fixed
Guarantee    upper: f_t <= (1 - eta beta)^t f_0; printed beta = sigma_min(W_O)^2 sigma_min(B_0^T)^2
             when H D >= N n, for some initialization and step [1, Theorem 1]
Tracked      sigma_min(B_t), loss ratio, gradient norm, PL ratio, distance moved
Relative to the paper: our D is its embedding dimension. The paper's own initialization inequalities
and step bound were not at hand; the theorems below have its shape and are proved in full in
docs/theory/full-gd.md.
References   [1] Song, Han, Zhang, Ding, Hong (2024), NeurIPS 37, arXiv:2411.07538
"""

from __future__ import annotations

from math import e, sqrt
from typing import Any

import numpy as np

from gdconv.descent.loop import Outcome
from gdconv.models.multihead.constants import Constants, Radii
from gdconv.models.multihead.point import MultiHeadPoint
from gdconv.rigor.arithmetic import times
from gdconv.rigor.spectrum import Enclosure
from gdconv.theory.certificates import run_certificate
from gdconv.theory.theorem import Inequality, Prediction, Theorem, statement

NUDGE = 1 + 1e-9
"""Radii chosen as equalities are inflated by this much, so that the inequality is decided."""

PROOFS = "docs/theory/full-gd.md"

LAZY: dict[str, dict[str, Any]] = {
    "*": {
        "init": "theorem",
        "step": "theory",
        "until_bound": 0.5,
        "steps": 200_000,
        "head_dim": 8,
        "heads": 8,
    },
    "gaussian": {"samples": 2, "tokens": 2, "embedding": 8, "head_dim": 4, "heads": 2},
    "digits": {"samples": 8, "tokens": 2},
}
"""Settings under which the a-priori statements were seen to hold."""

ORDINARY: dict[str, dict[str, Any]] = {
    "*": {
        "data": "digits", "init": "normal", "scales": "3,3,1,2", "step": "local",
        "steps": 20_000, "until_loss": 1e-12, "head_dim": 8, "heads": 8,
    },
    "gaussian": {"samples": 8, "tokens": 2, "embedding": 32},
    "digits": {"samples": 8, "tokens": 2},
}  # fmt: skip
"""Settings of an ordinary run, weights of order one, under which AP and TAIL were seen to hold."""


def least_radii(start: MultiHeadPoint, o: float) -> Radii | None:
    """The smallest radii that satisfy the linear inequalities of Theorem A, None if there are none.

    C_V = 2 r_0 max_h g_V / (o^2 sigma_0^2); C_Q and C_K are the least fixed point of
    C_Q = 2 r_0 max_h g_Q(C_K) / (o^2 sigma_0^2) and its twin. Every other inequality, and L, grow
    with the radii, so the least ones are the best ones: no scan is needed.

    Args:
        start: The run at step 0.
        o: The constant in the place of min_h sigma_min(W_O,h), positive.

    Returns:
        The radii, or None when the fixed point is beyond 1e8.
    """
    pull = 2 * start.r_0 / (o**2 * start.sigma_0.lo**2) * NUDGE
    C_V = pull * float(Constants(start, Radii.joint(0.0)).g_V().max())
    C_Q = C_K = 0.0
    if start.kernel == "softmax":
        for _ in range(200):
            c = Constants(start, Radii(C_Q, C_K, C_V))
            new_Q, new_K = pull * float(c.g_Q().max()), pull * float(c.g_K().max())
            if not np.isfinite(new_Q + new_K) or new_Q + new_K > 1e8:
                return None
            if abs(new_Q - C_Q) + abs(new_K - C_K) <= 1e-12 * (new_Q + new_K):
                break
            C_Q, C_K = new_Q, new_K
        C_Q, C_K = max(C_Q * NUDGE, 1e-12), max(C_K * NUDGE, 1e-12)
    return Radii(C_Q, C_K, C_V)


def theorem_a(start: MultiHeadPoint, o: Enclosure, o_name: str) -> Prediction:
    """Theorem A with a given constant in the place of o: the shape of the paper's theorem."""
    sigma, r_0 = start.sigma_0, start.r_0
    beta = times(o, o, sigma, sigma)
    basic = (
        Inequality("heads are wide enough: H D >= N n", start.H * start.D, ">=", start.T),
        Inequality(f"beta = {o_name}^2 sigma_min(B_0)^2 is positive", beta, ">", 0.0),
    )
    if not (beta.lo > 0 and sigma.lo > 0):
        return Prediction(basic, beta, note="beta is not positive: nothing is predicted")
    radii = least_radii(start, o.lo)
    if radii is None:
        failed = Inequality("radii exist for the query and key paths", 0.0, ">", 1.0)
        return Prediction(
            (*basic, failed), beta, note="the score path outweighs sigma_0 for every radius"
        )
    c = Constants(start, radii)
    pull = 2 * r_0 / o.lo**2
    sigma_2, sigma_3 = times(sigma, sigma), times(sigma, sigma, sigma)
    linear = [("value", c.g_V() / radii.C_V)]
    if start.kernel == "softmax":
        linear += [("query", c.g_Q() / radii.C_Q), ("key", c.g_K() / radii.C_K)]
        paths = np.sqrt((start.O**2 * c.lambda_V**2 * c.Lambda**4).sum())
        drift = 2 * start.s(6) ** 2 * r_0 / (start.d * o.lo**2) * paths
    else:
        paths = np.sqrt((start.O**2 * c.lambda_V**2).sum())
        drift = 16 * start.n * start.s(4, 1) ** 2 * r_0 / (e * sqrt(start.d) * o.lo**2) * paths
    inequalities = tuple(
        Inequality(f"sigma_0^2 outweighs the {path} path", sigma_2, ">=", pull * float(g.max()))
        for path, g in linear
    )
    needed = start.uncertain(float(drift))
    cubic = Inequality("sigma_0^3 outweighs the drift of B", sigma_3, ">=", needed)
    L = c.G_squared() + c.M_2() * r_0
    return Prediction((*basic, *inequalities, cubic), beta, 2 / (9 * L))


def local_pl(start: MultiHeadPoint, kappa: Enclosure, drift_name: str) -> Prediction:
    """Theorems A' and K: kappa >= 6 drift(rho) r_0 with rho = 1.5 r_0 / sqrt(kappa)."""
    positive = Inequality("kappa is positive", kappa, ">", 0.0)
    if kappa.lo <= 0:
        return Prediction((positive,), kappa, note="kappa is not positive: nothing is predicted")
    rho = 1.5 * start.r_0 / sqrt(kappa.lo)
    c = Constants(start, Radii.joint(rho))
    drift = c.delta() if drift_name == "delta" else c.M_2()
    J_norm = start.J_range[1].hi
    reach = J_norm + c.M_2() * rho
    L = float(np.minimum(c.G_squared(), reach * reach) + c.M_2() * start.r_0)  # nan stays
    needed = start.uncertain(6 * drift * start.r_0)
    outweighs = Inequality(f"kappa >= 6 {drift_name}(rho) r_0", kappa, ">=", needed)
    return Prediction((positive, outweighs), kappa, 2 / (9 * L))


class FullGD(Theorem):
    """Theorem 1 of Song et al. 2024, in its readings."""

    id = "full-gd"
    title = "Full-parameter gradient descent on multi-head attention"
    source = "Song et al. 2024, Theorem 1 (arXiv:2411.07538)"

    @statement("stacked", proof=f"{PROOFS}#stacked", defaults=LAZY)
    def stacked(self, start: MultiHeadPoint) -> Prediction:
        """The printed rate, sigma_min of the concatenated W_O: not valid for two heads or more.

        Its hypotheses are those of Theorem A with the printed constant in the place of o, so that a
        refutation happens under inequalities of the paper's shape.

        Args:
            start: The run at step 0.

        Returns:
            The prediction.
        """
        return theorem_a(start, start.o_stacked, "sigma_min(W_O)")

    @statement("per-head", default=True, proof=f"{PROOFS}#a", defaults=LAZY)
    def per_head(self, start: MultiHeadPoint) -> Prediction:
        """Theorem A: beta = o^2 sigma_0^2 with o = min_h sigma_min(W_O,h)."""
        return theorem_a(start, start.o, "o")

    @statement("block-free", proof=f"{PROOFS}#a-prime", defaults=LAZY)
    def block_free(self, start: MultiHeadPoint) -> Prediction:
        """Theorem A': kappa = sigma_m(J_V(0))^2, no free radii."""
        return local_pl(start, times(start.sigma_J_V, start.sigma_J_V), "delta")

    @statement("kernel", proof=f"{PROOFS}#k", defaults=LAZY)
    def kernel(self, start: MultiHeadPoint) -> Prediction:
        """Theorem K: kappa = sigma_m(J(0))^2, the least eigenvalue of the tangent kernel."""
        return local_pl(start, times(start.J_range[0], start.J_range[0]), "M_2")

    @statement("run", posterior=True, proof=f"{PROOFS}#ap-and-tail", defaults=ORDINARY)
    def run(self, start: MultiHeadPoint, outcome: Outcome) -> Prediction:
        """AP on [0, T] and TAIL at T: certified from the run itself, for every later step too."""
        return run_certificate(outcome, "run", lambda rho: self.constants(outcome.end, rho))


if __name__ == "__main__":
    from gdconv.cli.main import run_theorem

    raise SystemExit(run_theorem(FullGD.id))
