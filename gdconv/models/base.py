"""What a model must deliver: `Formulas` its mathematics, `Model` what descent and theorems ask."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from math import inf
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from gdconv.data.problem import Problem
from gdconv.models.point import Point
from gdconv.models.probes import Probe
from gdconv.models.sigma import FeatureFollower, SigmaFollower
from gdconv.models.weights import steepness


@dataclass(frozen=True)
class Bars:
    """What the ledger is told of another loss than the squared one, arrays of shape (R,).

    Attributes:
        error: Absolute error of the gap f - f*.
        slope: |S|, gradient of the loss by the outputs.
        share: |S|^2 / (2 (f - f*)) from below, 1 for the squared loss.
        bend: Greatest curvature of the loss by the outputs.
        riccati: Whether the infimum is not attained and f falls like 1/t.
    """

    error: np.ndarray
    slope: np.ndarray
    share: np.ndarray
    bend: np.ndarray
    riccati: bool


def alone(forward: Any, r: int) -> Any:
    """Replica r of a forward pass, the replica axis stays.

    Args:
        forward: A dataclass of tensors (R, ...), `loss` among them; other fields stay as they are.
        r: Which.

    Returns:
        The same object where there is no other replica.

    Example:
        >>> import torch
        >>> from dataclasses import make_dataclass
        >>> One = make_dataclass("One", ["loss", "S"])
        >>> alone(One(torch.ones(2), torch.eye(2)), 1).S.tolist()
        [[0.0, 1.0]]
    """
    if forward.loss.shape[0] == 1:
        return forward
    parts = {f.name: getattr(forward, f.name) for f in fields(forward)}
    cut = {name: part[r : r + 1] for name, part in parts.items() if isinstance(part, Tensor)}
    return replace(forward, **cut)


class Formulas(ABC):
    """A map from weights to outputs with its loss, in closed form and batched over R replicas.

    Weights are a frozen dataclass of tensors with a leading replica axis; a forward pass has
    `loss` of shape (R,), `residual` of shape (R, ...) and `S`, the attention weights.
    """

    @abstractmethod
    def forward(self, problem: Problem, params: Any) -> Any:
        """Loss and everything the gradient needs."""

    @abstractmethod
    def gradient(self, problem: Problem, params: Any, at: Any = None) -> tuple[Any, Any]:
        """The forward pass and the gradient of the loss, of the class of the weights."""

    @abstractmethod
    def features(self, problem: Problem, at: Any) -> Tensor:
        """The matrix (R, rows, columns) whose sigma_min is followed."""

    @abstractmethod
    def jacobian(self, problem: Problem, params: Any, blocks: tuple[str, ...]) -> Tensor:
        """d residual / d blocks, shape (R, m, p)."""


class Model(Formulas):
    """What descent and theorems ask of a model besides its formulas.

    Attributes:
        name: What `--model` takes.
    """

    name: ClassVar[str]

    @abstractmethod
    def point(self, problem: Problem, params: Any, trained: tuple[str, ...]) -> Point:
        """What a theorem reads at one theta of one replica."""

    @abstractmethod
    def probe(self, problem: Problem, params: Any, trained: tuple[str, ...]) -> Probe:
        """Error bars, and the gradient by a derivation that is not `gradient`'s."""

    def at_step(
        self, problem: Problem, params: Any, trained: tuple[str, ...]
    ) -> tuple[Any, Any, Tensor]:
        """`gradient` and its square (R,); the pass may carry what else a run is asked for."""
        at, grad = self.gradient(problem, params)
        return at, grad, steepness(grad, trained)

    def probe_of(self, problem: Problem, params: Any, trained: tuple[str, ...], at: Any) -> Probe:
        """`probe`, where the pass of a step is there already."""
        return self.probe(problem, params, trained)

    def point_of(
        self, problem: Problem, params: Any, trained: tuple[str, ...], at: Any, r: int
    ) -> Point:
        """`point` of replica r, where the pass of a step is there already."""
        return self.point(problem, params, trained)

    def sigma_follower(
        self, problem: Problem, params: Any, trained: tuple[str, ...] | None = None
    ) -> SigmaFollower | None:
        """Follows sigma_min of the features at every step; Weyl around anchors, for any model.

        Args:
            problem: Data.
            params: Start weights.
            trained: Blocks that move, for a follower of sigma_m(J).

        Returns:
            The follower; None where the rate rests on sigma_m(J) alone, enclosed at some steps.
        """
        return FeatureFollower(self, problem, params.R)

    def bars(self, problem: Problem, at: Any, noise: np.ndarray) -> Bars | None:
        """Errors and PL share of another loss, from a forward pass and the outputs' error (R,).

        Returns:
            What the ledger is told; None for 1/2 |residual|^2.
        """
        return None

    def constants(self, at: Any, rho: float) -> tuple[float, float]:
        """(M_2, G^2) of the trained blocks on the ball of radius rho around a point."""
        return inf, inf

    def tangent_kernel(self, problem: Problem, params: Any, blocks: tuple[str, ...]) -> Tensor:
        """K = J J^T, shape (R, m, m); through the Jacobian where no closed form is given."""
        J = self.jacobian(problem, params, blocks)
        return J @ J.mT

    def kernel_times(
        self, problem: Problem, params: Any, v: Tensor, blocks: tuple[str, ...], at: Any = None
    ) -> Tensor:
        """K v for one vector per replica, shape (R, m); `at` is the forward pass at `params`."""
        J = self.jacobian(problem, params, blocks)
        return (J @ (J.mT @ v.unsqueeze(2))).squeeze(2)
