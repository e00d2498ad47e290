"""The losses by name."""

from __future__ import annotations

from gdconv.models.losses.base import Loss
from gdconv.models.losses.cross_entropy import CrossEntropy
from gdconv.models.losses.logistic import Logistic
from gdconv.models.losses.squared import Squared
from gdconv.support.choices import chosen

KNOWN: dict[str, Loss] = {loss.name: loss for loss in (Squared(), Logistic(), CrossEntropy())}


def loss_named(loss: object) -> Loss:
    """A loss by its name; one of your own is returned as it is.

    Args:
        loss: Name, or an instance of `Loss`.

    Returns:
        The loss.

    Raises:
        InputError: An unknown name, a class in the place of an instance, or anything else.

    Example:
        >>> loss_named("cross-entropy")
        CrossEntropy()
        >>> loss_named("logistics")
        Traceback (most recent call last):
        gdconv.support.errors.InputError: loss = logistics: did you mean logistic; choose among
        squared, logistic, cross-entropy, or give an instance of Loss.
    """
    if isinstance(loss, Loss):
        return loss
    return KNOWN[chosen("loss", loss, KNOWN, ", or give an instance of Loss")]
