"""A-posteriori certificates: AP on [0, T] and TAIL from T on.

AP    f_T <= prod_{t<T} (1 - 2 c_t eta mu_t) f_0 whenever mu_t is a PL constant at theta_t and
      f_{t+1} <= f_t - c_t eta |grad f(theta_t)|^2 with c_t > 0; a step that only does not rise
      counts 1.
TAIL  at theta_T with r = sqrt(2 f_T), s = sigma_m(J_T), S = |J_T|: if some rho > 0 has, with
      M = M_2(rho), (T1) M rho < s, (T2) c = 1 - eta L / 2 > 0, L = min(G^2, (S + M rho)^2) + M r,
      (T3) r < c rho (s - M rho), then exact gradient descent from theta_T obeys
      f_{T+u} <= (1 - 2 eta c (s - M rho)^2)^u f_T for every u >= 0 and stays within rho.

Proofs: docs/theory/full-gd.md, "AP and TAIL".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gdconv.prediction import Hypothesis, Prediction
from gdconv.spectrum import Enclosure
from gdconv.start import Start

if TYPE_CHECKING:
    from gdconv.descent import Outcome

RHO_GRID = np.geomspace(1e-7, 1.0, 57)
"""Radii tried by TAIL; the best margin of (T3) wins."""


@dataclass(frozen=True)
class Tail:
    """Outcome of TAIL at one point.

    Attributes:
        rho: The radius with the best margin.
        rate: 2 c (s - M rho)^2, so that f falls by 1 - eta rate per step; nan if it does not fire.
        hypotheses: (T1), (T2), (T3) at rho.
    """

    rho: float
    rate: float
    hypotheses: tuple[Hypothesis, ...]

    @property
    def sentence(self) -> str:
        """One sentence for the table."""
        if all(h.holds for h in self.hypotheses):
            rate, rho = f"{self.rate:.3g}", f"{self.rho:.2g}"
            return f"TAIL fires: rate {rate} for all later steps, zero loss within distance {rho}"
        return "TAIL does not fire at the last step: more steps, or a smaller step size, may help"


def tail(end: Start, eta: float, constants: Callable[[float], tuple[float, float]]) -> Tail:
    """Look for the radius at which TAIL fires.

    Args:
        end: The run at theta_T.
        eta: Step size of the run.
        constants: rho -> (M_2, G^2) on the ball of radius rho around theta_T.

    Returns:
        The certificate with the best margin of (T3), fulfilled or not.
    """
    s, S, r = end.J_range[0].lo, end.J_range[1].hi, end.r_0
    best, best_margin = None, -np.inf
    for rho in RHO_GRID:
        M, G_squared = constants(float(rho))
        L = min(G_squared, (S + M * rho) * (S + M * rho)) + M * r
        c, room = 1 - eta * L / 2, s - M * rho
        margin = c * rho * room / r if c > 0 and room > 0 and r > 0 else -rho
        if best is None or margin > best_margin:
            best, best_margin = (float(rho), M, L, c, room), margin
    assert best is not None
    rho, M, L, c, room = best
    hypotheses = (
        Hypothesis("T1: the Jacobian keeps its rank, M rho < s", M * rho, "<", s),
        Hypothesis("T2: the step is below 2 / L near theta_T", eta * L / 2, "<", 1.0),
        Hypothesis("T3: r < c rho (s - M rho)", r, "<", max(c, 0.0) * rho * max(room, 0.0)),
    )
    return Tail(rho, 2 * c * room**2 if min(c, room) > 0 else float("nan"), hypotheses)


def run_certificate(
    outcome: Outcome, name: str, constants: Callable[[float], tuple[float, float]]
) -> Prediction:
    """AP on [0, T] and TAIL at T, as a prediction about the finished run.

    Args:
        outcome: The finished run.
        name: The statement, to know how far it was compared.
        constants: As for `tail`.

    Returns:
        Hypotheses P1, P2, T1, T2, T3; the mean rate of the product.
    """
    certificate = tail(outcome.end, outcome.eta, constants)
    steps = max(compared := outcome.compared_steps(name), 1)
    mean_rate = 0.0 - np.expm1(outcome.log_posterior / steps) / outcome.eta
    hypotheses = (*descent_hypotheses(outcome), *certificate.hypotheses)
    gap = (
        f"; AP covers [0, {compared}], rounding hides the rest" if compared < outcome.steps else ""
    )
    return Prediction(hypotheses, float(mean_rate), note=certificate.sentence + gap)


def descent_hypotheses(outcome: Outcome) -> tuple[Hypothesis, ...]:
    """(P1) and (P2) of AP over the steps that were compared.

    Args:
        outcome: The finished run.

    Returns:
        The least c_t, and whether any step had a positive PL constant.
    """
    moved: float | Enclosure = -outcome.log_posterior
    least: float | Enclosure = outcome.c_least
    if outcome.ledger["posterior_closed"] == 1:  # rounding hides the first step already
        moved = least = Enclosure(0.0, float("inf"))
    return (
        Hypothesis("P1: some step has a positive PL constant", moved, ">", 0.0),
        Hypothesis("P2: every step descends, least c_t", least, ">", 0.0),
    )
