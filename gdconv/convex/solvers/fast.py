"""The fast solver: working sets, Newton on group sizes or block descent, until a certified gap.

`solve` stops only when `gdconv.convex.dual.certify` proves the relative gap; where it gives up the
status says so and the certificate states the gap that was reached. Squared loss: Newton's method on
the working set (`gdconv.convex.solvers.newton`); logistic and Huber: compiled block descent with
extrapolation, then Newton on quadratic models of the loss where that stalls; nuclear norm:
accelerated proximal steps with restarts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from gdconv.convex.dual import Certificate, certify
from gdconv.convex.group_lasso import Index, Program
from gdconv.convex.solvers.block_descent import descend
from gdconv.convex.solvers.first_order import restarted
from gdconv.convex.solvers.newton import newton
from gdconv.rigor.rounding import Array
from gdconv.support.errors import InputError

CERTIFIED, STOPPED = "certified", "gap not reached"
"""What a solution's status can be."""

DENSE_SAMPLES = 1500
"""More samples than this make an N x N factorisation dearer than sweeps."""

FIRST_GROUPS = 12
"""Groups the working set begins with and grows by at least."""

DENSE_NUMBERS = 4e7
"""Most numbers kept in Gram matrices of groups."""


@dataclass(frozen=True, eq=False)
class Solution:
    """Weights with the proof of how good they are.

    Attributes:
        Z: Weights (K, d, c).
        certificate: Bounds of F* and of F(Z).
        status: "certified" when the asked relative gap is proved, else "gap not reached".
        method: Which solver found it.
        steps: Its steps (Newton steps, sweeps or proximal steps).

    Example:
        >>> solve(Program.of([[[1.0]]], [1.0], 0.5)).status
        'certified'
    """

    Z: Float[np.ndarray, "K d c"]
    certificate: Certificate
    status: str
    method: str
    steps: int

    @property
    def active(self) -> Index:
        """Groups with a weight that is not zero."""
        return np.flatnonzero(np.any(self.Z != 0.0, axis=(1, 2)))


