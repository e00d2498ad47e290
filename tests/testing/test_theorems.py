"""Our own theorems meet the contract of theorems; every check has a theorem that breaks it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest

import gdconv
from gdconv.gallery.full_gd import LAZY, FullGD
from gdconv.support.config import Config
from gdconv.support.errors import InputError
from gdconv.testing import ContractError, check_theorem, theorem_checks
from gdconv.theory.claims import ClaimTheorem, Finding
from gdconv.theory.registry import registry, theorem_named
from gdconv.theory.theorem import Inequality, Prediction, Theorem, statement

SMALL: dict[str, dict[str, Any]] = {
    "full-gd": {"problem": "stacked-aligned", "statement": "per-head", "seed": 1},
    "query-gd": {
        "samples": 2, "tokens": 2, "embedding": 6, "head_dim": 3, "heads": 2, "steps": 200,
    },
    "ntk-regime": {
        "samples": 2, "tokens": 2, "embedding": 6, "width": 32, "statement": "run", "steps": 50,
    },
    "generic-gd": {"steps": 50},
}  # fmt: skip
TOLD = {
    "full-gd": "",
    "query-gd": "nothing was tested: without the planted rate the verdict is vacuous",
    "ntk-regime": "nothing was tested: run speaks of a finished run, not of a rate",
    "generic-gd": "nothing was tested: run speaks of a finished run, not of a rate",
}
QUICK = ("identity", "statements", "default", "options")


@pytest.mark.parametrize(("name", "check"), [
    pytest.param(name, pair, id=f"{name}-{pair[0]}")
    for name, options in SMALL.items()
    for pair in theorem_checks(name, **options)
])  # fmt: skip
def test_our_own_theorems(name: str, check: Any) -> None:
    key, run = check
    assert run() == (TOLD[name] if key == "planted" else "")


@pytest.mark.parametrize("name", sorted(registry()))
def test_what_needs_no_run_holds_for_every_registered_theorem(name: str) -> None:
    for key, check in theorem_checks(theorem_named(name)):
        if key in QUICK:
            assert check() == ""


class Toy(Theorem):
    """Sound and unregistered: Theorem A of full-gd under another name."""

    id, title, source = "toy", "A toy", "none"

    @statement("only", proof="none", default=True, defaults=LAZY)
    def only(self, start: Any) -> Prediction:
        """What full-gd says, per head."""
        proved = FullGD()
        made: Prediction = proved.predict(proved.statement_named("per-head"), start)
        return made


SETTING = {"problem": "stacked-aligned", "seed": 1}


def test_a_class_that_is_registered_nowhere() -> None:
    assert check_theorem(Toy, **SETTING) == []
    with pytest.raises(InputError, match="theorem = toy"):
        gdconv.check("toy")


class Claims(ClaimTheorem):
    """Sound, without descent."""

    id, title, source = "toy-claims", "A toy", "none"
    reads: ClassVar[dict[str, Any]] = {"samples": 3}

    def case(self, config: Config, seed: int) -> Any:
        return np.random.default_rng(seed).standard_normal(int(config.samples or 3))

    @statement("squares", proof="squares are not negative", default=True)
    def squares(self, case: Any) -> Finding:
        """No square is negative."""
        return Finding((Inequality("sum of squares", float((case**2).sum()), ">=", 0.0),))


def test_a_theorem_without_descent() -> None:
    told = check_theorem(Claims(), samples=5)
    assert told == ["planted: nothing was tested: it predicts no rate"]


def with_prediction(**change: Any) -> type[Theorem]:
    """Toy whose prediction is changed."""

    class Changed(Toy):
        def predict(self, s: Any, start: Any, outcome: Any = None) -> Any:
            made = super().predict(s, start, outcome)
            return replace(made, **{k: v(made) for k, v in change.items()})

    return Changed


class NoTitle(Toy):
    title = " "


class Taken(Toy):
    id = "full-gd"


class Undocumented(Toy):
    @statement("more", proof="none")
    def more(self, start: Any) -> Any:
        return self.only(start)


class Unproved(Toy):
    @statement("more", proof="")
    def more(self, start: Any) -> Any:
        """More."""
        return self.only(start)


class Doubled(Toy):
    @statement("only", proof="none")
    def more(self, start: Any) -> Any:
        """More."""
        return self.only(start)


class TwoDefaults(Toy):
    @statement("more", proof="none", default=True)
    def more(self, start: Any) -> Any:
        """More."""
        return self.only(start)


class NoSuchOption(Toy):
    @statement("more", proof="none", defaults={"*": {"stepz": 3}})
    def more(self, start: Any) -> Any:
        """More."""
        return self.only(start)


class ReadsNothingThatExists(Claims):
    reads: ClassVar[dict[str, Any]] = {"sample": 3}


class NoPrediction(Claims):
    def find(self, s: Any, case: Any) -> Any:
        return replace(super().find(s, case), claims=(Inequality("x", True, ">=", 0.0),))


class Drawn(Claims):
    """Its cases come from another source than their seed."""

    drawn: ClassVar[list[int]] = [0]

    def case(self, config: Config, seed: int) -> Any:
        self.drawn[0] += 1
        return np.ones(2) if self.drawn[0] % 2 else np.full(2, np.nan)


BROKEN: dict[str, tuple[type[Theorem], set[str]]] = {
    "identity, title": (NoTitle, {"identity"}),
    "identity, id": (Taken, {"identity"}),
    "statements, docstring": (Undocumented, {"statements"}),
    "statements, proof": (Unproved, {"statements"}),
    "statements, names": (Doubled, {"statements"}),
    "default": (TwoDefaults, {"default"}),
    "options": (NoSuchOption, {"options"}),
    "hypotheses, side": (NoPrediction, {"hypotheses"}),
    "predictions, rate": (
        with_prediction(rate=lambda p: float("nan"), note=lambda p: ""), {"predictions"},
    ),
    "predictions, step": (with_prediction(max_step=lambda p: -1.0), {"predictions"}),
    "hypotheses, name": (
        with_prediction(hypotheses=lambda p: (Inequality(" ", 2.0, ">=", 1.0),)), {"hypotheses"},
    ),
    "reproducible": (Drawn, {"reproducible"}),
}  # fmt: skip
LIKELY = {
    "predictions, step": {"predictions", "hypotheses", "reproducible", "replay", "planted"},
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_fault_fails_its_checks(fault: str) -> None:
    made, wanted = BROKEN[fault]
    failed, options = set(), {} if issubclass(made, ClaimTheorem) else SETTING
    looked = {*QUICK} if options and wanted <= {*QUICK} else {*QUICK, "predictions", "hypotheses"}
    looked |= {"reproducible", "replay", "planted"} if not options else set()
    for name, check in theorem_checks(made, **options):
        if name not in looked:
            continue
        try:
            check()
        except (ContractError, InputError):
            failed.add(name)
    assert wanted <= failed
    assert failed <= LIKELY.get(fault, wanted)


def test_options_of_cases_that_do_not_exist() -> None:
    with pytest.raises(ContractError, match="toy-claims .* check options: .* option sample"):
        dict(theorem_checks(ReadsNothingThatExists))["options"]()


@pytest.mark.parametrize("given", [3, object(), int])
def test_no_theorem(given: Any) -> None:
    with pytest.raises(InputError, match="give a Theorem"):
        check_theorem(given)


def test_an_unknown_id() -> None:
    with pytest.raises(InputError, match="theorem = full-gdd"):
        check_theorem("full-gdd")
