"""The trained comparison of kernels: pairing, statistics, choice of rates, resuming, wording."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from experiments.harness.statistics import above_chance, paired
from experiments.kernel_comparison import runs as kernel_comparison_runs
from experiments.kernel_comparison.experiment import main, run
from experiments.kernel_comparison.numbers import compare, first_step, measure_runs
from experiments.kernel_comparison.plan import KERNELS, Spec
from experiments.kernel_comparison.runs import final_specs, run_one, score_rates, search_specs
from experiments.tasks.trained import PRESETS, Preset, load
from gdconv.support.errors import InputError

TINY = PRESETS["tiny"]
FILES = (
    *("curves.csv", "runs.csv", "pairs.csv", "rates.csv", "report.md", "manifest.json"),
    *("figure.pdf", "figure.png", "pathfinder_samples.pdf", "pathfinder_samples.png"),
)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, pd.DataFrame]]:
    """The tiny preset, run once."""
    out = tmp_path_factory.mktemp("comparison")
    return out, run(TINY, out)


def timeless(curves: pd.DataFrame) -> pd.DataFrame:
    return curves.drop(columns="seconds").reset_index(drop=True)


def test_all_files_are_written(result: tuple[Path, dict[str, pd.DataFrame]]) -> None:
    out, tables = result
    assert all((out / name).stat().st_size > 100 for name in FILES)
    assert not list(out.rglob(".*"))
    curves = tables["curves"]
    assert len(curves) == 2 * 2 * 2 * 5  # tasks, kernels, seeds, evaluations
    assert curves["accuracy"].between(0, 1).all()


def test_a_stand_in_is_called_one_wherever_it_appears(
    result: tuple[Path, dict[str, pd.DataFrame]],
) -> None:
    out, tables = result
    for name in tables:
        table = pd.read_csv(out / f"{name}.csv")
        assert table[table["task"] == "text"]["data"].str.contains("stand-in").all()
    lines = (out / "report.md").read_text("utf-8").splitlines()
    titles = [line for line in lines if "Text classification" in line]
    assert len(titles) == 2
    assert all("stand-in" in line for line in titles)
    manifest = json.loads((out / "manifest.json").read_text("utf-8"))
    assert "stand-in" in manifest["data"]["text"]
    assert "stand-in" in manifest["tasks"][0]["data"]


def test_going_on_gives_the_numbers_of_a_whole_run(
    result: tuple[Path, dict[str, pd.DataFrame]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the middle of a run of the comparison, then started again."""
    _, tables = result
    real, calls = kernel_comparison_runs.train, 0

    def stopped(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 12:  # a run of the comparison; the eight of the search are done
            told = 0

            def progress(steps: int) -> None:
                nonlocal told
                told += steps
                if told >= 15:
                    raise KeyboardInterrupt

            real(*arguments[:4], progress, arguments[5])  # type: ignore[arg-type]
        return real(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(kernel_comparison_runs, "train", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(TINY, tmp_path)
    assert not (tmp_path / "report.md").exists()
    saved = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "checkpoints").iterdir()}
    assert 11 <= len(saved) <= 12
    again = run(TINY, tmp_path)
    pd.testing.assert_frame_equal(timeless(again["curves"]), timeless(tables["curves"]))
    now = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "checkpoints").iterdir()}
    assert sum(now[name] == saved[name] for name in saved) >= 11  # finished runs stay untouched


def test_kernels_are_paired() -> None:
    """Same seed: the same weights at step 0, hence the same rows except through attention."""
    rates = {(task.name, kernel): 0.1 for task in TINY.tasks for kernel in KERNELS}
    specs = final_specs(TINY, rates)
    for one, other in zip(specs[::2], specs[1::2], strict=True):
        assert (one.kernel, other.kernel) == KERNELS
        assert replace(one, kernel="gaussian") == other
        assert one.plan() == other.plan()
        assert one.mark != other.mark


