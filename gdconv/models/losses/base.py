"""What a loss of the outputs must deliver, and what follows from that."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from gdconv.rigor.rounding import TINY, UNIT
from gdconv.support.errors import InputError

UNITS = 24
"""Roundings of one term of a loss and of its slope: library functions err by one ulp = 2u each."""


class Loss(ABC):
    """A loss f(theta) = l(F(theta)) of the outputs F, with everything that a rate needs of it.

    F has shape (R, N, ...), R replicas; y the same shape, with R or 1 as its first axis. Whatever
    is one number per replica has shape (R,) and float64, also where F is float32. S is the slope
    grad l(F), f* the infimum of l over all outputs, the gap is l(F) - f*.

    To be written: `name`, `value`, `slope` and `curvature`; the other defaults hold for any loss
    that is bounded below. Whoever knows a sharper constant overrides; whose `value` subtracts or
    calls functions that are off by more than a few ulp must override `rounding`.

    Attributes:
        name: What `loss=` takes.
        steepening: A k such that the Hessian at F + e is at most e^(k |e|) times that at F; None
            where no such number is known.

    Example:
        >>> class Huge(Loss):
        ...     name = "twice-squared"
        ...     def value(self, F, y):
        ...         return ((F - y) ** 2).flatten(1).sum(1)
        ...     def slope(self, F, y):
        ...         return 2 * (F - y)
        ...     def curvature(self, gap, y):
        ...         return torch.full_like(gap, 2.0)
        >>> F, y = torch.tensor([[3.0, 0.0]]), torch.zeros(1, 2)
        >>> Huge().value(F, y).item(), Huge().slope_bound(torch.tensor([9.0]), y).item()
        (9.0, 6.0...)
    """

    name: ClassVar[str]
    steepening: ClassVar[float | None] = None

    @abstractmethod
    def value(self, F: Tensor, y: Tensor) -> Tensor:
        """The gap l(F) - f*, shape (R,), formed without subtracting f*."""

    @abstractmethod
    def slope(self, F: Tensor, y: Tensor) -> Tensor:
        """S = grad l(F), of the shape and dtype of F."""

    @abstractmethod
    def curvature(self, gap: Tensor, y: Tensor) -> Tensor:
        """h >= |Hessian of l at F| for every F whose gap is at most `gap`, shape (R,)."""

    def check(self, y: Tensor, shape: tuple[int, ...] | None = None) -> None:
        """Whether these labels can be used.

        Args:
            y: The labels.
            shape: Shape of the outputs, (R, N, ...), where it is known.

        Raises:
            InputError: Labels that are no numbers, not finite, or do not match the outputs.
        """
        finite(y)
        matching(y, shape)

    def targets(self, y: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Labels in the shape of the outputs, as they are stored.

        Args:
            y: Labels as given, float64, shape (R, N, ...).
            shape: Shape of the outputs, (R, N, ...).

        Returns:
            The labels; with an axis of length one where the outputs have one and they have none.
        """
        return y[..., None] if (*y.shape[1:], 1) == tuple(shape[1:]) else y

    def least(self, y: Tensor) -> Tensor:
        """The infimum f*, shape of the first axis of y."""
        return torch.zeros(y.shape[0], dtype=torch.float64, device=y.device)

    def attained(self, y: Tensor) -> bool:
        """Whether some F has l(F) = f*, in every replica."""
        del y
        return True

    def slope_bound(self, gap: Tensor, y: Tensor) -> Tensor:
        """An upper bound of |S| for every F with at most this gap: sqrt(2 h gap), shape (R,).

        A step of length 1/h along -S lowers l by |S|^2 / (2h) at least and does not leave the set.

        Args:
            gap: Gaps, shape (R,).
            y: The labels.

        Returns:
            The bounds; L = h G^2 + M slope_bound is the smoothness of f on a ball with |J| <= G,
            Lip J <= M.
        """
        return above((2.0 * self.curvature(gap, y) * gap).sqrt())

    def linear_domination(self, gap: Tensor, y: Tensor) -> Tensor:
        """A phi with |S|^2 >= 2 phi (l - f*) wherever l - f* <= gap, shape (R,); 0: none known."""
        del y
        return torch.zeros_like(gap)

    def riccati_domination(self, gap: Tensor, y: Tensor) -> Tensor:
        """A k with |S| >= k (l - f*) wherever l - f* <= gap, shape (R,); 0: none known."""
        phi = self.linear_domination(gap, y)
        return torch.where(phi > 0, below((2.0 * phi / gap).sqrt()), 0.0)

    def error(self, F: Tensor, y: Tensor, dF: Tensor) -> Tensor:
        """By how much `value(F, y)` is off if F is wrong by at most dF in the Frobenius norm.

        |S| dF + min(h_F e^(k dF), h) dF^2 / 2 + rounding: h_F is the curvature at F, h that of all
        outputs, k the `steepening`.

        Args:
            F: Outputs, shape (R, N, ...).
            y: Labels.
            dF: Error of F, shape (R,).

        Returns:
            The bar, shape (R,).
        """
        S = norm(self.slope(F.to(torch.float64), y))
        h = self.curvature(torch.full_like(S, math.inf), y)
        if self.steepening is not None:
            h = torch.minimum(h, times(self.curvature_at(F, y), torch.exp(self.steepening * dF)))
        return above(times(S, dF) + times(times(0.5 * h, dF), dF)) + self.rounding(F, y)

    def curvature_at(self, F: Tensor, y: Tensor) -> Tensor:
        """An upper bound of |Hessian of l| at F itself, shape (R,)."""
        return self.curvature(torch.full_like(norm(F), math.inf), y)

    def rounding(self, F: Tensor, y: Tensor) -> Tensor:
        """What `value(F, y)` loses to rounding: (m + 24) u of it, a sum of m terms >= 0."""
        m = F[0].numel()
        return (m + UNITS) * UNIT * self.value(F, y).to(torch.float64) + m * TINY

    def slope_rounding(self, F: Tensor, y: Tensor) -> Tensor:
        """What the slope of float64 outputs loses to rounding, Frobenius norm: 24 u |S|."""
        S = norm(self.slope(F.to(torch.float64), y))
        return UNITS * UNIT * S + F[0].numel() * TINY

    def domination(
        self, F: Tensor, y: Tensor, gap: Tensor | None = None, dF: Tensor | None = None
    ) -> Tensor:
        """The PL factor phi = |S|^2 / (2 (l - f*)) from below: f' <= (1 - 2 c eta sigma^2 phi) f.

        Args:
            F: Outputs.
            y: Labels.
            gap: The gap there, where it is known already.
            dF: Error of F, shape (R,); 0 where left out.

        Returns:
            Shape (R,); 0 where nothing can be said, as at a gap that is 0.
        """
        f = self.value(F, y) if gap is None else gap
        off = torch.zeros_like(f) if dF is None else dF
        h = self.curvature(torch.full_like(off, math.inf), y)
        lost = above(times(h, off)) + self.slope_rounding(F, y)
        S = below(norm(self.slope(F.to(torch.float64), y))) - lost
        top = f + self.error(F, y, off)
        S = torch.where(S > 0, S, 0.0)
        phi = below((S / top) * (S / 2.0))
        return torch.where((f > 0) & (S > 0) & torch.isfinite(phi), phi, 0.0)

    def directions(self, J: Tensor, y: Tensor) -> Tensor:
        """Rows of the Jacobian that a slope can meet, so that |J^T S| >= sigma_min |S|.

        Args:
            J: d F / d theta, shape (R, m, p), m = N times the outputs of a sample.
            y: Labels.

        Returns:
            J itself, or Q^T J with an orthonormal basis Q of all slopes.
        """
        del y
        return J


