"""Monitor: its numbers against another derivation, and a training that does not notice it."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

import gdconv
from gdconv.descent.records import record_steps
from gdconv.models.generic import family as families
from gdconv.monitoring.looks import Subject, undisturbed
from gdconv.support.errors import InputError


def data(N: int = 5, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    X = torch.randn(N, 3, generator=draw, dtype=torch.float64)
    return X.to(dtype), torch.sign(X[:, :1]).to(dtype)


def net(dtype: torch.dtype = torch.float64, width: int = 6, *more: nn.Module) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, width), nn.Tanh(), *more, nn.Linear(width, 1)).to(dtype)


def value(loss: str, F: Tensor, y: Tensor) -> Tensor:
    return softplus(-y * F).sum() if loss == "logistic" else 0.5 * ((F - y) ** 2).sum()


def train(
    module: nn.Module,
    X: Tensor,
    y: Tensor,
    loss: str,
    optimizer: torch.optim.Optimizer,
    steps: int,
    then: Callable[[], Any],
) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        value(loss, module(X), y).backward()
        optimizer.step()
        then()


@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_values_are_those_of_autograd_svd_and_finite_differences(loss: str) -> None:
    (X, y), module = data(), net()
    first = nn.utils.parameters_to_vector(module.parameters()).detach().clone()
    monitor = gdconv.Monitor(module, X, y, loss=loss, stride=7, budget=1)
    adam = torch.optim.Adam(module.parameters(), lr=0.05)
    train(module, X, y, loss, adam, 7, monitor.step)
    row = monitor.frame().iloc[-1]
    names = [name for name, _ in module.named_parameters()]
    shapes = [p.shape for p in module.parameters()]
    theta = nn.utils.parameters_to_vector(module.parameters()).detach()

    def outputs(v: Tensor) -> Tensor:
        parts = v.split([s.numel() for s in shapes])
        named = {n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        return torch.func.functional_call(module, named, (X,))

    def f(v: Tensor) -> Tensor:
        return value(loss, outputs(v), y)

    assert row["step"] == 7
    assert row["loss_lo"] <= row["loss"] <= row["loss_hi"] <= row["loss"] * (1 + 1e-9)
    assert row["loss"] == pytest.approx(float(f(theta)), rel=1e-12)
    g = torch.autograd.functional.jacobian(f, theta)
    assert row["grad_norm"] == pytest.approx(float(g.norm()), rel=1e-11)
    assert row["pl_ratio"] == pytest.approx(float(g @ g) / (2 * float(f(theta))), rel=1e-11)
    ends = [float(f(theta + s * 1e-6 * g / g.norm())) for s in (1, -1)]
    assert row["grad_norm"] == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-6)
    J = torch.autograd.functional.jacobian(outputs, theta)[:, 0]
    sizes = torch.linalg.svdvals(J)
    slack = 1e-13 * float(sizes[0])
    assert row["sigma_min_lo"] - slack <= float(sizes[-1]) <= row["sigma_min_hi"] + slack
    assert row["sigma_min_hi"] == pytest.approx(row["sigma_min_lo"], rel=1e-9)
    assert row["jacobian_norm"] == pytest.approx(float(sizes[0]), rel=1e-9)
    H = torch.autograd.functional.hessian(f, theta)
    assert row["lambda_max"] == pytest.approx(float(torch.linalg.eigvalsh(H)[-1]), rel=1e-9)
    assert 0 < row["lambda_max_error"] < 1e-9
    assert row["distance"] == pytest.approx(float((theta - first).norm()), rel=1e-12)
    blocks = [row[f"distance[{name}]"] for name in names]
    assert np.hypot.reduce(blocks) == pytest.approx(row["distance"], rel=1e-12)


@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_gradient_descent_has_the_losses_of_a_check(loss: str) -> None:
    (X, y), module = data(), net()
    check = gdconv.check(
        "generic-gd", model=module, X=X, y=y, loss=loss, step=0.03, steps=12, statement="product"
    )
    monitor = gdconv.Monitor(module, X, y, loss=loss, stride=1, budget=1)
    sgd = torch.optim.SGD(module.parameters(), lr=0.03)
    train(module, X, y, loss, sgd, 12, monitor.step)
    frame, trace = monitor.frame(), check.trace
    assert frame["step"].tolist() == trace["step"].tolist() == list(range(13))
    for column in ("loss", "grad_norm", "pl_ratio", "distance"):
        np.testing.assert_allclose(frame[column], trace[column], rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(frame["loss_ratio"], trace["loss_ratio"], rtol=1e-12)
    np.testing.assert_allclose(frame["step_length"][1:], 0.03, rtol=1e-10)
    np.testing.assert_allclose(frame["cosine"][1:], 1.0, rtol=1e-12)
    assert "descended at every observed step (12 updates" in monitor.summary()
    assert "a gradient step (cosine with -g 1)" in monitor.summary()


def test_the_generators_are_left_as_they_are() -> None:
    """Of a module that draws, whatever from; beartype in these tests draws too, so no Monitor."""
    kept = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    with undisturbed():
        random.random(), np.random.random(900), torch.rand(3)  # noqa: NPY002
    now = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    assert now == kept


class Leaves(nn.Module):
    """Keeps a tensor of its forward pass, counts calls, changes a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.calls = nn.BatchNorm1d(6), 0
        self.kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.kept = self.norm(x)
        return self.kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_training_is_bit_for_bit_the_same(dtype: torch.dtype) -> None:
    found = []
    for watched in (False, True):
        X, y = data(dtype=dtype)
        module = net(dtype, 6, Leaves(), nn.Dropout(0.5)).train()
        torch.manual_seed(2)
        then: Callable[[], Any] = list
        if watched:
            monitor = gdconv.Monitor(module, X, y, stride=2, budget=1)
            then = monitor.step
        adam = torch.optim.Adam(module.parameters(), lr=0.1)
        train(module, X, y, "squared", adam, 9, then)
        if watched:
            with torch.no_grad():
                text = monitor.summary()
            assert "nothing was measured" not in text
        assert all(part.training for part in module.modules())
        drawn = torch.rand(3).tolist()
        grads = [p.grad.clone() for p in module.parameters() if p.grad is not None]
        left: Any = module[2]
        found.append((list(module.state_dict().values()), grads, drawn, left.calls))
    (state, grads, drawn, calls), (state_2, grads_2, drawn_2, calls_2) = found
    assert all(torch.equal(a, b) for a, b in zip(state, state_2, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(grads, grads_2, strict=True))
    assert (drawn, calls) == (drawn_2, calls_2)


def test_what_is_read_is_the_module_as_it_stands() -> None:
    """Buffers and plain attributes change in training too: they are those of the look."""
    X, y = data()
    module = net(torch.float64, 6, nn.BatchNorm1d(6).double())
    monitor = gdconv.Monitor(module, X, y, stride=5, budget=1)
    sgd = torch.optim.SGD(module.parameters(), lr=0.01)
    train(module, X, y, "squared", sgd, 5, monitor.step)
    module.eval()
    wanted = value("squared", module(X), y).item()
    assert monitor.frame()["loss"].iloc[-1] == pytest.approx(wanted, rel=1e-12)


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


HONEST = Subject.look


def watched_steps(
    monkeypatch: pytest.MonkeyPatch, cost: float, steps: int = 100, **asked: Any
) -> tuple[list[int], gdconv.Monitor]:
    """Steps at which a monitor looks whose looks take `cost`, an update taking 1."""
    clock = Clock()

    def slow(self: Subject, *args: Any) -> Any:
        clock.now += cost
        return HONEST(self, *args)

    monkeypatch.setattr(Subject, "look", slow)
    module = nn.Linear(3, 1)
    monitor = gdconv.Monitor(module, *data(2), sharpness=False, clock=clock, **asked)
    for _ in range(steps):
        clock.now += 1
        monitor.step()
    return monitor.frame()["step"].tolist(), monitor


def test_stride_and_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    assert watched_steps(monkeypatch, 0.0, stride=25)[0] == [0, 25, 50, 75, 100]
    steps, monitor = watched_steps(monkeypatch, 0.0, stride=None)
    assert steps == record_steps(100)[: len(steps)]
    assert monitor.share == 0.0
    # 1 of 1 + 1, of 2 + 1, of 4 + 1 is above a tenth; 1 of 16 + 1 is not
    steps, monitor = watched_steps(monkeypatch, 1.0, stride=1)
    assert steps == [0, 1, 3, 7, 15, 31, 47, 63, 79, 95]
    assert monitor.stride == 16
    assert monitor.share == pytest.approx(9 / 109)
    assert watched_steps(monkeypatch, 100.0, 4, stride=1, budget=1)[0] == [0, 1, 2, 3, 4]
    assert "(budget 10 %)" in monitor.summary()
    assert monitor.frame()["step"].iloc[-1] == 100


def test_an_update_is_compared_with_the_one_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a stride the parameters one update ago are kept, and no others."""
    (X, y), module = data(), net()
    monitor = gdconv.Monitor(module, X, y, stride=4, budget=1)
    for lr in (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08):
        sgd = torch.optim.SGD(module.parameters(), lr=lr)
        train(module, X, y, "squared", sgd, 1, monitor.step)
    np.testing.assert_allclose(monitor.frame()["step_length"][1:], [0.04, 0.08], rtol=1e-10)


def test_a_rise_and_another_optimizer_are_named() -> None:
    X, y = data(2)
    module = nn.Linear(3, 1, bias=False).double()
    monitor = gdconv.Monitor(module, X, y, stride=1, budget=1)
    steep = 1.9 * 2 / monitor.frame()["lambda_max"].iloc[0]
    sgd = torch.optim.SGD(module.parameters(), lr=steep)
    train(module, X, y, "squared", sgd, 2, monitor.step)
    assert "P2: 2 of 2 observed updates did not descend, first the one to step 1" in (
        monitor.summary()
    )
    adam = torch.optim.Adam(module.parameters(), lr=0.01)
    train(module, X, y, "squared", adam, 1, monitor.step)
    text = monitor.summary()
    assert "to step 3: no gradient step" in text
    assert "TAIL does not fire" in text
    assert "nothing is certified between observed steps: no verdict." in text
    assert "confirmed" not in text


def test_tail_and_k_speak_where_the_constants_are_proved() -> None:
    """A linear model, whose Jacobian does not change: M_2 = 0."""
    X, y = torch.eye(3, dtype=torch.float64)[:2], torch.ones(2, 1, dtype=torch.float64)
    module = nn.Linear(3, 1, bias=False).double()
    monitor = gdconv.Monitor(module, X, y, budget=1)
    assert "TAIL, K: no update was observed" in monitor.summary()
    train(module, X, y, "squared", torch.optim.SGD(module.parameters(), lr=0.01), 3, monitor.step)
    assert "K applies: rate 1 (for plain gradient descent from here with step 0.01)" in (
        monitor.summary()
    )
    train(module, X, y, "squared", torch.optim.SGD(module.parameters(), lr=0.5), 9, monitor.step)
    assert "TAIL fires: rate" in monitor.summary(step=0.01)
    assert "TAIL does not fire: T2" in monitor.summary(step=3.0)
    assert "K does not apply: the step is small enough: 3 <= 0.222 is false" in (
        monitor.summary(step=3.0)
    )


def test_a_layer_that_proves_nothing_is_named() -> None:
    (X, y), module = data(), nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 1)).double()
    text = gdconv.Monitor(module, X, y).summary(step=0.01)
    assert "TAIL does not fire: no bound of M_2 is proved for this module: '1' (ReLU)" in text


def test_nan_in_training_is_a_row_and_a_sentence() -> None:
    (X, y), module = data(), net()
    monitor = gdconv.Monitor(module, X, y, stride=1, budget=1)
    monitor.step()
    with torch.no_grad():
        module[0].weight[0, 0] = float("nan")
    monitor.step()
    frame = monitor.frame()
    assert frame["step"].tolist() == [0, 1, 2]
    assert frame.drop(columns="step").iloc[2].isna().all()
    assert monitor.messages[0].startswith("step 2: nothing was measured: a parameter, an output")
    assert "TAIL, K: nothing can be said" in monitor.summary()
    assert len(monitor.plot().axes) == 3


def test_a_module_that_fails_in_training_does_not_stop_it(monkeypatch: pytest.MonkeyPatch) -> None:
    (X, y), module = data(), net()
    monitor = gdconv.Monitor(module, X, y, stride=1, budget=1)

    def broken(_: Tensor) -> Tensor:
        raise ValueError("out of order")

    monkeypatch.setattr(module[1], "forward", broken)
    monitor.step()
    assert monitor.messages == ["step 1: nothing was measured: ValueError: out of order"]


class Mixed(nn.Module):
    """Samples that do not meet at the start, and meet as soon as `share` moves."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.share = nn.Linear(3, 1, bias=False), nn.Parameter(torch.zeros(()))

    def forward(self, X: Tensor) -> Tensor:
        h = self.linear(X)
        return h + self.share * h.mean(0, keepdim=True)


def test_samples_that_meet_later_are_not_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "require_sound", lambda *args: True)
    (X, y), module = data(3), Mixed().double()
    monitor = gdconv.Monitor(module, X, y, budget=1)
    h = module.linear(X)
    J = torch.cat([X, h.mean() * torch.ones_like(h)], 1)
    least = torch.linalg.svdvals(J)[-1].item()
    assert monitor.frame()["sigma_min_lo"].iloc[0] == pytest.approx(least, rel=1e-9)


