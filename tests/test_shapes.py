"""What the run-time checks of shapes see, and when they stop looking."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import shapes

SOURCE = """
from __future__ import annotations
from dataclasses import dataclass
from functools import cached_property
from jaxtyping import Float
from numpy import ndarray

@dataclass(frozen=True)
class Pair:
    X: Float[ndarray, "N D"]
    y: Float[ndarray, "N"]

    @property
    def rows(self) -> Float[ndarray, "N N"]:
        return self.X

    @classmethod
    def of(cls, X: Float[ndarray, "N N"]) -> Pair:
        return cls(X, X[0])

def product(A: Float[ndarray, "m n"], B: Float[ndarray, "n k"]) -> Float[ndarray, "m k"]:
    return np_dot(A, B)

def np_dot(A: ndarray, B: ndarray) -> ndarray:
    return A[:, :1] * B[:1]

def outer(x: ndarray) -> ndarray:
    def inner(v: Float[ndarray, "n"]) -> ndarray:
        return v
    return inner(x)
"""
A, B = np.ones((2, 3)), np.ones((3, 2))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> object:
    """A module that is checked as gdconv's are."""
    folder = tmp_path_factory.mktemp("shapes")
    Path(folder, "shapes_example.py").write_text(SOURCE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        with jaxtyping.install_import_hook(["shapes_example"], shapes.CHECKER):
            import shapes_example
        yield shapes_example
    sys.modules.pop("shapes_example", None)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda m: m.product(A, A),
        lambda m: m.Pair(A, np.ones(3)),
        lambda m: m.Pair(A, np.ones(2)).rows,
        lambda m: m.Pair.of(A),
        lambda m: m.outer(A),
    ],
    ids=["function", "dataclass", "property", "classmethod", "inner"],
)
def test_wrong_shapes_are_noticed(wrong: Callable[[object], object], made: object) -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        wrong(made)


@pytest.mark.parametrize("again", [0, 1])
def test_first_calls_are_checked_in_every_test(again: int, made: object) -> None:
    """Ten calls, then none; the next test starts anew."""
    for _ in range(shapes.CALLS - 1):
        assert made.product(A, B).shape == (2, 2)
    with pytest.raises(jaxtyping.TypeCheckError, match="product"):
        made.product(A, A)
    assert made.product(A, A).shape == (2, 3)


def test_the_suite_is_checked() -> None:
    """Every function of the library passes through the sampler, not through jaxtyping itself."""
    from gdconv.models.multihead.attention_kernels import kernel_named

    assert kernel_named.__wrapped__.__code__ in shapes.Turn.seen
