"""Each constant of a loss attacked by outputs with a given gap, and come close to."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from gdconv.models.losses import CrossEntropy, Logistic, Loss, Squared
from gdconv.models.losses.slope_sums import LOG2, TURN

INF = math.inf


def row(*x: float) -> Tensor:
    return torch.tensor([list(x)], dtype=torch.float64)


def sharpest(loss: Loss, F: Tensor) -> float:
    """Largest eigenvalue of the Hessian in F: p (1 - p), or diag p - p p^T sample by sample."""
    if loss.name == "logistic":
        p = torch.sigmoid(F)
        return (p * (1 - p)).max().item()
    p = torch.softmax(F, -1)
    return (
        torch.linalg.eigvalsh(torch.diag_embed(p) - p[..., :, None] * p[..., None, :]).max().item()
    )


def spread(total: float, how: str, N: int) -> Tensor:
    """Sample losses with this sum: all in one, equal, or in so many equal parts."""
    parts = {"one": 1, "equal": N}.get(how) or int(how)
    each = torch.zeros(N, dtype=torch.float64)
    each[:parts] = total / parts
    return each


def hard(each: Tensor, C: int, equal: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Outputs of the logistic loss and logits of cross-entropy with these sample losses."""
    m = torch.where(each > 0, -torch.log(torch.expm1(each)), 720.0)
    z = torch.zeros(1, len(each), C, dtype=torch.float64)
    z[0, :, 0] = m + (math.log(C - 1) if equal else 0.0)
    if not equal:
        z[0, :, 2:] = -800.0
    return (
        m[None],
        torch.ones(1, len(each), dtype=torch.float64),
        z,
        torch.zeros(1, len(each), dtype=torch.int64),
    )


def rows(y: Tensor, C: int) -> Tensor:
    return torch.nn.functional.one_hot(y, C).double()


def test_constants_of_the_hard_labels_hold_and_are_attained() -> None:
    """The slope from both sides and the curvature, over random and extreme sample losses."""
    g = torch.Generator().manual_seed(7)
    N, C = 4, 3
    closest = {"above": 0.0, "bend": 0.0, "below": INF}
    for total in (1e-6, 0.1, 0.5, LOG2, 1.0, TURN, 2.0, 3 * TURN, 5.0, 4 * TURN, 9.0, 60.0):
        f = torch.tensor([total], dtype=torch.float64)
        exact_here = total <= TURN or total >= N * TURN or abs(total / TURN % 1) < 1e-9
        shapes = [spread(total, how, N) for how in ("one", "equal", "2", "3")]
        shapes += [total * w / w.sum() for w in torch.rand(12, N, generator=g).double() ** 4]
        got, low, bent = [], [], []
        for each in shapes:
            for equal in (True, False):
                F, y, z, c = hard(each, C, equal)
                assert Logistic().value(F, y).item() == pytest.approx(total, rel=1e-9)
                S = Logistic().slope(F, y).norm().item()
                T = CrossEntropy().slope(z, c).norm().item()
                up_, down = Logistic().slope_bound(f, y).item(), Logistic().riccati_domination(f, y)
                assert up_ * (1 + 1e-9) >= S
                assert CrossEntropy().slope_bound(f, c).item() >= T * (1 - 1e-9)
                assert down.item() * total <= S * (1 + 1e-9)
                k = CrossEntropy().riccati_domination(f, rows(c, C)).item()
                assert k * total <= T * (1 + 1e-9)
                assert k >= CrossEntropy().riccati_domination(f, c).item() * 1.22
                got += [S / up_, T / CrossEntropy().slope_bound(f, c).item()]
                low += [S / (down.item() * total), T / (k * total)]
                for loss, at, label in ((Logistic(), F, y), (CrossEntropy(), z, c)):
                    top = sharpest(loss, at)
                    assert top <= loss.curvature(f, label).item() + 1e-13
                    assert top <= loss.curvature_at(at, label).item() + 1e-13
                    bent.append(top / loss.curvature(f, label).item())
        if exact_here:
            assert max(got) > 0.9999, (total, max(got))
        if total <= 1.0:
            assert min(low) < 1.0001, (total, min(low))
        if total <= LOG2:
            assert max(bent) > 0.999, (total, max(bent))
        closest["below"] = min(closest["below"], min(low))
    assert closest["below"] < 1.0001


