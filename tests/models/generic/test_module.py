"""Any torch module: its derivatives against a second derivation, and what it must be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gdconv
from gdconv.data.problem import Problem
from gdconv.models.candidate import candidate
from gdconv.models.generic.family import ModuleFamily, described
from gdconv.models.generic.formulas import ModuleFormulas, _row_by_row
from gdconv.models.generic.nets import TwoLayer
from gdconv.models.generic.weights import ModuleWeights
from gdconv.models.losses import CrossEntropy, Logistic, Squared
from gdconv.support.errors import InputError


class Mixed(nn.Module):
    """Samples meet each other: the Jacobian is not block diagonal."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 4)
        self.scale = nn.Parameter(torch.tensor(0.7))

    def forward(self, X: Tensor) -> Tensor:
        h = torch.tanh(self.inner(X))
        return self.scale * (h - 0.5 * h.mean(0, keepdim=True)).sum(1)


def case(module: nn.Module, loss: Any, y: Tensor, seed: int = 0) -> tuple[Any, Problem, Any]:
    torch.manual_seed(seed)
    X = torch.randn(len(y), 3, dtype=torch.float64)
    family = ModuleFamily(module, "net", loss)
    problem = family.problem(X.numpy()[None], y.numpy()[None], "drawn", [])
    params = family.draw(gdconv.Config("generic-gd"), {}, 0)
    family.require_match(problem, params)
    return family.model(gdconv.Config("generic-gd"), {}), problem, params


CASES = [
    (nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)), Squared(), torch.randn(4, 2)),
    (Mixed(), Squared(), torch.randn(5)),
    (nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 1)), Logistic(), torch.ones(4, 1)),
    (nn.Linear(3, 3), CrossEntropy(), torch.tensor([0, 2, 1, 1])),
]


@pytest.mark.parametrize("number", range(len(CASES)))
def test_gradient_and_jacobian_are_those_of_finite_differences(number: int) -> None:
    model, problem, params = case(*CASES[number])
    J = model.jacobian(problem, params, params.trained)[0]
    at, gradient = model.gradient(problem, params)
    rng, u, h = np.random.default_rng(1), {}, 1e-6
    for b in params.trained:
        u[b] = torch.from_numpy(rng.standard_normal(params.blocks()[b].shape))
    ends = [
        model.forward(
            problem, params.with_blocks({b: params.blocks()[b] + s * h * u[b] for b in u})
        )
        for s in (1, -1)
    ]
    flat = torch.cat([u[b].flatten() for b in params.trained])
    assert torch.allclose(J @ flat, (ends[0].F - ends[1].F).flatten() / (2 * h), atol=1e-7)
    slope = sum(float((gradient.blocks()[b] * u[b]).sum()) for b in u)
    assert slope == pytest.approx(float(ends[0].loss - ends[1].loss) / (2 * h), abs=1e-6)
    assert float(at.loss) == pytest.approx(float(model.loss.value(at.F, problem.y)))


@pytest.mark.parametrize("number", range(len(CASES)))
def test_every_way_to_the_jacobian_gives_the_same(number: int) -> None:
    model, problem, params = case(*CASES[number])
    J = model.jacobian(problem, params, params.trained)[0]
    theta = {b: v[0] for b, v in params.blocks().items()}
    rows = _row_by_row(lambda t: model.outputs(problem.X[0], t), theta)
    assert torch.allclose(rows, J, atol=1e-12)
    whole = ModuleFormulas(model.module, model.loss, False)
    assert torch.allclose(whole.jacobian(problem, params, params.trained)[0], J, atol=1e-12)


def test_samples_that_meet_are_not_taken_apart() -> None:
    assert [case(*CASES[i])[0].separate for i in range(4)] == [True, False, True, True]


