"""Hessians by automatic differentiation, from the definition of a network and nothing else.

The slow second opinion of the closed forms, and what there is for networks that have none here.
H, H_o and H_f come from three evaluations: of the loss, of the Jacobian of F, and of <r, F> with r
held fixed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from gdconv.hessian.layer import AttentionLayer


def split_hessian(
    F: Callable[[Tensor], Tensor],
    theta: Float[Tensor, " P"],
    Y: Float[Tensor, "..."],
    c: float,
) -> dict[str, Tensor]:
    """H, H_o = c J^T J and H_f = c sum_i (F - Y)_i d^2 F_i of the loss c/2 |F - Y|^2.

    Args:
        F: Output of the network by its weights.
        theta: The weights.
        Y: Targets, of the shape of F.
        c: Second derivative of the loss by an entry of F.

    Returns:
        Matrices (P, P) by "total", "outer", "functional".

    Example:
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> found = split_hessian(lambda t: t**2, one, 3 * one, 1.0)
        >>> {part: float(H) for part, H in found.items()}
        {'total': 0.0, 'outer': 4.0, 'functional': -4.0}
    """
    with warnings.catch_warnings():  # of torch's own imports
        warnings.simplefilter("ignore", DeprecationWarning)
        J = torch.func.jacrev(F)(theta).reshape(-1, len(theta))
        r = (c * (F(theta) - Y)).detach()
        return {
            "total": torch.func.hessian(lambda t: 0.5 * c * (F(t) - Y).square().sum())(theta),
            "outer": c * J.mT @ J,
            "functional": torch.func.hessian(lambda t: (r * F(t)).sum())(theta),
        }


def parameters(layer: AttentionLayer) -> Float[Tensor, " P"]:
    """The weights of a layer as one vector, blocks in the order of `layer.names`.

    Args:
        layer: The layer.

    Returns:
        The vector.
    """
    return torch.cat([layer.weight(name).flatten() for name in layer.names])


def layer_output(layer: AttentionLayer, theta: Float[Tensor, " P"]) -> Float[Tensor, "N L o"]:
    """F at other weights, written from the definition.

    Args:
        layer: Data, fixed weights and options.
        theta: Differentiated weights, as `parameters` gives them.

    Returns:
        F.

    Example:
        >>> from gdconv.hessian.layer import attention_layer
        >>> eye = torch.eye(2, dtype=torch.float64)
        >>> layer = attention_layer(eye, 0 * eye, W_V=eye, W_QK=0 * eye)
        >>> layer_output(layer, parameters(layer))[0, 0]
        tensor([0.5000, 0.5000], dtype=torch.float64)
    """
    X = layer.X
    if layer.layer_norm is not None:
        X = torch.nn.functional.layer_norm(X, X.shape[-1:], eps=layer.layer_norm)
    pieces = zip(layer.names, theta.split(layer.sizes()), strict=True)
    w = {name: piece.reshape(layer.weight(name).shape) for name, piece in pieces}
    total = torch.zeros_like(layer.Y)
    for h in range(layer.H):
        if "W_QK" in w:
            T = X @ w["W_QK"][h] @ X.mT / layer.temperature
        else:
            q, k = X @ w["W_Q"][h], X @ w["W_K"][h]
            root = q.shape[-1] ** 0.5 * layer.temperature
            T = q @ k.mT / root
        if layer.kernel == "softmax":
            A = torch.softmax(T, -1)
        elif layer.kernel == "gaussian":
            gaps = (q.unsqueeze(-2) - k.unsqueeze(-3)).square().sum(-1)
            A = torch.exp(-gaps / (2 * root))
        else:
            A = T
        V = w["W_V"][h] if layer.W_O is None else w["W_V"][h] @ layer.W_O[h]
        total = total + A @ (X @ V)
    return total


def layer_split(layer: AttentionLayer) -> dict[str, Tensor]:
    """H, H_o, H_f of a layer by automatic differentiation.

    Args:
        layer: The layer.

    Returns:
        Matrices (P, P) by part.

    Example:
        >>> from gdconv.hessian.dense import hessian
        >>> from gdconv.hessian.layer import attention_layer
        >>> eye = torch.eye(3, dtype=torch.float64)
        >>> layer = attention_layer(eye, 2 * eye, W_V=eye, W_Q=eye, W_K=eye)
        >>> torch.allclose(layer_split(layer)["total"], hessian(layer))
        True
    """
    N, L, o = layer.Y.shape
    c = 2 / (N * L * o) if layer.loss == "mean" else 1.0
    return split_hessian(lambda t: layer_output(layer, t), parameters(layer), layer.Y, c)
