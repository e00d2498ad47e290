"""The bound-vs-empirical table and the hypotheses, as text, CSV, Markdown or LaTeX.

Few runs: one row per run and statement. More than `FEW` runs: one row per statement with the range
over the runs, followed by every run that is not confirmed; CSV always has every run.
"""

from __future__ import annotations

import math

import pandas as pd

from gdconv.report.layout import LAYOUTS, number, text_block
from gdconv.report.source import CheckLike
from gdconv.support.errors import InputError, quoted
from gdconv.theory.verdict import ORDER, worst

FORMATS = ("text", "csv", "markdown", "latex")
FEW = 3
"""Up to this many runs each has its own rows in text, Markdown and LaTeX."""

STEP_COLUMNS = ("worst_step", "first_violation", "compared_until", "informative_step")


def verdict_table(check: CheckLike) -> pd.DataFrame:
    """Bound against measurement, one row per run and statement.

    Args:
        check: A check.

    Returns:
        Columns run, statement, verdict, rate (beta), step (eta), eta_rate (eta beta), half_life
        (steps,
        ln 2 / (eta beta)), log10_bound (the bound at its last compared step, relative to f_0),
        log10_loss (f_T / f_0), tightness (log of the bound / log of the loss ratio, 1 when the
        bound is
        exact), worst_margin (least log bound - log loss ratio, natural log; negative means
        violated),
        worst_step, first_violation and compared_until (steps; missing when there is none), note.

    Example:
        >>> from gdconv.report.example import example_check
        >>> check = example_check(runs=2)
        >>> verdict_table(check).columns[0]
        'run'
    """
    if not descended(check):
        columns = ["run", "statement", "verdict", "claims", "held", "worst_margin", "weakest"]
        return check.verdicts[[*columns, "note"]].reset_index(drop=True)
    rows = check.verdicts.copy()
    loss = check.runs.set_index("run")["loss_ratio_last"]
    rows["log10_bound"] = rows["bound_last"].map(_log10)
    rows["log10_loss"] = rows["run"].map(loss).map(_log10)
    for name in STEP_COLUMNS:
        rows[name] = rows[name].where(rows[name] >= 0).astype("Int64")
    columns = [
        *("run", "statement", "verdict", "rate", "step", "eta_rate", "half_life", "log10_bound"),
        *("log10_loss", "tightness", "worst_margin", "worst_step", "first_violation"),
        *("compared_until", "note"),
    ]
    return rows[columns].reset_index(drop=True)


def descended(check: CheckLike) -> bool:
    """Whether a check has runs of gradient descent; else its statements are claims about cases.

    Args:
        check: A check.

    Returns:
        True when there is a loss.

    Example:
        >>> from gdconv.report.example import example_check
        >>> descended(example_check())
        True
    """
    return "loss_ratio_last" in check.runs.columns


def statement_table(check: CheckLike) -> pd.DataFrame:
    """One row per statement: the worst verdict over the runs and the range of every number.

    Args:
        check: A check.

    Returns:
        The columns of `verdict_table` with `run` replaced by `runs` ("4/4": runs with the worst
        verdict of all
        runs) and every number by the text "least..greatest".

    Example:
        >>> from gdconv.report.example import example_check
        >>> check = example_check(runs=5)
        >>> statement_table(check)["runs"].iloc[0]
        '5/5'
    """
    table = verdict_table(check)
    rows = []
    for name, group in table.groupby("statement", sort=False):
        bad = worst(group["verdict"])
        row = {
            "statement": name,
            "verdict": bad,
            "runs": f"{(group['verdict'] == bad).sum()}/{len(group)}",
        }
        skip = ("run", "statement", "verdict", "note", "weakest")
        row |= {c: _range(group[c]) for c in table.columns if c not in skip}
        row["note"] = "; ".join(dict.fromkeys(str(n) for n in group["note"] if _said(n)))
        rows.append(row)
    return pd.DataFrame(rows)