class MeetsLater(nn.Module):
    """Samples meet through a parameter that is zero at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.share = nn.Linear(3, 1), nn.Parameter(torch.zeros(()))

    def forward(self, X: Tensor) -> Tensor:
        h = self.layer(X)
        return h + self.share * h.mean(0, keepdim=True)


def test_samples_that_meet_once_a_weight_moves_are_not_taken_apart() -> None:
    model, problem, params = case(MeetsLater(), Squared(), torch.randn(4, 1))
    assert not model.separate
    J, h = model.jacobian(problem, params, ("share",))[0], model.forward(problem, params).F[0]
    assert torch.allclose(J, h.mean().expand(4, 1))


@pytest.mark.parametrize("loss", [Squared(), Logistic(), CrossEntropy()])
def test_the_sharpness_at_outputs_of_zero(loss: Any) -> None:
    """A last layer of zeros: |F| has no second derivative there, the loss has one."""
    layer = nn.Linear(3, 2)
    for p in layer.parameters():
        nn.init.zeros_(p)
    y = (
        torch.sign(torch.randn(4, 2))
        if loss.name != "cross-entropy"
        else torch.tensor([0, 1, 1, 0])
    )
    model, problem, params = case(layer, loss, y)
    found = model.point(problem, params, params.trained).sharpness.value
    X = torch.cat([problem.X[0], torch.ones(4, 1, dtype=torch.float64)], 1)
    share = {"squared": 1.0, "logistic": 0.25, "cross-entropy": 0.5}[loss.name]
    assert found == pytest.approx(share * float(torch.linalg.eigvalsh(X.T @ X)[-1]), rel=1e-9)


def test_the_probe_has_the_gradient_of_the_engine() -> None:
    for number in range(len(CASES)):
        model, problem, params = case(*CASES[number])
        gradient = model.gradient(problem, params)[1]
        probed = model.probe(problem, params, params.trained)
        for b, block in probed.gradient.blocks().items():
            assert torch.allclose(block, gradient.blocks()[b], atol=1e-12)


def test_the_noise_covers_what_a_permuted_sum_changes() -> None:
    """Outputs summed in another order, with weights that cancel: the bar of 8u |.| must hold."""
    torch.manual_seed(0)
    module = nn.Linear(400, 1, bias=False).double().requires_grad_()
    with torch.no_grad():
        module.weight.mul_(1e6)
    X = torch.randn(3, 400, dtype=torch.float64)
    family = ModuleFamily(module, "sum", Squared())
    problem = family.problem(X.numpy()[None], np.zeros((1, 3, 1)), "drawn", [])
    params = family.from_arrays({"weight": module.weight.detach().numpy()})
    noise = (
        family
        .model(gdconv.Config("generic-gd"), {})
        .probe(problem, params, ("weight",))
        .noise_scale[0]
    )
    order, W = torch.randperm(400), module.weight.detach()
    other = (X[:, order] * W[:, order]).flip(1).cumsum(1)[:, -1]
    off = float((X @ W[0] - other).norm())
    assert 0 < off <= noise < 1e-4


class Bad(nn.Module):
    """A module with one fault."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault, self.layer = fault, nn.Linear(3, 1)
        if fault == "unused":
            self.spare = nn.Parameter(torch.ones(2))
        if fault == "y":
            self.y = nn.Parameter(torch.ones(1))

    def forward(self, X: Tensor) -> Any:
        F = self.layer(X)
        return {
            "nan": F / 0.0 - F / 0.0,
            "shape": torch.cat([F, F], 1),
            "detached": F.detach() + 0.0 * F,
            "fewer": F[:2],
            "list": [F],
            "raises": F,
            "wrong": _Wrong.apply(F),
        }.get(self.fault, F)


class _Wrong(torch.autograd.Function):
    """The identity with half its derivative on the way back."""

    @staticmethod
    def forward(F: Tensor) -> Tensor:
        return F.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        return None

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 0.5 * g


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("nan", "model = Bad.*nan or infinity"),
        ("shape", "outputs of shape"),
        ("wrong", "finite differences give another one"),
        ("fewer", "one output per sample"),
        ("list", "which gives list|takes"),
        ("unused", "parameter spare of Bad"),
        ("y", "parameter y: rename it"),
        ("detached", "finite differences give another one"),
    ],
)
def test_a_module_with_a_fault_is_named(fault: str, said: str) -> None:
    X, y = np.random.default_rng(0).standard_normal((4, 3)), np.ones((4, 1))
    with pytest.raises(InputError, match=said):
        gdconv.check("generic-gd", model=Bad(fault), X=X, y=y, steps=3)


def test_bad_models_data_and_labels_are_named() -> None:
    X, y = np.ones((4, 3)), np.array([1.0, -1.0, 1.0, 1.0])
    net = nn.Linear(3, 1)
    for said, options in {
        "X = inputs of Linear": {"X": np.ones((4, 5))},
        "y = nothing": {"y": None},
        "give labels -1 and 1": {"y": np.arange(4.0), "loss": "logistic"},
        "did you mean logistic": {"loss": "logistics"},
        "give a function": {"seeds": 2},
        "does not read it": {"heads": 2},
        "model = nowhere:net: give package.module:name": {"model": "nowhere:net"},
        "which makes int": {"model": lambda: 3},
        "weights = weight": {"weights": {"bias": np.zeros(1)}},
        "data = digits: leave it out": {"data": "digits"},
    }.items():
        asked = {"model": net, "X": X, "y": y, "steps": 2} | options
        with pytest.raises(InputError, match=said):
            gdconv.check("generic-gd", **asked)
    with pytest.raises(InputError, match="data = gaussian: give X= and y="):
        gdconv.check("generic-gd", model=net)


def test_names_say_what_the_model_is() -> None:
    assert described(nn.Linear(2, 1)) == "Linear, 3 parameters"
    named = candidate("gdconv.models.generic.nets:TwoLayer")
    assert named is not None
    assert named.make({}, None).name.endswith(":TwoLayer")
    assert ModuleFamily(TwoLayer(width=2), "x").blocks == ("0.weight", "2.weight")


def test_weights_keep_their_names_through_replicas() -> None:
    one = ModuleWeights.of(nn.Linear(2, 1))
    both = one.stack([one, one])
    assert both.R == 2
    assert both[1].numpy().keys() == {"weight", "bias"}
