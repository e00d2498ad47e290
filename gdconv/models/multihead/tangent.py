"""Tangent kernels of the multi-head model in closed form: no Jacobian is formed.

K = J J^T of the m = N n D_y outputs (i, k, a), one term per trained block; x = tokens, q = queries,
k = keys, u = X W_V W_O, T = N n:

    K_V = sum_h <B_ikh, B_i'k'h> (W_O,h^T W_O,h)_ab
    K_Q = (1/d) <x_ik, x_i'k'> sum_h <M_ikah, M_i'k'bh>
    K_K = (1/d) sum_h <q_ikh, q_i'k'h> <m_ikah, m_i'k'bh>       (softmax)
    K_K = (1/d) sum_h <Z_ikah, Z_i'k'bh>                        (Gaussian)

with m = sum_j c_kj x_j, M = sum_j c_kj k_j, c_kj = S_kj (u_ja - ubar_ka) for softmax and
m = sum_j c_kj x_j, M = sum_j c_kj (q_k - k_j), Z = sum_j c_kj x_j tensor (q_k - k_j),
c_kj = S_kj u_ja for the Gaussian kernel, whose Z is never formed either. Derivations, operation
counts and rounding: docs/theory/ntk-multihead.md. Padded tokens are no outputs: T = sum_i n_i.
"""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gdconv.data.problem import Problem
from gdconv.models.multihead.attention_kernels import Softmax
from gdconv.models.multihead.formulas import Forward, MultiHeadFormulas
from gdconv.models.multihead.parameters import BLOCKS, Parameters
from gdconv.models.multihead.tangent_torch import general
from gdconv.rigor.lapack import eigh
from gdconv.support.errors import InputError


def query_kernel(
    model: MultiHeadFormulas, problem: Problem, params: Parameters
) -> Float[Tensor, "R m m"]:
    """K_Q = J_Q J_Q^T.

    From differences q_k - k_j, so near tokens and large scores lose no digits; the price is
    T n H d numbers of work space. `tangent_kernel` takes the cheaper form.

    Args:
        model: The model.
        problem: Data, R (or 1) replicas.
        params: Weights, R replicas.

    Returns:
        The kernel, symmetric positive semidefinite.

    Example:
        >>> from gdconv.support.config import Config
        >>> from gdconv.checks.prepare import prepare
        >>> s = prepare(Config("query-gd", problem="printed-stationarity"))
        >>> J = s.model.jacobian(s.problem, s.params, ("W_Q",))
        >>> torch.allclose(query_kernel(s.model, s.problem, s.params), J @ J.mT)
        True
    """
    at = model.forward(problem, params)
    X = problem.X.expand(at.S.shape[0], -1, -1, -1)
    M = model.kernel.query_tangent(at.S, at.q, at.k, at.u)  # (R, H, N, n, D_y, d), 1/sqrt(d) inside
    flat = problem.rows(M.permute(0, 2, 3, 4, 1, 5)).flatten(3).flatten(1, 2)
    tokens = problem.rows(X).repeat_interleave(M.shape[-2], dim=1)
    return (tokens @ tokens.mT) * (flat @ flat.mT)


def kappa_0(model: MultiHeadFormulas, problem: Problem, params: Parameters) -> Float[Tensor, " R"]:
    """kappa_0 = sigma_m(J_Q)^2, the least eigenvalue of K_Q, not below 0.

    From the Gram matrix: relative error about 1e-16 times the condition number of K_Q.

    Args:
        model: The model.
        problem: Data.
        params: Weights, R replicas.

    Returns:
        One number per replica.
    """
    K = query_kernel(model, problem, params)
    least = [float(eigh(one)[0][0]) for one in K.detach().cpu().numpy()]
    return K.new_tensor(least).clamp_min(0.0)


def _compiled(
    model: MultiHeadFormulas, problem: Problem, params: Parameters, blocks: tuple[str, ...]
) -> Tensor:
    """The kernel of every replica by the compiled loops: float64 on the CPU."""
    from gdconv.compiled.tangent_kernel import fill  # numba loads slowly: only where it is needed

    X = problem.X.detach().contiguous().numpy()
    W_Q = params.W_Q.detach().contiguous().numpy()
    W_K = params.W_K.detach().contiguous().numpy()
    W_V = params.W_V.detach().contiguous().numpy()
    W_O = params.W_O.detach().contiguous().numpy()
    (S, N, n, D), R = X.shape, len(W_Q)
    m = N * n * W_O.shape[3]
    tokens, K = X.reshape(S, N * n, D), np.empty((R, m, m))
    softmax = isinstance(model.kernel, Softmax)
    query, key, value = (name in blocks for name in BLOCKS)
    for r in range(R):
        data = tokens[r % S], W_Q[r], W_K[r], W_V[r], W_O[r]
        fill(K[r], *data, n, softmax, query, key, value)
    return torch.from_numpy(K)


def _checked(blocks: tuple[str, ...]) -> None:
    if not blocks or not set(blocks) <= set(BLOCKS) or len(set(blocks)) < len(blocks):
        raise InputError("blocks", blocks, "name some of W_Q, W_K, W_V, each once")


