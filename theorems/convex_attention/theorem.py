"""Convex attention: the reformulation, its certificate, its sparsity, and gradient descent on it.

Problem      P(h) = min sum_i L(sum_j (a_j^T X_i v_j) b_j, y_i) + beta/2 sum_j (|v_j|^2 + b_j^2),
             a_j on the simplex, against F* = min_Z sum_i L(tr(Z^T X_i), y_i) + beta sum_k |Z_k|
Algorithm    Z <- prox(Z - eta grad, eta beta), plain and accelerated
Guarantee    P(h) = F* for enough heads [1, corrected]; F(Z_t) - F(Z) <= |Z_0 - Z|^2/(2 eta t) and
             2 |Z_0 - Z|^2/(eta (t + 1)^2) for every Z, eta <= 1/(2 lambda_max) [2]
Tracked      F(Z_t) - F* and its bound, best non-convex value of many starts
Relative to the paper: squared loss; the factor 1/2, the free width, the bound N + 1 and the
sequence program of the printed theorems are corrected, and each slip is a statement of its own.
beta is a tenth of beta_max of the case. Proofs: docs/theory/convex-attention.md.
References   [1] Ergen, Neyshabur, Mehta (2022), arXiv:2211.11052
             [2] Beck, Teboulle (2009), SIAM J. Imaging Sci. 2(1)
"""

from __future__ import annotations

from fractions import Fraction
from math import inf

import numpy as np
from flint import arb

from gdconv.convex.dual import beta_max, certified_inactive, certify, objective_enclosure
from gdconv.convex.gated import gate_patterns, gated_program
from gdconv.convex.group_lasso import Program, token_program
from gdconv.convex.recovery import (
    Heads,
    fewest_tokens,
    heads_objective,
    heads_of,
    weights_of,
)
from gdconv.convex.solvers.fast import solve
from gdconv.convex.solvers.first_order import accelerated_gradient
from gdconv.convex.training import train_heads
from gdconv.data.sources import load
from gdconv.rigor.balls import to_enclosure
from gdconv.rigor.rounding import Enclosure
from gdconv.support.config import Config
from gdconv.support.errors import InputError
from gdconv.theory.claims import ClaimTheorem, Finding, Series
from gdconv.theory.prediction import Inequality
from gdconv.theory.theorem import statement

from .evidence import (
    EQUAL,
    GAP,
    GATES,
    PRINTED_FACTOR,
    ROUNDING,
    STARTS,
    TRAINING,
    Case,
    convex_optimum,
    far_points,
    near,
    one_direction_excluded,
    over,
    same_optimum,
    sequence_pair,
    sequence_starts,
    simplex_rows,
    spread_over_copies,
    strict_margins,
    two_heads,
)
from .exact import exact_gap
from .rates import rate_finding
from .sequence import solve_sequence
from .witnesses import (
    exactly,
    excesses,
    self_attention_at_signs,
    simplex_attention_at_signs,
    unit_tokens,
    worst,
)

PROOFS = "docs/theory/convex-attention.md"
DRAWN = {"gaussian": (6, 4, 3), "digits": (6, 4, None), "orthonormal": (6, 4, None)}
"""Sizes (samples, tokens, embedding) of drawn data; a file has its own."""


SMALLEST_SIZE = 1e-100
"""Of labels and tokens: F is of their squares. Data above its inverse are refused when loaded."""


