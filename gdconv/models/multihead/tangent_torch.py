"""Tangent kernels by torch operations, all replicas at once, any device and dtype.

Formulas as in `gdconv.models.multihead.tangent`; one work buffer of m x m and one of T x T numbers
beside the result.
"""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor

from gdconv.data.problem import Problem
from gdconv.models.multihead.attention_kernels import Softmax
from gdconv.models.multihead.formulas import MultiHeadFormulas
from gdconv.models.multihead.parameters import Parameters

ROWS = 64
"""Rows of the Gaussian key part treated at once: H ROWS T numbers of work space."""


class _Pieces:
    """What the blocks share: tokens (R, T, D), and c (R, H, N, n D_y, n) with rows (k, a).

    Queries and keys are shifted by the mean key of their sample, which changes no q_k - k_j and no
    softmax covariance, but keeps the digits when all keys are far from the origin. The model's
    forward pass multiplies sample by sample; here one product serves all of them. With padding c is
    zero there, so whatever the shift leaves in a padded key counts nowhere.
    """

    def __init__(self, model: MultiHeadFormulas, problem: Problem, params: Parameters) -> None:
        self.R, self.H, self.D, self.d = params.W_Q.shape
        self.N, self.n, self.D_y = problem.N, problem.n, params.W_O.shape[-1]
        self.params, self.T = params, self.N * self.n
        self.m = self.T * self.D_y
        self.softmax = isinstance(model.kernel, Softmax)
        self.X = problem.X.expand(self.R, -1, -1, -1)
        self.tokens = self.X.reshape(self.R, self.T, self.D)
        each = self.tokens.unsqueeze(1)
        split = (self.R, self.H, self.N, self.n, -1)
        q, k = (each @ params.W_Q).view(split), (each @ params.W_K).view(split)
        u = (each @ (params.W_V @ params.W_O)).view(split)
        self.S = model.kernel.weights(q, k, problem.mask)
        centred = u.mT.unsqueeze(-3)  # (R, H, N, 1, D_y, n)
        if self.softmax:
            centred = centred - (self.S @ u).unsqueeze(-1)
        self.c = (self.S.unsqueeze(-2) * centred).reshape(*split[:3], -1, self.n)
        self.c *= 1 / sqrt(self.d)  # the 1/d of K_Q and K_K
        mean = k.mean(-2, keepdim=True)
        if problem.mask is not None:  # padded keys are zero
            mean = k.sum(-2, keepdim=True) / problem.mask.sum(1).view(-1, 1, 1)
        self.k = k - mean
        self.q = q if self.softmax else q - mean

    def wide(self, A: Tensor) -> Tensor:
        """(R, H, N, rows, p) -> (R, N rows, H p)."""
        return A.permute(0, 2, 3, 1, 4).reshape(self.R, -1, self.H * A.shape[-1])

    def outer(self, K: Tensor) -> Tensor:
        """(R, m, m) -> (R, T, D_y, T, D_y), a view."""
        return K.view(self.R, self.T, self.D_y, self.T, self.D_y)

    def query_tangent(self) -> Tensor:
        """M / sqrt(d), (R, H, N, n D_y, d): J_Q = x tensor M."""
        M = self.c @ self.k
        if self.softmax:
            return M
        rows = self.c.sum(-1).view(*self.c.shape[:3], self.n, self.D_y, 1)
        return M - (rows * self.q.unsqueeze(-2)).view_as(M)


def _add_value(p: _Pieces, K: Tensor, work: Tensor, empty: bool) -> None:
    """K += K_V: one product of T x H D matrices for every pair a <= b."""
    B = p.wide(p.S @ p.X.unsqueeze(1)).view(p.R, p.T, p.H, p.D)
    weights = p.params.W_O.mT @ p.params.W_O  # (R, H, D_y, D_y)
    beta = 0.0 if empty else 1.0
    if p.D_y == 1:
        scaled = (B * weights.view(p.R, 1, p.H, 1).sqrt()).view(p.R, p.T, -1)
        torch.baddbmm(K, scaled, scaled.mT, beta=beta, out=K)
        return
    part, out = work.flatten()[: p.R * p.T * p.T].view(p.R, p.T, p.T), p.outer(K)
    for a in range(p.D_y):
        for b in range(a, p.D_y):
            scaled = (B * weights[:, None, :, a, b, None]).view(p.R, p.T, -1)
            torch.bmm(scaled, B.view(p.R, p.T, -1).mT, out=part)
            for x, y in {(a, b), (b, a)}:
                view = out[:, :, x, :, y]
                view.copy_(part) if empty else view.add_(part)


