"""From weights Z to heads and back, without changing the objective; fewer tokens at an optimum.

Head j of the non-convex models: a_j on the simplex (K), v_j (d), b_j (c). Its share of Z is
Z_k,:,: = a_jk v_j b_j^T. Each group of Z gives back one head per column ("columns") or one per
singular value ("nuclear"), with a = e_k and |v| = |b|, so that weight decay (beta/2)(|v|^2 + |b|^2)
equals beta times the group's norm (statement `recovery`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from gdconv.convex.group_lasso import Program
from gdconv.rigor.lapack import svd
from gdconv.rigor.rounding import Array
from gdconv.support.errors import InputError


@dataclass(frozen=True, eq=False)
class Heads:
    """Heads of the non-convex model.

    Attributes:
        a: Attention of each head over the groups (h, K), rows on the simplex.
        v: Values (h, d).
        b: Outputs (h, c).

    Example:
        >>> Heads(np.ones((1, 1)), np.ones((1, 2)), np.ones((1, 1))).count
        1
    """

    a: Float[np.ndarray, "h K"]
    v: Float[np.ndarray, "h d"]
    b: Float[np.ndarray, "h c"]

    @property
    def count(self) -> int:
        """Number of heads h."""
        return len(self.a)


def _lengths(M: Array, axis: int) -> Array:
    """Euclidean norms along an axis; squares of numbers below 1e-162 would vanish."""
    _, exponents = np.frexp(np.abs(M).max(axis, keepdims=True, initial=0.0))
    small = np.ldexp(M, -exponents)  # a power of two: the same norm where nothing vanishes
    sizes = np.sqrt(np.square(small).sum(axis, keepdims=True))
    return np.asarray(np.ldexp(sizes, exponents)).squeeze(axis)


def heads_of(program: Program, Z: Float[np.ndarray, "K d c"]) -> Heads:
    """Heads with the same predictions and the same objective as Z.

    Args:
        program: The program (its penalty decides how a group is split).
        Z: Weights.

    Returns:
        One head per column of each group that is not zero, a = e_k, v = Z_k/sqrt|Z_k|,
        b = sqrt|Z_k| e_l; for the nuclear norm one per singular value.

    Example:
        >>> program = Program.of([[[1.0]]], [1.0], 0.5)
        >>> heads = heads_of(program, np.full((1, 1, 1), 0.25))
        >>> heads.v.item(), heads.b.item()
        (0.5, 0.5)
    """
    K, d, c = Z.shape
    a, v, b = [], [], []
    nuclear = program.penalty == "nuclear" and c > 1
    for k in range(K):
        if not Z[k].any():
            continue
        if nuclear:
            U, s, V = svd(Z[k])
            parts = [(U[:, j] * np.sqrt(s[j]), V[j] * np.sqrt(s[j])) for j in np.flatnonzero(s)]
        else:
            sizes = _lengths(Z[k], 0)
            parts = [
                (Z[k, :, j] / np.sqrt(sizes[j]), np.sqrt(sizes[j]) * np.eye(c)[j])
                for j in np.flatnonzero(sizes)
            ]
        for left, right in parts:
            a.append(np.eye(K)[k])
            v.append(left)
            b.append(right)
    if not a:
        return Heads(np.zeros((0, K)), np.zeros((0, d)), np.zeros((0, c)))
    return Heads(np.array(a), np.array(v), np.array(b))


def merged(heads: Heads, tolerance: float = 1e-12) -> Heads:
    """Heads of parallel products v b^T joined: as many as there are directions in Z.

    Heads j with v_j b_j^T = s_j u, s_j > 0 and |u| = 1, become one with a = sum s_j a_j / S and
    S = sum s_j: the same Z, the same penalty. So P(h) = F* from as many heads as some optimum has
    directions, which can be fewer than active tokens (two are enough when d = c = 1).

    Args:
        heads: Heads with |v_j| = |b_j|, as `heads_of` returns them.
        tolerance: How far two unit products may lie apart to count as parallel.

    Returns:
        The joined heads.

    Example:
        >>> program = Program.of([[[1.0], [2.0]]], [1.0], 0.5)
        >>> merged(heads_of(program, np.full((2, 1, 1), 0.25))).count
        1
    """
    if not heads.count:
        return heads
    products = np.einsum("hd,hc->hdc", heads.v, heads.b).reshape(heads.count, -1)
    sizes = _lengths(products, 1)
    left = [int(j) for j in np.flatnonzero(sizes)]
    a, v, b = [], [], []
    while left:
        first = left[0]
        unit = products[first] / sizes[first]
        same = [j for j in left if np.abs(products[j] / sizes[j] - unit).max() <= tolerance]
        total = float(sizes[same].sum())
        grow = np.sqrt(total / sizes[first])
        a.append(sizes[same] @ heads.a[same] / total)
        v.append(heads.v[first] * grow)
        b.append(heads.b[first] * grow)
        left = [j for j in left if j not in same]
    return Heads(np.array(a), np.array(v), np.array(b))


def weights_of(heads: Heads) -> Float[np.ndarray, "K d c"]:
    """Z of heads: sum_j a_j (outer) v_j b_j^T; same predictions, norm at most the heads' penalty.

    Args:
        heads: Heads on the simplex.

    Returns:
        Z.

    Raises:
        InputError: A row of `a` is not on the simplex.

    Example:
        >>> weights_of(Heads(np.ones((1, 1)), np.full((1, 1), 0.5), np.full((1, 1), 0.5))).item()
        0.25
    """
    if heads.count and (heads.a.min() < 0 or np.abs(heads.a.sum(1) - 1).max() > 1e-9):
        raise InputError("a", "rows off the simplex", "give rows >= 0 that sum to 1")
    return np.asarray(np.einsum("hk,hd,hc->kdc", heads.a, heads.v, heads.b))


def heads_objective(program: Program, heads: Heads) -> float:
    """Objective of the non-convex model at these heads.

    sum L + (beta/2) sum_j (|v_j|^2 + |b_j|_1^2), with |b_j|_2^2 for the nuclear program.

    Args:
        program: The program.
        heads: Heads.

    Returns:
        The value, in floating point.

    Example:
        >>> program = Program.of([[[1.0]]], [1.0], 0.5)
        >>> Z = np.full((1, 1, 1), 0.25)
        >>> heads_objective(program, heads_of(program, Z)) == program.objective(Z)
        True
    """
    # through the heads, not through Z: an independent path to the predictions
    values = np.einsum("ikd,hk,hd->ih", program.design.A, heads.a, heads.v)
    fit = float(program.loss.value(values @ heads.b, program.y).sum())
    if program.penalty == "nuclear":
        out = float(np.square(heads.b).sum())
    else:
        out = float(np.square(np.abs(heads.b).sum(1)).sum())
    return fit + 0.5 * program.beta * (float(np.square(heads.v).sum()) + out)


def fewest_tokens(program: Program, Z: Float[np.ndarray, "K d c"]) -> Float[np.ndarray, "K d c"]:
    """An equally good Z with at most N c active (group, column) pairs (N tokens when c = 1).

    The columns of Z that are not zero have predictions t_j phi_j, t_j their lengths. While the
    phi_j are dependent, sum c_j phi_j = 0, moving t along -c until one length is 0 changes no
    prediction; along the side with sum c_j >= 0 the penalty does not rise (it is constant at an
    optimum). Floating point: the objective moves by rounding only.

    Args:
        program: A program with the penalty "columns" (or one output).
        Z: Weights.

    Returns:
        Weights whose active pairs have independent predictions.

    Raises:
        InputError: The nuclear program with more than one output.

    Example:
        >>> program = Program.of([[[1.0], [1.0]]], [1.0], 0.5)
        >>> Z = fewest_tokens(program, np.full((2, 1, 1), 0.375))
        >>> sorted(Z.ravel().tolist())
        [0.0, 0.75]
    """
    if program.penalty == "nuclear" and program.shape[2] > 1:
        raise InputError("penalty", "nuclear", "give the penalty columns")
    out = Z.copy()
    for column in range(Z.shape[2]):
        lengths = _lengths(out[:, :, column], 1)
        live = [int(k) for k in np.flatnonzero(lengths)]
        unit = {k: out[k, :, column] / lengths[k] for k in live}
        while live:
            Phi = np.stack([program.design.A[:, k] @ unit[k] for k in live], 1)
            singular = svd(Phi, full_matrices=True)
            rank = int((singular[1] > 1e-10 * singular[1][0]).sum()) if singular[1][0] > 0 else 0
            if rank == len(live):
                break
            c = singular[2][-1]
            c = c if c.sum() >= 0 else -c
            if not (c > 0).any():
                c = -c
            t = lengths[live]
            with np.errstate(divide="ignore"):
                steps = np.where(c > 0, t / np.where(c > 0, c, 1.0), np.inf)
            hit = int(np.argmin(steps))
            moved = np.maximum(t - steps[hit] * c, 0.0)
            moved[hit] = 0.0
            lengths[live] = moved
            live = [k for k in live if lengths[k] > 0.0]
        out[:, :, column] = 0.0
        for k in live:
            out[k, :, column] = lengths[k] * unit[k]
    return out


def predictions(heads: Heads, X: Array) -> Array:
    """sum_j (a_j^T X_i v_j) b_j.

    Args:
        heads: Heads.
        X: Tokens (N, K, d).

    Returns:
        Predictions (N, c).

    Example:
        >>> one = Heads(np.ones((1, 1)), np.ones((1, 1)), np.ones((1, 1)))
        >>> predictions(one, np.full((1, 1, 1), 3.0))
        array([[3.]])
    """
    return np.asarray(np.einsum("ikd,hk,hd->ih", X, heads.a, heads.v) @ heads.b)
