"""sigma_min(B_t) of a batched run from its attention weights, by the compiled tracker."""

from __future__ import annotations

from typing import Any

import numpy as np

from gdconv.compiled.sigma_tracker import new_tracker, track
from gdconv.compiled.simd import padded
from gdconv.data.problem import Problem
from gdconv.models.sigma import TOLERANCE, SigmaFollower


class AttentionFollower(SigmaFollower):
    """sigma_min(B_t) from the attention weights alone.

    Args:
        problem: Data.
        R: Replicas.
        H: Heads.
    """

    def __init__(self, problem: Problem, R: int, H: int) -> None:
        assert problem.mask is None  # its layout has no rows to leave out: see the model
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
