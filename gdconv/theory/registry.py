"""Where theorems are found: what the entry-point group ``gdconv.theorems`` names.

An entry names a package or a module; in a package every module counts, and of a folder in it the
module `theorem`. Ids are read from the source (`id = "..."` in a class), so that one theorem is
found without importing all, and lists are made of outlines (`gdconv.theory.outline`); what cannot
be read or imported is left out and told, and breaks nothing else.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gdconv.support.choices import meant
from gdconv.support.errors import InputError, cause
from gdconv.theory.outline import Outline, outline_in, outlines_in

if TYPE_CHECKING:
    from gdconv.theory.theorem import Theorem


_TRIED: ContextVar[Theorem | None] = ContextVar("tried", default=None)


@contextmanager
def tried(theorem: Theorem) -> Iterator[None]:
    """Within this block, and this thread, the theorem is the one with its id, registered or not.

    Args:
        theorem: The theorem.

    Yields:
        Nothing.

    Example:
        >>> with tried(theorem_named("full-gd")):
        ...     theorem_named("full-gd").id
        'full-gd'
    """
    token = _TRIED.set(theorem)
    try:
        yield
    finally:
        _TRIED.reset(token)


def packages() -> list[str]:
    """What the entry points name.

    Returns:
        Names of packages and modules, sorted, each once.

    Example:
        >>> "gdconv.gallery" in packages()
        True
    """
    return list(_named(tuple(sys.path)))


@lru_cache(maxsize=1)  # reading every installed package's entry points takes 5 ms
def _named(path: tuple[str, ...]) -> tuple[str, ...]:
    """What the entry points on that path named when they were read last."""
    return tuple(sorted({point.value for point in entry_points(group="gdconv.theorems")}))


def homes() -> tuple[dict[str, str], dict[str, str]]:
    """Where each id stands, and what cannot be read; nothing of it is imported.

    Returns:
        Module by id, and reason by package or module.

    Example:
        >>> homes()[0]["full-gd"]
        'gdconv.gallery.full_gd'
    """
    places, broken = _places()
    return {name: module for name, (module, _) in places.items()}, broken


def source_of(name: str) -> Path | None:
    """The file in which an id is written; nothing of it is imported.

    Args:
        name: A theorem's id.

    Returns:
        The file; None for an id that cannot be read, or that is only tried.

    Example:
        >>> source_of("full-gd").name
        'full_gd.py'
    """
    trying = _TRIED.get()
    if trying is not None and trying.id == name:
        return None
    place = _places(name)[0].get(name)
    return place[1] if place else None


def _places(name: str = "") -> tuple[dict[str, tuple[str, Path]], dict[str, str]]:
    """Module and file by id, and what cannot be read; of the files that quote a name."""
    found: dict[str, tuple[str, Path]] = {}
    modules, broken = _modules()
    for module, file in modules:
        try:
            changed = file.stat().st_mtime_ns
            ids = _ids(file, changed) if _quotes(_text(file, changed), name) else ()
        except (OSError, SyntaxError, ValueError) as error:
            broken[module] = cause(error)
            continue
        for known in ids:
            found.setdefault(known, (module, file))
    return dict(sorted(found.items())), broken


def outline(name: str) -> Outline | None:
    """The outline of a theorem; nothing of it is imported.

    Args:
        name: Its id.

    Returns:
        The outline; None where the theorem must be imported, or there is none.

    Example:
        >>> outline("full-gd").title
        'Full-parameter gradient descent on multi-head attention'
    """
    file = source_of(name)
    return None if file is None else outline_in(file, name)


def registry() -> dict[str, Theorem]:
    """Every theorem that can be imported.

    Returns:
        Theorems by id, sorted.

    Raises:
        InputError: Two theorems share an id.

    Example:
        >>> "full-gd" in registry()
        True
    """
    return all_theorems()[0]


def all_theorems() -> tuple[dict[str, Theorem], dict[str, str]]:
    """Every theorem, and what could not be imported.

    Returns:
        Theorems by id, sorted; reason by package or module.

    Raises:
        InputError: Two theorems share an id.

    Example:
        >>> found, broken = all_theorems()
        >>> broken
        {}
    """
    return _every(lambda module, _: _theorems_of(module))


def listed() -> tuple[dict[str, Theorem | Outline], dict[str, str]]:
    """Every theorem as its file tells of it, imported only where the file does not tell all.

    Returns:
        Theorems and outlines by id, sorted; reason by package or module that was imported in vain.

    Raises:
        InputError: Two theorems share an id.

    Example:
        >>> listed()[0]["full-gd"].models
        ('multihead',)
    """
    return _every(lambda module, file: outlines_in(file) or _theorems_of(module))


def _every(read: Callable[[str, Path], Sequence[Any]]) -> tuple[dict[str, Any], dict[str, str]]:
    """What modules and files hold by id, sorted, and what cannot be read; entry points are new."""
    _named.cache_clear()
    found: dict[str, Any] = {}
    modules, broken = _modules()
    for module, file in modules:
        try:
            made = read(module, file)
        except Exception as error:  # whatever a user's module raises
            broken[module] = cause(error)
            continue
        for theorem in made:
            if theorem.id in found:
                raise InputError("theorem", theorem.id, "give every theorem an id of its own")
            found[theorem.id] = theorem
    return dict(sorted(found.items())), broken


def theorem_named(name: str) -> Theorem:
    """The theorem with that id.

    Args:
        name: Id, as `gdconv list` prints it.

    Returns:
        The theorem.

    Raises:
        InputError: No theorem has that id, or its module cannot be imported.

    Example:
        >>> theorem_named("full-gd").id
        'full-gd'
    """
    trying = _TRIED.get()
    if trying is not None and trying.id == name:
        return trying
    place = _places(name)[0].get(name)
    if (made := _imported(name, place[0] if place else None)) is not None:
        return made
    found, broken = listed()  # an id that is computed cannot be read; entry points are read anew
    if (known := found.get(name)) is not None:
        made = _imported(name, homes()[0].get(name)) if isinstance(known, Outline) else known
        if made is not None:
            return made
    remedy = f"{meant(name, found)}choose one of {', '.join(found)}"
    if broken:
        remedy += "; left out: " + "; ".join(f"{k} ({v})" for k, v in broken.items())
    raise InputError("theorem", name, remedy)


def _imported(name: str, module: str | None) -> Theorem | None:
    """The theorem with that id of the module in whose file it is written, if it is one."""
    try:
        made = _theorems_of(module) if module else []
    except Exception as error:
        remedy = f"mend its module {module}, which cannot be imported: {cause(error)}"
        raise InputError("theorem", name, remedy) from error
    return next((theorem for theorem in made if theorem.id == name), None)


def _modules() -> tuple[list[tuple[str, Path]], dict[str, str]]:
    """Modules that may hold theorems, with their files; reason by package that cannot be opened."""
    found: list[tuple[str, Path]] = []
    broken: dict[str, str] = {}
    for package in packages():
        try:
            found += list(_modules_of(package))
        except Exception as error:  # whatever a user's package raises
            broken[package] = cause(error)
    return found, broken


def _modules_of(package: str) -> Iterator[tuple[str, Path]]:
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {package!r}")
    if spec.submodule_search_locations is None:
        yield package, Path(str(spec.origin))
        return
    for place in importlib.import_module(package).__path__:  # it may have changed it itself
        for path in sorted(Path(place).iterdir()):
            name = f"{package}.{path.stem}"
            if path.suffix == ".py" and not path.stem.startswith("_"):
                yield name, path
            elif (path / "theorem.py").is_file():
                yield f"{name}.theorem", path / "theorem.py"
            elif (path / "__init__.py").is_file():
                yield name, path / "__init__.py"


def _quotes(text: bytes, name: str) -> bool:
    """Whether a name stands in quotes; an id that is written in another way is found by reading."""
    return not name or any(f"{mark}{name}{mark}".encode() in text for mark in "\"'")


@lru_cache(maxsize=256)
def _text(file: Path, changed: int) -> bytes:
    """The file as it was at that time."""
    return file.read_bytes()


@lru_cache(maxsize=256)
def _ids(file: Path, changed: int) -> tuple[str, ...]:
    """Every `id = "..."` in the body of a class of the file as it was at that time."""
    found: list[str] = []
    for node in ast.parse(_text(file, changed)).body:
        for line in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(line, ast.Assign):
                found += [v for target in line.targets for v in _given(target, line.value)]
            elif isinstance(line, ast.AnnAssign) and line.value is not None:
                found += _given(line.target, line.value)
    return tuple(found)


def _given(target: ast.expr, value: ast.expr) -> list[str]:
    """The text that an assignment gives to `id`, also as one of several names."""
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        pairs = zip(target.elts, value.elts, strict=False)
        return [text for pair in pairs for text in _given(*pair)]
    if isinstance(target, ast.Name) and target.id == "id" and isinstance(value, ast.Constant):
        return [value.value] if isinstance(value.value, str) else []
    return []


def _theorems_of(module: str) -> list[Theorem]:
    """Instances of the theorems that a module defines; imported ones are another's."""
    from gdconv.theory.theorem import Theorem

    made = importlib.import_module(module)
    return [
        value()
        for value in vars(made).values()
        if isinstance(value, type)
        and issubclass(value, Theorem)
        and value.__module__ == made.__name__
        and hasattr(value, "id")
    ]
