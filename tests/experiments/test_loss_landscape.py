"""The loss landscapes: two stages, directions, pairing, resuming, the path, wording."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch
from torch.func import functional_call

from experiments.loss_landscape import experiment as loss_landscape
from experiments.loss_landscape import network, regression, runs
from experiments.loss_landscape.experiment import main, run
from experiments.loss_landscape.figure import draw, draw_numbers, scale_of
from experiments.loss_landscape.numbers import claim_of, compare, measured
from experiments.loss_landscape.plan import KERNELS, PRESETS
from experiments.loss_landscape.runs import Plane, grid_points
from experiments.tasks.classifier import ClassifierSizes, TransformerClassifier
from experiments.tasks.landscape import MEASURES, axis_of, roughness
from experiments.tasks.trained import load
from gdconv.report.figures import save_figure

TINY = PRESETS["tiny"]
TEXT = TINY.stages[0]
ONE = replace(TINY, stages=(TEXT,), seeds=2, draws=1)
TABLES = ("planes", "spreads", "pairs", "trained", "paths")


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, pd.DataFrame]]:
    """The tiny preset, run once; figures, which take most of the time, are tested apart."""
    out = tmp_path_factory.mktemp("landscape")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loss_landscape, "_figures", lambda *_: {})
        return out, run(TINY, out)


@pytest.fixture(scope="module")
def net() -> TransformerClassifier:
    """A network of two layers, in float64."""
    sizes = ClassifierSizes(tokens=6, symbols=20, D=8, d=8, H=2)
    return TransformerClassifier(sizes, "gaussian", seed=1).double().requires_grad_(False)


@pytest.fixture(scope="module")
def samples() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randint(1, 20, (12, 6)), torch.randint(0, 2, (12,))


def test_all_files_are_written(result: tuple[Path, dict[str, pd.DataFrame]]) -> None:
    out, tables = result
    names = [f"{n}.csv" for n in TABLES] + ["report.md", "manifest.json"]
    assert all((out / name).stat().st_size > 100 for name in names)
    assert not list(out.rglob(".*"))
    planes = tables["planes"]
    each = TINY.draws + TINY.leading
    assert len(planes) == len(KERNELS) * TINY.seeds * (3 * each + 2)
    assert planes[[*MEASURES, "lowest", "highest"]].notna().all().all()
    assert planes["bending"].ge(1 - 1e-9).all()
    assert planes["negative"].between(0, 1).all()


def test_a_stand_in_is_called_one_wherever_it_appears(
    result: tuple[Path, dict[str, pd.DataFrame]],
) -> None:
    out, _ = result
    for name in TABLES[:-1]:
        table = pd.read_csv(out / f"{name}.csv")
        assert table[table["task"] == "text"]["data"].str.contains("stand-in").all()
    text = (out / "report.md").read_text("utf-8")
    assert "## stand-in (generated text)" in text
    assert "not reviews" in text
    manifest = json.loads((out / "manifest.json").read_text("utf-8"))
    assert "stand-in" in manifest["data"]["text"]
    assert "stand-in" in manifest["preset"]["stages"][0]["task"]["data"]


def test_kept_grids_give_the_numbers_of_a_whole_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_landscape, "_figures", lambda *_: {})
    whole = run(ONE, tmp_path)

    def again(*_: object) -> None:
        raise AssertionError("a finished grid was made again")

    monkeypatch.setattr(runs, "plane_losses", again)
    for name, table in run(ONE, tmp_path).items():
        pd.testing.assert_frame_equal(table, whole[name])


def test_both_second_stages_start_from_the_softmax_stage(tmp_path: Path) -> None:
    """With no steps between, the kernels share all weights; the control is trained on too."""
    seen = {}
    for kernel in KERNELS:
        net, made = network.two_stages(TEXT, TINY, kernel, 0, tmp_path, "cpu")
        seen[kernel] = (net, made)
        assert net.kernel == kernel
        assert [row["step"] for row in made.rows] == [0, TEXT.second]
    state = torch.load(tmp_path / "text-first-0.pt", weights_only=True)
    data = load(TEXT.task)
    for kernel in KERNELS:
        start = TransformerClassifier(data.network(TINY.model), kernel)
        start.load_state_dict(state["net"])
        with torch.no_grad():
            loss = torch.nn.functional.cross_entropy(start(data.X_test), data.y_test)
        assert seen[kernel][1].rows[0]["loss"] == pytest.approx(float(loss), rel=1e-5)
        moved = seen[kernel][0].get_parameter("norm.weight") - state["net"]["norm.weight"]
        assert float(moved.abs().max()) > 0


def test_directions_move_queries_and_keys_only(net: TransformerClassifier) -> None:
    u, v = network.random_directions(net, 0, 0)
    weights, rows = network.attention_parts(net)
    assert len(weights) == 2
    for direction, part, other in ((u, "W_Q", "W_K"), (v, "W_K", "W_Q")):
        for name, W in weights.items():
            here = direction[name]
            torch.testing.assert_close(here[rows[part]].norm(dim=1), W[rows[part]].norm(dim=1))
            assert not here[rows[other]].any()
            assert not here[2 * net.sizes.H * net.sizes.c :].any()
    # W_Q = 0 makes all scores 0: if the rows were not those of the queries, keys would matter
    none = {k: W.clone() for k, W in weights.items()}
    for W in none.values():
        W[rows["W_Q"]] = 0.0
    softmax = TransformerClassifier(net.sizes, "softmax", seed=1).double()
    for name in none:
        softmax.get_parameter(name[: -len("weight")] + "bias").data.zero_()
    X = torch.tensor([[1, 2, 3, 4, 5, 6]])
    with torch.no_grad():
        plain = functional_call(softmax, none, (X,))
        keys = functional_call(softmax, {k: none[k] + 3 * v[k] for k in none}, (X,))
        queries = functional_call(softmax, {k: none[k] + 3 * u[k] for k in none}, (X,))
    torch.testing.assert_close(keys, plain)
    assert not torch.allclose(queries, plain)


def test_kernels_see_the_same_draw_and_draws_differ(net: TransformerClassifier) -> None:
    other = TransformerClassifier(net.sizes, "softmax", seed=1).double()
    name = next(iter(network.attention_parts(net)[0]))
    assert torch.equal(
        network.random_directions(net, 0, 1)[0][name],
        network.random_directions(other, 0, 1)[0][name],
    )
    first, second = (network.random_directions(net, 0, draw)[0][name] for draw in (0, 1))
    assert abs(float(torch.cosine_similarity(first.flatten(), second.flatten(), dim=0))) < 0.5


def test_leading_directions_are_those_of_the_dense_hessian(
    net: TransformerClassifier, samples: tuple[torch.Tensor, torch.Tensor]
) -> None:
    """Against torch's own Hessian of the W_Q rows of both layers."""
    X, y = samples
    weights, rows = network.attention_parts(net)
    size = 2 * 8 * 8

    def loss(q: torch.Tensor) -> torch.Tensor:
        block = {}
        for part, (name, W) in zip(q.view(2, 8, 8), weights.items(), strict=True):
            block[name] = torch.cat([part, W[rows["W_Q"].stop :]])
        return torch.nn.functional.cross_entropy(functional_call(net, block, (X,)), y)

    at = torch.cat([W[rows["W_Q"]].flatten() for W in weights.values()])
    values, vectors = torch.linalg.eigh(torch.autograd.functional.hessian(loss, at))
    assert len(values) == size
    for i, (u, v, extra) in enumerate(network.leading_directions(net, X, y, 2)):
        assert extra["eigenvalue_W_Q"] == pytest.approx(float(values[-1 - i]), rel=2e-2)
        found = torch.cat([u[name][rows["W_Q"]].flatten() for name in weights])
        assert float(found.norm()) == pytest.approx(float(at.norm()), rel=1e-10)
        assert abs(float(found @ vectors[:, -1 - i]) / float(found.norm())) > 0.95
        assert not any(u[name][rows["W_K"]].any() for name in weights)
        assert not any(v[name][rows["W_Q"]].any() for name in weights)


