"""Units of work, each done once: what a killed run has finished is kept, and the same call goes on.

`Lines` keeps one line of JSON per unit, `kept_arrays` a file of arrays. A result belongs to the key
of its unit; what the keys do not name, such as the preset, stands in the first line.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from tqdm import tqdm

from gdconv.support.errors import InputError
from gdconv.support.files import replaced
from gdconv.support.npz import read_members
from gdconv.support.threads import one_thread

Results = dict[str, dict[str, Any]]
"""What was measured, by key."""


def fingerprint(value: object) -> str:
    """A name for all that a result depends on.

    Args:
        value: What JSON can write, and dataclasses.

    Returns:
        16 hexadecimal digits.

    Example:
        >>> fingerprint([1, "a"]) == fingerprint((1, "a")) != fingerprint([1, "b"])
        True
    """
    text = json.dumps(value, sort_keys=True, default=asdict)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Unit(Protocol):
    """A piece of work that is done or not."""

    @property
    def key(self) -> str:
        """Tells it from all others."""

    @property
    def cost(self) -> float:
        """Share of the progress bar."""


U = TypeVar("U", bound=Unit)

Measure = Callable[[U, Callable[[float], object]], dict[str, Any]]
"""Numbers of a unit that JSON can hold; it may tell how much of the cost is done since it told."""


class Lines:
    """Results of units in a file of JSON lines, each written as soon as it is there.

    Args:
        file: The file.
        head: First line of the file: all that results depend on but the key.

    Attributes:
        done: Results so far.

    Raises:
        InputError: The file has another head, or holds something else.

    Example:
        >>> import tempfile
        >>> from types import SimpleNamespace
        >>> units = [SimpleNamespace(key=name, cost=1.0) for name in ("a", "bc")]
        >>> file = Path(tempfile.mkdtemp()) / "units.jsonl"
        >>> Lines(file).run(units, lambda unit, tell: {"length": len(unit.key)})["bc"]
        {'length': 2}
        >>> sorted(Lines(file).done)
        ['a', 'bc']
    """

    def __init__(self, file: Path, head: dict[str, Any] | None = None) -> None:
        self.file = file
        self.head = None if head is None else json.loads(json.dumps(head))  # tuples are lists there
        self.done = self._read()

    def run(self, units: Sequence[U], measure: Measure[U]) -> Results:
        """Measure what is missing.

        Args:
            units: The units, in the order in which they are measured.
            measure: Does it.

        Returns:
            Their results, in their order.
        """
        missing = [unit for unit in units if unit.key not in self.done]
        if len(missing) < len(units):
            there = len(units) - len(missing)
            print(f"... {there} of {len(units)} runs are there", file=sys.stderr)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        form = "{desc}{percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
        total = sum(unit.cost for unit in missing)
        with (
            one_thread(),
            self.file.open("a", encoding="utf-8") as stream,
            tqdm(total=total, bar_format=form, smoothing=0.05) as bar,
        ):
            if self.head is not None and stream.tell() == 0:
                stream.write(json.dumps(self.head) + "\n")
            for number, unit in enumerate(missing):
                bar.set_description(f"{number} of {len(missing)} ", refresh=False)
                ends = bar.n + unit.cost
                found = measure(unit, bar.update)
                self.done[unit.key] = found
                stream.write(json.dumps(found | {"key": unit.key}) + "\n")
                stream.flush()
                bar.update(ends - bar.n)
        return {unit.key: self.done[unit.key] for unit in units}

    def _read(self) -> Results:
        """Finished units; an unfinished last line is cut off, or the next would be glued to it."""
        found: Results = {}
        lines = self.file.read_bytes().splitlines(keepends=True) if self.file.exists() else []
        whole = 0
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                os.truncate(self.file, whole)
                break
            whole += len(line)
            try:
                row = json.loads(line)
                if number > 1 or self.head is None:
                    found[row.pop("key")] = row
                    continue
            except (ValueError, KeyError, TypeError, AttributeError):
                remedy = "remove it or choose another folder"
                raise InputError("out", self.file, f"line {number} is no row; {remedy}") from None
            if row != self.head:
                remedy = "it holds another preset's checkpoint: empty it"
                raise InputError("out", self.file.parent, remedy)
        return found


def kept_arrays(
    place: Path, given: dict[str, Any], make: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """The arrays of a file, or new ones that are then kept there.

    Args:
        place: The .npz file.
        given: What the arrays depend on, kept with them: a file of others, or a damaged one, is
            made again.
        make: Computes the arrays.

    Returns:
        The arrays by name, with the given ones.

    Example:
        >>> import tempfile
        >>> place = Path(tempfile.mkdtemp()) / "grid.npz"
        >>> made = [kept_arrays(place, {"n": n}, lambda: {"z": np.zeros(n)}) for n in (2, 2, 3)]
        >>> [len(arrays["z"]) for arrays in made]
        [2, 2, 3]
    """
    with contextlib.suppress(OSError, ValueError, zipfile.BadZipFile):  # missing or damaged
        kept = read_members(place)
        if all(name in kept and np.array_equal(kept[name], given[name]) for name in given):
            return kept
    arrays = {name: np.asarray(value) for name, value in (given | make()).items()}
    with replaced(place) as stream:
        np.savez(stream, allow_pickle=False, **arrays)
    return arrays
