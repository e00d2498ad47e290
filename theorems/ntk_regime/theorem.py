"""The NTK regime: gradient descent on a shallow encoder-only transformer.

Problem      min over W_Q, W_K, W_V, w_O of l = 1/2 sum_i (f(X_i) - y_i)^2,
             f(X) = tau_1 w_O^T sum_k relu(W_V X^T beta_k),
             beta_k = softmax(tau_0 X_k W_Q^T W_K X^T)
Algorithm    W <- W - gamma grad l(W), all four blocks, full batch
Guarantee    upper: l_t <= (1 - gamma alpha^2/2)^t l_0, alpha = sigma_min(F_pre^0)   [1]
Tracked      alpha_t = sigma_min(F_pre^t), lambda_min(K_t), |K_t - K_0|, movement of every block,
             distance to the linearised model
Relative to the paper: our n is its d_s, our D its d; its numerals and tau_1 were not at hand, so
`paper` is read from memory and the proved statements stand on their own. Also runs with the
multi-head model of full-gd, where sigma_min(B_t) plays the part of alpha_t. Proofs:
docs/theory/ntk-regime.md.
References   [1] Wu, Liu, Chrysos, Cevher (2023), NeurIPS 36, arXiv:2311.01575
"""

from __future__ import annotations

from collections.abc import Callable
from math import exp
from typing import Any

import numpy as np

from gdconv.descent.loop import Outcome
from gdconv.models.encoder.constants import DataConstants, EncoderConstants, least_radii
from gdconv.models.encoder.parameters import BLOCKS, initialize_encoder
from gdconv.models.encoder.point import EncoderPoint
from gdconv.rigor.arithmetic import minus, over, positive_part, times
from gdconv.rigor.spectrum import Enclosure
from gdconv.support.errors import InputError
from gdconv.theory.certificates import descent_hypotheses, run_certificate
from gdconv.theory.theorem import At, Inequality, Prediction, Theorem, statement

from .lazy import LazyWatch

PROOFS = "docs/theory/ntk-regime.md"

EASY: dict[str, dict[str, Any]] = {
    "*": {
        "data": "orthonormal",
        "init": "theorem",
        "label_norm": 1e-3,
        "width": 256,
        "scaling": "linear",
        "step": "theory",
        "until_bound": 0.8,
        "steps": 20_000,
    },
    "orthonormal": {"samples": 2, "tokens": 2, "embedding": 4},
}
"""Orthonormal tokens, w_O = 0 and small labels, under which C-ReLU's hypotheses hold."""

ORDINARY: dict[str, dict[str, Any]] = {
    "*": {
        "data": "gaussian",
        "init": "lecun",
        "width": 512,
        "heads": 8,
        "head_dim": 8,
        "step": "local",
        "steps": 20_000,
        "until_loss": 1e-10,
    },
    "gaussian": {"samples": 4, "tokens": 2, "embedding": 16},
    "digits": {"samples": 4, "tokens": 2},
}
"""Settings of an ordinary run, labels of order one."""

EASIER: dict[str, dict[str, Any]] = EASY | {"*": EASY["*"] | {"label_norm": 1e-4}}
"""As `EASY`, for the larger constants of the printed theorem."""

SMOOTH: dict[str, dict[str, Any]] = EASY | {"*": EASY["*"] | {"activation": "gelu"}}
"""As `EASY`, with an activation that has second derivatives."""

LAZY: dict[str, dict[str, Any]] = {
    "*": ORDINARY["*"] | {"width": 4096, "until_loss": 1e-4},
    "multihead": {"init": "normal", "scales": "1,1,0.1,8", "heads": 32},
    **{k: v for k, v in ORDINARY.items() if k != "*"},
}
"""Wide, so that the network stays near its linearisation."""

NO_LIPSCHITZ, SMALL = 1e300, 2e5
"""sigma_m(J) is enclosed afresh at every step where that costs no more than so many products."""

RUNG_ROOM = 1e-9
"""A rung may exceed lambda_min(K) by this share: they are equal where w_O = 0."""


