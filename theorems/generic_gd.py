"""Gradient descent on any differentiable model.

Problem      min over theta of f = l(F(theta)), F: R^p -> R^m the stacked outputs of a torch module,
             l the squared loss 1/2 |F - y|^2 or another one; f* its infimum over the outputs
Algorithm    theta <- theta - eta grad f(theta), full batch
Guarantee    upper: f_t - f* <= (1 - eta s^2)^t (f_0 - f*) with s = sigma_m(J_0) if s^2 >= 6 M_2 r_0
             and eta <= 2 / (9 L) (Theorem K); and from the run itself AP on [0, T], TAIL after it
Tracked      sigma_m(J_t), loss ratio, gradient norm, PL ratio, distance moved
Constants    M_2(rho) >= Lip J and G(rho) >= |J| on a ball: by the calculus of jets where all layers
             are known (linear maps, smooth activations, attention, norms); else by search, and then
             nothing is confirmed that rests on them
References   [1] docs/theory/generic.md; the kernel theorem is that of docs/theory/full-gd.md
"""

from __future__ import annotations

from typing import Any

from gdconv.descent.loop import Outcome
from gdconv.models.generic.point import ModulePoint
from gdconv.models.losses.squared import Squared
from gdconv.rigor.arithmetic import plus, smaller, times
from gdconv.theory.certificates import descent_hypotheses, mean_rate
from gdconv.theory.loss_tails import loss_tail
from gdconv.theory.theorem import Inequality, Prediction, Theorem, statement

PROOFS = "docs/theory/generic.md"

ORDINARY: dict[str, dict[str, Any]] = {
    "*": {"step": "local", "steps": 2_000, "until_loss": 1e-9, "sharpness": False}
}
"""An ordinary run: half of 1 / |J_0|^2, until the loss is small."""

KERNEL: dict[str, dict[str, Any]] = {
    "*": {
        "model": "gdconv.models.generic.nets:NearFit", "step": "theory", "until_bound": 0.5,
        "steps": 200_000,
    }
}  # fmt: skip
"""Labels near the first outputs; as far as the bound falls by half."""


def _derivative(outcome: Outcome) -> Inequality:
    """The module's backward pass is its derivative at the end too, not only where it was tried."""
    found, allowed = outcome.end.derivative_gap
    return Inequality("J is the derivative: finite differences at theta_T", found, "<=", allowed)


def _facts(outcome: Outcome) -> tuple[Inequality, ...]:
    """What a run of a module rests on beside its bounds: its derivative, and a kernel if given."""
    rows = (_derivative(outcome),)
    if (found := outcome.end.kernel_gap) is None:
        return rows
    return *rows, Inequality("the given kernel is J J^T at theta_T", found[0], "<=", found[1])


class GenericGD(Theorem):
    """The kernel theorem and the certificates of a run, for any torch module."""

    id = "generic-gd"
    title = "Gradient descent on any differentiable model"
    source = "docs/theory/generic.md (kernel theorem and a-posteriori certificates)"
    models = ("module",)
    algorithms = None

    @statement(
        "run", default=True, posterior=True, proof=f"{PROOFS}#tail", defaults=ORDINARY,
        algorithm="gd",
    )  # fmt: skip
    def run(self, start: ModulePoint, outcome: Outcome) -> Prediction:
        """AP on [0, T] and TAIL at T: certified from the run itself, for later steps too."""
        found = loss_tail(outcome.end, outcome.eta)
        return Prediction(
            (*descent_hypotheses(outcome), *_facts(outcome), *found.hypotheses),
            mean_rate(outcome, "run"),
            note=found.sentence,
        )

    @statement("product", posterior=True, proof=f"{PROOFS}#ap", defaults=ORDINARY)
    def product(self, start: ModulePoint, outcome: Outcome) -> Prediction:
        """AP on [0, T] alone, for the energy of any algorithm: no constant is needed."""
        rows = (*descent_hypotheses(outcome), *_facts(outcome))
        return Prediction(rows, mean_rate(outcome, "product"))

    @statement("kernel", proof=f"{PROOFS}#k", defaults=KERNEL, algorithm="gd")
    def kernel(self, start: ModulePoint) -> Prediction:
        """Theorem K: kappa = sigma_m(J_0)^2, the least eigenvalue of the tangent kernel."""
        s, S = start.J_range
        kappa = times(s, s)
        squared = Inequality(
            "the loss is the squared one", int(isinstance(start.model.loss, Squared)), ">=", 1
        )
        positive = Inequality("kappa is positive", kappa, ">", 0.0)
        if not (squared.holds and positive.holds):
            return Prediction((squared, positive), kappa, note="nothing is predicted here")
        rho = 1.5 * start.r_0 / s.lo
        M, G_squared = start.constants(rho)
        reach = plus(S, times(M, rho))
        L = plus(smaller(G_squared, times(reach, reach)), times(M, start.r_0))
        needed = start.uncertain(6 * M * start.r_0)
        outweighs = Inequality("kappa >= 6 M_2(rho) r_0", kappa, ">=", needed)
        step = 2 / (9 * L.hi)
        return Prediction((squared, positive, outweighs), kappa, step if step > 0 else None)


if __name__ == "__main__":
    from gdconv.cli.main import run_theorem

    raise SystemExit(run_theorem(GenericGD.id))
