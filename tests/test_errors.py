"""Messages: one sentence, nothing invisible in it."""

from __future__ import annotations

import pytest

from gdconv.errors import DivergenceError, InputError


@pytest.mark.parametrize(
    ("value", "shown"),
    [("", "''"), ("  ", "'  '"), ("a\nb", "a b"), (0, "0"), ("x" * 200, "xxx...")],
)
def test_values_are_visible_and_short(value: object, shown: str) -> None:
    text = str(InputError("field", value, "do"))
    assert shown in text
    assert "\n" not in text
    assert len(text) < 150


def test_divergence_names_run_seed_and_a_remedy_that_is_left() -> None:
    text = str(DivergenceError(2, 0.1, 5, 3e14, seed=7))
    assert "run 2 (seed 7) diverged at step 5 (loss 3e+14)" in text
    assert "--step local" in text
    assert "--step local" not in str(DivergenceError(2, 0.1, 5, 3e14, seed=7, local=True))
