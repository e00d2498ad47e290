"""Monitor: what a user's own training does to loss, PL ratio, Jacobian and Hessian."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import nn

from gdconv.descent.records import RATIO
from gdconv.models.generic.point import ModulePoint
from gdconv.models.generic.weights import ModuleWeights
from gdconv.models.losses.base import Loss
from gdconv.monitoring.looks import Look, Subject, undisturbed
from gdconv.report.layout import number
from gdconv.support.errors import InputError, cause
from gdconv.theory.loss_tails import loss_tail
from gdconv.theory.prediction import Inequality, middle
from gdconv.theory.registry import theorem_named

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLAIN = 1e-6
"""An update whose cosine with -g differs from 1 by at most this is called a gradient step."""


class Monitor:
    """Looks at a module while somebody else's loop and optimizer train it.

    A look reads a float64 copy in evaluation mode (no dropout, running statistics as they stand);
    the module, its gradients, its mode and all random generators stay as they are. The loss is the
    sum over all outputs, as in `gdconv.check`: with a criterion that takes the mean, lengths of
    steps come out divided by the number of outputs.

    Args:
        module: The module that is trained.
        X: Inputs (N, ...), all of them: what is watched is the full-batch loss.
        y: Targets (N, ...).
        loss: A loss or its name: squared, logistic, cross-entropy.
        stride: Updates between two looks; None for all early ones, then ever fewer.
        budget: Share of the time that looks may take: one that took more of the time since the
            look before doubles the stride from then on. 1 never does.
        sharpness: Whether lambda_max of the Hessian is estimated.
        clock: Where the time comes from, in seconds.

    Attributes:
        messages: What went wrong, one sentence each.

    Raises:
        InputError: Arguments that cannot be used or do not fit each other.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.ones_(net.weight)
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.25)
        >>> monitor = Monitor(net, [[1.0]], [[0.0]], budget=1)
        >>> for t in range(3):
        ...     optimizer.zero_grad()
        ...     (0.5 * net(torch.ones(1, 1)) ** 2).sum().backward()
        ...     optimizer.step()
        ...     monitor.step()
        >>> monitor.frame()["loss_ratio"].round(4).tolist()
        [1.0, 0.5625, 0.3164, 0.178]
    """

    def __init__(
        self,
        module: nn.Module,
        X: Any,
        y: Any,
        loss: Loss | str = "squared",
        *,
        stride: int | None = None,
        budget: float = 0.1,
        sharpness: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        whole = isinstance(stride, int) and not isinstance(stride, bool)
        if stride is not None and (not whole or stride < 1):
            raise InputError("stride", stride, "give a whole number of at least 1, or None")
        real = isinstance(budget, int | float) and not isinstance(budget, bool)
        if not real or not 0 < budget <= 1:
            raise InputError("budget", budget, "give a share of the time above 0 and at most 1")
        self._stride, self._budget, self._sharpness = stride, float(budget), sharpness
        self._clock, self._factor, self._step = clock, 1, 0
        self._subject = Subject(module, X, y, loss)
        self.messages: list[str] = []
        self._rows: list[dict[str, float]] = []
        self._before: ModuleWeights | None = None
        self._last: Look | None = None
        self._due = 0
        self._look()
        if self.messages:
            remedy = f"give one that can be looked at from the start ({self.messages[0]})"
            raise InputError("module", self._subject.name, remedy)
        self._own = self._passed = self._own_before = 0.0
        self._began = self._since = clock()

    @property
    def stride(self) -> int:
        """Updates from the last look to the next one."""
        return self._due - int(self._rows[-1]["step"])

    @property
    def share(self) -> float:
        """Share of the time up to the last step that was the monitor's, after the first look."""
        return self._own / self._passed if self._passed > 0 else 0.0

    def step(self) -> None:
        """After every update: looks if it is time to.

        Raises:
            InputError: Parameters were added or removed, or changed their shape.
        """
        began = self._clock()
        self._step += 1
        due = self._step >= self._due
        if due:
            self._look()
        elif self._step == self._due - 1:
            self._before = self._subject.parameters()
        now = self._clock()
        self._own += now - began
        self._passed = now - self._began
        if not due:
            return
        if self._own - self._own_before > self._budget * (now - self._since):
            self._factor *= 2
            self._plan()
            self._before = None
        self._since, self._own_before = now, self._own

    def _plan(self) -> None:
        """When to look next, counted from the look just made."""
        last = int(self._rows[-1]["step"])
        gap = self._stride or max(1, int(last * RATIO) - last)
        self._due = last + gap * self._factor

    def _look(self) -> None:
        """One row; whatever goes wrong within is a row of nan and a message."""
        said = "a parameter, an output or a derivative is not finite, or derivatives disagree"
        try:
            self._last = self._subject.look(self._step, self._before, self._sharpness)
        except InputError:
            raise
        except Exception as error:  # the user's loop must go on
            self._last, said = None, cause(error)
        if self._last is None:
            self.messages.append(f"step {self._step}: nothing was measured: {said}")
            row = dict.fromkeys(self._rows[0] if self._rows else (), nan) | {"step": self._step}
        else:
            row = self._last.row
        self._rows.append(row)
        self._plan()
        adjacent = self._last is not None and self._due == self._step + 1
        self._before = self._last.point.params if self._last and adjacent else None

    def frame(self) -> pd.DataFrame:
        """One row per look; between them nothing is known.

        Returns:
            step; loss (gap l(F) - f*) with its error bar loss_lo, loss_hi; loss_ratio; grad_norm;
            pl_ratio |g|^2 / (2 loss); sigma_min_lo, sigma_min_hi enclosing sigma_m(J);
            jacobian_norm, |J|_2 from above; lambda_max +- lambda_max_error, an estimate; of the
            last update before the look step_length |d theta| / |g|, cosine with -g, and c +-
            c_error, its drop over |d theta| |g|; distance from the start, altogether and by
            block.
        """
        return pd.DataFrame(self._rows).astype({"step": int})

    def plot(self, path: str | Path | None = None) -> Figure:
        """The figure: loss ratio, sigma_m(J), lambda_max; written when a path is given.

        Args:
            path: Where to; its suffix says as what, without one it is written as PDF and as PNG.

        Returns:
            The figure.

        Raises:
            InputError: No figure can be written there, or not as that.
        """
        from gdconv.monitoring.plots import monitor_figure
        from gdconv.report.figures import drawn_to

        frame, seen = self.frame(), self._subject
        steps = f"{len(frame)} looks up to step {self._step}, nothing certified between them"
        title = f"{seen.name}, loss {seen.loss.name}, N={seen.problem.N}\n{steps}"
        return drawn_to(path, lambda: monitor_figure(frame, title))

    def summary(self, step: float | None = None) -> str:
        """Which statements of generic-gd apply to the parameters as they are now, and why not.

        Args:
            step: Step size of the plain gradient descent that TAIL and K speak of; the length of
                the last observed update where left out.

        Returns:
            A few lines; no verdict, for the optimizer is not ours.

        Raises:
            InputError: The step is not a positive number.
        """
        if step is not None and not 0 < step < float("inf"):
            raise InputError("step", step, "give a positive step size")
        if self._rows[-1]["step"] != self._step:
            self._look()
        seen, updates = self._subject, self._updates()
        lines = [
            f"{seen.name}, loss {seen.loss.name}: {len(self._rows)} looks up to step {self._step}, "
            f"{100 * self.share:.2g} % of the time (budget {100 * self._budget:.3g} %)",
            self._descended(),
        ]
        eta = nan if step is None else step
        if updates:
            last = updates[-1]
            eta = last["step_length"] if step is None else step
            kind = "a gradient step" if last["cosine"] >= 1 - PLAIN else "no gradient step"
            said = f"{kind} (cosine with -g {last['cosine']:.6g})"
            lines.append(f"last observed update, to step {last['step']}: {said}")
        if self._last is None:
            lines.append("TAIL, K: nothing can be said of parameters that are not finite")
        elif not isfinite(eta):
            lines.append("TAIL, K: no update was observed; give step= to ask for a step size")
        else:
            with undisturbed():
                lines += _statements(*seen.proved(self._last), eta)
        lines += self.messages
        lines.append(
            "The optimizer is yours, and nothing is certified between observed steps: no verdict."
        )
        return "\n".join(lines)

    def _updates(self) -> list[dict[str, float]]:
        """Rows whose last update was seen."""
        return [row for row in self._rows if isfinite(row["c"])]

    def _descended(self) -> str:
        """P2 over the updates that were seen."""
        seen = self._updates()
        if not seen:
            return "P2: no update was observed"
        least = f"least c_t {number(min(row['c'] for row in seen))}"
        risen = [int(row["step"]) for row in seen if row["c"] + row["c_error"] <= 0]
        if risen:
            many = f"{len(risen)} of {len(seen)} observed updates did not descend"
            return f"P2: {many}, first the one to step {risen[0]}; {least}"
        unclear = sum(row["c"] - row["c_error"] <= 0 for row in seen)
        hidden = f", {unclear} of them within rounding" if unclear else ""
        said = "no rise was observed" if unclear else "descended at every observed step"
        return f"P2: {said} ({len(seen)} updates{hidden}; {least})"


