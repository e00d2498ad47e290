"""The per-step bookkeeping of one run: every bound is tested at every step, nothing is stored.

A run has one `LEDGER` record (loss, noise, sigma_min, a-posteriori product) and one `TEST` record
per statement. Both engines call `observe` once per step, at the iterate theta_t and before the
update, so there is one copy of the comparison. Memory does not grow with the number of steps.

Rounding, per step (docs/theory/enclosures.md): the computed residual norm r_t = sqrt(2 f_t) is
wrong by at most nu_t r_t with nu_t = noise_scale / r_t, so log f_t is wrong by about 2 nu_t; the
defects of the stored steps add the same again, so the comparison at step t carries the error bar
E_t = 2 nu_0 + 2 nu_t + sum_{s<=t} 2 nu_s. A bound holds when it does so with the rate from above,
and is violated when it is so with the rate from below.

Another loss (`observe_loss`) brings its own relative error in the place of 2 nu_t, its slope
|S_t| in the place of r_t and phi_t = |S_t|^2 / (2 f_t), which multiplies the PL constant; f_t is
the gap to its infimum. Where that is not attained the a-posteriori bound is Riccati's,
1 / b_{t+1} = 1 / b_t + c_t eta sigma_t^2 |S_t|^2 / f_t^2 (docs/theory/generic.md).

Another algorithm brings the length of its step (`moved`), how much of a step's defect later steps
add up to (`echo`) and its energy E_t = f_t + `kinetic`, which takes the place of f_t in the
a-posteriori product, in c_t and in the count of rises; the PL constant is then mu_t f_t / E_t.
"""

from __future__ import annotations

import numpy as np

from gdconv.compiled.cache import njit

FIXED, POSTERIOR, DECREASE, UNTESTED = 0, 1, 2, -1
"""Kinds of test: (1 - eta rate)^t f_0; the a-posteriori product; f_0 - c sum_{s<t} |grad f_s|^2; no
testable bound."""

STALE_SHARE = 0.02
"""sigma_m(J) is asked for again once it may have drifted by this share."""

INFORMATIVE = float(np.log(0.9))
"""A bound that never falls below 0.9 of its start has tested nothing."""

NOISE_SHARE = 0.1
"""Comparison stops once 2 nu_t exceeds this share of the decrease per step (of the bound, or of the
loss for the a-posteriori product)."""

EPS = float(np.finfo(np.float64).eps)
"""A number that times this is 0 lies below the normal floats: it has lost digits."""

LEDGER = np.dtype([
    ("step", "i8"),  # t of the last observed iterate, -1 before the first
    ("eta", "f8"),
    ("o_squared", "f8"),  # lower bound of min_h sigma_{D_y}(W_O,h)^2
    ("noise_scale", "f8"),  # 8u (|F| + |y| + sum_W |J_W| |W|), refreshed by the probes
    ("error_0", "f8"),  # absolute error of f_0
    ("jacobian_norm", "f8"),  # |J|_F, refreshed by the probes
    ("jacobian_error", "f8"),  # rounding of J, refreshed by the probes
    ("weight_norm", "f8"),  # |theta|_F, refreshed by the probes
    ("loss_0", "f8"),
    ("loss", "f8"),
    ("grad_sq", "f8"),
    ("kinetic", "f8"),  # E - f, told before the iterate: 0 for plain descent
    ("kinetic_error", "f8"),  # its absolute error
    ("energy_0", "f8"),
    ("energy", "f8"),  # E at the last iterate
    ("energy_error", "f8"),  # its absolute error
    ("moved", "f8"),  # length of the step, told before the iterate: below 0 for eta |grad f|
    ("echo", "f8"),  # what later steps make of a step's defect: 1 for plain descent
    ("slope", "f8"),  # |S|, the loss's gradient by the outputs: r for the squared loss
    ("share", "f8"),  # phi = |S|^2 / (2 f) from below: 1 for the squared loss
    ("bend", "f8"),  # greatest curvature of the loss by the outputs: 1 for the squared loss
    ("riccati", "i8"),  # the a-posteriori bound is Riccati's
    ("features", "i8"),  # sigma_min of a feature matrix is followed: 0 for sigma_m(J) alone
    ("two_nu", "f8"),
    ("noise_sum", "f8"),
    ("sigma_lo", "f8"),
    ("sigma_hi", "f8"),
    ("sigma_least", "f8"),  # least lower end over the run
    ("sigma_least_step", "i8"),
    ("grad_sum", "f8"),  # sum_{s<t} |grad f_s|^2
    ("grad_sum_error", "f8"),
    ("decrease_error", "f8"),  # sum_{s<t} 2 nu_s f_s, what the stored steps' defects change
    ("jacobian_lo", "f8"),  # lower end of sigma_m(J) where it was last enclosed
    ("jacobian_drift", "f8"),  # Lipschitz constant of J; 0 when sigma_m(J) is not followed
    ("radius", "f8"),  # how far it reaches from where sigma_m(J) was last enclosed
    ("path", "f8"),  # sum of step lengths since then
    ("stale", "i8"),  # sigma_m(J) should be enclosed again
    ("mu", "f8"),  # PL constant: max of o^2 sigma_min(B)^2 and sigma_m(J)^2
    ("log_posterior", "f8"),  # sum_{s<t} log(1 - 2 c_s eta mu_s)
    ("posterior_closed", "i8"),  # step at which rounding ended the product, else -1
    ("c_least", "f8"),
    ("c_least_step", "i8"),
    ("rises", "i8"),
    ("first_rise", "i8"),
])