GOOD: dict[str, Any] = {"module": nn.Linear(3, 1), "X": np.ones((2, 3)), "y": np.ones(2)}


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"stride": 0}, "stride = 0: give a whole number of at least 1, or None"),
        ({"stride": True}, "stride = True: give a whole number"),
        ({"budget": 0}, "budget = 0: give a share of the time above 0 and at most 1"),
        ({"budget": 1.5}, "budget = 1.5: give a share"),
        ({"budget": float("nan")}, "budget = nan: give a share"),
        ({"module": nn.Tanh()}, "model = no parameters: give a module that has some"),
        ({"module": nn.Linear(3, 1).requires_grad_(False)}, "let at least one parameter require"),
        ({"X": np.ones((2, 4))}, "X = inputs of Linear, 4 parameters: give inputs that it takes"),
        ({"y": np.ones(3)}, "y = array of shape (3,): give 2 targets, one per sample"),
        ({"y": np.ones((2, 2))}, "model = Linear, 4 parameters, which gives shape (2, 1): give"),
        ({"loss": "sqared"}, "loss = sqared: did you mean squared"),
    ],
)
def test_bad_input_is_one_sentence(asked: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=re.escape(sentence)):
        gdconv.Monitor(**(GOOD | asked))


def test_changed_parameters_and_a_bad_step() -> None:
    module = nn.Sequential(nn.Linear(3, 1))
    monitor = gdconv.Monitor(module, GOOD["X"], GOOD["y"], stride=1, budget=1)
    with pytest.raises(InputError, match="step = -1: give a positive step size"):
        monitor.summary(step=-1)
    module[0] = nn.Linear(3, 1, bias=False)
    with pytest.raises(InputError, match=r"parameter 0.bias, \(1,\) at the start and missing now"):
        monitor.step()
