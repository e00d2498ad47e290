"""What options, data and weights must meet before the first step; each failure is one sentence.

`prepare` fills every option, drops those that nothing will read and refuses the ones among them
that were asked for; likewise a size that was asked for must be the size that came out.
"""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from gdconv.config import Config
from gdconv.errors import InputError
from gdconv.models.multihead import Parameters
from gdconv.npz import LARGEST_BYTES
from gdconv.problem import Problem
from gdconv.start import Start

SIZES = ("samples", "tokens", "embedding", "outputs", "heads", "head_dim")
"""Options that are sizes of the arrays: N, n, D, D_y, H, d."""

DEVICES = re.compile(r"cpu|mps|cuda(:\d{1,2})?")
"""Devices that descent was written for."""


def without_unused(config: Config) -> Config:
    """None in every field that nothing will read.

    Args:
        config: Resolved options.

    Returns:
        The same options without those that the problem, the data or the initialization makes moot.

    Example:
        >>> without_unused(Config("full-gd", data="gaussian", init="he", target="ink")).target
        >>> without_unused(Config("full-gd", data="digits", init="he", target="ink")).target
        'ink'
    """
    drawn = not config.problem
    used = {
        "data": drawn,
        "init": drawn,
        "target": drawn and config.data == "digits",
        "scales": drawn and config.init in ("normal", "paired"),
        "margin": drawn and config.init == "theorem",
    }
    unused: dict[str, Any] = {name: None for name, read in used.items() if not read}
    return replace(config, **unused)


def require_used(asked: Config, config: Config) -> None:
    """Every option that was asked for is read.

    Args:
        asked: Options as given.
        config: The same after `resolve` and `without_unused`.

    Raises:
        InputError: An option was dropped; it is named.

    Example:
        >>> require_used(Config("full-gd", scales="1,1,1,1"), Config("full-gd", init="he"))
        Traceback (most recent call last):
        gdconv.errors.InputError: scales = 1,1,1,1: leave it out, or give --init normal or paired.
    """
    instead = {
        "target": "give --data digits",
        "scales": "give --init normal or paired",
        "margin": "give --init theorem",
    }
    kept = asdict(config)
    for name, value in asdict(asked).items():
        if value is not None and kept[name] is None:
            remedy = f"leave it out, or {instead.get(name)}"
            if config.problem:
                remedy = f"leave it out: --problem {config.problem} fixes data and weights"
            raise InputError(name, value, remedy)


def sizes(config: Config, problem: Problem, params: Parameters | None) -> dict[str, int]:
    """The sizes of a run by option.

    Args:
        config: Resolved options.
        problem: Data.
        params: Weights; None where the options will make them.

    Returns:
        samples N, tokens n, embedding D, outputs D_y, heads H, head_dim d.

    Example:
        >>> problem = Problem.from_arrays(np.eye(4).reshape(2, 2, 4), np.ones((2, 2)))
        >>> list(sizes(Config("full-gd", heads=3, head_dim=5), problem, None).values())
        [2, 2, 4, 1, 3, 5]
    """
    H, d = (params.W_Q.shape[1::2]) if params else (config.heads or 1, config.head_dim or 1)
    found = (problem.N, problem.n, problem.D, problem.D_y, int(H), int(d))
    return dict(zip(SIZES, found, strict=True))


def require_sizes(asked: Config, found: dict[str, int], name: str) -> None:
    """Every size that was asked for is the one that came out.

    Args:
        asked: Options as given.
        found: Sizes of the run.
        name: What fixed them.

    Raises:
        InputError: A size is another one.

    Example:
        >>> require_sizes(Config("full-gd", outputs=3), {"outputs": 1}, "digits")
        Traceback (most recent call last):
        gdconv.errors.InputError: outputs = 3: leave it out, or give 1, which digits has.
    """
    for field, size in found.items():
        value = getattr(asked, field)
        if value is not None and value != size:
            raise InputError(field, value, f"leave it out, or give {size}, which {name} has")


