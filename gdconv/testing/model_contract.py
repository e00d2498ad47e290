"""The checks of a model's contract; `gdconv.testing.models` says what each is about."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gdconv.data.problem import Problem
from gdconv.descent.engines import make_engine
from gdconv.descent.plan import Plan
from gdconv.models.architecture import Architecture
from gdconv.models.base import Model
from gdconv.models.generic.formulas import ModuleFormulas
from gdconv.models.probes import gap
from gdconv.models.weights import Weights
from gdconv.testing.constants import exceeded
from gdconv.testing.contract import Check, require

CLOSE = 1e-10
"""Relative difference that rounding may leave between two derivations of a number."""

MEASURED = 1e-6
"""Relative difference that a central difference may leave."""

UNIT = 2.0**-53

Claims = Callable[[Any, float], tuple[float, float]]
"""Point and radius to (M_2, G^2): Lipschitz constant of J, upper bound of |J|^2."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A model with two replicas of data and weights.

    Attributes:
        name: How sentences name it.
        family: Its family.
        model: The model.
        problem: Data, two replicas.
        params: Weights, two replicas.
        trained: Blocks that move.
        claims: What is claimed around a point.
    """

    name: str
    family: Architecture
    model: Model
    problem: Problem
    params: Weights
    trained: tuple[str, ...]
    claims: Claims

    def outputs(self, problem: Problem, params: Weights) -> Tensor:
        """What the Jacobian is the derivative of, (R, m)."""
        at = self.model.forward(problem, params)
        found = at.F if isinstance(self.model, ModuleFormulas) else at.residual
        flat: Tensor = found.detach().flatten(1)
        return flat

    @cached_property
    def at(self) -> Any:
        """The forward pass."""
        return self.model.forward(self.problem, self.params)

    @cached_property
    def J(self) -> Tensor:
        """The Jacobian (2, m, p)."""
        return self.model.jacobian(self.problem, self.params, self.trained).detach()

    @cached_property
    def slopes(self) -> dict[str, Tensor]:
        """The gradient's trained blocks."""
        found = self.model.gradient(self.problem, self.params)[1].blocks()
        return {b: found[b].detach() for b in self.trained}

    @cached_property
    def grad(self) -> Tensor:
        """The same (2, p)."""
        return torch.cat([self.slopes[b].flatten(1) for b in self.trained], 1)

    @cached_property
    def sizes(self) -> list[int]:
        """Numbers per trained block."""
        return [self.params.blocks()[b][0].numel() for b in self.trained]

    @property
    def S(self) -> Tensor:
        """Gradient of the loss by the outputs (2, m)."""
        found: Tensor = self.at.residual.detach().flatten(1)
        return found

    def moved(self, u: Tensor, step: float) -> Weights:
        """Weights moved by step u, u of shape (p,) or (2, p)."""
        blocks, parts = self.params.blocks(), u.expand(self.params.R, -1).split(self.sizes, 1)
        pairs = zip(self.trained, parts, strict=True)
        return self.params.with_blocks({
            b: blocks[b] + step * part.reshape(blocks[b].shape) for b, part in pairs
        })

    @cached_property
    def step(self) -> float:
        """Length of a central difference: of the size of the weights."""
        squares = sum(float(self.params.blocks()[b].square().sum()) for b in self.trained)
        return 1e-5 * (min(squares / self.params.R, 1e2) ** 0.5 or 1.0)

    def directions(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Unit directions (p,), in each block alone and in all; and which columns they move."""
        rng = np.random.default_rng(0)
        edges = np.cumsum([0, *self.sizes])
        spans = [*zip(self.trained, edges[:-1], edges[1:], strict=True)]
        for name, lo, hi in [*spans, ("all blocks", 0, edges[-1])]:
            for _ in range(2):
                u = np.zeros(edges[-1])
                u[lo:hi] = rng.standard_normal(hi - lo)
                moves = torch.zeros(int(edges[-1]), dtype=torch.bool, device="cpu")
                moves[lo:hi] = True
                yield name, torch.from_numpy(u / np.linalg.norm(u)), moves


def norm(x: Tensor) -> float:
    """Frobenius norm."""
    return float(x.double().norm())


def _outputs(s: Subject) -> str:
    R, y = s.params.R, s.problem.y
    residual, loss = s.at.residual, s.at.loss
    want = (R, *y.shape[1:])
    shape = tuple(residual.shape)
    # one label per sample is kept as (R, N, 1, 1)
    same = shape == want or (shape[:2] == want[:2] and residual.numel() == y.numel())
    F = getattr(s.at, "F", residual)  # a residual may be broadcast where the outputs do not fit
    same = same and F.numel() == y.numel()
    require(same, f"its outputs have shape {tuple(F.shape)}, y has {want}")
    require(tuple(loss.shape) == (R,), f"its loss has shape {tuple(loss.shape)}, not ({R},)")
    require(bool(torch.isfinite(residual).all()), "its outputs are not finite")
    require(bool(torch.isfinite(loss).all() and (loss >= 0).all()), "its loss is not finite or < 0")
    return ""


def _state(s: Subject) -> dict[str, Any]:
    """Everything that a forward pass must leave alone, as bytes."""
    module = getattr(s.model, "module", None)
    held = {} if module is None else {f"module.{k}": v for k, v in module.state_dict().items()}
    tensors = {"X": s.problem.X, "y": s.problem.y, **s.params.blocks(), **held}
    kept: dict[str, Any] = {k: v.detach().clone() for k, v in tensors.items()}
    kept["torch's random state"] = torch.random.get_rng_state()
    numpys: Any = np.random.get_state(legacy=False)  # noqa: NPY002
    kept["numpy's random state"] = torch.from_numpy(numpys["state"]["key"].astype(np.int64))
    kept["numpy's random position"] = torch.tensor(numpys["state"]["pos"], device="cpu")
    return kept


def _pure(s: Subject) -> str:
    before = _state(s)
    first, second = (s.outputs(s.problem, s.params) for _ in range(2))
    require(
        torch.equal(first.nan_to_num(), second.nan_to_num()),
        f"two forward passes differ by {norm(first - second):.3g}",
    )
    s.model.gradient(s.problem, s.params)
    after = _state(s)
    changed = [k for k, v in before.items() if not torch.equal(v, after[k])]
    require(not changed, f"evaluating it changes {', '.join(changed)}")
    return ""


def _match(s: Subject) -> str:
    s.family.require_match(s.problem, s.params)
    require(s.family.holds(s.params), "its family does not take its weights for its own")
    return ""


def _jacobian(s: Subject) -> str:
    m, p = s.S.shape[1], sum(s.sizes)
    require(
        tuple(s.J.shape) == (s.params.R, m, p),
        f"its Jacobian has shape {tuple(s.J.shape)}, not {(s.params.R, m, p)}",
    )
    for block, u, moves in s.directions():
        ends = [s.outputs(s.problem, s.moved(u, sign * s.step)) for sign in (1.0, -1.0)]
        measured = (ends[0] - ends[1]) / (2 * s.step)
        off = (s.J @ u - measured).abs()
        size = norm(s.J[:, :, moves]) + norm(measured)
        allowed = MEASURED * size + 32 * UNIT * norm(ends[0]) / s.step
        row = int(off.amax(0).argmax())
        require(
            bool((off <= allowed).all()),
            f"row {row} along {block} is off from finite differences by {float(off.max()):.3g}, "
            f"more than {allowed:.3g}",
        )
    return ""


def _gradient(s: Subject) -> str:
    for block, u, moves in s.directions():
        ends = [s.model.forward(s.problem, s.moved(u, sign * s.step)).loss for sign in (1.0, -1.0)]
        measured = (ends[0] - ends[1]).double() / (2 * s.step)
        off = float((s.grad @ u - measured).abs().max())
        size = norm(s.grad[:, moves]) + norm(measured) + 0.01 * norm(s.J[:, :, moves]) * norm(s.S)
        allowed = MEASURED * size + 32 * UNIT * float(ends[0].abs().max()) / s.step
        require(
            off <= allowed,
            f"along {block} it is off from finite differences of the loss by {off:.3g}, "
            f"more than {allowed:.3g}",
        )
    return ""


def _agreement(s: Subject) -> str:
    made = torch.einsum("rm,rmp->rp", s.S.to(s.J.dtype), s.J)
    off, allowed = norm(made - s.grad), CLOSE * norm(s.J) * norm(s.S)
    require(off <= allowed, f"|J^T S - gradient| = {off:.3g}, more than {allowed:.3g}")
    return ""


def _kernel(s: Subject) -> str:
    K = s.J @ s.J.mT
    made = s.model.tangent_kernel(s.problem, s.params, s.trained)
    off, size = norm(made - K), norm(s.J) ** 2
    require(off <= CLOSE * size, f"|K - J J^T| = {off:.3g}, more than {CLOSE * size:.3g}")
    v = torch.from_numpy(np.random.default_rng(2).standard_normal(tuple(s.S.shape)))
    for at in (None, s.at):
        found = s.model.kernel_times(s.problem, s.params, v, s.trained, at)
        off, allowed = norm(found - (K @ v[:, :, None])[:, :, 0]), CLOSE * size * norm(v)
        require(off <= allowed, f"kernel_times is off K v by {off:.3g}, more than {allowed:.3g}")
    return ""


def _replicas(s: Subject) -> str:
    for r in range(s.params.R):
        data, one = s.problem[r], s.params[r]
        at, slopes = s.model.gradient(data, one)
        grad = torch.cat([slopes.blocks()[b].flatten(1) for b in s.trained], 1)
        for what, alone, among in (
            ("loss", at.loss, s.at.loss[r : r + 1]),
            ("residual", at.residual, s.at.residual[r : r + 1]),
            ("gradient", grad, s.grad[r : r + 1]),
            ("Jacobian", s.model.jacobian(data, one, s.trained), s.J[r : r + 1]),
        ):
            off = norm(alone - among)
            size = norm(alone) + norm(among) + (norm(s.J) * norm(s.S) if what == "gradient" else 0)
            size += norm(s.problem.y) + norm(s.outputs(data, one)) if what == "residual" else 0.0
            require(
                off <= CLOSE * size,
                f"the {what} of replica {r} is another one alone, by {off:.3g}",
            )
    return ""


def _step(s: Subject) -> str:
    size = (s.J.flatten(1).norm(dim=1) ** 2).numpy()
    eta = 0.1 / np.where(size > 0, size, 1.0)
    none = np.zeros(s.params.R)
    limits = np.ones(s.params.R, int)
    bounds: list[dict[str, Any]] = [{} for _ in limits]
    plan = Plan(eta, limits, bounds, none, none, trained=s.trained)
    engine = make_engine(s.model, s.problem, s.params, plan)
    engine.advance(0)
    engine.advance(1)
    probed = s.model.probe(s.problem, s.params, s.trained)
    wanted, _ = engine.motion.step(s.params, probed.gradient)
    off, allowed = gap(engine.parameters(), wanted), engine.motion.allowed(probed, UNIT)
    for r in range(s.params.R):
        require(
            float(off[r]) <= float(allowed[r]),
            f"the engine's step is off the probe's by {off[r]:.3g}, rounding allows "
            f"{allowed[r]:.3g}",
        )
    return ""


def _noise(s: Subject) -> str:
    """Three evaluations that are equal in real numbers, or differ by an ulp of the weights."""
    covered = s.model.probe(s.problem, s.params, s.trained).noise_scale
    F = s.outputs(s.problem, s.params)
    low = s.outputs(s.problem.to("cpu", torch.float32), s.params.to("cpu", torch.float32))
    rng, blocks = np.random.default_rng(3), s.params.blocks()
    ulp = s.params.with_blocks({
        b: blocks[b]
        * (1.0 + UNIT * torch.from_numpy(rng.choice([-1.0, 1.0], tuple(blocks[b].shape))))
        for b in s.trained
    })
    back = Problem(s.problem.X.flip(1), s.problem.y.flip(1), s.problem.name)
    m, N = F.shape[1], s.problem.X.shape[1]
    turned = s.outputs(back, s.params).reshape(len(F), N, m // N).flip(1).flatten(1)
    seen = {
        "float32, scaled by 2^-29,": (low.double() - F).norm(dim=1) * 2.0**-29,
        "an ulp of the weights": (s.outputs(s.problem, ulp) - F).norm(dim=1),
        "the samples in another order": (turned - F).norm(dim=1),
    }
    for what, change in seen.items():
        for r in range(s.params.R):
            found = float(change[r])
            if isfinite(found):  # float32 may overflow where float64 does not
                require(
                    found <= float(covered[r]),
                    f"{what} changes the outputs by {found:.3g}, noise_scale is {covered[r]:.3g}",
                )
    return ""


def _weights(s: Subject) -> str:
    names, arrays = tuple(s.params.blocks()), s.params.numpy()
    require(names == s.family.blocks, f"its blocks are {names}, the family's {s.family.blocks}")
    unknown = [b for b in s.trained if b not in names]
    require(not unknown, f"{', '.join(unknown)} would be trained and is no block")
    again = s.family.from_arrays(arrays)
    for b, value in s.params.blocks().items():
        require(
            torch.equal(again.blocks()[b], value.cpu().double()),
            f"block {b} is another one after from_arrays(numpy())",
        )
    low = s.params.to("cpu", torch.float32)
    require(
        all(v.dtype == torch.float32 for v in low.blocks().values())
        and all(v.dtype == torch.float64 for v in s.params.blocks().values()),
        "to(device, dtype) does not give that dtype, or changes the weights it is called on",
    )
    require(low.R == s.params.R == 2, "to(device, dtype) loses replicas")
    for array in arrays.values():
        array += 1.0
    require(
        all(bool((v != torch.from_numpy(arrays[b])).any()) for b, v in s.params.blocks().items()),
        "numpy() shares its memory with the weights",
    )
    return ""


def _constants(s: Subject) -> str:
    one, data = s.params[0], s.problem[0]
    point = s.model.point(data, one, s.trained)
    claimed = {rho: s.claims(point, rho) for rho in (1e-3, 0.05, 0.5)}
    if not any(isfinite(side) for pair in claimed.values() for side in pair):
        return "it claims no constants"

    def J_at(u: np.ndarray) -> np.ndarray:
        moved = s.moved(torch.from_numpy(u), 1.0)[0]
        found: np.ndarray = s.model.jacobian(data, moved, s.trained)[0].detach().double().numpy()
        return found

    for rho, (M, G_squared) in claimed.items():
        found = exceeded(J_at, sum(s.sizes), rho, M, G_squared)
        require(not found, found)
    return ""


CHECKS: dict[str, Check[Subject]] = {
    "outputs": _outputs,
    "pure": _pure,
    "match": _match,
    "jacobian": _jacobian,
    "gradient": _gradient,
    "agreement": _agreement,
    "kernel": _kernel,
    "replicas": _replicas,
    "step": _step,
    "noise": _noise,
    "weights": _weights,
    "constants": _constants,
}
"""The checks by name."""
