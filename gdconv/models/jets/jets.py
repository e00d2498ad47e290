"""Block jets: bounds of an activation and of its first two derivatives on a ball of parameters.

An activation h of one sample (an array; its last two axes are a matrix, the others number such
matrices) has a jet (b_2, b_F, g, H), valid at every point of the ball, for blocks k of parameters
and u_k the Frobenius norm of block k of a direction u:

    |h| <= b_2, |h|_F <= b_F, |Dh[u]|_F <= sum_k g_k u_k, |D2h[u,v]|_F <= sum_kl H_kl u_k v_l,

|h| being the largest spectral norm of its matrices. One function per rule; the chain rule is the
proof of each. All numbers are non-negative and all formulas increase in them, so every rule that
rounds its result upwards (`norms.up`) keeps a valid jet valid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from gdconv.models.jets.activations import Activation
from gdconv.models.jets.norms import Array, length, up
from gdconv.rigor.rounding import UNIT

SOFTMAX_SLOPE = 0.5
"""sup|D softmax|: |diag(p) - p p^T| <= 1/2."""

SOFTMAX_SECOND = sqrt(6) / 9 * (1 + 4 * UNIT)
"""sup|D2 softmax[u,u]| over unit u."""

NORM_SECOND = 2 / sqrt(3) * (1 + 4 * UNIT)
"""sup|D2 (z/S)[u,u]| S^2 over unit u, S^2 = |z|^2 + delta, whatever delta >= 0."""


@dataclass(frozen=True)
class Jet:
    """Bounds of one activation, for R radii and N samples at once.

    Attributes:
        b_2: Spectral norm, (R, N); either axis may be 1 where the bound does not depend on it.
        b_F: Frobenius norm, (R, N).
        g: First derivative, (R, N, L) for L blocks.
        H: Second derivative, (R, N, L, L), symmetric.
    """

    b_2: Array
    b_F: Array
    g: Array
    H: Array


def _jet(b_2: Array, b_F: Array, g: Array, H: Array) -> Jet:
    b_F = up(b_F)
    return Jet(np.minimum(up(b_2), b_F), b_F, up(g), up(H))


def _outer(a: Array, b: Array) -> Array:
    return a[..., :, None] * b[..., None, :]


def constant(b_2: Array, b_F: Array, blocks: int) -> Jet:
    """A constant input.

    Args:
        b_2: Bounds of its spectral norm, (1, N).
        b_F: Bounds of its Frobenius norm, (1, N).
        blocks: Number of blocks.

    Returns:
        Its jet.

    Example:
        >>> constant(np.ones((1, 1)), np.ones((1, 1)), 2).g.shape
        (1, 1, 2)
    """
    return _jet(b_2, b_F, np.zeros((1, 1, blocks)), np.zeros((1, 1, blocks, blocks)))


def parameter(b_2: Array, b_F: Array, index: int | None, rho: Array, blocks: int) -> Jet:
    """A block of parameters itself: |W| + rho, and g the unit vector of the block.

    Args:
        b_2: Spectral norm at the centre, (1, 1).
        b_F: Frobenius norm at the centre, (1, 1).
        index: Of the block; None for one that is not trained.
        rho: Radii, (R, 1).
        blocks: Number of blocks.

    Returns:
        Its jet.

    Example:
        >>> W = parameter(np.ones((1, 1)), np.ones((1, 1)), 1, np.full((1, 1), 0.5), 2)
        >>> [round(float(x), 9) for x in (W.b_2[0, 0], *W.g[0, 0])]
        [1.5, 0.0, 1.0]
    """
    if index is None:
        return constant(b_2, b_F, blocks)
    unit = np.zeros((1, 1, blocks))
    unit[..., index] = 1.0
    return _jet(b_2 + rho, b_F + rho, unit, np.zeros((1, 1, blocks, blocks)))


def linear_map(h: Jet, norm: float, spectral: bool = False) -> Jet:
    """A fixed linear map: pooling, scaling, reordering, repetition.

    Args:
        h: Jet of the argument.
        norm: Bound of the map's norm from Frobenius to Frobenius.
        spectral: Whether it multiplies spectral norms by at most that, too (scaling, transpose).

    Returns:
        Jet of the image.

    Example:
        >>> h = constant(np.ones((1, 1)), np.full((1, 1), 2.0), 1)
        >>> round(float(linear_map(h, 3.0).b_2[0, 0]), 9)
        6.0
    """
    return _jet(norm * (h.b_2 if spectral else h.b_F), norm * h.b_F, norm * h.g, norm * h.H)


def entrywise(h: Jet, s: Activation, entries: int) -> Jet:
    """s(h) entry by entry: g' = s_1 g, H' = s_1 H + s_2 g g^T.

    Args:
        h: Jet of the argument.
        s: Constants of the activation.
        entries: Number of entries of h in one sample.

    Returns:
        Jet of s(h).

    Example:
        >>> h = parameter(np.ones((1, 1)), np.ones((1, 1)), 0, np.zeros((1, 1)), 1)
        >>> bool(0.76 < entrywise(h, Activation(0.0, 1.0, 0.769801, 1.0), 4).H[0, 0, 0, 0] < 0.77)
        True
    """
    root = sqrt(entries)
    size = np.minimum(s.zero * root + s.slope * h.b_F, root * s.largest)
    return _jet(size, size, s.slope * h.g, s.slope * h.H + s.curvature * _outer(h.g, h.g))


def add(P: Jet, Q: Jet) -> Jet:
    """P + Q.

    Args:
        P: Jet of the first term.
        Q: Jet of the second.

    Returns:
        Jet of the sum.

    Example:
        >>> one = constant(np.ones((1, 1)), np.ones((1, 1)), 1)
        >>> round(float(add(one, one).b_F[0, 0]), 9)
        2.0
    """
    return _jet(P.b_2 + Q.b_2, P.b_F + Q.b_F, P.g + Q.g, P.H + Q.H)


def bilinear(P: Jet, Q: Jet, reach_P: Array, reach_Q: Array, b_2: Array) -> Jet:
    """Any product P * Q with |P * Q|_F <= |P|_F |Q|_F.

    Args:
        P: Jet of the first factor.
        Q: Jet of the second.
        reach_P: Bound of |P * U|_F / |U|_F over all U of Q's shape.
        reach_Q: Bound of |U * Q|_F / |U|_F over all U of P's shape.
        b_2: Bound of the product's spectral norm.

    Returns:
        Jet of the product.

    Example:
        >>> W = parameter(np.ones((1, 1)), np.ones((1, 1)), 0, np.zeros((1, 1)), 2)
        >>> V = parameter(np.ones((1, 1)), np.ones((1, 1)), 1, np.zeros((1, 1)), 2)
        >>> bilinear(W, V, W.b_2, V.b_2, W.b_2 * V.b_2).H[0, 0].round(9).tolist()
        [[0.0, 1.0], [1.0, 0.0]]
    """
    p, q = reach_P[..., None], reach_Q[..., None]
    cross = _outer(P.g, Q.g)
    H = p[..., None] * Q.H + q[..., None] * P.H + (cross + np.swapaxes(cross, -1, -2))
    return _jet(b_2, np.minimum(reach_P * Q.b_F, reach_Q * P.b_F), p * Q.g + q * P.g, H)


def product(P: Jet, Q: Jet, copies_P: int = 1, copies_Q: int = 1) -> Jet:
    """The matrix product P Q; a factor with fewer leading axes is repeated along them.

    Args:
        P: Jet of the left factor.
        Q: Jet of the right factor.
        copies_P: How many matrices of the product each matrix of P enters.
        copies_Q: The same of Q.

    Returns:
        Jet of P Q.

    Example:
        >>> x = constant(np.full((1, 1), 2.0), np.full((1, 1), 2.0), 1)
        >>> W = parameter(np.ones((1, 1)), np.ones((1, 1)), 0, np.zeros((1, 1)), 1)
        >>> round(float(product(x, W).g[0, 0, 0]), 9)
        2.0
    """
    reach_P = np.minimum(sqrt(copies_Q) * P.b_2, P.b_F)
    reach_Q = np.minimum(sqrt(copies_P) * Q.b_2, Q.b_F)
    return bilinear(P, Q, reach_P, reach_Q, P.b_2 * Q.b_2)


def softmax_rows(h: Jet, rows: int) -> Jet:
    """Softmax of each row; masked entries (minus infinity) are constants.

    Args:
        h: Jet of the scores.
        rows: Number of rows in one sample.

    Returns:
        Jet of the weights.

    Example:
        >>> h = parameter(np.ones((1, 1)), np.ones((1, 1)), 0, np.zeros((1, 1)), 1)
        >>> float(softmax_rows(h, 4).g[0, 0, 0].round(9))
        0.5
    """
    size = np.full_like(h.b_F, sqrt(rows))
    H = SOFTMAX_SLOPE * h.H + SOFTMAX_SECOND * _outer(h.g, h.g)
    return _jet(size, size, SOFTMAX_SLOPE * h.g, H)


def away_from_zero(h: Jet, shortest: Array, rho: Array, delta: float) -> Array:
    """Lower bound of S^2 = |z|^2 + delta over the ball, z any row of h.

    Args:
        h: Jet of the argument of a norm layer.
        shortest: Lower bound of the rows' lengths at the centre, (1, N).
        rho: Radii, (R, 1).
        delta: D epsilon of the layer.

    Returns:
        Bounds (R, N), 0 where nothing keeps a row away from zero.

    Example:
        >>> h = parameter(np.ones((1, 1)), np.ones((1, 1)), 0, np.zeros((1, 1)), 1)
        >>> away_from_zero(h, np.ones((1, 1)), np.full((1, 1), 2.0), 0.0).tolist()
        [[0.0]]
    """
    drift = up(length(h.g) * rho)
    left = np.maximum(shortest - drift, 0.0) * (1 - 4 * UNIT)
    return (left * left + delta) * (1 - 8 * UNIT)


def norm_rows(h: Jet, rows: int, width: int, S_squared: Array) -> Jet:
    """Layer norm or RMS norm without scale: sqrt(D) z / S, z the (centred) rows.

    Args:
        h: Jet of the argument.
        rows: Number of rows in one sample.
        width: Their length D.
        S_squared: Lower bound of |z|^2 + D epsilon; 0 gives infinite derivatives.

    Returns:
        Jet of the normalised rows.

    Example:
        >>> h = parameter(np.ones((1, 1)), np.ones((1, 1)), 0, np.zeros((1, 1)), 1)
        >>> float(norm_rows(h, 1, 4, np.zeros((1, 1))).g[0, 0, 0])
        inf
    """
    size = np.broadcast_to(
        np.float64(sqrt(rows * width)), np.broadcast_shapes(h.b_F.shape, S_squared.shape)
    )
    with np.errstate(all="ignore"):
        first = (sqrt(width) / np.sqrt(S_squared))[..., None]
        second = (NORM_SECOND * sqrt(width) / S_squared)[..., None, None]
        H = first[..., None] * h.H + second * _outer(h.g, h.g)
        return _jet(size, size, first * h.g, H)


def concatenation(parts: Sequence[Jet]) -> Jet:
    """Activations side by side: Minkowski's inequality, entry by entry, for g and H too.

    Args:
        parts: Their jets.

    Returns:
        Jet of the whole.

    Example:
        >>> h = parameter(np.full((1, 1), 3.0), np.full((1, 1), 3.0), 0, np.zeros((1, 1)), 1)
        >>> k = constant(np.full((1, 1), 4.0), np.full((1, 1), 4.0), 1)
        >>> round(float(concatenation([h, k]).b_F[0, 0]), 9)
        5.0
    """

    def root(name: str) -> Array:
        arrays = np.broadcast_arrays(*(getattr(p, name) for p in parts))
        return length(np.stack(arrays, axis=-1))

    return _jet(root("b_2"), root("b_F"), root("g"), root("H"))


def centred_values(h: Jet, b_2: Array, b_F: Array, rho: Array) -> Jet:
    """(C0): |h| <= |h(centre)| + |g| rho.

    Args:
        h: A jet.
        b_2: Bounds of the spectral norm at the centre, (1, N).
        b_F: Bounds of the Frobenius norm at the centre, (1, N).
        rho: Radii, (R, 1).

    Returns:
        The jet with the smaller values.

    Example:
        >>> h = constant(np.ones((1, 1)), np.ones((1, 1)), 1)
        >>> round(float(centred_values(h, *np.full((2, 1, 1), 0.5), np.zeros((1, 1))).b_F[0, 0]), 9)
        0.5
    """
    drift = length(h.g) * rho
    size = np.minimum(h.b_F, up(b_F + drift))
    return Jet(np.minimum(np.minimum(h.b_2, up(b_2 + drift)), size), size, h.g, h.H)


def centred_slopes(h: Jet, g: Array, rho: Array) -> Jet:
    """(C1): g_k <= |dh/dW_k (centre)| + |H_k| rho; sound because H came from the larger g.

    Args:
        h: A jet.
        g: Bounds at the centre, (1, N, L); infinite where nothing was measured.
        rho: Radii, (R, 1).

    Returns:
        The jet with the smaller first derivatives.

    Example:
        >>> h = parameter(np.ones((1, 1)), np.ones((1, 1)), 0, np.zeros((1, 1)), 1)
        >>> centred_slopes(h, np.full((1, 1, 1), 0.5), np.zeros((1, 1))).g.round(9).tolist()
        [[[0.5]]]
    """
    return Jet(h.b_2, h.b_F, np.minimum(h.g, up(g + length(h.H) * rho[..., None])), h.H)
