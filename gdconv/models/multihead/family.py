"""The multi-head regression of Song et al. as an architecture."""

from __future__ import annotations

import numpy as np

from gdconv.data import sources
from gdconv.data.problem import Problem
from gdconv.models.architecture import Architecture
from gdconv.models.multihead.attention_kernels import kernel_named
from gdconv.models.multihead.from_torch import attention_weights, is_attention
from gdconv.models.multihead.initialization import initialize
from gdconv.models.multihead.model import MultiHeadRegression
from gdconv.models.multihead.parameters import BLOCKS, Parameters
from gdconv.models.reads import READS
from gdconv.support.config import Config
from gdconv.support.errors import InputError

SIZES = ("samples", "tokens", "embedding", "outputs", "heads", "head_dim")
"""Options that are sizes of the arrays: N, n, D, D_y, H, d."""


class MultiHead(Architecture):
    """One attention layer, H heads, an output per token.

    Example:
        >>> problem = Problem.from_arrays(np.eye(4).reshape(2, 2, 4), np.ones((2, 2)))
        >>> config = Config("full-gd", heads=3, head_dim=5)
        >>> list(MultiHead().sizes(config, problem, None).values())
        [2, 2, 4, 1, 3, 5]
    """

    name = "multihead"
    trainable = BLOCKS
    blocks = (*BLOCKS, "W_O")
    reads = READS["multihead"]
    padding = True

    def model(self, config: Config, sizes: dict[str, int]) -> MultiHeadRegression:
        """The model with its attention kernel."""
        return MultiHeadRegression(kernel_named(str(config.kernel)))

    def load(self, config: Config, seed: int) -> Problem:
        """The data that `--data` names, an output per token."""
        return sources.load(
            str(config.data), samples=config.samples, tokens=config.tokens,
            embedding=config.embedding, outputs=int(config.outputs or 1),
            target=config.target or "digit", seed=seed,
        )  # fmt: skip

    def sizes(self, config: Config, problem: Problem, params: Parameters | None) -> dict[str, int]:
        """samples N, tokens n, embedding D, outputs D_y, heads H, head_dim d."""
        H, d = (params.W_Q.shape[1::2]) if params else (config.heads or 1, config.head_dim or 1)
        sizes = (problem.N, problem.n, problem.D, problem.D_y, int(H), int(d))
        return dict(zip(SIZES, sizes, strict=True))

    def entries(self, sizes: dict[str, int], trained: tuple[str, ...]) -> dict[str, int]:
        """Data, weights, attention, features and Jacobian."""
        N, n, D, D_y, H, d = (int(sizes[name]) for name in SIZES)
        return {
            "data": N * n * (D + D_y),
            "weights": H * d * (3 * D + D_y),
            "attention weights": H * N * n * n,
            "features B": N * n * H * D,
            "Gram matrix of J": (N * n * D_y) ** 2,
            "Jacobian": N * n * D_y * len(trained) * H * D * d,
        }

    def draw(self, config: Config, sizes: dict[str, int], seed: int) -> Parameters:
        """Weights by rule, see `gdconv.models.multihead.initialization`."""
        shape = (sizes["heads"], sizes["embedding"], sizes["head_dim"], sizes["outputs"])
        return initialize(str(config.init), shape, seed, config.scale_list())

    def from_arrays(self, arrays: dict[str, np.ndarray]) -> Parameters:
        """W_Q, W_K, W_V, W_O."""
        return Parameters.from_arrays(arrays)

    def given(self, arrays: dict[str, np.ndarray], asked: Config) -> Parameters:
        """W_Q, W_K, W_V, W_O, or a state_dict of `nn.MultiheadAttention` with `heads` asked for."""
        if is_attention(arrays):
            arrays = attention_weights(arrays, asked.heads)
        return self.from_arrays(arrays)

    def notes(self, problem: Problem, params: Parameters) -> list[str]:
        """Whether B can have full row rank."""
        note = problem.overparametrization_note(params.H)
        return [note] if note else []

    def require_match(self, problem: Problem, params: Parameters) -> None:
        """Data and weights have the same R, D and D_y.

        Args:
            problem: Data.
            params: Weights.

        Raises:
            InputError: They differ.

        Example:
            >>> problem = Problem.from_arrays(np.ones((1, 1, 2)), np.ones((1, 1)))
            >>> block = {name: np.ones((1, 3, 1)) for name in ("W_Q", "W_K", "W_V")}
            >>> weights = Parameters.from_arrays({**block, "W_O": np.ones((1, 1, 1))})
            >>> MultiHead().require_match(problem, weights)
            Traceback (most recent call last):
            gdconv.support.errors.InputError: weights = D = 3: give weights for the data, which have
            D = 2.
        """
        pairs = {
            "R": (params.R, problem.R),
            "D": (params.W_Q.shape[2], problem.D),
            "D_y": (params.W_O.shape[3], problem.D_y),
        }
        if problem.y.shape[2] != problem.n:
            raise InputError("y", "one label per sample", "give one per token, y of shape (N, n)")
        for name, (have, want) in pairs.items():
            if have != want:
                remedy = f"give weights for the data, which have {name} = {want}"
                raise InputError("weights", f"{name} = {have}", remedy)
