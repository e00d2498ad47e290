"""From a torch module to a graph of layers whose derivatives the calculus can bound.

`torch.fx` traces the module; every node gets its rule from `layers`. The graph is then evaluated
sample by sample and compared with the module itself, at other parameters than the module's own: a
weight that the trace baked in, a layer that mixes samples or counts them shows there.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from gdconv.models.jets import jets
from gdconv.models.jets.functions import CREATORS, RULES
from gdconv.models.jets.jets import Jet
from gdconv.models.jets.layers import (
    Ball,
    Call,
    Operand,
    Pieces,
    Step,
    UnknownError,
    demand,
    reason,
)

SEEN_THROUGH = (
    nn.Linear, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.GELU, nn.SiLU, nn.ELU, nn.Identity, nn.Flatten,
    nn.Unflatten, nn.LayerNorm, nn.RMSNorm, nn.Softmax, nn.Conv1d, nn.Conv2d, nn.Embedding,
    nn.Dropout, nn.Sequential,
)  # fmt: skip
"""Layers of torch.nn that are traced through to the functions they call."""

AGREEMENT = 1e-9
"""Relative difference between module and graph that rounding may explain."""


@dataclass(frozen=True)
class Refusal:
    """Why a module gets no rigorous constants; an ordinary answer, for the estimate takes over.

    Attributes:
        layer: The layer or function, with its place in the module.
        why: What the calculus lacks for it.

    Example:
        >>> str(Refusal("'1' (ReLU)", "it has a kink"))
        "'1' (ReLU): it has a kink"
    """

    layer: str
    why: str

    def __str__(self) -> str:
        return f"{self.layer}: {self.why}"


@dataclass(frozen=True)
class Graph:
    """A module as a list of nodes in order.

    Attributes:
        nodes: Nodes of torch.fx; the last one computes the output.
        parameters: Node of a parameter -> its name, the first of its names where it is tied.
        constants: Node of a buffer or another fixed tensor -> its float64 value.
        steps: Node -> its rule; none for parameters, constants, the input and plain numbers.
        input: Name of the input's node.
        output: Name of the output's node.
        blocks: Names of all parameters, in the order of `named_parameters`.
    """

    nodes: tuple[fx.Node, ...]
    parameters: Mapping[str, str]
    constants: Mapping[str, Tensor]
    steps: Mapping[str, Step]
    input: str
    output: str
    blocks: tuple[str, ...]

    def evaluate(
        self,
        params: Mapping[str, Tensor],
        X: Tensor,
        shift: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Any]:
        """Values of all nodes for a batch.

        Args:
            params: Parameters by name.
            X: Inputs (N, ...).
            shift: Added to the values of some nodes, for derivatives with respect to them.

        Returns:
            Node -> value; tensors with the batch in front, except for what no input reaches.

        Example:
            >>> graph = known_layers(nn.Linear(2, 1), torch.zeros(1, 2))
            >>> params = {"weight": torch.ones(1, 2), "bias": torch.zeros(1)}
            >>> graph.evaluate(params, torch.ones(1, 2))[graph.output].tolist()
            [[2.0]]
        """
        values: dict[str, Any] = {}
        for node in self.nodes:
            if node.op == "placeholder":
                value: Any = X
            elif node.name in self.parameters:
                value = params[self.parameters[node.name]]
            elif node.op == "get_attr":
                value = self.constants[node.name]
            else:
                value = _call(node, values)
            if shift is not None and node.name in shift:
                value = value + shift[node.name]
            values[node.name] = value
        return values


def _call(node: fx.Node, values: Mapping[str, Any]) -> Any:
    args = fx.map_arg(node.args, lambda n: values[n.name])
    kwargs = fx.map_arg(node.kwargs, lambda n: values[n.name])
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    return node.target(*args, **kwargs)  # type: ignore[operator]


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m.__module__.startswith("torch.nn") and not isinstance(m, SEEN_THROUGH)


def _float64(module: nn.Module) -> nn.Module:
    """A copy whose parameters all ask for a gradient, so that the trace sees each of them."""
    twin = copy.deepcopy(module).double()
    for p in twin.parameters():
        p.requires_grad_(True)
    return twin


def _place(node: fx.Node) -> str:
    """The node in words: its function, and the module that calls it."""
    target = node.target
    word = target if isinstance(target, str) else getattr(target, "__name__", str(target))
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    if not stack:
        return f"'{word}'"
    path, kind = stack[-1]
    kind = getattr(kind, "__name__", str(kind))
    if path in ("", None):
        return f"'{word}'"
    return f"'{path}' ({kind})" if node.op == "call_module" else f"'{word}' in '{path}' ({kind})"


def known_layers(module: nn.Module, X: Tensor) -> Graph | Refusal:
    """The graph of a module, or the layer that stands in the way.

    Args:
        module: Any module that maps (N, ...) to (N, ...), one sample after the other.
        X: Inputs (N, ...); their shape decides what a layer does.

    Returns:
        The graph, or a refusal that names a layer and the reason.

    Example:
        >>> X = torch.zeros(1, 2)
        >>> isinstance(known_layers(nn.Sequential(nn.Linear(2, 3), nn.Tanh()), X), Graph)
        True
        >>> print(known_layers(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), X))
        '1' (ReLU): it has a kink, so the Jacobian jumps
    """
    whole = type(module).__name__
    if X.ndim < 2 or X.shape[0] == 0:
        return Refusal(whole, "the inputs need an axis of samples and one more")
    if X.is_floating_point():
        X = X.detach().double()
    X = X.repeat(-(-3 // X.shape[0]), *[1] * (X.ndim - 1))  # at least three samples
    with torch.enable_grad():
        try:
            twin = _float64(module)
            traced = _Tracer().trace(twin)
        except Exception as error:  # whatever a user's forward raises at proxies
            return Refusal(whole, f"torch.fx cannot trace it ({_first_line(error)})")
        try:
            graph = _resolve(twin, traced, X)
        except _RefusedError as refused:
            return refused.refusal
    why = _disagreement(graph, twin, X)
    return graph if why is None else Refusal(whole, why)


def _made(ball: Ball, _: Sequence[Jet]) -> Jet:
    return jets.constant(np.zeros((1, 1)), np.zeros((1, 1)), ball.blocks)  # measured later


def step_of(call: Call) -> Step | Pieces | Any:
    """The rule of a node, parts of a tensor, or a plain value such as a shape.

    Args:
        call: The node.

    Returns:
        A step for a tensor, pieces for a tuple of them, else the value itself.

    Raises:
        UnknownError: No rule covers it.

    Example:
        >>> step_of(Call("n", int, (3,), {}, 3))
        3
    """
    pieces = [a for a in call.args if isinstance(a, Pieces)]
    if isinstance(call.value, Tensor):
        if not call.operands and not pieces:
            demand(call.target in CREATORS, reason(getattr(call.target, "__name__", "")))
            return Step((), _made, False)
        rule = RULES.get(call.target)
        if rule is None:
            raise UnknownError(reason(getattr(call.target, "__name__", str(call.target))))
        return rule(call)
    sizes = isinstance(call.value, torch.Size)
    if isinstance(call.value, tuple) and not sizes and call.target in RULES and call.operands:
        return RULES[call.target](call)
    plain = not (call.operands or pieces) or call.target in (
        "size",
        "dim",
        "ndimension",
        "numel",
        len,
    )
    if call.target is getattr:
        plain = call.args[1] in ("shape", "ndim", "dtype", "device")
    demand(plain, "it turns data into a plain value")
    return call.value


class _RefusedError(Exception):
    def __init__(self, node: fx.Node, why: str) -> None:
        super().__init__(why)
        self.refusal = Refusal(_place(node), why)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:120]


def _resolve(module: nn.Module, traced: fx.Graph, X: Tensor) -> Graph:
    """Run the trace once, giving each node its rule from the values of its arguments."""
    first = {id(p): name for name, p in module.named_parameters()}
    nodes = list(traced.nodes)
    results: dict[str, Any] = {}
    parameters: dict[str, str] = {}
    constants: dict[str, Tensor] = {}
    steps: dict[str, Step] = {}
    output, source = nodes.pop(), ""
    for node in nodes:
        if node.op == "placeholder":
            if source:
                raise _RefusedError(node, "the module takes a second input")
            source = node.name
            results[node.name] = Operand(node.name, X, True)
        elif node.op == "get_attr":
            tensor = _attribute(module, str(node.target))
            if not isinstance(tensor, Tensor):
                raise _RefusedError(node, "it is no tensor")
            if id(tensor) in first:
                parameters[node.name] = first[id(tensor)]
            elif tensor.requires_grad:
                raise _RefusedError(node, "it is computed from parameters where no trace follows")
            else:
                constants[node.name] = tensor.detach()
            results[node.name] = Operand(node.name, tensor.detach(), False, leaf=True)
        else:
            results[node.name] = _one(module, node, results, steps)
    final = output.args[0]
    if not isinstance(final, fx.Node) or not isinstance(results[final.name], Operand):
        raise _RefusedError(output, "the module returns something else than one tensor")
    end: Operand = results[final.name]
    if not end.sampled or end.tensor.ndim == 0:
        raise _RefusedError(final, "the output does not depend on the input")
    return Graph(
        tuple(nodes), parameters, constants, steps, source, end.name,
        tuple(name for name, _ in module.named_parameters()),
    )  # fmt: skip


def _one(
    module: nn.Module, node: fx.Node, results: Mapping[str, Any], steps: dict[str, Step]
) -> Any:
    args = fx.map_arg(node.args, lambda n: results[n.name])
    kwargs = fx.map_arg(node.kwargs, lambda n: results[n.name])
    values = {
        name: v.tensor if isinstance(v, Operand) else v.tensors if isinstance(v, Pieces) else v
        for name, v in results.items()
    }
    try:
        if node.op == "call_module":
            raise UnknownError(reason(type(_attribute(module, str(node.target))).__name__))
        value = _call(node, values)
        answer = step_of(Call(node.name, node.target, args, kwargs, value))
    except UnknownError as error:
        raise _RefusedError(node, str(error)) from None
    except Exception as error:  # the layer itself fails on these inputs
        raise _RefusedError(node, f"it fails on these inputs ({_first_line(error)})") from None
    if isinstance(answer, Step):
        steps[node.name] = answer
        return Operand(node.name, value, answer.sampled)
    return answer


def _attribute(module: nn.Module, path: str) -> Any:
    found: Any = module
    for part in path.split("."):
        found = getattr(found, part)
    return found


def _disagreement(graph: Graph, module: nn.Module, X: Tensor) -> str | None:
    """Why module and graph differ at other parameters, taken sample by sample."""
    rng = torch.Generator("cpu").manual_seed(0)

    def drawn(p: Tensor) -> Tensor:
        return 0.01 * torch.randn(p.shape, generator=rng, dtype=p.dtype, device="cpu").to(p.device)

    params = {name: p.detach() * (1 + drawn(p)) + drawn(p) for name, p in module.named_parameters()}
    try:
        with torch.no_grad():
            whole = torch.func.functional_call(module, params, (X,))
            each = torch.vmap(lambda x: graph.evaluate(params, x[None])[graph.output][0])(X)
    except Exception as error:  # shapes that only fit the whole batch, for instance
        return f"it does not take its samples one by one ({_first_line(error)})"
    scale = float(whole.abs().max())
    if whole.shape == each.shape and bool(
        ((whole - each).abs().max() <= AGREEMENT * scale) & torch.isfinite(whole).all()
    ):
        return None
    return "one sample at a time gives other outputs, or they are not finite"
