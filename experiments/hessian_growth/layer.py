"""Block norms of the bare layer: against input scale, temperature, and depth.

The bare layer: L = 8 tokens, D = 6, d = 4, X_0 and Y standard normal, weights normal with variance
1/D, squared loss, by the closed forms of `gdconv.hessian`. Depth: m layers of linear attention
without skips, X_{l+1} = X_l W_Q W_K^T X_l^T X_l W_V / sqrt(d), by reverse-mode autograd: the blocks
of H_o from the Jacobian, those of H_f from sum_i r_i F_i at fixed r, so that neither is lost in the
other.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from gdconv.hessian.dense import hessian
from gdconv.hessian.layer import AttentionLayer, attention_layer

SHAPE = (8, 6, 4)
"""L, D, d of the bare layer."""

DEPTH_SHAPE = (6, 4, 3)
"""L, D, d of the deep linear ones; depth 3 has exponents up to 54."""

BLOCKS = ("VV", "QQ", "KK", "VQ", "VK", "QK")
Row = tuple[float, str, str, float]
"""Scale (or temperature), block, part, Frobenius norm."""


def draw(shape: tuple[int, int, int], seed: int, depth: int = 1) -> dict[str, Tensor]:
    """Tokens, targets and weights.

    Args:
        shape: L, D, d.
        seed: Of everything.
        depth: Layers; weights lead with this axis.

    Returns:
        X, Y, W_Q, W_K, W_V, float64.

    Example:
        >>> {name: tuple(t.shape) for name, t in draw((3, 2, 1), 0).items()}
        {'X': (3, 2), 'Y': (3, 2), 'W_Q': (1, 2, 1), 'W_K': (1, 2, 1), 'W_V': (1, 2, 2)}
    """
    L, D, d = shape
    rng = torch.Generator("cpu").manual_seed(seed)
    shapes = {"X": (L, D), "Y": (L, D), "W_Q": (depth, D, d), "W_K": (depth, D, d)}
    shapes["W_V"] = (depth, D, D)
    made = {
        k: torch.randn(s, generator=rng, dtype=torch.float64, device="cpu")
        for k, s in shapes.items()
    }
    return {k: t / D**0.5 if k.startswith("W") else t for k, t in made.items()}


def _norms(layer: AttentionLayer) -> list[tuple[str, str, float]]:
    """Frobenius norms of all blocks and parts."""
    parts = {part: hessian(layer, None, part) for part in ("outer", "functional")}
    parts["total"] = parts["outer"] + parts["functional"]
    ends = np.cumsum((0, *layer.sizes())).tolist()
    where = {name[-1]: slice(ends[k], ends[k + 1]) for k, name in enumerate(layer.names)}
    return [
        (block, part, float(H[where[block[0]], where[block[1]]].norm()))
        for part, H in parts.items()
        for block in BLOCKS
    ]


def along_scale(variant: str, seed: int, scales: tuple[float, ...]) -> list[Row]:
    """The bare layer at X = s X_0.

    Args:
        variant: "softmax", "linear" or "layer norm" (softmax with pre-layer-norm).
        seed: Of data and weights.
        scales: s.

    Returns:
        One row per scale, block and part.
    """
    kernel = "linear" if variant == "linear" else "softmax"
    epsilon = 1e-5 if variant == "layer norm" else None
    drawn = draw(SHAPE, seed)
    others = [drawn[name] for name in ("Y", "W_V", "W_Q", "W_K")]
    rows = []
    for s in scales:
        X = s * drawn["X"]
        layer = attention_layer(X, *others, kernel=kernel, layer_norm=epsilon)
        rows += [(s, *row) for row in _norms(layer)]
    return rows


def along_temperature(seed: int, temperatures: tuple[float, ...]) -> list[Row]:
    """Softmax of T / tau at X = X_0.

    Args:
        seed: Of data and weights.
        temperatures: tau.

    Returns:
        One row per temperature, block and part.
    """
    drawn = draw(SHAPE, seed)
    given = [drawn[name] for name in ("X", "Y", "W_V", "W_Q", "W_K")]
    rows = []
    for tau in temperatures:
        rows += [(tau, *row) for row in _norms(attention_layer(*given, temperature=tau))]
    return rows


def forward(X: Tensor, W_Q: Tensor, W_K: Tensor, W_V: Tensor) -> Tensor:
    """Layers of linear attention without skips.

    Args:
        X: Tokens.
        W_Q: (m, D, d).
        W_K: (m, D, d).
        W_V: (m, D, D).

    Returns:
        Tokens after the last layer.
    """
    for Q, K, V in zip(W_Q, W_K, W_V, strict=True):
        X = (X @ Q @ (X @ K).mT) @ (X @ V) / Q.shape[1] ** 0.5
    return X


def along_depth(depth: int, seed: int, scales: tuple[float, ...]) -> list[Row]:
    """Q and V blocks of every layer of deep linear attention at X = s X_0.

    Args:
        depth: m.
        seed: Of data and weights.
        scales: s.

    Returns:
        One row per scale, block ("Q1" is that of the first layer) and part.
    """
    drawn = draw(DEPTH_SHAPE, seed, depth)
    inputs = torch.tensor(scales, dtype=torch.float64, device="cpu")[:, None, None] * drawn["X"]
    weights = {name: drawn[name] for name in ("W_Q", "W_K", "W_V")}
    c = 2.0 / drawn["Y"].numel()
    rows: list[Row] = []
    for name in ("W_Q", "W_V"):
        for at in range(depth):
            start = weights[name][at]

            def output(w: Tensor, X: Tensor, name: str = name, at: int = at) -> Tensor:
                whole = weights[name]
                changed = torch.cat((whole[:at], w.reshape(whole[:1].shape), whole[at + 1 :]))
                return forward(X, **weights | {name: changed})

            def parts(
                X: Tensor,
                start: Tensor = start,
                output: Callable[[Tensor, Tensor], Tensor] = output,
            ) -> dict[str, Tensor]:
                w = start.flatten()
                r = output(w, X) - drawn["Y"]
                J = torch.func.jacrev(output)(w, X).flatten(0, 1)

                def along(w: Tensor) -> Tensor:
                    return (r * output(w, X)).sum()

                outer = c * J.mT @ J
                functional = c * torch.func.jacrev(torch.func.jacrev(along))(w)
                made = {"outer": outer, "functional": functional, "total": outer + functional}
                return {part: H.norm() for part, H in made.items()}

            for part, found in torch.func.vmap(parts)(inputs).items():
                label = f"{name[-1]}{at + 1}"
                rows += [(s, label, part, v) for s, v in zip(scales, found.tolist(), strict=True)]
    return rows
