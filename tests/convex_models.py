"""The non-convex models, as torch functions; their convex counterparts are in `group_lasso`.

    (3)  F = sum_j softmax(X W_Q,j W_K,j^T X^T) X W_V,j W_O,j     decay on all four matrices
    (4)  F = sum_j A_j X W_V,j W_O,j, rows of A_j on the simplex, the same A_j for all samples
                                                                  decay on W_V and W_O
    (8)  F = sum_j (a_j^T X v_j) b_j, a_j on the simplex          decay on v and b
    gated: F = sum_j 1{g_j(X) >= 0} (a_j^T X v_j) b_j
    sequence (d = 1): F = sum_j w_j A_j X, penalty beta sum_j |w_j|

No 1/sqrt(d) in the scores. Source: Ergen, Neyshabur, Mehta 2022, equations (3), (4), (8).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from gdconv.convex.losses import Loss


def self_attention(
    X: Float[Tensor, "N n d"],
    W_Q: Float[Tensor, "h d m"],
    W_K: Float[Tensor, "h d m"],
    W_V: Float[Tensor, "h d p"],
    W_O: Float[Tensor, "h p c"],
) -> Float[Tensor, "N n c"]:
    """Model (3)."""
    scores = torch.einsum("ind,hdm,hem,ike->ihnk", X, W_Q, W_K, X)
    return torch.einsum("ihnk,ikd,hdp,hpc->inc", scores.softmax(-1), X, W_V, W_O)


def simplex_attention(
    X: Float[Tensor, "N n d"],
    A: Float[Tensor, "h n n"],
    W_V: Float[Tensor, "h d p"],
    W_O: Float[Tensor, "h p c"],
) -> Float[Tensor, "N n c"]:
    """Model (4): the attention matrix is free, but shared by all samples."""
    return torch.einsum("hnk,ikd,hdp,hpc->inc", A, X, W_V, W_O)


def head_sum(
    X: Float[Tensor, "N n d"],
    a: Float[Tensor, "h n"],
    v: Float[Tensor, "h d"],
    b: Float[Tensor, "h c"],
) -> Float[Tensor, "N c"]:
    """Model (8) and its vector-output forms."""
    return torch.einsum("hn,ind,hd,hc->ic", a, X, v, b)


def gated_heads(
    X: Float[Tensor, "N n d"],
    a: Float[Tensor, "h n"],
    v: Float[Tensor, "h d"],
    b: Float[Tensor, "h c"],
    gates: Float[Tensor, "h N"],
) -> Float[Tensor, "N c"]:
    """Gated ReLU network after attention."""
    return torch.einsum("hi,hn,ind,hd,hc->ic", gates, a, X, v, b)


def sequence_heads(
    X: Float[Tensor, "N n"], A: Float[Tensor, "h n n"], w: Float[Tensor, " h"]
) -> Float[Tensor, "N n"]:
    """Sequence output with embedding dimension 1."""
    return torch.einsum("hnk,ik,h->in", A, X, w)


def loss_sum(loss: Loss, p: Tensor, y: Tensor) -> Tensor:
    """sum L(p, y) in torch; the same formulas as `Loss.value`."""
    if loss.name == "logistic":
        return torch.logaddexp(torch.zeros_like(p), -y * p).sum()
    r = (p - y).abs()
    if loss.name == "squared":
        return r.square().sum()
    core = r.clamp(max=loss.delta)
    return (core.square() + 2.0 * loss.delta * (r - core)).sum()


def weight_decay(beta: float, *weights: Tensor) -> Tensor:
    """(beta/2) times the sum of squares of some weights."""
    return 0.5 * beta * torch.stack([w.square().sum() for w in weights]).sum()


def l1_decay(beta: float, v: Float[Tensor, "h d"], b: Float[Tensor, "h c"]) -> Tensor:
    """(beta/2) sum_j (|v_j|_2^2 + |b_j|_1^2), the regulariser of the first vector form."""
    return 0.5 * beta * (v.square().sum() + b.abs().sum(-1).square().sum())
