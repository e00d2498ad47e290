"""The functions of torch that the calculus knows, each with the builder of its step."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from math import ceil, prod, sqrt
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it

from gdconv.models.jets import jets
from gdconv.models.jets.activations import ACTIVATIONS, Activation
from gdconv.models.jets.jets import Jet
from gdconv.models.jets.layers import (
    MIXES,
    Ball,
    Call,
    Operand,
    Step,
    aligned,
    axis,
    demand,
    mapped,
    number,
    reason,
    repeated,
)
from gdconv.models.jets.reorder import (
    Builder,
    attribute,
    concatenation,
    first,
    item,
    masked,
    permute,
    pool,
    reshape,
    split,
    squeeze,
    transpose,
    turned,
)

CREATORS = frozenset({torch.arange, torch.ones, torch.zeros, torch.full, torch.eye})
"""Functions that make a constant from plain numbers."""


def _activation(name: str) -> Builder:
    def build(call: Call) -> Step:
        h, s = first(call), ACTIVATIONS[name]
        demand(not call.kwargs.get("inplace", False), "it works in place")
        if name == "gelu" and call.get(1, "approximate", "none") == "tanh":
            s = ACTIVATIONS["gelu-tanh"]
        if name == "softplus":
            demand(call.get(1, "beta", 1) == 1, "only beta = 1 is known")
            s = s._replace(below=float(call.get(2, "threshold", 20)))
        if name == "elu":
            demand(call.get(1, "alpha", 1.0) == 1.0, "with another alpha than 1 it has a kink")
            demand(call.get(2, "scale", 1.0) == 1.0, "only scale = 1 is known")
            demand(call.get(3, "input_scale", 1.0) == 1.0, "only input_scale = 1 is known")
            demand(call.get(2, "inplace", False) in (False, 1.0), "it works in place")
        return Step((h.name,), _entrywise(s, h), h.sampled)

    return build


def _entrywise(s: Activation, h: Operand) -> Any:
    def rule(ball: Ball, j: Sequence[Jet]) -> Jet:
        y = jets.entrywise(j[0], s, h.entries)
        if math.isinf(s.below):
            return y
        broken = np.where(ball.top(h.name, j[0]) < s.below, 0.0, np.inf)
        wide = broken[..., None]
        return Jet(y.b_2 + broken, y.b_F + broken, y.g + wide, y.H + wide[..., None])

    return rule


def _sum(call: Call) -> Step:  # a difference has the bounds of a sum
    demand(call.kwargs.get("alpha", 1) == 1, "only alpha = 1 is known")
    a, b = call.args[:2] if len(call.args) > 1 else (call.args[0], call.kwargs["other"])
    if number(a) or number(b):
        h, c = (b, a) if number(a) else (a, b)
        size = np.full((1, 1), abs(float(c)) * sqrt(h.entries) * (1 + 1e-15))
        return Step(
            (h.name,),
            lambda ball, j: jets.add(j[0], jets.constant(size, size, ball.blocks)),
            h.sampled,
            True,
        )
    sampled = aligned([a, b])
    entries = call.value.numel() // (call.value.shape[0] if sampled else 1)
    copies = [entries // max(o.entries, 1) for o in (a, b)]
    return Step(
        (a.name, b.name),
        lambda _, j: jets.add(repeated(j[0], copies[0]), repeated(j[1], copies[1])),
        sampled,
    )


def _times(call: Call) -> Step:
    a, b = call.args[:2] if len(call.args) > 1 else (call.args[0], call.kwargs["other"])
    if number(a) or number(b):
        h, c = (b, a) if number(a) else (a, b)
        return mapped(call, h, abs(float(c)), spectral=True)
    sampled = aligned([a, b])
    each = tuple(call.value.shape)[1 if sampled else 0 :]
    same = a.each == b.each

    def reach(ball: Ball, other: Operand, h: Operand, j: Jet) -> np.ndarray:
        """Bound of |h * repeated(U)|_F for |U|_F = 1, U of the other's shape."""
        copies = prod(each) // max(other.entries, 1)
        own = prod(each) // max(h.entries, 1)
        bound = np.minimum(sqrt(copies) * ball.top(h.name, j), sqrt(own) * j.b_F)
        matrix = len(h.each) == 2 and h.each == each
        scales_rows = other.each == (each[-2], 1) if len(each) == 2 else False
        scales_columns = other.each in ((each[-1],), (1, each[-1])) if each else False
        if matrix and (scales_rows or scales_columns):  # h times a diagonal matrix
            bound = np.minimum(bound, j.b_2)
        return np.asarray(bound * (1 + 1e-14))

    def rule(ball: Ball, j: Sequence[Jet]) -> Jet:
        P, Q = j
        wide = np.full((1, 1), np.inf)
        b_2 = P.b_2 * Q.b_2 if same else wide  # Schur products are parts of Kronecker products
        return jets.bilinear(P, Q, reach(ball, b, a, P), reach(ball, a, b, Q), b_2)

    return Step((a.name, b.name), rule, sampled)


