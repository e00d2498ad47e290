"""The ledger written a second time, from its definition: sums over the whole history, 40 digits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from mpmath import inf, isfinite, isnan, log, log1p, mpf, sqrt, workdps

from gdconv.compiled.ledger import (
    enter_jacobian,
    new_ledger,
    new_tests,
    observe,
    observe_loss,
)

FIXED, POSTERIOR, DECREASE, UNTESTED = 0, 1, 2, -1


@dataclass(frozen=True)
class Step:
    """What the ledger is told at one iterate, and what the probes have set before.

    Attributes:
        loss: f(theta_t).
        grad_sq: |grad f(theta_t)|^2.
        sigma_lo: Lower end of sigma_min(B_t).
        sigma_hi: Upper end.
        noise: Absolute error bar of the residual norm, as known when the iterate is entered.
        J: |J|_F.
        J_error: Rounding of J.
        weights: |theta|_F.
        sharpened: Lower end of sigma_m(J) entered after the iterate, None where there is none.
        own: (relative error of the loss, |S|, phi) of another loss than the squared one.
        kinetic: Energy less loss, and its error; None for plain descent.
        moved: Length of the step that led here; below 0 where it is eta |grad f|.
    """

    loss: float
    grad_sq: float
    sigma_lo: float = 1.0
    sigma_hi: float = 2.0
    noise: float = 0.0
    J: float = 0.0
    J_error: float = 0.0
    weights: float = 0.0
    sharpened: float | None = None
    own: tuple[float, float, float] | None = None
    kinetic: tuple[float, float] | None = None
    moved: float = -1.0


@dataclass(frozen=True)
class Bound:
    """One statement's bound."""

    kind: int
    log_rate: float = 0.0
    log_start: float = 0.0
    log_slack: float = 0.0
    coefficient: float = 0.0