def test_losses_of_a_grid_are_those_of_moved_networks(
    net: TransformerClassifier, samples: tuple[torch.Tensor, torch.Tensor]
) -> None:
    weights, _ = network.attention_parts(net)
    u, _ = network.random_directions(net, 0, 0)
    block = {k: torch.stack([W, W + 0.5 * u[k]]) for k, W in weights.items()}
    made = network.losses_of(net, *samples)(block)
    moved = TransformerClassifier(net.sizes, "gaussian", seed=1).double()
    state = moved.state_dict() | {k: part[1] for k, part in block.items()}
    moved.load_state_dict(state)
    moved.requires_grad_(False)
    expected = torch.nn.functional.cross_entropy(moved(samples[0]), samples[1])
    assert float(made[1]) == pytest.approx(float(expected), rel=1e-12)


@pytest.fixture(scope="module")
def descents() -> dict[str, regression.Descent]:
    return {kernel: regression.descend(TINY.regression, kernel, 0) for kernel in KERNELS}


def test_the_path_starts_at_the_same_weights_and_falls(
    descents: dict[str, regression.Descent],
) -> None:
    starts = []
    for one in descents.values():
        assert (np.diff(one.losses) <= 1e-12).all()
        end = np.concatenate([W.numpy().ravel() for W in one.weights().values()])
        starts.append(one.path[0] + end)
        assert not one.path[-1].any()
        weights = {k: W[None] for k, W in one.weights().items()}
        assert float(regression.losses_of(one)(weights)) == pytest.approx(one.losses[-1], rel=1e-12)
        first = {
            k: (W + move)[None]
            for (k, W), move in zip(
                one.weights().items(), one.block(one.path[0]).values(), strict=True
            )
        }
        assert float(regression.losses_of(one)(first)) == pytest.approx(one.losses[0], rel=1e-9)
    np.testing.assert_allclose(starts[0], starts[1], atol=1e-12)


