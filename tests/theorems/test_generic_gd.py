"""generic-gd: verdicts on modules of several kinds and losses, and what it must not confirm."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gdconv
from gdconv.checks.replay import differences, replay
from gdconv.descent.algorithms import L1, Proximal
from gdconv.models.base import Bars
from gdconv.models.generic.model import ModuleModel
from gdconv.support.errors import InputError


def data(seed: int = 0, N: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    X = torch.randn(N, 3, dtype=torch.float64)
    return X, torch.sign(X[:, :1])


def net(act: type[nn.Module] = nn.Tanh, outputs: int = 1) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 32), act(), nn.Linear(32, outputs))


@pytest.mark.parametrize("act", [nn.Tanh, nn.ReLU])
@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_the_product_is_confirmed(act: type[nn.Module], loss: str) -> None:
    X, y = data()
    check = gdconv.check(
        "generic-gd", statement="product", model=net(act), X=X, y=y, loss=loss, steps=50
    )
    assert check.verdict == "confirmed"
    assert check.runs["sigma_min_least"].item() > 0


def test_cross_entropy_over_three_classes() -> None:
    X, _ = data()
    y = torch.tensor([0, 1, 2, 2, 1, 0])
    check = gdconv.check(
        "generic-gd", statement="product", model=net(outputs=3), X=X, y=y, loss="cross-entropy",
        steps=60,
    )  # fmt: skip
    assert check.verdict == "confirmed"
    assert check.starts["y"].shape == (1, 6, 3)


def test_the_squared_losss_factor_planted_again_is_a_false_refutation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """phi = 1 and the product: what was assumed of every loss; F = theta, one sample."""
    asked: dict[str, Any] = {
        "model": nn.Linear(1, 1, bias=False), "weights": {"weight": [[1.0]]}, "X": [[1.0]],
        "y": [[1.0]], "loss": "logistic", "steps": 100, "step": 0.3, "statement": "product",
    }  # fmt: skip
    assert gdconv.check("generic-gd", **asked).verdict == "confirmed"
    honest = ModuleModel.bars

    def old(self: ModuleModel, *args: Any) -> Bars:
        made = honest(self, *args)
        return Bars(made.error, made.slope, np.ones_like(made.share), made.bend, False)

    monkeypatch.setattr(ModuleModel, "bars", old)
    assert gdconv.check("generic-gd", **asked).verdict == "refuted"


def test_the_kernel_theorem_has_its_rate() -> None:
    """A linear model: sigma_m(J)^2 is the least eigenvalue of X X^T, at every step."""
    X, y = data(N=3)
    model = nn.Linear(3, 1, bias=False)
    check = gdconv.check("generic-gd", model=model, X=X, y=y, step=0.01, steps=50)
    row = check.verdicts.set_index("statement").loc["kernel"]
    assert row["rate"] == pytest.approx(float(torch.linalg.eigvalsh(X @ X.T)[0]))


def test_a_larger_step_than_the_curvature_allows_is_no_confirmation() -> None:
    X, y = data(N=3)
    model = nn.Linear(3, 1, bias=False)
    eta = 1.9 / float(torch.linalg.eigvalsh(X @ X.T)[-1])
    check = gdconv.check("generic-gd", model=model, X=X, y=y, step=eta, steps=50)
    table = check.verdicts.set_index("statement")["verdict"]
    assert table["kernel"] != "confirmed"


class Late(nn.Module):
    """Its backward pass is wrong once it has moved."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.l, self.o = nn.Linear(3, 16), nn.Linear(16, 1)
        self.register_buffer("w", self.o.weight.detach().clone().double())

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        F = self.o(torch.tanh(self.l(X)))
        moved = (self.o.weight - self.w).detach().norm()
        return F + (0.7 * F.detach() - 0.7 * F) * (moved > 0.05)


def test_a_derivative_that_goes_wrong_on_the_way_confirms_nothing() -> None:
    X, y = data()
    check = gdconv.check(
        "generic-gd", statement="product", model=Late(), X=X, y=y, steps=40, step=0.05
    )
    assert check.verdict == "outside"
    rows = check.hypotheses.set_index("hypothesis")
    assert (
        rows.loc["J is the derivative: finite differences at theta_T", "holds"] == "false"
    ).all()


def test_unknown_layers_prove_no_later_step() -> None:
    X, y = data()
    check = gdconv.check("generic-gd", model=net(nn.ReLU), X=X, y=y, steps=60)
    assert check.verdict == "undecided"
    assert check.level == "estimated"


class Block(nn.Module):
    """Pre-norm attention with a residual link, then a read-out: one output per token."""

    def __init__(self, D: int = 4) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(D)
        self.Q, self.K, self.V = (nn.Linear(D, D, bias=False) for _ in range(3))
        self.out = nn.Linear(D, 1)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        h = self.norm(X)
        S = torch.softmax(self.Q(h) @ self.K(h).mT / 2.0, -1)
        return self.out(torch.tanh(X + S @ self.V(h)))


def test_a_residual_attention_block_is_certified_for_all_later_steps() -> None:
    """Tanh, layer norm, softmax attention and a residual link: M_2 from the calculus of jets."""
    torch.manual_seed(3)
    X = torch.randn(1, 2, 8, dtype=torch.float64)
    block = Block(8).double()
    with torch.no_grad():
        y = block(X) + 0.1 * torch.randn(1, 2, 1, dtype=torch.float64)
    check = gdconv.check("generic-gd", model=block, X=X, y=y, steps=200, until_loss=1e-13)
    assert check.verdict == "confirmed", check.table()
    row = check.verdicts.set_index("statement").loc["run"]
    assert "TAIL fires: rate" in row["note"]
    assert row["level"] == "float64"


