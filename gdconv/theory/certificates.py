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
from decimal import ROUND_CEILING, ROUND_FLOOR
from typing import TYPE_CHECKING

import numpy as np

from gdconv.models.point import Point
from gdconv.rigor.arithmetic import minus, over, plus, positive_part, smaller, times, written
from gdconv.rigor.spectrum import Enclosure
from gdconv.theory.prediction import Inequality, Prediction

if TYPE_CHECKING:
    from gdconv.descent.loop import Outcome

RHO_GRID = np.geomspace(1e-7, 1.0, 57)
"""Radii tried by TAIL; the best margin of (T3) wins."""

CLOSE = 1e-9
"""Far more than rounding changes in a margin, or in what is subtracted to make one."""


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
    hypotheses: tuple[Inequality, ...]

    @property
    def sentence(self) -> str:
        """One sentence for the table."""
        if all(h.holds for h in self.hypotheses):
            rate, rho = written(self.rate, 3, ROUND_FLOOR), written(self.rho, 2, ROUND_CEILING)
            return f"TAIL fires: rate {rate} for all later steps, zero loss within distance {rho}"
        return "TAIL does not fire at the last step: more steps, or a smaller step size, may help"


def tail(end: Point, eta: float, constants: Callable[[float], tuple[float, float]]) -> Tail:
    """Look for the radius at which TAIL fires.

    What cancels, c = 1 - eta L / 2 and s - M rho, carries its own bar (`gdconv.rigor.arithmetic`).

    Args:
        end: The run at theta_T.
        eta: Step size of the run.
        constants: rho -> (M_2, G^2) on the ball of radius rho around theta_T.

    Returns:
        The certificate with the best margin of (T3), fulfilled or not.
    """
    (s, S), r = end.J_range, end.r_range
    found = [constants(rho) for rho in map(float, RHO_GRID)]
    most = _most(np.array(found, dtype=float), (s.hi, S.lo, r), eta)
    best, best_margin = None, -np.inf
    for i in np.argsort(-most, kind="stable"):  # most radii cannot be the best, and need no bars
        if most[i] < best_margin:
            break
        (M, G_squared), rho = found[i], float(RHO_GRID[i])
        drift = times(M, rho)
        reach = plus(S, drift)
        L = plus(smaller(G_squared, times(reach, reach)), times(M, r))
        half = over(times(eta, L), 2)
        c, room = minus(1, half), minus(s, drift)
        fires = c.lo > 0 and room.lo > 0 and r.hi > 0
        margin = c.lo * rho * room.lo / r.hi if fires else -rho
        if best is None or margin > best_margin:
            best, best_margin = (rho, drift, half, c, room), margin
    assert best is not None
    rho, drift, half, c, room = best
    allowed = times(positive_part(c), rho, positive_part(room))
    hypotheses = (
        Inequality("T1: the Jacobian keeps its rank, M rho < s", drift, "<", s),
        Inequality("T2: the step is below 2 / L near theta_T", half, "<", 1),
        Inequality("T3: r < c rho (s - M rho)", r, "<", allowed),
    )
    rate = times(2, c, room, room).lo if c.lo > 0 and room.lo > 0 else float("nan")
    return Tail(rho, rate, hypotheses)


@np.errstate(all="ignore")  # infinite constants, or a loss of zero, leave nothing to fire
def _most(found: np.ndarray, ends: tuple[float, float, Enclosure], eta: float) -> np.ndarray:
    """No margin of (T3) is greater: c rho (s - M rho) / r of each radius from above, or -rho."""
    (M, G_squared), (s, S, r) = found.T, ends
    drift = M * RHO_GRID
    c = 1 - eta * (np.minimum(G_squared, (S + drift) ** 2) + M * r.lo) / 2 + CLOSE
    room = s - drift + CLOSE * s
    margin = c * RHO_GRID * room / r.hi * (1 + CLOSE)
    return np.where((c > 0) & (room > 0) & (margin > 0), margin, -RHO_GRID * (1 - CLOSE))


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
    compared = outcome.compared_steps(name)
    hypotheses = (*descent_hypotheses(outcome), *certificate.hypotheses)
    gap = (
        f"; AP covers [0, {compared}], rounding hides the rest" if compared < outcome.steps else ""
    )
    return Prediction(hypotheses, mean_rate(outcome, name), note=certificate.sentence + gap)


def mean_rate(outcome: Outcome, name: str) -> float:
    """The rate of (1 - eta rate)^t that the product of AP comes to.

    Args:
        outcome: The finished run.
        name: The statement, to know how far it was compared.

    Returns:
        The rate.
    """
    steps = max(outcome.compared_steps(name), 1)
    return float(0.0 - np.expm1(outcome.log_posterior / steps) / outcome.eta)


def descent_hypotheses(outcome: Outcome) -> tuple[Inequality, ...]:
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
        Inequality("P1: some step has a positive PL constant", moved, ">", 0.0),
        Inequality("P2: every step descends, least c_t", least, ">", 0.0),
    )
