"""Losses against 50 digits and autograd; each constant attacked and come close to."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import pytest
import torch
from torch import Tensor

from gdconv.models.losses import CrossEntropy, Logistic, Loss, Squared, loss_named
from gdconv.models.losses.cross_entropy import contrasts
from gdconv.models.losses.slope_sums import LOG2
from gdconv.support.errors import InputError

mpmath.mp.dps = 50
INF = math.inf


def row(*x: float) -> Tensor:
    return torch.tensor([list(x)], dtype=torch.float64)


def number(x: Any) -> Any:
    return mpmath.mpf(float(x))


def softplus(m: Any) -> Any:
    return mpmath.log1p(mpmath.exp(m)) if m < 0 else m + mpmath.log1p(mpmath.exp(-m))


def exact(loss: Loss, F: Tensor, y: Tensor) -> Any:
    """The gap of the first replica by its definition, with digits to spare for what cancels."""
    with mpmath.workdps(60 if float(F.abs().max()) < 60 else 420):
        if loss.name == "squared":
            return (
                sum(
                    (number(a) - number(b)) ** 2
                    for a, b in zip(F[0].flatten(), y[0].flatten(), strict=True)
                )
                / 2
            )
        if loss.name == "logistic":
            total = mpmath.mpf(0)
            for a, b in zip(F[0].flatten(), y[0].flatten(), strict=True):
                z, q = number(a), number(b)
                if abs(q) == 1:
                    total += softplus(-q * z)
                else:
                    total += q * mpmath.log(q) + (1 - q) * mpmath.log(1 - q) + softplus(z) - q * z
            return total
        total = mpmath.mpf(0)
        for i in range(F.shape[1]):
            z = [number(a) for a in F[0, i]]
            if y.is_floating_point():
                q = [number(b) for b in y[0, i]]
                q = [b / sum(q) for b in q]
            else:
                q = [mpmath.mpf(int(y[0, i]) == c) for c in range(len(z))]
            top = max(z)
            total += top + mpmath.log(sum(mpmath.exp(a - top) for a in z))
            total += sum(b * (mpmath.log(b) - a) for a, b in zip(z, q, strict=True) if b)
        return total


def instances(seed: int = 0) -> list[tuple[Loss, Tensor, Tensor]]:
    """Ordinary and extreme outputs, near and far from the minimum."""
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(1, *shape, generator=g, dtype=torch.float64)

    found: list[tuple[Loss, Tensor, Tensor]] = []
    signs = torch.sign(draw(5))
    soft = torch.rand(1, 5, generator=g, dtype=torch.float64)
    rows = torch.softmax(draw(3, 4), -1)
    partial = rows.clone()
    partial[0, 0, 1] = 0.0
    partial = partial / partial.sum(-1, keepdim=True)
    for scale in (1e-12, 1e-6, 1e-3, 1.0, 10.0, 700.0, 1e150):
        found += [
            (Squared(), scale * draw(5, 2), draw(5, 2)),
            (Logistic(), scale * draw(5), signs),
            (Logistic(), torch.logit(soft) + scale * draw(5), soft),
            (CrossEntropy(), scale * draw(3, 4), torch.tensor([[0, 3, 1]])),
            (CrossEntropy(), rows.log() + scale * draw(3, 4), rows),
            (CrossEntropy(), rows.log() + scale * draw(3, 4), partial),
        ]
    for m in (700.0, -700.0, 800.0, -800.0, 1e300, -1e300):
        found += [
            (Logistic(), row(m, 0.5), row(1.0, -1.0)),
            (Logistic(), row(m), row(0.3)),
            (CrossEntropy(), row(m, 0.0, 1.0)[None], torch.tensor([[0]])),
            (CrossEntropy(), row(m, -m, 0.0)[None], row(0.25, 0.25, 0.5)[None]),
        ]
    for q in (1e-300, 1e-12, 0.5, 1 - 1e-12):
        found += [(Logistic(), row(z), row(q)) for z in (-700.0, -1.0, 0.0, 27.0, 700.0)]
    for q in (1e-40, 1e-120, 1e-250, 1e-280):  # half an ulp of log q is 128 u and more
        found += [(Logistic(), row(math.log(q) + d), row(q)) for d in (1e-3, -1e-5, 3e-4, 7e-5)]
    return found


def contains(loss: Loss, F: Tensor, y: Tensor, value: Tensor, bar: Tensor) -> bool:
    truth = exact(loss, F, y)
    return bool(abs(number(value) - truth) <= number(bar))


def test_values_are_within_their_bars_of_the_truth() -> None:
    used = 0.0
    for loss, F, y in instances():
        value, bar = loss.value(F, y), loss.error(F, y, torch.zeros(1, dtype=torch.float64))
        assert bool(torch.isfinite(value)), (loss, F, y)
        assert contains(loss, F, y, value, bar), (loss, F, y)
        if float(bar) < 0.1 * float(value):
            assert not contains(loss, F, y, 1.5 * value, bar)  # negative control
        used = max(used, float(abs(number(value) - exact(loss, F, y)) / number(bar)))
    assert used > 0.02  # the bars are no more than fifty times too wide


def test_bars_are_narrow() -> None:
    zero = torch.zeros(1, dtype=torch.float64)
    signs = row(1.0, -1.0, 1.0)
    for scale in (0.1, 30.0, 200.0):  # a relative bar, however small the loss
        F = scale * signs
        assert float(Logistic().error(F, signs, zero) / Logistic().value(F, signs)) < 1e-14
        z = torch.stack([F, torch.zeros_like(F)], -1)
        y = torch.tensor([[0, 1, 0]])
        assert float(CrossEntropy().error(z, y, zero) / CrossEntropy().value(z, y)) < 1e-12
    F, q = row(1e-9), row(0.5)  # gap 1.25e-19, far below u log 2
    assert float(Logistic().error(F, q, zero) / Logistic().value(F, q)) < 1e-4


def test_a_sum_of_squares_that_overflows_is_infinite_and_no_nan() -> None:
    F, y = row(1e300, -1e300), row(0.0, 0.0)
    zero = torch.zeros(1, dtype=torch.float64)
    assert Squared().value(F, y).item() == INF
    assert Squared().error(F, y, zero).item() == INF
    assert Squared().slope(F, y).tolist() == F.tolist()


def test_float32_outputs_give_float64_values_and_float32_slopes() -> None:
    for loss, F, y in instances(1):
        F32 = F.to(torch.float32)
        if not bool(torch.isfinite(F32).all()):
            continue
        bar = loss.error(F32, y, torch.zeros(1, dtype=torch.float64))
        assert contains(loss, F32, y, loss.value(F32, y), bar)
        S = loss.slope(F32, y)
        assert S.dtype == torch.float32
        assert bool(torch.isfinite(S).all())
        wide = loss.slope(F32.double(), y)
        torch.testing.assert_close(S.double(), wide, rtol=1e-6, atol=1e-38)


def plain(loss: Loss, F: Tensor, y: Tensor) -> Tensor:
    """The loss as anybody writes it, for autograd."""
    if loss.name == "squared":
        return 0.5 * ((F - y) ** 2).sum()
    if loss.name == "logistic":
        q = torch.where(y.abs() == 1, (y + 1) / 2, y)
        return torch.nn.functional.binary_cross_entropy_with_logits(F, q, reduction="sum")
    log_p = torch.log_softmax(F, -1)
    if y.is_floating_point():
        return -(y * log_p).sum()
    return -log_p.gather(-1, y[..., None]).sum()


def test_slopes_against_autograd() -> None:
    for loss, F, y in instances(2):
        F = F.clamp(-1e6, 1e6).requires_grad_()
        (S,) = torch.autograd.grad(plain(loss, F, y), F)
        torch.testing.assert_close(loss.slope(F.detach(), y), S, rtol=1e-10, atol=1e-14)


def test_slopes_near_the_minimum_against_fifty_digits() -> None:
    for q in (0.5, 0.1, 1e-6, 0.4999, 0.499999, 0.50000012, 0.50000003):
        for d in (1e-3, 1e-8, -1e-6):
            F = row(math.log(q) - math.log1p(-q) + d)
            truth = 1 / (1 + mpmath.exp(-number(F))) - number(q)
            S = Logistic().slope(F, row(q))
            bar = Logistic().slope_rounding(F, row(q))
            assert abs(number(S) - truth) <= number(bar) < abs(truth) * 1e-4
    z = row(40.0, 0.0)[None]  # 1 - p_y is below u: it must not be formed as 1 - p_y
    S = CrossEntropy().slope(z, torch.tensor([[0]]))[0, 0]
    assert S[0].item() == pytest.approx(-math.exp(-40), rel=1e-12)
    assert S.sum().item() == 0.0


def test_the_gap_and_the_infimum_make_the_loss() -> None:
    for loss, F, y in instances(3)[:24]:
        total = loss.value(F, y) + loss.least(y)
        torch.testing.assert_close(total[0], plain(loss, F, y), rtol=1e-12, atol=1e-12)
    assert Squared().attained(row(1.0))
    assert not Logistic().attained(row(1.0, -1.0))
    assert Logistic().attained(row(0.5))
    assert not CrossEntropy().attained(torch.tensor([[1]]))
    assert not CrossEntropy().attained(row(1.0, 0.0)[None])
    assert CrossEntropy().attained(row(0.5, 0.5)[None])


def replicas(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.cat([F for F, _ in pairs]), torch.cat([y for _, y in pairs])


def test_replicas_do_not_know_of_each_other() -> None:
    for group in (0, 1, 2, 3, 4, 5):
        alike = instances(4)[group:42:6]
        loss = alike[0][0]
        F, y = replicas([(F, y) for _, F, y in alike])
        dF = torch.linspace(0, 1e-3, len(alike), dtype=torch.float64)
        for k, (_, one, label) in enumerate(alike):
            for name in ("value", "slope"):
                both = getattr(loss, name)
                torch.testing.assert_close(both(F, y)[k], both(one, label)[0], rtol=1e-13, atol=0.0)
            torch.testing.assert_close(
                loss.error(F, y, dF)[k], loss.error(one, label, dF[k : k + 1])[0]
            )


def tilt(F: Tensor, S: Tensor, dF: float) -> list[Tensor]:
    """Changes of F of this size: along the slope both ways, and at random."""
    g = torch.Generator().manual_seed(5)
    ways = [S, -S, *(torch.randn(F.shape, generator=g, dtype=torch.float64) for _ in range(6))]
    return [dF * w / w.norm() for w in ways if float(w.norm()) > 0]


def test_error_bars_hold_for_outputs_that_are_off_and_are_approached() -> None:
    best: dict[str, float] = {}
    for loss, F, y in instances(6)[6:36]:
        if float(F.abs().max()) > 60:
            continue
        for dF in (1e-9, 1e-3, 0.3, 5.0):
            bar = loss.error(F, y, torch.tensor([dF], dtype=torch.float64)).item()
            value = loss.value(F, y)
            for e in tilt(F, loss.slope(F, y), dF):
                moved = float((exact(loss, F + e, y) - number(value)) / number(bar))
                assert abs(moved) <= 1 + 1e-12, (loss, F, dF)
                best[loss.name] = max(best.get(loss.name, 0.0), abs(moved))
    assert min(best.values()) > 0.97, best


@pytest.mark.parametrize("far", [3.0, 20.0])
def test_error_bars_of_small_losses_stay_relative(far: float) -> None:
    F, y = row(far), row(1.0)
    dF = torch.tensor([1e-2], dtype=torch.float64)
    assert float(Logistic().error(F, y, dF) / Logistic().value(F, y)) < 0.0102
    z, one = row(far, 0.0)[None], torch.tensor([[0]])
    assert float(CrossEntropy().error(z, one, dF) / CrossEntropy().value(z, one)) < 0.0145


def rows(y: Tensor, C: int) -> Tensor:
    return torch.nn.functional.one_hot(y, C).double()


def test_the_factor_of_a_step_is_a_lower_bound_and_close() -> None:
    for loss, F, y in instances(9)[:36]:
        f = exact(loss, F, y)
        if not 0 < f < 1e200:
            continue
        phi = loss.domination(F, y).item()
        truth = loss.slope(F, y).norm().item() ** 2 / (2 * float(f))
        assert 0 <= phi <= max(truth, 1.0 if loss.name == "squared" else 0.0) * (1 + 1e-12)
        if float(f) > 1e-12:
            assert phi >= (1 if loss.name == "squared" else truth) * (1 - 1e-5)
        off = torch.tensor([1e-3], dtype=torch.float64)
        assert loss.domination(F, y, dF=off).item() <= phi
    assert Squared().domination(row(3.0), row(1.0)).item() == 1.0
    assert Logistic().domination(row(0.0), row(0.5)).item() == 0.0


def test_the_squared_loss_s_factor_is_refuted_for_the_logistic_loss() -> None:
    """phi = 1 claims |S|^2 >= 2 l; at F = 0 it is 1/4 against 2 log 2."""
    phi = Logistic().domination(row(0.0), row(1.0)).item()
    assert phi == pytest.approx(0.25 / (2 * LOG2))


def test_shifts_of_all_logits_do_not_count() -> None:
    for C in (2, 3, 5):
        Q = contrasts(C)
        torch.testing.assert_close(Q.T @ Q, torch.eye(C - 1, dtype=torch.float64))
        assert float(Q.sum(0).abs().max()) < 1e-15 * C
    g = torch.Generator().manual_seed(10)
    J = torch.randn(2, 6, 8, generator=g, dtype=torch.float64)
    J = (J.reshape(2, 2, 3, 8) - J.reshape(2, 2, 3, 8).mean(2, keepdim=True)).reshape(2, 6, 8)
    y = torch.tensor([[0, 2]])
    found = CrossEntropy().directions(J, y)
    assert found.shape == (2, 4, 8)
    assert float(torch.linalg.svdvals(J)[:, 5].max()) < 1e-14
    assert float(torch.linalg.svdvals(found)[:, -1].min()) > 0.1
    assert CrossEntropy().directions(J, rows(y, 3)).shape == (2, 4, 8)
    S = CrossEntropy().slope(torch.randn(2, 2, 3, generator=g, dtype=torch.float64), y)
    sigma = torch.linalg.svdvals(found)[:, -1]
    reached = (J.mT @ S.reshape(2, 6, 1)).flatten(1).norm(dim=1)
    assert bool((reached >= sigma * S.flatten(1).norm(dim=1)).all())
    assert Squared().directions(J, row(1.0)) is J


@pytest.mark.parametrize(
    ("loss", "y", "shape", "said"),
    [
        (Squared(), row(1.0, INF), None, "y = inf: give finite labels"),
        (Squared(), row(1.0), (1, 2), "give the shape of the outputs, (1, 2)"),
        (Squared(), torch.ones(3, 2), (2, 2), "give the shape of the outputs, (2, 2)"),
        (Squared(), torch.ones(1, 0), None, "give real labels"),
        (Logistic(), row(1.0, 0.0), None, "y = 0.0: give labels -1 and 1, or soft labels"),
        (Logistic(), row(2.0, 1.0), None, "y = 2.0"),
        (Logistic(), row(0.5, 1.0), None, "y = signs and soft labels mixed"),
        (
            CrossEntropy(),
            torch.tensor([[0, 3]]),
            (1, 2, 3),
            "y = 3: give class indices among 0, ..., 2",
        ),
        (CrossEntropy(), torch.tensor([[-1, 0]]), None, "y = -1: give class indices from 0 on"),
        (CrossEntropy(), torch.tensor([[0, 1, 1]]), (1, 2, 3), "labels of shape (1, 3)"),
        (CrossEntropy(), row(0.5, 0.4)[None], None, "a row that sums to 0.9"),
        (CrossEntropy(), row(1.5, -0.5)[None], None, "y = -0.5: give rows of non-negative"),
        (CrossEntropy(), torch.tensor([[True]]), (1, 1, 2), "labels of type bool"),
        (CrossEntropy(), torch.tensor([[0]]), (1, 1, 1), "give 2 logits or more"),
    ],
)
def test_labels_that_cannot_be_used_are_named(
    loss: Loss, y: Tensor, shape: tuple[int, ...] | None, said: str
) -> None:
    with pytest.raises(InputError) as caught:
        loss.check(y, shape)
    assert said in str(caught.value)


def test_labels_that_can_be_used_pass() -> None:
    Squared().check(row(1.0, 2.0), (3, 2))
    Logistic().check(torch.tensor([[1, -1]]), (1, 2))
    Logistic().check(row(0.5, 0.1), (1, 2))
    CrossEntropy().check(torch.tensor([[0, 2]]), (4, 2, 3))
    CrossEntropy().check(torch.softmax(torch.randn(1, 4, 7), -1), (1, 4, 7))


class Quartic(Loss):
    """A user's own: sum of fourth powers, with the three formulas that must be given."""

    name = "quartic"

    def value(self, F: Tensor, y: Tensor) -> Tensor:
        return ((F.double() - y) ** 4).flatten(1).sum(1)

    def slope(self, F: Tensor, y: Tensor) -> Tensor:
        return 4 * (F - y) ** 3

    def curvature(self, gap: Tensor, y: Tensor) -> Tensor:
        return 12 * gap.sqrt()


def test_a_loss_of_one_s_own_needs_three_formulas() -> None:
    own = loss_named(Quartic())
    F, y = row(1.0, -2.0), row(0.0, 0.0)
    own.check(y, (1, 2))
    f = own.value(F, y)
    assert own.attained(y)
    assert own.least(y).tolist() == [0.0]
    assert own.slope_bound(f, y).item() >= own.slope(F, y).norm().item()
    assert own.domination(F, y).item() == pytest.approx(1040 / 34)
    assert own.domination(F, y, dF=torch.ones(1).double()).item() == 0.0  # unbounded curvature
    assert own.error(F, y, torch.zeros(1).double()).item() < 1e-13
    assert own.error(F, y, torch.ones(1).double()).item() == INF
    assert own.riccati_domination(f, y).item() == 0.0
    assert loss_named("Squared") == Squared()
    for wrong in ("squard", Logistic, None):
        with pytest.raises(InputError, match="loss = "):
            loss_named(wrong)
