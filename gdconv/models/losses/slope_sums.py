"""Sums of s_i = 1 - e^(-l_i) under a given sum of l_i: the slopes of losses with a tail.

phi(x) = (1 - e^(-x))^2 is convex up to log 2 and concave beyond, phi(x)/x grows up to l0 = 1.2564.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gdconv.models.losses.base import above, below

LOG2 = math.log(2.0)

TURN = 1.2564312086261697
"""l0, where 2 l0 = e^(l0) - 1: phi(x)/x is greatest."""


def steepest(f: Tensor, N: int) -> Tensor:
    """The greatest (sum s_i^2)^(1/2) of N terms with sum l_i <= f.

    1 - e^(-f) up to l0 (phi is superadditive there), sqrt(N) (1 - e^(-f/N)) from N l0 on (Jensen
    for the concave hull), both attained; between them the hull itself, sqrt(f phi(l0)/l0), attained
    at every multiple of l0.

    Args:
        f: Bounds of the sum, shape (R,).
        N: Number of terms.

    Returns:
        Upper bounds, shape (R,).

    Example:
        >>> steepest(torch.tensor([0.01, 1e9], dtype=torch.float64), 4).tolist()
        [0.00995..., 2.0...]
    """
    one, all_ = -torch.expm1(-f), -torch.expm1(-f / N) * math.sqrt(N)
    hull = (f * (math.expm1(-TURN) ** 2 / TURN)).sqrt()
    return above(torch.where(f <= TURN, one, torch.where(f >= N * TURN, all_, hull)))


def flattest(f: Tensor, N: int) -> Tensor:
    """A k with (sum s_i^2)^(1/2) >= k sum l_i for N terms whenever sum l_i <= f.

    phi on [0, t] continued by its tangent at t is convex, and below phi on [0, f] if the tangent is
    below phi at f; so sum phi(l_i) >= N times it at f'/N, and the quotient by f'^2 falls in f'
    because the tangent is zero at or before t/2: phi(t) >= t phi'(t)/2 (e^t - 1 >= t). The simpler
    psi(f)/sqrt(N), psi(x) = (1 - e^(-x))/x, is used where it is larger.

    Args:
        f: Bounds of the sum, shape (R,).
        N: Number of terms.

    Returns:
        Lower bounds, shape (R,).

    Example:
        >>> flattest(torch.tensor([1e-9, 1.0], dtype=torch.float64), 1).tolist()
        [0.99..., 0.63...]
    """
    whole = torch.expm1(-f) ** 2
    low, high = torch.zeros_like(f), f.clamp(max=LOG2)
    for _ in range(60):
        t = 0.5 * (low + high)
        fits = _tangent(t, f) <= below(whole)
        low, high = torch.where(fits, t, low), torch.where(fits, high, t)
    t = torch.where(f <= LOG2, f, low)
    u = f / N
    spread = torch.where(u <= t, torch.expm1(-u) ** 2, _tangent(t, u))
    positive = torch.where(f > 0, f, 1.0)
    hull = (N * spread).sqrt() / positive
    plain = -torch.expm1(-f) / positive / math.sqrt(N)
    k = torch.maximum(plain, torch.where(torch.isfinite(hull), hull, 0.0))
    return below(torch.where(f > 0, k, 1.0 / math.sqrt(N)))


def bend(f: Tensor) -> Tensor:
    """The greatest s (1 - s) for 1 - s >= e^(-f): 1/4 from f = log 2 on."""
    return above(torch.where(f >= LOG2, 0.25, -torch.expm1(-f) * torch.exp(-f)))


def _tangent(t: Tensor, x: Tensor) -> Tensor:
    """The tangent of phi at t, at x."""
    s = -torch.expm1(-t)
    return s * s + 2.0 * s * torch.exp(-t) * (x - t)
