"""What a theorem reads at one point of the shallow encoder.

alpha, |F_pre| and the spectrum of the tangent kernel are enclosures of the float64 matrices;
spectral norms of the weights are float64, compared with the slack of `gdconv.theory.prediction`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from gdconv.data.problem import Problem
from gdconv.models.encoder import tangent
from gdconv.models.encoder.formulas import EncoderFormulas, EncoderPass
from gdconv.models.encoder.parameters import BLOCKS, EncoderParameters
from gdconv.models.encoder.probes import probe
from gdconv.models.encoder.step import EncoderStep
from gdconv.models.encoder.tangent import Ladder, ladder, summed
from gdconv.models.point import Point
from gdconv.models.probes import Probe
from gdconv.rigor.eigen import eigenvalue_range, symmetric
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
        at: A forward pass at `params`, if there is one already.

    Example:
        >>> from gdconv.models.encoder.parameters import initialize_encoder
        >>> problem = Problem.per_sample(np.eye(4).reshape(2, 2, 4), np.array([0.6, 0.8]))
        >>> start = EncoderPoint(EncoderFormulas(1 / 8, 1.0), problem,
        ...     initialize_encoder("zero-output", (8, 4), 0))
        >>> round(start.f_0, 12), round(start.r_0, 9), bool(start.alpha.lo > 0)
        (0.5, 1.0, True)
    """

    model: EncoderFormulas
    problem: Problem
    params: EncoderParameters
    trained: tuple[str, ...] = BLOCKS
    at: EncoderPass | None = None

    @cached_property
    def _forward(self) -> EncoderPass:
        return self.at or self.model.forward(self.problem, self.params)

    def probe(self) -> Probe:
        """The probes here."""
        return probe(self.model, self.problem, self.params)

    @property
    def d_m(self) -> int:
        """Width."""
        return self.params.d_m

    @property
    def C_x(self) -> float:
        """max_i |X_i|_F / sqrt(n), n of the longest sample."""
        norms = self.problem.X[0].flatten(1).norm(dim=1)
        return float(norms.max()) / math.sqrt(self.n)

    @cached_property
    def x(self) -> np.ndarray:
        """x_i = |X_i|_2, shape (N,)."""
        return spectral_norm(self.problem.X[0].cpu().double().numpy())

    @cached_property
    def t(self) -> np.ndarray:
        """t_i = |X_i - mean token|_2, shape (N,)."""
        return spectral_norm(self.centred)

    @cached_property
    def centred(self) -> np.ndarray:
        """X_i - mean token, shape (N, n, D); zero where padded."""
        X = self.problem.X[0].cpu().double().numpy()
        if self.problem.mask is None:
            return np.asarray(X - X.mean(1, keepdims=True))
        real = self.problem.mask.cpu().numpy()[..., None]
        return np.asarray((X - X.sum(1, keepdims=True) / real.sum(1, keepdims=True)) * real)

    @cached_property
    def spreads(self) -> tuple[float, float]:
        """Norms over the samples of t_i^2 x_i and t_i^3 x_i^2, each times sqrt(n_i / n)."""
        root = np.sqrt(self.fill)
        first, second = root * self.t**2 * self.x, root * self.t**3 * self.x**2
        return float(np.linalg.norm(first)), float(np.linalg.norm(second))

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
        return summed(self.kernels, self.trained)[0].cpu().double().numpy()

    @cached_property
    def kernels(self) -> dict[str, Tensor]:
        """Kernels of all four blocks, shape (1, N, N) each."""
        return tangent.block_kernels(self.model, self.problem, self.params, BLOCKS, self._forward)

    @cached_property
    def ladder(self) -> Ladder:
        """Enclosed rungs up to lambda_min(K) of all four blocks, float64 on the CPU."""
        at = self.model, self.problem, self.params
        return ladder(*at, kernels=self.kernels, at=self._forward)[0]

    @cached_property
    def J_range(self) -> tuple[Enclosure, Enclosure]:
        """Square roots of the enclosed extreme eigenvalues of K."""
        if not self.slope_is_finite:
            return Enclosure(0.0, math.inf), Enclosure(0.0, math.inf)
        lo, hi = (np.sqrt(np.maximum(end, 0.0)) for end in eigenvalue_range(symmetric(self.K, "K")))
        least, greatest = (Enclosure(float(lo[i]), float(hi[i])) for i in (0, -1))
        return least, greatest

    @property
    def J_least(self) -> Enclosure:
        """From the bounds that the pass of a step has, if it has any."""
        if isinstance(self.at, EncoderStep) and self.at.trained == self.trained:
            lo, hi = self.at.ends[0].tolist()
            if hi < math.inf:
                return Enclosure(math.sqrt(max(lo, 0.0)), math.sqrt(max(hi, 0.0)))
        return self.J_range[0]

    @property
    def slope_is_finite(self) -> bool:
        """Whether float64 holds K."""
        return bool(np.isfinite(self.K).all())

    @property
    def flat(self) -> bool:
        """Whether K is zero."""
        return not self.K.any()