class Reference:
    """Every number of the ledger after the last of `steps`, from the definitions.

    Args:
        steps: The run.
        eta: Step size.
        o_squared: min_h sigma(W_O,h)^2.
        drift: Lipschitz constant of J.
        radius: How far it reaches.
        bend: Greatest curvature of the loss by the outputs.
        riccati: Whether the a-posteriori bound is Riccati's.
        echo: What later steps make of a step's defect.
    """

    def __init__(
        self,
        steps: list[Step],
        eta: float,
        o_squared: float,
        drift: float,
        radius: float = inf,
        bend: float = 1.0,
        riccati: bool = False,
        echo: float = 1.0,
    ) -> None:
        self.steps, self.eta, self.o_squared, self.drift = steps, mpf(eta), mpf(o_squared), drift
        self.radius, self.bend, self.riccati = mpf(radius), mpf(bend), riccati
        self.echo = mpf(echo)
        self.f = [mpf(s.loss) for s in steps]
        squared = [
            (2 * s.noise / sqrt(2 * mpf(s.loss)) if s.loss > 0 else inf, sqrt(2 * mpf(s.loss)), 1)
            for s in steps
        ]
        brought = [s.own or known for s, known in zip(steps, squared, strict=True)]
        self.two_nu = [mpf(two_nu) for two_nu, _, _ in brought]
        self.S = [mpf(slope) for _, slope, _ in brought]
        own = [s.kinetic or (0.0, 0.0) for s in steps]
        self.E = [f + mpf(k) for f, (k, _) in zip(self.f, own, strict=True)]
        pairs = zip(self.two_nu, self.f, own, strict=True)
        self.E_error = [nu * f + mpf(e) for nu, f, (_, e) in pairs]
        self.phi = [self._share(t, share) for t, (_, _, share) in enumerate(brought)]
        self.closed = next((t for t in range(1, len(steps)) if self._drowned(t)), None)
        self.slopes = [self._slope(t) for t in range(len(steps) - 1)]
        self.factors = {s: self._factor(s) for s in self.open_steps(len(steps) - 1)}

    def _share(self, t: int, phi: float) -> Any:
        """phi, times the least f / E that the errors allow where there is an energy."""
        if self.steps[t].kinetic is None:
            return mpf(phi)
        least = self.f[t] * (1 - min(self.two_nu[t], 1))
        return phi * least / (self.E[t] + self.E_error[t])

    def _drowned(self, t: int) -> bool:
        """The move into step t is at most ten times the error of both energies."""
        error = self._error(t)
        return bool(isnan(error) or 10 * error >= abs(self.E[t] - self.E[t - 1]))

    def _error(self, t: int) -> Any:
        return self.E_error[t - 1] + self.E_error[t]

    def _slope(self, t: int) -> tuple[Any, Any]:
        """|grad f_t| and its error, with the probes known one step later."""
        s, after = self.steps[t], self.steps[t + 1]
        error = self.bend * after.J * after.noise + mpf(after.J_error) * self.S[t]
        return sqrt(mpf(s.grad_sq)), error

    def path(self, first: int, last: int) -> Any:
        """Length from `first` to `last`, each stored step rounded by 4.5e-16 |theta|."""
        return sum(
            self.eta * sum(self.slopes[t]) + mpf(4.5e-16) * self.steps[t + 1].weights
            if self.steps[t + 1].moved < 0
            else mpf(self.steps[t + 1].moved)
            for t in range(first, last)
        )

    def anchor(self, t: int, after: bool) -> tuple[int, Any]:
        """Where sigma_m(J) was last enclosed, seen from before or after step t's own enclosure."""
        known = [s for s in range(t + (1 if after else 0)) if self.steps[s].sharpened is not None]
        return (known[-1], mpf(self.steps[known[-1]].sharpened)) if known else (0, mpf(0))

    def mu(self, t: int) -> Any:
        """PL constant at step t, its own enclosure included."""
        where, J = self.anchor(t, after=False)
        kept = J - self.drifted(where, t)
        own = self.steps[t].sharpened
        rungs = [self.o_squared * mpf(self.steps[t].sigma_lo) ** 2, max(kept, 0) ** 2]
        return self.phi[t] * max([*rungs, mpf(own) ** 2] if own is not None else rungs)

    def drifted(self, first: int, last: int) -> Any:
        """What sigma_m(J) may have lost between two steps; everything beyond the radius."""
        path = self.path(first, last)
        return self.drift * path if path <= self.radius else inf

    def stale(self, t: int) -> bool:
        """Whether any step since the last enclosure drifted by more than 0.02 of it."""
        where, J = self.anchor(t, after=True)
        moved = [self.drifted(where, s) for s in range(where + 1, t + 1)]
        still_open = [self.closed is None or s < self.closed for s in range(where + 1, t + 1)]
        return any(
            J > 0 and m > mpf(0.02) * J and o for m, o in zip(moved, still_open, strict=True)
        )

    def _factor(self, t: int) -> tuple[Any, Any]:
        """c_t from below and the logarithm of 1 - 2 c_t eta mu_t."""
        norm, error = self.slopes[t]
        c = (self.E[t] - self.E[t + 1] - self._error(t + 1)) / (self.eta * (norm + error) ** 2)
        share = min(2 * c * self.eta * self.mu(t), mpf(1.0 - 1e-15))
        return c, log1p(-share) if c > 0 else mpf(0)

    def open_steps(self, t: int) -> list[int]:
        """Steps s < t whose factor counts."""
        return [s for s in range(t) if self.closed is None or s + 1 < self.closed]

    def log_posterior(self, t: int) -> Any:
        """sum log(1 - 2 c_s eta mu_s), or -log(1 + E_0 sum c_s eta sigma^2 |S|^2 / E_s^2)."""
        if not self.riccati:
            return sum((self.factors[s][1] for s in self.open_steps(t)), mpf(0))
        gains = [
            2 * self.factors[s][0] * self.eta * self.mu(s) / self.E[s] * (1 - self._unsure(s))
            for s in self.open_steps(t)
        ]
        return -log1p(self.E[0] * sum((g for g in gains if g > 0), mpf(0)))

    def _unsure(self, t: int) -> Any:
        return self.two_nu[t] if self.steps[t].kinetic is None else self.E_error[t] / self.E[t]

    def bar(self, t: int, kind: int = FIXED) -> Any:
        """2 nu_t + echo (2 nu_0 + sum_{s <= t} 2 nu_s), the first the energy's for a product."""
        last = self._unsure(t) if kind == POSTERIOR else self.two_nu[t]
        return last + self.echo * (self.two_nu[0] + sum(self.two_nu[: t + 1]))

    def ledger(self) -> dict[str, Any]:
        """Every field of the ledger."""
        f, last, T = self.f, self.steps[-1], len(self.steps) - 1
        c = {s: self.factors[s][0] for s in self.open_steps(T)}
        rises = [s + 1 for s in c if self.E[s + 1] > self.E[s]]
        kinetic, kinetic_error = last.kinetic or (0.0, 0.0)
        lows = [s.sigma_lo for s in self.steps]
        where, J = self.anchor(T, after=True)
        return {
            "step": T, "eta": self.eta, "o_squared": self.o_squared, "noise_scale": last.noise,
            "error_0": self.two_nu[0] * f[0] * (1 if self.steps[0].own else 2), "slope": self.S[-1],
            "share": self.phi[-1], "bend": self.bend, "riccati": int(self.riccati),
            "features": 1, "radius": self.radius, "jacobian_norm": last.J,
            "jacobian_error": last.J_error, "weight_norm": last.weights, "loss_0": f[0],
            "loss": f[-1], "grad_sq": last.grad_sq, "two_nu": self.two_nu[-1],
            "kinetic": kinetic, "kinetic_error": kinetic_error, "energy_0": self.E[0],
            "energy": self.E[-1], "energy_error": self.E_error[-1], "moved": last.moved,
            "echo": self.echo,
            "noise_sum": self.echo * (self.two_nu[0] + sum(self.two_nu)), "sigma_lo": last.sigma_lo,
            "sigma_hi": last.sigma_hi, "sigma_least": min(lows),
            "sigma_least_step": lows.index(min(lows)),
            "grad_sum": sum(mpf(s.grad_sq) for s in self.steps[:-1]),
            "grad_sum_error": sum((g + e) ** 2 - g**2 for g, e in self.slopes),
            "decrease_error": self.echo * sum(self.two_nu[t] * f[t] for t in range(T)),
            "jacobian_lo": J, "jacobian_drift": self.drift, "path": self.path(where, T),
            "stale": self.stale(T), "mu": self.mu(T), "log_posterior": self.log_posterior(T),
            "posterior_closed": -1 if self.closed is None else self.closed,
            "c_least": min(c.values(), default=inf),
            "c_least_step": min(c, key=lambda s: c[s], default=-1),
            "rises": len(rises), "first_rise": min(rises, default=-1),
        }  # fmt: skip

    def floor(self, test: Bound) -> int | None:
        """Step at which a test ends."""
        if test.kind == POSTERIOR:
            return self.closed
        if test.kind == FIXED:
            loud = [t for t, x in enumerate(self.two_nu) if x > -mpf(0.1) * test.log_rate]
            return loud[0] if loud else None
        return None

    def log_bound(self, test: Bound, t: int) -> Any:
        """Logarithm of the bound over f_0 at step t."""
        if test.kind == FIXED:
            return mpf(test.log_start) + t * mpf(test.log_rate)
        if test.kind == POSTERIOR:
            return self.log_posterior(t)
        share = self.predicted(test, t) / self.f[0]
        return log(1 - share) if share < 1 else -inf

    def predicted(self, test: Bound, t: int) -> Any:
        """c sum_{s<t} |grad f_s|^2."""
        return mpf(test.coefficient) * sum(mpf(s.grad_sq) for s in self.steps[:t])

    def compared(self, test: Bound, t: int) -> tuple[Any, int] | None:
        """(margin, 1 holds / 0 undecided / -1 violated), None where nothing is entered."""
        if test.kind == DECREASE:
            predicted, drop = self.predicted(test, t), self.f[0] - self.f[t]
            if not predicted > 0:
                return None
            first = self.two_nu[0] * self.f[0] * (1 if self.steps[0].own else 2)
            ends = first + self.two_nu[t] * self.f[t]
            error = ends + self.echo * sum(self.two_nu[s] * self.f[s] for s in range(t))
            slopes = self.slopes[:t]
            error += mpf(test.coefficient) * sum((g + e) ** 2 - g**2 for g, e in slopes)
            sure = 1 if drop - error >= predicted else 0
            lesser = predicted * (1 - mpf(test.log_slack) / mpf(test.coefficient))
            return (
                log(drop / predicted) if drop > 0 else -inf,
                -1 if drop + error < lesser else sure,
            )
        of = self.E if test.kind == POSTERIOR else self.f
        ratio = log(of[t] / of[0]) if of[t] > 0 else -inf
        margin = self.log_bound(test, t) - ratio
        if t == 0:
            return (margin, -1) if margin < 0 else None
        bar = self.bar(t, test.kind)
        if margin + t * mpf(test.log_slack) < -bar:
            return margin, -1
        return margin, 1 if margin >= bar else 0

    def test(self, test: Bound) -> dict[str, Any]:
        """Every field of the record of one test."""
        T, floor = len(self.steps) - 1, self.floor(test)
        times = [] if test.kind == UNTESTED else list(range(T + 1 if floor is None else floor))
        met = {t: found for t in times if (found := self.compared(test, t)) is not None}
        said = {h: [t for t in met if met[t][1] == h] for h in (-1, 0)}
        low = [t for t in met if self.log_bound(test, t) < log(mpf("0.9"))]
        least = min((met[t][0] for t in met), default=inf)
        seen = self.two_nu if floor is None else self.two_nu[: floor + 1]
        return {
            "kind": test.kind, "log_start": test.log_start, "log_rate": test.log_rate,
            "log_slack": test.log_slack, "coefficient": test.coefficient,
            "log_bound": self.log_bound(test, times[-1]) if times else 0.0,
            "worst_margin": least,
            "worst_step": next((t for t in met if met[t][0] == least and least < inf), -1),
            "violations": len(said[-1]), "first_violation": min(said[-1], default=-1),
            "undecided": len(said[0]), "first_undecided": min(said[0], default=-1),
            "informative_step": min(low, default=-1),
            "floor_step": -1 if floor is None or floor > T else floor,
            "noise_ratio": max(seen) / -mpf(test.log_rate) if test.kind == FIXED else 0.0,
        }  # fmt: skip


