"""Moments of the tokens under the rows of softmax attention, and the factors of every block.

All rows i of all samples are stacked: T = N L. With centred tokens x^, keys k^ = W_K^T x^, values
v^ = W^T x^, W = W_V W_O, scale s (1/sqrt(d), temperature) and P of `gdconv.hessian.point`:

    S_xk = sum_j A_ij x^_j k^_j^T,   S_xx = sum_j A_ij x^_j x^_j^T      second moments
    Y = s sum_j A_ij k^_j v^_j^T,    Z = s sum_j A_ij x^_j v^_j^T       J_Q = x Y, J_K = Z q
    C_kk, C_kx, C_xx = sum_j P_ij (.)(.)^T                              third moments along W r_i

"Centred" is about the mean under row i. Everything is invariant to a shift of the tokens, which
are centred about their sample's mean first.
"""

from __future__ import annotations

from functools import cached_property

from jaxtyping import Float
from torch import Tensor

from gdconv.hessian.layer import AttentionLayer
from gdconv.hessian.point import Point


def _rows(B: Tensor) -> Tensor:
    """(H, N, L, ...) -> (H, T, ...)."""
    return B.flatten(1, 2)


class Moments:
    """Moments and block factors of a softmax layer; each computed once, when first asked for.

    Example:
        >>> import torch
        >>> from gdconv.hessian.layer import attention_layer
        >>> from gdconv.hessian.point import evaluate
        >>> eye = torch.eye(3, dtype=torch.float64)
        >>> at = evaluate(attention_layer(eye, eye, W_V=eye, W_Q=0 * eye, W_K=eye))
        >>> (3 * Moments(at, "total").S_xx[0, 0]).round(decimals=3).tolist()[0]  # uniform attention
        [0.667, -0.333, -0.333]

    Args:
        at: Forward pass.
        part: "total", "outer" or "functional".
    """

    def __init__(self, at: Point, part: str) -> None:
        self.at, self.layer = at, at.layer
        self.outer, self.functional = part != "functional", part != "outer"
        self.c, self.s = at.layer.c, at.layer.scale
        xc = at.x - at.x.mean(1, keepdim=True)
        self.xc = xc.expand(at.layer.H, -1, -1, -1)
        single = at.layer.W_K is None
        self.kc = self.xc if single else at.k - at.k.mean(2, keepdim=True)
        self.mc, self.x = at.A @ self.xc, at.x.flatten(0, 1)
        self.kb = self.mc if single else at.A @ self.kc

    def _second(
        self, f: Tensor, f_mean: Tensor, g: Tensor, g_mean: Tensor, scale: float = 1.0
    ) -> Tensor:
        """Scaled sum_j A_ij f^_j g^_j^T, shape (H, T, F, G)."""
        made = self._pair_sums(self.at.A, f, g)
        return _rows(made.sub_(f_mean.unsqueeze(-1) * g_mean.unsqueeze(-2)).mul_(scale))

    def _third(self, f: Tensor, f_mean: Tensor, g: Tensor, g_mean: Tensor) -> Tensor:
        """c s^2 sum_j P_ij f^_j g^_j^T; the rows of P sum to zero."""
        P = self.at.P
        made = self._pair_sums(P, f, g)
        made.sub_((P @ f).unsqueeze(-1) * g_mean.unsqueeze(-2))
        made.sub_(f_mean.unsqueeze(-1) * (P @ g).unsqueeze(-2))
        return _rows(made.mul_(self.c * self.s**2))

    @staticmethod
    def _pair_sums(M: Tensor, f: Tensor, g: Tensor) -> Tensor:
        """sum_j M_ij f_j g_j^T."""
        pairs = (f.unsqueeze(-1) * g.unsqueeze(-2)).flatten(3)
        return (M @ pairs).unflatten(3, (f.shape[-1], g.shape[-1]))

    @cached_property
    def vc(self) -> Float[Tensor, "H N L o"]:
        """Values of the centred tokens."""
        return self.xc @ self.at.W.unsqueeze(1)

    @cached_property
    def vb(self) -> Float[Tensor, "H N L o"]:
        """Means of the centred values."""
        return self.at.A @ self.vc

    @cached_property
    def S_xk(self) -> Float[Tensor, "H T D d"]:
        """Second moments of tokens and keys."""
        return self._second(self.xc, self.mc, self.kc, self.kb)

    @cached_property
    def S_xx(self) -> Float[Tensor, "H T D D"]:
        """Second moments of the tokens."""
        return self._second(self.xc, self.mc, self.xc, self.mc)

    @cached_property
    def Y(self) -> Float[Tensor, "H T d o"]:
        """Query tangents."""
        return self._second(self.kc, self.kb, self.vc, self.vb, self.s)

    @cached_property
    def Z(self) -> Float[Tensor, "H T D o"]:
        """Key tangents."""
        return self._second(self.xc, self.mc, self.vc, self.vb, self.s)

    @cached_property
    def C_kk(self) -> Float[Tensor, "H T d d"]:
        """Third moments, keys and keys, times c s^2."""
        return self._third(self.kc, self.kb, self.kc, self.kb)

    @cached_property
    def C_kx(self) -> Float[Tensor, "H T d D"]:
        """Third moments, keys and tokens, times c s^2."""
        return self._third(self.kc, self.kb, self.xc, self.mc)

    @cached_property
    def C_xx(self) -> Float[Tensor, "H T D D"]:
        """Third moments of the tokens, times c s^2."""
        return self._third(self.xc, self.mc, self.xc, self.mc)

    @cached_property
    def m(self) -> Float[Tensor, "H T D"]:
        """Means of the tokens."""
        return _rows(self.at.m)

    @cached_property
    def q(self) -> Float[Tensor, "H T d"]:
        """Queries."""
        return _rows(self.at.q)

    @cached_property
    def pulled(self) -> Float[Tensor, "H T v"]:
        """c s W_O r_i."""
        r = self.at.r.flatten(0, 1) * (self.c * self.s)
        W_O = self.layer.W_O
        return r.expand(self.layer.H, -1, -1) if W_O is None else r @ W_O.mT

    @cached_property
    def b(self) -> Float[Tensor, "H D D"]:
        """c s X^T P X: what W_Q and W_K share because the scores are bilinear in them."""
        return (self.at.x.mT @ self.at.b).sum(1) * (self.c * self.s)

    def _gram(self, f: Tensor, g: Tensor, third: Tensor | None) -> Tensor:
        """c f g^T for every row, shape (T, F, G), plus the third moments."""
        made = third
        if self.outer:
            outer = (f * self.c) @ g.mT
            made = outer if made is None else outer + made
        return f.new_zeros(len(f), f.shape[1], g.shape[1]) if made is None else made

    def factors(self, row: str, h: int, column: str, g: int) -> list[tuple[Tensor, Tensor]]:
        """Pairs (f, g) whose products f[i, b] g[i, u] sum to the right factor of a block.

        Row block Q is x^T times the right factor for every s < d, row block K is q^T times it for
        every a < D; the loop index leads (length 1 where nothing depends on it).

        Args:
            row: "W_Q" or "W_K".
            h: Head of the rows.
            column: "W_Q", "W_K" or "W_V".
            g: Head of the columns.

        Returns:
            One or two pairs of shapes (S, T, B) and (S, T, U).
        """
        same = self.functional and h == g
        left = (self.Y if row == "W_Q" else self.Z) if self.outer or column != "W_V" else None
        if column == "W_V":
            pairs = []
            if left is not None:
                W_O = self.layer.W_O
                tangent = left[h] * self.c
                tangent = tangent if W_O is None else tangent @ W_O[g].mT
                pairs.append((self.m[g][None], tangent.movedim(1, 0)))
            if same:
                S = self.S_xk[h].permute(2, 0, 1) if row == "W_Q" else self.S_xx[h].movedim(1, 0)
                pairs.append((S, self.pulled[h][None]))
            return pairs
        assert left is not None
        if column == "W_Q":
            gram = self._gram(left[h], self.Y[g], self.C_kk[h] if same else None)
            return [(self.x[None], gram.movedim(1, 0))]
        third = None
        if same:
            third = self.C_kx[h] if row == "W_Q" else self.C_xx[h]
        gram = self._gram(left[h], self.Z[g], third)
        return [(gram.movedim(1, 0), self.q[g][None])]


