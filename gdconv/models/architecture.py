"""Architecture: how options become a model, data, weights and a start."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from gdconv.data.problem import Problem
from gdconv.models.base import Model
from gdconv.models.weights import Weights
from gdconv.support.config import Config
from gdconv.support.errors import InputError
from gdconv.support.npz import LARGEST_BYTES


class Architecture(ABC):
    """One family of models behind `--model`.

    Weights are a dataclass of tensors with a leading replica axis; sizes are counts by the name of
    their option, such as {"samples": 8, "heads": 2}.

    Attributes:
        name: What `--model` takes.
        trainable: Blocks that can be trained, in order.
        blocks: All blocks, in order.
        reads: Fields of `Config` that it reads, besides those of every descent; options of its own
            are keyword parameters of its class.
        defaults: Values of last resort for options, before those of all families.
        kind: What `Theorem.models` calls it; its name where nothing else is said.
        padding: Whether data may have a mask.
    """

    name: ClassVar[str]
    trainable: ClassVar[tuple[str, ...]]
    blocks: ClassVar[tuple[str, ...]]
    reads: ClassVar[tuple[str, ...]]
    defaults: Mapping[str, Any] = MappingProxyType({})
    padding: ClassVar[bool] = False

    @property
    def kind(self) -> str:
        """Its name."""
        return self.name

    @abstractmethod
    def model(self, config: Config, sizes: dict[str, int]) -> Model:
        """The model of resolved options and sizes."""

    @abstractmethod
    def load(self, config: Config, seed: int) -> Problem:
        """The data of one seed."""

    @abstractmethod
    def sizes(self, config: Config, problem: Problem, params: Any | None) -> dict[str, int]:
        """The sizes of a run by option; from the options where there are no weights yet."""

    @abstractmethod
    def entries(self, sizes: dict[str, int], trained: tuple[str, ...]) -> dict[str, int]:
        """Numbers that the largest arrays of one run hold, by what they are."""

    @abstractmethod
    def draw(self, config: Config, sizes: dict[str, int], seed: int) -> Weights:
        """Weights by the rule `config.init`, any but theorem."""

    @abstractmethod
    def from_arrays(self, arrays: dict[str, np.ndarray]) -> Weights:
        """Weights from numpy arrays by block name."""

    def given(self, arrays: dict[str, np.ndarray], asked: Config) -> Weights:
        """Weights that were handed over in memory; a family may know further names of blocks.

        Args:
            arrays: Arrays by name.
            asked: Options as they were given.

        Returns:
            The weights.
        """
        return self.from_arrays(arrays)

    @abstractmethod
    def require_match(self, problem: Problem, params: Any) -> None:
        """Refuse weights that do not fit the data."""

    def holds(self, params: Weights) -> bool:
        """Whether weights are of this family."""
        return tuple(params.blocks()) == self.blocks

    def problem(
        self, X: np.ndarray, y: np.ndarray, name: str, notes: list[str], mask: Any = None
    ) -> Problem:
        """Data from stored arrays; a mask comes only where `padding` says so."""
        return Problem.from_arrays(X, y, name, notes, mask)

    def require_padding(self, mask: Any) -> dict[str, Any]:
        """A mask as an argument of `problem`, none where there is none.

        Args:
            mask: A mask, or None.

        Returns:
            Keyword arguments.

        Raises:
            InputError: There is a mask, and this family has no padding.

        Example:
            >>> from gdconv.models.families import ARCHITECTURES
            >>> ARCHITECTURES["multihead"].require_padding(None)
            {}
        """
        if mask is None:
            return {}
        if not self.padding:
            remedy = (
                "leave it out, and give sequences of one length: let your module take the mask "
            )
            raise InputError("mask", "padded sequences", f"{remedy}as part of X")
        return {"mask": mask}

    def notes(self, problem: Problem, params: Any) -> list[str]:
        """Sentences a reader of the result should know."""
        return []

    def require_room(self, sizes: dict[str, int], runs: int, trained: tuple[str, ...]) -> None:
        """All runs fit into memory; to be asked before making them.

        Args:
            sizes: Sizes of a run.
            runs: R.
            trained: Blocks that move.

        Raises:
            InputError: An array takes more than `LARGEST_BYTES`; the largest size is named.
        """
        what, most = max(self.entries(sizes, trained).items(), key=lambda item: item[1])
        if 8 * runs * most <= LARGEST_BYTES:
            return
        field, size = max({**sizes, "seeds": runs}.items(), key=lambda item: item[1])
        share = f"the {what} would take {float(8 * runs * most / 2**30):.3g} GiB, more than 4"
        raise InputError(field, size, f"make the problem smaller: {share}")
