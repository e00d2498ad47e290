r"""Proximal gradient descent and its accelerated form, with the rates that are theorems.

    Z_{t+1} = prox(Z_t - eta grad, eta beta)          F(Z_t) - F(Z) <= |Z_0 - Z|^2/(2 eta t)
    the same from Y_t = Z_t + ((s_t - 1)/s_{t+1}) (Z_t - Z_{t-1})
                                                      F(Z_t) - F(Z) <= 2 |Z_0 - Z|^2/(eta (t + 1)^2)

for every Z (not only for a minimiser), every t >= 1 and eta <= 1/(curvature lambda_max), that is
1/(2 lambda_max) for L = (.)^2. Because Z is free, the rates are checked at the certified solution
and no minimiser has to be enclosed. Proofs: docs/theory/convex-attention.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
from jaxtyping import Float

from gdconv.convex.dual import objective_enclosure
from gdconv.convex.group_lasso import Program
from gdconv.rigor.rounding import Array
from gdconv.support.errors import InputError


@dataclass(frozen=True, eq=False)
class Trace:
    """One run of a proximal method.

    Attributes:
        objectives: F(Z_t), t = 0..steps, in floating point.
        enclosures: F(Z_t) of the stored iterates, lower and upper ends (2, steps + 1).
        Z: The last iterate (K, d, c).
        Z_0: The first.
        eta: The step.
        accelerated: Which method.

    Example:
        >>> proximal_gradient(Program.of([[[1.0]]], [1.0], 0.5), 1).objectives.tolist()
        [1.0, 0.4375]
    """

    objectives: Float[np.ndarray, " T"]
    enclosures: Float[np.ndarray, "2 T"]
    Z: Float[np.ndarray, "K d c"]
    Z_0: Float[np.ndarray, "K d c"]
    eta: float
    accelerated: bool

    def bounds(self, Z: Float[np.ndarray, "K d c"]) -> Float[np.ndarray, " T"]:
        """The theorem's bound of F(Z_t) - F(Z) for every t; infinite at t = 0.

        Args:
            Z: Any point of comparison.

        Returns:
            |Z_0 - Z|^2/(2 eta t) or 2 |Z_0 - Z|^2/(eta (t + 1)^2).

        Example:
            >>> trace = proximal_gradient(Program.of([[[1.0]]], [1.0], 0.5), 2, eta=0.5)
            >>> trace.bounds(np.full((1, 1, 1), 0.75)).tolist()
            [inf, 0.5625, 0.28125]
        """
        distance = float(np.square(self.Z_0 - Z).sum())
        t = np.arange(len(self.objectives), dtype=np.float64)
        # eta can be near the largest number: it divides alone
        steps = 0.5 * (t + 1.0) ** 2 if self.accelerated else 2.0 * np.maximum(t, 0.5)
        return np.where(t > 0, distance / steps / self.eta, np.inf)


def _start(
    program: Program, Z_0: Array | None, eta: float | None, steps: int
) -> tuple[Array, float]:
    if steps < 0:
        raise InputError("steps", steps, "give a whole number of at least 0")
    step = program.max_step().lo if eta is None else float(eta)
    if not 0.0 < step < np.inf:
        raise InputError("eta", step, "give a positive number")
    Z = program.zeros() if Z_0 is None else program.weights(Z_0).copy()
    return Z, step


def proximal_gradient(
    program: Program,
    steps: int,
    eta: float | None = None,
    Z_0: Float[np.ndarray, "K d c"] | None = None,
) -> Trace:
    """Proximal gradient descent (statement `proximal-rate`).

    Args:
        program: The program.
        steps: Number of steps.
        eta: Step size; the largest proved one if not given. Larger ones are allowed, as a control.
        Z_0: Start; zero if not given.

    Returns:
        The trace.

    Raises:
        InputError: A step that is not positive, or a negative number of steps.

    Example:
        >>> one = Program.of([[[1.0]]], [1.0], 0.5)
        >>> proximal_gradient(one, 4, eta=1.0).objectives.tolist()  # twice the allowed step
        [1.0, 1.0, 1.0, 1.0, 1.0]
    """
    first, step = _start(program, Z_0, eta, steps)
    Z, values, boxes = first, [program.objective(first)], [objective_enclosure(program, first)]
    for _ in range(steps):
        Z = program.prox(Z - step * program.gradient(Z), step * program.beta)
        values.append(program.objective(Z))
        boxes.append(objective_enclosure(program, Z))
    return Trace(np.array(values), np.array(boxes).T, Z, first, step, False)


def accelerated_gradient(
    program: Program,
    steps: int,
    eta: float | None = None,
    Z_0: Float[np.ndarray, "K d c"] | None = None,
) -> Trace:
    """Accelerated proximal gradient descent (statement `accelerated-rate`).

    Args:
        program: The program.
        steps: Number of steps.
        eta: Step size; the largest proved one if not given. Larger ones are allowed, as a control.
        Z_0: Start; zero if not given.

    Returns:
        The trace.

    Raises:
        InputError: A step that is not positive, or a negative number of steps.

    Example:
        >>> one = Program.of([[[1.0]]], [1.0], 0.5)
        >>> trace = accelerated_gradient(one, 30, eta=1.0)  # twice the allowed step
        >>> bool(trace.objectives[-1] > trace.objectives[0])
        True
    """
    first, step = _start(program, Z_0, eta, steps)
    Z, Y, s = first, first, 1.0
    values, boxes = [program.objective(first)], [objective_enclosure(program, first)]
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(steps):
            new = program.prox(Y - step * program.gradient(Y), step * program.beta)
            s_next = 0.5 * (1.0 + sqrt(1.0 + 4.0 * s * s))
            Y = new + ((s - 1.0) / s_next) * (new - Z)
            Z, s = new, s_next
            values.append(program.objective(Z))
            boxes.append(objective_enclosure(program, Z))
    return Trace(np.array(values), np.array(boxes).T, Z, first, step, True)


def restarted(program: Program, Z: Float[np.ndarray, "K d c"], steps: int) -> Array:
    """Accelerated steps whose momentum is dropped whenever it points uphill.

    Args:
        program: The program.
        Z: Start.
        steps: Number of steps.

    Returns:
        The last iterate; no rate is claimed.

    Example:
        >>> one = Program.of([[[1.0]]], [1.0], 0.5)
        >>> round(float(restarted(one, one.zeros(), 20)[0, 0, 0]), 6)
        0.75
    """
    step = _cached_step(program)
    Y, s = Z, 1.0
    for _ in range(steps):
        new = program.prox(Y - step * program.gradient(Y), step * program.beta)
        if float(((Y - new) * (new - Z)).sum()) > 0.0:
            s, Y, Z = 1.0, new, new
            continue
        s_next = 0.5 * (1.0 + sqrt(1.0 + 4.0 * s * s))
        Y = new + ((s - 1.0) / s_next) * (new - Z)
        Z, s = new, s_next
    return Z


def _cached_step(program: Program) -> float:
    step = program.max_step().lo
    return step if np.isfinite(step) else 1.0
