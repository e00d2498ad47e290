"""The encoder's constants: equal to formulas written apart, attained, and true on random balls.

Cheap comparisons stand first and searches last.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import FrozenInstanceError, replace
from math import inf, sqrt
from typing import Any

import numpy as np
import pytest
import torch
from encoder_formulas import KAPPA, Formulas
from encoder_instances import (
    bilinear,
    block_norms,
    hessian_norms,
    moved,
    second_derivative,
    tight,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from samples_encoder import case, shapes

import gdconv.models.encoder.constants
from gdconv.data.problem import Problem
from gdconv.models.encoder.constants import DataConstants, EncoderConstants, least_radii
from gdconv.models.encoder.model import ShallowEncoder
from gdconv.models.encoder.parameters import BLOCKS, EncoderParameters, initialize_encoder
from gdconv.models.encoder.point import EncoderPoint
from gdconv.rigor.spectrum import Enclosure

SLACK = 1 + 1e-9
TIGHT = 1e-12
SHAPES = [(3, 2, 4, 5), (2, 3, 1, 4), (1, 4, 6, 3), (2, 1, 3, 2)]
"""(N, n, D, d_m); both branches of the sharp A_V."""

RADII = {"w_O": 0.3, "W_V": 0.7, "W_Q": 1.1, "W_K": 0.2}


def started(shape: tuple[int, ...], name: str = "relu", seed: int = 0) -> EncoderPoint:
    """A random start with factors of its own."""
    return EncoderPoint(*case(shape, name, seed))


def formulas(start: EncoderPoint, kind: str, **options: Any) -> Formulas:
    """The formulas written apart, at a start."""
    c = start.model.tau_1 * sqrt(start.model.loss_scale)
    return Formulas(start.problem.X[0].numpy(), start.arrays, start.model.tau_0, c, kind, **options)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["plain", "printed", "sharp"])
def test_data_constants_are_those_of_the_page(shape: tuple[int, ...], kind: str) -> None:
    start = started(shape)
    found, wanted = getattr(DataConstants, kind)(start), formulas(start, kind)
    for name in ("A_O", "A_V", "A_Q", "A_K"):
        size = max(abs(getattr(wanted, name)), 1e-12)  # one token: A_K is rounding
        assert getattr(found, name) == pytest.approx(
            getattr(wanted, name), rel=TIGHT, abs=TIGHT * size
        ), name


@pytest.mark.parametrize("shape", SHAPES[:3])
@pytest.mark.parametrize("name", ["gelu", "silu"])
@pytest.mark.parametrize("cap", [inf, 0.1])
def test_every_constant_is_that_of_the_page(shape: tuple[int, ...], name: str, cap: float) -> None:
    start = started(shape, name, 1)
    for kind, radii in (("plain", dict.fromkeys(BLOCKS, 0.0)), ("sharp", RADII)):
        c = EncoderConstants(start, getattr(DataConstants, kind)(start), radii, cap)
        f = formulas(start, kind, radii=radii, cap=cap)
        for b, reach in zip(BLOCKS, (f.Q, f.K, f.V, f.O), strict=True):
            assert c.reach(b) == pytest.approx(reach, rel=TIGHT, abs=0.0), b
            assert c.g(b) == pytest.approx(f.g[b], rel=TIGHT, abs=0.0), b
        assert c.Lambda_squared == pytest.approx(f.Lambda_squared, rel=TIGHT, abs=0.0)
        assert c.G_squared() == pytest.approx(f.G_squared, rel=TIGHT, abs=0.0)
        assert c.curved() == pytest.approx(f.curved(), rel=TIGHT, abs=0.0)
        for entry in (0.1, 0.9 * f.O, 10 * f.O):
            assert c.M_2(entry) == pytest.approx(f.M_2(KAPPA[name], entry), rel=TIGHT, abs=0.0)
        entry = max(abs(x) for x in start.arrays["w_O"]) + radii["w_O"]
        L = f.G_squared + f.M_2(KAPPA[name], entry) * start.r_0
        assert c.L() == pytest.approx(L, rel=TIGHT, abs=0.0)
        assert entry < f.O  # so that the entries of w_O matter, not its norm
    near = started((2, 2, 4, 9), name, 2)
    c = EncoderConstants(near, DataConstants.sharp(near), RADII)
    wanted = formulas(near, "sharp", radii=RADII).delta(near.alpha.lo, near.r_0)
    assert c.delta() == pytest.approx(wanted, rel=TIGHT, abs=0.0)


class Given(EncoderPoint):
    """A start of which only the numbers that the radii read are given."""

    alpha = Enclosure(2.0, 3.0)
    feature_range = (alpha, Enclosure(4.0, 5.0))
    r_0 = 1.0
    norms = dict.fromkeys(BLOCKS, 1.0)
    asked: Counter[str] = Counter()

    def norm(self, block: str) -> float:
        """The given norm, counted."""
        self.asked[block] += 1
        return self.norms[block]


def given_start(**numbers: Any) -> Any:
    """A start with these numbers."""
    made = type("Made", (Given,), {"asked": Counter(), **numbers})
    return made(*case((1, 1, 1, 1), "relu", 0))


def iterate(
    start: Given, A: DataConstants, factor: float, sharpen: bool, rounds: int = 4000
) -> tuple[dict[str, float], float]:
    """The least fixed point of Lemma R by the formulas, and delta there."""
    C, cap, delta = dict.fromkeys(BLOCKS, 0.0), inf, 0.0
    alpha, r_0 = start.alpha.lo, start.r_0
    for _ in range(rounds):
        Q, K, V, O = (start.norms[b] + C[b] for b in BLOCKS)  # noqa: E741
        square = A.A_V**2 + (A.A_Q * K * V) ** 2 + (A.A_K * Q * V) ** 2
        delta = 2 * O * square * r_0 / alpha**3
        if sharpen:
            cap = start.feature_range[1].hi + min(1.0, delta) * alpha
        g = {
            "W_Q": A.A_Q * K * V * O, "W_K": A.A_K * Q * V * O, "W_V": A.A_V * O,
            "w_O": min(A.A_O * V, cap),
        }  # fmt: skip
        C = {b: (1 + 1e-9) * factor * g[b] * r_0 / alpha**2 for b in BLOCKS}
    return C, delta


NORMS = {"W_Q": 1.5, "W_K": 0.5, "W_V": 1.25, "w_O": 0.75}


@pytest.mark.parametrize("factor", [2.0, 4.0, 8.0])
@pytest.mark.parametrize(
    ("A", "sharpen", "r_0", "drift"),
    [
        (DataConstants(1.0, 0.5, 0.25, 0.125), False, 0.05, "small"),
        (DataConstants(1.0, 0.5, 0.25, 0.125), True, 0.05, "small"),  # the cap is larger
        (DataConstants(9.0, 0.5, 0.25, 0.125), True, 0.05, "small"),  # the cap is smaller
        (DataConstants(90.0, 2.0, 2e-6, 1e-6), True, 2.0, "large"),  # delta counts as 1
        (DataConstants(90.0, 2.0, 0.25, 0.125), False, 0.005, "small"),
    ],
)
def test_radii_are_the_least_fixed_point(
    A: DataConstants, sharpen: bool, r_0: float, drift: str, factor: float
) -> None:
    start = given_start(r_0=r_0, norms=NORMS)
    wanted, delta = iterate(start, A, factor, sharpen)
    c = least_radii(start, A, factor, sharpen)
    assert c is not None
    assert (delta > 1) == (drift == "large")
    for b in BLOCKS:
        assert c.radii[b] == pytest.approx(wanted[b], rel=1e-11, abs=0.0), b
    largest = 5.0 + min(1.0, delta) * 2.0 if sharpen else inf
    assert c.cap == pytest.approx(largest, rel=1e-11, abs=0.0)
    assert c.data == A


def test_the_search_for_radii_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """After so many rounds, or beyond 1e12."""
    one = DataConstants(1.0, 1.0, 0.0, 0.0)
    assert gdconv.models.encoder.constants.MOST_ROUNDS == 10_000
    monkeypatch.setattr(gdconv.models.encoder.constants, "MOST_ROUNDS", 50)
    # C_O <- 2 q (1 + C_V), C_V <- 2 q (1 + C_O) with 2 q just below 1: it creeps for ever
    start = given_start(alpha=Enclosure(1.0, 1.0), r_0=0.5 * (1 - 1e-8))
    assert least_radii(start, one, 2.0) is None
    once = given_start(alpha=Enclosure(1.0, 1.0), r_0=0.0)
    assert least_radii(once, one, 2.0) is not None
    assert start.asked["w_O"] == 50 * once.asked["w_O"]
    alone = DataConstants(1.0, 0.0, 0.0, 0.0)
    for size, there in ((0.999e12, True), (1.001e12, False)):
        far = given_start(r_0=2.0, norms=NORMS | {"W_V": size})  # share 1: C_O = size
        assert (least_radii(far, alone, 2.0) is not None) == there
    V = 1e12 / (1 + 1e-9)
    for _ in range(9):  # exactly 1e12 is too far
        exact = given_start(r_0=2.0, norms=NORMS | {"W_V": V})
        assert ((1 + 1e-9) * V < 1e12) == (least_radii(exact, alone, 2.0) is not None)
        V = np.nextafter(V, inf)
    assert least_radii(given_start(alpha=Enclosure(0.0, 1.0)), one, 2.0) is None


def test_constants_are_not_changed() -> None:
    start, data = started(SHAPES[0]), DataConstants(1.0, 1.0, 1.0, 1.0)
    with pytest.raises(FrozenInstanceError):
        data.A_O = 0.5  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        EncoderConstants(start, data, RADII).cap = 0.5  # type: ignore[misc]


# -- instances that attain the constants ---------------------------------------------------------


@pytest.mark.parametrize("radius", [0.0, 1.0])
@pytest.mark.parametrize("N", [1, 3])
def test_block_norms_are_attained(N: int, radius: float) -> None:
    """Every g_W, lambda_O Lambda and G^2 within 1 %, at the edge of the ball."""
    c = EncoderConstants(
        centre := tight(N), DataConstants.sharp(centre), dict.fromkeys(BLOCKS, radius)
    )
    edge = tight(N, radius=radius)
    found = block_norms(edge.model, edge.problem, edge.params)
    for b in BLOCKS:
        assert 0.99 < found[b] / c.g(b) <= SLACK, b
    J = edge.model.jacobian(edge.problem, edge.params)[0].numpy()
    inner = edge.model.jacobian(edge.problem, edge.params, BLOCKS[:3])[0].numpy()
    assert 0.98 < np.linalg.norm(J, 2) ** 2 / c.G_squared() <= SLACK
    share = np.linalg.norm(inner, 2) / (c.reach("w_O") * c.Lambda_squared**0.5)
    assert 0.99 < share <= SLACK


def test_value_norm_is_attained_by_one_hot_attention() -> None:
    """Orthonormal tokens, every query picks the first token: |J_V| = tau_1 n |tokens| lambda_O."""
    X = np.eye(6).reshape(2, 3, 6)
    key = 100 * np.array([1.0, 0, 0, 1.0, 0, 0])
    rows = {"W_Q": np.ones(6), "W_K": key, "W_V": np.ones(6)}
    W = {b: np.vstack([row, np.zeros(6)]) for b, row in rows.items()}
    params = EncoderParameters.from_arrays(W | {"w_O": np.array([2.0, 0.0])})
    problem, model = Problem.per_sample(X, [1.0, 1.0]), ShallowEncoder(1.0, 0.7)
    start = EncoderPoint(model, problem, params)
    c = EncoderConstants(start, DataConstants.sharp(start), dict.fromkeys(BLOCKS, 0.0))
    found = block_norms(model, problem, params)
    assert found["W_V"] == pytest.approx(c.g("W_V"), rel=1e-9, abs=0.0)
    assert c.g("W_V") == pytest.approx(2 * 0.7 * 3, rel=1e-12, abs=0.0)


@pytest.mark.parametrize("name", ["gelu", "silu"])
def test_curvature_of_the_activation_is_attained(name: str) -> None:
    """Equal tokens, preactivations 0, a large w_O: M_2 = tau_1 s''(0) w n |x|^2 sqrt(N), nearly."""
    x = np.full((2, 3, 2), 0.6) + np.array([0.0, 0.2])
    W = {b: np.zeros((2, 2)) for b in BLOCKS[:3]} | {"w_O": np.array([1e3, 0.0])}
    model = ShallowEncoder(1.0, 0.7, activation=name)
    params = EncoderParameters.from_arrays(W)
    start = EncoderPoint(model, Problem.per_sample(x, [0.0, 0.0]), params)
    c = EncoderConstants(start, DataConstants.sharp(start), dict.fromkeys(BLOCKS, 0.0))
    assert 0.99 < second_derivative(start) / c.M_2(1e3) <= SLACK
    two = replace(params, w_O=torch.tensor([[1e3, 1e3]], dtype=torch.float64))
    start = EncoderPoint(model, start.problem, two)
    c = EncoderConstants(start, DataConstants.sharp(start), dict.fromkeys(BLOCKS, 0.0))
    assert 0.99 < second_derivative(start) / c.M_2(1e3) <= SLACK  # an entry, not the norm


def test_curvature_of_the_scores_is_attained() -> None:
    """Each of the three parts of the second-order term, where the others vanish or are smaller."""
    zero, inner, s = np.zeros((2, 2)), BLOCKS[:3], 1e-2
    # e through tau_0 E / 2: both score blocks at zero
    start = bilinear(s, W_Q=zero, W_K=zero)
    c = EncoderConstants(start, DataConstants.sharp(start), dict.fromkeys(BLOCKS, 0.0))
    assert 0.98 < second_derivative(start, ("W_Q", "W_K")) / c.curved() <= SLACK
    # c: values almost zero, so that only the mixed derivative is left
    start = bilinear(s, W_V=[[0.0, 0.0], [1e-9, 0.0]])
    c = EncoderConstants(start, DataConstants.sharp(start), dict.fromkeys(BLOCKS, 0.0))
    assert 0.6 < second_derivative(start, inner) / c.curved() <= SLACK
    one_sided = bilinear(s, W_V=[[0.0, 0.0], [1e-9, 0.0]], W_Q=zero)
    c = EncoderConstants(one_sided, DataConstants.sharp(start), dict.fromkeys(BLOCKS, 0.0))
    assert 0.98 < second_derivative(one_sided, inner) / c.curved() <= SLACK
    # e through the second derivative of softmax: attention (3 - sqrt 3) / 6, where it is sharp
    root = sqrt(np.log((3 + sqrt(3)) / (3 - sqrt(3))) / 2 / s * s**2)
    e1, e2 = np.diag([1.0, 0.0]), np.array([[0.0, 1.0], [0.0, 0.0]])
    start = bilinear(s, W_Q=root / 20 * e1, W_K=20 * root * e2, W_V=[[0.0, 0.0], [2e-2, 1.0]])
    c = EncoderConstants(start, DataConstants.sharp(start), dict.fromkeys(BLOCKS, 0.0))
    found = second_derivative(start, ("W_Q", "W_K")) / c.curved()
    assert 0.68 < found <= SLACK  # sqrt(1/2): both tokens move, sum |z|^4 <= (sum |z|^2)^2


# -- bounds on random balls ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["relu", "gelu", "silu"])
@given(
    shape=shapes, seed=st.integers(0, 10**6), radius=st.sampled_from([0.0, 1e-2, 1.0, 10.0]),
    rank=st.integers(0, 1), size=st.sampled_from([0.1, 1.0, 10.0]),
)  # fmt: skip
@settings(max_examples=8)
def test_block_norms_hold_on_balls(
    name: str, shape: tuple[int, ...], seed: int, radius: float, rank: int, size: float
) -> None:
    model, problem, params = case(shape, name, seed)
    problem = replace(problem, X=size * problem.X)
    start = EncoderPoint(model, problem, params)
    radii = dict(zip(BLOCKS, radius * np.random.default_rng(seed).uniform(0, 1, 4), strict=True))
    found = block_norms(model, problem, moved(params, radii, seed + 1, rank))
    sharp, plain, printed = (
        EncoderConstants(start, make(start), radii)
        for make in (DataConstants.sharp, DataConstants.plain, DataConstants.printed)
    )
    for b in BLOCKS:
        assert found[b] <= sharp.g(b) * SLACK, b
        assert sharp.g(b) <= plain.g(b) * SLACK <= printed.g(b) * SLACK**2, b
    total = sum(norm**2 for norm in found.values())
    assert sharp.G_squared() <= plain.G_squared() * SLACK
    J = model.jacobian(problem, moved(params, radii, seed + 1, rank))[0].numpy()
    assert np.linalg.norm(J, 2) ** 2 <= min(total, sharp.G_squared()) * SLACK


@pytest.mark.parametrize("name", ["relu", "gelu"])
def test_features_move_by_at_most_Lambda(name: str) -> None:
    for seed in range(12):
        model, problem, params = case((3, 3, 4, 6), name, seed)
        radii = dict.fromkeys(BLOCKS, 0.5) | {"w_O": 0.0}
        other = moved(params, radii, seed, seed % 2)
        c = EncoderConstants(
            start := EncoderPoint(model, problem, params), DataConstants.sharp(start), radii
        )
        far = [getattr(other, b) - getattr(params, b) for b in BLOCKS[:3]]
        length = float(sum(W.square().sum() for W in far)) ** 0.5
        F = [model.forward(problem, p).F_pre for p in (params, other)]
        assert float((F[1] - F[0]).norm()) <= c.Lambda_squared**0.5 * length * SLACK


@pytest.mark.parametrize("name", ["gelu", "silu"])
def test_curvature_bounds_hold(name: str) -> None:
    ratios = []
    for seed in range(3):
        shape = (1 + seed % 3, 1 + seed % 2, 1 + seed % 4, 1 + seed % 5)
        model, problem, params = case(shape, name, seed)
        start = EncoderPoint(model, problem, params)
        c = EncoderConstants(start, DataConstants.sharp(start), dict.fromkeys(BLOCKS, 0.0))
        loss, second = hessian_norms(model, problem, params)
        M_2 = c.M_2(float(params.w_O.abs().max()))
        assert second <= M_2 * SLACK
        assert loss <= c.L() * SLACK
        ratios.append(second / M_2)
    assert max(ratios) > 0.02  # negative control: a bound a hundred times larger would fail here


def test_relu_has_no_lipschitz_constant_of_its_slope() -> None:
    model, problem, params = case((2, 2, 3, 4), "relu", 0)
    start = EncoderPoint(model, problem, params)
    c = EncoderConstants(start, DataConstants.sharp(start), dict.fromkeys(BLOCKS, 0.0))
    assert c.M_2(1.0) == np.inf
    assert np.isfinite(c.curved())


@pytest.mark.parametrize("sharpen", [False, True])
def test_least_radii_are_least_and_sufficient(sharpen: bool) -> None:
    found = 0
    for seed in range(6):
        model, problem, params = case((2, 2, 4, 9), "relu", seed)
        small = replace(problem, y=model.forward(problem, params).F[:, :, None, None] + 1e-6)
        start = EncoderPoint(model, small, params)
        data = DataConstants.sharp(start)
        c = least_radii(start, data, 4.0, sharpen)
        if c is None:
            continue
        found += 1
        for b in BLOCKS:
            needed = 4.0 * c.g(b) * start.r_0 / start.alpha.lo**2
            assert needed <= c.radii[b] <= needed * (1 + 1e-8)
    assert found > 3


def test_no_radii_where_the_labels_are_large() -> None:
    model, problem, params = case((2, 2, 4, 9), "relu", 0)
    far = replace(problem, y=1e6 + problem.y)
    start = EncoderPoint(model, far, params)
    assert least_radii(start, DataConstants.plain(start), 4.0) is None
    narrow = EncoderPoint(*case((3, 2, 4, 1), "relu", 0))  # d_m < N: alpha = 0
    assert least_radii(narrow, DataConstants.plain(narrow), 4.0) is None


@np.errstate(all="ignore")
@pytest.mark.parametrize("size", [1e-90, 1e90])
def test_absurd_scales_give_no_exception(size: float) -> None:
    model, problem, params = case((2, 2, 4, 9), "gelu", 0)
    start = EncoderPoint(model, replace(problem, X=size * problem.X), params)
    for make in (DataConstants.sharp, DataConstants.plain, DataConstants.printed):
        c = EncoderConstants(start, make(start), dict.fromkeys(BLOCKS, 1.0))
        assert not c.L() < 0
        assert not c.G_squared() < 0
        least_radii(start, make(start), 2.0, sharpen=True)


def test_the_search_ends_at_a_radius_of_1e12() -> None:
    """Scores of 1e-60 and values of 1e20: the radius of w_O alone grows, in step with the label."""

    def made(label: float) -> EncoderConstants | None:
        problem = Problem.per_sample(np.eye(4).reshape(2, 2, 4), np.array([label, 0.0]))
        params = initialize_encoder("zero-output", (64, 4), 0)
        params = replace(params, W_V=1e20 * params.W_V)
        start = EncoderPoint(ShallowEncoder(1e-60, 1.0), problem, params)
        return least_radii(start, DataConstants.plain(start), 4.0)

    found = made(1e30)
    assert found is not None
    label = 1e30 * 999_999_999_999.5 / found.radii["w_O"]
    near = made(label)
    assert near is not None
    assert 999_999_999_999 < near.radii["w_O"] < 1e12
    assert made(label * (1 + 1e-12)) is None
