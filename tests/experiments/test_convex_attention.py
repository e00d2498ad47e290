"""Convex attention against its rivals: tasks, curves, networks, tables and files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from convex_models import head_sum, self_attention, simplex_attention

from experiments.convex_attention import experiment
from experiments.convex_attention.curves import (
    FAST,
    FREE,
    METHODS,
    attention,
    certified,
    descend,
    marks,
    objective_of,
    output,
    program_of,
    proximal,
    row_entropy,
    start,
)
from experiments.convex_attention.data import TokenTask, load
from experiments.convex_attention.modular import KINDS, Mixing, Network, fixed, shrink, train
from experiments.convex_attention.numbers import (
    curves,
    fixed_programs,
    modular,
    paths,
    searches,
    shorter,
    speed,
)
from experiments.convex_attention.path import along_path
from experiments.convex_attention.plan import PRESETS, Done, Unit, Worker, run_units
from experiments.convex_attention.report import middle, report
from experiments.harness.units import Results
from gdconv.convex.recovery import heads_of
from gdconv.support.errors import InputError

TINY = PRESETS["tiny"]
SIZES = (8, 2, 16)
OPTIONS = {"rate": 0.01, "decay": 0.1, "penalty": 0.3}


def small_task(seed: int = 0, N: int = 10, n: int = 4, d: int = 3) -> TokenTask:
    rng = np.random.default_rng(seed)
    X, y = rng.standard_normal((2 * N, n, d)), rng.standard_normal(2 * N)
    return TokenTask("random", X[:N], y[:N], X[N:], y[N:])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whole run of the preset tiny."""
    out = tmp_path_factory.mktemp("convex") / "out"
    experiment.run(TINY, out)
    return out


@pytest.fixture(scope="module")
def done(folder: Path) -> Done:
    """Its results; nothing is computed again."""

    def computed(worker: Worker, unit: Unit, done: Results) -> None:
        raise AssertionError(f"{unit.key} was computed again")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Worker, "measure", computed)
        return run_units(TINY, folder / "checkpoints")


# curves


@pytest.mark.parametrize("model", ["(3)", "(4)", "(8)"])
def test_the_pooled_output_is_the_models_mean_over_rows(model: str) -> None:
    task = small_task()
    w, X = start(model, task, 2, 0), torch.from_numpy(task.X)
    if model == "(8)":
        wanted = head_sum(X, **w)
    else:
        wanted = (self_attention if model == "(3)" else simplex_attention)(X, **w).mean(1)
    assert torch.allclose(output(model, X, w), wanted, rtol=1e-12, atol=1e-13)


def test_decay_is_that_of_the_models() -> None:
    """At X = 0 the objective is sum y^2 plus the decay."""
    task = small_task()
    zero = replace(task, X=0 * task.X)
    program = program_of(task, 0.1)
    at_zero = replace(program, design=type(program.design)(zero.X))
    wanted = {"(3)": ("W_Q", "W_K", "W_V", "W_O"), FREE: ("W_V", "W_O"), "(4)": ("W_V", "W_O"),
              "(8)": ("v", "b")}  # fmt: skip
    for model, names in wanted.items():
        w = start(model, task, 2, 0)
        found = float(objective_of(model, at_zero)(**w))
        squares = sum(float(w[name].square().sum()) for name in names)
        expected = np.square(task.y).sum() + 0.5 * program.beta * squares
        assert found == pytest.approx(expected, rel=1e-12)


def test_recovered_heads_cost_the_certified_optimum_and_no_run_is_below_it() -> None:
    """(8) and (4) have the optimum F*: recovery attains it, descent stays above its lower end."""
    task = small_task(1)
    program = program_of(task, 0.1)
    best = certified(program)
    assert best["status"] == "certified"
    Z, _ = proximal(program, FAST, 600)
    heads = heads_of(program, Z)
    weights = {name: torch.from_numpy(getattr(heads, name)) for name in ("a", "v", "b")}
    assert float(objective_of("(8)", program)(**weights)) <= best["upper"] * (1 + 1e-6)
    for model in ("(8)", "(4)"):
        w = start(model, task, 2, 0)
        _, curve = descend(objective_of(model, program), w, FAST, 0.03, 80)
        assert min(curve.values) >= best["lower"] * (1 - 1e-12)
        assert curve.values[-1] < 0.8 * curve.values[0]
    # negative control: (3) is another problem, and with more samples' worth of freedom goes below
    _, curve = descend(objective_of(FREE, program), start(FREE, task, 4, 0), FAST, 0.1, 150)
    assert curve.values[-1] < best["lower"]


