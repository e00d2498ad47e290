"""pytest plugin: the fixture `gdconv_check` and the marker `gdconv(theorem, **options)`.

Loaded in every pytest session of a user who has gdconv installed, so it imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from gdconv.checks.result import Check

_CHECKS = pytest.StashKey[dict[tuple[str, str], Any]]()


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker and the session's cache.

    Args:
        config: pytest's configuration.

    Example:
        >>> pytest_configure.__name__
        'pytest_configure'
    """
    config.stash[_CHECKS] = {}
    config.addinivalue_line(
        "markers",
        "gdconv(theorem, confirm=True, **options): theorem and options of the fixture "
        "gdconv_check; with confirm the test fails in set-up unless the check is confirmed.",
    )


@pytest.fixture
def gdconv_check(request: pytest.FixtureRequest) -> Callable[..., Check] | Check:
    """The finished check of the marker; without a marker a function that runs checks.

    The function's arguments are (theorem, confirm=False, **options).
    A check with equal theorem and options runs once per session.

    Args:
        request: pytest's request.

    Returns:
        A `Check`, or a function that gives one.

    Example:
        >>> gdconv_check.__name__
        'gdconv_check'
    """
    checks = request.config.stash[_CHECKS]

    def run(theorem: str, confirm: bool = False, **options: Any) -> Check:
        import gdconv
        from gdconv.testing import assert_confirmed

        key = (theorem, repr(sorted(options.items())))
        if key not in checks:
            checks[key] = gdconv.check(theorem, **options)
        if confirm:
            assert_confirmed(checks[key])
        return checks[key]

    marker = request.node.get_closest_marker("gdconv")
    if marker is None:
        return run
    if len(marker.args) != 1:
        pytest.fail(
            "the marker reads gdconv(theorem, **options) with one theorem id", pytrace=False
        )
    options = {"confirm": True} | marker.kwargs
    return run(marker.args[0], **options)
