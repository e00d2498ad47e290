"""Why a run stalls: saturated attention, a residual that the Jacobian does not reach, or a small step.

A run stalls when its loss is not yet small and fell by less than a tenth over the second half of its
steps. With J the Jacobian by the trained blocks and g = J^T r the gradient at the last iterate:

* too small a step   eta |J|^2 < 0.01 although |g|^2 / (|J|^2 |r|^2) >= 0.001
* saturation         |J_T|^2 < 0.01 |J_0|^2: keys and values no longer covary under the attention rows
* loss of rank       otherwise: the residual is nearly orthogonal to what the weights can change
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gdconv.start import Start

if TYPE_CHECKING:
    from gdconv.descent import Outcome

SMALL_LOSS, SLOW, FEW = 1e-6, 0.9, 20
SMALL_STEP, SMALL_SHARE, SATURATED = 1e-2, 1e-3, 1e-2


def stalled(outcome: Outcome) -> bool:
    """Whether the loss is not small and hardly fell over the second half of the run.

    Args:
        outcome: The finished run.

    Returns:
        True when it stalls; never for fewer than 20 steps.
    """
    last = outcome.rows[-1]
    if outcome.steps < FEW or last["loss_ratio"] <= SMALL_LOSS:
        return False
    middle = next(row for row in outcome.rows if row["step"] >= outcome.steps / 2)
    return last["loss"] > SLOW * middle["loss"]


def diagnose(start: Start, outcome: Outcome) -> str:
    """One sentence that names the cause, empty when the run does not stall.

    Args:
        start: The run at step 0.
        outcome: The finished run.

    Returns:
        The sentence.
    """
    if not stalled(outcome):
        return ""
    last = outcome.rows[-1]
    J_first, J_last = start.J_range[1].hi, outcome.end.J_range[1].hi
    reach = last["grad_norm"] ** 2 / (2 * last["loss"] * J_last**2) if J_last > 0 else 0.0
    where = f"stalls at loss {last['loss']:.6g}"
    if outcome.eta * J_last**2 < SMALL_STEP and reach >= SMALL_SHARE:
        better = 1 / J_last**2
        return f"{where}: too small a step, eta |J|^2 = {outcome.eta * J_last**2:.1e}; try {better:.2g}"
    if J_last**2 < SATURATED * J_first**2:
        share, entropy = J_last / J_first if J_first > 0 else 0.0, last["entropy"]
        return (
            f"{where}: saturation, |J| has shrunk to {share:.1e} of its start, "
            f"attention entropy {entropy:.2g} of log n"
        )
    return f"{where}: loss of rank, only {reach:.1e} of |J|^2 |r|^2 is left in the gradient"
