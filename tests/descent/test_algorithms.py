"""Algorithms against loops written anew, the energies that must fall, and exact witnesses."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gdconv.descent.algorithms import (
    L1,
    Algorithm,
    Ball,
    Box,
    GradientDescent,
    HeavyBall,
    Nesterov,
    Normalized,
    Preconditioned,
    Projected,
    Proximal,
    Sign,
    State,
    largest_beta,
)

STEPS = 30
Blocks = dict[str, Tensor]


class Quadratics:
    """R quadratics (x - c)^T A (x - c)/2 in two blocks, a: (R, 2) and b: (R, 3, 1)."""

    def __init__(self, R: int = 3, seed: int = 0, condition: float = 30.0) -> None:
        rng = np.random.default_rng(seed)
        self.spectra = np.exp(rng.uniform(-math.log(condition), 0.0, (R, 5)))
        self.spectra[:, 0] = 1.0
        turns = np.stack([np.linalg.qr(rng.standard_normal((5, 5)))[0] for _ in range(R)])
        self.A = np.einsum("rij,rj,rkj->rik", turns, self.spectra, turns)
        self.c = rng.standard_normal((R, 5))
        self.x = rng.standard_normal((R, 5))

    def start(self) -> Blocks:
        return split(torch.from_numpy(self.x))

    def gradient(self, params: Any) -> Blocks:
        x = joined(params)
        return split(
            torch.einsum("rij,rj->ri", torch.from_numpy(self.A), x - torch.from_numpy(self.c))
        )

    def gap(self, params: Any) -> Tensor:
        e = joined(params) - torch.from_numpy(self.c)
        return 0.5 * torch.einsum("ri,rij,rj->r", e, torch.from_numpy(self.A), e)


def split(x: Tensor) -> Blocks:
    return {"a": x[:, :2].clone(), "b": x[:, 2:].clone().unsqueeze(2)}


def joined(params: Any) -> Tensor:
    return torch.cat([params["a"], params["b"].squeeze(2)], 1)


def run(
    rule: Algorithm, at: Quadratics, eta: Tensor, steps: int = STEPS
) -> tuple[list[Tensor], list[Tensor]]:
    params: Any = at.start()
    state = rule.state(params)
    path, energies = [joined(params)], [rule.energy(at.gap(params), params, state, eta)]
    for _ in range(steps):
        params, state = rule.step(params, at.gradient(rule.point(params, state)), eta, state)
        path.append(joined(params))
        energies.append(rule.energy(at.gap(params), params, state, eta))
    return path, energies


P = np.array([0.5, 1.0, 0.25, 0.7, 0.9])

RULES: dict[str, Algorithm] = {
    "gd": GradientDescent(),
    "heavy-ball": HeavyBall(0.8),
    "nesterov": Nesterov(),
    "nesterov rational": Nesterov(rational=True),
    "nesterov constant": Nesterov(0.6),
    "ball": Projected(Ball(4.0)),
    "box": Projected(Box(-3.0, 3.0)),
    "l1": Proximal(L1(0.3)),
    "normalized": Normalized(),
    "sign": Sign(),
    "preconditioned": Preconditioned(split(torch.from_numpy(P)[None])),
}


def loop(name: str, A: Any, c: Any, x: Any, eta: float) -> list[Any]:
    """One replica, plain numpy, written from the formulas of the books."""

    def g(z: Any) -> Any:
        return A @ (z - c)

    xs, before = [x], x
    t = 1.0
    y = x
    for k in range(1, STEPS + 1):
        if name == "heavy-ball":
            new = x - eta * g(x) + 0.8 * (x - before)
        elif name.startswith("nesterov"):
            new = y - eta * g(y)
            t_next = {
                "nesterov": (1 + math.sqrt(1 + 4 * t * t)) / 2,
                "nesterov rational": (k + 2) / 2,
            }.get(name, t)
            m = 0.6 if name == "nesterov constant" else (t - 1) / t_next
            y, t = new + m * (new - x), t_next
        else:
            free = x - eta * g(x)
            new = {
                "gd": free,
                "ball": free * min(1.0, 4.0 / np.linalg.norm(free)),
                "box": np.clip(free, -3.0, 3.0),
                "l1": np.where(np.abs(free) > 0.3 * eta, free - 0.3 * eta * np.sign(free), 0.0),
                "normalized": x - eta * g(x) / np.linalg.norm(g(x)),
                "sign": x - eta * np.sign(g(x)),
                "preconditioned": x - eta * P * g(x),
            }[name]
        before, x = x, new
        xs.append(x)
    return xs


@pytest.mark.parametrize("name", sorted(RULES))
def test_steps_against_a_loop_written_anew(name: str) -> None:
    at = Quadratics()
    at.x *= 0.5
    eta = torch.tensor([0.1, 0.4, 0.7], dtype=torch.float64)
    path, _ = run(RULES[name], at, eta)
    for r in range(3):
        other = loop(name, at.A[r], at.c[r], at.x[r], float(eta[r]))
        for mine, theirs in zip(path, other, strict=True):
            loose = 1e-5 if name == "normalized" else 1e-10  # its steps do not contract
            assert np.allclose(mine[r].numpy(), theirs, rtol=loose, atol=0.01 * loose)


@pytest.mark.parametrize("name", sorted(RULES))
def test_a_batch_is_its_replicas_one_by_one(name: str) -> None:
    at = Quadratics(seed=1)
    at.x *= 0.5
    eta = torch.tensor([0.1, 0.4, 0.7], dtype=torch.float64)
    path, energies = run(RULES[name], at, eta)
    for r in range(3):
        one = Quadratics(seed=1)
        one.A, one.c, one.x = at.A[r : r + 1], at.c[r : r + 1], at.x[r : r + 1]
        alone, low = run(RULES[name], one, eta[r : r + 1])
        torch.testing.assert_close(path[-1][r], alone[-1][0], rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(energies[-1][r], low[-1][0], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", [n for n in sorted(RULES) if RULES[n].monotone])
def test_energies_fall_up_to_the_longest_step(name: str) -> None:
    """200 quadratics with L = 1 at shares of the longest step up to 0.999 of it."""
    rule = RULES[name]
    at = Quadratics(R=200, seed=2)
    at.x *= 0.5
    longest = rule.longest_step(1.0)
    assert longest is not None
    eta = longest * torch.linspace(0.05, 0.999, 200, dtype=torch.float64)
    _, energies = run(rule, at, eta, 60)
    rise = torch.stack([b - a for a, b in zip(energies, energies[1:], strict=False)])
    assert float((rise / energies[0]).max()) < 1e-13


@pytest.mark.parametrize("name", ["gd", "heavy-ball", "preconditioned"])
def test_beyond_twice_the_longest_step_the_energy_rises(name: str) -> None:
    """The negative control of the test before, on the stiffest direction alone."""
    rule: Any = {
        "preconditioned": Preconditioned({"w": torch.tensor([1.0], dtype=torch.float64)})
    }.get(name, RULES[name])
    if name == "heavy-ball":  # stable up to 2 (1 + beta)/L, the energy is not
        rule = HeavyBall(0.1)
    limit = rule.longest_step(1.0)
    eta = torch.tensor([1.3 * limit], dtype=torch.float64)
    params: Any = {"w": torch.tensor([[1.0]], dtype=torch.float64)}
    state = rule.state(params)
    energies = []
    for _ in range(6):
        energies.append(rule.energy(0.5 * params["w"][:, 0] ** 2, params, state, eta).item())
        params, state = rule.step(params, params, eta, state)
    assert max(b - a for a, b in zip(energies, energies[1:], strict=False)) > 0


def test_the_energy_of_heavy_ball_is_tight() -> None:
    """|d|^2 counted half as much, or twice, rises on some start; the formula does not."""
    g = torch.Generator().manual_seed(3)
    worst = {0.5: -1.0, 1.0: -1.0, 2.0: -1.0}
    for beta in (0.3, 0.6, 0.9):
        rule, eta = HeavyBall(beta), torch.full((4000,), 1.99 * (1 - beta), dtype=torch.float64)
        x, d = (torch.randn(4000, 1, generator=g, dtype=torch.float64) for _ in range(2))
        params, state = {"w": x}, State(previous={"w": x - d})
        new, after = rule.step(params, params, eta, state)
        for share in worst:
            for_gap = [0.5 * p["w"][:, 0] ** 2 for p in (params, new)]
            kinetic = [
                rule.energy(0 * for_gap[0], p, s, eta) for p, s in ((params, state), (new, after))
            ]
            before, then = (f + share * k for f, k in zip(for_gap, kinetic, strict=True))
            worst[share] = max(worst[share], float(((then - before) / before).max()))
    assert worst[1.0] < 1e-13
    assert worst[0.5] > 1e-3
    assert worst[2.0] > 1e-3


def test_the_rate_energy_of_heavy_ball_contracts_and_comes_close() -> None:
    """V' <= (1 - eta mu) V with the largest beta over free starts; with 1.05 beta it fails."""
    g = torch.Generator().manual_seed(4)
    best = {1.0: -1.0, 1.05: -1.0}
    for mu, eta in ((0.1, 0.5), (0.1, 0.9), (0.5, 0.3)):
        for share in best:
            rule = HeavyBall(share * largest_beta(eta, mu, 1.0))
            step = torch.full((20000,), eta, dtype=torch.float64)
            for curvature in (mu, 1.0, 0.5 * (1 + mu)):
                x = torch.randn(20000, 1, generator=g, dtype=torch.float64)
                d = torch.randn(20000, 1, generator=g, dtype=torch.float64) * (
                    10 * torch.rand(20000, 1, generator=g).double() ** 3
                )
                params, state = {"w": x}, State(previous={"w": x - d})
                new, after = rule.step(params, {"w": curvature * x}, step, state)
                V = rule.rate_energy(0.5 * curvature * x[:, 0] ** 2, params, state, step, 1.0)
                W = rule.rate_energy(0.5 * curvature * new["w"][:, 0] ** 2, new, after, step, 1.0)
                best[share] = max(best[share], float((W / V).max()) / (1 - eta * mu))
    assert best[1.0] <= 1 + 1e-12
    assert best[1.0] > 0.97
    assert best[1.05] > 1.001


