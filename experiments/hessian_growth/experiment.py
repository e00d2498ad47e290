"""How the blocks of the attention Hessian grow with the scale of the input.

The figures of Ormaniec, Dangel and Singh (ICLR 2025) with exact blocks in place of random probes:
bare layer (softmax, linear, pre-layer-norm, temperature), entries of the V and Q blocks, depth, and
a one-block transformer on 5-digit addition beside the published slopes. Writes slopes.csv,
curves.csv, report.md, manifest.json, figure.pdf and figure.png to OUT/, and OUT/checkpoint.jsonl:
the same command goes on where a killed one stopped.

    python -m experiments.hessian_growth [--preset standard] [--out runs/hessian_growth]
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pandas as pd

from experiments.harness.command import carried_out, parser_of
from experiments.harness.results import save_results
from experiments.hessian_growth.figure import draw
from experiments.hessian_growth.layer import DEPTH_SHAPE, SHAPE
from experiments.hessian_growth.numbers import slopes as fitted
from experiments.hessian_growth.plan import PRESETS, Preset, run_units
from experiments.hessian_growth.report import report
from gdconv.checks.store import require_writable


def _summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Over the seeds: what the figure shows."""
    keys = ["study", "variant", "block", "part", "scale"]
    groups = rows.groupby(keys, sort=False)["value"]
    found = groups.agg(seeds="count", median="median", least="min", most="max", mean="mean")
    return found.reset_index()


def run(preset: Preset, out: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure, fit, write.

    Args:
        preset: Sizes.
        out: Folder to write to.

    Returns:
        All rows and the table of slopes.

    Raises:
        InputError: The folder cannot be written or holds another preset's checkpoint.
    """
    require_writable(out)
    rows = run_units(preset, out)
    slopes = fitted(rows)
    manifest = {
        "command": f"python -m experiments.hessian_growth --preset {preset.name}",
        "preset": asdict(preset),
        "bare_layer": dict(zip(("L", "D", "d"), SHAPE, strict=True)),
        "depth": dict(zip(("L", "D", "d"), DEPTH_SHAPE, strict=True)),
        "seeds": "0, 1, ... in every study; embeddings of the transformer 1000 + seed; its sums 0",
        "interval": "Student's 95 % of the mean slope over seeds",
        "published": "public arrays of Ormaniec, Dangel, Singh, ICLR 2025 (arXiv 2410.10986)",
    }
    text, figure = report(rows, slopes, preset), draw(rows, slopes)
    save_results(out, {"slopes": slopes}, {"report": text}, {"figure": figure}, manifest, digits=6)
    _summary(rows).to_csv(out / "curves.csv", index=False, float_format="%.5g")
    return rows, slopes


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns 0, 2 for an option that cannot be used, 130 when interrupted."""
    options = parser_of(__doc__, "hessian_growth", PRESETS, "standard").parse_args(arguments)
    return carried_out(lambda: run(PRESETS[options.preset], options.out), options.out / "report.md")
