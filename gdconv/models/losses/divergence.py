"""KL(q | softmax z) and its slope: every term non-negative, nothing subtracted.

For a row q with support Q and logits z put s = sum_Q q_c (z_c - log q_c), d_c = z_c - log q_c - s,
so that sum_Q q_c d_c = 0. Then

    KL = log(1 + t),  t = sum_Q q_c (e^(d_c) - 1 - d_c) + sum_{not Q} e^(z_c - s),
    p_c - q_c = q_c (e^(d_c) - 1 - t) / (1 + t) on Q,  p_c = e^(z_c - s) / (1 + t) elsewhere.

A one-hot row gives log(1 + sum_{c != y} e^(z_c - z_y)).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gdconv.rigor.rounding import TINY, UNIT

LARGEST = 600.0
"""Beyond it a plain log-sum-exp is used: it is so large there that nothing cancels."""

SERIES = 0.5
"""Below it e^x - 1 - x is summed as a series."""

TERMS = 16
"""0.5^16 / 18! is far below u times the first term."""


class Divergence(NamedTuple):
    """KL of each row, its slope in z, and what both lose to rounding.

    Attributes:
        value: KL(q | softmax z), shape (...).
        slope: softmax z - q, shape (..., C).
        value_bar: Bound on the error of `value`.
        slope_bar: Bound on the Euclidean error of `slope`.
    """

    value: Tensor
    slope: Tensor
    value_bar: Tensor
    slope_bar: Tensor


def divergence(z: Tensor, q: Tensor) -> Divergence:
    """KL(q | softmax z) of each row, q divided by its sum; see the head of this file.

    Args:
        z: Logits, shape (..., C), float64.
        q: Non-negative rows, broadcastable to z.

    Returns:
        Values, slopes and bars.

    Example:
        >>> z = torch.tensor([[1e-9, 0.0]], dtype=torch.float64)
        >>> divergence(z, torch.tensor([[0.5, 0.5]])).value.item()  # 1e-18 / 8
        1.25e-19
    """
    q = q.to(torch.float64)
    q = (q / q.sum(-1, keepdim=True)).expand_as(z)
    held = q > 0
    likely = q.amax(-1, keepdim=True)
    z = z - z.gather(-1, q.argmax(-1, keepdim=True))
    log_q = torch.where(held, q / likely, 1.0).log()  # a constant shift of log q moves d by nothing
    s = torch.where(held, q * (z - log_q), 0.0).sum(-1, keepdim=True)
    d = torch.where(held, z - log_q - s, 0.0)
    a = z - s + likely.log()
    e = a.clamp(max=LARGEST).exp()
    steep = d > 1.0
    flat = d.clamp(max=1.0)
    terms = torch.where(held, torch.where(steep, e - q * (1.0 + d), q * expm1_less(flat)), e)
    t = terms.sum(-1, keepdim=True)
    moved = torch.where(held, torch.where(steep, e - q, q * torch.expm1(flat)), e)
    slope = (moved - q * t) / (1.0 + t)
    far = a.amax(-1, keepdim=True) > LARGEST
    value = torch.where(far, torch.logsumexp(a, -1, keepdim=True), torch.log1p(t))
    slope = torch.where(far, torch.softmax(a, -1) - q, slope)

    # z is off by a rounding of its shift, d also by those of log q and s
    C = z.shape[-1]
    width = torch.where(held, z.abs() + log_q.abs(), 0.0).amax(-1, keepdim=True)
    mixed = (likely < 1.0).to(torch.float64)
    centre = mixed * (C + 8) * UNIT * (width + 1.0 - likely.log())
    off = 4 * UNIT * z.abs() + centre
    first = (slope.abs() * off).sum(-1, keepdim=True)
    share = -torch.expm1(-value)
    # 8 > e^2 is how much p can grow within off <= 1; where off > 1 the terms in u KL are larger
    second = 8 * ((slope + q).abs() * off.clamp(max=1.0) ** 2).sum(-1, keepdim=True)
    labels = (C + 4) * UNIT * (q * d.abs()).sum(-1, keepdim=True)
    value_bar = 2 * (first + share * centre + second + labels) + (C + 30) * UNIT * value + C * TINY
    parts = torch.where(far, 1.0, (moved.abs() + q * t).sum(-1, keepdim=True) / (1.0 + t))
    weight = slope.abs() + q  # d p_c = p_c sum_k p_k (off_c - off_k)
    others = (weight.sum(-1, keepdim=True) - weight).abs() + 4 * UNIT
    slope_bar = 4 * (weight * others * off.clamp(max=1.0)).sum(-1, keepdim=True)
    slope_bar = slope_bar + 2 * second + (C + 30) * UNIT * parts + C * TINY
    return Divergence(value[..., 0], slope, value_bar[..., 0], slope_bar[..., 0])


def expm1_less(x: Tensor) -> Tensor:
    """e^x - 1 - x >= 0 to a few ulp, x <= 1.

    Args:
        x: Any shape, float64.

    Returns:
        The same shape.

    Example:
        >>> expm1_less(torch.tensor([1e-8], dtype=torch.float64)).item()
        5.00000001...e-17
    """
    near = x.clamp(-SERIES, SERIES)
    total = torch.ones_like(x)
    for k in range(TERMS, 2, -1):
        total = 1.0 + total * near / k
    return torch.where(x.abs() < SERIES, 0.5 * near * near * total, torch.expm1(x) - x)
