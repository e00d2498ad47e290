"""The same loss written plainly, for automatic differentiation: shares nothing with gdconv."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gdconv.hessian.layer import AttentionLayer, attention_layer

KINDS = ("softmax", "gaussian", "linear", "softmax-single", "linear-single")


def draw(kind: str, shape: tuple[int, ...], seed: int, scale: float = 1.0, **extra: Any) -> Any:
    """A random layer; shape = (N, L, D, d, H, d_v, D_o), W_O = I where d_v = 0."""
    N, L, D, d, H, d_v, D_o = shape
    rng = np.random.default_rng(seed)

    def normal(*size: int) -> Tensor:
        return torch.from_numpy(rng.standard_normal(size))

    weights = {"W_V": normal(H, D, d_v or D_o) / D**0.5}
    if d_v:
        weights["W_O"] = normal(H, d_v, D_o)
    if kind.endswith("single"):
        weights["W_QK"] = normal(H, D, D) * scale / D**0.5
    else:
        weights["W_Q"] = normal(H, D, d) * scale / D**0.5
        weights["W_K"] = normal(H, D, d) * scale / D**0.5
    X, Y = normal(N, L, D), normal(N, L, D_o)
    return attention_layer(X, Y, kernel=kind.split("-")[0], **weights, **extra)


def output(layer: AttentionLayer, weights: dict[str, Tensor]) -> Tensor:
    """F, from the definitions."""
    X = layer.X
    if layer.layer_norm is not None:
        X = torch.nn.functional.layer_norm(X, X.shape[-1:], eps=layer.layer_norm)
    total: Any = 0.0
    for h in range(layer.H):
        V = weights["W_V"][h]
        if "W_QK" in weights:
            T = X @ weights["W_QK"][h] @ X.mT / layer.temperature
        else:
            q, k = X @ weights["W_Q"][h], X @ weights["W_K"][h]
            T = q @ k.mT / (q.shape[-1] ** 0.5 * layer.temperature)
        A = T
        if layer.kernel == "softmax":
            A = torch.softmax(T, -1)
        elif layer.kernel == "gaussian":
            gap = (q.unsqueeze(-2) - k.unsqueeze(-3)).square().sum(-1)
            A = torch.exp(-gap / (2 * q.shape[-1] ** 0.5 * layer.temperature))
        total = total + A @ (X @ (V if layer.W_O is None else V @ layer.W_O[h]))
    return total


def _functions(layer: AttentionLayer) -> tuple[Any, Any, Tensor, float]:
    names, sizes = layer.names, layer.sizes()
    start = torch.cat([layer.weight(name).flatten() for name in names])

    def F(theta: Tensor) -> Tensor:
        parts = theta.split(sizes)
        pairs = zip(names, parts, strict=True)
        return output(layer, {n: p.view(layer.weight(n).shape) for n, p in pairs}).flatten()

    N, L, o = layer.Y.shape
    c = 2 / (N * L * o) if layer.loss == "mean" else 1.0
    return F, lambda theta: 0.5 * c * (F(theta) - layer.Y.flatten()).square().sum(), start, c


def automatic(layer: AttentionLayer, part: str = "total") -> Tensor:
    """H by torch.func.hessian, H_o = c J^T J by torch.func.jacrev, H_f their difference."""
    F, loss, start, c = _functions(layer)
    with warnings.catch_warnings():  # of torch's own imports
        warnings.simplefilter("ignore", DeprecationWarning)
        total = torch.func.hessian(loss)(start)
    if part == "total":
        return total
    J = torch.func.jacrev(F)(start)
    outer = c * J.T @ J
    return outer if part == "outer" else total - outer


def unfit(layer: AttentionLayer) -> AttentionLayer:
    """The same layer with a residual of exactly zero: there H = H_o."""
    weights = {name: layer.weight(name) for name in layer.names}
    return replace(layer, Y=output(layer, weights))
