"""What a node of a traced module does to jets, or why nothing is known about it.

A sampled value has the samples in its first axis, and every rule here refuses what would touch that
axis. Repeating an array c times is a linear map of norm sqrt(c).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, prod, sqrt
from typing import Any

import numpy as np
from torch import Tensor

from gdconv.models.jets import jets
from gdconv.models.jets.jets import Jet
from gdconv.models.jets.norms import Array, length


class UnknownError(Exception):
    """A layer or an option of it that no rule covers; the text says why."""


KINK = "it has a kink, so the Jacobian jumps"
REASONS: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("relu", "leaky", "hard", "abs", "clamp", "sign", "threshold", "shrink", "celu", "selu"),
        KINK,
    ),
    (("max", "min", "sort", "topk", "median"), KINK),
    (("batchnorm", "batch_norm", "instancenorm"), "it mixes samples or keeps running averages"),
    (("rand", "bernoulli", "dropout"), "it is random; call eval() on the module first"),
)


def reason(name: str) -> str:
    """Why a layer of this name has no rule.

    Args:
        name: Of a class or a function.

    Returns:
        One sentence.

    Example:
        >>> reason("MaxPool2d")
        'it has a kink, so the Jacobian jumps'
    """
    for words, why in REASONS:
        if any(word in name.lower() for word in words):
            return why
    return "the calculus has no rule for it"


@dataclass(frozen=True)
class Operand:
    """A tensor of the graph during resolution.

    Attributes:
        name: Its node.
        tensor: Its value for the batch at hand.
        sampled: Whether its first axis are the samples.
        leaf: Whether it is a parameter or a buffer itself, whose b_2 bounds the matrix
            (first axis, rest) too.
    """

    name: str
    tensor: Tensor
    sampled: bool
    leaf: bool = False

    @property
    def each(self) -> tuple[int, ...]:
        """Shape of one sample's value."""
        return tuple(self.tensor.shape)[1 if self.sampled else 0 :]

    @property
    def entries(self) -> int:
        """Entries of one sample's value."""
        return prod(self.each)


@dataclass(frozen=True)
class Pieces:
    """Parts of one tensor: what chunk and split return."""

    whole: Operand
    tensors: tuple[Tensor, ...]


@dataclass(frozen=True)
class Ball:
    """What rules may ask besides the jets of their arguments.

    Attributes:
        rho: Radii, (R, 1).
        tops: Node -> bound of its largest entry at the centre, (1, N) or (1, 1).
        shortest: Node -> lower bound of the shortest row at the centre, for norm layers.
        blocks: Number of blocks.
    """

    rho: Array
    tops: Mapping[str, Array]
    shortest: Mapping[str, Array]
    blocks: int

    def top(self, name: str, h: Jet) -> Array:
        """Largest entry over the ball: never above the spectral norm."""
        bound = (self.tops[name] + length(h.g) * self.rho) * (1 + 1e-14)
        return np.minimum(h.b_2, bound)


Rule = Callable[[Ball, Sequence[Jet]], Jet]


@dataclass(frozen=True)
class Step:
    """One node with its rule.

    Attributes:
        inputs: Nodes whose jets the rule takes, in order.
        rule: From their jets to the node's.
        sampled: Whether the value has an axis of samples.
        exact: Whether the slopes need no measurement, being those of the argument times a number.
        rows: For a norm layer, how long its rows are.
        centred: Whether it subtracts their means first.
    """

    inputs: tuple[str, ...]
    rule: Rule = field(repr=False)
    sampled: bool
    exact: bool = False
    rows: int = 0
    centred: bool = False


@dataclass(frozen=True)
class Call:
    """One node during resolution.

    Attributes:
        name: Its node.
        target: Function, or name of a method.
        args: Positional arguments, operands in the place of tensors.
        kwargs: Keyword arguments.
        value: Its result for the batch at hand.
    """

    name: str
    target: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    value: Any

    def get(self, position: int, name: str, default: Any = None) -> Any:
        """An argument by position or name."""
        if position < len(self.args):
            return self.args[position]
        return self.kwargs.get(name, default)

    @property
    def operands(self) -> list[Operand]:
        """All tensors among the arguments, lists included."""
        found = []
        for a in (*self.args, *self.kwargs.values()):
            found += [x for x in (a if isinstance(a, list | tuple) else [a])]
        return [x for x in found if isinstance(x, Operand)]


