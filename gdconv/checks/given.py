"""Given: what a caller hands over in memory, where the command line gives names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.nn import MultiheadAttention

from gdconv.data.padding import stacked
from gdconv.data.problem import Problem
from gdconv.models.architecture import Architecture
from gdconv.models.weights import Weights
from gdconv.support.errors import InputError
from gdconv.support.objects import text_of
from gdconv.support.options import options_of

if TYPE_CHECKING:
    from gdconv.descent.algorithms.base import Algorithm
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
        algorithm: An algorithm that no text can name.
        mask: True for a real token, (N, n); None where nothing is padded.
    """

    model: Any = None
    X: Any = None
    y: Any = None
    weights: Mapping[str, Any] | None = None
    loss: Loss | None = None
    algorithm: Algorithm | None = None
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
        if isinstance(rest.get("problem"), Problem):
            if X is not None or y is not None or mask is not None:
                raise InputError("problem", "a Problem", "leave it out, or leave out X, y and mask")
            made = _alone("problem", rest.pop("problem"))
            X, y, mask = made.X[0], made.y[0], made.mask
        if isinstance(weights, Weights):
            weights = {b: v[0] for b, v in _alone("weights", weights).blocks().items()}
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
        rule = rest.get("algorithm")
        if rule is not None and not isinstance(rule, str):
            rule = _named_algorithm(rule, rest)
        else:
            rule = None
        return cls(model, X, y, weights, own, rule, mask), rest

    def arrays(self) -> dict[str, np.ndarray] | None:
        """The weights as arrays, None where there are none."""
        if self.weights is None:
            return None
        return {name: _array(name, value) for name, value in self.weights.items()}


def _alone(field_: str, given: Any) -> Any:
    """A `Problem` or `Weights` of one replica."""
    if given.R != 1:
        raise InputError(field_, f"{given.R} replicas", f"give one of them, such as {field_}[0]")
    return given


def _attention(layer: MultiheadAttention, heads: Any) -> tuple[dict[str, Any], int]:
    """Its state_dict and number of heads."""
    if layer.add_zero_attn:
        raise InputError("weights", "a layer with add_zero_attn", "give one without a zero key")
    if heads not in (None, layer.num_heads):
        raise InputError("heads", heads, f"leave it out: the layer has {layer.num_heads}")
    return layer.state_dict(), layer.num_heads


def _described(model: Any) -> str:
    from gdconv.models.generic.family import described

    return described(model)


def _named_algorithm(rule: Any, rest: dict[str, Any]) -> Algorithm | None:
    """Name and options in `rest` of an algorithm that a text can name, else the algorithm."""
    from gdconv.descent.algorithms import Algorithm
    from gdconv.descent.algorithms.named import KNOWN

    if not isinstance(rule, Algorithm):
        remedy = "give its name, or an instance of gdconv.descent.algorithms.Algorithm"
        raise InputError("algorithm", type(rule).__name__, remedy)
    kind: Any = type(rule)
    own = options_of(kind, f"algorithm {rule.name}")
    twice = next((o for o in own if o.name in rest), None)
    if twice:
        remedy = "give it to the instance, or give the algorithm's name"
        raise InputError(twice.name, rest[twice.name], remedy)
    text = rule.name if KNOWN.get(rule.name) is kind else text_of(kind)
    made = is_dataclass(kind) and {f.name for f in fields(kind) if f.init} == {o.name for o in own}
    if text is None or not made:
        rest["algorithm"] = rule.name
        return rule
    rest |= {"algorithm": text, **{o.name: getattr(rule, o.name) for o in own}}
    return None


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
