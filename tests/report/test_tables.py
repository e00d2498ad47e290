"""Tables: right numbers, nothing hidden, valid markup."""

from __future__ import annotations

import io
import math
import re

import numpy as np
import pandas as pd
import pytest

from gdconv.report.example import STATEMENTS, example_check
from gdconv.report.layout import escape_latex, number, text_block
from gdconv.report.tables import (
    FORMATS,
    failing_runs,
    hypotheses_table,
    render,
    statement_table,
    verdict_table,
)
from gdconv.support.errors import InputError
from gdconv.theory.verdict import worst


def test_verdict_table_matches_closed_forms():
    check = example_check(2)
    table = verdict_table(check).set_index(["run", "statement"])
    for (run, name), row in table.iterrows():
        ratio = check.runs.loc[run, "loss_ratio_last"]
        slow = 18 / 4000 * (1 + 0.1 * run)
        assert math.isclose(row["log10_loss"], math.log10(ratio))
        assert math.isclose(
            row["log10_bound"], -STATEMENTS[name] * slow * 4000 / math.log(10), abs_tol=1e-15
        )
        assert math.isclose(row["half_life"], math.log(2) / (STATEMENTS[name] * slow), rel_tol=1e-7)
        assert math.isclose(row["eta_rate"], row["step"] * row["rate"])
    assert (
        pd.isna(table["first_violation"]) == (table.index.get_level_values(1) != "stacked")
    ).all()


def test_a_bound_of_zero_and_a_missing_one():
    check = example_check(1)
    check.verdicts.loc[0, "bound_last"] = 0.0
    check.verdicts.loc[1, "bound_last"] = np.nan
    table = verdict_table(check)
    assert table.loc[0, "log10_bound"] == -math.inf
    assert math.isnan(table.loc[1, "log10_bound"])
    assert "-inf" in render(check)


@pytest.mark.parametrize("runs", [1, 2, 4, 60])
def test_every_failing_run_is_shown(runs):
    check = example_check(runs)
    text = "\n".join(failing_runs(check))
    bad = check.verdicts[check.verdicts["verdict"] != "confirmed"]
    line = next(line for line in text.splitlines() if line.startswith("stacked"))
    named = re.findall(r"(\d+) \(step \d+\)", line)
    assert [int(n) for n in named] == bad[bad["statement"] == "stacked"]["run"].tolist()
    if runs > 3:
        for format in ("text", "markdown"):
            assert line.split(": ", 1)[1][:40] in render(check, format)


def test_one_bad_run_among_many_decides_the_row_and_is_named():
    check = example_check(50)
    row = (check.verdicts["run"] == 37) & (check.verdicts["statement"] == "per-head")
    check.verdicts.loc[row, ["verdict", "first_violation"]] = ["refuted", 12]
    table = statement_table(check).set_index("statement")
    assert table.loc["per-head", "verdict"] == "refuted"
    assert table.loc["per-head", "runs"] == "1/50"
    for format in ("text", "markdown", "latex"):
        assert "per-head: refuted in run 37 (step 12)" in render(check, format)


def test_worst_verdict():
    order = ["confirmed", "vacuous", "outside", "undecided", "refuted"]
    for k in range(len(order)):
        assert worst(order[: k + 1]) == order[k]


def test_csv_has_every_run_at_full_precision():
    check = example_check(7)
    back = pd.read_csv(io.StringIO(render(check, "csv")))
    assert len(back) == 7 * len(STATEMENTS)
    assert (back["rate"].to_numpy() == check.verdicts["rate"].to_numpy()).all()


@pytest.mark.parametrize("runs", [1, 2, 5])
def test_text_fits_the_screen(runs):
    lines = render(example_check(runs)).splitlines()
    table = [
        line for line in lines if " (step " not in line
    ]  # the list of failing runs may be long
    assert max(map(len, table)) <= 112
    assert not any(line != line.rstrip() for line in lines)


@pytest.mark.parametrize("runs", [1, 5])
def test_markdown_rows_have_equal_width(runs):
    for block in render(example_check(runs), "markdown").split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.replace("\\|", "").count("|") for line in rows}) <= 1


@pytest.mark.parametrize("runs", [1, 5])
def test_latex_is_balanced_ascii_and_escaped(runs):
    check = example_check(runs)
    check.hypotheses["hypothesis"] += " 5% of W_Q & {x} ~ #1 \\ σ ≥ 2"
    text = render(check, "latex", "all")
    assert text.isascii()
    for block in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, re.DOTALL):
        rows = [line for line in block[1].splitlines() if line.endswith(r"\\")]
        assert all(len(re.findall(r"(?<!\\)&", row)) == len(block[0]) - 1 for row in rows)
        assert all(rule in block[1] for rule in (r"\toprule", r"\midrule", r"\bottomrule"))
    assert not re.search(r"(?<!\\)[%#]", text)
    assert len(re.findall(r"(?<!\\)\$", text)) % 2 == 0


def test_hypotheses_take_the_worst_run():
    check = example_check(3)
    row = (check.hypotheses["run"] == 1) & (check.hypotheses["statement"] == "stacked")
    check.hypotheses.loc[row, ["lhs", "margin", "holds"]] = [9.0, -0.44, "false"]
    table = hypotheses_table(check, "stacked")
    assert table.loc[0, ["lhs", "holds", "run", "met"]].tolist() == [9.0, "false", 1, "2/3"]
    assert len(hypotheses_table(check)) == 4


def test_an_undecided_hypothesis_beats_a_smaller_margin():
    check = example_check(2)
    check.hypotheses["margin"] = [5.0, 5.0, 5.0, 5.0, 1.0, 1.0, 1.0, 1.0]
    check.hypotheses.loc[0, "holds"] = "undecided"
    assert hypotheses_table(check, "per-head").loc[0, "run"] == 0


def test_unknown_names_are_refused():
    check = example_check(1)
    with pytest.raises(InputError, match="format = html: choose one of text"):
        render(check, "html")
    with pytest.raises(InputError, match="statement = x: choose one of stacked"):
        render(check, "text", "x")
    assert set(FORMATS) == {"text", "csv", "markdown", "latex"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (-1.0, "-1"), (1e-300, "1e-300"), (np.inf, "inf"), (-np.inf, "-inf"),
        (None, "-"), (pd.NA, "-"), (np.float64(0.1234), "0.123"), (np.int64(123456), "123456"),
        (1e20, "1e20"), ("", "-"), (True, "1"),
    ],
)  # fmt: skip
def test_number(value, text):
    assert number(value) == text


def test_text_block_aligns_columns():
    lines = text_block(["a", "b\nc"], [["x", "1"], ["long", "-2.5"]]).splitlines()
    assert lines[-1].index("-2.5") + 4 == len(lines[-2])


def test_escape_latex_leaves_plain_text():
    assert escape_latex("plain text (1.5)") == "plain text (1.5)"


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("seeds", [1, 4])
def test_margins_of_claims_are_not_called_logarithms(format, seeds):
    import gdconv

    check = gdconv.check("attention-hessian", statement="value-functional-zero", seeds=seeds,
                         samples=1, tokens=2, embedding=2, head_dim=1, heads=1)  # fmt: skip
    text = render(check, format)
    assert "(ln)" not in text
    assert "natural log" not in text
    if format == "markdown" or (format == "text" and seeds == 4):
        assert "worst margin (relative)" in text
    if format == "latex":
        assert "worst relative margin" in text


def test_margins_of_a_descent_are_logarithms():
    assert "worst margin (ln)" in render(example_check(5), "markdown")
    assert "worst margin (ln)" in render(example_check(5), "text")
