"""Convex attention beside its rivals: speed, attention maps, sparsity, modular division.

1. Training curves of the convex program and of (3), (4), (8) on the digits and on a student-teacher
   task with a frozen encoder, with the optimum enclosed by the certified gap.
2. Attention maps: one-hot heads recovered from the convex solution against softmax attention.
3. Active tokens along the regularisation path, and those proved inactive.
4. Division modulo a prime with one- and two-layer networks: steps to fit and to generalise.

After Ergen, Neyshabur, Mehta 2022, whose hyper-parameters were not published: ours are in the
report. Writes report.md, CSV tables, manifest.json and four figures (PDF and PNG) to OUT/, and
OUT/checkpoints: the same command goes on where a killed one stopped.

    python -m experiments.convex_attention [--preset small] [--out runs/convex_attention]
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pandas as pd

from experiments.convex_attention.figure import map_figure, training_figure
from experiments.convex_attention.figure_more import modular_figure, path_figure
from experiments.convex_attention.numbers import (
    curves,
    entropies,
    fixed_programs,
    modular,
    optima,
    paths,
    searches,
    speed,
)
from experiments.convex_attention.plan import PRESETS, Done, Preset, run_units
from experiments.convex_attention.report import report
from experiments.harness.command import carried_out, parser_of
from experiments.harness.results import save_results
from gdconv.checks.store import require_writable


def _tables_of(done: Done) -> dict[str, pd.DataFrame]:
    """All tables by file name."""
    division, lines = modular(done)
    return {
        "curves": curves(done),
        "speed": speed(done),
        "step_sizes": searches(done),
        "optima": optima(done),
        "entropy": entropies(done),
        "path": paths(done),
        "modular": division,
        "modular_curves": lines,
        "modular_decay": modular(done, "decay")[0],
        "modular_fixed": fixed_programs(done),
    }


def run(preset: Preset, out: Path) -> dict[str, pd.DataFrame]:
    """Compute, write tables, figures and manifest.

    Args:
        preset: Sizes.
        out: Folder to write to.

    Returns:
        Tables by name.

    Raises:
        InputError: The folder cannot be written or holds another preset's checkpoint.
    """
    require_writable(out)
    done = run_units(preset, out / "checkpoints")
    tables = _tables_of(done)
    figures = {
        "training": training_figure(done),
        "maps": map_figure(done),
        "path": path_figure(done),
        "modular": modular_figure(done, preset),
    }
    manifest = {
        "command": f"python -m experiments.convex_attention --preset {preset.name}",
        "preset": asdict(preset),
        "seeds": "0, 1, ... in every study; step sizes are chosen on seed 1000",
        "encoder_accuracy": _encoder_accuracy(done),
        "source": "after Ergen, Neyshabur, Mehta 2022 (arXiv 2211.11052); hyper-parameters ours",
    }
    save_results(out, tables, {"report": report(done, preset)}, figures, manifest, digits=6)
    return tables


def _encoder_accuracy(done: Done) -> float | None:
    """Accuracy of the frozen network on images it was not trained on."""
    found = [r["encoder"] for r in done.values() if r.get("encoder") is not None]
    return found[0] if found else None


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns 0, 2 for an option that cannot be used, 130 when interrupted."""
    options = parser_of(__doc__, "convex_attention", PRESETS, "small").parse_args(arguments)
    return carried_out(
        lambda: run(PRESETS[options.preset], options.out),
        options.out / "report.md",
        "report, tables and figures",
        "training.png",
    )
