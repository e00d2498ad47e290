"""Dense Hessian of an attention layer, all blocks, exactly symmetric.

Softmax, in moment form. For every s < d the rows (a, s) of the Q block and all their columns are
one product x^T R_s, for every a < D the rows (a, t) of the K block are q^T R_a, with right factors
R made of one or two outer products per token (`gdconv.hessian.softmax`). Only the upper triangle
is multiplied out; T (d + D) P work space in pieces of CHUNK numbers. Nothing of size L^4 or D^3.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gdconv.hessian.gaussian import gaussian_hessian
from gdconv.hessian.layer import AttentionLayer, check_part
from gdconv.hessian.linear import linear_hessian
from gdconv.hessian.point import Point, evaluate
from gdconv.hessian.softmax import Moments, value_block
from gdconv.support.errors import InputError

CHUNK = 1 << 16
"""Numbers in a right factor: half a MiB, so that it stays in the cache."""

STREAMING = 1024
"""From this P on the matrix is larger than caches are, and is written past them."""

ROLE = {"W_QK": "W_Q", "W_Q": "W_Q", "W_K": "W_K", "W_V": "W_V"}
"""A single matrix W_QK is W_Q beside a fixed W_K = I."""


def _right_factor(pairs: list[tuple[Tensor, Tensor]], start: int, stop: int) -> Tensor:
    """Sum of the outer products of some indices, shape (S, T, B U)."""
    made: Tensor | None = None
    for pair in pairs:
        f, g = (p if len(p) == 1 else p[start:stop] for p in pair)
        product = (f.unsqueeze(-1) * g.unsqueeze(-2)).flatten(2)
        made = product if made is None else made + product
    assert made is not None
    return made


def _row_block(
    moments: Moments, row: str, h: int, columns: list[tuple[str, int]], into: Tensor
) -> None:
    """Rows of one head; `into` (rows, all columns), the columns of the first head are its own."""
    layer, at = moments.layer, 0
    D, d = layer.W_Q.shape[1:]
    left = (moments.x if row == "W_Q" else moments.q[h]).mT
    target = into.unflatten(0, (D, d))
    target = target.movedim(1, 0) if row == "W_Q" else target
    for column, g in columns:
        width = D * (d if column != "W_V" else layer.W_V.shape[2])
        pairs = moments.factors(row, h, column, g)
        step = max(1, CHUNK // (left.shape[1] * width))
        for start in range(0, len(target) if pairs else 0, step):
            stop = min(start + step, len(target))
            target[start:stop, :, at : at + width] = left @ _right_factor(pairs, start, stop)
        if not pairs:
            target[:, :, at : at + width] = 0.0
        at += width


def _by_operations(at: Point, names: tuple[str, ...], part: str, out: Tensor) -> None:
    """Fill `out` by torch operations: any device, any dtype."""
    layer, moments = at.layer, Moments(at, part)
    D, d = layer.W_Q.shape[1:]
    heads = [(ROLE[name], h) for name in names for h in range(layer.H)]
    sizes = [D * (layer.W_V.shape[2] if role == "W_V" else d) for role, _ in heads]
    ends = [sum(sizes[: n + 1]) for n in range(len(sizes))]
    for n, (role, h) in enumerate(heads):
        rows = slice(ends[n] - sizes[n], ends[n])
        if role != "W_V":
            _row_block(moments, role, h, heads[n:], out[rows, rows.start :])
            continue
        for k in range(n, len(heads)):
            block = out[rows, ends[k] - sizes[k] : ends[k]]
            into = block.unflatten(0, (D, -1)).unflatten(2, (D, -1))
            if moments.outer:
                value_block(at, h, heads[k][1], into)
            else:
                into.zero_()
    if moments.functional and {"W_Q", "W_K"} <= set(names):
        for h in range(layer.H):
            q, k = h * D * d, (layer.H + h) * D * d
            into = out[q : q + D * d, k : k + D * d].unflatten(0, (D, d)).unflatten(2, (D, d))
            into.diagonal(dim1=1, dim2=3).add_(moments.b[h].unsqueeze(-1))
    lower = torch.ones(out.shape, dtype=torch.bool, device=out.device).tril_(-1)
    out.copy_(torch.where(lower, out.mT, out))


def _by_loops(layer: AttentionLayer, names: tuple[str, ...], part: str, out: Tensor) -> None:
    """Fill `out` by compiled loops: float64 on the CPU."""
    from gdconv.compiled.hessian import fill  # numba loads slowly: only where it is needed

    W_K, W_O, D = layer.W_K, layer.W_O, layer.X.shape[2]
    identity = W_O is None
    if W_K is None:  # W_QK: keys are the tokens
        W_K = torch.eye(D, dtype=layer.X.dtype, device=layer.X.device).expand(layer.H, D, D)
    if W_O is None:
        o = layer.W_V.shape[2]
        W_O = torch.eye(o, dtype=layer.X.dtype, device=layer.X.device).expand(layer.H, o, o)
    given = (layer.tokens, layer.Y, layer.W_Q, W_K, layer.W_V, W_O)
    x, Y, *weights = (t.detach().contiguous().numpy() for t in given)
    roles = [ROLE[name] for name in names]
    flags = (identity, part != "functional", part != "outer")
    chosen = tuple(role in roles for role in ("W_Q", "W_K", "W_V"))
    L = x.shape[1]
    tokens, targets = x.reshape(-1, D), Y.reshape(-1, Y.shape[2])
    streaming = len(out) >= STREAMING and len(out) % 8 == 0 and out.data_ptr() % 64 == 0
    scales = (layer.c, layer.scale)
    arguments: Any = (tokens, targets, *weights, L, *scales, streaming, (*flags, *chosen))
    compiled: Any = fill
    compiled(out.numpy(), *arguments)


def aligned(P: int) -> Float[Tensor, "P P"]:
    """An unfilled float64 matrix whose rows start on cache lines where P allows it.

    NumPy asks for large pages, which a freshly filled matrix gains much from, but its arrays start
    16 bytes past a page: every vector store would cross a line.

    Args:
        P: Rows and columns.

    Returns:
        The matrix.

    Example:
        >>> aligned(16).data_ptr() % 64
        0
    """
    space = np.empty(P * P + 8)
    skip = -(space.ctypes.data // 8) % 8
    return torch.from_numpy(space[skip : skip + P * P].reshape(P, P))


def _reorder(
    H: Tensor, layer: AttentionLayer, have: tuple[str, ...], want: tuple[str, ...]
) -> Tensor:
    """The same matrix with its blocks in another order."""
    sizes, start, where = layer.sizes(have), 0, {}
    for name, size in zip(have, sizes, strict=True):
        where[name] = torch.arange(start, start + size, device=H.device)
        start += size
    index = torch.cat([where[name] for name in want])
    return H[index][:, index]


def hessian(
    layer: AttentionLayer,
    blocks: tuple[str, ...] | None = None,
    part: str = "total",
    out: Tensor | None = None,
    compiled: bool | None = None,
) -> Float[Tensor, "P P"]:
    """Hessian of the loss by the chosen weights, exactly symmetric.

    Parameter vector: blocks in the order asked for, each flattened as (H, D, d).

    Args:
        layer: Data, weights and options.
        blocks: Some of `layer.names`; all for None.
        part: "total" for H, "outer" for H_o = J^T (d^2 loss / dF^2) J, "functional" for H_f.
        out: Matrix (P, P) to fill, in the order of `layer.names`; a new one for None.
        compiled: True for compiled loops (softmax, float64 on the CPU), False for torch operations,
            None for the compiled ones where they apply.

    Returns:
        The matrix.

    Raises:
        InputError: Unknown blocks or part, or `out` does not fit.

    Example:
        >>> from gdconv.hessian.layer import attention_layer
        >>> eye = torch.eye(3, dtype=torch.float64)
        >>> layer = attention_layer(eye, 2 * eye, W_V=eye, W_Q=eye, W_K=eye)
        >>> H = hessian(layer)
        >>> H.shape, torch.equal(H, H.T)
        (torch.Size([27, 27]), True)
        >>> split = hessian(layer, part="outer") + hessian(layer, part="functional")
        >>> torch.allclose(H, split)
        True
        >>> float(hessian(layer, ("W_V",), "functional").abs().max())
        0.0
    """
    check_part(part)
    wanted = layer.chosen(blocks)
    names = tuple(name for name in layer.names if name in wanted)
    P, like = sum(layer.sizes(names)), layer.X
    if out is not None:
        shown = f"{out.dtype} of shape {tuple(out.shape)}"
        fits = out.shape == (P, P) and out.dtype == like.dtype and out.device == like.device
        if not fits or names != wanted or not out.is_contiguous():
            raise InputError("out", shown, f"give a contiguous {like.dtype} ({P}, {P}) in order")
    if compiled is None:
        compiled = like.device.type == "cpu" and like.dtype == torch.float64
    H = out
    if H is None:
        H = aligned(P) if compiled else like.new_empty(P, P)
    with torch.no_grad():
        if layer.kernel == "softmax" and compiled:
            _by_loops(layer, names, part, H)
        elif layer.kernel == "softmax":
            _by_operations(evaluate(layer), names, part, H)
        elif layer.kernel == "gaussian":
            gaussian_hessian(evaluate(layer), names, part, H)
        else:
            linear_hessian(evaluate(layer), names, part, H)
    return H if names == wanted else _reorder(H, layer, names, wanted)


def hessian_block(
    layer: AttentionLayer, row: str, column: str, part: str = "total"
) -> Float[Tensor, "p q"]:
    """One block of the Hessian.

    Args:
        layer: Data, weights and options.
        row: Name of the weights along the rows.
        column: Name of the weights along the columns.
        part: "total", "outer" or "functional".

    Returns:
        The block, rows and columns flattened as (H, D, d).

    Example:
        >>> from gdconv.hessian.layer import attention_layer
        >>> eye = torch.eye(3, dtype=torch.float64)
        >>> layer = attention_layer(eye, eye, W_V=eye, W_Q=eye[:, :2], W_K=eye[:, :2])
        >>> hessian_block(layer, "W_V", "W_Q").shape
        torch.Size([9, 6])
    """
    if row == column:
        return hessian(layer, (row,), part)
    H = hessian(layer, (row, column), part)
    size = layer.weight(row).numel()
    return H[:size, size:]
