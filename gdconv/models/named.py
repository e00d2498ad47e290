"""A problem with its weights, fixed exactly."""

from __future__ import annotations

from typing import Any, NamedTuple

from gdconv.data.problem import Problem


class Named(NamedTuple):
    """A problem with its weights and the options under which it makes its point, by theorem id."""

    problem: Problem
    params: Any
    options: dict[str, dict[str, Any]]

    def options_for(self, theorem: str) -> dict[str, Any]:
        """The options suggested for a theorem: those for all ("*"), then its own."""
        return {**self.options.get("*", {}), **self.options.get(theorem, {})}
