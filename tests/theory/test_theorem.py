"""Hypotheses are three-valued and their margins are taken from the unfavourable side."""

from __future__ import annotations

import pytest

from gdconv.rigor.rounding import Enclosure
from gdconv.support.errors import InputError
from gdconv.theory.registry import registry
from gdconv.theory.theorem import Inequality, Prediction, Statement, Theorem, statement


@pytest.mark.parametrize(
    ("lhs", "relation", "rhs", "holds"),
    [
        (4, ">=", 4, True),
        (3, ">=", 4, False),
        (4, "<", 4, False),
        (2.0, ">=", 1.0, True),
        (1.0, ">=", 2.0, False),
        (1.0, ">=", 1.0 + 1e-13, None),
        (1.0, "<=", 1.0, None),
        (1.0, "<=", 1.0 + 1e-9, True),
        (Enclosure(0.9, 1.1), ">", 1.0, None),
        (Enclosure(1.1, 1.2), ">", 1.0, True),
        (Enclosure(0.0, 0.0), ">", 0.0, False),
        (Enclosure(0.0, 1e-17), ">", 0.0, None),
        (0.0, ">", 0.0, False),
        (float("nan"), ">", 0.0, None),
        (1.0, "<", float("inf"), None),
        (float("inf"), "<", 1.0, None),
        (Enclosure(2.0, float("inf")), ">", 1.0, True),  # decided by its finite end
        (Enclosure(0.0, float("inf")), ">", 1.0, None),
        (Enclosure(float("nan"), 3.0), "<", 4.0, None),
        (Enclosure(2.0, float("nan")), ">", 1.0, None),
    ],
)
def test_three_truth_values(lhs: object, relation: str, rhs: object, holds: bool | None) -> None:
    assert Inequality("h", lhs, relation, rhs).holds is holds  # type: ignore[arg-type]


def test_margin_is_from_the_unfavourable_ends() -> None:
    h = Inequality("h", Enclosure(1.5, 2.0), ">=", Enclosure(0.5, 1.0))
    assert h.margin == pytest.approx(0.5)
    assert Inequality("h", 1.0, "<=", 4.0).margin == pytest.approx(3.0)
    assert Inequality("h", 1.0, ">", 0.0).margin == float("inf")


def test_prediction_adds_the_step() -> None:
    made = Prediction((), Enclosure(0.9, 1.0), max_step=0.1)
    assert made.rate_hi == 1.0
    assert made.rate_lo == 0.9
    assert [h.holds for h in made.with_step(0.05)] == [True, True]
    assert [h.holds for h in made.with_step(0.2)] == [False, True]
    assert [h.holds for h in Prediction((), 10.0).with_step(0.2)] == [False]


class Twice(Theorem):
    """A theorem with two statements."""

    id, title, source = "twice", "Twice", "none"

    @statement("first", proof="none")
    def first(self, start: object) -> Prediction:
        """First."""
        return Prediction((), 0.0)

    @statement("second", proof="none", default=True)
    def second(self, start: object) -> Prediction:
        """Second."""
        return Prediction((), 0.0)


def test_statements_keep_their_order_and_default() -> None:
    theorem = Twice()
    assert [s.name for s in theorem.statements()] == ["first", "second"]
    assert isinstance(theorem.statement_named(None), Statement)
    assert theorem.statement_named(None).name == "second"
    with pytest.raises(InputError, match="choose one of first, second"):
        theorem.statement_named("third")


def test_two_theorems_with_one_id_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    values = ("gdconv.gallery", "gdconv.gallery.full_gd")
    twice = [EntryPoint("a", value, "gdconv.theorems") for value in values]
    monkeypatch.setattr("gdconv.theory.registry.entry_points", lambda group: twice)
    with pytest.raises(InputError, match="an id of its own"):
        registry()
