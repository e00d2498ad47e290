"""Assertions and contracts for a user's own tests; fixture and marker are in `pytest_plugin`.

Example:
    >>> from gdconv.testing import assert_linear_rate, check_model
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gdconv.testing.assertions import assert_confirmed as assert_confirmed
    from gdconv.testing.assertions import assert_descent as assert_descent
    from gdconv.testing.assertions import assert_linear_rate as assert_linear_rate
    from gdconv.testing.bounds import assert_bound as assert_bound
    from gdconv.testing.contract import ContractError as ContractError
    from gdconv.testing.models import check_model as check_model
    from gdconv.testing.models import model_checks as model_checks
    from gdconv.testing.theorems import check_theorem as check_theorem
    from gdconv.testing.theorems import theorem_checks as theorem_checks

_HOMES = {
    "assert_confirmed": "assertions",
    "assert_descent": "assertions",
    "assert_linear_rate": "assertions",
    "assert_bound": "bounds",
    "ContractError": "contract",
    "check_model": "models",
    "model_checks": "models",
    "check_theorem": "theorems",
    "theorem_checks": "theorems",
}

__all__ = [
    *("ContractError", "assert_bound", "assert_confirmed", "assert_descent", "assert_linear_rate"),
    *("check_model", "check_theorem", "model_checks", "theorem_checks"),
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:  # imported when it is used: the plugin loads this package in every session
        return getattr(import_module(f"gdconv.testing.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'gdconv.testing' has no attribute {name!r}")
