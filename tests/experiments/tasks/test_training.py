"""Training: the same batches for all, exact continuation, divergence, refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from experiments.tasks.classifier import ClassifierSizes, TransformerClassifier
from experiments.tasks.training import Samples, TrainingPlan, TrainingRun, batch_rows, train
from gdconv.support.errors import InputError

SIZES = ClassifierSizes(tokens=5, symbols=7, D=8, d=8, layers=1)


def samples(seed: int = 0, count: int = 64) -> Samples:
    """Label: does symbol 3 occur?"""
    g = torch.Generator().manual_seed(seed)
    X = torch.randint(1, 7, (count, 5), generator=g)
    y = (X == 3).any(dim=1).long()
    return Samples(X[: count // 2], y[: count // 2], X[count // 2 :], y[count // 2 :])


def plan(**changes: object) -> TrainingPlan:
    made: dict = {"steps": 20, "batch": 8, "rate": 0.01, "optimiser": "adam", "every": 5}
    return TrainingPlan(**(made | changes))


def numbers(run: TrainingRun) -> list[dict]:
    """Everything but the time."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in run.rows]


class KilledError(Exception):
    pass


def killed_at(step: int):
    """A progress function that ends the run, as a signal would, once that many steps are done."""
    done = 0

    def progress(steps: int) -> None:
        nonlocal done
        done += steps
        if done >= step:
            raise KilledError

    return progress


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
@pytest.mark.parametrize("kernel", ["softmax", "gaussian"])
def test_a_killed_run_goes_on_exactly(tmp_path: Path, optimiser: str, kernel: str) -> None:
    """Bit for bit: rows and final weights are those of a run that nothing stopped."""
    data, how = samples(), plan(optimiser=optimiser, rate=0.05, warmup=3)
    whole_net = TransformerClassifier(SIZES, kernel, seed=1)
    whole = train(whole_net, data, how)
    file = tmp_path / "run.pt"
    for stop in (10, 15):
        with pytest.raises(KilledError):
            train(
                TransformerClassifier(SIZES, kernel, seed=1), data, how, file, killed_at(stop), "a"
            )
    net, told = TransformerClassifier(SIZES, kernel, seed=1), []
    run = train(net, data, how, file, told.append, "a")
    assert told[0] == 15
    assert sum(told) == 20
    assert numbers(run) == numbers(whole)
    for one, other in zip(net.parameters(), whole_net.parameters(), strict=True):
        assert torch.equal(one, other)


def test_adam_without_its_moments_goes_on_differently(tmp_path: Path) -> None:
    """Control of the test above: what a checkpoint of the weights alone would give."""
    data = samples()
    net = TransformerClassifier(SIZES, "softmax", seed=1)
    whole = train(net, data, plan())
    half = TransformerClassifier(SIZES, "softmax", seed=1)
    train(half, data, plan(steps=10))
    rest = train(half, data, plan(steps=10, seed=0))
    assert numbers(rest)[-1]["loss"] != numbers(whole)[-1]["loss"]


def test_a_finished_run_is_not_repeated(tmp_path: Path) -> None:
    file, data = tmp_path / "run.pt", samples()
    first = train(TransformerClassifier(SIZES, "softmax"), data, plan(), file)
    again = train(TransformerClassifier(SIZES, "softmax"), data, plan(), file)
    assert again.rows == first.rows


@pytest.mark.parametrize("fault", ["empty", "rubbish", "cut", "plan", "mark", "network"])
def test_a_checkpoint_of_something_else_is_not_used(tmp_path: Path, fault: str) -> None:
    file, data = tmp_path / "run.pt", samples()
    sizes = (
        ClassifierSizes(tokens=5, symbols=7, D=4, d=8, layers=1) if fault == "network" else SIZES
    )
    how = plan(rate=0.02) if fault == "plan" else plan()
    train(TransformerClassifier(sizes, "softmax"), data, how, file, mark="x" * (fault == "mark"))
    if fault in ("empty", "rubbish", "cut"):
        damaged = {"empty": b"", "rubbish": b"PK no", "cut": file.read_bytes()[:900]}[fault]
        file.write_bytes(damaged)
    run = train(TransformerClassifier(SIZES, "softmax"), data, plan(), file)
    fresh = train(TransformerClassifier(SIZES, "softmax"), data, plan())
    assert numbers(run) == numbers(fresh)


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "pwned",))

    file = tmp_path / "run.pt"
    torch.save({"name": Evil()}, file)
    train(TransformerClassifier(SIZES, "softmax"), samples(), plan(steps=1), file)
    assert not (tmp_path / "pwned").exists()


def test_batches_visit_every_sample_once_an_epoch_in_a_new_order() -> None:
    epochs = [np.concatenate([batch_rows(3, e * 4 + s, 20, 5) for s in range(4)]) for e in (0, 1)]
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(20))
    assert (epochs[0] != epochs[1]).any()
    assert len(batch_rows(0, 7, 3, 8)) == 3
    assert (batch_rows(0, 1, 20, 5) != batch_rows(1, 1, 20, 5)).any()


def test_one_step_of_sgd_is_a_gradient_step_with_warm_up() -> None:
    """Against the gradient written out by hand for a linear network."""
    data = samples()
    X = nn.functional.one_hot(data.X, 7).double().mean(dim=1)
    linear = nn.Linear(7, 2, bias=False, dtype=torch.float64)
    before = linear.weight.detach().clone()
    train(linear, Samples(X, data.y, X, data.y), plan(steps=1, optimiser="sgd", rate=0.4, warmup=4))
    rows = batch_rows(0, 0, 32, 8)
    p = torch.softmax(X[rows] @ before.T, dim=1)
    p[torch.arange(8), data.y[rows]] -= 1
    expected = before - 0.4 / 4 * (p.T @ X[rows]) / 8
    torch.testing.assert_close(linear.weight.detach(), expected, rtol=1e-12, atol=1e-14)


def test_a_diverging_run_says_so_and_ends() -> None:
    run = train(
        TransformerClassifier(SIZES, "gaussian"), samples(), plan(optimiser="sgd", rate=1e30)
    )
    assert run.diverged == 5
    assert run.rows[-1]["step"] in (0, 5)


def test_training_learns() -> None:
    for kernel in ("softmax", "gaussian"):
        data = samples(count=400)
        run = train(TransformerClassifier(SIZES, kernel), data, plan(steps=300, every=300))
        assert run.rows[-1]["accuracy"] > 0.95


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps = 0"),
        ({"batch": 0}, "batch = 0"),
        ({"rate": -1.0}, "rate = -1.0: give a number above 0"),
        ({"rate": float("nan")}, "rate = nan"),
        ({"every": True}, "every = True"),
        ({"optimiser": "newton"}, "optimiser = newton: give sgd or adam"),
    ],
)
def test_bad_input_is_one_sentence(changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan(**changes)
