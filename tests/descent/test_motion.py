"""Algorithms in the loop: the trajectory by hand, the product of the energy, the defect check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from samples import draw
from torch import nn

from gdconv.data.problem import Problem
from gdconv.descent.algorithms import (
    L1,
    Algorithm,
    Ball,
    GradientDescent,
    HeavyBall,
    Nesterov,
    Normalized,
    Preconditioned,
    Projected,
    Proximal,
    Sign,
    State,
)
from gdconv.descent.algorithms.base import moved
from gdconv.descent.loop import Outcome, descend
from gdconv.descent.plan import Bound, Plan
from gdconv.models.generic.family import ModuleFamily
from gdconv.models.losses.squared import Squared
from gdconv.models.multihead.attention_kernels import kernel_named
from gdconv.models.multihead.model import MultiHeadRegression
from gdconv.support.config import Config
from gdconv.support.errors import InputError

POSTERIOR = 1
ETA = 0.05


def net(seed: int = 0, N: int = 3, D: int = 5, m: int = 8) -> tuple[Any, Problem, Any]:
    """A two-layer tanh network as the loop takes it."""
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(D, m), nn.Tanh(), nn.Linear(m, 1)).double()
    family = ModuleFamily(module, "net", Squared())
    rng = np.random.default_rng(seed)
    problem = family.problem(
        rng.standard_normal((1, N, D)), rng.standard_normal((1, N, 1)), "d", []
    )
    params = family.draw(Config("generic-gd"), {}, seed)
    family.require_match(problem, params)
    return family.model(Config("generic-gd"), {}), problem, params


def run(
    algorithm: Algorithm, steps: int = 25, eta: float = ETA, setting: Any = None, **options: Any
) -> Outcome:
    """One run of one replica with the a-posteriori product."""
    model, problem, params = setting or net()
    plan = Plan(
        np.full(params.R, eta),
        np.full(params.R, steps),
        [{"s": Bound(POSTERIOR)} for _ in range(params.R)],
        np.ones(params.R),
        np.ones(params.R),
        trained=params.moving,
        algorithm=algorithm,
        **options,
    )
    return descend(model, problem, params, plan)[0]


def by_hand(step: Any, steps: int = 25) -> np.ndarray:
    """Losses of a loop in plain autograd; `step` has (theta, gradient function) -> theta."""
    model, problem, params = net()
    module, X, y = model.module, problem.X[0], problem.y[0]
    theta = torch.cat([p[0].flatten() for p in params.blocks().values()])
    shapes = [p[0].shape for p in params.blocks().values()]

    def loss(t: torch.Tensor) -> torch.Tensor:
        parts = t.split([s.numel() for s in shapes])
        named = {n: p.reshape(s) for n, p, s in zip(params.blocks(), parts, shapes, strict=True)}
        return 0.5 * (torch.func.functional_call(module, named, (X,)) - y).square().sum()

    def gradient(t: torch.Tensor) -> torch.Tensor:
        leaf = t.detach().requires_grad_()
        return torch.autograd.grad(loss(leaf), leaf)[0]

    found = [float(loss(theta))]
    for _ in range(steps):
        theta = step(theta, gradient)
        found.append(float(loss(theta)))
    return np.array(found)


class Momentum:
    """Heavy ball by hand."""

    def __init__(self, beta: float) -> None:
        self.beta, self.before = beta, None

    def __call__(self, theta: torch.Tensor, gradient: Any) -> torch.Tensor:
        d = 0.0 if self.before is None else theta - self.before
        self.before = theta
        return theta - ETA * gradient(theta) + self.beta * d


class Accelerated:
    """Nesterov by hand: y_k = x_k + (t_k - 1)/t_(k+1) (x_k - x_(k-1)), gradient at y."""

    def __init__(self) -> None:
        self.t, self.before = 0.0, None

    def __call__(self, theta: torch.Tensor, gradient: Any) -> torch.Tensor:
        after = 0.5 * (1 + (1 + 4 * self.t**2) ** 0.5)
        m = (self.t - 1) / after
        y = theta if self.before is None else theta + m * (theta - self.before)
        self.t, self.before = after, theta
        return y - ETA * gradient(y)


RULES: list[tuple[Algorithm, Any]] = [
    (GradientDescent(), lambda: lambda t, g: t - ETA * g(t)),
    (HeavyBall(0.6), lambda: Momentum(0.6)),
    (Nesterov(), Accelerated),
    (Normalized(), lambda: lambda t, g: t - ETA * g(t) / g(t).norm()),
    (Sign(), lambda: lambda t, g: t - ETA * g(t).sign()),
    (
        Proximal(L1(0.01)),
        lambda: lambda t, g: nn.functional.softshrink(t - ETA * g(t), ETA * 0.01),
    ),
]


@pytest.mark.parametrize(("algorithm", "rule"), RULES, ids=[a.name for a, _ in RULES])
def test_the_losses_are_those_of_a_loop_by_hand(algorithm: Algorithm, rule: Any) -> None:
    outcome = run(algorithm)
    losses = [row["loss"] for row in outcome.rows]
    steps = [int(row["step"]) for row in outcome.rows]
    np.testing.assert_allclose(losses, by_hand(rule())[steps], rtol=1e-9)
    assert outcome.defect_ratio <= 1
    assert outcome.algorithm == algorithm.name


def test_a_projected_run_stays_in_its_ball() -> None:
    model, problem, params = net()
    inside = params.with_blocks({b: 0.2 * w for b, w in params.blocks().items()})
    free = run(GradientDescent(), 60, setting=(model, problem, inside))
    kept = run(Projected(Ball(0.6)), 60, setting=(model, problem, inside))

    def length(outcome: Outcome) -> float:
        end = outcome.end.params.blocks().values()
        return float(torch.cat([w.flatten() for w in end]).norm())

    assert length(free) > 0.7
    assert length(kept) == pytest.approx(0.6, rel=1e-9)
    assert kept.defect_ratio <= 1
    with pytest.raises(InputError, match="a start outside its set"):
        run(Projected(Ball(0.01)), setting=(model, problem, inside))


def test_a_wrong_gradient_is_seen_under_every_algorithm() -> None:
    """The probe's own gradient goes through the same step: a factor of 1 + 1e-6 shows."""
    model, problem, params = net()

    class Off(type(model)):  # type: ignore[misc]
        def gradient(self, *args: Any) -> Any:
            at, slopes = super().gradient(*args)
            more = {b: (1 + 1e-6) * g for b, g in slopes.blocks().items()}
            return at, slopes.with_blocks(more)

    off = Off(**vars(model))
    for algorithm, _ in RULES[:3] + RULES[5:]:
        assert run(algorithm, 5, setting=(off, problem, params)).defect_ratio > 1