def test_the_search_is_the_same_for_both_kernels_and_uses_other_seeds() -> None:
    specs = search_specs(TINY)
    sides = [
        {(s.task.name, s.rate, s.seed, s.stage) for s in specs if s.kernel == kernel}
        for kernel in KERNELS
    ]
    assert sides[0] == sides[1]
    assert min(s.seed for s in specs) > max(p.seeds for p in PRESETS.values())


@pytest.mark.parametrize("number", [0, 1])
def test_the_search_sees_no_test_sample(number: int) -> None:
    data = load(TINY.tasks[number])
    search, final = data.samples("search"), data.samples("final")
    assert len(search.y) + len(search.y_held) == len(final.y)
    assert torch.equal(torch.cat([search.X, search.X_held]), final.X)
    seen = {row.numpy().tobytes() for row in final.X}
    again = [row.numpy().tobytes() in seen for row in final.X_held]
    assert np.mean(again) < 0.02


def test_a_change_of_the_task_is_another_checkpoint(tmp_path: Path) -> None:
    spec = Spec(TINY.tasks[0], "softmax", "search", 0.1, 0, TINY.model)
    other = replace(spec, task=replace(spec.task, vocabulary=5))
    same = replace(spec, task=replace(spec.task, levels=(0.9,), cache="elsewhere"))
    assert spec.mark != other.mark
    assert spec.mark == same.mark
    first, second = (run_one(s, folder=tmp_path, device="cpu") for s in (spec, other))
    assert not timeless(first).equals(timeless(second))


def search_table(losses: dict[tuple[str, float], float], diverged: set[float]) -> pd.DataFrame:
    """Rows of a search whose late losses are given; early ones would choose another rate."""
    rows = []
    for (kernel, rate), loss in losses.items():
        for step in (0, 5, 10):
            late = loss if step == 10 else 10 - loss
            rows.append(
                {"task": "text", "kernel": kernel, "rate": rate, "step": step, "loss": late}
                | {"diverged": rate in diverged}
            )
    return pd.DataFrame(rows)


def test_each_kernel_gets_its_best_rate() -> None:
    task = replace(TINY.tasks[0], rates=(0.1, 0.3, 1.0))
    losses = {("softmax", 0.1): 0.6, ("softmax", 0.3): 0.5, ("softmax", 1.0): 0.4}
    losses |= {("gaussian", 0.1): 0.3, ("gaussian", 0.3): 0.35, ("gaussian", 1.0): 0.1}
    scored = score_rates(search_table(losses, {1.0}), [task])
    best = scored[scored["chosen"]].set_index("kernel")
    assert best["rate"].to_dict() == {"softmax": 0.3, "gaussian": 0.1}
    assert best["edge"].to_dict() == {"softmax": False, "gaussian": True}
    with pytest.raises(InputError, match="rates of text = 0.1, 0.3, 1"):
        score_rates(search_table(losses, {0.1, 0.3, 1.0}), [task])


def runs_with(gap: float, noise: float, seeds: int = 3) -> pd.DataFrame:
    """Rows of runs in which the Gaussian kernel is better by `gap`."""
    rng = np.random.default_rng(4)
    rows = []
    for seed in range(seeds):
        base = 0.7 + 0.05 * rng.standard_normal()
        for kernel in KERNELS:
            better = (gap + noise * rng.standard_normal()) * (kernel == "gaussian")
            rows.append(
                {"task": "text", "kernel": kernel, "seed": seed, "accuracy": base + better}
                | {"area": base + better, "loss": 1 - base - better}
            )
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("gap", "noise", "claim"),
    [(0.05, 0.002, "seen"), (-0.05, 0.002, "reversed"), (0.0, 0.05, "open")],
)
def test_a_planted_difference_is_found_with_its_sign(gap: float, noise: float, claim: str) -> None:
    pairs = compare(runs_with(gap, noise))
    assert set(pairs["claim"]) == {claim}


