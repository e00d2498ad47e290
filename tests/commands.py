"""The command line as a user runs it, for the tests of it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

FAST = ["check", "full-gd", "--problem", "stacked-witness"]


def run(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `gdconv` in a process of its own."""
    command = [sys.executable, "-m", "gdconv", *words]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, **options
    )
