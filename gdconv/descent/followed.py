"""Followed: the further quantities of one run, compared with their bounds at every step."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import inf, isfinite, nan
from typing import TYPE_CHECKING, Any

import numpy as np

from gdconv.compiled.ledger import NOISE_SHARE, STEPS, TEST
from gdconv.descent.motion import gradient_error
from gdconv.descent.quantities import Bounded, Seen, asked, distance, log_margin, read
from gdconv.rigor.rounding import Enclosure
from gdconv.support.errors import InputError

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
        label: The quantity's name, numbered where the statement bounds several of that name.
        test: As the ledger's; `log_bound` is the bound's logarithm as a share of the first value.
        first: Value at step 0.
        value: Last value, everything so far folded in.
        bound: Last bound, None where nothing was claimed.
    """

    statement: str
    bounded: Bounded
    label: str
    test: np.void = field(default_factory=_fresh)
    first: Enclosure | None = None
    value: Enclosure | None = None
    bound: Enclosure | None = None

    def observe(self, seen: Seen) -> None:
        """Read the quantity and compare it, three-valued."""
        quantity, test = self.bounded.quantity, self.test
        found = read(quantity.name, asked(quantity.name, quantity.value, seen))
        if quantity.fold is not None and self.value is not None:
            found = self._folded(quantity.fold, self.value, found, seen)
        self.first = found if self.first is None else self.first
        self.value, before = found, self.bound
        what = f"bound of {quantity.name}"
        given = asked(what, self.bounded.bound, replace(seen, first=self.first))
        self.bound = None if given is None else read(what, given)
        if self.bound is None:
            return
        small, large = self._sides(found, self.bound)
        apart = small.hi <= large.lo or small.lo > large.hi
        # what rounding cannot hide is compared however little the bound moves
        if not apart and self._drowned(found, self.bound, before) and test["floor_step"] < 0:
            test["floor_step"] = seen.t
        if test["floor_step"] < 0 or small.lo > large.hi:
            self._compare(seen, found, self.bound)

    def _folded(self, fold: Any, so_far: Enclosure, new: Enclosure, seen: Seen) -> Enclosure:
        name = self.bounded.quantity.name
        pairs = zip(so_far, new, strict=True)
        ends = asked(f"fold of {name}", lambda _: [fold(a, b) for a, b in pairs], seen)
        ends = [end.item() if isinstance(end, np.generic) else end for end in ends]
        lo, hi = (end if isinstance(end, int | float) else nan for end in ends)
        if any(not isinstance(end, int | float) for end in ends) or lo > hi:
            raise InputError(f"fold of {name}", ends, "fold two numbers to one, monotonely")
        return Enclosure(float(lo), float(hi))

    def _sides(self, value: Enclosure, bound: Enclosure) -> tuple[Enclosure, Enclosure]:
        """What is to be smaller, and what larger."""
        return (value, bound) if self.bounded.relation == "<=" else (bound, value)

    @staticmethod
    def _drowned(value: Enclosure, bound: Enclosure, before: Enclosure | None) -> bool:
        """Whether the value's error exceeds a tenth of what the bound loses in a step."""
        lost = abs(bound.mid - before.mid) if before is not None else 0.0
        return value.width / 2 > NOISE_SHARE * (lost or bound.mid) and isfinite(value.width)

    def _compare(self, seen: Seen, value: Enclosure, bound: Enclosure) -> None:
        t, (small, large) = seen.t, self._sides(value, bound)
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
        first, tells = self.first or value, self.bounded.tells
        if test["informative_step"] < 0 and asked(
            f"tells of {self.bounded.quantity.name}", lambda _: tells(first, value, bound), seen
        ):
            test["informative_step"] = t


class Followed:
    """Every further quantity of one run.

    Args:
        bounds: Statements with their bounds.
        start: Every block at step 0, without the replica axis.
    """

    def __init__(self, bounds: dict[str, Bound], start: dict[str, Any]) -> None:
        self.all = [
            One(name, one, label)
            for name, b in bounds.items()
            for one, label in zip(b.followed, _labels(b.followed), strict=True)
        ]
        self.start, self.before = start, start
        self.defects = self.grown = 0.0

    def __bool__(self) -> bool:
        return bool(self.all)

    def observe(self, led: Any, weights: dict[str, Any], defect: float) -> None:
        """Compare everything at the iterate that the ledger has just entered.

        Args:
            led: Its ledger record.
            weights: Every block, without the replica axis.
            defect: What the defect of the step that led here may add up to.
        """
        # a run that moves away carries its defects with it, as its slope |S| grows
        slope, out = float(led["grad_sq"]) ** 0.5, float(led["slope"])
        self.defects += defect
        self.grown += defect / out if out > 0 else 0.0
        drift = self.defects + out * self.grown
        bend, size = float(led["bend"]), float(led["jacobian_norm"])
        off = gradient_error(led) + bend * size * size * drift
        low, high = max(0.0, slope - off), slope + off
        loss = float(led["loss"])
        bar = float(led["two_nu"]) * loss if loss else bend * float(led["noise_scale"]) ** 2 / 2
        energy, width = float(led["energy"]), float(led["energy_error"])
        width = width if loss else bar + float(led["kinetic_error"])
        seen = Seen(
            t=int(led["step"]),
            eta=float(led["eta"]),
            loss=Enclosure(loss - bar, loss + bar),
            energy=Enclosure(energy - width, energy + width),
            grad_sq=Enclosure(low * low, high * high),
            grad_sum=float(led["grad_sum"]),
            moved=distance(weights, self.before),
            drift=drift,
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
            made[one.label] = nan if one.value is None else one.value.mid
            bound = nan if one.bound is None else one.bound.mid
            made[f"bound[{one.statement}: {one.label}]"] = bound
        return made

    @property
    def results(self) -> dict[str, dict[str, np.void]]:
        """Tests by statement and quantity."""
        made: dict[str, dict[str, np.void]] = {}
        for one in self.all:
            made.setdefault(one.statement, {})[one.label] = one.test
        return made


def _labels(bounds: tuple[Bounded, ...]) -> list[str]:
    """Names of the quantities, the second of a name as `f (2)`: every bound has its own test."""
    made: list[str] = []
    for name in (one.quantity.name for one in bounds):
        tries = (name, *(f"{name} ({k})" for k in range(2, len(bounds) + 2)))
        made.append(next(label for label in tries if label not in made))
    return made
