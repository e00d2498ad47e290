"""What a text `package.module:name` stands for: the door for objects of a user's own files."""

from __future__ import annotations

import importlib
from typing import Any

from gdconv.support.errors import InputError, cause


def object_named(field: str, text: str, what: str) -> Any:
    """Import an object by the text `package.module:name`.

    Args:
        field: Option that gave the text, for errors.
        text: Where the object stands; a name may have dots.
        what: What it must be, for errors.

    Returns:
        The object.

    Raises:
        InputError: It cannot be imported.

    Example:
        >>> object_named("model", "math:nothing", "a torch module")
        Traceback (most recent call last):
        gdconv.support.errors.InputError: model = math:nothing: give package.module:name of a torch
        module that can be imported (AttributeError: module 'math' has no attribute 'nothing').
    """
    module, _, name = text.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:  # whatever a user's module raises
        remedy = f"give package.module:name of {what} that can be imported ({cause(error)})"
        raise InputError(field, text, remedy) from error
    return found


def text_of(found: Any) -> str | None:
    """The text under which a class or function is found again, None where there is none.

    Args:
        found: A class or function.

    Returns:
        `package.module:name`, or None for what was made inside a function or in a script.

    Example:
        >>> from fractions import Fraction
        >>> text_of(Fraction), text_of(lambda: 0)
        ('fractions:Fraction', None)
    """
    module, name = getattr(found, "__module__", ""), getattr(found, "__qualname__", "")
    if not module or not name or module == "__main__" or "<" in name:
        return None
    try:
        again = object_named("object", f"{module}:{name}", "an object")
    except InputError:
        return None
    return f"{module}:{name}" if again is found else None
