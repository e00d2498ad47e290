"""The short form of the battery, on whatever processor this is; and that it can differ."""

from __future__ import annotations

import copy
import json
from typing import Any

import battery
import pytest

from gdconv.theory.registry import registry

KEPT: dict[str, Any] = json.loads(battery.KEPT.read_text("utf-8"))


@pytest.mark.parametrize("name", battery.SHORT)
def test_short_form_is_as_kept(name: str) -> None:
    now = battery.measure(*battery.SETTINGS[name])
    assert battery.differences(KEPT[name], now, loose=True) == []


def test_every_setting_is_kept_and_every_statement_is_in_it() -> None:
    assert list(KEPT) == list(battery.SETTINGS)
    assert len(KEPT) >= 60
    found = {(battery.SETTINGS[n][0], s) for n in KEPT for s in KEPT[n]["statements"]}
    assert found == {(t.id, s.name) for t in registry().values() for s in t.statements()}


def test_a_difference_is_seen() -> None:
    name = battery.SHORT[0]
    for path, value in {
        ("verdict",): "confirmed",
        ("statements", "stacked", "first_violation"): 2,
        ("statements", "stacked", "worst_margin"): -1.6425,
        ("trace", "loss", 1): 0.0,
    }.items():
        changed = copy.deepcopy(KEPT[name])
        place = changed
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        assert len(battery.differences(KEPT[name], changed, loose=True)) == 1
    digest = copy.deepcopy(KEPT[name])
    digest["trace"]["loss"][3] = "another"
    assert battery.differences(KEPT[name], digest, loose=True) == []
    assert len(battery.differences(KEPT[name], digest, loose=False)) == 1