TEST = np.dtype([
    ("kind", "i8"),
    ("log_start", "f8"),  # log of the bound at step 0 as a share of f_0, 0 without a prefactor
    ("log_rate", "f8"),  # log(1 - eta rate) for FIXED, the rate from above
    # what the rate from below adds to it, or how much less c may be: a refutation must beat both
    ("log_slack", "f8"),
    ("coefficient", "f8"),  # c for DECREASE, from above
    ("log_bound", "f8"),  # at the last observed step
    ("worst_margin", "f8"),  # least log bound - log(f_t / f_0) over compared steps
    ("worst_step", "i8"),
    ("violations", "i8"),
    ("first_violation", "i8"),
    ("undecided", "i8"),
    ("first_undecided", "i8"),
    ("informative_step", "i8"),  # first compared step with bound < 0.9
    ("floor_step", "i8"),  # comparison stopped here, -1 if never
    ("noise_ratio", "f8"),  # FIXED: greatest 2 nu_t / |log(1 - eta rate)| seen
])

STEPS = ("worst_step", "first_violation", "first_undecided", "informative_step", "floor_step")
"""Steps in a `TEST` record, -1 where there is none."""


def new_ledger(eta: float, o_squared: float) -> np.ndarray:
    """A fresh `LEDGER` array of length one (numba passes element 0 as a record).

    Args:
        eta: Step size.
        o_squared: Lower bound of min_h sigma_{D_y}(W_O,h)^2; 0 when it is not positive.

    Returns:
        Array of shape (1,) with every counter at its start.

    Example:
        >>> int(new_ledger(0.1, 1.0)[0]["step"])
        -1
    """
    led = np.zeros(1, LEDGER)
    led["eta"], led["o_squared"] = eta, o_squared
    led["sigma_least"] = led["c_least"] = led["radius"] = np.inf
    led["bend"] = led["features"] = led["echo"] = 1
    led["moved"] = -1
    for name in ("step", "sigma_least_step", "posterior_closed", "c_least_step", "first_rise"):
        led[name] = -1
    return led


def new_tests(
    kinds: list[int],
    log_rates: list[float],
    log_starts: list[float] | None = None,
    log_slacks: list[float] | None = None,
    coefficients: list[float] | None = None,
) -> np.ndarray:
    """Fresh `TEST` records, one per statement.

    Args:
        kinds: FIXED, POSTERIOR or UNTESTED, one per statement.
        log_rates: log(1 - eta rate) per statement; ignored unless the kind is FIXED.
        log_starts: Log of the bound at step 0 over f_0, per statement; 0 when left out.
        log_slacks: log(1 - eta rate_lo) - log(1 - eta rate_hi), or c from above minus c from below,
            per statement; 0 when left out.
        coefficients: c of a DECREASE test from above, per statement; 0 when left out.

    Returns:
        Array of shape (len(kinds),).

    Example:
        >>> new_tests([FIXED], [-0.1])["worst_margin"].tolist()
        [inf]
    """
    tests = np.zeros(len(kinds), TEST)
    tests["kind"], tests["log_rate"] = kinds, log_rates
    tests["worst_margin"] = np.inf
    if log_starts is not None:
        tests["log_start"] = log_starts
    if log_slacks is not None:
        tests["log_slack"] = log_slacks
    if coefficients is not None:
        tests["coefficient"] = coefficients
    for name in STEPS:
        tests[name] = -1
    return tests


