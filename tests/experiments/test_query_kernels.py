"""The kernel comparison: its statistics, censoring, direction of the ratio, files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from samples import draw, model

from experiments.query_kernels.experiment import cause_of, main, run
from experiments.query_kernels.map import (
    Shape,
    cell,
    leader,
    measure,
    median_interval,
    ratio,
    shapes,
)
from gdconv.models.multihead.probes import probe
from gdconv.models.multihead.tangent import kappa_0
from gdconv.support.errors import InputError

FILES = ("map.csv", "map.md", "reached.csv", "manifest.json", "figure.pdf", "figure.png")


def picked(rows: list[dict], quantity: str, kernel: str) -> dict:
    """The one row of that quantity and kernel."""
    (row,) = [r for r in rows if r["quantity"] == quantity and r["kernel"] == kernel]
    return row


def test_interval_covers_the_median() -> None:
    """Exact coverage at 24 is 97.7 %; 2000 log-normal samples, four standard errors of slack."""
    rng = np.random.default_rng(0)
    covered = 0
    for sample in np.exp(3 * rng.standard_normal((2000, 24))):
        _, _, lo, hi = median_interval(sample)
        covered += lo <= 1 <= hi
    exact = 1 - 2 * sum(math.comb(24, j) for j in range(7)) / 2**24
    assert exact == pytest.approx(0.9773, abs=1e-4)
    assert abs(covered / 2000 - exact) < 4 * math.sqrt(exact * (1 - exact) / 2000)


def test_interval_is_the_largest_order_that_keeps_95_percent() -> None:
    assert median_interval(np.arange(1.0, 25.0))[2:] == (7.0, 18.0)
    assert median_interval(np.arange(1.0, 7.0))[2:] == (1.0, 6.0)
    with pytest.raises(InputError, match="seeds = 5"):
        median_interval(np.ones(5))


def test_median_treats_a_ratio_and_its_inverse_alike() -> None:
    values = np.array([1.0, 2.0, 3.0, 12.0, 20.0, 50.0])
    forth, back = median_interval(values), median_interval(1 / values)
    assert forth[0] == pytest.approx(6.0)
    assert back[0] == pytest.approx(1 / 6)
    assert back[2:] == pytest.approx((1 / forth[3], 1 / forth[2]))


def test_ranges_hold_what_any_choice_inside_them_gives() -> None:
    rng = np.random.default_rng(1)
    low = rng.random(12)
    high = low + np.where(rng.random(12) < 0.4, 3.0, 0.0)
    least, most, lo, hi = median_interval(low, high)
    for _ in range(200):
        inside = low + rng.random(12) * (high - low)
        median, _, left, right = median_interval(inside)
        assert least - 1e-12 <= median <= most + 1e-12
        assert lo <= left
        assert right <= hi


def test_zero_is_censored_and_never_divided_by() -> None:
    one, none = np.ones(6), np.zeros(6)
    low, high = ratio((one, one), (none, 1e-20 * one))
    assert np.allclose(low, 1e20)
    assert np.isinf(high).all()
    low, high = ratio((none, 1e-20 * one), (one, one))
    assert (low == 0).all()
    assert np.allclose(high, 1e-20)
    low, high = ratio((none, 1e-20 * one), (none, 1e-20 * one))
    assert (low == 0).all()
    assert np.isinf(high).all()
    assert median_interval(low, high) == (0.0, math.inf, 0.0, math.inf)  # nothing is claimed


def test_structural_zero_of_softmax_is_undecided_in_every_seed() -> None:
    """H = 1 < D_y = 2 on two tokens: no softmax query weights reach both outputs."""
    rows = cell(Shape(3, 2, 8, 3, 1, 2), 0.5, 8)
    assert picked(rows, "kappa_0", "softmax")["undecided"] == 8
    assert picked(rows, "kappa_0", "gaussian")["undecided"] == 0
    found = picked(rows, "kappa_0", "ratio")
    assert found["undecided"] == 8
    assert found["median"] > 1e6
    assert math.isinf(found["median_most"])
    assert leader(found["lo"], found["hi"]) == "gaussian"


def test_shapes_that_cannot_have_kappa_0_are_left_out() -> None:
    found = list(shapes())
    assert all(s.m <= s.queries for s in found)
    assert len(found) == len(set(found)) == 32


def test_undecided_with_fewer_weights_than_outputs() -> None:
    problem, params = draw((3, 3, 2, 1, 2, 2), 0, runs=4)
    found = measure("gaussian", problem, params)
    assert (found["low"] == 0).all()
    assert (found["high"] > 0).all()
    assert (found["high"] < 1e-20 * found["norm"]).all()


@pytest.mark.parametrize("kernel", ["softmax", "gaussian"])
def test_measured_kappa_0_and_entropy_are_the_librarys(kernel: str) -> None:
    problem, params = draw((2, 2, 6, 3, 4, 2), 0, 0.5, runs=4)
    found = measure(kernel, problem, params)
    assert np.allclose(found["low"], kappa_0(model(kernel), problem, params), rtol=1e-9)
    assert (found["low"] == found["high"]).all()
    assert (found["flattest"] <= found["tangent"]).all()
    probed = probe(model(kernel), problem, params)
    assert np.allclose(found["entropy"], probed.entropy, rtol=1e-12)


def test_kappa_0_is_at_most_the_flattest_row_allows() -> None:
    """kappa_0 <= max |x|^2 times the least squared tangent norm."""
    problem, params = draw((2, 2, 6, 3, 4, 1), 0, 2.0, runs=8)
    longest = problem.X.square().sum(-1).flatten(1).max(1).values.numpy()
    for kernel in ("softmax", "gaussian"):
        found = measure(kernel, problem, params)
        assert (found["low"] <= longest * found["flattest"] ** 2 * (1 + 1e-9)).all()


def test_direction_of_the_ratio() -> None:
    """Gaussian over softmax: ahead at small scale, behind at large scale (16 seeds)."""
    shape = Shape(2, 2, 8, 4, 8, 1)
    small, large = cell(shape, 0.2, 16), cell(shape, 4.0, 16)
    medians = {k: picked(small, "kappa_0", k)["median"] for k in ("softmax", "gaussian")}
    assert medians["gaussian"] > medians["softmax"]
    at_small, at_large = (picked(rows, "kappa_0", "ratio") for rows in (small, large))
    assert leader(at_small["lo"], at_small["hi"]) == "gaussian"
    assert at_large["median"] < 1
    tangents = [picked(rows, "tangent/scale", "softmax")["median"] for rows in (small, large)]
    assert tangents[1] < 0.1 * tangents[0]  # saturation


def test_causes() -> None:
    assert cause_of("stalls at loss 1: saturation, |J| is 1e-4 of its bound") == "saturation"
    assert cause_of("stalls at loss 1: something new") == "other"


def test_quick_run_writes_every_file(tmp_path: Path) -> None:
    run(tmp_path / "a", 6, quick=True)
    for name in FILES:
        assert len((tmp_path / "a" / name).read_bytes()) > 100
    table = pd.read_csv(tmp_path / "a" / "map.csv")
    assert set(table["quantity"]) >= {"kappa_0", "kappa_0/|K_Q|", "tangent/scale", "entropy"}
    assert (table["lo"] <= table["median"]).all()
    assert (table["median_most"] <= table["hi"]).all()
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert manifest["command"] == "python -m experiments.query_kernels --seeds 6 --quick"
    assert "torch" in manifest["environment"]["packages"]


def test_a_cell_repeats_itself() -> None:
    first, second = (pd.DataFrame(cell(Shape(2, 2, 8, 4, 8, 1), 0.5, 6)) for _ in range(2))
    assert list(first.columns) == list(second.columns)
    assert list(first["quantity"]) == list(second["quantity"])
    # not bytes: the alignment of an array may change the last bits of a matrix product
    seen = [np.log10(t["median"].clip(lower=1e-9)) for t in (first, second)]
    assert np.allclose(seen[0], seen[1], atol=1e-3, equal_nan=True)


def test_too_few_seeds_are_refused_by_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--seeds", "5", "--out", str(tmp_path / "x")]) == 2
    assert "seeds = 5: give at least 6" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