def test_without_pairing_the_same_difference_is_lost() -> None:
    """Control: seeds differ by more than kernels, so unpaired intervals overlap."""
    runs = runs_with(0.05, 0.002)
    sides = [runs[runs["kernel"] == kernel]["accuracy"].to_numpy() for kernel in KERNELS]
    assert stats.ttest_ind(*sides).pvalue > 0.05


def test_seen_under_no_difference_is_rare() -> None:
    """5 % of 400 in the sum of both directions; four standard errors of slack."""
    rng = np.random.default_rng(0)
    found = sum(
        made["lo"] > 0 or made["hi"] < 0
        for made in (paired(gaps) for gaps in rng.standard_normal((400, 3)))
    )
    assert abs(found / 400 - 0.05) < 4 * math.sqrt(0.05 * 0.95 / 400)


def test_steps_to_an_accuracy_need_confirmation() -> None:
    step = np.arange(5)
    assert first_step(step, np.array([0.5, 0.9, 0.5, 0.8, 0.9]), 0.8) == 3
    assert first_step(step, np.array([0.5, 0.5, 0.5, 0.5, 0.9]), 0.8) == 4
    assert first_step(step, np.full(5, 0.7), 0.8) == math.inf


def test_measures_of_a_run() -> None:
    rows = [
        {"task": "text", "kernel": kernel, "seed": 0, "rate": 0.1, "step": step, "loss": 1.0,
         "accuracy": accuracy, "seconds": step / 10, "diverged": kernel == "gaussian"}
        for kernel in KERNELS
        for step, accuracy in ((0, 0.5), (10, 0.7), (20, 0.9))
    ]  # fmt: skip
    task = replace(TINY.tasks[0], levels=(0.7, 0.95))
    made = measure_runs(pd.DataFrame(rows), [task]).set_index("kernel")
    row = made.loc["softmax"]
    assert row["accuracy"] == pytest.approx(0.7)
    assert row["area"] == pytest.approx(0.7)
    assert row["seconds_per_step"] == pytest.approx(0.1)
    assert (row["step_0.7"], row["step_0.95"]) == (10, math.inf)
    assert math.isnan(made.loc["gaussian"]["accuracy"])


def test_chance_is_the_most_frequent_class() -> None:
    labels = [0] * 300 + [1] * 100
    assert above_chance(0.75, labels) == 0
    assert above_chance(0.75 + 3 * math.sqrt(0.75 * 0.25 / 400), labels) == pytest.approx(3)


def test_a_csv_of_the_user(tmp_path: Path) -> None:
    words = [f"good film {i}" if i % 2 else f"bad film {i}" for i in range(60)]
    rows = "".join(f"{text},{'yes' if 'good' in text else 'no'}\n" for text in words)
    file = tmp_path / "mine.csv"
    file.write_text("text,label\n" + rows)
    out = tmp_path / "out"
    options = ["--preset", "tiny", "--tasks", "text", "--text", str(file), "--jobs", "1"]
    assert main([*options, "--out", str(out)]) == 0
    for name in ("report.md", "manifest.json"):
        text = (out / name).read_text("utf-8")
        assert "mine.csv" in text
        assert "stand-in" not in text
        assert str(tmp_path) not in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tasks", "audio"], "tasks = audio"),
        (["--seeds", "1"], "seeds = 1"),
        (["--jobs", "0"], "jobs = 0"),
        (["--text", "nowhere.csv"], "no such file"),
    ],
)
def test_bad_options_are_one_sentence(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--preset", "tiny", "--out", str(tmp_path / "o"), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("name", ["small", "paper"])
def test_presets_have_the_sizes_of_the_poster(name: str) -> None:
    preset: Preset = PRESETS[name]
    assert dict(preset.model) == {"D": 64, "d": 128, "H": 2, "layers": 2}
    assert preset.seeds >= 3
    assert [(t.name, t.optimiser) for t in preset.tasks] == [
        ("text", "sgd"),
        ("pathfinder", "adam"),
    ]
