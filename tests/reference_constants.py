"""The multi-head constants written a second time, head by head and sample by sample, 30 digits.

From docs/theory/full-gd.md and query-gd.md; nothing of gdconv's own formulas is used.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from mpmath import e, eigsy, matrix, mpf, sqrt

C_2 = sqrt(mpf(6)) / 9


def spectral(W: np.ndarray) -> Any:
    """Largest singular value, from the exact Gram matrix."""
    A = matrix(np.atleast_2d(W).tolist())
    gram = A.T * A if A.cols <= A.rows else A * A.T
    return sqrt(max(eigsy(gram, eigvals_only=True)))


def least_singular(W: np.ndarray) -> Any:
    """Least singular value of a matrix with at least as many rows as columns."""
    A = matrix(np.atleast_2d(W).tolist())
    return sqrt(max(min(eigsy(A.T * A, eigvals_only=True)), mpf(0)))


class MultiHead:
    """Every constant of Lemmas 2 to 6 and of Lemma Q1 at one point and one set of radii.

    Args:
        kernel: softmax or gaussian.
        X: Data, shape (N, n, D).
        weights: W_Q, W_K, W_V of shape (H, D, d), W_O of shape (H, d, D_y).
        radii: C_Q, C_K, C_V, each one number or one per head.
    """

    def __init__(
        self, kernel: str, X: np.ndarray, weights: dict[str, np.ndarray], radii: Any = (0, 0, 0)
    ) -> None:
        self.soft, self.W = kernel == "softmax", weights
        self.H, _, d = weights["W_Q"].shape
        self.n, self.d, self.root = mpf(X.shape[1]), mpf(d), sqrt(mpf(d))
        self.a = [spectral(x) for x in X]
        self.O = [spectral(W) for W in weights["W_O"]]
        self.plain = {b: [spectral(W) for W in weights[b]] for b in ("W_Q", "W_K", "W_V")}
        wide = [np.broadcast_to(np.asarray(C, float), (self.H,)) for C in radii]
        self.Q, self.K, self.V = (
            [norm + mpf(float(c)) for norm, c in zip(self.plain[b], C, strict=True)]
            for b, C in zip(self.plain, wide, strict=True)
        )
        self.epsilon = sqrt(2 * self.n / (e * self.root))

    def s(self, p: int) -> Any:
        """(sum_i a_i^p)^(1/2)."""
        return sqrt(sum(a**p for a in self.a))

    def Lambda(self, h: int) -> Any:
        """(lambda_Q^2 + lambda_K^2)^(1/2)."""
        return sqrt(self.Q[h] ** 2 + self.K[h] ** 2)

    def g_V(self, h: int) -> Any:
        """sqrt(n) A O_h or n A O_h."""
        A = sqrt(sum(a * a for a in self.a))
        return (sqrt(self.n) if self.soft else self.n) * A * self.O[h]

    def g_scores(self, h: int, other: Any) -> Any:
        """Softmax: s_6 (norm of the other block) lambda_V O_h / (2 sqrt d)."""
        return self.s(6) * other * self.V[h] * self.O[h] / (2 * self.root)

    def g_QK(self, h: int) -> Any:
        """Gaussian: epsilon s_4 lambda_V O_h."""
        return self.epsilon * self.s(4) * self.V[h] * self.O[h]

    def G_squared(self) -> Any:
        """Sum of the squared norms of all blocks."""
        total = mpf(0)
        for h in range(self.H):
            total += self.g_V(h) ** 2
            if self.soft:
                total += self.g_scores(h, self.K[h]) ** 2 + self.g_scores(h, self.Q[h]) ** 2
            else:
                total += self.g_QK(h) ** 2
        return total

    def M_2(self) -> Any:
        """max_h (sum_i c_ih^2)^(1/2)."""
        found = []
        for h in range(self.H):
            squares = mpf(0)
            for a in self.a:
                if self.soft:
                    straight = a**3 / (2 * self.root)
                    bent = C_2 * a**5 * self.Lambda(h) ** 2 / self.d
                    c = self.V[h] * (bent + straight) + straight * self.Lambda(h)
                else:
                    c = 2 * sqrt(self.n) * self.V[h] * a**3 / self.root + self.epsilon * a**2
                squares += (self.O[h] * c) ** 2
            found.append(sqrt(squares))
        return max(found)

    def delta(self) -> Any:
        """s_6 / (2 sqrt d) max O_h Lambda_h, or epsilon s_4 max O_h."""
        if self.soft:
            steepest = max(self.O[h] * self.Lambda(h) for h in range(self.H))
            return self.s(6) / (2 * self.root) * steepest
        return self.epsilon * self.s(4) * max(self.O)

    def vo(self, h: int) -> Any:
        """|W_V,h W_O,h|, the product in exact arithmetic."""
        product = matrix(self.W["W_V"][h].tolist()) * matrix(self.W["W_O"][h].tolist())
        return sqrt(max(eigsy(product.T * product, eigvals_only=True)))

    def query_M_2(self) -> Any:
        """C_2 s_10 / d max |W_K|^2 vo, or sqrt(n / d) s_6 max vo."""
        if self.soft:
            steepest = max(self.plain["W_K"][h] ** 2 * self.vo(h) for h in range(self.H))
            return C_2 * self.s(10) / self.d * steepest
        return sqrt(self.n / self.d) * self.s(6) * max(self.vo(h) for h in range(self.H))

    def query_G_squared(self) -> Any:
        """s_6^2 / (4 d) sum |W_K|^2 vo^2, or n s_4^2 / (e sqrt d) sum vo^2."""
        if self.soft:
            total = sum((self.plain["W_K"][h] * self.vo(h)) ** 2 for h in range(self.H))
            return sum(a**6 for a in self.a) / (4 * self.d) * total
        total = sum(self.vo(h) ** 2 for h in range(self.H))
        return self.n * sum(a**4 for a in self.a) / (e * self.root) * total