def demand(condition: bool, why: str) -> None:
    """Refuse unless a condition holds.

    Args:
        condition: What the rule needs.
        why: What is wrong without it.

    Raises:
        UnknownError: The condition does not hold.

    Example:
        >>> demand(True, "never")
    """
    if not condition:
        raise UnknownError(why)


MIXES = "it touches the axis of samples"


def axis(h: Operand, dim: Any) -> int:
    """A whole number as an axis of h, which must not be the axis of samples.

    Args:
        h: The tensor.
        dim: The axis, possibly counted from the end.

    Returns:
        The axis, counted from the front, samples included.

    Raises:
        UnknownError: No whole number, or the axis of samples.

    Example:
        >>> import torch
        >>> axis(Operand("h", torch.zeros(3, 4, 5), True), -1)
        2
    """
    if not isinstance(dim, int):
        raise UnknownError("it names no single axis")
    found = dim % max(h.tensor.ndim, 1)
    demand(not (h.sampled and found == 0), MIXES)
    return found


def aligned(operands: Sequence[Operand]) -> bool:
    """Whether the samples stay in front when these are broadcast against each other.

    Args:
        operands: Arguments of an entrywise function.

    Returns:
        Whether the result is sampled.

    Raises:
        UnknownError: The axis of samples would meet another one.

    Example:
        >>> import torch
        >>> x, w = torch.zeros(3, 4), torch.zeros(4)
        >>> aligned([Operand("x", x, True), Operand("w", w, False)])
        True
    """
    axes = {o.tensor.ndim for o in operands if o.sampled}
    if not axes:
        return False
    demand(len(axes) == 1, MIXES)
    front = axes.pop()
    for o in operands:
        shape = tuple(o.tensor.shape)
        fits = o.sampled or len(shape) < front or (len(shape) == front and shape[0] == 1)
        demand(fits, MIXES)
    return True


def mapped(call: Call, h: Operand, norm: float, spectral: bool = False, exact: bool = True) -> Step:
    """A step that is a fixed linear map of one operand.

    Args:
        call: The node.
        h: The operand.
        norm: Bound of the map's norm.
        spectral: Whether it bounds what happens to spectral norms, too.
        exact: Whether it is a multiple of an isometry.

    Returns:
        The step.

    Raises:
        UnknownError: The samples are no longer in front, or the norm is not finite.

    Example:
        >>> import torch
        >>> h = Operand("h", torch.zeros(3, 4), True)
        >>> mapped(Call("y", "neg", (h,), {}, -h.tensor), h, 1.0).exact
        True
    """
    if h.sampled:
        shape = tuple(call.value.shape)
        demand(len(shape) > 0 and shape[0] == h.tensor.shape[0], MIXES)
    demand(isfinite(norm), "it multiplies by a number that is not finite")
    bound = norm * (1 + 1e-14)
    return Step((h.name,), lambda _, j: jets.linear_map(j[0], bound, spectral), h.sampled, exact)


def repeated(h: Jet, copies: int) -> Jet:
    """An array repeated to a larger shape.

    Args:
        h: Its jet.
        copies: How often.

    Returns:
        The jet of the larger array.

    Example:
        >>> h = jets.constant(np.ones((1, 1)), np.ones((1, 1)), 1)
        >>> round(float(repeated(h, 4).b_F[0, 0]), 9)
        2.0
    """
    return h if copies == 1 else jets.linear_map(h, sqrt(copies) * (1 + 1e-15), True)


def number(x: Any) -> bool:
    """Whether x is a plain number."""
    return isinstance(x, int | float) and not isinstance(x, bool)
