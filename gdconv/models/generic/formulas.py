"""Forward pass, gradient and Jacobian of any torch module, one replica after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from gdconv.data.problem import Problem
from gdconv.models.base import Formulas
from gdconv.models.generic.weights import ModuleWeights
from gdconv.models.jets.graph import Graph, known_layers
from gdconv.models.losses.base import Loss


@dataclass(frozen=True)
class ModulePass:
    """A forward pass of R replicas.

    Attributes:
        F: Outputs (R, N, ...).
        loss: Gap l(F) - f*, shape (R,).
        residual: S = grad l(F), of the shape of F; F - y for the squared loss.
    """

    F: Tensor
    loss: Tensor
    residual: Tensor


@dataclass(frozen=True)
class ModuleFormulas(Formulas):
    """F = module(X) under a loss.

    Attributes:
        module: In evaluation mode, float64; its own parameters are not read.
        loss: The loss.
        separate: Whether the outputs of a sample depend on that sample alone; the Jacobian is
            then made of all samples at once.

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

    def outputs(self, X: Tensor, theta: dict[str, Tensor]) -> Tensor:
        """F of one replica.

        Args:
            X: Inputs (N, ...).
            theta: Parameters by name.

        Returns:
            Outputs (N, ...).
        """
        buffers = {
            k: v.to(X.device, X.dtype if v.is_floating_point() else v.dtype)
            for k, v in self.module.named_buffers()
        }
        return functional_call(self.module, {**theta, **buffers}, (X,))

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
        slopes: list[dict[str, Tensor]] = []
        made = []
        for r, (X, theta) in enumerate(replicas(problem, params)):
            moved = {b: theta[b].detach().requires_grad_() for b in params.trained}
            with torch.enable_grad():
                F = self.outputs(X, {**theta, **moved})
            made.append(F.detach())
            y = problem.y[r % len(problem.y)][None]
            S = self.loss.slope(made[-1][None], y)[0] if at is None else at.residual[r]
            found = torch.autograd.grad(F, list(moved.values()), S.to(F.dtype), allow_unused=True)
            slopes.append({b: g for b, g in zip(moved, found, strict=True) if g is not None})
        blocks = params.blocks()
        gradient = {
            b: torch.stack([s.get(b, torch.zeros_like(blocks[b][r])) for r, s in enumerate(slopes)])
            for b in params.trained
        }
        passed = at or self._passed(problem, torch.stack(made))
        return passed, params.with_blocks(gradient)

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
