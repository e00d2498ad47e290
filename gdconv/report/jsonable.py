"""The JSON object of a check: what `--json` prints, nothing in it that JSON cannot hold."""

from __future__ import annotations

import math
from typing import Any

from gdconv.report.source import CheckLike
from gdconv.theory.verdict import worst

NUMBERS = ("rate", "step", "eta_rate", "half_life", "tightness")
RUN_FIELDS = (
    *("run", "seed", "loss_first", "loss_last", "loss_ratio_last", "sigma_min_first"),
    *("sigma_min_least", "steps", "step", "step_rule", "stopped"),
)


def to_json(check: CheckLike) -> dict[str, Any]:
    """A check as one object: theorem, verdict, level, statements, runs, config, environment.

    A statement's numbers are those of its worst run: worst verdict first, then least margin;
    `by_run` has the verdict, the worst margin and the first violation of every run. nan and inf
    become null.

    Args:
        check: A check.

    Returns:
        The object; `json.dumps(..., allow_nan=False)` accepts it.

    Example:
        >>> from gdconv.report.example import example_check
        >>> made = to_json(example_check())
        >>> made["verdict"], made["statements"][0]["name"], made["statements"][0]["first_violation"]
        ('confirmed', 'stacked', 162)
    """
    names = dict.fromkeys(check.verdicts["statement"])
    return jsonable({
        "theorem": check.theorem,
        "statement": check.statement,
        "verdict": check.verdict,
        "level": check.level,
        "statements": [_statement(check, name) for name in names],
        "runs": [
            {k: row[k] for k in RUN_FIELDS if k in row} for row in check.runs.to_dict("records")
        ],
        "messages": list(check.messages),
        "config": check.config,
        "environment": check.environment,
    })


def jsonable(value: Any) -> Any:
    """Plain Python: NumPy scalars and arrays unpacked, what is no finite number becomes None.

    Args:
        value: Anything.

    Returns:
        Dictionaries, lists, str, int, float, bool, None.

    Example:
        >>> jsonable({"a": (1, float("nan"))})
        {'a': [1, None]}
    """
    if isinstance(value, dict):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(v) for v in value]
    if hasattr(value, "tolist"):
        return jsonable(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)


def _statement(check: CheckLike, name: str) -> dict[str, Any]:
    rows = check.verdicts[check.verdicts["statement"] == name]
    verdict = worst(rows["verdict"])
    bad = rows[rows["verdict"] == verdict].sort_values("worst_margin", kind="stable")
    row = bad.iloc[0]
    sides = check.hypotheses
    sides = sides[(sides["statement"] == name) & (sides["run"] == row["run"])]
    columns = {
        "hypothesis": "name",
        **{c: c for c in ("lhs", "relation", "rhs", "margin", "holds")},
    }
    if "level" in sides:  # runs saved before there were levels have none
        columns["level"] = "level"
    return {
        "name": name,
        "verdict": verdict,
        "level": row.get("level", check.level),
        "run": row["run"],
        **{number: row.get(number) for number in NUMBERS},
        "worst_margin": row["worst_margin"],
        "first_violation": _step(row["first_violation"]),
        "hypotheses": sides.rename(columns=columns)[list(columns.values())].to_dict("records"),
        "by_run": [
            {
                "run": r["run"],
                "verdict": r["verdict"],
                "worst_margin": r["worst_margin"],
                "first_violation": _step(r["first_violation"]),
            }
            for r in rows.to_dict("records")
        ],
    }


def _step(step: Any) -> int | None:
    """A step, None for the -1 or nan that says there is none."""
    return int(step) if step >= 0 else None
