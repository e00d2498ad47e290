"""The theorems of this repository: its top-level folder `theorems`, under a name nobody else has.

In an installed copy that folder itself stands here, and this file is no part of it.
"""

from pathlib import Path

__path__ = [str(Path(__file__).resolve().parents[2] / "theorems")]
