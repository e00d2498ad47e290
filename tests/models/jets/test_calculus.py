"""Closed cases by their own formulas, whole modules by search, and what the bounds leave out."""

from __future__ import annotations

import time
from math import sqrt

import numpy as np
import pytest
import torch
from stress_jets import RULES, WHOLE, Of, drawn, measured, ratios
from torch import Tensor, nn

from gdconv.models.jets.calculus import Calculus, lipschitz, sensitivity
from gdconv.models.jets.graph import Graph, known_layers
from gdconv.support.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")


def calculus(module: nn.Module, X: Tensor, **how) -> Calculus:
    graph = known_layers(module, X)
    assert isinstance(graph, Graph), graph
    return Calculus(graph, dict(module.named_parameters()), X, **how)


def chain(*layers: nn.Module, seed: int = 0) -> nn.Module:
    rng = torch.Generator().manual_seed(seed)
    module = nn.Sequential(*layers).double()
    for p in module.parameters():
        p.data = torch.randn(p.shape, generator=rng, dtype=torch.float64)
    return module


def unit_input(D: int, N: int = 1) -> Tensor:
    return torch.nn.functional.normalize(torch.arange(1.0, N * D + 1).double().reshape(N, D))


@pytest.mark.parametrize("rho", [0.0, 0.1, 2.0])
def test_two_layers_have_the_exact_jet(rho):
    net = chain(nn.Linear(3, 5, bias=False), nn.Tanh(), nn.Linear(5, 1, bias=False))
    at = calculus(net, unit_input(3), centred=False)
    s_2, width = 0.769801, 5
    alpha = float(net[2].weight.detach().norm()) + rho
    b = min(sqrt(width), float(torch.linalg.matrix_norm(net[0].weight.detach(), 2)) + rho)
    h = at.jet(np.array([rho]))
    np.testing.assert_allclose(h.g[0, 0], [alpha, b], rtol=1e-11)
    np.testing.assert_allclose(h.H[0, 0], [[s_2 * alpha, 1], [1, 0]], rtol=1e-11, atol=1e-11)
    M_2, G = at.constants(rho)
    assert pytest.approx(0.5 * (s_2 * alpha + sqrt((s_2 * alpha) ** 2 + 4)), rel=1e-11) == M_2
    assert pytest.approx(sqrt(alpha**2 + b**2), rel=1e-11) == G


@pytest.mark.parametrize("layers", [2, 3, 5])
def test_deep_linear_networks_have_the_closed_constant(layers):
    """M = (N - 1) w^(N - 2) for scalars and |x| = 1, w with the radius in it."""
    net = chain(*(nn.Linear(1, 1, bias=False) for _ in range(layers)))
    for p in net.parameters():
        p.data.fill_(1.2)
    M_2, G = calculus(net, torch.ones(1, 1), centred=False).constants(0.1)
    assert pytest.approx((layers - 1) * 1.3 ** (layers - 2), rel=1e-11) == M_2
    assert pytest.approx(sqrt(layers) * 1.3 ** (layers - 1), rel=1e-11) == G


