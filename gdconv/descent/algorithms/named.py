"""The algorithms by name."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from gdconv.descent.algorithms.base import Algorithm
from gdconv.descent.algorithms.constrained import Projected, Proximal
from gdconv.descent.algorithms.momentum import GradientDescent, HeavyBall, Nesterov
from gdconv.descent.algorithms.scaled import Normalized, Preconditioned, Sign
from gdconv.support.choices import chosen
from gdconv.support.errors import InputError
from gdconv.support.objects import object_named

KNOWN: dict[str, Any] = {
    rule.name: rule
    for rule in (
        GradientDescent,
        HeavyBall,
        Nesterov,
        Projected,
        Proximal,
        Normalized,
        Sign,
        Preconditioned,
    )
}


def algorithm_class(text: str) -> Any:
    """The class of algorithms that `--algorithm` names.

    Args:
        text: A name, or `package.module:name` of one of your own.

    Returns:
        A subclass of `Algorithm`, or an instance where the text stands for one.

    Raises:
        InputError: An unknown name, or no algorithm stands there.

    Example:
        >>> algorithm_class("heavy-ball").__name__
        'HeavyBall'
        >>> algorithm_class("math:pi")
        Traceback (most recent call last):
        gdconv.support.errors.InputError: algorithm = math:pi: give package.module:name of a class
        derived from gdconv.descent.algorithms.Algorithm.
    """
    if ":" not in text:
        return KNOWN[chosen("algorithm", text, KNOWN, ", or give package.module:name")]
    found = object_named("algorithm", text, "an algorithm")
    if isinstance(found, Algorithm) or (isinstance(found, type) and issubclass(found, Algorithm)):
        return found
    remedy = "give package.module:name of a class derived from gdconv.descent.algorithms.Algorithm"
    raise InputError("algorithm", text, remedy)


def algorithm_named(algorithm: object, **options: Any) -> Algorithm:
    """An algorithm by its name and options; one of your own is returned as it is.

    Args:
        algorithm: Name, or an instance of `Algorithm`.
        **options: What the named one takes, such as `beta=0.9`.

    Returns:
        The algorithm.

    Raises:
        InputError: An unknown name or option, an option that is missing, or options for an
            instance.

    Example:
        >>> algorithm_named("heavy-ball", beta=0.5)
        HeavyBall(beta=0.5)
        >>> algorithm_named("heavy-ball", betta=0.5)
        Traceback (most recent call last):
        gdconv.support.errors.InputError: option = betta: did you mean beta; choose among beta.
    """
    if isinstance(algorithm, Algorithm):
        if options:
            given = ", ".join(options)
            raise InputError("algorithm", given, "give options to the instance, or give its name")
        return algorithm
    found = chosen("algorithm", algorithm, KNOWN, ", or give an instance of Algorithm")
    rule = KNOWN[found]
    known = [field.name for field in fields(rule)]
    for name in options:
        if not known:
            raise InputError(name, options[name], f"leave it out: {found} has no options")
        if name not in known:
            chosen("option", name, known)
            raise InputError(name, options[name], f"write it as one of {', '.join(known)}")
    missing = [n for n in ("onto", "penalty", "by") if n in known and n not in options]
    if missing:
        raise InputError("algorithm", found, f"give its option {missing[0]} too")
    made: Algorithm = rule(**options)
    return made
