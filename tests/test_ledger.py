"""The per-step comparison on made-up losses, where every outcome is known."""

from __future__ import annotations

import numpy as np
import pytest

from gdconv.ledger import FIXED, POSTERIOR, UNTESTED, new_ledger, new_tests, observe


def run(
    losses: list[float],
    log_rate: float,
    noise: float = 1e-15,
    mu: float = 1.0,
    eta: float = 0.1,
    start: float = 0.0,
):
    """Feed losses to the ledger; gradients are those of f = mu |theta|^2 / 2."""
    led, tests = (
        new_ledger(eta, mu),
        new_tests([FIXED, POSTERIOR, UNTESTED], [log_rate, 0, 0], [start, 0, 0]),
    )
    led["noise_scale"] = noise
    for loss in losses:
        observe(led[0], tests, loss, 2 * mu * loss, 1.0, 1.0)
    return led[0], tests


def geometric(factor: float, steps: int = 100) -> list[float]:
    """1, factor, factor^2, ..."""
    return [factor**t for t in range(steps)]


def test_a_kept_bound_has_no_violation() -> None:
    led, tests = run(geometric(0.8), np.log(0.9))
    assert tests[0]["violations"] == tests[0]["undecided"] == 0
    assert tests[0]["informative_step"] == 2  # 0.9^1 is not below 0.9
    assert np.isclose(tests[0]["worst_margin"], np.log(0.9 / 0.8))
    assert led["rises"] == 0


def test_a_broken_bound_is_seen_at_its_first_step() -> None:
    losses = geometric(0.8, 10) + [0.8**9 * 0.99**t for t in range(1, 50)]
    _, tests = run(losses, np.log(0.9))
    first = next(t for t, f in enumerate(losses) if f > 0.9**t)
    assert tests[0]["first_violation"] == first
    assert tests[0]["violations"] == len(losses) - first


def test_one_step_shift_is_a_violation_at_step_zero() -> None:
    _, tests = run(geometric(0.8), np.log(0.9), start=np.log(0.9))
    assert tests[0]["first_violation"] == 0
    assert tests[0]["violations"] == 1


def test_equality_is_undecided() -> None:
    _, tests = run(geometric(0.9), np.log(0.9))
    assert tests[0]["undecided"] > 0
    assert tests[0]["violations"] == 0


def test_noise_near_the_rate_ends_the_comparison() -> None:
    _, quiet = run(geometric(0.99), np.log(0.999), noise=1e-12)
    _, loud = run(geometric(0.99), np.log(0.999), noise=1e-3)
    assert quiet[0]["floor_step"] == -1
    assert loud[0]["floor_step"] == 0
    assert loud[0]["informative_step"] == -1


def test_rounding_floor_is_found_where_the_loss_stops() -> None:
    losses = geometric(0.5, 60) + [0.5**59] * 20
    led, tests = run(losses, np.log(0.9), noise=1e-11)
    assert tests[1]["floor_step"] > 0
    assert led["posterior_closed"] == tests[1]["floor_step"]
    assert led["rises"] == 0


@pytest.mark.parametrize("mu", [0.5, 1.0])
def test_posterior_product_is_the_loss_when_the_constant_is_exact(mu: float) -> None:
    led, tests = run(geometric(0.8, 40), np.log(0.9), mu=mu, noise=1e-17)
    # |g|^2 = 2 mu f and c_t = (f_t - f_{t+1}) / (eta |g|^2): the product telescopes to f_T / f_0
    assert np.isclose(led["log_posterior"], 39 * np.log(0.8), rtol=1e-10)
    assert tests[1]["violations"] == 0


def test_too_large_a_constant_violates_the_posterior_bound() -> None:
    led, tests = new_ledger(0.1, 1.0), new_tests([POSTERIOR], [0.0])
    led["noise_scale"] = 1e-16
    for loss in geometric(0.8, 40):
        observe(led[0], tests, loss, 2 * loss * 0.7, 1.0, 1.0)  # the true constant is 0.7
    assert tests[0]["first_violation"] == 1


def test_a_rise_is_counted_and_breaks_descent() -> None:
    led, _ = run([1.0, 0.9, 0.95, 0.8], np.log(0.99))
    assert led["rises"] == 1
    assert led["first_rise"] == 2
    assert led["c_least"] < 0
    assert led["c_least_step"] == 1


def test_a_loss_of_zero_is_below_every_bound() -> None:
    _, tests = run([1.0, 0.5, 0.0], np.log(0.9))
    assert tests[0]["violations"] == 0


def test_memory_does_not_grow_with_steps() -> None:
    led, tests = run(geometric(0.999, 3000), np.log(0.9995))
    assert led.nbytes < 400
    assert tests.nbytes < 1000
