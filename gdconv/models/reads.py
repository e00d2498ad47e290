"""What our own model families read, apart from them: help needs it before torch is there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ATTENTION = (
    *("kernel", "problem", "samples", "tokens", "embedding", "target"),
    *("label_norm", "init"),
)
"""Fields of `Config` that every attention model reads."""

READS: dict[str, tuple[str, ...]] = {
    "multihead": (*ATTENTION, "outputs", "heads", "head_dim", "scales", "margin"),
    "encoder": (*ATTENTION, "width", "scaling", "tau_1", "loss", "activation"),
}
"""Fields of `Config` by the name of a family."""

OWN = "the model's own"
"""What `data` says of data that the model draws."""

MODULE = ("loss",)
"""Fields of `Config` that a torch module reads."""


def attends(config: Mapping[str, Any]) -> bool:
    """Whether a check ran on one of our attention models: samples of tokens, W_Q and the rest.

    Args:
        config: Options of a check; another model may have a `kernel` of its own.

    Returns:
        True for multihead and encoder.

    Example:
        >>> attends({"kernel": "softmax"}), attends({"kernel": 3, "model": "my.nets:Conv"})
        (True, False)
    """
    return config.get("kernel") is not None and config.get("model") in (None, *READS)