def failing_runs(check: CheckLike) -> list[str]:
    """Every run that is not confirmed, by statement and verdict, none left out.

    Args:
        check: A check.

    Returns:
        Lines such as "stacked: refuted in run 0 (step 3), 2 (step 5)".

    Example:
        >>> from gdconv.report.example import example_check
        >>> check = example_check(runs=2)
        >>> failing_runs(check)
        ['stacked: refuted in run 0 (step 122), 1 (step 162)', 'kernel: vacuous in run 0, 1']
    """
    table = verdict_table(check)
    table = table[table["verdict"] != "confirmed"]
    lines = []
    for name, rows in table.groupby("statement", sort=False):
        for verdict in sorted(set(rows["verdict"]), key=ORDER.index):
            group = rows[rows["verdict"] == verdict]
            missing = pd.Series(pd.NA, group.index)
            steps = zip(group["run"], group.get("first_violation", missing), strict=True)
            runs = [f"{r}" if pd.isna(s) else f"{r} (step {s})" for r, s in steps]
            lines.append(f"{quoted(name)}: {verdict} in run {', '.join(runs)}")
    return lines


def hypotheses_table(check: CheckLike, statement: str | None = None) -> pd.DataFrame:
    """Hypotheses with both sides; over several runs the one with the least margin, its run named.

    Args:
        check: A check.
        statement: Only this statement's; None for all.

    Returns:
        Columns statement, hypothesis, lhs, relation, rhs, margin, holds, run (worst one), met
        ("3/4" runs).

    Raises:
        InputError: The check has no such statement.

    Example:
        >>> from gdconv.report.example import example_check
        >>> check = example_check(runs=2)
        >>> hypotheses_table(check, "per-head")["relation"].iloc[0]
        '>='
    """
    known = list(dict.fromkeys(check.verdicts["statement"]))
    if statement is not None and statement not in known:
        raise InputError("statement", statement, f"choose one of {', '.join(known)}")
    table = check.hypotheses
    rows = table if statement is None else table[table["statement"] == statement]
    rank = {"false": 0, "undecided": 1, "true": 2}
    least = []
    for _, group in rows.groupby(["statement", "hypothesis"], sort=False):
        order = group.assign(
            _rank=group["holds"].map(rank), _margin=group["margin"].fillna(-math.inf)
        )
        row = group.loc[order.sort_values(["_rank", "_margin"], kind="stable").index[0]].to_dict()
        row["met"] = f"{(group['holds'] == 'true').sum()}/{len(group)}"
        least.append(row)
    columns = ["statement", "hypothesis", "lhs", "relation", "rhs", "margin", "holds", "run", "met"]
    return pd.DataFrame(least, columns=columns)


def render(check: CheckLike, format: str = "text", statement: str | None = None) -> str:
    """The table over statements and the hypotheses of one statement.

    Args:
        check: A check.
        format: text (about 100 columns), csv (every run, full precision, no hypotheses), markdown
            or latex
            (booktabs, escaped).
        statement: Whose hypotheses; None for the judged statement's, "all" for all.

    Returns:
        The text, ending with a newline.

    Raises:
        InputError: Unknown format or statement.

    Example:
        >>> from gdconv.report.example import example_check
        >>> check = example_check(runs=2)
        >>> render(check, "markdown").splitlines()[2][:23]
        '| 0 | stacked | refuted'
    """
    if format not in FORMATS:
        raise InputError("format", format, f"choose one of {', '.join(FORMATS)}")
    chosen = None if statement == "all" else statement or check.statement
    sides = hypotheses_table(check, chosen)
    if format == "csv":
        table = verdict_table(check)
        if statement not in (None, "all"):
            table = table[table["statement"] == statement]
        return table.to_csv(index=False, lineterminator="\n")
    layout = LAYOUTS[format]
    many = check.runs["run"].nunique() > FEW
    if format == "text" and many:
        parts = [_transposed(check)]
    else:
        parts = [layout(*_cells(statement_table(check) if many else verdict_table(check), format))]
    if format == "text" and not many and descended(check) and check.runs["step"].nunique() == 1:
        parts.append(
            f"step η = {number(check.runs['step'].iloc[0])} in every row; margins are natural logs"
        )
    if many and (lines := failing_runs(check)):
        parts.append(LAYOUTS[f"{format} list"]("Not confirmed", lines))
    if len(sides):
        parts.append(layout(*_cells(_hypothesis_cells(sides, chosen, many), format)))
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


