"""A slice of the fuzzing in every test run, and its own negative controls."""

from __future__ import annotations

import sys
import time

import pytest

from fuzz import forked, lines
from fuzz.run import piece

pytestmark = pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")


def test_a_slice_of_cases_ends_with_a_sentence() -> None:
    assert piece(None, range(20_000, 20_050)) == []


def test_a_case_comes_from_its_number_alone() -> None:
    assert lines.command_line(7) == lines.command_line(7)
    assert len({tuple(lines.command_line(i)) for i in range(300)}) > 250


def test_what_must_not_happen_is_seen() -> None:
    def says(text: str, code: int) -> forked.Outcome:
        def call() -> int:
            print(text)
            return code

        return forked.run(call)

    def raises() -> int:
        raise KeyError("x")

    def hangs() -> int:
        began = time.monotonic()
        while time.monotonic() - began < 100:
            pass
        return 0

    assert says("fine", 2).fault == ""
    assert "exit code 5" in says("fine", 5).fault
    assert "unexpected" in says("gdconv: unexpected KeyError", 2).fault
    assert "control character" in says("\x1b[2J", 2).fault
    assert "nothing" in says("", 2).fault
    assert "exit code" in forked.run(raises).fault
    assert "exit code" in forked.run(lambda: sys.exit(7)).fault
    assert "characters" in says("x" * 50_000, 2).fault
    if sys.gettrace() is None:
        monkey = pytest.MonkeyPatch()
        with monkey.context() as patch:
            patch.setattr(forked, "SECONDS", 1)
            assert "CPU" in forked.run(hangs).fault
