"""Shapes and types checked at run time, at a price the suite can pay.

jaxtyping's import hook decorates every function of the modules it is given; a checked call costs
some tenths of a millisecond, and a descent makes millions. Here each function is checked in its
first calls of every test and runs bare after them. What checks it is built when it is called, and
counted by its code: a function inside another is a new one at every call of that.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from types import CodeType
from typing import Any, ClassVar

import jaxtyping
import pytest

CALLS = 10
"""Checked calls of one function in one test. A shape depends on the setting, not on the step."""

CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
"""is_pep484_tower: an int is welcome where a float is asked for, as for mypy."""

_checked = jaxtyping.jaxtyped


class Turn:
    """Which test runs; by the code of a function the test it last ran in and the calls left."""

    now = 0
    seen: ClassVar[dict[CodeType, list[int]]] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self) -> None:
        """Another test begins: every function is checked again."""
        Turn.now += 1


def sampled(thing: Any = None, *, typechecker: Any) -> Any:
    """jaxtyping.jaxtyped for the first CALLS calls in each test."""
    again = functools.partial(sampled, typechecker=typechecker)
    if thing is None:
        return again
    if inspect.isclass(thing):
        if dataclasses.is_dataclass(thing) and "__init__" in vars(thing):
            thing.__init__ = again(thing.__init__)  # type: ignore[misc]
        return thing
    if isinstance(thing, classmethod | staticmethod):
        return type(thing)(again(thing.__func__))
    if isinstance(thing, property):
        return property(*(f and again(f) for f in (thing.fget, thing.fset, thing.fdel)))
    return _first_calls(thing, functools.partial(_checked, typechecker=typechecker))


def _first_calls(plain: Callable[..., Any], check: Callable[..., Any]) -> Callable[..., Any]:
    inner = "<locals>" in plain.__qualname__
    seen = Turn.seen.setdefault(plain.__code__, [-1, 0])
    checked = None

    @functools.wraps(plain)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal checked
        __tracebackhide__ = True
        if seen[0] != Turn.now:
            seen[:] = Turn.now, 1 if inner else CALLS
        if not seen[1]:
            return plain(*args, **kwargs)
        seen[1] -= 1
        checked = checked or check(plain)
        return checked(*args, **kwargs)

    return call


def install(modules: Sequence[str]) -> None:
    """Check these modules, which must not have been imported yet."""
    jaxtyping.jaxtyped = sampled  # the name that the hook writes into the modules
    jaxtyping.install_import_hook(modules, CHECKER)
