"""Training curves of the convex program and of the models (3), (4) and (8) beside it.

Scalar output. (3) and (4) give one row per token; their output is the mean over the rows. For (4)
that is (8) with a_j the mean row of A_j, so (4), (8) and the convex program have one optimum F*,
enclosed by the certified gap. (3) has decay on four matrices and attention that depends on the
sample: another problem, whose optimum is neither F* nor known.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.convex_attention.data import TokenTask
from gdconv.convex.dual import beta_max
from gdconv.convex.group_lasso import Program, token_program
from gdconv.convex.recovery import heads_of
from gdconv.convex.solvers.fast import solve
from gdconv.convex.training import onto_simplex

FREE = "(3), Q K free"
"""A control: (3) with decay on W_V and W_O only, as (4) has it."""
MODELS = ("convex", "(8)", "(4)", "(3)", FREE)
PLAIN, FAST = "gradient descent", "Adam"
"""Methods of the non-convex models; the convex program takes proximal steps, plain and
accelerated, under the same two names in the tables' column `method`."""
METHODS = (PLAIN, FAST)
SIMPLEX = ("A", "a")
"""Weights whose rows are projected onto the simplex after every step."""


def program_of(task: TokenTask, decay: float) -> Program:
    """The convex program at beta = decay beta_max.

    Args:
        task: Data.
        decay: beta / beta_max.

    Returns:
        The program.
    """
    program = token_program(task.X, task.y, 1.0)
    return program.with_beta(decay * beta_max(program).lo)


def marks(steps: int, count: int = 60) -> list[int]:
    """Steps at which a curve is recorded: 0, then about evenly on a logarithmic scale.

    Args:
        steps: Last step.
        count: About how many.

    Returns:
        Ascending steps.

    Example:
        >>> marks(5)
        [0, 1, 2, 3, 4, 5]
    """
    return sorted({0, *np.geomspace(1, steps, count).round().astype(int).tolist()})


@dataclass
class Curve:
    """Objective of one run.

    Attributes:
        steps: When it was recorded.
        seconds: Time spent in steps until then; evaluations are left out.
        values: Objective.
    """

    steps: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, step: int, seconds: float, value: float) -> None:
        """Append one point."""
        self.steps.append(step)
        self.seconds.append(seconds)
        self.values.append(value)


def start(model: str, task: TokenTask, heads: int, seed: int) -> dict[str, Tensor]:
    """Random weights: normal over 2 sqrt(width), rows of A and a near uniform.

    Args:
        model: One of MODELS but the convex program.
        task: Data.
        heads: h of (3); (4) and (8) have n, as many as the equivalence asks for.
        seed: Seed.

    Returns:
        Weights by the names of the paper's equations.
    """
    n, d = task.X.shape[1:]
    g = torch.Generator("cpu").manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64, device="cpu") / (
            2 * sqrt(shape[-2])
        )

    def rows(*shape: int) -> Tensor:
        return onto_simplex(
            torch.rand(*shape, generator=g, dtype=torch.float64, device="cpu") / n + 1 / n
        )

    if model == "(8)":
        return {"a": rows(n, n), "v": normal(d, n).T.contiguous(), "b": normal(n, 1)}
    if model == "(4)":
        return {"A": rows(n, n, n), "W_V": normal(n, d, d), "W_O": normal(n, d, 1)}
    names = ("W_Q", "W_K", "W_V")
    weights = {name: normal(heads, d, d) for name in names} | {"W_O": normal(heads, d, 1)}
    return weights


def _attention_rows(X: Tensor, W_Q: Tensor, W_K: Tensor) -> Tensor:
    """softmax(X W_Q W_K^T X^T) of every sample and head."""
    q, k = (torch.einsum("ind,hdm->ihnm", X, W) for W in (W_Q, W_K))
    return (q @ k.mT).softmax(-1)


def output(model: str, X: Tensor, w: dict[str, Tensor]) -> Tensor:
    """What a model makes of samples: the mean over rows, taken first because it is cheaper.

    Args:
        model: One of MODELS but the convex program.
        X: Tokens (N, n, d).
        w: Weights.

    Returns:
        Outputs (N, 1).
    """
    if model == "(8)":
        return torch.einsum("hn,ind,hd,hc->ic", w["a"], X, w["v"], w["b"])
    if model == "(4)":
        pooled = torch.einsum("hk,ikd->ihd", w["A"].mean(1), X)
    else:
        pooled = _attention_rows(X, w["W_Q"], w["W_K"]).mean(2) @ X
    return torch.einsum("ihd,hdc->ic", pooled, w["W_V"] @ w["W_O"])


def objective_of(model: str, program: Program) -> Callable[..., Tensor]:
    """Squared loss plus decay as a function of the weights.

    Args:
        model: One of MODELS but the convex program.
        program: Data and weight decay.

    Returns:
        The objective.
    """
    X, y = torch.from_numpy(program.design.A), torch.from_numpy(program.y)

    def value(**w: Tensor) -> Tensor:
        out = output(model, X, w)
        names = ("W_V", "W_O") if model in {FREE, "(4)"} else tuple(w)
        kept = [w[name].square().sum() for name in names if name not in SIMPLEX]
        decay = torch.stack(kept).sum()
        return (out - y).square().sum() + 0.5 * program.beta * decay

    return value