def _add_query(p: _Pieces, K: Tensor, G: Tensor) -> None:
    """K = K_Q (always the first term)."""
    M = p.wide(p.query_tangent())
    torch.bmm(M, M.mT, out=K)
    p.outer(K).mul_(G.view(p.R, p.T, 1, p.T, 1))


def _add_key(p: _Pieces, K: Tensor, work: Tensor, G: Tensor) -> None:
    """K += sum_h (q q^T) o (m m^T), head by head."""
    m = (p.c @ p.X.unsqueeze(1)).view(p.R, p.H, p.m, p.D)
    q = p.q.reshape(p.R, p.H, p.T, p.d)
    for h in range(p.H):
        torch.bmm(m[:, h], m[:, h].mT, out=work)
        torch.bmm(q[:, h], q[:, h].mT, out=G)
        p.outer(K).addcmul_(p.outer(work), G.view(p.R, p.T, 1, p.T, 1))


def _add_gaussian_key(p: _Pieces, K: Tensor, work: Tensor, G: Tensor) -> None:
    """K += V + V^T, V = sum_h [c (G o k k^T)/2 - (c G) o (q k^T)] c^T, a few rows at a time.

    c is block diagonal over the samples, so c and c^T act on n columns or rows of one sample.
    """
    R, H, N, n, T, D_y = p.R, p.H, p.N, p.n, p.T, p.D_y
    k, q = p.k.reshape(R * H, T, p.d), p.q.reshape(R * H, T, p.d)
    right = p.c.permute(0, 2, 1, 4, 3).reshape(R * N, H * n, n * D_y)
    step = max(1, ROWS // n)
    for i in range(0, N, step):
        s = min(step, N - i)
        cut, rows = slice(i * n, (i + s) * n), s * n
        Gi = G[:, cut].view(R, 1, s, n, T)
        c = p.c[:, :, i : i + s]
        E = torch.bmm(k[:, cut], k.mT).view(R, H, s, n, T).mul_(Gi)
        W = torch.matmul(c, E).view(R, H, rows, D_y, T)
        P = torch.bmm(q[:, cut], k.mT).view(R, H, rows, 1, T)
        cG = torch.matmul(c, Gi).view(R, H, rows, D_y, T)
        W.mul_(0.5).addcmul_(cG, P, value=-1.0)
        left = W.view(R, H, rows * D_y, N, n).permute(0, 3, 2, 1, 4).reshape(R * N, -1, H * n)
        V = torch.bmm(left, right).view(R, N, rows * D_y, n * D_y).permute(0, 2, 1, 3)
        work[:, i * n * D_y : (i + s) * n * D_y].view(R, -1, N, n * D_y).copy_(V)
    K += work
    K += work.mT


def general(
    model: MultiHeadFormulas, problem: Problem, params: Parameters, blocks: tuple[str, ...]
) -> Tensor:
    """K = J J^T of the chosen blocks.

    Args:
        model: The model.
        problem: Data, R (or 1) replicas.
        params: Weights, R replicas.
        blocks: Trained blocks, at least one.

    Returns:
        The kernel (R, m, m), exactly symmetric; no rows and columns of padding.
    """
    p = _Pieces(model, problem, params)
    K, work = (p.c.new_empty(p.R, p.m, p.m) for _ in range(2))
    G = torch.bmm(p.tokens, p.tokens.mT)
    if "W_Q" in blocks:
        _add_query(p, K, G)
    if "W_V" in blocks:
        _add_value(p, K, work, "W_Q" not in blocks)
    if "W_K" in blocks:
        if blocks == ("W_K",):
            K.zero_()
        if not p.softmax:
            _add_gaussian_key(p, K, work, G)
        _add_key(p, K, work, G)
    K = K.tril_().add_(K.tril(-1).mT)
    if problem.mask is None:
        return K
    real = problem.mask.flatten().repeat_interleave(p.D_y)
    return K[:, real][:, :, real]
