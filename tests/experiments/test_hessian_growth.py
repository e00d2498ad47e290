"""The growth experiment: its closed forms against autograd, its slopes, its files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor

import experiments.hessian_growth.experiment as module
from experiments.hessian_growth.block import (
    VOCABULARY,
    Block,
    addition,
    answers,
    dense,
    draw_block,
    embed,
    factors,
    query_norm,
    value_norm,
)
from experiments.hessian_growth.experiment import main
from experiments.hessian_growth.figure import draw as figure
from experiments.hessian_growth.layer import DEPTH_SHAPE, along_depth, along_scale, draw, forward
from experiments.hessian_growth.numbers import PUBLISHED, slope, slopes
from experiments.hessian_growth.plan import COLUMNS, PRESETS, Preset, grid, run_units
from gdconv.hessian.dense import hessian_block
from gdconv.hessian.layer import attention_layer


def logits_of(block: Block, X: Tensor, W_Q: Tensor, W_V: Tensor) -> Tensor:
    """The network with torch's own operations."""

    def norm(t: Tensor) -> Tensor:
        return torch.nn.functional.layer_norm(t, t.shape[-1:]) if block.layer_norm else t

    x = norm(X)
    T = (x @ W_Q) @ (x @ block.W_K).mT / W_Q.shape[1] ** 0.5
    mask = torch.ones_like(T[0], dtype=torch.bool).tril()
    soft = torch.softmax(T.masked_fill(~mask, float("-inf")), -1)
    A = soft if block.kernel == "softmax" else T * mask
    z = X + A @ (x @ W_V) @ block.W_O
    y = z + torch.relu(norm(z) @ block.W_in) @ block.W_out
    return (norm(y) @ block.W_U)[:, answers(X.shape[1])].flatten(0, 1)


