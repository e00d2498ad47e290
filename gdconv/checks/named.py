"""Named problems: data and weights fixed exactly, the witnesses of the theory.

Each entry returns a problem, its weights, and the options it suggests. `--problem FILE.npz` loads a
saved witness instead (X, y, W_Q, W_K, W_V, W_O).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gdconv.data.sources import read_arrays, require_rows
from gdconv.models.encoder import witnesses as encoder_witnesses
from gdconv.models.multihead import witnesses
from gdconv.models.named import Named
from gdconv.support.errors import InputError

NAMED: dict[str, Callable[[str, int], Named]] = {
    "stacked-witness": witnesses.stacked_witness,
    "stacked-aligned": witnesses.stacked_aligned,
    "stacked-stationary": witnesses.stacked_stationary,
    "narrow-head": witnesses.narrow_head,
    "too-few-heads": witnesses.too_few_heads,
    "printed-stationarity": witnesses.printed_stationarity,
    "softmax-trap": witnesses.softmax_trap,
    "gaussian-trap": witnesses.gaussian_trap,
    "kink": encoder_witnesses.kink,
}


def named_problem(name: str, kernel: str, seed: int, model: str = "multihead") -> Named:
    """The named problem, or the witness stored in a .npz file.

    Args:
        name: A key of `NAMED`, or a path that ends in .npz.
        kernel: Attention kernel; some problems depend on it.
        seed: Seed of those that draw.
        model: The model whose weights a .npz file holds.

    Returns:
        Problem, weights and suggested options.

    Raises:
        InputError: Unknown name or unreadable file.

    Example:
        >>> named_problem("stacked-witness", "softmax", 0).problem.N
        1
    """
    if name in NAMED:
        return NAMED[name](kernel, seed)
    if str(name).endswith(".npz"):
        from gdconv.models.families import ARCHITECTURES

        made = ARCHITECTURES[model]
        arrays = read_arrays(Path(name), ("X", "y", *made.blocks), "problem")
        require_rows(arrays["X"])
        problem = made.problem(arrays["X"], arrays["y"], Path(name).stem, [])
        return Named(problem, made.from_arrays({b: arrays[b] for b in made.blocks}), {})
    raise InputError(
        "problem", name, f"choose one of {', '.join(NAMED)}, or give a .npz with data and weights"
    )
