"""Which runs the width experiment consists of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.harness.units import Lines
from experiments.width_scaling.laws import Law, run_law
from experiments.width_scaling.runs import Case, run_case

RULES = ("lecun", "he", "ntk")
SCALINGS = ("linear", "sqrt")


@dataclass(frozen=True)
class Plan:
    """Sizes of the experiment.

    Attributes:
        widths: d_m of the encoder on synthetic data.
        seeds: Seeds there.
        large: Further widths.
        large_seeds: Their seeds.
        vision: d_m on image patches.
        vision_seeds: Seeds there.
        heads: H of the multi-head model.
        head_seeds: Seeds there.
        samples: N of the encoder runs.
        epochs: Steps of every run.
        counts: N of the over-parameterisation laws.
        law_seeds: Seeds there.
        law_width: Greatest width there.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048)
    seeds: int = 3
    large: tuple[int, ...] = ()
    large_seeds: int = 1
    vision: tuple[int, ...] = (64, 128, 256, 512, 1024)
    vision_seeds: int = 2
    heads: tuple[int, ...] = (4, 8, 16, 32, 64)
    head_seeds: int = 2
    samples: int = 100
    epochs: int = 400
    counts: tuple[int, ...] = (2, 4, 8)
    law_seeds: int = 2
    law_width: int = 2**19


PRESETS = {
    "quick": Plan((32, 64, 128), 2, (), 1, (32, 64), 2, (4, 8, 16), 2, 20, 60, (2, 3), 2, 2**12),
    "default": Plan(),
    "full": Plan(
        (64, 128, 256, 512, 1024, 2048, 4096), 5, (8192, 16384), 1,
        (64, 128, 256, 512, 1024, 2048), 3, (4, 8, 16, 32, 64, 128), 3, 100, 400,
        (2, 4, 8, 16, 32), 3, 2**21,
    ),
}  # fmt: skip
"""quick: under 20 s; default: some minutes; full: the committed results."""


def cases(plan: Plan, options: dict[str, Any], mnist: str | None = None) -> Iterator[Case]:
    """All runs, narrow ones first.

    Args:
        plan: Sizes.
        options: eta, tau_1, mean_loss of the encoder runs.
        mnist: Folder with MNIST, if there is one.

    Yields:
        The runs.
    """
    size: dict[str, Any] = {"samples": plan.samples, "epochs": plan.epochs, **options}
    vision = [("digits", 4)] + ([(mnist, 16)] if mnist else [])
    for width in plan.heads:
        for seed in range(plan.head_seeds):
            for init in ("lecun", "ntk"):
                for kernel in ("softmax", "gaussian"):
                    yield Case("multihead", "synthetic", init, kernel, width, seed,
                               epochs=plan.epochs, samples=8)  # fmt: skip
    for width in sorted({*plan.widths, *plan.large, *plan.vision}):
        seeds = plan.seeds if width in plan.widths else plan.large_seeds
        for seed in range(seeds if width in (*plan.widths, *plan.large) else 0):
            for init in RULES:
                for scaling in SCALINGS:
                    yield Case("encoder", "synthetic", init, scaling, width, seed, **size)
        for seed in range(plan.vision_seeds if width in plan.vision else 0):
            for data, tokens in vision:
                for init in ("lecun", "ntk"):
                    for scaling in SCALINGS:
                        yield Case("encoder", str(data), init, scaling, width, seed,
                                   tokens=tokens, **size)  # fmt: skip


def _brief(row: dict[str, Any]) -> dict[str, Any]:
    """Floats with nine digits: what is read back is what was used."""
    return {k: float(f"{v:.9g}") if isinstance(v, float) else v for k, v in row.items()}


def measure_laws(plan: Plan, file: Path) -> pd.DataFrame:
    """Least widths of the a-priori conditions.

    Args:
        plan: Sizes.
        file: Where rows are kept.

    Returns:
        One row per initialization, scaling, N and seed.
    """
    laws = [
        Law("lecun", scaling, samples, seed, plan.law_width)  # he changes constants, not powers
        for samples in plan.counts
        for scaling in SCALINGS
        for seed in range(plan.law_seeds)
    ]
    found = Lines(file).run(laws, lambda law, tell: _brief(run_law(law)))
    return pd.DataFrame(found.values())


def measure(plan: Plan, options: dict[str, Any], mnist: str | None, file: Path) -> pd.DataFrame:
    """All runs of gradient descent.

    Args:
        plan: Sizes.
        options: eta, tau_1, mean_loss.
        mnist: Folder with MNIST, if any.
        file: Where rows are kept.

    Returns:
        One row per run.
    """
    every = list(cases(plan, options, mnist))
    found = Lines(file).run(every, lambda case, tell: _brief(run_case(case, tell)))
    return pd.DataFrame(found.values())