class NTKRegime(Theorem):
    """Convergence of Wu et al. 2023 in the NTK regime, in its readings."""

    id = "ntk-regime"
    title = "Shallow encoder-only transformer in the NTK regime"
    source = "Wu et al. 2023, convergence theorem (arXiv:2311.01575)"
    models = ("encoder", "multihead")
    watch = LazyWatch

    def pl_constants(self, start: Any) -> tuple[float, float]:
        """alpha_t^2 or o^2 sigma_min(B_t)^2; small kernels are enclosed at every step as well."""
        encoder = isinstance(start, EncoderPoint)
        entries = (start.N * start.n) ** 2 * (start.d_m if encoder else start.H * start.D)
        return (1.0 if encoder else start.o.lo**2), (NO_LIPSCHITZ if entries <= SMALL else 0.0)

    def a_priori(
        self, start: EncoderPoint, data: DataConstants, factors: tuple[float, float, float]
    ) -> tuple[EncoderConstants, list[Inequality], Enclosure]:
        """The conditions on alpha: radii (k_1), cubic (k_2), features (k_3, none when 0).

        alpha^2 C_W >= k_1 g_W r_0, alpha^3 >= k_2 lambda_O Lambda^2 r_0,
        alpha^2 >= k_3 lambda_O^2 Lambda^2, at the least radii (radius 0 where there are none).

        Args:
            start: The run at step 0.
            data: A_O, A_V, A_Q, A_K.
            factors: (k_1, k_2, k_3); a condition whose factor is 0 is not made.

        Returns:
            The constants, the hypotheses and alpha^2.
        """
        radius, cubic, features = factors
        alpha = start.alpha
        found = least_radii(start, data, radius, sharpen=not cubic)
        c = found or EncoderConstants(start, data, dict.fromkeys(BLOCKS, 0.0))
        square, cube = (Enclosure(alpha.lo**p, alpha.hi**p) for p in (2, 3))
        hypotheses = [Inequality("alpha = sigma_min(F_pre) is positive", alpha, ">", 0.0)]
        if found is None:
            name = f"radii with alpha^2 C_W >= {radius:g} |J_W| r_0 exist"
            hypotheses.append(Inequality(name, 0, ">=", 1))
        for b in BLOCKS if found else ():
            left = Enclosure(square.lo * c.radii[b], square.hi * c.radii[b])
            right = start.uncertain(radius * c.g(b) * start.r_0)
            name = f"alpha^2 C_{b[-1]} >= {radius:g} |J_{b[-1]}| r_0"
            hypotheses.append(Inequality(name, left, ">=", right))
        O, where = c.reach("w_O"), "" if found else ", at radius 0"  # noqa: E741
        if cubic:
            drift = start.uncertain(cubic * O * c.Lambda_squared * start.r_0)
            name = f"alpha^3 >= {cubic:g} lambda_O Lambda^2 r_0{where}"
            hypotheses.append(Inequality(name, cube, ">=", drift))
        if features:
            name = f"alpha^2 >= {features:g} lambda_O^2 Lambda^2{where}"
            hypotheses.append(Inequality(name, square, ">=", features * O**2 * c.Lambda_squared))
        return c, hypotheses, square

    @statement("paper", proof=f"{PROOFS}#paper", defaults=EASIER, model="encoder")
    def paper(self, start: EncoderPoint) -> Prediction:
        """The printed theorem, its numerals read from memory; it has no third condition."""
        c, hypotheses, square = self.a_priori(start, DataConstants.printed(start), (8, 32, 0))
        note = "numerals from memory; 'small gamma' is read as the step of relu-rigorous"
        return Prediction(tuple(hypotheses), half(square), rigorous_step(c), note=note)

    @statement(
        "relu-rigorous", default=True, proof=f"{PROOFS}#relu-rigorous", defaults=EASY,
        model="encoder",
    )  # fmt: skip
    def relu_rigorous(self, start: EncoderPoint) -> Prediction:
        """Theorem C-ReLU: any activation with |s(x)| <= |x| and slopes up to 1, any subgradient."""
        c, hypotheses, square = self.a_priori(start, DataConstants.plain(start), (4, 16, 16))
        return Prediction(tuple(hypotheses), half(square), rigorous_step(c))

    @statement("relu-sharp", proof=f"{PROOFS}#relu-sharp", defaults=EASY, model="encoder")
    def relu_sharp(self, start: EncoderPoint) -> Prediction:
        """Theorem S: one condition for two, larger steps, the factor squared."""
        c, hypotheses, square = self.a_priori(start, DataConstants.sharp(start), (2, 0, 0))
        alpha = start.alpha.lo
        if not alpha > 0:
            return Prediction(tuple(hypotheses), half(square))
        delta, O = c.delta(), c.reach("w_O")  # noqa: E741
        # delta has alpha^3 below it, from below; what the upper end of alpha would give is less
        share = over(Enclosure(alpha, alpha), start.alpha)
        kept = positive_part(minus(1, times(start.uncertain(delta), share, share, share)))
        features = over(times(O, O, c.Lambda_squared), times(start.alpha, start.alpha))
        name = "(1 - delta)^2 - lambda_O^2 Lambda^2 / alpha^2 >= 1/2"
        combined = Inequality(name, minus(times(kept, kept), features), ">=", 0.5)
        reach = start.feature_range[1].hi + min(delta, 1.0) * alpha
        return Prediction((*hypotheses, combined), half(square), 1 / reach**2, power=2)

    @statement("smooth", proof=f"{PROOFS}#smooth", defaults=SMOOTH, model="encoder")
    def smooth(self, start: EncoderPoint) -> Prediction:
        """Theorem C-smooth with an explicit L, for activations without a kink."""
        c, hypotheses, square = self.a_priori(start, DataConstants.sharp(start), (2, 8, 0))
        kink = start.model.act.curvature
        smooth = int(kink < 1e300)  # a count: infinity decides nothing
        bounded = Inequality("the activation has a bounded second derivative", smooth, ">=", 1)
        step = 2 / (9 * c.L()) if smooth else None
        return Prediction((bounded, *hypotheses), square, step)

    @statement("run", posterior=True, default=True, proof=f"{PROOFS}#run", defaults=ORDINARY)
    def run(self, start: Any, outcome: Outcome) -> Prediction:
        """AP from the run itself; with the multi-head model TAIL too, ReLU has none."""
        if not isinstance(start, EncoderPoint):
            return run_certificate(outcome, "run", lambda rho: self.constants(outcome.end, rho))
        steps = max(outcome.compared_steps("run"), 1)
        rate = (1 - exp(outcome.log_posterior / steps)) / outcome.eta
        note = "says nothing of later steps: J of the encoder has no Lipschitz constant"
        return Prediction(descent_hypotheses(outcome), rate, note=note)

    @statement("linearised", claims=True, proof=f"{PROOFS}#linearised", defaults=LAZY)
    def linearised(self, start: Any, outcome: Outcome) -> Prediction:
        """The residual stays within an explicit distance of the linearised model's."""
        w = outcome.watched
        claims = (
            Inequality("|delta_t| over its bound, at every step", w["curved_worst"], "<=", 1.0),
            Inequality("|r_t - l_t| over its bound, at every step", w["linear_worst"], "<=", 1.0),
        )
        contracts = Inequality("q = max |1 - eta lambda(K_0)| <= 1", w["q"], "<=", 1 + 1e-9)
        vacuous = ""
        if not 0 <= w["linear_last"] <= w["first"] / 2:
            vacuous = "the linearised model has not halved its residual: give more steps"
        elif not 0 <= w["linear_bound"] <= w["first"] / 2 < np.inf:  # nor where one is no number
            vacuous = "the bound exceeds half of |r_0|: the run is not lazy"
        share = w["linear_bound"] / w["first"]
        note = f"bound of the distance at the end: {share:.3g} |r_0|"
        return Prediction((contracts,), 0.0, note=note, claims=claims, vacuous=vacuous)

    @statement("ladder", claims=True, proof=f"{PROOFS}#ladder", defaults=ORDINARY)
    def ladder(self, start: Any, outcome: Outcome) -> Prediction:
        """lambda_min(K_t) is not below alpha_t^2 and the other rungs, at every recorded step."""
        w = outcome.watched
        ratio = Enclosure(w["rung_lo"] * (1 + RUNG_ROOM), w["rung_hi"] * (1 + RUNG_ROOM))
        claim = Inequality("least lambda_min(K_t) over a rung, (1 + 1e-9) times", ratio, ">=", 1.0)
        return Prediction((), 0.0, claims=(claim,))

    def constants(self, start: Any, rho: float) -> tuple[float, float]:
        """(M_2, G^2) on the ball of radius rho; M_2 of the ReLU encoder is infinite."""
        if not isinstance(start, EncoderPoint):
            return super().constants(start, rho)
        c = EncoderConstants(start, DataConstants.sharp(start), dict.fromkeys(BLOCKS, rho))
        smooth = start.model.act.curvature < 1e300
        entry = float(abs(start.arrays["w_O"]).max()) + rho
        return (c.M_2(entry) if smooth else float("inf")), c.G_squared()

    def base(self, found: dict[str, int], seed: int, at: At) -> Any:
        """LeCun W_Q, W_K, W_V and w_O = 0: the residual is that of the labels."""
        if "width" not in found:
            raise InputError("init", "theorem", "give normal, lecun, he, ntk or paired here")
        return initialize_encoder("zero-output", (found["width"], found["embedding"]), seed)

    def solve(self, base: Any, holds: Callable[[Any], bool], margin: float) -> Any:
        """Nothing is scaled: small labels (--label-norm) meet the hypotheses, or do not."""
        return base


def half(x: Enclosure) -> Enclosure:
    """x / 2."""
    return Enclosure(x.lo / 2, x.hi / 2)


def rigorous_step(c: EncoderConstants) -> float:
    """gamma with gamma [2 rho lambda_V lambda_O Lambda^2 r_0 + G^4] <= alpha^2 / 2."""
    first = 2 * c.data.A_O * c.reach("W_V") * c.reach("w_O") * c.Lambda_squared * c.start.r_0
    return c.start.alpha.lo**2 / 2 / (first + c.G_squared() ** 2)
