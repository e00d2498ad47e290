r"""The convex programs of attention: a group lasso whose groups are tokens.

    F(Z) = sum_i sum_l L(sum_k <A_ik, Z_k,:,l>, y_il) + beta sum_k |Z_k|

A (N, K, d): row k of sample i is token k (plain attention) or a gated token; Z (K, d, c). The norm
of a group Z_k (d x c) is

    "columns"   sum_l |Z_k,:,l|_2    scalar output (c = 1) and the l1^2 regulariser
    "nuclear"   sum of singular values    the l2^2 regulariser

whose dual norms are the largest column norm and the spectral norm. Equivalence with the non-convex
models, widths and corrections: docs/theory/convex-attention.md. Source: Ergen, Neyshabur, Mehta
2022, with the factor of the loss and the width condition corrected.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from math import inf, isfinite
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray

from gdconv.convex.losses import Loss
from gdconv.rigor.lapack import singular_values, spectral_norm, svd
from gdconv.rigor.rounding import SQUARE_TINY, Array, Enclosure, as_matrix, gamma, up
from gdconv.rigor.spectrum import enclose_singular_range
from gdconv.support.errors import InputError

Index = NDArray[np.int64]
"""Indices of groups."""

PENALTIES = ("columns", "nuclear")
"""Names of the group norms."""


class Design:
    """The tokens A (N, K, d) with what is computed from them once.

    Args:
        A: Real array (N, K, d).

    Attributes:
        A: The array, float64, C order.

    Raises:
        InputError: Wrong rank, empty, or not finite real numbers.

    Example:
        >>> Design(np.ones((2, 3, 4))).blocks.shape
        (3, 2, 4)
    """

    def __init__(self, A: Any) -> None:
        self.A: Array = np.ascontiguousarray(as_matrix(A, "X", 3))
        if self.A.size == 0:
            raise InputError("X", f"an array of shape {self.A.shape}", "give no empty axis")
        self._held: list[int] = []
        self._kernels: Array | None = None

    @cached_property
    def flat(self) -> Array:
        """A as a matrix (N, K d)."""
        return self.A.reshape(len(self.A), -1)

    @cached_property
    def blocks(self) -> Array:
        """A with the group first, (K, N, d), C order."""
        return np.ascontiguousarray(self.A.transpose(1, 0, 2))

    @cached_property
    def _squares(self) -> Array:
        """|A_ik|^2, (N, K)."""
        return np.einsum("ikd,ikd->ik", self.A, self.A)

    @cached_property
    def row_norms(self) -> Array:
        """Upper bounds of |A_i|, one per sample."""
        return _norms_up(self._squares.sum(1), self.A[0].size)

    @cached_property
    def group_norms(self) -> Array:
        """Upper bounds of |A_:k|_F, one per group."""
        return _norms_up(self._squares.sum(0), self.A[:, 0].size)

    @cached_property
    def gram_norm(self) -> Enclosure:
        """Largest eigenvalue of the Gram matrix of A seen as N x K d."""
        top = enclose_singular_range(self.flat, 1)[1]
        return Enclosure(top.lo * top.lo * (1 - 4e-16), up(top.hi * top.hi))

    @cached_property
    def compressed(self) -> tuple[Array, Design]:
        """Q (N, K d) with orthonormal columns and R as a design of K d samples, A = Q R."""
        Q, R = np.linalg.qr(self.flat)
        return Q, Design(R.reshape(len(R), *self.A.shape[1:]))

    def kernels(self, groups: Index) -> Array:
        """A_:k A_:k^T of some groups, each flattened to N^2 numbers; kept for the next call.

        Args:
            groups: Indices, without repetition.

        Returns:
            Array (S, N^2), one row per group in the order given.

        Example:
            >>> Design(np.ones((2, 1, 3))).kernels(np.array([0]))
            array([[3., 3., 3., 3.]])
        """
        N, K, _ = self.A.shape
        if self._kernels is None:
            self._kernels = np.empty((K, N * N))
        wanted = [int(k) for k in groups]
        missing = sorted(set(wanted) - set(self._held))
        for row, k in enumerate(missing, len(self._held)):
            tokens = self.A[:, k]
            np.matmul(tokens, tokens.T, out=self._kernels[row].reshape(N, N))
        self._held += missing
        if wanted == self._held:
            return self._kernels[: len(wanted)]
        place = {k: row for row, k in enumerate(self._held)}
        return self._kernels[[place[k] for k in wanted]]


def _norms_up(squares: Array, count: int) -> Array:
    """Upper bounds of Euclidean norms from computed sums of `count` squares."""
    return np.asarray(np.sqrt(squares * (1 + 2 * gamma(count + 4))) * (1 + 1e-15) + SQUARE_TINY)


@dataclass(frozen=True, eq=False)
class Program:
    """One convex program; build it with `token_program` or `Program.of`.

    Attributes:
        design: Tokens.
        y: Targets (N, c).
        beta: Weight decay, positive.
        loss: Squared, Huber or logistic.
        penalty: "columns" or "nuclear".

    Example:
        >>> program = Program.of([[[1.0]]], [1.0], 0.5)
        >>> float(program.objective(program.zeros()))
        1.0
    """

    design: Design
    y: Array
    beta: float
    loss: Loss = field(default_factory=Loss)
    penalty: str = "columns"

    @classmethod
    def of(
        cls,
        X: Any,
        y: Any,
        beta: float,
        loss: Loss | str = "squared",
        penalty: str = "columns",
    ) -> Program:
        """Validates data into a program.

        Args:
            X: Tokens (N, n, d), or a `Design` to share its work.
            y: Targets (N) or (N, c).
            beta: Weight decay.
            loss: A `Loss` or its name.
            penalty: "columns" or "nuclear".

        Returns:
            The program.

        Raises:
            InputError: Shapes that do not match, unknown names, beta not positive.

        Example:
            >>> Program.of(np.ones((2, 3, 4)), [1.0, 2.0], 0.1).shape
            (3, 4, 1)
        """
        design = X if isinstance(X, Design) else Design(X)
        try:
            targets = as_matrix(y, "y", 1)[:, None]
        except InputError:
            targets = as_matrix(y, "y")
        if len(targets) != len(design.A):
            raise InputError(
                "y", f"{len(targets)} targets", f"give one for each of {len(design.A)} samples"
            )
        if not (isfinite(beta) and beta > 0):
            raise InputError("beta", beta, "give a positive number")
        if penalty not in PENALTIES:
            raise InputError("penalty", penalty, f"give one of {', '.join(PENALTIES)}")
        made = loss if isinstance(loss, Loss) else Loss(loss)
        made.check(targets)
        return cls(design, np.ascontiguousarray(targets), float(beta), made, penalty)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (K, d, c) of Z."""
        return (*self.design.A.shape[1:], self.y.shape[1])

    def with_beta(self, beta: float) -> Program:
        """The same data with another weight decay; what was computed is shared.

        Args:
            beta: Positive weight decay.

        Returns:
            The program.

        Raises:
            InputError: It is not positive.

        Example:
            >>> Program.of([[[1.0]]], [1.0], 0.5).with_beta(0.25).beta
            0.25
        """
        if not (isfinite(beta) and beta > 0):
            raise InputError("beta", beta, "give a positive number")
        return replace(self, beta=float(beta))

    def zeros(self) -> Array:
        """Z = 0."""
        return np.zeros(self.shape)

    def weights(self, Z: ArrayLike, finite: bool = True) -> Array:
        """Z from outside, checked.

        Args:
            Z: Weights (K, d, c).
            finite: Whether NaN and infinity are refused; where not, they prove nothing.

        Returns:
            Z as float64 in C order.

        Raises:
            InputError: Not real numbers of that shape.

        Example:
            >>> Program.of([[[1.0]]], [1.0], 0.5).weights([[[2]]])
            array([[[2.]]])
        """
        out = as_matrix(Z, "Z", 3, finite)
        if out.shape != self.shape:
            raise InputError("Z", f"an array of shape {out.shape}", f"give the shape {self.shape}")
        return np.ascontiguousarray(out)

    def dual_point(self, v: ArrayLike, finite: bool = True) -> Array:
        """A dual point from outside, checked.

        Args:
            v: Array (N, c).
            finite: Whether NaN and infinity are refused; where not, they prove nothing.

        Returns:
            v as float64 in C order.

        Raises:
            InputError: Not real numbers of that shape.

        Example:
            >>> Program.of([[[1.0]]], [1.0], 0.5).dual_point([[2]])
            array([[2.]])
        """
        out = as_matrix(v, "v", 2, finite)
        if out.shape != self.y.shape:
            raise InputError("v", f"an array of shape {out.shape}", f"give {self.y.shape}")
        return np.ascontiguousarray(out)

    def predict(self, Z: Array) -> Float[np.ndarray, "N c"]:
        """sum_k A_ik^T Z_k.

        Args:
            Z: Weights (K, d, c).

        Returns:
            Predictions.

        Example:
            >>> Program.of([[[2.0]]], [1.0], 0.5).predict(np.ones((1, 1, 1)))
            array([[2.]])
        """
        return self.design.flat @ Z.reshape(-1, Z.shape[-1])

    def correlate(self, v: Float[np.ndarray, "N c"]) -> Float[np.ndarray, "K d c"]:
        """sum_i A_ik v_i: the adjoint of `predict`.

        Args:
            v: Dual variables.

        Returns:
            One d x c matrix per group.

        Example:
            >>> Program.of([[[2.0]]], [1.0], 0.5).correlate(np.ones((1, 1))).shape
            (1, 1, 1)
        """
        return (self.design.flat.T @ v).reshape(self.shape)

    def group_sizes(self, Z: Array) -> Float[np.ndarray, " K"]:
        """The norm of every group.

        Args:
            Z: Weights (K, d, c).

        Returns:
            Norms.

        Example:
            >>> Program.of([[[2.0]]], [1.0], 0.5).group_sizes(np.ones((1, 1, 1)))
            array([1.])
        """
        if self.penalty == "nuclear" and Z.shape[2] > 1:
            return np.asarray(singular_values(Z).sum(-1))
        return np.asarray(np.sqrt(np.square(Z).sum(1)).sum(-1))

    def dual_sizes(self, C: Array) -> Float[np.ndarray, " K"]:
        """The dual norm of every group: largest column, or spectral norm.

        Args:
            C: Correlations (K, d, c).

        Returns:
            Norms, to be compared with beta.

        Example:
            >>> Program.of([[[2.0]]], [1.0], 0.5).dual_sizes(np.ones((1, 1, 1)))
            array([1.])
        """
        if self.penalty == "nuclear" and C.shape[2] > 1:
            return spectral_norm(C)
        return np.asarray(np.sqrt(np.square(C).sum(1)).max(-1))

    def objective(self, Z: Array) -> float:
        """F(Z), in floating point.

        Args:
            Z: Weights (K, d, c).

        Returns:
            The value; `gdconv.convex.dual.certify` bounds the exact one.

        Example:
            >>> Program.of([[[1.0]]], [1.0], 0.5).objective(np.full((1, 1, 1), 0.5))
            0.5
        """
        fit = float(self.loss.value(self.predict(Z), self.y).sum())
        return fit + self.beta * float(self.group_sizes(Z).sum())

    def gradient(self, Z: Array) -> Float[np.ndarray, "K d c"]:
        """Gradient of the smooth part at Z.

        Args:
            Z: Weights (K, d, c).

        Returns:
            sum_i A_ik L'(pred_i, y_i).

        Example:
            >>> float(Program.of([[[1.0]]], [1.0], 0.5).gradient(np.zeros((1, 1, 1)))[0, 0, 0])
            -2.0
        """
        return -self.correlate(self.loss.residual(self.predict(Z), self.y))

    def prox(self, Z: Array, t: float) -> Float[np.ndarray, "K d c"]:
        """argmin_W 1/2 |W - Z|^2 + t sum_k |W_k|: columns or singular values are shortened by t.

        Args:
            Z: Weights (K, d, c).
            t: Step times beta.

        Returns:
            W.

        Example:
            >>> Program.of([[[1.0]]], [1.0], 0.5).prox(np.full((1, 1, 1), 3.0), 1.0)
            array([[[2.]]])
        """
        if self.penalty == "nuclear" and Z.shape[2] > 1:
            U, s, V = svd(Z)
            return np.asarray((U * np.maximum(s - t, 0.0)[:, None, :]) @ V)
        sizes = np.sqrt(np.square(Z).sum(1, keepdims=True))
        with np.errstate(divide="ignore", invalid="ignore"):
            keep = np.where(sizes > t, 1.0 - t / sizes, 0.0)
        return np.asarray(Z * keep)

    def max_step(self) -> Enclosure:
        """1/(curvature lambda_max): the step up to which the rate theorems hold.

        Returns:
            The step, enclosed; its lower end is safe. For L = (.)^2 it is 1/(2 lambda_max).

        Example:
            >>> box = Program.of([[[2.0]]], [1.0], 0.5).max_step()
            >>> box.lo <= 0.125 <= box.hi
            True
        """
        gram = self.design.gram_norm
        lo = 1.0 / up(self.loss.curvature * gram.hi) if gram.hi > 0 else inf
        least = self.loss.curvature * gram.lo * (1 - 1e-15)
        hi = 1.0 / least if least > 0 else inf
        return Enclosure(float(np.nextafter(lo, 0.0)), float(np.nextafter(hi, inf)))


def token_program(X: Any, y: Any, beta: float, loss: Loss | str = "squared") -> Program:
    """The corrected convex program (9): min_Z sum_i L(tr(Z^T X_i), y_i) + beta sum_k |Z_k|_2.

    Args:
        X: Samples (N, n, d).
        y: Targets (N) or, with one Z per output, (N, c).
        beta: Weight decay of the non-convex model.
        loss: A `Loss` or its name.

    Returns:
        The program.

    Example:
        >>> token_program([[[1.0], [0.0]], [[0.0], [1.0]]], [1.0, -1.0], 0.125).shape
        (2, 1, 1)
    """
    return Program.of(X, y, beta, loss)
