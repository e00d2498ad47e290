"""Shallow encoder-only transformer with one scalar output, in closed form.

    f(X_i) = tau_1 w_O^T sum_k act(W_V X_i^T beta_ik),
    beta_ik = softmax(tau_0 X_i^(k,:) W_Q^T W_K X_i^T),
    loss = (loss_scale / 2) sum_i (f(X_i) - y_i)^2

Shapes, R the replica axis: X (R, N, n, D), y (R, N, 1, 1), W_Q, W_K, W_V (R, d_m, D), w_O (R, d_m),
all four trained. Relative to the paper our D is its d and our n its d_s. Source: Wu, Liu, Chrysos,
Cevher 2023.

With c = tau_1 sqrt(loss_scale), F_pre = c sum_k act(pre_k) and residual = sqrt(loss_scale)(f - y),
loss = 1/2 |residual|^2 and every formula of the summed loss holds as it stands. Gradients pass
through the D x D matrices W_Q^T W_K and sum_i X_i^T P_i X_i, so nothing larger than the
preactivations (R, N, n, d_m) is formed; `jacobian_sample` goes through queries, keys and values
instead and checks `gradient` during every run. Padded tokens are zero and so are their rows and
columns of S: preactivations are 0 there, act(0) = 0, and sums over tokens hold as they stand.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import torch
from jaxtyping import Float
from torch import Tensor

from gdconv.data.problem import Problem
from gdconv.models.base import Formulas
from gdconv.models.encoder.activations import Activation, activation_named
from gdconv.models.encoder.parameters import BLOCKS, EncoderParameters
from gdconv.models.multihead.attention_kernels import masked_softmax
from gdconv.support.errors import InputError


@dataclass(frozen=True)
class EncoderPass:
    """What a forward pass leaves behind.

    Attributes:
        S: Attention weights; row k of sample i is beta_ik.
        A: Attended tokens S X.
        pre: Preactivations A W_V^T.
        F_pre: Features sqrt(loss_scale) tau_1 sum_k act(pre_k).
        F: Plain outputs f(X_i).
        residual: sqrt(loss_scale) (F - y).
        loss: 1/2 |residual|^2.
    """

    S: Float[Tensor, "R N n n"]
    A: Float[Tensor, "R N n D"]
    pre: Float[Tensor, "R N n m"]
    F_pre: Float[Tensor, "R N m"]
    F: Float[Tensor, "R N"]
    residual: Float[Tensor, "R N"]
    loss: Float[Tensor, " R"]


@dataclass(frozen=True)
class EncoderFormulas(Formulas):
    """The model of Wu et al.

    Attributes:
        tau_0: Factor of the scores, see `scaling`.
        tau_1: Factor of the output, see `default_tau_1`.
        loss_scale: 1 for the summed loss, 1/N for the mean.
        activation: relu, gelu or silu, the last two divided by their largest slope.

    Example:
        >>> from gdconv.models.encoder.parameters import initialize_encoder
        >>> model = EncoderFormulas(tau_0=0.25, tau_1=1.0)
        >>> problem = Problem.per_sample([[[1.0, 2.0, 3.0]], [[3.0, 2.0, 1.0]]], [1.0, 1.0])
        >>> model.forward(problem, initialize_encoder("zero-output", (4, 3), 0)).loss.item()
        1.0
    """

    tau_0: float
    tau_1: float
    loss_scale: float = 1.0
    activation: str = "relu"

    def __post_init__(self) -> None:
        activation_named(self.activation)
        for name in ("tau_0", "tau_1", "loss_scale"):
            value = getattr(self, name)
            if not 0.0 < value < float("inf"):
                raise InputError(name, value, "give a positive number")

    @property
    def act(self) -> Activation:
        """The activation object."""
        return activation_named(self.activation)

    @property
    def scale(self) -> float:
        """c = tau_1 sqrt(loss_scale), the factor in F_pre and in every Jacobian."""
        return self.tau_1 * sqrt(self.loss_scale)

    def forward(self, problem: Problem, params: EncoderParameters) -> EncoderPass:
        """Loss and everything the gradient needs.

        Args:
            problem: Data (R or 1 replicas), y of shape (., N, 1, 1).
            params: Weights (R replicas).

        Returns:
            The forward pass, its loss of shape (R,).

        Raises:
            InputError: The problem does not hold one label per sample.
        """
        X, y = problem.X, problem.y
        if y.shape[2:] != (1, 1):
            raise InputError("y", f"a tensor of shape {tuple(y.shape)}", "give one label a sample")
        S = masked_softmax(self.tau_0 * (X @ _scores(params) @ X.mT), problem.mask)
        A = S @ X
        pre = _tokenwise(A, params.W_V.mT)
        hidden = self.act(pre).sum(2)
        F = self.tau_1 * (hidden @ params.w_O.unsqueeze(2)).squeeze(2)
        residual = sqrt(self.loss_scale) * (F - y[:, :, 0, 0])
        return EncoderPass(
            S, A, pre, self.scale * hidden, F, residual, 0.5 * residual.square().sum(1)
        )

    def output_slopes(self, params: EncoderParameters, at: EncoderPass) -> Float[Tensor, "R N n m"]:
        """d(sqrt(loss_scale) f_i) / d pre_ik = c w_O o act'(pre_ik)."""
        return self.act.slope(at.pre).mul_((self.scale * params.w_O)[:, None, None])

    def score_gradients(
        self, problem: Problem, at: EncoderPass, dA: Float[Tensor, "R N n D"]
    ) -> Float[Tensor, "R N D D"]:
        """Per sample tau_0 X_i^T P_i X_i, the derivative by the matrix W_Q^T W_K.

        P_kj = S_kj <x_j - A_k, dA_k>, from differences, so near tokens lose no digits.

        Args:
            problem: Data.
            at: Forward pass.
            dA: Derivative by the attended tokens.

        Returns:
            One D x D matrix per sample; d/dW_Q = W_K (.)^T and d/dW_K = W_Q (.).
        """
        centred = problem.X.unsqueeze(2) - at.A.unsqueeze(3)  # (R, N, k, j, D)
        P = at.S * (centred @ dA.unsqueeze(4)).squeeze(4)
        return self.tau_0 * (problem.X.mT @ (P @ problem.X))

    def gradient(
        self, problem: Problem, params: EncoderParameters, at: EncoderPass | None = None
    ) -> tuple[EncoderPass, EncoderParameters]:
        """Closed-form gradient of all four blocks.

        With g_ik = residual_i c w_O o act'(pre_ik) and E = tau_0 sum_i X_i^T P_i X_i:
        grad w_O = F_pre^T residual, grad W_V = sum g_ik A_ik^T, grad W_Q = W_K E^T,
        grad W_K = W_Q E.

        Args:
            problem: Data.
            params: Weights.
            at: A forward pass at `params`, if there is one already.

        Returns:
            The forward pass and the gradient.
        """
        at = at or self.forward(problem, params)
        g = self.output_slopes(params, at).mul_(at.residual[:, :, None, None])
        E = self.score_gradients(problem, at, _tokenwise(g, params.W_V)).sum(1)
        return at, EncoderParameters(
            W_Q=params.W_K @ E.mT,
            W_K=params.W_Q @ E,
            W_V=g.flatten(1, 2).mT @ at.A.flatten(1, 2),
            w_O=(at.F_pre.mT @ at.residual.unsqueeze(2)).squeeze(2),
        )

    def features(self, problem: Problem, at: EncoderPass) -> Float[Tensor, "R N m"]:
        """F_pre, which plays the part of B: sqrt(loss_scale) f = F_pre w_O."""
        return at.F_pre

    def tangent(
        self,
        problem: Problem,
        params: EncoderParameters,
        at: EncoderPass,
        direction: EncoderParameters,
        blocks: tuple[str, ...] = BLOCKS,
    ) -> Float[Tensor, "R N"]:
        """J v: derivative of sqrt(loss_scale) f along a direction in weight space.

        The linearised model at theta_0 has residual_0 + tangent(theta - theta_0).

        Args:
            problem: Data.
            params: Weights.
            at: Forward pass at `params`.
            direction: v, of the shapes of the weights.
            blocks: Blocks that move; the others count as zero.

        Returns:
            One number per replica and sample.
        """
        X = problem.X
        M = torch.zeros_like(_scores(params))
        if "W_Q" in blocks:
            M = M + direction.W_Q.mT.unsqueeze(1) @ params.W_K.unsqueeze(1)
        if "W_K" in blocks:
            M = M + params.W_Q.mT.unsqueeze(1) @ direction.W_K.unsqueeze(1)
        Z = self.tau_0 * (X @ M @ X.mT)
        dA = (at.S * (Z - (at.S * Z).sum(-1, keepdim=True))) @ X
        moved = _tokenwise(dA, params.W_V.mT)
        if "W_V" in blocks:
            moved += _tokenwise(at.A, direction.W_V.mT)
        out = moved.mul_(self.output_slopes(params, at)).sum((2, 3))
        if "w_O" in blocks:
            out = out + (at.F_pre @ direction.w_O.unsqueeze(2)).squeeze(2)
        return out

    def jacobian_sample(
        self, problem: Problem, params: EncoderParameters, at: EncoderPass, i: int
    ) -> dict[str, Tensor]:
        """Derivative of sqrt(loss_scale) f(X_i) by every block, by a derivation of its own.

        Args:
            problem: Data.
            params: Weights.
            at: Forward pass at `params`.
            i: Sample.

        Returns:
            W_Q, W_K, W_V of shape (R, d_m, D) and w_O of shape (R, d_m).
        """
        rows = self.jacobian_rows(problem, params, at, slice(i, i + 1))
        return {b: J[:, 0] for b, J in rows.items()}

    def jacobian_rows(
        self, problem: Problem, params: EncoderParameters, at: EncoderPass, rows: slice
    ) -> dict[str, Tensor]:
        """The same for several samples.

        Token by token, with C_kj = tau_0 S_kj (u_kj - ubar_k), u_kj = <c w_O o act'(pre_k), v_j>
        and queries q, keys k, values v: J_Q = sum_k (sum_j C_kj k_j) x_k^T,
        J_K = sum_j (sum_k C_kj q_k) x_j^T. Softmax weights and preactivations are those of `at`.

        Args:
            problem: Data.
            params: Weights.
            at: Forward pass at `params`.
            rows: Which samples, k of them.

        Returns:
            W_Q, W_K, W_V of shape (R, k, d_m, D) and w_O of shape (R, k, d_m).
        """
        x, S, pre = problem.X[:, rows], at.S[:, rows], at.pre[:, rows]
        q, k, v = (x @ getattr(params, b).mT.unsqueeze(1) for b in BLOCKS[:3])
        slope = self.scale * params.w_O[:, None, None] * self.act.slope_again(pre)
        u = slope @ v.mT
        C = self.tau_0 * S * (u - (S * u).sum(-1, keepdim=True))
        return {
            "W_Q": (C @ k).mT @ x,
            "W_K": (C.mT @ q).mT @ x,
            "W_V": slope.mT @ (S @ x),
            "w_O": self.scale * self.act(pre).sum(2),
        }

    def jacobian(
        self, problem: Problem, params: EncoderParameters, blocks: tuple[str, ...] = BLOCKS
    ) -> Float[Tensor, "R N p"]:
        """Dense Jacobian of sqrt(loss_scale) f, for small sizes.

        Args:
            problem: Data.
            params: Weights.
            blocks: Which blocks, in this order.

        Returns:
            Shape (R, N, p).
        """
        at = self.forward(problem, params)
        rows = self.jacobian_rows(problem, params, at, slice(None))
        return torch.cat([rows[b].flatten(2) for b in blocks], dim=2)


def _scores(params: EncoderParameters) -> Float[Tensor, "R 1 D D"]:
    """W_Q^T W_K, with an axis for the samples."""
    return (params.W_Q.mT @ params.W_K).unsqueeze(1)


def _tokenwise(x: Float[Tensor, "R N n a"], W: Float[Tensor, "R a b"]) -> Float[Tensor, "R N n b"]:
    """x W per replica as one product over all tokens: faster than sample by sample."""
    return (x.flatten(1, 2) @ W).unflatten(1, x.shape[1:3])
