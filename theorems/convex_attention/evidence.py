"""What the convex-attention statements share: drawn cases, equal optima, sequences."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import inf

import numpy as np
import torch
from flint import arb, arb_mat
from torch import Tensor

from gdconv.convex.dual import beta_max, certified_inactive, dual_radius
from gdconv.convex.group_lasso import Index, Program, token_program
from gdconv.convex.recovery import Heads, heads_objective, heads_of, merged
from gdconv.convex.solvers.fast import CERTIFIED, Solution, solve
from gdconv.convex.training import descend, train_heads
from gdconv.rigor.balls import square_sum, to_enclosure, working_precision
from gdconv.rigor.lapack import spectral_norm
from gdconv.rigor.rounding import Array, Enclosure
from gdconv.theory.claims import Finding, Series
from gdconv.theory.prediction import Inequality

from .exact import exact_gap
from .sequence import SequenceSolution, heads_of_sequence, solve_sequence
from .witnesses import BITS

SHARE = 0.1
"""beta over beta_max."""

FACTOR, PRINTED_FACTOR = 1.0, 0.5
"""Factor of the loss in the convex program: corrected, and as printed."""

GAP, TIGHT, EQUAL, ROUNDING, NEAR = 1e-10, 1e-8, 1e-6, 1e-9, 0.05
"""Relative: gap asked of solutions (sequences: the second), equality of optima, rounding of a value
in float64, what random starts must reach."""

STARTS, TRAINING = 8, 500
"""Random starts of the non-convex models and steps of each."""

NOTHING = "Z = 0 is optimal: no head has anything to do"
"""Why a statement about minimisers tests nothing."""

GATES, BALL_SIZES = 3, (8, 8, 64)
"""Gates drawn; most samples, tokens and dimensions that are evaluated in ball arithmetic."""


@dataclass
class Case:
    """One drawn problem and what the statements share of it.

    Attributes:
        X: Tokens (N, n, d).
        y: Targets (N).
        h: Heads asked for, None for as many as always suffice.
        steps: Proximal steps.
        outputs: Outputs c of the vector forms.
        seed: Of everything else that is drawn.
    """

    X: Array
    y: Array
    h: int | None
    steps: int
    outputs: int
    seed: int

    def draw(self, stream: int, *shape: int) -> Array:
        """Standard normal numbers, the same at every call."""
        return np.random.default_rng([self.seed, stream]).standard_normal(shape)

    @cached_property
    def program(self) -> Program:
        """The corrected program (9) at beta = beta_max / 10."""
        return self.at_share(token_program(self.X, self.y, 1.0))

    @cached_property
    def solution(self) -> Solution:
        """Its certified solution."""
        return solve(self.program, GAP)

    @cached_property
    def Y(self) -> Array:
        """Targets (N, c): y, then drawn columns of its size."""
        more = self.draw(1, len(self.y), self.outputs - 1)
        return np.column_stack([self.y, more * np.sqrt(np.square(self.y).mean())])

    @cached_property
    def ball_program(self) -> Program:
        """The first samples, tokens and dimensions: small enough for ball arithmetic."""
        N, n, d = BALL_SIZES
        return self.at_share(token_program(self.X[:N, :n, :d], self.y[:N], 1.0))

    @cached_property
    def sequences(self) -> tuple[Array, Array]:
        """The largest coordinate of the tokens (N, n), and drawn targets of its size."""
        X = self.X[:, :, int(np.square(self.X).sum((0, 1)).argmax())]
        return X, self.draw(2, *X.shape) * np.sqrt(np.square(X).mean())

    @staticmethod
    def at_share(program: Program, share: float = SHARE) -> Program:
        """The same data at beta = share beta_max; at 1 where beta_max is 0, as in part of data."""
        beta = share * beta_max(program).mid
        return program.with_beta(beta if 0.0 < beta < inf else 1.0)


def convex_optimum(program: Program, factor: float) -> tuple[Solution, Enclosure]:
    """min factor sum L + beta sum |Z_k| = factor times the optimum at beta/factor, enclosed."""
    found = solve(program.with_beta(program.beta / factor), GAP)
    box = found.certificate.optimum
    return found, Enclosure(factor * box.lo, factor * box.hi)


def nothing_to_do(found: Solution) -> bool:
    """Whether Z = 0 is proved optimal, so that a statement about minimisers is empty.

    Args:
        found: A solution.

    Returns:
        True if proved.
    """
    return found.status == CERTIFIED and not found.Z.any()


def enough_heads(heads: Heads, patterns: int) -> int:
    """How many heads are enough, given those recovered from a minimiser.

    Each gate pattern gets as many as the one that needs most; without gates there is one.

    Args:
        heads: Heads of a minimiser; with several patterns, rows of `a` are one-hot.
        patterns: Gate patterns.

    Returns:
        The number.
    """
    if patterns == 1 or not heads.count:
        return heads.count
    own = heads.a.argmax(1) // (heads.a.shape[1] // patterns)
    return patterns * int(np.bincount(own).max())


def one_direction_excluded(program: Program, found: Solution) -> bool:
    """Whether it is proved that no minimiser has one direction only, so that P(1) > F*.

    Z_k of any minimiser is parallel to c_k = sum_i v_i x_ik at the dual optimum. Where no two c_k
    of tokens that may be active are parallel, one direction means one token: solve for each alone.

    Args:
        program: A program with one output.
        found: Its solution.

    Returns:
        True if proved; never for d = 1.
    """
    tokens = np.flatnonzero(~certified_inactive(program, found.certificate))
    C = program.correlate(found.certificate.v)[tokens, :, 0]
    sizes = np.sqrt(np.square(C).sum(1))
    radius = dual_radius(program, found.certificate) * program.design.group_norms[tokens]
    if len(tokens) < 2 or not (sizes > 1e4 * radius).all():
        return False
    cosines = np.triu(C @ C.T / np.outer(sizes, sizes), 1)
    if cosines.max() > 1 - 1e-3:  # each c_k is known to 1e-4 of itself
        return False
    for k in tokens:
        alone = token_program(program.design.A[:, [k]], program.y[:, 0], program.beta)
        if not solve(alone, GAP).certificate.dual > found.certificate.primal:
            return False
    return True


def over(value: float | Enclosure, optimum: Enclosure) -> Enclosure:
    """Value over an optimum known up to its gap, which is wide where a solver stopped early.

    Args:
        value: A number or an enclosure, positive.
        optimum: Not negative.

    Returns:
        The ratio, enclosed; 1 where both are exactly 0.

    Example:
        >>> over(2.0, Enclosure(1.0, 2.0))
        Enclosure(lo=1.0, hi=2.0)
    """
    lo, hi = value if isinstance(value, Enclosure) else (value, value)
    if lo == hi == optimum.lo == optimum.hi == 0.0:
        return Enclosure(1.0, 1.0)
    if not optimum.lo > 0:
        return Enclosure(lo / optimum.hi if optimum.hi > 0 else 0.0, inf)
    return Enclosure(lo / optimum.hi, hi / optimum.lo)


def same_optimum(
    case: Case,
    program: Program,
    h: int,
    plain: Program | None = None,
    patterns: Array | None = None,
) -> Finding:
    """P(h) = F* of a convex program and the model it stands for.

    From below by weak duality, which every start must respect; from above by heads that were found,
    the best start or those recovered from Z where h allows. Starts that miss prove nothing, nor
    does a gap that was not reached.

    Args:
        case: The case.
        program: The convex program.
        h: Heads.
        plain: The program the heads are trained on, if not the same.
        patterns: Their gates (h, N).

    Returns:
        The finding.
    """
    found, box = convex_optimum(program, FACTOR)
    heads = heads_of(program, found.Z)
    heads = heads if patterns is not None else merged(heads)
    needed = enough_heads(heads, program.shape[0] // len(case.X[0]))
    trained = train_heads(plain or program, h, STARTS, TRAINING, case.seed, patterns)
    recovered = heads_objective(program, heads) if needed <= h else inf
    best, alone = min(trained.best, recovered), over(trained.best, box)
    claims = (
        Inequality("P(h) >= F*: best start over F* >= 1 - 1e-9", alone, ">=", 1 - ROUNDING),
        Inequality("P(h) <= F*: best heads found over F* <= 1 + 1e-6",
                   over(best, box), "<=", 1 + EQUAL),
        Inequality("random starts alone come within 5 %",
                   Enclosure(min(1.0, alone.lo), alone.hi), "<=", 1 + NEAR),
    )  # fmt: skip
    width = Inequality("h >= heads that a minimiser needs", h, ">=", needed)
    if nothing_to_do(found):
        return Finding(
            claims[:1] if box.lo > 0.0 else (), (width,), f"F* = {box.mid:.10g}", NOTHING
        )
    with np.errstate(all="ignore"):
        curve = trained.curve.numpy() / box.mid - 1
    series = Series(
        "best start", range(1, len(curve) + 1), curve.tolist(), "step", "over F*, minus 1"
    )
    note = f"F* = {box.mid:.10g}; h = {h}, starts alone {curve[-1]:.1e} above"
    return Finding(claims, (width,), note, series=(series,))


def sequence_pair(X: Array, Y: Array, beta: float) -> tuple[SequenceSolution, SequenceSolution]:
    """The corrected sequence program and the printed relaxation, solved."""
    right, printed = (solve_sequence(X, Y, beta, equal, TIGHT, 20_000) for equal in (True, False))
    return right, printed


def near(name: str, found: SequenceSolution, value: float) -> Inequality:
    """The claim that an optimum lies within 1e-7 of a value given to eight digits."""
    off = max(abs(found.primal - value), abs(found.dual - value))
    return Inequality(f"{name}: distance <= 1e-7", off, "<=", 1e-7)


def two_heads(C: Array, X: Array, Y: Array, beta: float) -> float:
    """Value of the non-convex sequence model at the two heads of C_+ and C_-."""
    A, w = heads_of_sequence(C)
    F = np.einsum("hnk,ik,h->in", A, X, w)
    return float(np.square(F - Y).sum() + beta * np.abs(w).sum())


def sequence_starts(case: Case, X: Array, Y: Array, beta: float, starts: int = 6) -> Array:
    """Values of the non-convex sequence model after descent, two heads w = v b each.

    (beta/2)(v^2 + b^2) >= beta |w|, with equality at the optimum; the value uses |w|.

    Args:
        case: For its seed.
        X: Sequences (N, n).
        Y: Targets (N, n).
        beta: Weight decay.
        starts: Random starts.

    Returns:
        One value per start.
    """
    n = X.shape[1]
    x, y = torch.from_numpy(X), torch.from_numpy(Y)
    weights = {
        "A": torch.from_numpy(np.abs(case.draw(4, starts, 2, n, n))),
        "v": torch.from_numpy(case.draw(5, starts, 2)),
        "b": torch.from_numpy(case.draw(6, starts, 2)),
    }
    weights["A"] = weights["A"] / weights["A"].sum(-1, keepdim=True)

    def fit(A: Tensor, w: Tensor) -> Tensor:
        return (torch.einsum("rhnk,ik,rh->rin", A, x, w) - y).square().sum((1, 2))

    def objective(A: Tensor, v: Tensor, b: Tensor) -> Tensor:
        return (fit(A, v * b) + 0.5 * beta * (v.square() + b.square()).sum(1)).sum()

    eta = 0.05 / max(float(spectral_norm(X)) ** 2, 1e-300)
    end, _ = descend(objective, weights, eta, 300, simplex=("A",))
    w = end["v"] * end["b"]
    return np.asarray((fit(end["A"], w) + beta * w.abs().sum(1)).numpy())


def far_points(case: Case, program: Program) -> list[Array]:
    """Z far from the optimum, and the optima without one token (the first eight, in turn)."""
    best = solve(program, GAP).Z
    points = [program.zeros(), 0.5 * best, best + case.draw(13, *program.shape)]
    for k in range(min(8, program.shape[0]) if program.shape[0] > 1 else 0):
        others = np.delete(np.arange(program.shape[0]), k)
        part = Program.of(program.design.A[:, others], program.y, program.beta)
        Z = program.zeros()
        Z[others] = solve(part, GAP).Z
        points.append(Z)
    return points


def simplex_rows(case: Case, stream: int, shape: tuple[int, int]) -> Array:
    """Rows drawn on the simplex."""
    rows = np.exp(case.draw(stream, *shape))
    return np.asarray(rows / rows.sum(1, keepdims=True))


def strict_margins(program: Program, found: Solution, tokens: Index) -> list[Enclosure]:
    """(|sum_i v_i x_ik| + |x_k| sqrt(2 curvature gap))/beta in ball arithmetic, one output.

    Args:
        program: A small program.
        found: Its solution, whose certificate holds v.
        tokens: Which tokens.

    Returns:
        One enclosure per token.
    """
    v = found.certificate.v
    exact = exact_gap(program, found.Z, v)
    with working_precision(BITS):
        gap = exact.gap.max(arb(0))
        radius = (2 * arb(program.loss.curvature) * gap).sqrt()
        margins = []
        for k in tokens:
            A = program.design.A[:, k]
            size = square_sum([arb_mat(A.T.tolist()) * arb_mat(v.tolist())]).sqrt()
            own = square_sum([arb_mat(A.tolist())]).sqrt()
            margins.append(to_enclosure((size + own * radius) / arb(program.beta)))
    return margins


def spread_over_copies(case: Case) -> tuple[Program, Array]:
    """A program whose every token stands N + 1 times, and an optimum spread evenly over the copies.

    So more than N tokens are active. N is half of n; the samples with the largest |y_i| |X_i|.

    Args:
        case: The case.

    Returns:
        The program and Z.
    """
    weight = np.abs(case.y) * np.sqrt(np.square(case.X).sum((1, 2)))
    chosen = np.sort(np.argsort(-weight)[: max(1, case.X.shape[1] // 2)])
    X, y = case.X[chosen], case.y[chosen]
    single = case.at_share(token_program(X, y, 1.0), 0.05)
    copies = len(y) + 1
    Z = solve(single, GAP).Z / copies
    many = token_program(np.concatenate([X] * copies, axis=1), y, single.beta)
    return many, np.concatenate([Z] * copies)
