"""The ledger under other losses than the squared one: a second ledger, and falls known exactly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from reference_ledger import POSTERIOR, UNTESTED, Bound, Step, check, fed, history

FIXED, DECREASE = 0, 2
BOUNDS = [Bound(POSTERIOR), Bound(FIXED, -0.2, 0.1, 0.1), Bound(DECREASE, coefficient=0.05)]


@pytest.mark.parametrize("riccati", [0, 1])
@pytest.mark.parametrize("noise", [0.0, 1e-5, 1e-3])
def test_every_field_is_that_of_the_second_ledger(noise: float, riccati: int) -> None:
    for seed in range(6):
        rng = np.random.default_rng([seed, 2])
        made = [
            replace(s, own=(noise * u, float(rng.uniform(0.1, 2.0)), float(rng.uniform(0.1, 1.5))))
            for s, u in zip(history(seed, noise), rng.uniform(0.5, 2.0, 14), strict=True)
        ]
        check(
            made, BOUNDS, eta=0.05, o_squared=0.5, drift=0.3, radius=0.4, bend=0.25, riccati=riccati
        )


def unattained(steps: int, a: float) -> list[float]:
    """1 / f_t = 1 / f_0 + a t, f_0 = 1/2: what Riccati's inequality allows with equality."""
    return [1.0 / (2.0 + a * t) for t in range(steps)]


def test_riccati_is_the_loss_when_its_recursion_is_exact() -> None:
    """f_{t+1} = f_t - x f_t with x/(1-x) = a f_t: the bound adds x / f_t, a little less than a."""
    f = unattained(200, 0.01)
    steps = [Step(f[t], (f[t] - f[t + 1]) * 10 if t < 199 else 1.0, 1.0) for t in range(200)]
    # c = 1, eta = 0.1: c_t eta |g|^2 is the fall; mu phi such that 2 c eta mu phi f is the fall too
    own = [
        (0.0, 1.0, (f[t] - f[t + 1]) / (0.2 * f[t])) if t < 199 else (0.0, 1.0, 1.0)
        for t in range(200)
    ]
    steps = [replace(s, own=o) for s, o in zip(steps, own, strict=True)]
    led, tests = fed(steps, [Bound(POSTERIOR)], eta=0.1, riccati=1)
    exact = -np.log1p(0.5 * sum(0.01 * (1 - 0.01 * f[t + 1]) for t in range(199)))
    assert led["log_posterior"] == pytest.approx(exact, rel=1e-6)
    assert np.log(f[-1] / f[0]) <= led["log_posterior"] + 1e-12
    assert tests[0]["violations"] == 0
    # twice the constant is not true any more
    doubled = [replace(s, own=(0.0, 1.0, 2 * s.own[2])) for s in steps if s.own]
    assert fed(doubled, [Bound(POSTERIOR)], eta=0.1, riccati=1)[1][0]["violations"] > 0


def test_the_squared_losss_factor_falsely_refutes_a_logistic_run() -> None:
    """N = 1, F = theta: |S|^2 / (2 f) is far below 1, and a ledger that takes 1 refutes AP."""
    theta, eta, told, taken = 1.0, 1.0, [], []
    for _ in range(60):
        f = np.log1p(np.exp(-theta))
        S = -1.0 / (1.0 + np.exp(theta))
        told.append(Step(f, S * S, 1.0, own=(1e-15, abs(S), S * S / (2 * f))))
        taken.append(Step(f, S * S, 1.0, own=(1e-15, abs(S), 1.0)))
        theta -= eta * S
    for riccati in (0, 1):
        assert fed(told, [Bound(POSTERIOR)], eta=eta, riccati=riccati)[1][0]["violations"] == 0
    assert fed(taken, [Bound(POSTERIOR)], eta=eta)[1][0]["violations"] > 0


def test_beyond_its_radius_nothing_is_left_of_the_jacobian() -> None:
    """|g| = 1, eta = 1: at path 2 the constant no longer holds, and sigma_m(J) is asked for."""
    own = (0.0, 2.0, 0.5)
    steps = [Step(4.0 - t, 1.0, 0.0, own=own) for t in range(4)]
    steps[0] = replace(steps[0], sharpened=50.0)
    for length, mu, stale in [(2, 0.5 * 49.9**2, 0), (3, 0.5 * 49.8**2, 0), (4, 0.0, 1)]:
        led, _ = check(steps[:length], [Bound(POSTERIOR)], eta=1.0, drift=0.1, radius=2.5)
        assert led["mu"] == pytest.approx(mu)
        assert led["stale"] == stale


def test_an_enclosure_counts_with_the_share_of_its_step() -> None:
    step = Step(1.0, 1.0, 0.0, sharpened=3.0, own=(0.0, 1.0, 0.25))
    assert check([step], [Bound(UNTESTED)])[0]["mu"] == 9.0 / 4
