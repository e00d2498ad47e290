"""Tangent kernels in closed form: no Jacobian is formed.

The query block of the multi-head model, m = N n D_y outputs (i, k, a):

    K_Q = J_Q J_Q^T,  K_Q[(i,k,a), (i',k',b)] = (1/d) <x_ik, x_i'k'> sum_h <M_ikah, M_i'k'bh>

with M = sum_j S_kj (u_ja - ubar_ka) k_j for softmax and M = sum_j S_kj u_ja (q_k - k_j) for the
Gaussian kernel, u = X W_V W_O. T^2 (D + D_y^2 H d) operations, T = N n, against T D_y H D d numbers
in J_Q. Source: docs/theory/query-gd.md, "Kernel".
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from gdconv.models.multihead import MultiHeadRegression, Parameters
from gdconv.problem import Problem


def query_kernel(
    model: MultiHeadRegression, problem: Problem, params: Parameters
) -> Float[Tensor, "R m m"]:
    """K_Q = J_Q J_Q^T.

    Args:
        model: The model.
        problem: Data, R (or 1) replicas.
        params: Weights, R replicas.

    Returns:
        The kernel, symmetric positive semidefinite.

    Example:
        >>> from gdconv.config import Config
        >>> from gdconv.setting import prepare
        >>> s = prepare(Config("query-gd", problem="printed-stationarity"))
        >>> J = s.model.jacobian(s.problem, s.params, ("W_Q",))
        >>> torch.allclose(query_kernel(s.model, s.problem, s.params), J @ J.mT)
        True
    """
    at = model.forward(problem, params)
    X = problem.X.expand(at.S.shape[0], -1, -1, -1)
    M = model.kernel.query_tangent(at.S, at.q, at.k, at.u)  # (R, H, N, n, D_y, d), 1/sqrt(d) inside
    R, H, N, n, D_y, d = M.shape
    flat = M.permute(0, 2, 3, 4, 1, 5).reshape(R, N * n * D_y, H * d)
    tokens = X.reshape(R, N * n, -1).repeat_interleave(D_y, dim=1)
    return (tokens @ tokens.mT) * (flat @ flat.mT)


def kappa_0(
    model: MultiHeadRegression, problem: Problem, params: Parameters
) -> Float[Tensor, " R"]:
    """kappa_0 = sigma_m(J_Q)^2, the least eigenvalue of K_Q, not below 0.

    From the Gram matrix: relative error about 1e-16 times the condition number of K_Q.

    Args:
        model: The model.
        problem: Data.
        params: Weights, R replicas.

    Returns:
        One number per replica.
    """
    return torch.linalg.eigvalsh(query_kernel(model, problem, params))[:, 0].clamp_min(0.0)
