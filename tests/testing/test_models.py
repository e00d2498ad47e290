"""Our own models meet the contract that an outsider's model is held to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from gdconv.gallery.full_gd import FullGD
from gdconv.models.encoder.family import Encoder
from gdconv.models.generic.nets import TwoLayer
from gdconv.models.multihead.family import MultiHead
from gdconv.support.errors import InputError
from gdconv.testing import ContractError, check_model, model_checks


def normed() -> nn.Module:
    """Layers with buffers, biases and a norm."""
    return nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.LayerNorm(4), nn.Linear(4, 3)
    )


class Attentive(nn.Module):
    """Outputs per token; a frozen parameter and one that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.key = nn.Linear(3, 3, bias=False)
        self.value = nn.Linear(3, 2)
        self.value.bias.requires_grad_(False)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        scores = self.key(X) @ self.key(X).mT / 3
        out: torch.Tensor = scores.softmax(-1) @ self.value(X)
        return out


DRAWN = torch.Generator().manual_seed(0)
TOKENS, SAMPLES = (torch.randn(shape, generator=DRAWN) for shape in ((3, 2, 3), (4, 3)))
OWN: dict[str, tuple[Any, dict[str, Any]]] = {
    "softmax": (MultiHead(), {"constants": FullGD().constants}),
    "gaussian": (
        MultiHead(), {"kernel": "gaussian", "outputs": 2, "constants": FullGD().constants},
    ),
    "encoder": (Encoder(), {"init": "lecun"}),
    "encoder, gelu": (Encoder(), {"init": "he", "activation": "gelu", "loss": "mean"}),
    "two layers": (TwoLayer(width=6, act=nn.ReLU), {}),
    "norms": (normed, {"X": SAMPLES, "y": [0, 1, 2, 1], "loss": "cross-entropy"}),
    "attention": (Attentive, {"X": TOKENS, "y": torch.zeros(3, 2, 2)}),
    "logistic": (nn.Linear(3, 1), {"X": SAMPLES, "y": [1, -1, -1, 1], "loss": "logistic"}),
}  # fmt: skip


@pytest.mark.parametrize(("name", "check"), [
    pytest.param(model, check, id=f"{model}-{key}")
    for model, (made, options) in OWN.items()
    for key, check in model_checks(made, **options)
])  # fmt: skip
def test_our_own_models(name: str, check: Any) -> None:
    told = check()
    claims = name in ("softmax", "gaussian")
    assert told == "" or (told == "it claims no constants" and not claims)


def test_data_in_memory_for_an_architecture() -> None:
    check_model(MultiHead(), TOKENS, torch.ones(3, 2))


@pytest.mark.parametrize(("options", "named"), [
    ({"X": [[1.0]]}, "y = nothing"),
    ({"X": [[1.0, 2.0]], "y": [[1.0]], "kernel": "softmax"}, "kernel = softmax"),
    ({"X": [[1.0]], "y": [[1.0]]}, "inputs of Linear"),
])  # fmt: skip
def test_what_cannot_be_used_at_all(options: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        check_model(nn.Linear(2, 1), **options)


def test_outputs_that_are_broadcast_to_the_labels() -> None:
    with pytest.raises(ContractError, match=r"outputs: its outputs have shape \(2, 1, 1\)"):
        check_model(nn.Linear(2, 1), X=[[1.0, 2.0]], y=[[1.0, 2.0, 3.0]])
