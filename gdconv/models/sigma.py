"""sigma_min of the features at every step of a batched run: one follower per model and run.

Any model: Weyl's |sigma_min(F_t) - sigma_min(F_s)| <= |F_t - F_s| around an enclosed anchor F_s,
with a new anchor where that gets wider than asked. A model may bring its own follower.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from gdconv.rigor.rounding import fro_up, up
from gdconv.rigor.spectrum import enclose_sigma_min

TOLERANCE = 0.01
"""Relative width that the enclosures are kept to, where arithmetic allows it."""


class SigmaFollower(ABC):
    """Follows sigma_min of all replicas.

    Attributes:
        jacobian: Whether it is sigma_m(J) that is followed, and not the features.
    """

    jacobian = False

    @abstractmethod
    def at(self, forward: Any, replicas: list[int]) -> list[tuple[float, float]]:
        """Enclosures (lo, hi) at the next step of these replicas."""


class FeatureFollower(SigmaFollower):
    """sigma_min of the rows of any feature matrix, by Weyl around anchors.

    Args:
        model: Has `features`.
        problem: Data.
        R: Replicas.

    Example:
        >>> from types import SimpleNamespace
        >>> import torch
        >>> model = SimpleNamespace(features=lambda problem, at: at)
        >>> follows = FeatureFollower(model, None, 1)
        >>> lo, hi = follows.at(torch.eye(2, dtype=torch.float64)[None], [0])[0]
        >>> lo <= 1.0 <= hi
        True
    """

    def __init__(self, model: Any, problem: Any, R: int) -> None:
        self.model, self.problem = model, problem
        self.anchors: list[tuple[np.ndarray, float, float] | None] = [None] * R

    def at(self, forward: Any, replicas: list[int]) -> list[tuple[float, float]]:
        """Weyl, or a new anchor."""
        features = self.model.features(self.problem, forward).detach().cpu().double().numpy()
        return [self._one(features[r], r) for r in replicas]

    def _one(self, F: np.ndarray, r: int) -> tuple[float, float]:
        if not np.isfinite(F).all():
            return 0.0, float("inf")
        if (anchor := self.anchors[r]) is not None:
            base, least, most = anchor
            drift = up(fro_up(F - base) * (1 + 1e-15))  # entries of the difference are rounded
            lo, hi = max(0.0, least - drift), up(most + drift)
            if hi - lo <= TOLERANCE * lo:
                return lo, hi
        fresh = enclose_sigma_min(F)
        self.anchors[r] = (F.copy(), fresh.lo, fresh.hi)
        return fresh.lo, fresh.hi
