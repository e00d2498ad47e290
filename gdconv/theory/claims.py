"""Theorems that need no descent: identities, inequalities and laws, evaluated on drawn cases."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from gdconv.support.config import Config
from gdconv.support.trust import weakest
from gdconv.theory.prediction import Inequality, Prediction
from gdconv.theory.theorem import Statement, Theorem


def trusted(
    verdict: str, note: str, rows: Sequence[Inequality], level: str = "float64"
) -> tuple[str, str, str]:
    """What may be said of a verdict, given what its hypotheses and claims rest on.

    float32 and estimates neither confirm nor refute; a statistical interval does, and says so.

    Args:
        verdict: By the comparisons alone.
        note: Its note.
        rows: The hypotheses and claims behind it.
        level: Arithmetic they were made in.

    Returns:
        Verdict, note and level.

    Example:
        >>> from gdconv.support.trust import Estimate, Interval
        >>> guess, drawn = Estimate(2.0, 0.1, "a guess"), Interval(2.0, 3.0, 0.95, 5)
        >>> trusted("confirmed", "", [Inequality("x >= 1", guess, ">=", 1.0)])
        ('undecided', 'it would read confirmed; estimated: a guess', 'estimated')
        >>> trusted("confirmed", "", [Inequality("x >= 1", drawn, ">=", 1.0)])
        ('confirmed', 'statistical: 95 % Student interval, n = 5', 'statistical')
    """
    levels = [level, *(h.level for h in rows)]
    strong, reads = verdict in ("confirmed", "refuted"), f"it would read {verdict}"
    if strong and "estimated" in levels:
        verdict, note = "undecided", reads
    elif strong and level == "float32":
        verdict, note = "undecided", f"{level} is for study, {reads}: run it in float64"
    said = [note]
    for kind in ("statistical", "estimated"):
        # each way is named once: fifty exponents rest on the same interval
        ways = dict.fromkeys(way for h in rows if h.level == kind for way in h.weak)
        said += [f"{kind}: {', '.join(ways)}"] if ways else []
    return verdict, "; ".join(part for part in said if part), weakest(levels)


def judge_claims(prediction: Prediction) -> tuple[str, str]:
    """Verdict on claims whose hypotheses hold.

    Args:
        prediction: Its claims.

    Returns:
        refuted, undecided, vacuous or confirmed, and a note.

    Example:
        >>> judge_claims(Prediction((), 0.0, claims=(Inequality("one is two", 1, ">=", 2),)))
        ('refuted', 'violated: one is two')
    """
    held = [c.holds for c in prediction.claims]
    wrong = [c.name for c in prediction.claims if c.holds is False]
    if wrong:
        return "refuted", f"violated: {', '.join(wrong)}"
    if None in held:
        return "undecided", "a claim is within its error bar"
    idle = prediction.vacuous or ("" if held else "nothing is claimed")
    return ("vacuous", idle) if idle else ("confirmed", "")


@dataclass(frozen=True)
class Series:
    """A curve that a statement measured; kept in the trace and drawn, both axes logarithmic.

    Attributes:
        name: What it is.
        x: Abscissae.
        y: Ordinates; what is not positive is not drawn.
        x_name: Name of the abscissa.
        y_name: Name of the ordinate.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    x_name: str = "x"
    y_name: str = "y"


@dataclass(frozen=True)
class Finding:
    """What one statement found in one case.

    Attributes:
        claims: The conclusions, three-valued.
        hypotheses: What they assume.
        note: One sentence for the table.
        vacuous: Why the claims test nothing here; empty when they do.
        series: Curves behind the claims.
    """

    claims: tuple[Inequality, ...]
    hypotheses: tuple[Inequality, ...] = ()
    note: str = ""
    vacuous: str = ""
    series: tuple[Series, ...] = ()

    def verdict(self) -> tuple[str, str]:
        """One of the five verdicts and a note.

        Returns:
            outside or undecided by the hypotheses, else what the claims say.

        Example:
            >>> Finding((Inequality("two is at least one", 2, ">=", 1),)).verdict()
            ('confirmed', '')
        """
        return self.judged()[:2]

    def judged(self) -> tuple[str, str, str]:
        """Verdict, note and what they rest on.

        Returns:
            outside or undecided by the hypotheses, else what the claims say; and the level.

        Example:
            >>> Finding((Inequality("two is at least one", 2, ">=", 1),)).judged()
            ('confirmed', '', 'float64')
        """
        held = [h.holds for h in self.hypotheses]
        if False in held:
            verdict, note = "outside", "a hypothesis is not met"
        elif None in held:
            verdict, note = "undecided", "a hypothesis is within its error bar"
        else:
            claimed = Prediction((), 0.0, claims=self.claims, vacuous=self.vacuous)
            verdict, note = judge_claims(claimed)
        return trusted(verdict, note, (*self.hypotheses, *self.claims))


class ClaimTheorem(Theorem):
    """A theorem whose statements take a case and return a `Finding`.

    Attributes:
        reads: Fields of `Config` that its cases depend on, with their defaults; options of its own
            are declared in `Options` and stand in `self.options`.
    """

    models: ClassVar[tuple[str, ...]] = ()
    reads: ClassVar[dict[str, Any]] = {}

    @abstractmethod
    def case(self, config: Config, seed: int) -> Any:
        """Everything the statements look at, drawn from one seed."""

    def find(self, s: Statement, case: Any) -> Finding:
        """Evaluate one statement on one case.

        Args:
            s: The statement.
            case: From `case`.

        Returns:
            What it found.
        """
        found: Any = s.predict(self, case)
        return found