@pytest.mark.parametrize("method", METHODS)
def test_proximal_steps_reach_the_optimum_of_the_certificate(method: str) -> None:
    program = program_of(small_task(2), 0.2)
    best = certified(program)
    _, curve = proximal(program, method, 1500)
    assert best["lower"] * (1 - 1e-12) <= curve.values[-1] <= best["upper"] * (1 + 1e-7)
    assert curve.steps == marks(1500)
    assert (np.diff(curve.seconds) >= 0).all()


def test_weights_stay_on_the_simplex_and_a_divergence_ends_a_run() -> None:
    task = small_task(3)
    program = program_of(task, 0.1)
    for model, name in (("(8)", "a"), ("(4)", "A")):
        end, _ = descend(objective_of(model, program), start(model, task, 2, 0), FAST, 0.3, 30)
        assert (end[name] >= 0).all()
        assert torch.allclose(end[name].sum(-1), torch.ones(1, dtype=torch.float64))
    _, curve = descend(objective_of("(4)", program), start("(4)", task, 2, 0), METHODS[0], 1e3, 99)
    assert not np.isfinite(curve.values[-1])
    assert curve.steps[-1] < 99


def test_entropy_of_uniform_and_one_hot_rows() -> None:
    assert row_entropy(torch.full((2, 7), 1 / 7, dtype=torch.float64)).tolist() == pytest.approx([
        1.0,
        1.0,
    ])
    assert float(row_entropy(torch.eye(7, dtype=torch.float64)).abs().max()) == 0.0
    task = small_task()
    w = start("(3)", task, 2, 0)
    found = attention("(3)", task, {k: 0 * v for k, v in w.items()})  # zero weights: uniform
    assert found["entropy"] == pytest.approx(1.0)
    assert np.allclose(found["map"], 0.25)


# tasks and path


def test_students_see_the_teachers_input_and_the_teacher_is_its_layer() -> None:
    from experiments.convex_attention.data import encoder

    net, accuracy = encoder(None, 3)
    task = load("student-teacher", 2, (20, 10), net)
    assert task.X.shape == (20, 16, 16)
    assert abs(task.y.mean()) < 1e-9
    assert task.y.std() == pytest.approx(1.0)
    assert np.square(task.X).sum(-1).mean() == pytest.approx(1.0)
    assert 0.0 <= accuracy <= 1.0
    # independent: softmax attention from the stored weights, on the tokens the students get
    whole = np.concatenate([task.X, task.X_test])
    last = net.layers[1].attention
    w, b = (t.detach().double() for t in (last.queries_keys_values.weight,
                                          last.queries_keys_values.bias))  # fmt: skip
    u = torch.from_numpy(whole)
    # layer norm has mean square 1 a feature at the start's scale: undo the students' factor
    u = u * float(np.sqrt(16.0 / np.square(whole).sum(-1).mean()))
    parts = (u @ w.T + b).view(len(u), 16, 3, 2, 8)
    q, k, v = (parts[:, :, i].transpose(1, 2) for i in range(3))
    made = (q @ k.mT / 8**0.5).softmax(-1) @ v
    out = made.transpose(1, 2).reshape(len(u), 16, 16).mean(1) @ last.output.weight.T.double()
    C = net.classes.weight.double()
    score = (out @ (C[2] - C.mean(0))).numpy()
    y = np.concatenate([task.y, task.y_test])
    assert np.corrcoef(score, y)[0, 1] > 0.999


def test_training_and_held_out_images_differ() -> None:
    task = load("digits", 0, (30, 40))
    rows = {x.tobytes() for x in task.X}
    assert not rows & {x.tobytes() for x in task.X_test}
    with pytest.raises(InputError, match="samples"):
        load("digits", 0, (1000, 1000))
    with pytest.raises(InputError, match="task"):
        load("letters", 0, (3, 3))


def test_path_is_certified_empty_at_the_top_and_bounded_by_what_is_not_inactive() -> None:
    rows = pd.DataFrame(along_path(small_task(4, n=8), 6, 0.05))
    assert rows["certified"].all()
    assert rows["active"].iloc[0] == 0
    assert (rows["fewest"] <= rows["active"]).all()
    assert (rows["active"] <= rows["possible"]).all()
    assert (rows["possible"] <= rows["tokens"]).all()
    assert rows["active"].iloc[-1] > 1


