"""Functions that move, pick or add up entries: fixed linear maps, with their norms."""

from __future__ import annotations

from collections.abc import Callable
from math import prod, sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gdconv.models.jets import jets
from gdconv.models.jets.layers import (
    MIXES,
    Call,
    Operand,
    Pieces,
    Step,
    UnknownError,
    aligned,
    axis,
    demand,
    mapped,
    number,
    reason,
)

Builder = Callable[[Call], Any]


def first(call: Call) -> Operand:
    """The first argument, which must be a tensor of the graph."""
    h = call.get(0, "input")
    if not isinstance(h, Operand):
        raise UnknownError("its argument is no tensor of the graph")
    return h


def transpose(call: Call) -> Step:
    """Two axes swapped."""
    h = first(call)
    a, b = axis(h, call.get(1, "dim0")), axis(h, call.get(2, "dim1"))
    last = {h.tensor.ndim - 1, h.tensor.ndim - 2}
    return mapped(call, h, 1.0, spectral={a, b} == last and len(h.each) >= 2)


def turned(call: Call) -> Step:
    """The last two axes swapped: .mT, and .T or t() of a matrix."""
    h = first(call)
    demand(len(h.each) >= 2 and (not h.sampled or call.target is not torch.t), MIXES)
    return mapped(call, h, 1.0, spectral=True)


def attribute(call: Call) -> Step:
    """Attributes that are tensors: .T and .mT."""
    name = call.args[1]
    demand(name in ("T", "mT"), reason(str(name)))
    demand(name == "mT" or not call.args[0].sampled, MIXES)
    demand(name == "mT" or call.args[0].tensor.ndim == 2, MIXES)
    return turned(call)


def reshape(call: Call) -> Step:
    """The same numbers in another shape, or their negatives."""
    return mapped(call, first(call), 1.0)


def squeeze(call: Call) -> Step:
    """One axis of length 1 removed."""
    h = first(call)
    axis(h, call.get(1, "dim"))
    return mapped(call, h, 1.0)


def permute(call: Call) -> Step:
    """Axes in another order."""
    h = first(call)
    dims = call.args[1] if isinstance(call.args[1], list | tuple) else call.args[1:]
    demand(not h.sampled or dims[0] == 0, MIXES)
    return mapped(call, h, 1.0)


def pool(mean: bool) -> Builder:
    """Builder of a mean or a sum over axes."""

    def build(call: Call) -> Step:
        h, dim = first(call), call.get(1, "dim")
        demand(call.kwargs.get("dtype") is None, "it changes the type of its numbers")
        if dim is None:
            demand(not h.sampled, MIXES)
            count = h.entries
        else:
            axes = {axis(h, d) for d in (dim if isinstance(dim, list | tuple) else [dim])}
            count = prod(h.tensor.shape[d] for d in axes)
        return mapped(call, h, 1 / sqrt(count) if mean else sqrt(count), exact=False)

    return build


def concatenation(call: Call) -> Step:
    """Parts side by side."""
    parts = call.get(0, "tensors")
    demand(all(isinstance(p, Operand) for p in parts), "a part is no tensor of the graph")
    demand(len({p.sampled for p in parts}) == 1, MIXES)
    axis(parts[0], call.get(1, "dim", 0))
    return Step(tuple(p.name for p in parts), lambda _, j: jets.concatenation(j), parts[0].sampled)


def masked(call: Call) -> Step:
    """A number put where a fixed mask says."""
    h, mask, fill = first(call), call.get(1, "mask"), call.get(2, "value")
    demand(isinstance(mask, Operand) and mask.tensor.dtype == torch.bool, "the mask is not fixed")
    demand(number(fill), "it fills with a tensor")
    aligned([h, mask])
    demand(call.value.shape == h.tensor.shape, MIXES)
    size = np.full((1, 1), abs(float(fill)) * sqrt(h.entries) * (1 + 1e-15))
    return Step(
        (h.name,),
        lambda ball, j: jets.add(
            jets.linear_map(j[0], 1.0), jets.constant(size, size, ball.blocks)
        ),
        h.sampled,
    )


def item(call: Call) -> Step:
    """A part picked by plain indices."""
    whole, index = call.args
    if isinstance(whole, Pieces):
        return mapped(call, whole.whole, 1.0, exact=False)
    cuts = index if isinstance(index, tuple) else (index,)
    plain = all(c is None or c is Ellipsis or isinstance(c, int | slice) for c in cuts)
    demand(plain and not any(isinstance(c, bool) for c in cuts), "only plain indices are known")
    if whole.sampled:
        axes = sum(1 for c in cuts if c is not None and c is not Ellipsis)
        kept = cuts[0] == slice(None) or (cuts[0] is Ellipsis and axes < whole.tensor.ndim)
        demand(bool(kept), MIXES)
    return mapped(call, whole, 1.0, exact=False)


def split(call: Call) -> Pieces:
    """A tensor cut into parts along one axis."""
    h = first(call)
    axis(h, call.get(2, "dim", 0))
    tensors: tuple[Tensor, ...] = tuple(call.value)
    return Pieces(h, tensors)
