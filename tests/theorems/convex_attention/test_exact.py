"""The certificate in balls against rational numbers and sixty digits, and its domains' ends."""

from __future__ import annotations

from fractions import Fraction

import mpmath
import numpy as np
import pytest
from flint import arb

from gdconv.convex.group_lasso import Program
from gdconv.convex.losses import Loss
from gdconv.gallery.convex_attention.exact import exact_gap
from gdconv.rigor.balls import working_precision
from gdconv.support.errors import InputError


def rational(x: float) -> Fraction:
    return Fraction(float(x))


def holds(ball: arb, value: Fraction) -> bool:
    """Whether the ball holds the number and is narrower than 1e-60 of it."""
    with working_precision(300):
        exact = arb(value.numerator) / arb(value.denominator)
    return bool(ball.overlaps(exact)) and float(ball.rad()) <= 1e-60 * (abs(float(value)) + 1)


@pytest.mark.parametrize("name", ["squared", "huber"])
@pytest.mark.parametrize("c", [1, 2])
def test_rational_programs(name: str, c: int) -> None:
    """d = 1: norms are absolute values, so F and D are rational; every piece written again."""
    delta = Fraction(3, 4)
    for seed in range(12):
        rng = np.random.default_rng(seed)
        A, Z = rng.standard_normal((3, 2, 1)), rng.standard_normal((2, 1, c))
        y, v = rng.standard_normal((3, c)), rng.uniform(-1.5, 1.5, (3, c))
        program = Program.of(A, y, 0.625, Loss(name, float(delta)))
        primal = dual = Fraction(0)
        sizes = []
        for col in range(c):
            for i in range(3):
                p = sum(rational(A[i, k, 0]) * rational(Z[k, 0, col]) for k in range(2))
                r, w = abs(p - rational(y[i, col])), rational(v[i, col])
                inner = name == "squared" or r <= delta
                primal += r * r if inner else 2 * delta * r - delta * delta
                dual += w * rational(y[i, col]) - w * w / 4
            for k in range(2):
                primal += Fraction(5, 8) * abs(rational(Z[k, 0, col]))
                sizes.append(abs(sum(rational(A[i, k, 0]) * rational(v[i, col]) for i in range(3))))
        found = exact_gap(program, Z, v)
        assert holds(found.primal, primal)
        assert holds(found.dual, dual)
        with working_precision(300):  # the property rounds at the precision of its caller
            gap = found.gap
        assert holds(gap, primal - dual)
        assert holds(found.largest, max(sizes) / Fraction(5, 8))
        assert found.feasible == (max(sizes) <= Fraction(5, 8))


def test_logistic_programs() -> None:
    with mpmath.workdps(70):
        for seed in range(6):
            rng = np.random.default_rng(seed)
            A, Z = rng.standard_normal((3, 1, 2)), rng.standard_normal((1, 2, 1))
            y = np.where(rng.standard_normal((3, 1)) > 0, 1.0, -1.0)
            v = y * rng.uniform(0.05, 0.95, (3, 1))
            program = Program.of(A, y, 9.0, "logistic")
            p = [sum(mpmath.mpf(A[i, 0, e]) * Z[0, e, 0] for e in range(2)) for i in range(3)]
            primal = sum(mpmath.log(1 + mpmath.exp(-y[i, 0] * p[i])) for i in range(3))
            primal += 9 * mpmath.sqrt(sum(mpmath.mpf(z) ** 2 for z in Z.ravel()))
            a = [mpmath.mpf(v[i, 0]) * y[i, 0] for i in range(3)]
            dual = sum(-t * mpmath.log(t) - (1 - t) * mpmath.log(1 - t) for t in a)
            found = exact_gap(program, Z, v)
            assert mpmath.mpf(found.primal.str(50, radius=False)) == pytest.approx(
                primal, rel=1e-45
            )
            assert mpmath.mpf(found.dual.str(50, radius=False)) == pytest.approx(dual, rel=1e-45)
            assert found.feasible


@pytest.mark.parametrize(
    ("loss", "v", "feasible"),
    [
        (Loss("huber", 0.75), 1.5, True), (Loss("huber", 0.75), -1.5, True),
        (Loss("huber", 0.75), np.nextafter(1.5, 2), False),
        (Loss("huber", 0.75), -np.nextafter(1.5, 2), False),
        (Loss("logistic"), 0.0, True), (Loss("logistic"), 1.0, True),
        (Loss("logistic"), np.nextafter(1, 2), False), (Loss("logistic"), -5e-324, False),
        (Loss(), 1e300, True),
    ],
)  # fmt: skip
def test_the_ends_of_the_domains(loss: Loss, v: float, feasible: bool) -> None:
    program = Program.of([[[0.0]]], [1.0], 1.0, loss)
    assert exact_gap(program, program.zeros(), np.full((1, 1), v)).feasible is feasible


def test_the_dual_constraint_holds_with_equality_and_not_beyond() -> None:
    """|A^T v| = beta, by 3-4-5 and by one unit in the last place more."""
    program = Program.of([[[3.0, 4.0]]], [1.0], 5.0)
    found = exact_gap(program, program.zeros(), np.ones((1, 1)))
    assert found.feasible
    assert found.largest == 1
    assert not exact_gap(program, program.zeros(), np.full((1, 1), 1 + 2.0**-52)).feasible
    one = Program.of([[[3.0], [0.0]]], [1.0], 2.0)  # the second group has room, the first has not
    assert not exact_gap(one, one.zeros(), np.ones((1, 1))).feasible


def test_the_nuclear_norm_is_refused() -> None:
    program = Program.of(np.ones((1, 1, 2)), [[1.0, 2.0]], 0.5, penalty="nuclear")
    with pytest.raises(InputError, match="give the penalty columns"):
        exact_gap(program, program.zeros(), np.zeros((1, 2)))
