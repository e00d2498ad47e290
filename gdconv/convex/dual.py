"""Dual, duality gap and what follows from it, each bound covering its own rounding.

    D(v) = sum_i,l -L*(-v_il; y_il)   subject to   |sum_i A_ik v_i|_dual <= beta for every group k

For every Z and every feasible v, D(v) <= F* <= F(Z) (weak duality, see the theory page),
so F(Z) - D(v) bounds the suboptimality of Z. v is the residual -L'(pred) scaled into the feasible
set; nothing is assumed of where Z came from.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, sqrt

import numpy as np
from jaxtyping import Bool, Float

from gdconv.convex.group_lasso import Index, Program
from gdconv.rigor.lapack import svd
from gdconv.rigor.rounding import (
    SQUARE_TINY,
    TINY,
    UNIT,
    Array,
    Enclosure,
    gamma,
    gradual_underflow,
    up,
)
from gdconv.rigor.spectrum import norm2_upper

SMALLEST_SCALE = 2.0**-1000
"""Scales below this one are taken as 0; 8 u of this exceed what 2^40 denormal roundings move."""


@dataclass(frozen=True, eq=False)
class Certificate:
    """A proved interval for the optimum.

    Attributes:
        primal: Upper bound of F(Z) for the stored Z, hence of F*.
        dual: Lower bound of D(v) for the stored v, hence of F*.
        v: The dual feasible point (N, c).
        sizes: Upper bounds of the dual norms of sum_i A_ik v_i, one per group; none above beta.
        beta: Weight decay of the program.

    Example:
        >>> program = Program.of([[[1.0]]], [1.0], 0.5)
        >>> certify(program, np.full((1, 1, 1), 0.75)).gap < 1e-13
        True
    """

    primal: float
    dual: float
    v: Float[np.ndarray, "N c"]
    sizes: Float[np.ndarray, " K"]
    beta: float

    @property
    def gap(self) -> float:
        """Upper bound of F(Z) - F*."""
        if not self.dual > -inf:
            return inf
        if self.primal == self.dual:
            return 0.0
        return float(np.nextafter(self.primal - self.dual, inf))

    @property
    def relative_gap(self) -> float:
        """Upper bound of the gap over the lower end of F*: at least (F(Z) - F*)/F*."""
        if self.gap <= 0.0:
            return 0.0
        return up(self.gap / self.dual) if self.dual > 0.0 else inf

    @property
    def optimum(self) -> Enclosure:
        """F* lies in here."""
        return Enclosure(self.dual, max(self.primal, self.dual))


def objective_enclosure(program: Program, Z: Array) -> Enclosure:
    """The exact F(Z) at the stored Z, enclosed.

    Args:
        program: The program.
        Z: Weights (K, d, c).

    Returns:
        Enclosure of F(Z); its upper end is the certificate's `primal`.

    Raises:
        InputError: Z is refused by `Program.weights`.

    Example:
        >>> box = objective_enclosure(Program.of([[[1.0]]], [1.0], 0.5), np.zeros((1, 1, 1)))
        >>> box.lo <= 1.0 <= box.hi and box.width < 1e-12
        True
    """
    Z = program.weights(Z, finite=False)
    used = np.flatnonzero(np.any(Z != 0.0, axis=(1, 2)))
    with np.errstate(over="ignore", invalid="ignore"):
        p, slack = _predicted(program, Z, used)
    with np.errstate(over="ignore", invalid="ignore"):
        hi, lo = _objective_ends(program, Z[used], p, slack)
    return Enclosure(lo if lo > 0.0 else 0.0, hi if hi < inf else inf)


def _objective_ends(program: Program, Z: Array, p: Array, slack: Array) -> tuple[float, float]:
    """Upper and lower bound of F at the groups that are not zero; NaN where both overflow."""
    hi = program.loss.upper_sum(p, slack, program.y)
    if len(Z):
        hi = up(up(hi) + up(program.beta * _penalty_upper(program, Z)) * (1 + 4 * UNIT))
    # L is convex: L(q) >= L(p) - |L'(p)| |q - p|
    lo = program.loss.value_lower(p, program.y)
    slope = np.abs(program.loss.residual(p, program.y)) * (1 + 1e-12) + TINY
    lo -= up(float((slope * slack).sum()) * (1 + 2 * gamma(p.size + 4)))
    lo += program.beta * _penalty_lower(program, Z) * (1 - 8 * UNIT)
    return hi, float(np.nextafter(lo - 4 * UNIT * abs(lo), -inf))


def _predicted(program: Program, Z: Array, used: Index) -> tuple[Array, Array]:
    """Predictions and bounds of their rounding errors, from the groups that are not zero."""
    N, c = program.y.shape
    if len(used) == 0:
        return np.zeros((N, c)), np.zeros((N, c))
    A = program.design.flat if len(used) == len(Z) else program.design.A[:, used].reshape(N, -1)
    W = Z[used].reshape(-1, c)
    lengths = np.sqrt(np.square(W).sum(0)) * (1 + 2 * gamma(len(W))) + SQUARE_TINY
    slack = 1.001 * gamma(len(W)) * np.outer(program.design.row_norms, lengths)
    return A @ W, slack + len(W) * TINY


def _penalty_upper(program: Program, Z: Array) -> float:
    if not len(Z):
        return 0.0
    K, d, c = Z.shape
    if program.penalty == "nuclear" and c > 1:
        return sum(_nuclear_upper(M) for M in Z) * (1 + gamma(K + 2))
    squares = np.square(Z).sum(1) * (1 + 2 * gamma(d + 2)) + d * TINY
    total = float(np.sqrt(squares).sum())
    return up(total * (1 + 2 * gamma(K * c + 8)))


def _penalty_lower(program: Program, Z: Array) -> float:
    if not len(Z):
        return 0.0
    K, d, c = Z.shape
    if program.penalty == "nuclear" and c > 1:
        return sum(_nuclear_lower(M) for M in Z) * (1 - 2 * gamma(K + 2))
    total = float(np.sqrt(np.square(Z).sum(1)).sum())
    return max(total * (1 - 2 * gamma(K * c + d + 12)) - K * c * SQUARE_TINY, 0.0)


def _nuclear_upper(M: Array) -> float:
    """|M|_* <= sum_j s_j |u_j| |v_j| + sqrt(rank) |M - U S V|_F, whatever U, S, V are."""
    U, s, V = svd(M)
    r = len(s)
    left = np.sqrt(np.square(U).sum(0)) * (1 + 2 * gamma(len(U) + 4))
    right = np.sqrt(np.square(V).sum(1)) * (1 + 2 * gamma(V.shape[1] + 4))
    size = float((s * left * right).sum()) * (1 + 2 * gamma(r + 8))
    defect = M - (U * s) @ V
    rounding = gamma(r + 4) * float((left * s * right).sum()) * 2 + M.size * TINY
    slip = sqrt(float(np.square(defect).sum()) * (1 + 2 * gamma(M.size)) + M.size * TINY)
    slip = up(slip * (1 + 4 * UNIT) + rounding)
    return up(size + sqrt(r) * slip)


def _nuclear_lower(M: Array) -> float:
    """|M|_* >= <M, G>/|G|_2, whatever G is; G = U V is the best one."""
    U, _, V = svd(M)
    G = U @ V
    size = float(np.sqrt(np.square(M).sum() * np.square(G).sum())) * (1 + 4 * gamma(M.size))
    inner = float((M * G).sum()) - 2 * gamma(M.size + 2) * size - M.size * TINY
    return max(inner / norm2_upper(G) * (1 - 4 * UNIT), 0.0)


def dual_sizes_upper(program: Program, v: Array) -> Float[np.ndarray, " K"]:
    """Upper bounds of the exact dual norms |sum_i A_ik v_i| for the stored v, group by group.

    Args:
        program: The program.
        v: Dual point (N, c).

    Returns:
        One bound per group.

    Raises:
        InputError: v is refused by `Program.dual_point`.

    Example:
        >>> box = dual_sizes_upper(Program.of([[[1.0]]], [1.0], 0.5), np.ones((1, 1)))
        >>> bool(1.0 <= box[0] < 1.0 + 1e-14)
        True
    """
    v = program.dual_point(v)
    with np.errstate(over="ignore", invalid="ignore"):
        return _dual_sizes_upper(program, v)


def _dual_sizes_upper(program: Program, v: Array) -> Array:
    N, c = v.shape
    C = program.correlate(v)
    d = C.shape[1]
    lengths = np.sqrt(np.square(v).sum(0)) * (1 + 2 * gamma(N + 4)) + SQUARE_TINY
    slack = 1.001 * gamma(N) * np.outer(program.design.group_norms, lengths) + N * d * TINY
    if program.penalty == "nuclear" and c > 1:
        sizes = np.array([norm2_upper(M) for M in C])
        total = np.sqrt(np.square(slack).sum(1)) * (1 + 2 * gamma(c + 4))
    else:
        columns = np.sqrt(np.square(C).sum(1) * (1 + 2 * gamma(d + 4)) + d * TINY)
        return np.asarray((columns * (1 + 4 * UNIT) + slack).max(1) * (1 + 4 * UNIT) + TINY)
    return np.asarray((sizes + total) * (1 + 4 * UNIT) + TINY)


def scaled_into(program: Program, v: Array, sizes: Array | None = None) -> tuple[Array, Array]:
    """A feasible multiple of v, and upper bounds of its dual norms.

    Args:
        program: The program.
        v: Any dual point (N, c), for instance a residual.
        sizes: `dual_sizes_upper(program, v)` if known.

    Returns:
        s v with 0 <= s as large as pays off, stored in float64, and the bounds, none above beta.

    Raises:
        InputError: v is refused by `Program.dual_point`.

    Example:
        >>> v, sizes = scaled_into(Program.of([[[2.0]]], [1.0], 0.5), np.ones((1, 1)))
        >>> bool(sizes[0] <= 0.5 and v[0, 0] > 0.2499999)
        True
    """
    v = program.loss.into_domain(program.dual_point(v), program.y)
    if sizes is None:
        sizes = dual_sizes_upper(program, v)
    top = float(sizes.max())
    # the scaled vector is rounded and clipped entry by entry: a group moves by a few u |A_k| |v|
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = float(np.sqrt(np.square(v).sum()) * (1 + 2 * gamma(v.size + 4))) + SQUARE_TINY
        top_moved = up(top + 8 * UNIT * float(program.design.group_norms.max()) * lengths)
        limit = program.beta / top_moved * (1 - 8 * UNIT) if top_moved > 0 else inf
        s = program.loss.best_scale(v, program.y, limit)
        if not (s >= SMALLEST_SCALE and s * lengths >= SMALLEST_SCALE):
            s = 0.0  # below, beta/top or s v is denormal: no longer right to 8 u
        scaled = program.loss.into_domain(s * v, program.y)
        moved = 8 * UNIT * program.design.group_norms * lengths
        sizes = (sizes + moved) * (s * (1 + 8 * UNIT)) + TINY
    return scaled, np.minimum(sizes, program.beta)


def certify(program: Program, Z: Array, v: Array | None = None) -> Certificate:
    """Certificate of any Z: F* is in [dual, primal], F(Z) - F* <= gap.

    Args:
        program: The program.
        Z: Weights (K, d, c), from anywhere.
        v: Dual point to scale; the residual of Z if not given.

    Returns:
        The certificate; its gap is infinite when the arithmetic is not round to nearest.

    Raises:
        InputError: Z or v are not real numbers of their shapes.

    Example:
        >>> program = Program.of([[[1.0]]], [1.0], 0.5)
        >>> far = certify(program, program.zeros())
        >>> far.dual <= 0.4375 <= far.primal
        True
    """
    Z = program.weights(Z, finite=False)
    v = v if v is None else program.dual_point(v, finite=False)
    primal = objective_enclosure(program, Z).hi
    with np.errstate(over="ignore", invalid="ignore"):
        if v is None:
            v = program.loss.residual(program.predict(Z), program.y)
        if not np.isfinite(v).all():
            return Certificate(primal, -inf, v, np.full(len(Z), program.beta), program.beta)
        v, sizes = scaled_into(program, v)
    sound = gradual_underflow() and bool(np.isfinite(sizes).all()) and primal < inf
    with np.errstate(over="ignore", invalid="ignore"):
        dual = program.loss.lower_sum(v, program.y) if sound else -inf
    return Certificate(primal, dual if dual < inf else -inf, v, sizes, program.beta)


def certified_inactive(program: Program, certificate: Certificate) -> Bool[np.ndarray, " K"]:
    """Tokens that are inactive in *every* optimum.

    D is strongly concave with modulus 1/curvature, so the dual optimum is within
    sqrt(2 curvature gap) of v; where |A_k^T v| + |A_k| times that radius is below beta, the strict
    inequality holds at the dual optimum and Z_k = 0 (statement `sparsity`).

    Args:
        program: The program.
        certificate: Its certificate.

    Returns:
        True where inactivity is proved.

    Example:
        >>> program = Program.of([[[1.0], [0.1]]], [1.0], 0.5)
        >>> certified_inactive(program, certify(program, np.array([[[0.75]], [[0.0]]]))).tolist()
        [False, True]
    """
    radius = dual_radius(program, certificate)
    return np.asarray(
        (certificate.sizes + program.design.group_norms * radius) * (1 + 8 * UNIT) < program.beta
    )


def dual_radius(program: Program, certificate: Certificate) -> float:
    """Radius of a ball around v that holds the dual optimum.

    Args:
        program: The program.
        certificate: Its certificate.

    Returns:
        sqrt(2 curvature gap), rounded up.

    Example:
        >>> program = Program.of([[[1.0]]], [1.0], 0.5)
        >>> dual_radius(program, certify(program, np.full((1, 1, 1), 0.75))) < 1e-6
        True
    """
    gap = max(certificate.gap, 0.0)
    return up(sqrt(2.0 * program.loss.curvature * gap)) if gap < inf else inf


def beta_max(program: Program) -> Enclosure:
    """Least weight decay at which Z = 0 is optimal: max_k |sum_i A_ik L'(0, y_i)|_dual.

    Args:
        program: The program; its beta plays no part.

    Returns:
        The value, enclosed.

    Example:
        >>> box = beta_max(Program.of([[[1.0]]], [1.0], 0.5))
        >>> box.lo <= 2.0 <= box.hi and box.width < 1e-12
        True
    """
    v = program.loss.residual(np.zeros_like(program.y), program.y)
    if not v.any() or not program.design.A.any():
        return Enclosure(0.0, 0.0)
    with np.errstate(over="ignore", invalid="ignore"):
        lo, hi = _beta_max_ends(program, v)
    return Enclosure(lo if 0.0 < lo < inf else 0.0, hi if hi < inf else inf)


def _beta_max_ends(program: Program, v: Array) -> tuple[float, float]:
    hi = float(dual_sizes_upper(program, v).max())
    lengths = float(np.sqrt(np.square(v).sum())) + SQUARE_TINY
    slack = 4 * gamma(len(v) + 8) * float(program.design.group_norms.max()) * lengths
    C = program.correlate(v)
    if program.penalty == "nuclear" and C.shape[2] > 1:
        # |C| >= |C u| for any unit vector u; LAPACK's only has to be near the best one
        u = svd(C)[2][:, 0]
        size = np.sqrt(np.square(u).sum(1)) * (1 + 4 * gamma(u.shape[1] + 4))
        near = float((np.sqrt(np.square((C * u[:, None]).sum(2)).sum(1)) / size).max())
        slack += 4 * gamma(C.shape[2]) * float(np.sqrt(np.square(C).sum((1, 2))).max())
    else:
        near = float(program.dual_sizes(C).max())
    return near * (1 - 4 * gamma(C.shape[1] + 8)) - slack - v.size * TINY, hi
