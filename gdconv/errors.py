"""Errors a user can act on: each message is one sentence with field, value and remedy."""

from __future__ import annotations


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
        if len(shown) > 120:
            shown = shown[:117] + "..."
        super().__init__(f"{field} = {shown}: {remedy}.")


class DivergenceError(GdconvError):
    """Gradient descent left every useful range.

    Args:
        run: Which replica diverged.
        eta: The step size it used.
        step: The step at which it was noticed.
        loss: The loss there.

    Example:
        >>> str(DivergenceError(0, 10.0, 3, float("inf")))
        'step = 10: run 0 diverged at step 3 (loss inf); give a smaller --step, or --step local.'
    """

    def __init__(self, run: int, eta: float, step: int, loss: float) -> None:
        self.run, self.eta, self.step, self.loss = run, eta, step, loss
        super().__init__(
            f"step = {eta:g}: run {run} diverged at step {step} (loss {loss:g}); "
            "give a smaller --step, or --step local."
        )
