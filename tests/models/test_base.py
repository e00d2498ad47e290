"""What a model gets for nothing: a kernel and products through its Jacobian, any sigma_min."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from samples import KERNELS, draw
from samples import model as multihead
from samples_encoder import case

from gdconv.models.base import Model
from gdconv.models.encoder.formulas import EncoderFormulas
from gdconv.models.multihead.formulas import MultiHeadFormulas
from gdconv.models.sigma import FeatureFollower


class Bare(Model):
    """Brings its formulas and nothing else."""

    name = "bare"

    def point(self, problem: Any, params: Any, trained: tuple[str, ...]) -> Any:
        """Not asked here."""

    def probe(self, problem: Any, params: Any, trained: tuple[str, ...]) -> Any:
        """Not asked here."""


class BareHeads(MultiHeadFormulas, Bare):
    """The multi-head model without its closed kernels."""


class BareEncoder(EncoderFormulas, Bare):
    """The encoder without its closed kernels."""


def test_the_general_way_gives_what_the_closed_forms_give() -> None:
    cases: list[tuple[Any, Any, Any, Any, tuple[str, ...]]] = []
    for kernel in KERNELS:
        problem, params = draw((2, 3, 4, 3, 2, 2), 1, runs=2)
        special = multihead(kernel)
        cases += [(special, BareHeads(special.kernel), problem, params, blocks)
                  for blocks in (("W_Q",), ("W_V", "W_K"))]  # fmt: skip
    made, problem, params = case((3, 2, 4, 5), "gelu", 0, runs=2)
    bare = BareEncoder(made.tau_0, made.tau_1, made.loss_scale, made.activation)
    cases += [(made, bare, problem, params, blocks) for blocks in (("w_O",), ("W_Q", "W_V"))]
    for model, general, data, weights, blocks in cases:
        K = model.tangent_kernel(data, weights, blocks)
        assert torch.allclose(general.tangent_kernel(data, weights, blocks), K, rtol=1e-11)
        v = torch.from_numpy(np.random.default_rng(0).standard_normal(K.shape[:2]))
        product = general.kernel_times(data, weights, v, blocks)
        assert torch.allclose(product, model.kernel_times(data, weights, v, blocks), rtol=1e-10)
        assert isinstance(general.sigma_follower(data, weights), FeatureFollower)
        other = general.tangent_kernel(data, weights, blocks[:1])  # negative control
        assert len(blocks) == 1 or not torch.allclose(other, K, rtol=1e-3)
