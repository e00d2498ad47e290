"""Padded data for the tests, and the models written again for one sequence at a time.

The references never see a mask: they loop over the real tokens of each sample, and derivatives are
torch's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import gdconv
from gdconv.data.problem import Problem
from gdconv.models.multihead.parameters import Parameters

LENGTHS = (3, 1, 4, 2)
GARBAGE = (np.nan, np.inf, 1e300, 7.0)


@dataclass(frozen=True)
class Padded:
    """Sequences x_i (n_i, D) with targets y_i, and the same as arrays with a mask.

    Attributes:
        sequences: The real tokens of each sample.
        targets: Their targets.
        X: (N, n, D), rubbish at padded places.
        y: (N, n, D_y), the same.
        mask: True for a real token.
    """

    sequences: list[np.ndarray]
    targets: list[np.ndarray]
    X: np.ndarray
    y: np.ndarray
    mask: np.ndarray

    @property
    def problem(self) -> Problem:
        """As the model takes it."""
        return Problem.from_arrays(self.X, self.y, mask=self.mask)

    def alone(self, i: int) -> Problem:
        """Sample i as a problem of its own, without a mask."""
        return Problem.from_arrays(self.sequences[i][None], self.targets[i][None])


def padded(
    lengths: tuple[int, ...] = LENGTHS,
    D: int = 5,
    D_y: int = 2,
    places: int = 5,
    seed: int = 0,
    rubbish: float = np.nan,
) -> Padded:
    """Gaussian sequences of these lengths, anywhere among `places` places."""
    rng = np.random.default_rng(seed)
    sequences = [rng.standard_normal((n, D)) for n in lengths]
    targets = [rng.standard_normal((n, D_y)) for n in lengths]
    where = np.random.default_rng(seed + 1)
    mask = np.zeros((len(lengths), places), bool)
    for row, n in zip(mask, lengths, strict=True):
        row[where.choice(places, n, replace=False)] = True
    X = np.full((*mask.shape, D), rubbish)
    y = np.full((*mask.shape, D_y), rubbish)
    X[mask], y[mask] = np.concatenate(sequences), np.concatenate(targets)
    return Padded(sequences, targets, X, y, mask)


def weights(H: int, D: int, d: int, D_y: int, seed: int = 7, scale: float = 0.7) -> Parameters:
    """Gaussian weights."""
    rng = np.random.default_rng(seed)
    blocks = {b: scale * rng.standard_normal((H, D, d)) for b in ("W_Q", "W_K", "W_V")}
    return Parameters.from_arrays(blocks | {"W_O": rng.standard_normal((H, d, D_y))})


def attended(kernel: str, x: Tensor, W_Q: Tensor, W_K: Tensor) -> Tensor:
    """S of one head and one sequence, entry by entry."""
    d, rows = W_Q.shape[1], []
    for query in x:
        q = query @ W_Q
        if kernel == "softmax":
            raw = torch.stack([torch.exp(q @ (key @ W_K) / d**0.5) for key in x])
            rows.append(raw / raw.sum())
        else:
            gaps = [((q - key @ W_K) ** 2).sum() for key in x]
            rows.append(torch.stack([torch.exp(-gap / (2 * d**0.5)) for gap in gaps]))
    return torch.stack(rows)


def outputs(kernel: str, sequences: list[np.ndarray], W_O: Tensor) -> Callable[..., Tensor]:
    """(W_Q, W_K, W_V), each (H, D, d), to the outputs of all sequences behind one another."""

    def F(W_Q: Tensor, W_K: Tensor, W_V: Tensor) -> Tensor:
        parts = []
        for sequence in sequences:
            x = torch.from_numpy(sequence)
            heads = [
                attended(kernel, x, W_Q[h], W_K[h]) @ x @ W_V[h] @ W_O[h] for h in range(len(W_Q))
            ]
            parts.append(torch.stack(heads).sum(0).flatten())
        return torch.cat(parts)

    return F


NUMBERS = ["rate", "step", "eta_rate", "worst_margin", "bound_last", "tightness"]


def checked(data: Padded, theorem: str = "full-gd", **options: Any) -> gdconv.Check:
    """A check of padded data."""
    return gdconv.check(theorem, X=data.X, y=data.y, mask=data.mask, **options)


def alike(one: gdconv.Check, other: gdconv.Check, digits: float = 1e-9) -> None:
    """The same verdicts, hypotheses and losses up to rounding."""
    assert one.verdicts["verdict"].tolist() == other.verdicts["verdict"].tolist()
    assert one.hypotheses["holds"].tolist() == other.hypotheses["holds"].tolist()
    pairs = [(one.verdicts, other.verdicts, name) for name in NUMBERS]
    pairs += [(one.hypotheses, other.hypotheses, name) for name in ("lhs", "rhs")]
    pairs += [(one.trace, other.trace, "loss_ratio")]
    for a, b, name in pairs:
        rows = slice(None)
        if "hypothesis" in a:  # a ratio of rounding errors is another one every time
            rows = ~a["hypothesis"].str.contains("defect|over its bound", regex=True)
        x, y = (np.array(t[name][rows], dtype=float) for t in (a, b))
        floor = 1e-8 if name == "worst_margin" else 1e-13
        assert np.allclose(x, y, rtol=digits, atol=floor, equal_nan=True), name
