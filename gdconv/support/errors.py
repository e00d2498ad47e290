"""Errors a user can act on: each message is one sentence with field, value and remedy.

Whatever comes from outside (arguments, names and contents of files, texts of other exceptions) is
quoted through `quoted` before anybody sees it, so that it can neither move the cursor of a
terminal, nor look like a line of ours, nor hide the sentence around it.
"""

from __future__ import annotations

import reprlib
from math import isfinite
from typing import Any

MOST_QUOTED = 120
"""Length of a value in a message."""

MOST_SAID = 1000
"""Length of a remedy: the longest lists of choices are half of it."""


def quoted(value: object, most: int = MOST_QUOTED) -> str:
    r"""Foreign text as one short line of visible characters.

    Line breaks and tabs become blanks; other control characters, marks that turn the direction of
    writing, invisible ones and lone surrogates are written as escapes. What is too long loses its
    middle: a path is known by its end, and a sentence keeps its remedy.

    Args:
        value: Anything; what is no text is shown as `str` shows it, long containers shortened.
        most: Greatest length of the result.

    Returns:
        At most `most` characters; quoting them again changes nothing.

    Example:
        >>> quoted("red \x1b[31m\nline")
        'red \\x1b[31m line'
        >>> quoted("abcdefghijklmnopqrstuvwxyz", most=13)
        'abcdefg...xyz'
    """
    text = _text(value)
    if len(text) > 4 * most:  # an escape is never shorter than what it stands for
        text = text[: 2 * most] + text[-2 * most :]
    text = printable(" ".join(text.splitlines()).replace("\t", " "))
    if len(text) > most:
        tail = (most - 3) // 3
        text = f"{text[: most - 3 - tail]}...{text[len(text) - tail :]}"
    return text


def cause(error: BaseException) -> str:
    r"""What was raised, by somebody else's code, on one line.

    Args:
        error: Any exception.

    Returns:
        Its type, and the first line of what it says where it says something.

    Example:
        >>> cause(OSError("no disk\nat all")), cause(KeyError())
        ('OSError: no disk', 'KeyError')
    """
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {quoted(lines[0])}" if lines else type(error).__name__


def printable(text: str) -> str:
    r"""Text of several lines without anything that a terminal obeys.

    Args:
        text: Any text.

    Returns:
        The same lines; characters that cannot be seen, but for line feeds, are escapes.

    Example:
        >>> printable("one\ntwo\u202e\x07")
        'one\ntwo\\u202e\\x07'
    """
    if text.isprintable():
        return text
    seen = (c if c == "\n" or c.isprintable() else ascii(c)[1:-1] for c in text)
    return "".join(seen)


def _text(value: object) -> str:
    """`str`, which may fail: for an integer of 10,000 digits, or in a class of the user."""
    if isinstance(value, str):
        return value
    try:
        if isinstance(value, list | tuple | dict | set | frozenset):
            return _SHORT.repr(value)
        return str(value)
    except Exception:  # a message about a value must not fail on the value
        return f"a value of type {type(value).__name__}"


_SHORT = reprlib.Repr()
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = _SHORT.maxset = _SHORT.maxfrozenset = 20
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = MOST_QUOTED


class GdconvError(ValueError):
    """Base of every error that gdconv raises on purpose; commands turn it into exit code 2.

    Args:
        message: One sentence; it is quoted, whatever it was made of.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(quoted(message, 2 * MOST_SAID))

    def __reduce__(self) -> tuple[Any, ...]:
        """Whole, from another process: classes below take other arguments than the message."""
        return _rebuilt, (type(self), str(self), self.__dict__)


def _rebuilt(kind: type[GdconvError], message: str, rest: dict[str, Any]) -> GdconvError:
    error = kind.__new__(kind)
    GdconvError.__init__(error, message)
    error.__dict__.update(rest)
    return error


class InputError(GdconvError):
    """A field has a value that cannot be used.

    Args:
        field: Name of the field, option or file.
        value: The offending value, shown shortened.
        remedy: What to do instead, an imperative clause without a final stop.

    Example:
        >>> str(InputError("steps", -3, "give a whole number of at least 1"))
        'steps = -3: give a whole number of at least 1.'
    """

    def __init__(self, field: str, value: object, remedy: str) -> None:
        self.field, self.value, self.remedy = field, value, remedy
        shown = quoted(value)
        if not shown.strip():
            shown = repr(shown)
        super().__init__(f"{quoted(field)} = {shown}: {quoted(remedy, MOST_SAID)}.")


class DivergenceError(GdconvError):
    """Gradient descent left every useful range.

    Args:
        run: Which replica diverged.
        eta: The step size it used.
        step: The iterate at which it was noticed.
        loss: The loss there; not finite when it or its gradient overflowed.
        seed: The run's seed, if known.
        local: The step was the local one, so it is no remedy.

    Attributes:
        check: The check of the runs that were finished before, None if there are none.
        total: How many runs were asked for.

    Example:
        >>> str(DivergenceError(0, 10.0, 3, float("inf")))
        'step = 10: run 0 diverged at step 3 (not finite); give a smaller --step, or --step local.'
        >>> str(DivergenceError(2, 10.0, 3, 1e20, seed=7, local=True))
        'step = 10: run 2 (seed 7) diverged at step 3 (loss 1e+20); rescale the data or weights.'
    """

    def __init__(
        self,
        run: int,
        eta: float,
        step: int,
        loss: float,
        seed: int | None = None,
        local: bool = False,
    ) -> None:
        self.run, self.eta, self.step, self.loss, self.seed = run, eta, step, loss, seed
        self.check: Any = None
        self.total = 1
        who = f"run {run}" if seed is None else f"run {run} (seed {seed})"
        found = f"loss {loss:g}" if isfinite(loss) else "not finite"
        remedy = "rescale the data or weights"
        if not local:
            remedy = "give a smaller --step, or --step local"
        super().__init__(f"step = {eta:g}: {who} diverged at step {step} ({found}); {remedy}.")
