"""Which steps are recorded, and which of these carry the sharpness."""

from __future__ import annotations

RATIO = 1.06
"""Recorded steps grow by this factor once they are more than one apart."""


def record_steps(limit: int) -> list[int]:
    """Steps that are recorded: all the early ones, then geometric, then the last.

    Args:
        limit: Last step of the run.

    Returns:
        Increasing steps from 0 to limit; about 17 + log(limit) / log(1.06) of them.

    Example:
        >>> record_steps(5), len(record_steps(1_000_000)) < 250
        ([0, 1, 2, 3, 4, 5], True)
    """
    steps, t = [], 0
    while t < limit:
        steps.append(t)
        t = max(t + 1, int(t * RATIO))
    return [*steps, limit]


MEASURED = 40
"""How many records of a run carry the sharpness, spread evenly over its records."""


def measured_steps(records: list[int]) -> set[int]:
    """Which recorded steps carry the sharpness: about `MEASURED`, first and last included.

    Args:
        records: Recorded steps.

    Returns:
        Some of them.

    Example:
        >>> len(measured_steps(list(range(1000))))
        41
    """
    every = max(1, -(-len(records) // MEASURED))
    return {*records[::every], records[-1]}


def share(drop: float, eta: float, lambda_max: float, grad_sq: float) -> float:
    """(f_t - f_{t+1}) / (eta (1 - eta lambda_max / 2) |grad f_t|^2).

    Args:
        drop: f_t - f_{t+1}.
        eta: Step size.
        lambda_max: At theta_t.
        grad_sq: |grad f_t|^2.

    Returns:
        The ratio, about 1 for small steps; nan where the lemma promises nothing.

    Example:
        >>> share(0.5, 1.0, 1.0, 1.0)
        1.0
    """
    promised = eta * (1 - eta * lambda_max / 2) * grad_sq
    return drop / promised if promised > 0 else float("nan")
