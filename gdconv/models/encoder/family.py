"""The shallow encoder of Wu et al. as an architecture."""

from __future__ import annotations

from typing import Any

import numpy as np

from gdconv.data import sources
from gdconv.data.problem import Problem
from gdconv.models.architecture import Architecture
from gdconv.models.encoder.model import ShallowEncoder
from gdconv.models.encoder.parameters import (
    BLOCKS,
    RULES,
    EncoderParameters,
    default_tau_1,
    initialize_encoder,
    scaling,
)
from gdconv.models.reads import READS
from gdconv.support.choices import chosen
from gdconv.support.config import Config
from gdconv.support.errors import InputError

SIZES = ("samples", "tokens", "embedding", "width")
"""Options that are sizes of the arrays: N, n, D, d_m."""

DRAWN = ("lecun", "he", "ntk")
"""Initializations that are drawn; theorem takes w_O = 0 beside LeCun's."""

SCALES = {"sum": lambda N: 1.0, "mean": lambda N: 1.0 / N}
"""Factor of the loss by the option `loss`."""


class Encoder(Architecture):
    """One softmax attention layer, an activation, a sum over tokens: one output per sample.

    Example:
        >>> problem = Problem.per_sample(np.ones((3, 2, 4)), np.ones(3))
        >>> Encoder().sizes(Config("ntk-regime", width=5), problem, None)
        {'samples': 3, 'tokens': 2, 'embedding': 4, 'width': 5}
    """

    name = "encoder"
    trainable = BLOCKS
    blocks = BLOCKS
    reads = READS["encoder"]
    padding = True

    def model(self, config: Config, sizes: dict[str, int]) -> ShallowEncoder:
        """The model with its scalings.

        Args:
            config: Resolved options.
            sizes: Sizes.

        Returns:
            The model.

        Raises:
            InputError: Another attention kernel than softmax is asked for.
        """
        if config.kernel != "softmax":
            raise InputError("kernel", config.kernel, "give softmax: the encoder has no other")
        width = sizes["width"]
        drawn = config.init if config.init in RULES else "zero-output"  # theorem and stored weights
        tau_1 = config.tau_1 or default_tau_1(drawn, width)
        scale = SCALES[chosen("loss", config.loss, SCALES)](sizes["samples"])
        tau_0 = scaling(str(config.scaling), width)
        return ShallowEncoder(tau_0, tau_1, scale, str(config.activation))

    def load(self, config: Config, seed: int) -> Problem:
        """The data that `--data` names, one label per sample: the mean over its tokens."""
        return sources.load(
            str(config.data), samples=config.samples, tokens=config.tokens,
            embedding=config.embedding, target=config.target or "digit", seed=seed, per_sample=True,
        )  # fmt: skip

    def sizes(
        self, config: Config, problem: Problem, params: EncoderParameters | None
    ) -> dict[str, int]:
        """samples N, tokens n, embedding D, width d_m."""
        width = params.d_m if params else (config.width or 1)
        return dict(zip(SIZES, (problem.N, problem.n, problem.D, int(width)), strict=True))

    def entries(self, sizes: dict[str, int], trained: tuple[str, ...]) -> dict[str, int]:
        """Data, weights, preactivations and kernel; the Jacobian is never formed."""
        N, n, D, d_m = (int(sizes[name]) for name in SIZES)
        return {
            "data": N * n * D,
            "weights": d_m * (3 * D + 1),
            "preactivations": N * n * d_m,
            "tangent kernel": (N * n) ** 2,
        }

    def draw(self, config: Config, sizes: dict[str, int], seed: int) -> EncoderParameters:
        """Weights by rule: lecun, he, ntk or zero-output.

        Args:
            config: Resolved options.
            sizes: Sizes.
            seed: Seed of the draws.

        Returns:
            The weights.

        Raises:
            InputError: A rule that this model does not have.
        """
        if config.init not in DRAWN:
            remedy = f"choose one of theorem, {', '.join(DRAWN)} for the encoder"
            raise InputError("init", config.init, remedy)
        return initialize_encoder(str(config.init), (sizes["width"], sizes["embedding"]), seed)

    def from_arrays(self, arrays: dict[str, np.ndarray]) -> EncoderParameters:
        """W_Q, W_K, W_V, w_O."""
        return EncoderParameters.from_arrays(arrays)

    def problem(
        self, X: np.ndarray, y: np.ndarray, name: str, notes: list[str], mask: Any = None
    ) -> Problem:
        """Data from stored arrays, one label per sample."""
        return Problem.per_sample(X, y, name, notes, mask)

    def require_match(self, problem: Problem, params: EncoderParameters) -> None:
        """Data and weights have the same R and D, and there is one label per sample.

        Args:
            problem: Data.
            params: Weights.

        Raises:
            InputError: They differ.
        """
        pairs = {
            "R": (params.R, problem.R),
            "D": (params.W_Q.shape[2], problem.D),
        }
        for name, (have, want) in pairs.items():
            if have != want:
                remedy = f"give weights for the data, which have {name} = {want}"
                raise InputError("weights", f"{name} = {have}", remedy)
        if problem.y.shape[2:] != (1, 1):
            raise InputError("y", f"shape {tuple(problem.y.shape)}", "give one label per sample")
