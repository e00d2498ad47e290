"""What a theorem's file says of its options, read without importing it: help needs no torch.

Only what is plainly written is taken: a class derived from `Theorem` or `ClaimTheorem` of gdconv,
whose attributes and statements are constants. Of anything else there is no outline, and whoever
asks imports the theorem.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import Any, ClassVar

from gdconv.theory.registry import source_of

FACTS = ("title", "source", "models", "reads", "algorithms")
"""Attributes of a theorem's class that an outline has too."""

OTHER = {"Options", "algorithm", "statements", "statement_named"}
"""Attributes that only an import can tell."""


@dataclass(frozen=True)
class Line:
    """A statement, as `gdconv.theory.theorem.Statement` has it, but for what it predicts."""

    name: str
    default: bool = False
    posterior: bool = False
    defaults: dict[str, dict[str, Any]] = field(default_factory=dict)
    kernel: str | None = None
    model: str | None = None
    algorithm: str | None = None
    claims: bool = False
    summary: str = ""
    proof: str = ""

    def speaks_of(
        self, kernel: str | None, model: str | None, algorithm: str | None = None
    ) -> bool:
        """Whether it is about that kernel, model and algorithm; None is any."""
        pairs = ((kernel, self.kernel), (model, self.model), (algorithm, self.algorithm))
        return all(None in (asked, own) or asked == own for asked, own in pairs)


@dataclass(frozen=True)
class Outline:
    """A theorem without its mathematics.

    Attributes:
        id: Its id.
        title: One line.
        source: Paper.
        models: Models it speaks of.
        algorithms: Algorithms that may be chosen.
        reads: What the cases of a theorem without descent depend on; None for one with descent.
        lines: Its statements.
    """

    id: str
    title: str = ""
    source: str = ""
    models: tuple[str, ...] = ("multihead",)
    algorithms: tuple[str, ...] | None = ()
    reads: dict[str, Any] | None = None
    lines: tuple[Line, ...] = ()
    Options: ClassVar[None] = None
    algorithm: ClassVar[None] = None

    def statements(
        self, kernel: str | None = None, model: str | None = None, algorithm: str | None = None
    ) -> list[Line]:
        """Its statements that speak of that kernel, model and algorithm."""
        return [line for line in self.lines if line.speaks_of(kernel, model, algorithm)]


def outline(name: str) -> Outline | None:
    """The outline of a theorem.

    Args:
        name: Its id.

    Returns:
        The outline; None where the theorem must be imported, or there is none.

    Example:
        >>> found = outline("full-gd")
        >>> found.models, [line.name for line in found.statements()][:2]
        (('multihead',), ['stacked', 'per-head'])
    """
    file = source_of(name)
    try:
        return None if file is None else _read(ast.parse(file.read_bytes()), name)
    except Exception:  # not plainly written, whatever it is: an import says what is wrong
        return None


def _read(tree: ast.Module, name: str) -> Outline | None:
    known: dict[str, Any] = {"__builtins__": {}}
    ours: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("gdconv.theory."):
            ours |= {alias.asname or alias.name: alias.name for alias in node.names}
        for target, value in _assigned(node):
            try:
                known[target] = _value(value, known)
            except Exception:  # no constant: what needs it will fail in turn
                known.pop(target, None)
        if isinstance(node, ast.ClassDef):
            inside = [pair for line in node.body for pair in _assigned(line)]
            if any(t == "id" and getattr(v, "value", None) == name for t, v in inside):
                return _theorem(node, dict(inside), name, known, ours)
    return None


def _theorem(
    made: ast.ClassDef, inside: dict[str, ast.expr], name: str, known: dict[str, Any],
    ours: dict[str, str],
) -> Outline | None:  # fmt: skip
    bases = [ours.get(getattr(base, "id", "")) for base in made.bases]
    methods = [f for f in made.body if isinstance(f, ast.FunctionDef)]
    named = {*inside, *(f.name for f in methods)}
    named |= {c.name for c in made.body if isinstance(c, ast.ClassDef)}
    if bases not in (["Theorem"], ["ClaimTheorem"]) or named & OTHER or made.decorator_list:
        return None
    facts = {fact: _value(inside[fact], known) for fact in FACTS if fact in inside}
    if bases == ["ClaimTheorem"]:
        facts = {"models": (), "reads": {}} | facts
    lines = []
    for method in methods:
        for call in method.decorator_list:
            if (
                not isinstance(call, ast.Call)
                or ours.get(getattr(call.func, "id", "")) != "statement"
            ):
                return None
            said = {str(k.arg): _value(k.value, known) for k in call.keywords}
            summary = (ast.get_docstring(method) or "").split("\n")[0]
            lines.append(Line(_value(call.args[0], known), summary=summary, **said))
    return Outline(name, lines=tuple(lines), **facts)


def _assigned(node: ast.stmt) -> list[tuple[str, ast.expr]]:
    """Names and values of an assignment, also of several names at once."""
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
        return [(node.target.id, node.value)]
    if not isinstance(node, ast.Assign):
        return []
    found = []
    for target in node.targets:
        if isinstance(target, ast.Name):
            found.append((target.id, node.value))
        elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            pairs = zip(target.elts, node.value.elts, strict=False)
            found += [(t.id, v) for t, v in pairs if isinstance(t, ast.Name)]
    return found


def _value(node: ast.expr, known: dict[str, Any]) -> Any:
    """An expression of constants; a name that is none raises."""
    return eval(compile(ast.Expression(node), "constant", "eval"), dict(known))