def agree(found: dict[str, Any], wanted: dict[str, Any], tolerance: float = 1e-11) -> None:
    """Field by field; integers and infinities exactly."""
    with workdps(40):
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            if isinstance(value, int) or not isfinite(value):
                assert found[name] == value, (name, found[name], value)
            else:
                bar = tolerance * max(abs(mpf(value)), mpf("1e-4"))
                assert abs(found[name] - mpf(value)) <= bar, (name, found[name], value)


def records(array: np.ndarray) -> np.ndarray:
    """Records that plain Python reads by attribute as numba does."""
    return array.view(np.recarray) if numba.config.DISABLE_JIT else array


def fields(record: Any) -> dict[str, Any]:
    """Name to value."""
    return {name: record[name].item() for name in record.dtype.names}


def fed(
    steps: list[Step],
    bounds: list[Bound],
    eta: float = 0.1,
    o_squared: float = 1.0,
    drift: float = 0.0,
    **fields_set: float,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Every field after the steps, as the ledger has it."""
    led = records(new_ledger(eta, o_squared))
    columns = zip(
        *((b.kind, b.log_rate, b.log_start, b.log_slack, b.coefficient) for b in bounds),
        strict=True,
    )
    tests = records(new_tests(*(list(c) for c in columns)))  # type: ignore[arg-type]
    led["jacobian_drift"] = drift
    for name, value in fields_set.items():
        led[name] = value
    for s in steps:
        led["noise_scale"], led["jacobian_norm"] = s.noise, s.J
        led["jacobian_error"], led["weight_norm"] = s.J_error, s.weights
        led["kinetic"], led["kinetic_error"] = s.kinetic or (0.0, 0.0)
        led["moved"] = s.moved
        at = (led[0], tests, s.loss, s.grad_sq, s.sigma_lo, s.sigma_hi)
        if s.own is None:
            observe(*at)
        else:
            two_nu, slope, share = s.own
            observe_loss(*at, two_nu, two_nu * s.loss, slope, share)
        if s.sharpened is not None:
            enter_jacobian(led, s.sharpened)
    return fields(led[0]), [fields(t) for t in tests]


def check(steps: list[Step], bounds: list[Bound], **options: float) -> tuple[dict, list[dict]]:
    """Compare every field with the second ledger; what the ledger has."""
    led, tests = fed(steps, bounds, **options)
    options = {"eta": 0.1, "o_squared": 1.0, "drift": 0.0} | options
    with workdps(40):
        reference = Reference(steps, **options)
        wanted = reference.ledger(), [reference.test(b) for b in bounds]
    agree(led, wanted[0])
    for found, expected in zip(tests, wanted[1], strict=True):
        agree(found, expected)
    return led, tests


def history(seed: int, noise: float, length: int = 14) -> list[Step]:
    """A made-up run: mostly falling, every number random, probes and enclosures now and then."""
    rng = np.random.default_rng(seed)
    loss, steps, probed = float(rng.uniform(0.1, 10)), [], {}
    for t in range(length):
        if t == 0 or rng.random() < 0.4:
            names = ("noise", "J", "J_error", "weights")
            sizes = (noise, 3.0, 0.1, 1e13)
            probed = {k: float(s * rng.uniform(0.5, 2)) for k, s in zip(names, sizes, strict=True)}
        made = rng.uniform(0.2, 3.0) * loss
        low = float(rng.uniform(0.2, 1.0))
        own = float(rng.uniform(0.2, 2.0)) if rng.random() < 0.3 else None
        steps.append(Step(loss, float(made), low, low + 0.1, **probed, sharpened=own))
        loss *= float(rng.uniform(0.4, 0.98) if rng.random() < 0.8 else rng.uniform(1.0, 1.5))
    return steps
