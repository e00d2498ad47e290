"""Block coordinate descent on working sets, with gap-safe screening and extrapolation."""

from __future__ import annotations

import numpy as np

from gdconv.compiled import lasso_sweeps as sweeps
from gdconv.convex.dual import certified_inactive, certify
from gdconv.convex.group_lasso import Index, Program
from gdconv.rigor.rounding import Array

KINDS = {"squared": sweeps.SQUARED, "huber": sweeps.HUBER, "logistic": sweeps.LOGISTIC}
MEMORY = 5
"""Iterates an extrapolation combines."""


def extrapolated(iterates: list[Array]) -> Array | None:
    """Anderson's combination of iterates: the affine one whose step is shortest.

    Args:
        iterates: At least three vectors, oldest first.

    Returns:
        The combination, or None where it is not defined.

    Example:
        >>> steps = [np.array([1.0 - 0.5**k]) for k in range(4)]
        >>> bool(abs(extrapolated(steps) - 1.0) < 1e-6)
        True
    """
    stack = np.array([x.ravel() for x in iterates])
    U = np.diff(stack, axis=0)
    G = U @ U.T
    G.flat[:: len(G) + 1] += 1e-13 * np.trace(G) + 1e-300
    try:
        c = np.linalg.solve(G, np.ones(len(G)))
    except np.linalg.LinAlgError:
        return None
    total = float(c.sum())
    if not np.isfinite(c).all() or total == 0.0:
        return None
    return np.asarray((c / total) @ stack[1:]).reshape(iterates[0].shape)


def working_set(program: Program, Z: Array, tolerance: float) -> Index:
    """Groups worth visiting: the active ones and the most violated, screened ones left out.

    Args:
        program: The program, one column.
        Z: Weights (K, d, 1).
        tolerance: Violations below this part of beta are left out.

    Returns:
        Indices.

    Example:
        >>> program = Program.of([[[1.0], [0.1]]], [1.0], 0.5)
        >>> working_set(program, program.zeros(), 1e-6).tolist()
        [0]
    """
    residual = program.loss.residual(program.predict(Z), program.y)
    ratios = program.dual_sizes(program.correlate(residual)) / program.beta
    active = np.any(Z != 0.0, axis=(1, 2))
    out = certified_inactive(program, certify(program, Z)) & ~active
    wanted = np.flatnonzero(~out & ~active & (ratios > 1.0 + 0.01 * tolerance))
    count = max(16, 2 * int(active.sum()))
    worst = wanted[np.argsort(-ratios[wanted])][:count]
    return np.sort(np.concatenate([np.flatnonzero(active), worst])).astype(np.int64)


def descend(program: Program, Z: Array, tolerance: float, rounds: int = 8) -> tuple[Array, int]:
    """Some rounds of sweeps over one working set, each followed by an extrapolation.

    An extrapolated point is kept only if it lowers the objective.

    Args:
        program: The program, one column.
        Z: Weights (K, d, 1).
        tolerance: Relative gap aimed at; decides what the working set leaves out.
        rounds: Rounds.

    Returns:
        New weights and how many sweeps were made.

    Example:
        >>> program = Program.of([[[1.0]]], [1.0], 0.5)
        >>> Z, count = descend(program, program.zeros(), 1e-6)
        >>> round(float(Z[0, 0, 0]), 3)
        0.75
    """
    groups = working_set(program, Z, tolerance)
    design, y = program.design, np.ascontiguousarray(program.y[:, 0])
    flat = np.ascontiguousarray(Z[:, :, 0])
    if not len(groups):
        return Z, 0
    steps = sweeps.curvatures(design.blocks, groups, 12)
    loss, count = program.loss, 0
    for _ in range(rounds):
        kept = [flat[groups].copy()]
        for _ in range(MEMORY):
            p = program.predict(flat[:, :, None])[:, 0]  # afresh: no drift
            v = np.ascontiguousarray(loss.residual(p, y))
            sweeps.sweep(
                *(design.blocks, groups, steps, y, flat, p, v, program.beta),
                *(KINDS[loss.name], loss.delta, loss.curvature, 2),
            )
            count += 2
            kept.append(flat[groups].copy())
        guess = extrapolated(kept)
        if guess is not None:
            trial = flat.copy()
            trial[groups] = guess
            if program.objective(trial[:, :, None]) < program.objective(flat[:, :, None]):
                flat = trial
    return flat[:, :, None].copy(), count
