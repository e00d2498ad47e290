"""Run a saved check again from its stored start: a witness that replays is a witness."""

from __future__ import annotations

from typing import Any

from gdconv.checks.claims import Cases
from gdconv.checks.given import Given
from gdconv.checks.prepare import assemble
from gdconv.checks.resolve import resolve_saved
from gdconv.checks.result import Check, Progress
from gdconv.checks.run import run
from gdconv.report.source import CheckLike
from gdconv.support.errors import InputError, quoted


def replay(saved: Check, progress: Progress | None = None, **memory: Any) -> Check:
    """The same theorem, options, data and weights, from the stored arrays and not from the seeds.

    Args:
        saved: A check, as `gdconv.load` returns it.
        progress: As for `gdconv.check`.
        **memory: `model`, `loss` and `algorithm`, where they were handed over in memory.

    Returns:
        A new check.

    Raises:
        InputError: The saved check has no stored start, or options that are none.

    Example:
        >>> import gdconv
        >>> saved = gdconv.check("full-gd", problem="stacked-witness")
        >>> replay(saved).verdict
        'refuted'
    """
    given, _ = Given.split(memory)
    resolved = resolve_saved(saved.theorem, saved.config, given)
    family = resolved.architecture
    if family is None:
        return run(Cases(resolved), progress)
    missing = [name for name in ("X", "y", *family.blocks) if name not in saved.starts]
    if missing:
        raise InputError(
            "folder", ", ".join(missing), "give a run whose iterates.npz has its start"
        )
    name = str(resolved.config.problem or resolved.config.data or "saved")
    masked = family.require_padding(saved.starts.get("mask"))
    problem = family.problem(saved.starts["X"], saved.starts["y"], name, saved.messages, **masked)
    params = family.from_arrays({b: saved.starts[b] for b in family.blocks})
    return run(assemble(resolved, problem, params), progress)


def differences(saved: CheckLike, again: CheckLike) -> list[str]:
    """Where a replay differs from the saved run in verdict or first violation.

    Args:
        saved: The saved check.
        again: The new one.

    Returns:
        One line per difference; empty when there is none.

    Example:
        >>> from gdconv.report.example import example_check
        >>> differences(example_check(), example_check())
        []
        >>> differences(example_check(1), example_check(1, last=2000))
        ['run 0, stacked: first_violation was 122, is 63']
    """
    keys, columns = ["run", "statement"], ["verdict", "first_violation"]
    old, new = (check.verdicts.set_index(keys)[columns] for check in (saved, again))
    lines = []
    for r, statement in dict.fromkeys([*old.index, *new.index]):
        place = f"run {r}, {quoted(statement)}"
        if (r, statement) not in old.index or (r, statement) not in new.index:
            lines.append(f"{place}: only in one of the two")
            continue
        for name in columns:
            before, after = (table.loc[(r, statement), name] for table in (old, new))
            if before != after:
                lines.append(f"{place}: {name} was {before}, is {after}")
    return lines
