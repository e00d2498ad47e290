"""What a theorem reads at one point of the shallow encoder, and the encoder's probes.

alpha, |F_pre| and the spectrum of the tangent kernel are enclosures of the float64 matrices;
spectral norms of the weights are float64, compared with the slack of `gdconv.theory.prediction`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from gdconv.data.problem import Problem
from gdconv.models.encoder.model import (
    BLOCKS,
    EncoderParameters,
    EncoderPass,
    ShallowEncoder,
)
from gdconv.models.encoder.tangent import encoder_kernel
from gdconv.models.multihead.point import Point, start_at
from gdconv.models.multihead.probes import Probe, attention_entropy, probe, stepped, to_numpy
from gdconv.models.multihead.tangent import lambda_max_enclosure, lambda_min_enclosure
from gdconv.rigor.lapack import spectral_norm
from gdconv.rigor.spectrum import Enclosure, enclose_singular_range


@dataclass(frozen=True)
class EncoderPoint(Point):
    """One run of the shallow encoder at theta.

    Attributes:
        model: The model with its scalings.
        problem: Data, one replica.
        params: Weights, one replica.
        trained: Blocks that gradient descent moves.

    Example:
        >>> from gdconv.models.encoder.model import initialize_encoder
        >>> problem = Problem.per_sample(np.eye(4).reshape(2, 2, 4), np.array([0.6, 0.8]))
        >>> start = EncoderPoint(ShallowEncoder(1 / 8, 1.0), problem,
        ...     initialize_encoder("zero-output", (8, 4), 0))
        >>> round(start.f_0, 12), round(start.r_0, 9), bool(start.alpha.lo > 0)
        (0.5, 1.0, True)
    """

    model: ShallowEncoder
    problem: Problem
    params: EncoderParameters
    trained: tuple[str, ...] = BLOCKS

    @property
    def d_m(self) -> int:
        """Width."""
        return self.params.d_m

    @property
    def C_x(self) -> float:
        """max_i |X_i|_F / sqrt(n)."""
        norms = self.problem.X[0].flatten(1).norm(dim=1)
        return float(norms.max()) / math.sqrt(self.n)

    @cached_property
    def x(self) -> np.ndarray:
        """x_i = |X_i|_2, shape (N,)."""
        return spectral_norm(self.problem.X[0].cpu().double().numpy())

    @cached_property
    def t(self) -> np.ndarray:
        """t_i = |X_i - mean token|_2, shape (N,)."""
        X = self.problem.X[0].cpu().double().numpy()
        return spectral_norm(X - X.mean(1, keepdims=True))

    def norm(self, block: str) -> float:
        """|W|_2 of a block; |w_O| for w_O."""
        # a numpy number: powers of it overflow to infinity, which no hypothesis meets
        return self._norms[block]

    @cached_property
    def _norms(self) -> dict[str, np.float64]:
        return {
            b: np.float64(spectral_norm(W) if W.ndim == 2 else np.linalg.norm(W))
            for b, W in self.arrays.items()
        }

    @cached_property
    def F_pre(self) -> np.ndarray:
        """Features, shape (N, d_m), loss scale included."""
        return self._forward.F_pre[0].cpu().double().numpy()

    @cached_property
    def feature_range(self) -> tuple[Enclosure, Enclosure]:
        """(alpha, |F_pre|_2) enclosed; alpha = sigma_N(F_pre) is 0 when d_m < N."""
        least, greatest = enclose_singular_range(self.F_pre)  # numpy numbers, as in `norm`
        return Enclosure(*map(np.float64, least)), Enclosure(*map(np.float64, greatest))

    @property
    def alpha(self) -> Enclosure:
        """Alpha = sigma_min(F_pre)."""
        return self.feature_range[0]

    @cached_property
    def K(self) -> np.ndarray:
        """The tangent kernel of the trained blocks, shape (N, N)."""
        K = encoder_kernel(self.model, self.problem, self.params, self.trained)
        return K[0].cpu().double().numpy()

    @cached_property
    def J_range(self) -> tuple[Enclosure, Enclosure]:
        """Square roots of the enclosed extreme eigenvalues of K."""
        if not self.slope_is_finite:
            return Enclosure(0.0, math.inf), Enclosure(0.0, math.inf)
        ends = lambda_min_enclosure(self.K), lambda_max_enclosure(self.K)
        least, greatest = (
            Enclosure(math.sqrt(max(e.lo, 0.0)), math.sqrt(max(e.hi, 0.0))) for e in ends
        )
        return least, greatest

    @property
    def slope_is_finite(self) -> bool:
        """Whether float64 holds K."""
        return bool(np.isfinite(self.K).all())

    @property
    def flat(self) -> bool:
        """Whether K is zero."""
        return not self.K.any()


start_at.register(ShallowEncoder, EncoderPoint)


@probe.register
def _(
    model: ShallowEncoder,
    problem: Problem,
    params: EncoderParameters,
    eta: np.ndarray,
    trained: tuple[str, ...] = BLOCKS,
) -> Probe:
    """Probes through the Jacobian of one sample at a time: never N x (d_m D) numbers."""
    at = model.forward(problem, params)
    norm_sq = {b: torch.zeros_like(at.loss) for b in BLOCKS}
    pulled = {b: torch.zeros_like(getattr(params, b)) for b in BLOCKS}
    for i in range(problem.N):
        for b, J in model.jacobian_sample(problem, params, at, i).items():
            norm_sq[b] += J.square().flatten(1).sum(1)
            pulled[b] += at.residual[:, i].view(-1, *[1] * (J.ndim - 1)) * J
    steps = torch.as_tensor(eta, dtype=at.loss.dtype, device=at.loss.device)
    unit = torch.finfo(at.loss.dtype).eps / 2
    frob = {b: getattr(params, b).flatten(1).norm(dim=1) for b in BLOCKS}
    root = math.sqrt(model.loss_scale)
    scale = root * (at.F.norm(dim=1) + problem.y.flatten(1).norm(dim=1))
    scale = scale + sum(norm_sq[b].sqrt() * frob[b] for b in BLOCKS)
    scores, terms = _before_cancelling(model, problem, params, at)
    none = torch.zeros_like(at.loss)
    total = sum((norm_sq[b] for b in trained), none).sqrt()
    return Probe(
        noise_scale=to_numpy(8 * unit * (scale + scores)),
        jacobian_error=to_numpy(unit * (64 * total + 16 * terms)),
        jacobian_norm=to_numpy(total),
        weight_norm=to_numpy(sum((frob[b] ** 2 for b in trained), none).sqrt()),
        residual_norm=to_numpy(at.residual.norm(dim=1)),
        entropy=to_numpy(attention_entropy(at.S.unsqueeze(1))),
        descended=stepped(params, EncoderParameters(**pulled), steps, trained),
    )


def _before_cancelling(
    model: ShallowEncoder, problem: Problem, params: EncoderParameters, at: EncoderPass
) -> tuple[torch.Tensor, torch.Tensor]:
    """What rounding before something cancels does to the output, and the size of J's terms.

    With t_k = c W_V^T (w_O o act'(pre_k)) and u_kj = <t_k, x_j>: a score error e_kj moves the
    output by S_kj (u_kj - ubar_k) e_kj, and J_Q, J_K are sums of S_kj u_kj times keys and queries.
    An attended token may be what is left of large ones, and a preactivation of large products:
    c sum_kj S_kj sum_m |w_O,m| |W_V,m| |x_j| covers both, at a kink too.

    Returns:
        Two tensors of shape (R,).
    """
    X = problem.X
    q = X.abs() @ params.W_Q.abs().mT.unsqueeze(1)
    k = X.abs() @ params.W_K.abs().mT.unsqueeze(1)
    t = model.output_slopes(params, at) @ params.W_V.unsqueeze(1)
    u = t @ X.mT
    moved = at.S * (u - (at.S * u).sum(-1, keepdim=True)).abs()
    scores = model.tau_0 * (moved * (q @ k.mT)).sum((2, 3)).norm(dim=1)
    through = (model.scale * params.w_O.abs()).unsqueeze(1) @ params.W_V.abs()
    tokens = (X.abs() @ through.unsqueeze(1).mT).squeeze(-1)
    attended = (at.S @ tokens.unsqueeze(-1)).sum((2, 3)).norm(dim=1)
    size = t.abs() @ X.abs().mT
    sums = at.S * (size + (at.S * size).sum(-1, keepdim=True))
    x = X.norm(dim=-1)
    by_query = ((sums @ k).norm(dim=-1) * x).sum(2).norm(dim=1)
    by_key = ((sums.mT @ q).norm(dim=-1) * x).sum(2).norm(dim=1)
    return scores + attended, model.tau_0 * torch.hypot(by_query, by_key)
