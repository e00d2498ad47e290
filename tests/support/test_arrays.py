"""gdconv.support.arrays: no number is changed on the way without a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gdconv.checks.named import named_problem
from gdconv.data import sources as data
from gdconv.data.problem import Problem
from gdconv.models.families import ARCHITECTURES
from gdconv.models.multihead.parameters import Parameters
from gdconv.support.arrays import LARGEST_ENTRY, real_array
from gdconv.support.errors import InputError

LARGE = 2**53 + 1
"""The first whole number that float64 does not hold."""

LARGE_VALUES: dict[str, Any] = {
    "int64": np.array([[[LARGE, 1]]]),
    "negative": np.array([[[1, -LARGE]]]),
    "least int64": np.array([[[-(2**63), 1]]]),
    "uint64": np.array([[[2**64 - 1, 1]]], np.uint64),
    "big-endian": np.array([[[LARGE, 1]]], ">i8"),
    "torch": torch.tensor([[[LARGE, 1]]]),
    "torch negative": torch.tensor([[[1, -LARGE]]]),
    "list": [[[LARGE, 1]]],
    "list with reals": [[[LARGE, 0.5]]],
    "tuple": (((0.5, -LARGE),),),
    "list of arrays": [[np.array([LARGE, 1])]],
    "list of scalars": [[[np.int64(LARGE), 0.5]]],
    "64 and signs": [[[2**63, -1]]],
    "more than 64 bits": [[[2**70, 1]]],
    "a power of two": [[[2**60, 1]]],
}


@pytest.mark.parametrize("name", LARGE_VALUES)
def test_integers_that_float64_may_not_hold(name: str, tmp_path: Path) -> None:
    value = LARGE_VALUES[name]
    said = r"X = an integer above 2\^53: give numbers that float64 holds exactly"
    with pytest.raises(InputError, match=said):
        real_array("X", value)
    with pytest.raises(InputError, match=said):
        Problem.from_arrays(value, [[1.0]])
    with pytest.raises(InputError, match=said):
        Problem.per_sample(value, [1.0])
    with pytest.raises(InputError, match=said.replace("X", "y", 1)):
        Problem.from_arrays(np.ones((1, 1, 2)), value)
    if isinstance(value, np.ndarray):
        np.savez(tmp_path / "a.npz", X=value, y=np.ones((1, 1)))
        with pytest.raises(InputError, match=said.replace("X", r"X of a\.npz", 1)):
            data.load(str(tmp_path / "a.npz"))


@pytest.mark.parametrize("block", ["W_Q", "W_K", "W_V", "W_O"])
def test_weights_too(block: str, tmp_path: Path) -> None:
    arrays = dict.fromkeys(("W_Q", "W_K", "W_V", "W_O"), np.ones((1, 1, 1)))
    arrays[block] = np.full((1, 1, 1), LARGE)
    with pytest.raises(InputError, match=f"{block} = an integer above"):
        Parameters.from_arrays(arrays)
    np.savez(tmp_path / "w.npz", X=np.ones((1, 1, 1)), y=np.ones((1, 1)), **arrays)
    with pytest.raises(InputError, match=f"{block} = an integer above"):
        named_problem(str(tmp_path / "w.npz"), "softmax", 0, ARCHITECTURES["multihead"])


@pytest.mark.parametrize("block", ["W_Q", "W_K", "W_V", "w_O"])
def test_weights_of_the_encoder(block: str) -> None:
    made = ARCHITECTURES["encoder"]
    shapes = {b: (1, 1) for b in made.blocks} | {"w_O": (1,)}
    arrays: dict[str, Any] = {b: np.ones(shape) for b, shape in shapes.items()}
    made.from_arrays(arrays)
    arrays[block] = np.full(shapes[block], LARGE)
    with pytest.raises(InputError, match=f"{block} = an integer above"):
        made.from_arrays(arrays)


@pytest.mark.parametrize(
    "value",
    [
        *(np.array([2**53, -(2**53)], kind) for kind in (np.int64, ">i8")),
        *(np.array([2**53], np.uint64), torch.tensor([2**53, -(2**53)]), [2**53, -(2**53), 0.5]),
        *([True, 2], np.array([1, 255], np.uint8), np.array([-128], np.int8), np.zeros(0, int)),
        *(torch.zeros(0, dtype=torch.int64), np.array([1.5, -2.0], ">f8")),
    ],
)
def test_what_float64_holds_is_the_same(value: Any) -> None:
    array, _ = real_array("X", value)
    assert array.dtype == np.float64
    assert array.tolist() == [float(v) for v in value]


@pytest.mark.skipif(np.dtype(np.longdouble).itemsize == 8, reason="no long double here")
def test_long_doubles() -> None:
    array, notes = real_array("X", np.array([0.5, 1e100], np.longdouble))
    assert array.tolist() == [0.5, 1e100]
    assert notes == [f"X came as {np.dtype(np.longdouble)} and was converted to float64."]
    for value in (np.longdouble(1) / 3, 1 + np.longdouble(2) ** -60):
        with pytest.raises(InputError, match="X = an array of type .*: round it to float64 first"):
            real_array("X", np.array([0.5, value]))
        with pytest.raises(InputError, match="round it to float64 first"):
            real_array("X", [0.5, value])
    for value in (np.longdouble("1e2000"), np.longdouble("nan")):
        with pytest.raises(InputError, match="(inf|nan) at index"):
            real_array("X", np.array([value]))


@pytest.mark.parametrize("kind", [np.float16, np.float32, torch.bfloat16, torch.float32])
def test_short_floats_are_said(kind: Any) -> None:
    value = torch.tensor([0.5], dtype=kind) if isinstance(kind, torch.dtype) else kind([0.5])
    array, notes = real_array("X", value)
    assert array.tolist() == [0.5]
    name = str(np.dtype(kind) if isinstance(kind, type) else kind).removeprefix("torch.")
    assert notes == [f"X came as {name} and was converted to float64."]
    assert real_array("X", np.array([0.5]))[1] == real_array("X", [1])[1] == []


@pytest.mark.parametrize(
    "value",
    [
        *([[1.0], [1.0, 2.0]], [1, [2]], ["a"], [None], [1j], [{}], "text", None, object()),
        *([True, False], np.array(["1"]), torch.tensor([1j]), torch.tensor([True])),
        *(np.array([1], object), np.array(["2020"], "M8[Y]"), torch.eye(2).to_sparse()),
        *(np.ma.masked_array([1.0], [True]), [10**400], [[10**400, 0.5]]),
    ],
)
def test_what_is_no_number_is_named(value: Any) -> None:
    with pytest.raises(InputError, match="^X = ") as caught:
        real_array("X", value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_entry(sign: int) -> None:
    assert LARGEST_ENTRY == 1e100
    assert real_array("X", [sign * 1e100])[0].tolist() == [sign * 1e100]
    with pytest.raises(InputError, match=r"at index \(0, 1\): rescale it: entries above 1e\+100"):
        real_array("X", [[0.0, sign * 1.1e100]])
    with pytest.raises(InputError, match=r"inf at index \(1,\): give finite numbers"):
        real_array("X", [0.0, sign * float("inf")])


def test_nothing_is_shared() -> None:
    for mine in (np.ones(2), torch.ones(2, dtype=torch.float64), np.ones(2, int), torch.ones(2)):
        array, _ = real_array("X", mine)
        mine[0] = 5
        assert array.tolist() == [1.0, 1.0]
