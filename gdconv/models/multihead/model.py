"""One-layer multi-head attention regression, in closed form.

    F = sum_h S_h X W_V,h W_O,h,   B^(h) = stack_i S_ih X_i,   B = [B^(1) ... B^(H)],
    f = 1/2 |F - y|_F^2

Shapes, R the replica axis: X (R, N, n, D), y (R, N, n, D_y), W_Q, W_K, W_V (R, H, D, d),
W_O (R, H, d, D_y) fixed, S (R, H, N, n, n), B (R, N n, H D). Output index (i, k, a) is flattened in
that order: m = N n D_y. Source: Song et al. 2024, section 2. Relative to the paper our D is its
embedding dimension. The gradients and the Jacobian are two separate derivations; `jacobian_head`
checks `gradient` during every run (gdconv.models.multihead.probes).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gdconv.data.problem import Problem, real_array
from gdconv.models.multihead.attention_kernels import Kernel
from gdconv.support.errors import InputError

BLOCKS = ("W_Q", "W_K", "W_V")
"""The trainable blocks, in the order used everywhere."""


@dataclass(frozen=True)
class Parameters:
    """Weights of the model with a leading replica axis.

    Attributes:
        W_Q: Query weights (R, H, D, d).
        W_K: Key weights (R, H, D, d).
        W_V: Value weights (R, H, D, d).
        W_O: Output weights (R, H, d, D_y), never trained.

    Example:
        >>> z = torch.zeros(1, 2, 3, 4, dtype=torch.float64)
        >>> Parameters(z, z, z, torch.ones(1, 2, 4, 1, dtype=torch.float64)).H
        2
    """

    W_Q: Float[Tensor, "R H D d"]
    W_K: Float[Tensor, "R H D d"]
    W_V: Float[Tensor, "R H D d"]
    W_O: Float[Tensor, "R H d o"]

    @property
    def H(self) -> int:
        """Number of heads."""
        return self.W_Q.shape[1]

    def __getitem__(self, r: int | list[int]) -> Parameters:
        """Replica r (or replicas r) as Parameters; the replica axis stays."""
        index = [r] if isinstance(r, int) else r
        return Parameters(*(getattr(self, f.name)[index] for f in fields(self)))

    def to(self, device: str | torch.device, dtype: torch.dtype) -> Parameters:
        """The same weights on another device or in another dtype."""
        return Parameters(*(getattr(self, f.name).to(device, dtype) for f in fields(self)))

    def numpy(self) -> dict[str, np.ndarray]:
        """Float64 numpy copies by name, replica axis included."""
        return {
            f.name: getattr(self, f.name).detach().cpu().double().numpy().copy()
            for f in fields(self)
        }

    @staticmethod
    def stack(runs: list[Parameters]) -> Parameters:
        """Concatenate along the replica axis."""
        return Parameters(
            *(torch.cat([getattr(p, f.name) for p in runs]) for f in fields(Parameters))
        )

    @staticmethod
    def from_arrays(arrays: dict[str, np.ndarray]) -> Parameters:
        """Weights from numpy arrays (H, D, d) or (R, H, D, d) named W_Q, W_K, W_V, W_O.

        Args:
            arrays: The four arrays by name.

        Returns:
            The weights in float64.

        Raises:
            InputError: A block is missing, empty, no finite real numbers, or of a wrong shape.

        Example:
            >>> Parameters.from_arrays({"W_Q": np.ones((0, 2, 2))})
            Traceback (most recent call last):
            gdconv.support.errors.InputError: W_Q = array of shape (0, 2, 2): give at least one
            entry along every axis.
        """
        made = {}
        for name in (*BLOCKS, "W_O"):
            if name not in arrays:
                raise InputError(name, "missing", "give all of W_Q, W_K, W_V and W_O")
            array, _ = real_array(name, arrays[name])
            shown = f"array of shape {array.shape}"
            if array.ndim not in (3, 4):
                raise InputError(name, shown, "give shape (H, rows, columns)")
            if not array.size:
                raise InputError(name, shown, "give at least one entry along every axis")
            made[name] = torch.from_numpy(array if array.ndim == 4 else array[None])
        shape, out = made["W_Q"].shape, made["W_O"].shape
        if any(made[b].shape != shape for b in BLOCKS) or out[:3] != (shape[0], shape[1], shape[3]):
            raise InputError(
                "weights",
                {k: tuple(v.shape) for k, v in made.items()},
                "give W_Q, W_K, W_V of one shape (H, D, d) and W_O of shape (H, d, D_y)",
            )
        return Parameters(**made)


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
class MultiHeadRegression:
    """The model of Song et al. with one attention kernel.

    Attributes:
        kernel: Attention kernel.

    Example:
        >>> from gdconv.models.multihead.attention_kernels import kernel_named
        >>> model = MultiHeadRegression(kernel_named("softmax"))
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
        S = self.kernel.weights(q, k)
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
        """B = [B^(1) ... B^(H)], rows (i, k), shape (R, N n, H D)."""
        B = at.S @ problem.X.unsqueeze(1)
        R, H, N, n, D = B.shape
        return B.permute(0, 2, 3, 1, 4).reshape(R, N * n, H * D)

    def jacobian_head(
        self, problem: Problem, params: Parameters, at: Forward, h: int
    ) -> dict[str, Float[Tensor, "R m D d"]]:
        """Jacobian of F with respect to the three blocks of head h.

        J_V = (S X)_k tensor W_O[:, a]; J_Q = x_k tensor query tangent; J_K = key tangent.

        Args:
            problem: Data.
            params: Weights.
            at: Forward pass at `params`.
            h: Head.

        Returns:
            Blocks by name, each (R, m, D, d) with m = N n D_y.
        """
        X = problem.X
        S, q, k, v = at.S[:, h], at.q[:, h], at.k[:, h], at.u[:, h]
        M = self.kernel.query_tangent(S, q, k, v)
        J_Q = torch.einsum("rikD,rikad->rikaDd", X.expand(S.shape[0], -1, -1, -1), M)
        J_K = self.kernel.key_tangent(S, q, k, v, X)
        J_V = torch.einsum("rikD,rda->rikaDd", S @ X, params.W_O[:, h])
        shape = (S.shape[0], -1, X.shape[-1], q.shape[-1])
        return {"W_Q": J_Q.reshape(shape), "W_K": J_K.reshape(shape), "W_V": J_V.reshape(shape)}

    def jacobian_heads(
        self, problem: Problem, params: Parameters, at: Forward
    ) -> Iterator[dict[str, Float[Tensor, "R m D d"]]]:
        """`jacobian_head` for h = 0 .. H-1, one at a time: never the whole Jacobian."""
        return (self.jacobian_head(problem, params, at, h) for h in range(params.H))

    def jacobian(
        self, problem: Problem, params: Parameters, blocks: tuple[str, ...] = BLOCKS
    ) -> Float[Tensor, "R m p"]:
        """J = [J_Q J_K J_V] over all heads, shape (R, m, p), p = |blocks| H D d.

        Args:
            problem: Data.
            params: Weights.
            blocks: Which blocks, in this order.

        Returns:
            The dense Jacobian.
        """
        at = self.forward(problem, params)
        heads = list(self.jacobian_heads(problem, params, at))
        return torch.cat([head[b].flatten(2) for b in blocks for head in heads], dim=2)
