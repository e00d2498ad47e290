"""How far the float64 tangent kernel of the encoder can be from the exact one: a rigorous bound.

The exact kernel is that of the stored weights, tokens and factors in real arithmetic. Every
intermediate gets an entrywise bound of its error from standard rounding analysis (a sum of k
products in any order is off by gamma_k times the sum of absolute values), the bounds are pushed
through the formulas of gdconv.models.encoder.tangent, and per block

    |K_W - K_W,exact|_2 <= 2 b e + 3 e^2 + gamma b^2,  b >= |J_W|_F - e,  e >= |J_W - J_W,exact|_F.

A neuron whose preactivation could have either sign (|pre| within its error bound) counts with the
whole jump of relu', so the bound holds for every subgradient selection there. Assumed of the
arithmetic: round to nearest, gradual underflow, products without Strassen's recombination, and exp
and erf within 4 units in the last place. First-order terms are exact, products of two rounding
errors are covered by the factor `GROW`.
"""

from __future__ import annotations

from math import inf, isfinite, sqrt
from typing import NamedTuple

import numpy as np
import torch

from gdconv.data.problem import Problem
from gdconv.models.encoder.formulas import EncoderFormulas, EncoderPass
from gdconv.models.encoder.parameters import EncoderParameters
from gdconv.rigor.rounding import TINY, UNIT, Array, gamma, gradual_underflow
from gdconv.support.errors import InputError

WIDTH = 1024
"""Neurons treated at once."""

GROW = 1.0 + 1e-6
"""Covers products of rounding errors and the rounding of this bound, while gamma < 1e-8."""

FUNCTION = 32 * UNIT
"""Error of an activation over |x|, and of its slope, from exp and erf within 4 ulp."""


class Slack(NamedTuple):
    """Bounds of |float64 - exact|: of F_pre in the Frobenius norm, of kernels in the spectral norm.

    Args:
        residual: The residual vector, Euclidean norm.
        features: F_pre.
        output: K_O.
        value: K_V.
        query: K_Q.
        key: K_K.
        output_value: K_O + K_V.
        total: The sum of all four.

    Example:
        >>> Slack(0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 2.0, 4.0).total
        4.0
    """

    residual: float
    features: float
    output: float
    value: float
    query: float
    key: float
    output_value: float
    total: float


class _Tokens(NamedTuple):
    """Per sample: tokens and attended tokens with the errors of the attention."""

    X: Array
    S: Array
    dS: Array
    A: Array
    dA: Array


def _attention(
    model: EncoderFormulas, X: Array, S: Array, A: Array, W: dict[str, Array]
) -> _Tokens:
    """Errors of S and A through the scores tau_0 X (W_Q^T W_K) X^T."""
    (n, D), d_m, aX = X.shape[1:], len(W["w_O"]), np.abs(X)
    M = W["W_Q"].T @ W["W_K"]
    dM = gamma(d_m) * (np.abs(W["W_Q"]).T @ np.abs(W["W_K"])) + d_m * TINY
    spread = dM + gamma(2 * D + 4) * np.abs(M)
    # what underflows in X M is still multiplied by tokens, and that by tau_0
    dZ = model.tau_0 * ((aX @ spread + D * TINY) @ aX.swapaxes(1, 2) + D * TINY)
    Z = model.tau_0 * (X @ M @ X.swapaxes(1, 2))
    # stored scores are at most 2 dZ apart from exact ones against each other: twice that
    exponent = 4 * dZ.max(-1) + 2 * UNIT * (Z.max(-1) - Z.min(-1)) + gamma(n + 24)
    dS = S * np.expm1(exponent)[..., None] + 2.0**-1000
    dS = np.where(exponent[..., None] < 1.0, dS, 1.0)
    return _Tokens(X, S, dS, A, dS @ aX + gamma(n) * (S @ aX) + n * TINY)


class _Neurons(NamedTuple):
    """What the sweep over the width leaves: sums over neurons, and dA with its error."""

    f: Array
    df: Array
    F_sq: float
    dF_sq: float
    a_sq: Array
    da_sq: Array
    G: Array
    dG: Array


