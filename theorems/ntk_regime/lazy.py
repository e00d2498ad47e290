"""Lazy training: how far a run leaves the kernel, the weights and the linearisation it began with.

With residual r_t, tangent kernel K_t and step eta, the linearised model at theta_0 has the residual
l_t = (I - eta K_0)^t r_0, and e_t = r_t - l_t obeys, exactly,

    e_{t+1} = (I - eta K_0) e_t + eta (K_0 - K_t) r_t + delta_t,
    delta_t = r_{t+1} - r_t + eta K_t r_t,

so |e_T| <= sum_t q^(T-1-t) (eta |(K_t - K_0) r_t| + |delta_t|), q = max |1 - eta lambda(K_0)|, and
|delta_t| has a bound of its own (`curvature`), which a wrong kernel would
break. Proof: docs/theory/ntk-regime.md, "linearised". Works for both models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from gdconv.data.problem import Problem
from gdconv.descent.plan import Plan
from gdconv.descent.watch import Watch
from gdconv.models.base import Model, alone
from gdconv.models.encoder.point import EncoderPoint
from gdconv.models.multihead.point import MultiHeadPoint
from gdconv.models.multihead.tangent import tangent_kernel
from gdconv.models.probes import distances, to_numpy
from gdconv.models.weights import Weights
from gdconv.rigor.arithmetic import minus, positive_part, smaller, times
from gdconv.rigor.eigen import lambda_max_enclosure, lambda_min_enclosure
from gdconv.rigor.spectrum import Enclosure

from .curvature import Curvature, curvature_at

NOISE = 64 * 2.0**-53
"""Rounding of the recursion of the linearised model in one step, as a share of |r_0|."""


def encoder_rungs(point: EncoderPoint) -> list[Enclosure]:
    """Ladder at one point of the encoder: rungs from below, the last one lambda_min(K).

    Args:
        point: Where.

    Returns:
        alpha^2, lambda_min(K_O) + lambda_min(K_V), lambda_min(K_O + K_V), lambda_min(K).
    """
    made = point.ladder
    return [made.features, made.separate, made.output_value, made.full]


def head_rungs(point: MultiHeadPoint) -> list[Enclosure]:
    """o^2 sigma_min(B)^2 <= lambda_min(K_V) <= lambda_min(K), where W_V is trained.

    Args:
        point: Where.

    Returns:
        The three.
    """
    o, sigma = point.o, point.sigma_0
    first = Enclosure((o.lo * sigma.lo) ** 2 * (1 - 1e-15), (o.hi * sigma.hi) ** 2 * (1 + 1e-15))
    at = point.model, point.problem, point.params
    value = lambda_min_enclosure(tangent_kernel(*at, ("W_V",))[0].numpy())
    full = lambda_min_enclosure(tangent_kernel(*at, point.trained)[0].numpy())
    return [first, value, full]


RUNGS: dict[str, Callable[[Any], list[Enclosure]]] = {
    "encoder": encoder_rungs,
    "multihead": head_rungs,
}
"""The ladder of each model that the theorem speaks of."""


@dataclass
class LinearisedRun:
    """One replica's state; the residual is r_t, `linear` is l_t.

    Attributes:
        K_0: Tangent kernel at the start.
        q: Contraction factor max |1 - eta lambda(K_0)|, from above.
        residual: r_t.
        product: K_t r_t.
        linear: l_t.
        first: |r_0|.
        rounding: Rounding of one step of the recursion.
        error: |e_t|.
        bound: What |e_t| is at most.
        noise: Rounding of both sides.
        worst: Greatest |e_t| / (bound + noise) so far.
        curved: Greatest |delta_t| / (its bound + noise) so far; at the start eta times the
            difference of K_0 r_0 and J (J^T r_0) over 16 times the rounding.
        change: |K_t - K_0|_F / |K_0|_F at the last record.
        rung: Least lambda_min(K) / rung over the records, enclosed.
    """

    K_0: np.ndarray
    q: float
    residual: np.ndarray
    product: np.ndarray
    linear: np.ndarray
    first: float
    rounding: float
    error: float = 0.0
    bound: float = 0.0
    noise: float = 0.0
    worst: float = 0.0
    curved: float = 0.0
    change: float = 0.0
    rung: Enclosure = Enclosure(np.inf, np.inf)

    def advance(
        self, eta: float, residual: np.ndarray, product: np.ndarray, allowed: float
    ) -> None:
        """From step t to t + 1.

        Args:
            eta: Step size.
            residual: r_{t+1}.
            product: K_{t+1} r_{t+1}.
            allowed: Bound of |delta_t|.
        """
        drift = _length(self.product - self.K_0 @ self.residual)
        delta = _length(residual - self.residual + eta * self.product)
        if self.first > 0:
            self.curved = float(np.maximum(self.curved, delta / (allowed + self.rounding)))
        bound = float(self.q * self.bound + eta * drift + allowed)
        self.bound = bound if bound == bound else np.inf
        self.noise = self.q * self.noise + self.rounding
        self.linear = self.linear - eta * (self.K_0 @ self.linear)
        self.residual, self.product = residual, product
        self.error = float(_length(residual - self.linear))
        if self.first > 0:
            share = np.float64(self.error) / (self.bound + self.noise)
            self.worst = float(np.maximum(self.worst, share))  # nan stays


class LazyWatch(Watch):
    """Follows kernel, linearisation and ladder of R runs.

    Args:
        model: The model.
        problem: Data, R replicas.
        params: Start weights.
        plan: Its step sizes and trained blocks.
    """

    def __init__(self, model: Model, problem: Problem, params: Any, plan: Plan) -> None:
        self.model, self.problem, self.plan, self.start = model, problem, plan, params
        self.K_0 = to_numpy(model.tangent_kernel(problem, params, plan.trained))
        self.norms = _norms(params)
        self.follows: dict[int, LinearisedRun] = {}
        self.curvature: dict[int, Curvature] = {}
        self.last: dict[int, tuple[Any, Any]] = {}
        self.origins: dict[int, Any] = {}

    def _data(self, r: int) -> Problem:
        return self.problem[r if self.problem.R > 1 else 0].to("cpu", torch.float64)

    @staticmethod
    def _alone(params: Any, r: int) -> Any:
        return params[r].to("cpu", torch.float64)

    @np.errstate(all="ignore")  # absurd scales give inf or nan, which no claim meets
    def observe(self, replicas: list[int], params: Any, forward: Any) -> None:
        """The recursion of the bound, one step on."""
        residual = _outputs(self.problem, forward.residual)
        blocks = self.plan.trained
        times = self.model.kernel_times(self.problem, params, residual, blocks, forward)
        r_t, k_t = to_numpy(residual), to_numpy(times)
        for r in replicas:
            here = params if params.R == 1 else params[r], alone(forward, r)
            if r not in self.follows:
                self.follows[r] = self._begin(r, r_t[r], k_t[r])
            else:
                (before, earlier), (after, later) = self.last[r], here
                allowed = self.curvature[r].bound(before, after, earlier, later)
                self.follows[r].advance(float(self.plan.eta[r]), r_t[r], k_t[r], allowed)
            self.last[r] = here

    def _begin(self, r: int, residual: np.ndarray, product: np.ndarray) -> LinearisedRun:
        K, eta = self.K_0[r], float(self.plan.eta[r])
        least, greatest = lambda_min_enclosure(K), lambda_max_enclosure(K)
        step = Enclosure(eta, eta)
        q = np.maximum(
            minus(1, times(step, positive_part(least))).hi, minus(times(step, greatest), 1).hi
        )
        first = float(np.linalg.norm(residual))
        start = self.origins[r] = self._alone(self.start, r)
        point = self.model.point(self._data(r), start, self.plan.trained)
        self.curvature[r] = curvature_at(point)
        rounding = self._rounding(r, start, first)
        state = LinearisedRun(K, float(q), residual, product, residual.copy(), first, rounding)
        apart = eta * float(np.linalg.norm(product - K @ residual))
        if rounding > 0:  # a wrong block of K_0 shows here
            state.curved = apart / (16 * rounding)
        return state

    def _rounding(self, r: int, here: Any, first: float) -> float:
        """What float arithmetic may add to delta_t and to e_t in one step near these weights."""
        at = self.model.probe(self._data(r), here, self.plan.trained)
        unit = torch.finfo(self.start.W_Q.dtype).eps * 2.0**52  # 1 in float64
        errors = float(at.noise_scale[0]), float(at.jacobian_error[0])
        return unit * self._added(r, first, *errors, float(at.jacobian_norm[0]))

    def _added(self, r: int, first: float, nu: float, error: float, J: float) -> float:
        """From the errors of a residual and of J: nu twice, J times the error of eta J^T r, K r."""
        slope = float(self.plan.eta[r]) * J * (J * nu + 2 * error * first)
        return 2 * nu + 2 * slope + NOISE * first

    @np.errstate(all="ignore")
    def record(self, r: int, params: Any, here: Any = None, ledger: Any = None) -> dict[str, float]:
        """Kernel change, lambda_min(K_t), linearisation, relative movement of every block."""
        if here is None:
            weights = self._alone(params, r)
            here = self.model.point(self._data(r), weights, self.plan.trained)
        before = self.origins[r]
        state = self.follows[r]
        size = max(float(np.linalg.norm(state.K_0)), 1e-300)
        state.change = float(np.linalg.norm(_kernel(here) - state.K_0)) / size
        if ledger is None:
            added = self._rounding(r, here.params, state.first)
        else:
            errors = float(ledger["noise_scale"]), float(ledger["jacobian_error"])
            added = self._added(r, state.first, *errors, float(ledger["jacobian_norm"]))
        state.rounding = max(state.rounding, added)
        *lower, full = RUNGS[self.model.name](here)
        for rung in lower:
            ratio = _ratio(full, rung)
            state.rung = smaller(state.rung, ratio)
        scale = max(state.first, 1e-300)
        moved = {
            f"relative_{name}": float(value[0] / self.norms[name][r])
            for name, value in distances(here.params, before).items()
            if self.norms[name][r] > 0
        }
        return {
            "kernel_change": state.change,
            "lambda_min_lo": full.lo,
            "lambda_min_hi": full.hi,
            "linear_error": state.error / scale,
            "linear_bound": (state.bound + state.noise) / scale,
            "linear_ratio": float(np.linalg.norm(state.linear)) / scale,
            **moved,
        }

    def result(self, r: int) -> dict[str, float]:
        """Numbers behind the statements `linearised` and `ladder`."""
        state = self.follows[r]
        return {
            "q": state.q,
            "linear_worst": state.worst,
            "curved_worst": state.curved,
            "linear_bound": state.bound + state.noise,
            "linear_last": float(np.linalg.norm(state.linear)),
            "first": state.first,
            "rung_lo": state.rung.lo,
            "rung_hi": state.rung.hi,
        }


def _outputs(problem: Problem, residual: torch.Tensor) -> torch.Tensor:
    """Residuals (R, m), those of padded tokens left out; the encoder has one per sample."""
    return residual if residual.ndim == 2 else problem.rows(residual).flatten(1)


def _ratio(top: Enclosure, bottom: Enclosure) -> Enclosure:
    """top / bottom of non-negative numbers; a bottom that may be zero leaves the top open."""
    if any(map(np.isnan, (*top, *bottom))):
        return Enclosure(np.nan, np.nan)
    hi = top.hi / bottom.lo if bottom.lo > 0 else np.inf
    return Enclosure(max(top.lo, 0.0) / bottom.hi if bottom.hi > 0 else 1.0, max(hi, 0.0))


def _kernel(point: Any) -> np.ndarray:
    """K of the trained blocks; an encoder's point keeps it."""
    if isinstance(point, EncoderPoint):
        return point.K
    at = point.model, point.problem, point.params
    return to_numpy(tangent_kernel(*at, point.trained))[0]


def _length(x: np.ndarray) -> Any:
    """|x| as a numpy number: an overflow is infinite and a division by zero no error."""
    return np.sqrt(x.dot(x))


def _norms(params: Weights) -> dict[str, np.ndarray]:
    """|W|_F per block and together, by the names that `distances` uses."""
    zero = {name: torch.zeros_like(block) for name, block in params.blocks().items()}
    return distances(params, replace(params, **zero))