def tangent_kernel(
    model: MultiHeadFormulas,
    problem: Problem,
    params: Parameters,
    blocks: tuple[str, ...] = BLOCKS,
    compiled: bool | None = None,
) -> Float[Tensor, "R m m"]:
    """K = J J^T summed over the trained blocks, exactly symmetric.

    T^2 (2 H D + 2 H d + D) multiplications (D_y = 1, softmax) and half of them by symmetry in the
    compiled form; the Gaussian key part adds T^2 H (2 d + 3 n). Work space of the compiled form:
    the tangents, T D_y H (D + d) numbers, and blocks of `compiled.tangent_kernel.ROWS` rows.

    Args:
        model: The model.
        problem: Data, R (or 1) replicas.
        params: Weights, R replicas.
        blocks: Which of W_Q, W_K, W_V are trained; the order does not matter.
        compiled: True for the compiled loops (float64 on the CPU, no padding), False for torch
            operations, None for the compiled ones where they apply.

    Returns:
        The kernel, rows (i, k, a).

    Raises:
        InputError: `blocks` is empty, repeats a name or names something else, or the compiled
            loops are asked for padded data.

    Example:
        >>> from gdconv.support.config import Config
        >>> from gdconv.checks.prepare import prepare
        >>> s = prepare(Config("query-gd", problem="printed-stationarity"))
        >>> J = s.model.jacobian(s.problem, s.params)
        >>> torch.allclose(tangent_kernel(s.model, s.problem, s.params), J @ J.mT)
        True
    """
    _checked(blocks)
    if compiled and problem.mask is not None:
        raise InputError("compiled", True, "give False: the compiled loops know no mask")
    if compiled is None:
        compiled = params.W_Q.device.type == "cpu" and params.W_Q.dtype == torch.float64
        compiled = compiled and problem.mask is None
    return (_compiled if compiled else general)(model, problem, params, blocks)


def _weights_tangent(softmax: bool, at: Forward, dq: Tensor, dk: Tensor) -> Tensor:
    """DS in the direction (dq, dk), the transpose of the kernel's pullback."""
    scale = 1 / sqrt(at.q.shape[-1])
    if softmax:
        dZ = (dq @ at.k.mT + at.q @ dk.mT) * scale
        return at.S * (dZ - (at.S * dZ).sum(-1, keepdim=True))
    gap = at.q.unsqueeze(-2) - at.k.unsqueeze(-3)
    return -scale * at.S * (gap * (dq.unsqueeze(-2) - dk.unsqueeze(-3))).sum(-1)


def ntk_vector_product(
    model: MultiHeadFormulas,
    problem: Problem,
    params: Parameters,
    vector: Float[Tensor, "R m"],
    blocks: tuple[str, ...] = BLOCKS,
    at: Forward | None = None,
) -> Float[Tensor, "R m"]:
    """K v = J (J^T v) without K or J: one pullback, one tangent, both in closed form.

    Costs about two gradients, O(T H D d + T n H (D_y + d)).

    Args:
        model: The model.
        problem: Data, R (or 1) replicas.
        params: Weights, R replicas.
        vector: v, one per replica, entries (i, k, a).
        blocks: Which of W_Q, W_K, W_V are trained.
        at: A forward pass at `params`, if there is one already.

    Returns:
        K v.

    Raises:
        InputError: Wrong blocks, or `vector` is not of shape (R, m).

    Example:
        >>> from gdconv.support.config import Config
        >>> from gdconv.checks.prepare import prepare
        >>> s = prepare(Config("query-gd", problem="printed-stationarity"))
        >>> v = torch.ones(1, s.problem.N * s.problem.n * s.problem.D_y, dtype=torch.float64)
        >>> K = tangent_kernel(s.model, s.problem, s.params)
        >>> torch.allclose(ntk_vector_product(s.model, s.problem, s.params, v), K.sum(-1))
        True
    """
    _checked(blocks)
    at = at or model.forward(problem, params)
    D_y = at.F.shape[-1]
    wanted = (len(at.F), int(problem.lengths.sum()) * D_y)
    if vector.shape != wanted:
        raise InputError("vector", f"a tensor of shape {tuple(vector.shape)}", f"give {wanted}")
    v = problem.placed(vector.unflatten(1, (-1, D_y)))
    _, back = model.gradient(problem, params, replace(at, residual=v))
    X = problem.X.unsqueeze(1)
    out = torch.zeros_like(at.F)
    if "W_V" in blocks:
        out += (at.S @ (X @ (back.W_V @ params.W_O).unsqueeze(2))).sum(1)
    if "W_Q" in blocks or "W_K" in blocks:
        dq = X @ back.W_Q.unsqueeze(2) if "W_Q" in blocks else torch.zeros_like(at.q)
        dk = X @ back.W_K.unsqueeze(2) if "W_K" in blocks else torch.zeros_like(at.k)
        dS = _weights_tangent(isinstance(model.kernel, Softmax), at, dq, dk)
        out += (dS @ at.u).sum(1)
    return problem.rows(out).flatten(1)
