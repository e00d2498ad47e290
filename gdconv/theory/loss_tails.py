"""TAIL for any model and loss: what the last iterate certifies of all later steps, or of some.

At theta_T with gap f = l(F) - f*, s = sigma_m(J_T), S = |J_T|, on the ball of radius rho around it,
with M = M_2(rho), G~ = min(G, S + M rho), L = h G~^2 + M |slope|, c = 1 - eta L / 2:

attained    phi with |slope|^2 >= 2 phi f where the gap is at most f_T: if sqrt(2 f) < c rho
            sqrt(phi) (s - M rho), then f_{T+u} <= (1 - 2 eta c phi (s - M rho)^2)^u f_T for all u.
unattained  k with |slope| >= k f, K = k (s - M rho): with rho' = rho - eta G~ |slope| > 0, until
            the loss has fallen to e^(-c K rho') f_T, f_{T+u} <= f_T / (1 + c eta K^2 f_T u).

Proofs: docs/theory/generic.md, "TAIL".
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR
from math import exp, sqrt
from typing import Any

import numpy as np
import torch

from gdconv.rigor.arithmetic import minus, over, plus, positive_part, smaller, times, written
from gdconv.rigor.rounding import Enclosure
from gdconv.support.trust import Estimate
from gdconv.theory.prediction import Inequality, Side

RADII = np.geomspace(1e-7, 1.0, 57)
"""Radii that are tried; the best margin wins."""


@dataclass(frozen=True)
class LossTail:
    """What was found at the best radius.

    Attributes:
        hypotheses: T1, T2, T3 there.
        sentence: What it says of later steps, for the table.
    """

    hypotheses: tuple[Inequality, ...]
    sentence: str


def loss_tail(end: Any, eta: float) -> LossTail:
    """Look for the radius at which TAIL fires.

    Args:
        end: A `ModulePoint` at theta_T.
        eta: Step size of the run.

    Returns:
        The certificate with the best margin, fulfilled or not.
    """
    loss, y = end.model.loss, end.problem.y
    f = torch.tensor([end.gap.hi], dtype=torch.float64, device=y.device)
    slope = float(loss.slope_bound(f, y)[0])
    h = float(loss.curvature(f, y)[0])
    phi = float(loss.linear_domination(f, y)[0])
    k = float(loss.riccati_domination(f, y)[0])
    s, S = end.J_range
    best: tuple[Any, ...] | None = None
    for rho, M, G_most in zip(
        RADII.tolist(), *map(np.ndarray.tolist, end.constants_at(RADII)), strict=True
    ):
        drift = times(M, rho)
        reach = plus(S, drift)
        G = smaller(G_most * G_most, times(reach, reach))
        half = over(times(eta, plus(times(h, G), times(M, slope))), 2)
        c, room = minus(1, half), minus(s, drift)
        left = rho if phi > 0 else minus(rho, times(eta, sqrt(max(G.hi, 0.0)), slope)).lo
        fires = c.lo > 0 and room.lo > 0 and left > 0
        margin = c.lo * left * room.lo if fires else -rho
        if best is None or margin > best[0]:
            best = (margin, rho, drift, half, c, room, left, G)
    assert best is not None
    _, rho, drift, half, c, room, left, G = best
    first = Inequality("T1: the Jacobian keeps its rank, M rho < s", _side(end, drift), "<", s)
    second = Inequality("T2: the step is below 2 / L near theta_T", _side(end, half), "<", 1)
    if phi > 0:
        allowed = times(positive_part(c), rho, sqrt(phi), positive_part(room))
        r = Enclosure(sqrt(2 * end.gap.lo), sqrt(2 * end.gap.hi))
        third = Inequality(
            "T3: sqrt(2 f) < c rho sqrt(phi) (s - M rho)", r, "<", _side(end, allowed)
        )
        rate = times(2, c, phi, room, room).lo
        slow, far = written(rate, 3, ROUND_FLOOR), written(rho, 2, ROUND_CEILING)
        said = f"TAIL fires: rate {slow} for all later steps, a minimum within {far}"
    else:
        used = times(eta, sqrt(max(G.hi, 0.0)), slope)
        third = Inequality("T3: one step stays within rho", _side(end, used), "<", rho)
        level = exp(-max(0.0, c.lo * k * room.lo * left)) if k > 0 else 1.0
        said = (
            f"TAIL fires until the loss is {written(level, 3, ROUND_CEILING)} of its last value: "
            f"the infimum is not "
            f"attained, so no ball holds all later steps"
        )
    rows = (first, second, third)
    if not all(row.holds for row in rows):
        said = "TAIL does not fire at the last step: more steps, or a smaller step size, may help"
    return LossTail(rows, said)


def _side(end: Any, value: Enclosure) -> Side:
    """A side that rests on M_2: proved by the layers, or an estimate without a value."""
    if end.graph is not None:
        return value
    return Estimate(value.mid, value.width / 2, "no bound of M_2 is proved for this module")