@np.errstate(over="ignore", invalid="ignore")  # the certificate tells what came of it
def solve(
    program: Program,
    tolerance: float = 1e-6,
    start: Float[np.ndarray, "K d c"] | None = None,
    method: str = "auto",
    limit: int = 30,
) -> Solution:
    """Solve a program to a certified relative gap.

    Args:
        program: The program.
        tolerance: Wanted bound of (F(Z) - F*)/F*.
        start: Warm start, for instance the solution at a nearby beta.
        method: "auto", "newton", "descent" or "proximal".
        limit: Most rounds.

    Returns:
        The solution; look at `status`.

    Raises:
        InputError: Unknown method, a method that does not know the penalty, or an unfit start.

    Example:
        >>> found = solve(Program.of([[[1.0]]], [1.0], 0.5), 1e-9)
        >>> round(float(found.Z[0, 0, 0]), 9), found.certificate.relative_gap <= 1e-9
        (0.75, True)
    """
    start = None if start is None else program.weights(start)
    if method not in ("auto", "newton", "descent", "proximal"):
        raise InputError("method", method, "give auto, newton, descent or proximal")
    K, _, c = program.shape
    nuclear = program.penalty == "nuclear" and c > 1
    if nuclear and method in ("newton", "descent"):
        raise InputError("method", method, "give auto or proximal for the nuclear norm")
    if nuclear or method == "proximal":
        return _proximal(program, tolerance, start, limit)
    squared = program.loss.name == "squared"
    if method == "newton" and not squared:
        raise InputError("method", method, "give auto or descent for this loss")
    N = min(len(program.y), program.design.flat.shape[1])
    small = N <= DENSE_SAMPLES and K * N * N <= DENSE_NUMBERS
    if method == "auto":
        method = "newton" if small and squared else "descent"
    if c > 1:
        return _columns(program, tolerance, start, method, limit)
    if method == "newton":
        found = _newton(program, tolerance, start, limit)
        return found if found.status == CERTIFIED else _descent(program, tolerance, found.Z, limit)
    found = _descent(program, tolerance, start, limit if squared else max(limit // 3, 1))
    if found.status == CERTIFIED or squared or not small:
        return found
    found = _better(_reweighted(program, tolerance, found.Z, limit), found)
    if found.status == CERTIFIED:
        return found
    return _better(_descent(program, tolerance, found.Z, limit), found)


def _finish(
    program: Program, Z: Array, v: Array | None, tolerance: float, method: str, steps: int
) -> Solution:
    certificate = certify(program, Z, v)
    reached = certificate.relative_gap <= tolerance
    return Solution(Z, certificate, CERTIFIED if reached else STOPPED, method, steps)


def _better(a: Solution | None, b: Solution) -> Solution:
    """The one with the smaller gap."""
    return a if a is not None and a.certificate.gap <= b.certificate.gap else b


def _grow(groups: Index, ratios: Array, least: int = FIRST_GROUPS) -> Index:
    """Add the violated groups, at most as many as there are already (and `least`)."""
    outside = np.flatnonzero(ratios > 1.0)
    outside = outside[~np.isin(outside, groups)]
    worst = outside[np.argsort(-ratios[outside])][: max(least, len(groups))]
    return np.concatenate([groups, np.sort(worst)])


def _compressed(program: Program) -> Program:
    """The same problem with at most K d samples: |A z - y|^2 but for a constant."""
    if len(program.y) <= program.design.flat.shape[1]:
        return program
    Q, design = program.design.compressed
    return replace(program, design=design, y=np.ascontiguousarray(Q.T @ program.y))


def _newton(program: Program, tolerance: float, start: Array | None, limit: int) -> Solution:
    K = program.shape[0]
    sizes = np.zeros(K) if start is None else program.group_sizes(start)
    groups = np.flatnonzero(sizes)
    whole, program = program, _compressed(program)
    y = program.y[:, 0]
    best: Solution | None = None
    aim, steps, worse = 0.5 * tolerance, 0, 0
    v = 2.0 * y if start is None else program.loss.residual(program.predict(start), program.y)[:, 0]
    for _ in range(limit):
        C = program.correlate(v[:, None])
        before = len(groups)
        groups = _grow(groups, program.dual_sizes(C) / program.beta)
        if not len(groups):
            return _finish(whole, program.zeros(), None, tolerance, "newton", steps)
        rough = len(groups) - before >= FIRST_GROUPS and len(groups) < K  # more will follow
        goal = max(aim, 1e-2) if rough else aim
        found = newton(program.design, groups, y, program.beta, sizes[groups], goal)
        steps, v, sizes = steps + found.steps, found.v, np.zeros(K)
        sizes[groups] = found.eta
        if rough:
            continue
        Z, C = program.zeros(), program.correlate(v[:, None])
        Z[groups] = (found.eta / program.beta)[:, None, None] * C[groups]
        last = best
        dual = v[:, None] if program is whole else None
        best = _better(best, _finish(whole, Z, dual, tolerance, "newton", steps))
        if best.status == CERTIFIED:
            break
        aim = max(0.03 * aim, 1e-15)
        worse = worse + 1 if best is last and len(groups) == before else 0
        if worse >= 4:
            break
    if best is None:
        return _finish(whole, program.zeros(), None, tolerance, "newton", steps)
    return replace(best, steps=steps)


def _models(program: Program, p: Array) -> list[tuple[Array, Array]]:
    """Quadratic models sum (q (p - z))^2 of the loss at p, as pairs (z, q): Newton's, one above."""
    y, loss = program.y[:, 0], program.loss
    v = loss.residual(p, y)
    if loss.name == "logistic":
        h = np.maximum(np.abs(v) * (1.0 - np.abs(v)), 1e-9)
        return [(p + v / h, np.sqrt(0.5 * h)), (p + 4.0 * v, np.full_like(p, 0.125**0.5))]
    r = np.abs(p - y)
    h = np.where(r <= loss.delta, 2.0, 2e-6)
    above = np.sqrt(np.minimum(1.0, loss.delta / np.maximum(r, 1e-300)))
    return [(p + v / h, np.sqrt(0.5 * h)), (y, above)]


def _reweighted(program: Program, tolerance: float, Z: Array, limit: int) -> Solution:
    """Newton on quadratic models of the loss: slow per step, but indifferent to bad scaling."""
    best = _finish(program, Z, None, tolerance, "reweighted", 0)
    for step in range(1, 2 * limit + 1):
        p, before = program.predict(Z)[:, 0], program.objective(Z)
        lower = False
        for z, q in _models(program, p):
            if not (
                np.isfinite(z * q).all() and np.isfinite(np.abs(program.design.A).max() * q).all()
            ):
                continue
            inner = Program.of(q[:, None, None] * program.design.A, q * z, program.beta)
            move = _newton(inner, 1e-3 * tolerance, Z, limit).Z - Z
            t = 1.0
            while t > 1e-3 and program.objective(Z + t * move) >= before:
                t *= 0.5
            if t > 1e-3:
                Z, lower = Z + t * move, True
                break
        best = _better(best, _finish(program, Z, None, tolerance, "reweighted", step))
        if best.status == CERTIFIED or not lower:
            break
    return best


def _descent(program: Program, tolerance: float, start: Array | None, limit: int) -> Solution:
    Z = program.zeros() if start is None else np.array(start, dtype=np.float64)
    best: Solution | None = None
    steps = 0
    for _ in range(10 * limit):
        Z, taken = descend(program, Z, tolerance)
        steps += taken
        best = _better(best, _finish(program, Z, None, tolerance, "descent", steps))
        if best.status == CERTIFIED:
            break
    assert best is not None
    return replace(best, steps=steps)


def _proximal(program: Program, tolerance: float, start: Array | None, limit: int) -> Solution:
    Z = program.zeros() if start is None else np.array(start, dtype=np.float64)
    best: Solution | None = None
    steps = 0
    for _ in range(10 * limit):
        Z = restarted(program, Z, 100)
        steps += 100
        best = _better(best, _finish(program, Z, None, tolerance, "proximal", steps))
        if best.status == CERTIFIED:
            break
    assert best is not None
    return replace(best, steps=steps)


def _columns(
    program: Program, tolerance: float, start: Array | None, method: str, limit: int
) -> Solution:
    """The penalty "columns" separates over the outputs; the certificate is that of the whole."""
    Z = program.zeros() if start is None else np.array(start, dtype=np.float64)
    aim, steps = 0.5 * tolerance, 0
    best: Solution | None = None
    for _ in range(4):
        v = np.empty_like(program.y)
        for column in range(program.shape[2]):
            part = replace(program, y=np.ascontiguousarray(program.y[:, column : column + 1]))
            found = solve(part, aim, Z[:, :, column : column + 1], method, limit)
            Z[:, :, column], steps = found.Z[:, :, 0], steps + found.steps
            v[:, column] = found.certificate.v[:, 0]
        best = _better(best, _finish(program, Z.copy(), v, tolerance, method, steps))
        if best.status == CERTIFIED:
            break
        aim *= 0.01
    assert best is not None
    return best