class ConvexAttention(ClaimTheorem):
    """Theorems of Ergen et al. 2022, corrected and as printed."""

    id = "convex-attention"
    title = "Convex attention: a group lasso over tokens"
    source = "Ergen, Neyshabur, Mehta 2022 (arXiv:2211.11052), corrected"
    reads = {
        "data": "gaussian", "samples": None, "tokens": None, "embedding": None, "outputs": 2,
        "heads": None, "steps": 200,
    }  # fmt: skip

    def case(self, config: Config, seed: int) -> Case:
        """Tokens and one target per sample."""
        data = str(config.data)
        asked = (config.samples, config.tokens, config.embedding)
        default = DRAWN.get(data, (None, None, None))
        N, n, d = (a if a is not None else b for a, b in zip(asked, default, strict=True))
        problem = load(data, N, n, d, seed=seed, per_sample=True)
        X, y = problem.X[0].numpy(), problem.y[0].numpy().ravel()
        for name, values in (("labels", y), ("tokens", X)):
            size = float(np.abs(values).max())
            if 0.0 < size < SMALLEST_SIZE:
                remedy = (
                    f"multiply the {name}, of size {size:.1e}, by a constant: nothing else changes"
                )
                raise InputError("data", data, remedy)
        if beta_max(token_program(X, y, 1.0)).lo == 0.0:
            raise InputError("data", data, "give labels and tokens that are not zero")
        return Case(X, y, config.heads, int(config.steps or 1), int(config.outputs or 1), seed)

    @statement("equivalence", default=True, proof=f"{PROOFS}#equivalence")
    def equivalence(self, case: Case) -> Finding:
        """P(h) = F* for enough heads, above it for one where every minimiser needs more."""
        program, n = case.program, case.X.shape[1]
        finding = same_optimum(case, program, case.h or n)
        if not one_direction_excluded(program, case.solution):
            return finding
        few = train_heads(program, 1, STARTS, TRAINING // 2, case.seed).best
        ratio = over(few, case.solution.certificate.optimum)
        above = Inequality("best single head found, over F*", ratio, ">", exactly(1.0))
        note = f"{finding.note}; one head {ratio.mid - 1:.2g} above"
        return Finding((*finding.claims, above), finding.hypotheses, note, series=finding.series)

    @statement("vector-equivalence", proof=f"{PROOFS}#vector")
    def vector_equivalence(self, case: Case) -> Finding:
        """Several outputs and |b_j|_1^2: one group lasso per output, h >= n c."""
        program = case.at_share(Program.of(case.X, case.Y, 1.0))
        return same_optimum(case, program, case.h or case.X.shape[1] * case.outputs)

    @statement("nuclear-equivalence", proof=f"{PROOFS}#vector")
    def nuclear_equivalence(self, case: Case) -> Finding:
        """Several outputs and |b_j|_2^2: nuclear norms of the tokens' weights, h >= n min(c, d)."""
        program = case.at_share(Program.of(case.X, case.Y, 1.0, penalty="nuclear"))
        n, d = case.X.shape[1:]
        return same_optimum(case, program, case.h or n * min(case.outputs, d))

    @statement("gated-equivalence", proof=f"{PROOFS}#gated")
    def gated_equivalence(self, case: Case) -> Finding:
        """Fixed gates after attention: one Z per gate pattern, n heads each."""
        n, d = case.X.shape[1:]
        left, right = case.draw(7, GATES, n), case.draw(8, GATES, d)
        patterns = gate_patterns(case.X, left, right)
        if not len(patterns):  # all shut: the opposite gates are open
            patterns = gate_patterns(case.X, -left, right)
        program = case.at_share(gated_program(case.X, case.y, 1.0, patterns))
        gates = np.repeat(patterns, case.h or n, axis=0).astype(np.float64)
        plain = token_program(case.X, case.y, program.beta)
        return same_optimum(case, program, len(gates), plain, gates)

    @statement("sequence", proof=f"{PROOFS}#sequence")
    def sequence(self, case: Case) -> Finding:
        """With equal row sums the sequence program is two heads'; without them it is below."""
        draw = np.random.default_rng(1).standard_normal
        right, printed = sequence_pair(draw((3, 3)), draw((3, 3)), 0.5)
        X, Y = case.sequences
        with np.errstate(over="ignore"):
            beta = 0.5 * float(np.square(X).mean()) * len(X)
        if not 0.0 < beta < inf:
            return Finding((), vacuous="the tokens are 0, or their squares are no numbers")
        own, relaxed = sequence_pair(X, Y, beta)
        starts = float(sequence_starts(case, X, Y, beta).min())
        best = Enclosure(own.dual, own.primal)
        claims = (
            near("N = n = 3, seed 1: corrected optimum 1.0598957", right, 1.0598957),
            near("N = n = 3, seed 1: printed optimum 1.0355614", printed, 1.0355614),
            Inequality("N = n = 3, seed 1: printed < corrected",
                       exactly(printed.primal), "<", exactly(right.dual)),
            Inequality("two heads attain it: their value over the optimum <= 1 + 1e-6",
                       over(two_heads(own.C, X, Y, beta), best), "<=", 1 + EQUAL),
            Inequality("no start is below: best over the optimum >= 1 - 1e-6",
                       over(starts, best), ">=", 1 - EQUAL),
            Inequality("printed program is a relaxation: its optimum over the other",
                       over(Enclosure(relaxed.dual, relaxed.primal), best), "<=", 1 + EQUAL),
        )  # fmt: skip
        missed = starts / best.mid - 1
        note = f"corrected {best.mid:.7g}, printed {relaxed.primal:.7g}, starts {missed:.1e} above"
        return Finding(claims, note=note)

    @statement("printed-half", proof=f"{PROOFS}#printed-half")
    def printed_half(self, case: Case) -> Finding:
        """The printed factor 1/2 on the loss of the convex program only: P(1) = 1 against 1/2."""
        zero = token_program([[[0.0]]], [1.0], 1.0)
        P = exact_gap(zero, zero.zeros(), np.full((1, 1), 2.0))
        doubled = zero.with_beta(1.0 / PRINTED_FACTOR)
        printed = exact_gap(doubled, zero.zeros(), np.full((1, 1), 2.0))
        half = arb(PRINTED_FACTOR)
        box, least = convex_optimum(case.program, PRINTED_FACTOR)[1], case.solution.certificate
        claims = (
            Inequality(
                "X = 0, y = 1, beta = 1: P(1) <= printed optimum, in balls",
                to_enclosure(P.dual.union(P.primal)), "<=",
                to_enclosure(half * printed.dual.union(printed.primal)),
            ),
            Inequality("the data: F* = P(n) <= printed optimum", least.optimum, "<=", box),
        )  # fmt: skip
        return Finding(claims, note=f"on the data {box.mid:.6g} against {least.optimum.mid:.6g}")

    @statement("printed-any-width", proof=f"{PROOFS}#printed-any-width")
    def printed_any_width(self, case: Case) -> Finding:
        """The printed equality without a condition on h: 287/256 for one head, F* = 31/128."""
        y, beta = (1, -1), Fraction(1, 8)
        one, two = unit_tokens(y, beta, 1), unit_tokens(y, beta, 2)
        program = token_program([[[1.0], [0.0]], [[0.0], [1.0]]], [*y], float(beta))
        Z, v = np.array([[[15.0]], [[-15.0]]]) / 16, np.array([[1.0], [-1.0]]) / 8
        found = exact_gap(program, Z, v)
        claims = (
            Inequality("X_i = e_i, y = (1, -1), beta = 1/8: P(1) <= F*, rational",
                       exactly(one), "<=", exactly(two)),
            Inequality("the same with F* in balls", exactly(one), "<=", to_enclosure(found.primal)),
            Inequality("P(2) >= F*, in balls", exactly(two), ">=", to_enclosure(found.dual)),
        )  # fmt: skip
        return Finding(claims, note=f"P(1) = {one}, P(2) = F* = {two}")

    @statement("inequivalence-of-3-and-4", proof=f"{PROOFS}#inequivalence-of-3-and-4")
    def inequivalence(self, case: Case) -> Finding:
        """X = (1, -1), Y = (1, 1), beta = 1: self-attention has the optimum 2, the simplex 7/8."""
        sizes = np.repeat([1.0, 0.1, 0.01], 10)[:, None, None]
        three = self_attention_at_signs(case.draw(9, 30, 2, 4) * sizes)
        values = [to_enclosure(value) for value, _ in three]
        odd = max(max(abs(e) for e in to_enclosure(total)) for _, total in three)
        zero = self_attention_at_signs(np.zeros((1, 1, 4)))[0][0]
        four = simplex_attention_at_signs(Fraction(3, 4))
        found = solve_sequence([[1.0, -1.0]], [[1.0, 1.0]], 1.0, tolerance=1e-11)
        least = Enclosure(min(v.lo for v in values), min(v.hi for v in values))
        claims = (
            Inequality("(3): F is odd, |F_1 + F_2| <= 1e-60, in balls", odd, "<=", 1e-60),
            Inequality("(3): 30 drawn weights cost >= 2, in balls", least, ">=", exactly(2.0)),
            Inequality("(3): zero weights cost <= 2, in balls",
                       to_enclosure(zero), "<=", exactly(2.0)),
            Inequality("(4): A = (e_1, e_1), w = 3/4 costs <= 7/8, rational",
                       exactly(four), "<=", exactly(7 / 8)),
            Inequality("(4): its convex program's dual >= 7/8 - 1e-9",
                       exactly(found.dual), ">=", exactly(7 / 8 - 1e-9)),
            Inequality("(4) < (3)", exactly(four), "<", exactly(2.0)),
        )  # fmt: skip
        return Finding(claims, note="optima 2 and 7/8")

    @statement("duality", proof=f"{PROOFS}#duality")
    def duality(self, case: Case) -> Finding:
        """D(v) <= F* <= F(Z) from any Z, also the optimum without one token; again in balls."""
        points = far_points(case, case.program)
        duals = [certify(case.program, Z).dual for Z in points]
        top = case.solution.certificate.primal
        small = case.ball_program
        feasible, shares = 0, []
        balls = far_points(case, small)
        for Z in balls:
            found = certify(small, Z)
            exact = exact_gap(small, Z, found.v)
            feasible += exact.feasible
            least = arb(2) ** -1074  # both may be 0
            shares.append(to_enclosure((exact.gap + least) / (arb(found.gap) + least)))
        claims = (
            Inequality("every D(v) <= F(certified Z)", exactly(max(duals)), "<=", exactly(top)),
            Inequality("balls: v is feasible at every Z", feasible, ">=", len(balls)),
            Inequality(
                "balls: F(Z) - D(v) over the reported gap", worst(shares), "<=", exactly(1.0)
            ),
        )
        return Finding(claims, note=f"{len(points)} points")

    @statement("recovery", proof=f"{PROOFS}#recovery")
    def recovery(self, case: Case) -> Finding:
        """Heads from Z keep its objective, Z from heads does not raise theirs."""
        claims = []
        n, d = case.X.shape[1:]
        for penalty, most in (("columns", n * case.outputs), ("nuclear", n * min(case.outputs, d))):
            program = case.at_share(Program.of(case.X, case.Y, 1.0, penalty=penalty))
            Z = solve(program, 1e-8).Z + case.draw(10, n, 1, 1) * case.draw(11, *program.shape)
            heads = heads_of(program, Z)
            cost = heads_objective(program, heads) / program.objective(Z)
            back = float(np.abs(weights_of(heads) - Z).max() / np.abs(Z).max())
            drawn = [
                Heads(simplex_rows(case, 12 + s, (5, n)), case.draw(40 + s, 5, d),
                      case.draw(60 + s, 5, case.outputs))
                for s in range(20)
            ]  # fmt: skip
            costs = [heads_objective(program, g) / program.objective(weights_of(g)) for g in drawn]
            claims += [
                Inequality(f"{penalty}: cost of the heads over F(Z)", cost, "<=", 1 + ROUNDING),
                Inequality(f"{penalty}: cost of the heads, from below", cost, ">=", 1 - ROUNDING),
                Inequality(f"{penalty}: number of heads", heads.count, "<=", most),
                Inequality(f"{penalty}: Z of the heads is Z, relative 1e-12", back, "<=", 1e-12),
                Inequality(f"{penalty}: drawn heads cost at least F(their Z), least ratio",
                           min(costs), ">=", 1 - ROUNDING),
            ]  # fmt: skip
        return Finding(tuple(claims))

    @statement("sparsity", proof=f"{PROOFS}#sparsity")
    def sparsity(self, case: Case) -> Finding:
        """Tokens with a strict dual inequality are inactive; some optimum has at most N active."""
        small = case.ball_program
        for share in (0.3, 0.5, 0.7, 0.9):
            program = case.at_share(small, share)
            found = solve(program, GAP)
            out = certified_inactive(program, found.certificate)
            if out.any() and not out.all():
                break
        inactive = np.flatnonzero(out)
        note = f"{len(inactive)} of {len(out)} tokens inactive at {share} beta_max"
        claims = []
        if len(inactive) and not out.all():
            margins = strict_margins(program, found, inactive)
            kept = token_program(program.design.A[:, ~out], program.y[:, 0], program.beta)
            rest = over(solve(kept, GAP).certificate.optimum, found.certificate.optimum)
            claims = [
                Inequality("balls: (|sum v_i x_ik| + |x_k| radius)/beta < 1, inactive tokens",
                           worst(margins), "<", exactly(1.0)),
                Inequality("optimum without the inactive tokens over F*", rest, "<=", 1 + ROUNDING),
            ]  # fmt: skip
        wide, Z = spread_over_copies(case)
        N, before = len(wide.y), int(np.any(Z != 0, axis=(1, 2)).sum())
        few = fewest_tokens(wide, Z)
        active = int(few.any(axis=(1, 2)).sum())
        cost = over(objective_enclosure(wide, few), certify(wide, Z).optimum)
        claims += [
            Inequality("active tokens of some optimum <= N", active, "<=", N),
            Inequality("its objective over F*", cost, "<=", 1 + EQUAL),
        ]
        idle = "" if before > N and len(inactive) else "no token is inactive, or none to spare"
        return Finding(
            tuple(claims), (), f"{note}; {active} active instead of {before}, N = {N}", idle
        )

    @statement("beta-max", proof=f"{PROOFS}#beta-max")
    def everything_dropped(self, case: Case) -> Finding:
        """Z = 0 is optimal from beta_max on and not below, for every number of heads."""
        program, top, n = case.program, beta_max(case.program), case.X.shape[1]
        zero = program.zeros()
        if top.hi == 0.0:
            return Finding((), vacuous="beta_max = 0: Z = 0 is optimal at every weight decay")
        if not 0.0 < top.lo <= top.hi < inf:
            claim = Inequality("beta_max > 0, to be enclosed", top, ">", exactly(0.0))
            return Finding((claim,), note="beta_max drowns in rounding")
        at, above = program.with_beta(top.hi), program.with_beta(1.001 * top.hi)
        below = solve(program.with_beta(0.99 * top.lo), GAP)
        start = objective_enclosure(program, zero)
        # half of what the step Z_k ~ c_k gains, k the token that decides beta_max
        gain = (0.01 * top.hi) ** 2 / (8 * program.design.gram_norm.lo)
        start_less = Enclosure(start.lo - gain, start.hi - gain)
        heads = train_heads(at, case.h or n, STARTS, 100, case.seed).best
        out = int(certified_inactive(above, certify(above, zero)).sum())
        claims = (
            Inequality("beta_max: F(0) over F* <= 1 + 1e-9",
                       over(start, solve(at, GAP).certificate.optimum), "<=", 1 + ROUNDING),
            Inequality("0.99 beta_max: F* <= F(0) - (beta_max - beta)^2/(8 lambda_max)",
                       below.certificate.optimum, "<=", start_less),
            Inequality("1.001 beta_max: inactive tokens, from those certified on",
                       Enclosure(float(out), float(n)), ">=", exactly(float(n))),
            Inequality("beta_max: best heads found over F(0) >= 1 - 1e-9",
                       heads / start.hi, ">=", 1 - ROUNDING),
        )  # fmt: skip
        return Finding(claims, note=f"beta_max = {top.mid:.6g}")

    @statement("proximal-rate", proof=f"{PROOFS}#proximal-rate")
    def proximal_rate(self, case: Case) -> Finding:
        """F(Z_t) - F(Z) <= |Z_0 - Z|^2/(2 eta t) for every Z, eta <= 1/(2 lambda_max)."""
        return rate_finding(case, accelerated=False)

    @statement("accelerated-rate", proof=f"{PROOFS}#accelerated-rate")
    def accelerated_rate(self, case: Case) -> Finding:
        """F(Z_t) - F(Z) <= 2 |Z_0 - Z|^2/(eta (t + 1)^2), the accelerated form."""
        return rate_finding(case, accelerated=True)

    @statement("doubled-step", proof=f"{PROOFS}#accelerated-rate")
    def doubled_step(self, case: Case) -> Finding:
        """Both bounds at the step 1/lambda_max, twice the allowed one: X = y = 1 leaves them."""
        forms = ("plain", "accelerated")
        runs = {name: excesses(1.0, 0.5, 12, name == "accelerated") for name in forms}
        claims = tuple(
            Inequality(f"X = y = 1, {name}: F(Z_t) - F* over its bound, t <= 12, in balls",
                       worst(boxes), "<=", exactly(1.0))
            for name, boxes in runs.items()
        )  # fmt: skip
        program, best = case.program, case.solution.certificate.optimum
        step, note = 2 * program.max_step().hi, ""
        if step < inf:
            with np.errstate(all="ignore"):
                run = accelerated_gradient(program, min(case.steps, 60), step)
                curve = run.objectives - best.mid
            last = int(np.flatnonzero(np.isfinite(curve)).max(initial=0))
            note = f"accelerated on the data: F(Z_t) - F* = {curve[last]:.1e} at t = {last}"
        series = tuple(
            Series(name, range(1, 13), [b.mid for b in boxes], "t", "F(Z_t) - F* over its bound")
            for name, boxes in runs.items()
        )
        return Finding(claims, note=note, series=series)