def test_the_printed_control_of_heavy_ball() -> None:
    """f = x^2/2, eta = 1, beta = 9/10 from rest: x_5 = 8019/10000, above 0.9^(5/2)."""
    params: Any = {"w": torch.ones(1, 1, dtype=torch.float64)}
    rule = HeavyBall(0.9)
    state = rule.state(params)
    for _ in range(5):
        params, state = rule.step(params, params, torch.ones(1, dtype=torch.float64), state)
    assert params["w"].item() == pytest.approx(8019 / 10000, abs=1e-12)
    assert params["w"].item() ** 2 > 0.9**5


def piecewise(x: float | Fraction) -> Any:
    return 25 * x if x < 1 else (x + 24 if x < 2 else 25 * x - 24)


def test_the_exact_cycle_of_heavy_ball() -> None:
    """The optimal quadratic parameters go round in three points for ever (kappa = 25)."""
    p, q, r = (Fraction(n, 1225) for n in (792, -2208, 2592))
    rule, eta = HeavyBall(4 / 9), torch.tensor([1 / 9], dtype=torch.float64)
    state = State(previous={"w": torch.tensor([[float(r)]], dtype=torch.float64)})
    params: Any = {"w": torch.tensor([[float(p)]], dtype=torch.float64)}
    cycle = [p, q, r]
    before, x = r, p
    for k in range(300):
        assert abs(params["w"].item() - float(cycle[k % 3])) < 1e-13
        grad = {"w": torch.tensor([[piecewise(params["w"].item())]], dtype=torch.float64)}
        params, state = rule.step(params, grad, eta, state)
        before, x = x, x - piecewise(x) / 9 + Fraction(4, 9) * (x - before)
        assert x == cycle[(k + 1) % 3]
    params = {"w": torch.tensor([[3.3]], dtype=torch.float64)}  # it attracts the start at rest
    state = rule.state(params)
    for _ in range(120):
        grad = {"w": torch.tensor([[piecewise(params["w"].item())]], dtype=torch.float64)}
        params, state = rule.step(params, grad, eta, state)
    assert min(abs(params["w"].item() - float(c)) for c in cycle) < 1e-11


