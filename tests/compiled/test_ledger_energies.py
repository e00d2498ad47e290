"""The ledger under other algorithms: a second ledger, and a momentum run known by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from reference_ledger import POSTERIOR, Bound, Step, check, fed, history

FIXED, DECREASE = 0, 2
BOUNDS = [Bound(POSTERIOR), Bound(FIXED, -0.2, 0.1, 0.1), Bound(DECREASE, coefficient=0.05)]


@pytest.mark.parametrize("riccati", [0, 1])
@pytest.mark.parametrize("noise", [0.0, 1e-5, 1e-3])
def test_every_field_is_that_of_the_second_ledger(noise: float, riccati: int) -> None:
    for seed in range(6):
        rng = np.random.default_rng([seed, 3])
        made = [
            replace(
                s,
                own=(noise * u, float(rng.uniform(0.1, 2.0)), float(rng.uniform(0.1, 1.5))),
                kinetic=(float(s.loss * rng.uniform(0.0, 1.0)), float(noise * s.loss)),
                moved=float(rng.uniform(0.0, 0.1)),
            )
            for s, u in zip(history(seed, noise), rng.uniform(0.5, 2.0, 14), strict=True)
        ]
        if noise == 0.0:  # an energy without any error is not told from plain descent
            made = [replace(s, kinetic=(s.kinetic[0], 1e-30)) for s in made if s.kinetic]
        options = {"eta": 0.05, "o_squared": 0.5, "drift": 0.3, "radius": 0.4, "bend": 0.25}
        check(made, BOUNDS, **options, riccati=riccati, echo=3.0)


def heavy_ball(eta: float, beta: float, steps: int) -> list[Step]:
    """f = theta^2 / 2 from 1: E = f + beta d^2 / (2 eta), PL constant 1."""
    theta, before, made = 1.0, 1.0, []
    for _ in range(steps):
        d = theta - before
        kinetic = 0.5 * beta / eta * d * d
        made.append(
            Step(0.5 * theta**2, theta**2, 1.0, kinetic=(kinetic, 1e-16 * kinetic), moved=abs(d))
        )
        theta, before = theta - eta * theta + beta * d, theta
    return made


def test_the_product_of_a_momentum_run_is_about_its_energy() -> None:
    """The loss rises on the way and the energy does not: E falls by 2 c eta f / E, exactly."""
    made = heavy_ball(0.2, 0.8, 40)
    f = np.array([s.loss for s in made])
    E = np.array([s.loss + s.kinetic[0] for s in made if s.kinetic])
    assert (np.diff(f) > 0).any()
    assert (np.diff(E) < 0).all()
    led, (test,) = fed(made, [Bound(POSTERIOR)], eta=0.2)
    assert led["rises"] == test["violations"] == 0
    assert led["log_posterior"] == pytest.approx(np.log(E[-1] / E[0]), rel=1e-9)
    # the loss in the energy's place is no descent, and the loss's share of mu must not be 1
    plain, _ = fed([replace(s, kinetic=None) for s in made], [Bound(POSTERIOR)], eta=0.2)
    assert plain["c_least"] < 0
    assert plain["rises"] > 0


def test_the_path_is_what_was_moved_and_not_the_gradient() -> None:
    """Half of the way is momentum: eta |g| alone would keep sigma_m(J) fresh for too long."""
    steps = [Step(4.0 - t, 0.01, 0.0, sharpened=50.0 if t == 0 else None) for t in range(4)]
    slow, _ = check(steps, [Bound(POSTERIOR)], eta=1.0, drift=1.0)
    fast, _ = check([replace(s, moved=5.0) for s in steps], [Bound(POSTERIOR)], eta=1.0, drift=1.0)
    assert slow["path"] == pytest.approx(0.3)
    assert fast["path"] == 15.0
    assert fast["mu"] == 35.0**2
    assert (slow["stale"], fast["stale"]) == (0, 1)


def test_an_echo_widens_every_bar() -> None:
    """A defect that momentum repeats three times is counted three times."""
    steps = [Step(0.5**t, 1.0, noise=1e-4) for t in range(8)]
    bound = [Bound(FIXED, np.log(0.5), log_start=2e-3)]
    once, (sure,) = fed(steps, bound)
    often, (unsure,) = fed(steps, bound, echo=3.0)
    assert often["noise_sum"] == pytest.approx(3 * once["noise_sum"])
    assert sure["undecided"] < unsure["undecided"]