def value_gram(at: Point, h: int, g: int) -> Float[Tensor, "D D"]:
    """c sum_i m_i^h (m_i^g)^T, exactly symmetric in the heads."""
    m = at.m.flatten(1, 2)
    low, high = min(h, g), max(h, g)
    gram = (m[low] * at.layer.c).mT @ m[high]
    if h == g:
        return 0.5 * (gram + gram.mT)
    return gram if h < g else gram.mT.contiguous()


def value_block(at: Point, h: int, g: int, into: Float[Tensor, "D v D w"]) -> None:
    """W_V, W_V block of heads h and g: c sum_i m_i m_i^T tensor W_O,h W_O,g^T.

    Args:
        at: Forward pass.
        h: Head of the rows.
        g: Head of the columns.
        into: Output, a view.
    """
    layer: AttentionLayer = at.layer
    gram = value_gram(at, h, g)
    if layer.W_O is None:
        into.zero_()
        into.diagonal(dim1=1, dim2=3).copy_(gram.unsqueeze(-1))
    else:
        low, high = min(h, g), max(h, g)
        products = layer.W_O[low] @ layer.W_O[high].mT
        products = 0.5 * (products + products.mT) if h == g else products
        products = products if h <= g else products.mT
        into.copy_(gram[:, None, :, None] * products[:, None, :])
