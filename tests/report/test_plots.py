"""Figures: every run and statement is drawn, labels do not overlap, files are reproducible."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from gdconv.report.example import STATEMENTS, example_check
from gdconv.report.figures import save_figure
from gdconv.report.labels import spread
from gdconv.report.plots import MEASURED, figure, side_by_side
from gdconv.support.errors import InputError


def measured(axes):
    return [
        line for line in axes.lines if line.get_color() == MEASURED and len(line.get_xdata()) > 1
    ]


@pytest.mark.parametrize("runs", [1, 3, 12])
def test_one_line_per_run_and_the_measured_values(runs):
    check = example_check(runs)
    top, low = figure(check).axes
    assert len(measured(top)) == runs
    assert top.get_yscale() == "log"
    for run, line in enumerate(measured(top)):
        rows = check.trace[check.trace["run"] == run]
        np.testing.assert_array_equal(line.get_ydata(), rows["loss_ratio"])
        np.testing.assert_array_equal(line.get_xdata(), rows["step"])
    assert top.get_shared_x_axes().joined(top, low)


def test_every_statement_is_named_with_its_verdict():
    top = figure(example_check(2)).axes[0]
    names = {text.get_text().split(":")[0]: text.get_text() for text in top.texts}
    assert set(names) == set(STATEMENTS)
    assert "refuted" in names["stacked"]
    assert "vacuous" in names["kernel"]


def test_first_violations_are_marked_at_their_step():
    check = example_check(2)
    top = figure(check).axes[0]
    marks = [
        line.get_xdata()[0]
        for line in top.lines
        if line.get_marker() == "X" and len(line.get_xdata())
    ]
    assert sorted(marks) == sorted(s for s in check.verdicts["first_violation"] if s >= 0)


def test_labels_do_not_overlap_and_stay_inside():
    for check in (example_check(2), example_check(2, log_drop=0.05), example_check(6)):
        fig = figure(check)
        canvas = FigureCanvasAgg(fig)
        canvas.draw()
        boxes = [Text.get_window_extent(text, canvas.get_renderer()) for text in fig.axes[0].texts]
        boxes.sort(key=lambda box: box.y0)
        for below, above in zip(boxes, boxes[1:], strict=False):
            assert above.y0 >= below.y1 - 2
        assert all(box.x1 <= fig.bbox.x1 + 1 for box in boxes)


@pytest.mark.parametrize("log_drop", [0.05, 3.0, 18.0, 60.0])
def test_the_loss_fills_a_fair_part_of_its_axis(log_drop):
    check = example_check(1, log_drop=log_drop)
    low, high = figure(check).axes[0].get_ylim()
    ratio = check.trace["loss_ratio"]
    assert low < ratio.min() < ratio.max() < high
    assert np.log(ratio.max() / ratio.min()) > 0.5 * np.log(high / low)


def test_an_early_fall_is_spread_out():
    check = example_check(1, last=100_000)
    trace = check.trace
    trace["loss_ratio"] = np.maximum(np.exp(-trace["step"] / 50), 1e-9)
    assert figure(check).axes[0].get_xscale() == "symlog"
    assert figure(example_check(1)).axes[0].get_xscale() == "linear"


def test_sigma_panel_shows_the_enclosure_and_goes_log():
    check = example_check(1)
    low = figure(check).axes[1]
    assert low.get_yscale() == "linear"
    assert len(low.collections) == 1
    check.trace[["sigma_min_lo", "sigma_min_hi"]] *= np.linspace(1, 0.01, len(check.trace))[:, None]
    assert figure(check).axes[1].get_yscale() == "log"


@pytest.mark.parametrize(
    "fault", ["zero sigma", "nan bound", "zero loss", "one record", "nan loss"]
)
def test_degenerate_checks_are_drawn(fault):
    check = example_check(2)
    if fault == "zero sigma":
        check.trace[["sigma_min_lo", "sigma_min_hi"]] = 0.0
    elif fault == "nan bound":
        check.trace["bound[per-head]"] = np.nan
    elif fault == "zero loss":
        check.trace.loc[check.trace["step"] > 10, "loss_ratio"] = 0.0
    elif fault == "one record":
        check.trace = check.trace[check.trace["step"] == 0]
    else:
        check.trace["loss_ratio"] = np.nan
    FigureCanvasAgg(figure(check)).draw()


def test_side_by_side_shares_scales_and_colours():
    fig = side_by_side([example_check(2), example_check(3, kernel="gaussian", log_drop=9)])
    top_a, top_b, low_a, low_b = fig.axes
    assert top_a.get_ylim() == top_b.get_ylim()
    assert low_a.get_ylim() == low_b.get_ylim()
    colours = [
        {t.get_text().split(":")[0]: t.get_color() for t in top.texts} for top in (top_a, top_b)
    ]
    assert colours[0] == colours[1]
    assert "softmax" in top_a.get_title(loc="left")
    assert "gaussian" in top_b.get_title(loc="left")


def test_files_are_reproducible_and_pyplot_is_not_used(tmp_path):
    written = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        written.append(save_figure(figure(example_check(1)), tmp_path / name / "figure"))
    for one, two in zip(*written, strict=True):
        assert one.read_bytes() == two.read_bytes()
    assert written[0][0].read_bytes().startswith(b"%PDF")
    assert isinstance(figure(example_check(1)), Figure)
    assert "matplotlib.pyplot" not in Path(sys.modules["gdconv.report.plots"].__file__).read_text()


@pytest.mark.parametrize(
    "positions", [[1, 1, 1], [0, 0, 0], [0.5, 0.51, 0.9], [0.0, 0.02, 1.0], []]
)
def test_spread(positions):
    placed = spread(positions, 0.1)
    assert all(0 <= p <= 1 for p in placed)
    ordered = sorted(placed)
    assert all(b - a >= 0.1 - 1e-12 for a, b in zip(ordered, ordered[1:], strict=False))


@pytest.mark.parametrize("name", ["a$x$.npz", r"$\frac$.npz", "$", "a\x1b\nb", "\udcff"])
def test_a_foreign_name_is_no_mathematics(tmp_path, name):
    check = example_check(1)
    check.config["data"] = name
    drawn = figure(check)
    save_figure(drawn, tmp_path / "figure")
    title = drawn.axes[0].get_title(loc="left")
    assert title.count("\n") == 1
    assert name.isprintable() == (name in title)


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("x.png", ["x.png"]),
        ("x.svg", ["x.svg"]),
        ("x.PDF", ["x.PDF"]),
        ("x.jpg", ["x.jpg"]),
        ("x.tiff", ["x.tiff"]),
        ("x.webp", ["x.webp"]),
        ("x.eps", ["x.eps"]),
        ("x", ["x.pdf", "x.png"]),
        ("run.v2", ["run.v2.pdf", "run.v2.png"]),
        ("eta=0.5", ["eta=0.5.pdf", "eta=0.5.png"]),
        (".hidden", [".hidden.pdf", ".hidden.png"]),
        ("a.png.d/x", ["x.pdf", "x.png"]),
    ],
)
def test_the_suffix_says_what_is_written(name, files, tmp_path):
    place = tmp_path / name
    place.parent.mkdir(exist_ok=True)
    written = save_figure(Figure(figsize=(1, 1)), place)
    assert [file.name for file in written] == files
    assert sorted(file.name for file in place.parent.iterdir()) == files
    begins = {
        "pdf": b"%PDF",
        "png": b"\x89PNG",
        "svg": b"<?xml",
        "jpg": b"\xff\xd8",
        "webp": b"RIFF",
    }
    for file in written:
        begin = begins.get(file.suffix[1:].lower(), b"")
        assert file.read_bytes().startswith(begin)


@pytest.mark.parametrize("name", ["x.bmp", "x.gif", "x.HEIC", "x.svgz", "x.ps", "x.pgf", "x.emf"])
def test_pictures_that_are_not_written_are_refused_with_those_that_are(name, tmp_path):
    with pytest.raises(InputError, match=r"^path = .*: give .pdf, .png, .svg, .*or no suffix"):
        save_figure(Figure(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["", " ", "a\0b.png"])
def test_what_is_no_path_is_refused(path):
    with pytest.raises(InputError, match="^path = "):
        save_figure(Figure(), path)


def test_svg_is_reproducible(tmp_path):
    for name in ("a.svg", "b.svg"):
        save_figure(figure(example_check(1)), tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def captioned(theorem, **options):
    import gdconv

    check = gdconv.check(theorem, steps=2, **options)
    return check, figure(check).axes[0].get_title(loc="left")


def test_captions_give_the_sizes_of_each_model():
    check, title = captioned("ntk-regime", samples=2, tokens=2, embedding=4, width=8)
    assert "softmax encoder, N=2 n=2 D=4 d_m=8, 1 run" in title
    assert "H=" not in title
    assert check.starts["W_Q"].shape[1] == 8
    sizes = {"samples": 2, "tokens": 2, "embedding": 4, "heads": 2, "head_dim": 3}
    for theorem, options in (("ntk-regime", {"model": "multihead"}), ("full-gd", {})):
        _, title = captioned(theorem, statement="run", init="normal", data="gaussian",
                             kernel="gaussian", **options, **sizes)  # fmt: skip
        assert "gaussian kernel, N=2 n=2 D=4 d=3 H=2, 1 run" in title
        assert "d_m" not in title


@pytest.mark.parametrize("name", ["no/x.png", "no/x"])
def test_a_place_that_cannot_be_written_is_a_sentence(name, tmp_path):
    import gdconv

    check = gdconv.check("full-gd", problem="stacked-witness")
    with pytest.raises(InputError, match=r"^path = .*choose a place that can be written \(No such"):
        check.plot(tmp_path / name)
    assert check.plot(str(tmp_path / "x.svg")).axes
    assert [file.name for file in tmp_path.iterdir()] == ["x.svg"]
