"""What is traced, what is refused and by which name."""

from __future__ import annotations

import pytest
import torch
from stress_jets import MODELS, drawn
from torch import Tensor, nn

from gdconv.models.jets.calculus import Calculus
from gdconv.models.jets.graph import Graph, Refusal, known_layers

X = torch.linspace(-1.0, 1.0, 24, dtype=torch.float64).reshape(2, 3, 4)


class Of(nn.Module):
    """A module from a function of (self, x) and some parameters."""

    def __init__(self, function, **params: Tensor) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self.function = function
        for name, value in params.items():
            setattr(self, name, nn.Parameter(value))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def square() -> Tensor:
    return torch.arange(16.0).reshape(4, 4) / 10


def swapped(halves):  # type: ignore[no-untyped-def]
    return torch.cat((halves[1], halves[0]), dim=-1)


ACCEPTED = {
    "raw weights": Of(lambda m, x: torch.tanh(x @ m.W.T + m.b), W=square(), b=torch.ones(4)),
    "low rank": Of(
        lambda m, x: x @ (m.W + 2.0 * (m.B @ m.A)),
        W=square(), B=torch.ones(4, 1), A=torch.ones(1, 4),
    ),
    "gating": Of(lambda m, x: (x @ m.W) * torch.sigmoid(x @ m.V), W=square(), V=square()),
    "square": Of(lambda m, x: (x @ m.W) ** 2 - 1.0, W=square()),
    "token mixing": Of(lambda m, x: m.W @ x, W=torch.ones(5, 3)),
    "chunks": Of(lambda m, x: swapped((x @ m.W).chunk(2, dim=-1)), W=square()),
    "first token": Of(lambda m, x: (x @ m.W)[:, 0], W=square()),
    "mask": Of(
        lambda m, x: torch.softmax(
            ((x @ m.W) @ x.mT).masked_fill(torch.ones(3, 3).tril() == 0, -torch.inf), -1
        ) @ x,
        W=square(),
    ),
    "scale per row": Of(lambda m, x: x * m.s + m.c, s=torch.ones(3, 1), c=torch.ones(3, 4)),
    "size from the input": Of(lambda m, x: (x @ m.W).view(x.shape[0], -1) / x.shape[1], W=square()),
    "constants from sizes": Of(
        lambda m, x: torch.eye(x.shape[1], dtype=x.dtype) @ x
        + nn.functional.embedding(torch.arange(x.shape[1]), m.W), W=square(),
    ),
    "dropout that is off": nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.5)).eval(),
}  # fmt: skip

