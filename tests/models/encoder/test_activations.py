"""Activations and their constants in 30 digits: |s(x)| <= |x|, slopes at most 1, curvature."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch

from gdconv.models.encoder.activations import ACTIVATIONS, GELU_SLOPE, SILU_SLOPE, activation_named
from gdconv.support.errors import InputError

mp = mpmath.mp
POINTS = [0.0, 1e-9, 0.3, 0.75, 1.2784645427610738, math.sqrt(2), 2.3993572805, 3.0, 8.0]


def plain(name: str, x: mpmath.mpf) -> mpmath.mpf:
    """GELU, SiLU or ReLU without a divisor."""
    if name == "relu":
        return max(x, mp.mpf(0))
    return x * mp.ncdf(x) if name == "gelu" else x / (1 + mp.exp(-x))


def divisor(name: str) -> float:
    """What the activation is divided by, as the page has it."""
    return {"relu": 1.0, "gelu": 1.12891, "silu": 1.09984}[name]


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_values_and_slopes(name: str) -> None:
    act = activation_named(name)
    assert act.name == name
    with mpmath.workdps(30):
        for x in [s * p for p in POINTS for s in (1, -1)]:
            t = torch.tensor([x], dtype=torch.float64)
            value = plain(name, mp.mpf(x)) / mp.mpf(divisor(name))
            slope = mp.diff(lambda v: plain(name, v), mp.mpf(x)) / mp.mpf(divisor(name))
            if name == "relu":
                slope = mp.mpf(x > 0)
            assert act(t).item() == pytest.approx(float(value), rel=1e-12, abs=1e-15)
            assert act.slope(t).item() == pytest.approx(float(slope), rel=1e-12, abs=1e-15)
            assert act.slope_again(t).item() == pytest.approx(float(slope), rel=1e-12, abs=1e-15)
            assert abs(act(t).item()) <= abs(x)


@pytest.mark.parametrize(("name", "bound"), [("gelu", GELU_SLOPE), ("silu", SILU_SLOPE)])
def test_divisors_are_the_greatest_slopes_rounded_up(name: str, bound: float) -> None:
    """By a search: below the divisor, and within 1e-5 of it; nowhere above."""
    with mpmath.workdps(30):
        at = math.sqrt(2) if name == "gelu" else 2.399
        root = mp.findroot(lambda x: mp.diff(lambda v: plain(name, v), x, 2), at)
        top = float(mp.diff(lambda v: plain(name, v), root))
        assert bound == divisor(name)
        assert bound * (1 - 1e-5) < top < bound * (1 - 5e-7)
    x = torch.linspace(-30, 30, 60_001, dtype=torch.float64)
    slopes = activation_named(name).slope(x)
    assert 1 - 1e-5 < float(slopes.abs().max()) < 1


@pytest.mark.parametrize("name", ["gelu", "silu"])
def test_curvature_is_the_greatest_second_derivative(name: str) -> None:
    """Attained at 0, to one part in 10^12, and nowhere exceeded."""
    act = activation_named(name)
    with mpmath.workdps(30):
        top = mp.diff(lambda v: plain(name, v), mp.mpf(0), 2) / mp.mpf(divisor(name))
        assert 0 < act.curvature / float(top) - 1 < 3e-12
    x = torch.linspace(-12, 12, 24_001, dtype=torch.float64, requires_grad=True)
    (second,) = torch.autograd.grad(act.slope(x).sum(), x)
    assert float(second.abs().max()) <= act.curvature
    assert float(second.abs().max()) > 0.999 * act.curvature


def test_relu_has_a_kink() -> None:
    act = activation_named("relu")
    x = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)
    assert act.curvature == math.inf
    assert act(x).tolist() == [0.0, 0.0, 2.0]
    assert act.slope(x).tolist() == act.slope_again(x).tolist() == [0.0, 0.0, 1.0]


def test_other_names_are_refused() -> None:
    with pytest.raises(InputError, match="activation"):
        activation_named("tanh")