def test_the_tail_holds_for_later_steps_and_needs_a_small_loss() -> None:
    """Its rate against 300 more steps of the same run; three steps certify nothing."""
    model, eta = "gdconv.models.generic.nets:TwoLayer", 0.05
    asked: dict[str, Any] = {"model": model, "step": eta, "until_loss": 1e-14}
    first = gdconv.check("generic-gd", steps=900, **asked)
    assert first.verdict == "confirmed"
    note = first.verdicts.set_index("statement").loc["run", "note"]
    rate = float(note.split("rate ")[1].split(" ")[0])
    longer = gdconv.check("generic-gd", steps=1200, **asked).trace
    steps = longer["step"].iloc[-1] - 900
    share = longer["loss"].iloc[-1] / first.trace["loss"].iloc[-1]
    assert steps > 100
    assert share <= (1 - eta * rate) ** steps
    assert gdconv.check("generic-gd", steps=3, **asked).verdict in ("outside", "undecided")


def test_saved_with_its_module_and_replayed(tmp_path: Path) -> None:
    X, y = data()
    check = gdconv.check("generic-gd", model=net(), X=X, y=y, steps=30, statement="product")
    place = check.save(tmp_path)
    text = (place / "table.md").read_text("utf-8") + str(check.config)
    assert "Sequential(Linear, Tanh, Linear)" in text
    saved = gdconv.load(place)
    assert differences(saved, replay(saved, model=net())) == []
    with pytest.raises(InputError, match="model = Sequential.*the module itself as model="):
        replay(saved)


def test_a_named_model_replays_in_a_fresh_process(tmp_path: Path) -> None:
    check = gdconv.check("generic-gd", steps=25, seeds=2, statement="product")
    place = check.save(tmp_path)
    made = subprocess.run(
        [sys.executable, "-m", "gdconv", "replay", str(place), "--quiet"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "same verdicts and first violations as saved" in made.stderr
    assert "gdconv.models.generic.nets:TwoLayer, loss squared" in made.stdout


def test_float32_and_two_engines_of_data(tmp_path: Path) -> None:
    X, y = data()
    np.savez(tmp_path / "mine.npz", X=X.numpy(), y=y.numpy())
    asked = {"model": net(), "steps": 100, "statement": "product"}
    one = gdconv.check("generic-gd", data=str(tmp_path / "mine.npz"), **asked)
    two = gdconv.check("generic-gd", X=X, y=y, **asked)
    assert np.array_equal(one.trace["loss"], two.trace["loss"])
    low = gdconv.check("generic-gd", X=X, y=y, dtype="float32", **asked)
    assert low.verdict == "undecided"
    assert low.trace["loss"].iloc[-1] == pytest.approx(two.trace["loss"].iloc[-1], rel=1e-4)


def test_attention_from_memory_is_attention_from_a_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((2, 3, 6)), rng.standard_normal((2, 3))
    weights = {b: rng.standard_normal((2, 6, 4)) for b in ("W_Q", "W_K", "W_V")}
    weights["W_O"] = rng.standard_normal((2, 4, 1))
    np.savez(tmp_path / "w.npz", X=X, y=y, **weights)
    asked = {"steps": 20, "step": 1e-3, "statement": "run"}
    one = gdconv.check("full-gd", problem=str(tmp_path / "w.npz"), **asked)
    two = gdconv.check("full-gd", X=X, y=torch.from_numpy(y), weights=weights, **asked)
    assert one.trace.equals(two.trace)
    assert two.config["data"] == "in memory"


@pytest.mark.parametrize(
    "options",
    [
        {"algorithm": "heavy-ball", "beta": 0.6},
        {"algorithm": "proximal", "penalty": None},
        {"algorithm": "nesterov", "momentum": 0.3},
    ],
)
def test_another_algorithm_has_its_product_and_nothing_else(options: dict[str, Any]) -> None:
    """TAIL and Theorem K are about gradient descent; AP is about any energy."""
    if "penalty" in options:
        options = {"algorithm": Proximal(L1(1e-5))}
    check = gdconv.check("generic-gd", steps=60, **options)
    assert list(check.verdicts["statement"]) == ["product"]
    assert check.verdict == "confirmed"
    assert ("energy" in check.trace) == ("momentum" not in options)
    name = getattr(options["algorithm"], "name", options["algorithm"])
    rows = set(check.hypotheses["hypothesis"])
    assert f"the stored steps are steps of {name}: defect over rounding" in rows
    with pytest.raises(InputError, match="statement = kernel: choose one of product"):
        gdconv.check("generic-gd", steps=60, statement="kernel", **options)


def test_an_algorithm_that_needs_more_than_numbers_is_given_in_python() -> None:
    with pytest.raises(InputError, match="algorithm = proximal: give it as algorithm= in Python"):
        gdconv.check("generic-gd", algorithm="proximal")
    with pytest.raises(InputError, match="did you mean heavy-ball"):
        gdconv.check("generic-gd", algorithm="heavyball")
    with pytest.raises(InputError, match="algorithm = heavy-ball: leave it out: full-gd speaks of"):
        gdconv.check("full-gd", algorithm="heavy-ball")
