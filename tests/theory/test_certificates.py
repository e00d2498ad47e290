"""TAIL and AP against formulas written again in fractions, and faults of one constant each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass
from fractions import Fraction as Q
from math import inf, isnan, log, nan
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from gdconv.models.point import Point
from gdconv.rigor.rounding import Enclosure
from gdconv.theory.certificates import RHO_GRID, Tail, descent_hypotheses, run_certificate, tail
from gdconv.theory.prediction import Inequality, ends

ANY = Callable[[float], tuple[float, float]]
GRID = [10.0 ** (-7 + i / 8) for i in range(57)]


@dataclass(frozen=True)
class Known(Point):
    """A point of which only sigma_m(J), |J| and |residual| are known."""

    boxes: tuple[Enclosure, ...] = ()
    flat = slope_is_finite = cast(Any, None)

    def probe(self) -> Any:
        """Not asked here."""

    @property
    def J_range(self) -> tuple[Enclosure, Enclosure]:
        return self.boxes[0], self.boxes[1]

    @property
    def r_range(self) -> Enclosure:
        return self.boxes[2]


def end(s: float, S: float, r: float, blur: float = 0.0) -> Known:
    """That point, its three numbers blurred by a share."""
    boxes = tuple(Enclosure(x * (1 - blur), x * (1 + blur)) for x in (s, S, r))
    return Known(None, cast(Any, None), cast(Any, None), (), boxes)


def flat(M: float, G_squared: float) -> ANY:
    """Constants that do not depend on the radius."""
    return lambda rho: (M, G_squared)


def growing(rho: float) -> tuple[float, float]:
    """Constants that grow with the radius, so that the best one is in between."""
    return 2.0 + 3.0 * rho, 5.0 + rho


def written_again(
    s: float, S: float, r: float, eta: float, constants: ANY, rho: float
) -> tuple[Q, Q, Q, Q]:
    """(c, s - M rho, c rho (s - M rho), 2 c (s - M rho)^2) of docs/theory/full-gd.md, exactly."""
    M, G_squared = (Q(x) for x in constants(rho))
    L = min(G_squared, (Q(S) + M * Q(rho)) ** 2) + M * Q(r)
    c, room = 1 - Q(eta) * L / 2, Q(s) - M * Q(rho)
    return c, room, c * Q(rho) * room, 2 * c * room**2


CASES = [
    # s, S, r, eta, constants: which part of the formula they lean on
    (1.0, 2.0, 1e-3, 0.1, flat(2.0, 3.0)),  # G^2 is the smaller one
    (1.0, 1.5, 1e-3, 0.3, flat(0.5, 1e3)),  # (S + M rho)^2 is
    (1.0, 1.5, 0.05, 0.4, growing),
    (3.0, 4.0, 0.7, 0.05, flat(0.9, 2.0)),  # M r is a third of L
    (2.0, 2.5, 0.2, 0.2, flat(6.0, 0.5)),  # M r is most of L
    (0.5, 0.7, 0.1, 0.9, growing),  # nothing fires
    (1.0, 9.0, 0.1, 0.01, flat(30.0, 1e4)),
]


@pytest.mark.parametrize("case", range(len(CASES)))
def test_every_number_of_tail_is_that_of_the_page(case: int) -> None:
    s, S, r, eta, constants = CASES[case]
    found = tail(end(s, S, r), eta, constants)
    again = {rho: written_again(s, S, r, eta, constants, rho) for rho in GRID}
    sure = {rho: a[2] / Q(r) for rho, a in again.items() if a[0] > 1e-6 and a[1] > 1e-6}
    best = max(sure, key=lambda rho: sure[rho]) if sure else GRID[0]
    assert found.rho == pytest.approx(best, rel=1e-12)
    c, room, allowed, rate = written_again(s, S, r, eta, constants, found.rho)
    M = Q(constants(found.rho)[0])
    T1, T2, T3 = found.hypotheses
    expected = [
        (T1, M * Q(found.rho), Q(s)),
        (T2, 1 - c, Q(1)),
        (T3, Q(r), max(allowed, Q(0)) if c > 0 and room > 0 else Q(0)),
    ]
    for h, lhs, rhs in expected:
        assert h.relation == "<"
        for side, true in ((h.lhs, lhs), (h.rhs, rhs)):
            low, high = ends(side)
            assert low <= true <= high
            assert high - low <= 2e-10 * max(abs(float(true)), 1.0)
        if abs(lhs - rhs) > 1e-6:
            assert h.holds is (lhs < rhs)
    if c > 0 and room > 0:
        assert Q(found.rate) <= rate
        assert found.rate == pytest.approx(float(rate), rel=1e-9)
    else:
        assert isnan(found.rate)


def test_the_cases_lean_on_every_part() -> None:
    """Leaving one part of L out changes c by a tenth at least in some case."""
    radii = [tail(end(*case[:3]), *case[3:]).rho for case in CASES]
    for without in ("M r", "M rho", "G^2", "S"):
        moved = []
        for (s, S, r, eta, constants), rho in zip(CASES, radii, strict=True):
            M, G = constants(rho)
            parts = {"M r": M * r, "M rho": M * rho, "G^2": G, "S": S} | {without: 0.0}
            if without == "G^2":
                parts["G^2"] = inf
            L = min(parts["G^2"], (parts["S"] + parts["M rho"]) ** 2) + parts["M r"]
            c = float(written_again(s, S, r, eta, constants, rho)[0])
            moved.append(abs(1 - eta * L / 2 - c) / abs(c))
        assert max(moved) > 0.1, without


def holds(s: float, S: float, r: float, eta: float, M: float, G: float) -> dict[str, Any]:
    found = tail(end(s, S, r), eta, flat(M, G))
    return {h.name[:2]: h.holds for h in found.hypotheses} | {"rho": found.rho}


def test_each_condition_decides_at_its_own_edge() -> None:
    """Two sides of each edge, M = 0 where the radius shall be the largest."""
    assert holds(1.0, 1.0, 0.1, 0.5, 0.0, 1.0) == {"T1": True, "T2": True, "T3": True, "rho": 1.0}
    # T3: c rho s = 0.75
    assert holds(1.0, 1.0, 0.7499, 0.5, 0.0, 1.0)["T3"] is True
    assert holds(1.0, 1.0, 0.7501, 0.5, 0.0, 1.0)["T3"] is False
    # T2: eta L = 2
    assert holds(1.0, 1.0, 0.1, 1.9999, 0.0, 1.0)["T2"] is True
    assert holds(1.0, 1.0, 0.1, 2.0001, 0.0, 1.0)["T2"] is False
    # T1: no radius is small enough
    assert holds(1.0001e-7, 1.0, 1e-9, 0.5, 1.0, 1.0)["T1"] is True
    assert holds(0.9999e-7, 1.0, 1e-9, 0.5, 1.0, 1.0)["T1"] is False


def test_L_has_the_curvature_times_the_residual() -> None:
    """eta (G^2 + M r) / 2 = 1.05 with M r, 0.8 without."""
    assert holds(2.0, 2.0, 0.5, 1.0, 1.0, 1.6)["T2"] is False
    assert holds(2.0, 2.0, 0.5, 1.0, 0.5, 1.6)["T2"] is True
    found = tail(end(2.0, 2.0, 0.5), 1.0, flat(1.0, 1.6))
    assert ends(found.hypotheses[1].lhs) == pytest.approx((1.05, 1.05), rel=1e-9)


def test_a_radius_that_fires_is_preferred_to_one_that_does_not() -> None:
    # M rho < s up to rho = 0.1; c rho (s - M rho) is greatest in the middle
    found = tail(end(1.0, 1.0, 1e-4), 0.1, flat(10.0, 1.0))
    assert found.rho == pytest.approx(10 ** (-10 / 8), rel=1e-12)
    assert all(h.holds for h in found.hypotheses)
    # nothing fires: the smallest radius is shown
    assert tail(end(1.0, 1.0, 1e-4), 3.0, flat(10.0, 1.0)).rho == pytest.approx(1e-7)
    assert tail(end(0.0, 1.0, 1e-4), 0.1, flat(10.0, 1.0)).rho == pytest.approx(1e-7)


def test_a_radius_that_nearly_fires_is_not_preferred() -> None:
    """Where nothing fires the smallest radius is shown, however near to 0 another one misses."""

    def nearly(near: tuple[float, float], far: tuple[float, float]) -> ANY:
        return lambda rho: near if rho == 1.0 else (far[0] / rho, far[1])

    # c = -1e-9 at rho = 1, -0.9 elsewhere
    found = tail(end(1.0, 9.0, 0.1), 1.0, nearly((0.0, 2 + 2e-9), (0.0, 3.8)))
    assert found.rho == pytest.approx(1e-7)
    assert isnan(found.rate)
    # s - M rho = -1e-9 at rho = 1, -1 elsewhere
    found = tail(end(1.0, 1.0, 0.1), 0.1, nearly((1 + 1e-9, 1.0), (2.0, 1.0)))
    assert found.rho == pytest.approx(1e-7)
    # s - M rho may be 0 at rho = 1
    tiny = 5e-324
    found = tail(end(tiny, 1.0, 0.1), 0.1, nearly((0.0, 1.0), (2.0, 1.0)))
    assert found.rho == pytest.approx(1e-7)


def test_there_is_a_rate_only_where_both_factors_are_positive() -> None:
    for s, eta, M in ((1.0, 2.0001, 0.0), (0.9999e-7, 0.5, 1.0), (5e-324, 0.5, 0.0)):
        assert isnan(tail(end(s, 1.0, 1e-9), eta, flat(M, 1.0)).rate), (s, eta, M)
    assert tail(end(1.0, 1.0, 1e-9), 1.9999, flat(0.0, 1.0)).rate > 0


def test_the_margin_of_a_residual_next_to_nothing() -> None:
    """c rho s / r, for s = 1e-17 and r = 1e-308, is a number at every radius; c rho s r is not."""
    assert holds(1e-17, 1.0, 1e-308, 0.5, 0.0, 1.0)["rho"] == 1.0
    # of equal margins, here infinite, the first counts
    assert holds(1.0, 1.0, 5e-324, 0.5, 0.0, 1.0)["rho"] == pytest.approx(1e-7)


def test_a_certificate_is_not_changed() -> None:
    found = tail(end(1.0, 1.0, 0.1), 0.1, flat(0.0, 1.0))
    with pytest.raises(FrozenInstanceError):
        found.rate = 2.0  # type: ignore[misc]


def test_no_residual_is_no_division() -> None:
    found = tail(end(1.0, 1.0, 0.0), 0.1, flat(1.0, 1.0))
    assert found.rho == pytest.approx(1e-7)
    assert all(h.holds for h in found.hypotheses)


@pytest.mark.parametrize("gap", [1e-7, 1e-8, 1e-9])
def test_the_slack_of_T3_follows_what_cancels(gap: float) -> None:
    """c = gap is known to 1e-11 only, a share of it that grows as it cancels."""
    for share, expected in ((0.5, True), (1 - 0.3e-11 / gap, None), (1.5, False)):
        # c = 1 - eta L / 2 = gap
        found = tail(end(1.0, 1.0, share * gap), 2 * (1 - gap), flat(0.0, 1.0))
        assert found.hypotheses[1].holds is True
        assert found.hypotheses[2].holds is expected
        # s - M rho = gap at every radius, c = 1/2
        at = end(1.0, 1.0, share * 0.5 * gap)
        found = tail(at, 1.0, lambda rho: ((1 - gap) / rho, 1.0))
        assert found.rho == 1.0
        assert found.hypotheses[0].holds is True
        assert found.hypotheses[2].holds is expected


def test_ends_of_the_spectrum_and_of_the_residual_widen_the_conditions() -> None:
    """s from below, S and r from above confirm; the other ends refute."""
    at = end(1.0, 1.0, 0.75, blur=0.01)
    found = tail(at, 0.5, flat(0.0, 1.0))
    assert [h.holds for h in found.hypotheses] == [True, True, None]
    assert found.rate == pytest.approx(2 * 0.75 * 0.99**2, rel=1e-9)
    low, high = ends(found.hypotheses[2].rhs)
    assert (low, high) == pytest.approx((0.75 * 0.99, (1 - 0.25 * 0.99**2) * 1.01), rel=1e-9)
    wide = tail(end(1.0, 1.0, 0.1, blur=0.01), 1.99, flat(0.0, 1e9))
    assert ends(wide.hypotheses[1].lhs) == pytest.approx((0.995 * 0.99**2, 0.995 * 1.01**2))
    assert wide.hypotheses[1].holds is None


@pytest.mark.parametrize("bad", [nan, inf, -inf])
@pytest.mark.parametrize("where", ["s", "S", "r", "M", "G", "eta"])
def test_no_number_never_fires(where: str, bad: float) -> None:
    given = {"s": 1.0, "S": 1.0, "r": 0.1, "M": 0.1, "G": 1.0, "eta": 0.5} | {where: bad}
    if (where, bad) in (("G", inf), ("S", inf)):
        return  # an upper bound that says nothing: the other one counts
    with np.errstate(all="ignore"):
        found = tail(
            end(given["s"], given["S"], given["r"]), given["eta"], flat(given["M"], given["G"])
        )
    assert not all(h.holds for h in found.hypotheses)
    assert "does not fire" in found.sentence


def test_the_grid_of_radii() -> None:
    assert list(RHO_GRID) == pytest.approx(GRID, rel=1e-12)


def test_sentences() -> None:
    met, unmet = Inequality("a", 2, ">", 1), Inequality("a", 1, ">", 2)
    said = Tail(0.0123, 0.45678, (met, met)).sentence
    assert said == "TAIL fires: rate 0.456 for all later steps, zero loss within distance 0.013"
    for hypotheses in ((met, unmet), (unmet, met)):
        said = Tail(0.0123, 0.45678, hypotheses).sentence
        assert said.startswith("TAIL does not fire at the last step: more steps, or a smaller step")


def outcome(compared: int = 10, steps: int = 10, closed: int = -1, **changed: float) -> Any:
    """What `run_certificate` reads of a finished run."""
    numbers = {"eta": 0.5, "log_posterior": log(0.25), "c_least": 0.3} | changed
    return SimpleNamespace(
        end=end(1.0, 1.0, 0.1),
        steps=steps,
        ledger={"posterior_closed": closed},
        compared_steps=lambda name: compared if name == "run" else -1,
        **numbers,
    )


@pytest.mark.parametrize("compared", [10, 4, 1, 0])
def test_the_rate_of_a_run_is_the_mean_over_its_compared_steps(compared: int) -> None:
    made = run_certificate(outcome(compared), "run", flat(0.1, 1.0))
    mean = 0.25 ** (1 / max(compared, 1))
    assert made.rate == pytest.approx((1 - mean) / 0.5, rel=1e-12)
    assert [h.name[:2] for h in made.hypotheses] == ["P1", "P2", "T1", "T2", "T3"]
    assert made.note.startswith("TAIL fires")
    gap = f"; AP covers [0, {compared}], rounding hides the rest"
    assert made.note.endswith(gap) is (compared < 10)


def test_nothing_fell_is_a_rate_of_zero() -> None:
    made = run_certificate(outcome(log_posterior=0.0), "run", flat(0.1, 1.0))
    assert str(made.rate) == "0.0"


@pytest.mark.parametrize(
    ("changed", "P1", "P2"),
    [
        ({}, True, True),
        ({"log_posterior": 0.0}, False, True),
        ({"c_least": 0.0}, True, False),
        ({"c_least": -0.1}, True, False),
        ({"log_posterior": nan}, None, True),
        ({"c_least": nan}, True, None),
        ({"log_posterior": -inf}, None, True),
    ],
)
def test_what_ap_assumes(changed: dict[str, float], P1: bool | None, P2: bool | None) -> None:
    assert [h.holds for h in descent_hypotheses(outcome(**changed))] == [P1, P2]
    for closed in (0, 2, 5):
        assert [h.holds for h in descent_hypotheses(outcome(closed=closed, **changed))] == [P1, P2]


def test_a_first_step_lost_in_rounding_leaves_ap_open() -> None:
    for changed in ({}, {"log_posterior": 0.0}, {"c_least": 0.0}):
        found = descent_hypotheses(outcome(closed=1, **changed))
        assert [h.holds for h in found] == [None, None]
        assert [h.lhs for h in found] == [Enclosure(0.0, inf)] * 2


def test_any_fall_and_any_descent_count() -> None:
    found = descent_hypotheses(outcome(log_posterior=-1e-9, c_least=1e-9))
    assert [(h.holds, h.rhs) for h in found] == [(True, 0.0)] * 2
