"""What both contracts share: named checks, run one after the other or one test each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

from gdconv.support.errors import InputError

S = TypeVar("S")

Check = Callable[[S], str]
"""Looks at a subject; returns a note for the reader, empty where there is nothing to say."""


class ContractError(AssertionError):
    """One check of a contract is not met; the sentence names who and which check.

    Attributes:
        check: Name of the check.

    Example:
        >>> str(ContractError("MyNet", "pure", "its parameters changed"))
        'MyNet breaks the contract, check pure: its parameters changed'
    """

    def __init__(self, name: str, check: str, sentence: str) -> None:
        self.check = check
        super().__init__(f"{name} breaks the contract, check {check}: {sentence}")


class FaultError(Exception):
    """What a check found; `listed` adds who and which check."""


def require(met: bool, sentence: str) -> None:
    """Refuse what is not met.

    Args:
        met: Whether it is met; a comparison with nan is not.
        sentence: What is wrong.

    Raises:
        FaultError: It is not met.

    Example:
        >>> require(float("nan") <= 1.0, "it is no number")
        Traceback (most recent call last):
        gdconv.testing.contract.FaultError: it is no number
    """
    if not met:  # also a comparison with nan
        raise FaultError(sentence)


def listed(
    name: str, subject: Callable[[], S], checks: Mapping[str, Check[S]]
) -> list[tuple[str, Callable[[], str]]]:
    """Every check as a function of no arguments.

    Args:
        name: Who is checked.
        subject: Makes what is checked, once for all checks.
        checks: Checks by name.

    Returns:
        Pairs (name, function); the function returns a note.

    Example:
        >>> pairs = listed("two", lambda: 2, {"even": lambda n: require(n % 2 == 0, "odd") or ""})
        >>> [(name, check()) for name, check in pairs]
        [('even', '')]
    """
    return [(key, partial(_run, name, key, subject, check)) for key, check in checks.items()]


def _run(name: str, key: str, subject: Callable[[], S], check: Check[S]) -> str:
    __tracebackhide__ = True
    try:
        return check(subject())
    except FaultError as fault:
        raise ContractError(name, key, str(fault)) from None
    except (AssertionError, InputError):
        raise
    except Exception as error:  # whatever an outsider's class raises
        said = f"{type(error).__name__}: {error}"
        raise ContractError(name, key, f"it raises {said}") from error
