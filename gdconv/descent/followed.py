"""Followed: the further quantities of one run, compared with their bounds at every step."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import inf, isfinite, nan
from typing import TYPE_CHECKING, Any

import numpy as np

from gdconv.compiled.ledger import NOISE_SHARE, STEPS, TEST
from gdconv.descent.quantities import Bounded, Seen, asked, distance, log_margin, read
from gdconv.rigor.rounding import Enclosure

if TYPE_CHECKING:
    from gdconv.descent.plan import Bound

QUANTITY = 3
"""Kind of a `TEST` record that is kept here and not by the ledger."""


def _fresh() -> np.void:
    test = np.zeros(1, TEST)
    test["kind"], test["worst_margin"], test["log_bound"] = QUANTITY, inf, nan
    for name in STEPS:
        test[name] = -1
    return test[0]


@dataclass
class One:
    """One quantity with its bound and its test.

    Attributes:
        statement: Whose bound it is.
        bounded: Quantity and bound.
        test: As the ledger's; `log_bound` is the bound's logarithm as a share of the first value.
        first: Value at step 0.
        value: Last value, everything so far folded in.
        bound: Last bound, None where nothing was claimed.
    """

    statement: str
    bounded: Bounded
    test: np.void = field(default_factory=_fresh)
    first: Enclosure | None = None
    value: Enclosure | None = None
    bound: Enclosure | None = None

    def observe(self, seen: Seen) -> None:
        """Read the quantity and compare it, three-valued."""
        quantity, test = self.bounded.quantity, self.test
        found = read(quantity.name, asked(quantity.name, quantity.value, seen))
        if quantity.fold is not None and self.value is not None:
            ends = zip(self.value, found, strict=True)
            found = Enclosure(*(float(quantity.fold(a, b)) for a, b in ends))
        self.first = found if self.first is None else self.first
        self.value, before = found, self.bound
        what = f"bound of {quantity.name}"
        given = asked(what, self.bounded.bound, replace(seen, first=self.first))
        self.bound = None if given is None else read(what, given)
        if self.bound is None or test["floor_step"] >= 0:
            return
        if self._drowned(found, self.bound, before):
            test["floor_step"] = seen.t
            return
        self._compare(seen.t, found, self.bound)

    @staticmethod
    def _drowned(value: Enclosure, bound: Enclosure, before: Enclosure | None) -> bool:
        """Whether the value's error exceeds a tenth of what the bound loses in a step."""
        lost = abs(bound.mid - before.mid) if before is not None else 0.0
        return value.width / 2 > NOISE_SHARE * (lost or bound.mid) and isfinite(value.width)

    def _compare(self, t: int, value: Enclosure, bound: Enclosure) -> None:
        small, large = (value, bound) if self.bounded.relation == "<=" else (bound, value)
        test, margin = self.test, log_margin(small, large)
        if self.first is not None and self.first.mid > 0:
            test["log_bound"] = log_margin(self.first, bound)
        finite = all(map(isfinite, (*value, *bound)))  # what is not decides nothing
        holds = finite and small.hi <= large.lo
        violated = finite and small.lo > large.hi
        if t == 0 and not violated and isfinite(value.width):
            return  # both sides may be the same number, and C/t is infinite
        if margin < test["worst_margin"]:
            test["worst_margin"], test["worst_step"] = margin, t
        if not holds:
            kind = "violations" if violated else "undecided"
            test[kind] += 1
            name = "first_violation" if violated else "first_undecided"
            test[name] = t if test[name] < 0 else test[name]
        if test["informative_step"] < 0 and self.bounded.tells(self.first or value, value, bound):
            test["informative_step"] = t


class Followed:
    """Every further quantity of one run.

    Args:
        bounds: Statements with their bounds.
        start: Every block at step 0, without the replica axis.
    """

    def __init__(self, bounds: dict[str, Bound], start: dict[str, Any]) -> None:
        self.all = [One(name, one) for name, b in bounds.items() for one in b.followed]
        self.start, self.before, self.drift = start, start, 0.0

    def __bool__(self) -> bool:
        return bool(self.all)

    def observe(self, led: Any, weights: dict[str, Any], defect: float) -> None:
        """Compare everything at the iterate that the ledger has just entered.

        Args:
            led: Its ledger record.
            weights: Every block, without the replica axis.
            defect: What the defect of the step that led here may add up to.
        """
        self.drift += defect
        slope = float(led["grad_sq"]) ** 0.5
        off = float(led["bend"] * led["jacobian_norm"] * led["noise_scale"])
        off += float(led["jacobian_error"] * led["slope"])
        loss, bar = float(led["loss"]), float(led["two_nu"] * led["loss"])
        energy, width = float(led["energy"]), float(led["energy_error"])
        seen = Seen(
            t=int(led["step"]),
            eta=float(led["eta"]),
            loss=Enclosure(loss - bar, loss + bar),
            energy=Enclosure(energy - width, energy + width),
            grad_sq=Enclosure(max(0.0, slope - off) ** 2, (slope + off) ** 2),
            grad_sum=float(led["grad_sum"]),
            moved=distance(weights, self.before),
            drift=self.drift,
            weights=weights,
            start=self.start,
        )
        for one in self.all:
            one.observe(seen)
        self.before = weights

    @property
    def columns(self) -> dict[str, float]:
        """Last value of every quantity and its bound, for the trace."""
        made: dict[str, float] = {}
        for one in self.all:
            name = one.bounded.quantity.name
            made[name] = nan if one.value is None else one.value.mid
            made[f"bound[{one.statement}: {name}]"] = nan if one.bound is None else one.bound.mid
        return made

    @property
    def results(self) -> dict[str, dict[str, np.void]]:
        """Tests by statement and quantity."""
        made: dict[str, dict[str, np.void]] = {}
        for one in self.all:
            made.setdefault(one.statement, {})[one.bounded.quantity.name] = one.test
        return made
