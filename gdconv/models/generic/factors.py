"""The Jacobian in factors: K = J J^T, J^T S and |J_W| without forming J.

A product z = a W + b of a module whose outputs are each of their own sample contributes to row
(i, c) of J the block sum_t a_it s_ict^T, a_it what W multiplies and s_ict = d F_ic / d z_it the
signal that comes back. With one position t per sample its share of K is (s_ic . s_jc') (a_i . a_j +
1), the one for the bias. `gdconv.models.generic.tape` finds the products; parameters that enter
otherwise keep their columns of J.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from gdconv.models.generic.tape import Use
from gdconv.rigor.rounding import TINY, Array, fro_up, gamma, up

MOST_OUTPUTS = 64
"""Outputs per sample, thus backward passes, up to which a Jacobian is taken in factors."""


@dataclass(frozen=True)
class Part:
    """The columns of J of one product, in factors.

    Attributes:
        a: What the weight multiplies (N, T, in), or (N, in) with one position per sample.
        s: Signals (N, C, T, out), or (N, C, out).
        weight: Name of the weight, "" for none.
        bias: Name of the bias, "" for none.
        flipped: Whether the weight is stored (in, out).
    """

    a: Array
    s: Array
    weight: str
    bias: str
    flipped: bool = False

    @property
    def single(self) -> bool:
        """One position per sample."""
        return self.a.ndim == 2

    @cached_property
    def formed(self) -> Array:
        """Sum_t s_ict a_it^T, with the columns of the bias, (N C, out (in + 1))."""
        a = np.concatenate([self.a, np.ones((*self.a.shape[:-1], 1))], -1) if self.bias else self.a
        if self.bias and not self.weight:
            a = a[..., -1:]
        s = self.s
        if self.single:
            J = s[..., :, None] * a[:, None, None, :]
        else:
            J = np.swapaxes(s, -1, -2) @ a[:, None]
        return J.reshape(s.shape[0] * s.shape[1], -1)

    def kernel(self) -> tuple[Array, float]:
        """Its share of K, and the rounding of that beside the stored factors, spectral norm.

        Entry by entry a sum of k products is off by gamma_k times what the factors' lengths bound,
        |s_ic| |a_i| |s_jc'| |a_j|; the Frobenius norm of that is gamma_k sum_ic |s_ic|^2 |a_i|^2,
        with one position per sample gamma_k times the trace.

        Returns:
            (N C, N C) and a number.
        """
        N, C = self.s.shape[:2]
        if self.single:
            S = self.s.reshape(N * C, -1)
            inner = self.a @ self.a.T if self.weight else np.zeros((N, N))
            if self.bias:
                inner = inner + 1.0
            if C > 1:
                inner = np.repeat(np.repeat(inner, C, 0), C, 1)
            K, terms = (S @ S.T) * inner, S.shape[1] + self.a.shape[1] + 3
            most = float(K.trace())
        else:
            J = self.formed
            K, terms = J @ J.T, J.shape[1] + 2 * self.a.shape[1] + 4
            most = self._lengths()
        off = gamma(terms)
        return K, up(off * (1.0 + 2 * off + gamma(N * C)) * most + K.size * terms * TINY)

    def _lengths(self) -> float:
        """sum_ic |s_ic|^2 |a_i|^2 from above, all positions together, the bias as an input of 1."""
        N = len(self.a)
        a = self.a.reshape(N, -1)
        square = np.einsum("ij,ij->i", a, a) if self.weight else np.zeros(N)
        if self.bias:
            square = square + self.a.shape[1]
        s = self.s.reshape(N, -1)
        total = float(np.einsum("ij,ij->i", s, s) @ square)
        return total * (1.0 + 4.0 * gamma(s.shape[1] + a.shape[1] + N)) + a.size * s.shape[1] * TINY

    def pulled(self, S: Array) -> dict[str, Array]:
        """J^T S, S of shape (N, C)."""
        back = np.einsum("ic,ic...->i...", S, self.s)  # (N, T, out) or (N, out)
        back = back.reshape(-1, back.shape[-1])
        found = {}
        if self.weight:
            a = self.a.reshape(-1, self.a.shape[-1])
            found[self.weight] = a.T @ back if self.flipped else back.T @ a
        return found | ({self.bias: back.sum(0)} if self.bias else {})

    def squares(self) -> dict[str, float]:
        """|J_W|_F^2 by parameter."""
        if self.single:
            s = np.einsum("ico,ico->i", self.s, self.s)
            weight = float(s @ np.einsum("ij,ij->i", self.a, self.a))
            bias = float(s.sum())
        else:
            J = np.swapaxes(self.s, -1, -2) @ self.a[:, None] if self.weight else np.zeros(1)
            weight, bias = float((J * J).sum()), float((self.s.sum(2) ** 2).sum())
        found = {self.weight: weight} if self.weight else {}
        return found | ({self.bias: bias} if self.bias else {})


@dataclass(frozen=True)
class Factors:
    """J of one replica by the trained parameters.

    Attributes:
        parts: Layers in factors.
        rest: Columns of the other trained parameters, (m, p'), by name.
        m: Rows.
    """

    parts: tuple[Part, ...]
    rest: Mapping[str, Array]
    m: int

    def kernel(self) -> tuple[Array, float]:
        """K = J J^T (m, m), exactly symmetric, and its rounding in the spectral norm."""
        K, slack = np.zeros((self.m, self.m)), 0.0
        for part in self.parts:
            share, lost = part.kernel()
            K, slack = K + share, slack + lost
        for J in self.rest.values():
            K = K + J @ J.T
            slack += gamma(J.shape[1] + 2) * fro_up(J) ** 2 + J.size * self.m * TINY
        sums = gamma(len(self.parts) + len(self.rest) + 2) * fro_up(K)
        K = (K + K.T) / 2
        return K, up(slack * (1.0 + 1e-9) + 2.0 * sums)

    def pulled(self, S: Array) -> dict[str, Array]:
        """J^T S by parameter, flat for those that are not in factors; S of shape (m,)."""
        found: dict[str, Array] = {name: S @ J for name, J in self.rest.items()}
        for part in self.parts:
            found |= part.pulled(S.reshape(len(part.a), -1))
        return found

    def squares(self) -> dict[str, float]:
        """|J_W|_F^2 by parameter."""
        found = {name: float((J * J).sum()) for name, J in self.rest.items()}
        for part in self.parts:
            found |= part.squares()
        return found


def signals_of(F: Tensor, zs: Sequence[Tensor]) -> list[Array]:
    """dF_ic / dz_i, one backward pass per output of a sample.

    Args:
        F: Outputs (N, ...), with their graph, which stays.
        zs: Outputs of layers (N, ...).

    Returns:
        Arrays (N, C, ...).
    """
    flat = F.reshape(F.shape[0], -1)
    back = [
        torch.autograd.grad(
            flat[:, c].sum(), zs, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        for c in range(flat.shape[1])
    ]
    return [np.stack([_numpy(one[k]) for one in back], 1) for k in range(len(zs))]


def parts_of(uses: Sequence[Use], signals: Sequence[Array]) -> tuple[Part, ...]:
    """Products in factors.

    Args:
        uses: From a tape.
        signals: For each of them (N, C, ...).

    Returns:
        One part for each.
    """
    made = []
    for use, s in zip(uses, signals, strict=True):
        N = use.z.shape[0]
        if use.vector:
            s = s[..., None]
        single = s.ndim == 3
        s = s if single else s.reshape(N, s.shape[1], -1, s.shape[-1])
        if use.a is None:
            a = np.zeros((N, 0) if single else (N, s.shape[2], 0))
        else:
            a = _numpy(use.a)
            a = a if single else a.reshape(N, -1, a.shape[-1])
        made.append(Part(a, s, use.weight, use.bias, use.flipped))
    return tuple(made)


def _numpy(x: Tensor) -> Array:
    found: Array = x.detach().cpu().double().numpy()
    return found
