"""The limiting kernel against its definition, against mpmath, and against wide networks."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import torch

from experiments.width_scaling.limit import (
    PARTS,
    _sine_gap,
    limiting_blocks,
    limiting_kernel,
    relative_distance,
)
from gdconv.data.problem import Problem
from gdconv.models.encoder.model import ShallowEncoder
from gdconv.models.encoder.parameters import EncoderParameters, initialize_encoder, scaling
from gdconv.models.encoder.tangent import block_kernels, encoder_kernel


def problem_of(N: int = 4, n: int = 3, D: int = 6, seed: int = 0, runs: int = 1) -> Problem:
    """Tokens of unit norm, so that the mean tokens are no longer parallel to anything."""
    X = np.random.default_rng(seed).standard_normal((runs, N, n, D))
    X /= np.linalg.norm(X, axis=-1, keepdims=True)
    return Problem.per_sample(X, np.zeros((runs, N)))


def monte_carlo_kernel(
    problem: Problem, samples: int, seed: int, loss_scale: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """K* as an average over drawn w, with the standard error of every entry."""
    rows = problem.X.mean(dim=2)
    gram = rows @ rows.mT
    first, second = torch.zeros_like(gram), torch.zeros_like(gram)
    generator = torch.Generator(device="cpu").manual_seed(seed)
    for start in range(0, samples, 4096):
        size = (problem.D, min(4096, samples - start))
        w = torch.randn(size, generator=generator, dtype=torch.float64, device="cpu").to(rows)
        drawn = torch.relu(rows @ w)
        on = (drawn > 0).to(rows.dtype)
        # (r r' + g 1 1')^2 = r^2 r'^2 + 2 g r r' + g^2 1 1', as r 1 = r
        product, both = drawn @ drawn.mT, on @ on.mT
        squares = drawn.square()
        first += product + gram * both
        second += squares @ squares.mT + 2 * gram * product + gram.square() * both
    mean = first / samples
    spread = (second / samples - mean.square()).clamp_min(0.0) / (samples - 1)
    factor = loss_scale * problem.n**2
    return factor * mean, factor * spread.sqrt()


def deviations(K: torch.Tensor, mean: torch.Tensor, error: torch.Tensor) -> float:
    """Largest |K - mean| in standard errors."""
    return float(((K - mean).abs() / error).max())


def test_monte_carlo_agrees_within_its_error() -> None:
    problem = problem_of(runs=2)
    mean, error = monte_carlo_kernel(problem, 200_000, seed=1, loss_scale=0.25)
    K = limiting_kernel(problem, loss_scale=0.25)
    assert deviations(K, mean, error) < 4
    assert float(error.max() / K.abs().max()) < 5e-3


@pytest.mark.parametrize("wrong", [1 / 3, 1.1, 0.9])
def test_a_wrong_factor_is_noticed(wrong: float) -> None:
    """Negative control: n in the place of n^2 (n = 3), and one block off by a tenth."""
    problem = problem_of()
    mean, error = monte_carlo_kernel(problem, 200_000, seed=1)
    parts = limiting_blocks(problem)
    K = parts["W_V"] + wrong * parts["w_O"] if wrong > 0.5 else wrong * limiting_kernel(problem)
    assert deviations(K, mean, error) > 6


def test_standard_error_is_the_spread_between_seeds() -> None:
    problem = problem_of(N=2)
    drawn = [monte_carlo_kernel(problem, 500, seed=s) for s in range(200)]
    means = torch.stack([m for m, _ in drawn])
    errors = torch.stack([e for _, e in drawn]).mean(0)
    assert torch.allclose(means.std(0), errors, rtol=0.2)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-5, 0.3, 1.0, 2.6, 2.65, 3.0, 3.1415, 3.14159265])
def test_arc_cosine_formulas_at_every_angle(angle: float) -> None:
    """Against 40 digits, at the angle that the stored rows make."""
    a, b = [1.5, 0.0], [0.7 * float(np.cos(angle)), 0.7 * float(np.sin(angle))]
    problem = Problem.per_sample([[a], [b]], [0.0, 0.0])
    parts = limiting_blocks(problem)
    with mpmath.workdps(40):
        x, y = (mpmath.mpf(v) for v in b)
        theta = mpmath.atan2(y, x)
        size = mpmath.mpf(1.5) * mpmath.hypot(x, y)
        exact_O = size * (mpmath.sin(theta) + (mpmath.pi - theta) * mpmath.cos(theta))
        exact_V = size * mpmath.cos(theta) * (mpmath.pi - theta)
        for name, exact in (("w_O", exact_O), ("W_V", exact_V)):
            found, value = float(parts[name][0, 0, 1]), float(exact / (2 * mpmath.pi))
            # rows of unit length are stored to 1e-16, hence delta to 2e-16 and delta^3 to 3 times
            slack = 1e-13 + 1e-15 / max(float(mpmath.pi - theta), 1e-300)
            assert abs(found - value) <= slack * abs(value), name


def test_sine_gap_on_both_sides_of_its_series() -> None:
    """sin - delta cos, to 14 digits, where it cancels and where it does not."""
    edge = 0.5
    for delta in (1e-8, 1e-3, 0.1, 0.3, np.nextafter(edge, 0), edge, 0.7, 1.5, 3.0, np.pi):
        with mpmath.workdps(40):
            x = mpmath.mpf(float(delta))
            wanted = float(mpmath.sin(x) - x * mpmath.cos(x))
        found = float(_sine_gap(torch.tensor([delta], dtype=torch.float64)))
        assert found == pytest.approx(wanted, rel=2e-14, abs=0.0)


def test_scales_of_the_limit() -> None:
    """n^2 |a| |b| times the loss scale; four equal tokens and their negatives."""
    a, b = np.array([3.0, 4.0]), np.array([-4.0, 3.0])  # a right angle: delta = pi / 2
    problem = Problem.per_sample(np.array([[a] * 4, [2 * b] * 4]), [0.0, 0.0])
    parts = limiting_blocks(problem, 0.25)
    for name, apart in (("w_O", 1 / (2 * np.pi)), ("W_V", 0.0)):
        wanted = 0.25 * 16 * np.array([[25 / 2, 50 * apart], [50 * apart, 100 / 2]])
        assert np.allclose(parts[name][0], wanted, rtol=1e-13, atol=1e-12), name
    K = limiting_kernel(problem, 0.25)
    assert torch.equal(K, parts["w_O"] + parts["W_V"])
    assert float(relative_distance(1.5 * K, problem, 0.25)[0]) == pytest.approx(0.5, rel=1e-12)
    assert float(relative_distance(K, problem, 0.5)[0]) == pytest.approx(0.5, rel=1e-12)


def test_parallel_antiparallel_and_zero_rows() -> None:
    rows = [[[3.0, 4.0]], [[0.6, 0.8]], [[-3.0, -4.0]], [[0.0, 0.0]]]
    parts = limiting_blocks(Problem.per_sample(rows, [0.0] * 4))
    for name in PARTS:
        K = parts[name][0]
        assert K[0, 0].item() == pytest.approx(12.5, rel=1e-14)
        assert K[0, 1].item() == pytest.approx(2.5, rel=1e-14)
        assert abs(K[0, 2].item()) < 1e-14
        assert not K[3].any()
        assert torch.equal(K, K.T)


@pytest.mark.parametrize("seed", range(3))
def test_kernel_is_positive_semidefinite(seed: int) -> None:
    for K in limiting_blocks(problem_of(N=12, n=2, D=4, seed=seed)).values():
        least = float(torch.linalg.eigvalsh(K[0])[0])
        assert least > -1e-13 * float(K.norm())


def wide(problem: Problem, d_m: int, seeds: int, name: str) -> torch.Tensor:
    """Mean of |K - K*|_F / |K*|_F over seeds, ntk weights."""
    draws = [initialize_encoder("ntk", (d_m, problem.D), s) for s in range(seeds)]
    model = ShallowEncoder(scaling(name, d_m), d_m**-0.5)
    K = encoder_kernel(model, problem, EncoderParameters.stack(draws))
    return relative_distance(K, problem).mean()


def test_wide_networks_approach_it_like_the_root_of_the_width() -> None:
    problem = problem_of()
    narrow, broad = (float(wide(problem, d_m, 24, "linear")) for d_m in (128, 2048))
    exponent = np.log(broad / narrow) / np.log(16)
    assert -0.62 < exponent < -0.38
    # Negative control: at tau_0 = d_m^(-1/2) the scores stay random, and the distance does not fall
    narrow, broad = (float(wide(problem, d_m, 24, "sqrt")) for d_m in (128, 2048))
    assert np.log(broad / narrow) / np.log(16) > -0.2


def test_score_blocks_vanish_like_the_width() -> None:
    problem = problem_of()
    traces = []
    for d_m in (128, 2048):
        draws = EncoderParameters.stack([initialize_encoder("ntk", (d_m, 6), s) for s in range(8)])
        parts = block_kernels(ShallowEncoder(1 / d_m, d_m**-0.5), problem, draws, ("W_Q", "W_K"))
        traces.append(float(sum(K.diagonal(dim1=1, dim2=2).sum() for K in parts.values())))
    assert -1.15 < np.log(traces[1] / traces[0]) / np.log(16) < -0.85
