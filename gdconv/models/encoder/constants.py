"""Constants of the shallow encoder on a ball of weights: block norms of J, curvature, least radii.

With lambda_W = |W|_2 + radius, all for the loss-scaled outputs (tau_1 stands for
tau_1 sqrt(loss_scale)):

    |J_O| <= g_O = A_O lambda_V                |J_V| <= g_V = A_V lambda_O
    |J_Q| <= g_Q = A_Q lambda_K lambda_V lambda_O    |J_K| <= g_K = A_K lambda_Q lambda_V lambda_O
    |F_pre(W') - F_pre(W)| <= Lambda |(dW_V, dW_Q, dW_K)|,
    Lambda^2 = A_V^2 + lambda_V^2 (A_Q^2 lambda_K^2 + A_K^2 lambda_Q^2)

Proofs and every symbol: docs/theory/ntk-regime.md, "Constants". With padding every proof holds
sample by sample with its own n_i; n is the longest, fill_i = n_i / n.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf

import numpy as np
from numpy import sqrt

from gdconv.models.encoder.parameters import BLOCKS
from gdconv.models.encoder.point import EncoderPoint
from gdconv.models.multihead.constants import SOFTMAX_SECOND
from gdconv.rigor.lapack import spectral_norm

MOST_ROUNDS, FAR = 10_000, 1e12
"""The search for radii ends here: after so many rounds, or beyond such a radius."""

NUDGE = 1 + 1e-9
"""Radii are taken this much above the least, so that rounding leaves no inequality undecided."""


def _tokens(s: EncoderPoint) -> np.ndarray:
    """The tokens of the one replica, shape (N, n, D)."""
    (X,) = s.problem.X.cpu().double().numpy()
    return X


@dataclass(frozen=True)
class DataConstants:
    """What data, tau_0 and tau_1 contribute to the block norms of J: A_O, A_V, A_Q, A_K."""

    A_O: float
    A_V: float
    A_Q: float
    A_K: float

    @classmethod
    def plain(cls, s: EncoderPoint) -> DataConstants:
        """Constants of C-ReLU: rho = sqrt(N) n^(3/2) tau_1 C_x and rho tau_0 C_x^2 sqrt(n) / 2."""
        rho = sqrt(s.N) * s.n**1.5 * s.model.scale * s.C_x
        score = rho * s.model.tau_0 * s.C_x**2 * sqrt(s.n) / 2
        return cls(rho, rho, score, score)

    @classmethod
    def printed(cls, s: EncoderPoint) -> DataConstants:
        """The constants that the paper's formula has, read from memory: 2 rho tau_0 C_x^2 n."""
        rho = sqrt(s.N) * s.n**1.5 * s.model.scale * s.C_x
        score = 2 * rho * s.model.tau_0 * s.C_x**2 * s.n
        return cls(rho, rho, score, score)

    @classmethod
    def sharp(cls, s: EncoderPoint) -> DataConstants:
        """From the samples themselves, with t_i = |X_i - mean token|_2; never above `plain`."""
        X, t, root = _tokens(s), s.t, np.sqrt(s.fill)
        longest = np.linalg.norm(X, axis=2).max(1)
        scale, stacked = s.model.scale, (-1, s.D)
        A_O = scale * s.n * float(np.linalg.norm(s.fill * longest))
        filled = s.fill[:, None, None] * X
        score = s.model.tau_0 * scale * sqrt(s.n) / 2

        def spread(weights: np.ndarray, tokens: np.ndarray) -> float:
            rows = (weights[:, None, None] * tokens).reshape(stacked)
            return score * float(spectral_norm(rows))

        return cls(
            A_O,
            min(A_O, scale * s.n * float(spectral_norm(filled.reshape(stacked)))),
            spread(root * t**2, X),
            spread(root * t * s.x, s.centred),
        )


