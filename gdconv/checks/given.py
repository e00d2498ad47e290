"""Given: what a caller hands over in memory, where the command line gives names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.nn import MultiheadAttention

from gdconv.data.padding import stacked
from gdconv.models.architecture import Architecture
from gdconv.models.families import ARCHITECTURES
from gdconv.support.errors import InputError
from gdconv.theory.theorem import Theorem

if TYPE_CHECKING:
    from gdconv.models.losses.base import Loss

IN_MEMORY = "in memory"
"""What `data` says of arrays that were handed over."""


@dataclass(frozen=True)
class Given:
    """Objects and arrays in memory.

    Attributes:
        model: A torch module, a function that makes one, or an `Architecture`.
        X: Inputs (N, ...).
        y: Targets (N, ...).
        weights: Start weights by block, or a state_dict of `nn.MultiheadAttention`.
        loss: A loss of one's own.
        mask: True for a real token, (N, n); None where nothing is padded.
    """

    model: Any = None
    X: Any = None
    y: Any = None
    weights: Mapping[str, Any] | None = None
    loss: Loss | None = None
    mask: Any = None

    @classmethod
    def split(cls, options: Mapping[str, Any]) -> tuple[Given, dict[str, Any]]:
        """Objects apart from options.

        Args:
            options: Keyword arguments of `gdconv.check`.

        Returns:
            What is in memory, and options that name it.

        Raises:
            InputError: X without y, a mask without X, or data twice.

        Example:
            >>> Given.split({"X": [[1.0]], "y": [1.0], "steps": 5})[1]
            {'steps': 5, 'data': 'in memory'}
        """
        rest = dict(options)
        model, loss = rest.get("model"), rest.get("loss")
        X, y, mask, weights = (rest.pop(name, None) for name in ("X", "y", "mask", "weights"))
        if (X is None) != (y is None):
            missing = "X" if X is None else "y"
            raise InputError(missing, "nothing", "give X and y together")
        if X is None and mask is not None:
            raise InputError("mask", "given", "give X and y with it, or a file's as its array mask")
        if X is not None:
            for name in ("data", "problem"):
                if rest.get(name) is not None:
                    raise InputError(name, rest[name], "leave it out, or leave out X and y")
            rest["data"] = IN_MEMORY
            X, y, mask = stacked(X, y, mask)
        if isinstance(weights, MultiheadAttention):
            weights, rest["heads"] = _attention(weights, rest.get("heads"))
        if weights is not None and not isinstance(weights, Mapping):
            raise InputError("weights", type(weights).__name__, "give arrays by the blocks' names")
        if model is not None and not isinstance(model, str):
            rest["model"] = model.name if isinstance(model, Architecture) else _described(model)
        else:
            model = None
        own = None if loss is None or isinstance(loss, str) else _own_loss(loss)
        if own is not None:
            rest["loss"] = own.name
        return cls(model, X, y, weights, own, mask), rest

    def arrays(self) -> dict[str, np.ndarray] | None:
        """The weights as arrays, None where there are none."""
        if self.weights is None:
            return None
        return {name: _array(name, value) for name, value in self.weights.items()}

    def family(self, theorem: Theorem, model: str | None, loss: str | None = None) -> Architecture:
        """The model family that a theorem is checked on.

        Args:
            theorem: The theorem.
            model: What `--model` asks for, or None.
            loss: What `--loss` asks for, or None.

        Returns:
            The one in memory, the one that the text names, or the theorem's own.

        Raises:
            InputError: The theorem does not speak of that model, or nothing has that name.

        Example:
            >>> from gdconv.theory.registry import theorem_named
            >>> Given().family(theorem_named("full-gd"), "encoder")
            Traceback (most recent call last):
            gdconv.support.errors.InputError: model = encoder: full-gd speaks of multihead.
        """
        made = self._family(model or theorem.models[0], self.loss or loss)
        if made is None or made.kind not in theorem.models:
            spoken = ", ".join("torch modules" if m == "module" else m for m in theorem.models)
            more = ": give package.module:name, or the module itself as model= in Python"
            more = more if "module" in theorem.models else ""
            raise InputError("model", model, f"{theorem.id} speaks of {spoken}{more}")
        return made

    def _family(self, model: str, loss: Loss | str | None) -> Architecture | None:
        if isinstance(self.model, Architecture):
            return self.model
        if self.model is None and model != "module" and ":" not in model:
            return ARCHITECTURES.get(model)
        from gdconv.models.generic.family import ModuleFamily, family_named  # torch.fx loads slowly

        if self.model is not None:
            return ModuleFamily(self.model, model, loss)
        if model == "module":
            return family_named(DEFAULT_NET, loss)
        return family_named(model, loss)


def _attention(layer: MultiheadAttention, heads: Any) -> tuple[dict[str, Any], int]:
    """Its state_dict and number of heads."""
    if layer.add_zero_attn:
        raise InputError("weights", "a layer with add_zero_attn", "give one without a zero key")
    if heads not in (None, layer.num_heads):
        raise InputError("heads", heads, f"leave it out: the layer has {layer.num_heads}")
    return layer.state_dict(), layer.num_heads


DEFAULT_NET = "gdconv.models.generic.nets:TwoLayer"
"""What a theorem about any module is tried on when no model is given."""


def _described(model: Any) -> str:
    from gdconv.models.generic.family import described

    return described(model)


def _own_loss(loss: Any) -> Loss | None:
    """A loss of one's own; anything else is refused where options are."""
    from gdconv.models.losses.base import Loss

    return loss if isinstance(loss, Loss) else None


def _array(name: str, value: Any) -> np.ndarray:
    if hasattr(value, "detach"):
        value = value.detach().cpu().double().numpy()
    try:
        return np.array(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError("weights", name, "give an array of numbers") from error
