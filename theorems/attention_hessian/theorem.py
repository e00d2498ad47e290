"""The Hessian of one self-attention layer: blocks, split, signs, growth with the input.

Problem      loss c/2 |F - Y|^2, F = A X W_V, A = softmax over rows of X W_Q W_K^T X^T / sqrt(d)
Guarantee    H = H_o + H_f in closed form, block by block; H_f(VV) = 0, H_o >= 0; exponents of every
             block in s for X = s X_0, s -> 0; one-hot attention leaves W_V alone [1]
Tracked      Frobenius norms of the blocks of H, H_o, H_f against s, tau and depth
Relative to the paper: blocks in moment form, cross blocks and the K block included; exponents with
intervals and a checked range; two samples, heads, the Gaussian kernel and no Y are ours. A linear
perceptron has exponent 2 in its diagonal blocks only. Proofs: docs/theory/attention-hessian.md.
References   [1] Ormaniec, Dangel, Singh (2025), ICLR, arXiv:2410.10986
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from gdconv.hessian import dense
from gdconv.hessian.layer import PARTS
from gdconv.hessian.spectra import eigenvalue_bounds, inertia
from gdconv.rigor.arithmetic import largest
from gdconv.support.config import Config
from gdconv.support.errors import InputError
from gdconv.support.npz import LARGEST_BYTES
from gdconv.theory.claims import ClaimTheorem, Finding, Series
from gdconv.theory.prediction import Inequality
from gdconv.theory.theorem import statement

from .autograd import layer_split
from .evidence import (
    DOMINANCE,
    REPLICAS,
    ROUNDING,
    Case,
    Laws,
    Norms,
    curves,
    deep_norms,
    diagonal,
    errors,
    exponents,
    laws,
    rounding_slack,
    split_norms,
    value_curvature,
)

PROOFS = "docs/theory/attention-hessian.md"

SOFTMAX = laws("2 5 5 3 3 3", "2 6 6 4 4 6", "- 5 5 3 3 3")
TWO_TOKENS = laws("2 6 6 3 3 3", "2 6 6 4 4 6", "- 7 7 3 3 3")
FITTED = laws("2 6 6 4 4 4", "2 6 6 4 4 6", "- 6 6 4 4 4")
GAUSSIAN = laws("2 3 3 3 3 3", "2 6 6 4 4 6", "- 3 3 3 3 3")
LINEAR = laws("6 6 6 3 3 3", "6 6 6 6 6 6", "- - - 3 3 3")
CENTRED = laws("6 5 5 3 3 3", "6 6 6 6 6 6", "- 5 5 3 3 3")
"""Exponents of VV, QQ, KK, VQ, VK, QK in H, H_o, H_f."""

SINGLE = {
    (part, block): float(power)
    for part, powers in (("total", "2 5 3"), ("outer", "2 6 4"), ("functional", "0 5 3"))
    for block, power in zip(("VV", "QKQK", "QKV"), powers.split(), strict=True)
    if power != "0"
}

WIDE = np.geomspace(1e-3, 1e1, 25)
"""Scales of the figure."""


class AttentionHessian(ClaimTheorem):
    """Ormaniec, Dangel, Singh 2025, and its variants."""

    id = "attention-hessian"
    title = "The attention Hessian"
    source = "Ormaniec, Dangel, Singh 2025 (arXiv:2410.10986)"
    reads = {"samples": 1, "tokens": 8, "embedding": 6, "head_dim": 4, "heads": 2}

    def case(self, config: Config, seed: int) -> Case:
        """Sizes (N, L, D, d, H); heads are those of the multi-head variant."""
        c = config
        sizes = (c.samples, c.tokens, c.embedding, c.head_dim, c.heads)
        N, L, D, d, H = (int(size or 1) for size in sizes)
        require_room(N, L, D, d, H)
        return Case((N, L, D, d, H), seed)

    @statement("identities", default=True, proof=f"{PROOFS}#identities")
    def identities(self, case: Case) -> Finding:
        """Every block of H, H_o, H_f is that of automatic differentiation, all variants."""
        claims, products, where = [], 0.0, {}
        symbols = dict(zip(PARTS, ("H", "H_o", "H_f"), strict=True))
        for name, layer in case.variants.items():
            found = errors(layer)
            products = largest((products, found.product))
            for part, off in found.by_part.items():
                claim = f"{name}: error of {symbols[part]} over its scale"
                claims.append(Inequality(claim, off, "<=", ROUNDING))
                where[off] = f"{name} {symbols[part]}({found.where[part]})"
        claims.append(Inequality("H v, error over |H v|, all variants", products, "<=", ROUNDING))
        worst = max(where)
        return Finding(tuple(claims), note=f"largest {worst:.1e}, {where[worst]}")

    @statement("value-functional-zero", proof=f"{PROOFS}#value")
    def value_functional_zero(self, case: Case) -> Finding:
        """H_f(VV) = 0: the output is linear in W_V."""
        ours, theirs, bend = 0.0, 0.0, 0.0
        for layer in case.variants.values():
            P, size = layer.weight("W_V").numel(), dense.hessian(layer, ("W_V",), "functional")
            ours = largest((ours, float(size.abs().max())))
            outer = dense.hessian(layer, ("W_V",))
            functional = layer_split(layer)["functional"][-P:, -P:]
            theirs = largest((theirs, float(functional.abs().max() / outer.abs().max())))
            bend = largest((bend, value_curvature(layer)))
        return Finding((
            Inequality("closed form: largest entry", ours, "<=", 0.0),
            Inequality("automatic differentiation: over that of H_o", theirs, "<=", ROUNDING),
            Inequality("second difference of F along W_V, over F", bend, "<=", ROUNDING),
        ))  # fmt: skip

    @statement("outer-psd", proof=f"{PROOFS}#outer")
    def outer_psd(self, case: Case) -> Finding:
        """H_o has no negative eigenvalue, and at most as many positive ones as F has entries."""
        claims, least = [], 0.0
        for name, layer in case.variants.items():
            H = dense.hessian(layer, None, "outer")
            signs = inertia(H.numpy(), rounding_slack(H))
            low, high = eigenvalue_bounds(H.numpy())
            if high[-1] > 0:  # one token: H_o is 0
                least = min(least, float(low[0] / high[-1]))
            claims += [
                Inequality(f"{name}: eigenvalues below rounding", signs.negative, "<=", 0),
                Inequality(f"{name}: rank is at most that of J", signs.positive, "<=",
                           layer.Y.numel()),
            ]  # fmt: skip
        return Finding(tuple(claims), note=f"lambda_min / lambda_max >= {least:.1e}")

    @statement("indefinite", proof=f"{PROOFS}#indefinite")
    def indefinite(self, case: Case) -> Finding:
        """H_f(QQ), H_f(KK) and H have negative curvature, for Y or for its mirror 2 F - Y."""
        claims, L = [], case.sizes[1]
        layer = replace(case.bare, X=float(case.scales[-1]) * case.bare.X)
        mirrored = replace(layer, Y=-layer.Y)
        for block in ("W_Q", "W_K"):
            for part, symbol in (("functional", "H_f"), ("total", "H")):
                both = [dense.hessian(a, (block,), part) for a in (layer, mirrored)]
                counts = [inertia(H.numpy(), rounding_slack(H)).negative for H in both]
                name = f"{symbol}({block[-1] * 2}): certain negative eigenvalues, Y and -Y"
                claims.append(Inequality(name, sum(counts), ">=", 1))
        found = inertia(dense.hessian(layer).numpy(), rounding_slack(dense.hessian(layer)))
        claims.append(Inequality("H: certain negative eigenvalues", found.negative, ">=", 1))
        enough = Inequality("at least three tokens", L, ">=", 3)
        return Finding(tuple(claims), (enough,), note=f"at s = {case.scales[-1]:.2g}")

    @statement("linear-attention", proof=f"{PROOFS}#linear")
    def linear_attention(self, case: Case) -> Finding:
        """A = T: diagonal blocks of H_f are 0, those of H cubic in S_x, with their closed form."""
        layer = replace(case.bare, kernel="linear")
        zero = largest(float(B.abs().max()) for _, B in diagonal(layer, "functional"))
        truth = layer_split(layer)
        ends = np.cumsum((0, *layer.sizes()))
        scale = float(truth["outer"].abs().max())
        pairs = list(zip(ends[:-1], ends[1:], strict=True))
        theirs = largest(float(truth["functional"][a:b, a:b].abs().max()) for a, b in pairs)
        doubled = dict(diagonal(replace(layer, X=2 * layer.X), "total"))
        claims = [
            Inequality("diagonal blocks of H_f: largest entry", zero, "<=", 0.0),
            Inequality("the same by automatic differentiation, over H_o", theirs / scale, "<=",
                       ROUNDING),
        ]  # fmt: skip
        written = sums_of_squares(case)
        for (name, B), (a, b) in zip(diagonal(layer, "total"), pairs, strict=True):
            size = float(B.abs().max())
            cubic = float((doubled[name] - 64 * B).abs().max()) / (64 * size)
            formula = float((written[name] - truth["total"][a:b, a:b]).abs().max()) / size
            claims += [
                Inequality(f"{name}: S_x -> 4 S_x multiplies by 64, error", cubic, "<=", ROUNDING),
                Inequality(f"{name}: error of its formula in S_x", formula, "<=", ROUNDING),
            ]
        norms = curves([replace(a, kernel="linear") for a in case.replicas], case.scales)
        fits, straight, note = exponents(case.scales, norms, LINEAR)
        return Finding((*claims, *fits), tuple(straight), note=note)

    @statement("growth", proof=f"{PROOFS}#growth")
    def growth(self, case: Case) -> Finding:
        """Softmax, L >= 3, Y != 0, s -> 0: QQ, KK 5, QK, VQ, VK 3, VV 2; H_o 6, 6, 4, 2."""
        enough = Inequality("at least three tokens", case.sizes[1], ">=", 3)
        if not enough.holds:
            return Finding((), (enough,))
        x, norms = case.scales, case.softmax_norms
        claims, straight, note = exponents(x, norms, SOFTMAX)
        share = float((norms["outer", "QQ"] / norms["functional", "QQ"])[:, -1].max())
        apart = Inequality("H_o(QQ) over H_f(QQ) at the largest s", share, "<=", DOMINANCE)
        wide = curves([case.bare], WIDE)
        shown = [("total", b) for b in ("QQ", "KK", "VV", "QK", "QV")]
        shown += [("outer", "QQ"), ("functional", "QQ")]
        symbol = {"total": "H", "outer": "H_o", "functional": "H_f"}
        series = tuple(
            Series(f"{symbol[p]}({b})", WIDE.tolist(), wide[p, b][0].tolist(), "s", "block norm")
            for p, b in shown
        )
        return Finding(tuple(claims), (enough, apart, *straight), said(x, note), series=series)

    @statement("growth-variants", proof=f"{PROOFS}#variants")
    def growth_variants(self, case: Case) -> Finding:
        """Other exponents: L = 2, Y = 0, the Gaussian kernel, one matrix W_QK, tokens of mean 0."""
        x, L = case.scales, case.sizes[1]
        drawn = case.replicas
        centred = [replace(a, X=a.X - a.X.mean(1, keepdim=True)) for a in drawn]
        two = [case.layer(r, 2) for r in range(REPLICAS)]
        lower = x / 10  # H_f falls behind its law by terms of relative size s
        table: list[tuple[str, np.ndarray, Norms, Laws]] = [
            ("L = 2: ", x, curves(two, x), TWO_TOKENS),
            ("Y = 0: ", x, curves([replace(a, Y=0 * a.Y) for a in drawn], x), FITTED),
            ("Gaussian: ", lower, curves([replace(a, kernel="gaussian") for a in drawn], lower),
             GAUSSIAN),
            ("W_QK: ", x, curves([case.single(r) for r in range(REPLICAS)], x), SINGLE),
            ("mean 0: ", x, curves(centred, x), CENTRED),
        ]  # fmt: skip
        claims: list[Inequality] = []
        bends: list[Inequality] = []
        notes: list[str] = []
        for name, at, norms, expected in table:
            found, straight, note = exponents(at, norms, expected, name)
            claims, bends, notes = claims + found, bends + straight, [*notes, note]
        enough = Inequality("at least three tokens", L, ">=", 3)
        return Finding(tuple(claims), (enough, *bends), said(x, "; ".join(notes)))

    @statement("saturation", proof=f"{PROOFS}#saturation")
    def saturation(self, case: Case) -> Finding:
        """One-hot attention: all Q and K blocks of H, H_o, H_f are 0."""
        layer = case.bare
        taus = np.geomspace(1.0, case.hot, 13)
        found = [split_norms(replace(layer, temperature=float(tau))) for tau in taus]
        hot = dense.evaluate(replace(layer, temperature=case.hot)).A.amax(-1).min()
        claims = []
        for part, block in found[0]:
            power = sum(name in "QK" for name in block)
            start, end = found[0][part, block], found[-1][part, block] * float(taus[-1]) ** power
            if power and start != 0:  # nan stays, and leaves the claim undecided
                name = f"{part} {block}: tau^{power} its norm, over that at tau = 1"
                claims.append(Inequality(name, end / start, "<=", ROUNDING))
        series = tuple(
            Series(f"H({b})", taus.tolist(), [f["total", b] for f in found], "tau", "block norm")
            for b in ("QQ", "VV")
        )
        one = Inequality("attention is one-hot: least largest weight", float(hot), ">=", 1 - 1e-9)
        hypotheses = (Inequality("at least two tokens", case.sizes[1], ">=", 2), one)
        return Finding(tuple(claims), hypotheses, f"at tau = {case.hot:.1e}", series=series)

    @statement("temperature", proof=f"{PROOFS}#temperature")
    def temperature(self, case: Case) -> Finding:
        """tau -> infinity: QQ, KK and H_o(QK) fall as tau^-2, H(QK), VQ and VK as tau^-1."""
        taus = np.geomspace(1e3, 1e4, 5)
        found = [
            [split_norms(replace(a, temperature=float(tau))) for tau in taus] for a in case.replicas
        ]
        norms = {k: np.array([[at[k] for at in row] for row in found]) for k in found[0][0]}
        low = "0 -2 -2 -1 -1"
        expected = laws(f"{low} -1", f"{low} -2", "- -2 -2 -1 -1 -1")
        claims, straight, note = exponents(taus, norms, expected)
        claims = [replace(c, name=c.name.replace("s^", "tau^")) for c in claims]
        enough = Inequality("at least three tokens", case.sizes[1], ">=", 3)
        return Finding(tuple(claims), (enough, *straight), note)

    @statement("layer-norm", proof=f"{PROOFS}#layer-norm")
    def layer_norm(self, case: Case) -> Finding:
        """Pre-layer-norm with eps = 0: H does not depend on the scale; eps > 0 brings it back."""
        layer = replace(case.bare, layer_norm=0.0)
        H = dense.hessian(layer)
        claims = []
        for scale in (1e-6, 0.3, 1e6):
            moved = dense.hessian(replace(layer, X=scale * layer.X))
            off = float((moved - H).abs().max() / H.abs().max())
            claims.append(Inequality(f"s = {scale:g}: change of H, relative", off, "<=", ROUNDING))
        x, eps = case.scales, 1e-5
        drawn = [replace(a, layer_norm=eps) for a in case.replicas]
        found, straight, note = exponents(
            x * eps**0.5, curves(drawn, x * eps**0.5), SOFTMAX, "eps: "
        )
        hypotheses = (
            Inequality("at least three tokens", case.sizes[1], ">=", 3),
            Inequality("at least three features", case.sizes[2], ">=", 3),
        )
        return Finding((*claims, *found), (*hypotheses, *straight), note)

    @statement("perceptron", proof=f"{PROOFS}#perceptron")
    def perceptron(self, case: Case) -> Finding:
        """Linear and ReLU perceptrons: diagonal blocks 2 at any depth, others of H and H_f 1."""
        claims: list[Inequality] = []
        bends: list[Inequality] = []
        for kind, depth in (("linear", 1), ("linear", 3), ("relu", 2), ("relu", 3)):
            x, norms, names = deep_norms(kind, depth, case.seed)
            own = {n + n for n in names}
            still = [v for (p, b), v in norms.items() if p[0] == "f" and b in own]
            zero = largest(float(v.max()) for v in still)
            expected = {
                (part, b): 2.0 if part == "outer" or b in own else 1.0
                for part, b in norms
                if part != "functional" or b not in own
            }
            name = f"{kind}, m = {depth}: "
            claims.append(Inequality(f"{name}diagonal blocks of H_f", zero, "<=", 0.0))
            found, straight, _ = exponents(x, norms, expected, name)
            claims, bends = claims + found, bends + straight
        return Finding(tuple(claims), tuple(bends), "s = 1e-4 .. 1e-3, four draws")

    @statement("depth", proof=f"{PROOFS}#depth")
    def depth(self, case: Case) -> Finding:
        """m linear attention layers: diagonal blocks 2 3^m in the last, 3^m in earlier ones."""
        claims: list[Inequality] = []
        bends: list[Inequality] = []
        notes: list[str] = []
        for m in (1, 2, 3):
            x, norms, names = deep_norms("attention", m, case.seed)
            last = {n + n for n in names if n.endswith(str(m))}
            expected = {
                (part, b): 3.0**m * (2 if part == "outer" or b in last else 1)
                for part, b in norms
                if part != "functional" or b not in last
            }
            zero = largest(float(norms["functional", b].max()) for b in last)
            name = f"m = {m}: "
            claims.append(Inequality(f"{name}H_f of the last layer's own", zero, "<=", 0.0))
            found, straight, note = exponents(x, norms, expected, name)
            claims, bends, notes = claims + found, bends + straight, [*notes, note]
        return Finding(tuple(claims), tuple(bends), "s = 0.01 .. 0.05, four draws")


def require_room(N: int, L: int, D: int, d: int, H: int) -> None:
    """Attention, tokens and every Hessian fit into memory; else the largest size is named."""
    entries = {
        "attention": H * N * L * L,
        "tokens": N * L * (D + H * d),
        "Hessian": max(2 * D * d + D * D, 2 * D * D, H * (3 * D * d + 2 * d)) ** 2,
    }
    what, most = max(entries.items(), key=lambda item: item[1])
    if 8 * most > LARGEST_BYTES:
        names = ("samples", "tokens", "embedding", "head_dim", "heads")
        field, size = max(zip(names, (N, L, D, d, H), strict=True), key=lambda item: item[1])
        remedy = f"make it smaller: the {what} would take more than {LARGEST_BYTES >> 30} GiB"
        raise InputError(field, size, remedy)


def said(x: np.ndarray, note: str) -> str:
    """The range and what was found."""
    return f"s = {x[0]:.1e} .. {x[-1]:.1e}, {REPLICAS} draws: {note}"


def sums_of_squares(case: Case) -> dict[str, torch.Tensor]:
    """Diagonal blocks for linear attention, as polynomials of S_x = X^T X of each sample."""
    layer = replace(case.bare, kernel="linear")
    assert layer.W_K is not None
    Q, K, V = layer.W_Q[0], layer.W_K[0], layer.W_V[0]
    D, d = Q.shape
    sizes = {"QQ": D * d, "KK": D * d, "VV": V.numel()}
    total = {name: Q.new_zeros(size, size) for name, size in sizes.items()}
    for x in layer.X:
        S = x.mT @ x
        B = S @ K @ Q.mT @ S @ Q @ K.mT @ S
        SV = S @ V @ V.mT @ S
        c = layer.c / d
        total["VV"] += c * torch.kron(B, torch.eye(V.shape[1], dtype=S.dtype, device=S.device))
        total["QQ"] += c * torch.kron(S, K.mT @ SV @ K)
        total["KK"] += c * torch.kron(SV, Q.mT @ S @ Q)
    return total