def test_lower_constants_hold_for_every_smaller_loss_and_beat_the_simple_one() -> None:
    for N in (1, 2, 30):
        y = torch.ones(1, N, dtype=torch.float64)
        for total in (0.3, 2.0, 8.0, 40.0):
            k = Logistic().riccati_domination(torch.tensor([total], dtype=torch.float64), y).item()
            simple = -math.expm1(-total) / total / math.sqrt(N)
            assert k >= simple * (1 - 1e-12)
            best = INF
            for smaller in np.linspace(0.05, 1.0, 12) * total:
                for big in np.linspace(0.0, 1.0, 60) * smaller:  # one large term, the others equal
                    rest = (smaller - big) / max(N - 1, 1) if N > 1 else 0.0
                    big = big if N > 1 else smaller
                    S = math.sqrt(math.expm1(-big) ** 2 + (N - 1) * math.expm1(-rest) ** 2)
                    best = min(best, S / smaller)
            assert k <= best * (1 + 1e-12)
            assert k >= best * (1 - 1e-3 if N == 1 or total < 1 else 0.6)


def test_constants_of_soft_labels_hold_and_are_attained() -> None:
    g = torch.Generator().manual_seed(8)
    best = {"above": 0.0, "phi": INF, "bend": 0.0}
    for draw in range(40):
        N, C = 3, 2 + draw % 3
        q = torch.rand(1, N, generator=g, dtype=torch.float64) * 0.96 + 0.02
        wide = torch.softmax(torch.randn(1, N, C, generator=g, dtype=torch.float64), -1)
        if draw < 6:
            q, wide = torch.full_like(q, 0.5), torch.full_like(wide, 1 / C)
        for size in (1e-4, 0.1, 0.5, 3.0):
            shift = torch.randn(1, N, generator=g, dtype=torch.float64) * size
            logits = torch.randn(1, N, C, generator=g, dtype=torch.float64) * size
            for loss, F, y in (
                (Logistic(), torch.logit(q) + shift, q),
                (CrossEntropy(), wide.log() + logits, wide),
            ):
                f, S = loss.value(F, y), loss.slope(F, y).norm().item()
                assert loss.slope_bound(f, y).item() >= S
                assert loss.linear_domination(f, y).item() <= S**2 / (2 * f.item())
                if loss.linear_domination(f, y).item() > 0:
                    k = loss.riccati_domination(f, y).item()
                    assert 0 < k * f.item() <= S * (1 + 1e-9)
                top = sharpest(loss, F)
                assert top <= loss.curvature(f, y).item() + 1e-13
                best["above"] = max(best["above"], S / loss.slope_bound(f, y).item())
                best["bend"] = max(best["bend"], top / loss.curvature(f, y).item())
                if size == 1e-4:
                    phi = loss.linear_domination(f, y).item()
                    best["phi"] = min(best["phi"], S**2 / (2 * f.item()) / phi)
    assert best["above"] > 0.99
    assert best["bend"] > 0.99
    assert best["phi"] < 1.03


def test_no_domination_where_pinsker_does_not_reach() -> None:
    assert Logistic().linear_domination(torch.tensor([0.3]).double(), row(0.1)).item() == 0.0
    assert Logistic().linear_domination(torch.tensor([0.3]).double(), row(1.0)).item() == 0.0
    assert CrossEntropy().linear_domination(row(1e-9)[0], row(1.0, 0.0)[None]).item() == 0.0
    assert Squared().linear_domination(row(3.0)[0], row(1.0)).item() == 1.0
    assert Squared().riccati_domination(row(8.0)[0], row(1.0)).item() == pytest.approx(0.5)
    assert Squared().slope_bound(row(8.0)[0], row(1.0)).item() == pytest.approx(4.0)