def require_room(found: dict[str, int], runs: int, trained: tuple[str, ...]) -> None:
    """Weights, attention and Jacobian of all runs fit into memory; to be asked before making them.

    Args:
        found: Sizes of a run.
        runs: R.
        trained: Blocks that move.

    Raises:
        InputError: One of them takes more than `LARGEST_BYTES`; the largest size is named.

    Example:
        >>> require_room(dict.fromkeys(SIZES, 2) | {"heads": 10**22}, 1, ("W_Q",))
        Traceback (most recent call last):
        gdconv.errors.InputError: heads = 10000000000000000000000: make the problem smaller: ...
    """
    N, n, D, D_y, H, d = (int(found[name]) for name in SIZES)
    entries = {
        "data": N * n * (D + D_y),
        "weights": H * d * (3 * D + D_y),
        "attention weights": H * N * n * n,
        "features B": N * n * H * D,
        "Gram matrix of J": (N * n * D_y) ** 2,
        "Jacobian": N * n * D_y * len(trained) * H * D * d,
    }
    what, most = max(entries.items(), key=lambda item: item[1])
    if 8 * runs * most <= LARGEST_BYTES:
        return
    field, size = max({**found, "seeds": runs}.items(), key=lambda item: item[1])
    share = f"the {what} would take {float(8 * runs * most / 2**30):.3g} GiB, more than 4"
    raise InputError(field, size, f"make the problem smaller: {share}")


def require_match(problem: Problem, params: Parameters) -> None:
    """Data and weights have the same R, D and D_y.

    Args:
        problem: Data.
        params: Weights.

    Raises:
        InputError: They differ.

    Example:
        >>> problem = Problem.from_arrays(np.ones((1, 1, 2)), np.ones((1, 1)))
        >>> block = {name: np.ones((1, 3, 1)) for name in ("W_Q", "W_K", "W_V")}
        >>> require_match(problem, Parameters.from_arrays({**block, "W_O": np.ones((1, 1, 1))}))
        Traceback (most recent call last):
        gdconv.errors.InputError: weights = D = 3: give weights for the data, which have D = 2.
    """
    pairs = {
        "R": (params.W_Q.shape[0], problem.R),
        "D": (params.W_Q.shape[2], problem.D),
        "D_y": (params.W_O.shape[3], problem.D_y),
    }
    for name, (have, want) in pairs.items():
        if have != want:
            remedy = f"give weights for the data, which have {name} = {want}"
            raise InputError("weights", f"{name} = {have}", remedy)


def require_descent(start: Start) -> None:
    """A start from which there is something to descend, in numbers that float64 can hold.

    Args:
        start: One run at step 0.

    Raises:
        InputError: The loss is zero, or the loss or the Jacobian is not finite.
    """
    with np.errstate(all="ignore"):
        finite = np.isfinite(start.f_0) and np.isfinite(start.J).all()
    if not finite:
        remedy = "rescale the data or give smaller --scales: the squares leave the range of float64"
        raise InputError("start", "a loss or a Jacobian that is not finite", remedy)
    if not start.f_0 > 0:
        remedy = "give other labels, weights or seeds: there is nothing to descend"
        raise InputError("y", "a loss of zero at the start", remedy)


def device_named(name: str, dtype: torch.dtype) -> torch.device:
    """A device that descent was written for and this machine has.

    Args:
        name: cpu, cuda, cuda:<index> or mps.
        dtype: Type that it must hold.

    Returns:
        The device.

    Raises:
        InputError: Another name, no such device, or it cannot hold the type.

    Example:
        >>> device_named("meta", torch.float64)
        Traceback (most recent call last):
        gdconv.errors.InputError: device = meta: give cpu, cuda, cuda:1 or mps.
    """
    if not DEVICES.fullmatch(name):
        raise InputError("device", name, "give cpu, cuda, cuda:1 or mps")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device, dtype=dtype)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise InputError(
            "device", name, "give a device that this machine has, such as cpu"
        ) from None
    except TypeError:
        raise InputError("device", name, "give --dtype float32, which it can hold") from None
    return device
