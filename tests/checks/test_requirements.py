"""What is asked for is what runs: sizes, unused options, data against weights, room, devices."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gdconv
from gdconv.checks.prepare import prepare
from gdconv.checks.requirements import device_named
from gdconv.models.multihead.family import SIZES, MultiHead
from gdconv.support.config import Config
from gdconv.support.errors import InputError

BLOCKS = ("W_Q", "W_K", "W_V")


def witness(folder: Path, runs: int = 0, **changed: Any) -> str:
    """A stored problem with N = n = 2, D = 4, H = 2, d = 3, D_y = 1; some arrays are others."""
    rng = np.random.default_rng(0)
    lead = (runs,) if runs else ()
    arrays: dict[str, Any] = {
        "X": rng.standard_normal((*lead, 2, 2, 4)),
        "y": rng.standard_normal((*lead, 2, 2)),
        **{name: rng.standard_normal((*lead, 2, 4, 3)) for name in BLOCKS},
        "W_O": rng.standard_normal((*lead, 2, 3, 1)),
    }
    path = folder / "w.npz"
    np.savez(path, **(arrays | changed))
    return str(path)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"problem": "stacked-witness", "heads": 7}, "heads"),
        ({"problem": "stacked-witness", "samples": 3}, "samples"),
        ({"problem": "stacked-witness", "data": "digits"}, "data"),
        ({"problem": "stacked-witness", "init": "lecun"}, "init"),
        ({"problem": "stacked-witness", "scales": "1,1,1,1"}, "scales"),
        ({"problem": "stacked-witness", "margin": 2.0}, "margin"),
        ({"problem": "witness", "head_dim": 7}, "head_dim"),
        ({"problem": "witness", "seeds": 2}, "seeds"),
        ({"data": "digits", "outputs": 3}, "outputs"),
        ({"data": "digits", "embedding": 16}, "embedding"),
        ({"data": "gaussian", "target": "ink"}, "target"),
        ({"init": "theorem", "scales": "1,1,1,1"}, "scales"),
        ({"init": "he", "scales": "1,1,1,1"}, "scales"),
        ({"init": "he", "margin": 2.0}, "margin"),
        ({"statement": "run", "margin": 2.0}, "margin"),
    ],
)
def test_an_option_that_nothing_would_read_is_named(
    tmp_path: Path, options: dict[str, Any], field: str
) -> None:
    if options.get("problem") == "witness":
        options = options | {"problem": witness(tmp_path)}
    with pytest.raises(InputError, match="leave it out") as caught:
        prepare(Config("full-gd", **options))
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({"problem": "stacked-witness"}, (1, 1, 1, 1, 3, 1)),
        ({"problem": "narrow-head"}, (1, 1, 1, 2, 1, 1)),
        ({"data": "digits", "samples": 4, "heads": 4}, (4, 2, 32, 1, 4, 8)),
        ({"data": "gaussian", "outputs": 2}, (2, 2, 8, 2, 2, 4)),
    ],
)
def test_the_config_reports_the_sizes_that_run(
    options: dict[str, Any], sizes: tuple[int, ...]
) -> None:
    config = prepare(Config("full-gd", **options)).config
    assert tuple(getattr(config, name) for name in SIZES) == sizes
    if config.problem:
        assert (config.data, config.init, config.target, config.scales) == (None,) * 4
    # what a run reports can be asked for again
    again = prepare(Config(**config.canonical())).config
    assert again == config


def test_a_stored_witness_has_as_many_runs_as_replicas(tmp_path: Path) -> None:
    made = prepare(Config("full-gd", problem=witness(tmp_path, runs=3)))
    assert (made.config.seeds, len(made.starts)) == (3, 3)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"X": np.ones((2, 2, 2, 4)), "y": np.ones((2, 2, 2))}, "weights = R = 1"),
        ({"X": np.eye(10).reshape(2, 5, 10)[:, :2]}, "weights = D = 4"),
        ({"y": np.ones((2, 2, 3))}, "weights = D_y = 1"),
        ({"W_Q": np.full((2, 4, 3), "a")}, "W_Q = array of type <U1"),
        ({"W_V": np.ones((2, 4, 3), complex)}, "W_V = array of type complex128"),
        ({"W_O": np.full((2, 3, 1), 1e160)}, r"W_O = 1e\+160 at index"),
        ({"W_K": np.ones((0, 4, 3))}, "W_K = .*at least one entry"),
        ({"W_K": np.ones(3)}, r"W_K = .*give shape \(H"),
        ({"W_O": np.ones((2, 5, 1))}, "weights = .*of one shape"),
    ],
)
def test_a_witness_that_fits_nothing_is_one_sentence(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        prepare(Config("full-gd", problem=witness(tmp_path, **changed)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"heads": 10**9},
        {"heads": 10**22},
        {"head_dim": 10**8, "init": "normal"},
        {"seeds": 10**14},
        {"samples": 40_000, "embedding": 1},
    ],
)
def test_absurd_sizes_are_refused_before_they_are_made(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="GiB") as caught:
        prepare(Config("full-gd", **options))
    assert caught.value.field == next(iter(options))


def test_room_is_for_all_runs_together() -> None:
    sizes = dict.fromkeys(SIZES, 16)
    MultiHead().require_room(sizes, 1, BLOCKS)
    with pytest.raises(InputError, match="Jacobian"):
        MultiHead().require_room(sizes, 100, BLOCKS)


@pytest.mark.parametrize("name", ["meta", "cpu:7", "cuda:-1", "cuda:", "xla", "CPU", "cpu "])
def test_other_devices_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="give cpu, cuda, cuda:1 or mps"):
        device_named(name, torch.float64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"y": 0.0}, "y = a loss of zero at the start"),
        ({"y": 0.0, "init": "normal", "scales": "1,1,0,1"}, "y = a loss of zero at the start"),
        ({"X": 1e90, "init": "normal"}, "not finite: rescale the data or the weights"),
        ({"X": 1e90, "init": "normal", "step": "0.1"}, "not finite: rescale the data"),
        ({"X": 0.0, "init": "normal"}, "step = local: the Jacobian is zero"),
        ({"X": 1e-160, "init": "normal", "step": "local"}, "step = local: that is .*rescale"),
    ],
)
def test_a_start_without_descent_says_why(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    rng = np.random.default_rng(0)
    X, y = options.pop("X", 1.0), options.pop("y", 1.0)
    np.savez(
        tmp_path / "d.npz", X=X * rng.standard_normal((2, 2, 8)), y=y * rng.standard_normal((2, 2))
    )
    with pytest.raises(InputError, match=message):
        gdconv.check("full-gd", data=str(tmp_path / "d.npz"), steps=3, **options)


def test_a_step_that_moves_nothing_still_has_a_limit() -> None:
    check = gdconv.check("full-gd", step="1e-320", steps=5)
    assert check.runs["steps"].iloc[0] == 5


def test_which_step_was_taken_is_recorded() -> None:
    rules = {
        options.get("step"): gdconv.check("full-gd", steps=3, **options)
        for options in (
            {"step": "theory", "init": "normal"},
            {"step": "local", "init": "normal"},
            {"step": "1e-9"},
        )
    }
    found = {asked: check.runs["step_rule"].iloc[0] for asked, check in rules.items()}
    assert found == {"theory": "local", "local": "local", "1e-9": "number"}
    assert gdconv.check("full-gd", steps=3).runs["step_rule"].iloc[0] == "theory"
    from gdconv.report.summary import summary

    assert "(theory)" not in summary(rules["theory"])
    assert rules["theory"].to_json()["runs"][0]["step_rule"] == "local"
    assert math.isfinite(rules["theory"].runs["step"].iloc[0])
