"""Cross-entropy over C classes, for class indices, one-hot rows and soft rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gdconv.models.losses.base import Loss, above, below, finite, matching
from gdconv.models.losses.divergence import Divergence, divergence
from gdconv.models.losses.slope_sums import bend, flattest, steepest
from gdconv.rigor.rounding import UNIT
from gdconv.support.errors import InputError

OFF_ONE = 1e-6
"""How far the sum of a row may be from 1: rows of float32 are; each is divided by its sum."""


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """l(F) = -sum_i sum_c q_ic log p_ic, p = softmax of the last axis of F, shape (R, N, C).

    Labels are integers, the classes, shape (R, N), or floats, the rows q, shape (R, N, C). The gap
    is sum KL(q | p): l itself for one-hot rows, where f* = 0 is not attained; rows without a zero
    attain the sum of their entropies.

    Example:
        >>> F = torch.tensor([[[2.0, 2.0, -900.0]]], dtype=torch.float64)
        >>> round(CrossEntropy().value(F, torch.tensor([[1]])).item(), 6)
        0.693147
        >>> CrossEntropy().value(F, torch.tensor([[[0.5, 0.5, 0.0]]])).item()
        0.0
    """

    name: ClassVar[str] = "cross-entropy"
    steepening: ClassVar[float | None] = math.sqrt(2.0)

    def check(self, y: Tensor, shape: tuple[int, ...] | None = None) -> None:
        """Classes in range, or rows of non-negative numbers that sum to one.

        Args:
            y: The labels.
            shape: Shape of the outputs, where it is known.

        Raises:
            InputError: Other labels, another shape, or fewer than two classes.
        """
        finite(y)
        if shape is not None and (len(shape) < 2 or shape[-1] < 2):
            raise InputError("F", f"outputs of shape {tuple(shape)}", "give 2 logits or more a row")
        if y.dtype == torch.bool:
            raise InputError("y", "labels of type bool", "give class indices, or rows of floats")
        if not y.is_floating_point():
            matching(y, None if shape is None else shape[:-1])
            most = math.inf if shape is None else shape[-1] - 1
            bad = y[(y < 0) | (y > most)]
            if bad.numel():
                upto = "from 0 on" if shape is None else f"among 0, ..., {most}"
                raise InputError("y", int(bad[0]), f"give class indices {upto}")
            return
        matching(y, shape)
        if bool((y < 0).any()):
            raise InputError("y", float(y.min()), "give rows of non-negative numbers")
        sums = y.to(torch.float64).sum(-1)
        off = (sums - 1).abs()
        if bool((off > OFF_ONE).any()):
            found = float(sums.flatten()[off.argmax()])
            raise InputError("y", f"a row that sums to {found:g}", "give rows that sum to 1")

    def targets(self, y: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Rows of zeros and a one in the place of class indices.

        Args:
            y: Labels as given, float64.
            shape: Shape of the outputs.

        Returns:
            Rows q, shape (R, N, C).

        Raises:
            InputError: Class indices that are no whole numbers or not below C.
        """
        if y.ndim != len(shape) - 1:
            return y
        whole = y.long()
        if bool((whole != y).any()):
            raise InputError("y", float(y[whole != y][0]), "give class indices, or rows of floats")
        self.check(whole, (y.shape[0], *shape[1:]))
        return torch.nn.functional.one_hot(whole, shape[-1]).to(y.dtype)

    def value(self, F: Tensor, y: Tensor) -> Tensor:
        """Sum KL(q | p), shape (R,)."""
        return _divergence(F, y).value.flatten(1).sum(1)

    def slope(self, F: Tensor, y: Tensor) -> Tensor:
        """p - q; each row sums to 0."""
        return _divergence(F, y).slope.to(F.dtype)

    def curvature(self, gap: Tensor, y: Tensor) -> Tensor:
        """2 e^(-gap) (1 - e^(-gap)), 1/2 from gap = log 2 on; 1/2 unless one-hot. Attained."""
        return 2.0 * bend(gap) if _one_hot(y) else torch.full_like(gap, 0.5)

    def curvature_at(self, F: Tensor, y: Tensor) -> Tensor:
        """2 max p_c (1 - p_c) >= lambda_max(diag p - p p^T) (Gershgorin)."""
        del y
        p = torch.softmax(F.to(torch.float64), -1)
        first = p.argmax(-1, keepdim=True)
        others = p.scatter(-1, first, 0.0)
        most = (others * (1 - others)).amax(-1)
        most = torch.maximum(most, p.amax(-1) * others.sum(-1))
        return 2.0 * above(most.flatten(1).amax(1) * (1 + 2 * p.shape[-1] * UNIT))

    def least(self, y: Tensor) -> Tensor:
        """The sum of the entropies of the rows."""
        if not y.is_floating_point():
            return super().least(y)
        q = y.to(torch.float64)
        q = q / q.sum(-1, keepdim=True)
        return -torch.xlogy(q, q).flatten(1).sum(1)

    def attained(self, y: Tensor) -> bool:
        """Where no row has a zero."""
        return y.is_floating_point() and bool((y > 0).all())

    def slope_bound(self, gap: Tensor, y: Tensor) -> Tensor:
        """One-hot: sqrt(2) times that of the logistic loss; else sqrt(gap) by Pinsker."""
        N = _samples(y)
        if _one_hot(y):
            return above(math.sqrt(2.0) * steepest(gap, N))
        return above(gap.sqrt().clamp(max=math.sqrt(2.0 * N)))

    def linear_domination(self, gap: Tensor, y: Tensor) -> Tensor:
        """The least q less sqrt(gap/2): diag p - p p^T >= min p off the all-ones vector."""
        if not self.attained(y):
            return torch.zeros_like(gap)
        q = y.to(torch.float64)
        q = q / q.sum(-1, keepdim=True)
        room = below(q.flatten(1).amin(1)) - above((0.5 * gap).sqrt())
        return torch.where(room > 0, room, 0.0)

    def riccati_domination(self, gap: Tensor, y: Tensor) -> Tensor:
        """One-hot: sqrt(C/(C-1)) times that of the logistic loss, 1 for an unknown C."""
        if not _one_hot(y):
            return super().riccati_domination(gap, y)
        C = y.shape[-1] if y.is_floating_point() else math.inf
        return below(
            (1.0 if math.isinf(C) else math.sqrt(C / (C - 1))) * flattest(gap, _samples(y))
        )

    def rounding(self, F: Tensor, y: Tensor) -> Tensor:
        """What log q and p - q lose, and the sum over samples."""
        at = _divergence(F, y)
        return at.value_bar.flatten(1).sum(1) + at.value.flatten(1).sum(1) * F[0].numel() * UNIT

    def slope_rounding(self, F: Tensor, y: Tensor) -> Tensor:
        """What log q and p - q lose."""
        return above(_divergence(F, y).slope_bar.flatten(1).square().sum(1).sqrt())

    def directions(self, J: Tensor, y: Tensor) -> Tensor:
        """Q^T J, N (C - 1) rows: shifts of all logits of a sample, which no slope meets, left out.

        Args:
            J: d F / d theta, shape (R, N C, p).
            y: Labels.

        Returns:
            Shape (R, N (C - 1), p); Q is orthonormal within a few u.
        """
        N = _samples(y)
        R, m, p = J.shape
        Q = contrasts(m // N).to(J)
        return torch.einsum("rncp,ck->rnkp", J.reshape(R, N, m // N, p), Q).reshape(R, -1, p)


def contrasts(C: int) -> Tensor:
    """An orthonormal basis of the vectors of C entries that sum to zero (Helmert), (C, C - 1).

    Args:
        C: Number of classes.

    Returns:
        Column k has k equal entries, then minus their sum, then zeros.

    Example:
        >>> (contrasts(2) * 2**0.5).flatten().tolist()
        [1.0, -1.0]
    """
    Q = torch.zeros(C, C - 1, dtype=torch.float64, device="cpu")
    for k in range(1, C):
        Q[:k, k - 1] = 1.0
        Q[k, k - 1] = -k
        Q[:, k - 1] /= math.sqrt(k * (k + 1))
    return Q


def _samples(y: Tensor) -> int:
    return y[0].numel() // (y.shape[-1] if y.is_floating_point() else 1)


def _one_hot(y: Tensor) -> bool:
    return not y.is_floating_point() or bool(((y == 0) | (y == 1)).all())


def _divergence(F: Tensor, y: Tensor) -> Divergence:
    z = F.to(torch.float64)
    if y.is_floating_point():
        return divergence(z, y)
    return divergence(z, torch.nn.functional.one_hot(y.long(), z.shape[-1]).to(z))
