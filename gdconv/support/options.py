"""Options that belong to whoever reads them: what a signature declares becomes an option.

A theorem's `Options`, a model or an algorithm is called with values for its keyword parameters; the
simple ones among them (int, float, str, bool, each also None) are its own options.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from math import isfinite
from os import PathLike, fspath
from typing import Any

from gdconv.support.errors import InputError

KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "str": ((str,), "give text"),
    "int": ((int,), "give a whole number"),
    "float": ((int, float), "give a number"),
    "bool": ((bool,), "give True or False"),
}
"""Simple types by name, and what to say of a value of another one."""

SIMPLE = re.compile(
    r"(?:typing\.)?Optional\[(int|float|str|bool)\]"
    r"|(?:None *\| *)?(int|float|str|bool)(?: *\| *None)?"
)
"""Annotations of a simple type, None among its values or not."""


@dataclass(frozen=True)
class Option:
    """One option of somebody's own.

    Attributes:
        name: Its name in Python; the command line has dashes for underscores.
        kind: int, float, str or bool.
        party: Who declares it, for errors.
        default: Value where none is given.
        optional: Whether None may be given.
        required: Whether there is no default.
        text: What it means.
    """

    name: str
    kind: str
    party: str
    default: Any = None
    optional: bool = False
    required: bool = False
    text: str = ""

    @property
    def flag(self) -> str:
        """Its name on the command line."""
        return f"--{self.name.replace('_', '-')}"

    def checked(self, value: Any) -> Any:
        """The value, if it is of the kind; what a file of JSON cannot hold is refused.

        Args:
            value: What was given.

        Returns:
            The value, a float where one is declared.

        Raises:
            InputError: It is of another kind, or not finite.

        Example:
            >>> Option("width", "int", "model net").checked(2.5)
            Traceback (most recent call last):
            gdconv.support.errors.InputError: width = 2.5: give a whole number.
            >>> Option("rate", "float", "model net").checked(2)
            2.0
        """
        value = plain(value)
        if value is None and self.optional:
            return None
        require_kind(self.name, value, self.kind)
        if self.kind != "float":
            return value
        if abs(value) > 1e308 or not isfinite(value):
            raise InputError(self.name, value, "give a finite number")
        return float(value)


def plain(value: Any) -> Any:
    """A NumPy scalar as Python's, a path as text; anything else as it is."""
    if isinstance(value, PathLike):
        return fspath(value)
    if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
        return value.item()
    return value


def require_kind(name: str, value: Any, kind: str) -> None:
    """Refuse a value of another type than its option has.

    Args:
        name: Name of the option.
        value: What was given.
        kind: int, float, str or bool.

    Raises:
        InputError: The type is another one, or the text is blank.

    Example:
        >>> require_kind("steps", "many", "int")
        Traceback (most recent call last):
        gdconv.support.errors.InputError: steps = many: give a whole number.
    """
    types, remedy = KINDS[kind]
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise InputError(name, value, remedy)
    if isinstance(value, str) and not value.strip():
        raise InputError(name, value, "give a value, or leave it out")


def options_of(maker: Callable[..., Any], party: str) -> tuple[Option, ...]:
    """The options that a class or function declares: its keyword parameters of simple types.

    Args:
        maker: Called with the values by name; the fields of a dataclass are its parameters.
        party: Who that is, for errors.

    Returns:
        Options in the order of the parameters; others need a default, and keep it.

    Raises:
        InputError: A default is not of the type that is declared.

    Example:
        >>> def net(width: int = 8, rate: float | None = None, act: type = int): ...
        >>> [(o.name, o.kind, o.default, o.optional) for o in options_of(net, "net")]
        [('width', 'int', 8, False), ('rate', 'float', None, True)]
    """
    try:
        parameters = inspect.signature(maker).parameters.values()
    except (TypeError, ValueError):  # written in C
        return ()
    texts = _texts(maker)
    found = []
    for p in parameters:
        kind, optional = _kind(p)
        if not kind or p.name.startswith("_") or p.kind in (p.POSITIONAL_ONLY, p.VAR_POSITIONAL):
            continue
        missing = p.default is p.empty
        made = Option(
            p.name, kind, party, None if missing else p.default,
            optional or p.default is None, missing, texts.get(p.name, ""),
        )  # fmt: skip
        types = KINDS[kind][0]
        wrong = not isinstance(made.default, types) or (
            isinstance(made.default, bool) and kind != "bool"
        )
        if made.default is not None and wrong:
            remedy = f"mend the default in {party}: {p.name} is declared as {kind}"
            raise InputError(p.name, made.default, remedy)
        found.append(made)
    return tuple(found)


def _kind(p: inspect.Parameter) -> tuple[str, bool]:
    """Simple type of a parameter, or ""; and whether None may be given."""
    if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
        return "", False
    if p.annotation is p.empty:
        kind = type(p.default).__name__
        return (kind if kind in KINDS else ""), False
    said = p.annotation
    text = said if isinstance(said, str) else said.__name__ if isinstance(said, type) else str(said)
    match = SIMPLE.fullmatch(text.strip())
    return (match[1] or match[2], "None" in text or "Optional" in text) if match else ("", False)


def _texts(maker: Callable[..., Any]) -> dict[str, str]:
    """What a docstring says of names, in lines `name: text`, deeper lines go on."""
    texts: dict[str, str] = {}
    name, depth = "", 0
    for line in (inspect.getdoc(maker) or "").splitlines():
        inset = len(line) - len(line.lstrip())
        match = re.fullmatch(r"\s*(\w+)(?: \([^)]*\))?: (\S.*)", line)
        if name and line.strip() and inset > depth:
            texts[name] += " " + line.strip()
        elif match:
            name, depth = match[1], inset
            texts[name] = match[2]
        else:
            name = ""
    return {name: text.rstrip(".") for name, text in texts.items()}


def merged(
    declared: Iterable[Option],
    shared: Mapping[str, str],
    reserved: Mapping[str, str],
    owner: str = "gdconv",
) -> dict[str, Option]:
    """All own options of one check by name; two readers may share a name of one type.

    Args:
        declared: Options of every party; of a shared one the first default counts.
        shared: Kind by name of gdconv's own options that the same check reads.
        reserved: What a name means, for names that nobody may declare.
        owner: Who reads the shared ones.

    Returns:
        Options by name.

    Raises:
        InputError: A name is reserved, or declared with two types.

    Example:
        >>> a, b = Option("width", "int", "model net"), Option("width", "float", "theorem slow")
        >>> merged([a, b], {}, {})
        Traceback (most recent call last):
        gdconv.support.errors.InputError: option = width: rename it in theorem slow, or declare it
        as int there: it is one of model net.
    """
    found: dict[str, Option] = {}
    for option in declared:
        name, party = option.name, option.party
        if name in reserved:
            raise InputError("option", name, f"rename it in {party}: it is {reserved[name]}")
        other = found.get(name)
        kind, whose = (other.kind, other.party) if other else (shared.get(name), owner)
        if kind not in (None, option.kind):
            remedy = f"rename it in {party}, or declare it as {kind} there: it is one of {whose}"
            raise InputError("option", name, remedy)
        if other:
            joint = other.optional and option.optional
            option = replace(other, optional=joint, required=other.required and option.required)
        found[name] = option
    for name, option in found.items():
        denied = found.get(f"no_{name}")
        if option.kind == "bool" and denied:
            remedy = f"rename it in {denied.party}: it would deny {name} of {option.party}"
            raise InputError("option", denied.name, remedy)
    return found