# networks


@pytest.mark.parametrize("kind", KINDS)
def test_mixing_is_its_formula(kind: str) -> None:
    torch.manual_seed(0)
    net, x = Mixing(kind, 6, 2, 3, last=False), torch.randn(4, 3, 6)
    last = Mixing(kind, 6, 2, 3, last=True)
    if kind == "convex":
        wanted = torch.einsum("ikd,qkde->iqe", x, net.Z)
        last.Z.data = net.Z.data[-1:]
    else:
        v = torch.einsum("ikd,dhe->ihke", x, net.W_V.view(6, 2, 3))
        if kind == "standard":
            q, k = (torch.einsum("ikd,dhe->ihke", x, W.view(6, 2, 3)) for W in (net.W_Q, net.W_K))
            A = (q @ k.mT / 3**0.5).softmax(-1)
        else:
            A = net.free.softmax(1).permute(2, 0, 1)[None]
            last.free.data = net.free.data[-1:]
        wanted = torch.einsum("ihqe,hed->iqd", A @ v, net.W_O.view(2, 3, 6))
        for name in {"W_Q", "W_K", "W_V", "W_O"} & set(dict(net.named_parameters())):
            getattr(last, name).data = getattr(net, name).data
    assert torch.allclose(net(x), wanted, atol=1e-5)
    assert torch.allclose(last(x), wanted[:, -1:], atol=1e-5)


def test_only_standard_attention_depends_on_the_sample() -> None:
    """Simplex and convex attention are linear in x, standard attention is not."""
    torch.manual_seed(0)
    x = torch.randn(5, 3, 6)
    for kind in KINDS:
        net = Mixing(kind, 6, 2, 3, last=False)
        assert torch.allclose(net(3 * x), 3 * net(x), atol=1e-4) == (kind != "standard")


def test_shrinking_is_the_proximal_step_of_the_column_norms() -> None:
    torch.manual_seed(1)
    Z = torch.randn(1, 2, 3, 4, dtype=torch.float64)
    before = Z.clone()
    shrink(Z, 0.9)

    def value(W: torch.Tensor) -> torch.Tensor:
        return 0.5 * (W - before).square().sum() + 0.9 * W.norm(dim=2).sum()

    for _ in range(50):
        assert value(Z) <= value(Z + 0.05 * torch.randn_like(Z)) + 1e-12
    huge = before.clone()
    shrink(huge, 100.0)
    assert not huge.any()


@pytest.mark.parametrize("kind", KINDS)
def test_networks_fit_and_generalise_is_no_sooner_than_recorded(kind: str) -> None:
    options = {"rate": 0.01, "decay": 0.01, "penalty": 0.01}
    found = train(kind, 1, 5, 0, SIZES, options, 150)
    assert found["fit"] is not None
    assert found["fit"] % 10 == 0
    accuracies = {step: share for step, share, _, _ in found["rows"]}
    assert accuracies[found["fit"]] >= 0.99
    assert all(share < 0.99 for step, share in accuracies.items() if step < found["fit"])
    # negative control: without a rate nothing is learned
    idle = train(kind, 1, 5, 0, SIZES, options | {"rate": 0.0}, 20)
    assert idle["fit"] is None
    assert idle["rows"][0][1:] == idle["rows"][-1][1:]


def test_two_runs_agree_and_a_large_penalty_empties_Z() -> None:
    first, second = (train("convex", 2, 5, 1, SIZES, OPTIONS, 30) for _ in range(2))
    np.testing.assert_allclose(first["rows"], second["rows"], rtol=1e-5)  # sums of two threads
    assert train("convex", 2, 5, 1, SIZES, OPTIONS | {"penalty": 300.0}, 30)["columns"] == 1.0


def test_network_has_no_layer_past_the_last_token() -> None:
    net = Network("standard", 2, 5, SIZES)
    assert tuple(net(torch.tensor([[1, 2, 5]])).shape) == (1, 5)
    assert [m.last for m in net.mixing] == [False, True]


