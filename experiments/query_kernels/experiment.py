"""Which attention kernel has the larger kappa_0, where, and what training W_Q alone then reaches.

1. kappa_0 = lambda_min(K_Q) of both kernels at the same weights and data, over the scale of W_Q and
   W_K and over n, N, D, d, H around two base shapes: median ratio with a 95 % interval.
2. Gradient descent on W_Q alone, a fixed number of steps: loss reached, share of runs that stall
   and why.
3. Saturation: the tangent of an attention row (softmax: covariance of keys and values under the
   row) and the attention entropy along the scale.

Writes map.csv, map.md, reached.csv, manifest.json, figure.pdf and figure.png to OUT/.

    python -m experiments.query_kernels [--out runs/query_kernels] [--seeds 24] [--quick]
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.harness.command import carried_out, parser_of
from experiments.harness.results import save_results
from experiments.query_kernels.figure import draw
from experiments.query_kernels.map import (
    COVERAGE,
    FLOOR,
    KERNELS,
    SCALES,
    measure_map,
    median_interval,
)
from experiments.query_kernels.report import map_text
from gdconv.checks.run import check
from gdconv.checks.store import require_writable
from gdconv.descent.stall import CAUSES
from gdconv.support.errors import InputError

FITTED = 1e-12
"""Runs stop at this loss ratio; two runs that both get there are a tie."""

TRAINED: dict[str, Any] = {"samples": 3, "tokens": 2, "embedding": 8, "head_dim": 3, "outputs": 1}
"""Shape of the training runs, m = 6; heads vary."""


@dataclass(frozen=True)
class Plan:
    """Sizes of the experiment.

    Attributes:
        scales: Scales of the map.
        factors: Factors varied in the map.
        train_scales: Scales of the training runs.
        heads: Their numbers of heads.
        runs: Their seeds per cell.
        steps: Their steps.
    """

    scales: tuple[float, ...] = SCALES
    factors: tuple[str, ...] = ("n", "N", "D", "d", "H")
    train_scales: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
    heads: tuple[int, ...] = (2, 8)
    runs: int = 8
    steps: int = 500


FULL = Plan()
QUICK = Plan((0.1, 0.5, 1.0, 2.0, 4.0), ("n",), (0.5, 2.0), (2,), 6, 40)


def _train(kernel: str, heads: int, scale: float, plan: Plan) -> pd.DataFrame:
    """One cell of training runs."""
    made = check(
        "query-gd", statement="run", seeds=plan.runs, steps=plan.steps, kernel=kernel, heads=heads,
        scales=f"{scale:g},{scale:g},1,1", data="gaussian", init="normal", step="local",
        sharpness=False, until_loss=FITTED, **TRAINED,
    )  # fmt: skip
    zero_output = 0.5 * (made.starts["y"] ** 2).sum(axis=(1, 2, 3))
    return pd.DataFrame({
        "loss_ratio": made.runs["loss_ratio_last"],
        "loss_target": made.runs["loss_last"] / zero_output,
        "stall": [cause_of(text) for text in made.runs["stall"]],
    })


def cause_of(text: str) -> str:
    """The cause that a diagnosis (`gdconv.descent.stall`) names, empty for a run that goes on.

    Args:
        text: The sentence.

    Returns:
        One of `CAUSES`, "other" or "".

    Example:
        >>> cause_of("stalls at loss 2: loss of rank, only 1e-07 of it is left"), cause_of("")
        ('loss of rank', '')
    """
    return next((c for c in CAUSES if c in text), "other") if text else ""


def _measure_reached(plan: Plan) -> pd.DataFrame:
    """Losses reached from the same weights; lower: seeds that end below the other, no ties."""
    rows: list[dict[str, Any]] = []
    for heads in plan.heads:
        for scale in plan.train_scales:
            print(f"... training W_Q, H = {heads}, scale {scale:g}", file=sys.stderr)
            ends = {kernel: _train(kernel, heads, scale, plan) for kernel in KERNELS}
            both = (ends["gaussian"]["loss_ratio"] <= FITTED) & (
                ends["softmax"]["loss_ratio"] <= FITTED
            )
            for kernel, end in ends.items():
                other = ends[KERNELS[1 - KERNELS.index(kernel)]]
                lower = (end["loss_target"] < other["loss_target"]) & ~both
                row: dict[str, Any] = {"H": heads, "scale": scale, "kernel": kernel}
                row |= {"runs": plan.runs, "steps": plan.steps}
                for name in ("loss_ratio", "loss_target"):
                    median, _, lo, hi = median_interval(end[name].to_numpy())
                    row |= {name: median, f"{name}_lo": lo, f"{name}_hi": hi}
                row["stalled"] = int((end["stall"] != "").sum())
                row |= {cause: int((end["stall"] == cause).sum()) for cause in CAUSES}
                rows.append(row | {"lower": int(lower.sum())})
    return pd.DataFrame(rows)


def run(out: Path, seeds: int, quick: bool = False) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure, write tables, figure and manifest.

    Args:
        out: Folder to write to.
        seeds: Seeds per cell of the map.
        quick: A small version.

    Returns:
        The map and the table of reached losses.

    Raises:
        InputError: Fewer than 6 seeds.
    """
    if seeds < 6:
        raise InputError("seeds", seeds, "give at least 6: fewer have no 95 % interval")
    require_writable(out)
    plan = QUICK if quick else FULL
    print(f"... kappa_0 of both kernels, {seeds} seeds a cell", file=sys.stderr)
    table = measure_map(seeds, plan.scales, plan.factors)
    reached = _measure_reached(plan)
    manifest = {
        "command": "python -m experiments.query_kernels"
        + f" --seeds {seeds}"
        + (" --quick" if quick else ""),
        "seeds": list(range(seeds)),
        "training": {**TRAINED, "seeds": list(range(plan.runs)), "steps": plan.steps},
        "interval": f"order statistics of the median, at least {COVERAGE:.0%}",
        "undecided": f"sigma_m(J_Q) < {FLOOR:g} max(|J_Q|, max |x| |k| |u| / sqrt d)",
    }
    text, figure = map_text(table, reached), draw(table, reached)
    tables = {"map": table, "reached": reached}
    save_results(out, tables, {"map": text}, {"figure": figure}, manifest)
    return table, reached


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns 0, 2 for an option that cannot be used, 130 when interrupted."""
    parser = parser_of(__doc__, "query_kernels")
    parser.add_argument("--seeds", type=int, default=24, help="seeds per cell of the map")
    parser.add_argument("--quick", action="store_true", help="a small version, under 20 s")
    options = parser.parse_args(arguments)
    return carried_out(
        lambda: run(options.out, options.seeds, options.quick),
        options.out / "map.md",
        kept=False,
    )
