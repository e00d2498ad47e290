"""What an option is where it is not given: by statement and by data, in a few words."""

from __future__ import annotations

from typing import Any

from gdconv.checks.readers import FALLBACK, Readers
from gdconv.models.reads import READS
from gdconv.support.config import GLOBAL, Config

UNSET = {
    **{"problem": "none", "until_bound": "not", "until_loss": "not", "out": "nothing is saved"},
    **{"label_norm": "as they are", "scales": "1,1,1,1", "algorithm": "gd"},
    **dict.fromkeys(("samples", "tokens", "embedding"), "that of the data"),
    "sharpness": "with --step local",
    "jobs": "this process",
    "tau_1": "1/sqrt(d_m) for init ntk, else 1",
}
"""What None means, by field."""

WHERE = {
    "target": "with data digits",
    "margin": "with init theorem",
    "scales": "with init normal or paired",
}
"""Where alone a field is read."""


def default_text(readers: Readers, name: str, given: Config) -> str:
    """The default of an option: one value, or values by data and by statement.

    Args:
        readers: The parties of the check.
        name: Field or own option.
        given: What is given already; its statement and data count.

    Returns:
        A few words; "" for an option that must be given.

    Example:
        >>> from gdconv.theory.registry import theorem_named
        >>> made = Readers.of(theorem_named("full-gd"), Config("full-gd"))
        >>> default_text(made, "head_dim", Config("full-gd"))
        '4 with data gaussian, else 8; run: 8'
    """
    option = readers.own.get(name)
    if option.required if option else name == "data" and lacks_data(readers):
        return ""
    spoken = readers.statements(None)
    judged = judged_by(readers, given)
    others = (
        [] if given.statement or name == "statement" else [s for s in spoken if s is not judged]
    )
    own = _by_data(readers, name, judged, given)
    texts: dict[str, list[str]] = {}
    for s in others:
        texts.setdefault(_by_data(readers, name, s, given), []).append(s.name)
    texts.pop(own, None)
    more = [f"{', '.join(names)}: {text}" for text, names in texts.items()]
    where = f", {WHERE[name]}" if name in WHERE and name in readers.read else ""
    return "; ".join([own, *more]) + where


def lacks_data(readers: Readers) -> bool:
    """Whether the model is a torch module that brings no data: they must be given."""
    return readers.kind == "module" and not readers.defaults.get("data")


def judged_by(readers: Readers, given: Config) -> Any:
    """The statement that the verdict would speak of."""
    spoken = readers.statements(given.kernel or FALLBACK["kernel"])
    usual = next((s for s in spoken if s.default), spoken[0])
    return next((s for s in readers.statements(None) if s.name == given.statement), usual)


def _by_data(readers: Readers, name: str, s: Any, given: Config) -> str:
    """The values of one statement, those of the data sets that it knows apart from the others."""
    if given.data:
        return _value(readers, name, s, given.data)
    known = [k for k in s.defaults if k not in ("*", readers.kind, *READS)]
    usual = s.defaults.get("*", {}).get("data") or FALLBACK["data"]
    rest = _value(readers, name, s, "")
    apart: dict[str, list[str]] = {}
    for source in sorted(known, key=lambda k: k != usual):
        apart.setdefault(_value(readers, name, s, source), []).append(source)
    apart.pop(rest, None)
    said = [f"{value} with data {' or '.join(sources)}" for value, sources in apart.items()]
    return ", ".join([*said, f"else {rest}" if said else rest])


def _value(readers: Readers, name: str, s: Any, source: str) -> str:
    """The value of one statement under one data set, as words."""
    if name in ("statement", "model"):
        return str(s.name if name == "statement" else readers.name)
    cases = getattr(readers.theorem, "reads", None)
    option = readers.own.get(name)
    usual = option.default if option else getattr(Config(""), name)
    layers = [
        s.defaults.get(source, {}), s.defaults.get(readers.kind, {}), s.defaults.get("*", {}),
        readers.declared, readers.defaults, FALLBACK if cases is None else cases, {name: usual},
    ]  # fmt: skip
    if option and name not in readers.read:
        layers = [*layers[:3], {name: usual}]
    found = next((layer[name] for layer in layers if layer.get(name) is not None), None)
    if found is None:
        if option is not None:
            return "none"
        theirs = cases is not None and name not in GLOBAL
        return "left to the theorem" if theirs else UNSET.get(name, "none")
    return {True: "yes", False: "no"}[found] if isinstance(found, bool) else str(found)
