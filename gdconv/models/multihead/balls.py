"""Ball arithmetic on stored float64 iterates: values with a proved radius, at any precision.

Every input number is taken as the exact rational it stores; python-flint's balls carry every
rounding error of the evaluation. What is certified is a value at the stored iterate, not the
exact-arithmetic trajectory. Model (docs/theory/full-gd.md), with q = X W_Q and k = X W_K:

    softmax    S = softmax_rows(q k^T / sqrt(d))
    gaussian   S_kj = exp(-|q_k - k_j|^2 / (2 sqrt(d)))
    B = [S_ih X_i] (N n x H D),   F = sum_h S_h X W_V,h W_O,h,   f = 1/2 |F - y|^2

Padded tokens, where a mask is false, are left out before anything is evaluated.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from flint import arb, arb_mat
from numpy.typing import ArrayLike

from gdconv.data.padding import blanked
from gdconv.rigor.balls import (
    MAX_PRECISION,
    Certified,
    refine,
    square_sum,
    to_enclosure,
    working_precision,
)
from gdconv.rigor.spectrum import as_matrix
from gdconv.rigor.sylvester import certified_sigma_min, contains_sigma_min
from gdconv.support.errors import InputError

__all__ = [
    "Certified",
    "ball_B",
    "ball_attention",
    "ball_gradient_norm",
    "ball_loss",
    "certified_sigma_min",
    "certified_sigma_min_at",
    "contains_sigma_min",
    "to_enclosure",
]

KERNELS = ("softmax", "gaussian")


def _exact(A: np.ndarray) -> arb_mat:
    """A float64 matrix as exact balls."""
    return arb_mat([[arb(float(x)) for x in row] for row in A])


class _Arrays(NamedTuple):
    """Checked float64 inputs of one model; X and y sample by sample, without padding."""

    X: list[np.ndarray]
    y: list[np.ndarray]
    W_Q: np.ndarray
    W_K: np.ndarray
    W_V: np.ndarray
    W_O: np.ndarray


_AXES = {
    "X": ("N", "n", "D"),
    "y": ("N", "n", "D_y"),
    "W_Q": ("H", "D", "d"),
    "W_K": ("H", "D", "d"),
    "W_V": ("H", "D", "d"),
    "W_O": ("H", "d", "D_y"),
}


def _checked(kernel: str, mask: Any, **given: Any) -> _Arrays:
    """Float64 copies with matching sizes; blocks that are not given become None."""
    if kernel not in KERNELS:
        raise InputError("kernel", kernel, f"choose one of {', '.join(KERNELS)}")
    X, y, real = blanked(given["X"], given.get("y"), mask)
    given |= {name: v for name, v in (("X", X), ("y", y)) if name in given}
    sizes: dict[str, int] = {}
    arrays: dict[str, Any] = dict.fromkeys(_AXES)
    for name, value in given.items():
        A = as_matrix(value, name, axes=3)
        for axis, size in zip(_AXES[name], A.shape, strict=True):
            if sizes.setdefault(axis, size) != size or size < 1:
                remedy = f"make {axis} at least 1 and the same everywhere (it was {sizes[axis]})"
                raise InputError(name, f"an array of shape {A.shape}", remedy)
        arrays[name] = A
    for name in ("X", "y"):
        if arrays[name] is not None:
            whole = list(arrays[name])
            arrays[name] = (
                whole if real is None else [a[r] for a, r in zip(whole, real, strict=True)]
            )
    return _Arrays(**arrays)


def _softmax_rows(Z: arb_mat) -> arb_mat:
    rows = []
    for row in Z.tolist():
        weights = [z.exp() for z in row]
        total = sum(weights[1:], weights[0])
        rows.append([w / total for w in weights])
    return arb_mat(rows)


def _weights(q: arb_mat, k: arb_mat, d: int, kernel: str) -> arb_mat:
    """Attention weights S (n x n) from queries and keys (n x d)."""
    root = arb(d).sqrt()
    if kernel == "softmax":
        return _softmax_rows(q * k.transpose() * (1 / root))
    scale, keys = -1 / (2 * root), k.tolist()

    def weight(x: list[arb], z: list[arb]) -> arb:
        return (scale * sum(((a - b) ** 2 for a, b in zip(x, z, strict=True)), arb(0))).exp()

    return arb_mat([[weight(x, z) for z in keys] for x in q.tolist()])


def _attention(a: _Arrays, kernel: str) -> list[list[arb_mat]]:
    H, d = a.W_Q.shape[0], a.W_Q.shape[2]
    W_Q, W_K = [_exact(W) for W in a.W_Q], [_exact(W) for W in a.W_K]
    tokens = [_exact(x) for x in a.X]
    return [[_weights(x * W_Q[h], x * W_K[h], d, kernel) for h in range(H)] for x in tokens]


def ball_attention(
    X: ArrayLike,
    W_Q: ArrayLike,
    W_K: ArrayLike,
    kernel: str = "softmax",
    precision: int = 106,
    mask: ArrayLike | None = None,
) -> list[list[arb_mat]]:
    """Attention weights S_ih with a proved radius for every entry.

    Args:
        X: Tokens, shape (N, n, D).
        W_Q: Query weights, shape (H, D, d).
        W_K: Key weights, shape (H, D, d).
        kernel: "softmax" or "gaussian".
        precision: Working precision in bits.
        mask: True for a real token, shape (N, n); None where all are.

    Returns:
        S[i][h], an n_i x n_i ball matrix.

    Raises:
        InputError: An array has the wrong shape or holds numbers that float64 does not.

    Example:
        >>> S = ball_attention([[[1.0], [2.0]]], [[[0.0]]], [[[0.0]]])
        >>> float(S[0][0][0, 1])
        0.5
    """
    a = _checked(kernel, mask, X=X, W_Q=W_Q, W_K=W_K)
    with working_precision(precision):
        return _attention(a, kernel)


def ball_B(
    X: ArrayLike,
    W_Q: ArrayLike,
    W_K: ArrayLike,
    kernel: str = "softmax",
    precision: int = 106,
    mask: ArrayLike | None = None,
) -> arb_mat:
    """The feature matrix B = [B^(1) ... B^(H)], rows (i, token), columns (h, D).

    Args:
        X: Tokens, shape (N, n, D).
        W_Q: Query weights, shape (H, D, d).
        W_K: Key weights, shape (H, D, d).
        kernel: "softmax" or "gaussian".
        precision: Working precision in bits.
        mask: True for a real token, shape (N, n); None where all are.

    Returns:
        Ball matrix of shape (N n, H D).

    Raises:
        InputError: An array has the wrong shape or holds numbers that float64 does not.

    Example:
        >>> B = ball_B([[[1.0], [3.0]]], [[[0.0]]], [[[0.0]]])
        >>> float(B[0, 0])
        2.0
    """
    a = _checked(kernel, mask, X=X, W_Q=W_Q, W_K=W_K)
    with working_precision(precision):
        rows: list[list[arb]] = []
        for x, heads in zip(a.X, _attention(a, kernel), strict=True):
            blocks = [(S * _exact(x)).tolist() for S in heads]
            rows += [[z for block in blocks for z in block[t]] for t in range(len(x))]
        return arb_mat(rows)


def _residuals(a: _Arrays, S: list[list[arb_mat]]) -> list[arb_mat]:
    """F_i - y_i, one n x D_y ball matrix per sample."""
    values = [_exact(W_V) * _exact(W_O) for W_V, W_O in zip(a.W_V, a.W_O, strict=True)]
    out = []
    for x, target, heads in zip(a.X, a.y, S, strict=True):
        R = -_exact(target)
        for S_h, value in zip(heads, values, strict=True):
            R = R + S_h * (_exact(x) * value)
        out.append(R)
    return out


def ball_loss(
    X: ArrayLike,
    y: ArrayLike,
    W_Q: ArrayLike,
    W_K: ArrayLike,
    W_V: ArrayLike,
    W_O: ArrayLike,
    kernel: str = "softmax",
    relative: float = 1e-15,
    precision: int = 106,
    limit: int = MAX_PRECISION,
    mask: ArrayLike | None = None,
) -> Certified:
    """Certified loss f = 1/2 |sum_h S_h X W_V,h W_O,h - y|^2 at stored weights.

    Args:
        X: Tokens, shape (N, n, D).
        y: Targets, shape (N, n, D_y).
        W_Q: Query weights, shape (H, D, d).
        W_K: Key weights, shape (H, D, d).
        W_V: Value weights, shape (H, D, d).
        W_O: Output weights, shape (H, d, D_y).
        kernel: "softmax" or "gaussian".
        relative: Wanted relative radius; the precision is doubled until it is met.
        precision: First working precision in bits.
        limit: Greatest precision; `reached` is False when it does not suffice.
        mask: True for a real token, shape (N, n); None where all are.

    Returns:
        The loss as `Certified`.

    Raises:
        InputError: An array has the wrong shape or holds numbers that float64 does not.

    Example:
        >>> one = [[[1.0]]]
        >>> ball_loss(one, [[[0.5]]], one, one, [[[3.0]]], one).mid
        3.125
    """
    a = _checked(kernel, mask, X=X, y=y, W_Q=W_Q, W_K=W_K, W_V=W_V, W_O=W_O)

    def value(_: int) -> arb:
        return square_sum(_residuals(a, _attention(a, kernel))) / 2

    return refine(value, relative, precision, limit)


def _hadamard(A: arb_mat, B: arb_mat) -> arb_mat:
    return arb_mat([[a * b for a, b in zip(x, z, strict=True)] for x, z in _pairs(A, B)])


def _pairs(A: arb_mat, B: arb_mat) -> Any:
    return zip(A.tolist(), B.tolist(), strict=True)


def _rows_scaled(weights: arb_mat, A: arb_mat) -> arb_mat:
    """The product diag(weights 1) A, from the row sums of `weights`."""
    rows = []
    for w, a in _pairs(weights, A):
        total = sum(w[1:], w[0])
        rows.append([total * z for z in a])
    return arb_mat(rows)


def _gradient_of_head(
    a: _Arrays, h: int, kernel: str, tokens: list[arb_mat], R: list[arb_mat], S: list[arb_mat]
) -> dict[str, arb_mat]:
    """Gradients of head h in W_Q, W_K, W_V (docs/theory/full-gd.md)."""
    W_Q, W_K, W_V, W_O = (_exact(W[h]) for W in (a.W_Q, a.W_K, a.W_V, a.W_O))
    D, d = a.W_Q.shape[1:]
    out = {name: arb_mat(D, d) for name in ("W_Q", "W_K", "W_V")}
    for x, r, s in zip(tokens, R, S, strict=True):
        xt, back = x.transpose(), r * W_O.transpose()
        out["W_V"] = out["W_V"] + (s * x).transpose() * back
        A = _hadamard(back * W_V.transpose() * xt, s)
        q, k = x * W_Q, x * W_K
        if kernel == "softmax":
            P = A - _rows_scaled(A, s)  # S o (G - rowsum(S o G) 1^T), A = S o G
            out["W_Q"] = out["W_Q"] + xt * (P * k)
            out["W_K"] = out["W_K"] + xt * (P.transpose() * q)
        else:
            out["W_Q"] = out["W_Q"] - xt * (_rows_scaled(A, q) - A * k)
            At = A.transpose()
            out["W_K"] = out["W_K"] - xt * (_rows_scaled(At, k) - At * q)
    scale = 1 / arb(d).sqrt()
    return {"W_Q": out["W_Q"] * scale, "W_K": out["W_K"] * scale, "W_V": out["W_V"]}


def ball_gradient_norm(
    X: ArrayLike,
    y: ArrayLike,
    W_Q: ArrayLike,
    W_K: ArrayLike,
    W_V: ArrayLike,
    W_O: ArrayLike,
    kernel: str = "softmax",
    trains: tuple[str, ...] = ("W_Q", "W_K", "W_V"),
    relative: float = 1e-15,
    precision: int = 106,
    limit: int = MAX_PRECISION,
    mask: ArrayLike | None = None,
) -> Certified:
    """Certified norm of the gradient over the trained blocks at stored weights.

    Args:
        X: Tokens, shape (N, n, D).
        y: Targets, shape (N, n, D_y).
        W_Q: Query weights, shape (H, D, d).
        W_K: Key weights, shape (H, D, d).
        W_V: Value weights, shape (H, D, d).
        W_O: Output weights, shape (H, d, D_y).
        kernel: "softmax" or "gaussian".
        trains: Blocks that count, of W_Q, W_K, W_V.
        relative: Wanted relative radius; the precision is doubled until it is met.
        precision: First working precision in bits.
        limit: Greatest precision; `reached` is False when it does not suffice.
        mask: True for a real token, shape (N, n); None where all are.

    Returns:
        The norm as `Certified`.

    Raises:
        InputError: An array has the wrong shape or holds numbers that float64 does not.

    Example:
        >>> one = [[[1.0]]]
        >>> ball_gradient_norm(one, [[[0.5]]], one, one, [[[3.0]]], one).mid
        2.5
    """
    a = _checked(kernel, mask, X=X, y=y, W_Q=W_Q, W_K=W_K, W_V=W_V, W_O=W_O)

    def value(_: int) -> arb:
        S = _attention(a, kernel)
        R, tokens = _residuals(a, S), [_exact(x) for x in a.X]
        blocks = []
        for h in range(a.W_Q.shape[0]):
            gradients = _gradient_of_head(a, h, kernel, tokens, R, [s[h] for s in S])
            blocks += [gradients[name] for name in trains]
        return square_sum(blocks).sqrt()

    return refine(value, relative, precision, limit)


def certified_sigma_min_at(
    X: ArrayLike,
    W_Q: ArrayLike,
    W_K: ArrayLike,
    kernel: str = "softmax",
    digits: int = 15,
    mask: ArrayLike | None = None,
) -> Certified:
    """Certified sigma_min of the true B at stored weights, forming B included.

    `enclose_sigma_min` speaks of the float64 matrix it is given; this speaks of B(W_Q, W_K) itself.

    Args:
        X: Tokens, shape (N, n, D).
        W_Q: Query weights, shape (H, D, d).
        W_K: Key weights, shape (H, D, d).
        kernel: "softmax" or "gaussian".
        digits: Wanted decimal digits.
        mask: True for a real token, shape (N, n); None where all are.

    Returns:
        sigma_{N n}(B); `reached` is False when B is singular or too close to it.

    Raises:
        InputError: An array has the wrong shape or holds numbers that float64 does not.

    Example:
        >>> certified_sigma_min_at([[[2.0]]], [[[1.0]]], [[[1.0]]]).mid
        2.0
    """
    a = _checked(kernel, mask, X=X, W_Q=W_Q, W_K=W_K)
    limit = 1024  # beyond that a zero is likelier than a small number

    def B(bits: int) -> arb_mat:
        return ball_B(X, a.W_Q, a.W_K, kernel, bits, mask)

    return certified_sigma_min(B, digits, limit)
