"""Tables of the convex attention experiment, from the results of its units."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from experiments.convex_attention.plan import Done

LEVELS = (1e-2, 1e-4)
"""Relative excess over F* that counts as close."""
SAME = ("convex", "(8)", "(4)")
"""Models whose optimum is F*."""


def parts(done: Done, study: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Results of one study.

    Args:
        done: Results by key.
        study: As in `Unit`.

    Returns:
        Pairs of names (task, model, method, seed) and result.
    """
    found = []
    for key, result in done.items():
        kind, task, model, method, seed = key.split("|")
        if kind == study:
            names = {"task": task, "model": model, "method": method, "seed": int(seed)}
            found.append((names, result))
    return found


def optima(done: Done) -> pd.DataFrame:
    """F* of every task and seed, enclosed.

    Args:
        done: Results by key.

    Returns:
        task, seed, lower, upper, at_zero, beta, seconds, active, status.
    """
    wanted = ("lower", "upper", "at_zero", "beta", "seconds", "active", "status")
    return pd.DataFrame([
        {"task": names["task"], "seed": names["seed"]} | {name: found[name] for name in wanted}
        for names, found in parts(done, "optimum")
    ])


def curves(done: Done) -> pd.DataFrame:
    """Objectives over F* of the same seed, and for the models with optimum F* the excess.

    Args:
        done: Results by key.

    Returns:
        task, model, method, seed, step, seconds, objective (F_t over the lower end of F*), excess:
        an upper bound of (F_t - F*)/F* (NaN for (3), whose optimum is not F*).
    """
    best = optima(done).set_index(["task", "seed"])
    tables = []
    for names, found in parts(done, "curve"):
        at = best.loc[(names["task"], names["seed"])]
        table = pd.DataFrame({"step": found["steps"], "seconds": found["seconds"]})
        values = np.array(found["values"], dtype=float)
        table["objective"] = values / float(at["lower"])
        excess = table["objective"] - 1.0
        table["excess"] = excess if names["model"] in SAME else np.nan
        tables.append(table.assign(**names))
    made = pd.concat(tables, ignore_index=True)
    return made[
        ["task", "model", "method", "seed", "step", "seconds", "objective", "excess"]
    ]  # fmt: skip


def speed(done: Done) -> pd.DataFrame:
    """How long each run takes to be close, and where it ends.

    For (3) and its control, whose optima are not known, close means close to the least value that
    any run of that model reached on that seed (`reference` says "own best").

    Args:
        done: Results by key.

    Returns:
        task, model, method, seed, reference, steps and seconds to each level (NaN: not reached;
        the first recorded step at or below it), last objective over F*, last excess, diverged,
        r_squared, rate.
    """
    table, rows = curves(done), []
    results = {tuple(names.values()): found for names, found in parts(done, "curve")}
    for key, run in table.groupby(["task", "model", "method", "seed"], sort=False):
        task, model, method, seed = key
        of_model = (table["task"] == task) & (table["model"] == model) & (table["seed"] == seed)
        least = float(table[of_model]["objective"].replace(np.inf, np.nan).min())
        own = model not in SAME
        excess = run["objective"] / least - 1.0 if own else run["excess"]
        row: dict[str, Any] = dict(zip(("task", "model", "method", "seed"), key, strict=True))
        row["reference"] = "own best" if own else "F*"
        for level in LEVELS:
            near = run[excess <= level]
            row[f"steps_{level:g}"] = float(near["step"].iloc[0]) if len(near) else np.nan
            row[f"seconds_{level:g}"] = float(near["seconds"].iloc[0]) if len(near) else np.nan
        found = results[(task, model, method, seed)]
        row |= {"objective": float(run["objective"].iloc[-1]), "excess": float(excess.iloc[-1])}
        row["diverged"] = not bool(np.isfinite(run["objective"].iloc[-1]))
        rows.append(row | {"r_squared": found["r_squared"], "rate": found["rate"]})
    return pd.DataFrame(rows)


def entropies(done: Done) -> pd.DataFrame:
    """Attention entropy over log n of every model, before and after training.

    Args:
        done: Results by key.

    Returns:
        task, model, seed, at_start, entropy; the convex program's heads attend to one token each,
        entropy 0 by construction.
    """
    rows = [
        {
            "task": names["task"], "model": names["model"], "seed": names["seed"],
            "at_start": found["at_start"], "entropy": found["attention"]["entropy"],
        }
        for names, found in parts(done, "curve")
        if "attention" in found
    ]  # fmt: skip
    for names, found in parts(done, "optimum"):
        a = np.array(found["heads"])
        spread = float(-(a * np.log(np.maximum(a, 1e-300))).sum(1).mean()) if len(a) else np.nan
        entropy = spread / np.log(a.shape[1]) if len(a) else np.nan
        rows.append({"task": names["task"], "model": "convex", "seed": names["seed"],
                     "at_start": np.nan, "entropy": entropy + 0.0})  # fmt: skip
    return pd.DataFrame(rows)


