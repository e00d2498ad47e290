"""sigma_min of features followed by Weyl: always enclosed, anchored again when it gets wide."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from samples import draw
from samples import model as multihead
from samples_encoder import case

import gdconv.models.sigma
from gdconv.models.multihead.sigma import AttentionFollower
from gdconv.models.sigma import TOLERANCE, FeatureFollower

IDENTITY = SimpleNamespace(features=lambda problem, at: at)


def sigma(F: np.ndarray) -> float:
    """sigma_min of the rows, 0 with fewer columns than rows."""
    return float(np.linalg.svd(F, compute_uv=False)[-1]) if F.shape[1] >= F.shape[0] else 0.0


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (3, 8), (4, 3), (5, 40)])
@pytest.mark.parametrize("pace", [0.0, 1e-9, 1e-4, 1e-2, 1.0])
def test_every_step_is_enclosed(shape: tuple[int, int], pace: float) -> None:
    rng = np.random.default_rng(int(1e9 * pace) + shape[1])
    F = rng.standard_normal((2, *shape))
    follows = FeatureFollower(IDENTITY, None, 2)
    for _ in range(60):
        F = F + pace * rng.standard_normal(F.shape)
        for r, (lo, hi) in enumerate(follows.at(torch.from_numpy(F), [0, 1])):
            room = 1e-13 * np.linalg.norm(F[r])
            assert lo - room <= sigma(F[r]) <= hi + room
            if sigma(F[r]) > 1e-3:
                assert hi - lo <= TOLERANCE * lo * (1 + 1e-12)


def test_slow_drift_needs_few_anchors(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    enclose = gdconv.models.sigma.enclose_sigma_min
    monkeypatch.setattr(
        gdconv.models.sigma, "enclose_sigma_min", lambda F: made.append(1) or enclose(F)
    )
    follows, F = FeatureFollower(IDENTITY, None, 1), torch.eye(3, dtype=torch.float64)[None]
    for t in range(200):
        follows.at(F * (1 + 1e-4 * t), [0])
    assert 1 < len(made) < 20


def test_an_anchor_is_a_copy() -> None:
    """Features may be overwritten in place between two steps."""
    F = torch.eye(2, dtype=torch.float64)[None].clone()
    follows = FeatureFollower(IDENTITY, None, 1)
    follows.at(F, [0])
    F.mul_(3.0)
    lo, hi = follows.at(F, [0])[0]
    assert lo <= 3.0 <= hi


def test_drift_that_is_left_out_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: with a drift of zero the enclosure loses the value."""
    monkeypatch.setattr(gdconv.models.sigma, "fro_up", lambda F: 0.0)
    follows, F = FeatureFollower(IDENTITY, None, 1), torch.eye(2, dtype=torch.float64)[None]
    follows.at(F, [0])
    lo, hi = follows.at(2 * F, [0])[0]
    assert not lo <= 2.0 <= hi


def test_what_is_not_finite_says_nothing() -> None:
    follows = FeatureFollower(IDENTITY, None, 1)
    bad = torch.full((1, 2, 2), float("nan"), dtype=torch.float64)
    assert follows.at(bad, [0]) == [(0.0, float("inf"))]


def test_each_model_has_its_own() -> None:
    model, problem, params = case((2, 2, 4, 5), "relu", 0, runs=3)
    made = model.sigma_follower(problem, params)
    assert isinstance(made, FeatureFollower)
    at = model.forward(problem, params)
    for r, (lo, hi) in zip((0, 2), made.at(at, [0, 2]), strict=True):
        assert lo - 1e-12 <= sigma(at.F_pre[r].numpy()) <= hi + 1e-12
    data, weights = draw((2, 2, 4, 3, 2, 1), 0)
    heads = multihead("softmax").sigma_follower(data, weights)
    assert isinstance(heads, AttentionFollower)
    passed = multihead("softmax").forward(data, weights)
    B = multihead("softmax").features(data, passed)[0].numpy()
    lo, hi = heads.at(passed, [0])[0]
    assert lo - 1e-12 <= sigma(B) <= hi + 1e-12
