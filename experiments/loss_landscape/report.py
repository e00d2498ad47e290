"""The report of the loss landscapes, in markdown."""

from __future__ import annotations

from math import isnan
from typing import Any

import pandas as pd

from experiments.harness.markdown import STAND_IN, section, spread
from experiments.harness.style import NAMES as KERNEL_NAMES
from experiments.loss_landscape.numbers import LEVEL, NAMES
from experiments.loss_landscape.plan import KERNELS, Preset
from experiments.tasks.landscape import MEASURES
from experiments.tasks.trained import BAR

COARSE = 1.5
"""A number that grows by more with a finer grid is not resolved."""

SMOOTH = ("slope_variation", "curvature_variation")
"""Measures that tend to a limit with the spacing where the loss is resolved."""

KINDS = {"random": "random planes", "hessian": "leading Hessian planes"}


def report(
    preset: Preset,
    names: dict[str, str],
    trained: pd.DataFrame,
    paths: pd.DataFrame,
    planes: pd.DataFrame,
    pairs: pd.DataFrame,
) -> str:
    """The whole report.

    Args:
        preset: Sizes.
        names: What the data of a task are called.
        trained: Evaluations of the second stages, with `errors` above chance.
        paths: Records of gradient descent on the regression.
        planes: One row per plane.
        pairs: The paired differences.

    Returns:
        Markdown.
    """
    lines = section(
        "# Loss landscapes: softmax against Gaussian attention",
        "Loss on planes spanned by a direction of W_Q and a direction of W_K. Each classifier is "
        "trained with softmax first and then continued, from the same weights and with the same "
        "batches, rate and optimiser, with either kernel. A plane moves W_Q and W_K of all layers; "
        "its centre is the trained network. Coordinate 1 moves the weights by their own norm.",
    )
    lines += _claims_of(names, pairs)
    for task, name in names.items():
        here = planes[planes["task"] == task]
        lines += section(f"## {name}", *([STAND_IN] if "stand-in" in name else []))
        if task == "regression":
            lines += _regression_of(preset, paths)
        else:
            lines += _training_of(trained[trained["task"] == task])
        for kind, words in KINDS.items():
            of_kind = pairs[(pairs["task"] == task) & (pairs["kind"] == kind)]
            lines += _numbers_of(here[here["kind"] == kind], of_kind, words)
        lines += _resolution_of(here)
        if task == "regression":
            lines += _shares_of(here, paths)
    return "\n".join(lines + _how(preset))


def _claims_of(names: dict[str, str], pairs: pd.DataFrame) -> list[str]:
    """What of the poster's claim is seen."""
    said = (
        "The poster's claim, read as: the softmax landscape is more complicated than the Gaussian "
        "one. Per measure it counts as seen where softmax is rougher beyond the 95 % interval of "
        f"the differences, plane by plane, with p (signs) at most {LEVEL:g} and the same sign in "
        "every seed; as reversed where the Gaussian one is; else as open. The intervals are over "
        "planes of a few networks, and are not corrected for the number of rows. Rates, data and "
        "training length of the poster are unknown to us: neither outcome judges its pictures."
    )
    cases = [(task, kind) for task in names for kind in KINDS]
    table = [["measure", *(f"{names[task]}: {KINDS[kind]}" for task, kind in cases)]]
    cells = {(row.task, row.kind, row.measure): row for row in pairs.itertuples()}
    for measure in MEASURES:
        found = [cells[(*case, measure)] for case in cases]
        table.append([
            NAMES[measure],
            *(f"{row.claim} (softmax rougher in {row.rougher} of {row.pairs})" for row in found),
        ])
    counts = ", ".join(
        f"{int((pairs['claim'] == word).sum())} {word}" for word in ("seen", "reversed", "open")
    )
    counted = f"Of {len(pairs)} comparisons: {counts}."
    return section("## Is the softmax landscape rougher?", said, table, counted)


def _numbers_of(planes: pd.DataFrame, pairs: pd.DataFrame, words: str) -> list[str]:
    """Mean and deviation per kernel, and the paired difference."""
    head = f"{words} ({int(pairs['pairs'].max())} pairs, {int(pairs['seeds'].max())} seeds)"
    columns = [f"{KERNEL_NAMES[k]}, mean ± deviation" for k in KERNELS]
    table = [[head, *columns, "softmax - Gaussian [95 % interval]", "p (t)", "p (signs)", "claim"]]
    found = {row.measure: row for row in pairs.itertuples()}
    for measure in MEASURES:
        row: Any = found[measure]
        sides = [planes[planes["kernel"] == k][measure] for k in KERNELS]
        table.append([
            NAMES[measure],
            *(f"{side.mean():.3g} ± {side.std():.3g}" for side in sides),
            f"{row.mean:+.3g} [{row.lo:+.3g}, {row.hi:+.3g}]",
            *("-" if isnan(p) else f"{p:.2g}" for p in (row.p_t, row.p_flip)),
            str(row.claim),
        ])
    return section(table)


