"""Options of wrong types and ranges, from Python and from files: one InputError each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gdconv.config import Config
from gdconv.errors import InputError


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"until_loss": "a"}, "until_loss"),
        ({"margin": "a"}, "margin"),
        ({"seeds": None}, "seeds"),
        ({"seeds": 2.0}, "seeds"),
        ({"seed": True}, "seed"),
        ({"device": None}, "device"),
        ({"device": ["cpu"]}, "device"),
        ({"quiet": 1}, "quiet"),
        ({"kernel": {}}, "kernel"),
        ({"statement": " "}, "statement"),
        ({"problem": ""}, "problem"),
        ({"foo": 1}, "foo"),
        ({3: 1}, "3"),
        ("x", "options"),
        (None, "options"),
    ],
)
def test_wrong_types_and_names(options: Any, field: str) -> None:
    with pytest.raises(InputError) as caught:
        Config.of("full-gd", options)
    assert caught.value.field == field


@pytest.mark.parametrize("theorem", [[], None, 3, ""])
def test_a_theorem_is_text(theorem: Any) -> None:
    with pytest.raises(InputError, match="^theorem = "):
        Config.of(theorem, {})


def test_numpy_numbers_and_paths_are_welcome() -> None:
    config = Config.of("full-gd", {"samples": np.int64(3), "data": Path("a.npz"), "margin": 2})
    assert (type(config.samples), config.data, config.margin) == (int, "a.npz", 2)


@pytest.mark.parametrize("name", ["seed", "steps", "seeds"])
def test_what_no_64_bit_integer_holds_is_refused(name: str) -> None:
    values: dict[str, Any] = {name: 10**30}
    with pytest.raises(InputError, match=f"^{name} = "):
        Config("full-gd", **values).validate()


@pytest.mark.parametrize("scales", ["1e200,1,1,1", "1,1,1,inf", "1,1,-1,1"])
def test_scales_stay_where_squares_are_finite(scales: str) -> None:
    with pytest.raises(InputError, match="^scales = .*from 0 to 1e"):
        Config("full-gd", scales=scales).validate()


def test_the_api_refuses_wrong_types_without_the_run_time_checks_of_the_tests() -> None:
    code = """
import gdconv
for call in (
    lambda: gdconv.check([]),
    lambda: gdconv.check(None),
    lambda: gdconv.check("full-gd", until_loss="a"),
    lambda: gdconv.check("full-gd", seeds=None),
    lambda: gdconv.check("full-gd", device=None),
    lambda: gdconv.check("full-gd", step=[]),
    lambda: gdconv.Config("full-gd", margin="x").validate(),
    lambda: gdconv.load(None),
    lambda: gdconv.load(3),
    lambda: gdconv.load(""),
):
    try:
        call()
    except gdconv.errors.InputError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 10
