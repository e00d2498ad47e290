"""What our own model families read, apart from them: help needs it before torch is there."""

from __future__ import annotations

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

OWN = "own"
"""What `data` says of data that the model draws."""

MODULE = ("loss",)
"""Fields of `Config` that a torch module reads."""
