"""The forward pass of a layer and what every block and product is made of.

Rows i are tokens, heads and samples lead: A (H, N, L, L). With G_ij = <r_i, v_j>, r = F - Y,
v = X W_V W_O, the gradient of the loss by the scores is c P,

    softmax   P_ij = A_ij (G_ij - sum_k A_ik G_ik),     gaussian  P = A o G,     linear  P = G.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from gdconv.hessian.layer import AttentionLayer


@dataclass(frozen=True)
class Point:
    """Forward pass at the weights of a layer.

    Queries and keys of the Gaussian kernel are shifted by the sample's mean key, which changes no
    difference q_i - k_j and saves digits where all tokens are far from the origin.

    Attributes:
        layer: The layer.
        x: Tokens after layer norm (N, L, D).
        q: Queries (H, N, L, d).
        k: Keys (H, N, L, d).
        A: Attention weights (H, N, L, L).
        W: W_V W_O (H, D, D_o).
        r: Residual F - Y (N, L, D_o).
        m: A X (H, N, L, D).
    """

    layer: AttentionLayer
    x: Float[Tensor, "N L D"]
    q: Float[Tensor, "H N L d"]
    k: Float[Tensor, "H N L d"]
    A: Float[Tensor, "H N L L"]
    W: Float[Tensor, "H D o"]
    r: Float[Tensor, "N L o"]
    m: Float[Tensor, "H N L D"]

    @property
    def loss(self) -> Float[Tensor, ""]:
        """c/2 |F - Y|^2."""
        return 0.5 * self.layer.c * self.r.square().sum()

    @cached_property
    def v(self) -> Float[Tensor, "H N L o"]:
        """Values X W_V W_O."""
        return self.x @ self.W.unsqueeze(1)

    @cached_property
    def G(self) -> Float[Tensor, "H N L L"]:
        """<r_i, v_j>, for softmax less its mean under row i."""
        G = self.r @ self.v.mT
        if self.layer.kernel == "softmax":
            G -= (self.A * G).sum(-1, keepdim=True)
        return G

    @cached_property
    def P(self) -> Float[Tensor, "H N L L"]:
        """Gradient of the loss by the scores, over c."""
        return self.G if self.layer.kernel == "linear" else self.A * self.G

    @cached_property
    def b(self) -> Float[Tensor, "H N L D"]:
        """P X; for softmax b_i = Sigma_i W_V W_O r_i."""
        return self.P @ self.x


def weights(layer: AttentionLayer, q: Tensor, k: Tensor) -> Tensor:
    """Attention weights of the layer's kernel.

    Args:
        layer: Kernel and scale.
        q: Queries (..., L, d).
        k: Keys (..., L, d).

    Returns:
        A, shape (..., L, L).

    Example:
        >>> from gdconv.hessian.layer import attention_layer
        >>> z = torch.zeros(2, 2, dtype=torch.float64)
        >>> weights(attention_layer(z, z, W_V=z, W_QK=z), z, z).tolist()
        [[0.5, 0.5], [0.5, 0.5]]
    """
    if layer.kernel == "gaussian":
        gap = torch.cdist(q, k, compute_mode="donot_use_mm_for_euclid_dist")
        return gap.square_().mul_(-0.5 * layer.scale).exp_()
    T = (q * layer.scale) @ k.mT
    return torch.softmax(T, dim=-1) if layer.kernel == "softmax" else T


def evaluate(layer: AttentionLayer) -> Point:
    """The forward pass.

    Args:
        layer: The layer.

    Returns:
        What the Hessian needs.

    Example:
        >>> from gdconv.hessian.layer import attention_layer
        >>> eye = torch.eye(2, dtype=torch.float64)
        >>> layer = attention_layer(eye, 0 * eye, W_V=eye, W_QK=0 * eye, loss="half-square")
        >>> evaluate(layer).loss.item()
        0.5
    """
    x = layer.tokens
    q = x @ layer.W_Q.unsqueeze(1)
    k = x.expand(layer.H, -1, -1, -1) if layer.W_K is None else x @ layer.W_K.unsqueeze(1)
    if layer.kernel == "gaussian":
        mean = k.mean(-2, keepdim=True)
        q, k = q - mean, k - mean
    A = weights(layer, q, k)
    W = layer.W_V if layer.W_O is None else layer.W_V @ layer.W_O
    m = A @ x
    r = (m @ W.unsqueeze(1)).sum(0) - layer.Y
    return Point(layer, x, q, k, A, W, r, m)