@dataclass(frozen=True)
class EncoderConstants:
    """The constants at one start with radii C_W; see the module.

    Attributes:
        start: Where the ball is centred.
        data: A_O, A_V, A_Q, A_K.
        radii: C_W by block.
        cap: Upper bound of |F_pre| on the ball that replaces A_O lambda_V where it is smaller.
    """

    start: EncoderPoint
    data: DataConstants
    radii: dict[str, float]
    cap: float = inf

    def reach(self, block: str) -> float:
        """lambda_W = |W|_2 + C_W."""
        return self.start.norm(block) + self.radii[block]

    def g(self, block: str) -> float:
        """Bound of |J_W| on the ball."""
        Q, K, V, O = (self.reach(b) for b in BLOCKS)  # noqa: E741
        data = self.data
        return {
            "w_O": min(data.A_O * V, self.cap),
            "W_V": data.A_V * O,
            "W_Q": data.A_Q * K * V * O,
            "W_K": data.A_K * Q * V * O,
        }[block]

    @property
    def Lambda_squared(self) -> float:
        """Lambda^2; the theory's rho^2 z is lambda_O^2 Lambda^2."""
        Q, K, V, _ = (self.reach(b) for b in BLOCKS)
        return self.data.A_V**2 + V**2 * (self.data.A_Q**2 * K**2 + self.data.A_K**2 * Q**2)

    def delta(self) -> float:
        """delta = 2 lambda_O Lambda^2 r_0 / alpha^3: F_pre moves by at most delta alpha."""
        alpha = self.start.alpha.lo
        return 2 * self.reach("w_O") * self.Lambda_squared * self.start.r_0 / alpha**3

    def G_squared(self) -> float:
        """|J|^2 <= G^2 = g_O^2 + lambda_O^2 Lambda^2."""
        return self.g("w_O") ** 2 + self.reach("w_O") ** 2 * self.Lambda_squared

    def curved(self) -> float:
        """Second-order part (dd + sqrt(dd^2 + cc^2)) / 2 of the smooth pieces of the activation."""
        s, (Q, K, V, O) = self.start, (self.reach(b) for b in BLOCKS)  # noqa: E741
        tau, pair = s.model.tau_0, sqrt(Q**2 + K**2)
        E, E_3 = s.spreads
        front = s.model.scale * O * sqrt(s.n)
        mixed = front * tau * E * pair
        own = front * V * (SOFTMAX_SECOND * tau**2 * E_3 * pair**2 + tau * E / 2)
        return (own + sqrt(own**2 + mixed**2)) / 2

    def M_2(self, largest_entry: float) -> float:
        """Lipschitz constant of J for a twice differentiable activation.

        Args:
            largest_entry: Bound of the entries of w_O where it is to hold.

        Returns:
            M_2 = (B + sqrt(B^2 + 4 Lambda^2)) / 2.
        """
        s, (Q, K, V, O) = self.start, (self.reach(b) for b in BLOCKS)  # noqa: E741
        longest = np.linalg.norm(_tokens(s), axis=2).max(1)
        turned = V * s.model.tau_0 * s.t**2 * s.x / 2 * sqrt(Q**2 + K**2)
        fourth = float(np.linalg.norm(s.n * s.fill * longest**2 + turned**2))
        entry = min(O, largest_entry)
        B = s.model.scale * s.model.act.curvature * entry * fourth + self.curved()
        return (B + sqrt(B**2 + 4 * self.Lambda_squared)) / 2

    def L(self) -> float:
        """L = G^2 + M_2 r_0, a Lipschitz constant of the gradient where the loss is not above."""
        entry = float(np.abs(self.start.arrays["w_O"]).max()) + self.radii["w_O"]
        return self.G_squared() + self.M_2(entry) * self.start.r_0


def least_radii(
    start: EncoderPoint, data: DataConstants, factor: float, sharpen: bool = False
) -> EncoderConstants | None:
    """Constants at the least radii with alpha^2 C_W >= factor g_W(C) r_0 for every block.

    The least fixed point of an increasing map, from below; every other condition is monotone in the
    radii, so none are better (docs/theory/ntk-regime.md, "Radii"). With `sharpen`, |J_O| is bounded
    by |F_pre| + delta alpha as well, and delta grows along.

    Args:
        start: The run at step 0.
        data: Its data constants.
        factor: 8, 4 or 2.
        sharpen: Whether delta = 2 lambda_O Lambda^2 r_0 / alpha^3 bounds the drift of F_pre.

    Returns:
        The constants, or None when no radii satisfy it.

    Example:
        >>> from gdconv.models.encoder.model import ShallowEncoder
        >>> from gdconv.models.encoder.parameters import initialize_encoder
        >>> from gdconv.data.problem import Problem
        >>> problem = Problem.per_sample(np.eye(4).reshape(2, 2, 4), np.array([1e-3, 0.0]))
        >>> start = EncoderPoint(ShallowEncoder(1 / 64, 1.0), problem,
        ...     initialize_encoder("zero-output", (64, 4), 0))
        >>> made = least_radii(start, DataConstants.plain(start), 4.0)
        >>> made is not None and bool(0 < made.radii["w_O"] < 0.1)
        True
    """
    alpha = start.alpha.lo
    if not alpha > 0:
        return None
    largest = start.feature_range[1].hi
    made = EncoderConstants(start, data, dict.fromkeys(BLOCKS, 0.0))
    share = NUDGE * factor * start.r_0 / alpha**2
    for _ in range(MOST_ROUNDS):
        cap = largest + min(made.delta(), 1.0) * alpha if sharpen else inf
        made = replace(made, cap=cap)
        radii = {b: share * made.g(b) for b in BLOCKS}
        if not max(radii.values()) < FAR:
            return None
        settled = all(radii[b] <= made.radii[b] * (1 + 1e-12) for b in BLOCKS)
        made = replace(made, radii=radii)
        if settled:
            return made
    return None
