"""Guards numba's on-disk cache against one thing it does not see: edits of *other* modules.

numba recompiles a cached function when the file it stands in has changed, but not when a compiled
function it calls, from another file, has. So whenever any compiled source is newer than the oldest
cache entry, all entries of this package are dropped once, on import.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

SOURCES = (
    "ledger",
    "simd",
    "lanes",
    "fused",
    "tracking",
    "block_check",
    "tiny_eigen",
    "ntk_compiled",
    "hessian_compiled",
    "hessian_moments",
    "hessian_tiles",
)
"""Modules with compiled functions; they call one another."""


def drop_stale(package: Path) -> int:
    """Delete the cache entries of the compiled modules if a source is newer than one of them.

    Args:
        package: Folder of the modules, with numba's entries in its __pycache__.

    Returns:
        How many files were deleted.

    Example:
        >>> import tempfile
        >>> drop_stale(Path(tempfile.mkdtemp()))
        0
    """
    deleted = 0
    with contextlib.suppress(OSError):  # a read-only installation has no cache to guard
        cache = package / "__pycache__"
        entries = [e for name in SOURCES for e in cache.glob(f"{name}.*.nb[ic]")]
        times = [f.stat().st_mtime for name in SOURCES if (f := package / f"{name}.py").exists()]
        if entries and times and max(times) > min(e.stat().st_mtime for e in entries):
            for entry in entries:
                entry.unlink(missing_ok=True)
                deleted += 1
    return deleted


drop_stale(Path(__file__).parent)
