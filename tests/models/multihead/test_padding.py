"""Padded batches against their sequences taken one by one, which no mask enters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from reference_constants import MultiHead
from samples import KERNELS, model
from samples_padded import GARBAGE, LENGTHS, Padded, attended, outputs, padded, weights

from gdconv.models.multihead.balls import (
    ball_B,
    ball_gradient_norm,
    ball_loss,
    certified_sigma_min_at,
)
from gdconv.models.multihead.constants import Constants, QueryConstants, Radii
from gdconv.models.multihead.hessian import (
    multihead_hessian,
    multihead_operators,
    multihead_vector_product,
)
from gdconv.models.multihead.parameters import BLOCKS, Parameters
from gdconv.models.multihead.point import MultiHeadPoint
from gdconv.models.multihead.sharpness import Curvature, sharpest
from gdconv.models.multihead.tangent import ntk_vector_product, query_kernel, tangent_kernel
from gdconv.models.sigma import FeatureFollower
from gdconv.support.errors import InputError
from gdconv.testing.constants import exceeded

SHAPE = {"H": 3, "D": 5, "d": 2, "D_y": 2}
ROWS = sum(LENGTHS)


def blocks(params: Parameters) -> list[torch.Tensor]:
    """W_Q, W_K, W_V of the only replica."""
    return [getattr(params, b)[0] for b in BLOCKS]


def same(found: torch.Tensor, wanted: torch.Tensor, digits: float = 1e-12) -> None:
    """Equal up to rounding."""
    assert found.shape == wanted.shape
    assert (found - wanted).norm() <= digits * (1 + wanted.norm())


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest) -> str:
    """Both kernels."""
    return str(request.param)


@pytest.fixture
def data() -> Padded:
    """Four sequences among five places, nan at the others."""
    return padded()


@pytest.fixture
def params() -> Parameters:
    """Three heads."""
    return weights(**SHAPE)


def test_loss_gradient_and_jacobian_are_those_of_the_sequences(
    kernel: str, data: Padded, params: Parameters
) -> None:
    F, y = (
        outputs(kernel, data.sequences, params.W_O[0]),
        torch.from_numpy(np.concatenate(data.targets)),
    )
    free = [W.clone().requires_grad_() for W in blocks(params)]
    loss = 0.5 * ((F(*free) - y.flatten()) ** 2).sum()
    slopes = torch.autograd.grad(loss, free)
    at, grad = model(kernel).gradient(data.problem, params)
    assert at.loss.item() == pytest.approx(loss.item(), rel=1e-13)
    for b, slope in zip(BLOCKS, slopes, strict=True):
        same(getattr(grad, b)[0], slope)
    J = torch.autograd.functional.jacobian(F, tuple(blocks(params)))
    found = model(kernel).jacobian(data.problem, params)[0]
    assert found.shape == (ROWS * 2, 3 * 3 * 5 * 2)
    same(found, torch.cat([part.flatten(1) for part in J], 1))


def test_nothing_of_the_padding_is_left(kernel: str, data: Padded, params: Parameters) -> None:
    at, hidden = model(kernel).forward(data.problem, params), ~torch.from_numpy(data.mask)
    for zero in (
        at.S[:, :, hidden],
        at.S.mT[:, :, hidden],
        at.F[:, hidden],
        at.residual[:, hidden],
    ):
        assert zero.numel()
        assert not zero.any()
    if kernel == "softmax":
        assert at.S.sum(-1)[:, :, ~hidden] == pytest.approx(1.0, rel=1e-14)
    for rubbish in GARBAGE:
        other = padded(rubbish=rubbish).problem
        assert torch.equal(other.X, data.problem.X)
        assert torch.equal(other.y, data.problem.y)


def test_other_places_and_more_of_them_change_nothing(kernel: str, params: Parameters) -> None:
    here, made = padded(), model(kernel)
    wide = replace(
        here,
        X=np.pad(here.X, ((0, 0), (2, 3), (0, 0))),
        y=np.pad(here.y, ((0, 0), (2, 3), (0, 0))),
        mask=np.pad(here.mask, ((0, 0), (2, 3))),
    )
    a, b = (MultiHeadPoint(made, at.problem, params) for at in (here, wide))
    assert a.f_0 == pytest.approx(b.f_0, rel=1e-13)
    same(torch.from_numpy(a.B), torch.from_numpy(b.B))
    same(torch.from_numpy(a.J), torch.from_numpy(b.J))
    for one, other in zip((a.n, a.T, a.s(4, 1)), (b.n, b.T, b.s(4, 1)), strict=True):
        assert one == pytest.approx(other, rel=1e-13)
    assert Constants(a, Radii.joint(0.3)).M_2() == pytest.approx(
        Constants(b, Radii.joint(0.3)).M_2(), rel=1e-13
    )


def test_features_are_stacked_and_their_least_singular_value_is_enclosed(
    kernel: str, data: Padded, params: Parameters
) -> None:
    made, W_Q, W_K = model(kernel), params.W_Q[0], params.W_K[0]
    tokens = [torch.from_numpy(x) for x in data.sequences]
    B = torch.cat([
        torch.cat([attended(kernel, x, W_Q[h], W_K[h]) @ x for h in range(3)], 1) for x in tokens
    ])
    at = MultiHeadPoint(made, data.problem, params)
    same(torch.from_numpy(at.B), B)
    least = np.linalg.svd(B.numpy())[1][-1]
    assert at.sigma_0.lo <= least * (1 + 1e-12)
    assert least <= at.sigma_0.hi * (1 + 1e-12)
    assert at.sigma_0.hi - at.sigma_0.lo < 1e-9
    follower = made.sigma_follower(data.problem, params)
    assert isinstance(follower, FeatureFollower)
    lo, hi = follower.at(made.forward(data.problem, params), [0])[0]
    assert lo * (1 - 1e-12) <= least <= hi * (1 + 1e-12)


def test_the_probes_gradient_is_the_reference_one(
    kernel: str, data: Padded, params: Parameters
) -> None:
    made = model(kernel)
    probed = made.probe(data.problem, params)
    _, grad = made.gradient(data.problem, params)
    for b in BLOCKS:
        same(getattr(probed.gradient, b), getattr(grad, b), 1e-11)
    alone = [made.probe(data.alone(i), params) for i in range(4)]
    for name in ("jacobian_norm", "residual_norm"):
        parts = np.array([getattr(p, name)[0] for p in alone])
        assert getattr(probed, name)[0] == pytest.approx(np.linalg.norm(parts), rel=1e-12)
    assert probed.noise_scale[0] >= max(p.noise_scale[0] for p in alone)
    shares = np.array(LENGTHS) / ROWS
    mean = sum(s * p.entropy[0] for s, p in zip(shares, alone, strict=True))
    assert probed.entropy[0] == pytest.approx(mean, rel=1e-12)


def test_tangent_kernels_are_those_of_the_jacobian(
    kernel: str, data: Padded, params: Parameters
) -> None:
    made, problem = model(kernel), data.problem
    v = torch.from_numpy(np.random.default_rng(3).standard_normal((1, 2 * ROWS)))
    for chosen in (BLOCKS, ("W_Q",), ("W_K",), ("W_V",), ("W_Q", "W_V")):
        J = made.jacobian(problem, params, chosen)
        same(tangent_kernel(made, problem, params, chosen), J @ J.mT)
        same(
            ntk_vector_product(made, problem, params, v, chosen),
            (J @ (J.mT @ v[..., None]))[..., 0],
        )
    J = made.jacobian(problem, params, ("W_Q",))
    same(query_kernel(made, problem, params), J @ J.mT)
    with pytest.raises(InputError, match="compiled = True: give False"):
        tangent_kernel(made, problem, params, compiled=True)
    with pytest.raises(InputError, match=r"give \(1, 20\)"):
        ntk_vector_product(made, problem, params, v[:, 1:])


def test_the_shift_of_far_keys_is_that_of_the_real_ones() -> None:
    """Tokens near a large common one: the mean key of all places would leave much of it in."""
    near, params, made = padded(lengths=(4, 3), places=8), weights(**SHAPE), model("gaussian")
    problem = replace(near, X=near.X + 1e5).problem
    close = replace(params, W_Q=params.W_K)
    for chosen in (("W_Q",), ("W_K",)):
        J = made.jacobian(problem, close, chosen)
        K = J @ J.mT
        assert (tangent_kernel(made, problem, close, chosen) - K).norm() <= 1e-13 * K.norm()


def test_hessian_is_autograds(kernel: str, data: Padded, params: Parameters) -> None:
    F, y = (
        outputs(kernel, data.sequences, params.W_O[0]),
        torch.from_numpy(np.concatenate(data.targets)),
    )
    sizes = [W.numel() for W in blocks(params)]

    def f(flat: torch.Tensor) -> torch.Tensor:
        parts = [p.view(3, 5, 2) for p in flat.split(sizes)]
        return 0.5 * ((F(*parts) - y.flatten()) ** 2).sum()

    theta = torch.cat([W.flatten() for W in blocks(params)])
    wanted = torch.autograd.functional.hessian(f, theta)
    problem, made = data.problem, model(kernel)
    same(multihead_hessian(made, problem, params)[0], wanted, 1e-11)
    v = torch.from_numpy(np.random.default_rng(3).standard_normal((1, len(theta))))
    same(multihead_vector_product(made, problem, params, v)[0], wanted @ v[0], 1e-11)
    greatest = float(torch.linalg.eigvalsh(wanted)[-1])
    found, _ = sharpest(made, problem, params, BLOCKS)
    assert abs(found.value - greatest) <= found.error + 1e-12 * greatest
    product = Curvature(made, problem, params, BLOCKS)(np.ones(len(wanted)))
    assert np.allclose(product, wanted.sum(0), rtol=1e-12, atol=1e-12 * greatest)
    with pytest.raises(InputError, match="mask = given"):
        multihead_operators(made, problem, params)


@pytest.mark.parametrize("radius", [0.0, 0.4])
def test_constants_of_a_batch_are_those_of_its_sequences_squares_added(
    kernel: str, radius: float, data: Padded
) -> None:
    params, made = weights(**SHAPE | {"H": 1}), model(kernel)
    batch = MultiHeadPoint(made, data.problem, params)
    alone = [MultiHead(kernel, x[None], batch.arrays, (radius,) * 3) for x in data.sequences]
    c, q = Constants(batch, Radii.joint(radius)), QueryConstants(batch)

    def added(name: str, *of: int, power: int = 2) -> float:
        return float(sum(getattr(a, name)(*of) ** power for a in alone))

    assert c.g_V()[0] ** 2 == pytest.approx(added("g_V", 0), rel=1e-12)
    assert c.M_2() ** 2 == pytest.approx(added("M_2"), rel=1e-12)
    assert c.delta() ** 2 == pytest.approx(added("delta"), rel=1e-12)
    assert c.G_squared() == pytest.approx(added("G_squared", power=1), rel=1e-12)
    assert q.M_2() ** 2 == pytest.approx(added("query_M_2"), rel=1e-12)
    assert q.G_squared() == pytest.approx(added("query_G_squared", power=1), rel=1e-12)
    if kernel == "gaussian":
        assert c.g_QK()[0] ** 2 == pytest.approx(added("g_QK", 0), rel=1e-12)
    assert (batch.n, batch.T) == (max(LENGTHS), ROWS)


def test_no_search_finds_larger_derivatives(kernel: str) -> None:
    data = padded(lengths=(3, 1), D=2, D_y=1, places=4, seed=3)
    params, made = weights(1, 2, 2, 1), model(kernel)
    at = MultiHeadPoint(made, data.problem, params)

    def J_at(u: np.ndarray) -> np.ndarray:
        parts = torch.from_numpy(u).view(3, 1, 1, 2, 2)
        moved = replace(
            params, **{b: getattr(params, b) + p for b, p in zip(BLOCKS, parts, strict=True)}
        )
        return made.jacobian(data.problem, moved)[0].numpy()

    for rho in (0.05, 0.5):
        c = Constants(at, Radii.joint(rho))
        assert not exceeded(J_at, 12, rho, c.M_2(), c.G_squared())


def test_balls_leave_the_padding_out(kernel: str) -> None:
    data = padded(lengths=(2, 1), D=3, places=3)
    params, made = weights(2, 3, 2, 2), model(kernel)
    W = {name: value[0] for name, value in params.numpy().items()}
    at = MultiHeadPoint(made, data.problem, params)
    loss = ball_loss(data.X, data.y, **W, kernel=kernel, mask=data.mask)
    slope = ball_gradient_norm(data.X, data.y, **W, kernel=kernel, mask=data.mask)
    parts = [
        ball_loss(x[None], y[None], **W, kernel=kernel).mid
        for x, y in zip(data.sequences, data.targets, strict=True)
    ]
    assert loss.mid == pytest.approx(sum(parts), rel=1e-14)
    assert at.f_0 == pytest.approx(loss.mid, rel=1e-13)
    _, grad = made.gradient(data.problem, params)
    assert float(sum(getattr(grad, b).square().sum() for b in BLOCKS)) ** 0.5 == pytest.approx(
        slope.mid, rel=1e-12
    )
    features = (data.X, W["W_Q"], W["W_K"], kernel)
    box = ball_B(*features, mask=data.mask)
    assert (box.nrows(), box.ncols()) == (3, 6)
    least = certified_sigma_min_at(*features, mask=data.mask)
    assert least.mid == pytest.approx(at.sigma_0.lo, rel=1e-9)
