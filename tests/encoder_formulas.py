"""The encoder's constants once more, written from docs/theory/ntk-regime.md for the tests.

Nothing here calls gdconv: loops over tokens, spectral norms as roots of eigenvalues of Gram
matrices, softmax's second derivative as the number 6^(1/2) / 9.
"""

from __future__ import annotations

from copy import copy
from math import pi, sqrt
from typing import Any

import numpy as np

KAPPA = {"gelu": 2 / sqrt(2 * pi) / 1.12891 * (1 + 1e-12), "silu": 0.5 / 1.09984 * (1 + 1e-12)}
"""Greatest |s''| of the rescaled activations, and what their rounding may add."""

BLOCKS = ("w_O", "W_V", "W_Q", "W_K")


def length(v: Any) -> float:
    """Euclidean norm of all entries."""
    return sqrt(sum(float(x) ** 2 for x in np.asarray(v).ravel()))


def spectral(M: Any) -> float:
    """|M|_2 by the Gram matrix of the shorter side, scaled against overflow."""
    M = np.asarray(M, dtype=float)
    M = M.reshape(1, -1) if M.ndim == 1 else M
    top = float(np.abs(M).max())
    if top == 0.0:
        return 0.0
    M = M / top
    M = M if M.shape[0] <= M.shape[1] else M.T
    gram = [[sum(float(a) * float(b) for a, b in zip(u, v, strict=True)) for v in M] for u in M]
    return top * sqrt(float(np.linalg.eigvalsh(np.array(gram))[-1]))


