"""The table of planted faults: each line must turn the tests of the file it stands in.

    python tests/planted/plant.py                     all tables
    python tests/planted/plant.py --table encoder     one of them
    python tests/planted/plant.py --file gdconv/checks/judge.py --jobs 2
    python tests/planted/plant.py --slice 10          ten lines chosen by the commit's hash

A table is a file `tests/planted/<name>.tsv`: file, the text before (exactly once in the file), the
text after, why it matters, and, where they are not the mirrored ones, the test files. Exit code 1
when a fault went unnoticed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from planted import scratch
from planted.warm import Warm

HERE = Path(__file__).parent
SECONDS = 240.0
"""CPU time that one fault may take, a compilation included."""


@dataclass(frozen=True)
class Fault:
    """One line of a table.

    Attributes:
        table: Name of the table.
        file: Source file, relative to the repository.
        before: Text that stands in it exactly once.
        after: The fault.
        why: Why it matters.
        tests: Test files that must notice it.
    """

    table: str
    file: str
    before: str
    after: str
    why: str
    tests: tuple[str, ...]

    @property
    def compiled(self) -> bool:
        """Whether numba must compile the file again: left to the whole table, not to a slice."""
        file = Path(self.file)
        compiled = file.parent.name == "compiled" or file.stem.endswith("_compiled")
        return compiled and self.file not in scratch.WITHOUT_JIT

    def applied(self) -> str:
        """Text of the file with the fault in it.

        Raises:
            ValueError: The text to replace is not there, or more than once.
        """
        text = (scratch.ROOT / self.file).read_text("utf-8")
        if text.count(self.before) != 1:
            raise ValueError(
                f"{self.table}.tsv: '{self.before}' stands {text.count(self.before)} times in "
                f"{self.file}, once is asked for"
            )
        return text.replace(self.before, self.after)


def read(table: Path) -> list[Fault]:
    """The faults of one table; blank lines and lines that start with # are passed over.

    Raises:
        ValueError: A line that is not four or five cells.
    """
    found = []
    for number, line in enumerate(table.read_text("utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        cells = line.split("\t")
        if len(cells) not in (4, 5) or not all(cell.strip() for cell in (*cells[:2], cells[3])):
            raise ValueError(
                f"{table.name}, line {number}: {len(cells)} cells, four or five wanted"
            )
        file, before, after, why = cells[:4]
        tests = tuple(cells[4].split()) if len(cells) == 5 else (scratch.mirrored(file),)
        found.append(Fault(table.stem, file, before, after, why, tests))
    return found


def tables() -> list[Fault]:
    """All faults, in the order of their tables."""
    return [fault for path in sorted(HERE.glob("*.tsv")) for fault in read(path)]


def commit() -> str:
    """Hash of the commit at hand; without git a hash of the tables."""
    asked = ["git", "-C", str(scratch.ROOT), "rev-parse", "HEAD"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    text = "".join(p.read_text("utf-8") for p in sorted(HERE.glob("*.tsv")))
    return done.stdout.strip() or hashlib.sha256(text.encode()).hexdigest()


def chosen(faults: list[Fault], count: int, seed: str) -> list[Fault]:
    """As many faults, no two of one file while there are files left, none to be compiled."""
    quick = [f for f in faults if not f.compiled]
    random.Random(seed).shuffle(quick)
    files: set[str] = set()
    first, rest = [], []
    for fault in quick:
        (rest if fault.file in files else first).append(fault)
        files.add(fault.file)
    return [*first, *rest][:count]


@dataclass(frozen=True)
class Outcome:
    """What became of a fault.

    Attributes:
        fault: The fault.
        noticed: Whether a test failed.
        seconds: Wall-clock time.
        tail: Last lines of pytest.
    """

    fault: Fault
    noticed: bool
    seconds: float
    tail: str


def plant(file: str, faults: list[Fault], sound: bool = True) -> list[Outcome]:
    """Plant the faults of one file one after the other.

    Args:
        file: The file.
        faults: Its faults.
        sound: Whether to make sure first that the tests pass without a fault.

    Returns:
        One outcome per fault.

    Raises:
        RuntimeError: The tests fail without a fault.
    """
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="planted-") as name:
        folder = scratch.make(Path(name))
        with Warm(folder, file, scratch.environment(folder, file)) as warm:
            for tests in sorted({f.tests for f in faults}) if sound else []:
                code, tail = warm.run(list(tests), SECONDS)
                if code != 0:
                    raise RuntimeError(f"{' '.join(tests)} fail without a fault:\n{tail}")
            for fault in faults:
                began = time.monotonic()
                with scratch.planted(folder / file, fault.applied()):
                    code, tail = warm.run(list(fault.tests), SECONDS)
                outcomes.append(Outcome(fault, code == 1, time.monotonic() - began, tail))
    return outcomes


def main(argv: list[str] | None = None) -> int:
    """Plant, print one line per fault, and say which ones nobody noticed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--table", help="only this table")
    parser.add_argument("--file", help="only faults of this source file")
    parser.add_argument("--slice", type=int, default=0, help="so many faults, by the commit's hash")
    parser.add_argument("--jobs", type=int, default=1, help="files treated at the same time")
    parser.add_argument("--json", type=Path, help="write the outcomes there")
    asked = parser.parse_args(argv)
    faults = [
        f for f in tables() if asked.table in (None, f.table) and asked.file in (None, f.file)
    ]
    if asked.slice:
        faults = chosen(faults, asked.slice, commit())
    for fault in faults:
        fault.applied()
    by_file = defaultdict(list)
    for fault in faults:
        by_file[fault.file].append(fault)
    outcomes: list[Outcome] = []
    with ThreadPoolExecutor(asked.jobs) as pool:
        for made in pool.map(lambda item: plant(*item, sound=not asked.slice), by_file.items()):
            outcomes += made
            for o in made:
                word = "noticed" if o.noticed else "NOT NOTICED"
                print(f"{word:12}{o.seconds:6.1f} s  {o.fault.file}: {o.fault.before.strip()} -> "
                      f"{o.fault.after.strip()}", flush=True)  # fmt: skip
                if not o.noticed:
                    print("            ", o.tail.strip().splitlines()[-1:], flush=True)
    missed = sum(not o.noticed for o in outcomes)
    print(f"{len(outcomes) - missed} of {len(outcomes)} planted faults were noticed")
    if asked.json:
        rows = [{"file": o.fault.file, "before": o.fault.before, "after": o.fault.after,
                 "why": o.fault.why, "noticed": o.noticed} for o in outcomes]  # fmt: skip
        asked.json.write_text(json.dumps(rows, indent=1) + os.linesep, "utf-8")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
