"""gdconv: verify theorems about gradient descent on transformers by running them.

Everything heavy is imported when it is first used, so that `import gdconv` stays fast.

Example:
    >>> import gdconv
    >>> gdconv.check("full-gd", problem="stacked-witness").verdict_of("stacked")
    'refuted'
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gdconv.catalogue import theorems as theorems
    from gdconv.checks import Check as Check
    from gdconv.checks import check as check
    from gdconv.config import Config as Config
    from gdconv.models.multihead import MultiHeadRegression as MultiHeadRegression
    from gdconv.models.multihead import Parameters as Parameters
    from gdconv.problem import Problem as Problem
    from gdconv.store import load as load

__version__ = "0.1.0"

_HOMES = {
    "Check": "gdconv.checks",
    "Config": "gdconv.config",
    "MultiHeadRegression": "gdconv.models.multihead",
    "Parameters": "gdconv.models.multihead",
    "Problem": "gdconv.problem",
    "check": "gdconv.checks",
    "load": "gdconv.store",
    "theorems": "gdconv.catalogue",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'gdconv' has no attribute {name!r}")
