"""Token sparsity along the regularisation path, with what is certified about it."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.convex_attention.curves import r_squared
from experiments.convex_attention.data import TokenTask
from experiments.convex_attention.solver_path import path
from gdconv.convex.group_lasso import token_program
from gdconv.convex.recovery import fewest_tokens


def along_path(task: TokenTask, count: int, least: float) -> list[dict[str, Any]]:
    """One row per weight decay, from beta_max to least beta_max.

    Args:
        task: Data.
        count: Weight decays, geometric.
        least: Least one over beta_max.

    Returns:
        decay (beta / beta_max), active (tokens of the solution found), fewest (after the reduction
        to independent predictions), possible (tokens not proved inactive: no optimum has more),
        gap (certified, relative), certified, r_squared (held out).
    """
    program = token_program(task.X, task.y, 1.0)
    found = path(program, count=count, least=least, tolerance=1e-8)
    rows = []
    for beta, solution, inactive in zip(found.betas, found.solutions, found.inactive, strict=True):
        at = program.with_beta(float(beta))
        fewest = fewest_tokens(at, solution.Z)
        predicted = task.X_test.reshape(len(task.X_test), -1) @ solution.Z.ravel()
        rows.append({
            "decay": float(beta / found.betas[0]),
            "active": len(solution.active),
            "fewest": int(np.any(fewest != 0.0, axis=(1, 2)).sum()),
            "possible": int((~inactive).sum()),
            "tokens": task.X.shape[1],
            "gap": solution.certificate.relative_gap,
            "certified": solution.status == "certified",
            "r_squared": r_squared(predicted, task.y_test),
        })
    return rows
