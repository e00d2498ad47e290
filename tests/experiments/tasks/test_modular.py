"""Modular division: the table and its halves."""

from __future__ import annotations

import pytest

from experiments.tasks.modular import division_table, division_task, is_prime
from gdconv.support.errors import InputError


@pytest.mark.parametrize("p", [2, 5, 13])
def test_every_row_of_the_table_is_a_division_and_every_pair_is_there(p: int) -> None:
    table = division_table(p)
    a, b, mark = table.X.T
    assert (b * table.y % p == a).all()
    assert (mark == p).all()
    assert len(set(zip(a.tolist(), b.tolist(), strict=True))) == p * (p - 1)


def test_halves_are_disjoint_and_depend_on_the_seed() -> None:
    rows = [
        {tuple(row) for part in division_task(13, seed=s) for row in part.X.tolist()}
        for s in (0, 1)
    ]
    assert rows[0] == rows[1]
    first, second = division_task(13, seed=0)
    assert len(first) == len(second) == 13 * 12 // 2
    assert not {tuple(r) for r in first.X.tolist()} & {tuple(r) for r in second.X.tolist()}
    assert first.X.tolist() != division_task(13, seed=1)[0].X.tolist()


@pytest.mark.parametrize(("p", "share"), [(9, 0.5), (1, 0.5), (5, 0.0), (5, 1.0), (2, 0.1)])
def test_bad_tables_are_refused(p: int, share: float) -> None:
    with pytest.raises(InputError):
        division_task(p, share)


def test_primes_against_a_sieve() -> None:
    sieve = set(range(2, 200)) - {a * b for a in range(2, 100) for b in range(2, 200 // a + 1)}
    assert [p for p in range(-3, 200) if is_prime(p)] == sorted(sieve)
