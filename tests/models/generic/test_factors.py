"""J in factors: every use of a parameter is seen, and K, J^T S and |J_W| are those of J."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from gdconv.data.problem import Problem
from gdconv.models.generic.factors import Factors, Part
from gdconv.models.generic.family import ModuleFamily
from gdconv.models.generic.places import Places
from gdconv.models.generic.tape import Tape


class Raw(nn.Module):
    """One way or another to use parameters."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.W, self.V = nn.Parameter(torch.randn(3, 5)), nn.Parameter(torch.randn(5, 3))
        self.b, self.a = nn.Parameter(torch.randn(5)), nn.Parameter(torch.randn(5))
        self.e, self.g = nn.Parameter(torch.randn(5, 2)), nn.Parameter(torch.randn(()))
        self.Q, self.norm, self.conv = nn.Linear(3, 3), nn.LayerNorm(5), nn.Conv1d(1, 5, 3)

    def forward(self, X: Tensor) -> Tensor:
        scale = torch.arange(1.0, 5.0, dtype=X.dtype)[:, None]
        tokens = X[:, None, :] * scale
        made = {
            "vector": lambda: torch.tanh(X @ self.W + self.b) @ self.a,
            "transposed": lambda: torch.relu(X @ self.V.T + self.b) @ self.e,
            "norm": lambda: self.norm(torch.mm(X, self.W)) @ self.a,
            "addmm": lambda: torch.tanh(torch.addmm(self.b, X, self.W)) @ self.a * self.g,
            "twice": lambda: torch.tanh(X @ self.W) @ self.a + (self.W**2).sum(),
            "tied": lambda: torch.tanh(X @ self.W) @ self.W.T,
            "listed": lambda: (
                torch.tanh(X @ self.W) @ self.a + torch.cat([self.W[:, 0], self.b]).sum()
            ),
            "convolution": lambda: torch.tanh(self.conv(X[:, None]))[:, :, 0] @ self.a,
            "tokens": lambda: torch.tanh(tokens @ self.W + self.b) @ self.a,
            "attention": lambda: torch.tanh(self.Q(tokens)).softmax(1).sum(1) @ self.W @ self.a,
            "in place": lambda: torch.relu_(self.Q(X)) @ self.W + self.b,
            "einsum": lambda: torch.einsum("ni,io->no", X, self.W) + self.b,
            "columns": lambda: (self.V @ X.T).T @ self.a,
            "scaled": lambda: torch.add(X @ self.W, self.b, alpha=2.0),
        }
        return made[self.way]()  # type: ignore[no-untyped-call]


def case(module: nn.Module, N: int = 6) -> tuple[Any, Problem, Any]:
    """A module with the parameters that it does not use frozen, and data for it."""
    module = module.double()
    torch.manual_seed(1)
    X = torch.randn(N, 3, dtype=torch.float64)
    F = module(X)
    used = torch.autograd.grad(F.sum(), list(module.parameters()), allow_unused=True)
    for p, g in zip(module.parameters(), used, strict=True):
        p.requires_grad_(g is not None)
    y = F.detach() + 0.1 * torch.randn_like(F)
    family = ModuleFamily(module, "raw")
    problem = family.problem(X.numpy()[None], y.numpy()[None], "drawn", [])
    params = family._like
    family.require_match(problem, params)
    return family._model, problem, params


WAYS = {
    "vector": ("W b a", ""),
    "transposed": ("V b e", ""),
    "norm": ("W a", "norm.weight norm.bias"),
    "addmm": ("W b a", "g"),
    "twice": ("a", "W"),
    "listed": ("a", "W b"),
    "convolution": ("a", "conv.weight conv.bias"),
    "tokens": ("W b a", ""),
    "attention": ("Q.weight Q.bias W a", ""),
    "in place": ("W b", "Q.weight Q.bias"),
    "einsum": ("b", "W"),
    "columns": ("a", "V"),
    "scaled": ("W", "b"),
}


@pytest.mark.parametrize("way", WAYS)
def test_factors_are_those_of_the_jacobian(way: str) -> None:
    torch.manual_seed(0)
    model, problem, params = case(Raw(way))
    at, gradient = model.gradient(problem, params)
    J = model.jacobian(problem, params, params.trained)[0].numpy()
    S = at.residual[0].reshape(-1).numpy()
    for again in (at, model.differentiable(problem, params)):  # signals by S and by themselves
        found = model.factors(problem, again, 0, params.trained)
        understood = {n for part in found.parts for n in (part.weight, part.bias) if n}
        assert (understood, set(found.rest)) == tuple(set(x.split()) for x in WAYS[way])
        K, slack = found.kernel()
        assert np.array_equal(K, K.T)
        assert np.linalg.norm(K - J @ J.T) <= slack + 1e-14 * np.trace(K)
        assert slack <= 1e-12 * np.trace(K)
        pulled, squares = found.pulled(S), found.squares()
        for b in params.trained:
            assert pulled[b].reshape(-1) == pytest.approx(gradient.blocks()[b].numpy().ravel())
        sizes = [params.blocks()[b].numel() for b in params.trained]
        for b, part in zip(params.trained, np.split(J, np.cumsum(sizes)[:-1], axis=1), strict=True):
            assert squares[b] == pytest.approx(float((part**2).sum()), rel=1e-9, abs=1e-20)


