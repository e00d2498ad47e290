"""Cold start of the command line: CPU seconds of a whole process, from its start to its exit.

    python -m experiments.benchmarks.startup [--quick] [--out FILE.json]

User and system time of the process and of what it starts, the least of all rounds, on one
processor and one thread; rounds interleaved, bytecode and compiled functions on disk from a round
before the first. A check is compared with `python -c "import torch"`, all else with a bare
interpreter. What no goal names is there to tell where the rest goes.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.benchmarks.timing import alone, save

PLAIN = {
    "python": ["-c", "pass"],
    "torch": ["-c", "import torch"],
    "torch, numba, pandas": ["-c", "import torch, numba, pandas"],
}
COMMANDS = {
    "help": "--help",
    "list": "list",
    "help of a theorem": "check full-gd --help",
    "unknown id": "check fulgd",
    "unknown option": "check full-gd --sampels 3",
}
WITNESSES = {
    name: f"check full-gd --problem {name}"
    for name in ("stacked-witness", "narrow-head", "too-few-heads")
}
CODES = {
    "unknown id": 2,
    "unknown option": 2,
    "stacked-witness": 1,
    "narrow-head": 3,
    "too-few-heads": 3,
}
GOALS = {"light": 0.3, "above torch": 0.6}
"""Most seconds: of what imports nothing heavy, and of a witness above the import of torch."""


def seconds(words: Sequence[str], environment: Mapping[str, str]) -> tuple[float, int]:
    """CPU time of one process.

    Args:
        words: What follows the interpreter's name.
        environment: Its environment.

    Returns:
        User and system time in seconds, and the exit code.

    Example:
        >>> spent, code = seconds(["-c", "raise SystemExit(3)"], os.environ)
        >>> 0 < spent < 10, code
        (True, 3)
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, *words], check=False, env=environment, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.returncode


def measure(lines: Mapping[str, Sequence[str]], rounds: int) -> dict[str, float]:
    """The least CPU time of each command.

    Args:
        lines: What follows the interpreter's name, by command.
        rounds: Rounds.

    Returns:
        Seconds by command.

    Raises:
        RuntimeError: A command ends with another exit code than it should.

    Example:
        >>> measure({"python": ["-c", "pass"]}, 1)["python"] < 10
        True
    """
    least = dict.fromkeys(lines, float("inf"))
    with tempfile.TemporaryDirectory() as bytecode:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": bytecode}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for count in range(rounds + 1):
            for name, words in lines.items():
                spent, code = seconds(words, environment)
                if code != CODES.get(name, 0):
                    raise RuntimeError(f"{name} ended with {code}")
                if count:
                    least[name] = min(least[name], spent)
    return least


def main() -> None:
    """Measure and save."""
    options = alone(__doc__, "startup", rounds="three rounds instead of eleven")
    rounds = 3 if options.quick else 11
    gdconv = {
        name: ["-m", "gdconv", *line.split()] for name, line in {**COMMANDS, **WITNESSES}.items()
    }
    least = measure({**PLAIN, **gdconv}, rounds)
    above = {name: least[name] - least["torch"] for name in WITNESSES}
    met = {
        "light": max(least[name] for name in COMMANDS) < GOALS["light"],
        "above torch": max(above.values()) <= GOALS["above torch"],
    }
    result: dict[str, Any] = {
        "unit": "seconds of CPU, user and system, of the whole process; least of the rounds",
        "rounds": rounds,
        "seconds": {name: round(value, 3) for name, value in least.items()},
        "above torch": {name: round(value, 3) for name, value in above.items()},
        "goals": GOALS,
        "met": met,
    }
    save(options.out, result, "pandas")
    for name, value in least.items():
        more = f"  {above[name]:+.3f} above import torch" if name in above else ""
        print(f"{name:<22} {value:.3f} s{more}")
    print(", ".join(f"{name}: {'met' if ok else 'missed'}" for name, ok in met.items()))


if __name__ == "__main__":
    main()
