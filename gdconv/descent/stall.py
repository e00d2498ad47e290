"""Why a run stalls: saturated attention, a residual out of reach, or a step that is too small.

A run stalls when its loss is neither small nor near rounding, and fell by less than a tenth over
the second half of its steps. With J the Jacobian by the trained blocks and g = J^T r the gradient
at the last iterate:

* too large a step   the loss rose on the way
* saturation         |J_T|^2 < 0.01 |J_0|^2 or < 1e-4 G^2: under the attention rows keys and values
                     no longer covary, whatever the queries do
* too small a step   eta |J|^2 < 0.01 although |g|^2 / (|J|^2 |r|^2) >= 0.001
* loss of rank       |g|^2 / (|J|^2 |r|^2) < 0.001: the residual is nearly orthogonal to what the
                     weights can change
* slow               none of these: more steps
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gdconv.models.point import Point

if TYPE_CHECKING:
    from gdconv.descent.loop import Outcome

CAUSES = ("saturation", "loss of rank", "too small a step", "too large a step", "slow")
"""What a diagnosis may name."""

SMALL_LOSS, SLOW, FEW, NOISY = 1e-6, 0.9, 20, 1e-3
SMALL_STEP, SMALL_SHARE, SHRUNK, FAINT = 1e-2, 1e-3, 1e-2, 1e-4


def stalled(outcome: Outcome) -> bool:
    """Whether the loss is not small and hardly fell over the second half of the run.

    Args:
        outcome: The finished run.

    Returns:
        True when it stalls; never for fewer than 20 steps.
    """
    last = outcome.rows[-1]
    if outcome.steps < FEW or last["loss_ratio"] <= SMALL_LOSS or last["noise"] > NOISY:
        return False
    middle = next(row for row in outcome.rows if row["step"] >= outcome.steps / 2)
    return last["loss"] > SLOW * middle["loss"]


def diagnose(start: Point, outcome: Outcome, G_squared: float) -> str:
    """One sentence that names the cause, empty when the run does not stall.

    Args:
        start: The run at step 0.
        outcome: The finished run.
        G_squared: Upper bound of |J|^2 at the last iterate.

    Returns:
        The sentence.
    """
    if not stalled(outcome):
        return ""
    last = outcome.rows[-1]
    first, now = start.J_range[1].hi ** 2, outcome.end.J_range[1].hi ** 2
    where = f"stalls at loss {last['loss']:.6g}"
    rises = int(outcome.ledger["rises"])
    if rises and now > 0:
        return f"{where}: too large a step, the loss rose {rises} times; try {0.5 / now:.2g}"
    if now < SHRUNK * first or now < FAINT * G_squared:
        share = (now / G_squared) ** 0.5 if G_squared > 0 else 0.0
        return (
            f"{where}: saturation, |J| is {share:.1e} of its bound and was "
            f"{(first / G_squared) ** 0.5 if G_squared > 0 else 0.0:.1e} at the start; attention "
            f"entropy {last['entropy']:.2g} of log n"
        )
    reach = last["grad_norm"] ** 2 / (2 * last["loss"] * now)
    if outcome.eta * now < SMALL_STEP and reach >= SMALL_SHARE:
        return f"{where}: too small a step, eta |J|^2 = {outcome.eta * now:.1e}; try {1 / now:.2g}"
    if reach < SMALL_SHARE:
        return f"{where}: loss of rank, only {reach:.1e} of |J|^2 |r|^2 is left in the gradient"
    return f"{where}: slow, {reach:.1e} of |J|^2 |r|^2 is in the gradient; give more steps"
