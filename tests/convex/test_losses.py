"""Losses, conjugates and their proved sums."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flint import arb
from hypothesis import given
from hypothesis import strategies as st

from gdconv.balls import working_precision
from gdconv.convex.exact import _dual, _loss
from gdconv.convex.group_lasso import Program
from gdconv.convex.losses import LOSSES, Loss
from gdconv.errors import InputError

floats = st.floats(-50, 50)


def target(name: str, y: float) -> float:
    return (1.0 if y >= 0 else -1.0) if name == "logistic" else y


def pairs(a: np.ndarray, b: np.ndarray) -> list[tuple[float, float]]:
    return list(zip(a.ravel().tolist(), b.ravel().tolist(), strict=True))


@pytest.mark.parametrize("name", LOSSES)
@given(p=floats, y=floats)
def test_residual_is_minus_the_slope(name: str, p: float, y: float) -> None:
    y = target(name, y)
    loss = Loss(name, 1.5)
    at = torch.tensor([p], dtype=torch.float64, requires_grad=True)
    r = (at - y).abs()
    if name == "logistic":
        value = torch.logaddexp(torch.zeros_like(at), -y * at)
    elif name == "huber":
        value = torch.where(r <= 1.5, r.square(), 3.0 * r - 2.25)
    else:
        value = r.square()
    (slope,) = torch.autograd.grad(value.sum(), at)
    assert loss.value(np.array([p]), np.array([y]))[0] == pytest.approx(value.item(), rel=1e-12)
    found = loss.residual(np.array([p]), np.array([y]))[0]
    assert found == pytest.approx(-slope.item(), rel=1e-9, abs=1e-14)


@pytest.mark.parametrize("name", LOSSES)
@given(p=st.floats(-8, 8), q=st.floats(-8, 8), y=st.floats(-8, 8))
def test_fenchel_young(name: str, p: float, q: float, y: float) -> None:
    """L(q) - (-L*(-v)) >= -v q for every q, with equality at the q that v belongs to."""
    y = target(name, y)
    loss, at = Loss(name, 1.5), np.array([y])
    v = loss.residual(np.array([p]), at)
    dual = loss.dual(v, at)[0]
    for point in (p, q):
        slack = loss.value(np.array([point]), at)[0] - dual + v[0] * point
        assert slack >= -1e-10
    assert loss.value(np.array([p]), at)[0] - dual + v[0] * p == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("name", LOSSES)
@given(seed=st.integers(0, 10**6), scale=st.floats(1e-3, 30.0))
def test_sums_bound_the_exact_ones(name: str, seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    p = scale * rng.standard_normal((4, 1))
    y = np.sign(rng.standard_normal((4, 1))) if name == "logistic" else rng.standard_normal((4, 1))
    loss = Loss(name, 0.7)
    program = Program.of(np.ones((4, 1, 1)), y, 1.0, loss)
    v = loss.into_domain(loss.residual(p, y) * rng.uniform(0, 1), y)
    with working_precision(200):
        exact = sum((_loss(program, arb(a), b) for a, b in pairs(p, y)), arb(0))
        dual = sum((_dual(program, a, b)[0] for a, b in pairs(v, y)), arb(0))
        upper, lower = loss.upper_sum(p, np.zeros_like(p), y), loss.lower_sum(v, y)
        assert arb(upper) >= exact
        assert arb(lower) <= dual
        assert upper <= float(exact) * (1 + 1e-12) + 1e-300
        assert lower >= float(dual) - 1e-11 * (1 + scale * scale)


def test_outside_the_domain_the_dual_is_minus_infinity() -> None:
    one = np.array([1.0])
    assert Loss("huber", 1.0).lower_sum(2.5 * one, one) == -np.inf
    assert Loss("logistic").lower_sum(-0.5 * one, one) == -np.inf
    assert np.isfinite(Loss().lower_sum(100 * one, one))


def test_bad_input() -> None:
    with pytest.raises(InputError, match="give one of squared"):
        Loss("hinge")
    with pytest.raises(InputError, match="positive"):
        Loss("huber", 0.0)
    with pytest.raises(InputError, match="give -1 and 1"):
        Loss("logistic").check(np.array([0.5]))
