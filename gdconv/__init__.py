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
    from gdconv.checks.result import Check as Check
    from gdconv.checks.result import load as load
    from gdconv.checks.run import check as check
    from gdconv.data.problem import Problem as Problem
    from gdconv.models.multihead.model import MultiHeadRegression as MultiHeadRegression
    from gdconv.models.multihead.parameters import Parameters as Parameters
    from gdconv.monitoring.monitor import Monitor as Monitor
    from gdconv.support.config import Config as Config
    from gdconv.theory.catalogue import theorems as theorems

__version__ = "0.1.0"

_HOMES = {
    "Check": "gdconv.checks.run",
    "Config": "gdconv.support.config",
    "Monitor": "gdconv.monitoring.monitor",
    "MultiHeadRegression": "gdconv.models.multihead.model",
    "Parameters": "gdconv.models.multihead.parameters",
    "Problem": "gdconv.data.problem",
    "check": "gdconv.checks.run",
    "load": "gdconv.checks.result",
    "theorems": "gdconv.theory.catalogue",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'gdconv' has no attribute {name!r}")
