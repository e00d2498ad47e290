"""sigma_m(J) at every step: enclosed whatever the module, the loss and the way it is known."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gdconv
import gdconv.models.generic.sigma as followed
from gdconv.data.problem import Problem
from gdconv.models.generic.family import ModuleFamily
from gdconv.models.generic.kernel import OFF, in_directions
from gdconv.models.generic.sigma import Anchor, JacobianFollower, Proved
from gdconv.models.losses import CrossEntropy, Logistic, Squared
from gdconv.models.sigma import TOLERANCE
from gdconv.rigor.rounding import Enclosure
from gdconv.support.errors import InputError


def net(act: type[nn.Module] = nn.Tanh, outputs: int = 1, width: int = 12) -> nn.Module:
    return nn.Sequential(nn.Linear(3, width), act(), nn.Linear(width, outputs))


class Conv(nn.Module):
    """Parameters that are not understood."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.o = nn.Conv1d(1, 4, 2), nn.Linear(8, 1)

    def forward(self, X: Tensor) -> Tensor:
        return self.o(torch.tanh(self.c(X[:, None])).flatten(1))


class Mixed(nn.Module):
    """Samples meet."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 4)

    def forward(self, X: Tensor) -> Tensor:
        h = torch.tanh(self.inner(X))
        return (h - 0.5 * h.mean(0, keepdim=True)).sum(1, keepdim=True)


def case(source: Any, loss: Any = None, N: int = 4) -> tuple[Any, Problem, Any]:
    torch.manual_seed(0)
    X = torch.randn(N, 3, dtype=torch.float64)
    if isinstance(source, nn.Module):
        source = source.double()
    family = ModuleFamily(source, "net", loss)
    with torch.no_grad():
        F = family._module(X)
    y = F + torch.randn_like(F)
    if isinstance(loss, Logistic):
        y = torch.sign(y)
    if isinstance(loss, CrossEntropy):
        y = torch.arange(N) % F.shape[1]
    problem = family.problem(X.numpy()[None], y.double().numpy()[None], "drawn", [])
    params = family._like
    family.require_match(problem, params)
    return family._model, problem, params


def walk(model: Any, problem: Problem, params: Any, eta: float, steps: int) -> Any:
    """Gradient descent with what the follower says and what an SVD says, step by step."""
    follows = model.sigma_follower(problem, params, params.trained)
    for _ in range(steps):
        at, gradient = model.gradient(problem, params)
        told = follows.at(at, list(range(params.R)))
        J = model.jacobian(problem, params, params.trained)
        for r, box in enumerate(told):
            data = problem[r if problem.R > 1 else 0]
            A = model.loss.directions(J[r : r + 1], data.y)[0].double().numpy()
            s = np.linalg.svd(A, compute_uv=False)
            sigma = s[-1] if A.shape[0] <= A.shape[1] else 0.0
            yield box, sigma, s[0], follows.runs[r]
        moved = {b: v - eta * gradient.blocks()[b] for b, v in params.blocks().items()}
        params = params.with_blocks(moved)


CASES = {
    "tanh": (net(), Squared()),
    "relu": (net(nn.ReLU), Squared()),
    "outputs": (net(outputs=2), Squared()),
    "logistic": (net(nn.GELU), Logistic()),
    "classes": (net(outputs=3), CrossEntropy()),
    "convolution": (Conv(), Squared()),
    "mixed": (Mixed(), Squared()),
    "fewer": (nn.Linear(3, 1, bias=False), Squared()),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("eta", [0.1, 1e-4])
def test_every_step_is_enclosed(name: str, eta: float) -> None:
    for box, sigma, S, _ in walk(*case(*CASES[name]), eta, 30):
        lo, hi = box
        assert lo - 1e-13 * S <= sigma <= hi + 1e-13 * S
        if sigma > 1e-6 * S:
            assert hi - lo <= 2.1 * TOLERANCE * lo
        if name == "fewer":
            assert lo == 0.0
            assert hi < 1e-6


def test_replicas_and_float32_have_their_own() -> None:
    model, problem, params = case(net(), N=3)
    other = params.with_blocks({b: 1.3 * v for b, v in params.blocks().items()})
    both = params.stack([params, other])
    for box, sigma, S, _ in walk(model, problem, both, 0.05, 5):
        assert box[0] - 1e-13 * S <= sigma <= box[1] + 1e-13 * S
    low, data = params.to("cpu", torch.float32), problem.to("cpu", torch.float32)
    at, _ = model.gradient(data, low)
    lo, hi = model.sigma_follower(data, low).at(at, [0])[0]
    exact = low.to("cpu", torch.float64)
    J = model.jacobian(data.to("cpu", torch.float64), exact, exact.trained)[0].numpy()
    assert lo <= np.linalg.svd(J, compute_uv=False)[-1] <= hi


def test_two_equal_samples_are_known_to_be_degenerate() -> None:
    model, problem, params = case(net())
    X = problem.X.clone()
    X[0, 1] = X[0, 0]
    twins = Problem(X, problem.y, "twins", (), False)
    found = [box for box, *_ in walk(model, twins, params, 0.01, 30)]
    assert found[0] == (0.0, 0.0)
    assert all(lo == 0.0 <= hi < 1e-6 for lo, hi in found)


def test_fifty_digits_agree() -> None:
    """J of the stored weights, exactly: what the factors round is inside the enclosure."""
    mpmath.mp.dps = 50
    model, problem, params = case(nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 1)))
    for k in range(4):  # the last ones far from the centre, nearly degenerate
        X = problem.X.clone()
        X[0, 1] = X[0, 0] + 10.0 ** (-2 * k) * X[0, 1]
        data = Problem(X, problem.y, "near", (), False)
        at, _ = model.gradient(data, params)
        lo, hi = model.sigma_follower(data, params).at(at, [0])[0]
        W, b, a, _ = (
            mpmath.matrix(v[0].reshape(v.shape[1], -1).tolist()) for v in params.blocks().values()
        )
        rows = []
        for x in X[0].tolist():
            h = [mpmath.tanh(sum(W[j, i] * x[i] for i in range(3)) + b[j]) for j in range(6)]
            s = [a[j] * (1 - h[j] ** 2) for j in range(6)]
            rows.append([s[j] * x[i] for j in range(6) for i in range(3)] + s + h + [1])
        J = mpmath.matrix(rows)
        sigma = mpmath.sqrt(mpmath.eigsy(J * J.T, eigvals_only=True)[0])
        assert lo <= sigma <= hi
        assert hi - lo <= TOLERANCE * lo


class Product(nn.Module):
    """F = a b x: J = (b, a) x, M_2 = |x|, and sigma = |x| |(a, b)| falls as fast as M_2 allows."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)

    def forward(self, X: Tensor) -> Tensor:
        return self.b(self.a(X))


