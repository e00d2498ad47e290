"""Activations of the calculus: (value at 0, sup|s'|, Lipschitz constant of s', sup|s|).

Every number is rounded up. Where the extrema are:

- tanh: s'' = -2 t (1 - t^2) with t = tanh x, largest at t^2 = 1/3: 4 / (3 sqrt 3).
- sigmoid: s(x) = (1 + tanh(x/2)) / 2, so 1/8 of that for s''. Softplus has the sigmoid as slope.
- GELU: s' = Phi + x phi is largest at sqrt 2, s'' = (2 - x^2) phi at 0.
- GELU, tanh form: s = x g(2u), g the sigmoid, u = sqrt(2/pi) (x + 0.044715 x^3). On |x| <= 12 the
  two numbers were proved by ball arithmetic (the test does it again); beyond, g' and |g''| are at
  most exp(-1.59 |x|), so s' <= 1 + 1e-5 and |s''| <= 1e-3.
- SiLU: s'' = 1/2 at 0 is the largest; s' where x = 2 coth(x/2).
- erf: s'' = -4 x exp(-x^2) / sqrt(pi), largest at 1/sqrt 2: sqrt(8 / (pi e)).
"""

from __future__ import annotations

from math import inf
from typing import NamedTuple


class Activation(NamedTuple):
    """Bounds of an entrywise function s.

    Args:
        zero: |s(0)|.
        slope: sup|s'|.
        curvature: Lipschitz constant of s'.
        largest: sup|s|.
        below: The formula holds for arguments below this (torch's softplus is x beyond 20).

    Example:
        >>> ACTIVATIONS["tanh"].curvature
        0.769801
    """

    zero: float
    slope: float
    curvature: float
    largest: float = inf
    below: float = inf


ACTIVATIONS = {
    "tanh": Activation(0.0, 1.0, 0.769801, 1.0),
    "sigmoid": Activation(0.5, 0.25, 0.0962251, 1.0),
    "softplus": Activation(0.6931472, 1.0, 0.25),
    "gelu": Activation(0.0, 1.128905, 0.797885),
    "gelu-tanh": Activation(0.0, 1.129, 0.7979),
    "silu": Activation(0.0, 1.09984, 0.5),
    "sin": Activation(0.0, 1.0, 1.0, 1.0),
    "cos": Activation(1.0, 1.0, 1.0, 1.0),
    "erf": Activation(0.0, 1.12838, 0.967883, 1.0),
    "elu": Activation(0.0, 1.0, 1.0),
}
"""By name."""