def test_nesterov_keeps_its_printed_bound_where_the_loss_rises() -> None:
    """f(x_k) <= R^2/(2 eta t_k^2); f rises first at k = 28 for f = x^2/2, eta = 1/50."""
    for rational in (True, False):
        rule, eta = Nesterov(rational=rational), torch.tensor([0.02], dtype=torch.float64)
        params: Any = {"w": torch.ones(1, 1, dtype=torch.float64)}
        state, values = rule.state(params), [0.5]
        for k in range(1, 60):
            params, state = rule.step(params, rule.point(params, state), eta, state)
            values.append(0.5 * params["w"].item() ** 2)
            assert state.t == pytest.approx((k + 1) / 2) or not rational
            assert values[-1] <= 1 / (2 * 0.02 * state.t**2)
        if rational:
            rises = [k for k in range(1, 60) if values[k] > values[k - 1]]
            assert rises[0] == 28
    assert not Nesterov().monotone


def test_projected_iterates_stay_in_their_sets() -> None:
    at = Quadratics(seed=5)
    at.c *= 20
    at.x *= 0.1
    eta = torch.full((3,), 0.5, dtype=torch.float64)
    for x in run(RULES["ball"], at, eta)[0]:
        assert float(x.norm(dim=1).max()) <= 4.0 * (1 + 1e-14)
    path = run(RULES["box"], at, eta)[0]
    assert max(float(x.abs().max()) for x in path) == 3.0


