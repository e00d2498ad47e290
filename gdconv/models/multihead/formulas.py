"""One-layer multi-head attention regression, in closed form.

    F = sum_h S_h X W_V,h W_O,h,   B^(h) = stack_i S_ih X_i,   B = [B^(1) ... B^(H)],
    f = 1/2 |F - y|_F^2

Shapes, R the replica axis: X (R, N, n, D), y (R, N, n, D_y), W_Q, W_K, W_V (R, H, D, d),
W_O (R, H, d, D_y) fixed, S (R, H, N, n, n), B (R, N n, H D). Output index (i, k, a) is flattened in
that order: m = N n D_y. Padded tokens are zero in X, y, S, F and the residual, so sums over tokens
hold as they stand; B and J have rows of real tokens only, N n standing for their number. Source:
Song et al. 2024, section 2. Relative to the paper our D is its embedding dimension. The gradients
and the Jacobian are two separate derivations; `jacobian_heads` checks `gradient` during every run
(gdconv.models.multihead.probes).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from gdconv.data.problem import Problem
from gdconv.models.base import Formulas
from gdconv.models.multihead.attention_kernels import Kernel
from gdconv.models.multihead.parameters import BLOCKS, Parameters


@dataclass(frozen=True)
class Forward:
    """What a forward pass leaves behind: S, q, k (R, H, N, n, .), values u = X W_V W_O, F, loss."""

    q: Float[Tensor, "R H N n d"]
    k: Float[Tensor, "R H N n d"]
    S: Float[Tensor, "R H N n n"]
    u: Float[Tensor, "R H N n o"]
    F: Float[Tensor, "R N n o"]
    residual: Float[Tensor, "R N n o"]
    loss: Float[Tensor, " R"]


@dataclass(frozen=True)
class MultiHeadFormulas(Formulas):
    """The model of Song et al. with one attention kernel.

    Attributes:
        kernel: Attention kernel.

    Example:
        >>> from gdconv.models.multihead.attention_kernels import kernel_named
        >>> model = MultiHeadFormulas(kernel_named("softmax"))
        >>> X = torch.eye(2, dtype=torch.float64)[None, None]
        >>> problem = Problem.from_arrays(X[0].numpy(), torch.ones(1, 2).numpy())
        >>> z = torch.zeros(1, 1, 2, 1, dtype=torch.float64)
        >>> model.forward(problem, Parameters(z, z, z, torch.ones(1, 1, 1, 1).double())).loss.item()
        1.0
    """

    kernel: Kernel

    def forward(self, problem: Problem, params: Parameters) -> Forward:
        """Loss and everything the gradient needs.

        Args:
            problem: Data (R or 1 replicas).
            params: Weights (R replicas).

        Returns:
            The forward pass, loss f = 1/2 |F - y|^2 of shape (R,).
        """
        X = problem.X.unsqueeze(1)
        q = X @ params.W_Q.unsqueeze(2)
        k = X @ params.W_K.unsqueeze(2)
        S = self.kernel.weights(q, k, problem.mask)
        u = X @ (params.W_V @ params.W_O).unsqueeze(2)
        F = (S @ u).sum(1)
        residual = F - problem.y
        return Forward(q, k, S, u, F, residual, 0.5 * residual.square().sum((1, 2, 3)))

    def gradient(
        self, problem: Problem, params: Parameters, at: Forward | None = None
    ) -> tuple[Forward, Parameters]:
        """Closed-form gradient of all three blocks.

        grad W_V,h = B^(h)^T R W_O,h^T; grad W_Q, W_K from the kernel's pullback of
        G_ih = R_i W_O,h^T W_V,h^T X_i^T.

        Args:
            problem: Data.
            params: Weights.
            at: A forward pass at `params`, if there is one already.

        Returns:
            The forward pass and the gradient, its W_O block zero.
        """
        at = at or self.forward(problem, params)
        X, residual = problem.X.unsqueeze(1), at.residual.unsqueeze(1)
        G = residual @ at.u.mT
        dq, dk = self.kernel.pullback(at.S, at.q, at.k, G)
        mixed = (X.mT @ (at.S.mT @ residual)).sum(2)
        grad = replace(
            params,
            W_Q=(X.mT @ dq).sum(2),
            W_K=(X.mT @ dk).sum(2),
            W_V=mixed @ params.W_O.mT,
            W_O=torch.zeros_like(params.W_O),
        )
        return at, grad

    def features(self, problem: Problem, at: Forward) -> Float[Tensor, "R T HD"]:
        """B = [B^(1) ... B^(H)], rows (i, k) of real tokens, shape (R, N n, H D)."""
        B = at.S @ problem.X.unsqueeze(1)
        return problem.rows(B.permute(0, 2, 3, 1, 4)).flatten(2)

    def jacobian_heads(
        self, problem: Problem, params: Parameters, at: Forward
    ) -> Iterator[dict[str, Float[Tensor, "R m D d"]]]:
        """Jacobian of F by the blocks of head h = 0 .. H-1, one at a time: never the whole one.

        J_V = (S X)_k tensor W_O[:, a]; J_Q = x_k tensor query tangent; J_K = key tangent.

        Args:
            problem: Data.
            params: Weights.
            at: Forward pass at `params`.

        Yields:
            Blocks by name, each (R, m, D, d) with m = N n D_y; rows of padded tokens are zero.
        """
        tokens = problem.X.expand(params.R, -1, -1, -1)
        for h in range(params.H):
            one = (x[:, h] for x in (at.S, at.q, at.k, at.u, params.W_O))
            yield self._by_blocks(tokens, *one)

    def _by_blocks(
        self, X: Tensor, S: Tensor, q: Tensor, k: Tensor, v: Tensor, W_O: Tensor
    ) -> dict[str, Tensor]:
        """Jacobian of one head or, with an axis for them before N, of all, (..., m, D, d)."""
        blocks = {
            "W_Q": X[..., None, :, None] * self.kernel.query_tangent(S, q, k, v).unsqueeze(-2),
            "W_K": self.kernel.key_tangent(S, q, k, v, X),
            "W_V": (S @ X)[..., None, :, None] * W_O.mT[..., None, None, :, None, :],
        }
        return {name: J.flatten(-5, -3) for name, J in blocks.items()}

    def jacobian(
        self, problem: Problem, params: Parameters, blocks: tuple[str, ...] = BLOCKS
    ) -> Float[Tensor, "R m p"]:
        """J = [J_Q J_K J_V] over all heads, shape (R, m, p), p = |blocks| H D d.

        Padded tokens have no rows: m = D_y times the number of real ones.

        Args:
            problem: Data.
            params: Weights.
            blocks: Which blocks, in this order.

        Returns:
            The dense Jacobian.
        """
        at = self.forward(problem, params)
        tokens = problem.X.expand(params.R, -1, -1, -1).unsqueeze(1)
        made = self._by_blocks(tokens, at.S, at.q, at.k, at.u, params.W_O)  # (R, H, m, D, d)
        J = torch.cat([made[b].transpose(1, 2).flatten(2) for b in blocks], dim=2)
        if problem.mask is None:
            return J
        return problem.rows(J.unflatten(1, (problem.N, problem.n, -1))).flatten(1, 2)
