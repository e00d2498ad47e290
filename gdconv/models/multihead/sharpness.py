"""Sharpness: the greatest eigenvalue of the Hessian of the loss, by compiled Lanczos.

eta lambda_max < 2 is what gradient descent on the local quadratic needs; eta lambda_max near 2 that
stays there is the edge of stability. The descent lemma says f_t - f_{t+1} >= eta (1 - eta L/2)
|grad f_t|^2 with L a bound of lambda_max along the step; `share` is the measured ratio with
L = lambda_max(theta_t).

For symmetric H and any unit vector v an eigenvalue lies within |H v - l v| of l. v is what Lanczos
has found, started from the vector of a point nearby with a little of everything else; the residual
is that of one more product, and what its rounding may come to is added.
"""

from __future__ import annotations

from itertools import accumulate
from math import sqrt

import numpy as np
import torch
from numpy.typing import NDArray

from gdconv.compiled.attention import Work
from gdconv.compiled.curvature import Curve, image
from gdconv.compiled.lanczos import greatest
from gdconv.compiled.simd import padded, token_lanes, zeros
from gdconv.data.problem import Problem
from gdconv.models.multihead.formulas import MultiHeadFormulas
from gdconv.models.multihead.parameters import BLOCKS, Parameters
from gdconv.support.threads import one_thread
from gdconv.support.trust import Estimate

Array = NDArray[np.float64]

FINE = 5e-13
"""Residual at which Lanczos ends, relative to the size of H; what was reached is reported."""

TOLERANCE = 1e-5
"""Residual that is good enough where `STEPS` steps do not come as far: eigenvalues lie close."""

STEPS = 64
"""Vectors kept before Lanczos begins anew; up to so many weights they may span the whole space."""

RESTARTS = 20
"""How often Lanczos begins anew from the vector found before it is taken as it is."""

MIX = 1e-2
"""Share of pseudo-random numbers in a start: an eigenvalue that has crossed is found again."""

METHOD = "a Rayleigh quotient of Lanczos with its residual"


def sharpest(
    model: MultiHeadFormulas,
    problem: Problem,
    params: Parameters,
    trained: tuple[str, ...],
    start: Array | None = None,
) -> tuple[Estimate, Array | None]:
    """lambda_max of the Hessian of f = 1/2 |F - y|^2 by the trained blocks, at one replica.

    Args:
        model: The model.
        problem: Data, one replica.
        params: Weights, one replica.
        trained: Blocks that move.
        start: The vector found at weights nearby, shape (P,); without it Lanczos takes about twice
            as many products.

    Returns:
        Rayleigh quotient and residual: an eigenvalue lies within the one of the other, which is
        lambda_max unless Lanczos missed it; nan where products or their squares leave float64. And
        the unit vector it was found with, shape (P,); None where the value is nan.

    Example:
        >>> from gdconv.support.config import Config
        >>> from gdconv.checks.prepare import prepare
        >>> s = prepare(Config("query-gd", problem="printed-stationarity"))
        >>> found, v = sharpest(s.model, s.problem, s.params, ("W_Q", "W_V"))
        >>> found.error < 1e-9 * found.value, round(float(v @ v), 12)
        (True, 1.0)
    """
    return Curvature(model, problem, params, trained).greatest(start)


