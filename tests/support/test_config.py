"""Options of wrong types and ranges, from Python and from files: one InputError each."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gdconv.support import config
from gdconv.support.config import Config
from gdconv.support.errors import InputError


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


# Ranges, both ends of each -----------------------------------------------------------------------

ACCEPTED: list[tuple[str, Any]] = [
    *((name, 1) for name in config.COUNTS),
    *((name, 10**15) for name in ("seed", "seeds", "steps")),
    *(("samples", 10**15 + 1), ("width", 10**15 + 1)),
    *(("seed", 0), ("until_bound", 1e-300), ("until_loss", 0.999999), ("until_bound", 0.999999)),
    *(("tau_1", 1e30), ("label_norm", 1e30), ("tau_1", 1e-300), ("label_norm", 5)),
    *(("margin", 1), ("margin", 1.0), ("margin", 999999.9), ("step", "theory"), ("step", "local")),
    *(("step", "1e-300"), ("step", "3"), ("scales", "0,0,0,0"), ("scales", "1e30,1,2,3")),
    *(("sharpness", True), ("sharpness", False), ("statement", "any text"), ("quiet", True)),
    *((name, choice) for name, choices in config.CHOICES.items() for choice in choices),
    *((name, None) for name in ("samples", "step", "scales", "margin", "kernel", "until_loss")),
]

REFUSED: list[tuple[str, Any, str]] = [
    *((name, 0, "a whole number of at least 1") for name in config.COUNTS),
    *((name, -1, "a whole number of at least") for name in (*config.COUNTS, "seed")),
    *((name, 10**15 + 1, f"at most {10**15}") for name in ("seed", "seeds", "steps")),
    *((name, v, "between 0 and 1") for name in ("until_bound", "until_loss") for v in (0, 1, -0.5)),
    *((n, v, "above 0, at most 1e\\+30") for n in ("tau_1", "label_norm") for v in (0, -1, 1.1e30)),
    *((name, float("nan"), "give a number") for name in ("tau_1", "label_norm", "until_loss")),
    *(("margin", v, "at least 1 and below 1e6") for v in (0.999, 0, -1, 1e6, float("nan"))),
    *(("step", v, "a positive number, theory or local") for v in ("0", "-1", "inf", "nan", "x")),
    *(("scales", v, "four numbers from 0 to 1e\\+30") for v in ("1,1,1", "1,1,1,1,1", "a,1,1,1")),
    *(("scales", v, "for W_Q,W_K,W_V,W_O such as 3,3,1,2") for v in ("-1,1,1,1", "1,1,1,1.1e30")),
    *((name, "Softmax", f"choose one of {', '.join(c)}") for name, c in config.CHOICES.items()),
    *((name, True, "give a whole number") for name in (*config.COUNTS, "seed")),
    *((name, 1.0, "give a whole number") for name in (*config.COUNTS, "seed")),
    *((name, False, "give a number") for name in ("tau_1", "margin", "until_bound")),
    *((name, 1, "give True or False") for name in ("json", "quiet", "sharpness")),
    *((name, 3, "give text") for name in ("statement", "data", "problem", "out", "device", "step")),
    *((name, None, "give ") for name in ("seed", "seeds", "device", "dtype", "engine", "json")),
    *((name, "", "give a value, or leave it out") for name in ("data", "problem", "out", "device")),
]


@pytest.mark.parametrize(("name", "value"), ACCEPTED)
def test_what_is_in_range_is_accepted(name: str, value: Any) -> None:
    made = Config.of("full-gd", {name: value})
    assert made.validate() is made
    assert getattr(made, name) == value


@pytest.mark.parametrize(("name", "value", "said"), REFUSED)
def test_what_is_out_of_range_is_named(name: str, value: Any, said: str) -> None:
    with pytest.raises(InputError, match=f"^{name} = .*: .*{said}") as caught:
        Config.of("full-gd", {name: value}).validate()
    assert caught.value.field == name


def test_defaults_and_the_step_and_scales_as_numbers() -> None:
    plain = Config("full-gd").validate()
    assert (plain.seeds, plain.seed, plain.device, plain.dtype) == (1, 0, "cpu", "float64")
    assert (plain.engine, plain.out, plain.json, plain.quiet) == ("auto", None, False, False)
    assert plain.step_size() is None
    assert plain.scale_list() is None
    assert Config("full-gd", step="theory").step_size() is None
    assert Config("full-gd", step="local").step_size() is None
    assert Config("full-gd", step="0.25").step_size() == 0.25
    assert Config("full-gd", scales="3, 2,1,0").scale_list() == (3.0, 2.0, 1.0, 0.0)
    assert config.MOST == 10**15
    assert config.LARGEST_SCALE == 1e30


def test_the_first_default_wins_and_what_is_given_stays() -> None:
    given = Config("full-gd", heads=3, sharpness=False)
    made = given.resolve(
        {"heads": 4, "steps": None, "kernel": "gaussian"}, {"steps": 5}, {"steps": 6}
    )
    assert (made.heads, made.steps, made.kernel, made.sharpness) == (3, 5, "gaussian", False)
    assert given.steps is None
    assert given.resolve() == given
    assert given.resolve({"margin": 0}).margin == 0


def test_the_canonical_form_leaves_out_what_changes_no_result() -> None:
    made = Config("full-gd", jobs=2, out="x", json=True, quiet=True, steps=7).canonical()
    assert not {"out", "json", "quiet"} & made.keys()
    assert (made["theorem"], made["steps"], made["kernel"]) == ("full-gd", 7, None)
    assert len(made) == len(Config.__dataclass_fields__) - 5  # `own` is its values


def test_an_unknown_name_lists_the_known_ones_and_paths_and_scalars_become_plain() -> None:
    with pytest.raises(InputError, match="among activation, algorithm, .*, width.") as c:
        Config.of("full-gd", {"head": 3})
    assert "theorem" not in c.value.remedy
    made = Config.of("full-gd", {"data": Path("a") / "b.npz", "json": np.bool_(True)})
    assert made.data == str(Path("a") / "b.npz")
    assert made.json is True
    for value in (np.array([3]), np.array(["x"])):
        with pytest.raises(InputError, match="^steps = "):
            Config.of("full-gd", {"steps": value})


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("sampels", "samples"),
        ("head-dim", "head_dim"),
        ("Kernel", "kernel"),
        ("n_heads", "heads"),
        ("until_los", "until_loss"),
        ("label_norms", "label_norm"),
    ],
)
def test_a_misspelt_name_gets_the_one_that_was_meant(name: str, near: str) -> None:
    with pytest.raises(InputError, match=f"^{name} = 1: did you mean {near}; choose options among"):
        Config.of("full-gd", {name: 1})


def test_a_name_like_none_gets_the_list_without_what_python_does_not_read() -> None:
    with pytest.raises(InputError) as caught:
        Config.of("full-gd", {"colour": 1})
    assert caught.value.remedy.startswith("choose options among activation, ")
    assert not {"out", "json", "quiet"} & set(caught.value.remedy.replace(",", "").split())


def test_options_are_not_changed_in_place() -> None:
    with pytest.raises(FrozenInstanceError):
        Config("full-gd").steps = 3  # type: ignore[misc]


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
    except gdconv.support.errors.InputError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 10
