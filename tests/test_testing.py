"""Assertions and the pytest plugin: what must pass passes, what must fail fails and says why."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gdconv.errors import InputError
from gdconv.report.example import example_check
from gdconv.testing import assert_confirmed, assert_descent, assert_linear_rate

pytest_plugins = ["pytester"]
ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "testing.md"


@given(x=st.floats(1e-4, 0.999), start=st.integers(0, 3), scale=st.floats(1e-200, 1e200))
def test_the_exact_rate_passes_and_a_slightly_larger_one_fails(x, start, scale):
    count = max(int(np.ceil(np.log(0.9) / np.log1p(-x))), 1) + 2 + start
    losses = scale * np.exp(np.arange(count) * np.log1p(-x))
    assert_linear_rate(losses, 1.0, x, start=start, noise=1e-9)
    with pytest.raises(AssertionError, match=rf"^step {start + 1}: loss .* > bound "):
        assert_linear_rate(losses, 1.0, min(x * 1.001, 0.9999999), start=start, noise=1e-9)


@pytest.mark.parametrize(
    "kind", [list, tuple, np.array, torch.tensor, lambda v: [torch.tensor(x) for x in v]]
)
def test_any_sequence_of_numbers(kind):
    assert_linear_rate(kind([1.0, 0.5, 0.25]), 0.5, 1.0)
    assert_descent(kind([0.5, 0.125, 0.03125]), kind([1.0, 0.5]), 0.5)


def test_a_tensor_with_a_gradient():
    losses = torch.tensor([1.0, 0.5, 0.25], requires_grad=True)
    assert_linear_rate(losses, 0.5, 1.0)


def test_the_message_has_both_sides_and_the_count():
    with pytest.raises(AssertionError) as error:
        assert_linear_rate([1.0, 0.5, 0.3, 0.2], 0.5, 1.0)
    text = str(error.value)
    assert (
        text == "step 2: loss 0.3 > bound 0.25 = (1 - 0.5)^2 * 1 (ratio 1.2; 2 of 3 steps violate)"
    )


def test_a_late_rise_is_found_even_at_tiny_losses():
    losses = 0.5 ** np.arange(40)
    losses[33] = losses[31]
    with pytest.raises(AssertionError, match="^step 33: "):
        assert_linear_rate(losses, 0.5, 1.0)


def test_rounding_at_the_floor_is_tolerated_as_documented():
    losses = np.maximum(0.5 ** np.arange(120.0), 1e-26)
    assert_linear_rate(losses, 0.5, 1.0, noise=1e-12)
    with pytest.raises(AssertionError, match="step 87"):
        assert_linear_rate(losses, 0.5, 1.0, noise=1e-14)


def test_a_vacuous_bound_is_refused_unless_allowed():
    losses = 0.5 ** np.arange(10)
    with pytest.raises(
        AssertionError, match=r"vacuous: over 9 steps the bound only falls to 0\.99"
    ):
        assert_linear_rate(losses, 1e-3, 1.0)
    assert_linear_rate(losses, 1e-3, 1.0, allow_vacuous=True)


def test_the_advised_number_of_steps_is_enough():
    with pytest.raises(AssertionError) as error:
        assert_linear_rate([1.0, 0.5], 1e-3, 1.0)
    need = int(re.search(r"at least (\d+) steps", str(error.value))[1])
    assert_linear_rate(np.exp(-np.arange(need + 1.0)), 1e-3, 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, 0.5], 2.0, 0.5), "eta \\* rate = 1.0: give a product between 0 and 1"),
        (([1.0, 0.5], 0.0, 0.5), "eta = 0.0: give a positive number"),
        (([1.0, 0.5], -1.0, 0.5), "eta = -1.0: give a positive number"),
        (([1.0, 0.5], 0.5, float("nan")), "rate = nan: give a positive number"),
        (([1.0], 0.5, 0.5), "losses = shape \\(1,\\): give at least 2 numbers"),
        (([[1.0, 0.5]], 0.5, 0.5), "losses = shape \\(1, 2\\)"),
        ((["a", "b"], 0.5, 0.5), "losses = list: give numbers"),
        ((None, 0.5, 0.5), "losses = "),
    ],
)
def test_bad_input_is_one_sentence(arguments, message):
    with pytest.raises(InputError, match=message):
        assert_linear_rate(*arguments)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_inf_losses_fail(bad):
    with pytest.raises(AssertionError, match="step 1: loss is"):
        assert_linear_rate([1.0, bad, 0.1], 0.5, 1.0)
    with pytest.raises(AssertionError, match="step 1: loss is"):
        assert_descent([1.0, bad, 0.1], [1.0, 1.0], 0.5)
    with pytest.raises(AssertionError, match="step 0: gradient norm is"):
        assert_descent([1.0, 0.5, 0.1], [bad, 1.0], 0.5)


def test_negative_losses_fail():
    with pytest.raises(AssertionError, match=r"step 1: loss -0\.5 is negative"):
        assert_linear_rate([1.0, -0.5, 0.1], 0.5, 1.0)


@given(eta=st.floats(0.01, 1.0), w=st.floats(-100, 100).filter(lambda w: abs(w) > 1e-3))
def test_descent_of_a_quadratic_is_sharp(eta, w):
    """f = w^2 / 2: the decrease is exactly eta (1 - eta/2) g^2, so c = 1/2 holds iff eta <= 1."""
    path = w * (1 - eta) ** np.arange(4)
    losses, norms = path**2 / 2, np.abs(path)
    assert_descent(losses, norms, eta)
    assert_descent(losses, norms[:-1], eta, 1 - eta / 2, noise=1e-9)
    with pytest.raises(AssertionError, match="^step 0 -> 1"):
        assert_descent(losses[:2], norms[:1], eta, 1.001 * (1 - eta / 2) + 1e-3)


def test_descent_beyond_one_over_L_fails():
    path = (1 - 1.2) ** np.arange(4)
    with pytest.raises(AssertionError, match=r"step 0 -> 1: loss .* \(3 of 3 steps violate\)"):
        assert_descent(path**2 / 2, np.abs(path), 1.2)


def test_descent_input():
    with pytest.raises(InputError, match="grad_norms = 1: give 2 values, one before each step"):
        assert_descent([1.0, 0.5, 0.2], [1.0], 0.1)
    with pytest.raises(InputError, match="coefficient = 0"):
        assert_descent([1.0, 0.5], [1.0], 0.1, 0.0)


def test_assert_confirmed_names_runs_steps_and_hypotheses():
    check = example_check(3)
    assert_confirmed(check)
    assert_confirmed(check, "run")
    with pytest.raises(
        AssertionError, match=r"stacked: not confirmed in 3 of 3 runs\n  run 0: refuted at step 122"
    ):
        assert_confirmed(check, "stacked")
    with pytest.raises(InputError, match="statement = x: choose one of stacked, per-head"):
        assert_confirmed(check, "x")
    check.verdicts.loc[
        (check.verdicts["run"] == 1) & (check.verdicts["statement"] == "per-head"), "verdict"
    ] = "outside"
    row = (check.hypotheses["run"] == 1) & (check.hypotheses["statement"] == "per-head")
    check.hypotheses.loc[row, "holds"] = ["false", "true"]
    with pytest.raises(
        AssertionError,
        match=r"in 1 of 3 runs(.|\n)*run 1: sigma_0\^2 .* 0\.0131 >= 0\.011 is false",
    ):
        assert_confirmed(check)


STUB = """
    import pytest
    from gdconv.report.example import example_check

    @pytest.fixture(autouse=True)
    def no_descent(monkeypatch):
        import gdconv
        def check(theorem, statement="per-head", **options):
            print("RAN", theorem, statement)
            return example_check(statement=statement)
        monkeypatch.setattr(gdconv, "check", check, raising=False)