def finite(y: Tensor) -> None:
    """Refuses labels that are no real numbers or not finite.

    Args:
        y: The labels.

    Raises:
        InputError: They are complex, empty or not finite.
    """
    if y.is_complex() or y.ndim == 0 or y.numel() == 0:
        raise InputError(
            "y", f"{y.dtype} of shape {tuple(y.shape)}", "give real labels, (R, N, ...)"
        )
    bad = ~torch.isfinite(y)
    if bool(bad.any()):
        raise InputError("y", float(y[bad][0]), "give finite labels")


def matching(y: Tensor, shape: tuple[int, ...] | None) -> None:
    """Refuses labels of another shape than the outputs, but for the number of replicas.

    Args:
        y: The labels.
        shape: Shape of the outputs, or None.

    Raises:
        InputError: The shapes differ.
    """
    if shape is None or (tuple(y.shape[1:]) == tuple(shape[1:]) and y.shape[0] in (1, shape[0])):
        return
    raise InputError(
        "y", f"labels of shape {tuple(y.shape)}", f"give the shape of the outputs, {tuple(shape)}"
    )


def norm(x: Tensor) -> Tensor:
    """Euclidean norm over all axes but the first, shape (R,) and float64; squares cannot overflow.

    Args:
        x: Shape (R, ...).

    Returns:
        The norms, rounded up.

    Example:
        >>> norm(torch.tensor([[3e300, 4e300]], dtype=torch.float64)).item() / 1e300
        5.0...
    """
    flat = x.to(torch.float64).flatten(1)
    scale = flat.abs().amax(1)
    safe = torch.where((scale > 0) & torch.isfinite(scale), scale, 1.0)
    found = (flat / safe[:, None]).square().sum(1).sqrt() * safe
    return found * (1.0 + (flat.shape[1] + 8) * UNIT)


def times(a: Tensor, b: Tensor) -> Tensor:
    """A b, where an infinite bound times 0 is 0."""
    return torch.where((a == 0) | (b == 0), 0.0, a * b)


def above(x: Tensor) -> Tensor:
    """An upper bound made from a few operations, rounded up."""
    return x * (1.0 + 64 * UNIT)


def below(x: Tensor) -> Tensor:
    """A lower bound made from a few operations, rounded down."""
    return x * (1.0 - 64 * UNIT)
