"""What a theorem's file says of it, read without importing it: help and lists need no torch.

Only what is plainly written is taken: a class derived from `Theorem` or `ClaimTheorem` of gdconv,
whose attributes and statements are constants. Of anything else there is no outline, and whoever
asks imports the theorem.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

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


def outline_in(file: Path, name: str) -> Outline | None:
    """The outline of a theorem.

    Args:
        file: The file in which it is written.
        name: Its id.

    Returns:
        The outline; None where the theorem must be imported, or there is none.

    Example:
        >>> from gdconv.theory.registry import source_of
        >>> found = outline_in(source_of("full-gd"), "full-gd")
        >>> found.models, [line.name for line in found.statements()][:2]
        (('multihead',), ['stacked', 'per-head'])
    """
    try:
        read = _read(ast.parse(file.read_bytes()))
    except (OSError, SyntaxError, ValueError):  # an import says what is wrong
        return None
    return next((found for known, found in read if known == name), None)


def outlines_in(file: Path) -> list[Outline] | None:
    """The outlines of every theorem of a file.

    Args:
        file: A Python file.

    Returns:
        The outlines; None where an import could tell of more theorems, of others or of a fault.

    Example:
        >>> from gdconv.theory.registry import source_of
        >>> [found.id for found in outlines_in(source_of("full-gd"))]
        ['full-gd']
        >>> outlines_in(Path(__file__)) is None
        True
    """
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):  # an import says what is wrong
        return None
    found = [made for _, made in _read(tree)]
    told = [made for made in found if made is not None]
    return told if told and len(told) == len(found) == _possible(tree) else None


def _possible(tree: ast.Module) -> int:
    """How many classes of a file may be theorems; -1 where reading it cannot tell."""
    inside = [node for line in tree.body for node in ast.walk(line) if node is not line]
    calls = [node for node in inside if isinstance(node, ast.Call)]
    made = any(getattr(call.func, "id", "") == "type" and len(call.args) > 1 for call in calls)
    nested = any(isinstance(node, ast.ClassDef) for node in inside)
    if made or nested or not all(map(_declares, tree.body)):
        return -1
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    return sum(bool(node.bases) for node in classes)


def _declares(line: ast.stmt) -> bool:
    """Whether a line of a module does no more than name something."""
    if isinstance(line, ast.If):  # __name__ == "__main__", TYPE_CHECKING
        test = line.test.left if isinstance(line.test, ast.Compare) else line.test
        return getattr(test, "id", "") in ("__name__", "TYPE_CHECKING")
    if isinstance(line, ast.Expr):  # a docstring
        return isinstance(line.value, ast.Constant)
    if isinstance(line, ast.ImportFrom):
        return all(alias.name != "*" for alias in line.names)
    if isinstance(line, ast.Assign | ast.AnnAssign):
        targets = line.targets if isinstance(line, ast.Assign) else [line.target]
        return all(isinstance(target, ast.Name | ast.Tuple) for target in targets)
    return isinstance(line, ast.Import | ast.FunctionDef | ast.ClassDef)


def _read(tree: ast.Module) -> list[tuple[str, Outline | None]]:
    """Every id that a class of the file gives itself, with the outline where there is one."""
    read: list[tuple[str, Outline | None]] = []
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
            inside = dict(pair for line in node.body for pair in _assigned(line))
            name = getattr(inside.get("id"), "value", None)
            if isinstance(name, str):
                try:
                    read.append((name, _theorem(node, inside, name, known, ours)))
                except Exception:  # not plainly written, whatever it is
                    read.append((name, None))
    return read


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
