"""Assertions and the pytest plugin: what must pass passes, what must fail fails and says why."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gdconv.report.example import example_check
from gdconv.support.errors import InputError
from gdconv.testing import assert_confirmed, assert_descent, assert_linear_rate

pytest_plugins = ["pytester"]
ROOT = Path(__file__).resolve().parents[2]
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
        (([1.0, 0.5], 0.5, 0.5, {"f_star": float("nan")}), "f_star = nan: give the least value"),
        (([1.0, 0.5], 0.5, 0.5, {"f_star": -math.inf}), "f_star = -inf: give the least value"),
        (([1.0, 0.5], 0.5, 0.5, {"error": -1.0}), "error = -1.0: give a tolerance"),
        (([1.0, 0.5], 0.5, 0.5, {"noise": float("inf")}), "noise = inf: give a tolerance"),
    ],
)
def test_bad_input_is_one_sentence(arguments, message):
    *plain, options = arguments if isinstance(arguments[-1], dict) else (*arguments, {})
    with pytest.raises(InputError, match=message):
        assert_linear_rate(*plain, **options)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_inf_losses_fail(bad):
    with pytest.raises(AssertionError, match="step 1: loss is"):
        assert_linear_rate([1.0, bad, 0.1], 0.5, 1.0)
    with pytest.raises(AssertionError, match="step 1: loss is"):
        assert_descent([1.0, bad, 0.1], [1.0, 1.0], 0.5)
    with pytest.raises(AssertionError, match="step 0: gradient norm is"):
        assert_descent([1.0, 0.5, 0.1], [bad, 1.0], 0.5)


def test_negative_losses_fail():
    with pytest.raises(AssertionError, match=r"step 1: loss -0\.5 is negative; give f_star"):
        assert_linear_rate([1.0, -0.5, 0.1], 0.5, 1.0)


def quadratic(f_star: float, steps: int, eta: float = 0.1) -> tuple[np.ndarray, float]:
    """f = f_star + (x^2 + 10 y^2) / 2 by gradient descent, and its tight rate."""
    x, y = np.ones(2)
    losses = []
    for _ in range(steps + 1):
        losses.append(f_star + 0.5 * (x * x + 10 * y * y))
        x, y = x - eta * x, y - eta * 10 * y
    return np.array(losses), (1 - (1 - eta) ** 2) / eta


@pytest.mark.parametrize("f_star", [0.3, -0.7, 1e6, 1e-3])
def test_the_tight_rate_holds_down_to_the_rounding_of_f_minus_f_star(f_star):
    losses, rate = quadratic(f_star, 400)
    losses = losses[1:]  # from here one direction is left and the rate is tight
    assert_linear_rate(losses, 0.1, rate, f_star=f_star)
    ulp = np.spacing(f_star)
    for off in (-1, 1):  # one ulp above the least value is no "negative loss"
        assert_linear_rate(losses, 0.1, rate, f_star=f_star + off * ulp)
    error = 8 * np.spacing(max(abs(f_star), losses[0]))
    assert_linear_rate(losses - f_star, 0.1, rate, error=error)
    with pytest.raises(AssertionError, match=r"^step 1: loss - \S+ \S+ > bound"):
        assert_linear_rate(losses, 0.1, rate * 1.001, f_star=f_star)
    with pytest.raises(AssertionError, match="is below f_star = "):
        assert_linear_rate(losses, 0.1, rate, f_star=f_star + 1e-9 * max(abs(f_star), 1))


def test_a_loss_that_stalls_above_f_star_is_noticed():
    losses, rate = quadratic(0.3, 400)
    losses = np.maximum(losses, 0.3 + 1e-14)  # 45 ulps
    with pytest.raises(AssertionError, match=r"loss - 0\.3 9\.99\d+e-15 > bound .*; error bar 6"):
        assert_linear_rate(losses[1:], 0.1, rate, f_star=0.3)


def test_the_message_shows_the_digits_that_differ():
    close = 0.25 * (1 + 1e-10)
    with pytest.raises(AssertionError) as error:
        assert_linear_rate([1.0, 0.5, close], 0.5, 1.0)
    assert "loss 0.250000000025 > bound 0.25 " in str(error.value)
    assert "(ratio 1.0000000001; " in str(error.value)
    with pytest.raises(AssertionError, match=r"loss 0\.250000000025 > 0\.25 = 0\.5 - "):
        assert_descent([0.5, close], [1.0], 0.5)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float32])
def test_tensors_of_less_precision_have_its_rounding(kind):
    """The tight rate, rounded to the type: its spacing is the tolerance, and not more than that."""
    exact = 0.9 ** torch.arange(12, dtype=torch.float64)
    for losses in (exact.to(kind), list(exact.to(kind))):
        assert_linear_rate(losses, 0.1, 1.0)
        assert_descent([x / 2 for x in losses], [x.sqrt() for x in losses], 0.1, 0.5)
    far = exact * (1 + 40 * torch.finfo(kind).eps) ** torch.arange(12)
    with pytest.raises(AssertionError, match=r"^step \d+: loss "):
        assert_linear_rate(far.to(kind), 0.1, 1.0)
    tight = exact.to(kind)
    with pytest.raises(AssertionError):
        assert_linear_rate(tight, 0.1, 1.0, noise=1e-12)


def test_descent_of_differences_has_an_absolute_error():
    losses, _ = quadratic(0.3, 200)
    norms = np.array([np.hypot(0.9**t, 10 * float(t == 0)) for t in range(200)])
    assert_descent(losses, norms, 0.1)
    with pytest.raises(AssertionError):
        assert_descent(losses - 0.3, norms, 0.1, 0.95)
    assert_descent(losses - 0.3, norms[:200], 0.1, 0.45, error=1e-15)


def test_masked_and_complex_numbers_are_refused():
    for losses in (np.ma.array([1.0, 0.5], mask=[0, 1]), np.array([1.0 + 1j, 0.5])):
        with pytest.raises(InputError, match="losses = .*: give numbers, one per step"):
            assert_linear_rate(losses, 0.5, 1.0)


def test_the_failure_points_at_the_users_line(pytester):
    pytester.makepyfile(
        """
        import gdconv.testing as t

        def test_rate():
            t.assert_linear_rate([1.0, 0.5, 0.4], 0.5, 1.0)

        def test_negative():
            t.assert_linear_rate([1.0, -0.5, 0.4], 0.5, 1.0)

        def test_nan():
            t.assert_linear_rate([1.0, float("nan"), 0.4], 0.5, 1.0)

        def test_descent():
            t.assert_descent([0.5, 0.45], [1.0], 0.5)

        def test_confirmed():
            from gdconv.report.example import example_check
            t.assert_confirmed(example_check(), "kernel")
        """
    )
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(failed=5)
    result.stdout.no_fnmatch_line("*testing.py:*: AssertionError*")


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
    code = f"import sys, gdconv.testing.pytest_plugin; print(sorted({heavy} & set(sys.modules)))"
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
