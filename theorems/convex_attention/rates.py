"""The rates of the proximal methods as findings: F(Z_t) - F(Z) against its bound, and F* too."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gdconv.convex.dual import objective_enclosure
from gdconv.convex.group_lasso import Program, token_program
from gdconv.convex.solvers.first_order import Trace, accelerated_gradient, proximal_gradient
from gdconv.rigor.rounding import Array, Enclosure
from gdconv.theory.claims import Finding, Series
from gdconv.theory.prediction import Inequality

from .evidence import NOTHING, Case, nothing_to_do
from .witnesses import exactly, worst

SLACK = 1e-10
"""Relative slack of F(Z_t) - F(Z) over its bound: that of the bound's own rounding."""


def rate_ratios(program: Program, Z: Array, trace: Trace) -> list[Enclosure]:
    """(F(Z_t) - F(Z)) over the theorem's bound, for each t >= 1 before overflow."""
    own, bound = objective_enclosure(program, Z), trace.bounds(Z)[1:]
    with np.errstate(all="ignore"):
        lo = (trace.enclosures[0, 1:] - own.hi) / bound
        hi = (trace.enclosures[1, 1:] - own.lo) / bound
    keep = np.isfinite(lo) & np.isfinite(hi)  # a negative excess says nothing: count it as 0
    ends = np.maximum(lo[keep], 0.0) * (1 - SLACK), np.maximum(hi[keep], 0.0) * (1 + SLACK)
    return [Enclosure(float(a), float(b)) for a, b in zip(*ends, strict=True)]


def allowed_step(program: Program) -> float:
    """The largest step proved to be at most 1/(curvature lambda_max)."""
    return program.max_step().lo


def _single_rate(run: Callable[..., Trace]) -> Inequality:
    """The rate for X = y = 1."""
    one = token_program([[[1.0]]], [1.0], 0.5)
    trace = run(one, 8, allowed_step(one))
    ratios = [r for z in (0.75, 0.5, 1.5) for r in rate_ratios(one, np.full((1, 1, 1), z), trace)]
    name = "the same for X = y = 1, every Z in three"
    return Inequality(name, worst(ratios), "<=", exactly(1.0))


def rate_finding(case: Case, accelerated: bool) -> Finding:
    """The rate on the data at several Z, against F*, and on X = y = 1.

    The theorem holds for every Z, so no minimiser has to be enclosed. With the certified solution
    as Z and F(Z) - F* <= gap, F(Z_t) - F* <= bound + gap.

    Args:
        case: The case.
        accelerated: Which form.

    Returns:
        The finding, with F(Z_t) - F* and its bound.
    """
    run = accelerated_gradient if accelerated else proximal_gradient
    program, found = case.program, case.solution
    single = _single_rate(run)
    if nothing_to_do(found):
        return Finding((single,), vacuous=NOTHING)
    trace = run(program, case.steps, allowed_step(program))
    points = {
        "Z certified": found.Z,
        "Z halved": 0.5 * found.Z,
        "Z drawn": found.Z + 0.02 * np.abs(found.Z).max() * case.draw(3, *program.shape),
    }
    claims = [
        Inequality(f"F(Z_t) - F(Z) over its bound, every t, {name}",
                   worst(rate_ratios(program, Z, trace)), "<=", exactly(1.0))
        for name, Z in points.items()
    ]  # fmt: skip
    bound, optimum = trace.bounds(found.Z)[1:], found.certificate.optimum
    over = trace.enclosures[1, 1:] - optimum.lo
    least = trace.enclosures[0, 1:] - optimum.hi
    allowed = bound * (1 - SLACK) + max(found.certificate.gap, 0.0)
    with np.errstate(all="ignore"):  # what is not a number is not known to be small
        ends = least / (allowed * (1 + 2 * SLACK)), over / allowed
    share = Enclosure(
        float(np.where(np.isfinite(ends[0]), ends[0], -np.inf).max()),
        float(np.where(np.isnan(ends[1]), np.inf, ends[1]).max()),
    )
    claims.append(Inequality("F(Z_t) - F* over bound + gap, every t", share, "<=", exactly(1.0)))
    claims.append(single)
    start = float(trace.enclosures[0, 0] - optimum.hi)
    idle = "" if bound[-1] < 0.5 * start else "the bound exceeds half of F(Z_0) - F*: more steps"
    t = range(1, case.steps + 1)
    series = (
        Series(
            "F(Z_t) - F*",
            t,
            np.maximum(trace.objectives[1:] - optimum.mid, 0.0).tolist(),
            "t",
            "F(Z_t) - F*",
        ),
        Series("bound", t, bound.tolist(), "t", "F(Z_t) - F*"),
    )
    note = f"F(Z_T) - F* <= {over[-1]:.2g}, bound {bound[-1]:.2g} at T = {case.steps}"
    return Finding(tuple(claims), (), note, idle, series)
