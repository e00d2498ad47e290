"""How far one step of gradient descent may leave its tangent: a bound of |delta_t|.

delta = r(theta') - r(theta) - J(theta) (theta' - theta).

* smooth models: |delta| <= (M_2 / 2) |theta' - theta|^2, M_2 on the segment, where |W|_2 is at
  most the larger of the two ends;
* ReLU encoder: |delta| <= |kink| + |dw_O| Lambda s + (curved / 2) s^2, s = |(dW_V, dW_Q, dW_K)|_F,
  kink_i = tau_1 sum_k |w_k| sum over tokens of what relu gains past a sign change.

Proof: docs/theory/ntk-regime.md, "linearised".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from gdconv.models.encoder.constants import DataConstants, EncoderConstants
from gdconv.models.encoder.formulas import EncoderPass
from gdconv.models.encoder.model import ShallowEncoder
from gdconv.models.encoder.parameters import BLOCKS
from gdconv.models.encoder.step import EncoderStep
from gdconv.models.multihead.constants import Constants, Radii
from gdconv.models.multihead.parameters import BLOCKS as HEAD_BLOCKS
from gdconv.rigor.lapack import spectral_norm
from gdconv.rigor.rounding import UNIT


class Curvature(ABC):
    """Bounds |delta| of successive steps of one replica.

    Args:
        start: The run at step 0; data and scalings are read from it once.
    """

    def __init__(self, start: Any) -> None:
        self.start = start

    @abstractmethod
    def bound(self, before: Any, after: Any, pass_before: Any, pass_after: Any) -> float:
        """Bound of |delta| from weights and forward passes of one replica, R = 1."""


def _spectral(W: torch.Tensor) -> Any:
    """Spectral norms over the last two axes, replica 0."""
    return spectral_norm(W[0].double().cpu().numpy())


def _moved(before: Any, after: Any, blocks: tuple[str, ...]) -> float:
    squares = [(getattr(after, b) - getattr(before, b)).square().sum() for b in blocks]
    return np.float64(float(sum(squares))) ** 0.5


def _excess(largest: Any, norm: Any) -> Any:
    """largest - norm from above: where a weight shrank, what is added to the norm again cancels."""
    return largest - norm + 4 * UNIT * (largest + norm)


class HeadCurvature(Curvature):
    """The multi-head model: M_2 of `gdconv.models.multihead.constants` on the segment."""

    @np.errstate(all="ignore")
    def bound(self, before: Any, after: Any, pass_before: Any, pass_after: Any) -> float:
        """(M_2 / 2) |theta' - theta|^2; infinite where that overflows."""
        radii = [
            _excess(
                np.maximum(_spectral(getattr(before, b)), _spectral(getattr(after, b))),
                self.start.norm(b),
            )
            for b in HEAD_BLOCKS
        ]
        M_2 = Constants(self.start, Radii(*radii)).M_2()
        return 0.5 * M_2 * _moved(before, after, HEAD_BLOCKS) ** 2


class EncoderCurvature(Curvature):
    """The shallow encoder: M_2 where the activation is smooth, the kink apart where it is not."""

    def __init__(self, start: Any) -> None:
        super().__init__(start)
        data = DataConstants.sharp(start)
        self.constants = EncoderConstants(start, data, {})  # each bound has its own radii
        self.norms = {b: start.norm(b) for b in BLOCKS}
        self.last: tuple[Any, dict[str, float]] = (None, {})

    @np.errstate(all="ignore")
    def bound(self, before: Any, after: Any, pass_before: Any, pass_after: Any) -> float:
        """The bound of the module, for this activation; infinite where that overflows."""
        ends = self._sizes(before, pass_before), self._sizes(after, pass_after)
        here = replace(
            self.constants,
            radii={b: _excess(max(end[b] for end in ends), self.norms[b]) for b in BLOCKS},
        )
        model = self.start.model
        inner, outer, kink = _travelled(model, before, after, pass_before, pass_after)
        if model.activation != "relu":
            entry = float(torch.maximum(before.w_O.abs().max(), after.w_O.abs().max()))
            return float(0.5 * here.M_2(entry) * (inner**2 + outer**2))
        Lambda, second = here.Lambda_squared**0.5, here.curved()
        return float(kink + outer * Lambda * inner + second / 2 * inner**2)

    def _sizes(self, params: Any, at: EncoderPass) -> dict[str, float]:
        """|W|_2 by block and |w_O|; the end of a step is the beginning of the next one."""
        if self.last[0] is not params:
            sizes = at.norms[0].tolist() if isinstance(at, EncoderStep) else [np.nan]
            if np.isnan(sizes).any():
                inner = [float(_spectral(getattr(params, b))) for b in BLOCKS[:3]]
                sizes = [*inner, float(params.w_O.norm())]
            self.last = params, dict(zip(BLOCKS, sizes, strict=True))
        return self.last[1]


def _travelled(
    model: ShallowEncoder, before: Any, after: Any, start: EncoderPass, end: EncoderPass
) -> tuple[Any, Any, float]:
    """Lengths of the steps of (W_Q, W_K, W_V) and of w_O, and |kink| for relu."""
    if not (isinstance(start, EncoderStep) and isinstance(end, EncoderStep)):
        inner, outer = _moved(before, after, BLOCKS[:3]), _moved(before, after, BLOCKS[3:])
        relu = model.activation == "relu"
        return inner, outer, float(_kink(model, before.w_O, start, end).norm()) if relu else 0.0
    from gdconv.compiled.encoder_step import step_size  # numba loads slowly

    arrays = (part.numpy() for part in (start.theta, end.theta, start.pre, end.pre))
    *lengths, gained = step_size(*arrays, model.activation == "relu")
    return *lengths, model.scale * gained


def _kink(
    model: ShallowEncoder, w_O: torch.Tensor, before: EncoderPass, after: EncoderPass
) -> torch.Tensor:
    """What relu(h') - relu(h) - relu'(h)(h' - h) adds, weighted by |w_O|; shape (N,)."""
    crossed = (before.pre > 0) != (after.pre > 0)
    if not crossed.any():
        return before.F.new_zeros(before.F.shape[1])
    gained = (after.pre.abs() * crossed).sum(2)
    return model.scale * (gained @ w_O.abs().unsqueeze(2))[0, :, 0]


CURVATURES: dict[str, type[Curvature]] = {"encoder": EncoderCurvature, "multihead": HeadCurvature}
"""The bound for each model that the theorem speaks of."""


@np.errstate(all="ignore")  # absurd scales give inf or nan, which no bound meets
def curvature_at(start: Any) -> Curvature:
    """The bound from a start on.

    Args:
        start: The run at step 0.

    Returns:
        The bound.
    """
    return CURVATURES[start.model.name](start)
