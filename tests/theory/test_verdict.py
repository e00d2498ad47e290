"""The five verdicts: their order and their exit codes."""

from __future__ import annotations

from itertools import permutations

import pytest

from gdconv.theory.verdict import EXIT_CODES, ORDER, worst


def test_order_and_exit_codes() -> None:
    assert ORDER == ("refuted", "undecided", "outside", "vacuous", "confirmed")
    assert {name: EXIT_CODES[name] for name in ORDER} == EXIT_CODES
    assert [EXIT_CODES[name] for name in ORDER] == [1, 3, 3, 3, 0]


@pytest.mark.parametrize("place", range(5))
def test_the_worst_is_the_first_in_that_order(place: int) -> None:
    for some in permutations(ORDER[place:]):
        assert worst(some) == ORDER[place]
        assert worst(iter(some)) == ORDER[place]