def test_the_principal_plane_shows_more_of_the_path_than_any_other(
    descents: dict[str, regression.Descent],
) -> None:
    for one in descents.values():
        shares = {
            kind: regression.on_plane(one, *regression.path_directions(one, kind))[1]
            for kind in ("pca", "path")
        }
        shares["random"] = regression.on_plane(one, *regression.random_directions(one, 0, 0))[1]
        assert shares["pca"] >= shares["path"] >= shares["random"]
        assert shares["path"] <= 1 - regression.share_of_values(one) + 1e-12
        u, v = regression.path_directions(one, "path")
        assert (list(u), list(v)) == (["W_Q"], ["W_K"])


def test_leading_directions_of_the_regression_have_their_curvature(
    descents: dict[str, regression.Descent],
) -> None:
    """Second difference of the loss along the direction, scaled to a unit vector."""
    for one in descents.values():
        u, v, extra = regression.leading_directions(one, 1)[0]
        for direction, name in ((u, "W_Q"), (v, "W_K")):
            step = 1e-4 / float(direction[name].norm())
            block = {
                k: torch.stack([W + t * direction.get(k, 0 * W) for t in (-step, 0.0, step)])
                for k, W in one.weights().items()
            }
            low, middle, high = regression.losses_of(one)(block).tolist()
            seen = (high - 2 * middle + low) / 1e-8
            assert seen == pytest.approx(extra[f"eigenvalue_{name}"], rel=1e-3)


def test_the_end_of_the_path_is_a_point_of_its_grid() -> None:
    a, b = regression.extents([np.array([[0.0, 0.0], [1.3, 0.2]]), np.zeros((1, 2))], 41)
    assert 0.0 in a
    assert 0.0 in b
    assert a.min() < 0 < 1.3 < a.max()
    assert b.min() < 0 < 0.2 < b.max()


def test_numbers_of_a_finer_grid_are_taken_at_the_common_spacing() -> None:
    fine, common = axis_of(9, 1.0), axis_of(5, 1.0)
    f = lambda axis: np.sin(3 * axis)[:, None] * np.cos(2 * axis)  # noqa: E731
    one = measured(f(fine), (fine, fine), 5, 2.0**-52)
    two = measured(f(common), (common, common), 5, 2.0**-52)
    assert {k: one[k] for k in MEASURES} == pytest.approx(two)
    whole = roughness(f(fine), (0.25, 0.25))
    assert one["fine_bending"] == pytest.approx(whole.bending)
    assert not any(name.startswith("fine") for name in two)


