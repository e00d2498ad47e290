"""The figure of a monitored training, and the page that makes one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gdconv.monitoring.plots import monitor_figure

PAGE = Path(__file__).resolve().parents[2] / "docs" / "monitor.md"


def frame(steps: list[int]) -> pd.DataFrame:
    t = np.array(steps, dtype=float)
    loss = 3.0 * np.exp(-t / 10)
    made = {"step": steps, "loss": loss, "loss_lo": 0.9 * loss, "loss_hi": 1.2 * loss}
    made |= {"loss_ratio": loss / 3.0, "sigma_min_lo": 1 + t, "sigma_min_hi": 1.5 + t}
    return pd.DataFrame(made | {"lambda_max": 2 + t, "lambda_max_error": 0.25 + 0 * t})


def test_values_and_bars_are_those_of_the_frame() -> None:
    rows = frame([0, 5, 10])
    fig = monitor_figure(rows, "watched $x")
    wanted = [
        (rows["loss_ratio"], rows["loss_lo"] / 3, rows["loss_hi"] / 3),
        (rows["sigma_min_lo"] + 0.25, rows["sigma_min_lo"], rows["sigma_min_hi"]),
        (rows["lambda_max"], rows["lambda_max"] - 0.25, rows["lambda_max"] + 0.25),
    ]
    for axes, (y, low, high) in zip(fig.axes, wanted, strict=True):
        np.testing.assert_allclose(axes.lines[0].get_ydata(), y)
        band = np.asarray(axes.collections[0].get_paths()[0].vertices)[:, 1]
        assert {*np.round(low, 9), *np.round(high, 9)} <= {*np.round(band, 9)}
    assert fig.axes[0].get_title(loc="left") == "watched $x"
    assert [a.get_xscale() for a in fig.axes] == ["linear"] * 3


def test_early_looks_are_spread_and_no_estimate_is_no_panel() -> None:
    fig = monitor_figure(frame([0, 1, 2, 3, 5, 8, 100]).drop(columns="lambda_max"), "watched")
    assert len(fig.axes) == 2
    assert fig.axes[1].get_xscale() == "symlog"


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text("utf-8")
    code, shown = re.findall(r"```python\n(.*?)```", text, re.DOTALL), re.findall(
        r"```text\n(.*?)```", text, re.DOTALL
    )  # fmt: skip
    space: dict[str, Any] = {}
    exec("\n".join(code), space)
    assert (tmp_path / "figure.pdf").exists()
    number = r"\d+\.\d+"
    now, then = space["monitor"].summary(), shown[0].strip()
    share = r"[\d.]+ % of"
    now, then = (re.sub(share, "- % of", text) for text in (now, then))
    assert re.sub(number, "-", now) == re.sub(number, "-", then)
    pairs = zip(re.findall(number, now), re.findall(number, then), strict=True)
    assert all(float(a) == pytest.approx(float(b), rel=0.02) for a, b in pairs)
    assert len(text.splitlines()) < 60
