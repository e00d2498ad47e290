"""`njit` for this package: numba's, with a cache on disk that is never stale and may be missing.

numba recompiles a cached function when the file it stands in has changed, but not when a compiled
function it calls, from another file, has: here all entries depend on all compiled sources. And
where numba finds no folder for its cache it refuses to import, where the disk is full it refuses to
run: here the code is compiled and used, and what is lost is the time of the next start.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import FunctionCache
from numba.core.runtime import rtsys

from gdconv.support.errors import quoted
from gdconv.support.garbage import uncollected
from gdconv.support.notices import announce

HERE = Path(__file__).parent

LEAN = numba.__version__.startswith("0.68.")
"""Whether this numba is known to run stored code without what it compiles with, 0.15 s a start."""

SOURCES = tuple(sorted(p.stem for p in HERE.glob("*.py") if p.stem not in ("__init__", "cache")))
"""The modules beside this one: compiled functions, which call one another."""


def njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """As `numba.njit`, with this package's cache.

    Args:
        **options: numba's, without `cache`.

    Returns:
        A decorator.

    Example:
        >>> @njit(nogil=True)
        ... def double(x):
        ...     return 2 * x
        >>> double(2.0)
        4.0
    """

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher = numba.njit(**options)(function)
        try:
            dispatcher._cache = Cache(function)
        except (RuntimeError, OSError) as error:  # no folder can be written, or there is no file
            if Path(function.__code__.co_filename).is_file():
                _not_kept(error)
        return dispatcher

    return decorate


class Cache(FunctionCache):
    """numba's cache of one function; what cannot be read or written is compiled again."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file._source_stamp = (self._cache_file._source_stamp, stamp(HERE))

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The stored code, None where there is none or it is damaged: it is compiled then."""
        found = None
        try:
            with uncollected():  # the first one loads much of numba
                found = self._stored(sig, target_context)
        except Exception:  # pickle raises anything on a damaged entry
            with contextlib.suppress(OSError):
                self.flush()
        if found is None:
            announce("compiling once, which takes about a minute ...")
        return found

    def _stored(self, sig: Any, target_context: Any) -> Any:
        """As numba's; what is only needed to compile is loaded when something is compiled."""
        if not LEAN:
            return super().load_overload(sig, target_context)
        rtsys.initialize(target_context)  # the memory of compiled code
        return self._load_overload(sig, target_context)

    def save_overload(self, sig: Any, data: Any) -> None:
        """Store code; where that fails, for instance on a full disk, no more of it is tried."""
        try:
            super().save_overload(sig, data)
        except Exception as error:  # the code itself is compiled and good
            self.disable()
            _not_kept(error)


@lru_cache(maxsize=1)
def stamp(package: Path) -> str:
    """Digest of every compiled source, on which all stored code depends.

    Args:
        package: Their folder.

    Returns:
        Hexadecimal digits; a source that is not there counts as empty.

    Example:
        >>> len(stamp(HERE))
        64
    """
    total = hashlib.sha256()
    for name in SOURCES:
        with contextlib.suppress(OSError):
            total.update((package / f"{name}.py").read_bytes())
        total.update(b"\0")
    return total.hexdigest()


_SAID: list[str] = []
"""What was said already: one sentence a process."""


def _not_kept(reason: object) -> None:
    """Say once that compiled code is not kept, and never instead of a result."""
    if _SAID:
        return
    _SAID.append(quoted(reason))
    remedy = "every start compiles anew; set NUMBA_CACHE_DIR to a folder that can be written"
    with contextlib.suppress(OSError, ValueError, AttributeError):
        print(f"gdconv: compiled code is not kept ({_SAID[0]}): {remedy}.", file=sys.stderr)