def paths(done: Done) -> pd.DataFrame:
    """The regularisation paths.

    Args:
        done: Results by key.

    Returns:
        task, seed and the columns of `along_path`.
    """
    return _stacked(done, "path")


def fixed_programs(done: Done) -> pd.DataFrame:
    """The convex programs of modular division.

    Args:
        done: Results by key.

    Returns:
        seed and the columns of `fixed`.
    """
    return _stacked(done, "fixed").drop(columns="task")


def _stacked(done: Done, study: str) -> pd.DataFrame:
    return pd.DataFrame([
        {"task": names["task"], "seed": names["seed"]} | row
        for names, found in parts(done, study)
        for row in found["rows"]
    ])


def searches(done: Done) -> pd.DataFrame:
    """Step sizes tried.

    Args:
        done: Results by key.

    Returns:
        task, model, method, rate, objective (at the end of the run; inf: diverged), chosen.
    """
    rows = []
    for names, found in parts(done, "search"):
        for rate, end in zip(found["rates"], found["ends"], strict=True):
            row = {name: names[name] for name in ("task", "model", "method")} | {"rate": rate}
            end = end if end < 1e300 else np.inf
            rows.append(row | {"objective": end, "chosen": rate == found["rate"]})
    return pd.DataFrame(rows)


def shorter(runs: pd.DataFrame, layers: int, kind: str, other: str) -> tuple[int, int, int]:
    """In how many seeds the delay between fit and generalisation is shorter for one kind.

    A run that does not generalise has a delay above its last step minus its fit.

    Args:
        runs: First table of `modular`.
        layers: Layers.
        kind: A kind.
        other: Another.

    Returns:
        Seeds in which it is shorter, longer or the same, and not decided.

    Example:
        >>> row = {"layers": 1, "seed": 0, "fit": 10.0, "last": 90}
        >>> runs = pd.DataFrame([row | {"kind": "a", "delay": 20.0},
        ...                      row | {"kind": "b", "delay": np.nan}])
        >>> shorter(runs, 1, "a", "b"), shorter(runs, 1, "b", "a"), shorter(runs, 1, "b", "b")
        ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    """
    counts = [0, 0, 0]
    here = runs[runs["layers"] == layers]
    for _, rows in here.groupby("seed"):
        first, second = (rows[rows["kind"] == name].iloc[0] for name in (kind, other))
        (low, high), (other_low, other_high) = _delay(first), _delay(second)
        counts[0 if high < other_low else 1 if low >= other_high else 2] += 1
    return counts[0], counts[1], counts[2]


def _delay(run: pd.Series) -> tuple[float, float]:
    """Least and greatest delay a run can have."""
    if np.isfinite(run["delay"]):
        return float(run["delay"]), float(run["delay"])
    return (float(run["last"] - run["fit"]) if np.isfinite(run["fit"]) else 0.0), float("inf")


def modular(done: Done, study: str = "modular") -> tuple[pd.DataFrame, pd.DataFrame]:
    """Modular division.

    Args:
        done: Results by key.
        study: "modular", or "decay" for the second round with another weight decay.

    Returns:
        One row per run: layers, kind, seed, fit, generalise (NaN: not reached), delay, last
        (step), test (last accuracy), seconds, columns; and the curves: layers, kind, seed, step,
        train, test, loss.
    """
    rows, lines = [], []
    for names, found in parts(done, study):
        key = {"layers": int(names["task"]), "kind": names["model"], "seed": names["seed"]}
        fit, generalise = (
            np.nan if found[name] is None else float(found[name]) for name in ("fit", "generalise")
        )
        rows.append(
            key
            | {"fit": fit, "generalise": generalise, "delay": generalise - fit}
            | {"last": found["last"], "test": found["rows"][-1][2]}
            | {"seconds": found["seconds"], "columns": found["columns"]}
        )
        for step, train, test, loss in found["rows"]:
            lines.append(key | {"step": step, "train": train, "test": test, "loss": loss})
    return pd.DataFrame(rows), pd.DataFrame(lines)