@njit(error_model="numpy")
def _descend(led, energy, energy_error):  # type: ignore[no-untyped-def]
    """Close the step t-1 -> t: rises, sufficient-decrease constant c, a-posteriori factor.

    A step without a positive PL constant contributes the factor 1. Once the energy (the loss, for
    plain descent) moves by less than its rounding error the product is closed: later steps say
    nothing.
    """
    # |g| from above: |J|_F times the error of the residual plus the error of J times the residual
    norm = np.sqrt(led.grad_sq)
    grad_error = led.bend * (led.jacobian_norm * led.noise_scale) + led.jacobian_error * led.slope
    grad = norm + grad_error
    led.grad_sum += led.grad_sq
    led.grad_sum_error += grad_error * (2.0 * norm + grad_error)
    led.decrease_error += led.echo * (led.two_nu * led.loss)
    if led.moved >= 0.0:
        led.path += led.moved
    else:
        led.path += led.eta * grad + 4.5e-16 * led.weight_norm  # the stored step is rounded
    error = led.energy_error + energy_error
    if led.posterior_closed >= 0:
        return
    if not abs(led.energy - energy) > error / NOISE_SHARE:
        led.posterior_closed = led.step + 1
        return
    if energy > led.energy:
        led.rises += 1
        if led.first_rise < 0:
            led.first_rise = led.step + 1
    c = (led.energy - energy - error) / (led.eta * grad * grad)
    if c < led.c_least or c != c:  # once no number, always none
        led.c_least, led.c_least_step = c, led.step
    fall = 2.0 * c * led.eta * led.mu
    if not 0.0 < fall < np.inf:
        return
    if led.riccati:  # fall / f_t is the increase of 1 / f, as a share of the bound so far
        least = np.exp(led.log_posterior) * (led.energy_0 / led.energy)
        unsure = led.energy_error / led.energy if led.kinetic_error > 0.0 else led.two_nu
        gain = fall * least * (1.0 - min(unsure, 1.0)) * (1.0 - 1e-13)
        led.log_posterior -= np.log1p(min(gain, 1e300))
    else:
        led.log_posterior += np.log1p(-min(fall, 1.0 - 1e-15))


@njit(error_model="numpy")
def _log_ratio(value, start):  # type: ignore[no-untyped-def]
    """log(value / start); -inf where one of them is not positive."""
    if not (value > 0.0 and start > 0.0):
        return -np.inf
    ratio = value / start
    whole = 0.0 < ratio * EPS < np.inf  # neither overflow nor underflow, not even a gradual one
    return np.log(ratio) if whole else np.log(value) - np.log(start)


@njit(error_model="numpy")
def _enter(test, t, margin, holds):  # type: ignore[no-untyped-def]
    """Enter a three-valued comparison (holds: 1 true, -1 false, 0 undecided) at step t."""
    if margin < test.worst_margin:
        test.worst_margin, test.worst_step = margin, t
    if holds < 0:
        test.violations += 1
        if test.first_violation < 0:
            test.first_violation = t
    elif holds == 0:
        test.undecided += 1
        if test.first_undecided < 0:
            test.first_undecided = t
    if test.log_bound < INFORMATIVE and test.informative_step < 0:
        test.informative_step = t


@njit(error_model="numpy")
def _compare(test, t, log_ratio, error):  # type: ignore[no-untyped-def]
    """log bound against log(f_t / f_0) with the error bar of the latter."""
    margin = test.log_bound - log_ratio
    if t == 0:  # both sides are f_0 up to the prefactor: no rounding
        if margin < 0.0:
            _enter(test, 0, margin, -1)
    elif margin + t * test.log_slack < -error:
        _enter(test, t, margin, -1)
    else:
        _enter(test, t, margin, 1 if margin >= error and test.log_slack >= 0.0 else 0)


@njit(error_model="numpy")
def _compare_decrease(test, led, t, loss, two_nu):  # type: ignore[no-untyped-def]
    """f_0 - f_t against c sum_{s<t} |grad f_s|^2."""
    predicted = test.coefficient * led.grad_sum
    share = predicted / led.loss_0
    test.log_bound = np.log1p(-share) if share < 1.0 else -np.inf
    if t == 0 or predicted <= 0.0:
        return
    if not predicted < np.inf:
        _enter(test, t, np.nan, 0)
        return
    drop = led.loss_0 - loss
    error = led.error_0 + two_nu * loss + led.decrease_error
    error += test.coefficient * led.grad_sum_error
    margin = np.log(drop / predicted) if drop > 0.0 else -np.inf
    if drop + error < predicted - test.log_slack * led.grad_sum:
        _enter(test, t, margin, -1)
    else:
        _enter(test, t, margin, 1 if drop - error >= predicted else 0)


@njit(error_model="numpy")
def observe(led, tests, loss, grad_sq, sigma_lo, sigma_hi):  # type: ignore[no-untyped-def]
    """Enter the iterate theta_t into the ledger and test every bound on it.

    Args:
        led: `LEDGER` record of the run.
        tests: `TEST` array, shape (statements,).
        loss: f(theta_t).
        grad_sq: |grad f(theta_t)|^2 over the trained blocks.
        sigma_lo: Lower end of the enclosure of sigma_min(B_t).
        sigma_hi: Upper end.
    """
    r = np.sqrt(2.0 * loss)
    two_nu = 2.0 * led.noise_scale / r if r > 0.0 else np.inf
    error = 2.0 * led.noise_scale * r
    observe_loss(led, tests, loss, grad_sq, sigma_lo, sigma_hi, two_nu, error, r, 1.0)


