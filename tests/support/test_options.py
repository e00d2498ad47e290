"""What a signature declares becomes an option; what two parties declare is one, or a sentence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
import pytest

from gdconv.support.errors import InputError
from gdconv.support.objects import object_named, text_of
from gdconv.support.options import Option, merged, options_of


@dataclass(frozen=True)
class Declared:
    """A party.

    Attributes:
        depth: Layers,
            counted from 0.
        rate (float): Step.
    """

    depth: int
    rate: float | None = None
    name: str = "net"
    flag: bool = False
    old: Optional[int] = 3  # noqa: UP045  as users write it
    act: type = int
    _hidden: int = 2


def test_simple_fields_of_a_dataclass_are_options() -> None:
    found = {o.name: (o.kind, o.default, o.optional, o.required) for o in options_of(Declared, "p")}
    assert found == {
        "depth": ("int", None, False, True),
        "rate": ("float", None, True, False),
        "name": ("str", "net", False, False),
        "flag": ("bool", False, False, False),
        "old": ("int", 3, True, False),
    }
    texts = {o.name: o.text for o in options_of(Declared, "p")}
    assert texts["depth"] == "Layers, counted from 0"
    assert texts["rate"] == "Step"
    assert texts["name"] == ""


def test_parameters_of_a_class_and_of_a_function() -> None:
    class Plain:
        def __init__(self, size: int = 2, *args: int, scale=1.5, other=None, **more: int) -> None:
            pass

    assert [(o.name, o.kind) for o in options_of(Plain, "p")] == [
        ("size", "int"), ("scale", "float"),
    ]  # fmt: skip

    def make(a: int, /, b: None | int = None) -> None: ...

    assert [(o.name, o.optional) for o in options_of(make, "p")] == [("b", True)]
    assert options_of(type, "p") == ()


@pytest.mark.parametrize("default", [1.5, "x", True])
def test_a_default_of_another_type_names_the_party(default: Any) -> None:
    def make(width: int = default) -> None: ...

    with pytest.raises(
        InputError, match="^width = .*: mend the default in model net: width is dec"
    ):
        options_of(make, "model net")


@pytest.mark.parametrize(
    ("kind", "value", "kept"),
    [
        ("int", 3, 3), ("float", 3, 3.0), ("float", 0.5, 0.5), ("str", "a", "a"),
        ("bool", True, True), ("int", np.int64(4), 4),
    ],
)  # fmt: skip
def test_values_of_the_kind(kind: str, value: Any, kept: Any) -> None:
    found = Option("x", kind, "p").checked(value)
    assert found == kept
    assert type(found) is type(kept)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("int", 1.0), ("int", True), ("int", None), ("int", "1"), ("float", "1"), ("float", True),
        ("float", math.nan), ("float", math.inf), ("float", 10**400), ("str", 1), ("str", " "),
        ("bool", 1), ("bool", "yes"),
    ],
)  # fmt: skip
def test_values_of_another_kind(kind: str, value: Any) -> None:
    with pytest.raises(InputError, match="^x = .*: give "):
        Option("x", kind, "p").checked(value)


def test_none_only_where_it_may_be() -> None:
    assert Option("x", "int", "p", optional=True).checked(None) is None


A, B = Option("width", "int", "model net", 4), Option("width", "float", "theorem slow", 1.0)


def test_one_name_of_two_types_names_both_parties() -> None:
    with pytest.raises(InputError) as caught:
        merged([A, B], {}, {})
    assert str(caught.value) == (
        "option = width: rename it in theorem slow, or declare it as int there: it is one of "
        "model net."
    )
    with pytest.raises(InputError, match="as int there: it is one of model encoder"):
        merged([B], {"width": "int"}, {}, "model encoder")


def test_one_name_of_one_type_is_shared_and_the_first_default_counts() -> None:
    other = Option("width", "int", "theorem slow", 9, optional=True)
    assert merged([A, other], {"width": "int"}, {})["width"] == A
    assert merged([other, A], {}, {})["width"].default == 9
    assert not merged([other, A], {}, {})["width"].optional
    needed = Option("width", "int", "algorithm a", required=True)
    assert not merged([needed, A], {}, {})["width"].required


def test_reserved_names_and_denials() -> None:
    with pytest.raises(InputError, match="^option = width: rename it in model net: it is taken"):
        merged([A], {}, {"width": "taken"})
    flags = [Option("deep", "bool", "a"), Option("no_deep", "int", "b")]
    with pytest.raises(InputError, match="^option = no_deep: rename it in b: it would deny deep"):
        merged(flags, {}, {})


def test_objects_by_text() -> None:
    assert object_named("model", "math:pi", "a number") == math.pi
    assert text_of(Declared) == f"{__name__}:Declared"
    assert object_named("model", text_of(Declared) or "", "x") is Declared
    assert text_of(lambda: 0) is None

    class Inner:
        pass

    assert text_of(Inner) is None
    for text in ("math", "math:", ":x", "no.such.module:x", "math:pi.e"):
        with pytest.raises(InputError, match="^model = .*: give package.module:name of a thing"):
            object_named("model", text, "a thing")