def test_the_product_of_heavy_ball_is_that_of_its_energy() -> None:
    outcome = run(HeavyBall(0.6), 60)
    led, test = outcome.ledger, outcome.tests["s"]
    losses, energies = (np.array([row[k] for row in outcome.rows]) for k in ("loss", "energy"))
    assert (np.diff(losses) > 0).any()
    assert (np.diff(energies) < 0).all()
    assert led["rises"] == 0
    assert outcome.c_least > 0
    assert test["first_violation"] == test["first_undecided"] == -1
    assert outcome.log_posterior < 0
    first = outcome.rows[1]
    moved = 0.6 / (2 * ETA) * first["distance"] ** 2
    assert first["energy"] == pytest.approx(first["loss"] + moved, rel=1e-9)
    assert moved > 0.1 * first["loss"]
    for row in outcome.rows:  # E = f + beta |d|^2 / (2 eta), and E_0 = f_0
        assert np.log(row["energy"] / losses[0]) <= np.log(row["bound[s]"]) + 1e-12
    # a ledger that takes the loss for the energy finds no descent
    plain = run(_as_loss(HeavyBall(0.6)), 60)
    assert plain.c_least < 0


def _as_loss(algorithm: HeavyBall) -> Algorithm:
    class Loss(type(algorithm)):  # type: ignore[misc]
        def energy(self, gap: Any, params: Any, state: State, eta: Any) -> Any:
            return gap

    return Loss(algorithm.beta)


def test_what_a_step_moves_is_what_sigma_is_followed_by() -> None:
    """The path since an enclosure is the stored one, not eta |g|: here ten times as long."""
    setting = net()
    outcome = run(HeavyBall(0.9), 40, setting=setting)
    led = outcome.ledger
    assert led["moved"] > 3 * ETA * float(led["grad_sq"]) ** 0.5
    # sigma_m(J) at the end is enclosed afresh: what was kept of the last one is not above it
    assert led["jacobian_lo"] - led["jacobian_drift"] * led["path"] <= outcome.end.J_range[0].hi


