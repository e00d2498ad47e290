"""Lipschitz constants of the multi-head model on a ball: G^2, M_2 and the drift of B.

With lambda_W,h = |W_h|_2 + radius the constants hold on { |W_h - W_h(theta)|_2 <= radius }:

* |J|^2 <= G^2,  |J(theta') - J(theta)| <= M_2 |theta' - theta|,  so L = G^2 + M_2 r_0 bounds the
  Lipschitz constant of grad f along a segment on which f does not exceed f_0.

Proofs and the meaning of every symbol: docs/theory/full-gd.md, "Constants". With padding every
proof holds sample by sample with its own n_i; n is the longest, n^q s_p,q^2 = sum_i n_i^q a_i^p.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import e, sqrt

import numpy as np

from gdconv.models.multihead.point import MultiHeadPoint
from gdconv.rigor.lapack import spectral_norm

SOFTMAX_SECOND = sqrt(6) / 9
"""Sharp norm of the second derivative of softmax."""


@dataclass(frozen=True)
class Radii:
    """How far each block may move, in spectral norm: one number for all heads, or one per head.

    Attributes:
        C_Q: Radius of W_Q.
        C_K: Radius of W_K.
        C_V: Radius of W_V.

    Example:
        >>> Radii.joint(0.5).C_V
        0.5
    """

    C_Q: float | np.ndarray
    C_K: float | np.ndarray
    C_V: float | np.ndarray

    @staticmethod
    def joint(rho: float) -> Radii:
        """One ball of radius rho for all blocks together."""
        return Radii(rho, rho, rho)


class Constants:
    """The constants of the theory at one start, on one ball.

    Args:
        start: Where the ball is centred.
        radii: Its radii.

    Example:
        >>> # used as Constants(start, Radii.joint(rho)).M_2()
        >>> from gdconv.models.multihead.constants import Radii
    """

    def __init__(self, start: MultiHeadPoint, radii: Radii) -> None:
        self.start, self.radii = start, radii
        self.softmax = start.kernel == "softmax"
        self.lambda_Q = start.norm("W_Q") + radii.C_Q
        self.lambda_K = start.norm("W_K") + radii.C_K
        self.lambda_V = start.norm("W_V") + radii.C_V

    @property
    def Lambda(self) -> np.ndarray:
        """(lambda_Q^2 + lambda_K^2)^(1/2), per head."""
        return np.hypot(self.lambda_Q, self.lambda_K)

    @property
    def epsilon(self) -> float:
        """eps = (2 n / (e sqrt d))^(1/2), Lipschitz constant of the longest sample's weights."""
        return sqrt(2 * self.start.n / (e * sqrt(self.start.d)))

    def g_V(self) -> np.ndarray:
        """|J_V,h| <= g_V: sqrt(n) s_2,1 O_h (softmax), n s_2,2 O_h (Gaussian)."""
        n, s = self.start.n, self.start.s
        return (sqrt(n) * s(2, 1) if self.softmax else n * s(2, 2)) * self.start.O

    def g_Q(self) -> np.ndarray:
        """Softmax: |J_Q,h| <= s_6 lambda_K lambda_V O_h / (2 sqrt d)."""
        return self._score_slope() * self.lambda_K * self.lambda_V * self.start.O

    def g_K(self) -> np.ndarray:
        """Softmax: |J_K,h| <= s_6 lambda_Q lambda_V O_h / (2 sqrt d)."""
        return self._score_slope() * self.lambda_Q * self.lambda_V * self.start.O

    def g_QK(self) -> np.ndarray:
        """Gaussian: |(J_Q,h, J_K,h)| <= eps s_4,1 lambda_V O_h."""
        return self.epsilon * self.start.s(4, 1) * self.lambda_V * self.start.O

    def _score_slope(self) -> float:
        return self.start.s(6) / (2 * sqrt(self.start.d))

    def G_squared(self) -> float:
        """G^2 = sum_h of the squared block norms."""
        if self.softmax:
            return float((self.g_V() ** 2 + self.g_Q() ** 2 + self.g_K() ** 2).sum())
        return float((self.g_V() ** 2 + self.g_QK() ** 2).sum())

    def M_2(self) -> float:
        """M_2 = max_h (sum_i c_ih^2)^(1/2), the Lipschitz constant of theta -> J(theta)."""
        s, d = self.start, self.start.d
        a, part = s.a[:, None], np.sqrt(s.fill)[:, None]
        if self.softmax:
            curved = self.lambda_V * (
                SOFTMAX_SECOND * a**5 * self.Lambda**2 / d + a**3 / (2 * sqrt(d))
            )
            c = s.O * (curved + a**3 * self.Lambda / (2 * sqrt(d)))
        else:
            own = 2 * sqrt(s.n) * self.lambda_V * a**3 / sqrt(d) + self.epsilon * a**2
            c = part * s.O * own
        return float(np.sqrt((c**2).sum(0)).max())

    def delta(self) -> float:
        """|J_V(theta') - J_V(theta)| <= delta |theta' - theta|: the drift of the value features."""
        if self.softmax:
            return float(self._score_slope() * (self.start.O * self.Lambda).max())
        return float(self.epsilon * self.start.s(4, 1) * self.start.O.max())


class QueryConstants:
    """Constants of W_Q -> J_Q, global in W_Q, at one start (docs/theory/query-gd.md, "Constants").

    Args:
        start: Gives the tokens, W_K, W_V and W_O, which do not move.

    Example:
        >>> from gdconv.checks.prepare import prepare
        >>> from gdconv.support.config import Config
        >>> start = prepare(Config("full-gd", problem="stacked-witness")).starts[0]
        >>> QueryConstants(start).M_2()
        0.0
    """

    def __init__(self, start: MultiHeadPoint) -> None:
        self.start, self.softmax = start, start.kernel == "softmax"
        values = start.arrays["W_V"] @ start.arrays["W_O"]
        self.vo = spectral_norm(values)
        """vo_h = |W_V,h W_O,h|_2."""

    def M_2(self) -> float:
        """(sqrt 6/9)(s_10/d) max_h |W_K,h|^2 vo_h; Gaussian (sqrt n s_6,1/sqrt d) max_h vo_h."""
        s, d = self.start, self.start.d
        if self.softmax:
            return float(SOFTMAX_SECOND * s.s(10) / d * (s.norm("W_K") ** 2 * self.vo).max())
        return float(sqrt(s.n) * s.s(6, 1) / sqrt(d) * self.vo.max())

    def G_squared(self) -> float:
        """(s_6^2/(4d)) sum_h |W_K,h|^2 vo_h^2; Gaussian (n s_4,1^2/(e sqrt d)) sum_h vo_h^2."""
        s, d = self.start, self.start.d
        if self.softmax:
            return float(s.s(6) ** 2 / (4 * d) * (s.norm("W_K") ** 2 * self.vo**2).sum())
        return float(s.n * s.s(4, 1) ** 2 / (e * sqrt(d)) * (self.vo**2).sum())
