"""Hessian-vector products in closed form: the gradient, differentiated by hand in one direction.

Nothing larger than the attention weights is formed. With the direction (Q', K', V') and a prime for
derivatives, T' = s X (Q' W_K^T + W_Q K'^T) X^T for the scores (softmax and linear) and

    F' = A' X W + m W',    P' = derivative of the score gradient P,    E = X^T P' X
    H v:  W_Q: c s (E W_K + B K'),   W_K: c s (E^T W_Q + B^T Q'),   B = X^T P X,
          W_V: c (m^T F' + (A' X)^T r) W_O^T.

B belongs to the point and not to the direction: it is all that the bilinearity of the scores adds.
The outer part keeps F' and drops what multiplies r; the functional part is the rest. Where the
head is narrow, X^T P' (X W_K) is formed instead of E, whichever takes fewer multiplications.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gdconv.hessian.layer import AttentionLayer, check_part
from gdconv.hessian.point import evaluate
from gdconv.support.errors import InputError

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

__all__ = ["HessianOperator"]


class HessianOperator:
    """H, H_o or H_f of a layer as a linear map; the forward pass is done once.

    Costs 4 products with L x L matrices per head and sample; keeps A, P and the direction's
    A', P' (H N L^2 numbers each) and a few arrays of H N L D as work space, reused by every call:
    one thread at a time.

    Args:
        layer: Data, weights and options.
        blocks: Which weights, in this order; all for None.
        part: "total", "outer" or "functional".

    Attributes:
        layer: The layer.
        blocks: The differentiated weights.
        part: Which part of the Hessian.
        size: P, the number of weights.

    Example:
        >>> from gdconv.hessian.dense import hessian
        >>> from gdconv.hessian.layer import attention_layer
        >>> eye = torch.eye(3, dtype=torch.float64)
        >>> layer = attention_layer(eye, 2 * eye, W_V=eye, W_Q=eye, W_K=eye)
        >>> operator, v = HessianOperator(layer), torch.ones(27, dtype=torch.float64)
        >>> torch.allclose(operator(v), hessian(layer) @ v)
        True
        >>> operator.linear_operator().shape
        (27, 27)
    """

    def __init__(
        self,
        layer: AttentionLayer,
        blocks: tuple[str, ...] | None = None,
        part: str = "total",
    ) -> None:
        check_part(part)
        self.layer, self.part, self.blocks = layer, part, layer.chosen(blocks)
        self.outer, self.functional = part != "functional", part != "outer"
        with torch.no_grad():
            self.at = evaluate(layer)
        at = self.at
        self.s, self.x, self.A, self.m = layer.scale, at.x, at.A, at.m
        D, d = layer.W_Q.shape[1:]
        self.wide = layer.W_K is None or 2 * d > D
        self.deep = 2 * layer.Y.shape[2] > D  # values: through X, or through v
        self.gaussian = layer.kernel == "gaussian"
        self.sizes = layer.sizes(self.blocks)
        self.size = sum(self.sizes)
        self._space: dict[str, Tensor] = {}

    def _product(self, name: str, a: Tensor, b: Tensor) -> Tensor:
        """a @ b in a buffer kept under that name: fresh memory costs as much as the product."""
        batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        shape = (*batch, a.shape[-2], b.shape[-1])
        if name not in self._space:
            self._space[name] = a.new_empty(shape)
        return torch.matmul(a, b, out=self._space[name])

    @staticmethod
    def _over_heads(B: Tensor) -> Tensor:
        return B[0] if len(B) == 1 else B.sum(0)

    @staticmethod
    def _over_samples(B: Tensor) -> Tensor:
        return B[:, 0] if B.shape[1] == 1 else B.sum(1)

    @cached_property
    def B(self) -> Float[Tensor, "H D D"]:
        """s X^T P X, less the diagonal parts of the Gaussian kernel's own."""
        return self.s * (self.x.mT @ self.at.b).sum(1)

    def _diagonal(self, weights: Tensor) -> Tensor:
        """s X^T diag(weights) X, summed over samples, (H, D, D)."""
        return self.s * (self.x.mT @ (weights.unsqueeze(-1) * self.x)).sum(1)

    @cached_property
    def rows(self) -> Float[Tensor, "H D D"]:
        """s X^T diag(row sums of P) X, Gaussian kernel."""
        return self._diagonal(self.at.P.sum(-1))

    @cached_property
    def columns(self) -> Float[Tensor, "H D D"]:
        """s X^T diag(column sums of P) X, Gaussian kernel."""
        return self._diagonal(self.at.P.sum(-2))

    def _split(self, v: Tensor) -> dict[str, Tensor]:
        pieces = zip(self.blocks, v.split(self.sizes), strict=True)
        made = {name: p.view(self.layer.weight(name).shape) for name, p in pieces}
        return {("W_Q" if name == "W_QK" else name): p for name, p in made.items()}

    def _scores(self, Q: Tensor | None, K: Tensor | None) -> Tensor | None:
        """T' (H, N, L, L)."""
        if Q is None and K is None:
            return None
        x, at, W_K = self.x, self.at, self.layer.W_K
        if self.wide and not self.gaussian:
            mixed: Tensor | float = 0.0
            if Q is not None:
                mixed = Q if W_K is None else Q @ W_K.mT
            if K is not None:
                mixed = mixed + self.layer.W_Q @ K.mT
            assert isinstance(mixed, Tensor)
            left = self._product("score", x, (self.s * mixed).unsqueeze(1))
            return self._product("T", left, x.mT)
        q = None if Q is None else self.s * (x @ Q.unsqueeze(1))
        k = None if K is None else self.s * (x @ K.unsqueeze(1))
        if q is not None and k is not None:
            T = self._product("T", torch.cat([q, at.q], -1), torch.cat([at.k, k], -1).mT)
        elif k is not None:
            T = self._product("T", at.q, k.mT)
        else:
            assert q is not None
            T = self._product("T", q, at.k.mT)
        if self.gaussian:  # |q - k|^2 has squares of its own
            if q is not None:
                T -= (at.q * q).sum(-1, keepdim=True)
            if k is not None:
                T -= (at.k * k).sum(-1).unsqueeze(-2)
        return T

    def _tangent(self, T: Tensor | None) -> Tensor | None:
        """A' from T'; may overwrite T'."""
        if T is None or self.layer.kernel == "linear":
            return T
        T.mul_(self.A)
        if self.layer.kernel == "softmax":
            T.addcmul_(self.A, T.sum(-1, keepdim=True), value=-1.0)
        return T

    def _pull(self, dA: Tensor | None, dF: Tensor | None, dW: Tensor | None) -> Tensor | None:
        """P', the derivative of the score gradient (without c)."""
        at, W, dG = self.at, self.at.W.unsqueeze(1), None
        r = at.r if self.functional and dW is not None else None
        if self.deep:
            moved = None if dF is None else self._product("moved", dF, W.mT)
            if r is not None and dW is not None:
                other = self._product("other", r, dW.unsqueeze(1).mT)
                moved = other if moved is None else moved.add_(other)
            if moved is not None:
                dG = self._product("G", moved, self.x.mT)
        else:
            left = [f for f in (dF, r) if f is not None]
            values = [] if dF is None else [at.v]
            if r is not None and dW is not None:
                values.append(self.x @ dW.unsqueeze(1))
            if left:
                dG = self._product("G", torch.cat(left, -1), torch.cat(values, -1).mT)
        if self.layer.kernel == "linear":
            return dG
        if dG is not None:
            dG.mul_(self.A)
        if dA is not None and self.functional:
            if dG is None:
                dG = dA * at.G
            else:
                dG.addcmul_(dA, at.G)
        if dG is None or self.gaussian:
            return dG
        # softmax: G is centred under A, so the row sum of A' G + A G' is all that is left to take
        dG.addcmul_(self.A, dG.sum(-1, keepdim=True), value=-1.0)
        return dG

    def _back(self, dP: Tensor | None, Q: Tensor | None, K: Tensor | None) -> dict[str, Tensor]:
        """Blocks of W_Q and W_K, without c."""
        x, s, at, layer = self.x, self.s, self.at, self.layer
        W_Q, W_K = layer.W_Q, layer.W_K
        out = {name: torch.zeros_like(W_Q) for name in ("W_Q", "W_K")}
        if dP is not None:
            if self.wide and not self.gaussian:
                E = s * self._over_samples(x.mT @ self._product("PX", dP, x))
                out["W_Q"] = E if W_K is None else E @ W_K
                if W_K is not None:
                    out["W_K"] = E.mT @ W_Q
            else:
                dq, dk = dP @ at.k, dP.mT @ at.q
                if self.gaussian:
                    dq -= dP.sum(-1, keepdim=True) * at.q
                    dk -= dP.sum(-2).unsqueeze(-1) * at.k
                out["W_Q"], out["W_K"] = (s * (x.mT @ g).sum(1) for g in (dq, dk))
        if self.functional and W_K is not None:
            if K is not None:
                out["W_Q"] += self.B @ K
                out["W_K"] -= self.columns @ K if self.gaussian else 0.0
            if Q is not None:
                out["W_K"] += self.B.mT @ Q
                out["W_Q"] -= self.rows @ Q if self.gaussian else 0.0
        return out

    @torch.no_grad()
    def __call__(self, v: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        """H v.

        Args:
            v: Direction, flattened as the weights are.

        Returns:
            The product.

        Raises:
            InputError: v has the wrong length.
        """
        if v.shape != (self.size,):
            raise InputError("v", f"a tensor of shape {tuple(v.shape)}", f"give ({self.size},)")
        parts, at, W_O = self._split(v), self.at, self.layer.W_O
        Q, K, V = (parts.get(name) for name in ("W_Q", "W_K", "W_V"))
        dW = V if V is None or W_O is None else V @ W_O
        dA = self._tangent(self._scores(Q, K))
        W = at.W.unsqueeze(1)
        want_V = "W_V" in self.blocks and self.functional
        dm = self._product("AX", dA, self.x) if dA is not None and self.deep else None
        dF: Tensor | None = None
        if self.outer:
            if dA is not None:
                pair = (dA, at.v) if dm is None else (dm, W)
                dF = self._over_heads(self._product("F", *pair))
            if dW is not None:
                other = self._over_heads(self._product("mW", self.m, dW.unsqueeze(1)))
                dF = other if dF is None else dF.add_(other)
        out = {}
        if "W_V" in self.blocks:
            total = self.layer.W_V.new_zeros(at.W.shape)
            if dF is not None:
                total = self._over_samples(self.m.mT @ dF)
            if want_V and dA is not None:
                total = total + (
                    self._over_samples(dm.mT @ at.r)
                    if dm is not None
                    else self._over_samples(self.x.mT @ (dA.mT @ at.r))
                )
            out["W_V"] = total if W_O is None else total @ W_O.mT
        if set(self.blocks) - {"W_V"}:
            out |= self._back(self._pull(dA, dF, dW), Q, K)
        out["W_QK"] = out.get("W_Q", v)
        return torch.cat([out[name].flatten() for name in self.blocks]) * self.layer.c

    def numpy(self, v: np.ndarray) -> np.ndarray:
        """H v with NumPy arrays.

        Args:
            v: Direction (P,) or (P, 1).

        Returns:
            The product (P,).
        """
        like = self.layer.X
        given = torch.from_numpy(np.ascontiguousarray(v).reshape(-1))
        return self(given.to(like)).cpu().numpy()

    def linear_operator(self) -> LinearOperator:
        """The map as a SciPy operator, symmetric, float64."""
        from scipy.sparse.linalg import LinearOperator  # a tenth of a second

        apply: Callable[[np.ndarray], np.ndarray] = self.numpy
        shape = (self.size, self.size)
        return LinearOperator(shape, matvec=apply, rmatvec=apply, dtype=np.float64)
