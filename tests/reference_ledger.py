"""The ledger written a second time, from its definition: sums over the whole history, 40 digits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mpmath import inf, isfinite, isnan, log, log1p, mpf, sqrt, workdps

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
    """

    def __init__(self, steps: list[Step], eta: float, o_squared: float, drift: float) -> None:
        self.steps, self.eta, self.o_squared, self.drift = steps, mpf(eta), mpf(o_squared), drift
        self.f = [mpf(s.loss) for s in steps]
        self.two_nu = [2 * s.noise / sqrt(2 * mpf(s.loss)) if s.loss > 0 else inf for s in steps]
        self.closed = next((t for t in range(1, len(steps)) if self._drowned(t)), None)
        self.slopes = [self._slope(t) for t in range(len(steps) - 1)]
        self.factors = {s: self._factor(s) for s in self.open_steps(len(steps) - 1)}

    def _drowned(self, t: int) -> bool:
        """The move into step t is at most ten times the error of both losses."""
        error = self._error(t)
        return bool(isnan(error) or 10 * error >= abs(self.f[t] - self.f[t - 1]))

    def _error(self, t: int) -> Any:
        return self.two_nu[t - 1] * self.f[t - 1] + self.two_nu[t] * self.f[t]

    def _slope(self, t: int) -> tuple[Any, Any]:
        """|grad f_t| and its error, with the probes known one step later."""
        s, after = self.steps[t], self.steps[t + 1]
        error = mpf(after.J) * after.noise + mpf(after.J_error) * sqrt(2 * self.f[t])
        return sqrt(mpf(s.grad_sq)), error

    def path(self, first: int, last: int) -> Any:
        """Length from `first` to `last`, each stored step rounded by 4.5e-16 |theta|."""
        return sum(
            self.eta * sum(self.slopes[t]) + mpf(4.5e-16) * self.steps[t + 1].weights
            for t in range(first, last)
        )

    def anchor(self, t: int, after: bool) -> tuple[int, Any]:
        """Where sigma_m(J) was last enclosed, seen from before or after step t's own enclosure."""
        known = [s for s in range(t + (1 if after else 0)) if self.steps[s].sharpened is not None]
        return (known[-1], mpf(self.steps[known[-1]].sharpened)) if known else (0, mpf(0))

    def mu(self, t: int) -> Any:
        """PL constant at step t, its own enclosure included."""
        where, J = self.anchor(t, after=False)
        kept = J - self.drift * self.path(where, t)
        own = self.steps[t].sharpened
        rungs = [self.o_squared * mpf(self.steps[t].sigma_lo) ** 2, max(kept, 0) ** 2]
        return max([*rungs, mpf(own) ** 2] if own is not None else rungs)

    def stale(self, t: int) -> bool:
        """Whether any step since the last enclosure drifted by more than 0.02 of it."""
        where, J = self.anchor(t, after=True)
        moved = [self.drift * self.path(where, s) for s in range(where + 1, t + 1)]
        still_open = [self.closed is None or s < self.closed for s in range(where + 1, t + 1)]
        return any(
            J > 0 and m > mpf(0.02) * J and o for m, o in zip(moved, still_open, strict=True)
        )

    def _factor(self, t: int) -> tuple[Any, Any]:
        """c_t from below and the logarithm of 1 - 2 c_t eta mu_t."""
        norm, error = self.slopes[t]
        c = (self.f[t] - self.f[t + 1] - self._error(t + 1)) / (self.eta * (norm + error) ** 2)
        share = min(2 * c * self.eta * self.mu(t), mpf(1.0 - 1e-15))
        return c, log1p(-share) if c > 0 else mpf(0)

    def open_steps(self, t: int) -> list[int]:
        """Steps s < t whose factor counts."""
        return [s for s in range(t) if self.closed is None or s + 1 < self.closed]

    def log_posterior(self, t: int) -> Any:
        """sum log(1 - 2 c_s eta mu_s)."""
        return sum((self.factors[s][1] for s in self.open_steps(t)), mpf(0))

    def bar(self, t: int) -> Any:
        """E_t = 2 nu_0 + 2 nu_t + sum_{s <= t} 2 nu_s."""
        return self.two_nu[0] + self.two_nu[t] + sum(self.two_nu[: t + 1])

    def ledger(self) -> dict[str, Any]:
        """Every field of the ledger."""
        f, last, T = self.f, self.steps[-1], len(self.steps) - 1
        c = {s: self.factors[s][0] for s in self.open_steps(T)}
        rises = [s + 1 for s in c if f[s + 1] > f[s]]
        lows = [s.sigma_lo for s in self.steps]
        where, J = self.anchor(T, after=True)
        return {
            "step": T, "eta": self.eta, "o_squared": self.o_squared, "noise_scale": last.noise,
            "noise_scale_0": self.steps[0].noise, "jacobian_norm": last.J,
            "jacobian_error": last.J_error, "weight_norm": last.weights, "loss_0": f[0],
            "loss": f[-1], "grad_sq": last.grad_sq, "two_nu": self.two_nu[-1],
            "noise_sum": self.two_nu[0] + sum(self.two_nu), "sigma_lo": last.sigma_lo,
            "sigma_hi": last.sigma_hi, "sigma_least": min(lows),
            "sigma_least_step": lows.index(min(lows)),
            "grad_sum": sum(mpf(s.grad_sq) for s in self.steps[:-1]),
            "grad_sum_error": sum((g + e) ** 2 - g**2 for g, e in self.slopes),
            "decrease_error": sum(self.two_nu[t] * f[t] for t in range(T)),
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
            ends = 2 * self.two_nu[0] * self.f[0] + self.two_nu[t] * self.f[t]
            error = ends + sum(self.two_nu[s] * self.f[s] for s in range(t))
            slopes = self.slopes[:t]
            error += mpf(test.coefficient) * sum((g + e) ** 2 - g**2 for g, e in slopes)
            sure = 1 if drop - error >= predicted else 0
            lesser = predicted * (1 - mpf(test.log_slack) / mpf(test.coefficient))
            return (
                log(drop / predicted) if drop > 0 else -inf,
                -1 if drop + error < lesser else sure,
            )
        ratio = log(self.f[t] / self.f[0]) if self.f[t] > 0 else -inf
        margin = self.log_bound(test, t) - ratio
        if t == 0:
            return (margin, -1) if margin < 0 else None
        if margin + t * mpf(test.log_slack) < -self.bar(t):
            return margin, -1
        return margin, 1 if margin >= self.bar(t) else 0

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