class Formulas:
    """All constants of the page "Constants" and Lemma E3 at given weights and radii.

    Args:
        X: Tokens, (N, n, D).
        W: Weights by block.
        tau_0: Factor of the scores.
        c: tau_1 sqrt(loss_scale).
        kind: plain, printed or sharp.
        radii: C_W by block.
        cap: Another bound of |F_pre|.
    """

    def __init__(
        self, X: Any, W: dict[str, Any], tau_0: float, c: float, kind: str = "sharp",
        radii: dict[str, float] | None = None, cap: float = float("inf"),
    ) -> None:  # fmt: skip
        self.X, self.tau_0, self.c, self.cap = np.asarray(X, dtype=float), tau_0, c, cap
        self.N, self.n, self.D = self.X.shape
        self.norms = {b: spectral(W[b]) for b in BLOCKS}
        self._reach(radii or dict.fromkeys(BLOCKS, 0.0))
        self.hat = [max(length(x) for x in tokens) for tokens in self.X]
        self.centred = [tokens - sum(tokens) / self.n for tokens in self.X]
        self.a = [spectral(tokens) for tokens in self.X]
        self.t = [spectral(tokens) for tokens in self.centred]
        self.A_O, self.A_V, self.A_Q, self.A_K = getattr(self, f"_{kind}")()

    def _reach(self, radii: dict[str, float]) -> None:
        self.radii = radii
        self.O, self.V, self.Q, self.K = (self.norms[b] + radii[b] for b in BLOCKS)

    def at(self, radii: dict[str, float], cap: float = float("inf")) -> Formulas:
        """The same data with other radii."""
        made = copy(self)
        made._reach(radii)
        made.cap = cap
        return made

    def least(
        self, factor: float, alpha: float, r_0: float, top: float = float("inf")
    ) -> Formulas | None:
        """At the least radii C_W = factor g_W r_0 / alpha^2 (Lemma R); None where they run away.

        Args:
            factor: kappa.
            alpha: sigma_min(F_pre).
            r_0: Residual norm.
            top: |F_pre|; then |F_pre| + min(delta, 1) alpha is a cap of |J_O|.

        Returns:
            The formulas there.
        """
        here = self.at(dict.fromkeys(BLOCKS, 0.0))
        for _ in range(2000):
            cap = top + min(here.delta(alpha, r_0), 1.0) * alpha
            radii = {b: factor * g * r_0 / alpha**2 for b, g in here.at(here.radii, cap).g.items()}
            if max(radii.values()) > 1e12:
                return None
            settled, here = radii == here.radii, self.at(radii, cap)
            if settled:
                break
        return here

    @property
    def C_x(self) -> float:
        """max_i |X_i|_F / sqrt(n)."""
        return max(length(tokens) for tokens in self.X) / sqrt(self.n)

    @property
    def rho(self) -> float:
        """sqrt(N) n^(3/2) tau_1 C_x."""
        return sqrt(self.N) * self.n * sqrt(self.n) * self.c * self.C_x

    def _plain(self) -> tuple[float, ...]:
        score = 0.5 * self.tau_0 * self.C_x**2 * sqrt(self.n) * self.rho
        return self.rho, self.rho, score, score

    def _printed(self) -> tuple[float, ...]:
        score = 2 * self.rho * self.tau_0 * self.C_x**2 * self.n
        return self.rho, self.rho, score, score

    def _sharp(self) -> tuple[float, ...]:
        first = self.c * self.n * length(self.hat)
        every = [x for tokens in self.X for x in tokens]
        half = 0.5 * self.tau_0 * self.c * sqrt(self.n)
        by_query = [t * t * x for t, tokens in zip(self.t, self.X, strict=True) for x in tokens]
        by_key = [
            t * a * x
            for t, a, tokens in zip(self.t, self.a, self.centred, strict=True)
            for x in tokens
        ]
        return (
            first, min(first, self.c * self.n * spectral(every)),
            half * spectral(by_query), half * spectral(by_key),
        )  # fmt: skip

    @property
    def g(self) -> dict[str, float]:
        """Bounds of the block norms of J."""
        return {
            "w_O": min(self.A_O * self.V, self.cap),
            "W_V": self.A_V * self.O,
            "W_Q": self.A_Q * self.K * self.V * self.O,
            "W_K": self.A_K * self.Q * self.V * self.O,
        }

    @property
    def Lambda_squared(self) -> float:
        """From g_V^2 + g_Q^2 + g_K^2 = lambda_O^2 Lambda^2, at lambda_O = 1."""
        by_query, by_key = self.A_Q * self.K * self.V, self.A_K * self.Q * self.V
        return self.A_V * self.A_V + by_query * by_query + by_key * by_key

    @property
    def G_squared(self) -> float:
        """The sum of the squared block norms, |J_O| with the cap."""
        return sum(g * g for g in self.g.values())

    def delta(self, alpha: float, r_0: float) -> float:
        """2 lambda_O Lambda^2 r_0 / alpha^3."""
        return 2 * self.O * self.Lambda_squared * r_0 / (alpha * alpha * alpha)

    def curved(self) -> float:
        """(e + sqrt(e^2 + c^2)) / 2, the largest eigenvalue of [[0, c/2], [c/2, e]]."""
        S = sqrt(self.Q**2 + self.K**2)
        E = length([t * t * a for t, a in zip(self.t, self.a, strict=True)])
        E_3 = length([t**3 * a * a for t, a in zip(self.t, self.a, strict=True)])
        root, C_2 = sqrt(self.n), sqrt(6) / 9
        mixed = self.c * self.tau_0 * self.O * root * S * E
        own = self.c * self.O * self.V * root
        own *= C_2 * self.tau_0**2 * S * S * E_3 + self.tau_0 * E / 2
        return float(np.linalg.eigvalsh(np.array([[0.0, mixed / 2], [mixed / 2, own]]))[-1])

    def M_2(self, kappa: float, largest_entry: float) -> float:
        """The largest eigenvalue of [[0, Lambda], [Lambda, B]]."""
        S = self.Q**2 + self.K**2
        squares = [
            self.n * hat**2 + self.V**2 * (self.tau_0 * t * t * a / 2) ** 2 * S
            for hat, t, a in zip(self.hat, self.t, self.a, strict=True)
        ]
        B = self.c * kappa * min(self.O, largest_entry) * length(squares) + self.curved()
        L = sqrt(self.Lambda_squared)
        return float(np.linalg.eigvalsh(np.array([[0.0, L], [L, B]]))[-1])
