"""The contract of a theorem: `check_theorem` runs it at once, `theorem_checks` one test each.

identity      id, title, source are there, and no registered theorem of another class has the id
statements    names differ, each has a summary and says where its proof stands
default       for every kernel and model exactly one statement is the default
options       the options of its defaults, and those it reads, exist
predictions   what its statements give is of the right types, with finite rates or a reason
hypotheses    each has a name and two sides that are numbers
reproducible  a second run gives the same verdicts
replay        saved, loaded and replayed it gives the same verdicts
planted       a rate three times as large changes the verdict, or the note says that none is tested
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache, cached_property
from math import isfinite
from tempfile import TemporaryDirectory
from typing import Any

from gdconv.checks.readers import Readers
from gdconv.checks.replay import differences, replay
from gdconv.checks.result import Check as Result
from gdconv.checks.result import load
from gdconv.checks.run import check
from gdconv.rigor.arithmetic import times
from gdconv.rigor.rounding import Enclosure
from gdconv.support.config import Config
from gdconv.support.errors import InputError
from gdconv.support.trust import Estimate, Interval
from gdconv.testing.contract import Check, listed, require
from gdconv.theory.claims import ClaimTheorem, Finding
from gdconv.theory.prediction import Inequality, Prediction
from gdconv.theory.registry import registry, theorem_named, tried
from gdconv.theory.theorem import Statement, Theorem

FACTOR = 3
"""By how much the rate is planted too large."""

RELATIONS = (">=", ">", "<=", "<")


def check_theorem(theorem: Any, **options: Any) -> list[str]:
    """Every check of a theorem's contract; the first that is not met is raised.

    Args:
        theorem: A theorem, its class (registered or not), or an id.
        **options: As for `gdconv.check`: the smallest setting on which it says something.

    Returns:
        Notes, such as that no rate was tested.

    Raises:
        ContractError: A check is not met; the sentence names the theorem and the check.
        InputError: No theorem, or an option that cannot be used.

    Example:
        >>> check_theorem("full-gd", problem="stacked-witness")
        ['planted: nothing was tested: without the planted rate the verdict is refuted']
    """
    __tracebackhide__ = True
    notes = [(name, run()) for name, run in theorem_checks(theorem, **options)]
    return [f"{name}: {note}" for name, note in notes if note]


def theorem_checks(theorem: Any, **options: Any) -> list[tuple[str, Callable[[], str]]]:
    """The same as pairs (name, function of no arguments), for `pytest.mark.parametrize`.

    Args:
        theorem: A theorem, its class or an id.
        **options: As for `gdconv.check`.

    Returns:
        The checks in the order of the module's docstring; each returns a note or "".

    Raises:
        InputError: No theorem.

    Example:
        >>> [name for name, _ in theorem_checks("full-gd")][:3]
        ['identity', 'statements', 'default']
    """
    made: Any = theorem
    if isinstance(theorem, str):
        made = theorem_named(theorem)
    elif isinstance(theorem, type):
        made = theorem()
    if not isinstance(made, Theorem):
        raise InputError("theorem", type(made).__name__, "give a Theorem, its class or an id")
    name = str(getattr(made, "id", type(made).__name__))
    return listed(name, cache(lambda: Subject(made, options)), CHECKS)


@dataclass(frozen=True, eq=False)
class Subject:
    """A theorem on one setting.

    Attributes:
        theorem: The theorem.
        options: Options of the check.
        made: What its statements gave, with their names, filled by `result`.
    """

    theorem: Theorem
    options: Mapping[str, Any]
    made: list[tuple[str, Any]] = field(default_factory=list)

    @cached_property
    def result(self) -> Result:
        """The check, with everything that the statements gave kept."""
        made: list[tuple[str, Any]] = self.made
        kind: Any = type(self.theorem)

        def predict(theorem: Any, s: Statement, *args: Any) -> Any:
            found = kind.predict(theorem, s, *args)
            made.append((s.name, found))
            return found

        def find(theorem: Any, s: Statement, case: Any) -> Any:
            found = kind.find(theorem, s, case)
            made.append((s.name, found))
            return found

        claims = isinstance(self.theorem, ClaimTheorem)
        return self.run(find=find) if claims else self.run(predict=predict)

    def run(self, **methods: Any) -> Result:
        """A check of the theorem with some of its methods replaced."""
        theorem = copy.copy(self.theorem)
        kind = type(theorem)
        theorem.__class__ = type(kind.__name__, (kind,), {"__module__": kind.__module__, **methods})
        with tried(theorem):
            return check(theorem.id, **self.options)


def _identity(s: Subject) -> str:
    for name in ("id", "title", "source"):
        text = getattr(s.theorem, name, None)
        require(isinstance(text, str) and bool(text.strip()), f"its {name} is missing")
    fine = s.theorem.id.replace("-", "").replace("_", "").isalnum()
    require(fine and s.theorem.id.isascii(), "its id has other signs than letters, digits and -")
    other = registry().get(s.theorem.id)
    same = other is None or type(other).__qualname__ == type(s.theorem).__qualname__
    require(same, f"{type(other).__qualname__} is registered under the same id")
    return ""


def _statements(s: Subject) -> str:
    known = s.theorem.statements()
    require(bool(known), "it has no statement: decorate a method with @statement")
    names = [k.name for k in known]
    twice = sorted({n for n in names if names.count(n) > 1})
    require(not twice, f"two statements are called {', '.join(twice)}")
    for k in known:
        require(bool(k.name.strip()), "a statement has no name")
        require(bool(k.summary), f"statement {k.name} has no docstring")
        require(bool(k.proof.strip()), f"statement {k.name} does not say where its proof stands")
    return ""


def _default(s: Subject) -> str:
    known = s.theorem.statements()
    kernels = {k.kernel for k in known} - {None} or {None}
    models = {k.model for k in known} - {None} | set(s.theorem.models) or {None}
    for kernel in sorted(kernels, key=str):
        for model in sorted(models, key=str):
            # one that speaks of a kernel or model alone goes before one that speaks of all
            spoken = s.theorem.statements(kernel, model)
            chosen = [k for k in spoken if k.default]
            own = [k for k in chosen if k.kernel or k.model]
            found = [k.name for k in own or chosen]
            where = " with ".join(str(part) for part in (model, kernel) if part)
            said = ", ".join(found) or "none"
            require(len(found) == 1, f"one statement is to be the default on {where}, not {said}")
    return ""


def _options(s: Subject) -> str:
    exist = {f.name for f in fields(Config)} - {"own"}
    read = {k: "reads" for k in getattr(s.theorem, "reads", {})}
    for k in s.theorem.statements():
        exist |= set(Readers.of(s.theorem, Config(s.theorem.id, statement=k.name)).own)
    for k in s.theorem.statements():
        for setting, values in k.defaults.items():
            read |= {o: f"the defaults of {k.name} for {setting}" for o in values}
    for name, where in read.items():
        require(name in exist, f"{where} name an option {name}, which does not exist")
    return ""


def _predictions(s: Subject) -> str:
    _ = s.result
    wanted: type = Finding if isinstance(s.theorem, ClaimTheorem) else Prediction
    require(bool(s.made), "no statement was evaluated")
    for name, made in s.made:
        kind = type(made).__name__
        require(isinstance(made, wanted), f"{name} gives a {kind}, not a {wanted.__name__}")
        if isinstance(made, Prediction):
            finite = isfinite(made.rate_lo) and isfinite(made.rate_hi)
            silent = any(h.holds is not True for h in made.hypotheses)
            require(
                finite or silent or bool(made.note),
                f"the rate of {name} is {made.rate_hi}, although its hypotheses hold",
            )
            step = made.max_step
            require(
                step is None or bool(step > 0), f"max_step of {name} is {step}: give None or more"
            )
    return ""


def _hypotheses(s: Subject) -> str:
    _ = s.result
    for name, made in s.made:
        for h in (*made.hypotheses, *made.claims):
            kind = type(h).__name__
            require(isinstance(h, Inequality), f"{name} assumes a {kind}, not an Inequality")
            require(bool(h.name.strip()), f"a hypothesis of {name} has no name")
            require(h.relation in RELATIONS, f"{h.name}: {h.relation} is none of {RELATIONS}")
            for side in (h.lhs, h.rhs):
                number = isinstance(side, int | float | Enclosure | Interval | Estimate)
                require(
                    number and not isinstance(side, bool),
                    f"{name}: a side of '{h.name}' is {side!r}, not a number",
                )
    return ""


def _reproducible(s: Subject) -> str:
    lines = differences(s.result, s.run())
    require(not lines, f"a second run differs: {'; '.join(lines)}")
    return ""


def _replay(s: Subject) -> str:
    memory = {k: v for k, v in s.options.items() if k in ("model", "loss") and type(v) is not str}
    with TemporaryDirectory(prefix="gdconv-") as folder, tried(s.theorem):
        saved = load(s.result.save(folder))
        lines = differences(s.result, saved)
        require(not lines, f"saved and loaded it differs: {'; '.join(lines)}")
        lines = differences(saved, replay(saved, **memory))
    require(not lines, f"a replay differs: {'; '.join(lines)}")
    return ""


def _planted(s: Subject) -> str:
    before = s.result.verdict
    if isinstance(s.theorem, ClaimTheorem):
        return "nothing was tested: it predicts no rate"
    judged = {k.name: k for k in s.theorem.statements()}[s.result.statement]
    if judged.posterior:
        return f"nothing was tested: {judged.name} speaks of a finished run, not of a rate"
    if before != "confirmed":
        return f"nothing was tested: without the planted rate the verdict is {before}"
    kind: Any = type(s.theorem)

    def predict(theorem: Any, k: Statement, *args: Any) -> Any:
        made = kind.predict(theorem, k, *args)
        falls = made.decrease
        faster = None if falls is None else lambda eta: times(FACTOR, falls(eta))
        return replace(made, rate=times(FACTOR, made.rate), decrease=faster)

    after = s.run(predict=predict).verdict
    if after == before:
        return f"nothing was tested: a rate {FACTOR} times as large is {after} too"
    return ""


CHECKS: dict[str, Check[Subject]] = {
    "identity": _identity,
    "statements": _statements,
    "default": _default,
    "options": _options,
    "predictions": _predictions,
    "hypotheses": _hypotheses,
    "reproducible": _reproducible,
    "replay": _replay,
    "planted": _planted,
}
"""The checks by name."""
