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

    @np.errstate(all="ignore")
    def bound(self, before: Any, after: Any, pass_before: Any, pass_after: Any) -> float:
        """The bound of the module, for this activation; infinite where that overflows."""
        here = replace(self.constants, radii=self._reach(before, after))
        inner, outer = _moved(before, after, BLOCKS[:3]), _moved(before, after, BLOCKS[3:])
        model = self.start.model
        if model.activation != "relu":
            entry = float(torch.maximum(before.w_O.abs().max(), after.w_O.abs().max()))
            return float(0.5 * here.M_2(entry) * (inner**2 + outer**2))
        kink = float(_kink(model, before.w_O, pass_before, pass_after).norm())
        Lambda, second = here.Lambda_squared**0.5, here.curved()
        return float(kink + outer * Lambda * inner + second / 2 * inner**2)

    def _reach(self, before: Any, after: Any) -> dict[str, float]:
        """Radii for which lambda_W is the larger norm of the two ends."""
        ends = {b: (getattr(before, b), getattr(after, b)) for b in BLOCKS[:3]}
        largest = {b: max(float(_spectral(u)), float(_spectral(v))) for b, (u, v) in ends.items()}
        largest["w_O"] = max(float(before.w_O.norm()), float(after.w_O.norm()))
        return {b: _excess(largest[b], self.norms[b]) for b in BLOCKS}


def _kink(
    model: ShallowEncoder, w_O: torch.Tensor, before: EncoderPass, after: EncoderPass
) -> torch.Tensor:
    """What relu(h') - relu(h) - relu'(h)(h' - h) adds, weighted by |w_O|; shape (N,)."""
    crossed = torch.where(before.pre <= 0, after.pre, -after.pre).clamp_min_(0)
    return model.scale * (crossed.sum(2) @ w_O.abs().unsqueeze(2))[0, :, 0]


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
