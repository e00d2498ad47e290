"""Run a saved check again from its stored start: a witness that replays is a witness."""

from __future__ import annotations

from typing import Any

from gdconv.support.config import Config
from gdconv.support.errors import InputError, quoted


def replay(saved: Any, progress: Any = None) -> Any:
    """The same theorem, options, data and weights, from the stored arrays and not from the seeds.

    Args:
        saved: A check, as `gdconv.load` returns it.
        progress: As for `gdconv.check`.

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
    from gdconv.checks.prepare import architecture_of, assemble
    from gdconv.checks.run import begin, execute
    from gdconv.theory.claims import ClaimTheorem
    from gdconv.theory.registry import theorem_named

    config = Config.of(saved.theorem, saved.config).validate()
    if isinstance(theorem_named(config.theorem), ClaimTheorem):
        return execute(begin(config), progress)
    architecture = architecture_of(theorem_named(config.theorem), config.model)
    missing = [name for name in ("X", "y", *architecture.blocks) if name not in saved.starts]
    if missing:
        raise InputError(
            "folder", ", ".join(missing), "give a run whose iterates.npz has its start"
        )
    name = str(config.problem or config.data or "saved")
    problem = architecture.problem(saved.starts["X"], saved.starts["y"], name, saved.messages)
    params = architecture.from_arrays({b: saved.starts[b] for b in architecture.blocks})
    return execute(assemble(config, problem, params), progress)


def differences(saved: Any, again: Any) -> list[str]:
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
    for run, statement in dict.fromkeys([*old.index, *new.index]):
        place = f"run {run}, {quoted(statement)}"
        if (run, statement) not in old.index or (run, statement) not in new.index:
            lines.append(f"{place}: only in one of the two")
            continue
        for name in columns:
            before, after = (table.loc[(run, statement), name] for table in (old, new))
            if before != after:
                lines.append(f"{place}: {name} was {before}, is {after}")
    return lines
