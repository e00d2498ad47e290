"""The NTK regime of padded data, both models, against the same data without padding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from samples_padded import alike, checked, padded

import gdconv


@pytest.mark.parametrize(
    "options",
    [
        {"statement": "run", "width": 64},
        {"statement": "relu-sharp", "init": "theorem", "label_norm": 1e-3, "width": 64},
        {"statement": "smooth", "activation": "gelu", "init": "theorem", "label_norm": 1e-3},
        {"statement": "linearised", "model": "multihead", "heads": 4},
    ],
)
def test_the_ntk_regime_of_one_padded_sequence(options: dict[str, Any]) -> None:
    data, options = padded((3,), D=6, D_y=1, places=5), options | {"engine": "torch", "steps": 12}
    given: dict[str, Any] = {"X": np.stack(data.sequences), "y": np.stack(data.targets)}
    y: np.ndarray = data.y
    if "model" not in options:  # one label per sample
        given["y"] = y = np.array([0.7])
    one = gdconv.check("ntk-regime", X=data.X, y=y, mask=data.mask, **options)
    alike(one, gdconv.check("ntk-regime", **given, **options), 1e-6)


def test_the_ntk_regime_of_a_batch() -> None:
    data = padded((2, 1), D=8, D_y=1, places=3)
    wide: dict[str, Any] = {"statement": "linearised", "until_loss": 1e-2}
    y = np.array([0.3, -0.2])
    encoder = {"width": 1024, "init": "lecun"}
    check = gdconv.check("ntk-regime", X=data.X, y=y, mask=data.mask, **wide, **encoder)
    assert check.verdict == "confirmed"
    heads = {"model": "multihead", "heads": 32, "init": "normal", "scales": "1,1,0.1,8"}
    check = checked(data, "ntk-regime", **wide, **heads)
    assert check.verdict == "confirmed"
    assert check.verdict_of("ladder") == "confirmed"