@dataclass(frozen=True)
class Loses(Algorithm):
    name: ClassVar[str] = "loses-a-block"

    def step(self, params: Any, grad: Any, eta: Any, state: Any) -> Any:
        new = moved(params, grad, eta)
        new.pop(next(iter(new)))
        return new, state


def test_an_algorithm_that_loses_a_block_is_named() -> None:
    with pytest.raises(InputError, match=r"loses-a-block = .* return every block as it came"):
        run(Loses())


def test_the_multi_head_model_takes_any_algorithm_and_replicas_end_alone() -> None:
    problem, params = draw((2, 2, 6, 3, 2, 1), 0, 0.5, runs=2)
    model = MultiHeadRegression(kernel_named("softmax"))
    plan = Plan(
        np.array([0.01, 0.02]), np.array([6, 12]),
        [{"s": Bound(POSTERIOR)}, {"s": Bound(POSTERIOR)}], np.ones(2), np.zeros(2),
        algorithm=HeavyBall(0.5),
    )  # fmt: skip
    both = descend(model, problem, params, plan)
    for r in range(2):
        alone = Plan(
            plan.eta[r : r + 1], plan.limits[r : r + 1], [plan.bounds[r]], np.ones(1),
            np.zeros(1), algorithm=HeavyBall(0.5),
        )  # fmt: skip
        (one,) = descend(model, problem[r], params[r], alone)
        assert both[r].steps == one.steps == plan.limits[r]
        assert float(both[r].ledger["loss"]) == pytest.approx(float(one.ledger["loss"]), rel=1e-12)
        assert one.defect_ratio <= 1


def test_the_compiled_loop_is_refused_to_other_algorithms() -> None:
    problem, params = draw((2, 2, 6, 3, 2, 1), 0, 0.5)
    model = MultiHeadRegression(kernel_named("softmax"))
    with pytest.raises(InputError, match=r"engine = fused: use --engine torch .* algorithms"):
        run(HeavyBall(0.5), setting=(model, problem, params), engine="fused")
    fused = run(GradientDescent(), 3, 1e-3, (model, problem, params), engine="fused")
    assert fused.steps == 3


@pytest.mark.parametrize("seed", range(5))
def test_a_spread_covers_what_an_error_of_the_gradient_moves(seed: int) -> None:
    """Steps with g and with g + e, |e| = error, at random and where g nearly vanishes."""
    rng = np.random.default_rng(seed)
    draws = [torch.from_numpy(rng.standard_normal((2, 4))) for _ in range(3)]
    params, grad, e = ({"w": v} for v in draws)
    tiny = {"w": 1e-9 * grad["w"]}
    P = {"w": torch.from_numpy(rng.uniform(0.1, 7.0, 4))}
    eta = torch.tensor([0.3, 2.0], dtype=torch.float64)
    for rule in [*(rule for rule, _ in RULES), Projected(Ball(50.0)), Preconditioned(P)]:
        state = rule.state(params)
        for g in (grad, tiny):
            for size in (1e-12, 1e-9, 1e-1):
                error = {"w": size * e["w"] / e["w"].norm(dim=1, keepdim=True)}
                one = rule.step(params, g, eta, state)[0]["w"]
                two = rule.step(params, {"w": g["w"] + error["w"]}, eta, state)[0]["w"]
                allowed = rule.spread(g, torch.full((2,), size, dtype=torch.float64), eta)
                assert ((one - two).norm(dim=1) <= allowed * (1 + 1e-9) + 1e-14).all(), rule


@pytest.mark.parametrize(
    "rule", [HeavyBall(0.7), Nesterov(), Nesterov(0.6), Nesterov(rational=True)]
)
def test_an_echo_is_what_momentum_makes_of_a_defect(rule: Algorithm) -> None:
    """f = 0: a shift of theta_t by one is carried on by momentum, and stays below the echo."""
    zero = {"w": torch.zeros(1, 1, dtype=torch.float64)}
    eta = torch.ones(1, dtype=torch.float64)
    for t in (0, 1, 3, 10):
        params, state = zero, rule.state(zero)
        for s in range(200):
            params, state = rule.step(params, zero, eta, state)
            if s == t:
                params = {"w": params["w"] + 1.0}
        reached = float(params["w"])
        assert 1.0 - 1e-9 <= reached <= rule.echo(t) + 1e-9
        if t == 10 and not isinstance(rule, Nesterov):
            assert reached >= 0.99 * rule.echo(t)