def test_fixed_tokens_cannot_fit_without_gates() -> None:
    """f(a) + g(b) cannot answer the table; gates make the training half linear. Certified both."""
    plain, gated = fixed(11, 0, 0, (0.01,))[0], fixed(11, 12, 0, (0.01,))[0]
    assert max(plain["gap"], gated["gap"]) <= 1e-4
    assert plain["train"] < 0.9 < gated["train"]
    assert gated["test"] < 0.5


# tables and files


def test_tables_of_a_run(done: Done) -> None:
    table = curves(done)
    assert (table["excess"].dropna() >= -1e-9).all()
    assert table[table["model"].str.startswith("(3)")]["excess"].isna().all()
    assert set(speed(done)["reference"]) == {"F*", "own best"}
    runs, _ = modular(done)
    assert len(runs) == TINY.modular_seeds * (2 * len(KINDS) + 1)
    delays = runs["generalise"] - runs["fit"]
    assert delays.equals(runs["delay"])
    assert len(paths(done)) == 3 * TINY.seeds * TINY.path_count
    assert set(fixed_programs(done)["gates"]) == set(TINY.gates)


def test_an_unreached_delay_is_only_a_lower_bound() -> None:
    def row(kind: str, fit: float, delay: float, last: int = 100) -> dict[str, float | str]:
        return {"layers": 1, "seed": 0, "kind": kind, "fit": fit, "delay": delay, "last": last}

    late = pd.DataFrame([row("a", 10, 95.0), row("b", 10, np.nan)])  # b's is above 90 only
    assert shorter(late, 1, "a", "b") == (0, 0, 1)
    never = pd.DataFrame([row("a", 10, 50.0), row("b", np.nan, np.nan)])  # b has not even fitted
    assert shorter(never, 1, "a", "b") == (0, 0, 1)
    equal = pd.DataFrame([row("a", 10, 50.0), row("b", 20, 50.0)])
    assert shorter(equal, 1, "a", "b") == (0, 1, 0)


def test_step_sizes_are_the_best_of_those_tried(done: Done) -> None:
    table = searches(done)
    assert (table.groupby(["task", "model", "method"])["chosen"].sum() == 1).all()
    best = table.groupby(["task", "model", "method"])["objective"].transform("min")
    assert (table["chosen"] == (table["objective"] == best)).all()


def test_speed_is_the_first_recorded_step_below_the_level() -> None:
    key = "curve|digits|convex|Adam|0"
    done = {
        "optimum|digits|convex||0": {"lower": 1.0, "upper": 1.0, "at_zero": 4.0, "beta": 1.0,
                                     "seconds": 0.1, "active": 1, "status": "certified"},
        key: {"steps": [0, 1, 2, 4], "seconds": [0.0, 0.5, 1.0, 2.0],
              "values": [4.0, 1.5, 1.005, 1.00005], "r_squared": 0.5, "rate": 0.1},
    }  # fmt: skip
    (row,) = speed(done).to_dict("records")
    assert (row["steps_0.01"], row["seconds_0.01"]) == (2.0, 1.0)
    assert (row["steps_0.0001"], row["seconds_0.0001"]) == (4.0, 2.0)
    done[key]["values"][-1] = np.inf
    (row,) = speed(done).to_dict("records")
    assert np.isnan(row["steps_0.0001"])
    assert row["diverged"]


def test_files_of_a_run(folder: Path) -> None:
    for name in ("training", "maps", "path", "modular"):
        assert (folder / f"{name}.png").stat().st_size > 10_000
        assert (folder / f"{name}.pdf").stat().st_size > 5_000
    names = "curves speed step_sizes optima entropy path"
    kinds = "modular modular_curves modular_fixed modular_decay"
    for name in (names + " " + kinds).split():
        assert len(pd.read_csv(folder / f"{name}.csv"))
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    assert manifest["preset"]["p"] == TINY.p
    assert "hyper-parameters were not published" in (folder / "report.md").read_text("utf-8")


def test_another_presets_checkpoint_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert experiment.main(["--preset", "small", "--out", str(folder)]) == 2
    assert "another preset" in capsys.readouterr().err


def test_report_says_what_was_not_reached(done: Done) -> None:
    assert middle(pd.Series([np.nan, np.nan]), 2) == "not reached (0 of 2)"
    assert "not reached" in report(done, TINY)
    assert "smaller than the source's 97" in report(done, TINY)
    assert "smaller than the source's 97" not in report(done, replace(TINY, p=97))
