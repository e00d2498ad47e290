"""Architectures: what the options build. One model family a file, one table of names."""

from __future__ import annotations

from gdconv.architectures.base import Architecture
from gdconv.architectures.encoder import Encoder
from gdconv.architectures.multihead import MultiHead

ARCHITECTURES: dict[str, Architecture] = {made.name: made for made in (MultiHead(), Encoder())}
"""Every architecture by the name that `--model` takes."""