def slow(factor: float, monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float, float]]:
    """(lo, hi, sigma) where (a, b) shrinks by 1e-4 of itself a step, M_2 times a factor."""
    honest = followed.Calculus.constants
    monkeypatch.setattr(
        followed.Calculus, "constants",
        lambda self, *args: tuple(factor * np.asarray(x) for x in honest(self, *args)),
    )  # fmt: skip
    family = ModuleFamily(Product(), "product")
    problem = family.problem(np.full((1, 1, 1), 2.0), np.zeros((1, 1, 1)), "one", [])
    params = family.from_arrays({
        "a.weight": np.full((1, 1), 3.0),
        "b.weight": np.full((1, 1), 4.0),
    })
    family.require_match(problem, params)
    model, follows = family._model, None
    found = []
    for t in range(200):
        now = params.with_blocks({b: v * (1 - 1e-4 * t) for b, v in params.blocks().items()})
        follows = follows or model.sigma_follower(problem, now)
        at, _ = model.gradient(problem, now)
        ((lo, hi),) = follows.at(at, [0])
        found.append((lo, hi, 10.0 * (1 - 1e-4 * t)))
    return found


def test_drift_by_the_constant_of_the_layers_is_sound_and_nearly_sharp(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = []
    honest = followed.least_eigenvalue
    monkeypatch.setattr(followed, "least_eigenvalue", lambda *args: made.append(1) or honest(*args))
    assert all(lo <= sigma <= hi for lo, hi, sigma in slow(1.0, monkeypatch))
    assert len(made) < 20, "drift that is proved needs no enclosure"
    monkeypatch.undo()
    assert any(lo > sigma for lo, _, sigma in slow(0.9, monkeypatch)), "the test sees a tenth"


def test_an_enclosure_is_carried_as_far_as_its_constant_is_proved() -> None:
    anchor = Anchor(np.zeros(2), Enclosure(10.0, 10.5), 0.2, 0.3)
    assert anchor.drifted(0.31) is None
    assert Anchor(np.zeros(2), Enclosure(10.0, 10.5), 1.0, 1.0).drifted(0.5) is None  # too wide
    lo, hi = anchor.drifted(0.3) or (0.0, 0.0)
    assert 9.93 < lo <= 9.94 < 10.56 <= hi < 10.57
    model, problem, params = case(net())
    run = model.sigma_follower(problem, params).runs[0]
    assert run._proved_at(np.zeros(1)) == (np.inf, 0.0)
    run.proved = Proved(np.zeros(2), 1.0, 5.0)
    assert run._proved_at(np.array([0.6, 0.0])) == (5.0, pytest.approx(0.4))
    assert run._proved_at(np.array([0.6, 0.9])) == (5.0, 0.0)


class Given:
    """A network with a kernel, right or not."""

    def __init__(self, fault: str = "", hidden: bool = True) -> None:
        self.fault, self.hidden, self.asked = fault, hidden, 0

    def module(self) -> nn.Module:
        torch.manual_seed(3)
        hidden = self.hidden

        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.W = nn.Parameter(torch.randn(3, 16).double())
                self.a = nn.Parameter(torch.randn(16, 1).double() / 4)

            def forward(self, X: Tensor) -> Tensor:
                if hidden:
                    h = torch.tanh(torch.einsum("nd,dm->nm", X, self.W))
                    return torch.einsum("nm,mo->no", h, self.a)
                return torch.tanh(X @ self.W) @ self.a

        return Net()

    def kernel(self, params: dict[str, Tensor], X: Tensor) -> Any:
        self.asked += 1
        h = torch.tanh(X @ params["W"])
        s = params["a"].T * (1 - h * h)
        K = (s @ s.T) * (X @ X.T) + h @ h.T
        late = self.asked > 3
        if self.fault == "raises":
            raise ValueError("no such thing")
        return {
            "shape": K[:2],
            "half": h @ h.T,
            "nan": K * torch.nan,
            "later": K + late * 0.3 * torch.eye(len(K)),
            "later shape": K[:2] if late else K,
            "slightly": K * (1 + 1e-10),
        }.get(self.fault, K)


def given(fault: str = "", hidden: bool = True, **options: Any) -> tuple[gdconv.Check, Given]:
    torch.manual_seed(0)
    X = torch.randn(5, 3, dtype=torch.float64)
    source = Given(fault, hidden)
    asked = {"model": source, "X": X, "y": torch.sign(X[:, :1]), "steps": 40, "step": 0.02}
    return gdconv.check("generic-gd", statement="product", **asked | options), source


def sigmas(check: gdconv.Check) -> np.ndarray:
    return check.trace[["sigma_min_lo", "sigma_min_hi"]].to_numpy()


def test_a_given_kernel_is_used_where_products_are_hidden() -> None:
    plain = given(hidden=False)
    check, source = given()
    assert check.verdict == plain[0].verdict == "confirmed"
    assert source.asked > 40, "at every step"
    assert plain[1].asked < 5, "at the ends: the factors are cheaper"
    columns = ["sigma_min_lo", "sigma_min_hi"]
    assert check.trace[columns].to_numpy() == pytest.approx(
        plain[0].trace[columns].to_numpy(), rel=2e-3
    )
    assert "the given kernel is J J^T at theta_T" in set(check.hypotheses["hypothesis"])


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("shape", r"kernel of .*of shape \(2, 5\): give shape \(5, 5\)"),
        ("half", r"off by 0\.\d+ of \|J\|\^2: give K = J J\^T"),
        ("nan", r"off by nan of \|J\|\^2"),
        ("raises", r"give kernel\(params, X\), \(m, m\), or call it otherwise \(.*no such thing"),
        ("slightly", r"off by 9\.?\d*e-11|off by [0-9.]+e-1[01] of"),
    ],
)
@pytest.mark.parametrize("hidden", [True, False])
def test_a_wrong_kernel_is_refused_in_one_sentence(fault: str, said: str, hidden: bool) -> None:
    with pytest.raises(InputError, match=said):
        given(fault, hidden)