"""


def test_plugin_runs_once_per_config_and_asserts(pytester):
    pytester.makeconftest(STUB)
    pytester.makepyfile(
        """
        import pytest

        def test_function(gdconv_check):
            assert gdconv_check("full-gd", seed=1).verdict == "confirmed"

        def test_cached(gdconv_check, capsys):
            gdconv_check("full-gd", confirm=True, seed=1)
            assert "RAN" not in capsys.readouterr().out

        @pytest.mark.gdconv("full-gd", statement="run")
        def test_marker(gdconv_check):
            assert gdconv_check.verdict == "confirmed"

        @pytest.mark.gdconv("full-gd", statement="stacked")
        def test_refuted(gdconv_check):
            assert False, "not reached"

        @pytest.mark.gdconv("full-gd", statement="stacked", confirm=False)
        def test_not_confirmed_on_purpose(gdconv_check):
            assert gdconv_check.verdict == "refuted"

        @pytest.mark.gdconv()
        def test_no_theorem(gdconv_check):
            pass

        def test_fails(gdconv_check):
            gdconv_check("full-gd", confirm=True, statement="kernel")
        """
    )
    result = pytester.runpytest_inprocess("--strict-markers", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=4, failed=1, errors=2)
    result.stdout.fnmatch_lines(["*full-gd, stacked: not confirmed in 2 of 2 runs*"])
    result.stdout.fnmatch_lines([
        "*the marker reads gdconv(theorem, **options) with one theorem id*"
    ])
    result.stdout.no_fnmatch_line("*not reached*")


def test_plugin_is_registered_and_light(pytester):
    result = pytester.runpytest_subprocess("--markers")
    result.stdout.fnmatch_lines(["@pytest.mark.gdconv(theorem*"])
    heavy = "{'torch', 'numpy', 'pandas', 'numba', 'matplotlib'}"
    code = f"import sys, gdconv.pytest_plugin; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_page_runs(pytester):
    """docs/testing.md: its Python blocks are one test file; pytest runs it as a user would."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert len(blocks) >= 3
    pytester.makepyfile(test_page="\n\n".join(blocks))
    result = pytester.runpytest_subprocess("--strict-markers", "-p", "no:cacheprovider")
    counts = result.parseoutcomes()
    assert counts.get("failed", 0) == counts.get("errors", 0) == 0
    assert counts["passed"] >= 5