HEADERS = {
    "run": ("run", "run", "run"),
    "runs": ("runs", "runs", "runs"),
    "statement": ("statement", "statement", "statement"),
    "verdict": ("verdict", "verdict", "verdict"),
    "rate": ("rate\nβ", "rate β", r"rate $\beta$"),
    "step": ("step\nη", "step η", r"step $\eta$"),
    "eta_rate": ("ηβ", "ηβ", r"$\eta\beta$"),
    "half_life": ("half-\nlife", "half-life (steps)", "half-life"),
    "log10_bound": ("log10\nbound", "log10 bound at end", r"$\log_{10}$ bound"),
    "log10_loss": ("log10\nf_T/f_0", "log10 f_T/f_0", r"$\log_{10} f_T/f_0$"),
    "tightness": ("tight-\nness", "tightness", "tightness"),
    "worst_margin": ("worst\nmargin", "worst margin (ln)", "worst margin"),
    "worst_step": ("at\nstep", "at step", "at step"),
    "first_violation": ("first\nviol.", "first violation", "first violation"),
    "claims": ("claims", "claims", "claims"),
    "held": ("held", "held", "held"),
    "weakest": ("weakest claim", "weakest claim", "weakest claim"),
    "compared_until": ("compared\nuntil", "compared until", "compared until"),
    "lhs": ("left", "left", "left"),
    "relation": ("", "relation", ""),
    "rhs": ("right", "right", "right"),
    "margin": ("margin", "margin", "margin"),
    "met": ("met in", "met in", "met in"),
}
"""Column name -> header in text (may have two lines), Markdown, LaTeX."""


def _cells(table: pd.DataFrame, format: str) -> tuple[list[str], list[list[str]]]:
    """Headers and cells; text leaves out a run or a step that is the same in every row."""
    which = ("text", "markdown", "latex").index(format)
    columns = [c for c in table.columns if c != "note"]
    if format == "text" and "run" in columns and table["run"].nunique() == 1:
        columns.remove("run")
    if format == "text" and "step" in columns and table["step"].nunique() == 1:
        columns.remove("step")
    cells = [[number(v) for v in row] for row in table[columns].itertuples(index=False)]
    return [_header(c, which, table) for c in columns], cells


def _header(column: str, which: int, table: pd.DataFrame) -> str:
    """The header of a column; margins of claims, which descend nowhere, are relative."""
    if column == "worst_margin" and "claims" in table.columns:
        return ("worst\nmargin", "worst margin (relative)", "worst relative margin")[which]
    return HEADERS.get(column, (column,) * 3)[which]


def _hypothesis_cells(sides: pd.DataFrame, chosen: str | None, many: bool) -> pd.DataFrame:
    drop = [] if chosen is None else ["statement"]
    drop += ["run", "met"] if sides["met"].str.endswith("/1").all() else []
    table = sides.drop(columns=drop)
    title = "hypothesis" if chosen is None else f"hypotheses of {quoted(chosen)}"
    return table.rename(columns={"hypothesis": title, "run": "worst run"})


def _transposed(check: CheckLike) -> str:
    """Many runs as text: a column per statement, ranges over the runs in the cells."""
    table = statement_table(check)
    rows = []
    for name in (
        "verdict",
        "runs",
        *[c for c in table.columns if c not in ("verdict", "runs", "statement", "note")],
    ):
        label = "runs with verdict" if name == "runs" else _header(name, 1, table)
        rows.append([label, *map(number, table[name].astype(str))])
    return text_block(["", *map(quoted, table["statement"])], rows)


def _log10(ratio: float) -> float:
    if ratio is None or math.isnan(ratio):
        return math.nan
    return math.log10(ratio) if ratio > 0 else -math.inf


def _range(values: pd.Series) -> str:
    present = values.dropna()
    if present.empty:
        return "-"
    low, high = number(present.min()), number(present.max())
    return low if low == high else f"{low}..{high}"


def _said(note: object) -> bool:
    return isinstance(note, str) and bool(note)
