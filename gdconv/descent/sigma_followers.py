"""sigma_min of the features at every step of a batched run: one follower per replica and model.

Multi-head model: the compiled tracker of sigma_min(B_t) (`gdconv.compiled.sigma_tracker`). Any
other model: Weyl's |sigma_min(F_t) - sigma_min(F_s)| <= |F_t - F_s| around an enclosed anchor F_s,
with a new anchor where that gets wider than asked.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import singledispatch
from typing import Any

import numpy as np

from gdconv.compiled.sigma_tracker import new_tracker, track
from gdconv.compiled.simd import padded
from gdconv.data.problem import Problem
from gdconv.models.multihead.model import MultiHeadRegression
from gdconv.rigor.rounding import fro_up, up
from gdconv.rigor.spectrum import enclose_sigma_min

TOLERANCE = 0.01
"""Relative width that the enclosures are kept to, where arithmetic allows it."""


class SigmaFollower(ABC):
    """Follows sigma_min of all replicas."""

    @abstractmethod
    def at(self, forward: Any, replicas: list[int]) -> list[tuple[float, float]]:
        """Enclosures (lo, hi) at the next step of these replicas."""


@singledispatch
def follower(model: Any, problem: Problem, params: Any) -> SigmaFollower:
    """The follower that suits a model.

    Args:
        model: The model; its `features` are followed.
        problem: Data.
        params: Start weights.

    Returns:
        A fresh follower.
    """
    return FeatureFollower(model, problem, len(params.W_Q))


@follower.register
def _(model: MultiHeadRegression, problem: Problem, params: Any) -> SigmaFollower:
    return AttentionFollower(problem, *params.W_Q.shape[:2])


class AttentionFollower(SigmaFollower):
    """sigma_min(B_t) from the attention weights alone.

    Args:
        problem: Data.
        R: Replicas.
        H: Heads.
    """

    def __init__(self, problem: Problem, R: int, H: int) -> None:
        X = problem.X.detach().cpu().double().numpy()
        self.trackers = [new_tracker(X[r % len(X)], H, TOLERANCE, True) for r in range(R)]
        N, n = X.shape[1:3]
        self.lanes = np.zeros((H, n, n, padded(N)))  # the tracker's layout: samples last, padded

    def at(self, forward: Any, replicas: list[int]) -> list[tuple[float, float]]:
        """One copy of the attention weights for all replicas, then the compiled tracker."""
        S = forward.S.detach().cpu().double().numpy()
        found = []
        for r in replicas:
            self.lanes[..., : S.shape[2]] = S[r].transpose(0, 2, 3, 1)
            found.append(track(self.trackers[r], self.lanes.reshape(-1)))
        return found


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
