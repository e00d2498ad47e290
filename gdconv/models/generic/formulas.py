"""Forward pass, gradient and Jacobian of any torch module, one replica after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap

from gdconv.data.problem import Problem
from gdconv.models.base import Formulas
from gdconv.models.generic.factors import MOST_OUTPUTS, Factors, parts_of, signals_of
from gdconv.models.generic.places import Places
from gdconv.models.generic.tape import Tape, Use
from gdconv.models.generic.weights import ModuleWeights
from gdconv.models.jets.graph import Graph, known_layers
from gdconv.models.losses.base import Loss

SMALLEST_SLOPE = 1e-130
"""Slopes by which what comes back can be divided: nothing has underflown on the way."""


@dataclass(frozen=True)
class Kept:
    """One replica's forward pass with its graph.

    Attributes:
        F: Outputs (N, ...).
        leaves: Parameters that the gradient was taken by.
        uses: Products with parameters, for the Jacobian in factors.
        back: What came back to their results with the gradient, S_i times the signals.
    """

    F: Tensor
    leaves: dict[str, Tensor]
    uses: tuple[Use, ...] = ()
    back: Sequence[Tensor] = ()

    def signals(self, S: Tensor) -> list[np.ndarray]:
        """dF_ic / dz_i of the products (N, C, ...); S is the slope of the gradient."""
        if self.back and self.F.numel() == self.F.shape[0]:  # one output per sample: divide by S_i
            s = S.reshape(-1).double().cpu().numpy()
            if np.abs(s).min(initial=np.inf) > SMALLEST_SLOPE:
                return [
                    b.double().cpu().numpy()[:, None] / s.reshape(-1, *[1] * b.ndim)
                    for b in self.back
                ]
        return signals_of(self.F, [use.z for use in self.uses])

    def pulled(self, v: np.ndarray, trained: Sequence[str]) -> tuple[Tensor, ...]:
        """J^T v by parameter.

        Args:
            v: Shape (m,).
            trained: The parameters.

        Returns:
            One tensor each.
        """
        along = torch.as_tensor(v, device="cpu").to(self.F).view_as(self.F)
        return torch.autograd.grad(
            self.F, [self.leaves[b] for b in trained], along, retain_graph=True,
            allow_unused=True, materialize_grads=True,
        )  # fmt: skip


@dataclass(frozen=True)
class ModulePass:
    """A forward pass of R replicas.

    Attributes:
        F: Outputs (R, N, ...).
        loss: Gap l(F) - f*, shape (R,).
        residual: S = grad l(F), of the shape of F; F - y for the squared loss.
        params: The weights it was made at, where a gradient was asked for.
        gradient: Its blocks.
        passes: What is kept of each replica.
    """

    F: Tensor
    loss: Tensor
    residual: Tensor
    params: ModuleWeights | None = None
    gradient: dict[str, Tensor] | None = None
    passes: tuple[Kept, ...] = ()


@dataclass(frozen=True)
class ModuleFormulas(Formulas):
    """F = module(X) under a loss.

    Attributes:
        module: In evaluation mode, float64; its own parameters are not read.
        loss: The loss.
        separate: Whether the outputs of a sample depend on that sample alone; the Jacobian is
            then made of all samples at once.
        layered: Whether factors of products give J, as `in_factors` has found.

    Example:
        >>> from gdconv.models.losses.squared import Squared
        >>> made = ModuleFormulas(nn.Linear(2, 1).double().eval(), Squared())
        >>> problem = Problem.of_samples([[1.0, 2.0]], [[0.0]])
        >>> J = made.jacobian(problem, ModuleWeights.of(made.module), ("weight", "bias"))
        >>> J.tolist()
        [[[1.0, 2.0, 1.0]]]
    """

    module: nn.Module
    loss: Loss
    separate: bool = False
    layered: bool = False

    def outputs(self, X: Tensor, theta: dict[str, Tensor]) -> Tensor:
        """F of one replica.

        Args:
            X: Inputs (N, ...).
            theta: Parameters by name.

        Returns:
            Outputs (N, ...).
        """
        with self._places.holding(theta, X):
            made: Tensor = self.module(X)
        return made

    @cached_property
    def _places(self) -> Places:
        return Places.of(self.module)

    def layers(self, problem: Problem) -> tuple[Graph | None, str]:
        """The layers of the module on these data, and which one is unknown, "" where none is."""
        if not self.separate:
            return None, "it: outputs of one sample depend on the others"
        found = known_layers(self.module, problem.X[0])
        return (found, "") if isinstance(found, Graph) else (None, str(found))

    def forward(self, problem: Problem, params: ModuleWeights) -> ModulePass:
        """Outputs and loss."""
        with torch.no_grad():
            made = [self.outputs(X, theta) for X, theta in replicas(problem, params)]
        return self._passed(problem, torch.stack(made))

    def _passed(self, problem: Problem, F: Tensor) -> ModulePass:
        y = problem.y
        return ModulePass(F, self.loss.value(F, y).to(F.dtype), self.loss.slope(F, y))

    def gradient(
        self, problem: Problem, params: ModuleWeights, at: ModulePass | None = None
    ) -> tuple[ModulePass, ModuleWeights]:
        """One backward pass per replica, from S of `at` or of this forward pass."""
        # what `differentiable` made at these very weights is not made again
        there = at is not None and at.params is params and len(at.passes) == params.R
        made = at if there and at is not None else self.differentiable(problem, params)
        passed = made if at is None else replace(at, params=params, passes=made.passes)
        passes, slopes = [], []
        for r, one in enumerate(made.passes):
            S = passed.residual[r]
            zs, leaves = [use.z for use in one.uses], list(one.leaves.values())
            found = torch.autograd.grad(
                one.F, leaves + zs, S.to(one.F.dtype), retain_graph=True, allow_unused=True,
                materialize_grads=True,
            )  # fmt: skip
            slopes.append(found[: len(leaves)])
            passes.append(replace(one, back=found[len(leaves) :]))
        by_block = zip(*slopes, strict=True)
        gradient = {b: _stacked(g) for b, g in zip(params.trained, by_block, strict=True)}
        passed = replace(passed, gradient=gradient, passes=tuple(passes))
        return passed, params.with_blocks(gradient)

    def differentiable(self, problem: Problem, params: ModuleWeights) -> ModulePass:
        """The forward pass with its graph, and the products with its parameters.

        Args:
            problem: Data.
            params: Weights.

        Returns:
            The pass, without a gradient.
        """
        passes = []
        for X, theta in replicas(problem, params):
            leaves = {b: theta[b].detach().requires_grad_() for b in params.trained}
            with torch.enable_grad():
                if self.separate and self.layered:
                    with Tape(leaves) as tape:
                        F = self.outputs(X, {**theta, **leaves})
                    N = F.shape[0]
                    few = F.numel() <= MOST_OUTPUTS * N
                    passes.append(Kept(F, leaves, tape.understood(N) if few else ()))
                else:
                    passes.append(Kept(self.outputs(X, {**theta, **leaves}), leaves))
        passed = self._passed(problem, _stacked([one.F.detach() for one in passes]))
        return replace(passed, params=params, passes=tuple(passes))

    def factors(
        self, problem: Problem, at: ModulePass, r: int, trained: tuple[str, ...]
    ) -> Factors | None:
        """The Jacobian of one replica in factors.

        Args:
            problem: Data.
            at: A pass of `gradient`.
            r: The replica.
            trained: Blocks.

        Returns:
            The factors; None where no parameter is understood.
        """
        if not at.passes or at.params is None:
            return None
        kept = at.passes[r]
        if not kept.uses or set(trained) != set(kept.leaves) or not kept.F.requires_grad:
            return None
        parts = parts_of(kept.uses, kept.signals(at.residual[r]))
        covered = {name for p in parts for name in (p.weight, p.bias)}
        others = tuple(b for b in trained if b not in covered)
        rest = {}
        if others:
            J = self.jacobian(problem[r if problem.R > 1 else 0], at.params[r], others)[0]
            sizes = [at.params.blocks()[b][0].numel() for b in others]
            rest = {
                b: part.cpu().double().numpy()
                for b, part in zip(others, J.split(sizes, 1), strict=True)
            }
        return Factors(parts, rest, kept.F.numel())

    def features(self, problem: Problem, at: ModulePass) -> Tensor:
        """None: what is followed is the Jacobian itself, at enclosures."""
        raise NotImplementedError

    def jacobian(self, problem: Problem, params: ModuleWeights, blocks: tuple[str, ...]) -> Tensor:
        """d F / d blocks (R, m, p), outputs and parameters flattened in their order."""
        return torch.stack([
            self._one(X, {b: theta[b] for b in blocks}, theta)
            for X, theta in replicas(problem, params)
        ])

    def _one(self, X: Tensor, moved: dict[str, Tensor], theta: dict[str, Tensor]) -> Tensor:
        def of_sample(t: dict[str, Tensor], x: Tensor) -> Tensor:
            return self.outputs(x[None], {**theta, **t})[0]

        def of_all(t: dict[str, Tensor]) -> Tensor:
            return self.outputs(X, {**theta, **t})

        try:
            J = (
                vmap(jacrev(of_sample), (None, 0))(moved, X)
                if self.separate
                else jacrev(of_all)(moved)
            )
            parts = [J[b].detach() for b in moved]
        except RuntimeError:  # what vmap does not know is done output by output
            return _row_by_row(of_all, moved)
        return torch.cat(
            [
                J.flatten(-theta[b].ndim).flatten(0, -2) if theta[b].ndim else J.reshape(-1, 1)
                for b, J in zip(moved, parts, strict=True)
            ],
            1,
        )


def replicas(problem: Problem, params: ModuleWeights) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """Inputs and parameters of each replica.

    Args:
        problem: Data, R replicas or one.
        params: Weights, R replicas.

    Returns:
        Pairs (X, parameters by name).
    """
    X, blocks = problem.X, params.blocks()
    return [(X[r % len(X)], {b: v[r] for b, v in blocks.items()}) for r in range(params.R)]


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """Replicas side by side; a view where there is one."""
    return tensors[0][None] if len(tensors) == 1 else torch.stack(list(tensors))


def _row_by_row(of_all: Callable[[dict[str, Tensor]], Tensor], moved: dict[str, Tensor]) -> Tensor:
    leaves = {b: v.detach().requires_grad_() for b, v in moved.items()}
    with torch.enable_grad():
        F = of_all(leaves).flatten()
    rows = []
    for i in range(len(F)):
        found = torch.autograd.grad(
            F[i], list(leaves.values()), retain_graph=True, allow_unused=True
        )
        rows.append(
            torch.cat([
                (torch.zeros_like(v) if g is None else g).flatten()
                for g, v in zip(found, leaves.values(), strict=True)
            ])
        )
    return torch.stack(rows)
