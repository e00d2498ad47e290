"""Attention kernels: weights, pullbacks and tangents in closed form.

Both kernels act on queries q = X W_Q and keys k = X W_K, shape (..., n, d), batch axes first:

* softmax   S = softmax over rows of q k^T / sqrt(d)
* Gaussian  S_kj = exp(-|q_k - k_j|^2 / (2 sqrt(d))), not normalised

Padded tokens (a mask that is false) have weight exactly zero, as keys and as queries: rows and
columns of S vanish, and with them every pullback and tangent there.

Source: Song et al. 2024, section 2; derivatives in docs/theory/full-gd.md.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import inf, sqrt

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gdconv.support.errors import InputError

Tokens = Float[Tensor, "*b n d"]
Weights = Float[Tensor, "*b n n"]
Mask = Bool[Tensor, "*#b n"]


def masked_softmax(scores: Weights, mask: Mask | None) -> Weights:
    """Softmax over the real keys of each row, zero in rows of padded queries.

    Args:
        scores: Scores, shape (..., n, n).
        mask: True for a real token, shape (..., n); every sample has one. None where all are.

    Returns:
        The weights.

    Example:
        >>> masked_softmax(torch.zeros(2, 2), torch.tensor([True, False])).tolist()
        [[1.0, 0.0], [0.0, 0.0]]
    """
    if mask is None:
        return torch.softmax(scores, dim=-1)
    S = torch.softmax(scores.masked_fill(~mask.unsqueeze(-2), -inf), dim=-1)
    return S.masked_fill(~mask.unsqueeze(-1), 0.0)


class Kernel(ABC):
    """One attention kernel; stateless, any device and dtype, any batch axes."""

    name: str

    @abstractmethod
    def weights(self, q: Tokens, k: Tokens, mask: Mask | None = None) -> Weights:
        """Attention weights S, shape (..., n, n); zero where query or key is padding."""

    @abstractmethod
    def pullback(self, S: Weights, q: Tokens, k: Tokens, G: Weights) -> tuple[Tokens, Tokens]:
        """Gradients with respect to q and k, given G = d loss / d S."""

    @abstractmethod
    def query_tangent(
        self, S: Weights, q: Tokens, k: Tokens, v: Float[Tensor, "*b n o"]
    ) -> Float[Tensor, "*b n o d"]:
        """d(S v)_ka / d q_k, the vector that J_Q multiplies x_k with."""

    @abstractmethod
    def key_tangent(
        self,
        S: Weights,
        q: Tokens,
        k: Tokens,
        v: Float[Tensor, "*b n o"],
        X: Float[Tensor, "*#b n D"],
    ) -> Float[Tensor, "*b n o D d"]:
        """d(S v)_ka / d W_K, one D x d matrix per token k and output a."""


class Softmax(Kernel):
    """Softmax attention.

    Example:
        >>> S = Softmax().weights(torch.zeros(2, 4), torch.zeros(2, 4))
        >>> S.tolist()
        [[0.5, 0.5], [0.5, 0.5]]
    """

    name = "softmax"

    def weights(self, q: Tokens, k: Tokens, mask: Mask | None = None) -> Weights:
        """S = softmax(q k^T / sqrt(d)), rows sum to one (over real keys, for real queries)."""
        scores = q @ k.mT / sqrt(q.shape[-1])
        return masked_softmax(scores, mask)

    def pullback(self, S: Weights, q: Tokens, k: Tokens, G: Weights) -> tuple[Tokens, Tokens]:
        """P = S o (G - rowsum(S o G)); (P k, P^T q) / sqrt(d)."""
        P = S * (G - (S * G).sum(-1, keepdim=True)) / sqrt(q.shape[-1])
        return P @ k, P.mT @ q

    def query_tangent(
        self, S: Weights, q: Tokens, k: Tokens, v: Float[Tensor, "*b n o"]
    ) -> Float[Tensor, "*b n o d"]:
        """sum_j S_kj (k_j - kbar_k) v_ja / sqrt(d): covariance of keys and values under row k."""
        centred = k.unsqueeze(-3) - (S @ k).unsqueeze(-2)
        return v.mT.unsqueeze(-3) @ (S.unsqueeze(-1) * centred) / sqrt(q.shape[-1])

    def key_tangent(
        self,
        S: Weights,
        q: Tokens,
        k: Tokens,
        v: Float[Tensor, "*b n o"],
        X: Float[Tensor, "*#b n D"],
    ) -> Float[Tensor, "*b n o D d"]:
        """(sum_j S_kj (v_ja - vbar_ka) x_j) tensor q_k / sqrt(d)."""
        centred = v.unsqueeze(-3) - (S @ v).unsqueeze(-2)
        m = (S.unsqueeze(-1) * centred).mT @ X.unsqueeze(-3)
        return m.unsqueeze(-1) * (q / sqrt(q.shape[-1])).unsqueeze(-2).unsqueeze(-2)


class Gaussian(Kernel):
    """Gaussian attention, S_kj = exp(-|q_k - k_j|^2 / (2 sqrt(d))), rows not normalised.

    Example:
        >>> Gaussian().weights(torch.zeros(2, 4), torch.zeros(2, 4)).tolist()
        [[1.0, 1.0], [1.0, 1.0]]
    """

    name = "gaussian"

    def weights(self, q: Tokens, k: Tokens, mask: Mask | None = None) -> Weights:
        """Differences are formed before squaring: no cancellation for near tokens."""
        gap = q.unsqueeze(-2) - k.unsqueeze(-3)
        S = torch.exp(-gap.square().sum(-1) / (2 * sqrt(q.shape[-1])))
        return S if mask is None else S * (mask.unsqueeze(-1) & mask.unsqueeze(-2))

    def pullback(self, S: Weights, q: Tokens, k: Tokens, G: Weights) -> tuple[Tokens, Tokens]:
        """A = G o S; -sum_j A_kj (q_k - k_j) and sum_k A_kj (q_k - k_j), over sqrt(d).

        From differences: diag(A 1) q - A k would cancel for near tokens and large scores.

        Args:
            S: Weights.
            q: Queries.
            k: Keys.
            G: Gradient by the weights.

        Returns:
            Gradients by q and k.
        """
        gap = q.unsqueeze(-2) - k.unsqueeze(-3)
        pull = (G * S / sqrt(q.shape[-1])).unsqueeze(-1) * gap
        return -pull.sum(-2), pull.sum(-3)

    def query_tangent(
        self, S: Weights, q: Tokens, k: Tokens, v: Float[Tensor, "*b n o"]
    ) -> Float[Tensor, "*b n o d"]:
        """-sum_j S_kj (q_k - k_j) v_ja / sqrt(d)."""
        gap = k.unsqueeze(-3) - q.unsqueeze(-2)
        return v.mT.unsqueeze(-3) @ (S.unsqueeze(-1) * gap) / sqrt(q.shape[-1])

    def key_tangent(
        self,
        S: Weights,
        q: Tokens,
        k: Tokens,
        v: Float[Tensor, "*b n o"],
        X: Float[Tensor, "*#b n D"],
    ) -> Float[Tensor, "*b n o D d"]:
        """sum_j S_kj v_ja x_j tensor (q_k - k_j) / sqrt(d)."""
        gap = (q.unsqueeze(-2) - k.unsqueeze(-3)) / sqrt(q.shape[-1])
        weighted = S.unsqueeze(-1) * v.unsqueeze(-3)
        by_token = (weighted.unsqueeze(-1) * gap.unsqueeze(-2)).flatten(-2)  # (k, j, a d)
        m = X.mT.unsqueeze(-3) @ by_token
        return m.unflatten(-1, (v.shape[-1], -1)).transpose(-3, -2)


KERNELS: dict[str, Kernel] = {kernel.name: kernel for kernel in (Softmax(), Gaussian())}


def kernel_named(name: str) -> Kernel:
    """The kernel of that name.

    Args:
        name: "softmax" or "gaussian".

    Returns:
        The kernel object.

    Raises:
        InputError: Unknown name.

    Example:
        >>> kernel_named("softmax").name
        'softmax'
    """
    if name not in KERNELS:
        raise InputError("kernel", name, f"choose one of {', '.join(KERNELS)}")
    return KERNELS[name]
