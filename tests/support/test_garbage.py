"""Collecting pauses, and goes on as it was; only a process of our own keeps what it has."""

from __future__ import annotations

import contextlib
import gc

import pytest

from gdconv.support.garbage import uncollected


@pytest.mark.parametrize("before", [True, False])
def test_collecting_pauses_and_goes_on_as_before(before: bool) -> None:
    was, kept = gc.isenabled(), gc.get_freeze_count()
    (gc.enable if before else gc.disable)()
    try:
        with contextlib.suppress(KeyError), uncollected():
            assert not gc.isenabled()
            raise KeyError
        assert gc.isenabled() == before
        assert gc.get_freeze_count() == kept
    finally:
        (gc.enable if was else gc.disable)()


def test_for_good_what_is_there_is_not_looked_through() -> None:
    kept = gc.get_freeze_count()
    with uncollected(for_good=True):
        pass
    try:
        assert gc.get_freeze_count() > max(kept, 1000)
    finally:
        gc.unfreeze()
