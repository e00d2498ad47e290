"""A tangent kernel K = J J^T that the user gives in closed form, and what is held against it.

A method `kernel(params, X)` of the module, or of the object that makes it: tensors by parameter
name and the inputs (N, ...), to (m, m) in the order of the flattened outputs. It is believed as far
as it agrees with J J^T: entry by entry at the first and at the last iterate, along the slope S at
every step, |J^T S|^2 = S^T K S, and along random directions at some.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gdconv.models.losses.base import Loss
from gdconv.rigor.rounding import UNIT, Array, fro_up, gamma, up
from gdconv.support.errors import InputError, cause

OFF = 1e-11
"""Share of |J|_F^2 that K may be off by on the way, beside what J J^T rounds: the bar of K."""

SAFETY = 8.0
"""At the first and at the last iterate it must be so many times closer."""

JACOBIAN = 130 * UNIT
"""What 64 u |J|_F of rounding in J, in its factors or beside it, change in K, over |J|_F^2."""


@dataclass(frozen=True)
class GivenKernel:
    """The user's kernel.

    Attributes:
        function: From parameters by name and inputs to K.
        name: Of the model, for errors.

    Example:
        >>> given = GivenKernel(lambda params, X: X @ X.mT, "linear")
        >>> given.at({}, torch.eye(2)).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """

    function: Callable[[dict[str, Tensor], Tensor], Any]
    name: str

    def at(self, theta: Mapping[str, Tensor], X: Tensor) -> Array:
        """K as given, (m, m) or whatever comes back.

        Args:
            theta: Parameters by name, one replica.
            X: Inputs (N, ...).

        Returns:
            A float64 array.

        Raises:
            InputError: It raises something, or gives no array.
        """
        try:
            with torch.no_grad():
                K = torch.as_tensor(self.function(dict(theta), X), device=X.device)
            return np.array(K.detach().cpu().double().numpy())
        except Exception as error:  # whatever a user's function raises
            remedy = f"give kernel(params, X), (m, m), or call it otherwise ({cause(error)})"
            raise InputError("model", f"kernel of {self.name}", remedy) from error

    def require(self, K: Array, J: Array) -> None:
        """That it is J J^T at the start.

        Args:
            K: Its answer there.
            J: The Jacobian there (m, p).

        Raises:
            InputError: It is no (m, m) matrix, or another one.
        """
        m = len(J)
        if K.shape != (m, m):
            remedy = f"give shape {(m, m)}, one row per output, or call it otherwise"
            raise InputError("model", f"kernel of {self.name}, of shape {K.shape}", remedy)
        found, allowed = agreement(K, J)
        if not found <= allowed:
            remedy = "give K = J J^T by all trained parameters, or call it otherwise"
            said = f"kernel of {self.name}, off by {found / max(size(J), 1e-300):.2g} of |J|^2"
            raise InputError("model", said, remedy)


def agreement(K: Array, J: Array) -> tuple[float, float]:
    """How far K is from J J^T, and what is allowed at the first and at the last iterate.

    Args:
        K: The kernel, of any shape.
        J: The Jacobian (m, p).

    Returns:
        |K - J J^T|_F, infinite for another shape, and (1e-11 / 8 + rounding) |J|_F^2.

    Example:
        >>> agreement(np.eye(2), np.eye(2))[0]
        0.0
    """
    m = len(J)
    found = gap(K, J) if K.shape == (m, m) else float("inf")
    return found, (OFF / SAFETY + rounding(J)) * size(J)


def given_kernel(source: object, module: nn.Module, name: str) -> GivenKernel | None:
    """The kernel that comes with a model, if there is one.

    Args:
        source: What makes the module, or the module itself.
        module: The module.
        name: Its name.

    Returns:
        The kernel; None where neither has a method of that name.

    Example:
        >>> given_kernel(None, nn.Linear(1, 1), "linear") is None
        True
    """
    for owner in (source, module):
        found = getattr(owner, "kernel", None)
        if callable(found) and not isinstance(found, nn.Module):
            return GivenKernel(found, name)
    return None


def size(J: Array) -> float:
    """|J|_F^2, from above."""
    return up(fro_up(J) ** 2)


def rounding(J: Array) -> float:
    """What J J^T as computed is off by over |J|_F^2, J's own rounding included."""
    return float(gamma(J.shape[1] + 4)) + JACOBIAN


def gap(K: Array, J: Array) -> float:
    """|K - J J^T|_F as computed."""
    return float(np.linalg.norm(K - J @ J.T))


def in_directions(loss: Loss, K: Array, slack: float, y: Tensor) -> tuple[Array, float]:
    """Q^T K Q with the rounding it adds, Q a basis of the slopes that the loss can have.

    Args:
        loss: The loss.
        K: The kernel (m, m).
        slack: Its error, spectral norm.
        y: Labels, one replica.

    Returns:
        The smaller kernel, K itself for most losses, and its error.
    """
    rows = loss.directions(torch.from_numpy(K)[None], y)[0]
    if rows.shape[0] == len(K):
        return K, slack
    both = loss.directions(rows.mT[None], y)[0].numpy()
    # two sums of C products each, and Q is orthonormal within a few u: 4 (C + 8) u |K|_F
    C = len(K) // max(len(y[0]), 1)
    return (both + both.T) / 2, up(slack + 4 * gamma(C + 8) * C * fro_up(K))
