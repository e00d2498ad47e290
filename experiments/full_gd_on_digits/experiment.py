"""The first theorem on real data: does gradient descent on all of W_Q, W_K, W_V obey its bound?

UCI digits, softmax and Gaussian attention, four seeds each, weights of order one; the judged
statement is `run`: the a-posteriori bound on [0, T] and a certificate for all later steps. Writes a
table and one figure to OUT/ and the saved runs beside them.

    python -m experiments.full_gd_on_digits [--out runs/full_gd_on_digits] [--seeds 4]
"""

from __future__ import annotations

import sys
from pathlib import Path

from experiments.harness.command import parser_of
from gdconv.checks.result import Check
from gdconv.checks.run import check
from gdconv.checks.store import require_writable
from gdconv.report.figures import save_figure
from gdconv.report.plots import side_by_side
from gdconv.report.summary import summary
from gdconv.support.errors import GdconvError
from gdconv.theory.verdict import EXIT_CODES, worst


def run(out: Path, seeds: int) -> list[Check]:
    """Check both kernels, write table, figure and saved runs.

    Args:
        out: Folder to write to.
        seeds: Runs per kernel.

    Returns:
        The two checks, softmax first.
    """
    require_writable(out)
    checks = []
    for kernel in ("softmax", "gaussian"):
        print(f"... {kernel} attention, {seeds} runs", file=sys.stderr)
        made = check("full-gd", statement="run", data="digits", kernel=kernel, seeds=seeds)
        print(summary(made, made.save(out)), end="\n\n")
        checks.append(made)
    for format, suffix in (("markdown", "md"), ("csv", "csv"), ("latex", "tex")):
        text = "\n\n".join(made.table(format) for made in checks)
        (out / f"table.{suffix}").write_text(text + "\n")
    save_figure(side_by_side(checks), out / "figure")
    return checks


def main() -> int:
    """Command line; returns the exit code of the worst verdict."""
    parser = parser_of(__doc__, "full_gd_on_digits")
    parser.add_argument("--seeds", type=int, default=4)
    options = parser.parse_args()
    try:
        checks = run(options.out, options.seeds)
    except GdconvError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for made in checks:
        least = made.runs["loss_ratio_last"].max()
        print(
            f"{made.config['kernel']:>8}: run {made.verdict}, f_T/f_0 <= {least:.1e} in every run"
        )
    print(f"table and figure: {options.out}/table.md, {options.out}/figure.png")
    return EXIT_CODES[worst([made.verdict for made in checks])]
