"""One attention layer with a squared loss: what the Hessian is taken of.

    F = sum_h A^h X W_V,h W_O,h,    loss = c/2 |F - Y|^2

    softmax   A = softmax over rows of T,      T = X W_Q W_K^T X^T / (sqrt(d) tau)
    linear    A = T
    gaussian  A_ij = exp(-|q_i - k_j|^2 / (2 sqrt(d) tau)), rows not normalised

With a single matrix, T = X W_QK X^T / tau: the same formulas with W_K = I, held fixed. The bare
layer has one head and W_O = I. Pre-layer-norm acts on the tokens before the weights do, so the
Hessian by the weights is that at the normalised tokens. Source: Ormaniec, Dangel, Singh, ICLR 2025.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import isfinite, sqrt
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gdconv.support.errors import InputError

KERNELS = ("softmax", "gaussian", "linear")
"""Attention kernels with a closed Hessian."""

LOSSES = ("mean", "half-square")
"""mean: |F - Y|^2 / (L D_o), mean over samples; half-square: 1/2 |F - Y|^2, sum over samples."""

PARTS = ("total", "outer", "functional")
"""H, H_o = J^T (d^2 loss / dF^2) J, and H_f, where H = H_o + H_f."""


@dataclass(frozen=True)
class AttentionLayer:
    """Data, weights and options of one layer; build it with `attention_layer`.

    Attributes:
        X: Tokens (N, L, D), before layer norm.
        Y: Targets (N, L, D_o).
        W_Q: Query weights (H, D, d), or W_QK (H, D, D) where W_K is None.
        W_K: Key weights (H, D, d); None for a single matrix W_QK.
        W_V: Value weights (H, D, d_v).
        W_O: Output weights (H, d_v, D_o), never differentiated; None for the identity.
        kernel: One of KERNELS.
        temperature: tau > 0.
        layer_norm: epsilon >= 0 of the pre-layer-norm, None without it.
        loss: One of LOSSES.
    """

    X: Float[Tensor, "N L D"]
    Y: Float[Tensor, "N L o"]
    W_Q: Float[Tensor, "H D d"]
    W_K: Float[Tensor, "H D d"] | None
    W_V: Float[Tensor, "H D v"]
    W_O: Float[Tensor, "H v o"] | None = None
    kernel: str = "softmax"
    temperature: float = 1.0
    layer_norm: float | None = None
    loss: str = "mean"

    @property
    def names(self) -> tuple[str, ...]:
        """The differentiated weights, in the order of the parameter vector."""
        return ("W_QK", "W_V") if self.W_K is None else ("W_Q", "W_K", "W_V")

    @property
    def H(self) -> int:
        """Number of heads."""
        return self.W_Q.shape[0]

    @property
    def c(self) -> float:
        """Second derivative of the loss by an entry of F."""
        N, L, o = self.Y.shape
        return 2.0 / (N * L * o) if self.loss == "mean" else 1.0

    @property
    def scale(self) -> float:
        """What scores are multiplied with: 1 / (sqrt(d) tau), without sqrt(d) for W_QK."""
        root = 1.0 if self.W_K is None else sqrt(self.W_Q.shape[-1])
        return 1.0 / (root * self.temperature)

    @cached_property
    def tokens(self) -> Float[Tensor, "N L D"]:
        """X, normalised over the features of each token where layer norm is on."""
        if self.layer_norm is None:
            return self.X
        centred = self.X - self.X.mean(-1, keepdim=True)
        variance = centred.square().mean(-1, keepdim=True)
        return centred / (variance + self.layer_norm).sqrt()

    def weight(self, name: str) -> Float[Tensor, "H D s"]:
        """The weights of that name.

        Args:
            name: One of `names`.

        Returns:
            The weights of all heads.

        Raises:
            InputError: Unknown name.
        """
        found = {"W_QK": self.W_Q, "W_Q": self.W_Q, "W_K": self.W_K, "W_V": self.W_V}.get(name)
        if name not in self.names or found is None:
            raise InputError("block", name, f"choose among {', '.join(self.names)}")
        return found

    def chosen(self, blocks: tuple[str, ...] | None) -> tuple[str, ...]:
        """`blocks`, or all of `names` for None.

        Args:
            blocks: Names, each once.

        Returns:
            The names.

        Raises:
            InputError: An unknown name, a repeated one, or none at all.
        """
        if blocks is None:
            return self.names
        if not blocks or len(set(blocks)) < len(blocks) or not set(blocks) <= set(self.names):
            raise InputError("blocks", blocks, f"name some of {', '.join(self.names)}, each once")
        return blocks

    def sizes(self, blocks: tuple[str, ...] | None = None) -> tuple[int, ...]:
        """Number of weights of each block."""
        return tuple(self.weight(name).numel() for name in self.chosen(blocks))


def check_part(part: str) -> None:
    """Refuse an unknown part.

    Args:
        part: Should be one of PARTS.

    Raises:
        InputError: It is not.

    Example:
        >>> check_part("inner")
        Traceback (most recent call last):
        gdconv.support.errors.InputError: part = inner: choose one of total, outer, functional.
    """
    if part not in PARTS:
        raise InputError("part", part, f"choose one of {', '.join(PARTS)}")


def _axes(field: str, value: Any, axes: int, like: Tensor | None) -> Tensor:
    """A floating tensor with `axes` axes, the first added where it is missing."""
    # not the default device: what is no tensor yet begins on the CPU
    made = value if isinstance(value, Tensor) else torch.as_tensor(value, device="cpu")
    if not made.is_floating_point():
        made = made.double() if not made.is_complex() else made
    if made.dim() == axes - 1:
        made = made[None]
    shown = f"an array of shape {tuple(made.shape)}"
    if made.dim() != axes or made.numel() == 0 or made.is_complex():
        raise InputError(field, shown, f"give real numbers along {axes - 1} or {axes} axes")
    if not bool(torch.isfinite(made).all()):
        raise InputError(field, shown, "give finite numbers")
    return made if like is None else made.to(like.device, like.dtype)


def _options(kernel: str, temperature: float, layer_norm: float | None, loss: str) -> None:
    if kernel not in KERNELS:
        raise InputError("kernel", kernel, f"choose one of {', '.join(KERNELS)}")
    if loss not in LOSSES:
        raise InputError("loss", loss, f"choose one of {', '.join(LOSSES)}")
    if not (temperature > 0 and isfinite(temperature)):
        raise InputError("temperature", temperature, "give a positive number")
    if layer_norm is not None and not (layer_norm >= 0 and isfinite(layer_norm)):
        raise InputError("layer_norm", layer_norm, "give an epsilon of at least 0")


def attention_layer(
    X: Any,
    Y: Any,
    W_V: Any,
    W_Q: Any = None,
    W_K: Any = None,
    W_QK: Any = None,
    W_O: Any = None,
    *,
    kernel: str = "softmax",
    temperature: float = 1.0,
    layer_norm: float | None = None,
    loss: str = "mean",
) -> AttentionLayer:
    """A layer from arrays, checked.

    Args:
        X: Tokens (L, D) or (N, L, D).
        Y: Targets (L, D_o) or (N, L, D_o).
        W_V: Value weights (D, d_v) or, several heads, (H, D, d_v).
        W_Q: Query weights (D, d) or (H, D, d).
        W_K: Key weights of the same shape.
        W_QK: Instead of W_Q and W_K: (D, D) or (H, D, D).
        W_O: Output weights (d_v, D_o) or (H, d_v, D_o), held fixed; identity if not given.
        kernel: "softmax", "gaussian" or "linear".
        temperature: tau.
        layer_norm: epsilon of the pre-layer-norm; none if not given.
        loss: "mean" (c = 2 / (N L D_o)) or "half-square" (c = 1).

    Returns:
        The layer, on the device and in the dtype of X.

    Raises:
        InputError: An option is unknown or shapes do not fit.

    Example:
        >>> eye = torch.eye(3, dtype=torch.float64)
        >>> layer = attention_layer(eye, eye, W_V=eye, W_Q=eye[:, :2], W_K=eye[:, 1:])
        >>> layer.names, layer.sizes(), round(layer.c, 3)
        (('W_Q', 'W_K', 'W_V'), (6, 6, 9), 0.222)
    """
    _options(kernel, temperature, layer_norm, loss)
    if (W_QK is None) == (W_Q is None and W_K is None) or (W_Q is None) != (W_K is None):
        raise InputError("weights", "W_Q, W_K, W_QK", "give either W_QK or both W_Q and W_K")
    if W_QK is not None and kernel == "gaussian":
        raise InputError("W_QK", "given", "give W_Q and W_K: the Gaussian kernel needs both")
    X = _axes("X", X, 3, None)
    Y = _axes("Y", Y, 3, X)
    made = {"W_V": _axes("W_V", W_V, 3, X)}
    made["W_Q"] = _axes("W_Q", W_Q, 3, X) if W_QK is None else _axes("W_QK", W_QK, 3, X)
    key = None if W_K is None else _axes("W_K", W_K, 3, X)
    out = None if W_O is None else _axes("W_O", W_O, 3, X)
    H, D, d = made["W_Q"].shape
    fits = (
        X.shape[:2] == Y.shape[:2]
        and X.shape[2] == D
        and made["W_V"].shape[:2] == (H, D)
        and (d == D if key is None else key.shape == (H, D, d))
        and (made["W_V"] if out is None else out).shape[::2] == (H, Y.shape[2])
        and (out is None or out.shape[1] == made["W_V"].shape[2])
    )
    if not fits:
        shapes = {"X": X, "Y": Y, **made, "W_K": key, "W_O": out}
        given = {name: tuple(t.shape) for name, t in shapes.items() if t is not None}
        wanted = "(N, L, D), (N, L, D_o), (H, D, d) or W_QK (H, D, D), (H, D, d_v), (H, d_v, D_o)"
        raise InputError("shapes", given, f"give {wanted}")
    layer = AttentionLayer(
        X, Y, made["W_Q"], key, made["W_V"], out, kernel, float(temperature), layer_norm, loss
    )
    if not bool(torch.isfinite(layer.tokens).all()):
        raise InputError("layer_norm", layer_norm, "give an epsilon > 0: a token is constant")
    return layer
