"""M_2 and G on balls about one point, from jets that are centred there.

What is measured at the centre is computed once: values, their norms, and the Jacobian blocks of the
intermediate activations. Its rounding is bounded to first order by the jets themselves: the error
of each node, at most `unit` times the bound its rule gives, is one more block of parameters, whose
g bounds the error of values and whose H bounds what it does to Jacobians.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import sqrt

import numpy as np
import torch
from torch import Tensor

from gdconv.models.jets import jets
from gdconv.models.jets.graph import Graph
from gdconv.models.jets.jets import Jet
from gdconv.models.jets.layers import Ball
from gdconv.models.jets.norms import Array, length, spectral, up
from gdconv.rigor.rounding import gamma
from gdconv.support.errors import InputError

BUDGET = 1e8
"""Entries of an intermediate Jacobian, all samples together, up to which it is measured."""

CHUNK = 2**22
"""Entries of the second derivatives' bounds held at once: radii are taken in such parts."""


def _double(x: Tensor) -> Tensor:
    return x.detach().double() if x.is_floating_point() else x.detach()


class Calculus:
    """Bounds for one module at one point.

    Args:
        graph: From `known_layers`.
        params: All parameters by name; a tied one under its first name.
        X: Inputs (N, ...).
        centred: Whether (C0) and (C1) are used; without them the plain rules remain.
        budget: Jacobians of intermediate activations with more entries are not measured.

    Example:
        >>> import torch
        >>> from gdconv.models.jets.graph import known_layers
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
        >>> X = torch.ones(2, 2)
        >>> at = Calculus(known_layers(net, X), dict(net.named_parameters()), X)
        >>> M_2, G = at.constants(np.array([0.0, 0.1]))
        >>> bool(M_2[0] <= M_2[1]), bool(0 < G[0] <= G[1])
        (True, True)
    """

    def __init__(
        self,
        graph: Graph,
        params: Mapping[str, Tensor],
        X: Tensor,
        centred: bool = True,
        budget: float = BUDGET,
    ) -> None:
        self.graph, self.centred = graph, centred
        self.params = {name: _double(params[name]) for name in graph.blocks}
        self.X = _double(X)
        self.N = self.X.shape[0]
        self._measure_values()
        with np.errstate(all="ignore"):
            self.slopes: dict[str, Array] = {}
            guard = self._guard()
            if centred:
                self.slopes = self._measure_slopes(guard, budget)

    def _each(self, name: str) -> Array:
        """Values of a node sample by sample, (N, ...) or (1, ...)."""
        return np.asarray(self.values[name], dtype=np.float64)

    def _measure_values(self) -> None:
        graph = self.graph
        wanted = [*graph.parameters, *graph.constants, *graph.steps, graph.input]
        sampled = {n for n, s in graph.steps.items() if s.sampled} | {graph.input}

        def one(x: Tensor) -> dict[str, Tensor]:
            values = graph.evaluate(self.params, x[None])
            return {n: values[n][0] for n in wanted if n in sampled}

        with torch.no_grad():
            values = dict(torch.vmap(one)(self.X))
            fixed = graph.evaluate(self.params, self.X[:1])
        values |= {n: fixed[n][None] for n in wanted if n not in sampled}
        self.values: dict[str, Tensor] = values
        self.norm_2: dict[str, Array] = {}
        self.norm_F: dict[str, Array] = {}
        self.finite: dict[str, Array] = {}  # minus infinity of a mask is no number that is rounded
        self.tops: dict[str, Array] = {}
        longest = 1
        for name in wanted:
            v = self._each(name)
            flat = v.reshape(v.shape[0], -1)
            self.norm_F[name] = length(flat)[None]
            self.finite[name] = length(np.where(np.isfinite(flat), flat, 0.0))[None]
            leaf = name in graph.parameters or name in graph.constants
            self.norm_2[name] = self._spectral(v, leaf)[None]
            self.tops[name] = np.abs(flat).max(axis=1, initial=0.0)[None]
            longest = max(longest, *v.shape[1:], int(flat.shape[1] / max(v.shape[1:2] or (1,))))
        self.unit = 8 * gamma(longest + 16) * sqrt(longest)

    def _spectral(self, v: Array, leaf: bool) -> Array:
        if v.ndim <= 2:
            return length(v.reshape(v.shape[0], -1))
        if leaf and v.ndim > 3:  # kernels of convolutions are (out, rest)
            v = v.reshape(*v.shape[:2], -1)
        return np.asarray(spectral(v).reshape(v.shape[0], -1).max(axis=1))

    def _leaf(self, name: str, rho: Array, index: Mapping[str, int], blocks: int) -> Jet:
        sizes = self.norm_2[name], self.norm_F[name]
        if name in self.graph.parameters:
            block = index.get(self.graph.parameters[name])
            return jets.parameter(*sizes, block, rho, blocks)
        return jets.constant(*sizes, blocks)

    def _shortest(self, errors: Mapping[str, Array] | None) -> dict[str, Array]:
        """Shortest rows at the centre for norm layers; multiplicities for embeddings."""
        found = {}
        for name, step in self.graph.steps.items():
            if step.rows and step.inputs:
                z = self._each(step.inputs[0])
                z = z.reshape(z.shape[0], -1, step.rows)
                if step.centred:
                    z = z - z.mean(axis=-1, keepdims=True)
                least = np.sqrt(np.square(z).sum(axis=-1)).min(axis=1)[None]
                slack = self.unit * self.norm_F[step.inputs[0]]
                if errors is not None:
                    slack = slack + errors[step.inputs[0]]
                found[name] = np.maximum(least * (1 - self.unit) - slack, 0.0)
        return found

    def _run(self, ball: Ball, index: Mapping[str, int], guard: bool = False) -> dict[str, Jet]:
        """Jets of all nodes."""
        graph, done = self.graph, {}
        for name in (graph.input, *graph.parameters, *graph.constants):
            done[name] = self._leaf(name, ball.rho, index, ball.blocks)
        for name, step in graph.steps.items():
            h = step.rule(ball, [done[i] for i in step.inputs])
            if not step.inputs:  # a constant made on the way
                h = self._leaf(name, ball.rho, index, ball.blocks)
            if guard:  # its own rounding is one more direction
                local = np.where(np.isfinite(h.b_F), h.b_F, self.finite[name])
                local = np.broadcast_to(local, (1, self.N if step.sampled else 1))
                self.local[name] = local[0]
                g = np.array(np.broadcast_to(h.g, (*local.shape, ball.blocks)))
                g[..., -1] += local
                h = replace(h, g=g)
                self.errors[name] = up(self.unit * g[..., -1])
            if self.centred or guard:
                err = self.errors[name]
                h = jets.centred_values(
                    h, up(self.norm_2[name] + err), up(self.norm_F[name] + err), ball.rho
                )
            if name in self.slopes and not guard:
                seen = np.full((*self.slopes[name].shape[:-1], ball.blocks), np.inf)
                for block, k in index.items():
                    seen[..., k] = self.slopes[name][..., graph.blocks.index(block)]
                h = jets.centred_slopes(h, seen, ball.rho)
            done[name] = h
        return done

    def _guard(self) -> dict[str, Jet]:
        """Plain jets at the centre, the last block being the rounding of all values."""
        self.errors: dict[str, Array] = {n: np.zeros((1, 1)) for n in self.norm_F}
        self.local: dict[str, Array] = {}
        index = {name: k for k, name in enumerate(self.graph.blocks)}
        first = Ball(np.zeros((1, 1)), self.tops, self._shortest(None), len(index) + 1)
        jets_there = self._run(first, index, guard=True)
        self.tops = {n: up(t + self.errors[n]) for n, t in self.tops.items()}
        self.shortest = self._shortest(self.errors)
        return jets_there

    def _measure_slopes(self, guard: Mapping[str, Jet], budget: float) -> dict[str, Array]:
        """Bounds of |dh/dW_k| at the centre for every node that is not affine in the weights."""
        found, blocks = {}, self.graph.blocks
        for name, step in self.graph.steps.items():
            h = guard[name]
            if step.exact or not step.inputs or not (h.H[..., :-1, :-1] > 1e-290).any():
                continue
            reached = [k for k in range(len(blocks)) if (h.g[..., k] > 1e-290).any()]
            bound = np.full((1, self.N if step.sampled else 1, len(blocks)), np.inf)
            sizes = sum(self.params[blocks[k]].numel() for k in reached)
            if self.values[name].numel() * sizes > budget:
                continue
            J = self._jacobians(name, [blocks[k] for k in reached], step.sampled)
            depth = len(self.graph.steps)
            for k in reached:
                norm = spectral(J[blocks[k]])
                error = self.unit * (depth * h.g[..., k] + h.H[..., k, -1])
                bound[..., k] = up(norm[None] + error)
            found[name] = bound
        return found

    def _jacobians(self, name: str, blocks: Sequence[str], sampled: bool) -> dict[str, Array]:
        """dh/dW per sample, (N, entries of h, entries of W)."""
        rest = {n: p for n, p in self.params.items() if n not in blocks}

        def value(some: dict[str, Tensor], x: Tensor) -> Tensor:
            return self.graph.evaluate(rest | some, x[None])[name].reshape(-1)

        some = {n: self.params[n] for n in blocks}
        entries = self.values[name][0].numel()
        X = self.X if sampled else self.X[:1]
        J = torch.vmap(torch.func.jacrev(value), (None, 0))(some, X)
        return {n: np.asarray(j).reshape(X.shape[0], entries, -1) for n, j in J.items()}

    def _trained(self, trained: Sequence[str] | None) -> tuple[str, ...]:
        names = self.graph.blocks if trained is None else tuple(trained)
        if not set(names) <= set(self.graph.blocks) or len(set(names)) < len(names):
            known = ", ".join(self.graph.blocks)
            raise InputError("trained", names, f"choose among {known}, each once")
        return names

    def jet(self, rho: Array, trained: Sequence[str] | None = None) -> Jet:
        """Jet of the output of each sample.

        Args:
            rho: Radii (R,).
            trained: Blocks that move; all of them if not given.

        Returns:
            Jet with axes (R, N) or (1, N), the blocks in the order of `trained`.
        """
        names = self._trained(trained)
        index = {name: k for k, name in enumerate(names)}
        ball = Ball(np.asarray(rho)[:, None], self.tops, self.shortest, len(names))
        with np.errstate(all="ignore"):
            return self._run(ball, index)[self.graph.output]

    def _stacked(
        self, rho: Array, trained: Sequence[str] | None, rows: Sequence[int] | None = None
    ) -> tuple[Array, Array]:
        """Bounds of the second and of the first derivative of all outputs together, per radius."""
        L = len(self._trained(trained))
        if not (rho >= 0).all():
            raise InputError("rho", float(rho.min()), "give radii that are at least 0")
        part = max(1, CHUNK // (self.N * max(L, 1) ** 2))
        seconds, firsts = [], []
        for begin in range(0, len(rho), part):
            radii = rho[begin : begin + part]
            h = self.jet(radii, trained)
            g = np.broadcast_to(h.g, (len(radii), self.N, L))
            H = np.broadcast_to(h.H, (len(radii), self.N, L, L))
            H = H if rows is None else H[:, :, list(rows)]
            entries = length(np.swapaxes(H, 1, -1))  # Minkowski, entry by entry
            with np.errstate(all="ignore"):
                seconds.append(np.minimum(length(spectral(H)), spectral(entries)))
                firsts.append(spectral(g))
        return np.concatenate(seconds), np.concatenate(firsts)

    def constants(
        self, rho: float | Array, trained: Sequence[str] | None = None
    ) -> tuple[float | Array, float | Array]:
        """Lipschitz constant M_2 of the Jacobian, and bound G of its norm, on balls about here.

        M_2 = min{(sum_i |H_i|^2)^1/2, |(sum_i H_i o H_i)^o1/2|}, G = |[g_i]|.

        Args:
            rho: Radius, or radii (R,).
            trained: Blocks that move; all of them if not given.

        Returns:
            (M_2, G), numbers or arrays (R,) as rho is; infinite where nothing is known.

        Raises:
            InputError: A negative radius, or a name that is no block.
        """
        M_2, G = self._stacked(np.atleast_1d(np.asarray(rho, dtype=np.float64)), trained)
        return (M_2, G) if np.ndim(rho) else (float(M_2[0]), float(G[0]))

    def row(self, rho: float, blocks: Sequence[str], trained: Sequence[str] | None = None) -> float:
        """|H_{S,:}|: how fast the Jacobian with respect to some blocks drifts.

        Args:
            rho: Radius.
            blocks: The blocks S.
            trained: Blocks that move; all of them if not given.

        Returns:
            Bound of the Lipschitz constant of J_S; never above M_2.

        Raises:
            InputError: A name that is no trained block.
        """
        names = self._trained(trained)
        strange = [b for b in blocks if b not in names]
        if strange or len(set(blocks)) < len(blocks):
            raise InputError("blocks", blocks, f"choose among {', '.join(names)}, each once")
        rows = [names.index(b) for b in blocks]
        return float(self._stacked(np.array([float(rho)]), trained, rows)[0][0])

    def sensitivity(self) -> float:
        """What one rounding unit in every node does to the outputs; see the function."""
        nodes = [n for n in self.graph.steps if self.graph.steps[n].inputs]
        zeros = {n: torch.zeros_like(self.values[n][:1]) for n in nodes}
        zeros |= {n: z[0] for n, z in zeros.items() if not self.graph.steps[n].sampled}

        def value(shift: dict[str, Tensor], x: Tensor) -> Tensor:
            return self.graph.evaluate(self.params, x[None], shift)[self.graph.output].reshape(-1)

        J = torch.vmap(torch.func.jacrev(value), (None, 0))(zeros, self.X)
        each = np.zeros(self.N)
        for n, j in J.items():
            each = each + up(length(np.asarray(j).reshape(self.N, -1)) * self.local[n])
        return float(up(length(up(each, len(nodes) + 2))))


def lipschitz(
    graph: Graph, params: Mapping[str, Tensor], X: Tensor, rho: float, centred: bool = True
) -> tuple[float, float]:
    """(M_2, G) at one radius.

    Args:
        graph: From `known_layers`.
        params: All parameters by name.
        X: Inputs (N, ...).
        rho: Radius.
        centred: Whether the jets are centred at the parameters.

    Returns:
        Lipschitz constant of the Jacobian of the stacked outputs, bound of its norm.

    Example:
        >>> from gdconv.models.jets.graph import known_layers
        >>> net, X = torch.nn.Linear(2, 1, bias=False), torch.ones(1, 2)
        >>> M_2, G = lipschitz(known_layers(net, X), dict(net.named_parameters()), X, 0.5)
        >>> M_2 < 1e-300, round(G, 9)
        (True, 1.414213562)
    """
    M_2, G = Calculus(graph, params, X, centred).constants(float(rho))
    return float(M_2), float(G)


def sensitivity(graph: Graph, params: Mapping[str, Tensor], X: Tensor) -> float:
    """What one rounding unit in every node does to the outputs: sum_h |J_h|_F b_h, samples stacked.

    J_h is the derivative of the output with respect to node h at the centre, and b_h the bound that
    h's rule gives from the measured sizes of its arguments (|A|_F |B| for a product, say), which
    cancellation cannot make small. A node computed with relative error u in this sense changes the
    outputs by at most u times the sum.

    Args:
        graph: From `known_layers`.
        params: All parameters by name.
        X: Inputs (N, ...).

    Returns:
        The sum, Frobenius over samples; infinite where a norm layer has S = 0.

    Example:
        >>> from gdconv.models.jets.graph import known_layers
        >>> net, X = torch.nn.Linear(2, 1, bias=False), torch.ones(1, 2)
        >>> params = {"weight": torch.ones(1, 2)}
        >>> round(sensitivity(known_layers(net, X), params, X), 9)
        2.0
    """
    return Calculus(graph, params, X, centred=False).sensitivity()