def table(gap: float, seeds: int = 3, flipped: int | None = None) -> pd.DataFrame:
    """Planes whose softmax side is rougher by about `gap`, in seed `flipped` less rough."""
    rng = np.random.default_rng(0)
    rows = []
    for seed in range(seeds):
        for number in range(4):
            for kernel in KERNELS:
                sign = -1.0 if seed == flipped else 1.0
                more = sign * gap * (kernel == "softmax") + 0.1 * rng.standard_normal()
                names = {"task": "t", "kind": "random", "kernel": kernel, "seed": seed}
                rows.append(names | {"draw": number} | dict.fromkeys(MEASURES, 5 + more))
    return pd.DataFrame(rows).sample(frac=1, random_state=1)


def test_a_claim_needs_interval_signs_and_every_seed() -> None:
    assert set(compare(table(1.0))["claim"]) == {"seen"}
    assert set(compare(table(-1.0))["claim"]) == {"reversed"}
    assert set(compare(table(0.0))["claim"]) == {"open"}
    assert set(compare(table(1.0, seeds=1))["claim"]) == {"open"}  # four signs: p >= 1/8
    mixed = compare(table(1.0, seeds=5, flipped=0))
    assert (mixed["lo"] > 0).all()
    assert set(mixed["claim"]) == {"open"}
    assert claim_of(0.1, 1.0, float("nan"), agree=True) == "seen"  # no exact test of so many


def test_planes_of_a_path_are_not_compared() -> None:
    planes = pd.concat([table(1.0), table(1.0).assign(kind="pca")])
    assert set(compare(planes)["kind"]) == {"random"}


def test_kernels_share_a_scale() -> None:
    axis = axis_of(5, 1.0)
    flat, steep = np.full((5, 5), 0.5), np.add.outer(axis**2, axis**2)
    for kind in ("random", "pca"):
        pair = [
            Plane("t", kernel, 0, kind, 0, (axis, axis), z)
            for kernel, z in zip(KERNELS, (flat, steep), strict=True)
        ]
        norm, levels = scale_of(pair)
        assert norm.vmax == 2.0
        assert norm.vmin == (0.0 if kind == "random" else 2e-5)
        assert (levels >= norm.vmin).all()
        assert (levels <= norm.vmax * (1 + 1e-12)).all()


def test_figures_have_both_kernels_at_one_scale(
    result: tuple[Path, dict[str, pd.DataFrame]], tmp_path: Path
) -> None:
    axis = axis_of(5, 1.0)
    path = np.array([[0.8, 0.4], [0.0, 0.0]])
    planes = [
        Plane("t", kernel, 0, "pca", 0, (axis, axis), np.add.outer(axis**2, c * axis**2) + 0.1,
              {"share": 0.5}, path)
        for c, kernel in enumerate(KERNELS, 1)
    ]  # fmt: skip
    figure = draw(planes, "a title", "loss, nats")
    axes = [part for part in figure.axes if part.get_title()]
    assert len(axes) == 4
    heights = {part.get_zlim() for part in cast("list[Any]", axes[:2])}
    assert len(heights) == 1
    for part in axes[2:]:
        norm = part.collections[0].norm
        assert (norm.vmin, norm.vmax) == pytest.approx((0.1, 3.1))
    assert all("50.0 %" in part.get_title() for part in axes[2:])
    assert all(part.get_xlabel() and part.get_ylabel() for part in axes)
    figure.set_layout_engine("none")  # laying out takes seconds
    assert save_figure(figure, tmp_path / "figure")[1].stat().st_size > 1000
    numbers = result[1]["planes"]
    shown = draw_numbers(numbers[numbers["task"] == "text"], {"text": "stand-in (generated text)"})
    assert len(shown.axes) == len(MEASURES)
    assert "stand-in" in shown.axes[0].get_ylabel()


def test_drawn_planes_are_finer_and_the_bar_counts_all_points() -> None:
    small = PRESETS["small"]
    assert small.points_of(0, 0) == 41
    assert small.points_of(0, 1) == small.points_of(1, 0) == 21
    square = sum(small.points_of(s, d) ** 2 for s in range(3) for d in (0, 1, 2, 3, 0, 1))
    paths = 2 * sum(small.points_of(s, 0) ** 2 for s in range(3))
    assert grid_points(small) == 2 * (3 * square + paths)


def test_an_unknown_preset_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--preset", "huge"])
    assert "huge" in capsys.readouterr().err
