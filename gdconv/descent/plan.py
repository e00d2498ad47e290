"""Plan: what an algorithm is to do with R runs, and which bounds are tested on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gdconv.descent.algorithms.base import Algorithm
from gdconv.descent.algorithms.momentum import GradientDescent
from gdconv.descent.quantities import Bounded
from gdconv.descent.watch import Watch
from gdconv.models.multihead.parameters import BLOCKS


@dataclass(frozen=True)
class Bound:
    """One bound to test at every step.

    Attributes:
        kind: FIXED, POSTERIOR, DECREASE or UNTESTED of `gdconv.compiled.ledger`.
        rate: beta of (1 - eta beta)^t, from below and from above.
        prefactor: Bound at step 0 over f_0.
        coefficient: c of f_0 - c sum |grad f|^2, from below and from above.
        power: p of (1 - eta beta)^(p t).
        followed: Further quantities, each with its bound.
    """

    kind: int
    rate: tuple[float, float] = (0.0, 0.0)
    prefactor: float = 1.0
    coefficient: tuple[float, float] = (0.0, 0.0)
    power: int = 1
    followed: tuple[Bounded, ...] = ()


@dataclass(frozen=True)
class Plan:
    """How R runs are to be made.

    Attributes:
        eta: Step sizes, shape (R,).
        limits: Greatest number of steps, shape (R,).
        bounds: Bound per statement name, one dictionary per run.
        o_squared: PL constant per sigma_min(B)^2, min_h sigma(W_O,h)^2 from below, shape (R,).
        jacobian_drift: Lipschitz constant of J where sigma_m(J) is followed, else 0, shape (R,).
        sharpness: Measure lambda_max of the Hessian at some records.
        watch: Makes what a theorem follows besides the loss, see `gdconv.descent.watch`; None for
            nothing.
        algorithm: The rule of a step.
        target: Stop at this share of f_0; 0 for never.
        stop_on_rise: End a run at its first rise (for the local step).
        trained: Blocks that move.
        engine: auto, fused or torch.
    """

    eta: np.ndarray
    limits: np.ndarray
    bounds: list[dict[str, Bound]]
    o_squared: np.ndarray
    jacobian_drift: np.ndarray
    target: float = 0.0
    stop_on_rise: bool = False
    trained: tuple[str, ...] = BLOCKS
    engine: str = "auto"
    watch: Callable[..., Watch] | None = None
    sharpness: bool = False
    algorithm: Algorithm = GradientDescent()

    @property
    def follows(self) -> bool:
        """Whether Python sees every iterate, so that the compiled loop cannot run."""
        quantities = any(bound.followed for run in self.bounds for bound in run.values())
        return in_python(self.algorithm, self.watch, quantities)


def in_python(algorithm: Algorithm, watch: Any, quantities: bool) -> bool:
    """Whether Python must see every iterate: another algorithm, a watch, or further quantities."""
    return not algorithm.plain or watch is not None or quantities
