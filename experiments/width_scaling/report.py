"""The table of the width experiment in markdown."""

from __future__ import annotations

import numpy as np
import pandas as pd

from experiments.harness.markdown import Table, number, section
from experiments.harness.style import NAMES as KERNELS
from experiments.width_scaling.figure import LAWS, RULES, fit_text

SCALES = {"linear": "1/d_m", "sqrt": "1/sqrt(d_m)"} | KERNELS

SHOWN = ("end_kernel_change", "target_kernel_change", "end_linear_error", "target_linear_error",
         "end_moved_total")  # fmt: skip

MOVED = ("end_moved_W_Q", "end_moved_W_K", "end_moved_W_V", "end_moved_w_O")

SPECTRUM = ("limit_distance", "alpha_per_width", "lambda_min", "lambda_max")

HEADS = {
    "end_kernel_change": "kernel change, T",
    "target_kernel_change": "kernel change, loss 0.1",
    "end_linear_error": "linearisation error, T",
    "target_linear_error": "linearisation error, loss 0.1",
    "end_moved_total": "movement, T",
    "end_moved_W_Q": "W_Q",
    "end_moved_W_K": "W_K",
    "end_moved_W_V": "W_V",
    "end_moved_w_O": "w_O",
    "limit_distance": "\\|K_0 - K*\\|/\\|K*\\|",
    "alpha_per_width": "alpha^2/width",
    "lambda_min": "lambda_min(K_0)",
    "lambda_max": "lambda_max(K_0)",
}


def _name_of(row: pd.Series) -> list[str]:
    """Model, data, initialization and scaling of a group, for the first cells of a line."""
    return [row["model"], row["data"], RULES[row["init"]], SCALES[row["scaling"]]]


def _exponent_table(fits: pd.DataFrame, columns: tuple[str, ...], upper: bool) -> Table:
    """Exponents, one line per group; upper: over the wide half of the widths instead of all."""
    first = ["model", "data", "init", "tau_0 or kernel", "widths"]
    cells = [[*first, *(HEADS[c] for c in columns)]]
    for _, group in fits.groupby(["model", "data", "init", "scaling"], sort=False):
        found = {}
        for column, rows in group.groupby("column"):
            if len(rows) > upper:
                found[column] = rows.iloc[int(upper)]
        if not any(c in found for c in columns):
            continue
        line = next(found[c] for c in columns if c in found)
        span = _span(line)
        made = []
        for column in columns:
            row = found.get(column)
            there = "" if row is None or _span(row) == span else f" ({_span(row)})"
            made.append("-" if row is None else fit_text(row) + there)
        cells.append([*_name_of(line), span, *made])
    return cells


def _span(row: pd.Series) -> str:
    return f"{row['from']}-{row['to']}"


def _separation_table(gaps: pd.DataFrame) -> Table:
    """Exponent at 1/sqrt(d_m) minus exponent at 1/d_m, paired by seed."""
    cells = [["data", "init", "quantity", "widths", "difference", "seeds"]]
    shown = gaps[gaps["column"].isin([c for c in SHOWN if c != "target_linear_error"])]
    for _, row in shown.iterrows():
        text = fit_text(row.rename({"difference": "exponent"}))
        cells.append([row["data"], RULES[row["init"]], HEADS[row["column"]], _span(row), text,
                      str(row["seeds"])])  # fmt: skip
    return cells


def _value_table(runs: pd.DataFrame) -> Table:
    """Geometric means over seeds by width, of the kernel change and others at the end."""
    columns = ("end_loss_ratio", "end_kernel_change", "end_linear_error", "end_moved_total")
    cells = [["model", "data", "init", "tau_0 or kernel", "width", "seeds", "loss ratio",
              "kernel change", "linearisation error", "movement", "seconds"]]  # fmt: skip
    keys = ["model", "data", "init", "scaling", "width"]
    for _, group in runs.groupby(keys, sort=False):
        row = group.iloc[0]
        if group["width"].iloc[0] not in _ends(runs, row):
            continue
        means = [number(float(np.exp(np.log(group[c].clip(lower=1e-300)).mean()))) for c in columns]
        seconds = number(float(group["seconds"].mean()))
        cells.append([*_name_of(row), str(row["width"]), str(len(group)), *means, seconds])
    return cells


