"""What the command prints: every verdict says what it means and what to do."""

from __future__ import annotations

import pytest

from gdconv.report.example import example_check
from gdconv.report.summary import ADVICE, setting, summary, verdict_line
from gdconv.theory.verdict import ORDER


@pytest.mark.parametrize("verdict", ORDER)
@pytest.mark.parametrize("runs", [1, 3])
def test_every_verdict_is_explained_within_the_screen(verdict, runs):
    check = example_check(runs)
    check.verdict = verdict
    check.verdicts.loc[check.verdicts["statement"] == "per-head", "verdict"] = verdict
    text = verdict_line(check)
    assert text.startswith(f"VERDICT per-head: {verdict}, ")
    assert "Level float64" in text
    assert max(map(len, text.splitlines())) <= 100
    assert set(ADVICE) == set(ORDER)


def test_outside_names_the_unmet_hypotheses():
    check = example_check(2)
    check.verdict = "outside"
    check.verdicts["verdict"] = "outside"
    check.hypotheses.loc[0, "holds"] = "false"
    text = " ".join(verdict_line(check).split())
    assert "are not met: sigma_0^2 outweighs the value path." in text


def test_a_refutation_is_worded_with_care_and_names_the_replay(tmp_path):
    check = example_check(1, "stacked")
    text = " ".join(summary(check, tmp_path).split())
    assert "it does not refute that some other initialization exists" in text
    assert f"gdconv replay {tmp_path}" in text


def test_setting_says_sizes_and_notes_can_be_left_out():
    check = example_check(2)
    assert setting(check)["kernel"] == "softmax, H = 8 heads of d = 8"
    assert "constant pixels" in summary(check)
    assert "constant pixels" not in summary(check, notes=False)