def _divide(call: Call) -> Step:
    h, c = first(call), call.get(1, "other")
    demand(number(c) and c != 0, "only division by a plain number is known")
    demand(call.kwargs.get("rounding_mode") is None, "it rounds")
    return mapped(call, h, 1 / abs(float(c)), spectral=True)


def _power(call: Call) -> Step:
    demand(call.get(1, "exponent") == 2, "only squares are known")
    h = first(call)
    return _times(Call(call.name, operator.mul, (h, h), {}, call.value))


def _matrices(o: Operand) -> tuple[int, ...]:
    return o.each[:-2] if len(o.each) > 2 else ()


def _matmul_parts(a: Operand, b: Operand) -> tuple[bool, tuple[int, int]]:
    """Whether the product is sampled, and how often matrices of either factor are used."""
    if a.sampled and b.sampled:
        demand(a.tensor.ndim == b.tensor.ndim >= 3, MIXES)
    elif b.sampled:
        demand(b.tensor.ndim >= 3 and a.tensor.ndim < b.tensor.ndim, MIXES)
    elif a.sampled:
        demand(a.tensor.ndim >= 2 and b.tensor.ndim < max(a.tensor.ndim, 3), MIXES)
        demand(a.tensor.ndim > 2 or b.tensor.ndim <= 2, MIXES)
    all_of_them = prod(torch.broadcast_shapes(_matrices(a), _matrices(b)))
    copies = [all_of_them // max(prod(_matrices(o)), 1) for o in (a, b)]
    return a.sampled or b.sampled, (copies[0], copies[1])


def _matmul(call: Call) -> Step:
    a, b = first(call), call.get(1, "other", call.kwargs.get("mat2"))
    demand(isinstance(b, Operand), "its argument is no tensor of the graph")
    sampled, (p, q) = _matmul_parts(a, b)
    return Step((a.name, b.name), lambda _, j: jets.product(j[0], j[1], p, q), sampled)


def _affine(product: Any, copies: int) -> Any:
    """A product of the first two operands, and a bias repeated `copies` times when there is one."""

    def rule(ball: Ball, j: Sequence[Jet]) -> Jet:
        y = product(ball, j)
        return y if len(j) == 2 else jets.add(y, repeated(j[2], copies))

    return rule


def _linear(call: Call) -> Step:
    h, W, bias = first(call), call.get(1, "weight"), call.get(2, "bias")
    demand(not W.sampled and W.tensor.ndim == 2, "its weight depends on the input")
    _, (p, q) = _matmul_parts(h, W)
    operands = [h, W] + ([] if bias is None else [bias])
    demand(bias is None or not bias.sampled, "its bias depends on the input")
    rows = prod(h.each[:-1])
    rule = _affine(lambda _, j: jets.product(j[0], j[1], p, q), rows)
    return Step(tuple(o.name for o in operands), rule, h.sampled)


def _convolution(axes: int) -> Builder:
    def build(call: Call) -> Step:
        h, W, bias = first(call), call.get(1, "weight"), call.get(2, "bias")
        demand(h.sampled and len(h.each) == axes + 1, MIXES)
        demand(not W.sampled, "its weight depends on the input")
        demand(call.get(6, "groups", 1) == 1, "groups are not known")
        stride, dilation = call.get(3, "stride", 1), call.get(5, "dilation", 1)
        strides = (
            [stride] * axes if isinstance(stride, int) else list(stride) * (axes // len(stride))
        )
        dense = all(d == 1 for d in ([dilation] if isinstance(dilation, int) else dilation))
        windows = prod(
            ceil(k / s) if dense else k for k, s in zip(W.each[2:], strides, strict=True)
        )
        positions = prod(tuple(call.value.shape)[2:])

        def product(_: Ball, j: Sequence[Jet]) -> Jet:  # the matrix W is (out, rest)
            kernel = j[1] if W.leaf else jets.linear_map(j[1], 1.0)  # b_2 is of other matrices
            return jets.linear_map(
                jets.product(jets.linear_map(j[0], sqrt(windows) * (1 + 1e-15)), kernel), 1.0
            )

        operands = [h, W] + ([] if bias is None else [bias])
        return Step(tuple(o.name for o in operands), _affine(product, positions), True)

    return build


def _embedding(call: Call) -> Step:
    index, E = first(call), call.get(1, "weight")
    demand(not index.tensor.is_floating_point(), "its indices are no whole numbers")
    demand(not E.sampled, "its table depends on the input")
    demand(call.get(3, "max_norm") is None, "max_norm changes the table")
    most = index.entries if index.entries else 1

    def rule(ball: Ball, j: Sequence[Jet]) -> Jet:
        often = ball.shortest.get(call.name)  # bound of the greatest multiplicity, per sample
        root = np.sqrt(np.full((1, 1), float(most)) if often is None else often) * (1 + 1e-15)
        full = np.full((1, 1), sqrt(most) * (1 + 1e-15))
        y = jets.product(jets.constant(root, full, ball.blocks), j[0])
        return y if len(index.each) == 1 else jets.linear_map(y, 1.0)

    return Step((E.name,), rule, index.sampled)


def _softmax(call: Call) -> Step:
    h = first(call)
    dim = axis(h, call.get(1, "dim"))
    demand(call.kwargs.get("dtype") is None, "it changes the type of its numbers")
    rows = h.entries // h.tensor.shape[dim]
    return Step((h.name,), lambda _, j: jets.softmax_rows(j[0], rows), h.sampled)


def _norm(centred: bool) -> Builder:
    def build(call: Call) -> Step:
        h, shape = first(call), call.get(1, "normalized_shape")
        demand(h.sampled and len(h.each) >= len(shape), MIXES)
        weight, bias = call.get(2, "weight"), call.get(3, "bias") if centred else None
        epsilon = call.get(4, "eps", 1e-5) if centred else call.get(3, "eps")
        epsilon = torch.finfo(torch.float64).eps if epsilon is None else float(epsilon)
        demand(epsilon >= 0, "its eps is negative")
        width = prod(shape)
        rows, delta = h.entries // width, width * epsilon * (1 - 1e-15)
        extra = [o for o in (weight, bias) if o is not None]
        demand(not any(o.sampled for o in extra), "its scale depends on the input")

        def rule(ball: Ball, j: Sequence[Jet]) -> Jet:
            S_squared = jets.away_from_zero(j[0], ball.shortest[call.name], ball.rho, delta)
            y = jets.norm_rows(j[0], rows, width, S_squared)
            k = 1
            if weight is not None:  # rows times a diagonal matrix
                top = ball.top(weight.name, j[1])
                y, k = jets.bilinear(y, j[1], y.b_2, top, y.b_2 * top), 2
            return y if bias is None else jets.add(y, repeated(j[k], rows))

        inputs = (h.name, *(o.name for o in extra))
        return Step(inputs, rule, True, rows=width, centred=centred)

    return build


def _dropout(call: Call) -> Any:
    h = first(call)
    off = call.get(2, "training", True) is False or call.get(1, "p", 0.5) == 0.0
    demand(off, reason("dropout"))
    return mapped(call, h, 1.0, spectral=True)


RULES: dict[Any, Builder] = {getattr: attribute, operator.getitem: item}
"""Function, or name of a method -> builder of its step."""

for _name in ("tanh", "sigmoid", "sin", "cos", "erf"):
    RULES[getattr(torch, _name)] = RULES[_name] = _activation(_name)
for _function, _name in ((F.tanh, "tanh"), (F.sigmoid, "sigmoid"), (torch.special.erf, "erf")):
    RULES[_function] = _activation(_name)
for _builder, _targets in (
    (_activation("gelu"), (F.gelu,)),
    (_activation("silu"), (F.silu,)),
    (_activation("elu"), (F.elu,)),
    (_activation("softplus"), (F.softplus,)),
    (_sum, (operator.add, torch.add, "add", operator.sub, torch.sub, "sub")),
    (_times, (operator.mul, torch.mul, torch.multiply, "mul")),
    (_divide, (operator.truediv, torch.div, "div")),
    (_power, (operator.pow, torch.pow, "pow")),
    (_matmul, (operator.matmul, torch.matmul, torch.bmm, torch.mm, "matmul", "bmm", "mm")),
    (_linear, (F.linear,)),
    (_convolution(1), (F.conv1d,)),
    (_convolution(2), (F.conv2d,)),
    (_embedding, (F.embedding,)),
    (_softmax, (F.softmax, torch.softmax, "softmax")),
    (_norm(True), (F.layer_norm,)),
    (_norm(False), (F.rms_norm,)),
    (_dropout, (F.dropout,)),
    (transpose, (torch.transpose, "transpose")),
    (turned, (torch.t, "t")),
    (reshape, ("reshape", "view", "flatten", "unflatten", torch.reshape, torch.flatten)),
    (reshape, ("contiguous", "unsqueeze", torch.unsqueeze, "neg", torch.neg, operator.neg)),
    (squeeze, ("squeeze", torch.squeeze)),
    (permute, ("permute", torch.permute)),
    (pool(True), ("mean", torch.mean)),
    (pool(False), ("sum", torch.sum)),
    (concatenation, (torch.cat, torch.concat)),
    (masked, ("masked_fill",)),
    (split, ("chunk", torch.chunk, "split", torch.split)),
):
    for _target in _targets:
        RULES[_target] = _builder
