"""Every field against a second ledger, and made-up losses whose outcome is known.

With NUMBA_DISABLE_JIT=1 the same tests run on the plain Python functions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from reference_ledger import Bound, Step, check, fed, fields, history, records

from gdconv.compiled.ledger import (
    DECREASE,
    FIXED,
    INFORMATIVE,
    NOISE_SHARE,
    POSTERIOR,
    STALE_SHARE,
    UNTESTED,
    new_ledger,
    new_tests,
    observe,
)


@pytest.fixture(autouse=True)
def as_compiled() -> Iterator[None]:
    """Compiled code is silent; Python may be so about inf - inf, but divides by nothing."""
    with np.errstate(invalid="ignore", divide="raise"):
        yield


BOUNDS = [
    Bound(UNTESTED, -0.3),
    Bound(FIXED, -1e-3),
    Bound(FIXED, -0.2, 0.1, 0.1),
    Bound(DECREASE, 0.0, coefficient=0.05),
    Bound(POSTERIOR),
    Bound(UNTESTED),
    Bound(FIXED, -0.4, -0.5),
    Bound(FIXED, -0.05, 0.3),
    Bound(DECREASE, 0.0, coefficient=0.4),
    Bound(POSTERIOR),
    Bound(FIXED, -0.3, 0.0, 0.4),
    Bound(DECREASE),
]
"""Every kind more than once, so that none may end the loop over the others."""


def test_the_constants_are_those_of_the_documents() -> None:
    assert (FIXED, POSTERIOR, DECREASE, UNTESTED) == (0, 1, 2, -1)
    assert (STALE_SHARE, NOISE_SHARE) == (0.02, 0.1)
    assert np.exp(INFORMATIVE) == pytest.approx(0.9, rel=1e-15)


def test_records_start_empty() -> None:
    assert new_ledger(0.25, 3.0).shape == (1,)
    assert new_tests([FIXED] * 3, [-2.0] * 3).shape == (3,)
    led = fields(new_ledger(0.25, 3.0)[0])
    least = {"sigma_least", "c_least", "radius"}
    unset = {"step", "sigma_least_step", "posterior_closed", "c_least_step", "first_rise"}
    unset |= {"moved"}
    for name, value in led.items():
        given = {"eta": 0.25, "o_squared": 3.0, "bend": 1.0, "features": 1, "echo": 1}.get(name, 0)
        assert value == (np.inf if name in least else -1 if name in unset else given), name
    unset = {"worst_step", "first_violation", "first_undecided", "informative_step", "floor_step"}
    for test in (new_tests([FIXED], [-2.0]), new_tests([FIXED], [-2.0], [3.0], [4.0], [5.0])):
        full = float(test["coefficient"][0]) != 0
        given = {"log_rate": -2.0, "worst_margin": np.inf}
        given |= {"log_start": 3.0, "log_slack": 4.0, "coefficient": 5.0} if full else {}
        for name, value in fields(test[0]).items():
            assert value == (-1 if name in unset else given.get(name, 0)), name


@pytest.mark.parametrize("noise", [0.0, 1e-5, 1e-3, 2e-2])
def test_every_field_is_that_of_the_second_ledger(noise: float) -> None:
    for seed in range(6):
        rng = np.random.default_rng([seed, 1])
        eta, o_squared, drift = rng.uniform(0.02, 0.3), rng.uniform(0, 1), rng.uniform(0, 0.5)
        for length in (1, 2, 14):
            check(history(seed, noise, length), BOUNDS, eta=eta, o_squared=o_squared, drift=drift)


def run(
    losses: list[float],
    log_rate: float,
    noise: float = 1e-15,
    mu: float = 1.0,
    eta: float = 0.1,
    start: float = 0.0,
):
    """Feed losses to the ledger; gradients are those of f = mu |theta|^2 / 2."""
    led = records(new_ledger(eta, mu))
    tests = records(new_tests([FIXED, POSTERIOR, UNTESTED], [log_rate, 0, 0], [start, 0, 0]))
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


def test_what_happens_at_step_zero_stays_there() -> None:
    """A violation and an informative bound at step 0 are not moved by those of step 1."""
    _, (test,) = check([Step(1.0, 1.0)] * 4, [Bound(FIXED, -0.3, -0.2)])
    assert test["first_violation"] == test["informative_step"] == 0
    assert (test["violations"], test["worst_step"]) == (4, 3)


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
    led, tests = records(new_ledger(0.1, 1.0)), records(new_tests([POSTERIOR], [0.0]))
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
    led, tests = run(geometric(0.999, 300), np.log(0.9995))
    assert led.nbytes < 400
    assert tests.nbytes < 1000


def test_equality_at_the_error_bar_holds() -> None:
    """Numbers that floating point adds without rounding: r = 2, so 2 nu = noise, E_1 = 4 noise."""
    steps = [Step(2.0, 1.0, noise=0.03125)] * 2
    for start, slack, wanted in [
        (0.625, 0.0, (0, 0)),  # margin = E exactly: holds
        (0.625 - 2**-40, 0.0, (0, 1)),
        (0.375, 0.0, (0, 1)),  # margin = -E exactly: undecided
        (0.375 - 2**-40, 0.0, (1, 0)),
        (0.25, 0.125, (0, 1)),  # margin + slack = -E exactly: a refutation must beat both
        (0.25 - 2**-40, 0.125, (1, 0)),
    ]:
        _, (test,) = check(steps, [Bound(FIXED, -0.5, start, slack)])
        assert (test["violations"], test["undecided"]) == wanted


def test_the_slack_of_the_rate_grows_with_the_step() -> None:
    """A loss that keeps the rate from below is never a violation of the rate from above."""
    steps = [Step(np.exp(-0.3 * t), 1.0) for t in range(20)]
    _, (narrow, wide) = check(steps, [Bound(FIXED, -0.5, 0, 0.19), Bound(FIXED, -0.5, 0, 0.21)])
    assert (narrow["violations"], wide["violations"]) == (19, 0)
    assert wide["undecided"] == 19


def test_ties_keep_the_first_step() -> None:
    steps = [Step(4.0**-t, 4.0**-t) for t in range(4)]  # c_t = 7.5 and sigma = 1 at every step
    led, (test,) = check(steps, [Bound(FIXED, -0.125, 0.0)], eta=0.5)
    assert (led["c_least_step"], led["sigma_least_step"], test["worst_step"]) == (0, 0, 1)
    steps = [Step(1.0, 1.0)] * 3
    _, (test,) = check(steps, [Bound(FIXED, -0.5, 4.0)])
    assert test["worst_step"] == 2
    _, (test,) = check(
        [Step(2.0, 0.0), Step(2.0, 1.0), Step(1.0, 0.0)], [Bound(DECREASE, 0, 0, 0, 0.5)]
    )
    assert test["worst_step"] == 2  # nothing predicted, nothing compared, at step 1


def test_the_floor_is_met_at_more_than_a_tenth_of_the_rate() -> None:
    loud, quiet = Step(2.0, 1.0, noise=0.1), Step(2.0, 1.0, noise=1e-6)  # r = 2: 2 nu = noise
    for rate, floor in [(-1.0, -1), (-0.99, 0)]:
        _, (test,) = check([loud, quiet, quiet], [Bound(FIXED, rate)])
        assert test["floor_step"] == floor  # and it stays there when the noise falls
        assert (test["violations"] > 0) == (floor < 0)


def test_the_product_closes_at_ten_times_the_error() -> None:
    """f 2 -> 1.5 with the error (2 + sqrt 3) noise = 0.05 at noise 0.0134."""
    for noise, closed in [(0.0133, -1), (0.0135, 1)]:
        led, _ = check(
            [Step(2.0, 1.0, noise=noise), Step(1.5, 1.0, noise=noise)], [Bound(POSTERIOR)]
        )
        assert led["posterior_closed"] == closed
    led, (test, _) = check([Step(1.0, 1.0)] * 3, [Bound(POSTERIOR), Bound(FIXED, -0.1)])
    assert led["posterior_closed"] == test["floor_step"] == 1  # no error, no move: closed
    assert led["rises"] == 0


def test_a_factor_never_reaches_zero() -> None:
    steps = [Step(1.0, 1e-3, 1.0), Step(0.5, 1e-3, 1.0), Step(0.25, 1.0)]
    led, _ = check(steps, [Bound(POSTERIOR)], eta=1.0)
    assert led["log_posterior"] == pytest.approx(2 * np.log(1e-15), rel=1e-3)


def test_sufficient_decrease_at_equality() -> None:
    """f_0 - f_1 = c |g_0|^2 exactly, without rounding; then with an error bar."""
    steps = [Step(1.0, 1.0), Step(0.5, 0.0)]
    for c, wanted in [(0.5, (0, 0)), (0.5 + 2**-40, (1, 0))]:
        _, (test,) = check(steps, [Bound(DECREASE, 0, 0, 0, c)])
        assert (test["violations"], test["undecided"]) == wanted
    steps = [Step(2.0, 1.0, noise=2.0**-6), Step(0.5, 0.0, noise=2.0**-6)]
    # 2 nu f = sqrt(2 f) noise: 2^-5 at f = 2, three times, and 2^-6 at f = 1/2; in all 7/64
    for c, wanted in [
        (1.5 - 7 / 64, (0, 0)),
        (1.5 - 7 / 64 + 2**-40, (0, 1)),
        (1.5 + 7 / 64, (0, 1)),
        (1.5 + 7 / 64 + 2**-40, (1, 0)),
    ]:
        _, (test,) = fed(steps, [Bound(DECREASE, 0, 0, 0, c)])
        assert (test["violations"], test["undecided"]) == wanted
    steps = [Step(2.0, 4.0), Step(2.0, 1.0), Step(2.5, 1.0)]  # no decrease at all, then a rise
    _, (test, full) = check(steps, [Bound(DECREASE, 0, 0, 0, 0.25), Bound(DECREASE, 0, 0, 0, 0.5)])
    assert (test["worst_margin"], test["violations"]) == (-np.inf, 2)
    assert full["log_bound"] == -np.inf


def test_gradient_errors_widen_the_decrease() -> None:
    """|g| = 1 with an error of J noise + J_error r = 1/4: |g|^2 may be 9/16 more."""
    quiet, loud = Step(0.5, 1.0), Step(0.5, 1.0, J_error=0.25)
    for after, wanted in [(quiet, (1, 0)), (loud, (0, 1))]:
        steps = [after, replace(after, loss=0.25)]
        _, (test,) = check(steps, [Bound(DECREASE, 0, 0, 0, 0.3)])
        assert (test["violations"], test["undecided"]) == wanted


def test_a_loss_of_zero_ends_every_comparison() -> None:
    quiet = {"noise": 1e-3}
    steps = [Step(2.0, 40.0), Step(1.0, 1.0, **quiet), Step(0.0, 0.0, **quiet), Step(0.0, 0.0)]
    led, tests = fed(
        steps, [Bound(FIXED, -0.5), Bound(POSTERIOR), Bound(DECREASE, coefficient=0.01)]
    )
    assert led["posterior_closed"] == tests[0]["floor_step"] == tests[1]["floor_step"] == 2
    assert led["two_nu"] == np.inf
    assert [t["violations"] for t in tests] == [0, 0, 0]
    led, tests = fed([Step(0.0, 0.0, noise=1e-3)] * 2, [Bound(FIXED, -0.5), Bound(POSTERIOR)])
    assert [t["violations"] for t in tests] == [0, 0]
    assert tests[0]["floor_step"] == 0


def test_sigma_of_the_jacobian_is_followed_until_it_is_stale() -> None:
    """|g| = 1 and eta = 1: the path is the number of steps; 0.02 * 50 = 1 is not yet stale."""
    falling = [Step(4.0 - t, 1.0, 0.0) for t in range(4)]
    for steps, stale in [(2, 0), (3, 1)]:
        run_ = [Step(4.0, 1.0, 0.0, sharpened=50.0), *falling[1:steps]]
        led, _ = check(run_, [Bound(POSTERIOR)], eta=1.0, drift=1.0)
        assert (led["stale"], led["path"], led["mu"]) == (stale, steps - 1, (51.0 - steps) ** 2)
    led, _ = check(falling, [Bound(POSTERIOR)], eta=1.0, drift=1.0)
    assert (led["stale"], led["mu"]) == (0, 0)  # never enclosed: nothing to ask again
    gone = [Step(4.0, 1.0, 0.0, sharpened=0.5), *falling[1:3]]
    assert check(gone, [Bound(POSTERIOR)], eta=1.0, drift=1.0)[0]["mu"] == 0
    again = [*gone, Step(1.0, 1.0, 0.0, sharpened=2.0)]
    led, _ = check(again, [Bound(POSTERIOR)], eta=1.0, drift=1.0)
    assert (led["stale"], led["path"], led["mu"]) == (0, 0, 4.0)
    closed = [Step(4.0, 1.0, 0.0, sharpened=2.0), *[Step(4.0, 1.0, 0.0)] * 3]
    assert check(closed, [Bound(POSTERIOR)], eta=1.0, drift=1.0)[0]["stale"] == 0


def test_the_rounding_of_the_stored_step_lengthens_the_path() -> None:
    """A gradient of zero still moves stored weights of norm 1e15 by 0.45."""
    steps = [Step(2.0, 2.0**-80, 0.0, sharpened=2.0), Step(1.0, 0.0, 0.0, weights=1e15)]
    led, _ = check(steps, [Bound(UNTESTED)], drift=1.0)
    assert led["path"] == pytest.approx(0.45)
    assert led["mu"] == pytest.approx(1.55**2)


def test_an_enclosure_may_raise_the_rate_but_never_lowers_it() -> None:
    for own, mu in [(3.0, 9.0), (1.0, 4.0)]:
        led, _ = check([Step(1.0, 1.0, 2.0, sharpened=own)], [Bound(UNTESTED)], o_squared=1.0)
        assert led["mu"] == mu


def test_a_decrease_is_refuted_only_with_its_coefficient_from_below() -> None:
    """The loss falls by 0.95 of c sum |g|^2: beyond a slack of 0.02 c, within one of 0.1 c."""
    for slack, violated in ((0.0, True), (0.02, True), (0.1, False)):
        led = records(new_ledger(0.1, 0.0))
        tests = records(new_tests([DECREASE], [0.0], None, [slack], [1.0]))
        led["noise_scale"] = 1e-16
        for t in range(10):
            observe(led[0], tests, 1.0 - 0.019 * t, 0.02, 1.0, 1.0)
        assert bool(tests[0]["violations"] > 0) is violated
        assert tests[0]["undecided"] == (0 if violated else 9)


@pytest.mark.parametrize("kind", [FIXED, POSTERIOR, DECREASE])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_that_is_no_number_is_undecided(kind: int, bad: float) -> None:
    for name in ("loss", "grad_sq"):
        led = records(new_ledger(0.1, 1.0))
        tests = records(new_tests([kind], [-0.1], coefficients=[0.05]))
        led["noise_scale"] = 1e-16
        for t in range(6):
            given = {"loss": 0.8**t, "grad_sq": 2 * 0.8**t}
            if t == 3:
                given[name] = bad
            observe(led[0], tests, given["loss"], given["grad_sq"], 0.5, 0.5)
        # what is summed over the steps stays unknown; but 2 nu of an infinite loss is 0
        lasting = kind == DECREASE or (kind == FIXED and name == "loss" and np.isnan(bad))
        assert tests[0]["first_undecided"] == 3, name
        assert tests[0]["undecided"] == (3 if lasting else 1), name
        assert tests[0]["violations"] == 0


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "bad",
    [
        Step(NAN, 1.0),
        Step(INF, 1.0),
        Step(-INF, 1.0),
        Step(-0.5, 1.0),
        Step(1.0, NAN),
        Step(1.0, INF),
        Step(1.0, 1.0, noise=NAN),
        Step(1e-300, 1.0, noise=1e300),  # an error bar that overflows
    ],
)
def test_what_is_no_number_from_the_start_is_undecided_for_every_test(bad: Step) -> None:
    bounds = [Bound(k, -0.1, coefficient=0.05) for k in (FIXED, POSTERIOR, DECREASE, FIXED)]
    with np.errstate(over="ignore"):
        _, tests = fed([bad, bad], bounds)
    for test in tests:
        assert (test["undecided"], test["first_undecided"], test["violations"]) == (2, 0, 0)
        assert (test["worst_margin"], test["worst_step"], test["floor_step"]) == (INF, -1, -1)


@pytest.mark.parametrize("slack", [-0.5, NAN])
def test_a_rate_whose_ends_are_crossed_confirms_nothing(slack: float) -> None:
    """The bound is kept by far, also with the slack."""
    steps = [Step(np.exp(-t), 1.0) for t in range(5)]
    _, (sound, crossed) = fed(steps, [Bound(FIXED, -0.1), Bound(FIXED, -0.1, log_slack=slack)])
    assert (sound["undecided"], sound["violations"]) == (0, 0)
    assert (crossed["undecided"], crossed["violations"]) == (4, 0)


@pytest.mark.parametrize("c", [NAN, INF])
def test_a_decrease_that_is_no_number_is_compared_from_step_one(c: float) -> None:
    _, (test,) = fed([Step(0.5**t, 1.0) for t in range(3)], [Bound(DECREASE, coefficient=c)])
    assert (test["undecided"], test["first_undecided"], test["violations"]) == (2, 1, 0)
    assert (test["worst_margin"], test["worst_step"]) == (INF, -1)


def test_a_first_loss_of_zero_leaves_no_ratio() -> None:
    """Only eta rate = 1 has no floor there: the bound is 0 from step 1 on, and nothing is said."""
    steps = [Step(0.0, 0.0), Step(1.0, 0.0), Step(0.5, 0.0)]
    led, tests = fed(steps, [Bound(FIXED, -INF), Bound(FIXED, -0.3), Bound(POSTERIOR)])
    assert [t["violations"] for t in tests] == [0, 0, 0]
    assert [t["undecided"] for t in tests] == [2, 0, 0]
    assert [t["floor_step"] for t in tests] == [-1, 0, 1]
    assert [t["worst_margin"] for t in tests] == [INF, INF, INF]
    assert led["posterior_closed"] == 1


LOG_2 = float(np.log(2.0))


@pytest.mark.parametrize(
    ("losses", "start", "rate", "violations"),
    [
        ((1e200, 1e-200), 0.0, -900.0, 0),  # log 1e-400 = -921.03: the quotient is 0
        ((1e200, 1e-200), 0.0, -940.0, 1),
        ((1e-200, 1e200), 950.0, -10.0, 0),  # the quotient is infinite
        ((1e-200, 1e200), 910.0, -10.0, 1),
        # denormal quotients, rounded to 1 and to 2 times 2^-1074
        ((2.0**500, 1.49 * 2.0**-574), 0.0, np.log(1.3) - 1074 * LOG_2, 1),
        ((2.0**500, 1.51 * 2.0**-574), 0.0, np.log(1.7) - 1074 * LOG_2, 0),
        # losses whose logarithms have fewer common digits than their quotient
        ((1e-200, 1e-200 * (1 - 1e-9)), 0.0, -(2.0**-60), 0),
        ((1e-200, 1e-200 * (1 + 1e-9)), 0.0, -(2.0**-60), 1),
    ],
)
def test_the_ratio_of_any_two_losses_has_all_its_digits(
    losses: tuple[float, float], start: float, rate: float, violations: int
) -> None:
    with np.errstate(over="ignore"):
        _, (test,) = check([Step(f, 1.0) for f in losses], [Bound(FIXED, rate, start)])
    assert (test["violations"], test["undecided"]) == (violations, 0)


NO_LOWER_END = [-2.0, -0.5, 0.0, NAN, INF, -INF]


@pytest.mark.parametrize("lo", NO_LOWER_END)
def test_a_lower_end_that_is_no_positive_number_is_zero(lo: float) -> None:
    led, _ = fed([Step(1.0, 1.0, lo)], [Bound(UNTESTED)])
    assert (led["sigma_least"], led["sigma_least_step"], led["mu"]) == (0.0, 0, 0.0)
    led, _ = fed([Step(1.0, 1.0, 0.5), Step(0.5, 1.0, lo), Step(0.2, 1.0, 1.5)], [Bound(UNTESTED)])
    assert (led["sigma_least"], led["sigma_least_step"], led["mu"]) == (0.0, 1, 2.25)
    led, _ = fed([Step(1.0, 1.0, 1.5, sharpened=lo)], [Bound(UNTESTED)])
    assert (led["jacobian_lo"], led["mu"]) == (0.0, 2.25)
    led, _ = fed([Step(1.0, 1.0, 0.0, sharpened=lo), Step(0.5, 1.0, 0.0)], [Bound(UNTESTED)])
    assert (led["jacobian_lo"], led["mu"], led["stale"]) == (0.0, 0.0, 0)


@pytest.mark.parametrize(
    ("o_squared", "sigma", "own", "at_once", "later"),
    [
        (1.0, 1.5, 1e200, 2.25, 2.25),
        (1.0, 1e200, 1.5, 2.25, 2.25),
        (1.0, 1e200, 1e200, 0.0, 0.0),
        (NAN, 1.0, 1e200, 0.0, 0.0),
        (1.0, NAN, 1e200, 0.0, 0.0),
    ],
)
def test_a_square_that_overflows_is_no_rate(
    o_squared: float, sigma: float, own: float, at_once: float, later: float
) -> None:
    first = Step(1.0, 1.0, sigma, sharpened=own)
    with np.errstate(over="ignore"):
        assert fed([first], [Bound(UNTESTED)], o_squared=o_squared)[0]["mu"] == at_once
        led, _ = fed([first, Step(0.5, 1.0, sigma)], [Bound(UNTESTED)], o_squared=o_squared)
    assert (led["mu"], led["jacobian_lo"]) == (later, own)


@pytest.mark.parametrize("drift", [0.0, 1.0])
def test_an_endless_path_leaves_the_other_rate(drift: float) -> None:
    steps = [Step(1.0, INF, 1.5, sharpened=2.0), Step(0.5, 1.0, 1.5)]
    led, _ = fed(steps, [Bound(UNTESTED)], drift=drift)
    assert (led["path"], led["mu"]) == (INF, 2.25)


def test_an_infinite_fall_is_no_factor() -> None:
    """mu = 1e300 and c = 5e10: their product overflows at the first step, not at the second."""
    steps = [Step(1.0, 1e-10, 1e50), Step(0.5, 1e-10, 1.0), Step(0.25, 1.0)]
    with np.errstate(over="ignore"):
        led, _ = fed(steps[:2], [Bound(POSTERIOR)], o_squared=1e200)
        assert (led["log_posterior"], led["posterior_closed"]) == (0.0, -1)
        led, _ = fed(steps, [Bound(POSTERIOR)], o_squared=1e200)
    assert led["log_posterior"] == pytest.approx(np.log1p(-(1.0 - 1e-15)), rel=1e-12)
