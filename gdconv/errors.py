"""Errors a user can act on: each message is one sentence with field, value and remedy."""

from __future__ import annotations

from math import isfinite
from typing import Any


class GdconvError(ValueError):
    """Base of every error that gdconv raises on purpose; commands turn it into exit code 2."""


class InputError(GdconvError):
    """A field has a value that cannot be used.

    Args:
        field: Name of the field, option or file.
        value: The offending value, shown shortened.
        remedy: What to do instead, an imperative clause without a final stop.

    Example:
        >>> str(InputError("steps", -3, "give a whole number of at least 1"))
        'steps = -3: give a whole number of at least 1.'
    """

    def __init__(self, field: str, value: object, remedy: str) -> None:
        self.field, self.value, self.remedy = field, value, remedy
        shown = str(value).replace("\n", " ")
        if not shown.strip():
            shown = repr(value)
        if len(shown) > 120:
            shown = shown[:117] + "..."
        super().__init__(f"{field} = {shown}: {remedy}.")


class DivergenceError(GdconvError):
    """Gradient descent left every useful range.

    Args:
        run: Which replica diverged.
        eta: The step size it used.
        step: The iterate at which it was noticed.
        loss: The loss there; not finite when it or its gradient overflowed.
        seed: The run's seed, if known.
        local: The step was the local one, so it is no remedy.

    Attributes:
        check: The check of the runs that were finished before, None if there are none.
        total: How many runs were asked for.

    Example:
        >>> str(DivergenceError(0, 10.0, 3, float("inf")))
        'step = 10: run 0 diverged at step 3 (not finite); give a smaller --step, or --step local.'
        >>> str(DivergenceError(2, 10.0, 3, 1e20, seed=7, local=True))
        'step = 10: run 2 (seed 7) diverged at step 3 (loss 1e+20); rescale the data or weights.'
    """

    def __init__(
        self,
        run: int,
        eta: float,
        step: int,
        loss: float,
        seed: int | None = None,
        local: bool = False,
    ) -> None:
        self.run, self.eta, self.step, self.loss, self.seed = run, eta, step, loss, seed
        self.check: Any = None
        self.total = 1
        who = f"run {run}" if seed is None else f"run {run} (seed {seed})"
        found = f"loss {loss:g}" if isfinite(loss) else "not finite"
        remedy = "rescale the data or weights"
        if not local:
            remedy = "give a smaller --step, or --step local"
        super().__init__(f"step = {eta:g}: {who} diverged at step {step} ({found}); {remedy}.")
