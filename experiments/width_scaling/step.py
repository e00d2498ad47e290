"""One step of gradient descent on the ReLU encoder in place, a block of neurons at a time.

`ShallowEncoder.gradient` holds preactivations of N n d_m numbers and reads them several times; here
a block of `WIDTH` neurons stays in the cache and only the features, N d_m numbers, are kept:

    pass 1   pre = A W_V^T, features, f and dA_i / residual_i
    pass 2   pre again, grad W_V = sum_ik residual_i c w_O o 1(pre_ik > 0) A_ik^T

four products of N n x D by D x d_m. Same formulas, other order of summation.
"""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor

from gdconv.data.problem import Problem
from gdconv.models.encoder.formulas import EncoderPass
from gdconv.models.encoder.model import ShallowEncoder
from gdconv.models.encoder.parameters import EncoderParameters

WIDTH = 512
"""Neurons treated at once."""


class Descent:
    """Gradient descent of one ReLU encoder; overwrites the weights.

    Args:
        model: The model, activation relu.
        problem: Data, one replica.
        params: Weights, one replica; changed in place.

    Example:
        >>> from gdconv.models.encoder.parameters import initialize_encoder
        >>> problem = Problem.per_sample([[[1.0, 2.0]], [[3.0, 1.0]]], [1.0, 0.0])
        >>> model, params = ShallowEncoder(0.1, 1.0), initialize_encoder("lecun", (8, 2), 0)
        >>> expected = params.W_V - 0.1 * model.gradient(problem, params)[1].W_V
        >>> run = Descent(model, problem, params)
        >>> residual = run.look()
        >>> run.move(0.1)
        >>> torch.allclose(params.W_V, expected, rtol=1e-13)
        True
    """

    def __init__(self, model: ShallowEncoder, problem: Problem, params: EncoderParameters) -> None:
        self.model, self.problem, self.params = model, problem, params
        d_m, rows = params.d_m, problem.N * problem.n
        self.cuts = [slice(j, min(j + WIDTH, d_m)) for j in range(0, d_m, WIDTH)]
        self.hidden = problem.X.new_empty(problem.N, d_m)
        self.pre = problem.X.new_empty(rows * min(WIDTH, d_m))

    def _preactivations(self, A: Tensor, cut: slice) -> Tensor:
        W = self.params.W_V[0, cut]
        out = self.pre[: len(A) * len(W)].view(len(A), len(W))
        return torch.mm(A, W.mT, out=out)

    def look(self) -> Tensor:
        """The forward pass at the present weights.

        Returns:
            The residual, (N,).
        """
        model, p, X = self.model, self.params, self.problem.X[0]
        S = torch.softmax(model.tau_0 * (X @ (p.W_Q[0].mT @ p.W_K[0]) @ X.mT), dim=-1)
        A = (S @ X).flatten(0, 1)
        dA = torch.zeros_like(A)
        f = X.new_zeros(len(X))
        for cut in self.cuts:
            pre, w = self._preactivations(A, cut), model.scale * p.w_O[0, cut]
            on = (pre > 0).to(pre.dtype)
            hidden = self.hidden[:, cut]
            torch.sum(pre.mul_(on).view(len(X), -1, len(w)), dim=1, out=hidden)
            f += hidden @ w
            dA.addmm_(on.mul_(w), p.W_V[0, cut])
        self.residual = f - sqrt(model.loss_scale) * self.problem.y[0, :, 0, 0]
        self.seen = S, A, dA
        return self.residual

    def move(self, eta: float) -> None:
        """theta <- theta - eta grad, from where `look` was last called.

        Args:
            eta: Step size.
        """
        model, p, (S, A, dA) = self.model, self.params, self.seen
        N, n = self.problem.N, self.problem.n
        weight = self.residual.repeat_interleave(n).unsqueeze(1)
        E = self._scores(S, A.view(N, n, -1), (dA * weight).view(N, n, -1))
        turned = eta * (weight * A)
        for cut in self.cuts:
            on = (self._preactivations(A, cut) > 0).to(A.dtype)
            p.W_V[0, cut] -= (on.mT @ turned).mul_((model.scale * p.w_O[0, cut]).unsqueeze(1))
        p.w_O[0] -= eta * model.scale * (self.residual @ self.hidden)
        moved_Q = eta * (p.W_K[0] @ E.mT)
        p.W_K[0] -= eta * (p.W_Q[0] @ E)
        p.W_Q[0] -= moved_Q

    def _scores(self, S: Tensor, A: Tensor, dA: Tensor) -> Tensor:
        """Derivative of the loss by W_Q^T W_K, through the model's own formula."""
        N, n, _ = A.shape
        none, few = A.new_zeros(1, N, n, 0), A.new_zeros(1, N)
        at = EncoderPass(S[None], A[None], none, none[:, :, 0], few, few, few[:, 0])
        return self.model.score_gradients(self.problem, at, dA[None]).sum(1)[0]
