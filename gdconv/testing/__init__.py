"""Assertions for a user's own tests; the pytest fixture and marker are in `pytest_plugin`.

Example:
    >>> from gdconv.testing import assert_linear_rate
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gdconv.testing.assertions import assert_confirmed as assert_confirmed
    from gdconv.testing.assertions import assert_descent as assert_descent
    from gdconv.testing.assertions import assert_linear_rate as assert_linear_rate

__all__ = ["assert_confirmed", "assert_descent", "assert_linear_rate"]


def __getattr__(name: str) -> Any:
    if name in __all__:  # imported when it is used: the plugin loads this package in every session
        from gdconv.testing import assertions

        return getattr(assertions, name)
    raise AttributeError(f"module 'gdconv.testing' has no attribute {name!r}")
