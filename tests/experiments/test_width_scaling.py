"""The width experiment: its descent, what it records, fits, least widths, resuming, files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from experiments.harness.statistics import interval
from experiments.width_scaling import plan as width_scaling_plan
from experiments.width_scaling import step as width_scaling_step
from experiments.width_scaling.experiment import main, run, tau_1
from experiments.width_scaling.laws import (
    SETS,
    Law,
    conditions,
    law_problem,
    least_width,
    run_law,
    streamed_start,
)
from experiments.width_scaling.numbers import (
    exponents,
    law_exponents,
    ranges,
    separations,
    slopes,
)
from experiments.width_scaling.plan import Plan, cases
from experiments.width_scaling.runs import Case, problem_of, run_case
from experiments.width_scaling.step import Descent
from gdconv.models.encoder.constants import DataConstants
from gdconv.models.encoder.model import ShallowEncoder
from gdconv.models.encoder.parameters import BLOCKS, EncoderParameters, initialize_encoder, scaling
from gdconv.models.encoder.point import EncoderPoint
from gdconv.models.multihead.attention_kernels import kernel_named
from gdconv.models.multihead.initialization import initialize
from gdconv.models.multihead.model import MultiHeadRegression
from gdconv.support.errors import InputError

SMALL = Case("encoder", "synthetic", "ntk", "sqrt", 24, 0, epochs=15, samples=5, embedding=4)
HEADS = Case("multihead", "synthetic", "lecun", "softmax", 6, 0, epochs=12, samples=3, embedding=4)
TINY = Plan((8, 16, 32), 2, (64,), 1, (8, 16), 2, (2, 4, 8), 2, 6, 8, (2, 3), 2, 2**10)


def plain_descent(model, problem, params, eta, steps):
    """The same iteration through `model.gradient`."""
    for _ in range(steps):
        _, g = model.gradient(problem, params)
        params = EncoderParameters(*(getattr(params, b) - eta * getattr(g, b) for b in BLOCKS))
    return params


# Descent ----------------------------------------------------------------------------------------


def gap(model, problem, width, steps=4, eta=0.02):
    """Greatest relative distance of the blocks from those of `model.gradient`."""
    expected = plain_descent(
        model, problem, initialize_encoder("lecun", (width, problem.D), 1), eta, steps
    )
    params = initialize_encoder("lecun", (width, problem.D), 1)
    found = Descent(model, problem, params)
    for _ in range(steps):
        found.look()
        found.move(eta)
    return max(
        float((getattr(params, b) - W).norm() / W.norm())
        for b in BLOCKS
        for W in [getattr(expected, b)]
    )


@pytest.mark.parametrize("width", [3, 16, 50])
@pytest.mark.parametrize("scale", [1.0, 0.2])
def test_descent_is_gradient_descent(monkeypatch, width, scale):
    monkeypatch.setattr(width_scaling_step, "WIDTH", 16)  # 50 = 3 blocks and a rest
    model = ShallowEncoder(0.3, 0.7, scale)
    assert gap(model, problem_of(SMALL), width) < 1e-13


def test_descent_test_sees_a_wrong_factor(monkeypatch):
    right = Descent._scores
    monkeypatch.setattr(Descent, "_scores", lambda *a: 1.01 * right(*a))
    assert gap(ShallowEncoder(0.3, 0.7), problem_of(SMALL), 16) > 1e-6


def test_residual_of_look_is_the_models():
    model, problem = ShallowEncoder(0.3, 0.7, 0.5), problem_of(SMALL)
    params = initialize_encoder("he", (20, 4), 0)
    found = Descent(model, problem, params).look()
    assert torch.allclose(found, model.forward(problem, params).residual[0], rtol=1e-13)


# What a run records -----------------------------------------------------------------------------


def recomputed(model, problem, start, end, residuals, eta, blocks):
    """Kernel change and linearisation error from dense Jacobians."""
    J_0, J = (model.jacobian(problem, p, blocks)[0] for p in (start, end))
    K_0, K = J_0 @ J_0.T, J @ J.T
    step = torch.linalg.matrix_power(torch.eye(len(K_0)).double() - eta * K_0, len(residuals) - 1)
    line = step @ residuals[0]
    return {
        "end_kernel_change": float((K - K_0).norm() / K_0.norm()),
        "end_linear_error": float((residuals[-1] - line).norm() / residuals[0].norm()),
        "end_loss_ratio": float((residuals[-1].norm() / residuals[0].norm()) ** 2),
        "eta": 1 / float(torch.linalg.eigvalsh(K_0)[-1]),
    }


def test_encoder_run_against_dense_jacobians():
    row, problem = run_case(SMALL), problem_of(SMALL)
    model = ShallowEncoder(scaling("sqrt", 24), 24**-0.5)
    params = [initialize_encoder("ntk", (24, 4), 0)]
    for _ in range(SMALL.epochs):
        params.append(plain_descent(model, problem, params[-1], row["eta"], 1))
    residuals = [model.forward(problem, p).residual[0] for p in params]
    expected = recomputed(model, problem, params[0], params[-1], residuals, row["eta"], BLOCKS)
    for name, value in expected.items():
        assert row[name] == pytest.approx(value, rel=1e-9), name
    for b in BLOCKS:
        W_0, W = (getattr(p, b) for p in (params[0], params[-1]))
        assert row[f"end_moved_{b}"] == pytest.approx(float((W - W_0).norm() / W_0.norm()))
    ratios = [float((r.norm() / residuals[0].norm()) ** 2) for r in residuals]
    reached = next((t for t, ratio in enumerate(ratios) if ratio <= 0.1), None)
    assert row.get("target_step") == reached


def test_multihead_run_against_dense_jacobians():
    row, problem = run_case(HEADS), problem_of(HEADS)
    model = MultiHeadRegression(kernel_named("softmax"))
    blocks = ("W_Q", "W_K", "W_V")
    params = initialize("lecun", (6, 4, 8, 1), 0)
    first, residuals = params, []
    for _ in range(HEADS.epochs):
        at, g = model.gradient(problem, params)
        residuals.append(at.residual.flatten())
        made = {b: getattr(params, b) - row["eta"] * getattr(g, b) for b in blocks}
        params = replace(params, **made)
    residuals.append(model.forward(problem, params).residual.flatten())
    expected = recomputed(model, problem, first, params, residuals, row["eta"], blocks)
    for name, value in expected.items():
        assert row[name] == pytest.approx(value, rel=1e-8), name


def test_equal_cases_give_equal_numbers():
    one, two = (run_case(SMALL) for _ in range(2))
    timed = {"seconds", "peak_rss_mib"}
    assert {k: v for k, v in one.items() if k not in timed} == {
        k: v for k, v in two.items() if k not in timed
    }
    assert SMALL.key != replace(SMALL, epochs=16).key


def test_step_of_the_paper_needs_mean_loss_and_small_tau_1():
    """LeCun, step 1: refused as it stands, runs with --mean-loss --tau-1 sqrt."""
    case = replace(SMALL, init="lecun", width=256, samples=20, eta=1.0)
    with pytest.raises(InputError, match=r"eta = 1.0: give less than 2/lambda_max\(K_0\)"):
        run_case(case)
    row = run_case(replace(case, mean_loss=True, tau_1=-1.0))
    assert row["eta"] == 1.0
    assert row["end_loss_ratio"] < 1


def test_only_ntk_separates_the_scalings():
    """Kernel change from width 64 to 512: LeCun alike under both, NTK flatter at 1/sqrt(d_m)."""
    ratio = {}
    for init in ("lecun", "ntk"):
        for tau_0 in ("linear", "sqrt"):
            case = Case("encoder", "synthetic", init, tau_0, 64, 0, epochs=60, samples=12)
            ends = [run_case(replace(case, width=w))["end_kernel_change"] for w in (64, 512)]
            ratio[init, tau_0] = ends[1] / ends[0]
    assert ratio["lecun", "sqrt"] == pytest.approx(ratio["lecun", "linear"], rel=0.2)
    assert ratio["ntk", "sqrt"] > 2 * ratio["ntk", "linear"]


# Fits -------------------------------------------------------------------------------------------


def power_law(exponent, noise, seeds=5, widths=(64, 128, 256, 512, 1024), start=0):
    rng = np.random.default_rng(start)
    rows = [(w, s, w**exponent * np.exp(noise * rng.standard_normal())) for w in widths
            for s in range(seeds)]  # fmt: skip
    return pd.DataFrame(rows, columns=["width", "seed", "v"])


def test_slopes_of_power_laws():
    assert np.allclose(slopes(power_law(-0.7, 0.0), "width", "v"), -0.7, atol=1e-12)
    with_hole = power_law(-0.7, 0.0)
    with_hole.loc[with_hole["seed"] == 3, "v"] = [1.0, np.nan, 1.0, 1.0, 1.0]
    assert sorted(slopes(with_hole, "width", "v").index) == [0, 1, 2, 4]
    with_hole.loc[0, "v"] = 0.0  # no logarithm
    assert sorted(slopes(with_hole, "width", "v").index) == [1, 2, 4]


def test_interval_covers_the_exponent():
    """95 % of 200 noisy power laws, three standard errors of slack; a wrong exponent is missed."""
    inside = wrong = 0
    for k in range(200):
        _, lo, hi = interval(slopes(power_law(-0.5, 0.2, start=k), "width", "v"))
        inside += lo <= -0.5 <= hi
        wrong += lo <= -0.3 <= hi
    assert abs(inside / 200 - 0.95) < 3 * np.sqrt(0.95 * 0.05 / 200)
    assert wrong / 200 < 0.5


def test_ranges_leave_out_widths_with_fewer_runs():
    rows = power_law(-1, 0.0)
    more = pd.concat([rows, pd.DataFrame({"width": [2048], "seed": [0], "v": [1.0]})])
    assert ranges(more) == [(64, 1024)]


def fake_runs():
    rows = []
    for tau_0, exponent in (("linear", -1.0), ("sqrt", -0.2)):
        rng = np.random.default_rng(0)  # the same noise under both: paired
        for seed in range(4):
            for width in (64, 128, 256, 512, 1024, 2048):
                shared = np.exp(0.3 * rng.standard_normal())
                value = shared * width**exponent
                rows.append({"model": "encoder", "data": "synthetic", "init": "ntk",
                             "scaling": tau_0, "width": width, "seed": seed, "N": 100,
                             "alpha_squared": 2.0 * width, "end_loss_ratio": 0.1,
                             "end_kernel_change": value, "end_linear_error": value})  # fmt: skip
    return pd.DataFrame(rows)


def test_exponents_and_paired_separation():
    runs = fake_runs()
    fits = exponents(runs).set_index(["scaling", "column", "from"])
    assert abs(fits.loc[("linear", "end_kernel_change", 64), "exponent"] + 1) < 0.3
    assert fits.loc[("sqrt", "alpha_per_width", 64), "exponent"] == pytest.approx(0, abs=1e-12)
    made = separations(runs, ["end_kernel_change"]).set_index("from").loc[64]
    assert (made["lo"], made["hi"]) == pytest.approx((0.8, 0.8), abs=1e-9)  # noise cancels
    assert fits.loc[("linear", "end_kernel_change", 64), "hi"] > -0.99  # unpaired it does not


def test_vanished_residuals_are_left_out():
    runs = fake_runs().assign(end_loss_ratio=1e-12)
    assert "end_linear_error" not in set(exponents(runs)["column"])


# Least widths -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["lecun", "he"])
@pytest.mark.parametrize("tau_0", ["linear", "sqrt"])
def test_streamed_start_has_the_law_of_a_start(rule, tau_0):
    """Means over 12 seeds of every number, within 6 %; so are the verdicts."""
    problem, d_m = law_problem(3, 0), 1024

    def numbers(start):
        ends = [end.hi for end in start.feature_range]
        return [*(start.norm(b) for b in BLOCKS), *ends, start.r_0]

    streamed, plain = [], []
    for seed in range(12):
        streamed.append(numbers(streamed_start(problem, rule, tau_0, d_m, seed)))
        params = initialize_encoder(rule, (d_m, problem.D), seed)
        model = ShallowEncoder(scaling(tau_0, d_m), 1.0)
        plain.append(numbers(EncoderPoint(model, problem, params)))
    means = np.mean(streamed, axis=0) / np.mean(plain, axis=0)
    assert np.abs(means[:-1] - 1).max() < 0.03
    assert abs(means[-1] - 1) < 0.3  # r_0 varies by a third from seed to seed


def test_scores_of_streamed_start_have_the_variance_of_drawn_weights():
    """W_Q^T W_K has mean 0 and entries of variance d_m (gain/D)^2."""
    from experiments.width_scaling.laws import _bartlett

    rng = np.random.default_rng(0)
    d_m, D = 40, 5
    drawn = [_bartlett(d_m, D, rng).T @ rng.standard_normal((D, D)) for _ in range(4000)]
    assert np.mean(np.square(drawn)) == pytest.approx(d_m, rel=0.04)
    square = np.mean([R.T @ R for R in (_bartlett(d_m, D, rng) for _ in range(4000))], axis=0)
    assert np.allclose(square, d_m * np.eye(D), atol=0.1 * d_m**0.5 + 0.5)


def test_conditions_get_easier_with_width_and_without_the_third():
    problem = law_problem(2, 0)
    starts = {d: streamed_start(problem, "lecun", "linear", d, 0) for d in (2**10, 2**18)}
    assert not conditions(starts[2**10], "closed")[0]
    assert conditions(starts[2**18], "closed")[0]
    for name in ("closed", "closed_two", "closed_radii"):
        found = [conditions(start, name)[0] for start in starts.values()]
        assert found == sorted(found)
    plain, sharp = (kind(starts[2**18]) for kind in (DataConstants.plain, DataConstants.sharp))
    assert sharp.A_V <= plain.A_V


def test_least_width_finds_the_threshold():
    assert all(
        least / 2 ** (1 / 8) <= threshold <= least
        for threshold in (513, 700, 1024, 5000)
        for least in [least_width(lambda d, t=threshold: d >= t, 2**14)]
    )
    assert least_width(lambda d: True, 2**14) == 512


def test_third_condition_fails_at_inverse_root():
    row = run_law(Law("lecun", "sqrt", 2, 0, 2**11))
    assert row["closed"] is None
    assert row["closed_tightest"] == "third"
    assert 0 < row["closed_slack"] < 0.5


def test_law_exponents():
    rows = [
        {"init": "lecun", "scaling": "linear", "N": N, "seed": s, "limit": 4096}
        | {f"{name}{suffix}": value for name in SETS for suffix, value in
           (("", 100.0 * N**2 if N < 16 else None), ("_tightest", "radii"), ("_slack", 0.5))}
        for N in (2, 4, 8, 16) for s in range(3)
    ]  # fmt: skip
    made = law_exponents(pd.DataFrame(rows), ["closed"]).iloc[0]
    assert made["exponent"] == pytest.approx(2)
    assert (made["from"], made["to"]) == (2, 8)  # 16 has no width within the limit


# Resuming and files -----------------------------------------------------------------------------


def test_cases_of_the_presets_are_distinct():
    for plan in width_scaling_plan.PRESETS.values():
        keys = [case.key for case in cases(plan, {}, "mnist")]
        assert len(keys) == len(set(keys))
    assert not any(case.data == "mnist" for case in cases(TINY, {}))


def test_writes_every_file_and_goes_on_from_them(tmp_path, capsys, monkeypatch):
    fits = run(tmp_path, TINY)
    names = ("runs.jsonl", "laws.jsonl", "table.csv", "table.md", "manifest.json",
             "figure.pdf", "figure.png")  # fmt: skip
    for name in names:
        assert len((tmp_path / name).read_bytes()) > 100
    assert {"end_kernel_change", "limit_distance", "lambda_max"} <= set(fits["column"])
    assert {"encoder", "multihead"} == set(fits["model"])
    rows = (tmp_path / "runs.jsonl").read_bytes()
    before = (tmp_path / "table.md").read_text()
    monkeypatch.setattr(
        "experiments.width_scaling.experiment.draw", lambda *_: Figure()
    )  # once is enough
    run(tmp_path, TINY)
    assert (tmp_path / "runs.jsonl").read_bytes() == rows
    assert (tmp_path / "table.md").read_text() == before
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["peak_rss_mib"] > 0
    assert "runs are there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (["--eta", "0"], "eta"),
        (["--eta", "fast"], "eta"),
        (["--tau-1", "-1"], "tau_1"),
        (["--epochs", "0"], "epochs"),
        (["--preset", "quick", "--mnist", "nowhere"], "data"),
    ],
)
def test_bad_options(tmp_path: Path, capsys, arguments, field):
    assert main([*arguments, "--out", str(tmp_path / "x")]) == 2
    assert f"error: {field} = " in capsys.readouterr().err
    assert tau_1("sqrt") == -1.0