REFUSED = {
    "relu": (nn.Sequential(nn.Linear(4, 3), nn.ReLU()), "'1' (ReLU)", "kink"),
    "relu function": (Of(lambda m, x: torch.relu(x @ m.W), W=square()), "relu", "kink"),
    "batch norm": (nn.Sequential(nn.Flatten(), nn.BatchNorm1d(12)), "BatchNorm1d", "mixes"),
    "max pool": (nn.Sequential(nn.Linear(4, 4), nn.MaxPool1d(2)), "'1' (MaxPool1d)", "kink"),
    "dropout": (nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.5)).train(), "dropout", "eval()"),
    "attention": (
        nn.TransformerEncoderLayer(4, 1, batch_first=True), "TransformerEncoderLayer", "trace",
    ),
    "elu": (nn.Sequential(nn.Linear(4, 2), nn.ELU(2.0)), "elu", "alpha"),
    "softplus": (nn.Sequential(nn.Linear(4, 2), nn.Softplus(2.0)), "softplus", "beta"),
    "exp": (Of(lambda m, x: torch.exp(x @ m.W), W=square()), "exp", "no rule"),
    "quotient": (Of(lambda m, x: x / (x @ m.W), W=square()), "truediv", "plain number"),
    "branch": (Of(lambda m, x: x @ m.W if x.sum() > 0 else x, W=square()), "Of", "trace"),
    "mean over samples": (Of(lambda m, x: x @ m.W - x.mean(0), W=square()), "mean", "samples"),
    "mean of all": (Of(lambda m, x: x @ m.W - x.mean(), W=square()), "mean", "samples"),
    "softmax over samples": (Of(lambda m, x: torch.softmax(x @ m.W, 0), W=square()), "", "samples"),
    "samples swapped": (Of(lambda m, x: (x @ m.W).transpose(0, 1), W=square()), "", "samples"),
    "samples picked": (Of(lambda m, x: (x @ m.W)[0], W=square()), "getitem", "samples"),
    "samples merged": (Of(lambda m, x: (x @ m.W).reshape(-1, 4), W=square()), "", "samples"),
    "samples counted": (Of(lambda m, x: x @ m.W / x.shape[0], W=square()), "Of", "one sample"),
    "weights out of sight": (
        Of(lambda m, x: x @ next(m.parameters()).T, W=square()), "constant", "no trace",
    ),
    "weights as numbers": (
        Of(lambda m, x: x @ torch.tensor(m.W.tolist()), W=square()), "", "",
    ),
    "slice of chunks": (
        Of(lambda m, x: torch.cat((x @ m.W).chunk(2, -1)[::-1], -1), W=square()), "getitem", "",
    ),
    "random": (Of(lambda m, x: x @ m.W + torch.rand(x.shape), W=square()), "rand", "random"),
    "detached": (Of(lambda m, x: x @ m.W.detach(), W=square()), "detach", "no rule"),
    "two outputs": (Of(lambda m, x: (x @ m.W, x), W=square()), "", "one tensor"),
    "constant": (Of(lambda m, x: m.W @ m.W, W=square()), "", "input"),
}  # fmt: skip


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted_modules_are_computed_as_they_stand(name):
    module = ACCEPTED[name].double()
    graph = known_layers(module, X)
    assert isinstance(graph, Graph), graph
    params = dict(module.named_parameters())
    torch.testing.assert_close(graph.evaluate(params, X)[graph.output], module(X))
    M_2, G = Calculus(graph, params, X).constants(0.1)
    assert 0 <= M_2 < float("inf")
    assert 0 < G < float("inf")


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_layer_and_the_reason(name):
    module, layer, why = REFUSED[name]
    refusal = known_layers(module, X)
    assert isinstance(refusal, Refusal)
    assert layer in refusal.layer
    assert why in refusal.why


def test_the_whole_module_is_not_changed():
    module = nn.Sequential(nn.Linear(4, 2), nn.Tanh())
    module[0].weight.requires_grad_(False)
    known_layers(module, X)
    assert module[0].weight.dtype == torch.float32
    assert not module[0].weight.requires_grad


def test_frozen_weights_are_seen_too():
    module = Of(lambda m, x: torch.tanh(x @ m.W.T), W=square())
    module.W.requires_grad_(False)
    graph = known_layers(module, X)
    assert list(graph.parameters.values()) == ["W"]


def test_tied_weights_share_a_block():
    module = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Tanh(), nn.Linear(4, 4, bias=False))
    module[2].weight = module[0].weight
    graph = known_layers(module, X)
    assert graph.blocks == ("0.weight",)
    assert set(graph.parameters.values()) == {"0.weight"}


def test_embeddings_take_whole_numbers():
    net = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 1)).double()
    index = torch.tensor([[0, 1], [4, 4]])
    graph = known_layers(net, index)
    assert isinstance(graph, Graph), graph
    M_2, G = Calculus(graph, dict(net.named_parameters()), index).constants(0.1)
    assert 0 < M_2 < 10
    assert 0 < G < 10


@pytest.mark.parametrize("name", MODELS)
def test_the_modules_of_the_stress_are_known(name):
    assert isinstance(known_layers(*drawn(name, 0)), Graph)
