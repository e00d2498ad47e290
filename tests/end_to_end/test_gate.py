"""One gate: no enclosing or spectral function takes a matrix that is not what it seems.

Every function below states something about "the stored float64 matrix". Whatever is not one (or
would become another one on the way) is refused with one sentence that names the argument.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from gdconv.convex.dual import certify, dual_sizes_upper, objective_enclosure, scaled_into
from gdconv.convex.group_lasso import Design, Program
from gdconv.convex.solvers.fast import solve
from gdconv.convex.solvers.first_order import accelerated_gradient, proximal_gradient
from gdconv.gallery.convex_attention.exact import exact_gap
from gdconv.gallery.convex_attention.sequence import solve_sequence
from gdconv.hessian.density import lanczos, spectral_density
from gdconv.hessian.spectra import (
    eigenvalue_bounds,
    extreme_eigenpairs,
    inertia,
    negative_curvature,
)
from gdconv.models.multihead.balls import (
    ball_attention,
    ball_B,
    ball_gradient_norm,
    ball_loss,
    certified_sigma_min_at,
)
from gdconv.rigor.eigen import lambda_max_enclosure, lambda_min_enclosure, symmetric
from gdconv.rigor.rounding import as_matrix
from gdconv.rigor.spectrum import Enclosure, enclose_sigma_min, enclose_singular_range, norm2_upper
from gdconv.rigor.svd import prepared, verified_svd
from gdconv.rigor.sylvester import certified_sigma_min, contains_sigma_min
from gdconv.support.errors import InputError

SYMMETRIC: dict[str, Callable[[Any], Any]] = {
    "lambda_min_enclosure": lambda_min_enclosure,
    "lambda_max_enclosure": lambda_max_enclosure,
    "eigenvalue_bounds": eigenvalue_bounds,
    "inertia": inertia,
    "extreme_eigenpairs": extreme_eigenpairs,
    "extreme_eigenpairs, smallest two": lambda A: extreme_eigenpairs(A, 2, "smallest"),
    "negative_curvature": negative_curvature,
    "spectral_density": spectral_density,
    "lanczos": lambda A: lanczos(A, np.ones(2), 2),
    "symmetric": lambda A: symmetric(A, "A"),
}
"""Functions of a symmetric matrix."""

ANY: dict[str, Callable[[Any], Any]] = {
    "as_matrix": as_matrix,
    "prepared": lambda A: prepared(A, "A"),
    "enclose_sigma_min": enclose_sigma_min,
    "enclose_singular_range": enclose_singular_range,
    "norm2_upper": norm2_upper,
    "verified_svd": verified_svd,
    "certified_sigma_min": certified_sigma_min,
    "contains_sigma_min": lambda A: contains_sigma_min(A, Enclosure(0.0, 1.0)),
    "solve_sequence, X": lambda A: solve_sequence(A, np.ones((2, 2)), 0.5),
    "solve_sequence, Y": lambda A: solve_sequence(np.ones((2, 2)), A, 0.5),
    "dual_sizes_upper": lambda v: dual_sizes_upper(_program(), v),
    "scaled_into": lambda v: scaled_into(_program(), v),
    "certify, v": lambda v: certify(_program(), np.zeros((2, 2, 2)), v),
    "exact_gap, v": lambda v: exact_gap(_program(), np.zeros((2, 2, 2)), v),
    "Program.of, y": lambda y: Program.of(np.ones((2, 2, 2)), y, 0.5),
}
"""Functions of a matrix with two axes."""


def _program() -> Program:
    X = np.arange(8.0).reshape(2, 2, 2)
    return Program.of(X, np.ones((2, 2)), 0.5)


ONE = np.ones((1, 2, 2))

THREE: dict[str, Callable[[Any], Any]] = {
    "certify, Z": lambda Z: certify(_program(), Z),
    "objective_enclosure": lambda Z: objective_enclosure(_program(), Z),
    "exact_gap, Z": lambda Z: exact_gap(_program(), Z, np.zeros((2, 2))),
    "solve": lambda Z: solve(_program(), start=Z),
    "proximal_gradient": lambda Z: proximal_gradient(_program(), 2, Z_0=Z),
    "accelerated_gradient": lambda Z: accelerated_gradient(_program(), 2, Z_0=Z),
    "Design": Design,
    "ball_attention": lambda X: ball_attention(X, ONE, ONE),
    "ball_B": lambda X: ball_B(X, ONE, ONE),
    "ball_loss": lambda X: ball_loss(X, np.ones((2, 2, 1)), ONE, ONE, ONE, np.ones((1, 2, 1))),
    "ball_gradient_norm": lambda X: ball_gradient_norm(
        X, np.ones((2, 2, 1)), ONE, ONE, ONE, np.ones((1, 2, 1))
    ),
    "certified_sigma_min_at": lambda X: certified_sigma_min_at(X, ONE, ONE),
}
"""Functions of an array with three axes, (2, 2, 2) here."""


def _table(values: Any) -> Any:
    import pandas as pd

    return pd.DataFrame(values)


SQUARE: dict[str, Any] = {
    "complex": np.array([[2, 1j], [-1j, 2]]),
    "complex without imaginary part": np.eye(2, dtype=complex),
    "complex in a list": [[2.0, 1j], [-1j, 2.0]],
    "masked": np.ma.masked_array(np.eye(2), mask=[[False, True], [True, False]]),
    "masked, nothing hidden": np.ma.masked_array(np.eye(2)),
    "masked rows": [np.ma.masked_array([1.0, 0.0], mask=[0, 1]), [0.0, 1.0]],
    "text": np.array([["2", "1"], ["1", "2"]]),
    "bytes": np.array([[b"2", b"1"], [b"1", b"2"]]),
    "text in a list": [["2", "1"], ["1", "2"]],
    "one text": "2 1 1 2",
    "objects": np.array([[2.0, 1.0], [1.0, 2.0]], object),
    "fractions": [[Fraction(2), Fraction(1, 3)], [Fraction(1, 3), Fraction(2)]],
    "None": None,
    "no matrix": 3.0,
    "a set": {1.0, 2.0},
    "long double": np.eye(2, dtype=np.longdouble) / np.longdouble(3),
    "long double in a list": [[np.longdouble(1) / 3, 0.0], [0.0, 1.0]],
    "integer above 2^53": np.array([[2**53 + 1, 0], [0, 1]]),
    "unsigned above 2^53": np.array([[2**64 - 1, 0], [0, 1]], np.uint64),
    "least integer": np.array([[-(2**63), 0], [0, 1]]),
    "integer above 2^53 among floats": [[2**53 + 1, 0.5], [0.5, 1.0]],
    "integer beyond 64 bits": [[2**70, 0], [0, 1]],
    "integers in a table": lambda: _table({"a": [2**53 + 1, 0], "b": [0.5, 1.0]}),
    "integers in torch rows": [torch.tensor([2**53 + 1, 0]), torch.tensor([0.0, 1.0])],
    "torch integers": torch.tensor([[2**53 + 1, 0], [0, 1]]),
    "torch complex": torch.eye(2, dtype=torch.complex128),
    "torch bfloat16": torch.eye(2, dtype=torch.bfloat16),
    "torch sparse": torch.eye(2).to_sparse(),
    "torch on meta": torch.empty(2, 2, device="meta"),
    "NaN": np.array([[1.0, np.nan], [np.nan, 1.0]]),
    "infinite": np.array([[np.inf, 0.0], [0.0, 1.0]]),
    "both infinities": np.array([[np.inf, 0.0], [0.0, -np.inf]]),
    "NaN in torch": torch.full((2, 2), torch.nan),
    "ragged": [[1.0, 2.0], [2.0]],
    "dates": np.array([["2020-01-01", "2020-01-01"]] * 2, "datetime64[D]"),
    "a record": np.zeros((2, 2), [("a", float)]),
}
"""Bad whatever the shape that is asked for."""

SHAPES: dict[str, Any] = {
    "a number": np.float64(3.0),
    "a vector": np.ones(2),
    "four axes": np.ones((2, 2, 2, 2)),
    "an empty list": [],
}

NOT_SYMMETRIC: dict[str, Any] = {
    "not square": np.ones((2, 3)),
    "not symmetric": np.array([[2.0, 1.0], [0.0, 2.0]]),
    "not symmetric in one bit": np.array([[2.0, 1.0], [np.nextafter(1.0, 2.0), 2.0]]),
    "three axes": np.ones((2, 2, 2)),
    "no rows": np.ones((0, 0)),
}


def _made(bad: Any) -> Any:
    return bad() if callable(bad) else bad


def _taken(function: Callable[[Any], Any], bad: dict[str, Any]) -> list[str]:
    """Names of the inputs that were not refused in one sentence."""
    if np.dtype(np.longdouble).itemsize == 8:  # it is float64 here
        bad = {name: value for name, value in bad.items() if not name.startswith("long double")}
    taken = []
    for name, value in bad.items():
        try:
            function(_made(value))
        except InputError as error:
            said = str(error)
            if not (error.field and said.endswith(".") and "\n" not in said):
                taken.append(f"{name}: {said}")
        except Exception as error:
            taken.append(f"{name}: {type(error).__name__}")
        else:
            taken.append(name)
    return taken


@pytest.fixture(autouse=True)
def _as_users_run_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the annotations that the suite checks at run time."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


NOT_FINITE = ("NaN", "NaN in torch", "infinite", "both infinities")
PROVE_NOTHING = ("certify, Z", "certify, v", "objective_enclosure")
"""Bounds that are infinite at such numbers: tests/convex/test_dual.py."""


@pytest.mark.parametrize("name", sorted(SYMMETRIC))
def test_symmetric_matrices(name: str) -> None:
    assert _taken(SYMMETRIC[name], SQUARE | SHAPES | NOT_SYMMETRIC) == []


@pytest.mark.parametrize("name", sorted(ANY))
def test_matrices(name: str) -> None:
    bad = {**SQUARE, **SHAPES, "three axes": np.ones((2, 2, 2))}
    if name == "Program.of, y":  # a vector is one target per sample
        del bad["a vector"]
    if name == "certify, v":  # None is the residual of Z
        del bad["None"]
    if name in PROVE_NOTHING:
        bad = {kind: value for kind, value in bad.items() if kind not in NOT_FINITE}
    assert _taken(ANY[name], bad) == []


def _deeper(bad: Any) -> Any:
    """The same fault in an array with three axes."""
    if isinstance(bad, np.ma.MaskedArray):
        return np.ma.stack([bad, bad])
    if isinstance(bad, np.ndarray):
        return np.stack([bad, bad])
    if isinstance(bad, torch.Tensor):
        return torch.stack([bad, bad])
    return [bad, bad]


@pytest.mark.parametrize("name", sorted(THREE))
def test_arrays_with_three_axes(name: str) -> None:
    bad = {name: _deeper(value) for name, value in SQUARE.items() if not callable(value)} | SHAPES
    bad["two axes"] = np.ones((2, 2))
    if name != "Design":
        bad["other sizes"] = np.ones((2, 2, 3))
    if name in PROVE_NOTHING:
        bad = {kind: value for kind, value in bad.items() if kind not in NOT_FINITE}
    assert _taken(THREE[name], bad) == []


def test_what_a_rounded_copy_would_have_claimed() -> None:
    """The eigenvalues of [[2, i], [-i, 2]] are 1 and 3; its real part has the value 2 twice."""
    bad = np.array([[2, 1j], [-1j, 2]])
    with pytest.raises(InputError, match=r"^K = a complex matrix: "):
        lambda_max_enclosure(bad)
    masked = np.ma.masked_array([[1.0, 9.0], [9.0, 1.0]], mask=[[0, 1], [1, 0]])
    with pytest.raises(InputError, match=r"^K = a masked array: "):
        lambda_max_enclosure(masked)


@pytest.mark.parametrize("slack", [-1.0, float("nan"), float("inf")])
def test_slack(slack: float) -> None:
    for function in (lambda_min_enclosure, lambda_max_enclosure, inertia):
        with pytest.raises(InputError, match="slack"):
            function(np.eye(2), slack)


OPERATORS: dict[str, Any] = {
    "not square": lambda: aslinearoperator(np.ones((60, 50))),
    "not symmetric": lambda: aslinearoperator(np.triu(np.ones((60, 60)))),
    "slightly asymmetric": lambda: aslinearoperator(np.eye(60) + 0.01 * np.eye(60, k=1)),
    "complex": lambda: aslinearoperator(1j * np.eye(60)),
    "complex products": lambda: LinearOperator((60, 60), lambda v: 1j * v, dtype=np.float64),
    "NaN": lambda: aslinearoperator(np.full((60, 60), np.nan)),
    "infinite": lambda: LinearOperator((60, 60), lambda v: v * np.inf, dtype=np.float64),
    "NaN now and then": lambda: aslinearoperator(np.diag(np.r_[np.ones(59), np.nan])),
}


@pytest.mark.parametrize("name", sorted(set(SYMMETRIC) - {"lanczos"}))
def test_operators(name: str) -> None:
    assert _taken(SYMMETRIC[name], OPERATORS) == []


def test_operators_of_lanczos() -> None:
    assert _taken(lambda A: lanczos(A, np.ones(60), 5), OPERATORS) == []
    for start in (np.zeros(2), np.ones(3), np.array([1.0, np.nan]), np.array([1.0, 1j])):
        with pytest.raises(InputError, match="^start = "):
            lanczos(np.eye(2), start, 2)


def test_exact_input_of_other_types_is_taken() -> None:
    K = [[2, 1], [1, 2]]
    same = [
        K,
        tuple(map(tuple, K)),
        np.array(K),
        np.array(K, np.int8),
        np.array(K, np.float32),
        np.array(K, ">f8"),
        np.asfortranarray(K),
        torch.tensor(K),
        torch.tensor(K, dtype=torch.float64, requires_grad=True),
        _table(K),
    ]
    for made in same:
        assert lambda_max_enclosure(made) == lambda_max_enclosure(np.array(K, float))
        assert extreme_eigenpairs(made)[0].value == pytest.approx(3.0)
        assert spectral_density(made).highest == pytest.approx(3.0)
