"""Sizes, units of work with a checkpoint, and the laws and published numbers to compare with."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import log10
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from experiments.harness.units import Lines
from experiments.hessian_growth.block import (
    addition,
    dense,
    draw_block,
    embed,
    factors,
    query_norm,
    value_norm,
)
from experiments.hessian_growth.layer import Row, along_depth, along_scale, along_temperature

PARTS = ("total", "outer", "functional")
COLUMNS = ("study", "variant", "seed", "scale", "block", "part", "value")
BIN = 0.25
"""Width of a histogram bin in decades."""
LOWEST = -14.0
"""Entries below 10^LOWEST are counted at it."""


def grid(low: float, high: float, per_decade: float) -> tuple[float, ...]:
    """Logarithmic grid with both ends.

    Args:
        low: Least value.
        high: Greatest value.
        per_decade: Points per decade.

    Returns:
        The values, ascending.

    Example:
        >>> grid(0.1, 10.0, 1)
        (0.1, 1.0, 10.0)
    """
    a, b = log10(low), log10(high)
    points = 10 ** np.linspace(a, b, round((b - a) * per_decade) + 1)
    return tuple(float(f"{p:.12g}") for p in points)


@dataclass(frozen=True)
class Preset:
    """Sizes.

    Attributes:
        name: Its name.
        seeds: Of the bare layer.
        scales: Of the bare layer, points per decade.
        depth_seeds: Of deep linear attention.
        block_seeds: Of the transformer.
        sequences: N, sums in its batch.
        embedding: D = d of the transformer.
        block_scales: Points between 0.01 and 10.
        entry_embedding: D = d of the histograms.
    """

    name: str
    seeds: int
    scales: int
    depth_seeds: int
    block_seeds: int
    sequences: int
    embedding: int
    block_scales: int = 20
    entry_embedding: int = 16


PRESETS = {
    "quick": Preset("quick", 3, 4, 2, 2, 2, 6, 16, 5),
    "standard": Preset("standard", 20, 10, 8, 8, 32, 128),
    "paper": Preset("paper", 20, 10, 20, 20, 64, 128),
}
"""quick: seconds, for tests. standard: minutes. paper: the public code's batch and seeds."""


@dataclass(frozen=True)
class Unit:
    """A piece of work that is done or not.

    Attributes:
        study: scale, temperature, depth, entries or transformer.
        variant: What differs within the study.
        seed: Seed.
        scale: Input scale of a transformer cell, 0 elsewhere.
        cost: Rough seconds of one free core, for the bar.
    """

    study: str
    variant: str
    seed: int
    scale: float = 0.0
    cost: float = 0.1

    @property
    def key(self) -> str:
        """Its name in the checkpoint."""
        return f"{self.study}|{self.variant}|{self.seed}|{self.scale:.6g}"


def units(preset: Preset) -> list[Unit]:
    """All pieces, those of one seed together, so that every study has whole seeds.

    Args:
        preset: Sizes.

    Returns:
        The units.

    Example:
        >>> len(units(PRESETS["quick"]))
        86
    """
    made = [
        Unit("scale", v, seed, cost=0.2)
        for seed in range(preset.seeds)
        for v in ("softmax", "linear", "layer norm")
    ]
    made += [Unit("temperature", "softmax", seed) for seed in range(preset.seeds)]
    made += [
        Unit("depth", f"m = {m}", seed, cost=0.1 * m * m)
        for seed in range(preset.depth_seeds)
        for m in (1, 2, 3)
    ]
    made += [
        Unit("entries", kernel, seed, cost=0.2)
        for seed in range(preset.block_seeds)
        for kernel in ("softmax", "linear")
    ]
    cost = preset.sequences / 32 * (preset.embedding / 128) ** 2
    made += [
        Unit("transformer", variant, seed, scale, cost=(1.5 if "with " in variant else 0.4) * cost)
        for seed in range(preset.block_seeds)
        for variant in ("without layer norm", "with layer norm")
        for scale in block_scales(preset)
    ]
    return made


def block_scales(preset: Preset) -> tuple[float, ...]:
    """Scales of the transformer."""
    return grid(1e-2, 10.0, (preset.block_scales - 1) / 3)


def measure(unit: Unit, preset: Preset) -> list[Row]:
    """The numbers of a unit.

    Args:
        unit: What to do.
        preset: Sizes.

    Returns:
        Rows: scale, block, part, value.
    """
    if unit.study == "scale":
        return along_scale(unit.variant, unit.seed, grid(1e-4, 10**1.5, preset.scales))
    if unit.study == "temperature":
        return along_temperature(unit.seed, grid(1e-2, 1e4, max(preset.scales // 2, 3)))
    if unit.study == "depth":
        return along_depth(int(unit.variant[-1]), unit.seed, grid(1e-2, 10.0, preset.scales))
    if unit.study == "entries":
        return _entries(unit, preset)
    tokens = addition(preset.sequences, 0)
    X = embed(tokens, preset.embedding, 1000 + unit.seed)
    block = draw_block(preset.embedding, unit.seed, layer_norm=unit.variant == "with layer norm")
    made = factors(block, unit.scale * X, tokens)
    rows: list[Row] = [(unit.scale, "loss", "total", made.loss)]
    for name, norm in (("QQ", query_norm), ("VV", value_norm)):
        rows += [(unit.scale, name, part, norm(made, part)) for part in PARTS]
    return rows


def _entries(unit: Unit, preset: Preset) -> list[Row]:
    """Counts of log10 |entry| (scale is the bin's lower edge) and quantiles of the entries."""
    D = preset.entry_embedding
    tokens = addition(min(64, 2 * preset.sequences), 0)
    X = 0.8 / D**0.5 * embed(tokens, D, 1000 + unit.seed)
    made = factors(draw_block(D, unit.seed, unit.variant), X, tokens)
    rows: list[Row] = []
    for name, block in (("W_Q", "QQ"), ("W_V", "VV")):
        H = dense(made, name)
        entries = H[_upper(len(H))].abs().numpy()
        kept = entries[entries > 0]
        bins = np.floor(np.maximum(np.log10(kept), LOWEST) / BIN).astype(int)
        for k, count in zip(*np.unique(bins, return_counts=True), strict=True):
            rows.append((float(k * BIN), block, "share", float(count / len(entries))))
        rows.append((0.0, block, "zeros", float(len(entries) - len(kept))))
        rows += [
            (float(q), block, "quantile", float(np.quantile(entries, q))) for q in (0.05, 0.5, 0.95)
        ]
    return rows


def _upper(P: int) -> Any:
    """Indices of the upper triangle: every entry of a symmetric matrix once."""
    return torch.triu_indices(P, P, device="cpu").unbind()


def run_units(preset: Preset, out: Path) -> pd.DataFrame:
    """All units, going on from OUT/checkpoint.jsonl.

    Args:
        preset: Sizes.
        out: Folder.

    Returns:
        All rows, columns COLUMNS.

    Raises:
        InputError: The checkpoint was written with other sizes.
    """
    every = units(preset)
    kept = Lines(out / "checkpoint.jsonl", {"preset": asdict(preset)})
    found = kept.run(every, lambda unit, tell: {"rows": measure(unit, preset)})
    rows = [
        (unit.study, unit.variant, unit.seed, *row)
        for unit in every
        for row in found[unit.key]["rows"]
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))
