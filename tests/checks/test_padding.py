"""Whole checks of padded data: against the same data without padding, and against plain torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from samples import KERNELS
from samples_padded import GARBAGE, Padded, alike, checked, padded
from torch import nn

import gdconv
from gdconv.checks.replay import differences, replay
from gdconv.checks.store import place_of
from gdconv.support.errors import InputError


@pytest.fixture
def batch() -> Padded:
    """Lengths 3, 1, 2 among four places."""
    return padded((3, 1, 2), D=8, D_y=1, places=4)


FOUR: dict[str, Any] = {"heads": 4, "head_dim": 4}
LAZY = FOUR | {"init": "theorem", "until_bound": 0.98}


@pytest.mark.parametrize("theorem", ["full-gd", "query-gd"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_one_padded_sequence_is_checked_as_without_its_padding(kernel: str, theorem: str) -> None:
    """All statements of both theorems, a priori and of the run."""
    data = padded((3,), D=8, D_y=1, places=7)
    given = {"X": np.stack(data.sequences), "y": np.stack(data.targets)}
    options = LAZY | {"kernel": kernel, "engine": "torch", "heads": 8}
    alone = gdconv.check(theorem, **given, **options)
    alike(checked(data, theorem, **options), alone)


def test_a_batch_meets_its_hypotheses_and_is_confirmed(batch: Padded) -> None:
    for kernel in KERNELS:
        check = checked(batch, kernel=kernel, init="theorem", heads=4, head_dim=4, until_bound=0.89)
        assert check.verdict == "confirmed"
        wide = check.hypotheses["hypothesis"].str.startswith("heads are wide enough")
        assert set(check.hypotheses[wide]["rhs"]) == {6.0}  # 3 + 1 + 2 tokens, not 3 * 4
        said = "padding: 6 of 12 tokens are real, 1 to 3 per sample; the others are no keys and no"
        assert any(line.startswith(said) for line in check.messages)


def test_the_cubic_inequality_counts_each_samples_own_tokens(batch: Padded) -> None:
    """16 sum_i n_i a_i^4 r_0 / (e sqrt d o^2) (sum_h O_h^2 lambda_V^2)^(1/2), W_V = 0."""
    check = checked(batch, kernel="gaussian", init="theorem", heads=4, head_dim=4, steps=1)
    rows = check.hypotheses[check.hypotheses["statement"] == "per-head"].set_index("hypothesis")
    W_O, y = check.starts["W_O"][0], np.concatenate(batch.targets)
    O = np.array([np.linalg.norm(W, 2) for W in W_O])  # noqa: E741
    o, r_0 = O.min(), np.linalg.norm(y)
    n = np.array([len(x) for x in batch.sequences])
    a = np.array([np.linalg.norm(x, 2) for x in batch.sequences])
    sigma = rows.loc["sigma_0^2 outweighs the value path", "lhs"]
    C_V = 2 * r_0 * np.sqrt((n**2 * a**2).sum()) * O.max() / (o**2 * sigma)
    drift = 16 * (n * a**4).sum() * r_0 / (np.e * 2 * o**2) * np.sqrt((O**2 * C_V**2).sum())
    assert rows.loc["sigma_0^3 outweighs the drift of B", "rhs"] == pytest.approx(drift, rel=1e-6)


@pytest.mark.parametrize("rubbish", GARBAGE)
def test_a_run_is_that_of_plain_torch_with_masked_scores(batch: Padded, rubbish: float) -> None:
    """-inf on padded keys, autograd, loss of real tokens only; rubbish at all other places."""
    X = np.where(batch.mask[..., None], np.nan_to_num(batch.X), rubbish)
    rng = np.random.default_rng(1)
    W = {b: rng.standard_normal((2, 8, 3)) / 3 for b in ("W_Q", "W_K", "W_V")}
    W["W_O"] = rng.standard_normal((2, 3, 1))
    steps, eta = 30, 2e-3
    check = gdconv.check(
        "full-gd", X=X, y=batch.y, mask=batch.mask, weights=W, step=eta, steps=steps
    )
    theta = [torch.from_numpy(W[b]).clone().requires_grad_() for b in ("W_Q", "W_K", "W_V")]
    tokens = torch.from_numpy(np.where(batch.mask[..., None], batch.X, 5.0))  # garbage once more
    real, y = torch.from_numpy(batch.mask), torch.from_numpy(np.concatenate(batch.targets))
    losses = []
    for _ in range(steps + 1):
        q, k, v = (tokens[:, None] @ w for w in theta)
        scores = (q @ k.mT / 3**0.5).masked_fill(~real[:, None, None, :], -torch.inf)
        F = (nn.functional.softmax(scores, -1) @ v @ torch.from_numpy(W["W_O"])).sum(1)
        loss = 0.5 * ((F[real] - y) ** 2).sum()
        losses.append(loss.item())
        with torch.no_grad():
            for w, slope in zip(theta, torch.autograd.grad(loss, theta), strict=True):
                w -= eta * slope
    trace = check.trace
    assert len(trace) > 10
    assert np.allclose(trace["loss"], np.array(losses)[trace["step"]], rtol=1e-10, atol=0)
    assert check.runs["defect_ratio"][0] < 1


def test_losses_and_features_of_a_batch_add_up(batch: Padded) -> None:
    rng = np.random.default_rng(1)
    W = {b: rng.standard_normal((3, 8, 2)) / 3 for b in ("W_Q", "W_K", "W_V")}
    W["W_O"] = rng.standard_normal((3, 2, 1))
    options: dict[str, Any] = {"weights": W, "step": 1e-6, "steps": 1}
    whole = checked(batch, **options)
    parts = [
        gdconv.check("full-gd", X=x[None], y=y[None], **options)
        for x, y in zip(batch.sequences, batch.targets, strict=True)
    ]
    losses = [part.runs["loss_first"][0] for part in parts]
    assert whole.runs["loss_first"][0] == pytest.approx(sum(losses), rel=1e-13)
    least = min(part.runs["sigma_min_first"][0] for part in parts)
    assert whole.runs["sigma_min_first"][0] <= least * (1 + 1e-9)  # fewer rows, no smaller sigma


def test_sequences_in_a_list_are_the_padded_batch(batch: Padded) -> None:
    options: dict[str, Any] = {
        "heads": 4,
        "head_dim": 4,
        "steps": 20,
        "step": 1e-3,
        "statement": "run",
    }
    by_list = gdconv.check("full-gd", X=batch.sequences, y=batch.targets, **options)
    by_mask = checked(batch, **options)
    alike(by_list, by_mask)
    assert by_list.starts["X"].shape == (1, 3, 3, 8)


def test_seeds_sharpness_and_devices(batch: Padded) -> None:
    options: dict[str, Any] = {
        "statement": "run",
        "heads": 4,
        "head_dim": 4,
        "steps": 30,
        "seeds": 2,
    }
    check = checked(batch, sharpness=True, **options)
    assert check.starts["mask"].shape == (2, 3, 4)
    assert check.trace["lambda_max_hi"].notna().any()
    assert len(check.runs) == 2
    low = checked(batch, dtype="float32", **options)
    assert low.level == "float32"


def test_saved_and_replayed(batch: Padded, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "statement": "run",
        "heads": 4,
        "head_dim": 4,
        "steps": 25,
        "seeds": 2,
    }
    check = checked(batch, **options)
    saved = gdconv.load(check.save(tmp_path))
    again = replay(saved)
    assert differences(saved, again) == []
    assert np.array_equal(again.starts["mask"], check.starts["mask"])
    pd.testing.assert_frame_equal(again.trace, check.trace)
    assert again.messages == check.messages
    starts = check.starts | {"mask": np.ones_like(check.starts["mask"])}
    assert place_of(tmp_path, check.config, starts) != place_of(
        tmp_path, check.config, check.starts
    )


def test_files_with_a_mask(batch: Padded, tmp_path: Path) -> None:
    file, start = tmp_path / "mine.npz", tmp_path / "start.npz"
    np.savez(file, X=batch.X, y=batch.y, mask=batch.mask)
    options: dict[str, Any] = {
        "heads": 4,
        "head_dim": 4,
        "steps": 20,
        "step": 1e-3,
        "statement": "run",
    }
    by_file, by_array = (
        gdconv.check("full-gd", data=str(file), **options),
        checked(batch, **options),
    )
    alike(by_file, by_array, 0.0)
    kept = {
        name: by_array.starts[name][0] for name in ("X", "y", "mask", "W_Q", "W_K", "W_V", "W_O")
    }
    np.savez(start, **kept)
    by_start = gdconv.check("full-gd", problem=str(start), step=1e-3, steps=20, statement="run")
    alike(by_start, by_array, 0.0)
    with pytest.raises(InputError, match="'mask', which nothing reads|mask, which nothing reads"):
        gdconv.check("generic-gd", data=str(file))


def test_what_is_refused(batch: Padded) -> None:
    plain: dict[str, Any] = {"X": np.nan_to_num(batch.X), "y": np.nan_to_num(batch.y)}
    masked = plain | {"mask": batch.mask}
    for theorem, options, sentence in [
        ("full-gd", {"mask": batch.mask}, "mask = given: give X and y with it"),
        ("full-gd", masked | {"engine": "fused"}, r"engine = fused: .*padded data \(a mask\)"),
        ("full-gd", masked | {"mask": batch.mask * 0}, "mask = no token of sample 0 is real"),
        ("full-gd", masked | {"mask": batch.mask * 1.0}, "mask = array of type float64: give bool"),
        ("full-gd", masked | {"mask": batch.mask[:2]}, r"mask = .*: give shape \(3, 4\)"),
        ("generic-gd", masked, "mask = padded sequences: leave it out, .* as part of X"),
        ("attention-hessian", masked, "mask = given: leave it out: attention-hessian draws"),
        ("convex-attention", masked, "mask = given: leave it out: convex-attention draws"),
    ]:
        with pytest.raises(InputError, match=sentence):
            gdconv.check(theorem, **options)


def test_a_mask_of_true_alone_takes_the_compiled_loop() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((2, 2, 6)), rng.standard_normal((2, 2))
    options: dict[str, Any] = {"X": X, "y": y, "engine": "fused", "steps": 5, "step": 1e-5}
    plain = gdconv.check("full-gd", **options)
    whole = gdconv.check("full-gd", mask=np.ones((2, 2), bool), **options)
    pd.testing.assert_frame_equal(plain.trace, whole.trace)
    assert "mask" not in whole.starts