def test_soft_thresholding_meets_its_optimality_condition() -> None:
    """0 lies in (x - z)/eta + weight d|x|: the kink takes all |z| <= eta weight."""
    g = torch.Generator().manual_seed(6)
    z = torch.randn(4, 50, generator=g, dtype=torch.float64)
    eta = torch.tensor([0.1, 0.5, 1.0, 3.0], dtype=torch.float64)
    x = L1(0.7).prox({"w": z}, eta)["w"]
    slope = (z - x) / eta[:, None]
    moving = x != 0
    assert bool(moving.any())
    assert bool((~moving).any())
    torch.testing.assert_close(slope[moving], 0.7 * x[moving].sign(), rtol=1e-12, atol=1e-12)
    assert float(slope[~moving].abs().max()) <= 0.7
    torch.testing.assert_close(L1(0.7).value({"w": z}), 0.7 * z.abs().sum(1))


def test_a_prox_of_one_s_own_follows_the_gap_only() -> None:
    rule = Proximal(lambda params, eta: {n: b / (1 + eta[:, None]) for n, b in params.items()})
    w = {"w": torch.ones(2, 3, dtype=torch.float64)}
    eta = torch.tensor([1.0, 3.0], dtype=torch.float64)
    new, _ = rule.step(w, {"w": torch.zeros(2, 3, dtype=torch.float64)}, eta, rule.state(w))
    assert new["w"][:, 0].tolist() == [0.5, 0.25]
    assert not rule.monotone
    assert rule.longest_step(1.0) is None
    assert rule.energy(torch.ones(2), w, State(), eta).tolist() == [1.0, 1.0]


def test_normalized_steps_have_their_length_at_any_scale() -> None:
    zero = {
        "a": torch.zeros(4, 2, dtype=torch.float64),
        "b": torch.zeros(4, 1, 2, dtype=torch.float64),
    }
    sizes = torch.tensor([1e300, 1.0, 1e-300, 0.0], dtype=torch.float64)
    grad = {"a": sizes[:, None] * torch.ones(4, 2), "b": sizes[:, None, None] * torch.ones(4, 1, 2)}
    new, _ = Normalized().step(zero, grad, torch.full((4,), 2.0, dtype=torch.float64), State())
    length = (new["a"].square().sum(1) + new["b"].flatten(1).square().sum(1)).sqrt()
    torch.testing.assert_close(length, torch.tensor([2.0, 2.0, 2.0, 0.0], dtype=torch.float64))
    assert not Normalized().monotone
    assert Sign().longest_step(1.0) is None


def test_a_preconditioner_may_be_a_function() -> None:
    rule = Preconditioned(lambda grad: {n: 0.5 * g for n, g in grad.items()})
    w = {"w": torch.ones(1, 2, dtype=torch.float64)}
    assert rule.step(w, w, torch.ones(1, dtype=torch.float64), State())[0]["w"].tolist() == [
        [0.5, 0.5]
    ]
    assert not rule.monotone
    assert rule.longest_step(1.0) is None
