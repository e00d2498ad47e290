"""What options, data and weights must meet before the first step; each failure is one sentence.

Which options there are is said by their readers; a few of those are moot under some problem, data
or initialization, and refused there; a size that was asked for must be the size that came out.
"""

from __future__ import annotations

import re
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch

from gdconv.models.point import Point
from gdconv.support.config import Config
from gdconv.support.errors import InputError

FIXED_BY_PROBLEM = ("data", "init", "target", "scales", "margin", "label_norm")
"""Options that data and weights fixed by `--problem` leave nothing to."""

DEVICES = re.compile(r"cpu|mps|cuda(:\d{1,2})?")
"""Devices that descent was written for."""


def without_unused(config: Config) -> Config:
    """None in every field that the start leaves unread.

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
        "label_norm": drawn,
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
        gdconv.support.errors.InputError: scales = 1,1,1,1: leave it out, or give --init normal or
        paired.
    """
    instead = {
        "target": "give --data digits",
        "scales": "give --init normal or paired",
        "margin": "give --init theorem",
    }
    for f in fields(asked):
        name, value = f.name, getattr(asked, f.name)
        if value is not None and getattr(config, name) is None:
            remedy = f"leave it out, or {instead.get(name)}"
            if config.problem and name in FIXED_BY_PROBLEM:
                remedy = f"leave it out: --problem {config.problem} fixes data and weights"
            raise InputError(name, value, remedy)


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
        gdconv.support.errors.InputError: outputs = 3: leave it out, or give 1, which digits has.
    """
    for field, size in found.items():
        value = getattr(asked, field, None)  # a model of one's own may have sizes of its own
        if value is not None and value != size:
            raise InputError(field, value, f"leave it out, or give {size}, which {name} has")


def require_descent(start: Point) -> None:
    """A start from which there is something to descend, in numbers that float64 can hold.

    Args:
        start: One run at step 0.

    Raises:
        InputError: The loss is zero, or the loss or the Jacobian is not finite.
    """
    with np.errstate(all="ignore"):
        finite = np.isfinite(start.f_0) and start.slope_is_finite
    if not finite:
        remedy = "rescale the data or the weights: the squares leave the range of float64"
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
        gdconv.support.errors.InputError: device = meta: give cpu, cuda, cuda:1 or mps.
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
