"""NaN and infinity never confirm and never refute: every statement of every theorem.

Planted where a comparison is made (both sides of every hypothesis and claim, the rate, the step),
where a run is entered into the ledger, and in the numbers that the statements read.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from math import inf, nan
from typing import Any

import numpy as np
import pytest

import gdconv.gallery.attention_hessian.theorem as hessian
import gdconv.gallery.convex_attention.theorem as convex
from gdconv.checks.judge import judge
from gdconv.checks.prepare import Setting, prepare
from gdconv.compiled.descent import DONE
from gdconv.compiled.ledger import DECREASE, FIXED, POSTERIOR, new_ledger, new_tests, observe
from gdconv.descent.loop import Outcome
from gdconv.gallery.attention_hessian import evidence as hessian_evidence
from gdconv.gallery.attention_hessian.evidence import Case
from gdconv.gallery.convex_attention import evidence
from gdconv.rigor.rounding import Enclosure
from gdconv.support.config import Config
from gdconv.support.trust import Estimate, Interval
from gdconv.theory.claims import ClaimTheorem, Finding
from gdconv.theory.prediction import Inequality, Prediction
from gdconv.theory.registry import registry

BAD: list[Any] = [
    nan,
    inf,
    -inf,
    Enclosure(nan, 1.0),
    Enclosure(1.0, nan),
    Enclosure(inf, inf),
    Enclosure(-inf, inf),
    Interval(-inf, inf, 0.95, 1),
    Interval(nan, nan, 0.95, 5),
    Estimate(nan, 0.0, "none"),
    Estimate(1.0, nan, "none"),
]
STRONG = ("confirmed", "refuted")
MET = Inequality("met", 2.0, ">", 1.0)
SIZES = {"convex-attention": {"samples": 3, "tokens": 2, "embedding": 2, "steps": 20}}
CLAIMS = [
    (t.id, s.name)
    for t in registry().values()
    if isinstance(t, ClaimTheorem)
    for s in t.statements()
]
KERNELS = {"multihead": ("softmax", "gaussian"), "encoder": ("softmax",)}
DESCENTS = [
    (t.id, s.name, kernel, model)
    for t in registry().values()
    if not isinstance(t, ClaimTheorem)
    for model in t.models
    for kernel in {"multihead": ("softmax", "gaussian"), "encoder": ("softmax",)}.get(
        model, (None,)
    )
    for s in t.statements(kernel, model)
]
PRIOR = [d for d in DESCENTS if d[1] not in ("run", "linearised", "ladder", "product")]


def run(factor: float, eta: float, kind: int = FIXED, **changed: Any) -> Outcome:
    """A run whose loss falls by a factor, compared with 0.9^t; `changed` is a number at step 3."""
    rate = 0.1 / eta
    led = new_ledger(eta, 0.25 * rate)
    tests = new_tests([kind], [float(np.log(0.9))], coefficients=[0.3 * eta])
    led["noise_scale"], led["jacobian_norm"] = 1e-15, 1.0
    rows = []
    for t in range(40):
        loss = factor**t
        slope = 2 * rate * (1 if kind == DECREASE else 0.5)
        given = {"loss": loss, "grad_sq": slope * loss, "sigma_lo": 1.0, "sigma_hi": 1.0}
        for name, bad in changed.items():
            if t == 3 and name in given:
                given[name] = bad
            elif t == 3:
                led[name] = bad
        with np.errstate(all="ignore"):
            observe(led[0], tests, *given.values())
        rows.append({"step": float(t), "loss_ratio": loss})
    return Outcome(eta, led[0], {"s": tests[0]}, rows, None, DONE, 0.1)


@lru_cache(maxsize=4)
def case(theorem: str) -> Any:
    """One small case."""
    made = registry()[theorem]
    assert isinstance(made, ClaimTheorem)
    config = Config(theorem, **SIZES.get(theorem, {})).resolve({}, made.reads)
    return made.case(config, 0)


FEWER = [
    (hessian_evidence, {"REPLICAS": 2}), (hessian, {"REPLICAS": 2}),
    (evidence, {"STARTS": 2, "TRAINING": 20}), (convex, {"STARTS": 2, "TRAINING": 20}),
]  # fmt: skip


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """As few draws as will do: what is found does not matter, only that it is a claim."""
    for module, sizes in FEWER:
        for name, size in sizes.items():
            monkeypatch.setattr(module, name, size)


@lru_cache(maxsize=64)
def setting(theorem: str, statement: str, kernel: str, model: str) -> Setting:
    """The setting under which the statement was seen to hold."""
    given = None if model == "multihead" and theorem != "ntk-regime" else model
    return prepare(Config(theorem, statement=statement, kernel=kernel, model=given))


def planted(rows: tuple[Inequality, ...]) -> list[tuple[Inequality, ...]]:
    """Each side of each row no number, all others met."""
    made = []
    for h in rows:
        for bad in BAD:
            made += [(replace(h, lhs=bad), MET), (MET, replace(h, rhs=bad))]
    return made


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(("theorem", "name"), CLAIMS)
def test_claims(theorem: str, name: str) -> None:
    made: Any = registry()[theorem]
    finding = made.find(next(s for s in made.statements() if s.name == name), case(theorem))
    assert finding.claims
    for rows in planted((*finding.claims, *finding.hypotheses)):
        assert Finding(rows).verdict()[0] == "undecided"
        assert Finding((MET,), rows).verdict()[0] == "undecided"
        assert Finding((Inequality("wrong", 1, ">", 2),), rows).verdict()[0] == "undecided"


@pytest.mark.parametrize(("theorem", "name", "kernel", "model"), PRIOR)
def test_hypotheses_and_rates(theorem: str, name: str, kernel: str, model: str) -> None:
    made = setting(theorem, name, kernel, model).predictions[0][name]
    eta = 0.5 * min(made.max_step or 1.0, 1 / max(made.rate_hi, 1e-3))
    runs = {"confirmed": run(0.8, eta), "refuted": run(0.95, eta)}
    met = replace(made, hypotheses=(MET,))
    for verdict, outcome in runs.items():
        assert judge("s", met, outcome).verdict == verdict
        for rows in planted(made.hypotheses):
            assert judge("s", replace(met, hypotheses=rows), outcome).verdict == "undecided"
        for bad in (nan, inf, -inf):
            assert judge("s", replace(met, max_step=bad), outcome).verdict == "undecided"
            assert judge("s", met, replace(outcome, defect_ratio=bad)).verdict == "undecided"
        if made.decrease is None:
            for bad in BAD[:7]:
                assert judge("s", replace(met, rate=bad), outcome).verdict == "undecided"


def spoiled(value: Any, bad: float) -> Any:
    """A number, array, enclosure or pair with a part that is no number."""
    if isinstance(value, Enclosure):
        return Enclosure(bad, bad)
    if isinstance(value, tuple):
        return tuple(spoiled(v, bad) for v in value)
    if isinstance(value, np.ndarray):
        return np.where(np.arange(value.size).reshape(value.shape) == 0, bad, value)
    if isinstance(value, dict):
        return {k: spoiled(v, bad) for k, v in value.items()}
    return type(value)(bad)


READ = ("r_0", "r_error", "a", "O", "o", "o_stacked", "sigma_0", "sigma_J_V", "J_range", "x", "t",
        "feature_range", "_norms")  # fmt: skip


@pytest.mark.parametrize("bad", [nan, inf])
@pytest.mark.parametrize(("theorem", "name", "kernel", "model"), PRIOR)
def test_numbers_that_are_read(
    theorem: str, name: str, kernel: str, model: str, bad: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = setting(theorem, name, kernel, model)
    start, own = made.starts[0], made.predictions[0][name]
    eta = 0.5 * min(own.max_step or 1.0, 1 / max(own.rate_hi, 1e-3))
    runs = {"confirmed": run(0.8, eta), "refuted": run(0.95, eta)}
    touched = 0
    for attribute in READ:
        if not hasattr(type(start), attribute):
            continue
        fresh, value, seen = replace(start), getattr(start, attribute), []

        def read(self: Any, value: Any = value, seen: list[int] = seen) -> Any:
            seen.append(1)
            return spoiled(value, bad)

        with monkeypatch.context() as patched, np.errstate(all="ignore"):
            patched.setattr(type(start), attribute, property(read))
            try:
                prediction = made.resolved.theorem.predict(s_named(made, name), fresh)
            except np.linalg.LinAlgError:  # no verdict either
                continue
        useless = (name, attribute, bad) == ("block-free", "J_range", inf)  # G^2 counts alone
        if seen and not useless:
            touched += 1
            for outcome in runs.values():
                assert judge("s", prediction, outcome).verdict not in STRONG, attribute
    assert touched or not own.hypotheses


def s_named(made: Setting, name: str) -> Any:
    return next(s for s in made.resolved.theorem.statements() if s.name == name)


@pytest.mark.parametrize("kind", [FIXED, POSTERIOR, DECREASE])
@pytest.mark.parametrize("bad", [nan, inf])
@pytest.mark.parametrize("factor", [0.8, 0.95])
def test_a_run_with_a_step_that_is_no_number(kind: int, bad: float, factor: float) -> None:
    prediction = Prediction((MET,), 1.0, decrease=(lambda eta: eta) if kind == DECREASE else None)
    clean = judge("s", prediction, run(factor, 0.1, kind)).verdict
    assert clean in STRONG
    for name in ("loss", "grad_sq", "noise_scale"):
        made = run(factor, 0.1, kind, **{name: bad})
        found = judge("s", prediction, made)
        early = made.tests["s"]["first_violation"] in (1, 2)  # seen before the step was spoiled
        assert found.verdict == ("refuted" if early else "undecided"), name
    for name in ("sigma_lo", "jacobian_lo", "o_squared"):  # nothing is known: a constant of 0
        made = run(factor, 0.1, kind, **{name: bad})
        assert np.isfinite(made.log_posterior)
        if kind != POSTERIOR:
            assert judge("s", prediction, made).verdict == clean
        else:
            assert made.log_posterior >= run(factor, 0.1, kind).log_posterior


WATCHED = {
    "q": 0.9, "linear_worst": 0.5, "curved_worst": 0.5, "linear_bound": 0.1, "linear_last": 0.1,
    "first": 1.0, "rung_lo": 1.1, "rung_hi": 1.2,
}  # fmt: skip


@pytest.mark.parametrize("bad", [nan, inf, -inf])
@pytest.mark.parametrize(
    ("name", "keys"),
    [
        (
            "linearised",
            ["q", "linear_worst", "curved_worst", "linear_bound", "linear_last", "first"],
        ),
        ("ladder", ["rung_lo", "rung_hi"]),
    ],
)
def test_claims_about_a_run(name: str, keys: list[str], bad: float) -> None:
    theorem = registry()["ntk-regime"]
    s = next(s for s in theorem.statements() if s.name == name)

    def verdict(watched: dict[str, float]) -> str:
        outcome = replace(run(0.8, 0.1), watched=watched)
        return judge("s", theorem.predict(s, None, outcome), outcome).verdict

    assert verdict(WATCHED) == "confirmed"
    for key in keys:
        if (key, bad) != ("rung_hi", inf):  # the finite end decides
            assert verdict(WATCHED | {key: bad}) not in STRONG, key


def spoil_norms(norms: dict[Any, Any], which: int) -> dict[Any, Any]:
    key = list(norms)[which]
    value = norms[key]
    other = spoiled(value, nan) if isinstance(value, np.ndarray) else nan
    return norms | {key: other}


SOURCES = [
    ("identities", 0, "errors", lambda e: replace(e, by_part=spoil_norms(e.by_part, 0))),
    ("identities", 1, "errors", lambda e: replace(e, by_part=spoil_norms(e.by_part, 1))),
    ("identities", 1, "errors", lambda e: replace(e, product=nan)),
    ("value-functional-zero", 0, "value_curvature", lambda x: nan),
    ("value-functional-zero", 3, "value_curvature", lambda x: nan),
    ("growth", 0, "curves", lambda norms: spoil_norms(norms, 0)),
    ("linear-attention", 0, "curves", lambda norms: spoil_norms(norms, 0)),
    ("layer-norm", 0, "curves", lambda norms: spoil_norms(norms, 0)),
    ("saturation", 0, "split_norms", lambda norms: spoil_norms(norms, 0)),
    ("temperature", 0, "split_norms", lambda norms: spoil_norms(norms, 0)),
    ("perceptron", 1, "deep_norms", lambda made: (made[0], spoil_norms(made[1], 0), made[2])),
    ("depth", 1, "deep_norms", lambda made: (made[0], spoil_norms(made[1], 0), made[2])),
]


@pytest.mark.parametrize(("name", "call", "function", "spoil"), SOURCES)
def test_what_the_claims_are_made_of(
    name: str, call: int, function: str, spoil: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One number of one call of a measurement is none."""
    theorem, calls = hessian.AttentionHessian(), []
    true = getattr(hessian, function)

    def wrong(*given: Any) -> Any:
        calls.append(1)
        return spoil(true(*given)) if len(calls) == call + 1 else true(*given)

    own = Case((1, 3, 3, 2, 2), 0)
    _ = own.scales  # the range itself is measured with curves
    for module in (hessian, hessian_evidence):
        monkeypatch.setattr(module, function, wrong, raising=False)
    s = next(s for s in theorem.statements() if s.name == name)
    assert theorem.find(s, own).verdict()[0] not in STRONG
    assert len(calls) > call
