"""The rounding bound of `encoder.tangent_slack` once more, in loops over tokens and neurons.

From two facts: a sum of k products is off by gamma_k times the sum of absolute values, and a
product that underflows by TINY. Only the tuples that carry arrays are gdconv's own.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gdconv.models.encoder.model import ShallowEncoder
from gdconv.models.encoder.tangent_slack import _Tokens

U, TINY, GROW, FUNCTION = 2.0**-53, 2.0**-1022, 1 + 1e-6, 32 * 2.0**-53


def gam(k: int) -> float:
    """(k + 1) u / (1 - (k + 1) u)."""
    return (k + 1) * U / (1 - (k + 1) * U)


def act(name: str, x: float) -> tuple[float, float]:
    """The activation and its slope."""
    if name == "relu":
        return max(x, 0.0), float(x > 0)
    if name == "gelu":
        Phi, phi = (1 + math.erf(x / math.sqrt(2))) / 2, math.exp(-x * x / 2) / math.sqrt(math.tau)
        return x * Phi / 1.12891, (Phi + x * phi) / 1.12891
    g = 1 / (1 + math.exp(-x))
    return x * g / 1.09984, g * (1 + x * (1 - g)) / 1.09984


def loops_attention(tau: float, X: Any, S: Any, A: Any, W: dict[str, Any]) -> tuple[Any, Any]:
    """(dS, dA): scores off by dZ move S by a factor exp(4 dZ) at most, S moves A."""
    (N, n, D), d_m = X.shape, len(W["W_Q"])
    M, spread = np.zeros((D, D)), np.zeros((D, D))
    for a in range(D):
        for b in range(D):
            terms = [W["W_Q"][m, a] * W["W_K"][m, b] for m in range(d_m)]
            M[a, b] = math.fsum(terms)
            off = gam(d_m) * math.fsum(map(abs, terms)) + d_m * TINY
            spread[a, b] = off + gam(2 * D + 4) * abs(M[a, b])
    dS, dA = np.zeros((N, n, n)), np.zeros((N, n, D))
    for i in range(N):
        x = abs(X[i])
        dZ = np.zeros((n, n))
        for k in range(n):
            for j in range(n):
                through = sum(x[k, a] * spread[a, b] * x[j, b] for a in range(D) for b in range(D))
                dZ[k, j] = tau * (through + D * TINY * sum(x[j]) + D * TINY)
        for k in range(n):
            z = [tau * float(X[i, k] @ M @ X[i, j]) for j in range(n)]
            exponent = 4 * max(dZ[k]) + 2 * U * (max(z) - min(z)) + gam(n + 24)
            for j in range(n):
                small = S[i, k, j] * math.expm1(min(exponent, 1.0)) + 2.0**-1000
                dS[i, k, j] = small if exponent < 1 else 1.0
            for b in range(D):
                sizes = [S[i, k, j] * x[j, b] for j in range(n)]
                moved = [dS[i, k, j] * x[j, b] for j in range(n)]
                dA[i, k, b] = sum(moved) + gam(n) * sum(sizes) + n * TINY
    return dS, dA


def loops_neurons(
    model: ShallowEncoder, tokens: _Tokens, pre: Any, F: Any, W: dict[str, Any], width: int = 1024
) -> dict[str, Any]:
    """Errors of act(pre), act'(pre) and what is summed from them over the neurons."""
    X, _, _, A, dA = tokens
    (N, n, D), d_m = X.shape, len(W["w_O"])
    c = model.tau_1 * math.sqrt(model.loss_scale)
    k = d_m + d_m // width + 8
    out: dict[str, Any] = {
        "f": np.zeros(N), "df": np.zeros(N), "F_sq": 0.0, "dF_sq": 0.0, "a_sq": np.zeros((N, n)),
        "da_sq": np.zeros((N, n)), "G": np.zeros((N, n, D)), "dG": np.zeros((N, n, D)),
    }  # fmt: skip
    smooth = model.activation != "relu"
    for i in range(N):
        for m in range(d_m):
            w, V = abs(W["w_O"][m]), abs(W["W_V"][m])
            moves = values = 0.0
            for j in range(n):
                x = float(pre[i, j, m])
                off = [dA[i, j, b] + gam(D) * abs(A[i, j, b]) for b in range(D)]
                moved = sum(o * v for o, v in zip(off, V, strict=True)) + D * TINY
                value, slope = act(model.activation, x)
                moves += moved + (FUNCTION * abs(x) if smooth else 0.0)
                values += abs(value)
                turned = moved + FUNCTION if smooth else float(abs(x) <= moved)
                a = slope * c * W["w_O"][m]
                da = c * w * turned + gam(8) * abs(a) + TINY
                out["a_sq"][i, j] += a * a
                out["da_sq"][i, j] += da * da
                out["G"][i, j] += a * W["W_V"][m]
                out["dG"][i, j] += (da + gam(k) * abs(a)) * V
            dF = c * (moves + gam(n + 8) * values) + n * TINY
            out["f"][i] += abs(F[i, m]) * w
            out["df"][i] += dF * w
            out["F_sq"] += F[i, m] ** 2
            out["dF_sq"] += dF**2
    out["dG"] += max(1, -(-d_m // width)) * k * TINY
    return out


def loops_scores(tau: float, tokens: _Tokens, G: Any, dG: Any) -> tuple[Any, Any]:
    """(|E| + 2 dE, dE) from P_kj = S_kj <x_j - A_k, G_k>."""
    X, S, dS, A, dA = tokens
    N, n, D = X.shape
    E, dE = np.zeros((N, D, D)), np.zeros((N, D, D))
    for i in range(N):
        P, core = np.zeros((n, n)), np.zeros((n, n))
        for k in range(n):
            for j in range(n):
                size = moved = 0.0
                for b in range(D):
                    gap = abs(X[i, j, b] - A[i, k, b])
                    off = dA[i, k, b] + U * gap + TINY
                    whole = abs(G[i, k, b]) + 2 * dG[i, k, b]
                    size += gap * whole
                    moved += off * whole + (gap + off) * dG[i, k, b]
                moved += gam(D) * size + D * TINY
                s, ds = S[i, k, j], dS[i, k, j]
                dP = s * moved + ds * (size + moved) + 2 * U * s * size + TINY
                core[k, j] = dP + gam(2 * n + 8) * s * size
                P[k, j] = s * float((X[i, j] - A[i, k]) @ G[i, k])
        for a in range(D):
            for b in range(D):
                E[i, a, b] = tau * sum(
                    X[i, k, a] * P[k, j] * X[i, j, b] for k in range(n) for j in range(n)
                )
                inner = [
                    sum(core[k, j] * abs(X[i, j, b]) for j in range(n)) + n * TINY for k in range(n)
                ]
                outer = sum(abs(X[i, k, a]) * v for k, v in enumerate(inner)) + n * TINY
                dE[i, a, b] = tau * outer + TINY
    return abs(E) + 2 * dE, dE


def loops_bounds(
    model: ShallowEncoder, X: Any, y: Any, W: dict[str, Any], at: dict[str, Any], width: int
) -> dict[str, float]:
    """All eight bounds, from J_O = F, |J_V| <= sum |a||A|, J_Q = W_K E^T, J_K = W_Q E."""
    (N, n, D), d_m = X.shape, len(W["w_O"])
    dS, dA = loops_attention(model.tau_0, X, at["S"], at["A"], W)
    tokens = _Tokens(X, at["S"], dS, at["A"], dA)
    s = loops_neurons(model, tokens, at["pre"], at["F_pre"], W, width)
    E, dE = loops_scores(model.tau_0, tokens, s["G"], s["dG"])
    k = d_m + d_m // width + 40
    norm = np.linalg.norm
    value = [0.0, 0.0]
    for i in range(N):
        b = e = 0.0
        for j in range(n):
            a, da = math.sqrt(s["a_sq"][i, j]), math.sqrt(s["da_sq"][i, j])
            A, off = norm(at["A"][i, j]), norm(dA[i, j])
            b += a * A
            e += da * A + da * off + a * off
        value = [value[0] + b * b, value[1] + e * e]
    Q, K = abs(W["W_Q"]), abs(W["W_K"])
    pairs = {
        "output": (math.sqrt(s["F_sq"]), math.sqrt(s["dF_sq"]), k),
        "value": (math.sqrt(value[0]), math.sqrt(value[1]), k + D + n * n),
        "query": (norm([K @ e.T for e in E]), norm([K @ e.T for e in dE]), k + D + D * D),
        "key": (norm([Q @ e for e in E]), norm([Q @ e for e in dE]), k + D + D * D),
    }
    one = {
        name: GROW * (2 * b * e + 3 * e * e + gam(m) * b * b) for name, (b, e, m) in pairs.items()
    }
    size = {name: pairs[name][0] ** 2 for name in one}
    f, df = s["f"], s["df"]
    label = math.sqrt(model.loss_scale) * abs(y)
    moved = [df[i] + gam(k) * f[i] + 4 * U * (f[i] + label[i]) for i in range(N)]
    both = ("output", "value")
    sums = {
        "output_value": sum(one[b] for b in both) + gam(6) * sum(size[b] for b in both),
        "total": sum(one.values()) + gam(6) * sum(size.values()),
    }
    found = {"residual": norm(moved), "features": math.sqrt(s["dF_sq"])} | sums
    return one | {name: GROW * v for name, v in found.items()}