def second(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return torch.func.jacrev(torch.func.jacrev(f))


def by_autograd(block: Block, X: Tensor, tokens: Tensor, name: str) -> dict[str, Tensor]:
    """The block and its split: Gauss-Newton through the logits, and the rest."""
    target = tokens[:, answers(X.shape[1]).start + 1 :].flatten()

    def logits(w: Tensor) -> Tensor:
        W = w.reshape(block.W_Q.shape)
        return (
            logits_of(block, X, W, block.W_V)
            if name == "W_Q"
            else logits_of(block, X, block.W_Q, W)
        )

    w = getattr(block, name).flatten()
    entropy = torch.nn.functional.cross_entropy
    total = second(lambda v: entropy(logits(v), target))(w)
    J = torch.func.jacrev(logits)(w)
    S = second(lambda t: entropy(t, target))(logits(w))
    outer = torch.einsum("tvp,tvsw,swq->pq", J, S, J)
    return {"total": total, "outer": outer, "functional": total - outer}


def small(kernel: str, layer_norm: bool, scale: float) -> tuple[Block, Tensor, Tensor]:
    tokens = addition(3, 1)
    return draw_block(5, 2, kernel, layer_norm), scale * embed(tokens, 5, 3), tokens


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("kernel", ["softmax", "linear"])
@pytest.mark.parametrize("name", ["W_Q", "W_V"])
def test_transformer_blocks_agree_with_autograd(kernel: str, layer_norm: bool, name: str) -> None:
    """1e-11 of the greatest entry of H: what autograd itself keeps."""
    block, X, tokens = small(kernel, layer_norm, 1.5)
    made, true = factors(block, X, tokens), by_autograd(block, X, tokens, name)
    size = float(true["total"].abs().max())
    norm = query_norm if name == "W_Q" else value_norm
    for part, expected in true.items():
        found = dense(made, name, part)
        assert float((found - expected).abs().max()) < 1e-11 * size, part
        assert abs(norm(made, part) - float(expected.norm())) < 1e-7 * float(true["total"].norm())


def test_missing_functional_term_is_seen() -> None:
    """The negative control of the comparison with autograd."""
    block, X, tokens = small("softmax", False, 1.5)
    made, true = factors(block, X, tokens), by_autograd(block, X, tokens, "W_Q")["total"]
    made.C["total"] = made.C["outer"]
    assert float((dense(made, "W_Q") - true).norm()) > 0.01 * float(true.norm())
    assert abs(query_norm(made, "total") / float(true.norm()) - 1) > 1e-3


def test_sums_are_right_and_drawn_from_the_seed() -> None:
    rows = addition(50, 4).tolist()
    for row in rows:
        a, b, c = (int("".join(map(str, row[i:j]))) for i, j in ((0, 5), (6, 11), (12, 18)))
        assert a + b == c
        assert (row[5], row[11]) == (10, 11)
    assert addition(50, 4).tolist() == rows
    assert addition(50, 5).tolist() != rows


def test_embeddings_are_token_plus_position() -> None:
    tokens = torch.tensor([[3, 3, 0], [0, 3, 3]])
    X = embed(tokens, 4, 0)
    step = X[0, 1] - X[0, 0]  # from the first position to the second, same token
    other = embed(torch.tensor([[7, 7, 0]]), 4, 0)[0]
    assert torch.allclose(other[1] - other[0], step)
    assert not torch.allclose(X[0, 0], X[1, 0])
    assert int(tokens.max()) < VOCABULARY


def test_last_layer_of_depth_is_the_single_layer() -> None:
    """By autograd and by the closed form at the tokens that the last layer sees, 1e-11."""
    drawn = draw(DEPTH_SHAPE, 0, 2)
    found = {(block, part): v for _, block, part, v in along_depth(2, 0, (0.7,))}
    names = ("W_Q", "W_K", "W_V")
    X = forward(0.7 * drawn["X"], *(drawn[name][:1] for name in names))
    Q, K, V = (drawn[name][1] for name in names)
    layer = attention_layer(X, drawn["Y"], V, Q, K, kernel="linear")
    for name, label in (("W_Q", "Q2"), ("W_V", "V2")):
        for part in ("total", "outer"):
            expected = float(hessian_block(layer, name, name, part).norm())
            assert found[label, part] == pytest.approx(expected, rel=1e-11)
        assert found[label, "functional"] == 0.0
        assert found[label[0] + "1", "functional"] > 0.0


def test_slope_and_interval_are_those_of_student() -> None:
    x = np.array([1.0, 2.0, 5.0, 9.0])
    powers = np.array([1.9, 2.0, 2.3])
    found = slope(x, 3.0 * x ** powers[:, None])
    assert found is not None
    half = 4.302652729911275 * powers.std(ddof=1) / 3**0.5
    assert (found.mean, found.lo) == pytest.approx((powers.mean(), powers.mean() - half))
    mean = np.polyfit(np.log(x), np.log((x ** powers[:, None]).mean(0)), 1)[0]
    assert found.of_mean == pytest.approx(mean)


def test_slopes_of_huge_and_tiny_norms_survive_and_zeros_have_none() -> None:
    x = np.array([1.0, 10.0, 100.0])
    huge = np.stack([1e100 * x**54, 1e90 * x**54])
    found = slope(x, huge)
    assert found is not None
    assert found.mean == pytest.approx(54.0)
    assert found.of_mean == pytest.approx(54.0)
    assert slope(x, np.stack([x, 0 * x])) is None
    assert slope(x, np.stack([x, np.inf * x])) is None


def planted(power: float) -> pd.DataFrame:
    """Norms of one block with a given exponent."""
    scales = grid(1e-4, 10**1.5, 10)
    rows = [
        ("scale", "softmax", seed, s, "QQ", "total", (1 + seed) * s**power)
        for seed in range(3)
        for s in scales
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


@pytest.mark.parametrize(
    ("power", "agrees"), [(5.0, True), (5.09, True), (5.2, False), (6.0, False)]
)
def test_a_wrong_exponent_does_not_agree(power: float, agrees: bool) -> None:
    table = slopes(planted(power)).set_index("fit")
    assert bool(table.loc["law", "agrees"]) is agrees
    assert table.loc["law", "law"] == 5.0
    assert np.isnan(table.loc["wide", "law"])  # a wide range is never compared with the law
    assert np.isfinite(table.loc["law", "holds_to"]) == agrees


@pytest.mark.parametrize("variant", ["softmax", "linear"])
def test_bare_layer_obeys_its_laws_at_small_scales(variant: str) -> None:
    """Exponents of every block and part within 0.1, three seeds."""
    scales = grid(1e-3, 1e-2, 4)
    rows = [("scale", variant, seed, *row)
            for seed in range(3) for row in along_scale(variant, seed, scales)]  # fmt: skip
    table = slopes(pd.DataFrame(rows, columns=list(COLUMNS)))
    here = table[(table["fit"] == "law") & ~table["zero"]]
    assert here["agrees"].astype(bool).all()
    zero = {(r["block"], r["part"]) for _, r in table[table["zero"]].iterrows()}
    exact = {("VV", "functional")}
    exact |= {("QQ", "functional"), ("KK", "functional")} if variant == "linear" else set()
    assert zero == exact


def test_published_numbers_are_those_of_the_issue() -> None:
    (q_low, q_high), (v_low, v_high), (n_low, n_high) = (
        PUBLISHED[key] for key in (
            ("without layer norm", "QQ", "total"), ("without layer norm", "VV", "total"),
            ("with layer norm", "QQ", "total"),
        )
    )  # fmt: skip
    found = [end[0] for end in (q_low, q_high, v_low, v_high, n_low, n_high)]
    assert found == [4.98, 4.29, 1.98, 1.91, -0.06, -0.99]


def test_kept_rows_are_those_that_were_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = Preset("tiny", 2, 4, 1, 1, 2, 4, 16, 4)
    whole = run_units(preset, tmp_path)
    monkeypatch.setattr("experiments.hessian_growth.plan.measure", interrupted)
    assert run_units(preset, tmp_path).equals(whole)


def test_files_and_messages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(PRESETS, "quick", Preset("quick", 2, 4, 2, 2, 2, 4, 16, 4))
    drawn: list[Figure] = []

    def plain(rows: pd.DataFrame, table: pd.DataFrame) -> Figure:
        """Every panel is made, but rendering fifteen takes seconds."""
        drawn.append(figure(rows, table))
        return Figure(figsize=(1, 1))

    monkeypatch.setattr(module, "draw", plain)
    assert main(["--preset", "quick", "--out", str(tmp_path)]) == 0
    assert [len(part.axes) for part in drawn[0].subfigs] == [4, 4, 3, 4]
    for axes in drawn[0].axes:
        assert axes.get_xlabel()
        assert axes.get_title(loc="left")
    for name in ("slopes.csv", "curves.csv", "report.md", "manifest.json", "figure.png",
                 "figure.pdf"):  # fmt: skip
        assert (tmp_path / name).stat().st_size > 0
    assert "not like with like" in (tmp_path / "report.md").read_text("utf-8")
    assert json.loads((tmp_path / "manifest.json").read_text("utf-8"))["preset"]["seeds"] == 2
    capsys.readouterr()
    monkeypatch.setitem(PRESETS, "quick", Preset("quick", 3, 4, 2, 2, 2, 4, 16, 4))
    assert main(["--preset", "quick", "--out", str(tmp_path)]) == 2
    assert "another preset" in capsys.readouterr().err


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt
