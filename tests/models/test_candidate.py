"""A model family before its options are known: by name, by text, in memory."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from torch import nn

from gdconv.models.candidate import DEFAULT_NET, OWN, candidate
from gdconv.models.families import ARCHITECTURES, Encoder
from gdconv.models.generic.family import ModuleFamily
from gdconv.models.generic.nets import TwoLayer
from gdconv.models.reads import MODULE, READS, attends
from gdconv.support.errors import InputError
from gdconv.testing import check_model

INSTANCE = nn.Linear(2, 1)


def test_what_our_families_read_is_what_the_table_says() -> None:
    assert {name: made.reads for name, made in ARCHITECTURES.items()} == READS
    assert ModuleFamily(INSTANCE, "x").reads == MODULE
    for name, made in ARCHITECTURES.items():
        found = candidate(name)
        assert found is not None
        assert (found.name, found.kind, found.reads, found.own) == (name, name, made.reads, ())
        assert found.make({}, None) is made


def test_texts_and_objects() -> None:
    assert candidate("nothing") is None
    usual, named = candidate("module"), candidate(DEFAULT_NET)
    assert usual is not None
    assert named is not None
    assert usual.name == named.name == DEFAULT_NET
    assert usual.defaults == {"loss": "squared", "data": OWN}
    made: Any = named.make({"width": 3}, "squared")
    assert made.source == TwoLayer(width=3)
    plain = candidate("net", INSTANCE)
    assert plain is not None
    assert (plain.own, plain.defaults) == ((), {"loss": "squared", "data": None})
    linear = candidate("torch.nn:Linear")
    assert linear is not None
    assert [o.name for o in linear.own] == ["in_features", "out_features", "bias"]
    family = linear.make({"in_features": 3, "out_features": 2}, None)
    assert family.blocks == ("weight", "bias")
    ours = candidate("anything", Encoder)
    assert ours is not None
    assert (ours.kind, ours.text) == ("encoder", "gdconv.models.encoder.family:Encoder")


def test_values_that_the_model_refuses_are_one_sentence() -> None:
    class Odd:
        def __init__(self, depth: int = 1) -> None:
            raise ValueError(f"not {depth}")

    found = candidate("odd", Odd)
    assert found is not None
    with pytest.raises(
        InputError, match=r"^model = odd: give options that it takes \(ValueError: n"
    ):
        found.make({"depth": 3}, None)


def test_the_contract_takes_a_class_and_its_options() -> None:
    check_model(TwoLayer, width=3)
    with pytest.raises(
        InputError, match="^heads = 3: leave it out: this model reads X, y and loss, "
    ):
        check_model(TwoLayer, heads=3)
    with pytest.raises(InputError, match="^width = x: give a whole number"):
        check_model(TwoLayer, width="x")


def test_attention_is_told_by_the_model_not_by_a_name() -> None:
    assert attends({"kernel": "softmax", "model": "encoder"})
    assert not attends({"kernel": None, "model": "multihead"})
    assert not attends({"kernel": "softmax", "model": "mine:Conv"})


def test_our_families_are_known_without_torch() -> None:
    code = (
        "import sys; from gdconv.models.candidate import candidate; candidate('encoder');"
        "from gdconv.checks.readers import Readers; print({'torch', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
