"""What a theorem reads at one point theta of one run: norms, features, Jacobian, as numpy numbers.

A `MultiHeadPoint` is one replica. Singular values that decide a hypothesis are enclosures; spectral
norms are float64 and compared with the slack that `gdconv.theory.theorem.Inequality` states.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gdconv.data.problem import Problem
from gdconv.models.multihead.formulas import MultiHeadFormulas
from gdconv.models.multihead.parameters import BLOCKS, Parameters
from gdconv.models.multihead.probes import probe
from gdconv.models.multihead.sharpness import sharpest
from gdconv.models.point import Point
from gdconv.models.probes import Probe
from gdconv.rigor.lapack import spectral_norm
from gdconv.rigor.spectrum import Enclosure, enclose_sigma_min, enclose_singular_range
from gdconv.support.trust import Estimate


@dataclass(frozen=True)
class MultiHeadPoint(Point):
    """One run of the multi-head model at theta (its start, or where a certificate is issued).

    Attributes:
        model: The model, with its attention kernel.
        problem: Data, one replica.
        params: Weights, one replica.
        trained: Blocks that gradient descent moves; J is the Jacobian by these.

    Example:
        >>> from gdconv.models.multihead.attention_kernels import kernel_named
        >>> zero, one = np.zeros((1, 1, 1)), np.ones((1, 1, 1))
        >>> weights = {"W_Q": zero, "W_K": zero, "W_V": zero, "W_O": one}
        >>> start = MultiHeadPoint(MultiHeadFormulas(kernel_named("softmax")),
        ...     Problem.from_arrays(one, np.ones((1, 1))), Parameters.from_arrays(weights))
        >>> start.f_0, round(start.r_0, 12), start.sigma_0.lo > 0.999
        (0.5, 1.0, True)
    """

    model: MultiHeadFormulas
    problem: Problem
    params: Parameters
    trained: tuple[str, ...] = BLOCKS

    def probe(self) -> Probe:
        """The probes here."""
        return probe(self.model, self.problem, self.params)

    @cached_property
    def sharpness(self) -> Estimate:
        """lambda_max of the Hessian of f by the trained blocks, an estimate with its residual."""
        return self.sharpness_near(None)[0]

    def sharpness_near(self, start: Any) -> tuple[Estimate, Any]:
        """The same from the eigenvector found at weights nearby, and the one found here."""
        return sharpest(self.model, self.problem, self.params, self.trained, start)

    @property
    def kernel(self) -> str:
        """Name of the attention kernel."""
        return self.model.kernel.name

    @property
    def D_y(self) -> int:
        """Outputs per token."""
        return self.problem.D_y

    @property
    def H(self) -> int:
        """Heads."""
        return self.params.H

    @property
    def d(self) -> int:
        """Head dimension."""
        return self.params.W_Q.shape[-1]

    @cached_property
    def a(self) -> np.ndarray:
        """a_i = |X_i|_2, shape (N,)."""
        return spectral_norm(self.problem.X[0].cpu().double().numpy())

    @property
    def A(self) -> float:
        """(sum_i a_i^2)^(1/2)."""
        return self.s(2)

    def s(self, p: int, q: int = 0) -> float:
        """s_p = (sum_i a_i^p)^(1/2); s_p,q = (sum_i (n_i/n)^q a_i^p)^(1/2), s_p without padding."""
        if (p, q) not in self._sums:
            self._sums[p, q] = float(np.sqrt((self.fill**q * self.a**p).sum()))
        return self._sums[p, q]

    @cached_property
    def _sums(self) -> dict[tuple[int, int], float]:
        return {}

    @cached_property
    def O(self) -> np.ndarray:  # noqa: E743
        """O_h = |W_O,h|_2, shape (H,)."""
        return spectral_norm(self.arrays["W_O"])

    @cached_property
    def _norms(self) -> dict[str, np.ndarray]:
        return {}  # by block, as they are asked for: constants on 57 balls ask for the same

    def norm(self, block: str) -> np.ndarray:
        """|W_h|_2 of a block, shape (H,)."""
        if block not in self._norms:
            self._norms[block] = spectral_norm(self.arrays[block])
        return self._norms[block]

    @cached_property
    def o(self) -> Enclosure:
        """min_h sigma_{D_y}(W_O,h), 0 when d < D_y."""
        ends = [enclose_sigma_min(W.T) for W in self.arrays["W_O"]]
        return Enclosure(min(e.lo for e in ends), min(e.hi for e in ends))

    @property
    def pl_constants(self) -> tuple[float, float]:
        """o^2 sigma_min(B)^2 bounds sigma_m(J)^2 from below."""
        return self.o.lo**2, 0.0

    @cached_property
    def o_stacked(self) -> Enclosure:
        """sigma_min of the concatenated (H d x D_y) W_O."""
        return enclose_sigma_min(self.arrays["W_O"].reshape(-1, self.D_y).T)

    @cached_property
    def B(self) -> np.ndarray:
        """B = [B^(1) ... B^(H)], shape (N n, H D); no rows of padding."""
        return self.model.features(self.problem, self._forward)[0].cpu().double().numpy()

    @cached_property
    def sigma_0(self) -> Enclosure:
        """sigma_{Nn}(B); exactly 0 with duplicate tokens or fewer columns than rows."""
        return Enclosure(0.0, 0.0) if self.problem.duplicate_tokens else enclose_sigma_min(self.B)

    @cached_property
    def J(self) -> np.ndarray:
        """J = dF / d(trained blocks), shape (m, |trained| H D d)."""
        return self._jacobian(self.trained)

    def _jacobian(self, blocks: tuple[str, ...]) -> np.ndarray:
        return self.model.jacobian(self.problem, self.params, blocks)[0].cpu().double().numpy()

    @cached_property
    def J_range(self) -> tuple[Enclosure, Enclosure]:
        """(sigma_m(J), |J|_2), both enclosed; sigma_m is 0 with duplicate tokens."""
        least, greatest = enclose_singular_range(self.J)
        return (Enclosure(0.0, 0.0) if self.problem.duplicate_tokens else least), greatest

    @property
    def slope_is_finite(self) -> bool:
        """Whether float64 holds J."""
        return bool(np.isfinite(self.J).all())

    @property
    def flat(self) -> bool:
        """Whether J is zero."""
        return not self.J.any()

    @cached_property
    def sigma_J_V(self) -> Enclosure:
        """sigma_m(J_V), the value block alone."""
        if self.problem.duplicate_tokens:
            return Enclosure(0.0, 0.0)
        whole = self.trained == BLOCKS  # W_V is its last block
        J = np.split(self.J, 3, axis=1)[2] if whole else self._jacobian(("W_V",))
        return enclose_singular_range(J)[0]
