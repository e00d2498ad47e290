"""Modules and runs that made TAIL, AP or the kernel theorem say what is false."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gdconv
from gdconv.models.jets.calculus import Calculus
from gdconv.models.jets.graph import Graph, Refusal, known_layers


class Copies(nn.Module):
    """The mean of many copies of sin(w x), made by a convolution.

    Its kernel has 1 x 1 matrices of norm 1, and the norm sqrt(copies) as a matrix.
    """

    def __init__(self, copies: int, computed: bool) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(1, 1, dtype=torch.float64))
        self.register_buffer("kernel", torch.ones(copies, 1, 1, dtype=torch.float64))
        self.computed = computed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.sin(x @ self.w)[:, None, :]
        kernel = self.kernel * self.kernel if self.computed else self.kernel
        return nn.functional.conv1d(h, kernel).mean((1, 2))[:, None] * 1.0


def constants(module: nn.Module, X: torch.Tensor, centred: bool) -> tuple[float, float]:
    graph = known_layers(module, X)
    assert isinstance(graph, Graph)
    M, G = Calculus(graph, dict(module.named_parameters()), X, centred).constants(1e-6)
    return float(M), float(G)


@pytest.mark.parametrize("computed", [False, True])
@pytest.mark.parametrize("centred", [False, True])
def test_a_kernel_that_is_no_parameter_has_the_norm_of_its_matrix(
    computed: bool, centred: bool
) -> None:
    """J = cos(1) and D2F = -sin(1): the 400 copies average out."""
    M, G = constants(Copies(400, computed), torch.ones(1, 1, dtype=torch.float64), centred)
    assert np.sin(1.0) <= M
    assert np.cos(1.0) <= G
    if not computed:
        assert G <= 1.0 + 1e-9


def test_no_true_statement_is_refuted_for_such_a_module() -> None:
    found = gdconv.check(
        "generic-gd", model=Copies(4096, False), X=[[1.0]], y=[[0.5]], steps=300, step=1.7
    )
    assert "refuted" not in set(found.verdicts["verdict"])


class Unusual(nn.Module):
    """A norm layer with any eps."""

    def __init__(self, kind: Any, eps: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.norm = nn.Linear(2, 4).double(), kind(4, eps=eps).double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.norm(self.linear(x))
        return made


@pytest.mark.parametrize("kind", [nn.LayerNorm, nn.RMSNorm])
def test_a_norm_layer_with_negative_eps_is_refused(kind: Any) -> None:
    """S^2 = |z|^2 + D eps < |z|^2: the rule's constants hold for eps >= 0."""
    X = torch.ones(2, 2, dtype=torch.float64)
    refused = known_layers(Unusual(kind, -1e-4), X)
    assert isinstance(refused, Refusal)
    assert refused.why == "its eps is negative"
    assert isinstance(known_layers(Unusual(kind, 0.0), X), Graph)


@pytest.mark.parametrize("eta", [0.0949, 0.0951, 0.3, 1.5])
def test_the_rate_that_is_printed_is_true(eta: float) -> None:
    """F = theta: f falls by (1 - eta)^2 exactly, which is 1 - eta (2 - eta)."""
    module = nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        module.weight.fill_(1e-3)
    found = gdconv.check("generic-gd", model=module, X=[[1.0]], y=[[0.0]], step=eta, steps=5)
    rate = re.search(r"rate (\S+) for all later", found.verdicts.iloc[0]["note"])
    assert rate is not None
    assert 0.99 * (2 - eta) <= float(rate[1]) <= 2 - eta