def _sweep(
    model: EncoderFormulas, tokens: _Tokens, pre: Array, F_pre: Array, W: dict[str, Array]
) -> _Neurons:
    """Errors of the features and of a = c w_O o act'(pre), summed over blocks of neurons."""
    N, n, D = tokens.X.shape
    d_m, c, relu = len(W["w_O"]), model.scale, model.activation == "relu"
    F_sq = dF_sq = 0.0
    f, df = np.zeros(N), np.zeros(N)
    a_sq, da_sq = np.zeros((N, n)), np.zeros((N, n))
    G, dG = np.zeros((N, n, D)), np.zeros((N, n, D))
    spread = tokens.dA + gamma(D) * np.abs(tokens.A)
    k = d_m + d_m // WIDTH + 8
    for j in range(0, d_m, WIDTH):
        cut = slice(j, min(j + WIDTH, d_m))
        x, wide = pre[..., cut], np.abs(W["W_V"][cut])
        moved = spread @ wide.T + D * TINY
        stored = torch.from_numpy(np.ascontiguousarray(x))
        act, slope = model.act(stored).numpy(), model.act.slope(stored).numpy()
        d_act = moved + (0.0 if relu else FUNCTION) * np.abs(x)
        d_slope = (np.abs(x) <= moved).astype(float) if relu else moved + FUNCTION
        dF = c * (d_act.sum(1) + gamma(n + 8) * np.abs(act).sum(1)) + n * TINY
        weight = c * np.abs(W["w_O"][cut])
        a = slope * (c * W["w_O"][cut])
        da = weight * d_slope + gamma(8) * np.abs(a) + TINY
        f += np.abs(F_pre[:, cut]) @ np.abs(W["w_O"][cut])
        df += dF @ np.abs(W["w_O"][cut])
        F_sq += float((F_pre[:, cut] ** 2).sum())
        dF_sq += float((dF**2).sum())
        a_sq += (a**2).sum(-1)
        da_sq += (da**2).sum(-1)
        G += a @ W["W_V"][cut]
        dG += (da + gamma(k) * np.abs(a)) @ wide + k * TINY
    return _Neurons(f, df, F_sq, dF_sq, a_sq, da_sq, G, dG)


def _scores(model: EncoderFormulas, tokens: _Tokens, seen: _Neurons) -> tuple[Array, Array]:
    """|E_i| from above and the error of E_i = tau_0 X_i^T P_i X_i, both (N, D, D)."""
    X, S, dS, A, dA = tokens
    n, D = X.shape[1:]
    aX = np.abs(X)
    gap = np.abs(X[:, None] - A[:, :, None])  # (N, k, j, D)
    d_gap = dA[:, :, None] + UNIT * gap + TINY
    G = np.abs(seen.G) + 2 * seen.dG
    size = np.einsum("ikjD,ikD->ikj", gap, G)
    moved = np.einsum("ikjD,ikD->ikj", d_gap, G) + np.einsum("ikjD,ikD->ikj", gap + d_gap, seen.dG)
    moved += gamma(D) * size + D * TINY
    dP = S * moved + dS * (size + moved) + 2 * UNIT * S * size + TINY
    turned = aX.swapaxes(1, 2)
    dE = turned @ ((dP + gamma(2 * n + 8) * S * size) @ aX + n * TINY) + n * TINY
    dE = model.tau_0 * dE + TINY
    centred = np.einsum("ikjD,ikD->ikj", X[:, None] - A[:, :, None], seen.G)
    E = model.tau_0 * (X.swapaxes(1, 2) @ (S * centred) @ X)
    return np.abs(E) + 2 * dE, dE


def _through(W: Array, E: Array) -> Array:
    """Norms of |W| E_i per sample: sqrt of sum (|W|^T |W| E_i) o E_i."""
    gram = np.abs(W).T @ np.abs(W)
    return np.sqrt(np.einsum("iab,iab->i", gram @ E, E))


def _combine(b: float, e: float, k: int) -> float:
    return 2 * b * e + 3 * e * e + gamma(k) * b * b


def _one(
    model: EncoderFormulas, X: Array, y: Array, W: dict[str, Array], at: dict[str, Array]
) -> Slack:
    """The bounds of one replica."""
    (n, D), d_m = X.shape[1:], len(W["w_O"])
    k = d_m + d_m // WIDTH + 40
    if not (gamma(k + D * D + n * n) < 1e-8 and gradual_underflow()):
        return Slack(*[inf] * 8)
    tokens = _attention(model, X, at["S"], at["A"], W)
    seen = _sweep(model, tokens, at["pre"], at["F_pre"], W)
    A, dA = (np.sqrt((v**2).sum(-1)) for v in (tokens.A, tokens.dA))
    a, da = np.sqrt(seen.a_sq), np.sqrt(seen.da_sq)
    E, dE = _scores(model, tokens, seen)
    pairs = {
        "output": (sqrt(seen.F_sq), sqrt(seen.dF_sq), k),
        "value": (
            float(np.linalg.norm((a * A).sum(1))),
            float(np.linalg.norm((da * (A + dA) + a * dA).sum(1))),
            k + D + n * n,
        ),
    }
    for name, other, turn in (("query", "W_K", (0, 2, 1)), ("key", "W_Q", (0, 1, 2))):
        b, e = (_through(W[other], v.transpose(turn)) for v in (E, dE))
        pairs[name] = (float(np.linalg.norm(b)), float(np.linalg.norm(e)), k + D + D * D)
    single = {name: GROW * _combine(*pair) for name, pair in pairs.items()}
    # the sum of the blocks is rounded too: four terms, each at most b^2 and its error in norm
    square = {name: pair[0] ** 2 for name, pair in pairs.items()}
    two, four = ("output", "value"), tuple(pairs)
    output_value = sum(single[b] for b in two) + gamma(6) * sum(square[b] for b in two)
    total = sum(single[b] for b in four) + gamma(6) * sum(square[b] for b in four)
    moved = seen.df + gamma(k) * seen.f + 4 * UNIT * (seen.f + sqrt(model.loss_scale) * np.abs(y))
    residual = float(np.linalg.norm(moved))
    sums = GROW * output_value, GROW * total
    found = [GROW * residual, GROW * sqrt(seen.dF_sq), *single.values(), *sums]
    return Slack(*(x + 2.0**-900 if isfinite(x) else inf for x in found))


def kernel_slack(
    model: EncoderFormulas,
    problem: Problem,
    params: EncoderParameters,
    at: EncoderPass | None = None,
) -> list[Slack]:
    """Bounds of the rounding of residual, F_pre and the kernels of `tangent`, per replica.

    The largest part is usually the sum over d_m in W_Q^T W_K, 1e-16 d_m^2 tau_0 |x|^2 |J|_F^2 for
    weights of order one; a-priori bounds lie digits above the error that happens. Costs about one
    gradient.

    Args:
        model: The model.
        problem: Data, R (or 1) replicas, float64 on the CPU.
        params: Weights, R replicas.
        at: The forward pass at `params` that the kernels were computed from.

    Returns:
        One `Slack` per replica, infinite where the analysis does not apply (overflow, flushed
        denormals).

    Raises:
        InputError: The weights are not float64 on the CPU.

    Example:
        >>> from gdconv.models.encoder.parameters import initialize_encoder
        >>> problem = Problem.per_sample([[[0.6, 0.8]], [[1.0, 0.0]]], [1.0, 0.0])
        >>> params, model = initialize_encoder("ntk", (8, 2), 0), EncoderFormulas(0.5, 0.5)
        >>> size = float(model.jacobian(problem, params).square().sum())
        >>> 0.0 < kernel_slack(model, problem, params)[0].total < 1e-12 * size
        True
    """
    if params.W_Q.dtype != torch.float64 or params.W_Q.device.type != "cpu":
        shown = f"{params.W_Q.dtype} on {params.W_Q.device}"
        raise InputError("weights", shown, "give float64 on the CPU: the bound counts its rounding")
    at = at or model.forward(problem, params)
    made, data, labels = [], problem.X.detach().numpy(), problem.y.detach().flatten(1).numpy()
    for r in range(len(params.w_O)):
        W = {b: getattr(params, b)[r].detach().numpy() for b in ("W_Q", "W_K", "W_V", "w_O")}
        seen = {b: getattr(at, b)[r].detach().numpy() for b in ("S", "A", "pre", "F_pre")}
        with np.errstate(all="ignore"):
            made.append(_one(model, data[r % len(data)], labels[r % len(labels)], W, seen))
    return made
