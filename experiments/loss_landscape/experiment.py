"""The loss on planes of a W_Q and a W_K direction, softmax against Gaussian attention.

Classifiers trained in two stages, softmax first and then either kernel, on text and on Pathfinder,
and the one-layer regression of the theorems with the path of gradient descent. Writes planes.csv,
spreads.csv, pairs.csv, trained.csv, paths.csv, report.md, manifest.json and the figures (PDF and
PNG) to OUT/, and every network and grid to OUT/checkpoints: the same command goes on where a killed
one stopped.

    python -m experiments.loss_landscape [--preset small] [--out runs/loss_landscape]

The text task is a generated stand-in, and is called one in every result.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from tqdm import tqdm

from experiments.harness.command import carried_out, chosen_device, parser_of
from experiments.harness.results import save_results
from experiments.harness.statistics import above_chance
from experiments.loss_landscape.figure import draw, draw_numbers
from experiments.loss_landscape.numbers import compare, spreads
from experiments.loss_landscape.plan import PRESETS, Preset
from experiments.loss_landscape.report import report
from experiments.loss_landscape.runs import (
    PATH_KINDS,
    Plane,
    classifier_planes,
    grid_points,
    regression_planes,
)
from experiments.tasks.trained import load
from gdconv.checks.store import require_writable
from gdconv.support.threads import one_thread

REGRESSION = "regression on UCI digits"
"""What the data of the regression are called."""


def run(preset: Preset, out: Path, device: str = "cpu") -> dict[str, pd.DataFrame]:
    """Train, evaluate the planes, measure, write.

    Args:
        preset: Sizes.
        out: Folder to write to.
        device: "cpu" or "cuda", of the classifiers.

    Returns:
        Tables by name: planes, spreads, pairs, trained, paths.

    Raises:
        InputError: The folder cannot be written.
    """
    require_writable(out)
    folder = out / "checkpoints"
    made: list[Plane] = []
    names: dict[str, str] = {}
    tables: list[pd.DataFrame] = []
    with one_thread(), tqdm(total=grid_points(preset), desc="planes", unit="point") as bar:
        for stages in preset.stages:
            data = load(stages.task)
            planes, trained = classifier_planes(preset, stages, folder, device, bar)
            trained["errors"] = [above_chance(a, data.y_test.numpy()) for a in trained["accuracy"]]
            names[stages.task.name] = data.name
            made, tables = made + planes, [*tables, trained]
        planes, paths = regression_planes(preset, folder, bar)
    made, names = made + planes, names | {"regression": REGRESSION}
    paths.insert(0, "task", "regression")
    numbers = pd.DataFrame([plane.row(preset.points) for plane in made])
    found = {"planes": numbers, "spreads": spreads(numbers), "pairs": compare(numbers)}
    found |= {"trained": pd.concat(tables, ignore_index=True), "paths": paths}
    for table in found.values():
        table.insert(1, "data", table["task"].map(names))  # a stand-in is called one here too
    text = report(preset, names, found["trained"], paths, numbers, found["pairs"])
    figures, manifest = _figures(made, numbers, names), _manifest(preset, names, device)
    save_results(out, found, {"report": text}, figures, manifest)
    return found


def _figures(
    planes: list[Plane], numbers: pd.DataFrame, names: dict[str, str]
) -> dict[str, Figure]:
    figures = {}
    for task, name in names.items():
        here = [plane for plane in planes if plane.task == task]
        loss = "loss, share of |y|²/2" if task == "regression" else "training loss, nats"
        title = f"Loss landscape, {name}: softmax and Gaussian attention, first seed"
        figures[f"figure_{task}"] = draw(here, title, loss)
    paired = numbers[~numbers["kind"].isin(PATH_KINDS)]
    return figures | {"figure_numbers": draw_numbers(paired, names)}


def _manifest(preset: Preset, names: dict[str, str], device: str) -> dict[str, Any]:
    """What it takes to run this again."""
    shown: dict[str, Any] = asdict(preset)
    for stages in shown["stages"]:
        stages["task"] = {k: v for k, v in stages["task"].items() if k not in _UNUSED}
        stages["task"]["data"] = names[stages["task"]["name"]]
    return {
        "command": f"python -m experiments.loss_landscape --preset {preset.name}",
        "data": names,
        "preset": shown,
        "seeds": list(range(preset.seeds)),
        "device": device,
    }


_UNUSED = ("cache", "rates", "steps", "search_steps", "levels")


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns 0, or 2 for an option that cannot be used."""
    parser = parser_of(__doc__, "loss_landscape", PRESETS, "small", device=True)
    options = parser.parse_args(arguments)
    return carried_out(
        lambda: run(PRESETS[options.preset], options.out, chosen_device(options.device)),
        options.out / "report.md",
        "report, tables and figures",
        "figure_*.png",
    )