def descend(
    objective: Callable[..., Tensor],
    weights: dict[str, Tensor],
    method: str,
    rate: float,
    steps: int,
) -> tuple[dict[str, Tensor], Curve]:
    """Gradient descent or Adam, rows of attention projected onto the simplex after each step.

    Args:
        objective: Function of the weights.
        weights: Start; not changed.
        method: One of METHODS.
        rate: Step size.
        steps: Steps.

    Returns:
        Last weights and the curve; it ends where the objective is no longer finite.
    """
    at = {name: w.clone().requires_grad_() for name, w in weights.items()}
    kind = torch.optim.SGD if method == PLAIN else torch.optim.Adam
    optimiser = kind(at.values(), lr=rate)
    curve, spent, recorded = Curve(), 0.0, set(marks(steps))
    for step in range(steps + 1):
        begun = time.perf_counter()
        value = objective(**at)
        seen = float(value.detach())
        if step in recorded or not np.isfinite(seen):
            curve.add(step, spent, seen)
        if step == steps or not np.isfinite(seen):
            break
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        with torch.device(value.device):  # Adam's count of steps begins on the default device
            optimiser.step()
        with torch.no_grad():
            for name in set(SIMPLEX) & set(at):
                at[name].copy_(onto_simplex(at[name]))
        spent += time.perf_counter() - begun
    return {name: w.detach() for name, w in at.items()}, curve


def proximal(program: Program, method: str, steps: int) -> tuple[np.ndarray, Curve]:
    """Proximal gradient steps from Z = 0 with the step of the rate theorems.

    Args:
        program: The program.
        method: PLAIN, or FAST for the accelerated form.
        steps: Steps.

    Returns:
        Last Z and the curve.
    """
    begun = time.perf_counter()
    eta, Z, s = program.max_step().lo, program.zeros(), 1.0
    Y, spent = Z, time.perf_counter() - begun  # finding the step is part of the method
    curve, recorded = Curve(), set(marks(steps))
    for step in range(steps + 1):
        if step in recorded:
            curve.add(step, spent, program.objective(Z))
        begun = time.perf_counter()
        new = program.prox(Y - eta * program.gradient(Y), eta * program.beta)
        s_next = 0.5 * (1.0 + sqrt(1.0 + 4.0 * s * s)) if method == FAST else 1.0
        Y = new + ((s - 1.0) / s_next) * (new - Z)
        Z, s = new, s_next
        spent += time.perf_counter() - begun
    return Z, curve


def certified(program: Program, tolerance: float = 1e-9) -> dict[str, Any]:
    """F* enclosed, and how long the fast solver took for it.

    Args:
        program: The program.
        tolerance: Relative gap asked for.

    Returns:
        lower, upper, seconds (a second solve, so that nothing is compiled), status, active tokens.
    """
    solve(program, tolerance)
    fresh = Program.of(program.design.A, program.y, program.beta)  # nothing kept from the first
    begun = time.perf_counter()
    found = solve(fresh, tolerance)
    seconds = time.perf_counter() - begun
    box = found.certificate.optimum
    return {
        "lower": box.lo, "upper": box.hi, "seconds": seconds, "status": found.status,
        "active": len(found.active), "at_zero": program.objective(program.zeros()),
        "beta": program.beta, "heads": heads_of(program, found.Z).a.tolist(),
    }  # fmt: skip


def row_entropy(A: Tensor) -> Tensor:
    """Entropy of attention rows over log n: 1 for uniform rows, 0 for one token.

    Args:
        A: Rows on the simplex (..., n).

    Returns:
        One number per row.

    Example:
        >>> row_entropy(torch.tensor([[0.5, 0.5], [1.0, 0.0]], dtype=torch.float64)).tolist()
        [1.0, 0.0]
    """
    return torch.special.entr(A).sum(-1) / np.log(A.shape[-1])


def attention(model: str, task: TokenTask, weights: dict[str, Tensor]) -> dict[str, Any]:
    """Attention of every head at the held-out samples, and how far it is from uniform.

    Args:
        model: One of MODELS but the convex program.
        task: Data.
        weights: Trained or initial weights.

    Returns:
        map (h, n): how much each head's output takes from each token, averaged over samples and
        output rows; entropy: mean over all attention rows.
    """
    if model == "(8)":
        return _found(weights["a"], weights["a"])
    if model == "(4)":
        return _found(weights["A"].mean(1), weights["A"])
    X = torch.from_numpy(task.X_test)
    S = _attention_rows(X, weights["W_Q"], weights["W_K"])
    return _found(S.mean((0, 2)), S)


def _found(by_head: Tensor, rows: Tensor) -> dict[str, Any]:
    return {"map": by_head.tolist(), "entropy": float(row_entropy(rows).mean())}


def fitted(model: str, task: TokenTask, weights: dict[str, Tensor]) -> float:
    """R^2 on held-out samples: 1 - mean squared error over the variance of the targets.

    Args:
        model: One of MODELS but the convex program.
        task: Data.
        weights: Weights.

    Returns:
        The number; 0 or less for no use.
    """
    out = output(model, torch.from_numpy(task.X_test), weights)
    return r_squared(out[:, 0].numpy(), task.y_test)


def r_squared(predicted: np.ndarray, y: np.ndarray) -> float:
    """1 - mean squared error over variance.

    Args:
        predicted: Predictions.
        y: Targets.

    Returns:
        The number.

    Example:
        >>> r_squared(np.array([1.0, 3.0]), np.array([1.0, 3.0]))
        1.0
    """
    return float(1.0 - np.square(predicted - y).mean() / y.var())
