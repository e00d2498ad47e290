"""Numbers of the loss landscapes: per plane, their spread, and the paired comparison."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pandas as pd

from experiments.harness.statistics import paired
from experiments.loss_landscape.plan import KERNELS
from experiments.tasks.landscape import MEASURES, roughness

NAMES = {
    "slope_variation": "slope variation",
    "bending": "bending",
    "curvature_variation": "curvature variation",
    "negative": "negative curvature",
    "minima": "local minima",
}

UNITS = {
    "slope_variation": "loss per unit",
    "bending": "1 = a plain bowl",
    "curvature_variation": "loss per unit$^3$",
    "negative": "share of the grid",
    "minima": "count on the grid",
}

LEVEL = 0.05
"""Of the tests; two-sided, not corrected for how many there are."""

ORDER = ["task", "kind", "measure"]


def measured(
    z: np.ndarray, axes: tuple[np.ndarray, np.ndarray], points: int, unit: float
) -> dict[str, float]:
    """Roughness on a grid of the common spacing.

    Args:
        z: Losses, on a grid as fine or finer.
        axes: Its coordinates.
        points: Points along an axis to take.
        unit: Rounding unit of the losses.

    Returns:
        The measures; with a finer grid also on all of it, as fine_<measure>.
    """
    every = (len(z) - 1) // (points - 1)
    spacing = tuple(float(axis[every] - axis[0]) for axis in axes)
    made: dict[str, float] = asdict(roughness(z[::every, ::every], (spacing[0], spacing[1]), unit))
    if every > 1:
        fine = (spacing[0] / every, spacing[1] / every)
        made |= {f"fine_{k}": v for k, v in asdict(roughness(z, fine, unit)).items()}
    return made


def spreads(planes: pd.DataFrame) -> pd.DataFrame:
    """Mean, deviation and range of every measure over planes.

    Args:
        planes: One row per plane.

    Returns:
        One row per task, kind, measure and kernel: planes, seeds, mean, deviation, lowest, highest.
    """
    rows = []
    for (task, kind, kernel), here in planes.groupby(["task", "kind", "kernel"], sort=False):
        for measure in MEASURES:
            values = here[measure].dropna()
            rows.append({
                "task": task, "kind": kind, "measure": measure, "kernel": kernel,
                "planes": len(values), "seeds": here["seed"].nunique(), "mean": values.mean(),
                "deviation": values.std(), "lowest": values.min(), "highest": values.max(),
            })  # fmt: skip
    return pd.DataFrame(rows).sort_values(ORDER, kind="stable", ignore_index=True)


def compare(planes: pd.DataFrame) -> pd.DataFrame:
    """Differences softmax - Gaussian, plane by plane: the same seed and the same draw.

    The planes made from a path are one a seed, too few for a test.

    Draws on one network are not independent networks, so the mean of every seed is given too, and
    nothing is called seen unless all of them agree in sign.

    Args:
        planes: One row per plane.

    Returns:
        One row per task, kind and measure: pairs, mean difference with its 95 % interval
        (Student's t over pairs), p_t, p_flip over pairs (at most 15), rougher (pairs in which
        softmax is), seeds, agreeing (seeds whose mean has the sign of the mean), claim.
    """
    rows = []
    paired_kinds = planes[planes["kind"].isin(("random", "hessian"))]
    for (task, kind), here in paired_kinds.groupby(["task", "kind"], sort=False):
        sides = {k: here[here["kernel"] == k].set_index(["seed", "draw"]) for k in KERNELS}
        for measure in MEASURES:
            gaps = (sides["softmax"][measure] - sides["gaussian"][measure]).dropna()
            made = paired(gaps.to_numpy(dtype=float))
            means = gaps.groupby(level="seed").mean().to_numpy()
            agreeing = int((np.sign(means) == np.sign(made["mean"])).sum())
            rows.append({
                "task": task, "kind": kind, "measure": measure, "pairs": len(gaps),
                **{name: made[name] for name in ("mean", "lo", "hi", "p_t", "p_flip")},
                "rougher": int((gaps > 0).sum()), "seeds": len(means), "agreeing": agreeing,
                "claim": claim_of(made["lo"], made["hi"], made["p_flip"], agreeing == len(means)),
            })  # fmt: skip
    return pd.DataFrame(rows).sort_values(ORDER, kind="stable", ignore_index=True)


def claim_of(lo: float, hi: float, p_flip: float, agree: bool) -> str:
    """The poster's claim, read as: softmax is rougher.

    Args:
        lo: Lower end of the interval of softmax - Gaussian.
        hi: Upper end.
        p_flip: p of the sign-flip test, nan where there is none.
        agree: Whether every seed's mean has the same sign.

    Returns:
        "seen" or "reversed" where the interval excludes 0, the signs do too, and all seeds agree,
        else "open".

    Example:
        >>> claim_of(0.1, 0.2, 0.01, True), claim_of(-2.0, -1.0, 0.01, True)
        ('seen', 'reversed')
        >>> claim_of(0.1, 0.2, 0.01, False), claim_of(0.1, 0.2, 0.25, True)
        ('open', 'open')
    """
    if not agree or p_flip > LEVEL:
        return "open"
    return "seen" if lo > 0 else ("reversed" if hi < 0 else "open")
