"""Dense Hessian for the unnormalised Gaussian kernel.

u_ij = q_i - k_j, S = weights, s = scale; J_Q,i = x_i Y_i with Y_i = -s sum_j S_ij u_ij v_j^T, and
J_K,i[b, t, o] = K_i[b, t, o] = s sum_j S_ij x_jb u_ij,t v_jo is no outer product. With
P_ij = S_ij <r_i, v_j> and E_ij = s^2 u_ij u_ij^T - s I the functional part is

    QQ  c sum_ij P_ij x_i x_i^T tensor E_ij,   KK  c sum_ij P_ij x_j x_j^T tensor E_ij,
    QK  -c sum_ij P_ij x_i x_j^T tensor E_ij.
"""

from __future__ import annotations

from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from gdconv.hessian.point import Point
from gdconv.hessian.softmax import value_block

_sum = torch.einsum


class _Head:
    """Tensors of one head; samples lead."""

    def __init__(self, at: Point, h: int) -> None:
        layer = at.layer
        self.c, self.s, self.at, self.h = layer.c, layer.scale, at, h
        self.x, self.m, self.S, self.v = at.x, at.m[h], at.A[h], at.v[h]
        self.u = at.q[h].unsqueeze(-2) - at.k[h].unsqueeze(-3)  # (N, L, L, d)

    @cached_property
    def Y(self) -> Float[Tensor, "N L d o"]:
        """Query tangents."""
        return -self.s * _sum("nij,nijs,njo->niso", self.S, self.u, self.v)

    @cached_property
    def Su(self) -> Float[Tensor, "N L D d L"]:
        """s S_ij x_jb u_ij,t, indices (i, b, t, j)."""
        return self.s * _sum("nij,njb,nijt->nibtj", self.S, self.x, self.u)

    @cached_property
    def K(self) -> Float[Tensor, "N L D d o"]:
        """Key tangents."""
        return self.Su @ self.v[:, None, None]

    @cached_property
    def G(self) -> Float[Tensor, "N L D d D"]:
        """s sum_j S_ij x_jb u_ij,t x_ja, indices (i, b, t, a)."""
        return self.Su @ self.x[:, None, None]

    @cached_property
    def U(self) -> Float[Tensor, "N L d D"]:
        """-s sum_j S_ij u_ij x_j^T."""
        return -self.s * _sum("nij,nijs,nja->nisa", self.S, self.u, self.x)

    @cached_property
    def E(self) -> Float[Tensor, "N L L d d"]:
        """c P_ij E_ij."""
        E = self.s**2 * self.u.unsqueeze(-1) * self.u.unsqueeze(-2)
        E.diagonal(dim1=-2, dim2=-1).sub_(self.s)
        return self.c * self.at.P[self.h][..., None, None] * E

    def pull(self, W: Tensor | None) -> Tensor:
        """c W_O r_i."""
        r = self.c * self.at.r
        return r if W is None else r @ W[self.h].mT


def _block(f: _Head, g: _Head, role: str, column: str, outer: bool, functional: bool) -> Tensor:
    """Block of W_Q or W_K of head f with the weights of head g, four axes."""
    W_O, c, x = f.at.layer.W_O, f.c, f.x
    made: list[Tensor] = []
    if column == "W_V":
        tangent = f.Y if role == "W_Q" else f.K
        if outer:
            tangent = c * tangent if W_O is None else c * tangent @ W_O[g.h].mT
            query = role == "W_Q"
            made.append(
                _sum("nix,nisv,nia->xsav", x, tangent, g.m)
                if query
                else _sum("nibtv,nia->btav", tangent, g.m)
            )
        if functional and role == "W_Q":
            made.append(_sum("nix,nisa,niv->xsav", x, f.U, f.pull(W_O)))
        elif functional:
            made.append(_sum("nibta,niv->btav", f.G, f.pull(W_O)))
    elif role == "W_Q" and column == "W_Q":
        if outer:
            made.append(_sum("nia,nib,nist->asbt", x, x, c * f.Y @ g.Y.mT))
        if functional:
            made.append(_sum("nia,nib,nist->asbt", x, x, f.E.sum(2)))
    elif role == "W_Q":
        if outer:
            made.append(_sum("nia,nisbt->asbt", x, _sum("niso,nibto->nisbt", c * f.Y, g.K)))
        if functional:
            made.append(-_sum("nia,nisbt->asbt", x, _sum("nijst,njb->nisbt", f.E, x)))
    else:
        if outer:
            made.append(_sum("niaso,nibto->asbt", c * f.K, g.K))
        if functional:
            made.append(_sum("nja,njb,njst->asbt", x, x, f.E.sum(1)))
    if made:
        return made[0] if len(made) == 1 else made[0] + made[1]
    layer = f.at.layer
    D, d, last = *layer.W_Q.shape[1:], layer.weight(column).shape[2]
    return x.new_zeros(D, d, D, last)


def gaussian_hessian(
    at: Point, names: tuple[str, ...], part: str, out: Float[Tensor, "P P"]
) -> None:
    """Fill `out` with the Hessian, blocks in the order of `names`.

    Args:
        at: Forward pass of a layer with the Gaussian kernel.
        names: Blocks.
        part: "total", "outer" or "functional".
        out: The matrix.
    """
    layer, outer, functional = at.layer, part != "functional", part != "outer"
    parts = [_Head(at, h) for h in range(layer.H)]
    heads = [(name, h) for name in names for h in range(layer.H)]
    D, start, where = layer.W_Q.shape[1], 0, []
    for name, _ in heads:
        where.append(slice(start, start + D * layer.weight(name).shape[2]))
        start = where[-1].stop
    for n, (row, h) in enumerate(heads):
        for k in range(n, len(heads)):
            column, g = heads[k]
            into = out[where[n], where[k]].unflatten(0, (D, -1)).unflatten(2, (D, -1))
            if row == "W_V":
                value_block(at, h, g, into) if outer else into.zero_()
            else:
                into.copy_(_block(parts[h], parts[g], row, column, outer, functional and h == g))
            block = into.flatten(2).flatten(0, 1)
            if n == k:
                block.copy_(0.5 * (block + block.mT))
            else:
                out[where[k], where[n]] = block.mT
