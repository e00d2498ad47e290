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

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from experiments.harness.command import carried_out, chosen_device
from experiments.harness.statistics import above_chance
from experiments.harness.style import compact
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
from gdconv.report.plots import save_figure
from gdconv.support.environment import environment
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
    for name, table in found.items():
        table.insert(1, "data", table["task"].map(names))  # a stand-in is called one here too
        table.to_csv(out / f"{name}.csv", index=False, float_format="%.5g")
    text = report(preset, names, found["trained"], paths, numbers, found["pairs"])
    (out / "report.md").write_text(text, "utf-8")
    _draw_all(made, numbers, names, out)
    _write_manifest(preset, out, names, device)
    return found


def _draw_all(planes: list[Plane], numbers: pd.DataFrame, names: dict[str, str], out: Path) -> None:
    for task, name in names.items():
        here = [plane for plane in planes if plane.task == task]
        loss = "loss, share of |y|²/2" if task == "regression" else "training loss, nats"
        title = f"Loss landscape, {name}: softmax and Gaussian attention, first seed"
        compact(save_figure(draw(here, title, loss), out / f"figure_{task}")[1])
    paired = numbers[~numbers["kind"].isin(PATH_KINDS)]
    compact(save_figure(draw_numbers(paired, names), out / "figure_numbers")[1])


def _write_manifest(preset: Preset, out: Path, names: dict[str, str], device: str) -> None:
    """What it takes to run this again."""
    shown: dict[str, Any] = asdict(preset)
    for stages in shown["stages"]:
        stages["task"] = {k: v for k, v in stages["task"].items() if k not in _UNUSED}
        stages["task"]["data"] = names[stages["task"]["name"]]
    manifest = {
        "command": f"python -m experiments.loss_landscape --preset {preset.name}",
        "data": names,
        "preset": shown,
        "seeds": list(range(preset.seeds)),
        "device": device,
        "environment": environment(),
    }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")


_UNUSED = ("cache", "rates", "steps", "search_steps", "levels")


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns 0, or 2 for an option that cannot be used."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--preset", choices=sorted(PRESETS), default="small")
    parser.add_argument("--out", type=Path, default=Path("runs/loss_landscape"))
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    options = parser.parse_args(arguments)
    return carried_out(
        lambda: run(PRESETS[options.preset], options.out, chosen_device(options.device)),
        options.out / "report.md",
        f"report, tables and figures: {options.out}/report.md, {options.out}/figure_*.png",
    )