def _statements(point: ModulePoint, refusal: str, eta: float) -> list[str]:
    """TAIL and K at one point for plain gradient descent with that step."""
    who = f"for plain gradient descent from here with step {number(eta)}"
    found = loss_tail(point, eta)
    said = found.sentence
    if not all(h.holds for h in found.hypotheses):
        unproved = f"no bound of M_2 is proved for this module: {refusal}"
        said = f"TAIL does not fire: {unproved if refusal else _failing(found.hypotheses)}"
    lines = [f"{said} ({who})"]
    theorem = theorem_named("generic-gd")
    kernel = theorem.predict(theorem.statement_named("kernel"), point)
    rows = kernel.with_step(eta)
    applies = all(h.holds for h in rows) and kernel.max_step is not None
    why = f"rate {number(kernel.rate_lo)}" if applies else _failing(rows)
    lines.append(f"K {'applies' if applies else 'does not apply'}: {why} ({who})")
    return lines


def _failing(rows: tuple[Inequality, ...]) -> str:
    """The first hypothesis that does not hold, with its numbers."""
    row = next((row for row in rows if not row.holds), None)
    if row is None:
        return "no step size is allowed"
    how = "is false" if row.holds is False else "is not known"
    sides = f"{number(middle(row.lhs))} {row.relation} {number(middle(row.rhs))}"
    return f"{row.name}: {sides} {how}"