def test_what_is_not_understood_at_all_has_no_factors() -> None:
    model, problem, params = case(Raw("tied"))
    assert not model.layered
    assert model.factors(problem, model.gradient(problem, params)[0], 0, params.trained) is None


class Hidden(torch.autograd.Function):
    """X W + |W|^2, where no tape sees it."""

    @staticmethod
    def forward(X: Tensor, W: Tensor) -> Tensor:
        return X @ W + W.square().sum()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        X, W = ctx.saved_tensors
        return None, X.mT @ g + 2 * W * g.sum()


def test_a_use_that_no_tape_sees_is_found_by_comparison() -> None:
    class Secret(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.W = nn.Parameter(torch.randn(3, 1))

        def forward(self, X: Tensor) -> Tensor:
            return X @ self.W + Hidden.apply(0 * X, self.W)

    assert not case(Secret())[0].layered


def exact(x: np.ndarray) -> np.ndarray:
    return np.vectorize(Fraction)(x)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e5])
@pytest.mark.parametrize("shape", [(2, 1, 0), (3, 2, 0), (2, 1, 4), (2, 3, 2)])
def test_the_rounding_of_the_kernel_is_covered(shape: tuple[int, int, int], scale: float) -> None:
    """Against rational arithmetic on the stored factors."""
    N, C, T = shape
    rng = np.random.default_rng(N + C + T)
    for weight, bias in (("W", ""), ("W", "b"), ("", "b")):
        a = (
            rng.standard_normal((N, T, 7) if T else (N, 7))
            * scale ** rng.uniform(-1, 1, (N,))[(slice(None), *[None] * (2 if T else 1))]
        )
        s = rng.standard_normal((N, C, T, 5) if T else (N, C, 5))
        K, slack = Factors((Part(a, s, weight, bias),), {}, N * C).kernel()
        A, Z = (exact(x.reshape(N, T or 1, 7) if k == 0 else x.reshape(N, C, T or 1, 5))
                for k, x in enumerate((a, s)))  # fmt: skip
        rows = []
        for i in range(N):
            for c in range(C):
                row = [sum(Z[i, c, t, o] * A[i, t, d] for t in range(T or 1))
                       for o in range(5) for d in range(7)] if weight else []  # fmt: skip
                if bias:
                    row += [sum(Z[i, c, t, o] for t in range(T or 1)) for o in range(5)]
                rows.append(row)
        J = np.array(rows, dtype=object)
        off = exact(K) - J @ J.T
        wrong = float(sum(x * x for x in off.ravel())) ** 0.5
        assert wrong <= slack
        terms = (5 + (7 if weight else 0) if not T else 2 * T + 5) - 2
        lengths = (s**2).reshape(N, -1).sum(1) @ ((a**2).reshape(N, -1).sum(1) * (weight != ""))
        assert slack >= 2.0**-53 * terms * float(lengths), "the bound itself, not what is seen"
        assert slack <= 1e-12 * float(np.trace(J @ J.T)) + 1e-290


def test_the_rounding_of_all_parts_is_counted() -> None:
    rng = np.random.default_rng(0)
    parts = [Part(10.0**k * rng.standard_normal((3, 50)), rng.standard_normal((3, 1, 4)), "W", "")
             for k in (3, 0)]  # fmt: skip
    both = Factors(tuple(parts), {"c": rng.standard_normal((3, 2))}, 3).kernel()[1]
    assert both >= sum(part.kernel()[1] for part in parts)


def test_places_do_what_functional_call_does() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)
            self.two.weight = self.one.weight  # tied
            self.register_buffer("shift", torch.ones(3))
            self.register_buffer("index", torch.tensor([2, 0, 1]))
            self.register_parameter("none", None)

        def forward(self, X: Tensor) -> Tensor:
            return self.two(torch.tanh(self.one(X)))[:, self.index] + self.shift

    torch.manual_seed(0)
    module = Odd()
    before = dict(module.state_dict())
    theta = {k: torch.randn_like(p).double() for k, p in module.named_parameters()}
    X = torch.randn(4, 3, dtype=torch.float64)
    with Places.of(module).holding(theta, X):
        F = module(X)
    buffers = {"shift": torch.ones(3, dtype=torch.float64), "index": module.index}
    assert torch.equal(F, functional_call(module, {**theta, **buffers}, (X,)))
    assert all(module.state_dict()[k] is v or torch.equal(module.state_dict()[k], v)
               for k, v in before.items())  # fmt: skip
    assert module.two.weight is module.one.weight
    assert isinstance(module.one.weight, nn.Parameter)
    with pytest.raises(ZeroDivisionError), Places.of(module).holding(theta, X):
        raise ZeroDivisionError
    assert isinstance(module.one.weight, nn.Parameter)


def test_a_square_weight_keeps_its_orientation() -> None:
    W, X = torch.randn(3, 3, requires_grad=True), torch.randn(4, 3)
    for product, flipped in ((lambda: X @ W, True), (lambda: X @ W.T, False)):
        with Tape({"W": W}) as tape:
            product()
        assert [use.flipped for use in tape.understood(4)] == [flipped]
    with Tape({"W": W}) as tape:
        X @ W.data.T
    assert tape.understood(4) == ()
