"""What the statements about the attention Hessian look at: drawn layers and what is measured there.

Every closed form comes from `gdconv.hessian`, every second opinion from `autograd`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from math import isfinite, isnan

import numpy as np
import torch
from torch import Tensor

from gdconv.hessian import dense
from gdconv.hessian.layer import PARTS, AttentionLayer, attention_layer
from gdconv.hessian.operators import HessianOperator
from gdconv.rigor.rounding import UNIT
from gdconv.support.statistics import BEND, crossover, growth
from gdconv.theory.prediction import Inequality

from .autograd import layer_output, layer_split, parameters
from .depth import deep_net

ROUNDING = 1e-12
"""What a block may be off, over the largest entry of that block of H_o or H_f."""

NEAR = 0.1
"""The whole interval of an exponent lies within this of the law."""

REPLICAS, POINTS = 12, 7
"""Draws and scales of one exponent."""

BELOW = (1000.0, 100.0)
"""Ends of the range of scales, as divisors of the least crossover of H_o and H_f."""

DOMINANCE = 0.1
"""The term of the higher exponent is at most this share of the other, at the largest scale."""

UNDERFLOW = 800.0
"""exp(-800) = 0 in float64."""

NAMES = {"W_Q": "Q", "W_K": "K", "W_V": "V", "W_QK": "QK"}

Norms = dict[tuple[str, str], np.ndarray]
"""Norms (replicas, scales) by (part, block)."""

Laws = dict[tuple[str, str], float]
"""Exponents by (part, block)."""


def laws(total: str, outer: str, functional: str) -> Laws:
    """Exponents of VV, QQ, KK, VQ, VK, QK in H, H_o, H_f; "-" where the block is 0 exactly.

    Args:
        total: Exponents in H.
        outer: Exponents in H_o.
        functional: Exponents in H_f.

    Returns:
        Exponents by (part, block); VQ and VK are named QV and KV, as they stand above the diagonal.

    Example:
        >>> laws("2 5 5 3 3 3", "2 6 6 4 4 6", "- 5 5 3 3 3")["total", "QQ"]
        5.0
    """
    order = ("VV", "QQ", "KK", "QV", "KV", "QK")
    rows = zip(PARTS, (total, outer, functional), strict=True)
    return {
        (part, block): float(power)
        for part, row in rows
        for block, power in zip(order, row.split(), strict=True)
        if power != "-"
    }


def split_norms(layer: AttentionLayer) -> dict[tuple[str, str], float]:
    """Frobenius norm of every block of H, H_o, H_f.

    Args:
        layer: The layer.

    Returns:
        Norms by (part, block), blocks named QQ, QK, QV, KK, KV, VV.
    """
    ends = np.cumsum((0, *layer.sizes()))
    cut = {n: slice(a, b) for n, a, b in zip(layer.names, ends[:-1], ends[1:], strict=True)}
    made = {}
    for part in PARTS:
        H = dense.hessian(layer, None, part).numpy()
        for i, row in enumerate(layer.names):
            for column in layer.names[i:]:
                size = float(np.linalg.norm(H[cut[row], cut[column]]))
                made[part, NAMES[row] + NAMES[column]] = size
    return made


def curves(layers: list[AttentionLayer], scales: np.ndarray) -> Norms:
    """Block norms with the tokens multiplied by each scale.

    Args:
        layers: One for each replica.
        scales: Factors of X (n).

    Returns:
        Norms (replicas, n).
    """
    found = [[split_norms(replace(a, X=s * a.X)) for s in scales.tolist()] for a in layers]
    keys = found[0][0].keys()
    return {k: np.array([[at[k] for at in row] for row in found]) for k in keys}


def exponents(
    x: np.ndarray, norms: Norms, expected: Laws, variant: str = ""
) -> tuple[list[Inequality], list[Inequality], str]:
    """Claims that every exponent is its law, and hypotheses that the lines are straight.

    Args:
        x: Abscissae.
        norms: Ordinates (replicas, n) by (part, block).
        expected: Exponents of the theory; the other blocks of `norms` are not spoken of.
        variant: Put before the names.

    Returns:
        Claims, hypotheses, and the exponents of the diagonal blocks of H in words.
    """
    claims, straight, said = [], [], []
    symbol = {"total": "H", "outer": "H_o", "functional": "H_f"}
    for (part, block), law in expected.items():
        name = f"{variant}{symbol[part]}({block})"
        values = norms[part, block]
        if not ((values > 0) & np.isfinite(values)).all():
            least = float(values.min())  # nan where one is: a claim about it is undecided
            claims.append(Inequality(f"{name} is not zero", least, ">", 0.0))
            if least > 0:
                claims.append(Inequality(f"{name} is finite", float(values.max()), ">", 0.0))
            continue
        found = growth(x, values)
        claim = f"{name} ~ s^{law:g}: distance of the exponent"
        claims.append(Inequality(claim, found.distance(law), "<=", NEAR))
        bend = f"{name} is a straight line: bend"
        straight.append(Inequality(bend, found.curvature, "<=", BEND))
        if part == "total" and block[0] == block[-1]:
            half = found.interval.width / 2
            said.append(f"{name} {found.slope:.4f} +- {half:.1g}" if isfinite(half) else name)
    worst = min(straight, key=lambda h: h.margin, default=None)
    return claims, [worst] if worst else [], ", ".join(said)


@dataclass(frozen=True)
class Errors:
    """Largest error of a variant: H, H_o, H_f and products against automatic differentiation.

    Attributes:
        by_part: Largest over the blocks, by part.
        where: Block of that error, by part.
        product: Of H v, over |H v|.
    """

    by_part: dict[str, float]
    where: dict[str, str]
    product: float


def errors(layer: AttentionLayer) -> Errors:
    """Compare every block; the scale is the largest entry of that block of H_o or H_f.

    Args:
        layer: The layer.

    Returns:
        The errors.
    """
    true = layer_split(layer)
    ends = np.cumsum((0, *layer.sizes()))
    cut = {n: slice(a, b) for n, a, b in zip(layer.names, ends[:-1], ends[1:], strict=True)}
    size = torch.maximum(true["outer"].abs(), true["functional"].abs())
    by_part, where = {}, {}
    for part in PARTS:
        gap = (dense.hessian(layer, None, part) - true[part]).abs()
        off = {
            NAMES[a] + NAMES[b]: float(gap[cut[a], cut[b]].max() / size[cut[a], cut[b]].max())
            for a in layer.names
            for b in layer.names
        }
        where[part] = max(off, key=lambda name: (isnan(off[name]), off[name]))
        by_part[part] = off[where[part]]
    v = torch.cos(torch.arange(1.0, len(size) + 1, dtype=size.dtype, device=size.device))
    right = true["total"] @ v
    wrong = float((HessianOperator(layer)(v) - right).abs().max() / right.abs().max())
    return Errors(by_part, where, wrong)


@dataclass(frozen=True)
class Case:
    """Layers drawn from one seed; what several statements need is computed once.

    Attributes:
        sizes: (N, L, D, d, H); H heads in the multi-head variant, one elsewhere.
        seed: Of the draw.
    """

    sizes: tuple[int, int, int, int, int]
    seed: int

    def layer(self, replica: int = 0, tokens: int | None = None) -> AttentionLayer:
        """X, Y standard normal, weights of variance 1/D; D outputs, W_O = I.

        Args:
            replica: Which draw.
            tokens: L, that of the sizes for None.

        Returns:
            The layer.
        """
        N, L, D, d, _ = self.sizes
        rng = np.random.default_rng((self.seed, replica))
        L = tokens or L

        def normal(*shape: int) -> Tensor:
            return torch.from_numpy(rng.standard_normal(shape))

        root = D**0.5
        weights = {"W_Q": (D, d), "W_K": (D, d), "W_V": (D, D)}
        drawn = {name: normal(*shape) / root for name, shape in weights.items()}
        return attention_layer(normal(N, L, D), normal(N, L, D), **drawn)

    @cached_property
    def bare(self) -> AttentionLayer:
        """The first draw."""
        return self.layer()

    def single(self, replica: int = 0) -> AttentionLayer:
        """A draw with W_QK instead of W_Q and W_K."""
        a = self.layer(replica)
        assert a.W_K is not None
        return replace(a, W_Q=a.W_Q @ a.W_K.mT, W_K=None)

    @cached_property
    def several(self) -> AttentionLayer:
        """H heads with W_O and other widths, two samples or more, the half-square loss."""
        N, L, D, d, H = self.sizes
        rng = np.random.default_rng((self.seed, 10**6))

        def normal(*shape: int) -> Tensor:
            return torch.from_numpy(rng.standard_normal(shape))

        weights = {"W_Q": (D, d), "W_K": (D, d), "W_V": (D, d), "W_O": (d, 2)}
        drawn = {name: normal(H, *shape) / D**0.5 for name, shape in weights.items()}
        X, Y = normal(max(N, 2), L, D), normal(max(N, 2), L, 2)
        return attention_layer(X, Y, loss="half-square", **drawn)

    @cached_property
    def variants(self) -> dict[str, AttentionLayer]:
        """Every option of the layer at least once."""
        a, single, several = self.bare, self.single(), self.several
        return {
            "softmax": a,
            "Gaussian": replace(a, kernel="gaussian"),
            "linear": replace(a, kernel="linear"),
            "single matrix": single,
            "linear, single matrix": replace(single, kernel="linear"),
            "temperature 1/2": replace(a, temperature=0.5),
            "layer norm": replace(a, layer_norm=1e-5),
            "half-square loss": replace(a, loss="half-square"),
            "heads": several,
            "heads, Gaussian": replace(several, kernel="gaussian"),
            "heads, linear": replace(several, kernel="linear"),
        }

    @cached_property
    def scales(self) -> np.ndarray:
        """A decade of scales, BELOW the least crossover of H_o and H_f in the Q block."""
        probe = 1e-3
        norms = curves(self.replicas, np.array([probe]))
        low, high = (norms[part, "QQ"][:, 0] for part in ("functional", "outer"))
        with np.errstate(all="ignore"):
            at = crossover(probe, low, high, 1)
        at = at if isfinite(at) and at > 0 else 0.3
        at = min(at, 1.0)  # beyond 1 scores are no longer small
        return np.geomspace(at / BELOW[0], at / BELOW[1], POINTS)

    @cached_property
    def hot(self) -> float:
        """A temperature at which all but one weight of every row underflow, at most 1e-3."""
        at = dense.evaluate(self.bare)
        if self.sizes[1] < 2:
            return 1e-3
        two = (at.q @ at.k.mT * self.bare.scale).topk(2, -1).values
        return min(1e-3, max(float((two[..., 0] - two[..., 1]).min()) / UNDERFLOW, 1e-12))

    @cached_property
    def replicas(self) -> list[AttentionLayer]:
        """The draws of the exponents."""
        return [self.layer(r) for r in range(REPLICAS)]

    @cached_property
    def softmax_norms(self) -> Norms:
        """Block norms of softmax layers against the scale."""
        return curves(self.replicas, self.scales)


@lru_cache(maxsize=16)
def deep_norms(kind: str, depth: int, seed: int) -> tuple[np.ndarray, Norms, tuple[str, ...]]:
    """Block norms of four small deep networks, s from 1e-3 (attention 1e-2) on.

    Args:
        kind: "attention", "linear" or "relu".
        depth: Layers.
        seed: Of the draws.

    Returns:
        Scales, norms by (part, row + column), and the names of the weights.
    """
    scales = np.geomspace(1e-2, 5e-2, 4) if kind == "attention" else np.geomspace(1e-4, 1e-3, 4)
    shape = (4, 3, 2) if kind == "attention" else (6, 6, 1)  # narrow ReLU layers may be shut
    nets = [deep_net(kind, depth, shape, 4 * seed + r) for r in range(4)]
    found = [net.norms(torch.from_numpy(scales)) for net in nets]
    norms = {
        (part, row + column): np.stack([one[part, row, column].numpy() for one in found])
        for part, row, column in found[0]
    }
    return scales, norms, tuple(nets[0].weights)


def rounding_slack(H: Tensor) -> float:
    """Bound of the rounding of a Hessian as stored: 256 u times the root of P times its norm."""
    return 256 * UNIT * len(H) ** 0.5 * float(torch.linalg.matrix_norm(H))


def value_curvature(layer: AttentionLayer) -> float:
    """|F(W_V + U) - 2 F(W_V) + F(W_V - U)| over |F| + |F(U)|: 0 for a map linear in W_V.

    Args:
        layer: The layer.

    Returns:
        The ratio, rounding only.
    """
    theta, step = parameters(layer), torch.zeros_like(parameters(layer))
    size = layer.weight("W_V").numel()
    step[-size:] = torch.cos(torch.arange(1.0, size + 1, dtype=theta.dtype, device=theta.device))
    mid, up, down = (layer_output(layer, t) for t in (theta, theta + step, theta - step))
    return float((up - 2 * mid + down).norm() / (mid.norm() + (up - mid).norm()))


def diagonal(layer: AttentionLayer, part: str) -> Iterator[tuple[str, Tensor]]:
    """Diagonal blocks by name.

    Args:
        layer: The layer.
        part: total, outer or functional.

    Yields:
        Name and block.
    """
    for name in layer.names:
        yield NAMES[name] * 2, dense.hessian_block(layer, name, name, part)
