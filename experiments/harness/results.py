"""What an experiment leaves in its folder: tables, report, figures, manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from gdconv.report.figures import save_figure
from gdconv.support.environment import environment


def save_results(
    out: Path,
    tables: Mapping[str, pd.DataFrame],
    report: Mapping[str, str],
    figures: Mapping[str, Figure],
    manifest: Mapping[str, Any],
    digits: int = 5,
) -> None:
    """Write all that is kept of a run.

    Args:
        out: Folder, made if it is not there.
        tables: Tables by name, written as CSV.
        report: Texts by name, written as Markdown.
        figures: Figures by name, written as PDF and PNG.
        manifest: What it takes to run this again; the environment is added.
        digits: Digits in the tables.

    Example:
        >>> import tempfile
        >>> out = Path(tempfile.mkdtemp())
        >>> save_results(out, {}, {"report": "# Nothing"}, {"figure": Figure()}, {"seeds": 0})
        >>> sorted(path.name for path in out.iterdir())
        ['figure.pdf', 'figure.png', 'manifest.json', 'report.md']
    """
    out.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        table.to_csv(out / f"{name}.csv", index=False, float_format=f"%.{digits}g")
    for name, text in report.items():
        (out / f"{name}.md").write_text(text, "utf-8")
    for name, figure in figures.items():
        _, png = save_figure(figure, out / name)
        with Image.open(png) as image:  # 256 colours: a committed figure should be small
            small = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
        small.save(png, optimize=True)
    whole = {**manifest, "environment": environment()}
    (out / "manifest.json").write_text(json.dumps(whole, indent=2) + "\n", "utf-8")