class LowRank(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(1)
        self.W = nn.Parameter(torch.randn((2, 4), generator=rng, dtype=torch.float64))
        self.A = nn.Parameter(torch.randn((3, 4), generator=rng, dtype=torch.float64))
        self.B = nn.Parameter(torch.zeros((2, 3), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.W + 2.0 * (self.B @ self.A))


def test_low_rank_adaptation_gives_s_times_the_input():
    X = unit_input(4)
    at = calculus(LowRank(), X)
    M_2, _ = at.constants(np.array([0.0, 0.5]), trained=["B", "A"])
    np.testing.assert_allclose(M_2, [2.0, 2.0], rtol=1e-9)
    M_2, _ = at.constants(0.5, trained=["B"])
    assert M_2 < 1e-300


def test_samples_are_stacked_by_the_smaller_of_two_bounds():
    net = chain(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    at = calculus(net, unit_input(3, 3) * torch.tensor([[0.1], [1.0], [9.0]]).double())
    h = at.jet(np.array([0.1]))
    H = h.H[0]
    top = [np.linalg.eigvalsh(one)[-1] for one in H]
    both = np.linalg.norm(top), np.linalg.eigvalsh(np.sqrt((H * H).sum(axis=0)))[-1]
    M_2, G = at.constants(0.1)
    assert pytest.approx(min(both), rel=1e-11) == M_2
    assert pytest.approx(np.linalg.norm(h.g[0], 2), rel=1e-11) == G


def test_radii_can_be_asked_for_together_and_some_blocks_alone():
    at = calculus(*drawn("pre-LN block", 0))
    radii = np.geomspace(1e-6, 1e-2, 5)
    M_2, G = at.constants(radii)
    for k, rho in enumerate(radii):
        np.testing.assert_allclose(at.constants(float(rho)), (M_2[k], G[k]), rtol=1e-10)
    assert (np.diff(M_2) >= 0).all()
    assert (np.diff(G) >= 0).all()
    some = [n for n in at.graph.blocks if n.startswith("att")]
    partial, _ = at.constants(radii, trained=some)
    assert (partial <= M_2).all()
    assert lipschitz(at.graph, at.params, at.X, 1e-4)[0] <= M_2[-1]
    assert at.row(1e-4, some) <= at.constants(1e-4)[0] * (1 + 1e-12)
    assert at.row(1e-4, at.graph.blocks) == pytest.approx(at.constants(1e-4)[0], rel=1e-12)


def test_the_row_of_a_block_bounds_the_drift_of_its_jacobian():
    """F = x a b: H is [[0, 1], [1, 0]]; the rows of x V are its own."""
    net = chain(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False), nn.Tanh())
    at = calculus(net, torch.ones(1, 1))
    H = at.jet(np.array([0.2])).H[0, 0]
    assert at.row(0.2, ["1.weight"]) == pytest.approx(np.linalg.norm(H[1]), rel=1e-11)


@pytest.mark.parametrize("name", WHOLE)
def test_no_search_exceeds_a_bound(name):
    for rho in (1e-6, 0.1, 0.5):
        G, M = ratios(name, rho, seed=3, starts=3, steps=8)
        assert 0 < G <= 1
        assert 0 < M <= 1


@pytest.mark.parametrize("name", RULES)
def test_no_search_exceeds_what_one_rule_gives(name):
    G, M = ratios(name, 0.3, seed=1, starts=2, steps=6)
    assert 0.01 < G <= 1
    assert 0.001 < M <= 1


def test_repetition_counts_by_its_root():
    """Constant inputs of ones, where repeating an entry is felt in full."""
    scalar = Of(lambda m, x: x * m.s, s=(1,))
    windows = nn.Conv1d(1, 1, 3, bias=False)
    for module, X in ((scalar, torch.ones(1, 3, 4)), (windows, torch.ones(1, 1, 6))):
        at = calculus(module.double(), X.double(), centred=False)
        assert jacobian_norm(at, at.params) <= at.constants(0.0)[1]


@pytest.mark.parametrize("name", WHOLE)
def test_at_the_centre_g_is_nearly_the_jacobian(name):
    """At radius 0 only the stacking loses: G <= sqrt(blocks) |J|, with (C1) working."""
    module, X = drawn(name, 1)
    at = calculus(module, X)

    def outputs(params):
        return torch.func.functional_call(module, params, (X,)).reshape(-1)

    J = torch.func.jacrev(outputs)(dict(module.named_parameters()))
    S = np.linalg.norm(torch.cat([j.reshape(len(j), -1) for j in J.values()], 1).detach(), 2)
    G = at.constants(0.0)[1]
    assert S <= G <= 2 * S
    assert calculus(module, X, centred=False).constants(0.0)[1] * (1 + 1e-9) >= G


def test_the_slopes_at_the_centre_are_those_of_each_block():
    module, X = drawn("3-layer GELU", 2)
    at = calculus(module, X)
    h = at.jet(np.array([0.0]))

    def outputs(params, x):
        return torch.func.functional_call(module, params, (x[None],)).reshape(-1)

    J = torch.vmap(torch.func.jacrev(outputs), (None, 0))(dict(module.named_parameters()), X)
    for k, j in enumerate(J.values()):
        norms = np.linalg.norm(j.detach().reshape(len(X), 1, -1).numpy(), axis=(1, 2))
        assert (norms <= h.g[0, :, k]).all()
        assert (h.g[0, :, k] <= norms * (1 + 1e-8) + 1e-8).all()


def test_a_block_trained_alone_keeps_its_own_slopes():
    at = calculus(*drawn("3-layer GELU", 2))
    whole = at.jet(np.array([0.0]))
    for k, name in enumerate(at.graph.blocks):
        alone = at.jet(np.array([0.0]), trained=[name])
        np.testing.assert_allclose(alone.g[..., 0], whole.g[..., k], rtol=1e-9)


def test_the_drift_of_first_derivatives_counts():
    """With a large radius g must grow with H: sigmoid' is far below its sup at the centre."""
    net = chain(nn.Linear(1, 1, bias=False), nn.Sigmoid())
    net[0].weight.data.fill_(6.0)
    at = calculus(net, torch.ones(1, 1))
    for rho in (0.0, 1.0, 2.0, 3.0):
        true = 1 / ((1 + np.exp(6.0 - rho)) * (1 + np.exp(rho - 6.0)))
        assert true <= at.constants(rho)[1] <= min(0.25, 0.0025 + 0.0963 * rho) * (1 + 1e-9)


def test_without_a_budget_the_plain_rules_remain():
    module, X = drawn("3-layer GELU", 0)
    few, all_of_it = calculus(module, X, budget=0), calculus(module, X)
    assert not few.slopes
    assert few.constants(0.1)[1] >= all_of_it.constants(0.1)[1]


def test_softplus_beyond_its_threshold_is_unknown():
    """torch's softplus jumps by 2e-9 at 20, where it becomes the identity."""
    net = chain(nn.Linear(1, 1, bias=False), nn.Softplus())
    net[0].weight.data.fill_(19.0)
    at = calculus(net, torch.ones(1, 1))
    assert np.isfinite(at.constants(0.9)).all()
    assert np.isinf(at.constants(1.1)).all()


def test_a_norm_layer_that_can_reach_zero_gives_infinity():
    net = chain(nn.Linear(2, 3, bias=False), nn.LayerNorm(3, eps=0.0, elementwise_affine=False))
    X = unit_input(2)
    at = calculus(net, X)
    M_2, G = at.constants(np.array([1e-3, 100.0]))
    assert np.isfinite([M_2[0], G[0]]).all()
    assert np.isinf(M_2[1])
    net[0].weight.data.fill_(1.0)  # all entries equal: centred rows vanish, output is 0/0
    assert not np.isfinite(calculus_or_inf(net, X))


def calculus_or_inf(net: nn.Module, X: Tensor) -> float:
    graph = known_layers(net, X)
    if not isinstance(graph, Graph):
        return np.inf
    return float(np.asarray(Calculus(graph, dict(net.named_parameters()), X).constants(0.0)[0]))


class Causal(nn.Module):
    """Three ways to use a mask of minus infinity."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.W, self.V = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        scores = 0.01 * self.W(x) @ x.mT
        if self.kind == "added":
            S = torch.softmax(scores + self.mask, dim=-1)
        elif self.kind == "filled":
            S = torch.softmax(scores.masked_fill(self.mask < 0, -torch.inf), dim=-1)
        else:
            S = torch.tanh(scores + self.mask)
        return S @ self.V(x)


@pytest.mark.parametrize("kind", ["added", "filled", "tanh"])
def test_a_mask_of_minus_infinity_is_no_obstacle(kind):
    rng = torch.Generator().manual_seed(0)
    module, X = Causal(kind).double(), torch.randn((2, 3, 4), generator=rng, dtype=torch.float64)
    module.mask = module.mask.double()
    params = dict(module.named_parameters())
    for centred in (True, False):
        at = calculus(module, X, centred=centred)
        M_2, G = at.constants(0.1)
        G_V = at.constants(0.1, trained=["V.weight"])[1]
        fixed = {"V.weight": params["V.weight"]}
        assert 0 < measured(at.graph, params, X, 0.1, 1, starts=2, steps=8) <= G < 100
        assert 0 < measured(at.graph, params, X, 0.1, 2, starts=2, steps=8) <= M_2 < 1000
        assert jacobian_norm(at, fixed) <= G_V
    assert calculus(module, X).constants(0.0)[1] <= 2 * jacobian_norm(at, params)  # (C1) works


def jacobian_norm(at: Calculus, some: dict[str, Tensor]) -> float:
    def outputs(moving):
        return at.graph.evaluate(at.params | moving, at.X)[at.graph.output].reshape(-1)

    J = torch.func.jacrev(outputs)({n: p.detach() for n, p in some.items()})
    return float(np.linalg.norm(torch.cat([j.reshape(len(j), -1) for j in J.values()], 1), 2))


def test_the_diagonal_of_h_alone_would_confirm_what_stays_away():
    """F = a b at a = b = 1/2, y = -1: s^2 = 1/2 >= 6 * 0 * r_0, yet f >= 1/2 for ever."""
    net = chain(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    for p in net.parameters():
        p.data.fill_(0.5)
    at = calculus(net, torch.ones(1, 1))
    H = at.jet(np.array([0.1])).H[0, 0]
    assert np.diag(H).max() < 1e-300
    M_2 = at.constants(0.1)[0]
    r_0, s_squared = 1.25, 0.5
    assert pytest.approx(1.0, rel=1e-11) == M_2
    assert s_squared < 6 * M_2 * r_0
    a = b = 0.5
    for _ in range(100):
        a, b = a - 0.1 * (a * b + 1) * b, b - 0.1 * (a * b + 1) * a
        assert 0.5 * (a * b + 1) ** 2 >= 0.5


def test_sensitivity_bounds_what_small_errors_in_every_node_do():
    for name in ("3-layer GELU", "pre-LN block"):
        module, X = drawn(name, 0)
        at = calculus(module, X)
        bound = sensitivity(at.graph, at.params, X)
        values = at.graph.evaluate(at.params, X)
        rng = torch.Generator().manual_seed(0)
        for _ in range(10):
            shift = {}
            for n, step in at.graph.steps.items():
                v = values[n]
                noise = torch.randn(v.shape, generator=rng, dtype=torch.float64)
                shift[n] = 1e-7 * v.norm() * noise / noise.norm() if step.inputs else 0 * v
            moved = at.graph.evaluate(at.params, X, shift)[at.graph.output]
            assert float((moved - values[at.graph.output]).norm()) <= 1e-7 * bound * 1.01
        assert bound < 1e4


def test_bad_radii_and_blocks_are_named():
    at = calculus(chain(nn.Linear(2, 2)), unit_input(2))
    for rho in (-1.0, np.nan):
        with pytest.raises(InputError, match="rho"):
            at.constants(rho)
    for trained in (["wieght"], ["0.weight", "0.weight"]):
        with pytest.raises(InputError, match="trained"):
            at.constants(0.1, trained=trained)
    with pytest.raises(InputError, match="blocks"):
        at.row(0.1, ["0.bias"], trained=["0.weight"])
    assert max(at.constants(0.1, trained=[])) < 1e-300


def test_many_radii_are_quick():
    rng = torch.Generator().manual_seed(0)
    net = chain(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
    at = calculus(net, torch.randn((4, 4), generator=rng, dtype=torch.float64))
    radii = np.geomspace(1e-9, 1.0, 57)
    at.constants(radii)
    began = time.process_time()
    at.constants(radii)
    assert time.process_time() - began < 0.5  # about 0.01 unloaded
