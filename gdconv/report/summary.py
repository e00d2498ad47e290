"""What a command prints of a check: the setting, the tables, the verdict, what to do about it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd

from gdconv.models.reads import attends
from gdconv.report.layout import number
from gdconv.report.source import CheckLike
from gdconv.report.tables import descended, render
from gdconv.support.config import GLOBAL, Config
from gdconv.support.errors import MOST_SAID, quoted

LEVELS = {
    "float64": "of the stored float64 iterates; rounding error is part of every comparison",
    "float32": "float32, for study only: it certifies nothing",
    "certified": "by ball arithmetic on the stored iterates",
    "statistical": "it rests on intervals over draws and is right as often as they are",
    "estimated": "it rests on an estimate that nothing bounds, so it neither confirms nor refutes",
}

ADVICE = {
    "confirmed": "every hypothesis is met and the bound held at every compared step of {runs}",
    "vacuous": "the bound held, but never fell below 0.9 of its start in {runs}, so nothing was "
    "tested: give more --steps, or a larger --step where the hypotheses allow it",
    "outside": "the statement says nothing about {runs}, since hypotheses are not met: {unmet}. "
    "For those on the start {start}, for those on the end of the run give more --steps",
    "undecided": "rounding error is as large as a difference that had to be decided in {runs}: use "
    "{precision}fewer --steps, or a problem with a larger sigma_min",
    "refuted": "the hypotheses are met and the bound is violated beyond rounding error in {runs}. "
    "This refutes the formula, read as this statement, for this initialization; it does not refute "
    "that some other initialization exists",
}


CLAIM_ADVICE = {
    "confirmed": "every claim holds in {runs}",
    "vacuous": "the claims hold but test nothing in {runs}; see the note",
    "outside": "the statement says nothing about {runs}, since hypotheses are not met: {unmet}",
    "undecided": "error bars overlap in {runs}: {unmet}",
    "refuted": "a claim is violated beyond its error in {runs}: {unmet}",
}
"""As `ADVICE`, for theorems without descent."""


def summary(check: CheckLike, folder: Path | None = None, notes: bool = True) -> str:
    """The text that `gdconv check` prints.

    Args:
        check: A check.
        folder: Where it was saved, if it was.
        notes: Print the check's messages.

    Returns:
        Header, notes, table over statements, hypotheses of the judged statement, verdict, folder.

    Example:
        >>> from gdconv.report.example import example_check
        >>> summary(example_check()).splitlines()[0]
        'full-gd: Full-parameter gradient descent on one-layer multi-head attention'
    """
    lines = [f"{check.theorem}: {check.title}", f"  source   {check.source}"]
    lines += [f"  {name:<8} {text}" for name, text in setting(check).items()]
    if notes:
        lines += [f"  note     {message}" for message in check.messages]
    lines = [quoted(line, MOST_SAID) for line in lines]
    lines += ["", render(check), verdict_line(check)]
    if folder is not None:
        lines.append(quoted(f"saved in {folder}", MOST_SAID))
        if check.verdict == "refuted":
            lines.append(quoted(f"replay the witness with: gdconv replay {folder}", MOST_SAID))
    return "\n".join(lines) + "\n"


def setting(check: CheckLike) -> dict[str, str]:
    """Problem, kernel and step of a check in words.

    Args:
        check: A check.

    Returns:
        Text by name: problem, kernel, step, runs.

    Example:
        >>> from gdconv.report.example import example_check
        >>> setting(example_check())["problem"]
        'digits, N = 8 samples, n = 2 tokens, D = 32, D_y = 1'
    """
    config, runs = check.config, check.runs
    if not descended(check):
        return _cases(check)
    problem = str(config.get("problem") or config.get("data") or "given arrays")
    attention = attends(config)  # another model has no heads and no tokens
    if "X" in check.starts and not attention:
        shapes = [tuple(check.starts[name].shape[2:]) for name in ("X", "y")]
        N = check.starts["X"].shape[1]
        problem += f", N = {N} samples, inputs {shapes[0]}, targets {shapes[1]}"
    elif "X" in check.starts:
        samples, tokens, width = check.starts["X"].shape[1:]
        outputs = check.starts["y"].shape[-1]
        problem += f", N = {samples} samples, n = {tokens} tokens, D = {width}, D_y = {outputs}"
    kernel = str(config.get("kernel"))
    if "w_O" in check.starts:
        kernel = f"{kernel} encoder, d_m = {config.get('width')}, {config.get('scaling')} scaling"
        kernel += f", {config.get('activation')}, loss {config.get('loss')}"
    elif "W_Q" in check.starts:
        kernel += (
            f", H = {check.starts['W_Q'].shape[1]} heads of d = {check.starts['W_Q'].shape[-1]}"
        )
    if config.get("init"):
        kernel += f", init {config['init']}"
    steps = _span(runs["steps"])
    found = {"problem": problem}
    found |= (
        {"kernel": kernel}
        if attention
        else {"model": f"{config.get('model')}, loss {config.get('loss')}"}
    )
    found |= _own(config, () if attention else ("loss", "samples"))
    # the rule that made the step, which is not the one asked for where that one allows none
    rule = (
        ", ".join(dict.fromkeys(runs["step_rule"])) if "step_rule" in runs else config.get("step")
    )
    found["step"] = f"η = {_span(runs['step'])} ({rule}), {steps} steps"
    seeds = ", ".join(str(seed) for seed in runs["seed"])
    found["runs"] = f"{len(runs)} (seed {seeds}), f_T/f_0 = {_span(runs['loss_ratio_last'])}"
    return found


def _own(config: Mapping[str, Any], but: tuple[str, ...]) -> dict[str, str]:
    """The options that theorem, model and algorithm declare themselves."""
    known = {*GLOBAL, *but} if but else {f.name for f in fields(Config)}
    own = {k: v for k, v in config.items() if k not in known and v is not None}
    return {"options": ", ".join(f"{quoted(k)} {quoted(v)}" for k, v in own.items())} if own else {}


def _cases(check: CheckLike) -> dict[str, str]:
    """The cases of a check without descent."""
    skip = ("theorem", "statement", "seed", "seeds", "device", "dtype", "engine")
    kept = {k: v for k, v in check.config.items() if k not in skip}
    read = {k: v for k, v in kept.items() if v is not None and v is not False}
    seeds = ", ".join(str(seed) for seed in check.runs["seed"])
    found = {"cases": f"{len(check.runs)} (seed {seeds})"}
    return found | ({"with": ", ".join(f"{k} {v}" for k, v in read.items())} if read else {})


def verdict_line(check: CheckLike) -> str:
    """The verdict, what it certifies and what to do when it is not `confirmed`.

    Args:
        check: A check.

    Returns:
        Two paragraphs of at most 100 columns.

    Example:
        >>> from gdconv.report.example import example_check
        >>> verdict_line(example_check())[:36]
        'VERDICT per-head: confirmed, every h'
    """
    rows = check.verdicts[check.verdicts["statement"] == check.statement]
    same = rows[rows["verdict"] == check.verdict]
    runs = f"{len(rows)} run{'s' if len(rows) != 1 else ''}"
    text = (ADVICE if descended(check) else CLAIM_ADVICE)[check.verdict].format(
        unmet=_unmet(check),
        runs=runs if len(same) == len(rows) else f"{len(same)} of {runs}",
        start=_start_advice(check),
        precision="--dtype float64, " if check.config.get("dtype") == "float32" else "",
    )
    level = LEVELS.get(check.level, quoted(check.level))
    if not descended(check) and check.level == "float64":
        level = "of the stored cases; every comparison carries its stated tolerance or error bar"
    if check.level == "estimated" and check.verdict == "undecided":
        text = f"an estimate decides nothing in {runs}"
    named = dict.fromkeys(part for note in rows["note"] for part in str(note).split("; "))
    level = "; ".join([
        level,
        *(quoted(part) for part in named if part.startswith(f"{check.level}: ")),
    ])
    lines = [
        f"VERDICT {quoted(check.statement)}: {check.verdict}, {text}.",
        f"Level {quoted(check.level)}: {level}.",
    ]
    return "\n".join(textwrap.fill(line, 100, subsequent_indent="  ") for line in lines)


def _start_advice(check: CheckLike) -> str:
    """What changes a start and is not refused: a problem fixes its weights."""
    config = check.config
    if not attends(config):
        return "give other data, other options of the model or another --seed"
    own = config.get("model") in (None, _own_model(check.theorem))
    choose = "let --init theorem choose the weights" if own else "give another --init or --seed"
    if config.get("problem"):
        return f"leave --problem out and {choose}"
    if config.get("init") == "theorem":
        return "give other data, sizes or another --seed"
    return choose


def _own_model(theorem: str) -> str | None:
    """The model that a theorem's own initialization is made for."""
    from gdconv.theory.registry import listed, outline

    found = outline(theorem) or listed()[0].get(theorem)
    return found.models[0] if found and found.models else None


def _span(values: pd.Series) -> str:
    low, high = number(values.min()), number(values.max())
    return low if low == high else f"{low}..{high}"


def _unmet(check: CheckLike) -> str:
    """Names of the judged statement's hypotheses that do not hold in some run."""
    sides = check.hypotheses
    rows = sides[(sides["statement"] == check.statement) & (sides["holds"] == "false")]
    if rows.empty:
        rows = sides[(sides["statement"] == check.statement) & (sides["holds"] == "undecided")]
    return "; ".join(map(quoted, dict.fromkeys(rows["hypothesis"]))) or "none"
