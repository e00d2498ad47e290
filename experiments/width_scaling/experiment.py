"""Lazy training against width: encoder and multi-head model, three initializations, two scalings.

1. Gradient descent at widths that double: relative movement of the weights, kernel change
   |K_t - K_0|/|K_0| and distance to the linearised model, at equal steps and at equal loss, with
   fitted exponents; |K_0 - K*| and alpha^2/d_m at the start.
2. The same on digits as patches, and on MNIST where a folder with its IDX files is given.
3. The least width at which the a-priori conditions (2, 8, 16) hold, the corollary of `relu-sharp`,
   against N.

The step is 1/lambda_max(K_0). The paper takes step 1, which only a mean loss and a smaller tau_1
allow: --eta 1 --mean-loss --tau-1 sqrt.

Writes runs.jsonl and laws.jsonl (one line per run, resumed from), table.csv, table.md,
manifest.json, figure.pdf and figure.png to OUT/.

    python -m experiments.width_scaling [--preset default] [--out runs/width_scaling]
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.harness.command import carried_out, parser_of
from experiments.harness.results import save_results
from experiments.width_scaling.figure import draw
from experiments.width_scaling.laws import SETS, SETTING
from experiments.width_scaling.numbers import exponents, law_exponents, separations
from experiments.width_scaling.plan import PRESETS, Plan, measure, measure_laws
from experiments.width_scaling.report import table_text
from experiments.width_scaling.runs import TARGET, peak_rss
from gdconv.checks.store import require_writable
from gdconv.data.idx import read_folder
from gdconv.support.errors import InputError


def run(
    out: Path, plan: Plan, options: dict[str, Any] | None = None, mnist: str | None = None
) -> pd.DataFrame:
    """Measure what is missing, write table, figure and manifest.

    Args:
        out: Folder to write to and to resume from.
        plan: Sizes.
        options: eta, tau_1 and mean_loss of the encoder runs; nothing means the defaults.
        mnist: Folder with MNIST's IDX files, if there is one.

    Returns:
        The exponents.
    """
    require_writable(out)
    if mnist:
        read_folder(mnist)  # refused now, not after the other runs
    before = peak_rss()
    runs = measure(plan, options or {}, mnist, out / "runs.jsonl")
    if mnist:
        runs["data"] = runs["data"].replace(mnist, "MNIST")
    laws = measure_laws(plan, out / "laws.jsonl")
    fits, gaps, law_fits = exponents(runs), separations(runs), law_exponents(laws, tuple(SETS))
    report = {"table": table_text(runs, fits, gaps, law_fits, plan.law_width)}
    figures = {"figure": draw(runs, fits, laws, law_fits)}
    manifest = {
        "plan": asdict(plan),
        "options": options or {},
        "step": "1/lambda_max(K_0)" if not (options or {}).get("eta") else options,
        "equal_loss": TARGET,
        "laws": SETTING | {"labels": "|y| = sqrt(N)", "tokens": "orthonormal"},
        "interval": "Student, 95 %, over slopes of single seeds",
        "seconds_of_the_runs": round(float(runs["seconds"].sum())),
        "peak_rss_mib": round(float(runs["peak_rss_mib"].max())),
        "rss_mib_before": round(before),
    }
    save_results(out, {"table": fits}, report, figures, manifest)
    return fits


def tau_1(text: str) -> float:
    """The option --tau-1: a positive number, or sqrt for d_m^(-1/2), which is written -1 inside.

    Args:
        text: What was given.

    Returns:
        The number.

    Raises:
        InputError: Something else.

    Example:
        >>> tau_1("0.5"), tau_1("sqrt")
        (0.5, -1.0)
    """
    if text == "sqrt":
        return -1.0
    return positive("tau_1", text, "give a positive number or sqrt")


def positive(field: str, text: str, remedy: str = "give a positive number") -> float:
    """A positive finite number.

    Args:
        field: Name of the option.
        text: What was given.
        remedy: What to say otherwise.

    Returns:
        The number.

    Raises:
        InputError: Something else.

    Example:
        >>> positive("eta", "1e-2")
        0.01
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise InputError(field, text, remedy)
    return value


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns 0, 2 for an option that cannot be used, 130 when interrupted."""
    parser = parser_of(__doc__, "width_scaling", PRESETS, "default")
    parser.add_argument("--epochs", type=int, help="steps of every run")
    parser.add_argument("--eta", help="step size of the encoder runs instead of 1/lambda_max(K_0)")
    parser.add_argument("--tau-1", help="factor of the encoder's output, or sqrt for d_m^(-1/2)")
    parser.add_argument("--mean-loss", action="store_true", help="average the loss over samples")
    parser.add_argument("--mnist", help="folder with train-images-idx3-ubyte and its labels")
    given = parser.parse_args(arguments)

    def work() -> None:
        plan = PRESETS[given.preset]
        if given.epochs is not None:
            if given.epochs < 1:
                raise InputError("epochs", given.epochs, "give at least 1")
            plan = replace(plan, epochs=given.epochs)
        options: dict[str, Any] = {"mean_loss": True} if given.mean_loss else {}
        options |= {"eta": positive("eta", given.eta)} if given.eta else {}
        options |= {"tau_1": tau_1(given.tau_1)} if given.tau_1 else {}
        run(given.out, plan, options, given.mnist)

    return carried_out(work, given.out / "table.md", "table and figure")
