"""Named problems: data and weights fixed exactly, the witnesses of the theory.

Each entry returns a problem, its weights, and the options it suggests. `--problem FILE.npz` loads a
saved witness instead (X, y, W_Q, W_K, W_V, W_O, and a mask where tokens are padded);
`package.module:name` makes one of your own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gdconv.data.sources import read_arrays, require_rows
from gdconv.models.architecture import Architecture
from gdconv.models.encoder import witnesses as encoder_witnesses
from gdconv.models.multihead import witnesses
from gdconv.models.named import Named
from gdconv.support.choices import meant
from gdconv.support.errors import InputError, cause
from gdconv.support.objects import object_named

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


def named_problem(name: str, kernel: str, seed: int, family: Architecture) -> Named:
    """The named problem, or the witness stored in a .npz file.

    Args:
        name: A key of `NAMED`, a path that ends in .npz, or `package.module:name` of a function
            (kernel, seed) -> Named of your own.
        kernel: Attention kernel; some problems depend on it.
        seed: Seed of those that draw.
        family: The model family whose weights it must hold.

    Returns:
        Problem, weights and suggested options.

    Raises:
        InputError: Unknown name, unreadable file, or weights of another model.

    Example:
        >>> from gdconv.models.families import MultiHead
        >>> named_problem("stacked-witness", "softmax", 0, MultiHead()).problem.N
        1
    """
    if name in NAMED or (":" in name and not name.endswith(".npz")):
        made = _made(name, kernel, seed)
        if not family.holds(made.params):
            remedy = f"give another one: its weights are not those of the {family.name} model"
            raise InputError("problem", name, remedy)
        return made
    if str(name).endswith(".npz"):
        more = ("mask",) if family.padding else ()
        arrays = read_arrays(Path(name), ("X", "y", *family.blocks), "problem", more)
        require_rows(arrays["X"])
        masked = family.require_padding(arrays.get("mask"))
        problem = family.problem(arrays["X"], arrays["y"], Path(name).stem, [], **masked)
        return Named(problem, family.from_arrays({b: arrays[b] for b in family.blocks}), {})
    remedy = f"choose one of {', '.join(NAMED)}, or give a .npz with data and weights"
    raise InputError("problem", name, meant(name, NAMED) + remedy)


def _made(name: str, kernel: str, seed: int) -> Named:
    if name in NAMED:
        return NAMED[name](kernel, seed)
    what = "a function (kernel, seed) -> gdconv.models.named.Named"
    maker = object_named("problem", name, what)
    try:
        made = maker(kernel, seed)
    except InputError:
        raise
    except Exception as error:  # whatever a user's function raises
        raise InputError("problem", name, f"give {what} ({cause(error)})") from error
    if not isinstance(made, Named):
        raise InputError("problem", f"{name}, which makes {type(made).__name__}", f"give {what}")
    return made
