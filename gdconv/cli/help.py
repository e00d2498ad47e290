"""`gdconv check ID --help`: what that theorem, its model and its algorithm read, and no more."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from typing import Any

from gdconv.checks.readers import FALLBACK, Readers
from gdconv.cli.defaults import default_text, judged_by, lacks_data
from gdconv.cli.parser import Parser, add_option, field_kinds, field_texts
from gdconv.support.config import GLOBAL, Config

GROUPS: dict[str, tuple[str, ...]] = {
    "theorem": ("statement",),
    "model": (
        *("model", "kernel", "heads", "head_dim", "width", "scaling", "tau_1", "loss"),
        "activation",
    ),
    "data and start": (
        *("data", "problem", "samples", "tokens", "embedding", "outputs", "target", "label_norm"),
        *("init", "scales", "margin"),
    ),
    "descent": ("algorithm", "step", "sharpness", "steps", "until_bound", "until_loss"),
    "run and output": (
        "seeds",
        "seed",
        "device",
        "dtype",
        "engine",
        "jobs",
        "out",
        "json",
        "quiet",
    ),
}
"""Fields of `Config` by group."""

MODULE_TEXTS = {
    "loss": "squared, logistic or cross-entropy",
    "data": "leave it out for the model's own, or a .npz file with X (N, ...) and y (N, ...)",
}
"""What fields mean where the model is a torch module."""

NAMED = re.compile(r" *\(default: (?:[^()]|\([^()]*\))*\)")
"""A default within a text."""

HOW = "gdconv check ID --help shows what that theorem, its model and its algorithm read."


def general_help(prog: str) -> str:
    """What every theorem reads, and how to see a theorem's own options.

    Args:
        prog: The command.

    Returns:
        The text.

    Example:
        >>> "--steps" in general_help("gdconv check"), "--heads" in general_help("gdconv check")
        (True, False)
    """
    parser = _parser(prog, "Run gradient descent and judge a theorem on it.", HOW)
    parser.usage = f"{prog} ID [options]"
    texts, kinds = field_texts(), field_kinds()
    parser.add_argument("theorem", metavar="ID", help=texts["theorem"])
    for title, names in GROUPS.items():
        group = parser.add_argument_group(title)
        for name in names:
            if name in GLOBAL:
                usual = getattr(Config(""), name)
                text = _with_default(texts[name], str(usual)) if usual else texts[name]
                add_option(group, name, kinds[name], text)
    return parser.format_help()


def check_parser(readers: Readers, given: Config, prog: str, defaults: bool = False) -> Parser:
    """The parser of one theorem's options, in groups.

    Fields that only other models read are taken, so that whoever reads the words can say why not.

    Args:
        readers: The parties of the check.
        given: Statement, model, algorithm and data, where they are given already.
        prog: The command.
        defaults: Whether help is to be shown, with every default.

    Returns:
        The parser.

    Example:
        >>> from gdconv.theory.registry import theorem_named
        >>> made = Readers.of(theorem_named("full-gd"), Config("full-gd"))
        >>> text = check_parser(made, Config("full-gd"), "gdconv check", True).format_help()
        >>> "--heads" in text, "--width" in text
        (True, False)
    """
    theorem = readers.theorem
    lines = examples(readers, given, prog) if defaults else []
    epilog = "\n".join(["examples:", *(f"  {line}" for line in lines)])
    about = f"{theorem.title} ({theorem.source})."
    parser = _parser(f"{prog} {theorem.id}", about, epilog if defaults else "")
    parser.usage = f"{prog} {theorem.id} [options]"
    parser.add_argument("theorem", metavar="ID", help=argparse.SUPPRESS)
    texts, kinds = (field_texts() if defaults else {}), field_kinds()
    texts |= {"statement": _statements(readers), "model": _models(readers)}
    texts |= MODULE_TEXTS if readers.kind == "module" else {}
    owned = {
        "theorem": [o.name for o in readers.by_theorem],
        "model": [o.name for o in readers.model.own] if readers.model else [],
        "descent": [o.name for o in readers.by_rule],
    }
    seen: set[str] = set()
    for title, names in GROUPS.items():
        group = parser.add_argument_group(title)
        fields = [n for n in names if n in readers.read]
        for name in (*fields, *(n for n in owned.get(title, ()) if n not in readers.read)):
            if name in seen:
                continue
            seen.add(name)
            option = readers.own.get(name)
            text = texts.get(name, "") if name in readers.read else readers.own[name].text
            if defaults and name not in ("json", "quiet"):
                text = _with_default(text, default_text(readers, name, given))
            kind = option.kind if option else kinds[name]
            add_option(group, name, kind, text, both=option is not None)
    for name in kinds.keys() - seen - {"theorem"}:
        add_option(parser, name, kinds[name], argparse.SUPPRESS)
    return parser


def examples(readers: Readers, given: Config, prog: str = "gdconv check") -> list[str]:
    """Two command lines that run.

    Args:
        readers: The parties of the check.
        given: What is given already; it stands in both.
        prog: The command.

    Returns:
        The lines.

    Example:
        >>> from gdconv.theory.registry import theorem_named
        >>> made = Readers.of(theorem_named("full-gd"), Config("full-gd"))
        >>> examples(made, Config("full-gd"))[0]
        'gdconv check full-gd --statement per-head'
    """
    default = judged_by(readers, given)
    spoken = readers.statements(given.kernel or FALLBACK["kernel"])
    other = next((s for s in spoken if s.name != default.name), default)
    words = [prog, readers.theorem.id]
    for name in ("model", "algorithm", "data", "kernel"):
        value = getattr(given, name)
        words += [f"--{name}", value] if value else []
    for name, option in readers.own.items():
        if option.required:
            words += [option.flag, {"int": "1", "float": "1.0", "bool": ""}.get(option.kind, name)]
    if "data" in readers.read and not given.data and lacks_data(readers):
        words += ["--data", "FILE.npz"]
    first = [*words, "--statement", default.name]
    second = [*words, "--statement", given.statement or other.name]
    own = next((o for o in readers.own.values() if _plain(o.default)), None)
    second += [own.flag, str(own.default)] if own else []
    return [" ".join(line).rstrip() for line in (first, [*second, "--seed", "1", "--out", "runs"])]


def _plain(default: Any) -> bool:
    return isinstance(default, int | float) and not isinstance(default, bool)


def _parser(prog: str, about: str, epilog: str) -> Parser:
    return Parser(
        prog=prog, description=about.replace("%", "%%"), epilog=epilog.replace("%", "%%"),
        formatter_class=_Formatter,
    )  # fmt: skip


class _Formatter(argparse.HelpFormatter):
    """As argparse, but lines of examples stay lines."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith("examples:"):
            return text
        return super()._fill_text(text, width, indent)


def _with_default(text: str, default: str) -> str:
    """The text with this default in the place of the one that it names."""
    bare = NAMED.sub("", text)
    return f"{bare} (default: {default})" if default else bare


def _statements(readers: Readers) -> str:
    spoken = readers.statements(None)
    return f"statement the verdict speaks of: {', '.join(s.name for s in spoken)}"


def _models(readers: Readers) -> str:
    module = "package.module:name of a torch module or of what makes one"
    return ", ".join(module if m == "module" else m for m in readers.theorem.models)


def glance(found: Mapping[str, Any]) -> Config:
    """What the first look at a command line tells of the parties.

    Args:
        found: Words by name.

    Returns:
        Theorem, statement, model, algorithm, data and kernel alone.

    Raises:
        InputError: One of them is blank.

    Example:
        >>> glance({"theorem": "full-gd", "statement": "run", "steps": "5"}).statement
        'run'
    """
    names = ("statement", "model", "algorithm", "data", "kernel")
    words = {name: found[name] for name in names if found.get(name) is not None}
    return Config.of(found["theorem"], words)
