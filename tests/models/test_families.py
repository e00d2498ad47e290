"""Architectures: options become models, and what does not fit is one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gdconv
from gdconv.checks.prepare import prepare
from gdconv.checks.resolve import FALLBACK
from gdconv.data.problem import Problem
from gdconv.models.encoder.model import ShallowEncoder
from gdconv.models.encoder.parameters import BLOCKS
from gdconv.models.families import ARCHITECTURES, Encoder, MultiHead
from gdconv.models.multihead.model import MultiHeadRegression
from gdconv.support.config import Config
from gdconv.support.errors import InputError

SHORT: dict[str, Any] = {"steps": 2, "statement": "run", "width": 8, "samples": 2}


def resolved(**options: Any) -> Config:
    """A config with every default of last resort."""
    return Config("ntk-regime", **options).resolve(FALLBACK)


def test_the_table_is_by_name_and_every_option_that_is_read_exists() -> None:
    assert {name: made.name for name, made in ARCHITECTURES.items()} == {
        "multihead": "multihead",
        "encoder": "encoder",
    }
    fields = set(Config.__dataclass_fields__) - {"own"}
    for made in ARCHITECTURES.values():
        assert set(made.reads) <= fields
        assert set(made.trainable) <= set(made.blocks)


@pytest.mark.parametrize(
    ("options", "tau_0", "tau_1", "loss_scale"),
    [
        ({}, 1 / 16, 1.0, 1.0),
        ({"scaling": "sqrt"}, 1 / 4, 1.0, 1.0),
        ({"init": "ntk"}, 1 / 16, 1 / 4, 1.0),
        ({"init": "ntk", "tau_1": 3.0}, 1 / 16, 3.0, 1.0),
        ({"loss": "mean"}, 1 / 16, 1.0, 1 / 5),
    ],
)
def test_scalings_of_the_encoder(
    options: dict[str, Any], tau_0: float, tau_1: float, loss_scale: float
) -> None:
    found = {"samples": 5, "tokens": 2, "embedding": 3, "width": 16}
    made = Encoder().model(resolved(**({"init": "lecun"} | options)), found)
    assert (made.tau_0, made.tau_1, made.loss_scale) == (tau_0, tau_1, loss_scale)


@pytest.mark.parametrize("model", ["encoder", "multihead"])
def test_what_is_asked_for_is_what_comes_out(model: str) -> None:
    sizes = {"width": 5} if model == "encoder" else {"heads": 3, "head_dim": 2}
    made = prepare(
        Config("ntk-regime", model=model, init="lecun", data="gaussian", samples=3, tokens=2,
               embedding=4, seeds=2, **sizes)
    )  # fmt: skip
    assert isinstance(made.model, ShallowEncoder if model == "encoder" else MultiHeadRegression)
    assert {k: getattr(made.config, k) for k in sizes} == sizes
    assert made.config.model == model
    assert made.problem.R == len(made.starts) == 2
    assert tuple(made.problem.y.shape[1:]) == ((3, 1, 1) if model == "encoder" else (3, 2, 1))
    arrays = {b: made.arrays[b] for b in made.resolved.family.blocks}
    again = made.resolved.family.from_arrays(arrays)
    assert all(np.array_equal(again.numpy()[b], arrays[b]) for b in arrays)
    assert prepare(Config(**made.config.canonical())).config == made.config


def test_weights_of_another_shape_are_refused() -> None:
    problem = Problem.per_sample(np.ones((2, 2, 4)), np.ones(2))
    weights = {b: np.ones((3, 5)) for b in BLOCKS[:3]} | {"w_O": np.ones(3)}
    with pytest.raises(InputError, match="weights = D = 5: give weights for the data"):
        Encoder().require_match(problem, Encoder().from_arrays(weights))
    per_token = Problem.from_arrays(np.ones((2, 2, 5)), np.ones((2, 2)))
    with pytest.raises(InputError, match="give one label per sample"):
        Encoder().require_match(per_token, Encoder().from_arrays(weights))
    heads = {b: np.ones((1, 4, 3)) for b in BLOCKS[:3]} | {"W_O": np.ones((1, 3, 1))}
    with pytest.raises(InputError, match="give one per token, y of shape"):
        MultiHead().require_match(problem, MultiHead().from_arrays(heads))


def test_room_counts_no_jacobian_of_the_encoder() -> None:
    sizes = {"samples": 100, "tokens": 4, "embedding": 50, "width": 16_384}
    Encoder().require_room(sizes, 1, BLOCKS)
    with pytest.raises(InputError, match="would take .* GiB"):
        Encoder().require_room(sizes | {"samples": 10**5}, 1, BLOCKS)


def stored(folder: Path, **changed: Any) -> str:
    """An encoder's problem with N = 3, n = 2, D = 4, d_m = 5 as a file."""
    rng = np.random.default_rng(0)
    arrays = {
        "X": rng.standard_normal((3, 2, 4)),
        "y": rng.standard_normal(3),
        **{b: rng.standard_normal((5, 4)) for b in BLOCKS[:3]},
        "w_O": rng.standard_normal(5),
    }
    np.savez(folder / "e.npz", **(arrays | changed))
    return str(folder / "e.npz")


def test_data_and_weights_of_an_encoder_from_a_file(tmp_path: Path) -> None:
    path = stored(tmp_path)
    made = prepare(Config("ntk-regime", problem=path, statement="run"))
    assert tuple(made.arrays["w_O"].shape) == (1, 5)
    np.savez(tmp_path / "data.npz", X=made.arrays["X"][0], y=made.arrays["y"].ravel())
    data = str(tmp_path / "data.npz")
    only = prepare(Config("ntk-regime", data=data, statement="run", width=7, init="he"))
    assert np.array_equal(only.arrays["y"], made.arrays["y"])  # (N,), exactly as stored
    with pytest.raises(InputError, match="but no W_O"):
        prepare(Config("ntk-regime", model="multihead", problem=path))
    for changed in ({"y": np.ones(4)}, {"w_O": np.ones(4)}, {"W_V": np.ones((5, 3))}):
        with pytest.raises(InputError):
            prepare(Config("ntk-regime", problem=stored(tmp_path, **changed)))


def test_a_saved_run_of_the_encoder_is_replayed_from_its_arrays(tmp_path: Path) -> None:
    from gdconv.checks.replay import differences, replay

    check = gdconv.check("ntk-regime", **SHORT, tokens=3, seeds=2)
    saved = gdconv.load(check.save(tmp_path))
    again = replay(saved)
    assert differences(saved, again) == []
    for name, value in saved.starts.items():  # labels too, bit by bit
        assert np.array_equal(value, again.starts[name]), name
    assert check.trace["loss"].tolist() == again.trace["loss"].tolist()
