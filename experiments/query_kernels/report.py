"""The short table of the kernel comparison, in markdown."""

from __future__ import annotations

import math

import pandas as pd

from experiments.harness.markdown import number, section
from experiments.query_kernels.map import leader
from gdconv.descent.stall import CAUSES

SHOWN = (0.1, 0.5, 1.0, 2.0, 4.0)
"""Scales in the table of varied shapes."""


def spread(row: pd.Series) -> str:
    """Median [interval]; "open" where undecided seeds leave the interval without any bound.

    Args:
        row: A row of the map.

    Returns:
        Text.

    Example:
        >>> spread(pd.Series({"median": 2.0, "median_most": 2.0, "lo": 1.0, "hi": 3.0}))
        '2 [1, 3]'
        >>> spread(pd.Series({"median": 9.0, "median_most": math.inf, "lo": 5.0, "hi": math.inf}))
        '> 9 [5, inf]'
    """
    least, most, lo, hi = (float(row[c]) for c in ("median", "median_most", "lo", "hi"))
    if lo == 0 and math.isinf(hi):
        return "open"
    ends = f" [{number(lo)}, {number(hi)}]"
    if least == most:
        return number(least) + ends
    if math.isinf(most):
        return (f"> {number(least)}" if least > 0 else "open") + ends
    return f"< {number(most)}" + ends


def _name_of(row: pd.Series) -> str:
    """What was varied: "base A" or "A, n = 4"."""
    factor = row["factor"]
    return f"base {row['base']}" if factor == "base" else f"{row['base']}, {factor} = {row[factor]}"


def _base_lines(table: pd.DataFrame, base: str) -> list[str]:
    """Both kernels along the scale at one base shape."""
    here = table[(table["base"] == base) & (table["factor"] == "base")]
    first = here.iloc[0]
    sizes = ", ".join(f"{name} = {first[name]}" for name in ("N", "n", "D", "d", "H", "D_y"))
    found = {key: rows.set_index("scale") for key, rows in here.groupby(["quantity", "kernel"])}
    cells = [
        ["scale", "kappa_0 softmax", "kappa_0 Gaussian", "ratio", "ratio of kappa_0/\\|K_Q\\|",
         "undecided s, G"]
    ]  # fmt: skip
    for scale in found["kappa_0", "ratio"].index:
        each = [found["kappa_0", k].loc[scale] for k in ("softmax", "gaussian")]
        cells.append([
            f"{scale:g}",
            *(number(row["median"]) if row["median"] == row["median_most"] else "~0"
              for row in each),
            *(spread(found[q, "ratio"].loc[scale]) for q in ("kappa_0", "kappa_0/|K_Q|")),
            ", ".join(str(row["undecided"]) for row in each),
        ])  # fmt: skip
    return section(f"## Base {base}: {sizes}", cells)


def _varied_lines(table: pd.DataFrame) -> list[str]:
    """The ratio at every shape, for some scales."""
    ratios = table[(table["kernel"] == "ratio") & (table["quantity"] == "kappa_0")]
    scales = [s for s in SHOWN if s in set(ratios["scale"])]
    cells = [["shape", *(f"scale {s:g}" for s in scales)]]
    for _, rows in ratios.groupby(["base", "factor", "N", "n", "D", "d", "H"], sort=False):
        spreads = [spread(rows[rows["scale"] == s].iloc[0]) for s in scales]
        cells.append([_name_of(rows.iloc[0]), *spreads])
    return section("## kappa_0(Gaussian) / kappa_0(softmax), every shape", cells)


def _leader_lines(table: pd.DataFrame) -> list[str]:
    """In how many shapes each kernel is ahead, along the scale."""
    cells = [["scale", "kappa_0: Gaussian ahead, open, softmax ahead",
              "kappa_0/\\|K_Q\\|: Gaussian ahead, open, softmax ahead"]]  # fmt: skip
    ratios = table[table["kernel"] == "ratio"]
    for scale, rows in ratios.groupby("scale"):
        line = [f"{scale:g}"]
        for quantity in ("kappa_0", "kappa_0/|K_Q|"):
            here = rows[rows["quantity"] == quantity]
            who = [leader(lo, hi) for lo, hi in zip(here["lo"], here["hi"], strict=True)]
            line.append(", ".join(str(who.count(k)) for k in ("gaussian", "open", "softmax")))
        cells.append(line)
    return section("## In how many shapes a kernel is ahead (its interval excludes 1)", cells)


def _reached_lines(reached: pd.DataFrame) -> list[str]:
    """What training reached."""
    first = reached.iloc[0]
    cells = [["H", "scale", "kernel", "f_T / f_0", "f_T / (\\|y\\|^2 / 2)", "stalled",
              ", ".join(CAUSES), "lower than the other"]]  # fmt: skip
    for _, row in reached.iterrows():
        spans = [
            f"{number(row[q])} [{number(row[q + '_lo'])}, {number(row[q + '_hi'])}]"
            for q in ("loss_ratio", "loss_target")
        ]
        causes = ", ".join(str(row[c]) for c in CAUSES)
        cells.append([
            str(row["H"]), f"{row['scale']:g}", str(row["kernel"]), *spans,
            f"{row['stalled']} of {row['runs']}", causes, f"{row['lower']}",
        ])  # fmt: skip
    head = f"## Training W_Q alone, {first['steps']} steps, (N, n, D, d, D_y) = (3, 2, 8, 3, 1)"
    said = (
        "Both kernels from the same weights, step 0.5 / |J_Q(0)|^2 of each (halved while the loss "
        "rises). A seed that both fit to 1e-12 of f_0 counts as lower for neither."
    )
    return section(head, said, cells)


def map_text(table: pd.DataFrame, reached: pd.DataFrame) -> str:
    """The whole page.

    Args:
        table: The map.
        reached: The reached losses.

    Returns:
        Markdown.
    """
    seeds = table["seeds"].iloc[0]
    head = section(
        "# kappa_0 of the Gaussian and the softmax kernel, and what training reaches",
        f"Median [95 % order-statistics interval] of {seeds} seeds, Gaussian data, the same data "
        "and weights for both kernels. Scale: of W_Q and W_K over sqrt D; W_V and W_O have scale "
        "1. A seed is undecided where kappa_0 is 0 or below about 1e-26 |K_Q|; it enters a median "
        "as the whole range it can have. \"open\": the interval excludes nothing.\n"
        "The rows of the Gaussian kernel are not normalised (they sum to up to n), so part of a "
        "large ratio is the size of the output; kappa_0/|K_Q| does not see size.\n"
        "At shape A with H = 1 softmax has kappa_0 = 0 whatever the weights: on two tokens the "
        "covariance of a head has one direction only, too few for D_y = 2 outputs.",
    )  # fmt: skip
    lines = head + [line for b in ("A", "B") for line in _base_lines(table, b)]
    return "\n".join(lines + _leader_lines(table) + _varied_lines(table) + _reached_lines(reached))