@pytest.mark.parametrize("fault", ["later", "later shape"])
def test_a_kernel_that_goes_wrong_on_the_way_is_dropped_and_named(fault: str) -> None:
    right, _ = given()
    check, _ = given(fault)
    assert check.verdict == {"later": "outside", "later shape": "undecided"}[fault]
    rows = check.hypotheses.set_index("hypothesis").loc["the given kernel is J J^T at theta_T"]
    assert not (rows["holds"] == "true").any()
    for column in ("sigma_min_lo", "sigma_min_hi"):  # J in its place, from the step it went wrong
        assert check.trace[column].to_numpy() == pytest.approx(
            right.trace[column].to_numpy(), rel=2e-3
        )


def test_a_kernel_in_the_directions_of_the_loss() -> None:
    rng = np.random.default_rng(0)
    J = rng.standard_normal((6, 20))
    y = torch.eye(3, dtype=torch.float64)[[0, 2]][None]
    A = CrossEntropy().directions(torch.from_numpy(J)[None], y)[0].numpy()
    K, slack = in_directions(CrossEntropy(), J @ J.T, 1e-14, y)
    assert K.shape == (4, 4)
    assert np.linalg.norm(K - A @ A.T) < slack < 1e-11
    same, kept = in_directions(Squared(), J @ J.T, 1e-14, y)
    assert (np.array_equal(same, J @ J.T), kept) == (True, 1e-14)
    assert OFF < 1e-10


def test_a_kernel_of_other_blocks_than_those_trained_is_not_used() -> None:
    source = Given()
    family = ModuleFamily(source, "net")
    problem = family.problem(np.ones((1, 2, 3)), np.ones((1, 2, 1)), "ones", [])
    params = family.draw(gdconv.Config("generic-gd"), {}, 0)
    follows = JacobianFollower(family._model, problem, params, ("W",))
    assert follows.runs[0].given is None
    at, _ = family._model.gradient(problem, params)
    J = family._model.jacobian(problem, params, ("W",))[0].numpy()
    lo, hi = follows.at(at, [0])[0]
    assert lo <= np.linalg.svd(J, compute_uv=False)[-1] + 1e-7
    assert hi < 1e-6