@njit(error_model="numpy")
def observe_loss(  # type: ignore[no-untyped-def]
    led, tests, loss, grad_sq, sigma_lo, sigma_hi, two_nu, loss_error, slope, share
):
    """The same for any loss.

    Args:
        led: `LEDGER` record of the run.
        tests: `TEST` array, shape (statements,).
        loss: f(theta_t) less its infimum.
        grad_sq: |grad f(theta_t)|^2 over the trained blocks.
        sigma_lo: Lower end of the enclosure of sigma_min(B_t).
        sigma_hi: Upper end.
        two_nu: Relative error of `loss`.
        loss_error: Absolute error of `loss`.
        slope: |S|, gradient of the loss by the outputs.
        share: |S|^2 / (2 f) from below.
    """
    t = led.step + 1
    energy, energy_error = loss + led.kinetic, two_nu * loss + led.kinetic_error
    if t == 0:
        led.loss_0, led.error_0, led.energy_0 = loss, loss_error, energy
    else:
        _descend(led, energy, energy_error)
    led.noise_sum += led.echo * (two_nu if t > 0 else 2.0 * two_nu)
    error = led.noise_sum + two_nu
    log_ratio = _log_ratio(loss, led.loss_0)
    plain = led.kinetic == 0.0 and led.kinetic_error == 0.0
    # a negative loss has an infinite error bar
    known = loss < np.inf and grad_sq < np.inf and (two_nu < np.inf or loss == 0.0)
    least = max(sigma_lo, 0.0) if sigma_lo < np.inf else 0.0
    if led.features and least < led.sigma_least:
        led.sigma_least, led.sigma_least_step = least, t
    for i in range(tests.shape[0]):
        test = tests[i]
        if test.kind == UNTESTED or test.floor_step >= 0:
            continue
        if not known:  # nan or infinity confirms nothing and refutes nothing
            _enter(test, t, np.nan, 0)
            continue
        if test.kind == DECREASE:
            _compare_decrease(test, led, t, loss, two_nu)
            continue
        if test.kind == FIXED:
            test.noise_ratio = max(test.noise_ratio, two_nu / -test.log_rate)
            if two_nu > -NOISE_SHARE * test.log_rate:
                test.floor_step = t
                continue
            test.log_bound = test.log_start + t * test.log_rate
        else:
            if led.posterior_closed >= 0:
                test.floor_step = t
                continue
            test.log_bound = led.log_posterior
            if not plain:
                bar = led.noise_sum + energy_error / energy
                _compare(test, t, _log_ratio(energy, led.energy_0), bar)
                continue
        _compare(test, t, log_ratio, error)
    if not plain:  # a PL constant of f, as a share of E: from below
        share *= loss / (energy + energy_error) * (1.0 - min(two_nu, 1.0))
    led.energy, led.energy_error = energy, energy_error
    led.step, led.loss, led.grad_sq, led.two_nu = t, loss, grad_sq, two_nu
    led.slope, led.share = slope, share
    if led.features:
        led.sigma_lo, led.sigma_hi = sigma_lo, sigma_hi
    drifted = led.jacobian_drift * led.path if led.path <= led.radius else np.inf
    kept = led.jacobian_lo - drifted
    kept = max(kept, 0.0)
    led.mu = 0.0
    for square in (led.o_squared * least * least, kept * kept):
        if square < np.inf:
            led.mu = max(led.mu, square * share)
    if led.posterior_closed < 0 and drifted > STALE_SHARE * led.jacobian_lo > 0.0:
        led.stale = 1


def enter_jacobian(led: np.ndarray, jacobian_lo: float, jacobian_hi: float = np.inf) -> None:
    """Enter an enclosure of sigma_m(J) made at the last observed iterate.

    Args:
        led: `LEDGER` array of length one.
        jacobian_lo: Lower end of sigma_m(J) there.
        jacobian_hi: Upper end.

    Example:
        >>> led = new_ledger(0.1, 0.0)
        >>> led["share"] = 1.0
        >>> enter_jacobian(led, 2.0)
        >>> float(led["mu"][0])
        4.0
    """
    least = max(jacobian_lo, 0.0) if jacobian_lo < np.inf else 0.0
    led["jacobian_lo"], led["path"], led["stale"] = least, 0.0, 0
    if not led["features"]:
        led["sigma_lo"], led["sigma_hi"] = least, jacobian_hi
        if least < led["sigma_least"]:
            led["sigma_least"], led["sigma_least_step"] = least, led["step"]
    if least * least < np.inf:
        led["mu"] = np.maximum(led["mu"], least * least * led["share"])
