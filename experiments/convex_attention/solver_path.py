"""Regularisation path: the same data at decreasing weight decay, each solution starts the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from gdconv.convex.dual import beta_max, certified_inactive
from gdconv.convex.group_lasso import Program
from gdconv.convex.solvers.fast import CERTIFIED, Solution, solve
from gdconv.support.errors import InputError


@dataclass(frozen=True, eq=False)
class Path:
    """Solutions along decreasing betas.

    Attributes:
        betas: Weight decays, decreasing.
        solutions: One certified solution each.
        sizes: Group norms (len(betas), K).
        inactive: Tokens proved inactive in every optimum (len(betas), K).

    Example:
        >>> path(Program.of([[[1.0]]], [1.0], 1.0), count=3).sizes.shape
        (3, 1)
    """

    betas: Float[np.ndarray, " B"]
    solutions: tuple[Solution, ...]
    sizes: Float[np.ndarray, "B K"]
    inactive: Bool[np.ndarray, "B K"]

    @property
    def certified(self) -> bool:
        """Whether every solution reached its gap."""
        return all(s.status == CERTIFIED for s in self.solutions)

    @property
    def active_counts(self) -> Int[np.ndarray, " B"]:
        """Active tokens per beta."""
        return np.asarray((self.sizes > 0).sum(1))


def path(
    program: Program,
    betas: Sequence[float] | None = None,
    count: int = 20,
    least: float = 0.01,
    tolerance: float = 1e-6,
) -> Path:
    """Solve along a grid of weight decays with warm starts.

    Args:
        program: The program; its beta plays no part.
        betas: The grid; if not given, `count` values from beta_max to least beta_max, geometric.
        count: Size of the default grid.
        least: Smallest beta of the default grid over beta_max.
        tolerance: Certified relative gap asked of each.

    Returns:
        The path; look at `certified`.

    Raises:
        InputError: An empty grid, or targets that make beta_max zero.

    Example:
        >>> found = path(Program.of([[[1.0]]], [1.0], 1.0), betas=[1.0, 0.5])
        >>> found.certified, np.round(found.sizes[:, 0], 4).tolist()
        (True, [0.5, 0.75])
    """
    if betas is None:
        top = beta_max(program).hi
        if top == 0.0:
            raise InputError("y", "targets with beta_max = 0", "give the betas")
        grid = top * np.geomspace(1.0, least, count)
    else:
        grid = np.sort(np.asarray(betas, dtype=np.float64))[::-1]
    if not len(grid):
        raise InputError("betas", "[]", "give at least one")
    solutions, inactive, start = [], [], None
    for beta in grid:
        at = program.with_beta(float(beta))
        found = solve(at, tolerance, start)
        start = found.Z
        solutions.append(found)
        inactive.append(certified_inactive(at, found.certificate))
    sizes = np.array([program.group_sizes(s.Z) for s in solutions])
    return Path(grid, tuple(solutions), sizes, np.array(inactive))
