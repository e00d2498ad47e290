"""Dense Hessian for linear attention, A = T: sums over tokens are taken before multiplying out.

S_x = X^T X per sample; every block is a Kronecker product of two small matrices. The diagonal
blocks of H_f vanish, since the output is linear in each of W_Q, W_K and W_V.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from gdconv.hessian.point import Point
from gdconv.hessian.softmax import value_block

_sum = torch.einsum


class _Pieces:
    """Sums over the tokens of each sample, for all heads."""

    def __init__(self, at: Point) -> None:
        layer, x = at.layer, at.x
        self.at, self.c, self.s = at, layer.c, layer.scale
        self.S = x.mT @ x  # (N, D, D)
        keys = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        self.W_K = keys.expand(layer.H, -1, -1) if layer.W_K is None else layer.W_K
        self.Z = self.s * self.S @ at.W.unsqueeze(1)  # (H, N, D, o): S_x W
        self.Y = self.W_K.mT.unsqueeze(1) @ self.Z  # (H, N, d, o)
        self.xm = x.mT @ at.m  # (H, N, D, D): sum_i x_i m_i^T
        self.xr = x.mT @ at.r  # (N, D, o)
        self.b = self.c * self.s * (x.mT @ at.b).sum(1)  # (H, D, D)

    def block(self, row: str, h: int, column: str, g: int, outer: bool, functional: bool) -> Tensor:
        """Block of W_Q or W_K of head h with the weights of head g, four axes."""
        layer, c, S = self.at.layer, self.c, self.S
        W_Q, W_O = layer.W_Q, layer.W_O
        tangent = {"W_Q": self.Y, "W_K": self.Z}
        gram = c * tangent[row][h] @ tangent.get(column, self.Z)[g].mT
        made: Tensor | None = None
        if outer and column == "W_V":
            pulled = c * tangent[row][h]
            pulled = pulled if W_O is None else pulled @ W_O[g].mT
            left = self.xm[g] if row == "W_Q" else W_Q[h].mT @ self.xm[g]
            pattern = "nab,nsv->asbv" if row == "W_Q" else "ntb,nav->atbv"
            made = _sum(pattern, left, pulled)
        elif outer and row == "W_Q" and column == "W_Q":
            made = _sum("nab,nst->asbt", S, gram)
        elif outer and row == "W_Q":
            made = _sum("nat,nsb->asbt", S @ W_Q[g], gram)
        elif outer:
            made = _sum("nab,nst->asbt", gram, W_Q[h].mT @ S @ W_Q[g])
        if functional and column == "W_V":
            r = self.xr if W_O is None else self.xr @ W_O[h].mT
            factor = c * self.s
            extra = (
                _sum("nbs,nav->asbv", factor * S @ self.W_K[h], r)
                if row == "W_Q"
                else _sum("nab,ntv->atbv", factor * S, W_Q[h].mT @ r)
            )
            made = extra if made is None else made + extra
        D, d, last = *W_Q.shape[1:], layer.W_V.shape[2] if column == "W_V" else W_Q.shape[2]
        if made is None:
            made = S.new_zeros(D, d, D, last)
        if functional and row == "W_Q" and column == "W_K":
            made.diagonal(dim1=1, dim2=3).add_(self.b[h].unsqueeze(-1))
        return made


def linear_hessian(at: Point, names: tuple[str, ...], part: str, out: Float[Tensor, "P P"]) -> None:
    """Fill `out` with the Hessian, blocks in the order of `names`.

    Args:
        at: Forward pass of a layer with linear attention.
        names: Blocks.
        part: "total", "outer" or "functional".
        out: The matrix.
    """
    layer, outer, functional = at.layer, part != "functional", part != "outer"
    pieces = _Pieces(at)
    heads = [(name.replace("QK", "Q"), h) for name in names for h in range(layer.H)]
    D, d, start, where = *layer.W_Q.shape[1:], 0, []
    for name, _ in heads:
        where.append(slice(start, start + D * (layer.W_V.shape[2] if name == "W_V" else d)))
        start = where[-1].stop
    for n, (row, h) in enumerate(heads):
        for k in range(n, len(heads)):
            column, g = heads[k]
            into = out[where[n], where[k]].unflatten(0, (D, -1)).unflatten(2, (D, -1))
            if row == "W_V":
                value_block(at, h, g, into) if outer else into.zero_()
            else:
                into.copy_(pieces.block(row, h, column, g, outer, functional and h == g))
            block = into.flatten(2).flatten(0, 1)
            if n == k:
                block.copy_(0.5 * (block + block.mT))
            else:
                out[where[k], where[n]] = block.mT