class Curvature:
    """The Hessian by the trained blocks at one replica, as a map of vectors (P,), float64.

    The order of a vector is that of `MultiHeadFormulas.jacobian`: blocks, then heads, then (D, d).

    Args:
        model: The model.
        problem: Data, one replica.
        params: Weights, one replica.
        trained: Blocks that move.

    Example:
        >>> from gdconv.support.config import Config
        >>> from gdconv.checks.prepare import prepare
        >>> from gdconv.models.multihead.hessian import multihead_vector_product
        >>> s = prepare(Config("query-gd", problem="printed-stationarity"))
        >>> H = Curvature(s.model, s.problem, s.params, ("W_Q", "W_V"))
        >>> v = torch.ones(1, H.size, dtype=torch.float64)
        >>> other = multihead_vector_product(s.model, s.problem, s.params, v, ("W_Q", "W_V"))
        >>> bool(np.allclose(H(v[0].numpy()), other[0]))
        True
    """

    def __init__(
        self,
        model: MultiHeadFormulas,
        problem: Problem,
        params: Parameters,
        trained: tuple[str, ...],
    ) -> None:
        X, y = _array(problem.X), _array(problem.y)
        self.data = [X, np.broadcast_to(y, (*X.shape[:2], y.shape[-1]))]
        self.data += [_array(getattr(params, block)) for block in (*BLOCKS, "W_O")]
        q, k, v = (block in trained for block in BLOCKS)
        self.trained = (q, k, v)
        self.gaussian = model.kernel.name == "gaussian"
        self.curve = self._curve(self.data, -1.0, 1.0 / sqrt(self.data[-1].shape[1]))
        w = self.curve.w
        self.shape = (sum(self.trained) * w.H, w.d, w.Dp)
        self.size, self.length = self.shape[0] * w.d * w.D, self.shape[0] * w.d * w.Dp
        self.weights = zeros(0)
        if problem.mask is not None:  # the compiled forward pass knows no padding
            here, data = params.to("cpu", torch.float64), problem.to("cpu", torch.float64)
            S = _array(model.forward(data, here).S)
            self.weights = zeros(w.S.size)
            self.weights.reshape(w.H, w.n, w.n, w.L)[..., : w.N] = S.transpose(0, 2, 3, 1)

    def _curve(self, data: list[Array], sign: float, scale: float) -> Curve:
        """Work space, with data and weights in the layout of compiled code."""
        X, y, *W, W_O = data
        (N, n, D), (H, d, D_y) = X.shape, W_O.shape
        L, Dp = padded(N), padded(D)
        T, P, rows, pairs = n * L, H * d, 2 * H * d + H * D_y, H * n * n
        tokens, turned = token_lanes(X)
        (
            targets, out, weights, V, Y, S, r, G, Q, W1, Y1, dY1, S1, F1, P1, none,
        ) = _space([
            D_y * T, P * D_y, rows * Dp, P * Dp, rows * T, pairs * L, D_y * T,
            pairs * L, pairs * L, rows * Dp, rows * T, rows * T, pairs * 8, D_y * n * 8, n * n * 8,
            0,
        ])  # fmt: skip
        targets.reshape(D_y, n, L)[:, :, :N] = y.transpose(2, 1, 0)
        out.reshape(H, D_y, d)[:] = W_O.transpose(0, 2, 1)
        for block, into in zip(W, (weights, weights[P * Dp :], V), strict=True):
            into[: P * Dp].reshape(H, d, Dp)[:, :, :D] = block.transpose(0, 2, 1)
        w = Work(
            N, n, D, d, H, D_y, L, Dp, tokens, turned, targets, out, weights, V, none, none, Y,
            none, none, none, S, none, none,
        )  # fmt: skip
        moved = (W1, Y1, dY1, S1, F1, P1)
        return Curve(w, 0, self.gaussian, sign, scale, *self.trained, r, G, Q, *moved)

    def _rows(self, v: Array) -> Array:
        """A vector as rows of features."""
        made, D = zeros(self.length), self.curve.w.D
        heads, d, _ = self.shape
        made.reshape(self.shape)[:, :, :D] = v.reshape(heads, D, d).transpose(0, 2, 1)
        return made

    def _vector(self, rows: Array) -> Array:
        """The reverse."""
        return rows.reshape(self.shape)[:, :, : self.curve.w.D].transpose(0, 2, 1).reshape(-1)

    def __call__(self, v: Array) -> Array:
        """H v.

        Args:
            v: Direction, shape (P,).

        Returns:
            The product, shape (P,).
        """
        out = zeros(self.length)
        with one_thread():
            image(self.curve, self.weights, self.weights.size > 0, self._rows(v), out)
        return self._vector(out)

    def greatest(
        self, start: Array | None = None, mix: float = MIX
    ) -> tuple[Estimate, Array | None]:
        """The greatest eigenvalue, as `sharpest` returns it.

        Args:
            start: A vector near that of the eigenvalue, shape (P,).
            mix: Share of pseudo-random numbers that are added to it.

        Returns:
            The estimate and a unit vector.
        """
        size, steps = self.length, min(STEPS, self.size)
        with one_thread(), np.errstate(all="ignore"):
            if start is not None and not 0.0 < float(start @ start) < np.inf:
                start = None
            x = zeros(size) if start is None else self._rows(start)
            squares = self._curve([part * part for part in self.data], 1.0, self.curve.scale**2)
            value, residual, exponent, lost, _ = greatest(
                self.curve, squares, self.weights, self.weights.size > 0, x, start is None, mix,
                FINE, TOLERANCE, self.shape[0] * self.shape[1], self.size,
                np.empty((steps + 1) * size), zeros(size), steps, RESTARTS,
            )  # fmt: skip
            value, error = float(np.ldexp(value, exponent)), float(np.ldexp(residual, exponent))
            error += lost + 1e-15 * abs(value)
        if not np.isfinite(value + error):
            return Estimate(float("nan"), float("nan"), METHOD), None
        return Estimate(value, error, METHOD), self._vector(x)


def _array(tensor: torch.Tensor) -> Array:
    """The first replica, float64."""
    made: Array = tensor.detach().to("cpu", torch.float64).numpy()[0]
    return made


def _space(sizes: list[int]) -> list[Array]:
    """Zeroed flat arrays, each beginning on a cache line."""
    ends = [0, *accumulate(padded(size) for size in sizes)]
    whole = zeros(ends[-1])
    return [whole[start : start + size] for start, size in zip(ends, sizes, strict=False)]
