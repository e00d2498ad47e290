"""Watch: what a theorem follows at every step besides the loss, such as the tangent kernel."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any


class Watch(ABC):
    """Follows R runs; made by `plan.watch(model, problem, params, plan)` at the start."""

    @abstractmethod
    def observe(self, replicas: list[int], params: Any, forward: Any) -> None:
        """Take in the iterate theta_t of these replicas, once per step, step 0 included."""

    @abstractmethod
    def record(self, r: int, params: Any, here: Any = None, ledger: Any = None) -> dict[str, float]:
        """Columns of replica r for the trace, asked at recorded steps.

        Args:
            r: Which replica.
            params: Weights of all replicas.
            here: The replica's point, if there is one already.
            ledger: Its ledger with the probes of this record, if there is one.

        Returns:
            Numbers by column.
        """

    @abstractmethod
    def result(self, r: int) -> dict[str, float]:
        """What the statements read of replica r when the run has ended."""
