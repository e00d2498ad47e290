"""Seeds in several processes: the same numbers, failures and interruptions as in one."""

from __future__ import annotations

import pickle
import threading
import time
from typing import Any

import numpy as np
import pytest
import torch

import gdconv
from gdconv.checks import run as runs
from gdconv.checks.parallel import in_processes
from gdconv.checks.prepare import Setting, assemble, prepare
from gdconv.checks.result import Check, Interrupted
from gdconv.support.config import Config
from gdconv.support.errors import DivergenceError, GdconvError, InputError

SMALL: dict[str, Any] = {
    "samples": 2, "tokens": 2, "embedding": 6, "head_dim": 3, "heads": 2, "init": "normal",
    "data": "gaussian", "steps": 20, "seeds": 3, "seed": 7,
}  # fmt: skip


def same(a: Check, b: Check) -> None:
    """Every number."""
    assert a.trace.equals(b.trace)
    assert a.verdicts.equals(b.verdicts)
    assert a.hypotheses.equals(b.hypotheses)
    assert a.runs.drop(columns="seconds", errors="ignore").equals(
        b.runs.drop(columns="seconds", errors="ignore")
    )
    assert a.messages == b.messages
    assert a.config == b.config
    assert all(np.array_equal(a.starts[name], b.starts[name]) for name in a.starts)


def test_the_number_of_processes_changes_nothing() -> None:
    told: list[tuple[str, int, int]] = []
    alone = gdconv.check("full-gd", **SMALL)
    one = gdconv.check("full-gd", jobs=1, **SMALL)
    two = gdconv.check("full-gd", jobs=2, progress=lambda *said: told.append(said), **SMALL)
    same(alone, one)
    same(one, two)
    assert list(two.runs["seed"]) == [7, 8, 9]
    assert [done for _, done, _ in told] == [1, 2, 3]


def test_a_module_made_here_and_runs_that_are_halved_go_along() -> None:
    class Net(torch.nn.Module):  # no other process can import it
        def __init__(self) -> None:
            super().__init__()
            self.one = torch.nn.Linear(3, 4)
            self.two = torch.nn.Linear(4, 1)

        def forward(self, X: torch.Tensor) -> torch.Tensor:
            return self.two(torch.tanh(self.one(X)))

    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((5, 3)), rng.standard_normal((5, 1))
    options: dict[str, Any] = {"X": X, "y": y, "model": Net, "steps": 10, "seeds": 2}
    one, two = (gdconv.check("generic-gd", jobs=jobs, **options) for jobs in (1, 2))
    same(one, two)
    assert one.trace["loss"].iloc[0] > one.trace["loss"].iloc[9]


def test_cases_without_descent_as_well() -> None:
    options: dict[str, Any] = {"seeds": 2, "statement": "identities"}
    one, two = (gdconv.check("attention-hessian", jobs=jobs, **options) for jobs in (1, 2))
    same(one, two)


def test_a_run_that_diverges_says_which_and_leaves_the_ones_before() -> None:
    setting = prepare(Config("full-gd", **{**SMALL, "step": "0.1", "jobs": 2}))
    assert isinstance(setting, Setting)
    scale = torch.tensor([1e-3, 20.0, 1e-3], dtype=torch.float64, device="cpu").view(3, 1, 1, 1)
    far = setting.params.with_blocks({b: scale * W for b, W in setting.params.blocks().items()})
    with pytest.raises(DivergenceError) as error:
        runs.run(assemble(setting.resolved, setting.problem, far))
    assert error.value.run == 1
    assert error.value.seed == 8
    assert error.value.total == 3
    assert list(error.value.check.runs["seed"]) == [7]


def late(number: int) -> int:
    """Slow, unless it is a failure."""
    if number > 1:
        raise InputError("number", number, "give less")
    time.sleep(1.0)
    return number


def test_an_error_does_not_overtake_the_answers_before_it() -> None:
    found = in_processes(late, [(1,), (2,)], 2)
    assert next(found) == 1
    with pytest.raises(InputError, match="number = 2"):
        next(found)


def test_interrupted_while_others_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(phase: str, done: int, last: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as stopped:
        gdconv.check("full-gd", jobs=2, progress=stop, **SMALL)
    assert stopped.value.check is not None
    assert stopped.value.missing == 2
    assert list(stopped.value.check.runs["seed"]) == [7]


def test_what_cannot_travel_is_named() -> None:
    class Stuck(torch.nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 1)
            self.lock = threading.Lock()

    X, y = np.ones((2, 2)), np.ones((2, 1))
    with pytest.raises(InputError, match="jobs = 2: leave it out: .*lock"):
        gdconv.check("generic-gd", model=Stuck, X=X, y=y, steps=2, seeds=2, jobs=2)


@pytest.mark.parametrize("jobs", [0, -1, 1.5, "two"])
def test_a_number_of_processes_is_a_positive_one(jobs: Any) -> None:
    with pytest.raises(InputError, match="jobs"):
        gdconv.check("full-gd", jobs=jobs, **SMALL)


@pytest.mark.parametrize(
    "error",
    [InputError("steps", 3, "give 4"), DivergenceError(2, 10.0, 3, 1e20, seed=7), GdconvError("a")],
)
def test_errors_travel_whole(error: GdconvError) -> None:
    other = pickle.loads(pickle.dumps(error))
    assert type(other) is type(error)
    assert str(other) == str(error)
    assert vars(other) == vars(error)
