"""One case in a fork: exit code, output and CPU time of a call that must neither crash nor hang."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

SECONDS = 10
"""CPU time after which a case counts as hanging."""

CODES = (0, 1, 2, 3, 130)
MEMORY = 8 << 30


@dataclass(frozen=True)
class Outcome:
    """What a case did.

    Attributes:
        code: Exit code, negative for a signal.
        output: Standard output and error together, its end.
        seconds: Wall-clock time.
    """

    code: int
    output: str
    seconds: float

    @property
    def fault(self) -> str:
        """What is wrong with it; empty when nothing is."""
        if self.code == -signal.SIGXCPU:
            return f"used more than {SECONDS} s of CPU"
        if self.code not in CODES:
            return f"exit code {self.code}"
        for word in ("Traceback", "gdconv: unexpected", "Warning:"):
            if word in self.output:
                return f"says '{word}'"
        raw = [c for c in self.output if ord(c) < 32 and c not in "\n\t\r"]
        if raw:
            return f"prints the control character {raw[0]!r}"
        if self.code == 2 and not self.output.strip():
            return "says nothing"
        longest = max(map(len, self.output.splitlines()), default=0)
        return f"prints a line of {longest} characters" if longest > 12_000 else ""


def run(call: Callable[[], int]) -> Outcome:
    """Call it in a fork.

    Args:
        call: Returns an exit code.

    Returns:
        What it did.
    """
    began = time.monotonic()
    with tempfile.TemporaryFile() as log:
        pid = os.fork()
        if pid == 0:
            _child(call, log.fileno())
        status = _wait(pid, began + 15 * SECONDS)
        log.seek(0)
        output = log.read()[-200_000:].decode("utf-8", "replace")
    return Outcome(status, output, time.monotonic() - began)


def _child(call: Callable[[], int], log: int) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 2))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout = open(1, "w", encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    code = 120
    try:
        code = call()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 2
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _wait(pid: int, deadline: float) -> int:
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return -signal.SIGXCPU
