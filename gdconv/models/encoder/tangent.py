"""Tangent kernel of the shallow encoder in closed form, block by block: no Jacobian is formed.

K = J J^T of the N scaled outputs sqrt(loss_scale) f(X_i), one term per trained block. With
a_ik = c w_O o act'(pre_ik), A the attended tokens, c = tau_1 sqrt(loss_scale) and
E_i = tau_0 sum_kj P_i,kj x_ik x_ij^T the derivative of output i by the D x D matrix W_Q^T W_K:

    K_O = F_pre F_pre^T
    K_V = sum_kk' <a_ik, a_i'k'> <A_ik, A_i'k'>
    K_Q = <E_i (W_K^T W_K), E_i'>        since J_Q,i = W_K E_i^T
    K_K = <(W_Q^T W_Q) E_i, E_i'>        since J_K,i = W_Q E_i

The width enters through Gram matrices that are summed over blocks of `WIDTH` neurons, so the work
space is the preactivations and (N n)^2 + N D^2 numbers. Operations: d_m ((N n)^2 + N n D + N^2).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf, nextafter

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gdconv.data.problem import Problem
from gdconv.models.encoder.formulas import EncoderFormulas, EncoderPass
from gdconv.models.encoder.parameters import BLOCKS, EncoderParameters
from gdconv.models.encoder.step import EncoderStep
from gdconv.models.encoder.tangent_slack import kernel_slack
from gdconv.rigor.definite import root
from gdconv.rigor.eigen import lambda_min_enclosure
from gdconv.rigor.rounding import TINY, UNIT, Array, Enclosure, gamma, up
from gdconv.rigor.spectrum import enclose_sigma_min
from gdconv.support.errors import InputError

WIDTH = 1024
"""Neurons treated at once."""

GOOD = 1e-12
"""Relative width up to which sigma_min(F_pre) is taken from F_pre F_pre^T."""


def _checked(blocks: tuple[str, ...]) -> None:
    if not blocks or not set(blocks) <= set(BLOCKS) or len(set(blocks)) < len(blocks):
        raise InputError("blocks", blocks, f"name some of {', '.join(BLOCKS)}, each once")


def _cuts(d_m: int) -> list[slice]:
    return [slice(j, min(j + WIDTH, d_m)) for j in range(0, d_m, WIDTH)]


def _symmetric(K: Tensor) -> Tensor:
    return 0.5 * (K + K.mT)


def _value_part(
    model: EncoderFormulas, params: EncoderParameters, at: EncoderPass, kernel: bool
) -> tuple[Tensor, Tensor]:
    """K_V (zeros unless `kernel`) and dA = sum_m a_ikm W_V,m, in one sweep over the neurons."""
    R, N, n, _ = at.pre.shape
    D = at.A.shape[3]
    gram = at.A.new_zeros(R, N * n, N * n) if kernel else None
    dA = at.A.new_zeros(R, N * n, D)
    factor = (model.scale * params.w_O).unsqueeze(1)
    for cut in _cuts(params.d_m):
        a = model.act.slope(at.pre[..., cut]).flatten(1, 2) * factor[..., cut]
        dA += a @ params.W_V[:, cut]
        if gram is not None:
            gram += a @ a.mT
    if gram is None:
        return at.A.new_zeros(R, N, N), dA.view(R, N, n, D)
    tokens = at.A.flatten(1, 2)
    gram *= tokens @ tokens.mT
    return gram.view(R, N, n, N, n).sum((2, 4)), dA.view(R, N, n, D)


def block_kernels(
    model: EncoderFormulas,
    problem: Problem,
    params: EncoderParameters,
    blocks: tuple[str, ...] = BLOCKS,
    at: EncoderPass | None = None,
) -> dict[str, Float[Tensor, "R N N"]]:
    """K_W = J_W J_W^T for each of the blocks, exactly symmetric.

    Args:
        model: The model.
        problem: Data, R (or 1) replicas.
        params: Weights, R replicas.
        blocks: Which of W_Q, W_K, W_V, w_O.
        at: A forward pass at `params`, if there is one already.

    Returns:
        Kernels by name, in the order of `blocks`; trace K_W = |J_W|_F^2.

    Raises:
        InputError: `blocks` is empty, repeats a name or names something else.

    Example:
        >>> from gdconv.models.encoder.parameters import initialize_encoder
        >>> problem = Problem.per_sample([[[1.0, 2.0]], [[3.0, 4.0]]], [1.0, 0.0])
        >>> params, model = initialize_encoder("ntk", (8, 2), 0), EncoderFormulas(0.5, 0.5)
        >>> J = model.jacobian(problem, params, ("W_V",))
        >>> torch.allclose(block_kernels(model, problem, params)["W_V"], J @ J.mT)
        True
    """
    _checked(blocks)
    if isinstance(at, EncoderStep) and at.kernels.shape[1]:
        return {b: at.kernels[:, BLOCKS.index(b)] for b in blocks}
    at = at or model.forward(problem, params)
    made: dict[str, Tensor] = {}
    if "w_O" in blocks:
        made["w_O"] = sum(
            (at.F_pre[..., cut] @ at.F_pre[..., cut].mT for cut in _cuts(params.d_m)),
            at.F_pre.new_zeros(()),
        )
    if set(blocks) & {"W_Q", "W_K", "W_V"}:
        made["W_V"], dA = _value_part(model, params, at, "W_V" in blocks)
    if set(blocks) & {"W_Q", "W_K"}:
        E = model.score_gradients(problem, at, dA)
        for name, other, turned in (("W_Q", "W_K", E.mT), ("W_K", "W_Q", E)):
            W = getattr(params, other)
            root = (W.mT @ W).unsqueeze(1) @ turned
            made[name] = root.flatten(2) @ turned.flatten(2).mT
    return {b: _symmetric(made[b]) for b in blocks}


def encoder_kernel(
    model: EncoderFormulas,
    problem: Problem,
    params: EncoderParameters,
    blocks: tuple[str, ...] = BLOCKS,
    at: EncoderPass | None = None,
) -> Float[Tensor, "R N N"]:
    """K = J J^T summed over the trained blocks, exactly symmetric.

    Args:
        model: The model.
        problem: Data, R (or 1) replicas.
        params: Weights, R replicas.
        blocks: Which blocks are trained; the order does not matter.
        at: A forward pass at `params`, if there is one already.

    Returns:
        The kernel of the residuals sqrt(loss_scale) (f - y).

    Raises:
        InputError: `blocks` is empty, repeats a name or names something else.

    Example:
        >>> from gdconv.models.encoder.parameters import initialize_encoder
        >>> problem = Problem.per_sample([[[1.0, 2.0]], [[3.0, 4.0]]], [1.0, 0.0])
        >>> params, model = initialize_encoder("ntk", (8, 2), 0), EncoderFormulas(0.5, 0.5)
        >>> J = model.jacobian(problem, params)
        >>> torch.allclose(encoder_kernel(model, problem, params), J @ J.mT)
        True
    """
    return summed(block_kernels(model, problem, params, blocks, at), blocks)


def summed(
    parts: dict[str, Float[Tensor, "R N N"]], blocks: tuple[str, ...]
) -> Float[Tensor, "R N N"]:
    """K of some blocks from the kernels of each.

    Args:
        parts: As `block_kernels` returns them.
        blocks: Which to add up.

    Returns:
        Their sum in the order of `BLOCKS`, exactly symmetric.

    Example:
        >>> one = torch.ones(1, 1, 1)
        >>> summed({"W_Q": one, "W_V": 2 * one}, ("W_V", "W_Q")).item()
        3.0
    """
    total = torch.zeros_like(next(iter(parts.values())))
    for b in BLOCKS:  # one order of summation whatever the order of `blocks`
        if b in blocks:
            total += parts[b]
    return total


def encoder_ntk_vector_product(
    model: EncoderFormulas,
    problem: Problem,
    params: EncoderParameters,
    vector: Float[Tensor, "R N"],
    blocks: tuple[str, ...] = BLOCKS,
    at: EncoderPass | None = None,
) -> Float[Tensor, "R N"]:
    """K v = J (J^T v) without K or J, for about the cost of two gradients.

    Args:
        model: The model.
        problem: Data, R (or 1) replicas.
        params: Weights, R replicas.
        vector: v, one per replica.
        blocks: Which blocks are trained.
        at: A forward pass at `params`, if there is one already.

    Returns:
        K v.

    Raises:
        InputError: Wrong blocks, or `vector` is not of shape (R, N).

    Example:
        >>> from gdconv.models.encoder.parameters import initialize_encoder
        >>> problem = Problem.per_sample([[[1.0, 2.0]], [[3.0, 4.0]]], [1.0, 0.0])
        >>> params, model = initialize_encoder("ntk", (8, 2), 0), EncoderFormulas(0.5, 0.5)
        >>> v = torch.ones(1, 2, dtype=torch.float64)
        >>> K = encoder_kernel(model, problem, params)
        >>> torch.allclose(encoder_ntk_vector_product(model, problem, params, v), K.sum(-1))
        True
    """
    _checked(blocks)
    at = at or model.forward(problem, params)
    if vector.shape != at.F.shape:
        shown = f"a tensor of shape {tuple(vector.shape)}"
        raise InputError("vector", shown, f"give {tuple(at.F.shape)}")
    _, pulled = model.gradient(problem, params, replace(at, residual=vector))
    return model.tangent(problem, params, at, pulled, blocks)


@dataclass(frozen=True)
class Ladder:
    """Lower bounds of lambda_min(K) for one replica, each at most the next.

    Attributes:
        alpha: sigma_min(F_pre), F_pre as stored.
        features: alpha^2 = lambda_min(K_O), the paper's rung.
        separate: lambda_min(K_O) + lambda_min(K_V).
        output_value: lambda_min(K_O + K_V).
        full: lambda_min(K) of all trained blocks.
        slack: Bound of the rounding of K and of K_O + K_V that the enclosures contain.

    Example:
        >>> zero = Enclosure(0.0, 0.0)
        >>> Ladder(zero, zero, zero, zero, zero, 0.0).broken()
        ()
    """

    alpha: Enclosure
    features: Enclosure
    separate: Enclosure
    output_value: Enclosure
    full: Enclosure
    slack: float

    def broken(self) -> tuple[str, ...]:
        """Names of rungs that surely lie below the rung before; empty unless a formula is wrong."""
        names = ("features", "separate", "output_value", "full")
        return tuple(
            high
            for low, high in zip(names, names[1:], strict=False)
            if getattr(self, high).hi < getattr(self, low).lo
        )


def _widened(box: Enclosure, margin: float) -> Enclosure:
    """The box and its neighbours at that distance, not below 0, rounded outwards."""
    low, high = nextafter(box.lo - margin, -inf), nextafter(box.hi + margin, inf)
    return Enclosure(max(0.0, low), high)


def _square(box: Enclosure) -> Enclosure:
    return Enclosure(box.lo**2 * (1 - 4 * UNIT), box.hi**2 * (1 + 4 * UNIT) + 2.0**-1000)


def _least(K: Tensor, slack: float) -> Enclosure:
    """lambda_min of the exact kernel, which is positive semidefinite."""
    if slack == inf:
        return Enclosure(0.0, inf)
    from gdconv.compiled.encoder_step import least_ends  # numba loads slowly

    box = Enclosure(*least_ends(K.contiguous().numpy()))
    if box.hi < inf:
        return _widened(box, slack)
    return _widened(lambda_min_enclosure(K.numpy(), slack), 0.0)


def _alpha(F: Array) -> Enclosure:
    """sigma_min(F_pre) of the features as stored: through F F^T where that is as good."""
    from gdconv.compiled.encoder_step import least_ends  # numba loads slowly

    N, d_m = F.shape
    if d_m >= N and np.isfinite(F).all():
        with np.errstate(all="ignore"):
            G = F @ F.T
            G = (G + G.T) / 2
            trace = float(G.trace())
            # as in `gdconv.rigor.definite.gram_range`
            slack = up(
                gamma(d_m + 4) * trace * (1.0 + 2.0 * gamma(d_m + N + 4)) + G.size * d_m * TINY
            )
            found = root(Enclosure(*least_ends(G)), slack)
        if found.width <= GOOD * found.lo:
            return found
    return enclose_sigma_min(F, "F_pre")


def ladder(
    model: EncoderFormulas,
    problem: Problem,
    params: EncoderParameters,
    kernels: dict[str, Float[Tensor, "R N N"]] | None = None,
    at: EncoderPass | None = None,
) -> list[Ladder]:
    """Enclosed rungs sigma_min(F_pre)^2 <= ... <= lambda_min(K), one ladder per replica.

    K is a sum of the positive semidefinite K_Q, K_K, K_V, K_O, so dropping terms, and splitting
    lambda_min(A + B) >= lambda_min(A) + lambda_min(B), only lowers it. All rungs but `alpha` hold
    for the exact features and kernels of the stored weights, whatever slope relu takes where
    float64 cannot tell the sign of a preactivation (`kernel_slack`); `alpha` is of F_pre as stored.

    Args:
        model: The model.
        problem: Data, R (or 1) replicas, float64 on the CPU.
        params: Weights, R replicas.
        kernels: `block_kernels` of all four blocks, if there already.
        at: A forward pass at `params`, if there is one already.

    Returns:
        One `Ladder` per replica.

    Example:
        >>> from gdconv.models.encoder.parameters import initialize_encoder
        >>> problem = Problem.per_sample([[[1.0, 2.0]], [[3.0, 4.0]]], [1.0, 0.0])
        >>> params, model = initialize_encoder("ntk", (64, 2), 0), EncoderFormulas(0.5, 0.5)
        >>> rungs = ladder(model, problem, params)[0]
        >>> rungs.features.hi <= rungs.full.lo, rungs.broken()
        (True, ())
    """
    at = at or model.forward(problem, params)
    parts = kernels or block_kernels(model, problem, params, BLOCKS, at)
    both = parts["W_V"] + parts["w_O"]
    whole = parts["W_Q"] + parts["W_K"] + both
    made = []
    for r, slack in enumerate(kernel_slack(model, problem, params, at)):
        alpha = _alpha(at.F_pre[r].numpy())
        features = _square(_widened(alpha, slack.features))
        value = _least(parts["W_V"][r], slack.value)
        separate = _widened(Enclosure(features.lo + value.lo, features.hi + value.hi), 0.0)
        two, full = _least(both[r], slack.output_value), _least(whole[r], slack.total)
        made.append(Ladder(alpha, features, separate, two, full, slack.total))
    return made
