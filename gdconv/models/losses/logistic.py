"""The logistic loss, with labels of either sign or with soft labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gdconv.models.losses.base import Loss, above, below, finite, matching
from gdconv.models.losses.divergence import Divergence, divergence
from gdconv.models.losses.slope_sums import bend, flattest, steepest
from gdconv.rigor.rounding import UNIT
from gdconv.support.errors import InputError


@dataclass(frozen=True)
class Logistic(Loss):
    """l(F) = sum log(1 + e^(-y F)), y = -1 or 1; or soft labels q, 0 < q < 1.

    With signs f* = 0 is not attained, and |S| >= k l with k = psi(l)/sqrt(N) or better: the rate is
    1/t, not geometric. With soft labels, l(F) = sum log(1 + e^F) - q F, f* is the sum of the
    entropies, attained at F = log(q/(1-q)); the gap is sum KL(q | p), p = 1/(1 + e^(-F)).

    Example:
        >>> F = torch.tensor([[0.0, 800.0]], dtype=torch.float64)
        >>> round(Logistic().value(F, torch.tensor([[1.0, 1.0]])).item(), 6)
        0.693147
        >>> Logistic().value(F, torch.tensor([[1.0, -1.0]])).item() > 800
        True
        >>> Logistic().value(F[:, :1], torch.tensor([[0.5]])).item()
        0.0
    """

    name: ClassVar[str] = "logistic"
    steepening: ClassVar[float | None] = 1.0

    def check(self, y: Tensor, shape: tuple[int, ...] | None = None) -> None:
        """Labels are all -1 or 1, or all strictly between 0 and 1.

        Args:
            y: The labels.
            shape: Shape of the outputs, where it is known.

        Raises:
            InputError: Other labels, or another shape.
        """
        finite(y)
        if not (_signs(y) or _soft(y)):
            bad = y[(y.abs() != 1) & ~((y > 0) & (y < 1))]
            value = bad[0].item() if bad.numel() else "signs and soft labels mixed"
            remedy = "give labels -1 and 1, or soft labels strictly between 0 and 1"
            raise InputError("y", value, remedy)
        matching(y, shape)

    def value(self, F: Tensor, y: Tensor) -> Tensor:
        """Sum log(1 + e^(-m)), for m < 0 as -m + log1p(e^m); KL for soft labels. Shape (R,)."""
        if not _signs(y):
            return _divergence(F, y).value.flatten(1).sum(1)
        m = F.to(torch.float64) * y
        terms = torch.relu(-m) + torch.log1p(torch.exp(-m.abs()))
        return terms.flatten(1).sum(1)

    def slope(self, F: Tensor, y: Tensor) -> Tensor:
        """-y/(1 + e^m), or p - q."""
        if not _signs(y):
            return _divergence(F, y).slope[..., 0].to(F.dtype)
        return (-y * torch.sigmoid(-F.to(torch.float64) * y)).to(F.dtype)

    def curvature(self, gap: Tensor, y: Tensor) -> Tensor:
        """e^(-gap) (1 - e^(-gap)), 1/4 from gap = log 2 on; 1/4 for soft labels. Attained."""
        return bend(gap) if _signs(y) else torch.full_like(gap, 0.25)

    def curvature_at(self, F: Tensor, y: Tensor) -> Tensor:
        """The greatest p (1 - p)."""
        del y
        z = F.to(torch.float64)
        return above((torch.sigmoid(z) * torch.sigmoid(-z)).flatten(1).amax(1))

    def least(self, y: Tensor) -> Tensor:
        """0, or the sum of the entropies of (q, 1 - q)."""
        if _signs(y):
            return super().least(y)
        q = y.to(torch.float64)
        return -(torch.xlogy(q, q) + (1 - q) * torch.log1p(-q)).flatten(1).sum(1)

    def attained(self, y: Tensor) -> bool:
        """For soft labels."""
        return not _signs(y)

    def slope_bound(self, gap: Tensor, y: Tensor) -> Tensor:
        """The greatest |S| of all F with this gap; sqrt(gap/2) by Pinsker for soft labels."""
        N = y[0].numel()
        if _signs(y):
            return steepest(gap, N)
        return above((0.5 * gap).sqrt().clamp(max=N**0.5))

    def linear_domination(self, gap: Tensor, y: Tensor) -> Tensor:
        """Soft labels: the least p (1 - p) over |p - q| <= sqrt(gap/2); signs: 0."""
        if _signs(y):
            return torch.zeros_like(gap)
        q = y.to(torch.float64)
        side = torch.minimum(q, 1 - q).flatten(1).amin(1)
        room = below(side) - above((0.5 * gap).sqrt())
        return torch.where(room > 0, below(room * (1 - room)), 0.0)

    def riccati_domination(self, gap: Tensor, y: Tensor) -> Tensor:
        """Signs: |S| >= k l where l <= gap, at least psi(gap)/sqrt(N)."""
        return flattest(gap, y[0].numel()) if _signs(y) else super().riccati_domination(gap, y)

    def rounding(self, F: Tensor, y: Tensor) -> Tensor:
        """(N + 24) u of the value; for soft labels also what log q and p - q lose."""
        if _signs(y):
            return super().rounding(F, y)
        at = _divergence(F, y)
        return at.value_bar.flatten(1).sum(1) + at.value.flatten(1).sum(1) * F[0].numel() * UNIT

    def slope_rounding(self, F: Tensor, y: Tensor) -> Tensor:
        """24 u |S|; for soft labels also what log q loses."""
        if _signs(y):
            return super().slope_rounding(F, y)
        return above(_divergence(F, y).slope_bar.flatten(1).square().sum(1).sqrt())


def _signs(y: Tensor) -> bool:
    return bool((y.abs() == 1).all())


def _soft(y: Tensor) -> bool:
    return bool(((y > 0) & (y < 1)).all())


def _divergence(F: Tensor, y: Tensor) -> Divergence:
    """The logits (F, 0) against (q, 1 - q)."""
    z, q = F.to(torch.float64), y.to(torch.float64)
    return divergence(torch.stack([z, torch.zeros_like(z)], -1), torch.stack([q, 1 - q], -1))