def _ends(runs: pd.DataFrame, row: pd.Series) -> list[int]:
    """Least, middle and greatest width of a group."""
    same = runs[["model", "data", "init", "scaling"]] == row[["model", "data", "init", "scaling"]]
    widths = sorted(int(w) for w in runs[same.all(axis=1)]["width"].unique())
    return [widths[0], widths[len(widths) // 2], widths[-1]]


def _law_table(fits: pd.DataFrame, limit: int) -> Table:
    """Least width of the a-priori conditions against N."""
    names = {key: f"{label}, closed constants" for key, (label, _, _) in LAWS.items()}
    names["samples"] = "all three, constants of the samples"
    cells = [["init", "tau_0", "conditions", "N", "exponent of N", "least width", "tightest",
              "alpha^2/(16 lambda_O^2 Lambda^2) at 2^18"]]  # fmt: skip
    for _, row in fits.iterrows():
        there = np.isfinite(row["first"])
        cells.append([
            RULES[row["init"]], SCALES[row["scaling"]], names[row["set"]],
            f"{row['from']:.0f}-{row['to']:.0f}" if there else "-",
            fit_text(row),
            f"{number(row['first'])} to {number(row['last'])}" if there else f"above {limit}",
            row["tightest"], number(row["slack"]),
        ])  # fmt: skip
    return cells


def table_text(
    runs: pd.DataFrame,
    fits: pd.DataFrame,
    gaps: pd.DataFrame,
    law_fits: pd.DataFrame,
    limit: int,
) -> str:
    """The whole file.

    Args:
        runs: One row per run.
        fits: Exponents.
        gaps: Differences of exponents between the scalings.
        law_fits: Exponents of the least widths.
        limit: Greatest width of the laws.

    Returns:
        Markdown.
    """
    first = runs[runs["model"] == "encoder"].iloc[0]
    head = runs[runs["model"] == "multihead"].iloc[0]
    step = f"{first['eta']:g}" if (runs["eta"].nunique() == 1) else "1/lambda_max(K_0)"
    return "\n".join(section(
        "# Width, scaling and laziness",
        f"Gradient descent, {first['epochs']} epochs, step {step}, all blocks trained. Encoder on "
        f"synthetic data: N = {first['N']}, n = {first['n']}, D = {first['D']}, tokens uniform on "
        "the unit sphere, standard normal labels; images: patches, mean squared token norm 4. "
        f"Multi-head model: N = {head['N']}, n = {head['n']}, D = {head['D']}, "
        f"d = {head['head_dim']}, width H. tau_1 = d_m^(-1/2) for NTK, else 1; summed loss.",
        "Kernel change |K_t - K_0|_F/|K_0|_F, linearisation error |r_t - l_t|/|r_0|, movement "
        "|theta_t - theta_0|/|theta_0|: at the last step (T, equal steps) or at the first step "
        "with loss ratio 0.1 (equal loss). Exponents: least squares in log-log, seed by seed, mean "
        "and 95 % Student interval over seeds.",
        "## Do the scalings differ? Exponent at 1/sqrt(d_m) minus exponent at 1/d_m, by seed",
        _separation_table(gaps),
        "## Exponents over all widths that every seed has",
        _exponent_table(fits, SHOWN, upper=False),
        "## Exponents over the wide half",
        _exponent_table(fits, SHOWN, upper=True),
        "## Movement of the blocks at the last step, wide half",
        _exponent_table(fits, MOVED, upper=True),
        "## Limit kernel, features and spectrum at the start, wide half",
        _exponent_table(fits, SPECTRUM, upper=True),
        "## Values at the last step (geometric means over seeds)",
        _value_table(runs),
        "## Least width of the a-priori conditions (2, 8, 16), the corollary of relu-sharp",
        "Orthonormal tokens, n = 2, D = 64, |y| = sqrt(N), nothing trained. Closed constants: "
        "rho = sqrt(N) n^(3/2) tau_1 C_x and z; radii: alpha^2 C_W >= 2 |J_W| r_0; cubic: "
        "alpha^3 >= 8 lambda_O Lambda^2 r_0; third: alpha^2 >= 16 lambda_O^2 Lambda^2, which the "
        "printed theorem has not (two conditions: without it). The paper's counts are N^2 at "
        "1/d_m and N^3 at 1/sqrt(d_m).",
        _law_table(law_fits, limit),
    ))  # fmt: skip
