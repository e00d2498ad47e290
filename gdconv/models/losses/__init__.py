"""Losses of the outputs: squared, logistic, cross-entropy, and what your own must deliver."""

from gdconv.models.losses.base import Loss
from gdconv.models.losses.cross_entropy import CrossEntropy
from gdconv.models.losses.logistic import Logistic
from gdconv.models.losses.named import loss_named
from gdconv.models.losses.squared import Squared

__all__ = ["CrossEntropy", "Logistic", "Loss", "Squared", "loss_named"]