def _training_of(trained: pd.DataFrame) -> list[str]:
    """Where the second stage begins and ends."""
    table = [["kernel", "test loss at the switch", "test loss at the end", "test accuracy at the "
              "end", "standard errors above chance"]]  # fmt: skip
    learned = []
    for kernel in KERNELS:
        here = trained[trained["kernel"] == kernel].sort_values("step")
        first, last = here.groupby("seed").first(), here.groupby("seed").last()
        learned.append(f"{KERNEL_NAMES[kernel]} {int((last['errors'] >= BAR).sum())}")
        cells = [spread(first["loss"]), spread(last["loss"]), spread(last["accuracy"])]
        table.append([KERNEL_NAMES[kernel], *cells, spread(last["errors"], ".1f")])
    seeds = trained["seed"].nunique()
    said = f"At least {BAR:g} standard errors above chance, of {seeds} seeds: {', '.join(learned)}."
    return section(table, f"Mean [lowest, highest] of {seeds} seeds. {said}")


def _regression_of(preset: Preset, paths: pd.DataFrame) -> list[str]:
    """Where gradient descent begins and ends."""
    table = [["kernel", "loss at the start, share of |y|^2/2", "at the end", "step size"]]
    for kernel in KERNELS:
        here = paths[paths["kernel"] == kernel].sort_values("step")
        ends = here.groupby("seed")["loss"].first(), here.groupby("seed")["loss"].last()
        cells = [", ".join(f"{v:.2g}" for v in end) for end in ends]
        eta = ", ".join(f"{v:.2g}" for v in here.groupby("seed")["eta"].first())
        table.append([KERNEL_NAMES[kernel], *cells, eta])
    return section(
        f"Gradient descent on W_Q, W_K and W_V from the same start, {preset.regression.steps} "
        "steps, each kernel with its own local step; one value a seed. The loss on the planes is a "
        "share of |y|^2/2.",
        table,
    )


def _shares_of(planes: pd.DataFrame, paths: pd.DataFrame) -> list[str]:
    """How much of the path the planes show."""
    words = {
        "pca": "first two principal directions of the whole path",
        "path": "principal W_Q x principal W_K direction of the path",
        "hessian": "leading Hessian planes",
        "random": "random planes",
    }
    table = [["share of the path's variance in", *(KERNEL_NAMES[k] for k in KERNELS)]]
    for kind, text in words.items():
        here = planes[planes["kind"] == kind]
        cells = [spread(here[here["kernel"] == kernel]["share"], ".2%") for kernel in KERNELS]
        table.append([text, *cells])
    moved = paths.groupby(["kernel", "seed"])["share_W_V"].first()
    table.append([
        "movement of W_V, in no plane of W_Q and W_K",
        *(spread(moved[k], ".2%") for k in KERNELS),
    ])
    return section(table, "Mean [lowest, highest] over the planes, in the last row over seeds.")


def _resolution_of(planes: pd.DataFrame) -> list[str]:
    """The planes that are drawn, at the common and at the finer spacing."""
    columns = [f"fine_{measure}" for measure in MEASURES]
    if not set(columns) <= set(planes):
        return []
    fine = planes.dropna(subset=columns)
    fine = fine[fine["kind"].isin(KINDS)]
    table = [["plane drawn, spacing h, then finer", *(NAMES[m] for m in MEASURES)]]
    coarse = []
    for _, row in fine.iterrows():
        name = f"{KERNEL_NAMES[str(row['kernel'])]}, {KINDS[str(row['kind'])]}"
        pairs = ((row[m], row[f"fine_{m}"]) for m in MEASURES)
        table.append([name, *(f"{a:.3g}, {b:.3g}" for a, b in pairs)])
        if any(row[f"fine_{m}"] > COARSE * row[m] for m in SMOOTH):
            coarse.append(name)
    if not coarse:
        return section(table)
    return section(
        table,
        "Not resolved, because the slope's or the curvature's variation grows by more than "
        f"{COARSE:g} times on the finer grid: {'; '.join(coarse)}. There the numbers hold for "
        "this spacing only.",
    )


def _how(preset: Preset) -> list[str]:
    """What the numbers are."""
    h = 2 * preset.radius / (preset.points - 1)
    return section(
        "## What the numbers are",
        f"Each plane is a grid of {preset.points} x {preset.points} points of spacing h = {h:g}; "
        f"the ones in the figures (first seed, first draw) are finer, and their numbers at the "
        "common spacing are in the tables above, beside those at the finer one.",
        "- slope variation: total variation of the slope along a grid line, int |z''|, mean over "
        "lines of both axes (loss per unit).\n"
        "- bending: slope variation over the range of the slope; 1 for a line that only bends one "
        "way, whatever the scale of the loss.\n"
        "- curvature variation: mean of |third difference|/h^3 (loss per unit cubed).\n"
        "- negative curvature: share of inner points whose 2 x 2 Hessian, by central differences, "
        "has a negative eigenvalue beyond rounding.\n"
        "- local minima: inner points below all 8 neighbours beyond rounding.",
        "A random plane is the same draw for both kernels, each normalised by its own filters; "
        "leading planes are paired by rank, so their directions differ.",
        "Slope and curvature variation grow with the scale of the loss and with how strongly it "
        "reacts to W_Q and W_K at all; the other three do not change with a scale of the loss.",
    )
