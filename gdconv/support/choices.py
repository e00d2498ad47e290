"""One of several names, or a sentence that says which was meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from gdconv.support.errors import InputError


def chosen(field: str, value: object, known: Iterable[str], also: str = "") -> str:
    """The known name that somebody asked for; blanks, underscores and capitals do not matter.

    Args:
        field: What the name is of, for errors.
        value: What was given.
        known: The names.
        also: What else may be given, an end of the remedy.

    Returns:
        One of `known`.

    Raises:
        InputError: It is none of them.

    Example:
        >>> chosen("loss", "Cross_Entropy", ["squared", "cross-entropy"])
        'cross-entropy'
        >>> chosen("loss", "sqared", ["squared", "logistic"])
        Traceback (most recent call last):
        gdconv.support.errors.InputError: loss = sqared: did you mean squared; choose among
        squared, logistic.
    """
    names = list(known)
    asked = str(value).strip().lower().replace("_", "-").replace(" ", "-")
    if isinstance(value, str) and asked in names:
        return asked
    hint = meant(asked, names) if isinstance(value, str) else ""
    raise InputError(field, value, f"{hint}choose among {', '.join(names)}{also}")


def meant(value: object, known: Iterable[str]) -> str:
    """The beginning of a remedy: which known name was probably meant.

    Args:
        value: What was given.
        known: The names.

    Returns:
        "did you mean X; ", or nothing where none is near.

    Example:
        >>> meant("ful-gd", ["full-gd", "query-gd"]), meant("x", ["full-gd"])
        ('did you mean full-gd; ', '')
    """
    near = get_close_matches(str(value).strip().lower().replace("_", "-"), list(known), 1, 0.6)
    return f"did you mean {near[0]}; " if near else ""
