"""What a theorem reads at one point of any differentiable model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import inf, isfinite, nan
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gdconv.data.problem import Problem
from gdconv.models.generic.contract import derivative_gap
from gdconv.models.generic.kernel import agreement
from gdconv.models.generic.probes import probe
from gdconv.models.generic.weights import ModuleWeights
from gdconv.models.jets.calculus import Calculus
from gdconv.models.jets.graph import Graph
from gdconv.models.point import Point
from gdconv.models.probes import Probe
from gdconv.rigor.definite import gram_range
from gdconv.rigor.rounding import UNIT, Enclosure
from gdconv.rigor.spectrum import enclose_singular_range
from gdconv.support.trust import Estimate

LARGE = 20_000
"""Entries of J from which its least singular value is asked of J J^T first."""

MOST_DENSE = 300
"""Parameters up to which the Hessian is formed for its greatest eigenvalue."""


@dataclass(frozen=True)
class ModulePoint(Point):
    """One run of a torch module at theta.

    Attributes:
        model: The module with its loss.
        problem: Data, one replica.
        params: Weights, one replica.
        trained: Parameters that gradient descent moves.
        graph: The module's layers, if all are known: they prove M_2 and G.
    """

    model: Any
    problem: Problem
    params: ModuleWeights
    trained: tuple[str, ...]
    graph: Graph | None = None

    @property
    def kernel(self) -> str:
        """None: nothing here knows of attention."""
        return ""

    def probe(self) -> Probe:
        """The probes here."""
        return probe(self.model, self.problem, self.params, self.trained)

    @cached_property
    def J(self) -> np.ndarray:
        """The Jacobian by the trained parameters (m, p), in the directions that slopes can take."""
        J = self.model.jacobian(self.problem, self.params, self.trained)
        found: np.ndarray = self.model.loss.directions(J, self.problem.y)[0].cpu().double().numpy()
        return found

    @cached_property
    def derivative_gap(self) -> tuple[float, float]:
        """How far J is from finite differences along one direction, and what is allowed."""
        return derivative_gap(self.model, self.problem, self.params)

    @cached_property
    def kernel_gap(self) -> tuple[float, float] | None:
        """|K - J J^T|_F of the kernel that the user gives, and what is allowed; None without."""
        if self.model.given is None:
            return None
        theta = {k: v[0].cpu().double() for k, v in self.params.blocks().items()}
        K = self.model.given.at(theta, self.problem.X[0].cpu().double())
        J = self.model.jacobian(self.problem, self.params, self.trained)[0].cpu().double().numpy()
        return agreement(K, J)

    @cached_property
    def J_range(self) -> tuple[Enclosure, Enclosure]:
        """(sigma_m(J), |J|_2) enclosed; sigma_m is 0 with fewer parameters than outputs."""
        if not self.slope_is_finite:
            return Enclosure(0.0, inf), Enclosure(0.0, inf)
        if self.J.size > LARGE and (found := gram_range(self.J)) is not None:
            return found
        return enclose_singular_range(self.J)

    @property
    def slope_is_finite(self) -> bool:
        """Whether float64 holds the Jacobian."""
        return bool(np.isfinite(self.J).all())

    @property
    def flat(self) -> bool:
        """Whether the Jacobian is zero."""
        return not self.J.any()

    @cached_property
    def gap(self) -> Enclosure:
        """F - f* with its error bar."""
        error = self.model.loss.error(self._forward.F, self.problem.y, self._F_error)
        f, bar = self.f_0, float(error[0])
        return Enclosure(max(0.0, f - bar), f + bar)

    @property
    def _F_error(self) -> Tensor:
        return torch.tensor([self.r_error], dtype=torch.float64, device=self.problem.X.device)

    @property
    def pl_constants(self) -> tuple[float, float]:
        """No feature matrix: sigma_m(J) itself is followed at every step, and told at records."""
        return 1.0, 1.0

    def constants(self, rho: float) -> tuple[float, float]:
        """(M_2, G^2) on the ball of radius rho around here; infinite where no layer proves them.

        Args:
            rho: Radius.

        Returns:
            Lipschitz constant of J and upper bound of |J|^2.
        """
        if not rho >= 0:
            return nan, nan
        M, G = self.constants_at(np.array([rho]))
        size = self.J_range[1].hi if rho == 0.0 else inf
        return float(M[0]), min(float(G[0]), size) ** 2

    def constants_at(self, radii: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(M_2, G) for several radii at once.

        Args:
            radii: Shape (k,).

        Returns:
            Two arrays of shape (k,).
        """
        if self.graph is None:
            return np.full(len(radii), inf), np.full(len(radii), inf)
        M, G = self._proved.constants(radii, self.trained)
        return np.asarray(M), np.asarray(G)

    @cached_property
    def _proved(self) -> Calculus:
        assert self.graph is not None
        theta = {k: v[0].cpu().double() for k, v in self.params.blocks().items()}
        return Calculus(self.graph, theta, self.problem.X[0].cpu().double())

    @cached_property
    def sharpness(self) -> Estimate:
        """lambda_max of the Hessian of f: of the dense matrix, or by Lanczos with its residual."""
        from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh  # a tenth of a second

        blocks = {b: self.params.blocks()[b][0] for b in self.trained}
        sizes = [v.numel() for v in blocks.values()]
        others = {b: v[0] for b, v in self.params.blocks().items() if b not in blocks}
        X, y = self.problem.X[0], self.problem.y[:1]

        leaves = {b: v.detach().requires_grad_() for b, v in blocks.items()}
        with torch.enable_grad():
            F = self.model.outputs(X, {**others, **leaves})
            # through the slope: a loss written with |F| has no second derivative at F = 0
            S = self.model.loss.slope(F[None], y)[0]
            if not S.requires_grad:
                return Estimate(nan, nan, "the loss's slope has no derivative")
            slopes = torch.autograd.grad(F, list(leaves.values()), S.to(F.dtype), create_graph=True)
            flat = torch.cat([g.flatten() for g in slopes])

        def times(v: np.ndarray) -> np.ndarray:
            along = torch.as_tensor(v.reshape(-1), dtype=X.dtype, device=X.device)
            found = torch.autograd.grad(
                flat, list(leaves.values()), along, retain_graph=True, materialize_grads=True
            )
            return torch.cat([g.flatten() for g in found]).cpu().double().numpy()

        p = sum(sizes)
        try:
            if p <= MOST_DENSE:
                H = np.stack([times(e) for e in np.eye(p)])
                return Estimate(
                    float(np.linalg.eigvalsh((H + H.T) / 2)[-1]),
                    64 * UNIT * p * float(np.abs(H).max()),
                    "of the Hessian, in float64",
                )
            operator = LinearOperator((p, p), matvec=times, dtype=np.float64)
            (value_,), V = eigsh(
                operator, 1, which="LA", tol=1e-6, v0=np.random.default_rng(0).normal(size=p)
            )
            residual = float(np.linalg.norm(times(V[:, 0]) - value_ * V[:, 0]))
            return Estimate(float(value_), residual, "Lanczos with its residual")
        except (
            RuntimeError,
            ArpackError,
            np.linalg.LinAlgError,
        ):  # no second derivative, or no end
            return Estimate(nan, nan, "no second derivative")

    @property
    def curvature(self) -> float:
        """What the local step is made from: h |J|^2 or, if greater, the sharpness."""
        found = self.sharpness
        h = float(self.model.loss.curvature_at(self._forward.F, self.problem.y)[0])
        size = found.value + found.error
        return max(h * self.J_range[1].hi ** 2, size if isfinite(size) else 0.0)
