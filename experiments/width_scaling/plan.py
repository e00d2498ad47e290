"""Which runs the width experiment consists of, and their resumable execution."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.width_scaling.laws import run_law
from experiments.width_scaling.runs import Case, run_case
from gdconv.support.errors import InputError
from gdconv.support.threads import one_thread

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


def resume(file: Path) -> dict[str, dict[str, Any]]:
    """Rows that an interrupted experiment left; an unfinished last line is dropped.

    Args:
        file: JSON lines, each with a `key`.

    Returns:
        Rows by key.

    Raises:
        InputError: The file holds something else.
    """
    if not file.exists():
        return {}
    found: dict[str, dict[str, Any]] = {}
    whole = 0
    lines = file.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines):
        try:
            row = json.loads(line)
            found[row["key"]] = row
        except (ValueError, KeyError, TypeError):
            if number + 1 < len(lines):
                remedy = "remove it or choose another folder"
                raise InputError("out", file, f"line {number + 1} is no row; {remedy}") from None
            break
        whole += len(line)
    if whole < file.stat().st_size:
        os.truncate(file, whole)  # or the next row would be glued to half a line
    return found


def _brief(value: Any) -> Any:
    """Floats with nine digits: what is read back is what was used."""
    return float(f"{value:.9g}") if isinstance(value, float) else value


def execute(
    jobs: list[tuple[str, Callable[[Callable[[], Any]], dict[str, Any]]]], file: Path, unit: int
) -> pd.DataFrame:
    """Run what is missing, append each row as soon as it is there.

    Args:
        jobs: Key and function of every row; the function is given the progress callback.
        file: JSON lines to resume from and to append to.
        unit: Callbacks per job, for the progress bar.

    Returns:
        One row per job, in their order.
    """
    from tqdm import tqdm

    done = resume(file)
    missing = [(key, job) for key, job in jobs if key not in done]
    if len(missing) < len(jobs):
        print(f"... {len(jobs) - len(missing)} of {len(jobs)} runs are there", file=sys.stderr)
    with (
        one_thread(),
        file.open("a") as stream,
        tqdm(total=unit * len(missing), unit="step", file=sys.stderr, dynamic_ncols=True) as bar,
    ):
        for key, job in missing:
            bar.set_postfix_str(f"{len(done)} of {len(jobs)} runs", refresh=False)
            done[key] = {name: _brief(v) for name, v in job(bar.update).items()} | {"key": key}
            stream.write(json.dumps(done[key]) + "\n")
            stream.flush()
    return pd.DataFrame([done[key] for key, _ in jobs]).drop(columns="key")


def measure_laws(plan: Plan, file: Path) -> pd.DataFrame:
    """Least widths of the a-priori conditions.

    Args:
        plan: Sizes.
        file: Where rows are kept.

    Returns:
        One row per initialization, scaling, N and seed.
    """

    def job(of: tuple[str, str, int, int]) -> Callable[[Callable[[], Any]], dict[str, Any]]:
        return lambda tick: run_law(*of, plan.law_width, tick)

    every = [
        ("lecun", scaling, samples, seed)  # he changes constants, not powers
        for samples in plan.counts
        for scaling in SCALINGS
        for seed in range(plan.law_seeds)
    ]
    return execute([(repr((*of, plan.law_width)), job(of)) for of in every], file, 1)


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

    def job(case: Case) -> Callable[[Callable[[], Any]], dict[str, Any]]:
        return lambda tick: run_case(case, tick)

    every = list(cases(plan, options, mnist))
    return execute([(case.key, job(case)) for case in every], file, plan.epochs)
