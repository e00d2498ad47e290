"""Training of the non-convex models: many starts, and simplex weights that reach one-hot rows.

`train_heads` is proximal alternating minimisation (PALM) of model (8) and its relatives, R starts
at once: a step of a by gradient and projection onto the simplex, then v, then b, each with a step
below the inverse of its block's curvature, so the objective never rises. Projection reaches one-hot
rows in finitely many steps; a softmax parametrisation only does so in the limit.
`descend` is plain (projected) gradient descent of any objective, for curves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gdconv.convex.group_lasso import Program
from gdconv.convex.recovery import Heads
from gdconv.support.errors import InputError


def onto_simplex(A: Float[Tensor, "*rows n"]) -> Float[Tensor, "*rows n"]:
    """Nearest point of the unit simplex, row by row.

    Args:
        A: Any rows.

    Returns:
        Rows >= 0 that sum to 1.

    Example:
        >>> onto_simplex(torch.tensor([[2.0, 0.5], [0.25, 0.25]])).tolist()
        [[1.0, 0.0], [0.5, 0.5]]
    """
    sums = A.sort(-1, descending=True).values.cumsum(-1) - 1.0
    counts = torch.arange(1, A.shape[-1] + 1, dtype=A.dtype, device=A.device)
    return (A - (sums / counts).amax(-1, keepdim=True)).clamp_min(0.0)


def l1_square_prox(M: Float[Tensor, "*rows c"], t: Tensor) -> Float[Tensor, "*rows c"]:
    """argmin_b 1/2 |b - m|^2 + (t/2) |b|_1^2, row by row.

    |b|_1 = max_k (sum of the k largest |m|)/(1 + k t), and b is m shortened by t |b|_1.

    Args:
        M: Any rows.
        t: Weight, broadcastable to the rows (last axis kept).

    Returns:
        The minimisers.

    Example:
        >>> l1_square_prox(torch.tensor([[2.0, 0.5]]), torch.tensor(1.0)).tolist()
        [[1.0, 0.0]]
    """
    sums = M.abs().sort(-1, descending=True).values.cumsum(-1)
    counts = torch.arange(1, M.shape[-1] + 1, dtype=M.dtype, device=M.device)
    size = (sums / (1.0 + counts * t)).amax(-1, keepdim=True)
    return M.sign() * (M.abs() - t * size).clamp_min(0.0)


@dataclass(frozen=True, eq=False)
class Trained:
    """Result of many starts.

    Attributes:
        values: Objective of each start at the end (R).
        curve: Objective of the best start after each step (T + 1).
        heads: Heads of the best start.

    Example:
        >>> program = Program.of([[[1.0]]], [1.0], 0.5)
        >>> round(train_heads(program, 1, starts=3, steps=100).best, 4)
        0.4375
    """

    values: Float[Tensor, " R"]
    curve: Float[Tensor, " T"]
    heads: Heads

    @property
    def best(self) -> float:
        """Least objective found: an upper bound of the non-convex optimum."""
        return float(self.values.min())


def _slope(program: Program, p: Tensor, y: Tensor) -> Tensor:
    loss = program.loss
    if loss.name == "logistic":
        return -y * torch.sigmoid(-y * p)
    r = 2.0 * (p - y)
    return r if loss.name == "squared" else r.clamp(-2 * loss.delta, 2 * loss.delta)


def _values(program: Program, p: Tensor, y: Tensor) -> Tensor:
    loss = program.loss
    if loss.name == "logistic":
        return torch.logaddexp(torch.zeros_like(p), -y * p).sum((1, 2))
    r = (p - y).abs()
    core = r if loss.name == "squared" else r.clamp(max=loss.delta)
    return (core.square() + 2.0 * loss.delta * (r - core)).sum((1, 2))


def _top(J: Tensor) -> Tensor:
    """|J J^T|_F >= |J|_2^2, one per start; J (R, rows, columns)."""
    small = J @ J.mT if J.shape[1] <= J.shape[2] else J.mT @ J
    return small.square().sum((1, 2)).sqrt().clamp_min(1e-12)


class _Alternating:
    """One state of PALM: tokens T (h or 1, N, n, d), a (R, h, n), v (R, h, d), b (R, h, c)."""

    def __init__(self, program: Program, T: Tensor, a: Tensor, v: Tensor, b: Tensor) -> None:
        self.program, self.T, self.a, self.v, self.b = program, T, a, v, b
        self.y = torch.from_numpy(program.y)[None]
        self.nuclear = program.penalty == "nuclear"

    def outputs(self) -> Tensor:
        """a_j^T X_ij v_j, (R, N, h)."""
        return torch.einsum("rhn,hind,rhd->rih", self.a, self.T, self.v)

    def objective(self) -> Tensor:
        """Objective of each start (R)."""
        out = self.b.square().sum((1, 2))
        if not self.nuclear:
            out = self.b.abs().sum(2).square().sum(1)
        decay = 0.5 * self.program.beta * (self.v.square().sum((1, 2)) + out)
        return _values(self.program, self.outputs() @ self.b, self.y) + decay

    def step(self) -> None:
        """One step of each block."""
        curvature, beta, R = self.program.loss.curvature, self.program.beta, len(self.a)
        for block in ("a", "v"):
            weights = getattr(self, block)
            other = "rhd" if block == "a" else "rhn"
            along = "n" if block == "a" else "d"
            fixed = self.v if block == "a" else self.a
            U = torch.einsum(f"{other},hind->rih{along}", fixed, self.T)
            p = torch.einsum(f"rih{along},rh{along}->rih", U, weights) @ self.b
            slope = _slope(self.program, p, self.y)
            J = torch.einsum(f"rih{along},rhc->rich{along}", U, self.b)
            grad = torch.einsum(f"rich{along},ric->rh{along}", J, slope)
            L = curvature * _top(J.reshape(R, -1, weights[0].numel()))[:, None, None]
            if block == "a":
                self.a = onto_simplex(weights - grad / L)
            else:
                self.v = (weights - grad / L) / (1.0 + beta / L)
        out = self.outputs()
        grad = out.mT @ _slope(self.program, out @ self.b, self.y)
        L = curvature * _top(out)[:, None, None]
        m = self.b - grad / L
        self.b = m / (1.0 + beta / L) if self.nuclear else l1_square_prox(m, beta / L)

    def balance(self) -> None:
        """Give v and b of each head the same norm: the product is kept, the decay falls."""
        left = self.v.square().sum(2, keepdim=True).sqrt()
        right = self.b.square().sum(2, keepdim=True).sqrt()
        if not self.nuclear:
            right = self.b.abs().sum(2, keepdim=True)
        ratio = torch.where((left > 0) & (right > 0), (right / left.clamp_min(1e-300)).sqrt(), 1.0)
        self.v, self.b = self.v * ratio, self.b / ratio


def train_heads(
    program: Program,
    h: int,
    starts: int = 20,
    steps: int = 2000,
    seed: int = 0,
    patterns: Float[np.ndarray, "h N"] | None = None,
) -> Trained:
    """Minimise model (8), a vector form or the gated network from many random starts.

    Args:
        program: The ungated program: its penalty decides between |b|_1^2 and |b|_2^2.
        h: Heads.
        starts: Random starts, run side by side.
        steps: Steps of each.
        seed: Of the starts.
        patterns: For the gated network, 1 where head j lets sample i through, else 0.

    Returns:
        Values, curve and heads.

    Raises:
        InputError: No head, or patterns of the wrong shape.

    Example:
        >>> program = Program.of([[[1.0], [0.0]], [[0.0], [1.0]]], [1.0, -1.0], 0.125)
        >>> round(train_heads(program, 2, starts=4, steps=300).best, 4), 31 / 128
        (0.2422, 0.2421875)
    """
    K, d, c = program.shape
    N = len(program.y)
    if h < 1:
        raise InputError("h", h, "give at least one head")
    if patterns is not None and patterns.shape != (h, N):
        raise InputError("patterns", patterns.shape, f"give shape {(h, N)}")
    X = torch.from_numpy(program.design.A)[None].expand(h, -1, -1, -1)
    T = (
        X
        if patterns is None
        else X * torch.from_numpy(np.asarray(patterns, float))[..., None, None]
    )
    draw = torch.Generator("cpu").manual_seed(seed)
    kind: Any = {"dtype": torch.float64, "device": "cpu"}
    a = onto_simplex(torch.rand(starts, h, K, generator=draw, **kind) * 1.5)
    v = torch.randn(starts, h, d, generator=draw, **kind) / d**0.5
    b = torch.randn(starts, h, c, generator=draw, **kind) / c**0.5
    if c > 1 and program.penalty == "columns":  # |b|_1^2 likes one output a head: half begin so
        b[::2] = b[::2] * torch.eye(c, **kind)[torch.arange(h, device="cpu") % c]
    state = _Alternating(program, T, a, v, b)
    curves = [state.objective()]
    for _ in range(steps):
        state.step()
        state.balance()
        curves.append(state.objective())
    values = curves[-1]
    r = int(values.argmin())
    heads = Heads(state.a[r].numpy(), state.v[r].numpy(), state.b[r].numpy())
    return Trained(values, torch.stack(curves)[:, r], heads)


def descend(
    objective: Callable[..., Tensor],
    weights: Mapping[str, Tensor],
    eta: float,
    steps: int,
    simplex: tuple[str, ...] = (),
) -> tuple[dict[str, Tensor], Tensor]:
    """Gradient descent by autograd; the named weights are projected onto the simplex each step.

    Args:
        objective: Function of the weights by name.
        weights: Start; not changed.
        eta: Step size.
        steps: Number of steps.
        simplex: Weights whose rows stay on the simplex.

    Returns:
        Last weights and the objective at t = 0..steps.

    Raises:
        InputError: A name in `simplex` that is no weight.

    Example:
        >>> end, curve = descend(lambda w: (w - 1.0).square().sum(), {"w": torch.zeros(1)}, 0.5, 1)
        >>> end["w"].item(), curve.tolist()
        (1.0, [1.0, 0.0])
    """
    unknown = set(simplex) - set(weights)
    if unknown:
        raise InputError("simplex", sorted(unknown), f"give names among {', '.join(weights)}")
    at = {k: w.detach().clone().requires_grad_() for k, w in weights.items()}
    curve = []
    for _ in range(steps):
        value = objective(**at)
        grads = torch.autograd.grad(value, list(at.values()))
        curve.append(value.detach())
        with torch.no_grad():
            for (name, w), g in zip(at.items(), grads, strict=True):
                moved = w - eta * g
                w.copy_(onto_simplex(moved) if name in simplex else moved)
    curve.append(objective(**at).detach())
    return {k: w.detach() for k, w in at.items()}, torch.stack(curve)
