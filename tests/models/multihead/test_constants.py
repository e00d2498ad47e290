"""Every constant is that of a second implementation, is attained somewhere, and holds on balls."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pytest
import torch
from extremal import APART, Sizes, bent, one_token, start, told_apart
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mpf, workdps
from reference_constants import MultiHead
from samples import KERNELS, draw, model, shapes

from gdconv.models.multihead.constants import SOFTMAX_SECOND, Constants, QueryConstants, Radii
from gdconv.models.multihead.parameters import BLOCKS, Parameters
from gdconv.models.multihead.point import MultiHeadPoint

CASES = [
    ((3, 4, 5, 3, 2, 2), 0.3, (0.2, 0.4, 0.1)),
    ((2, 5, 3, 2, 3, 1), 1.0, (0.0, 0.0, 0.0)),
    ((1, 3, 2, 5, 1, 3), 3.0, (np.array([0.7]), np.array([0.1]), np.array([2.0]))),
    ((4, 2, 6, 4, 2, 1), 0.05, (np.array([0.1, 0.2]), 0.3, np.array([0.5, 0.0]))),
    ((2, 2, 4, 7, 2, 2), 0.0, (1e-3, 2e-3, 3e-3)),  # no weights: the terms without norms
]
"""Shape, size of the weights, radii; no two sizes are equal, so that none stands for another."""


def close(found: Any, wanted: Any) -> None:
    """Equal to 1e-12, number by number."""
    pairs = zip(np.atleast_1d(found), np.atleast_1d(wanted), strict=True)
    for x, y in pairs:
        assert abs(mpf(float(x)) - y) <= mpf("1e-12") * abs(y), (x, y)


@pytest.mark.parametrize(("shape", "scale", "radii"), CASES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_constant_is_that_of_the_second_implementation(
    kernel: str, shape: tuple[int, ...], scale: float, radii: tuple[Any, ...]
) -> None:
    problem, params = draw(shape, 5, scale)
    at = MultiHeadPoint(model(kernel), problem, params)
    c, q = Constants(at, Radii(*radii)), QueryConstants(at)
    with workdps(30):
        r = MultiHead(kernel, problem.X[0].numpy(), at.arrays, radii)
        heads = range(shape[4])
        close(c.lambda_Q, r.Q)
        close(c.lambda_K, r.K)
        close(c.lambda_V, r.V)
        close(c.Lambda, [r.Lambda(h) for h in heads])
        close(c.epsilon, r.epsilon)
        close(c.g_V(), [r.g_V(h) for h in heads])
        close(c.g_Q(), [r.g_scores(h, r.K[h]) for h in heads])
        close(c.g_K(), [r.g_scores(h, r.Q[h]) for h in heads])
        close(c.g_QK(), [r.g_QK(h) for h in heads])
        close(c.G_squared(), r.G_squared())
        close(c.M_2(), r.M_2())
        close(c.delta(), r.delta())
        close(q.vo, [r.vo(h) for h in heads])
        close(q.M_2(), r.query_M_2())
        close(q.G_squared(), r.query_G_squared())


def test_one_radius_for_all_blocks() -> None:
    radii = Radii.joint(0.25)
    assert (radii.C_Q, radii.C_K, radii.C_V) == (0.25, 0.25, 0.25)
    with pytest.raises(FrozenInstanceError):
        radii.C_Q = 1.0  # type: ignore[misc]


def test_the_second_derivative_of_softmax_is_attained() -> None:
    """Along u = (1, -1)/sqrt 2 it is 2 sqrt 2 p (1 - p) (1 - 2 p)."""
    p = np.append(np.linspace(0, 1, 10_001), (1 - 1 / np.sqrt(3)) / 2)
    second = 2 * np.sqrt(2) * p * (1 - p) * (1 - 2 * p)
    assert second.max() == pytest.approx(SOFTMAX_SECOND, rel=1e-12)


def measured(at: MultiHeadPoint, what: str) -> float:
    """|J_V|, |J_Q|, |J_K|, |(J_Q, J_K)| or |J| of a start."""
    blocks = {"V": ("W_V",), "Q": ("W_Q",), "K": ("W_K",), "QK": ("W_Q", "W_K"), "": BLOCKS}
    return float(np.linalg.norm(at._jacobian(blocks[what]), 2))


WIDE = Sizes(N=2, H=1, d=3, a=1.7, o=0.6)
PAIR = Sizes(N=2, H=2, d=2, a=0.8, o=1.3)
"""The constants must be attained at every N and d; with two equal heads the squares add."""


@pytest.mark.parametrize("sizes", [Sizes(), WIDE, PAIR])
def test_first_derivatives_are_attained(sizes: Sizes) -> None:
    heads = np.sqrt(sizes.H)
    # softmax: all attend to one long token; the scores of two tokens are told apart
    one_hot = start(
        "softmax", sizes, sizes.a * np.diag([1.0, 1e-3]),
        W_Q=np.array([60.0, 60e3]) * sizes.d / sizes.a, W_K=np.array([1.0, 0.0]) / sizes.a,
    )  # fmt: skip
    same = start("gaussian", sizes, np.full((3, 2), sizes.a / np.sqrt(6)))
    keys = told_apart(sizes, W_K=2.0 * APART, W_V=1e4 * APART)
    queries = told_apart(sizes, W_Q=np.array([2.0, 1.0]), W_V=1e4 * APART)
    steep = one_token(sizes, gap=1.0, W_V=np.array([1e5]))
    for at, what, bound in [
        (one_hot, "V", lambda c: c.g_V()),
        (same, "V", lambda c: c.g_V()),
        (keys, "Q", lambda c: c.g_Q()),
        (queries, "K", lambda c: c.g_K()),
        (steep, "QK", lambda c: c.g_QK()),
    ]:
        c = Constants(at, Radii.joint(0.0))
        assert measured(at, what) == pytest.approx(heads * bound(c)[0], rel=1e-6)
        assert measured(at, "") ** 2 <= c.G_squared() * (1 + 1e-12)
        assert measured(at, "") ** 2 == pytest.approx(c.G_squared(), rel=1e-4)


def turned(
    at: MultiHeadPoint, size: float, seen: tuple[str, ...] = BLOCKS, **direction: np.ndarray
) -> float:
    """|J(theta + s v) - J(theta - s v)| / (2 s), v the unit vector that moves head 0 so."""
    length = np.sqrt(sum(float(np.sum(u**2)) for u in direction.values()))
    ends = []
    for sign in (1, -1):
        moved = {b: getattr(at.params, b).clone() for b in direction}
        for b, u in direction.items():
            moved[b][0, 0, :, 0] += torch.from_numpy(sign * size / length * u)
        there = replace(at.params, **moved)
        ends.append(at.model.jacobian(at.problem, there, seen)[0].numpy())
    return float(np.linalg.norm(ends[0] - ends[1], 2) / (2 * size))


ONE, FIRST = np.ones(1), np.array([1.0, 0.0])


@pytest.mark.parametrize("sizes", [Sizes(), WIDE, PAIR])
def test_second_derivatives_are_attained_term_by_term(sizes: Sizes) -> None:
    """Where one term of M_2 outweighs the others the Jacobian turns as fast as M_2 says."""
    a, root = sizes.a, np.sqrt(sizes.d)
    level = {"W_Q": ONE, "W_K": -ONE}
    for at, size, direction, term in [
        (
            bent(sizes, 1e3, 1e6), 1e-7, {"W_Q": FIRST},
            SOFTMAX_SECOND * a**5 * 1e12 / sizes.d,
        ),
        (
            told_apart(sizes, W_V=10 * APART), 1e-5, {"W_Q": FIRST, "W_K": APART},
            10 * a**3 / (2 * root),
        ),
        (
            told_apart(sizes, W_K=2 * APART), 1e-5, {"W_Q": FIRST, "W_V": APART},
            2 * a**3 / (2 * root),
        ),
        (one_token(sizes, W_V=1e3 * ONE), 1e-5, level, 2e3 * a**3 / root),
        (
            one_token(sizes, gap=1.0), 1e-5, level | {"W_V": np.sqrt(2) * ONE},
            np.sqrt(2 / (np.e * root)) * a**2,
        ),
    ]:  # fmt: skip
        M_2 = Constants(at, Radii.joint(0.0)).M_2()
        assert pytest.approx(np.sqrt(sizes.N) * sizes.o * term, rel=1e-2) == M_2
        assert turned(at, size, **direction) == pytest.approx(M_2, rel=1e-2)


def test_several_gaussian_tokens_reach_three_quarters() -> None:
    """2 sqrt n is not sharp for n > 1: one query and one key move apart, n = 2 gives 0.749."""
    squares = np.array([[2.0, 0.5], [0.5, 0.0]])
    values = np.linalg.eigh(squares)[1][:, 1]
    at = start("gaussian", Sizes(), np.eye(2), W_V=1e4 * values)
    reached = turned(at, 1e-5, W_Q=FIRST, W_K=-FIRST)
    assert 0.74 < reached / Constants(at, Radii.joint(0.0)).M_2() <= 1


@pytest.mark.parametrize("sizes", [Sizes(), WIDE, PAIR])
def test_the_drift_of_the_value_features_is_attained(sizes: Sizes) -> None:
    tokens = np.full((3, 2), sizes.a / np.sqrt(6))
    query = np.ones(2) * sizes.d**0.25 * np.sqrt(1.5) / sizes.a  # x . query = d^(1/4)
    for at, direction in [
        (told_apart(sizes, W_K=2 * APART), {"W_Q": FIRST}),
        (told_apart(sizes, W_Q=np.array([1.0, 2.0])), {"W_K": APART}),
        (start("gaussian", sizes, tokens, W_Q=query), {"W_Q": np.ones(2), "W_K": -np.ones(2)}),
    ]:
        delta = Constants(at, Radii.joint(0.0)).delta()
        assert turned(at, 1e-5, ("W_V",), **direction) == pytest.approx(delta, rel=1e-6)


@pytest.mark.parametrize("sizes", [Sizes(), WIDE, PAIR])
def test_query_constants_are_attained(sizes: Sizes) -> None:
    n = 3
    tokens, level = sizes.a * np.eye(n), 2 * np.ones(n)
    far = start("gaussian", sizes, tokens, W_Q=np.full(n, sizes.d**0.25 / sizes.a), W_V=level)
    for at, first in [
        (bent(sizes, 3.0, 2.0), FIRST),
        (start("gaussian", sizes, tokens, W_V=level), np.eye(n)[0]),
    ]:
        M_2 = QueryConstants(at).M_2()
        assert turned(at, 1e-5, ("W_Q",), W_Q=first) == pytest.approx(M_2, rel=1e-6)
    for at in (told_apart(sizes, W_K=3 * APART, W_V=2 * APART), far):
        G_squared = QueryConstants(at).G_squared()
        assert measured(at, "Q") ** 2 == pytest.approx(G_squared, rel=1e-9)


def nearby(params: Parameters, rho: float, seed: int) -> tuple[Parameters, float]:
    """A point at joint distance rho in a random direction."""
    rng = np.random.default_rng(seed)
    steps = {b: torch.from_numpy(rng.standard_normal(tuple(params.W_Q.shape))) for b in BLOCKS}
    length = float(torch.cat([s.flatten() for s in steps.values()]).norm())
    return replace(
        params, **{b: getattr(params, b) + rho / length * s for b, s in steps.items()}
    ), rho


def jacobian(kernel: str, problem: object, params: Parameters) -> np.ndarray:
    """Dense Jacobian of replica 0."""
    return model(kernel).jacobian(problem, params)[0].numpy()  # type: ignore[arg-type]


@pytest.mark.parametrize("kernel", KERNELS)
@given(
    shape=shapes,
    seed=st.integers(0, 10**6),
    rho=st.sampled_from([1e-3, 0.1, 1.0]),
    scale=st.sampled_from([0.1, 1.0]),
)
@settings(max_examples=25)
def test_norm_and_lipschitz_constants_hold(
    kernel: str, shape: tuple[int, ...], seed: int, rho: float, scale: float
) -> None:
    problem, params = draw(shape, seed, scale)
    c = Constants(MultiHeadPoint(model(kernel), problem, params), Radii.joint(rho))
    other, gap = nearby(params, rho, seed + 1)
    here, there = jacobian(kernel, problem, params), jacobian(kernel, problem, other)
    slack = 1 + 1e-9
    assert np.linalg.norm(there, 2) ** 2 <= c.G_squared() * slack
    assert np.linalg.norm(there - here, 2) <= c.M_2() * gap * slack + 1e-12
    third = here.shape[1] // 3
    assert np.linalg.norm((there - here)[:, 2 * third :], 2) <= c.delta() * gap * slack + 1e-12


@pytest.mark.parametrize("kernel", KERNELS)
def test_block_norms_hold_head_by_head(kernel: str) -> None:
    for seed in range(10):
        problem, params = draw((2, 3, 4, 2, 2, 1), seed)
        start = MultiHeadPoint(model(kernel), problem, params)
        c = Constants(start, Radii.joint(0.0))
        at = model(kernel).forward(problem, params)
        for h, head in enumerate(model(kernel).jacobian_heads(problem, params, at)):
            J = {b: v[0].flatten(1).numpy() for b, v in head.items()}
            assert np.linalg.norm(J["W_V"], 2) <= c.g_V()[h] * (1 + 1e-12)
            if kernel == "softmax":
                assert np.linalg.norm(J["W_Q"], 2) <= c.g_Q()[h] * (1 + 1e-12)
                assert np.linalg.norm(J["W_K"], 2) <= c.g_K()[h] * (1 + 1e-12)
            else:
                both = np.hstack([J["W_Q"], J["W_K"]])
                assert np.linalg.norm(both, 2) <= c.g_QK()[h] * (1 + 1e-12)
