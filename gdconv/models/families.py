"""Architectures: what the options build. One model family a file, one table of names."""

from __future__ import annotations

from gdconv.models.architecture import Architecture
from gdconv.models.encoder.family import Encoder
from gdconv.models.multihead.family import MultiHead

ARCHITECTURES: dict[str, Architecture] = {made.name: made for made in (MultiHead(), Encoder())}
"""Every architecture by the name that `--model` takes."""
